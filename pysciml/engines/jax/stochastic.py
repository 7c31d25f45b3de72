"""One step of a stochastic method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from pysciml.engines.jax import brownian
from pysciml.engines.jax.lower import Function
from pysciml.engines.jax.steppers import Step, Stepper, linear


@dataclass(frozen=True)
class Noise:
    """The diffusion, lowered: entry ``e`` multiplies ``dW[cols[e]]`` in row ``rows[e]``."""

    entries: Function
    rows: npt.NDArray[np.int32]
    cols: npt.NDArray[np.int32]
    n_noise: int

    def times(self, t: Any, y: Any, p: Any, dw: Any) -> Any:
        """``b(t, y) dW``, shape (n_states,)."""
        products = self.entries(t, y, p) * dw[np.asarray(self.cols)]
        if np.array_equal(self.rows, np.arange(y.shape[0])):
            return products
        return jnp.zeros_like(y).at[np.asarray(self.rows)].add(products)

    def matrix(self, t: Any, y: Any, p: Any) -> Any:
        """``b(t, y)``, shape (n_states, n_noise)."""
        empty = jnp.zeros((y.shape[0], self.n_noise), dtype=y.dtype)
        return empty.at[np.asarray(self.rows), np.asarray(self.cols)].set(self.entries(t, y, p))


class IncrementStepper(Stepper):
    """Methods that need no more of the Brownian motion than its increment.

    Parameters
    ----------
    drift : function
        Of the Itô equation for ``"EM"`` and ``"RKMil"``, of the Stratonovich equation for the others.
    method : {"EM", "RKMil", "Milstein", "EulerHeun"}
    key, start, end
        Which path, and the interval it lives on.
    depth : int
        Of the Brownian tree.
    """

    def __init__(self, drift: Function, noise: Noise, method: str, key: Any, start: Any, end: Any, depth: int) -> None:
        self._drift = drift
        self._noise = noise
        methods = {"EM": self._em, "RKMil": self._rk_mil, "Milstein": self._milstein, "EulerHeun": self._euler_heun}
        self._method = methods[method]
        self._key = key
        self._start = start
        self._span = end - start
        self._depth = depth
        self.error_order = 1.0

    def init(self, t: Any, t_next: Any, y: Any, p: Any) -> Any:
        """See `Stepper.init`."""
        start = jnp.zeros(self._noise.n_noise, dtype=y.dtype)
        return start, brownian.walker(self._noise.n_noise, self._depth)

    def step(self, t: Any, t_next: Any, y: Any, p: Any, state: Any, jumped: Any) -> Step:
        """See `Stepper.step`."""
        r = (t_next - self._start) / self._span
        before, walker = state
        walker, w = brownian.walk(walker, self._key, r)
        w = jnp.sqrt(self._span) * w
        new = self._method(t, t_next, y, p, w - before)
        return Step(new, None, {"y0": y, "y1": new}, (w, walker))

    def interpolate(self, t: Any, t_next: Any, dense: dict[str, Any]) -> Callable[[Any], Any]:
        """See `Stepper.interpolate`."""
        return linear(t, t_next, dense)

    def _em(self, t: Any, t_next: Any, y: Any, p: Any, dw: Any) -> Any:
        """Euler-Maruyama (Maruyama 1955; Kloeden & Platen eq. 10.2.4)."""
        return y + (t_next - t) * self._drift(t, y, p) + self._noise.times(t, y, p, dw)

    def _rk_mil(self, t: Any, t_next: Any, y: Any, p: Any, dw: Any) -> Any:
        """Milstein's method without derivatives, for scalar and diagonal noise (Kloeden & Platen eq. 11.1.3)."""
        h = t_next - t
        root = jnp.sqrt(h)
        slope, ones = self._drift(t, y, p), jnp.ones_like(dw)
        g = self._noise.times(t, y, p, ones)
        moved = self._noise.times(t, y + h * slope + root * g, p, ones)
        w = jnp.zeros_like(y).at[np.asarray(self._noise.rows)].set(dw[np.asarray(self._noise.cols)])
        return y + h * slope + g * w + (moved - g) * (w**2 - h) / (2 * root)

    def _milstein(self, t: Any, t_next: Any, y: Any, p: Any, dw: Any) -> Any:
        """Milstein's method for commutative noise (Kloeden & Platen eq. 10.3.16, Stratonovich form)."""
        kick = self._noise.times(t, y, p, dw)
        _, second = jax.jvp(lambda z: self._noise.times(t, z, p, dw), (y,), (kick,))
        return y + (t_next - t) * self._drift(t, y, p) + kick + 0.5 * second

    def _euler_heun(self, t: Any, t_next: Any, y: Any, p: Any, dw: Any) -> Any:
        """Heun's method for Stratonovich equations (Rümelin, SIAM J. Numer. Anal. 19, 1982)."""
        h = t_next - t
        f, g = self._drift(t, y, p), self._noise.times(t, y, p, dw)
        guess = y + h * f + g
        return y + 0.5 * h * (f + self._drift(t_next, guess, p)) + 0.5 * (g + self._noise.times(t_next, guess, p, dw))


