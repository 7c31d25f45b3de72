"""Three independent integrators in extended precision (80-bit floats), to compute references that nothing measured
here shares.

None of them is fast. They differ in kind, so that agreement means something: Taylor series (heyoka), Gragg's
extrapolation of the explicit midpoint rule, and implicit collocation at Radau points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.integrate
import scipy.linalg

from benchmarks.problems import TestProblem

Rhs = Callable[[Any, np.ndarray], np.ndarray]
WIDE = np.longdouble


def require_extended_precision() -> None:
    """Raise where long doubles are no longer than doubles (Windows, ARM)."""
    if np.finfo(WIDE).eps > 1e-18:
        raise RuntimeError("references need 80-bit floats: run this on x86-64 Linux")


def wide_rhs(problem: TestProblem) -> Rhs:
    """Evaluate the problem's formula in extended precision; parameters are the doubles that every solver sees."""
    p = {name: WIDE(value) for name, value in problem.p.items()}
    if problem.vector_rhs is not None:
        formula = problem.vector_rhs
        return lambda t, y: np.asarray(formula(t, y, p, np), dtype=WIDE)
    return lambda t, y: np.array(problem.rhs(t, y, p, np), dtype=WIDE)


def taylor(problem: TestProblem, times: np.ndarray) -> np.ndarray:
    """Taylor series of adaptive order and step, tolerance at the rounding unit of long doubles; ``(n, n_times)``.

    À. Jorba, M. Zou, A software package for the numerical integration of ODEs by means of high-order Taylor methods,
    Experimental Mathematics 14 (2005), as done by heyoka.
    """
    import heyoka as hy

    y = hy.make_vars(*problem.states)
    y = [y] if problem.n == 1 else y
    p = {name: hy.expression(WIDE(value)) for name, value in problem.p.items()}
    right = problem.rhs(hy.time, y, p, hy)
    integrator = hy.taylor_adaptive(
        list(zip(y, right, strict=True)),
        [WIDE(v) for v in problem.u0],
        time=WIDE(problem.tspan[0]),
        fp_type=WIDE,
        compact_mode=problem.n > 12,
    )
    grid = np.concatenate([[problem.tspan[0]], times]).astype(WIDE)
    outcome = integrator.propagate_grid(grid, max_steps=0)
    values = outcome[-1]
    if values.shape[0] != len(grid):
        raise RuntimeError(f"{problem.name}: the Taylor integrator stopped: {outcome[0]}")
    return values[1:].T


