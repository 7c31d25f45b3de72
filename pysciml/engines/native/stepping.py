"""Bounded calls: a solve as slices of time, none of which takes long.

The library holds the interpreter while it solves, takes no limit on steps and cannot be
interrupted, so how long a call takes is decided by how far it is asked to go:

1. A problem not seen before is *explored*: the first slice is a few initial step sizes long, each
   next one as long as the steps counted in the last allow. Slices are limited by counted steps and
   a model of their cost, never by the clock, so that the same problem is always cut in the same
   places and has the same solution to the last bit. A slice that turns out to need far more steps
   than predicted is given up (by a limit on how small its steps may get) and cut finer.
2. Where all slices together are worth about one, the problem is then solved in *one call*; that is
   remembered, and near inputs (every parameter and initial value within a factor of 1.5) are
   solved in one call at once. Where they are not, the cuts are remembered.
3. The library does not count steps where output is asked for at given times, so these are counted
   by a call of their own the first time.

Between slices Python runs: Ctrl-C, `max_steps` and progress are handled there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.native.compile import Prepared
from pysciml.engines.native.emit import SCALAR_OPERATIONS
from pysciml.engines.native.library import MISSED, STUMBLED, Outcome

#: Seconds that one call should take at most, by the model of `step_cost`.
CALL_SECONDS: Final = 0.4
#: An explicit slice is given up when it needs steps this many times shorter than predicted.
_SURPRISE: Final = 30
#: So many steps the first slice may take, which is cut for a few.
_FIRST_STEPS: Final = 3000
#: Growth of slices while they are cheap.
_GROWTH: Final = 10.0
#: How far inputs may be from those a plan was made for.
_NEAR: Final = 1 / 3

#: Called with every slice of an exploration; returns whether to give up.
Monitor = Callable[["Slice", "Slices"], bool]


@dataclass
class Task:
    """One integration in the compiled model's time, which always runs forward."""

    prepared: Prepared
    method: str
    t0: float
    t1: float
    u0: Array
    p: Array
    origin: float
    rtol: float
    atol: float
    saveat: Array | None = None
    max_steps: int = 1_000_000
    progress: bool = False
    count: bool = True
    only_explore: bool = False

    def run(self, t: float, u: Array, until: float | Array, least: float | None = None) -> Outcome:
        """One call of the library."""
        least = self.smallest_step if least is None else least
        compiled = self.prepared.compiled
        inputs = self.prepared.inputs(self.p, self.origin)
        out = compiled.run(self.method, t, u, inputs, until, self.rtol, self.atol, least)
        for k in range(1, 5):
            if out.retcode != MISSED or not isinstance(until, np.ndarray):
                break
            # Rounding made the library miss the last output time; a hair earlier it does not.
            nearer = until.copy()
            nearer[-1] -= k * 4e-16 * max(abs(t), abs(nearer[-1]))
            compiled = self.prepared.compiled
            out = compiled.run(self.method, t, u, inputs, nearer, self.rtol, self.atol, least)
            if out.retcode == "Success":
                out.t = until.copy()
        return out

    def model_time(self, t: float | Array) -> float | Array:
        """The model's time at the compiled model's."""
        return self.origin + self.prepared.sign * t

    @property
    def smallest_step(self) -> float:
        """Steps below this are refused: a share of the span too small for any transient."""
        return 1e-22 * max(abs(self.t0), abs(self.t1))


@dataclass
class March:
    """What an integration came to.

    Attributes
    ----------
    t, u : arrays, shapes (n_t,) and (n_states, n_t)
        Without the start where output times were asked for and it is none of them.
    end : (time, state)
        How far it got.
    """

    t: Array
    u: Array
    end: tuple[float, Array]
    n_steps: int = -1
    retcode: str = "Success"
    message: str = ""
    seconds: float = 0.0


@dataclass
class Plan:
    """What a solve has taught: where it was cut, how many steps it took, how short the least was."""

    inputs: Array
    t0: float
    t1: float
    cuts: tuple[float, ...]
    steps: int
    counted: bool = False
    least: float = 0.0
    explored: tuple[float, ...] = ()

    def is_exactly(self, task: Task) -> bool:
        """Whether the task is the one the plan was made for."""
        same = self.t0 == task.t0 and self.t1 == task.t1
        return same and np.array_equal(self.inputs, _inputs(task))

    def fits(self, task: Task, near: float = _NEAR) -> bool:
        """Whether the task's inputs are near enough, relatively, for the plan to hold."""
        if self.is_exactly(task):
            return self.steps <= task.max_steps
        if self.t0 != task.t0 or self.t1 != task.t1 or 4 * self.steps > task.max_steps:
            return False
        ours, theirs = self.inputs, _inputs(task)
        return bool(np.all(np.abs(ours - theirs) <= near * np.maximum(np.abs(ours), np.abs(theirs))))


