"""The loss of a stochastic problem, on Julia: `pysciml.fitting.moments`, with its derivative written out.

The random numbers are those that the same key gives on JAX, so that both engines simulate the same paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jax
import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.jax.compiling import compiled
from pysciml.engines.julia.training import NoisyBatchSolve, Observer, Outcome
from pysciml.fitting.objective import Layout, Value
from pysciml.fitting.on_julia import Loss, by_estimates, by_theta, kinetic_coefficient, local_coefficients
from pysciml.fitting.windows import Windows
from pysciml.graph import Model
from pysciml.neural.integrands import integrand, integrated
from pysciml.neural.regularizers import Regularizer

#: Attempted steps for which there are random numbers at first; twice as many where they do not suffice.
_DRAWS: Final = 64


@dataclass(frozen=True)
class JuliaMomentObjective:
    """What is minimized; the attributes are those of `pysciml.fitting.moments.MomentObjective`."""

    model: Model
    u0: Array
    p: Array
    layout: Layout
    regularizers: Sequence[Regularizer]
    rtol: float
    atol: float
    trajectories: int
    device: str = "cpu"
    precision: str = "float64"

    def make(self, windows: Windows, fine: int, capacity: int, *, train: bool) -> Loss:
        """See `pysciml.fitting.on_julia.JuliaObjective.make`; there is one window."""
        regularizers = tuple(self.regularizers) if train else ()
        paths, n = self.trajectories, len(self.model.states)
        place = {"device": self.device, "precision": self.precision}
        along, owners = None, None
        if any(map(integrated, regularizers)):
            along, owners = integrand(self.model.graph, regularizers)
        solver = NoisyBatchSolve(self.model, paths, self.rtol, self.atol, capacity, along, **place)
        begin, length = float(windows.start[0]), float(windows.length[0])
        times = begin + length * windows.times
        span = begin, begin + length
        values, scale = windows.values[:, :, 0], windows.scale[:, :, 0]
        rows = windows.rows[: len(windows.rows) // 2]
        observer = Observer(self.model, paths) if bool((rows >= n).any()) else None
        here = np.zeros(paths), np.ones(paths)
        size = _DRAWS

        def solve(p: Array, y0: Array, key: Any, kinetic: float, **given: Array) -> Outcome:
            nonlocal size
            while True:
                out = solver.solve(p, y0, span, times, _draws(key, size, paths, n), kinetic, **given)
                if out is not None:
                    return out
                size *= 2

        def loss(theta: Array, chosen: Any, coefficients: Array, key: Any) -> tuple[float, Value, Array | None]:
            u0, p, _ = self.layout.unpack(theta, self.u0, self.p)
            keys = jax.random.split(key, 3)
            kinetic = kinetic_coefficient(regularizers, coefficients)
            given: dict[str, Array] = {}
            if owners is not None:
                noise = np.asarray(jax.random.normal(keys[0], (paths, n), np.float64)).T
                given = {"weights": coefficients[owners], "noise": noise}
            out = solve(p, np.tile(u0[:, None], paths), keys[1], kinetic, **given)
            if not out.success:
                full = out.n_records >= capacity
                return np.nan, Value(np.nan, np.nan, out.n_rhs, False, full), np.full_like(theta, np.nan)
            found = out.ys  # (n_save, n, paths)
            if observer is not None:
                found = np.concatenate([found, observer.observe(p, out.ys, *here, times)], axis=1)
            seen = found[:, rows]
            mean = seen.mean(axis=2, keepdims=True)
            moments = np.concatenate([mean[..., 0], seen.var(axis=2, ddof=1)], axis=1).T
            share = 2 / max(windows.count, 1)
            residuals = (moments - values) * scale
            fit = share * float(np.sum(residuals**2))
            estimates = by_estimates(regularizers, coefficients, out)
            extra = out.integral + sum(c * value for c, value, *_ in estimates)
            if not train:
                return fit + extra, Value(fit, extra, out.n_rhs, True, False), None
            by_mean, by_variance = np.split((2 * share * residuals * scale).T[..., None], 2, axis=1)
            seen_bar = by_mean / paths + by_variance * 2 * (seen - mean) / (paths - 1)
            found_bar = np.zeros_like(found)
            np.add.at(np.moveaxis(found_bar, 1, 0), rows, np.moveaxis(seen_bar, 1, 0))
            ys_bar, p_bar = np.ascontiguousarray(found_bar[:, :n]), np.zeros_like(p)
            if observer is not None:
                observer.pull(ys_bar, p_bar, found_bar[:, n:], p, out.ys, *here, times)
            error_bar, stiffness_bar = np.zeros((2, out.n_records))
            for c, _, by_error, by_stiffness, _ in estimates:
                error_bar += c * by_error
                stiffness_bar += c * by_stiffness
            y0_bar = solver.pull(ys_bar, np.zeros_like(out.y1), error_bar, stiffness_bar, 1.0)
            extra += self._local(solver, out, regularizers, coefficients, span, keys[2])
            solver.add_by_parameters(p_bar)
            slope = by_theta(self.layout, theta, p_bar, y0_bar.sum(axis=1)[None], fine)
            return fit + extra, Value(fit, extra, out.n_rhs, True, False), slope

        return loss

    def _local(
        self,
        solver: NoisyBatchSolve,
        out: Outcome,
        regularizers: Sequence[Regularizer],
        coefficients: Array,
        span: tuple[float, float],
        key: Any,
    ) -> float:
        """The weighted sum of local regularizers; their derivatives stay in the solver."""
        total = 0.0
        place, noise = jax.random.split(key)
        shape = self.trajectories, out.y1.shape[0]
        for uniform, by_error, by_stiffness in local_coefficients(regularizers, coefficients):
            if uniform:
                where = float(jax.random.uniform(place, (), np.float64, *span))
            else:
                where = float(jax.random.randint(place, (), 0, max(out.n_records, 1)))
            draw = np.moveaxis(np.asarray(jax.random.normal(noise, (2, *shape), np.float64)), 1, 2)
            error, stiffness = solver.local(uniform, where, out.y1, draw, by_error, by_stiffness)
            total += by_error * error + by_stiffness * stiffness
        return total


def _draws(key: Any, size: int, paths: int, n: int) -> Array:
    """The random numbers of attempted steps, shape (size, 2, n, paths)."""

    def make() -> Callable[..., Any]:
        import jax.numpy as jnp

        def draw(key: Any, number: Any) -> Any:
            return jax.random.normal(jax.random.fold_in(key, number), (2, paths, n), jnp.float64)

        return lambda key: jnp.moveaxis(jax.vmap(draw, in_axes=(None, 0))(key, jnp.arange(size)), 2, 3)

    run, _ = compiled(("draws", size, paths, n), make, key)
    return np.asarray(run(key))
