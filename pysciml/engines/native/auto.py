"""What happens when no algorithm is named.

*Which method.* Algebraic equations need an implicit method. Everything else starts with Tsit5 and
is watched: after every slice of its exploration the step size is compared with the Jacobian's
fastest decaying mode. Where steps are held down by stability (``|h lambda| > 2``, near the edge of
the method's region at 3.3, with ``lambda`` decaying rather than oscillating) and going on would
cost more than some hundred implicit steps, the problem is stiff and QNDF takes over: from the
start if that was early, else from there (the algorithm is then ``"Tsit5+QNDF"``).

*Which tolerance.* Solvers control the error of a step; a user means the error of the solution, and
these two are far apart in both directions: diffsol's NDF method delivers errors up to 300 times the
tolerance on the usual stiff test problems, and an orbit amplifies any method's errors a
thousandfold. So the solve is repeated with a tenth of the tolerance and the difference taken as the
error; where it is more than 6 times what was asked for, the tolerance is tightened until it is not
(global error by tolerance reduction: L. F. Shampine, *Error estimation and control for ODEs*, J.
Sci. Comput. 25 (2005), section 5). Problems that would need more than a thousandth of the
tolerance are chaotic or ill-conditioned, where this is futile; they keep the tolerance as it is, and
so do problems too large to be solved in one call. What was found is remembered for near inputs.

With a named algorithm none of this happens: the tolerance is that of the method's local error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.eigenvalue import decay, largest_eigenvalue
from pysciml.engines.native.stepping import (
    March,
    Plan,
    Slice,
    Slices,
    Task,
    count_steps,
    march,
    step_cost,
    steps_per_call,
)

IMPLICIT: Final = "QNDF"
EXPLICIT: Final = "Tsit5"

#: Share of the tolerance that a method gets to begin with (benchmarks/native_rules.py).
SHARE: Final = {EXPLICIT: 1.0, IMPLICIT: 0.1}
#: Estimated errors up to this many tolerances are left alone.
_ENOUGH: Final = 6.0
#: Amplification beyond which tightening is futile.
_FUTILE: Final = 4e3
#: |h lambda| from which on stability is what limits the step.
_STABILITY: Final = 2.0
#: Implicit steps that a stiff problem takes at rtol = 1e-4, for comparing costs; they grow with
#: the fifth root of the accuracy.
_IMPLICIT_STEPS: Final = 400
#: How far inputs may be from those a decision was made for.
_NEAR: Final = 0.1
#: A switch within this many steps starts again from the beginning.
_EARLY: Final = 20_000
#: Largest system all of whose eigenvalues are computed; beyond, Arnoldi's method looks for the largest.
_EIGENVALUES: Final = 300


@dataclass
class Decision:
    """How a problem is solved.

    Attributes
    ----------
    share : float
        Of the tolerance, that the method is given.
    switch : float or None
        When QNDF takes over from Tsit5.
    solved : March or None
        What finding the share has solved already, where that is what was asked for.
    """

    plan: Plan
    method: str
    share: float
    switch: float | None = None
    solved: March | None = None

    @property
    def name(self) -> str:
        """The algorithm, as it is reported."""
        return self.method if self.switch is None else f"{EXPLICIT}+{IMPLICIT}"


def solve(task: Task, *, calibrate: bool = True) -> tuple[March, Decision]:
    """Solve a task whose method is to be chosen; its ``method`` is ignored."""
    times = None if task.saveat is None else hash(task.saveat.tobytes())
    key = "decision", task.rtol, task.atol, times
    decision: Decision | None = task.prepared.history.get(key)
    if decision is None or not decision.plan.fits(task, _NEAR):
        try:
            found = _decide(task, calibrate=calibrate)
        except KeyboardInterrupt:
            # Nothing of what was asked for is computed yet; above all, nothing is begun again.
            none = np.empty(0), np.empty((len(task.u0), 0))
            stopped = March(*none, (task.t0, task.u0), -1, "Interrupted", "interrupted", 0.0)
            return stopped, Decision(_nothing(task), task.method, 1.0)
        if isinstance(found, tuple):
            return found
        decision = task.prepared.history[key] = found
    if decision.solved is not None:
        solved, decision.solved = decision.solved, None
        solved.n_steps = count_steps(_with(task, decision.method, decision.share))
        return solved, decision
    return _carry_out(task, decision), decision


def _nothing(task: Task) -> Plan:
    """The plan where none is known."""
    return Plan(np.concatenate([task.p, task.u0]), task.t0, task.t1, (task.t1,), 0)


def _uninterrupted(found: March) -> March:
    """Pass an interrupt of an exploration on: it is the whole solve that it is meant for."""
    if found.retcode == "Interrupted":
        raise KeyboardInterrupt
    return found


def _with(task: Task, method: str, share: float) -> Task:
    return replace(task, method=method, rtol=max(share * task.rtol, 2e-14), atol=share * task.atol)


def _carry_out(task: Task, decision: Decision) -> March:
    if decision.switch is None:
        return march(_with(task, decision.method, decision.share))
    times = task.saveat
    first = replace(
        _with(task, EXPLICIT, SHARE[EXPLICIT]),
        t1=decision.switch,
        saveat=None if times is None else times[times <= decision.switch],
    )
    before = march(first)
    if before.retcode != "Success":
        return before
    t, u = before.end
    second = replace(
        _with(task, IMPLICIT, SHARE[IMPLICIT]),
        t0=t,
        u0=u,
        saveat=None if times is None else times[times > decision.switch],
        max_steps=task.max_steps - max(before.n_steps, 0),
    )
    after = march(second)
    skip = 1 if times is None else 0
    counted = before.n_steps >= 0 and after.n_steps >= 0
    return March(
        np.concatenate([before.t, after.t[skip:]]),
        np.concatenate([before.u, after.u[:, skip:]], axis=1),
        after.end,
        before.n_steps + after.n_steps if counted else -1,
        after.retcode,
        after.message,
        before.seconds + after.seconds,
    )


def _decide(task: Task, *, calibrate: bool) -> Decision | tuple[March, Decision]:
    """Explore; a solve that fails on the way is the result."""
    look = replace(task, only_explore=True)
    watch = Watch(task)
    method, switch = IMPLICIT, None
    nothing = Plan(np.concatenate([task.p, task.u0, [task.origin]]), task.t0, task.t1, (task.t1,), 0)
    if task.prepared.model.differential.all():
        found = march(_with(look, EXPLICIT, SHARE[EXPLICIT]), watch)
        if found.retcode == "Success":
            method = EXPLICIT
        elif found.retcode == "Stiff":
            if watch.steps > _EARLY:
                switch = found.end[0]
        elif found.retcode in ("Interrupted", "MaxIters") or not watch.would_rescue(found):
            return found, Decision(nothing, EXPLICIT, SHARE[EXPLICIT])
    decision = Decision(nothing, method, SHARE[method], switch)
    if method == IMPLICIT and switch is None:
        found = march(_with(look, IMPLICIT, SHARE[IMPLICIT]))
        if found.retcode != "Success":
            return found, decision
    if switch is None:
        plan: Plan | None = task.prepared.history.get((method, *_tolerances(_with(task, method, SHARE[method]))))
        if plan is not None:
            decision.plan = plan
            if calibrate:
                decision.share, decision.solved = _calibrated(task, method, plan.steps)
    return decision


def _tolerances(task: Task) -> tuple[float, float]:
    return task.rtol, task.atol


def _grid(task: Task) -> Array:
    """Where solutions are compared: where output is wanted, else at times dense at the start."""
    if task.saveat is not None:
        inside = task.saveat[task.saveat > task.t0]
        return inside if inside.size and inside[-1] == task.t1 else np.append(inside, task.t1)
    span = task.t1 - task.t0
    shares = np.concatenate([np.arange(1, 33) / 32, 10.0 ** np.arange(-7, 0, 0.5)])
    return np.unique(np.append((task.t0 + span * shares).clip(task.t0, task.t1), task.t1))


def _calibrated(task: Task, method: str, steps: int) -> tuple[float, March | None]:
    """The share of the tolerance with which the solution has the accuracy asked for.

    Also the solution with that share, where it was computed at the times asked for.
    """
    times = _grid(task)
    share = SHARE[method]
    budget = 4 * steps_per_call(replace(task, method=method))

    def solved(part: float) -> March | None:
        found = _uninterrupted(march(replace(_with(task, method, part), saveat=times, count=False)))
        return found if found.retcode == "Success" else None

    coarse = solved(share) if steps <= budget else None
    first, last = coarse, float("inf")
    while coarse is not None and steps <= budget:
        fine = solved(share / 10)
        steps *= 2
        if fine is None:
            break
        error = float(np.max(np.abs(coarse.u - fine.u) / (task.atol + task.rtol * np.abs(fine.u))))
        if error <= _ENOUGH:
            if np.isfinite(last):
                # Between the last share and this one the error falls geometrically.
                backward = np.log(_ENOUGH / error) / max(np.log(last / max(error, 1e-3)), 1e-3)
                return share * 10 ** min(max(0.7 * backward, 0.0), 0.9), None
            break
        if error > _FUTILE or share * task.rtol < 1e-12 or share < 1e-3 * SHARE[method]:
            return SHARE[method], _as_asked(task, first)
        last, share, coarse = error, share / 10, fine
    return share, _as_asked(task, coarse)


def _as_asked(task: Task, found: March | None) -> March | None:
    """A solution on the grid of `_grid`, at the times asked for; None where these are not the same."""
    if found is None or task.saveat is None:
        return None
    if task.saveat.size and task.saveat[0] == task.t0:
        t, u = np.append(task.t0, found.t), np.column_stack([task.u0, found.u])
        found = replace(found, t=t, u=u)
    return found if np.array_equal(found.t, task.saveat) else None


class Watch:
    """Decides after every slice of an explicit exploration whether the problem is stiff."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.steps = 0
        prepared = task.prepared
        self._explicit = step_cost(prepared, EXPLICIT)
        self._implicit = step_cost(prepared, IMPLICIT)
        self._steps = _IMPLICIT_STEPS * max(1e-4 / max(task.rtol, 1e-12), 0.1) ** 0.2

    def __call__(self, part: Slice, slices: Slices) -> bool:
        """Whether to give up on the explicit method after this slice."""
        self.steps = slices.n_steps
        out, (_, u) = part.steps, slices.end
        if out.t.size < 4:
            return False
        recent = np.diff(out.t[-21:])[:-1]  # the last step is cut to fit
        h, t = float(np.median(recent)), float(out.t[-1])
        if h == 0.0:  # near a singularity, closer than numbers of this size can tell apart
            return False
        to_go = (self._task.t1 - t) / h
        if to_go * self._explicit < self._steps * self._implicit:
            return False
        return h * self._decay(t, u) > _STABILITY

    def _decay(self, t: float, u: Array) -> float:
        """The rate of the fastest mode, 0 if it oscillates more than it decays."""
        prepared = self._task.prepared
        n = u.size
        values, rows, cols = prepared.jacobian(u, self._task.p, float(self._task.model_time(t)))
        values = values * prepared.sign
        if not np.isfinite(values).all():
            return 0.0
        if n > _EIGENVALUES:
            return _decay_of_large(values, rows, cols, n)
        matrix = np.zeros((n, n))
        np.add.at(matrix, (rows, cols), values)
        eigenvalues = np.linalg.eigvals(matrix)
        return decay(eigenvalues[np.argmax(np.abs(eigenvalues))])

    def would_rescue(self, found: March) -> bool:
        """Whether a failed explicit solve is worth another try with the implicit method."""
        t, u = found.end
        return self._decay(t, u) * (self._task.t1 - t) > 1e3


def _decay_of_large(values: Array, rows: Any, cols: Any, n: int) -> float:
    from scipy.sparse import coo_array, csr_array

    matrix: Any = csr_array(coo_array((values, (rows, cols)), shape=(n, n)))
    found = largest_eigenvalue(lambda v: matrix @ v, n)
    if found is not None:
        return decay(found)
    # Gershgorin: exact enough where diffusion, with its negative diagonal, dominates.
    sums = np.asarray(abs(matrix).sum(axis=1)).ravel()
    worst = int(np.argmax(sums))
    return float(sums[worst]) if matrix.diagonal()[worst] < 0 else 0.0