def _inputs(task: Task) -> Array:
    return np.concatenate([task.p, task.u0, [task.origin]])


def step_cost(prepared: Prepared, method: str) -> float:
    """Seconds that one step takes, roughly, from above (benchmarks/native_rules.py)."""
    n, operations = prepared.lowered.n_states, prepared.operations
    per_operation = 3e-9 if operations <= SCALAR_OPERATIONS else 1.2e-9  # vectors
    evaluation = per_operation * operations + 2e-9 * n
    if method == "Tsit5":
        return 1.5e-6 + 8 * evaluation
    if prepared.sparse:
        cost = 3e-6 + prepared.elimination * n + 5 * evaluation
    else:
        cost = 3e-6 + 5 * evaluation + 0.1 * n * evaluation + 3e-9 * n**2 + 1e-10 * n**3
    return cost if method == "QNDF" else 3 * cost


def steps_per_call(task: Task) -> int:
    """How many steps a call may take."""
    return max(20, int(CALL_SECONDS / step_cost(task.prepared, task.method)))


def march(task: Task, monitor: Monitor | None = None) -> March:
    """Integrate a task to its end, in calls of bounded length.

    Parameters
    ----------
    monitor : callable, optional
        Called after every slice of an exploration; ends it by returning True, with the return code
        ``"Stiff"``.
    """
    key = task.method, task.rtol, task.atol
    plan: Plan | None = task.prepared.history.get(key)
    found: March | None = None
    if plan is None or not plan.fits(task):
        found, plan = _explore(task, monitor)
        if plan is None:
            return found
        task.prepared.history[key] = plan
        if task.saveat is None and len(plan.cuts) > 1:
            return found
    if task.only_explore:
        nothing = np.zeros((task.u0.size, 0))
        return found or March(np.zeros(0), nothing, (task.t1, task.u0))
    result = _replay(task, plan.cuts, plan.least)
    if result.retcode not in ("Success", "Interrupted") and found is not None and plan.cuts != plan.explored:
        # What slices could do, one call could not: it failed on the way from tiny steps to long ones.
        plan.cuts, plan.counted = plan.explored, True
        result = _replay(task, plan.cuts, plan.least)
    if result.retcode == "Success":
        if task.saveat is None:
            result.n_steps = result.t.size - 1
        elif plan.is_exactly(task):
            result.n_steps = count_steps(task) if task.count else plan.steps
        return result
    task.prepared.history.pop(key, None)
    if found is None and result.retcode != "Interrupted":  # the plan misled: look closer
        return march(task, monitor)
    return result


def count_steps(task: Task) -> int:
    """The steps of a solve that has been planned; counted by a call of its own the first time."""
    plan: Plan | None = task.prepared.history.get((task.method, task.rtol, task.atol))
    if plan is None or not plan.is_exactly(task):
        return -1
    if not plan.counted:
        plan.steps = _replay(replace(task, saveat=None), plan.cuts, plan.least).t.size - 1
        plan.counted = True
    return plan.steps


@dataclass
class _Pieces:
    """The slices of a march, put together."""

    task: Task
    t: list[Array] = field(default_factory=list[Array])
    u: list[Array] = field(default_factory=list[Array])
    seconds: float = 0.0

    def add(self, t: Array, u: Array) -> None:
        self.t.append(t)
        self.u.append(u)

    def finish(self, end: tuple[float, Array], retcode: str = "Success", message: str = "") -> March:
        n = self.task.prepared.lowered.n_states
        t = np.concatenate(self.t) if self.t else np.zeros(0)
        u = np.concatenate(self.u, axis=1) if self.u else np.zeros((n, 0))
        return March(t, u, end, -1, retcode, message, self.seconds)


def _first_length(task: Task) -> float:
    """A few initial steps: the starting step size of Hairer, Nørsett & Wanner (1993), II.4."""
    f0 = task.prepared.rhs(task.u0, task.p, float(task.model_time(task.t0)))
    f0 = np.where(task.prepared.model.differential, f0, 0.0)
    scale = task.atol + task.rtol * np.abs(task.u0)
    with np.errstate(all="ignore"):
        speed = float(np.sqrt(np.mean((f0 / scale) ** 2)))
        size = float(np.sqrt(np.mean((task.u0 / scale) ** 2)))
    span = task.t1 - task.t0
    if not np.isfinite(speed) or speed == 0:
        return 1e-3 * span
    return min(max(10 * 0.01 * max(size, 1.0) / speed, 1e-12 * span), span)


