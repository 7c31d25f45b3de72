"""The promises about partial differential equations: `python -m benchmarks.pde`.

- the Brusselator on 32 x 32 cells: a fresh process from SymPy to the first solution; warm against
  SciPy's BDF with the Jacobian's pattern and a vectorized right-hand side; the right-hand side
  against a plain Python loop;
- the Brusselator on 256 x 256 cells: memory, and cost per state against 32 x 32;
- Gray-Scott on 256 x 256 cells, 5,000 steps of Euler's method, against py-pde's fastest backend;
- Kuramoto-Sivashinsky on 1,024 points, ETDRK4, against exponax;
- compile time on 512 x 512 cells against 64 x 64;
- a solution streamed to a store: memory against the size of the solution, and of one a third as long.

Ratios are of times taken in one run, interleaved. Peers that are not installed are left out. `--write` keeps
the results in ``results/pde.json`` and ``results/pde.md``; parts can be named to measure only these.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

import pysciml as ps
from benchmarks.pde_report import keep

X, Y = ps.coordinates("X Y")


@dataclass(frozen=True)
class Verdict:
    """One promise: what was promised, what was measured, whether it holds."""

    promise: str
    measured: str
    holds: bool | None

    def __str__(self) -> str:
        mark = {True: "yes", False: "NO", None: "-"}[self.holds]
        return f"[{mark:>3}] {self.promise}: {self.measured}"


def brusselator(n: int) -> Any:
    """The problem of the documentation."""
    u, v = ps.fields("u v", X, Y)
    A, B, alpha = ps.parameters("A B alpha")
    system = ps.PDESystem(
        [
            ps.Eq(ps.D(u), B + u**2 * v - (A + 1) * u + alpha * ps.laplacian(u)),
            ps.Eq(ps.D(v), A * u - u**2 * v + alpha * ps.laplacian(v)),
        ],
        domain={X: (0, 1), Y: (0, 1)},
        boundary={X: ps.Periodic(), Y: ps.Periodic()},
        initial={u: 22 * (Y * (1 - Y)) ** sp.Rational(3, 2), v: 27 * (X * (1 - X)) ** sp.Rational(3, 2)},
    )
    return system.discretize({X: n, Y: n}).problem((0, 11.5), {A: 1, B: 3.4, alpha: 10.0})


def seconds(work: Callable[[], Any]) -> float:
    """How long one call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def interleaved(first: Callable[[], Any], second: Callable[[], Any], rounds: int = 3) -> tuple[float, float]:
    """The fastest of some runs of each, in turn."""
    pairs = [(seconds(first), seconds(second)) for _ in range(rounds)]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


_COLD = """
import time, pysciml as ps
from benchmarks.pde import brusselator
begin = time.perf_counter()
ps.solve(brusselator(32), rtol=1e-5, atol=1e-5, saveat=[11.5])
print(time.perf_counter() - begin)
"""


def cold() -> Verdict:
    """A fresh process, nothing compiled before."""
    environment = os.environ | {"PYSCIML_CACHE_DIR": ""}
    best = min(
        float(
            subprocess.run(
                [sys.executable, "-c", _COLD], capture_output=True, text=True, check=True, env=environment
            ).stdout.split()[-1]
        )
        for _ in range(2)
    )
    return Verdict("Brusselator 32x32, from SymPy to the first solution: under 3 s", f"{best:.2f} s", best < 3)


def vectorized(n: int) -> Callable[[float, Any], Any]:
    """The Brusselator as a NumPy user writes it."""

    def rhs(t: float, y: Any) -> Any:
        f = y.reshape(2, n, n)
        u, v = f
        around = np.roll(f, 1, 1) + np.roll(f, -1, 1) + np.roll(f, 1, 2) + np.roll(f, -1, 2)
        diffusion = 10.0 * n**2 * (around - 4 * f)
        product = u * u * v
        return np.stack([3.4 + product - 2 * u + diffusion[0], u - product + diffusion[1]]).ravel()

    return rhs


