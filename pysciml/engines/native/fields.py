"""Partial differential equations: which are compiled, and the others by array operations in NumPy.

On a line a model is a few vector statements and its Jacobian a band: it is compiled (`line`). In two
and three dimensions NumPy's operations on whole fields are as fast as compiled loops up to a small
factor, there is nothing to wait for, and Krylov methods do not fill in as a sparse factorization does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pysciml.engines.base import Array, RawSolution, SolveOptions
from pysciml.engines.native import line
from pysciml.errors import UnsupportedError
from pysciml.graph import Model

if TYPE_CHECKING:
    from pysciml.engines.base import Engine

EXPLICIT: Final = "DP5"
#: What there is beside the methods of the compiled models; QNDF is another implementation of the same method.
ALGORITHMS: Final = {
    EXPLICIT: "partial differential equations only: explicit Runge-Kutta, order 5(4) (Dormand & Prince 1980)",
    "SSPRK33": "partial differential equations only: explicit, strong stability preserving, order 3, fixed step dt "
    "(Shu & Osher 1988)",
}
_METHODS: Final = ("QNDF", *ALGORITHMS)


def compiles(model: Model, algorithm: str | None, options: SolveOptions, *, backward: bool) -> bool:
    """Whether diffsol solves it, compiled; see `pysciml.engines.native.line`."""
    if algorithm in ALGORITHMS or line.compilable(model) is not None:
        return False
    if algorithm is None or algorithm in _METHODS:
        return options.dt is None and line.pays(model, backward=backward)
    return True


def check(engine: Engine, model: Model, algorithm: str | None) -> None:
    """Raise `UnsupportedError` for a method it does not have for fields."""
    engine.check_algorithm(algorithm)
    if not model.differential.all() and algorithm not in (None, "QNDF"):
        raise UnsupportedError(
            f"{model.name!r} has fields without a time derivative, and for these the native engine has QNDF, "
            f"not {algorithm}",
            engine=engine.name,
            algorithm=algorithm,
        )
    if algorithm is None or algorithm in _METHODS:
        return
    reason = line.compilable(model)
    if reason is not None:
        raise UnsupportedError(
            f"the native engine has {', '.join(_METHODS)} for partial differential equations; {algorithm} only for "
            f"those it can compile, and {model.name!r} {reason}; the jax engine has more",
            engine=engine.name,
            algorithm=algorithm,
        )


def solve(
    model: Model, u0: Array, p: Array, tspan: tuple[float, float], algorithm: str | None, options: SolveOptions
) -> RawSolution:
    """Solve in NumPy; without an algorithm QNDF where diffusion would hold an explicit method back, DP5 elsewhere."""
    from pysciml.engines.fields.choice import solve as step_from_host
    from pysciml.engines.fields.operator import interpreted
    from pysciml.graph.fields import FieldGraph

    assert isinstance(model.graph, FieldGraph)
    if factorizes(model, algorithm):
        return _with_eliminated(model, u0, p, tspan, options)
    operator = interpreted(model.graph, p, tspan[1] > tspan[0], model.differential)
    return step_from_host(operator, model.name, u0, tspan, algorithm, options)


def factorizes(model: Model, algorithm: str | None) -> bool:
    """Whether fields that were eliminated are unknowns again here: on a line, whose sparse factorizations are small."""
    return model.whole is not None and len(model.fields[0].shape) == 1 and algorithm in (None, "QNDF")


def _with_eliminated(
    model: Model, u0: Array, p: Array, tspan: tuple[float, float], options: SolveOptions
) -> RawSolution:
    """Solve by QNDF with the eliminated fields among the unknowns, and a sparse factorization of all."""
    from pysciml.engines.fields.choice import solve as step_from_host
    from pysciml.engines.fields.operator import interpreted
    from pysciml.graph.fields import FieldGraph

    whole = model.whole
    assert whole is not None
    graph, eliminated = whole.graph, model.graph
    assert isinstance(graph, FieldGraph)
    assert isinstance(eliminated, FieldGraph)
    found = eliminated.arrays("observed", u0, p, tspan[0])[: len(whole.fields) - len(model.fields)]
    start = np.empty(graph.n_states)
    start[whole.differential] = u0
    start[~whole.differential] = np.concatenate([np.broadcast_to(a, graph.fields[0]).ravel() for a in found])
    operator = interpreted(graph, p, tspan[1] > tspan[0], whole.differential)
    raw = step_from_host(operator, model.name, start, tspan, "QNDF", options)
    raw.u = raw.u[whole.differential]
    return raw
