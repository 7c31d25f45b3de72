"""Fields that follow from others at every instant: their values at the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pysciml.engines.fields.constrained import Open, balance, factorize, floating, project
from pysciml.errors import ProblemError
from pysciml.graph.field_jacobian import jacobian
from pysciml.graph.fields import FieldGraph
from pysciml.pde.grid import Array

if TYPE_CHECKING:
    from pysciml.pde.discrete import DiscreteSystem

_ITERATIONS: Final = 60
#: Newton's steps are not cut shorter than this.
_LEAST: Final = 1e-4
#: Steps that are smaller than this, relative to the fields, and no longer help end the search.
_SMALL: Final = 1e-9
#: Residuals below this, relative to the sum of their terms' sizes, are rounding.
_ROUNDING: Final = 1e-13
#: What may be left where rounding ends the search, relative to the terms without the unknown fields.
_LEFT: Final = 1e-9
#: The same where a constant is open: the integral of a source that is zero is not quite so in cells.
_OPEN: Final = 1e-2
#: What may be left where equations are solved directly: more are singular for these parameters.
_SOLVED: Final = 1e-6

_NO_INTEGRAL: Final = (
    "nothing fixes a constant (only Neumann or periodic conditions), and then what they are equal to has to have the "
    "integral zero"
)


def consistent(system: DiscreteSystem, u0: Array, p: Array, t: float) -> Array:
    """Solve the equations without time derivatives for the fields without, the others fixed.

    Newton's method with sparse linear algebra, from the values in ``u0``. Where nothing fixes a constant
    (only Neumann or periodic conditions) the mean of the values in ``u0`` is kept.

    Raises
    ------
    ProblemError
        If it finds no solution; it names the fields.
    """
    graph, differential = system.graph, system.model.differential
    names = ", ".join(f.func.__name__ for f in system.system.constrained)

    def residual(at: Array) -> Array:
        return np.where(differential, 0.0, graph.evaluate("rhs", at, p, t))

    u, left = u0.copy(), residual(u0)
    free: list[Open] = []
    for _ in range(_ITERATIONS):
        if not np.isfinite(left).all():
            raise ProblemError(
                f"the equations of {names} are not finite at the initial values: give some for {names} where they are",
                symbol=names,
            )
        matrix: Any = jacobian(graph, u, p, t)
        free = floating(graph, matrix, differential)
        if np.all(np.abs(left) <= _ROUNDING * (abs(matrix) @ np.abs(u))):
            return u
        inverse = factorize(matrix, differential, 0.0, free)
        if inverse is None:
            break
        right = balance(left.copy(), free)
        step = project(inverse(right), free)
        damping, size = 1.0, float(np.linalg.norm(right))
        new = residual(u + step)
        while not np.linalg.norm(balance(new.copy(), free)) <= (1 - damping / 4) * size:
            damping /= 2
            if damping < _LEAST or np.linalg.norm(step) <= _SMALL * np.linalg.norm(u[~differential]):
                damping = 0.0
                break
            new = residual(u + damping * step)
        if damping == 0.0:
            break
        u, left = u + damping * step, new
    if np.linalg.norm(left) <= _source(graph, ~differential, u, p, t) * (_OPEN if free else _LEFT):
        return u
    raise ProblemError(
        f"the equations of {names} have no solution near the initial values: "
        + (_NO_INTEGRAL if free else "give initial values near one, or check that they determine the fields"),
        symbol=names,
    )


def check(system: DiscreteSystem, u0: Array, p: Array, t: float) -> None:
    """Raise `ProblemError` where the equations of eliminated fields have no solution; it names the field."""
    found = system.elimination
    assert found is not None
    gone = [(i, s.name) for i, s in enumerate(system.system.states) if s.function in system.system.constrained]
    residuals, sources = (found.start.arrays(name, u0, p, t) for name in ("residual", "source"))
    for (i, name), residual, source in zip(gone, residuals, sources, strict=True):
        if not np.isfinite(source).all():
            raise ProblemError(f"the equation of {name} is not finite at the initial values", symbol=name)
        limit = _OPEN if i in found.floating else _SOLVED
        if not np.linalg.norm(residual) <= limit * np.linalg.norm(source):
            why = _NO_INTEGRAL if i in found.floating else "for these parameters it is singular"
            raise ProblemError(f"the equation of {name} has no solution at the start: {why}", symbol=name)


def _source(graph: FieldGraph, unknown: Any, u: Array, p: Array, t: float) -> float:
    """How large the terms are that the unknown fields are not in."""
    rest = u.copy()
    rest[unknown] = 0.0
    with np.errstate(all="ignore"):
        size = float(np.linalg.norm(graph.evaluate("rhs", rest, p, t)[unknown]))
    return size if np.isfinite(size) else float(np.linalg.norm(u))
