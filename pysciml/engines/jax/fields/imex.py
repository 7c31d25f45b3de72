"""Additive Runge-Kutta methods: what is linear in the fields implicitly, the rest explicitly.

C. A. Kennedy & M. H. Carpenter, Appl. Numer. Math. 44 (2003) 139-181, with diffrax's coefficients.
The linear part is one sparse matrix for the whole solve, factorized again only when the step size
changes: no Newton iteration, no Jacobian of the rest.
"""

from __future__ import annotations

import time
from typing import Any, Final

import diffrax
import numpy as np

from pysciml.engines.base import Array, RawSolution, SolveOptions
from pysciml.engines.fields.marching import Stepper, StepSizeError, march
from pysciml.engines.fields.operator import Operator
from pysciml.engines.fields.qndf import norm
from pysciml.engines.jax.compiling import double_precision
from pysciml.engines.jax.fields.run import compiled_operator
from pysciml.errors import UnsupportedError
from pysciml.graph import Model
from pysciml.graph.field_jacobian import FieldJacobian
from pysciml.graph.field_split import split
from pysciml.graph.fields import FieldGraph

#: A change of the step size by less than this is not worth a factorization.
_WORTH: Final = 1.2


def linear_matrix(model: Model, p: Array, algorithm: str) -> Any:
    """The linear part as a sparse matrix.

    Raises
    ------
    UnsupportedError
        If there is none, or it would be full.
    """
    graph = model.graph
    assert isinstance(graph, FieldGraph)
    try:
        matrix = FieldJacobian(split(graph), "implicit")(np.zeros(graph.n_states), p, 0.0)
    except ValueError as error:
        raise UnsupportedError(
            f"{algorithm} takes the linear part of {model.name!r} as a sparse matrix, and {error}: ETDRK4 has that "
            "part mode by mode, QNDF needs no matrix",
            engine="jax",
            algorithm=algorithm,
        ) from error
    matrix.eliminate_zeros()
    if not matrix.nnz or not np.isfinite(matrix.data).all():
        raise UnsupportedError(
            f"{algorithm} takes terms implicitly that are linear in the fields with coefficients that do not change in "
            f"time, and the equations of {model.name!r} have none: take QNDF",
            engine="jax",
            algorithm=algorithm,
        )
    return matrix