def plain(n: int, y: list[float]) -> list[float]:
    """The Brusselator as a loop in Python."""
    size, scale = n * n, 10.0 * n * n
    out = [0.0] * (2 * size)
    for i in range(n):
        for j in range(n):
            k = i * n + j
            near = (((i + 1) % n) * n + j, ((i - 1) % n) * n + j, i * n + (j + 1) % n, i * n + (j - 1) % n)
            u, v = y[k], y[size + k]
            du = y[near[0]] + y[near[1]] + y[near[2]] + y[near[3]] - 4 * u
            dv = y[size + near[0]] + y[size + near[1]] + y[size + near[2]] + y[size + near[3]] - 4 * v
            out[k] = 3.4 + u * u * v - 2 * u + scale * du
            out[size + k] = u - u * u * v + scale * dv
    return out


def warm() -> list[Verdict]:
    """Against SciPy's BDF, and a plain loop."""
    import jax
    from scipy.integrate import solve_ivp

    from pysciml.engines.jax.compiling import double_precision
    from pysciml.engines.jax.fields.lower import lower_fields
    from pysciml.engines.jax.fields.run import compiled_operator
    from pysciml.graph.field_jacobian import jacobian

    n, problem = 32, brusselator(32)
    pattern = jacobian(problem.system.graph, problem.u0 + 0.1, problem.p, 0.0)
    rhs = vectorized(n)
    ours = lambda: ps.solve(problem, rtol=1e-5, atol=1e-5, saveat=[11.5])  # noqa: E731
    theirs = lambda: solve_ivp(  # noqa: E731
        rhs, (0, 11.5), problem.u0, method="BDF", rtol=1e-5, atol=1e-5, t_eval=[11.5], jac_sparsity=pattern
    )
    ours()
    a, b = interleaved(ours, theirs)
    with double_precision():
        operator, _ = compiled_operator(problem.system.model, problem.p, forward=True)
        y, values = problem.u0, problem.u0.tolist()
        difference = np.abs(np.array(plain(n, values)) - operator.rhs(0.0, y)).max()
        assert difference < 1e-9 * np.abs(operator.rhs(0.0, y)).max(), difference
        # As a compiled method evaluates it: in a loop of its own.
        rhs_ = lower_fields(problem.system.graph, "rhs")
        many = jax.jit(lambda y, p: jax.lax.fori_loop(0, 1000, lambda k, y: y + 1e-15 * rhs_(0.0, y, p), y))
        many(y, problem.p).block_until_ready()
        loop, compiled = interleaved(lambda: plain(n, values), lambda: many(y, problem.p).block_until_ready(), 7)
    ratio = 1000 * loop / compiled
    return [
        Verdict(
            "Brusselator 32x32, warm: at least 2 times faster than SciPy's BDF with its sparsity",
            f"{b / a:.1f} times ({a:.3f} s; SciPy {b:.3f} s; both rtol = atol = 1e-5)",
            b >= 2 * a,
        ),
        Verdict("right-hand side at least 150 times faster than a plain loop", f"{ratio:.0f} times", ratio >= 150),
    ]


