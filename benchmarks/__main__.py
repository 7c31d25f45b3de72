"""Run everything and write ``benchmarks/results/``. `--quick` looks with fewer tolerances and writes nothing."""

from __future__ import annotations

import argparse
import csv
import json
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import cold, must_hold, picture, solvers
from benchmarks.machine import machine
from benchmarks.peers import versions
from benchmarks.problems import PROBLEMS

RESULTS = Path(__file__).with_name("results")

README = """# Results

Written by `make bench` on {date}: {machine}, Python {python}. All times of a table are from one run, its repetitions
interleaved in shuffled order; compare the ratios within it and not the times with another machine's.

{versions}

![Work-precision: time over achieved error, a panel a problem](work_precision.png)

## Warm, at equal achieved error

pysciml's time is that of the whole public call of the embedded engine, from the `Problem` to the labelled Dataset,
`alg=None`. A peer's entry is the time of its fastest method at the same achieved error over that time: 5× means that
the embedded engine is five times faster; pysciml's Julia engine stands among them. The error is the largest over all
components and output times of |error| / (atol/rtol + |reference|). A dash: no method of that library reaches that
error in the time given (`refusals.json` tells why a method is missing). SciPy and SciPy + numba differ in the
right-hand side: Python as a user writes it, or compiled by numba. SciPy's methods, `odeint` among them, take exact
Jacobians where that helps. Times are medians over rounds (of the fastest of three calls, for those under 30 ms).

{table}

## Cold: a fresh process to the first solution

Imports, model and compilation included, at rtol 1e-8; the ratio is to pysciml's time.

{cold}

## Promises

{promises}

Every measured point is in `points.csv`.

## Elsewhere

What regularization does to the cost of learned equations: [regularization](regularization.md).
"""


def main(arguments: list[str]) -> int:
    """Measure, print, and (unless quick) write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("problems", nargs="*", help="names of problems; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer tolerances and repetitions; nothing is written")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.problems) - {problem.name for problem in PROBLEMS}
    if unknown:
        parser.error(f"no such problem: {', '.join(sorted(unknown))}")
    for library, version in versions().items():
        print(f"{library:14} {version}")
    points: list[solvers.Point] = []
    refusals: list[solvers.Refusal] = []
    for problem in PROBLEMS:
        if chosen.problems and problem.name not in chosen.problems:
            continue
        start = time.perf_counter()
        found, refused = solvers.measure(problem, chosen.quick)
        points += found
        refusals += refused
        print(f"{problem.title}: {len(found)} points in {time.perf_counter() - start:.0f} s", flush=True)
    comparison = solvers.table(solvers.compare(points))
    print(f"\n{comparison}\n")
    if chosen.quick or chosen.problems:
        with tempfile.TemporaryDirectory() as folder:
            picture.draw(points, Path(folder) / "work_precision.png")
        return 0
    starts = cold.measure()
    print(f"{cold.table(starts)}\n", flush=True)
    verdicts = must_hold.judge(points)
    print(must_hold.table(verdicts))
    write(points, refusals, starts, verdicts, comparison)
    return 0


def write(
    points: list[solvers.Point],
    refusals: list[solvers.Refusal],
    starts: list[dict[str, object]],
    verdicts: list[must_hold.Verdict],
    comparison: str,
) -> None:
    """Write the tables, the points and the picture."""
    RESULTS.mkdir(exist_ok=True)
    rows = solvers.records(points)
    with (RESULTS / "points.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
            writer.writerow(shown)
    reasons = [f"{r.problem}: {r.library} {r.method}: {r.reason}" for r in refusals]
    (RESULTS / "refusals.json").write_text(json.dumps(reasons, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    picture.draw(points, RESULTS / "work_precision.png")
    text = README.format(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        machine=machine(),
        python=platform.python_version(),
        versions="; ".join(f"{library}: {version}" for library, version in versions().items()) + ".",
        table=comparison,
        cold=cold.table(starts),
        promises=must_hold.table(verdicts),
    )
    (RESULTS / "README.md").write_text(text, encoding="utf-8")
    print(f"written: {RESULTS.name}/README.md, points.csv, refusals.json, work_precision.png")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
