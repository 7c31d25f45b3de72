"""Every promise about the Julia engine, judged: `python -m benchmarks.julia [--write]`.

Against the same problems written by hand in Julia, in one process: milliseconds of the fastest warm solve of each,
output at given times, so that both save the same; ensembles; first solves; memory. ``--write`` keeps the rows in
``results/julia.json`` and ``results/julia.md``; a row that could not be measured stays as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import pysciml as ps
from benchmarks.machine import machine
from pysciml.files import writing

D = ps.D

RESULTS = Path(__file__).with_name("results")


def lorenz() -> ps.Problem:
    x, y, z = ps.variables("x y z")
    s, r, b = ps.parameters("sigma rho theta")
    system = ps.System(
        [ps.Eq(D(x), s * (y - x)), ps.Eq(D(y), x * (r - z) - y), ps.Eq(D(z), x * y - b * z)],
        parameters=[s, r, b],
        name="lorenz",
    )
    return ps.Problem(system, {x: 1, y: 0, z: 0}, (0, 20), {s: 10, r: 28, b: 8 / 3})


def robertson() -> ps.Problem:
    x, y, z = ps.variables("x y z")
    k1, k2, k3 = ps.parameters("k1 k2 k3")
    rates = [
        ps.Eq(D(x), -k1 * x + k3 * y * z),
        ps.Eq(D(y), k1 * x - k2 * y**2 - k3 * y * z),
        ps.Eq(D(z), k2 * y**2),
    ]
    system = ps.System(rates, parameters=[k1, k2, k3], name="robertson")
    return ps.Problem(system, {x: 1, y: 0, z: 0}, (0, 1e5), {k1: 0.04, k2: 3e7, k3: 1e4})


def brusselator(n: int = 32) -> ps.Problem:
    """The periodic Brusselator as 2 n² scalar equations."""
    u, v = ps.variables(f"u:{n * n}"), ps.variables(f"v:{n * n}")
    A, B, alpha = ps.parameters("A B alpha")
    a = alpha * n**2

    def at(i: int, j: int) -> int:
        return (j % n) * n + i % n

    def laplacian(w: tuple[Any, ...], i: int, j: int) -> Any:
        return w[at(i - 1, j)] + w[at(i + 1, j)] + w[at(i, j - 1)] + w[at(i, j + 1)] - 4 * w[at(i, j)]

    first, second, start = [], [], {}
    for j in range(n):
        for i in range(n):
            x, y = u[at(i, j)], v[at(i, j)]
            first.append(ps.Eq(D(x), a * laplacian(u, i, j) + B + x**2 * y - (A + 1) * x))
            second.append(ps.Eq(D(y), a * laplacian(v, i, j) + A * x - x**2 * y))
            start[x] = 22 * ((j / n) * (1 - j / n)) ** 1.5
            start[y] = 27 * ((i / n) * (1 - i / n)) ** 1.5
    system = ps.System(first + second, parameters=[A, B, alpha], name="brusselator")
    return ps.Problem(system, start, (0, 1), {A: 3.4, B: 1.0, alpha: 10.0 / n**2})


CASES = [
    ("lorenz", lorenz, "Tsit5", 1e-8, 1e-8, 30),
    ("lorenz", lorenz, "Vern9", 1e-8, 1e-8, 30),
    ("robertson", robertson, "Rodas5P", 1e-6, 1e-9, 30),
    ("robertson", robertson, "FBDF", 1e-6, 1e-9, 30),
    ("brusselator", brusselator, "FBDF", 1e-5, 1e-5, 3),
]


#: So many times each is measured.
ROUNDS = 10


def timed(problem: ps.Problem, algorithm: str, options: dict[str, Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    sol = ps.solve(problem, algorithm, engine="julia", **options)
    return time.perf_counter() - begin, sol


def first_solve() -> tuple[float, float]:
    """Seconds of Julia's start and of the first solve after it, in a fresh process."""
    code = """
import time
from benchmarks.julia import lorenz, timed
from pysciml.engines.julia import bridge
problem = lorenz()
begin = time.perf_counter()
bridge.julia()
bridge.julia().load_package("OrdinaryDiffEqTsit5")
started = time.perf_counter()
timed(problem, "Tsit5", {})
print(started - begin, time.perf_counter() - started)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    start, first = map(float, printed.split()[-2:])
    return start, first


def python_lorenz(du: Any, u: Any, p: Any, t: float) -> None:
    """What one writes for a solver that calls back into Python."""
    du[0] = p[0] * (u[1] - u[0])
    du[1] = u[0] * (p[1] - u[2]) - u[1]
    du[2] = u[0] * u[1] - p[2] * u[2]


class Verdicts:
    """Rows of the table, printed as they come."""

    def __init__(self, where: str) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self._where = where

    def add(self, promise: str, measured: str, holds: bool | None) -> None:
        """A promise, what was measured, and whether it holds; None where nothing is promised."""
        self.rows[promise] = {"measured": measured, "holds": holds, "where": self._where}
        print(f"{'–' if holds is None else 'yes' if holds else 'NO':4} {promise}: {measured}", flush=True)

    def keep(self) -> None:
        """Replace what is kept of these rows, and write the table."""
        path = RESULTS / "julia.json"
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        rows |= self.rows
        lines = [
            "# The Julia engine",
            "",
            "Written by `python -m benchmarks.julia --write`; warm solves are the fastest of some, in turns in one",
            "process. Compare ratios, and not the times with another machine's. A dash: nothing is promised.",
            "",
            "| promise | measured | holds |",
            "|---|---|---|",
        ]
        for promise, row in rows.items():
            holds = {None: "–", True: "yes", False: "no"}[row["holds"]]
            lines.append(f"| {promise} | {row['measured']} | {holds} |")
        places: dict[str, list[int]] = {}
        for k, row in enumerate(rows.values(), 1):
            places.setdefault(row["where"], []).append(k)
        for where, numbers in places.items():
            lines += ["", f"Rows {', '.join(map(str, numbers))}: {where}."]
        with writing(path) as temporary:
            temporary.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        with writing(path.with_suffix(".md")) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ensembles(by_hand: Any, table: Verdicts, count: int = 10_000) -> None:
    """Lorenz for many values of one parameter, on Julia's threads."""
    problem, times = lorenz(), np.linspace(0, 20, 11)
    rhos = np.linspace(20, 30, count)
    over = {"rho": xr.DataArray(rhos, dims="rho")}

    def ours() -> float:
        begin = time.perf_counter()
        sweep = ps.solve_ensemble(problem, "Tsit5", over=over, engine="julia", rtol=1e-8, atol=1e-8, saveat=times)
        assert sweep.attrs["n_failed"] == 0
        assert sweep.attrs["vectors"] == "static"
        return time.perf_counter() - begin

    def theirs(static: bool) -> float:
        return by_hand.ensemble_seconds(static, rhos, (0.0, 20.0), 1e-8, 1e-8, times, 1)

    ours()
    rounds = [(ours(), theirs(False), theirs(True)) for _ in range(5)]  # in turns: the machine does other things, too
    seconds = np.array(rounds)
    ratios = [float(np.median(seconds[:, column] / seconds[:, 0])) for column in (1, 2)]
    table.add(
        f"{count:,} Lorenz trajectories on threads: at least 0.9 of the throughput of `EnsembleThreads` by hand",
        f"{ratios[0]:.2f} of it with vectors, {ratios[1]:.2f} with static vectors ({seconds[:, 0].min():.2f} s; "
        f"{seconds[:, 1].min():.2f} s; {seconds[:, 2].min():.2f} s)",
        min(ratios) >= 0.9,
    )


