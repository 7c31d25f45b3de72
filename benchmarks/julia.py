"""The Julia engine against the same problem written by hand in Julia, in one process: `python -m benchmarks.julia`.

Prints milliseconds of the fastest warm solve of each, first solves and compile times; output at given times, so
that both save the same.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import pysciml as ps

D = ps.D


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

    def laplacian(w: tuple, i: int, j: int) -> Any:
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


#: Of small problems: so many times each is measured.
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


def ensembles(by_hand: Any, count: int = 10_000) -> None:
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

    first = ours()
    rounds = [(ours(), theirs(False), theirs(True)) for _ in range(5)]  # in turns: the machine does other things, too
    print(
        f"{count} Lorenz trajectories to 20 at 1e-8 on threads; ours {first:.1f} s the first time, compilation included"
    )
    seconds = np.array(rounds)
    for column, name in ((1, "vectors"), (2, "static vectors")):
        ratios = seconds[:, column] / seconds[:, 0]
        print(
            f"  ours {seconds[:, 0].min():.2f} s, by hand with {name} {seconds[:, column].min():.2f} s: "
            f"{np.median(ratios):.2f} of its throughput ({ratios.min():.2f} to {ratios.max():.2f})"
        )


def sending(n: int = 10_000) -> None:
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
    print(f"sending the graph of {n} equations ({len(graph)} nodes): {min(seconds):.3f} s")


def main() -> None:
    """Measure and print the table."""
    from pysciml.engines.julia import bridge

    start, first = first_solve()
    print(f"a fresh process: {start:.1f} s for Julia and its packages, then {first:.2f} s for the first solve")
    begin = time.perf_counter()
    bridge.julia()
    print(f"start-up of Julia and its packages: {time.perf_counter() - begin:.1f} s")
    import juliacall

    juliacall.Main.include(str(Path(__file__).with_name("julia_by_hand.jl")))
    by_hand = juliacall.Main.ByHand
    print("problem      algorithm  model s  compile s  first s  warm ms  by hand ms  ratio  within 10 % + 0.5 ms")
    for name, make, algorithm, rtol, atol, repeats in CASES:
        begin = time.perf_counter()
        problem = make()
        modelled = time.perf_counter() - begin
        times = np.linspace(*problem.tspan, 11)

        options = {"rtol": rtol, "atol": atol, "saveat": times}
        first, sol = timed(problem, algorithm, options)
        ours, theirs = math.inf, math.inf
        for _ in range(ROUNDS if repeats > 3 else 1):  # in turns, so that what else the machine does meets both
            ours = min(ours, *(timed(problem, algorithm, options)[0] for _ in range(repeats)))
            numbers = problem.u0, problem.p, problem.tspan
            theirs = min(theirs, by_hand.seconds(name, *numbers, algorithm, rtol, atol, times, repeats))
        held = "yes" if ours <= 1.1 * theirs + 0.5e-3 else "no"
        print(
            f"{name:12} {algorithm:9} {modelled:8.2f} {sol.attrs['compile_seconds']:10.2f} {first:8.2f} "
            f"{1e3 * ours:8.3f} {1e3 * theirs:11.3f} {ours / theirs:6.2f}  {held}"
        )
    problem, options = lorenz(), {"rtol": 1e-8, "atol": 1e-8}
    ours = min(timed(problem, "Tsit5", options)[0] for _ in range(30))
    theirs = by_hand.python_seconds(python_lorenz, problem.u0, problem.p, problem.tspan, 1e-8, 1e-8, 2)
    print(f"lorenz with a right-hand side in Python: {1e3 * theirs:.0f} ms, {theirs / ours:.0f} times ours")
    traced = by_hand.traced_seconds(python_lorenz, problem.u0, problem.p, problem.tspan, 1e-8, 1e-8, 30)
    if traced is None:
        print("the same through ModelingToolkit, as diffeqpy's jit: it is not installed")
    else:
        first, theirs = traced
        print(
            f"the same through ModelingToolkit, as diffeqpy's jit: {1e3 * theirs:.3f} ms, "
            f"{theirs / ours:.2f} times ours, after {first:.1f} s the first time"
        )
    ensembles(by_hand)
    sending()


if __name__ == "__main__":
    main()