class KenCarp(Stepper):
    """One of the methods, from one time to another.

    Parameters
    ----------
    name : {"KenCarp3", "KenCarp4", "KenCarp5"}
    operator : Operator
        The whole right-hand side.
    matrix : csr_array
        Its linear part.
    """

    def __init__(
        self,
        name: str,
        operator: Operator,
        matrix: Any,
        t: float,
        y: Array,
        end: float,
        rtol: float,
        atol: float,
        dt: float | None,
    ) -> None:
        super().__init__(t, y.copy(), end)
        self.name = name
        explicit, implicit = getattr(diffrax, name).tableau.tableaus
        self._explicit = [np.asarray(row) for row in explicit.a_lower]
        self._implicit = [np.asarray(row) for row in implicit.a_lower]
        self._c, self._gamma = np.asarray(implicit.c), float(implicit.a_diagonal[-1])
        self._b, self._error = np.asarray(implicit.b_sol), np.asarray(implicit.b_error)
        self._order = int(name[-1])
        self._rhs, self._matrix = operator.rhs, matrix
        self._rtol, self._atol = rtol, atol
        self._factors: tuple[float, Any] = 0.0, None
        self._slope = self._rhs(t, y)
        self.finite = bool(np.isfinite(self._slope).all())
        # A hundredth of the time in which what is not linear changes the solution by its size.
        scale = atol + rtol * np.abs(y)
        with np.errstate(all="ignore"):
            d0, d1 = norm(y / scale), norm((self._slope - matrix @ y) / scale)
        h = 1e-4 * (end - t) if d0 < 1e-5 or not 1e-5 <= d1 < np.inf else 0.01 * d0 / d1
        self._h = min(h if dt is None else dt, end - t)
        self._last: tuple[float, Array, Array] = t, y, self._slope

    def attempt(self, t: float, y: Array, slope: Array, h: float) -> tuple[Array, Array]:
        """The solution after a step, and its estimated error."""
        solve = self._inverse(h)
        linear = [self._matrix @ y]
        rest = [slope - linear[0]]
        for e, i, c in zip(self._explicit, self._implicit, self._c, strict=True):
            known = y + h * (_combine(e, rest) + _combine(i, linear))
            stage = solve(known)
            # Not the matrix times the stage, which would magnify its rounding.
            linear.append((stage - known) / (h * self._gamma))
            rest.append(self._rhs(t + c * h, stage) - self._matrix @ stage)
        slopes = [a + b for a, b in zip(linear, rest, strict=True)]
        # What decays at once is no error of the step (Hosea & Shampine, Appl. Numer. Math. 20, 1996).
        return y + h * _combine(self._b, slopes), solve(h * _combine(self._error, slopes))

    def _inverse(self, h: float) -> Any:
        from scipy import sparse
        from scipy.sparse.linalg import splu

        if self._factors[0] != h:
            n = self._matrix.shape[0]
            self._factors = h, splu(sparse.csc_array(sparse.eye_array(n) - h * self._gamma * self._matrix))
        return self._factors[1].solve

    def step(self) -> bool:
        """See `Stepper.step`."""
        t, y = self.t, self.y
        h = self.end - t if t + 1.000001 * self._h >= self.end else self._h
        with np.errstate(all="ignore"):
            new, error = self.attempt(t, y, self._slope, h)
            size = norm(error / (self._atol + self._rtol * np.maximum(np.abs(y), np.abs(new))))
        if not size <= 1:
            self._h = h * max(0.2, 0.9 * size ** (-1 / self._order) if np.isfinite(size) else 0.2)
            if not self._h > max(16 * np.finfo(float).eps * abs(t), 1e-22 * abs(self.end)):
                raise StepSizeError
            return False
        self._last = t, y, self._slope
        self.t, self.y = (self.end if h == self.end - t else t + h), new
        self._slope = self._rhs(self.t, new)
        factor = min(5.0, 0.9 * max(size, 1e-10) ** (-1 / self._order))
        if factor < 1 or factor > _WORTH:
            self._h = max(self._h, h) * max(0.2, factor)
        return True

    def interpolate(self, t: float) -> Array:
        """See `Stepper.interpolate`: the cubic Hermite polynomial."""
        begin, y, slope = self._last
        h = self.t - begin
        s = (t - begin) / h
        gap = self.y - y
        return y + s * (gap + (1 - s) * ((1 - s) * (h * slope - gap) - s * (h * self._slope - gap)))


def _combine(weights: Array, slopes: list[Array]) -> Array:
    total = np.zeros_like(slopes[0])
    for weight, slope in zip(weights.tolist(), slopes, strict=False):
        if weight:
            total += weight * slope
    return total


def solve(
    model: Model, u0: Array, p: Array, tspan: tuple[float, float], algorithm: str, options: SolveOptions
) -> RawSolution:
    """Solve; see `pysciml.engines.base.Engine.solve`."""
    if options.device != "cpu" or options.precision != "float64":
        raise UnsupportedError(
            f"{algorithm} for partial differential equations runs on the CPU in double precision",
            engine="jax",
            algorithm=algorithm,
        )
    begin = time.perf_counter()
    sign = 1.0 if tspan[1] > tspan[0] else -1.0
    matrix = sign * linear_matrix(model, p, algorithm)
    with double_precision():
        operator, compiling = compiled_operator(model, p, sign > 0)
        method = KenCarp(
            algorithm,
            operator,
            matrix,
            sign * tspan[0],
            u0,
            sign * tspan[1],
            options.rtol,
            options.atol,
            options.dt,
        )
        solution = march(method, operator, model.name, tspan, options, u0)
    solution.compile_seconds = compiling
    solution.solve_seconds = time.perf_counter() - begin - compiling
    return solution