def sending(table: Verdicts, n: int = 10_000) -> None:
    """A large graph to Julia's arrays, checked there."""
    from pysciml.engines.julia.transfer import send

    u = ps.variables(f"u:{n}")
    k = ps.parameters("k")
    graph = ps.System([ps.Eq(D(u[i]), k * (u[i - 1] - 2 * u[i] + u[(i + 1) % n])) for i in range(n)]).graph
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        send(graph)
        seconds.append(time.perf_counter() - begin)
    table.add(
        f"Sending the graph of {n:,} equations: under 1 s",
        f"{min(seconds):.2f} s, {len(graph)} nodes",
        min(seconds) < 1,
    )


def memory(table: Verdicts, count: int = 1000) -> None:
    """Solves in a row, every tenth a failure and a refusal, every twentieth interrupted."""
    (x,) = ps.variables("x,")
    singular = ps.Problem(ps.System([ps.Eq(D(x), x**2)]), {x: 1}, (0, 2))
    problem = lorenz()
    endless = problem.remake(tspan=(0, 1e6))
    interrupted = 0

    def once(i: int) -> None:
        nonlocal interrupted
        ps.solve(problem.remake(p={"rho": 20 + i % 7}), "Tsit5", engine="julia", saveat=0.01)
        if i % 10 == 0:
            for wrong, algorithm in ((singular, "Tsit5"), (problem, "NoSuchThing")):
                with contextlib.suppress(ps.SolverError, ps.UnsupportedError):
                    ps.solve(wrong, algorithm, engine="julia")
        if i % 20 == 0:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            try:
                ps.solve(endless, "Tsit5", engine="julia", saveat=[1e6], max_steps=10**9)
            except KeyboardInterrupt:
                interrupted += 1

    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        for i in range(count):  # the heap grows to what suits its collector
            once(i)
        start, interrupted = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
        for i in range(count):
            once(i)
    finally:
        signal.signal(signal.SIGALRM, before)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
    table.add(
        f"{count:,} solves in a row, with errors and interrupts among them: steady memory",
        f"{grown:.0f} MiB more than after as many before; {count // 10 * 2} errors, {interrupted} interrupts",
        grown < 50 and interrupted == count // 20,
    )