@dataclass
class Slice:
    """One slice of a solve: where it started, and its steps, the start among them."""

    t: float
    u: Array
    steps: Outcome


class Slices:
    """Solves a task slice by slice; the slices are what iterating gives.

    Attributes
    ----------
    end : (time, state)
        How far it got.
    n_steps : int
    retcode, message : str
        ``"Success"`` unless it failed; what was computed before a failure comes as a last slice.
    mended : bool
        Whether a slice failed for a reason that a shorter one did not.
    """

    def __init__(self, task: Task, length: float | None = None, most: int = 10**9) -> None:
        self.task = task
        self._most = most
        self.end = task.t0, task.u0
        self.n_steps = 0
        self.retcode, self.message = "Success", ""
        self.mended = False
        self._shortened = False
        self._length = _first_length(task) if length is None else length

    def __iter__(self) -> Iterator[Slice]:
        task = self.task
        target = min(steps_per_call(task), self._most)
        while self.end[0] < task.t1:
            t, u = self.end
            end = t + self._length
            if end >= task.t1 or (not self._shortened and task.t1 - end < 0.2 * self._length):
                end = task.t1
            shortest = max(task.smallest_step, 4e-16 * t, 1e-17 * (end - t))
            guard = shortest
            if task.method == "Tsit5":  # implicit methods start with steps that are tiny anyway
                most = _SURPRISE * target if self.n_steps else min(_SURPRISE * target, _FIRST_STEPS)
                guard = max((end - t) / most, shortest)
            out = task.run(t, u, end, guard)
            if out.retcode != "Success":
                if self._shorter(t, end, out, guard):
                    continue
                self.retcode, self.message = out.retcode, out.message
                saved = out if out.t.size else _salvage(task, t, u, end, out)
                moving = None if saved is None else _moving(saved)
                if moving is not None and moving.t.size > 1:
                    yield self._advance(moving, float(moving.t[-1]))
                return
            # The library stops within rounding of the end, which must not leave a sliver.
            yield self._advance(out, end)
            self._shortened = False
            taken = max(out.t.size - 1, 1)
            self._length = (end - t) * min(max(0.8 * target / taken, 0.05), _GROWTH)
            if self.n_steps >= task.max_steps and self.end[0] < task.t1:
                self.retcode = "MaxIters"
                self.message = f"max_steps = {task.max_steps} steps did not reach the end"
                return

    def _advance(self, out: Outcome, end: float) -> Slice:
        done = Slice(*self.end, out)
        over = self.n_steps + out.t.size - 1 - self.task.max_steps
        if over > 0:
            out.t, out.u = out.t[:-over], out.u[:, :-over]
            end = float(out.t[-1])
        self.n_steps += out.t.size - 1
        self.end = end, np.ascontiguousarray(out.u[:, -1])
        _show(self.task, end)
        return done

    def _shorter(self, t: float, end: float, out: Outcome, guard: float) -> bool:
        """Whether a failed slice is worth another try, cut shorter."""
        task = self.task
        length = 0.0
        if out.retcode == "DtLessThanMin" and guard > 4e-16 * t + 1e-17 * (end - t):
            length = (end - t) / 20
        elif out.retcode == STUMBLED:
            length, self.mended = 0.6 * (end - t), True
        elif out.retcode == "ConvergenceFailure" and out.failed_at > t + 1e-6 * (end - t):
            # The library counts failures over the whole call and gives up at 50.
            length, self.mended = 0.9 * (out.failed_at - t), True
        elif out.retcode == "Unstable" and task.method == "Tsit5":
            # Where a step that is too long overflows, the library does not see that it has to be shorter.
            length, self.mended = (0.9 * (float(out.t[-1]) - t) if out.t.size > 2 else (end - t) / 20), True
        if length <= 100 * max(task.smallest_step, 4e-16 * t):
            return False
        self._length, self._shortened = length, True
        return True


