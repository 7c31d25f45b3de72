"""Training of stochastic problems: mean and variance of many paths against those of the data.

A path says nothing about another one, so that paths cannot be compared; what can is their distribution. This is the
method of moments (Hansen, *Large sample properties of generalized method of moments estimators*, Econometrica 50, 1982;
for neural SDEs: Pal et al. 2021, section 4.4) with moments simulated by the solver, whose steps are differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from pysciml.engines.base import Array
from pysciml.errors import ProblemError, UnsupportedError
from pysciml.fitting.inputs import Observations, read_data
from pysciml.graph import Model
from pysciml.problem import Problem

if TYPE_CHECKING:
    from pysciml.fitting.objective import Layout
    from pysciml.fitting.windows import Windows
    from pysciml.neural.regularizers import Regularizer

MOMENTS: Final = ("mean", "variance")
_EXAMPLE: Final = (
    "data of a stochastic problem are paths, with the dimension trajectory, or their moments, with the dimension "
    "moment and the coordinate ['mean', 'variance']: xr.concat([paths.mean('trajectory'), paths.var('trajectory', "
    "ddof=1)], dim=xr.DataArray(['mean', 'variance'], dims='moment', name='moment'))"
)


def check_problem(problem: Problem) -> None:
    """Refuse what cannot be trained, by name."""
    model = problem.system.model
    name = problem.system.name
    rows, cols = model.diffusion_rows.tolist(), model.diffusion_cols.tolist()
    if len(set(rows)) < len(rows) or len(set(cols)) < len(cols):
        raise UnsupportedError(
            f"training is for noise that is diagonal, one Brownian motion for a state at most; that of {name} is "
            f"{model.noise_type}"
        )
    if model.events or model.jumps:
        raise UnsupportedError(f"training is for systems without events and jumps; {name} has some")
    if problem.tspan[1] < problem.tspan[0]:
        raise ProblemError(f"{name} is stochastic: its time cannot run backward", symbol="tspan")


def read_moments(problem: Problem, data: Any, sigma: Any, weights: Any) -> Observations:
    """The moments as observations: first all means, then all variances.

    A residual of a variance is divided by the square of what one of the mean is divided by: by
    default by the typical standard deviation of the paths, so that both count and units do not.

    Parameters
    ----------
    data : xarray.Dataset
        Over ``(trajectory, t)``, or over ``(moment, t)``.
    sigma, weights
        See `fit`.
    """
    if isinstance(data, xr.DataArray) and data.name is not None:
        data = data.to_dataset()
    if not isinstance(data, xr.Dataset) or not {"trajectory", "moment"} & set(data.dims):
        raise ProblemError(f"{problem.system.name} is stochastic: {_EXAMPLE}", symbol="data")
    if "trajectory" in data.dims:
        if data.sizes["trajectory"] < 2:
            raise ProblemError("data has a single trajectory, which has no variance", symbol="data")
        parts = [data.mean("trajectory"), data.var("trajectory", ddof=1)]
    else:
        given = [str(name) for name in data["moment"].values] if "moment" in data.coords else []
        if sorted(given) != sorted(MOMENTS):
            raise ProblemError(f"data has the moments {given or 'without names'}; {_EXAMPLE}", symbol="moment")
        parts = [data.sel(moment=name, drop=True) for name in MOMENTS]
    variance = read_data(problem, parts[1], None, None)
    typical: dict[str, float] = {}
    for name, values, present in zip(variance.names, variance.values, variance.present, strict=True):
        if np.any(values[present] < 0):
            raise ProblemError(f"data: the variance of {name} is negative", symbol=name)
        typical[name] = float(np.sqrt(values[present].mean())) or 1.0
    mean = read_data(problem, parts[0], typical if sigma is None and weights is None else sigma, weights)
    return replace(
        mean,
        names=mean.names * 2,
        rows=np.concatenate([mean.rows, mean.rows]),
        values=np.concatenate([mean.values, variance.values]),
        present=np.concatenate([mean.present, variance.present]),
        scale=np.concatenate([mean.scale, np.where(variance.present, mean.scale**2, 0.0)]),
    )


@dataclass(frozen=True)
class MomentObjective:
    """What is minimized: the mean square of all residuals of means and variances, times two.

    Attributes
    ----------
    model : Model
    u0, p : arrays
        The problem's numbers, of which the trained ones are replaced.
    layout : Layout
    regularizers : tuple of Regularizer
    rtol, atol : float
    trajectories : int
        Paths for each evaluation, all with one step size; each epoch has its own noise.
    """

    model: Model
    u0: Array
    p: Array
    layout: Layout
    regularizers: Sequence[Regularizer]
    rtol: float
    atol: float
    trajectories: int

    def field(self) -> Callable[[Any, Any, Any], Any]:
        """Drift and diffusion of all paths: y (trajectories, n)."""
        import jax
        import jax.numpy as jnp

        from pysciml.engines.jax.lower import lower

        rhs, entries = lower(self.model.graph, "rhs"), lower(self.model.graph, "diffusion")
        rows = np.asarray(self.model.diffusion_rows)

        def function(t: Any, y: Any, p: Any) -> Any:
            drift = jax.vmap(rhs, in_axes=(None, 0, None))(t, y, p)
            noise = jax.vmap(entries, in_axes=(None, 0, None))(t, y, p)
            return drift, jnp.zeros_like(y).at[:, rows].set(noise)

        return function

    def make(self, windows: Windows, fine: int, capacity: int, *, train: bool) -> Callable[[Any, Any, Any, Any], Any]:
        """See `pysciml.fitting.objective.Objective.make`; there is one window."""
        import jax
        import jax.numpy as jnp

        from pysciml.engines.jax.lower import lower
        from pysciml.fitting.objective import Value
        from pysciml.neural import noisy_terms
        from pysciml.neural.stochastic import NoisySetting, solve_noisy

        regularizers = tuple(self.regularizers) if train else ()
        how = noisy_terms.setting_for(NoisySetting(self.rtol, self.atol, capacity), regularizers)
        field = noisy_terms.field_for(self.field(), regularizers)
        observe = lower(self.model.graph, "observed")
        begin, length = float(windows.start[0]), float(windows.length[0])
        times = jnp.asarray(begin + length * windows.times)
        values, scale = jnp.asarray(windows.values[:, :, 0]), jnp.asarray(windows.scale[:, :, 0])
        n = len(windows.rows) // 2
        rows = windows.rows[:n]
        needs_observed = bool((rows >= len(self.model.states)).any())

        def loss(theta: Any, chosen: Any, coefficients: Any, key: Any) -> Any:
            u0, p, _ = self.layout.unpack(theta, self.u0, self.p)
            y0 = jnp.tile(u0, (self.trajectories, 1))
            keys = jax.random.split(key, 3)
            noise = jax.random.normal(keys[0], y0.shape, y0.dtype) if how.quadrature else None
            given = (p, coefficients, noise)
            out = solve_noisy(how, field, given, y0, begin, begin + length, keys[1], times)
            paths = out.ys  # (n_save, trajectories, n)
            if needs_observed:
                each = jax.vmap(jax.vmap(observe, in_axes=(None, 0, None)), in_axes=(0, 0, None))(times, paths, p)
                paths = jnp.concatenate([paths, each], axis=-1)
            paths = paths[..., rows]
            moments = jnp.concatenate([paths.mean(axis=1), paths.var(axis=1, ddof=1)], axis=-1).T
            fit = 2 * jnp.sum(((moments - values) * scale) ** 2) / max(windows.count, 1)
            extra = noisy_terms.values(how, field, regularizers, out, begin + length, given, keys[2])
            full = (out.n_records >= capacity) & ~out.success
            return fit + extra, Value(fit, extra, out.n_rhs, out.success, full)

        return loss
