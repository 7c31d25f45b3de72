"""Modules of Equinox as networks: dense layers as such, other modules as functions of flat weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from pysciml.engines.jax.compiling import double_precision
from pysciml.engines.jax.network import ACTIVATIONS
from pysciml.engines.jax.written import write_out
from pysciml.errors import ModelError, UnsupportedError
from pysciml.graph.networks import Foreign, Network, seed_of


def from_equinox(name: str, module: Any, inputs: int, outputs: int) -> Network:
    """Take a module apart; see `pysciml.symbolic.networks.Network`."""
    with double_precision():
        arrays, static = eqx.partition(module, eqx.is_inexact_array)
        arrays = jax.tree.map(lambda a: jnp.asarray(a, dtype=jnp.float64), arrays)
        flat, unravel = ravel_pytree(arrays)
        start = np.asarray(flat)

        def function(weights: Any, x: Any) -> Any:
            return eqx.combine(unravel(weights), static)(x)

        try:
            shape = jax.eval_shape(function, flat, jnp.zeros(inputs))
        except (TypeError, ValueError, IndexError) as error:
            raise ModelError(
                f"the network {name}: its module fails for {inputs} inputs: {error}", symbol=name
            ) from error
        if getattr(shape, "shape", None) != (outputs,):
            found = getattr(shape, "shape", type(shape).__name__)
            raise ModelError(
                f"the network {name}: its module returns {found} for {inputs} inputs, and should return an array of "
                f"shape ({outputs},)",
                symbol=name,
            )
        traced = jax.make_jaxpr(function)(flat, jnp.zeros(inputs))
    if not np.isfinite(start).all():
        raise ModelError(f"the network {name}: its module has weights that are not finite", symbol=name)
    weights = tuple(start.tolist())
    dense = _dense(module)
    if dense is not None:
        return Network(name, inputs, outputs, *dense, seed=seed_of(weights), start=weights)
    try:
        with double_precision():
            graph = write_out(function, start.size, inputs)
    except UnsupportedError as error:
        digest = hashlib.blake2b(str(traced.jaxpr).encode(), digest_size=16)
        for constant in traced.consts:
            digest.update(np.ascontiguousarray(constant).tobytes())
        reason = (
            f"the network {name} is a module with {error}, which engine='jax' alone can run, in this process; a "
            "pysciml.MLP runs on every engine"
        )
        foreign = Foreign(digest.hexdigest(), start.size, "equinox", function, reason=reason)
    else:
        foreign = Foreign(graph.hash, start.size, "equinox", function, graph)
    return Network(name, inputs, outputs, (), "", "", seed_of(weights), foreign, weights)


def _dense(module: Any) -> tuple[tuple[int, ...], str, str] | None:
    """Hidden widths and the two activations of a module that is layers as `Network` has them, with the same weights."""
    if type(module) is eqx.nn.MLP:
        if module.scan or not all(isinstance(size, int) for size in (module.in_size, module.out_size)):
            return None
        layers = module.layers
        functions = [module.activation] * (len(layers) - 1) + [module.final_activation]
    elif type(module) is eqx.nn.Linear:
        layers, functions = (module,), [_identity]
    elif type(module) is eqx.nn.Sequential:
        taken = _alternating(module.layers)
        if taken is None:
            return None
        layers, functions = taken
    else:
        return None
    names = [_activation(function) for function in functions]
    plain = all(layer.use_bias and isinstance(layer.in_features, int) for layer in layers)
    if not plain or None in names or len(set(names[:-1])) > 1:
        return None
    hidden = tuple(int(layer.out_features) for layer in layers[:-1])
    return hidden, str(names[0] if hidden else "tanh"), str(names[-1])


def _alternating(parts: Sequence[Any]) -> tuple[Sequence[Any], list[Callable[[Any], Any]]] | None:
    """The linear layers of a sequence, and the function after each of them."""
    layers: list[Any] = []
    functions: list[Callable[[Any], Any]] = []
    for part in parts:
        if type(part) is eqx.nn.Linear:
            layers.append(part)
            functions.append(_identity)
        elif type(part) is eqx.nn.Lambda and layers and functions[-1] is _identity:
            functions[-1] = part.fn
        else:
            return None
    return (layers, functions) if layers else None


def _identity(x: Any) -> Any:
    return x


def _activation(function: Any) -> str | None:
    """The name of an activation that computes just what one of `ACTIVATIONS` does."""

    def steps(f: Callable[[Any], Any]) -> str:
        return str(jax.make_jaxpr(f)(jnp.zeros(())))

    with double_precision():
        try:
            found = steps(function)
        except Exception:  # (a function of arrays alone, or one with weights: it stays what it is)
            return None
        return next((name for name, known in ACTIVATIONS.items() if steps(known) == found), None)