def against_hand(by_hand: Any, table: Verdicts) -> None:
    """Warm solves, and the first of the largest problem."""
    for name, make, algorithm, rtol, atol, repeats in CASES:
        begin = time.perf_counter()
        problem = make()
        modelled = time.perf_counter() - begin
        times = np.linspace(*problem.tspan, 11)
        options = {"rtol": rtol, "atol": atol, "saveat": times}
        first, sol = timed(problem, algorithm, options)
        ours, theirs = math.inf, math.inf
        for _ in range(ROUNDS):  # in turns, so that what else the machine does meets both
            ours = min(ours, *(timed(problem, algorithm, options)[0] for _ in range(repeats)))
            numbers = problem.u0, problem.p, problem.tspan
            theirs = min(theirs, by_hand.seconds(name, *numbers, algorithm, rtol, atol, times, repeats))
        size = f"{name.capitalize()}{' as 2,048 equations' if name == 'brusselator' else ''}"
        table.add(
            f"{size}, {algorithm}: at most 10 % and 0.5 ms slower than by hand in Julia",
            f"{1e3 * ours:.3g} ms; by hand {1e3 * theirs:.3g} ms",
            ours <= 1.1 * theirs + 0.5e-3,
        )
        if name == "brusselator":
            table.add(
                f"{size}: from SymPy to the first solution under 60 s after start-up",
                f"{modelled + first:.1f} s, of them {modelled:.1f} s of SymPy's and "
                f"{sol.attrs['compile_seconds']:.1f} s of compilation",
                modelled + first < 60,
            )


def from_python(by_hand: Any, table: Verdicts) -> None:
    """A right-hand side in Python, as diffeqpy's users write it: called back, and traced by ModelingToolkit."""
    problem, options = lorenz(), {"rtol": 1e-8, "atol": 1e-8}
    ours = min(timed(problem, "Tsit5", options)[0] for _ in range(30))
    theirs = by_hand.python_seconds(python_lorenz, problem.u0, problem.p, problem.tspan, 1e-8, 1e-8, 2)
    table.add(
        "Lorenz: at least 100 times faster than with a right-hand side in Python, as in diffeqpy",
        f"{theirs / ours:.0f} times ({1e3 * ours:.2f} ms; {1e3 * theirs:.0f} ms)",
        theirs >= 100 * ours,
    )
    traced = by_hand.traced_seconds(python_lorenz, problem.u0, problem.p, problem.tspan, 1e-8, 1e-8, 30)
    if traced is not None:
        first, theirs = traced
        table.add(
            "The same traced by ModelingToolkit, as `de.jit` of diffeqpy",
            f"{1e3 * theirs:.2f} ms, {theirs / ours:.2f} times ours, after {first:.1f} s the first time",
            None,
        )


def main(arguments: list[str]) -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.julia", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the rows in results/julia.md")
    parser.add_argument("--only", choices=("python",), help="only the right-hand side in Python")
    chosen = parser.parse_args(arguments)
    from pysciml.engines.julia import bridge

    start, first = first_solve() if chosen.only is None else (0.0, 0.0)
    bridge.julia()
    import juliacall

    julia: Any = juliacall.Main  # pyright: ignore[reportAttributeAccessIssue]
    julia.include(str(Path(__file__).with_name("julia_by_hand.jl")))
    by_hand = julia.ByHand
    versions = f"Julia {julia.VERSION}, juliacall {metadata.version('juliacall')}"
    where = f"{datetime.now(UTC).date()}, {machine()}, {julia.Threads.nthreads()} threads, {versions}"
    table = Verdicts(where)
    if chosen.only is None:
        table.add(
            "A small model in a fresh process: the first solve under 3 s, apart from the start of Julia and packages",
            f"{first:.1f} s (the start {start:.1f} s)",
            first < 3,
        )
        memory(table)
        against_hand(by_hand, table)
    from_python(by_hand, table)
    if chosen.only is None:
        ensembles(by_hand, table)
        sending(table)
    if chosen.write:
        table.keep()
    return 0 if all(row["holds"] is not False for row in table.rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