def extrapolation(problem: TestProblem, times: np.ndarray, tol: float = 1e-17, columns: int = 7) -> np.ndarray:
    """Gragg-Bulirsch-Stoer extrapolation of fixed order ``2 * columns``, stopping at each output; ``(n, n_times)``.

    [HNW] section II.9. The smoothing step is left out: it does not change the order.
    """
    f = wide_rhs(problem)
    numbers = [2 * (j + 1) for j in range(columns)]
    t, y = WIDE(problem.tspan[0]), np.array(problem.u0, dtype=WIDE)
    h = WIDE(1e-3)
    out = np.empty((problem.n, len(times)), dtype=WIDE)

    def table(h: Any, f0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows: list[list[np.ndarray]] = []
        for j, number in enumerate(numbers):
            step = h / number
            before, now = y, y + step * f0
            for k in range(1, number):
                before, now = now, before + 2 * step * f(t + k * step, now)
            row = [now]
            for k in range(j):
                ratio = (WIDE(number) / numbers[j - k - 1]) ** 2
                row.append(row[k] + (row[k] - rows[j - 1][k]) / (ratio - 1))
            rows.append(row)
        return rows[-1][-1], rows[-1][-2]

    for index, stop in enumerate(np.asarray(times, dtype=WIDE)):
        while t < stop:
            last = t + h >= stop * (1 - 4 * np.finfo(WIDE).eps)
            size = stop - t if last else h
            with np.errstate(all="ignore"):
                best, second = table(size, f(t, y))
                scale = problem.atol_factor * tol + tol * np.maximum(np.abs(y), np.abs(best))
                error = float(np.max(np.abs(best - second) / scale))
            if not np.isfinite(error):
                h = size / 10
                continue
            factor = min(3.0, max(0.1, 0.9 * (0.5 / max(error, 1e-30)) ** (1 / (2 * columns - 1))))
            if error <= 1:
                t, y = (stop if last else t + size), best
                h = max(h, size * factor) if last else size * factor
            else:
                h = size * factor
        out[:, index] = y
    return out


def radau_points(stages: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes ``c`` and matrix ``A`` of the Radau IIA method, correct to long-double rounding ([HW] section IV.5)."""
    import mpmath as mp

    with mp.workdps(60):
        t = mp.mpf
        # The nodes are the zeros of the (s-1)st derivative of x^(s-1) (x-1)^s.
        coefficients = [mp.binomial(stages, k) * (-1) ** k for k in range(stages + 1)] + [t(0)] * (stages - 1)
        for _ in range(stages - 1):
            degree = len(coefficients) - 1
            coefficients = [value * (degree - i) for i, value in enumerate(coefficients[:-1])]
        nodes = sorted(mp.re(root) for root in mp.polyroots(coefficients, maxsteps=500, extraprec=500))
        vandermonde = mp.matrix(stages, stages)
        integrals = mp.matrix(stages, stages)
        for i, c in enumerate(nodes):
            for k in range(stages):
                vandermonde[i, k] = c**k
                integrals[i, k] = c ** (k + 1) / (k + 1)
        a = integrals * vandermonde**-1
        c_wide = np.array([WIDE(mp.nstr(c, 30)) for c in nodes])
        a_wide = np.array([[WIDE(mp.nstr(a[i, j], 30)) for j in range(stages)] for i in range(stages)])
    return c_wide, a_wide


def collocation(problem: TestProblem, times: np.ndarray, stages: int = 8, mesh_tol: float = 1e-9) -> np.ndarray:
    """Radau IIA of order ``2 * stages - 1`` on the steps that SciPy's fifth-order Radau chooses; ``(n, n_times)``.

    Where order 5 leaves a local error of 1e-9, order 15 leaves less than 1e-20, so no step control is needed. Newton's
    linear systems are solved in double precision and its residuals in extended precision: the limit is that of extended
    precision.
    """
    f = wide_rhs(problem)
    c, a = radau_points(stages)
    n = problem.n
    narrow = {name: float(value) for name, value in problem.p.items()}

    def rhs(t: float, y: np.ndarray) -> np.ndarray:
        return np.array(problem.rhs(t, y, narrow, np), dtype=float)

    def jacobian(t: Any, y: np.ndarray) -> np.ndarray:
        columns = []
        for i in range(n):
            step = np.zeros(n, dtype=WIDE)
            step[i] = WIDE(1e-9) * max(abs(y[i]), WIDE(1e-6) * problem.atol_factor)
            columns.append((f(t, y + step) - f(t, y - step)) / (2 * step[i]))
        return np.array(columns, dtype=float).T

    t, y = WIDE(problem.tspan[0]), np.array(problem.u0, dtype=WIDE)
    out = np.empty((n, len(times)), dtype=WIDE)
    start = problem.tspan[0]
    for index, stop in enumerate(times):
        mesh = scipy.integrate.solve_ivp(
            rhs,
            (start, stop),
            y.astype(float),
            method="Radau",
            rtol=mesh_tol,
            atol=mesh_tol * problem.atol_factor * 1e-3,
        )
        if not mesh.success:
            raise RuntimeError(f"{problem.name}: no mesh: {mesh.message}")
        for left, right in zip(mesh.t[:-1], mesh.t[1:], strict=True):
            h = WIDE(right) - WIDE(left)
            matrix = np.eye(stages * n) - np.kron((h * a).astype(float), jacobian(t, y))
            factors = scipy.linalg.lu_factor(matrix)
            z = np.zeros((stages, n), dtype=WIDE)
            previous = np.inf
            for _ in range(100):
                slopes = np.array([f(t + c[i] * h, y + z[i]) for i in range(stages)])
                residual = h * (a @ slopes) - z
                change = scipy.linalg.lu_solve(factors, residual.ravel().astype(float)).reshape(stages, n)
                z = z + change
                size = float(np.max(np.abs(change) / (np.abs(y) + problem.atol_factor * 1e-6)))
                if size < 1e-17 or (size < 1e-14 and size > previous / 2):
                    break
                previous = size
            else:
                raise RuntimeError(f"{problem.name}: Newton did not converge at t = {left}")
            t, y = WIDE(right), y + z[-1]
        start = stop
        out[:, index] = y
    return out
