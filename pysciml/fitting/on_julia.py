"""The training loss of a problem, on Julia: `pysciml.fitting.objective`, with its derivative written out.

Julia solves and goes back through the solve; what is between the solution and the loss is little, and NumPy's. Random
numbers are those that the same key gives on JAX, so that both engines do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.julia.training import AdjointBatchSolve, BatchSolve, Observer, Outcome, check_operations
from pysciml.errors import UnsupportedError
from pysciml.fitting.objective import Layout, Value
from pysciml.fitting.training_options import TrainingOptions
from pysciml.fitting.windows import Windows
from pysciml.graph import Model
from pysciml.neural.integrands import integrand, integrated
from pysciml.neural.regularizers import (
    ErrorEstimate,
    KineticEnergy,
    LocalErrorEstimate,
    LocalStiffnessEstimate,
    Regularizer,
    StiffnessEstimate,
    TaylorDerivative,
)
from pysciml.neural.terms import end_shift

#: ``(theta, chosen windows, coefficients, key) -> (total, Value, derivative by theta)``, where training.
Loss = Callable[[Array, Any, Array, Any], tuple[float, Value, Array | None]]


def check_regularizers(model: Model, regularizers: Sequence[Regularizer]) -> None:
    """Refuse, by name, what has operations that Julia cannot train."""
    if any(map(integrated, regularizers)):
        check_operations(integrand(model.graph, regularizers)[0])


def check_for_device(options: TrainingOptions) -> None:
    """Refuse, by name, what trainings on Julia have on a CPU alone."""
    refused = [
        (options.adjoint is not None, "adjoint="),
        *((integrated(r), f"{type(r).__name__}(...)") for r in options.regularizers),
    ]
    for is_given, what in refused:
        if is_given:
            raise UnsupportedError(
                f"device={options.device!r} with engine='julia' does not train with {what}: leave one of both out, or "
                "take engine='jax'",
                engine="julia",
            )


@dataclass(frozen=True)
class JuliaObjective:
    """What is minimized; the attributes are those of `pysciml.fitting.objective.Objective`."""

    model: Model
    u0: Array
    p: Array
    layout: Layout
    regularizers: Sequence[Regularizer]
    algorithm: str
    rtol: float
    atol: float
    continuity: float
    spread: Array
    adjoint: str | None = None
    device: str = "cpu"
    precision: str = "float64"

    def make(self, windows: Windows, fine: int, capacity: int, *, train: bool) -> Loss:
        """See `Objective.make`; the function also returns the derivative by ``theta`` where ``train``."""
        regularizers = tuple(self.regularizers) if train else ()
        through_steps = any(getattr(r, "through_steps", False) for r in regularizers)
        n = len(self.model.states)
        needs_observed = bool((windows.rows >= n).any())
        along = owners = None
        if any(map(integrated, regularizers)):
            along, owners = integrand(self.model.graph, regularizers)
        solves: dict[int, BatchSolve] = {}
        observers: dict[int, Observer] = {}

        def loss(theta: Array, chosen: Any, coefficients: Array, key: Any) -> tuple[float, Value, Array | None]:
            members = len(chosen)
            if members not in solves:
                how = self.model, self.algorithm, members, self.rtol, self.atol, capacity
                solves[members] = (
                    AdjointBatchSolve(self.adjoint, *how, along)
                    if self.adjoint is not None and train
                    else BatchSolve(*how, through_steps, along, device=self.device, precision=self.precision)
                )
            solver = solves[members]
            u0, p, flat = self.layout.unpack(theta, self.u0, self.p)
            starts = np.concatenate([u0[None], flat.reshape(-1, n)])[::fine] if windows.n > 1 else u0[None]
            here = windows.start[chosen], windows.length[chosen]
            keys = jax.random.split(key, 3)
            times = _moved(windows.times, end_shift(regularizers), here[1], keys[1])
            end = float(times[-1])
            kinetic = kinetic_coefficient(regularizers, coefficients)
            weights = noise = None
            if owners is not None:
                weights = coefficients[owners]
                noise = np.asarray(jax.random.normal(keys[0], (members, n), np.float64)).T
            out = solver.solve(p, starts[chosen].T, *here, end, times, kinetic, weights, noise)
            if not out.success:
                full = out.n_records >= capacity
                return np.nan, Value(np.nan, np.nan, out.n_rhs, False, full), np.full_like(theta, np.nan)
            parts = [out.ys]
            if needs_observed:
                observer = observers.setdefault(members, Observer(self.model, members))
                parts.append(observer.observe(p, out.ys, *here, times))
            rows = np.moveaxis(np.concatenate(parts, axis=1), 1, 0)
            scale = windows.scale[:, :, chosen]
            residuals = (rows[windows.rows] - windows.values[:, :, chosen]) * scale
            share = windows.n / members / max(windows.count, 1)
            fit = share * float(np.sum(residuals**2))
            gap, jumps_bar = self._gap(out, starts, chosen, windows.n)
            extra = out.integral + sum(
                float(c) * value for c, value, *_ in by_estimates(regularizers, coefficients, out)
            )
            if not train:
                return fit + gap + extra, Value(fit, extra, out.n_rhs, True, False), None
            rows_bar = np.zeros_like(rows)
            np.add.at(rows_bar, windows.rows, 2 * share * residuals * scale)
            bars = np.ascontiguousarray(np.moveaxis(rows_bar, 0, 1))
            ys_bar, p_bar = np.ascontiguousarray(bars[:, :n]), np.zeros_like(p)
            if needs_observed:
                observers[members].pull(ys_bar, p_bar, bars[:, n:], p, out.ys, *here, times)
            starts_bar = np.zeros_like(starts)
            following = np.minimum(chosen + 1, windows.n - 1)
            np.subtract.at(starts_bar, following, jumps_bar)
            error_bar, stiffness_bar, h_bar = np.zeros((3, out.n_records))
            for c, _, by_error, by_stiffness, by_h in by_estimates(regularizers, coefficients, out):
                error_bar += c * by_error
                stiffness_bar += c * by_stiffness
                h_bar += c * by_h
            y0_bar = solver.pull(ys_bar, jumps_bar.T, error_bar, stiffness_bar, h_bar, 1.0)
            np.add.at(starts_bar, chosen, y0_bar.T)
            extra += _local(solver, out, regularizers, coefficients, end, keys[2])
            solver.add_by_parameters(p_bar)
            slope = by_theta(self.layout, theta, p_bar, starts_bar, fine)
            return fit + gap + extra, Value(fit, extra, out.n_rhs, True, False), slope

        return loss

    def _gap(self, out: Outcome, starts: Array, chosen: Any, n_windows: int) -> tuple[float, Array]:
        """What the gaps between windows cost, and its derivative by the ends."""
        if n_windows == 1:
            return 0.0, np.zeros_like(out.y1.T)
        following = np.minimum(chosen + 1, n_windows - 1)
        inside = (chosen + 1 < n_windows)[:, None]
        jumps = np.where(inside, (out.y1.T - starts[following]) / self.spread, 0.0)
        cost = self.continuity * float(np.mean(jumps**2))
        return cost, self.continuity * 2 * jumps / jumps.size / self.spread


def by_theta(layout: Layout, theta: Array, p_bar: Array, starts_bar: Array, fine: int) -> Array:
    """From derivatives by parameters and by first states of windows to those by the vector that is trained."""
    m, k = len(layout.by_p), len(layout.by_u0)
    slope = np.zeros_like(theta)
    slope[:m] = p_bar[layout.by_p]
    slope[m : m + k] = starts_bar[0, layout.by_u0]
    slope[: m + k][layout.log] *= np.exp(theta[: m + k][layout.log])
    if layout.n_starts:
        states = slope[m + k :].reshape(-1, starts_bar.shape[1])
        states[fine - 1 :: fine] = starts_bar[1:]
    return slope


def _moved(times: Array, shift: float, length: Array, key: Any) -> Array:
    """Output times, each moved at random where a regularizer asks for it."""
    if not shift:
        return times
    by = np.asarray(jax.random.uniform(key, times.shape, np.float64, -shift, shift))
    return np.maximum(times + np.where(times > 0, by, 0.0) / np.abs(length).max(), 0.0)


def kinetic_coefficient(regularizers: Sequence[Regularizer], coefficients: Array) -> float:
    """What the mean square of the derivative is multiplied by, to be integrated along."""
    found = [
        c
        for c, r in zip(coefficients.tolist(), regularizers, strict=False)
        if isinstance(r, KineticEnergy) or (isinstance(r, TaylorDerivative) and r.order == 1)
    ]
    return float(sum(found))


def by_estimates(
    regularizers: Sequence[Regularizer], coefficients: Array, out: Outcome
) -> list[tuple[float, float, Array, Array, Array]]:
    """Of regularizers by the estimates of all steps: coefficient, value, derivatives by error, stiffness and size."""
    found: list[tuple[float, float, Array, Array, Array]] = []
    none = np.zeros(out.n_records)
    for c, r in zip(coefficients.tolist(), regularizers, strict=False):
        if isinstance(r, ErrorEstimate):
            value, bar = aggregate(out.error * out.h, r.aggregate, out.n_steps)
            found.append((c, value, bar * out.h, none, bar * out.error))
        elif isinstance(r, StiffnessEstimate):
            value, bar = aggregate(out.stiffness, r.aggregate, out.n_steps)
            found.append((c, value, none, bar, none))
    return found


def aggregate(each: Array, how: str, count: int) -> tuple[float, Array]:
    """Of the values of all steps, one, and its derivative by them."""
    if how == "max":
        largest = each == each.max()
        return float(each.max()), largest / np.count_nonzero(largest)
    by = 1 / max(count, 1) if how == "mean" else 1.0
    return by * float(np.sum(each)), np.full_like(each, by)


def local_coefficients(regularizers: Sequence[Regularizer], coefficients: Array) -> list[tuple[bool, float, float]]:
    """Of each kind of sampling there is: whether uniform, and the coefficients of error and of stiffness."""
    found: list[tuple[bool, float, float]] = []
    for sampling in ("unbiased", "biased"):
        by = {LocalErrorEstimate: 0.0, LocalStiffnessEstimate: 0.0}
        for c, r in zip(coefficients.tolist(), regularizers, strict=False):
            if isinstance(r, (LocalErrorEstimate, LocalStiffnessEstimate)) and r.sampling == sampling:
                by[type(r)] = c
        if any(by.values()):
            found.append((sampling == "unbiased", by[LocalErrorEstimate], by[LocalStiffnessEstimate]))
    return found


def _local(
    solver: BatchSolve, out: Outcome, regularizers: Sequence[Regularizer], coefficients: Array, end: float, key: Any
) -> float:
    """The weighted sum of local regularizers; their derivatives stay in the solver."""
    total = 0.0
    for uniform, by_error, by_stiffness in local_coefficients(regularizers, coefficients):
        if uniform:
            where = float(jax.random.uniform(key, (), np.float64, 0.0, end))
        else:
            where = float(jax.random.randint(key, (), 0, max(out.n_records, 1)))
        error, stiffness = solver.local(uniform, where, by_error, by_stiffness)
        total += by_error * error + by_stiffness * stiffness
    return total
