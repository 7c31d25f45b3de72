"""What is given to layers, checked before anything is solved: states, times, and an equation of such states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from pysciml.errors import ProblemError


def floating(numbers: Any) -> Any:
    """Real numbers as floating-point ones, of any shape; those that are so already stay as they are."""
    array = jnp.asarray(numbers)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.result_type(float))


def states(owner: str, y0: Any) -> Any:
    """Initial states, shape (n,) or (..., n), as floating-point numbers."""
    y0 = jnp.asarray(y0)
    if jnp.issubdtype(y0.dtype, jnp.complexfloating):
        raise ProblemError(f"{owner}: states are real, not {y0.dtype}", symbol="y0")
    if y0.ndim == 0:
        raise ProblemError(
            f"{owner}: states have the shape (n,) or (..., n); a single number is jnp.array([y0])", symbol="y0"
        )
    return floating(y0)


def times(owner: str, ts: Any, start: float, end: float, dtype: Any) -> Any:
    """Output times, in the precision of the states; numbers must ascend within the span (traced ones are not known)."""
    if ts is None:
        return None
    traced = isinstance(ts, Tracer)
    ts = jnp.asarray(ts, dtype) if traced else np.asarray(ts, dtype)
    if ts.ndim != 1 or ts.size == 0:
        raise ProblemError(f"{owner}: times are an array of shape (n_ts,), not {ts.shape}", symbol="ts")
    first, last = np.asarray((start, end), dtype)
    if not traced and not (np.all(np.diff(ts) >= 0) and first <= ts[0] and ts[-1] <= last):
        shown = np.array2string(ts, threshold=6)
        raise ProblemError(
            f"{owner}: times must ascend from {start:g} to {end:g} at most; they are {shown}", symbol="ts"
        )
    return jnp.asarray(ts)


def check_field(owner: str, name: str, field: Callable[[Any, Any], Any], y0: Any) -> None:
    """An error if ``field(t, y)`` of one sample is not a slope of it; nothing is computed."""
    sample = jax.ShapeDtypeStruct(y0.shape[-1:], y0.dtype)
    try:
        slope = jax.eval_shape(field, jax.ShapeDtypeStruct((), y0.dtype), sample)
    except Exception as error:
        first = str(error).split("\n", 1)[0]
        raise ProblemError(
            f"{owner}: {name}(t, y) fails for y of shape {sample.shape}, of states of shape {y0.shape}: {first}",
            symbol=name,
        ) from error
    found = getattr(slope, "shape", type(slope).__name__)
    if found != sample.shape:
        raise ProblemError(f"{owner}: {name} turns states of shape {sample.shape} into {found}", symbol=name)
    if jnp.promote_types(slope.dtype, y0.dtype) != y0.dtype:
        raise ProblemError(
            f"{owner}: {name} returns {slope.dtype} for states in {y0.dtype}: convert either", symbol=name
        )