_LARGE = """
import resource, sys, time, pysciml as ps
from benchmarks.pde import brusselator
n = int(sys.argv[1])
problem = brusselator(n)
run = lambda: ps.solve(problem, rtol=1e-5, atol=1e-5, saveat=[11.5])
best = float("inf")
for _ in range(3 if n < 64 else 1):
    sol = run()
    best = min(best, sol.attrs["solve_seconds"])
print(best, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def large() -> list[Verdict]:
    """256 x 256 against 32 x 32."""
    found = {}
    for n in (32, 256):
        out = subprocess.run([sys.executable, "-c", _LARGE, str(n)], capture_output=True, text=True, check=True).stdout
        took, memory = out.split()[-2:]
        found[n] = float(took), int(memory) / 2**20
    ratio = found[256][0] / found[32][0] / 64
    return [
        Verdict("Brusselator 256x256 to t = 11.5 in under 3 GB", f"{found[256][1]:.2f} GB", found[256][1] < 3),
        Verdict(
            "and per state at most 3 times the cost of 32x32",
            f"{ratio:.2f} times ({found[256][0]:.1f} s and {found[32][0]:.2f} s)",
            ratio <= 3,
        ),
    ]


def gray_scott_problem(n: int, until: float) -> ps.Problem:
    """A square of ``n`` times ``n`` cells of unit size, with a bump in the middle (Pearson, Science 261, 1993)."""
    u, v = ps.fields("u v", X, Y)
    F, k = ps.parameters("F k")
    bump = sp.exp(-((X - n / 2) ** 2 + (Y - n / 2) ** 2) / 50)
    system = ps.PDESystem(
        [
            ps.Eq(ps.D(u), 0.16 * ps.laplacian(u) - u * v**2 + F * (1 - u)),
            ps.Eq(ps.D(v), 0.08 * ps.laplacian(v) + u * v**2 - (F + k) * v),
        ],
        {X: (0, n), Y: (0, n)},
        {X: ps.Periodic(), Y: ps.Periodic()},
        {u: 1 - bump / 2, v: bump / 4},
    )
    return system.discretize({X: n, Y: n}).problem((0, until), {F: 0.035, k: 0.065})


def gray_scott(n: int = 256, steps: int = 5000) -> Verdict:
    """Euler's method, against py-pde."""
    promise = f"Gray-Scott {n}x{n}, {steps} Euler steps: at least as fast as py-pde"
    problem = gray_scott_problem(n, steps)
    ours = lambda: ps.solve(problem, "Euler", engine="jax", dt=1.0, saveat=[float(steps)])  # noqa: E731
    solution = ours()
    try:
        import pde
    except ImportError:
        return Verdict(promise, f"{solution.attrs['solve_seconds']:.2f} s; py-pde is not installed", None)
    grid = pde.CartesianGrid([[0, n], [0, n]], [n, n], periodic=True)
    state = pde.FieldCollection(
        [pde.ScalarField(grid, part) for part in problem.system.graph.split(problem.u0)], labels=["u", "v"]
    )
    equations = pde.PDE(
        {"u": "0.16*laplace(u) - u*v**2 + 0.035*(1 - u)", "v": "0.08*laplace(v) + u*v**2 - (0.035 + 0.065)*v"}
    )
    theirs: dict[str, Callable[[], Any]] = {}
    for backend in ("numba", "numpy"):
        theirs[backend] = lambda backend=backend: equations.solve(
            state,
            t_range=steps if backend == "numba" else steps / 25,
            dt=1.0,
            solver="euler",
            backend=backend,
            tracker=None,
        )
    found = theirs["numba"]()
    gap = float(np.abs(found.data[1] - solution.v.values[-1]).max())
    a, b = interleaved(ours, theirs["numba"], 2)
    slow = 25 * seconds(theirs["numpy"])
    return Verdict(
        promise,
        f"{min(b, slow) / a:.2f} times as fast ({a:.2f} s; numba {b:.2f} s, numpy {slow:.1f} s; gap {gap:.0e})",
        min(b, slow) >= a,
    )


def ks_problem(n: int, end: float, length: float = 64 * np.pi) -> Any:
    """Kuramoto and Sivashinsky's equation on a ring of that length."""
    w = ps.fields("w", X)
    system = ps.PDESystem(
        [ps.Eq(ps.D(w), -ps.D(w**2 / 2, X) - ps.D(w, X, 2) - ps.D(w, X, 4))],
        {X: (0, length)},
        {X: ps.Periodic()},
        {w: sp.cos(X / 16) * (1 + sp.sin(X / 16))},
    )
    return system.discretize({X: n}, scheme="spectral").problem((0, end))


def kuramoto_sivashinsky(n: int = 1024, steps: int = 5000) -> Verdict:
    """ETDRK4, against exponax."""
    promise = f"Kuramoto-Sivashinsky, N = {n}, {steps} steps of ETDRK4: at least as fast as exponax"
    length, dt = 64 * np.pi, 0.05
    problem = ks_problem(n, steps * dt, length)
    end = [steps * dt]
    ours = lambda: ps.solve(problem, "ETDRK4", engine="jax", dt=dt, saveat=end)  # noqa: E731
    taken = ours().attrs["solve_seconds"]
    try:
        import exponax as ex
        import jax
    except ImportError:
        return Verdict(promise, f"{taken:.2f} s; exponax is not installed", None)
    with jax.enable_x64(True):
        stepper = ex.stepper.KuramotoSivashinskyConservative(1, length, n, dt, order=4)
        repeated = jax.jit(ex.repeat(stepper, steps))
        start = jax.numpy.asarray(problem.u0[None])
        repeated(start).block_until_ready()
        a, b = interleaved(ours, lambda: repeated(start).block_until_ready())
    return Verdict(promise, f"{b / a:.2f} times as fast ({a:.2f} s; exponax {b:.2f} s)", b >= a)


