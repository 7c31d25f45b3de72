"""Checking the options of a solve, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pysciml.engines.base import Array, SolveOptions
from pysciml.errors import ProblemError, UnsupportedError
from pysciml.problem import Problem, fill, number

#: More output times than this are a slip of the keyboard, not a wish.
_MOST_OUTPUTS = 100_000_000
#: Some ten spacings of numbers in single precision.
_FLOAT32_RTOL = 1e-6


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
    device: Any = "cpu",
    precision: Any = "float64",
    problem: Problem | None = None,
) -> SolveOptions:
    """Check every option; `ProblemError` names the one that is wrong.

    With a ``problem``, ``atol`` may be a mapping of its states.
    """
    atols = None
    if isinstance(atol, Mapping):
        atols = _of_each(atol, problem)
        atol = atols.min()
    elif problem is not None and np.ndim(atol):
        raise ProblemError(
            "atol must be one number, or one for each state, such as {x: 1e-9}, "
            f"not {type(atol).__name__} of shape {np.shape(atol)}",
            symbol="atol",
        )
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
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value < 2**63:
            raise ProblemError(f"{name} must be an integer, {least} or more (below 2**63), not {value!r}", symbol=name)
    if not isinstance(progress, bool):
        raise ProblemError(f"progress must be True or False, not {progress!r}", symbol="progress")
    check_place(device, precision, tolerances["rtol"])
    return SolveOptions(
        rtol=tolerances["rtol"],
        atol=tolerances["atol"],
        saveat=read_saveat(saveat, tspan),
        dt=step,
        max_steps=int(max_steps),
        seed=None if seed is None else int(seed),
        progress=progress,
        device=device,
        precision=precision,
        atols=atols,
    )


def check_place(device: Any, precision: Any, rtol: float) -> None:
    """Refuse what is no name of a device or precision, and a tolerance that is too fine for the latter."""
    if not isinstance(device, str):
        raise ProblemError(f"device must be a name, such as 'cpu' or 'cuda', not {device!r}", symbol="device")
    if precision not in ("float64", "float32"):
        raise ProblemError(f"precision must be 'float64' or 'float32', not {precision!r}", symbol="precision")
    if precision == "float32" and rtol < _FLOAT32_RTOL:
        raise ProblemError(f"rtol={rtol:g} is finer than float32 can hold: {_FLOAT32_RTOL:g} or more", symbol="rtol")


def _of_each(given: Mapping[Any, Any], problem: Problem | None) -> Array:
    """Absolute tolerances by state; those that are not named have the usual one."""
    if problem is None:
        raise ProblemError(
            "atol must be one number here: solve and solve_ensemble take one for each state", symbol="atol"
        )
    system = problem.system
    if system.model.fields:
        raise UnsupportedError(f"atol must be one number for partial differential equations, as {system.name!r} is one")
    atols = np.full(len(system.model.states), SolveOptions.atol)
    fill(atols, given, "atol", "state", system.state_index, system.model.states)
    for name, value in zip(system.model.states, atols, strict=True):
        if value < 0:
            raise ProblemError(f"atol: the value of {name} must be 0 or more, not {value:g}", symbol="atol")
    return atols


def read_saveat(saveat: Any, tspan: tuple[float, float]) -> Array | None:
    """Output times from a spacing (the end is always one of them) or an array of times."""
    if saveat is None:
        return None
    start, end = tspan
    try:
        given = np.asarray(saveat)
    except ValueError as error:  # rows of different lengths
        raise _no_times(saveat) from error
    if given.ndim == 0:
        return _spaced(number(saveat, "saveat", "saveat"), start, end)
    if given.dtype.kind not in "iufO" or given.ndim != 1 or given.size == 0:
        raise _no_times(saveat)
    if given.dtype.kind == "O":
        given = np.array([number(time, "saveat: a time", "saveat") for time in given])
    times = given.astype(np.float64)
    low, high = min(start, end), max(start, end)
    in_order = times[1:] > times[:-1] if end > start else times[1:] < times[:-1]
    if low <= times[0] <= high and low <= times[-1] <= high and in_order.all():
        return times  # nearly always: what is wrong is looked for below
    if not np.isfinite(times).all():
        raise ProblemError("saveat has times that are not finite", symbol="saveat")
    outside = (times < low) | (times > high)
    if outside.any():
        raise ProblemError(f"saveat has {times[outside][0]:g}, outside tspan ({start:g} to {end:g})", symbol="saveat")
    if np.any(np.diff(times) * (end - start) <= 0):
        raise ProblemError("saveat must go from the start of tspan to its end, without repeated times", symbol="saveat")
    return times


def _no_times(saveat: Any) -> ProblemError:
    what = f"an array of shape {np.shape(saveat)}" if isinstance(saveat, np.ndarray) else repr(saveat)
    what = what if len(what) < 80 else what[:77] + "..."
    return ProblemError(
        f"saveat must be a spacing or a one-dimensional array of times, not {what}",
        symbol="saveat",
    )


def _spaced(spacing: float, start: float, end: float) -> Array:
    """Times from ``start`` at a spacing, and ``end``."""
    if spacing <= 0:
        raise ProblemError(f"saveat, as a spacing, must be positive, not {spacing:g}", symbol="saveat")
    ratio = abs(end - start) / spacing
    if ratio > _MOST_OUTPUTS:
        raise ProblemError(f"saveat={spacing:g} asks for {ratio:.3g} output times", symbol="saveat")
    n = round(ratio)
    if abs(n - ratio) > 1e-9 * max(ratio, 1.0):  # the end is no multiple: it comes after the last one
        n = int(ratio) + 1
    times = start + np.copysign(spacing, end - start) * np.arange(max(n, 1) + 1)
    times[-1] = end
    if np.any(np.diff(times) == 0):
        raise ProblemError(f"saveat={spacing:g} is finer than the times it starts from can tell apart", symbol="saveat")
    return times
