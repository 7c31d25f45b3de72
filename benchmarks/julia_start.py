"""Fresh processes to a first solution on Julia, with a system image and without: `python -m benchmarks.julia_start`.

After `pysciml julia setup --sysimage`. `python -m benchmarks.julia_start CASE [without]` is one such process, timed
from outside until it says that it has the solution; the two take turns. `start` solves nothing.
"""

from __future__ import annotations

import statistics
import sys

import pysciml as ps
from benchmarks.cold import time_to_first_line
from benchmarks.julia import lorenz, robertson
from pysciml.engines.julia import bridge, environment, sysimage

D = ps.D
ROUNDS = 5


def walk() -> ps.Problem:
    """Geometric Brownian motion."""
    x = ps.variables("x")
    noise = ps.brownian("B")
    return ps.Problem(ps.System([ps.Eq(D(x), 0.1 * x + 0.2 * x * noise)]), {x: 1.0}, (0, 1))


def delayed() -> ps.Problem:
    """Hutchinson's equation."""
    x = ps.variables("x")
    return ps.Problem(ps.System([ps.Eq(D(x), x * (1 - x.subs(ps.t, ps.t - 1)))]), {x: 0.5}, (0, 10))


CASES = {
    "start": None,
    "ODE, Tsit5": (lorenz, "Tsit5"),
    "ODE, the automatic choice": (lorenz, None),
    "stiff ODE, FBDF": (robertson, "FBDF"),
    "SDE, SOSRI": (walk, "SOSRI"),
    "DDE, Tsit5": (delayed, "Tsit5"),
}


def once(case: str) -> float:
    """Solve once, or only start; returns the last value, so that nothing is left undone."""
    chosen = CASES[case]
    if chosen is None:
        bridge.julia()
        return 0.0
    make, algorithm = chosen
    sol = ps.solve(make(), algorithm, engine="julia", seed=1 if make is walk else None)
    return float(next(iter(sol.data_vars.values()))[-1])


def main() -> None:
    """Measure and print the table."""
    found = environment.find()
    image = found if isinstance(found, str) else sysimage.look(found)
    if isinstance(image, str):
        sys.exit(image or f"there is no system image: run `{sysimage.COMMAND}`")
    print(f"image: {image.bytes / 2**20:.0f} MiB; seconds of fresh processes, medians of {ROUNDS} in turns")
    print(f"{'':26} without    with   ratio")
    for case in CASES:
        taken: dict[str, list[float]] = {"without": [], "with": []}
        for turn in range(ROUNDS + 1):
            for way, seconds in taken.items():
                used, failure = time_to_first_line([sys.executable, "-m", "benchmarks.julia_start", case, way])
                if failure:
                    sys.exit(f"{case}, {way}: {failure}")
                if turn:  # the first turn warms the file cache for both
                    seconds.append(used)
        without, fast = (statistics.median(seconds) for seconds in taken.values())
        print(f"{case:26} {without:7.1f} {fast:7.1f} {without / fast:6.1f}x", flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        if sys.argv[2:] == ["without"]:
            sysimage.settings = lambda found: {}
        print(once(sys.argv[1]), flush=True)
    else:
        main()
