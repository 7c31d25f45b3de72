"""The measurements behind how the native engine solves fields: `python -m benchmarks.fields_native`.

- a sparse matrix, a number times a vector, and slices in DiffSL: what they cost to compile as the
  number of cells grows (why `engines.native.line` writes what it writes);
- a reaction-diffusion system on a line, compiled against stepped from NumPy: first solve in the
  process and warm (``line.MOST_STATES``, ``line.MOST_STATEMENTS``);
- the Brusselator on a square, written by hand in the cheapest form found, against the Krylov methods
  (why only lines are compiled);
- equations on a line by default on this engine and on JAX, in turns (why ``engine="auto"`` takes this one for lines);
- a vorticity and its stream function on a square, the stream function eliminated and as an algebraic unknown (why
  ``discretize`` eliminates).

Times are processor time, the least of some runs; compare them within a table. Everything but the first is
at rtol = atol = 1e-6.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp

import pysciml as ps
from pysciml.engines.native import line

_FORMS = {
    "slices": ["r_i {{ u_i[1:{n}], u_i[0] }}", "l_i {{ u_i[{m}], u_i[0:{m}] }}", "F_i {{ r_i + l_i - 2.0 * u_i }}"],
    "elementwise": ["F_i {{ u_i * u_i }}"],
    "number * vector": ["F_i {{ a * u_i }}"],
    "sparse matrix": [
        "A_ij {{ (0..{m},1..{n}): 1.0, (1..{n},0..{m}): 1.0, (0..{n},0..{n}): -2.0, (0,{m}): 1.0, ({m},0): 1.0 }}",
        "F_i {{ A_ij * u_j }}",
    ],
}


def spent(work: Callable[[], Any], repeat: int = 3) -> float:
    """The least processor time of some runs."""
    best = float("inf")
    for _ in range(repeat):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def compiled(text: str) -> Any:
    """What pydiffsol makes of a text."""
    import pydiffsol

    return pydiffsol.Ode(text, matrix_type=pydiffsol.faer_sparse, linear_solver=pydiffsol.lu)


def form(name: str, n: int) -> None:
    """Compile one of the forms, and print what it cost."""
    compiled("in_i { a = 0.0 }\nu_i { x = 1.0, y = 1.0 }\nF_i { -u_i }")
    head = ["in_i {{ a = 0.0 }}", "u_i {{ (0:{n}): x = 1.0 }}"]
    text = "\n".join([*head, *_FORMS[name]]).format(n=n, m=n - 1)
    took = spent(lambda: compiled(text), 1)
    print(f"{took:6.2f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:6.2f}")


def forms(quick: bool) -> None:
    """The forms, each in a process of its own for its memory."""
    print("n       form              compile [s]  memory [GB]")
    for n in (1024, 2048) if quick else (1024, 4096, 8192):
        for name in _FORMS:
            if name == "sparse matrix" and n > 4096:
                continue
            code = f"from benchmarks.fields_native import form; form({name!r}, {n})"
            out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
            took, memory = out.split()
            print(f"{n:6}  {name:16} {took:>12} {memory:>12}", flush=True)


def reaction(n: int) -> Any:
    """The Brusselator on a line (Hairer & Wanner, volume II, section IV.1)."""
    x = ps.coordinates("x")
    u, v = ps.fields("u v", x)
    alpha = ps.parameters("alpha")
    system = ps.PDESystem(
        [
            ps.Eq(ps.D(u), 1 + u**2 * v - 4 * u + alpha * ps.D(u, x, 2)),
            ps.Eq(ps.D(v), 3 * u - u**2 * v + alpha * ps.D(v, x, 2)),
        ],
        {x: (0, 1)},
        {x: {u: ps.Dirichlet(1), v: ps.Dirichlet(3)}},
        {u: 1 + sp.sin(2 * sp.pi * x), v: 3},
    )
    return system.discretize({x: n}).problem((0, 10), {alpha: 0.02})


def lines(quick: bool) -> None:
    """On a line: compiled, and stepped from NumPy (which a first step ``dt`` asks for)."""
    ps.solve(reaction(16), engine="native", dt=1e-4, saveat=[0.1])  # what is imported once
    compiled("in_i { a = 0.0 }\nu_i { x = 1.0, y = 1.0 }\nF_i { -u_i }")
    print("cells   statements  compiled: first  warm [s]   NumPy: first  warm [s]   gap")
    for n in (32, 256) if quick else (32, 128, 512, 1024, 4096):
        problem = reaction(n)
        found: dict[str, Any] = {}
        times: dict[str, list[float]] = {}
        for name, options in (("compiled", {}), ("NumPy", {"dt": 1e-5})):
            if name == "NumPy" and n > 1024:  # it takes the eigenvalues of a full matrix
                times[name] = [float("nan")] * 2
                continue

            def run(
                name: str = name, options: dict[str, Any] = options, problem: Any = problem, found: Any = found
            ) -> None:
                how = {"engine": "native", "rtol": 1e-6, "atol": 1e-6, "saveat": [10.0]} | options
                found[name] = ps.solve(problem, "QNDF", **how)

            times[name] = [spent(run, 1), spent(run, 2)]
        gap = float(np.abs(found["compiled"].u - found["NumPy"].u).max()) if "NumPy" in found else float("nan")
        text = line.prepare(problem.system.model, backward=False).written.text
        (a, b), (c, d) = times["compiled"], times["NumPy"]
        print(f"{n:5}   {text.count(chr(10)):10}  {a:15.3f} {b:9.4f} {c:14.3f} {d:9.4f}   {gap:.0e}", flush=True)


def line_problems() -> dict[str, Callable[[int], Any]]:
    """Equations on a line that are stiff and that are not, by the number of cells."""
    x = ps.coordinates("x")
    u = ps.fields("u", x)

    def made(rate: Any, order: int, boundary: Any, span: tuple[float, float], end: float) -> Callable[[int], Any]:
        system = ps.PDESystem(
            [ps.Eq(ps.D(u, order), rate)], {x: (0, end)}, {x: boundary}, {u: sp.sin(2 * sp.pi * x / end)}
        )
        return lambda n: system.discretize({x: n}).problem(span)

    return {
        "Brusselator": reaction,
        "heat": made(ps.D(u, x, 2), 1, ps.Dirichlet(0), (0, 0.1), 1),
        "waves": made(ps.D(u, x, 2), 2, ps.Dirichlet(0), (0, 2), 1),
        "Korteweg-de Vries": made(-6 * u * ps.D(u, x) - ps.D(u, x, 3), 1, ps.Periodic(), (0, 1), 40),
    }


def engines(quick: bool) -> None:
    """By default on both embedded engines, in elapsed time."""
    print("equation           cells   native: first  warm [s]   JAX: first  warm [s]   gap")
    for name, problem_of in line_problems().items():
        for n in (64,) if quick else (100, 400, 800):
            problem = problem_of(n)
            times: dict[str, list[float]] = {"native": [], "jax": []}
            found: dict[str, Any] = {}
            for _ in range(3):
                for engine in times:
                    begin = time.perf_counter()
                    found[engine] = ps.solve(problem, engine=engine, saveat=[problem.tspan[1]])
                    times[engine].append(time.perf_counter() - begin)
            (a, *b), (c, *d) = times.values()
            gap = float(abs(found["native"].u - found["jax"].u).max())
            print(f"{name:18} {n:5} {a:15.2f} {min(b):9.3f} {c:13.2f} {min(d):9.3f}   {gap:.0e}", flush=True)


def square(n: int) -> tuple[str, Any, Any]:
    """The Brusselator of `benchmarks.pde` in DiffSL, by diagonals; its inputs and its initial state."""
    size, k = n * n, np.arange(n * n) % n
    constants = {
        "mr": k < n - 1,
        "mw": k == n - 1,
        "ml": k > 0,
        "mv": k == 0,
        "a": np.ones(size),
        "b": np.full(size, 3.4),
        "h": np.full(size, 10.0 * size),
    }
    total = (len(constants) + 2) * size
    text = [f"in_i {{ (0:{total}): x = 0.0 }}", f"u_i {{ in_i[{total - 2 * size}:{total}] }}"]
    text += [f"{name}_i {{ in_i[{j * size}:{(j + 1) * size}] }}" for j, name in enumerate(constants)]
    text += [f"p_i {{ u_i[0:{size}] }}", f"q_i {{ u_i[{size}:{2 * size}] }}"]

    def moved(name: str, by: int) -> str:
        parts = ((by % size, size), (0, by % size))
        return ", ".join(f"{name}_i[{a}]" if b - a == 1 else f"{name}_i[{a}:{b}]" for a, b in parts)

    for f in "pq":
        for name, by in {"n": n, "s": -n, "e": 1, "f": 1 - n, "w": -1, "x": n - 1}.items():
            text.append(f"{f}{name}_i {{ {moved(f, by)} }}")
        inner = f"mr_i * {f}e_i + mw_i * {f}f_i + ml_i * {f}w_i + mv_i * {f}x_i"
        text.append(f"{f}l_i {{ h_i * ({f}n_i + {f}s_i + {inner} - 4.0 * {f}_i) }}")
    text += [
        "c_i { p_i * p_i * q_i }",
        "y_i { b_i + c_i - (a_i + 1.0) * p_i + pl_i }",
        "z_i { a_i * p_i - c_i + ql_i }",
        "F_i { y_i, z_i }",
    ]
    from benchmarks.pde import brusselator

    u0 = brusselator(n).u0
    return "\n".join(text), np.concatenate([*(np.asarray(c, dtype=float) for c in constants.values()), u0]), u0


def squares(quick: bool) -> None:
    """On a square: diffsol with a sparse LU against QNDF with Krylov iterations."""
    import pydiffsol

    from benchmarks.pde import brusselator

    print("cells    DiffSL: compile  solve [s]   Krylov, NumPy [s]   gap")
    for n in (16, 32) if quick else (16, 32, 64, 96):
        text, inputs, u0 = square(n)
        begin = time.process_time()
        ode = compiled(text)
        took = time.process_time() - begin
        problem = brusselator(n)
        expected = problem.system.graph.evaluate("rhs", u0, problem.p, 0.0)
        wrong = np.abs(ode.rhs(inputs, 0.0, u0) - expected).max() / np.abs(expected).max()
        assert wrong < 1e-12, wrong
        ode.ode_solver, ode.rtol, ode.atol = pydiffsol.bdf, 1e-6, 1e-6
        found: dict[str, Any] = {}

        def compiled_solve(ode: Any = ode, inputs: Any = inputs, found: dict[str, Any] = found) -> None:
            found["a"] = ode.solve_dense(inputs, np.array([11.5])).ys[:, -1]

        def krylov(problem: Any = problem, found: dict[str, Any] = found) -> None:
            sol = ps.solve(problem, "QNDF", engine="native", rtol=1e-6, atol=1e-6, saveat=[11.5])
            found["b"] = np.concatenate([sol.u.values.ravel(), sol.v.values.ravel()])

        a, b = spent(compiled_solve, 2), spent(krylov, 2)
        gap = np.abs(found["a"] - found["b"]).max()
        print(f"{n:3}x{n:<3} {took:16.2f} {a:10.3f} {b:19.3f}   {gap:.0e}", flush=True)


def vortices(n: int, eliminate: bool) -> ps.Problem:
    """Two that merge, between walls."""
    x, y = ps.coordinates("x y")
    w, psi = ps.fields("w psi", x, y)
    carried = ps.D(w * ps.D(psi, x), y) - ps.D(w * ps.D(psi, y), x)
    flow = ps.PDESystem(
        [ps.Eq(ps.D(w), carried + ps.laplacian(w) / 500), ps.Eq(ps.laplacian(psi), -w)],
        domain={x: (0, 6), y: (0, 6)},
        boundary={x: ps.Dirichlet(0), y: ps.Dirichlet(0)},
        initial={w: sum(4 * sp.exp(-2 * ((x - a) ** 2 + (y - 3) ** 2)) for a in (2.2, 3.8))},
    )
    return flow.discretize({x: n, y: n}, eliminate=eliminate).problem((0, 3))


def following(quick: bool) -> None:
    """A stream function eliminated, and as an algebraic unknown."""
    print("cells      eliminated: steps  CPU [s]   elapsed [s]   algebraic: steps  CPU [s]   gap")
    for n in (32, 64) if quick else (32, 64, 128, 256):
        row: list[Any] = []
        ends: list[Any] = []
        for eliminate in (True, False):
            if n > 128 and not eliminate:
                continue
            problem = vortices(n, eliminate)
            found: list[Any] = []

            def run(problem: Any = problem, found: list[Any] = found) -> None:
                begin = time.perf_counter()
                solution = ps.solve(problem, engine="native", rtol=1e-6, atol=1e-6, saveat=[3])
                found.append((time.perf_counter() - begin, solution))

            took = spent(run, 1 if n > 64 else 2)
            elapsed, solution = min(found, key=lambda pair: pair[0])
            ends.append(solution.w)
            row += [solution.attrs["n_steps"], took] + [elapsed] * eliminate
        gap = f"{float(abs(ends[0] - ends[-1]).max()):.0e}" if len(ends) > 1 else ""
        text = f"{n:3}x{n:<3} {row[0]:21} {row[1]:9.2f} {row[2]:12.2f}"
        print(text + (f"{row[3]:18} {row[4]:9.2f}   {gap}" if len(row) > 3 else ""), flush=True)


def main(arguments: list[str]) -> int:
    """Print all tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fields_native", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small grids only")
    quick = parser.parse_args(arguments).quick
    for table in (forms, lines, squares, engines, following):
        table(quick)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