def _explore(task: Task, monitor: Monitor | None) -> tuple[March, Plan | None]:
    """Integrate in slices of counted steps; also the plan, unless it failed."""
    pieces = _Pieces(task)
    slices = Slices(task)
    cuts: list[float] = []
    stiff = False
    try:
        for part in slices:
            new = slice(0 if not cuts else 1, None)
            # Where output times are given, it is solved for these later: states would only fill the memory.
            u = part.steps.u[:, new] if task.saveat is None else np.zeros((task.u0.size, 0))
            pieces.add(part.steps.t[new], u)
            cuts.append(slices.end[0])
            if monitor is not None and slices.end[0] < task.t1 and monitor(part, slices):
                stiff = True
                break
    except KeyboardInterrupt:
        slices.retcode, slices.message = "Interrupted", "interrupted"
    whole = pieces.finish(slices.end, "Stiff" if stiff else slices.retcode, slices.message)
    whole.n_steps = slices.n_steps
    if whole.retcode != "Success":
        return _at_saveat(task, whole, cuts), None
    least = float(np.min(np.diff(whole.t), initial=task.t1 - task.t0))
    one = slices.n_steps <= 2 * steps_per_call(task) and not slices.mended
    explored = tuple(cuts)
    used = (task.t1,) if one else explored
    return whole, Plan(_inputs(task), task.t0, task.t1, used, slices.n_steps, not one, least, explored)


def _moving(out: Outcome) -> Outcome:
    """Without the steps before a failure that did not move the time any more."""
    stuck = np.flatnonzero(np.diff(out.t) == 0)
    if stuck.size == 0:
        return out
    n = int(stuck[0]) + 1
    return replace(out, t=out.t[:n], u=out.u[:, :n])


def _salvage(task: Task, t: float, u: Array, end: float, failure: Outcome) -> Outcome | None:
    """Compute again what a failed call had computed before it failed."""
    last = failure.failed_at if t < failure.failed_at < end else end
    for share in (1 - 1e-9, 1 - 1e-6, 0.999, 0.97, 0.7, 0.3, 0.03, 1e-3):
        until = t + share * (last - t)
        if until <= t:
            return None
        out = task.run(t, u, until)
        if out.t.size > 1:
            return out
    return None


def _replay(task: Task, cuts: tuple[float, ...], least: float) -> March:
    """Integrate in known slices."""
    pieces = _Pieces(task)
    n = task.prepared.lowered.n_states
    t, u = task.t0, task.u0
    saveat = task.saveat
    if saveat is None or (saveat.size and saveat[0] <= t):
        pieces.add(np.array([t]), u.reshape(n, 1))
    try:
        for cut in cuts:
            until: float | Array = cut
            if saveat is not None:
                inside = saveat[(saveat > t) & (saveat <= cut)]
                until = inside if inside.size and inside[-1] == cut else np.append(inside, cut)
            # Steps that do not move the time any more would be repeated for ever.
            out = task.run(t, u, until, min(1e-2 * least, 4e-16 * cut))
            pieces.seconds += out.seconds
            if out.retcode != "Success":
                return pieces.finish((t, u), out.retcode, out.message)
            if saveat is None:
                pieces.add(out.t[1:], out.u[:, 1:])
            elif saveat.size:
                wanted = slice(None) if cut <= saveat[-1] and cut in saveat else slice(0, -1)
                pieces.add(out.t[wanted], out.u[:, wanted])
            t, u = cut, np.ascontiguousarray(out.u[:, -1])
            _show(task, t)
    except KeyboardInterrupt:
        return pieces.finish((t, u), "Interrupted", "interrupted")
    return pieces.finish((t, u))


def _at_saveat(task: Task, whole: March, cuts: list[float]) -> March:
    """The output times that a march which did not reach the end has passed."""
    if task.saveat is None or whole.retcode == "Stiff":
        return whole
    reached = task.saveat[task.saveat <= whole.end[0]]
    last = float(reached[-1]) if reached.size else task.t0
    # No further than the last of them: what comes after is close to what stopped the march.
    part = replace(task, t1=last, saveat=reached)
    again = _replay(part, tuple(sorted({*(cut for cut in cuts if cut < last), last} - {task.t0})), 0.0)
    return March(again.t, again.u, whole.end, whole.n_steps, whole.retcode, whole.message, whole.seconds)


def _show(task: Task, t: float) -> None:
    if task.progress:
        share = (t - task.t0) / (task.t1 - task.t0)
        sys.stderr.write(f"\rsolving: {100 * share:5.1f} %, t = {task.model_time(t):.6g}   ")
        if t >= task.t1:
            sys.stderr.write("\n")
        sys.stderr.flush()
