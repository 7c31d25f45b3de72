"""Cold starts: from a fresh process to the first solution, imports and compilation included.

`python -m benchmarks.cold LIBRARY PROBLEM` is one such process; `measure` times it from outside, until the process
says that it has the solution: how long an interpreter then takes to free its memory is no part of it. Byte code is
kept as it is for installed packages, whatever the environment says.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.problems import TestProblem, by_name

#: Library -> the method it is best at, on a non-stiff and on a stiff problem.
METHODS = {
    "pysciml": ("auto", "auto"),
    "SciPy": ("odeint", "odeint"),
    "numbalsoda": ("dop853", "lsoda"),
    "CasADi": ("CVODES Adams", "CVODES BDF"),
    "diffrax": ("Tsit5", "Kvaerno5"),
}
RTOL = 1e-8


def once(library: str, problem: TestProblem) -> float:
    """Solve once; returns the last value, so that nothing is left undone."""
    from benchmarks.peers import SOLVERS

    method = METHODS[library][problem.stiff]
    solver = next(s for s in SOLVERS if (s.library, s.method) == (library, method))
    run = solver.prepare(problem, RTOL, RTOL * problem.atol_factor)
    return float(run.values(run.call())[-1, -1])


def time_to_first_line(command: list[str]) -> tuple[float, str]:
    """Seconds until the process prints, and its last word if it failed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env=environment,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - start
        _, errors = process.communicate()
    return seconds, (errors.strip().splitlines() or ["?"])[-1] if process.returncode else ""


def measure(
    problems: tuple[str, ...] = ("lorenz", "robertson"), repeats: int = 5, libraries: tuple[str, ...] = tuple(METHODS)
) -> list[dict[str, object]]:
    """Median seconds of a fresh process, interleaved over the libraries."""
    taken: dict[tuple[str, str], list[float]] = {}
    failed: dict[tuple[str, str], str] = {}
    for turn in range(repeats + 1):
        for problem in problems:
            for library in libraries:
                key = (problem, library)
                if key in failed:
                    continue
                seconds, failure = time_to_first_line([sys.executable, "-m", "benchmarks.cold", library, problem])
                if failure:
                    failed[key] = failure
                elif turn:  # the first turn warms the file cache for all alike
                    taken.setdefault(key, []).append(seconds)
    return [
        {
            "problem": problem,
            "library": library,
            "method": METHODS[library][by_name(problem).stiff],
            "seconds": statistics.median(taken[problem, library]) if (problem, library) in taken else None,
            "failed": failed.get((problem, library), ""),
        }
        for problem in problems
        for library in libraries
    ]


def table(rows: list[dict[str, object]]) -> str:
    """As Markdown; the ratio is to pysciml."""
    lines = ["| problem | library | fresh process to first solution | over pysciml's |", "|---|---|---|---|"]
    ours = {row["problem"]: row["seconds"] for row in rows if row["library"] == "pysciml"}
    for row in rows:
        seconds, mine = row["seconds"], ours[row["problem"]]
        start = f"| {by_name(str(row['problem'])).title} | {row['library']} {row['method']} | "
        if isinstance(seconds, float):
            ratio = f"{seconds / mine:.2g}×" if isinstance(mine, float) else "–"
            lines.append(f"{start}{seconds:.2f} s | {ratio} |")
        else:
            lines.append(f"{start}failed: {row['failed']} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(once(sys.argv[1], by_name(sys.argv[2])), flush=True)
