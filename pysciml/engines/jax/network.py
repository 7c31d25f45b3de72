"""Networks in JAX: dense layers as matrix products, and modules of Equinox as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from pysciml.engines.jax.compiling import double_precision
from pysciml.graph.networks import Array, Network

ACTIVATIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "swish": jax.nn.swish,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "sin": jnp.sin,
}


def apply(network: Network, weights: Any, x: Any) -> Any:
    """The outputs of a network.

    Parameters
    ----------
    weights : array, shape (size,)
    x : array, shape (..., inputs)

    Returns
    -------
    array, shape (..., outputs)
    """
    if network.foreign is not None:
        function = network.foreign.function
        for _ in range(x.ndim - 1):
            function = jax.vmap(function, in_axes=(None, 0))
        return function(weights, x)
    y = x
    for layer in network.layers:
        matrix = weights[layer.matrix].reshape(layer.shape)
        y = ACTIVATIONS[layer.activation](y @ matrix.T + weights[layer.bias])
    return y


def derivative(network: Network, wrt: tuple[int, ...], weights: Any, x: Any) -> Any:
    """As `apply`, differentiated by the inputs in ``wrt``."""
    function: Callable[[Any], Any] = partial(apply, network, weights)
    for i in wrt:
        function = _along(function, i)
    return function(x)


def _along(function: Callable[[Any], Any], i: int) -> Callable[[Any], Any]:
    def slope(z: Any) -> Any:
        direction = jnp.zeros_like(z).at[..., i].set(1.0)
        return jax.jvp(function, (z,), (direction,))[1]

    return slope


def evaluate_foreign(network: Network, weights: Array, x: Array, wrt: tuple[int, ...] = ()) -> Array:
    """Values of a module for NumPy: weights (size, ...), x (inputs, ...), broadcast -> (outputs, ...)."""
    batch = np.broadcast_shapes(weights.shape[1:], x.shape[1:])
    with double_precision():
        if all(size == 1 for size in weights.shape[1:]):
            rows = np.moveaxis(np.broadcast_to(x, (x.shape[0], *batch)), 0, -1)
            y = derivative(network, wrt, jnp.asarray(weights.reshape(-1)), jnp.asarray(rows))
            return np.moveaxis(np.asarray(y), -1, 0)
        w = np.broadcast_to(weights, (weights.shape[0], *batch)).reshape(weights.shape[0], -1)
        z = np.broadcast_to(x, (x.shape[0], *batch)).reshape(x.shape[0], -1)
        y = jax.vmap(lambda a, b: derivative(network, wrt, a, b), in_axes=1, out_axes=1)(jnp.asarray(w), jnp.asarray(z))
        return np.asarray(y).reshape(network.outputs, *batch)
