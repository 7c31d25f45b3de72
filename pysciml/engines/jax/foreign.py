"""Modules of Equinox as networks: flat weights, and a function of them."""

from __future__ import annotations

import hashlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from pysciml.engines.jax.compiling import double_precision
from pysciml.errors import ModelError
from pysciml.graph.networks import Foreign


def from_equinox(name: str, module: Any, inputs: int, outputs: int) -> Foreign:
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
    digest = hashlib.blake2b(str(traced.jaxpr).encode(), digest_size=16)
    for constant in traced.consts:
        digest.update(np.ascontiguousarray(constant).tobytes())
    return Foreign(digest.hexdigest(), start.size, "equinox", function, tuple(start.tolist()))