class LevyStepper(Stepper):
    """diffrax's stochastic Runge-Kutta methods, which use the space-time Lévy area."""

    def __init__(self, drift: Function, noise: Noise, solver: Any, key: Any, start: Any, end: Any, depth: int) -> None:
        self._solver = solver
        self._terms = diffrax.MultiTerm(
            diffrax.ODETerm(drift),  # pyright: ignore[reportArgumentType]
            diffrax.ControlTerm(noise.matrix, self._make_path(noise, key, start, end, depth)),
        )
        self.error_order = 1.5

    @staticmethod
    def _make_path(noise: Noise, key: Any, start: Any, end: Any, depth: int) -> Any:
        """The Brownian motion with its space-time Lévy area."""
        # The tree lives on [0, 1] and is scaled here: its interval has to be known when compiling.
        tree = diffrax.VirtualBrownianTree(
            0.0,
            1.0,
            2.0**-depth,
            (noise.n_noise,),
            jax.random.wrap_key_data(key, impl="threefry2x32"),
            levy_area=diffrax.SpaceTimeLevyArea,
        )
        return _Rescaled(tree=tree, t0=start, t1=end)

    def init(self, t: Any, t_next: Any, y: Any, p: Any) -> Any:
        """See `Stepper.init`."""
        return self._solver.init(self._terms, t, t_next, y, p)

    def step(self, t: Any, t_next: Any, y: Any, p: Any, state: Any, jumped: Any) -> Step:
        """See `Stepper.step`."""
        new, error, dense, state, _ = self._solver.step(self._terms, t, t_next, y, p, state, jumped)
        return Step(new, error, dense, state)

    def interpolate(self, t: Any, t_next: Any, dense: dict[str, Any]) -> Callable[[Any], Any]:
        """See `Stepper.interpolate`."""
        return self._solver.interpolation_cls(t0=t, t1=t_next, **dense).evaluate


class _Rescaled(diffrax.AbstractBrownianPath[Any]):
    """A Brownian motion on [0, 1] on another interval."""

    tree: Any
    t0: Any
    t1: Any
    levy_area: Any = diffrax.SpaceTimeLevyArea

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True, use_levy: bool = False) -> Any:
        """The increment from ``t0`` to ``t1`` and its space-time Lévy area."""
        span = self.t1 - self.t0
        r0, r1 = (t0 - self.t0) / span, (t1 - self.t0) / span
        area = self.tree.evaluate(jnp.clip(r0, 0.0, 1.0), jnp.clip(r1, 0.0, 1.0), left=left, use_levy=True)
        root = jnp.sqrt(span)
        if not use_levy:
            return root * area.W
        return diffrax.SpaceTimeLevyArea(dt=span * area.dt, W=root * area.W, H=root * area.H)
