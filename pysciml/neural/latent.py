"""`LatentODE`: irregular series as observations of a hidden state that follows a differential equation."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from pysciml.errors import ProblemError
from pysciml.hints import named_options
from pysciml.neural.layer_input import floating
from pysciml.neural.layers import NeuralODE, Solved


class Inferred(NamedTuple):
    """What a `LatentODE` returns.

    Attributes
    ----------
    x : array, shape (batch, n_t, n_observed)
        The series as the model sees it, at all times.
    kl : array, shape (batch,)
        The Kullback-Leibler divergence of the inferred initial state from the standard normal.
    solved : Solved
        The hidden states and what they cost.
    """

    x: Any
    kl: Any
    solved: Solved


class LatentODE(eqx.Module):
    """A variational autoencoder of time series (Rubanova, Chen & Duvenaud, NeurIPS 2019, with a GRU encoder).

    The encoder reads the observations backward in time, each with its mask and the time to the
    one before, and gives a distribution of the hidden state at the first time. That state follows
    ``layer``, and is decoded at every time. A batch shares its times; the masks say what of it each
    series has.

    Parameters
    ----------
    layer : NeuralODE
        Of the hidden state; its ``adjoint`` is that of the model.
    n_observed, n_hidden : int
        Sizes of an observation and of the hidden state.
    width : int
        Of encoder and decoder.
    key : JAX key

    Examples
    --------
    >>> model = LatentODE(NeuralODE(field), n_observed=2, n_hidden=4, width=32, key=key)
    >>> out = model(x, mask, times, key=key)
    >>> loss = negative_log_likelihood(out.x, x, mask) + out.kl.mean() + out.solved.regularization
    """

    layer: NeuralODE
    cell: eqx.nn.GRUCell
    infer: eqx.nn.Linear
    decode: eqx.nn.MLP

    @named_options()
    def __init__(self, layer: NeuralODE, n_observed: int, n_hidden: int, width: int = 32, *, key: Any) -> None:
        if not isinstance(layer, NeuralODE):
            raise ProblemError(f"LatentODE: layer must be a NeuralODE, not {type(layer).__name__}", symbol="layer")
        first, second, third = jax.random.split(key, 3)
        self.layer = layer
        self.cell = eqx.nn.GRUCell(2 * n_observed + 1, width, key=first)
        self.infer = eqx.nn.Linear(width, 2 * n_hidden, key=second)
        self.decode = eqx.nn.MLP(n_hidden, n_observed, width, 1, activation=jnp.tanh, key=third)

    def encode(self, x: Any, mask: Any, times: Any) -> tuple[Any, Any]:
        """Mean and logarithm of the variance of one series' first hidden state.

        Parameters
        ----------
        x, mask : arrays, shape (n_t, n_observed)
        times : array, shape (n_t,)
        """
        gaps = jnp.diff(times, append=times[-1:])
        rows = jnp.concatenate([jnp.where(mask > 0, x, 0) * mask, mask, gaps[:, None]], axis=1)

        def read(state: Any, row: Any) -> tuple[Any, None]:
            seen = jnp.any(row[x.shape[1] : -1] > 0)
            return jnp.where(seen, self.cell(row, state), state), None

        state, _ = jax.lax.scan(read, jnp.zeros(self.cell.hidden_size, x.dtype), rows[::-1])
        mean, log_variance = jnp.split(self.infer(state), 2)
        return mean, log_variance

    def _series(self, x: Any, mask: Any, times: Any) -> tuple[Any, Any, Any]:
        """Observations, in one precision, if their shapes fit."""
        x = floating(x)
        mask, times = jnp.asarray(mask, x.dtype), jnp.asarray(times, x.dtype)
        if mask.shape != x.shape:
            raise ProblemError(f"LatentODE: x has the shape {x.shape}, and its mask {mask.shape}", symbol="mask")
        n_observed = (self.cell.input_size - 1) // 2
        if x.ndim != 3 or times.ndim != 1 or x.shape[1:] != (*times.shape, n_observed):
            raise ProblemError(
                f"LatentODE: x must have the shape (batch, n_t, {n_observed}) for times of shape (n_t,); "
                f"it has {x.shape}, and times {times.shape}",
                symbol="x",
            )
        return x, mask, times

    def __call__(
        self,
        x: Any,
        mask: Any,
        times: Any,
        *,
        key: Any,
        progress: Any = 1.0,
        train: bool = True,
        at: Any = None,
    ) -> Inferred:
        """Infer, solve, decode.

        Parameters
        ----------
        x : array, shape (batch, n_t, n_observed)
        mask : array like ``x``
            1 where there is an observation, 0 where not; there ``x`` may be NaN.
        times : array, shape (n_t,)
            Ascending; the first is ``layer.t0``, the last ``layer.t1`` at most.
        key : JAX key
        progress, train
            As for `NeuralODE`; without ``train`` the mean of the hidden state is taken.
        at : array, shape (n_at,), optional
            Other times to decode at.
        """
        x, mask, times = self._series(x, mask, times)
        mean, log_variance = jax.vmap(self.encode, in_axes=(0, 0, None))(x, mask, times)
        draw, rest = jax.random.split(key)
        z = mean
        if train:
            z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(draw, mean.shape, mean.dtype)
        solved = self.layer(z, times if at is None else at, key=rest, progress=progress, train=train)
        decoded = jax.vmap(jax.vmap(self.decode))(solved.y)
        kl = 0.5 * jnp.sum(jnp.exp(log_variance) + mean**2 - 1 - log_variance, axis=-1)
        return Inferred(jnp.swapaxes(decoded, 0, 1), kl, solved)
