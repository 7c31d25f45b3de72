"""What crosses between Python and a compiled loop, in as few arrays as can be.

Every array that crosses takes some microseconds, and a small problem is solved in some hundred.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array
from pysciml.engines.jax.state import Arguments, Carry

#: Counters cross as floating-point numbers: up to here they are exact.
MOST_STEPS: Final = {"float64": 2**52, "float32": 2**23}

_SCALARS: Final = ("start", "end", "rtol", "dt", "max_steps", "stop_at")


class Inputs(NamedTuple):
    """The layout of what goes in: initial values, parameters, scalars, absolute tolerances, output times.

    ``n_tolerances`` is the number of states, or 1 where all have the same.
    """

    n_states: int
    n_params: int
    n_tolerances: int
    n_times: int

    def pack(self, u0: Array, p: Array, times: Array, atol: float | Array, scalars: tuple[float, ...]) -> Array:
        """One array; ``scalars`` are start, end, rtol, dt, max_steps, stop_at."""
        return np.concatenate([u0, p, scalars, np.atleast_1d(atol), times])

    def stop_at(self, packed: Array, steps: int) -> None:
        """Set until how many steps the next slice goes."""
        packed[self.n_states + self.n_params + len(_SCALARS) - 1] = steps

    def unpack(self, packed: Any, key: Any) -> tuple[Any, Arguments]:
        """Initial values and the loop's arguments, for the first path of a seed."""
        n, m = self.n_states, self.n_params
        after = n + m + len(_SCALARS)
        scalars = dict(zip(_SCALARS, packed[n + m : after], strict=True))
        for name in ("max_steps", "stop_at"):
            scalars[name] = scalars[name].astype(int)
        return packed[:n], Arguments(
            p=packed[n : n + m],
            times=packed[after + self.n_tolerances :],
            atol=packed[after : after + self.n_tolerances] if self.n_tolerances > 1 else packed[after],
            key=key,
            index=jnp.zeros_like(key[0]),
            **scalars,
        )


class Buffers(NamedTuple):
    """What was saved on the way; None for what the plan does not save."""

    ts: Any
    ys: Any
    event_ts: Any
    event_which: Any


class Report(NamedTuple):
    """Where a slice ended."""

    t: float
    code: int
    n_steps: int
    n_rejected: int
    saved: int
    n_events: int
    y: npt.NDArray[Any]

    @classmethod
    def read(cls, packed: npt.NDArray[Any]) -> Report:
        """From the array that came out."""
        t, *counts = packed[:6].tolist()
        return cls(t, *map(int, counts), y=packed[6:])


def outputs(carry: Carry) -> tuple[Any, Buffers]:
    """What comes out: a report in one array, and the buffers."""
    zero = jnp.zeros((), dtype=carry.y.dtype)
    counts = (carry.code, carry.n_steps, carry.n_rejected, carry.saved, carry.n_events)
    row = jnp.stack([carry.t, *(zero if count is None else count.astype(carry.y.dtype) for count in counts)])
    return jnp.concatenate([row, carry.y]), Buffers(carry.ts, carry.ys, carry.event_ts, carry.event_which)
