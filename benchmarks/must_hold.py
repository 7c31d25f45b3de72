"""The promises about the embedded engine, each measured and judged: `python -m benchmarks.must_hold`.

They are compared with SciPy in one run. A ratio above 1 means that pysciml is faster.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import cold, front, graph
from benchmarks.detest import DETEST
from benchmarks.peers import SOLVERS, pysciml_problem
from benchmarks.problems import PROBLEMS, TestProblem, by_name
from benchmarks.reference import reference
from benchmarks.solvers import TABLE_TOLERANCES, Point, measure, quiet, seconds_at


@dataclass(frozen=True)
class Verdict:
    """One promise: what was promised, what was measured, whether it holds."""

    promise: str
    measured: str
    holds: bool


def warm(points: Sequence[Point]) -> list[Verdict]:
    """Lorenz and Robertson, warm, at equal error, against the fastest of the methods of SciPy's `solve_ivp`.

    The older `odeint`, whose stepping is compiled too, is measured beside it.
    """
    verdicts = []
    for name, rtol in (("lorenz", 1e-8), ("robertson", 1e-8)):
        here = [p for p in points if p.problem == name]
        ours = [p for p in here if p.library == "pysciml" and p.method == "auto" and p.rtol == rtol]
        promise = (
            f"{by_name(name).title}, rtol {rtol:g}, warm: at least 5 times faster than the fastest method of SciPy's "
            "solve_ivp at equal error"
        )
        if not ours:
            verdicts.append(Verdict(promise, "pysciml gave no solution", holds=False))
            continue
        theirs = seconds_at([p for p in here if p.library == "SciPy" and p.method != "odeint"], ours[0].error)
        if theirs is None:
            verdicts.append(Verdict(promise, f"SciPy does not reach the error {ours[0].error:.1e}", holds=True))
            continue
        ratio = theirs[0] / ours[0].seconds
        text = f"{ratio:.1f} times ({1e3 * ours[0].seconds:.2f} ms; {theirs[1]} {1e3 * theirs[0]:.2f} ms)"
        older = seconds_at([p for p in here if p.library == "SciPy" and p.method == "odeint"], ours[0].error)
        if older is not None:
            text += f"; {older[0] / ours[0].seconds:.1f} times odeint"
        verdicts.append(Verdict(promise, text, ratio >= 5))
    return verdicts


def fronts() -> list[Verdict]:
    """The front's share of a call, and of an import."""
    verdicts = []
    for name, rtol, atol in front.CASES:
        share, engine = front.share(name, rtol, atol)
        verdicts.append(
            Verdict(
                f"{by_name(name).title}: the front's share at most 0.4 ms",
                f"{1e3 * share:.3f} ms (the engine's {1e3 * engine:.3f} ms)",
                share <= 0.4e-3,
            )
        )
    base, added = front.import_seconds()
    promise = "import pysciml adds at most 0.15 s to numpy + sympy + xarray"
    verdicts.append(Verdict(promise, f"{added:.3f} s (to {base:.3f} s)", added <= 0.15))
    return verdicts


def fresh_process() -> list[Verdict]:
    """A fresh process to the first Lorenz solution, against SciPy."""
    rows = {row["library"]: row["seconds"] for row in cold.measure(("lorenz",), libraries=("pysciml", "SciPy"))}
    ours, theirs = rows["pysciml"], rows["SciPy"]
    promise = "Fresh process to the first Lorenz solution: at most twice SciPy's"
    if not isinstance(ours, float) or not isinstance(theirs, float):
        return [Verdict(promise, "a process failed", holds=False)]
    return [Verdict(promise, f"{ours / theirs:.2f} times ({ours:.2f} s; SciPy {theirs:.2f} s)", ours <= 2 * theirs)]


BRUSSELATOR = """
import time
import pysciml as ps
from benchmarks.problems import by_name
start = time.perf_counter()
problem = by_name("brusselator").pysciml()
built = time.perf_counter()
ps.solve(problem, rtol=1e-6, atol=1e-6, saveat=[5.75, 11.5])
print(built - start, time.perf_counter() - start)
"""


