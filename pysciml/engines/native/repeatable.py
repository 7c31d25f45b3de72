"""The same numbers whatever was solved before, for trajectories of an ensemble.

A single solve reuses what earlier ones have taught (`stepping.Plan`, `auto.Decision`) where its
inputs are near theirs. That makes its last digits depend on their order, which is not the same for
every division of an ensemble among processes. Here the lessons come from one solve for each *cell* of
inputs: numbers near each other, counted from the problem's own. A trajectory
is then a function of its own numbers, and a lesson still serves many.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from typing import Any, Final

import numpy as np

from pysciml.engines.base import Array, Engine, RawSolution, SolveOptions
from pysciml.engines.native.auto import Decision
from pysciml.engines.native.compile import Prepared, prepare
from pysciml.engines.native.stepping import Plan
from pysciml.engines.timed import crossings_only
from pysciml.errors import PySciMLError
from pysciml.graph import Model

#: The ratio of neighbouring cells. A number is within the square root of it of its cell's middle, which
#: is near enough for a plan (`stepping._NEAR`), or for a decision about the method (`auto._NEAR`).
_PLANNED: Final = 2.0
_DECIDED: Final = 1.2
#: Cells whose lessons are kept; one that is dropped is learned again, with the same outcome.
_KEPT: Final = 4096

_lessons: OrderedDict[Any, dict[Any, Any]] = OrderedDict()


def solve(
    engine: Engine,
    model: Model,
    u0: Array,
    p: Array,
    near: tuple[Array, Array],
    tspan: tuple[float, float],
    algorithm: str | None,
    options: SolveOptions,
) -> RawSolution:
    """Solve as ``engine.solve`` does, independently of what came before.

    Parameters
    ----------
    near : (u0, p)
        The numbers that cells are counted from: inputs equal to these stay exactly what they are.
    """
    prepared = prepare(crossings_only(model), backward=tspan[1] < tspan[0])
    ratio = _DECIDED if algorithm is None else _PLANNED
    centre_u0, centre_p = centre(u0, near[0], ratio), centre(p, near[1], ratio)
    times = None if options.saveat is None else options.saveat.tobytes()
    rules = options.rtol, options.atol, options.dt, options.max_steps, times
    key = (model.hash, centre_u0.tobytes(), centre_p.tobytes(), tspan, algorithm, rules)
    with prepared.lock:
        before = prepared.history
        try:
            taught = _lessons.get(key)
            if taught is None:
                taught = _learn(prepared, engine, model, centre_u0, centre_p, tspan, algorithm, options)
                _lessons[key] = taught
                if len(_lessons) > _KEPT:
                    _lessons.popitem(last=False)
            prepared.history = _copy(taught)
            return engine.solve(model, u0, p, tspan, algorithm, options)
        finally:
            prepared.history = before


def centre(values: Array, origin: Array, ratio: float) -> Array:
    """The middle of the cell of each value: its origin times a power of the ratio.

    Where that does not exist (a zero, another sign) it is a power of the ratio itself.

    Parameters
    ----------
    values, origin : array, shape (n,)
    ratio : float
        Of neighbouring cells.

    Returns
    -------
    array, shape (n,)
    """
    found = origin.copy()
    for i in np.flatnonzero(values != origin).tolist():
        value, start = float(values[i]), float(origin[i])
        if math.copysign(1.0, value) != math.copysign(1.0, start) or not 1e-300 < abs(start) < 1e300:
            start = math.copysign(1.0, value)
        if not 1e-300 < value / start < 1e300:
            found[i] = value
            continue
        found[i] = start * ratio ** round(math.log(value / start) / math.log(ratio))
    return found


def _learn(
    prepared: Prepared,
    engine: Engine,
    model: Model,
    u0: Array,
    p: Array,
    tspan: tuple[float, float],
    algorithm: str | None,
    options: SolveOptions,
) -> dict[Any, Any]:
    """What a solve in the middle of a cell teaches; nothing where it fails."""
    prepared.history = {}
    try:
        raw = engine.solve(model, u0, p, tspan, algorithm, options)
    except PySciMLError:
        return {}
    if raw.retcode == "Interrupted":
        raise KeyboardInterrupt
    return _copy(prepared.history) if raw.successful else {}


def _copy(history: dict[Any, Any]) -> dict[Any, Any]:
    """Lessons that a solve may change without changing the others'."""
    return {key: _copied(lesson) for key, lesson in history.items()}


def _copied(lesson: Any) -> Any:
    if isinstance(lesson, Decision):
        return replace(lesson, plan=replace(lesson.plan))
    assert isinstance(lesson, Plan)
    return replace(lesson)
