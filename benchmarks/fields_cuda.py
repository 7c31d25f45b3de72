"""Fields on a GPU: `python -m benchmarks.fields_cuda`.

The Gray-Scott equations on growing squares, 200 steps of SSPRK33 (600 evaluations of the right-hand side), on the
processor and on a GPU, by Julia and by JAX, there in both precisions. What is not there is left out, by name. Each time
is the least of some solves in one process, after a short one that compiles; ratios are of times, within one grid. The
last column is how far the end of a solve is from that of the first, relative to the largest value.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import pysciml as ps
from benchmarks.machine import machine
from benchmarks.pde import gray_scott_problem

STEPS = 200

#: What is compared, as options of `solve`: the first is what the others are compared with.
PLACES: dict[str, dict[str, str]] = {
    "Julia, CPU": {"engine": "julia"},
    "JAX, CPU": {"engine": "jax"},
    "Julia, GPU": {"engine": "julia", "device": "cuda"},
    "JAX, GPU": {"engine": "jax", "device": "cuda"},
    "Julia, GPU, float32": {"engine": "julia", "device": "cuda", "precision": "float32"},
    "JAX, GPU, float32": {"engine": "jax", "device": "cuda", "precision": "float32"},
}


def measured(problem: Any, place: dict[str, str], rounds: int) -> tuple[float, float, Any]:
    """Seconds for the first, short solve and for 200 steps; the end."""
    options = {"dt": 1.0, "rtol": 1e-5} | place
    begin = time.perf_counter()
    ps.solve(problem.remake(tspan=(0, 2)), "SSPRK33", saveat=[2.0], **options)
    first = time.perf_counter() - begin
    best, sol = float("inf"), None
    for _ in range(rounds):
        sol = ps.solve(problem, "SSPRK33", saveat=[float(STEPS)], **options)
        best = min(best, float(sol.attrs["solve_seconds"]))
    return first, best, sol


def compare(n: int, rounds: int, missing: dict[str, str]) -> None:
    """A row of the table for each place."""
    problem = gray_scott_problem(n, STEPS)
    reference: tuple[float, Any] | None = None
    for name, place in PLACES.items():
        if name in missing:
            continue
        try:
            first, best, sol = measured(problem, place, 1 if "CPU" in name and n > 1000 else rounds)
        except (ps.EngineUnavailableError, ps.UnsupportedError) as error:
            missing[name] = str(error)
            continue
        if reference is None:
            reference = best, sol
        gap = float(np.abs(sol.u - reference[1].u).max() / np.abs(reference[1].u).max())
        cells = n * n * STEPS * 3 / best / 1e9
        times = f"{first:9.2f} {best:10.4f} {cells:13.3f} {reference[0] / best:14.2f}"
        print(f"{n:5}  {name:20} {times} {gap:12.1e}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[256, 1024, 2048], help="cells along a side")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    print("cells  place                first [s]  200 steps  10^9 cells/s  times as fast   difference")
    missing: dict[str, str] = {}
    for n in options.sizes:
        compare(n, options.rounds, missing)
    for name, reason in missing.items():
        print(f"{name} is left out: {reason}")


if __name__ == "__main__":
    main()
