"""Residuals of a model against data, and their derivatives: what a least-squares method asks for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from pysciml.consistency import consistent_start
from pysciml.engines.base import Array, Engine, RawSolution, SolveOptions
from pysciml.errors import SolverError, UnsupportedError
from pysciml.fitting.inputs import Free, Observations
from pysciml.problem import Problem
from pysciml.solve import finish

#: rho and its first two derivatives by z = (residual / scale)^2, shape (3, n).
Rho = Callable[[Array], Array]

#: A residual of a point that cannot be solved, in units of the largest one at the start.
_PENALTY: Final = 1e6


def _linear(z: Array) -> Array:
    return np.stack([z, np.ones_like(z), np.zeros_like(z)])


def _soft_l1(z: Array) -> Array:
    s = 1 + z
    return np.stack([2 * (np.sqrt(s) - 1), s**-0.5, -0.5 * s**-1.5])


def _huber(z: Array) -> Array:
    inside = z <= 1
    s = np.where(inside, 1.0, z)
    return np.stack(
        [np.where(inside, z, 2 * np.sqrt(s) - 1), np.where(inside, 1.0, s**-0.5), np.where(inside, 0.0, -0.5 * s**-1.5)]
    )


def _cauchy(z: Array) -> Array:
    return np.stack([np.log1p(z), 1 / (1 + z), -1 / (1 + z) ** 2])


def _arctan(z: Array) -> Array:
    s = 1 + z**2
    return np.stack([np.arctan(z), 1 / s, -2 * z / s**2])


#: The robust losses SciPy knows by name (Triggs et al., Bundle Adjustment, 2000).
LOSSES: Final[dict[str, Rho]] = {
    "linear": _linear,
    "soft_l1": _soft_l1,
    "huber": _huber,
    "cauchy": _cauchy,
    "arctan": _arctan,
}


@dataclass
class Trace:
    """What happened, one entry per point tried."""

    values: list[Array] = field(default_factory=list[Array])
    loss: list[float] = field(default_factory=list[float])
    n_solves: list[int] = field(default_factory=list[int])
    n_rhs: list[int] = field(default_factory=list[int])
    seconds: list[float] = field(default_factory=list[float])
    failed: list[bool] = field(default_factory=list[bool])


class Residuals:
    """The weighted residuals as a function of the point searched; remembers the best one.

    A point that cannot be solved has residuals that are large but finite, so that a search turns
    back from it.
    """

    def __init__(
        self,
        problem: Problem,
        data: Observations,
        free: Free,
        engine: Engine,
        algorithm: str | None,
        options: SolveOptions,
        rho: Rho,
        rho_scale: float,
        progress: bool,
    ) -> None:
        self.problem = problem
        self.data = data
        self.free = free
        self._engine = engine
        self._algorithm = algorithm
        self._options = options
        self._rho = rho
        self._rho_scale = rho_scale
        self._progress = progress
        self._began = time.perf_counter()
        self._penalty = 1.0
        self._exact: bool | None = None  # whether the engine has sensitivities; None until asked
        self._last: RawSolution | None = None
        self.trace = Trace()
        self.n_solves = 0
        self.n_rhs = 0
        self.n_failed = 0
        self.n_exact = self.n_differenced = 0
        self.best: Array = free.inward(free.start)
        self.best_loss = np.inf
        self._residuals: tuple[Array, Array] | None = None  # the last point and its residuals
        self._jacobians: tuple[Array, Array] | None = None  # and its Jacobian

    # ---- the model at a point ----

    def numbers(self, inner: Array) -> tuple[Array, Array]:
        """Initial values and parameters at a point."""
        u0, p = self.problem.u0.copy(), self.problem.p.copy()
        values = self.free.outward(inner)
        states = self.free.is_state
        u0[self.free.index[states]] = values[states]
        p[self.free.index[~states]] = values[~states]
        given = self.problem._given
        if given is not None:
            given = given.copy()
            given[self.free.index[states]] = True
            u0 = consistent_start(self.problem.system.model, u0, p, self.problem.tspan[0], given)
        return u0, p

    @cached_property
    def _span(self) -> tuple[float, float]:
        # Nothing after the last datum can matter.
        start, end = self.problem.tspan
        last = float(self.data.times[-1])
        return (start, last if last != start else end)

    def _count(self, raw: RawSolution) -> None:
        self.n_solves += 1
        self.n_rhs = -1 if raw.n_rhs < 0 or self.n_rhs < 0 else self.n_rhs + raw.n_rhs
        if raw.retcode == "Interrupted":
            raise KeyboardInterrupt

    def predict(self, inner: Array) -> Array | None:
        """The model's values at the data, shape (n_variables, n_t); None if it cannot be solved."""
        u0, p = self.numbers(inner)
        if not (np.isfinite(u0).all() and np.isfinite(p).all()):
            return None
        try:
            raw = self._engine.solve(self.problem.system.model, u0, p, self._span, self._algorithm, self._options)
        except SolverError:
            self.n_solves += 1
            return None
        self._last = raw
        self._count(raw)
        return self._at_data(raw, p)

    def _at_data(self, raw: RawSolution, p: Array) -> Array | None:
        if not raw.successful or raw.u.shape[1] != self.data.times.size:
            return None
        rows = raw.u
        model = self.problem.system.model
        if model.observed:
            observed = raw.observed
            if observed is None:
                observed = model.graph.evaluate("observed", raw.u, p[:, None], raw.t)
            rows = np.concatenate([raw.u, observed])
        values = rows[self.data.rows]
        return values if np.isfinite(values[self.data.present]).all() else None

    def weigh(self, values: Array) -> Array:
        """Weighted residuals, model minus data, shape (n,)."""
        present = self.data.present
        return ((values - self.data.values) * self.data.scale)[present]

    # ---- what the search calls ----

    def first(self) -> None:
        """Solve at the start; unlike elsewhere, a failure there is an error.

        Raises
        ------
        SolverError
        """
        inner = self.free.inward(self.free.start)
        self._last = None
        values = self.predict(inner)
        if values is None:
            self._explain()
        else:
            residuals = self.weigh(values)
            # Also by a robust loss, which hardly grows, a failed point must be worse than the start.
            self._penalty = _PENALTY * max(1.0, float(np.max(np.abs(residuals), initial=0.0)), self._rho_scale)
            self._note(inner, residuals, failed=False)

    def _explain(self) -> None:
        """Raise for a start that gives no residuals."""
        advice = "start closer to the data, by problem.remake(...)"
        raw = self._last
        if raw is None:
            raise SolverError(f"the model cannot be solved at the starting values: {advice}")
        if not raw.successful:
            try:
                finish(self.problem, raw, self._engine.name)
            except SolverError as error:
                raise SolverError(
                    f"the model cannot be solved at the starting values: {error}; {advice}",
                    partial=error.partial,
                    retcode=error.retcode,
                ) from error
        if raw.u.shape[1] != self.data.times.size:
            reached = f"{raw.t[-1]:g}" if raw.t.size else "its start"
            raise SolverError(
                f"at the starting values a terminal event ends the solve at t = {reached}, before the last datum "
                f"at {self.data.times[-1]:g}: {advice}",
                retcode=raw.retcode,
            )
        raise SolverError(
            f"at the starting values the model is not finite where data are: {advice}", retcode="Unstable"
        )

    def __call__(self, inner: Array) -> Array:
        """Weighted residuals at a point, shape (n,)."""
        if self._residuals is not None and np.array_equal(self._residuals[0], inner):
            return self._residuals[1]
        values = self.predict(inner)
        failed = values is None
        if values is None:
            self.n_failed += 1
            residuals = np.full(self.data.n, self._penalty)
        else:
            residuals = np.clip(self.weigh(values), -self._penalty, self._penalty)
        self._note(inner, residuals, failed=failed)
        return residuals

    def loss(self, residuals: Array) -> float:
        """The sum of rho; the sum of squares for the linear loss."""
        c2 = self._rho_scale**2
        return float(c2 * np.sum(self._rho(residuals**2 / c2)[0]))

    def influence(self, residuals: Array) -> tuple[Array, Array]:
        """Psi (half the derivative of rho by the residual) and its derivative, each of shape (n,)."""
        z = residuals**2 / self._rho_scale**2
        _, first, second = self._rho(z)
        return first * residuals, first + 2 * z * second

    def _note(self, inner: Array, residuals: Array, *, failed: bool) -> None:
        self._residuals = inner.copy(), residuals
        loss = self.loss(residuals)
        if not failed and loss < self.best_loss:
            self.best, self.best_loss = inner.copy(), loss
        trace = self.trace
        trace.values.append(self.free.outward(inner))
        trace.loss.append(loss)
        trace.n_solves.append(self.n_solves)
        trace.n_rhs.append(self.n_rhs)
        trace.seconds.append(time.perf_counter() - self._began)
        trace.failed.append(failed)
        if self._progress:
            said = "cannot be solved" if failed else f"loss {loss:.6g}"
            text = f"fit: point {len(trace.loss)}, {self.n_solves} solves, {said}, best {self.best_loss:.6g}"
            sys.stderr.write(f"\r{text:<78}" if sys.stderr.isatty() else f"{text}\n")
            sys.stderr.flush()

    def settle(self) -> None:
        """Put back what has no influence: rounding in the search moves it, nothing else does."""
        idle = ~self.jacobian(self.best).any(axis=0)
        start = self.free.inward(self.free.start)
        if not idle.any() or np.array_equal(self.best[idle], start[idle]):
            return
        back = np.where(idle, start, self.best)
        values = self.predict(back)
        if values is None:
            return
        loss = self.loss(self.weigh(values))
        if loss <= max(self.trace.loss[0], self.best_loss) and np.isclose(loss, self.best_loss, rtol=1e-6, atol=0):
            self.best, self.best_loss = back, loss
            # Its Jacobian is that of its neighbour, to the precision of either.
            self._jacobians = None if self._jacobians is None else (back, self._jacobians[1])

    # ---- what comes out ----

    def fitted(self, inner: Array) -> Problem:
        """The problem with the numbers of a point."""
        u0, p = self.numbers(inner)
        model = self.problem.system.model
        return self.problem.remake(
            u0=dict(zip(model.states, u0.tolist(), strict=True)), p=dict(zip(model.parameters, p.tolist(), strict=True))
        )

    def unweighted(self, predicted: Array, data: xr.Dataset | xr.DataArray) -> xr.Dataset:
        """Data minus model, in the order of the data."""
        observations = self.data
        given = data["t"].values.astype(np.float64)
        order = (
            slice(None)
            if len(given) < 2 or (given[0] < given[-1]) == (observations.times[0] < observations.times[-1])
            else slice(None, None, -1)
        )
        variables = {
            name: xr.Variable("t", row[order], observations.attrs[name])
            for name, row in zip(observations.names, observations.values - predicted, strict=True)
        }
        return xr.Dataset(variables, coords={"t": xr.Variable("t", given, observations.attrs["t"])})

    # ---- derivatives ----

    def jacobian(self, inner: Array) -> Array:
        """The derivative of the weighted residuals by the point, shape (n, n_free)."""
        if self._jacobians is not None and np.array_equal(self._jacobians[0], inner):
            return self._jacobians[1]
        result = self._by_sensitivities(inner) if self._exact is not False else None
        if result is None:
            result = self._by_differences(inner)
            self.n_differenced += 1
        else:
            self.n_exact += 1
        self._jacobians = inner.copy(), result
        return result

    @property
    def derivatives(self) -> str:
        """What derivatives that are no differences are called."""
        return self._engine.derivatives

    @property
    def method(self) -> str:
        """Where the derivatives came from."""
        exact, differences = self.derivatives, "finite differences"
        if self.n_exact and self.n_differenced:
            return f"{exact}, {differences} where they failed ({self.n_differenced} of {self._n_jacobians})"
        return exact if self.n_exact else differences

    @property
    def _n_jacobians(self) -> int:
        return self.n_exact + self.n_differenced

    def precision(self) -> float:
        """How exact the derivatives are, relatively."""
        return 10 * (self._options.rtol if self.n_exact and not self.n_differenced else self._options.rtol ** (2 / 3))

    def _by_sensitivities(self, inner: Array) -> Array | None:
        model = self.problem.system.model
        u0, p = self.numbers(inner)
        try:
            raw, slopes = self._engine.sensitivities_by(
                model, u0, p, self._span, self._algorithm, self._options, *self._wanted
            )
        except UnsupportedError:
            self._exact = False
            return None
        except SolverError:
            self.n_solves += 1
            return None
        self._exact = True
        self._count(raw)
        if self._at_data(raw, p) is None:
            return None
        # Parameters came first, then initial values.
        by_free = slopes[:, :, np.argsort(np.argsort(self.free.is_state, kind="stable"))]
        if model.observed:
            by_free = np.concatenate([by_free, self._observed_by_free(raw, p, by_free)])
        values = self.free.outward(inner)
        weighted = by_free[self.data.rows] * self.data.scale[:, :, None] * self.free.slope(values)
        result = weighted[self.data.present]
        return result if np.isfinite(result).all() else None

    @cached_property
    def _wanted(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Which parameters and which initial values are free."""
        states = self.free.is_state
        return self.free.index[~states], self.free.index[states]

    @cached_property
    def _observed_derivatives(self) -> tuple[Any, Any]:
        graph = self.problem.system.graph
        return graph.jacobian("observed", "states"), graph.jacobian("observed", "params")

    def _observed_by_free(self, raw: RawSolution, p: Array, by_free: Array) -> Array:
        """The chain rule: observed quantities depend on the states and, directly, on parameters."""
        model = self.problem.system.model
        result = np.zeros((len(model.observed), *by_free.shape[1:]))
        (graph, rows, cols), (graph_p, rows_p, cols_p) = self._observed_derivatives
        entries = graph.evaluate("jacobian", raw.u, p[:, None], raw.t)
        for entry, row, col in zip(entries, rows, cols, strict=True):
            result[row] += entry[:, None] * by_free[col]
        entries = graph_p.evaluate("jacobian", raw.u, p[:, None], raw.t)
        for entry, row, col in zip(entries, rows_p, cols_p, strict=True):
            for k in np.flatnonzero(~self.free.is_state & (self.free.index == col)):
                result[row, :, k] += entry
        return result

    def _by_differences(self, inner: Array) -> Array:
        """Central differences; one-sided at a bound or where a side cannot be solved."""
        lower, upper = self.free.inward(self.free.lower), self.free.inward(self.free.upper)
        columns: list[Array] = []
        for k in range(inner.size):
            for factor in (1.0, 20.0):  # a larger step where the first changes less than the solve errs
                column, seen = self._difference(inner, k, factor * self._step(k, inner[k]), lower[k], upper[k])
                if seen:
                    break
            columns.append(column)
        return np.stack(columns, axis=-1)

    def _difference(self, inner: Array, k: int, step: float, low: float, high: float) -> tuple[Array, bool]:
        """One column, and whether it is more than the error of the solves; zeros where it is not.

        Were they not zeros, a search would follow noise to the end of the world.
        """
        sides: list[tuple[float, Array]] = []
        for h in (step, -step, 0.0):
            point = inner.copy()
            point[k] += h
            if low <= point[k] <= high and len(sides) < 2:
                values = self.predict(point)
                if values is not None:
                    sides.append((point[k], values))
        if len(sides) < 2:  # no neighbour can be solved: nothing is known, so nothing is moved
            return np.zeros(self.data.n), False
        (x1, v1), (x2, v2) = sides
        present = self.data.present
        # Over a solve the local errors, which the tolerances bound, add up.
        noise = 100 * (self._options.rtol * np.abs(v1) + self._options.atol)
        if not np.any((np.abs(v1 - v2) > noise)[present]):
            return np.zeros(self.data.n), False
        return ((v1 - v2) / (x1 - x2) * self.data.scale)[present], True

    def _step(self, k: int, value: float) -> float:
        # The error of the solve, about rtol, is divided by the step, and the error of the formula
        # grows with its square; the quarter allows for solutions that vary faster than their
        # parameters, such as oscillations after many periods.
        relative = float(np.clip(self._options.rtol ** (1 / 3) / 4, 1e-6, 1e-2))
        if self.free.log[k]:
            return relative
        size = abs(value) or abs(float(self.free.start[k]))
        if size == 0:
            width = self.free.upper[k] - self.free.lower[k]
            size = float(width) / 10 if np.isfinite(width) else 1.0
        return relative * size
