"""Brownian motion as a function of time: the same path whatever the steps.

A virtual Brownian tree (Li et al., *Scalable gradients for stochastic differential equations*,
AISTATS 2020): the interval is halved again and again, and the value in the middle is drawn given
the values at the ends (Lévy's construction). The draw of a node comes from a counter-based
generator (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011) at the node's
number, so that nothing has to be stored, and nothing depends on who asks in which order.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

#: Halvings: the path is exact at multiples of span / 2**DEPTH; in between, within one cell, it is a
#: draw of the right variance given the ends.
DEPTH: Final = 16
#: For more steps than 2**DEPTH / 4.
FINE_DEPTH: Final = 28


#: Rotations of Threefry-2x32 and its key parity (Salmon et al. 2011, section 4.2).
_ROTATIONS: Final = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY: Final = 0x1BD11BDA

#: Giles, *Approximating the erfinv function* (GPU Computing Gems, 2011), table 5: single precision,
#: near the centre and in the tails.
_CENTRE: Final = (
    2.81022636e-08,
    3.43273939e-07,
    -3.5233877e-06,
    -4.39150654e-06,
    0.00021858087,
    -0.00125372503,
    -0.00417768164,
    0.246640727,
    1.50140941,
)
_TAIL: Final = (
    -0.000200214257,
    0.000100950558,
    0.00134934322,
    -0.00367342844,
    0.00573950773,
    -0.0076224613,
    0.00943887047,
    1.00167406,
    2.83297682,
)


def threefry(key: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """Threefry-2x32 with 20 rounds: two random words for two counters.

    Written out, because XLA makes one fast loop of it; JAX's own is a loop of its own on CPUs.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    a, b = first + keys[0], second + keys[1]
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            a = a + b
            b = a ^ ((b << jnp.uint32(rotation)) | (b >> jnp.uint32(32 - rotation)))
        a = a + keys[(block + 1) % 3]
        b = b + keys[(block + 2) % 3] + jnp.uint32(block + 1)
    return a, b


def normal(word: Any) -> Any:
    """A standard normal number from 32 random bits, to single precision and out to six deviations.

    One bit is the sign, the others the tail probability, so that small ones keep their digits.
    """
    q = ((word >> jnp.uint32(1)).astype(jnp.float32) + jnp.float32(0.5)) * jnp.float32(2.0**-32)
    w = -jnp.log(4 * q * (1 - q))
    centre, tail = w - jnp.float32(2.5), jnp.sqrt(jnp.maximum(w, 5)) - 3
    inverse = jnp.where(w < 5, _horner(_CENTRE, centre), _horner(_TAIL, tail)) * (1 - 2 * q)
    sign = jnp.where((word & jnp.uint32(1)) == 1, jnp.float32(1.0), jnp.float32(-1.0))
    return jnp.float32(math.sqrt(2.0)) * sign * inverse


def _horner(coefficients: tuple[float, ...], x: Any) -> Any:
    total: Any = jnp.float32(coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + jnp.float32(coefficient)
    return total


def trajectory_key(key: Any, index: Any) -> Any:
    """The key of trajectory ``index``: two uint32, by the generator itself."""
    return jnp.stack(threefry(key, jnp.zeros_like(index), index))


class Walker(NamedTuple):
    """What is kept from one time to the next: the draws of the nodes above the last time."""

    nodes: Any
    draws: Any


def walker(n_noise: int, depth: int) -> Walker:
    """Before the first time."""
    return Walker(
        nodes=jnp.full(depth + 2, 2**32 - 1, dtype=jnp.uint32),
        draws=jnp.zeros((depth + 2, n_noise), dtype=jnp.float32),
    )


def walk(state: Walker, key: Any, r: Any) -> tuple[Walker, Any]:
    r"""Standard Brownian motions on [0, 1] at time ``r``.

    The Lévy-Ciesielski expansion: :math:`W(r) = r z_0 + \sum_l h_l(r) z_l` with one hat function
    :math:`h_l` for each level, and one draw :math:`z_l` for the cell of that level that ``r`` is
    in. From one time to the next only the cells that changed are drawn anew.

    Parameters
    ----------
    state : Walker
    key : uint32 array, shape (2,)
    r : scalar

    Returns
    -------
    state : Walker
    w : array, shape (n_noise,)
    """
    depth = state.nodes.shape[0] - 2
    n_noise = state.draws.shape[1]
    r = jnp.clip(r, 0.0, 1.0)
    scale = 2.0 ** np.arange(depth + 1)
    cells = jnp.minimum(jnp.floor(r * scale), scale - 1)  # r = 1 belongs to the last cell
    theta = r * scale - cells
    nodes = jnp.concatenate([jnp.zeros(1, dtype=jnp.uint32), (cells + scale).astype(jnp.uint32)])
    hats = 0.5 / np.sqrt(scale[:-1]) * (1 - jnp.abs(2 * theta[:-1] - 1))
    within = jnp.sqrt(jnp.maximum(theta[-1] * (1 - theta[-1]), 0.0) / scale[-1])
    weights = jnp.concatenate([r[None], hats, within[None]])
    stale = (nodes != state.nodes) & (weights != 0)
    pairs = jnp.arange((n_noise + 1) // 2, dtype=jnp.uint32)

    def refresh(level: Any, draws: Any) -> Any:
        def draw() -> Any:
            one, two = threefry(key, nodes[level], pairs)
            row = jnp.stack([normal(one), normal(two)], axis=-1).reshape(-1)[:n_noise]
            return jax.lax.dynamic_update_index_in_dim(draws, row, level, 0)

        return jax.lax.cond(stale[level], draw, lambda: draws)

    draws = jax.lax.fori_loop(0, depth + 2, refresh, state.draws)
    return Walker(jnp.where(stale, nodes, state.nodes), draws), weights @ draws.astype(weights.dtype)
