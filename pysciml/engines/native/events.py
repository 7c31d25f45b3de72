"""Events: where a condition crosses zero, states are set or the solve ends.

diffsol can stop at a zero crossing, but takes no direction, reports none where two happen within
a step, and asks for a compiled model of its own. So events are found here: after every slice the
conditions are evaluated on the graph, at the solver's steps and at points between them, and a
change of sign is narrowed down by solving from the last point before it to trial times, which
locates the event as precisely as the solution is known. Then the new values are evaluated on the
graph and the solve starts again from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array
from pysciml.engines.native import auto
from pysciml.engines.native.initial import consistent
from pysciml.engines.native.library import Outcome
from pysciml.engines.native.stepping import March, Slices, Task
from pysciml.graph import EventSpec

#: More events than this are taken for chattering.
MOST_EVENTS: Final = 100_000
#: As many events in a row that follow each other within a billionth of the time span.
_MOST_AT_ONCE: Final = 20
#: Points at which a step is looked at.
_POINTS: Final = 20
#: A slice has at most this many steps, so that little is lost behind an event.
_STEPS: Final = 2000


@dataclass
class Fired:
    """What happened: when (in the model's time), and the numbers of the events."""

    t: float
    events: list[int]


class _Search:
    def __init__(self, task: Task) -> None:
        self.task = task
        self.prepared = task.prepared
        self.events: tuple[EventSpec, ...] = task.prepared.model.events

    def conditions(self, t: Array, u: Array) -> Array:
        """All conditions, shape (n_events, n_t), at the compiled model's times."""
        graph, now = self.prepared.model.graph, self.task.model_time(t)
        rows = [graph.evaluate(e.condition, u, self.task.p[:, None], now)[0] for e in self.events]
        return np.array(rows).reshape(len(self.events), -1)

    def now(self, t: float) -> float:
        """The model's time."""
        return float(self.task.model_time(t))

    def speed(self, t: float, u: Array) -> Array:
        """The rate of change of all conditions, by a central difference along the solution."""
        f = self.prepared.sign * self.prepared.rhs(u, self.task.p, self.now(t))
        f = np.where(self.prepared.model.differential, f, 0.0)
        scale = float(np.max(np.abs(f) / (np.abs(u) + 1e-3), initial=0.0))
        step = 1e-6 / max(scale, 1.0 / (self.task.t1 - self.task.t0))
        g = self.conditions(np.array([t - step, t + step]), np.stack([u - step * f, u + step * f], axis=1))
        return (g[:, 1] - g[:, 0]) / (2 * step)

    def wanted(self, event: int, after: float) -> bool:
        """Whether a crossing to this side counts."""
        direction = self.events[event].direction
        return direction == "both" or (direction == "up") == (after > 0)

    def locate(self, event: int, t: float, u: Array, end: float, state: Array, side: float) -> tuple[float, Array]:
        """Narrow a crossing of one event down: the first time on the other side, and the state."""
        task = self.task
        low, high = t, end
        g_low, g_high = side, self.conditions(np.array([end]), state[:, None])[event, 0]
        fresh = float(self.conditions(np.array([t]), u[:, None])[event, 0])
        if fresh * side > 0:
            g_low = fresh
        width = 4e-16 * max(abs(t), abs(end), 1e-3 * (task.t1 - task.t0))
        known, last = fresh * side > 0, 0  # whether g_low is a value, and which end moved last
        for k in range(200):
            if high - low <= width:
                break
            middle = low + 0.5 * (high - low)
            if known and g_high != g_low and k % 4 != 3:  # Illinois, with bisections in between
                middle = high - g_high * (high - low) / (g_high - g_low)
                # At least one representable time away from either end: a trial that has come within
                # rounding of the crossing must be followed by one on the other side of it.
                margin = max(0.25 * width, float(np.spacing(max(abs(low), abs(high)))))
                middle = min(max(middle, low + margin), high - margin)
            if not low < middle < high:
                middle = low + 0.5 * (high - low)
            if not low < middle < high:
                break
            out = task.run(t, u, middle)
            if out.retcode != "Success":
                high, last = middle, 0
                continue
            trial = out.u[:, -1]
            g = float(self.conditions(np.array([middle]), trial[:, None])[event, 0])
            if self.crossed(event, middle, trial, g, side):
                high, g_high, state = middle, g, trial
                g_low *= 0.5 if last == 1 else 1.0
                last = 1
            else:
                low, known = middle, g * side > 0
                g_low = g if known else side
                g_high *= 0.5 if last == -1 else 1.0
                last = -1
        return high, np.ascontiguousarray(state)

    def crossed(self, event: int, t: float, u: Array, g: float, side: float) -> bool:
        """Whether a point is past the crossing, and not just leaving zero towards its side."""
        if g * side > 0:
            return False
        speed = float(self.speed(t, u)[event])
        return not (speed * side > 0 and abs(g) <= self.near(t) * abs(speed))

    def near(self, t: float) -> float:
        """Times closer than this are not told apart."""
        return 1e-9 * (self.task.t1 - self.task.t0) + 1e-9 * abs(t)

    def apply(self, fired: list[int], t: float, u: Array) -> Array:
        """Set the states; later events see what earlier ones set."""
        graph = self.prepared.model.graph
        for event in fired:
            spec = self.events[event]
            if spec.targets:
                values = graph.evaluate(spec.values, u, self.task.p, self.now(t))
                u = u.copy()
                u[list(spec.targets)] = values
        task = self.task
        return consistent(self.prepared, u, task.p, self.now(t), task.rtol, task.atol)


def solve(task: Task, *, choose: bool) -> tuple[March, str, list[Fired]]:
    """Solve a task with events.

    Parameters
    ----------
    choose : bool
        Choose the method, as `auto` does but without its calibration.

    Returns
    -------
    march : March
    algorithm : str
    fired : list of Fired
    """
    search = _Search(task)
    methods: list[str] = []
    if choose:
        explicit = bool(task.prepared.model.differential.all())
        task = _with_method(task, auto.EXPLICIT if explicit else auto.IMPLICIT)
    wanted = task
    search.task = task
    t, u = task.t0, task.u0
    sides = np.sign(search.conditions(np.array([t]), u[:, None])[:, 0])
    times, states = [np.array([t])], [u[:, None]]
    events: list[Fired] = []
    steps, seconds, at_once = 0, 0.0, 0
    retcode, message = "Success", ""
    length: float | None = None
    while t < wanted.t1 and retcode == "Success":
        part = replace(task, t0=t, u0=u, saveat=None, max_steps=max(wanted.max_steps - steps, 1))
        search.task = part
        if task.method not in methods:
            methods.append(task.method)
        slices = Slices(part, length, _STEPS)
        watch = auto.Watch(part) if choose and task.method == auto.EXPLICIT else None
        found: tuple[float, Array, list[int]] | None = None
        began = t
        try:
            for piece in slices:
                seconds += piece.steps.seconds
                found, sides = _crossing(search, piece.t, piece.u, piece.steps.t, sides)
                last = found[0] if found is not None else slices.end[0]
                inside = piece.steps.t[1:] < last if found is not None else piece.steps.t[1:] <= last
                steps += int(inside.sum()) + (found is not None)
                _keep(wanted, part, piece.t, piece.u, piece.steps, inside, last, times, states)
                t, u = slices.end
                if found is not None:
                    break
                if watch is not None and watch(piece, slices):
                    task = _with_method(wanted, auto.IMPLICIT)
                    break
        except KeyboardInterrupt:
            retcode, message = "Interrupted", "interrupted"
            break
        if found is None:
            length = None
            retcode, message = slices.retcode, slices.message
            continue
        t, u, which = found
        length = max(0.5 * (t - began), 1e-6 * (wanted.t1 - t)) if t < wanted.t1 else None
        before = u
        u = search.apply(which, t, u)
        events.append(Fired(search.now(t), which))
        _record(wanted, t, before, u, times, states)
        at_once = at_once + 1 if t - began <= 1e-9 * (wanted.t1 - wanted.t0) else 0
        if at_once >= _MOST_AT_ONCE or len(events) >= MOST_EVENTS:
            retcode = "Failure"
            where = search.now(t)
            message = f"events follow each other without end at t = {where:.9g} (they accumulate or chatter)"
        if any(search.events[k].terminal for k in which):
            retcode = "Terminated"
        sides = _sides_after(search, t, u, which)
    whole_t, whole_u = np.concatenate(times), np.concatenate(states, axis=1)
    if wanted.saveat is not None:
        first = wanted.saveat.size and wanted.saveat[0] <= wanted.t0
        whole_t, whole_u = (whole_t, whole_u) if first else (whole_t[1:], whole_u[:, 1:])
    march = March(whole_t, whole_u, (t, u), steps, retcode, message, seconds)
    return march, "+".join(methods) or task.method, events


def _with_method(task: Task, method: str) -> Task:
    share = 0.1
    return replace(task, method=method, rtol=max(share * task.rtol, 2e-14), atol=share * task.atol)


def _crossing(
    search: _Search, t: float, u: Array, steps: Array, sides: Array
) -> tuple[tuple[float, Array, list[int]] | None, Array]:
    """Find the first crossing that counts in a slice; also the sides at its end."""
    task = search.task
    shares = np.arange(1, _POINTS + 1) / _POINTS
    grid = np.unique((steps[:-1, None] + np.diff(steps)[:, None] * shares).ravel())
    grid = grid[grid > t]
    if not grid.size:
        return None, sides
    dense = task.run(t, u, grid)
    if dense.t.size < grid.size:  # a slice that failed later on
        grid, states = steps[1:], task.run(t, u, float(steps[-1])).u[:, 1:]
        grid = grid[: states.shape[1]]
    else:
        states = dense.u
    values = search.conditions(grid, states)
    signs = np.sign(values)
    sides = sides.copy()
    candidates: list[tuple[int, int, float]] = []  # (point, event, side before)
    for event in range(len(search.events)):
        k = 0
        while True:
            other = np.flatnonzero((signs[event, k:] != 0) & (signs[event, k:] != sides[event]))
            if not other.size:
                break
            k += int(other[0])
            sign, side = float(signs[event, k]), float(sides[event])
            g = float(values[event, k])
            if side and not search.crossed(event, float(grid[k]), states[:, k], g, side):
                k += 1
            elif side and search.wanted(event, sign):
                candidates.append((k, event, side))
                break
            else:
                sides[event] = sign
    if not candidates:
        return None, sides
    first = min(k for k, _, _ in candidates)
    begin = (t, u) if first == 0 else (float(grid[first - 1]), np.ascontiguousarray(states[:, first - 1]))
    located = [
        (*search.locate(event, *begin, float(grid[first]), states[:, first], side), event)
        for k, event, side in candidates
        if k == first
    ]
    when = min(time for time, _, _ in located)
    together = 1e-9 * (float(grid[first]) - begin[0]) + 1e-14 * abs(when)
    which = sorted(event for time, _, event in located if time <= when + together)
    state = next(state for time, state, _ in located if time == when)
    return (when, state, which), sides


def _sides_after(search: _Search, t: float, u: Array, which: list[int]) -> Array:
    """On which side of zero the conditions are going to be."""
    g = search.conditions(np.array([t]), u[:, None])[:, 0]
    speed = search.speed(t, u)
    near = search.near(t)
    sides = np.sign(g)
    for event in range(len(search.events)):
        if sides[event] == 0 or (event in which and abs(g[event]) <= near * abs(speed[event])):
            sides[event] = np.sign(speed[event])
    return sides


def _keep(
    whole: Task,
    part: Task,
    t: float,
    u: Array,
    steps: Outcome,
    inside: npt.NDArray[np.bool_],
    last: float,
    times: list[Array],
    states: list[Array],
) -> None:
    """Record a slice up to a time."""
    if whole.saveat is None:
        times.append(steps.t[1:][inside])
        states.append(steps.u[:, 1:][:, inside])
        return
    tolerance = _same_time(whole, last) if last < steps.t[-1] else 0.0
    wanted = whole.saveat[(whole.saveat > t) & (whole.saveat <= last - tolerance)]
    if wanted.size:
        out = part.run(t, u, wanted)
        times.append(out.t)
        states.append(out.u)


def _record(whole: Task, t: float, before: Array, after: Array, times: list[Array], states: list[Array]) -> None:
    """Record an event: both sides of it among the solver's steps, else what follows it."""
    if whole.saveat is None:
        times.append(np.array([t, t]))
        states.append(np.stack([before, after], axis=1))
        return
    here = whole.saveat[np.abs(whole.saveat - t) <= _same_time(whole, t)]
    if here.size and (not times or here[0] > times[-1][-1]):
        times.append(here[:1])
        states.append(after[:, None])


def _same_time(whole: Task, t: float) -> float:
    return 1e-12 * (whole.t1 - whole.t0) + 1e-14 * abs(t)
