"""What pysciml's front costs: the whole public call less the engine's own solve, and the import.

`python -m benchmarks.front [--profile]`
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.peers import pysciml_problem
from benchmarks.problems import by_name

#: Problem, relative and absolute tolerance: the two of the promise in CONTRIBUTING's benchmarks.
CASES = (("lorenz", 1e-8, 1e-8), ("robertson", 1e-8, 1e-10))


def share(name: str, rtol: float, atol: float, repeats: int = 300) -> tuple[float, float]:
    """Median seconds of the front's share and of the engine's solve.

    The engine's is what the library behind it takes, ``solve_seconds``; all else counts as the front's, labels too.
    """
    import pysciml as ps

    built, times = pysciml_problem(name), np.array([by_name(name).tspan[0], *by_name(name).times])
    rest, engine = [], []
    for turn in range(repeats + 20):
        start = time.perf_counter()
        solution = ps.solve(built, rtol=rtol, atol=atol, saveat=times)
        seconds = time.perf_counter() - start
        if turn >= 20:
            rest.append(seconds - solution.attrs["solve_seconds"])
            engine.append(solution.attrs["solve_seconds"])
    return statistics.median(rest), statistics.median(engine)


def import_seconds(repeats: int = 9) -> tuple[float, float]:
    """Median seconds of importing numpy, sympy and xarray, and of what pysciml adds to that."""
    base, added = [], []
    code = (
        "import time; a = time.perf_counter(); import numpy, sympy, xarray; b = time.perf_counter(); "
        "import pysciml; c = time.perf_counter(); print(b - a, c - b)"
    )
    for turn in range(repeats + 1):
        outcome = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
        )
        first, second = map(float, outcome.stdout.split())
        if turn:
            base.append(first)
            added.append(second)
    return statistics.median(base), statistics.median(added)


def profile(name: str, rtol: float, atol: float) -> None:
    """Print where the front's time goes."""
    import cProfile
    import pstats

    import pysciml as ps

    built, times = pysciml_problem(name), np.array(by_name(name).times)
    ps.solve(built, rtol=rtol, atol=atol, saveat=times)
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(300):
        ps.solve(built, rtol=rtol, atol=atol, saveat=times)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    if "--profile" in sys.argv:
        profile(*CASES[0])
    for case in CASES:
        front, engine = share(*case)
        print(f"{case[0]:10} front {1e3 * front:.3f} ms, engine {1e3 * engine:.3f} ms")
    foundations, own = import_seconds()
    print(f"import: numpy + sympy + xarray {foundations:.3f} s, pysciml adds {own:.3f} s")
