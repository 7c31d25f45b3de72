"""Ensembles on static vectors against those in place, on Julia's threads: `python -m benchmarks.julia_static`.

What `STATIC_STATES` in `julia/src/static.jl` and `_STATIC_EVALUATIONS` in `pysciml/engines/julia/many.py` rest on: for
models of more and more states, the ratio of the seconds of warm ensembles, how much of a thread's time an evaluation of
the right-hand side saves, and for how long (of a processor's time) the first static one compiles.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import sympy as sp

import pysciml as ps
from pysciml.engines.julia import many

D = ps.D
#: Trajectories, of a few hundred steps each.
COUNT = 2000
ROUNDS = 5
THREADS = 2
CASES = [*(("Tsit5", n) for n in (2, 3, 4, 5, 6, 7, 8, 10)), *(("Vern9", n) for n in (3, 6, 8))]


def ring(n: int) -> ps.Problem:
    """A ring of bistable states, coupled to their neighbours and driven."""
    states = ps.variables(f"u:{n}")
    k = ps.parameters("k")
    rates = [
        ps.Eq(D(u), k * states[(i + 1) % n] - states[i - 1] + u - u**3 + sp.cos((i + 1) * ps.t))
        for i, u in enumerate(states)
    ]
    return ps.Problem(ps.System(rates, name="ring"), {u: 1 + 0.1 * i for i, u in enumerate(states)}, (0, 20), {k: 1.0})


def timed(problem: ps.Problem, alg: str, evaluations: float) -> tuple[float, float]:
    """Seconds of an ensemble, and of processors' time, on static vectors from so many evaluations on."""
    before, many._STATIC_EVALUATIONS = many._STATIC_EVALUATIONS, evaluations
    try:
        begin, used = time.perf_counter(), time.process_time()
        sweep = ps.solve_ensemble(
            problem,
            alg,
            over={"k": np.linspace(0.9, 1.1, COUNT)},
            engine="julia",
            rtol=1e-8,
            atol=1e-8,
            saveat=[20.0],
            workers=THREADS,
        )
        seconds = time.perf_counter() - begin, time.process_time() - used
    finally:
        many._STATIC_EVALUATIONS = before
    assert sweep.attrs["n_failed"] == 0
    return seconds


def main() -> None:
    """Measure and print the table."""
    print("algorithm  states  evaluations  in place s  static s  ratio  ns saved  first compiles s")
    for alg, n in CASES:
        problem = ring(n)
        evaluations = ps.solve(problem, alg, engine="julia", rtol=1e-8, atol=1e-8, saveat=[20.0]).attrs["n_rhs"]
        timed(problem, alg, np.inf)
        compiling = timed(problem, alg, 1.0)[1] - timed(problem, alg, 1.0)[1]
        rounds = np.array([(timed(problem, alg, np.inf)[0], timed(problem, alg, 1.0)[0]) for _ in range(ROUNDS)])
        in_place, static = rounds.min(axis=0)
        saved = 1e9 * THREADS * (in_place - static) / (evaluations * COUNT)
        ratio = median((rounds[:, 1] / rounds[:, 0]).tolist())
        print(
            f"{alg:9} {n:7} {evaluations:12} {in_place:11.2f} {static:9.2f} {ratio:6.2f} {saved:9.1f} {compiling:17.1f}"
        )


if __name__ == "__main__":
    main()
