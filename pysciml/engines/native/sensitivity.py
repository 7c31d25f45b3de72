"""Derivatives of solutions by parameters and initial values."""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np

from pysciml.engines.base import Array, RawSolution, Sensitivities, SolveOptions
from pysciml.engines.native.compile import prepare
from pysciml.engines.native.library import METHODS
from pysciml.engines.native.stepping import Slices, Task
from pysciml.graph import Model

#: Slices of the states' own solve are this much shorter, as the sensitivities come along.
_STEPS = 20_000


class _Solve(Protocol):
    def __call__(
        self,
        model: Model,
        u0: Array,
        p: Array,
        tspan: tuple[float, float],
        algorithm: str | None,
        options: SolveOptions,
    ) -> RawSolution: ...


def forward(
    solve: _Solve,
    model: Model,
    u0: Array,
    p: Array,
    tspan: tuple[float, float],
    algorithm: str | None,
    options: SolveOptions,
) -> Sensitivities:
    """Solve the sensitivity equations along with the states, at ``options.saveat``.

    The states are solved first, alone: that chooses the method, finds failures, and shows how many
    steps there are to be. Then the sensitivities are solved in slices, and joined by the chain
    rule: with ``u1`` the state where a slice starts, ``du/dp = du/dp|u1 + du/du1 du1/dp``.
    """
    begin = time.perf_counter()
    times = np.array([tspan[1]]) if options.saveat is None else options.saveat
    options = SolveOptions(options.rtol, options.atol, times, options.dt, options.max_steps, options.seed)
    solution = solve(model, u0, p, tspan, algorithm, options)
    n, m = u0.size, p.size
    empty = Sensitivities(solution, np.zeros((n, 0, m)), np.zeros((n, 0, n)))
    if not solution.successful:
        return empty
    prepared = prepare(model, backward=tspan[1] < tspan[0])
    sign = prepared.sign
    method = solution.algorithm.split("+")[-1]
    assert method in METHODS
    task = Task(
        prepared,
        method,
        0.0,
        abs(tspan[1] - tspan[0]),
        u0,
        p,
        tspan[0],
        options.rtol,
        options.atol,
        None,
        options.max_steps,
    )
    inner = sign * (times - tspan[0])
    by_p, by_u0 = np.zeros((n, times.size, m)), np.zeros((n, times.size, n))
    states = np.zeros((n, times.size))
    start_p, start_u0 = np.zeros((n, m)), np.eye(n)
    now, state = task.t0, u0
    at_start = inner <= now
    by_u0[:, at_start] = np.eye(n)[:, None, :]
    states[:, at_start] = u0[:, None]
    limit = max(20, _STEPS // (1 + n + m))
    for part in Slices(task, None, limit):
        end = float(part.steps.t[-1]) if part.steps.t[-1] < task.t1 else task.t1
        here = (inner > now) & (inner <= end)
        until = inner[here]
        asked = until if until.size and until[-1] == end else np.append(until, end)
        outcome, raw = prepared.compiled.forward_sensitivities(
            method, now, state, np.append(p, tspan[0]), asked, options.rtol, options.atol, task.smallest_step
        )
        if outcome.retcode != "Success":
            solution.retcode, solution.message = outcome.retcode, outcome.message
            return empty
        local_p, local_u = raw[:m].transpose(1, 2, 0), raw[m + 1 :].transpose(1, 2, 0)
        joined_p = local_p + local_u @ start_p
        joined_u0 = local_u @ start_u0
        by_p[:, here], by_u0[:, here] = joined_p[:, : until.size], joined_u0[:, : until.size]
        states[:, here] = outcome.u[:, : until.size]
        start_p, start_u0 = joined_p[:, -1], joined_u0[:, -1]
        now, state = end, np.ascontiguousarray(outcome.u[:, -1])
    solution.u = states
    solution.solve_seconds = time.perf_counter() - begin
    return Sensitivities(solution, by_p, by_u0)
