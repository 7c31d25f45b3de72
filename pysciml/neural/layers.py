"""`NeuralODE` and `NeuralSDE`: differential equations as layers, with what their solves cost."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from pysciml.errors import ProblemError
from pysciml.hints import named_options
from pysciml.neural import layer_input, noisy_terms, terms
from pysciml.neural.adaptive import Outcome
from pysciml.neural.adjoint_option import read_layer_adjoint
from pysciml.neural.adjoints import solve
from pysciml.neural.regularizers import Regularizer, read_regularizers
from pysciml.neural.steps import METHODS, Setting, method
from pysciml.neural.stochastic import NoisySetting, solve_noisy
from pysciml.problem import number


class Solved(NamedTuple):
    """What a layer returns.

    Attributes
    ----------
    y : array
        The solution: at the end, shape of the input; with ``ts``, shape (n_ts, ...).
    regularization : scalar
        The weighted sum of the layer's regularizers, to add to the loss; 0 without.
    evaluations : integer
        Of the field (for stochastic equations: of the drift; the diffusion has as many).
    steps, rejected : integers
    success : bool
        Whether the end was reached; the solution is NaN where not.
    step_sizes : array, shape (max_steps,)
        Of the steps taken, in order; 0 beyond the last one, and for rejected ones where those are kept. All are 0 where
        the layer has an ``adjoint``, which keeps no steps.
    """

    y: Any
    regularization: Any
    evaluations: Any
    steps: Any
    rejected: Any
    success: Any
    step_sizes: Any


def check_numbers(owner: str, t0: Any, t1: Any, rtol: Any, atol: Any, max_steps: Any) -> tuple[float, ...]:
    """The options all layers have, checked."""
    start, end = number(t0, f"{owner}: t0", "t0"), number(t1, f"{owner}: t1", "t1")
    if not end > start:
        raise ProblemError(f"{owner}: t1 must be after t0, not {t0!r} to {t1!r}", symbol="t1")
    tolerances = number(rtol, f"{owner}: rtol", "rtol"), number(atol, f"{owner}: atol", "atol")
    if min(tolerances) < 0 or max(tolerances) == 0:
        raise ProblemError(f"{owner}: rtol and atol must be 0 or more, and not both 0", symbol="rtol")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ProblemError(f"{owner}: max_steps must be a positive integer, not {max_steps!r}", symbol="max_steps")
    return start, end, *tolerances


class NeuralODE(eqx.Module):
    """A layer ``y(t0) -> y(t1)`` of the equation ``dy/dt = field(t, y)``.

    A batch is one state with one step size, as in Pal et al. (2021, 2023): what the layer learns to
    make cheap is the solve of the batch. Its gradients are those of the steps taken, unless it has
    another ``adjoint``.

    Parameters
    ----------
    field : callable pytree
        ``field(t, y) -> dy`` for one sample, y of shape (n,): an Equinox module, whose arrays are
        trained with the layer.
    t0, t1 : float
    regularize : regularizer or list of them, optional
        See `pysciml.neural`; in effect where ``train=True``.
    rtol, atol : float
    algorithm : {"Tsit5", "DP5", "BS3"}
    max_steps : int, default 256
        How many steps there may be; as many are kept for the way back.
    adjoint : str or diffrax adjoint, optional
        By which the layer is differentiated, as in `pysciml.fit`: the name of one of diffrax's, such as
        ``"BacksolveAdjoint"`` (Chen et al. 2018) and ``"RecursiveCheckpointAdjoint(checkpoints = 16)"``, or one of its
        objects. Local regularizers go with any of them (Pal et al. 2023); ``"ForwardMode"`` is for `jax.jvp`. By
        default, the discrete adjoint of the accepted steps (Pal et al. 2021).

    Raises
    ------
    ProblemError
        Naming the option that makes no sense.
    UnsupportedError
        If the adjoint does not go with a regularizer.

    Examples
    --------
    >>> layer = NeuralODE(field, regularize=ErrorEstimate(1.0, final=0.1))
    >>> solved = layer(images, key=key, progress=epoch / epochs)
    >>> loss = cross_entropy(readout(solved.y), labels) + solved.regularization
    """

    field: Any
    t0: float = eqx.field(static=True)
    t1: float = eqx.field(static=True)
    rtol: float = eqx.field(static=True)
    atol: float = eqx.field(static=True)
    algorithm: str = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    regularize: tuple[Regularizer, ...] = eqx.field(static=True)
    adjoint: Any = eqx.field(static=True)

    @named_options()
    def __init__(
        self,
        field: Any,
        t0: float = 0.0,
        t1: float = 1.0,
        regularize: Any = None,
        rtol: float = 1e-6,
        atol: float = 1e-6,
        algorithm: str = "Tsit5",
        max_steps: int = 256,
        adjoint: Any = None,
    ) -> None:
        self.t0, self.t1, self.rtol, self.atol = check_numbers("NeuralODE", t0, t1, rtol, atol, max_steps)
        if algorithm not in METHODS:
            raise ProblemError(
                f"NeuralODE: algorithm must be one of {', '.join(METHODS)}, not {algorithm!r}", symbol="algorithm"
            )
        if not callable(field):
            raise ProblemError(f"NeuralODE: field must be callable, field(t, y), not {field!r}", symbol="field")
        self.field = field
        self.algorithm = algorithm
        self.max_steps = max_steps
        self.regularize = read_regularizers(regularize)
        if terms.end_shift(self.regularize) >= self.t1 - self.t0:
            raise ProblemError("NeuralODE: b of RandomEndTime must be less than t1 - t0", symbol="b")
        read = read_layer_adjoint(adjoint, "NeuralODE", self.regularize)
        self.adjoint = None if read is None else read.value

    def __call__(self, y0: Any, ts: Any = None, *, key: Any = None, progress: Any = 1.0, train: bool = True) -> Solved:
        """Solve.

        Parameters
        ----------
        y0 : array, shape (n,) or (..., n)
            Integers become floating-point numbers.
        ts : array, shape (n_ts,), optional
            Where to return the solution, ascending from ``t0`` to ``t1`` at most; by default at ``t1`` alone.
        key : JAX key
            For regularizers that sample (needed by those).
        progress : float
            Of the training, from 0 to 1: where annealed coefficients are.
        train : bool
            False leaves the regularizers out.

        Raises
        ------
        ProblemError
            If the field is no equation of such states, or times are not in the span.
        """
        regularizers = self.regularize if train else ()
        plain = Setting(method(self.algorithm), self.rtol, self.atol, self.max_steps, adjoint=self.adjoint)
        how = terms.setting_for(plain, regularizers)
        arrays, static = eqx.partition(self.field, eqx.is_inexact_array)
        y0 = layer_input.states("NeuralODE", y0)
        times = layer_input.times("NeuralODE", ts, self.t0, self.t1, y0.dtype)
        layer_input.check_field("NeuralODE", "field", self.field, y0)

        def function(t: Any, y: Any, params: Any) -> Any:
            module = eqx.combine(params, static)
            for _ in range(y.ndim - 1):
                module = _over_batch(module)
            return module(t, y)

        field = terms.field_for(function, regularizers)
        keys = split(key, regularizers)
        coefficients = jnp.asarray([r.coefficient(progress) for r in regularizers], y0.dtype)
        noise = jax.random.normal(keys[0], y0.shape, y0.dtype) if how.quadrature else None
        given = (arrays, coefficients, noise)
        shift = terms.end_shift(regularizers)
        end = jnp.asarray(self.t1, y0.dtype)
        if shift:
            moved = jax.random.uniform(keys[1], (), y0.dtype, -shift, shift)
            end = end + moved
            times = None if times is None else jnp.where(times >= self.t1, end, jnp.minimum(times, end))
        out = solve(how, field, given, y0, self.t0, end, times)
        total = terms.values(how, field, regularizers, out, end, given, keys[2])
        return _solved(out, times, total)


def _over_batch(function: Any) -> Any:
    return jax.vmap(function, in_axes=(None, 0))


def split(key: Any, regularizers: tuple[Regularizer, ...]) -> tuple[Any, ...]:
    """Three keys, or an error where a regularizer needs one and there is none."""
    if key is None:
        sampling = [type(r).__name__ for r in regularizers if terms.samples(r)]
        if sampling:
            raise ProblemError(f"{', '.join(sampling)} samples: pass key=, a JAX key", symbol="key")
        key = jax.random.key(0)
    return tuple(jax.random.split(key, 3))


def _solved(out: Any, times: Any, total: Any) -> Solved:
    y = out.y1 if times is None else out.ys
    y = jnp.where(out.success, y, jnp.nan)
    sizes = jax.lax.stop_gradient(out.h)
    return Solved(y, total, out.n_rhs, out.n_steps, out.n_rejected, out.success, sizes)


class NeuralSDE(eqx.Module):
    """A layer ``y(t0) -> y(t1)`` of the Itô equation ``dy = drift(t, y) dt + diffusion(t, y) dW``, diagonal noise.

    Every entry of every sample has its own Brownian motion; the batch has one step size. The
    method is SOSRI (strong order 3/2), adaptive, with rejection sampling with memory. Where the
    noise of an entry depends on other entries, the paths' law converges with order 1, and a path
    itself no better than with order 1/2.

    Parameters
    ----------
    drift, diffusion : callable pytrees
        ``(t, y) -> array of shape (n,)`` for one sample.
    t0, t1, regularize, rtol, atol, max_steps
        As for `NeuralODE`; tolerances of stochastic solves are looser.
    adjoint : None
        There is no choice: a path is differentiated through its steps.

    Examples
    --------
    >>> layer = NeuralSDE(drift, diffusion, regularize=LocalErrorEstimate(0.1))
    >>> solved = layer(batch, key=key)
    """

    drift: Any
    diffusion: Any
    t0: float = eqx.field(static=True)
    t1: float = eqx.field(static=True)
    rtol: float = eqx.field(static=True)
    atol: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    regularize: tuple[Regularizer, ...] = eqx.field(static=True)

    @named_options()
    def __init__(
        self,
        drift: Any,
        diffusion: Any,
        t0: float = 0.0,
        t1: float = 1.0,
        regularize: Any = None,
        rtol: float = 1e-1,
        atol: float = 1e-1,
        max_steps: int = 256,
        adjoint: None = None,
    ) -> None:
        self.t0, self.t1, self.rtol, self.atol = check_numbers("NeuralSDE", t0, t1, rtol, atol, max_steps)
        for name, given in (("drift", drift), ("diffusion", diffusion)):
            if not callable(given):
                raise ProblemError(f"NeuralSDE: {name} must be callable, {name}(t, y), not {given!r}", symbol=name)
        self.drift, self.diffusion, self.max_steps = drift, diffusion, max_steps
        self.regularize = read_regularizers(regularize)
        noisy_terms.check(self.regularize)
        read_layer_adjoint(adjoint, "NeuralSDE", self.regularize, stochastic=True)
        if terms.end_shift(self.regularize) >= self.t1 - self.t0:
            raise ProblemError("NeuralSDE: b of RandomEndTime must be less than t1 - t0", symbol="b")

    def __call__(self, y0: Any, ts: Any = None, *, key: Any, progress: Any = 1.0, train: bool = True) -> Solved:
        """Solve along one random path for each entry of ``y0``, shape (..., n); see `NeuralODE.__call__`."""
        regularizers = self.regularize if train else ()
        arrays, static = eqx.partition((self.drift, self.diffusion), eqx.is_inexact_array)
        y0 = layer_input.states("NeuralSDE", y0)
        times = layer_input.times("NeuralSDE", ts, self.t0, self.t1, y0.dtype)
        layer_input.check_field("NeuralSDE", "drift", self.drift, y0)
        layer_input.check_field("NeuralSDE", "diffusion", self.diffusion, y0)

        def function(t: Any, y: Any, params: Any) -> Any:
            drift, diffusion = eqx.combine(params, static)
            for _ in range(y.ndim - 1):
                drift, diffusion = _over_batch(drift), _over_batch(diffusion)
            return drift(t, y), diffusion(t, y)

        how = noisy_terms.setting_for(NoisySetting(self.rtol, self.atol, self.max_steps), regularizers)
        field = noisy_terms.field_for(function, regularizers)
        keys = jax.random.split(key, 4)
        coefficients = jnp.asarray([r.coefficient(progress) for r in regularizers], y0.dtype)
        noise = jax.random.normal(keys[0], y0.shape, y0.dtype) if how.quadrature else None
        given = (arrays, coefficients, noise)
        end = jnp.asarray(self.t1, y0.dtype)
        shift = terms.end_shift(regularizers)
        if shift:
            end = end + jax.random.uniform(keys[1], (), y0.dtype, -shift, shift)
            times = None if times is None else jnp.where(times >= self.t1, end, jnp.minimum(times, end))
        out = solve_noisy(how, field, given, y0, self.t0, end, keys[3], times)
        total = noisy_terms.values(how, field, regularizers, out, end, given, keys[2])
        return _solved(out, times, total)


__all__ = ["NeuralODE", "NeuralSDE", "Outcome", "Solved"]
