"""Work against precision: every solver on every problem over a range of tolerances, timed warm and interleaved, in
one process.

The error of a run is what `TestProblem.error` says of its values at the output times. The time of a solver at
equal error is read off its front: the cheapest of its methods and tolerances that is at least as accurate,
interpolated (logarithms) between the two points of the front on either side, so that no solver gains or loses
by the spacing of the tolerances tried.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.peers import LIBRARIES, ON_JULIA, SOLVERS, Run, Unfit
from benchmarks.problems import PROBLEMS, TestProblem
from benchmarks.reference import reference

#: The relative tolerances of pysciml at which the table compares.
TABLE_TOLERANCES = (1e-4, 1e-6, 1e-8)
#: Seconds that one call may take for the solver to be tried at tighter tolerances still.
PATIENCE = 1.5


@dataclass(frozen=True)
class Point:
    """One solver on one problem at one tolerance."""

    problem: str
    library: str
    method: str
    ran: str
    rtol: float
    atol: float
    error: float
    seconds: float
    repeats: int


@dataclass(frozen=True)
class Refusal:
    """Why a solver has no points on a problem, or stops at some tolerance."""

    problem: str
    library: str
    method: str
    reason: str


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the compiled peers' own remarks off the terminal: some write to the file descriptors directly."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in (*saved, sink):
            os.close(descriptor)


def tolerances(quick: bool, large: bool = False) -> list[float]:
    """From loose to tight; fewer for the large problem, where every call takes seconds."""
    exponents = np.arange(3, 10, 2) if quick else np.arange(3, 8, 2) if large else np.arange(3, 11.5)
    return [float(f"{10.0**-e:.3g}") for e in exponents]


def best_of(call: Callable[[], object], count: int) -> float:
    """Seconds of the fastest of a few calls in a row: what the machine does besides only ever adds."""
    taken = []
    with quiet():
        for _ in range(count):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return min(taken)


def measure(
    problem: TestProblem, quick: bool = False, only: set[tuple[str, str]] | None = None, seed: int = 0
) -> tuple[list[Point], list[Refusal]]:
    """Prepare and check every solver, then time them in rounds of shuffled order."""
    expected = reference(problem.name)
    large = problem.n > 500
    prepared: list[tuple[str, str, str, float, float, Run, float]] = []
    refusals: list[Refusal] = []
    for solver in SOLVERS:
        if only is not None and (solver.library, solver.method) not in only:
            continue
        wanted = tolerances(quick, large)
        if solver.library == "pysciml" and solver.method == "auto":
            wanted = sorted({*wanted, *TABLE_TOLERANCES}, reverse=True)
        for rtol in wanted:
            atol = rtol * problem.atol_factor
            try:
                with quiet():
                    run = solver.prepare(problem, rtol, atol)
                    outcome = run.call()
                    start = time.perf_counter()
                    outcome = run.call()  # again, now that it is warm
                    seconds = time.perf_counter() - start
                    error = problem.error(run.values(outcome), expected)
            except Unfit as unfit:
                refusals.append(Refusal(problem.name, solver.library, solver.method, str(unfit)))
                break
            except Exception as failure:  # a solver that gives up is a result, not an accident
                text = f"{type(failure).__name__}: {failure}".splitlines()[0][:200]
                refusals.append(Refusal(problem.name, solver.library, solver.method, f"at rtol {rtol:g}: {text}"))
                continue
            if math.isfinite(error):
                ran = getattr(outcome, "attrs", {}).get("algorithm", solver.method)
                prepared.append((solver.library, solver.method, ran, rtol, error, run, seconds))
            else:
                refusals.append(Refusal(problem.name, solver.library, solver.method, f"at rtol {rtol:g}: no solution"))
            # What the promises about the large problem compare is measured however long it takes.
            patient = {("pysciml", "auto"), (ON_JULIA, "auto"), ("SciPy", "BDF")}
            promised = large and (solver.library, solver.method) in patient
            if seconds > PATIENCE and not promised:
                refusals.append(
                    Refusal(
                        problem.name,
                        solver.library,
                        solver.method,
                        f"tighter than {rtol:g}: slower than {seconds:.0f} s",
                    )
                )
                break
    # What takes long is not timed again: interleaving is for what other processes can disturb.
    times: list[list[float]] = [[seconds] if seconds > 0.3 else [] for *_, seconds in prepared]
    order = list(range(len(prepared)))
    shuffle = random.Random(seed)
    for turn in range(5 if quick else 11):
        shuffle.shuffle(order)
        for index in order:
            first = prepared[index][6]
            if turn >= (11 if first < 0.03 else 3 if first < 0.3 else 0):
                continue
            times[index].append(best_of(prepared[index][5].call, 3 if first < 0.03 else 1))
    points = [
        Point(
            problem.name,
            library,
            method,
            ran,
            rtol,
            rtol * problem.atol_factor,
            error,
            statistics.median(taken),
            len(taken),
        )
        for (library, method, ran, rtol, error, _, _), taken in zip(prepared, times, strict=True)
    ]
    return points, refusals


def front(points: Sequence[Point]) -> list[tuple[float, float, str]]:
    """The points that no other beats in both error and time: (error, seconds, method), from inaccurate to accurate."""
    best: list[tuple[float, float, str]] = []
    for point in sorted(points, key=lambda q: (q.error, q.seconds)):
        if not best or point.seconds < best[-1][1]:
            best.append((point.error, point.seconds, point.method))
    return best[::-1]


def seconds_at(points: Sequence[Point], error: float) -> tuple[float, str] | None:
    """Seconds that the cheapest of the methods needs for that error, and which it is; None if none reaches it."""
    best: tuple[float, str] | None = None
    for method in {point.method for point in points}:
        curve = front([point for point in points if point.method == method])
        enough = [index for index, (reached, _, _) in enumerate(curve) if reached <= error]
        if not enough:
            continue
        after = curve[enough[0]]
        seconds = after[1]
        if enough[0] > 0:
            before = curve[enough[0] - 1]
            share = math.log(before[0] / error) / math.log(before[0] / after[0])
            seconds = before[1] * (after[1] / before[1]) ** share
        if best is None or seconds < best[0]:
            best = seconds, method
    return best


@dataclass(frozen=True)
class Comparison:
    """Times of the peers over pysciml's at pysciml's achieved error, on one problem at one tolerance."""

    problem: str
    rtol: float
    algorithm: str
    error_in_tolerances: float
    milliseconds: float
    ratios: dict[str, tuple[float, str] | None]


def compare(points: Sequence[Point]) -> list[Comparison]:
    """Set the embedded engine's automatic choice against every library's best, the Julia engine's among them."""
    rows = []
    for problem in PROBLEMS:
        here = [point for point in points if point.problem == problem.name]
        for rtol in TABLE_TOLERANCES:
            ours = [p for p in here if p.library == "pysciml" and p.method == "auto" and p.rtol == rtol]
            if not ours:
                continue
            mine = ours[0]
            ratios: dict[str, tuple[float, str] | None] = {}
            for library in LIBRARIES[1:]:
                found = seconds_at([p for p in here if p.library == library], mine.error)
                ratios[library] = None if found is None else (found[0] / mine.seconds, found[1])
            rows.append(Comparison(problem.name, rtol, mine.ran, mine.error / rtol, 1e3 * mine.seconds, ratios))
    return rows


def table(rows: Sequence[Comparison]) -> str:
    """The comparison as a Markdown table."""
    titles = {problem.name: problem.title for problem in PROBLEMS}
    peers = LIBRARIES[1:]
    lines = [
        "| problem | rtol | error / rtol | pysciml | " + " | ".join(peers) + " |",
        "|---|---|---|---|" + "---|" * len(peers),
    ]
    for row in rows:
        cells = []
        for library in peers:
            found = row.ratios[library]
            cells.append("–" if found is None else f"{found[0]:.2g}× ({found[1].removeprefix('CVODES ')})")
        lines.append(
            f"| {titles[row.problem]} | {row.rtol:g} | {row.error_in_tolerances:.2g} "
            f"| {row.milliseconds:.3g} ms ({row.algorithm}) | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def records(points: Sequence[Point]) -> list[dict[str, object]]:
    """Points as plain rows."""
    return [asdict(point) for point in points]
