"""The training loss of a problem, in JAX: windows solved together, compared with data, regularized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array
from pysciml.engines.jax.lower import lower
from pysciml.fitting.windows import Windows
from pysciml.graph import Model
from pysciml.neural import terms
from pysciml.neural.adjoints import solve
from pysciml.neural.regularizers import Regularizer
from pysciml.neural.steps import Setting, method


@dataclass(frozen=True)
class Layout:
    """Where in the vector that is trained everything is: numbers by name, weights, first states of windows.

    Attributes
    ----------
    by_p, by_u0 : int arrays
        Places in ``p`` and ``u0`` of the trained numbers, in the order of the vector.
    log : bool array
        Which of these numbers (first those of p, then those of u0) are trained as their logarithm.
    n_starts : int
        Windows whose first state is trained.
    """

    by_p: npt.NDArray[np.intp]
    by_u0: npt.NDArray[np.intp]
    log: npt.NDArray[np.bool_]
    n_starts: int

    def unpack(self, theta: Any, u0: Any, p: Any) -> tuple[Any, Any, Any]:
        """The initial values, the parameters, and the flat first states of windows."""
        m, k = len(self.by_p), len(self.by_u0)
        numbers = theta[: m + k]
        exp = jnp.exp if isinstance(theta, jax.Array) else np.exp
        where = jnp.where if isinstance(theta, jax.Array) else np.where
        if self.log.any():
            numbers = where(self.log, exp(where(self.log, numbers, 0.0)), numbers)
        if isinstance(theta, jax.Array):
            return (
                jnp.asarray(u0).at[self.by_u0].set(numbers[m:]),
                jnp.asarray(p).at[self.by_p].set(numbers[:m]),
                theta[m + k :],
            )
        new_u0, new_p = np.array(u0), np.array(p)
        new_p[self.by_p], new_u0[self.by_u0] = numbers[:m], numbers[m:]
        return new_u0, new_p, theta[m + k :]


class Value(NamedTuple):
    """What an evaluation of the loss reports besides itself."""

    loss: Any
    regularization: Any
    n_rhs: Any
    success: Any
    full: Any


@dataclass(frozen=True)
class Objective:
    """What is minimized.

    Attributes
    ----------
    model : Model
    u0, p : arrays
        The problem's numbers, of which the trained ones are replaced.
    layout : Layout
    regularizers : tuple of Regularizer
    algorithm : str
    rtol, atol : float
    continuity : float
        How much gaps between windows count.
    spread : array, shape (n_states,)
        The scale of each state, for gaps.
    adjoint : object, optional
        By what it is differentiated; by default through the steps taken.
    """

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
    adjoint: Any = None

    #: See `pysciml.neural.steps.Setting`; measured by `benchmarks.training_fields`.
    rolled: ClassVar[bool] = False

    def field(self) -> Callable[[Any, Any, Any], Any]:
        """The right-hand side of all windows over relative time: y (n_windows, n), params (p, start, length)."""
        rhs = lower(self.model.graph, "rhs")

        def function(tau: Any, y: Any, params: Any) -> Any:
            p, start, length = params
            slopes = jax.vmap(rhs, in_axes=(0, 0, None))(start + length * tau, y, p)
            return length[:, None] * slopes

        return function

    def start(self, u0: Any, p: Any) -> Any:
        """The initial state."""
        return u0

    def compared(self, windows: Windows) -> Callable[[Any, Any, Any], Any]:
        """What is compared with the data: a function of ``(t, ys, p)``.

        t has the shape (n_save, n_windows), ys (n_save, n_windows, n); the result (n_variables, n_save, n_windows).
        """
        observe = lower(self.model.graph, "observed")
        needs_observed = bool((windows.rows >= self.u0.size).any())

        def function(t: Any, ys: Any, p: Any) -> Any:
            rows = jnp.moveaxis(ys, 2, 0)
            if needs_observed:
                each = jax.vmap(jax.vmap(observe, in_axes=(0, 0, None)), in_axes=(0, 0, None))(t, ys, p)
                rows = jnp.concatenate([rows, jnp.moveaxis(each, 2, 0)])
            return rows[windows.rows]

        return function

    def make(self, windows: Windows, fine: int, capacity: int, *, train: bool) -> Callable[[Any, Any, Any, Any], Any]:
        """The loss as a function of ``(theta, chosen windows, coefficients, key)``: ``(total, Value)``.

        ``fine`` of the finest windows, whose first states ``theta`` has, make one of these.
        """
        regularizers = tuple(self.regularizers) if train else ()
        numbers = method(self.algorithm), self.rtol, self.atol, capacity
        plain = Setting(*numbers, adjoint=self.adjoint, rolled=self.rolled)
        how = terms.setting_for(plain, regularizers)
        field = terms.field_for(self.field(), regularizers)
        compared = self.compared(windows)
        n = self.u0.size
        shift = terms.end_shift(regularizers)
        total_count = max(windows.count, 1)
        begin, length = jnp.asarray(windows.start), jnp.asarray(windows.length)
        values, scale = jnp.asarray(windows.values), jnp.asarray(windows.scale)

        def loss(theta: Any, chosen: Any, coefficients: Any, key: Any) -> Any:
            u0, p, flat = self.layout.unpack(theta, self.u0, self.p)
            starts = self.start(u0, p)[None]
            if windows.n > 1:
                starts = jnp.concatenate([starts, flat.reshape(-1, n)])[::fine]
            here = (begin[chosen], length[chosen])
            y0 = starts[chosen]
            keys = jax.random.split(key, 3)
            noise = jax.random.normal(keys[0], y0.shape, y0.dtype) if how.quadrature else None
            given = ((p, *here), coefficients, noise)
            times, end = jnp.asarray(windows.times), jnp.ones(())
            if shift:
                moved = jax.random.uniform(keys[1], times.shape, times.dtype, -shift, shift)
                times = jnp.maximum(times + jnp.where(times > 0, moved, 0.0) / jnp.abs(here[1]).max(), 0.0)
                end = times[-1]
            out = solve(how, field, given, y0, 0.0, end, times)
            rows = compared(here[0][None] + here[1][None] * times[:, None], out.ys, p)
            residuals = (rows - values[:, :, chosen]) * scale[:, :, chosen]
            share = windows.n / len(chosen)
            fit = share * jnp.sum(residuals**2) / total_count
            gap = jnp.zeros(())
            if windows.n > 1:
                following = jnp.minimum(chosen + 1, windows.n - 1)
                jumps = (out.y1 - starts[following]) / self.spread
                gap = self.continuity * jnp.mean(jnp.where((chosen + 1 < windows.n)[:, None], jumps, 0.0) ** 2)
            extra = terms.values(how, field, regularizers, out, end, given, keys[2])
            full = (out.n_records >= capacity) & ~out.success
            return fit + gap + extra, Value(fit, extra, out.n_rhs, out.success, full)

        return loss


def value_and_slope(loss: Callable[..., Any], forward: bool) -> Callable[..., Any]:
    """``(theta, ...) -> ((total, Value), derivative by theta)`` of a loss, by reverse or by forward differentiation."""
    if not forward:
        return jax.value_and_grad(loss, has_aux=True)

    def twice(theta: Any, *rest: Any) -> Any:
        total, value = loss(theta, *rest)
        return total, (total, value)

    def both(theta: Any, *rest: Any) -> Any:
        slope, found = jax.jacfwd(twice, has_aux=True)(theta, *rest)
        return found, slope

    return both
