"""Which method: an explicit one, unless diffusion holds it back."""

from __future__ import annotations

from typing import Final

import numpy as np

from pysciml.engines.base import Array, RawSolution, SolveOptions
from pysciml.engines.eigenvalue import decay, largest_eigenvalue
from pysciml.engines.fields.constrained import Factorization
from pysciml.engines.fields.explicit import DP5, SSPRK33
from pysciml.engines.fields.marching import march
from pysciml.engines.fields.operator import Operator
from pysciml.engines.fields.precondition import Preconditioner, finite
from pysciml.engines.fields.qndf import QNDF, norm
from pysciml.errors import ProblemError

#: Evaluations of an explicit method, held back by stability, beyond which the implicit one is taken.
_STIFF: Final = 10_000
#: Half-width of an explicit method's stability region on the negative axis.
_STABILITY: Final = 3.3
#: Cosine between a zigzag and its decline beyond which it decays, and nothing more is asked.
_DECAYS: Final = 0.5
#: Height of the zigzag that tells real stiffness, relative to the solution.
_ZIGZAG: Final = 0.01


def is_stiff(preconditioner: Preconditioner, operator: Operator, u0: Array, tspan: tuple[float, float]) -> bool:
    """Whether the fastest decay would cost an explicit method too many steps.

    What decays fastest is taken from the linearized equations, and believed if a small zigzag really
    changes that fast: the weights of WENO schemes make a linearization look far stiffer than they are.
    Where the fastest mode oscillates, as waves and dispersion do, an implicit method gains nothing.
    """
    budget = _STIFF * _STABILITY / (6 * abs(tspan[1] - tspan[0]))
    if preconditioner.fastest <= budget:
        return False
    t = (1.0 if tspan[1] > tspan[0] else -1.0) * tspan[0]
    zigzag = np.concatenate([(-1.0) ** np.indices(shape).sum(axis=0).ravel() for shape in operator.graph.fields])
    size = _ZIGZAG * max(float(np.abs(u0).max()), 1e-3)
    with np.errstate(all="ignore"):
        change = operator.rhs(t, u0 + size * zigzag) - operator.rhs(t, u0)
    if np.isfinite(change).all() and norm(change) / size <= budget:
        return False
    if not np.isfinite(change).all() or -zigzag @ change > _DECAYS * np.linalg.norm(zigzag) * np.linalg.norm(change):
        return True
    fastest = largest_eigenvalue(lambda v: finite(operator.push(t, u0, v)), u0.size)
    return fastest is None or decay(fastest) > 0.0


def solve(
    operator: Operator,
    name: str,
    u0: Array,
    tspan: tuple[float, float],
    algorithm: str | None,
    options: SolveOptions,
    preconditioner: Preconditioner | None = None,
) -> RawSolution:
    """Solve with QNDF, DP5 or SSPRK33; None chooses one of the first two.

    Where fields have no time derivative it is QNDF.
    """
    sign = 1.0 if tspan[1] > tspan[0] else -1.0
    start, end = sign * tspan[0], sign * tspan[1]
    if operator.mass is not None:
        direct = Factorization(operator, start, u0)
        method = QNDF(operator, direct, start, u0, end, options.rtol, options.atol, options.dt)
        return march(method, operator, name, tspan, options, u0)
    if algorithm == "SSPRK33":
        if options.dt is None:
            raise ProblemError("SSPRK33 steps with a fixed step size: pass dt=", symbol="dt")
        return march(SSPRK33(operator, start, u0, end, options.dt), operator, name, tspan, options, u0)
    if preconditioner is None and algorithm != "DP5":
        preconditioner = Preconditioner(operator, start, u0)
    if preconditioner is not None and (
        algorithm == "QNDF" or is_stiff(preconditioner, operator, u0, options.whole or tspan)
    ):
        method = QNDF(operator, preconditioner, start, u0, end, options.rtol, options.atol, options.dt)
        return march(method, operator, name, tspan, options, u0)
    explicit = DP5(operator, start, u0, end, options.rtol, options.atol, options.dt)
    return march(explicit, operator, name, tspan, options, u0)