_COMPILE = """
import sys, time, numpy as np, jax
from benchmarks.pde import brusselator
from pysciml.engines.jax.compiling import double_precision
from pysciml.engines.jax.fields.lower import lower_fields

def compiled(n):
    system = brusselator(n).system
    vector, p = np.zeros(system.graph.n_states), np.zeros(3)
    rhs = lower_fields(system.graph, "rhs")
    push = lambda t, y, v, p: jax.jvp(lambda u: rhs(t, u, p), (y,), (v,))[1]
    begin = time.perf_counter()
    jax.jit(rhs).lower(0.0, vector, p).compile()
    jax.jit(push).lower(0.0, vector, vector, p).compile()
    return time.perf_counter() - begin

with double_precision():
    compiled(8)  # whatever JAX does once
    pairs = [(compiled(64), compiled(512)) for _ in range(5)]
    print(min(small for small, _ in pairs), min(large for _, large in pairs))
"""


def compiling() -> Verdict:
    """512 x 512 against 64 x 64: the right-hand side and its directional derivative."""
    environment = os.environ | {"PYSCIML_CACHE_DIR": ""}
    command = [sys.executable, "-c", _COMPILE]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    small, big = map(float, out.split()[-2:])
    return Verdict(
        "compile time at 512x512 at most 1.5 times that at 64x64",
        f"{big / small:.2f} times ({big:.2f} s and {small:.2f} s)",
        big <= 1.5 * small,
    )


_STREAMED = """
import resource, sys, tempfile
import pysciml as ps, sympy as sp
n, rows = 256, int(sys.argv[1])
X, Y = ps.coordinates("X Y")
u, v = ps.fields("u v", X, Y)
bump = sp.exp(-((X - n / 2) ** 2 + (Y - n / 2) ** 2) / 50)
system = ps.PDESystem(
    [ps.Eq(ps.D(u), 0.16 * ps.laplacian(u) - u * v**2 + 0.035 * (1 - u)),
     ps.Eq(ps.D(v), 0.08 * ps.laplacian(v) + u * v**2 - 0.1 * v)],
    {X: (0, n), Y: (0, n)}, {X: ps.Periodic(), Y: ps.Periodic()}, {u: 1 - bump / 2, v: bump / 4})
problem = system.discretize({X: n, Y: n}).problem((0, rows))
with tempfile.TemporaryDirectory() as folder:
    sol = ps.solve(problem, "Euler", engine="jax", dt=1.0, saveat=1.0, store=folder + "/run.zarr")
    print(sol.nbytes / 2**30, sol.attrs["solve_seconds"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def streamed() -> Verdict:
    """Gray-Scott with every step written."""
    found: dict[int, list[float]] = {}
    for rows in (1000, 3000):
        out = subprocess.run([sys.executable, "-c", _STREAMED, str(rows)], capture_output=True, text=True, check=True)
        found[rows] = [float(word) for word in out.stdout.split()[-3:]]
    size, _, peak = found[3000]
    growth = peak / found[1000][2]
    return Verdict(
        "a streamed solution takes less memory than it has bytes, and no more when it is three times as long",
        f"{peak:.2f} GB for a solution of {size:.2f} GB; {growth:.2f} times that of {found[1000][0]:.2f} GB",
        peak < size and growth < 1.1,
    )


PARTS: dict[str, Callable[[], Verdict | list[Verdict]]] = {
    part.__name__: part for part in (cold, warm, compiling, kuramoto_sivashinsky, gray_scott, streamed, large)
}


def main(arguments: list[str]) -> int:
    """Measure and print everything; the exit code says whether all promises hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pde", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument(
        "--write", action="store_true", help="keep the results in benchmarks/results/pde.json and pde.md"
    )
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    verdicts: list[Verdict] = []
    for name, part in PARTS.items():
        if chosen.parts and name not in chosen.parts:
            continue
        begin = time.perf_counter()
        found = part()
        here = found if isinstance(found, list) else [found]
        took = time.perf_counter() - begin
        for verdict in here:
            print(verdict, flush=True)
        print(f"      ({name}: {took:.0f} s)", flush=True)
        if chosen.write:
            keep(name, here, took, list(PARTS))
        verdicts += here
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"      (peak memory of this process {peak:.2f} GB)")
    return 1 if any(verdict.holds is False for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
