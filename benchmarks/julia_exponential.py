"""Exponential methods on Julia: `python -m benchmarks.julia_exponential`.

- ETDRK4 by Fourier modes against the same method on JAX, warm and in turns: Kuramoto and Sivashinsky's equation of
  `benchmarks.pde`;
- full matrices against Krylov subspaces, what `FULL_STATES` in `julia/src/exponential.jl` rests on: Allen and Cahn's
  equation between two sides, on more and more cells, 100 steps. The error is that against full matrices.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import sympy as sp

import pysciml as ps
from benchmarks.pde import interleaved, ks_problem

X = ps.coordinates("X")
STEPS, DT = 100, 1e-3
CELLS = (64, 128, 256, 512, 1024)
SUBSPACES = (30, 60)


def allen_cahn(n: int) -> ps.Problem:
    """Diffusion in 1/100 of the time that the reaction takes, on ``n`` cells."""
    w = ps.fields("w", X)
    system = ps.PDESystem(
        [ps.Eq(ps.D(w), 0.01 * ps.D(w, X, 2) + 5 * (w - w**3))],
        {X: (0, 1)},
        {X: ps.Dirichlet(lower=0, upper=0)},
        {w: sp.sin(sp.pi * X) + 0.3 * sp.sin(3 * sp.pi * X)},
    )
    return system.discretize({X: n}).problem((0, STEPS * DT))


def timed(problem: ps.Problem, alg: str) -> tuple[float, Any]:
    """Seconds of the second solve, and the solution."""
    ps.solve(problem, alg, engine="julia", dt=DT, saveat=[STEPS * DT])
    begin = time.perf_counter()
    sol = ps.solve(problem, alg, engine="julia", dt=DT, saveat=[STEPS * DT])
    return time.perf_counter() - begin, sol.w[-1]


def main() -> None:
    """Measure both."""
    steps, dt = 5000, 0.05
    problem = ks_problem(1024, steps * dt)

    def by(engine: str) -> Any:
        return lambda: ps.solve(problem, "ETDRK4", engine=engine, dt=dt, saveat=[steps * dt])

    a, b = interleaved(by("julia"), by("jax"))
    print(f"Kuramoto-Sivashinsky, N = 1024, {steps} steps: julia {a:.3f} s, jax {b:.3f} s, {b / a:.2f} times as fast")
    for n in CELLS:
        problem = allen_cahn(n)
        full, exact = timed(problem, "ETDRK4(krylov=false)")
        line = f"{n:5d} states, dt |A| = {4 * n**2 * 0.01 * DT:8.2f}: full {full:7.3f} s"
        for m in SUBSPACES:
            try:
                seconds, found = timed(problem, f"ETDRK4(krylov=true, m={m})")
                line += f"; m = {m}: {seconds:7.3f} s, error {float(np.abs(found - exact).max()):.0e}"
            except ps.UnsupportedError as error:
                line += f"; m = {m}: {error}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
