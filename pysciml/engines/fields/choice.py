"""Which method: an explicit one, unless diffusion holds it back."""

from __future__ import annotations

from typing import Final

from pysciml.engines.base import Array, RawSolution, SolveOptions
from pysciml.engines.fields.explicit import DP5
from pysciml.engines.fields.marching import march
from pysciml.engines.fields.operator import Operator
from pysciml.engines.fields.precondition import Preconditioner
from pysciml.engines.fields.qndf import QNDF

#: Evaluations of an explicit method, held back by stability, beyond which the implicit one is taken.
_STIFF: Final = 10_000
#: Half-width of an explicit method's stability region on the negative axis.
_STABILITY: Final = 3.3


def is_stiff(preconditioner: Preconditioner, tspan: tuple[float, float]) -> bool:
    """Whether the fastest decay would cost an explicit method too many steps."""
    return 6 * preconditioner.fastest * abs(tspan[1] - tspan[0]) / _STABILITY > _STIFF


def solve(
    operator: Operator,
    name: str,
    u0: Array,
    tspan: tuple[float, float],
    algorithm: str | None,
    options: SolveOptions,
    preconditioner: Preconditioner | None = None,
) -> RawSolution:
    """Solve with QNDF or DP5; None chooses."""
    sign = 1.0 if tspan[1] > tspan[0] else -1.0
    start, end = sign * tspan[0], sign * tspan[1]
    if preconditioner is None and algorithm != "DP5":
        preconditioner = Preconditioner(operator, start, u0)
    if preconditioner is not None and (algorithm == "QNDF" or is_stiff(preconditioner, tspan)):
        method = QNDF(operator, preconditioner, start, u0, end, options.rtol, options.atol, options.dt)
        return march(method, operator, name, tspan, options, u0)
    explicit = DP5(operator, start, u0, end, options.rtol, options.atol, options.dt)
    return march(explicit, operator, name, tspan, options, u0)
