"""Checking the options of a solve, before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from pysciml.engines.base import Array, SolveOptions
from pysciml.errors import ProblemError
from pysciml.problem import number

#: More output times than this are a slip of the keyboard, not a wish.
_MOST_OUTPUTS = 100_000_000


def read_options(
    tspan: tuple[float, float],
    *,
    rtol: Any,
    atol: Any,
    saveat: Any,
    dt: Any,
    max_steps: Any,
    seed: Any,
    progress: Any,
) -> SolveOptions:
    """Check every option; `ProblemError` names the one that is wrong."""
    tolerances: dict[str, float] = {}
    for name, value in (("rtol", rtol), ("atol", atol)):
        tolerances[name] = number(value, name, name)
        if tolerances[name] < 0 or (name == "rtol" and tolerances[name] >= 1):
            raise ProblemError(
                f"{name} must be {'between 0 and 1' if name == 'rtol' else '0 or more'}, not {value!r}", symbol=name
            )
    if tolerances["rtol"] == 0 and tolerances["atol"] == 0:
        raise ProblemError("rtol and atol cannot both be 0", symbol="rtol")
    step = None
    if dt is not None:
        step = number(dt, "dt", "dt")
        if step <= 0:
            raise ProblemError(f"dt must be positive (also backward in time), not {dt!r}", symbol="dt")
        if step > abs(tspan[1] - tspan[0]):
            raise ProblemError(f"dt ({step:g}) is longer than tspan", symbol="dt")
    for name, value, least in (("max_steps", max_steps, 1), ("seed", seed, 0)):
        if name == "seed" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ProblemError(f"{name} must be an integer, {least} or more, not {value!r}", symbol=name)
    if not isinstance(progress, bool):
        raise ProblemError(f"progress must be True or False, not {progress!r}", symbol="progress")
    return SolveOptions(
        rtol=tolerances["rtol"],
        atol=tolerances["atol"],
        saveat=read_saveat(saveat, tspan),
        dt=step,
        max_steps=int(max_steps),
        seed=None if seed is None else int(seed),
        progress=progress,
    )


def read_saveat(saveat: Any, tspan: tuple[float, float]) -> Array | None:
    """Output times from a spacing (the end is always one of them) or an array of times."""
    if saveat is None:
        return None
    start, end = tspan
    if np.ndim(saveat) == 0:
        spacing = number(saveat, "saveat", "saveat")
        if spacing <= 0:
            raise ProblemError(f"saveat, as a spacing, must be positive, not {saveat!r}", symbol="saveat")
        ratio = abs(end - start) / spacing
        if ratio > _MOST_OUTPUTS:
            raise ProblemError(f"saveat={spacing:g} asks for {ratio:.3g} output times", symbol="saveat")
        n = int(np.floor(ratio * (1 + 1e-12)))
        times = start + np.copysign(spacing, end - start) * np.arange(n + 1)
        if abs(times[-1] - end) <= 1e-9 * spacing:
            times[-1] = end
        else:
            times = np.append(times, end)
        return times
    try:
        times = np.array(saveat, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"saveat must be a spacing or an array of times, not {saveat!r}", symbol="saveat") from error
    if times.ndim != 1 or times.size == 0:
        raise ProblemError(
            f"saveat must be a one-dimensional array of times, not of shape {times.shape}", symbol="saveat"
        )
    if not np.isfinite(times).all():
        raise ProblemError("saveat has times that are not finite", symbol="saveat")
    low, high = min(start, end), max(start, end)
    outside = (times < low) | (times > high)
    if outside.any():
        raise ProblemError(f"saveat has {times[outside][0]:g}, outside tspan ({start:g} to {end:g})", symbol="saveat")
    if np.any(np.diff(times) * (end - start) <= 0):
        raise ProblemError("saveat must go from the start of tspan to its end, without repeated times", symbol="saveat")
    return times
