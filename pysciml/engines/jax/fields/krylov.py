"""A Krylov method for the linear equations of a Newton step, small enough to compile quickly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp

#: How many directions are kept.
_KEPT: Final = 12


class _State(NamedTuple):
    x: Any
    r: Any
    directions: Any
    images: Any
    goal: Any
    size: Any
    count: Any


def solve(
    multiply: Callable[[Any], Any],
    precondition: Callable[[Any], Any],
    right: Any,
    norm: Callable[[Any], Any],
    tolerance: Any,
    share: float,
    most: int,
) -> tuple[Any, Any, Any]:
    """Solve ``A x = right`` by Orthomin, the truncated conjugate residual method.

    P. K. W. Vinsome (SPE 5729, 1976); S. C. Eisenstat, H. C. Elman & M. H. Schultz, SIAM J. Numer.
    Anal. 20 (1983) 345-357. It ends when the norm of the residual is below ``tolerance``, or below a
    share of the first correction.

    Returns
    -------
    x, whether it converged, products with A
    """
    none = jnp.zeros((_KEPT, right.shape[0]), dtype=right.dtype)
    tolerance = jnp.asarray(tolerance, dtype=right.dtype)
    begin = _State(jnp.zeros_like(right), right, none, none, tolerance, norm(right), jnp.asarray(0))

    def going(s: _State) -> Any:
        return (s.size > s.goal) & (s.count < most) & jnp.isfinite(s.size)

    def iterate(s: _State) -> _State:
        z = precondition(s.r)
        goal = jnp.where(s.count == 0, jnp.maximum(tolerance, share * norm(z)), s.goal)
        w = multiply(z)
        # Sums of products, not matrix products: these would take longer to compile than to run.
        overlap = jnp.sum(s.images * w, axis=1)[:, None]
        w, z = w - jnp.sum(overlap * s.images, axis=0), z - jnp.sum(overlap * s.directions, axis=0)
        length = jnp.sqrt(jnp.sum(w * w))
        scale = jnp.where(length > 0, 1.0 / jnp.where(length > 0, length, 1.0), 0.0)
        w, z = scale * w, scale * z
        along = jnp.sum(w * s.r)
        where = s.count % _KEPT
        r = s.r - along * w
        return _State(
            s.x + along * z, r, s.directions.at[where].set(z), s.images.at[where].set(w), goal, norm(r), s.count + 1
        )

    end = jax.lax.while_loop(going, iterate, begin)
    fine = jnp.isfinite(end.size) & (end.size <= end.goal)
    return end.x, fine, end.count
