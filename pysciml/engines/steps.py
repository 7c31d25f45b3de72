"""Steps of one size: for methods whose coefficients are functions of it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array, SolveOptions
from pysciml.errors import ProblemError

#: How far output times may be from the grid of steps, in steps.
_OFF: Final = 1e-6


def whole_steps(
    algorithm: str, tspan: tuple[float, float], options: SolveOptions
) -> tuple[float, Array, npt.NDArray[np.signedinteger[Any]]]:
    """The size of the steps, which is ``dt`` but for rounding, the output times, and after how many steps each is.

    Raises
    ------
    ProblemError
        If there is no ``dt``, or it does not divide the span, or a time of ``saveat`` is between two steps.
    """
    if options.dt is None:
        raise ProblemError(f"{algorithm} steps with a fixed step size: pass dt=", symbol="dt")
    span = tspan[1] - tspan[0]
    total = max(1, round(abs(span) / options.dt))
    h = span / total
    if abs(abs(h) - options.dt) > _OFF * options.dt:
        raise ProblemError(f"dt={options.dt:g} does not divide the span {span:g} into whole steps", symbol="dt")
    times = np.linspace(*tspan, total + 1) if options.saveat is None else options.saveat
    steps = (times - tspan[0]) / h
    marks = np.rint(steps).astype(int)
    if np.abs(steps - marks).max(initial=0.0) > _OFF:
        bad = times[int(np.argmax(np.abs(steps - marks)))]
        raise ProblemError(f"saveat: {bad:g} is not a whole number of steps dt={options.dt:g} away", symbol="saveat")
    return h, times, marks