def brusselator(points: Sequence[Point]) -> list[Verdict]:
    """The 2,048 equations: first solution in a fresh process, and warm against SciPy's BDF with its sparsity."""
    command = [sys.executable, "-c", BRUSSELATOR]
    outcome = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    promise = "Brusselator 32×32, from SymPy to the first solution (rtol 1e-6): under 15 s"
    if outcome.returncode:
        verdicts = [Verdict(promise, outcome.stderr.strip().splitlines()[-1], holds=False)]
    else:
        built, total = map(float, outcome.stdout.split())
        verdicts = [Verdict(promise, f"{total:.1f} s (of it, building the problem {built:.1f} s)", total < 15)]
    here = [p for p in points if p.problem == "brusselator"]
    for rtol in TABLE_TOLERANCES:
        promise = f"Brusselator 32×32, rtol {rtol:g}, warm: faster than SciPy's BDF with its sparsity, at equal error"
        ours = [p for p in here if p.library == "pysciml" and p.method == "auto" and p.rtol == rtol]
        if not ours:
            verdicts.append(Verdict(promise, "not measured: no solution, or too slow", holds=False))
            continue
        theirs = seconds_at([p for p in here if p.library == "SciPy" and p.method == "BDF"], ours[0].error)
        if theirs is None:
            verdicts.append(Verdict(promise, f"BDF's points do not reach the error {ours[0].error:.1e}", holds=True))
            continue
        ratio = theirs[0] / ours[0].seconds
        text = f"{ratio:.1f} times ({ours[0].seconds:.2f} s; BDF {theirs[0]:.2f} s; error {ours[0].error:.1e})"
        verdicts.append(Verdict(promise, text, ratio > 1))
    return verdicts


def achieved(problems: Sequence[TestProblem], title: str) -> Verdict:
    """The automatic choice's achieved error over the tolerance asked for, worst first."""
    import pysciml as ps

    found: list[tuple[float, str]] = []
    for problem in problems:
        built, expected = pysciml_problem(problem.name), reference(problem.name)
        for rtol in TABLE_TOLERANCES:
            label = f"{problem.name} at {rtol:g}"
            try:
                with quiet():
                    solution = ps.solve(
                        built, rtol=rtol, atol=rtol * problem.atol_factor, saveat=np.array(problem.times)
                    )
            except ps.PySciMLError as error:
                found.append((float("inf"), f"{label} ({error})"[:120]))
                continue
            values = np.array([solution[name].values for name in problem.states])
            found.append((problem.error(values, expected) / rtol, label))
    found.sort(reverse=True)
    worst = ", ".join(f"{size:.2g} ({label})" for size, label in found[:3])
    return Verdict(
        f"{title}: achieved error within 20 times the tolerance at 1e-4, 1e-6, 1e-8",
        f"{sum(size <= 20 for size, _ in found)} of {len(found)} hold; the largest: {worst}",
        found[0][0] <= 20,
    )


def sizes() -> list[Verdict]:
    """How building scales."""
    small, large = graph.measure()
    growth = large["build_seconds"] / small["build_seconds"]
    return [
        Verdict(
            "1,000 coupled equations build in under 1 s",
            f"{small['build_seconds']:.2f} s (SymPy's own work, {small['sympy_seconds']:.2f} s, not counted)",
            small["build_seconds"] < 1,
        ),
        Verdict(
            "10,000 in about ten times that",
            f"{large['build_seconds']:.2f} s, {growth:.1f} times",
            growth < 15,
        ),
    ]


def judge(points: Sequence[Point]) -> list[Verdict]:
    """All promises, given the measured points; Julia, which may be there, is not meant by them."""
    os.environ["PYSCIML_ENGINE"] = "native"
    stiff = [problem for problem in PROBLEMS if problem.stiff]
    return [
        *warm(points),
        *fronts(),
        *fresh_process(),
        *brusselator(points),
        achieved(DETEST, "DETEST A1-E5"),
        achieved(stiff, "Stiff set"),
        *sizes(),
    ]


def table(verdicts: Sequence[Verdict]) -> str:
    """As Markdown."""
    lines = ["| promise | measured | holds |", "|---|---|---|"]
    lines += [f"| {v.promise} | {v.measured} | {'yes' if v.holds else '**no**'} |" for v in verdicts]
    return "\n".join(lines)


def main() -> int:
    """Measure what the promises need, and nothing else."""
    wanted = {("pysciml", "auto"), *[(s.library, s.method) for s in SOLVERS if s.library == "SciPy"]}
    points: list[Point] = []
    for name in ("lorenz", "robertson"):
        points += measure(by_name(name), only=wanted)[0]
    points += measure(by_name("brusselator"), only={("pysciml", "auto"), ("SciPy", "BDF")})[0]
    verdicts = judge(points)
    for verdict in verdicts:
        print(f"{'holds' if verdict.holds else 'FAILS'}  {verdict.promise}\n       {verdict.measured}")
    return 0 if all(verdict.holds for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
