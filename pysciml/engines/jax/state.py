"""What the loop carries, and what is fixed when it is compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from pysciml.engines.jax.lower import Function
from pysciml.engines.jax.steppers import Stepper

#: How a trajectory ended; the position is the code in the loop.
RETCODES: Final = ("Success", "Terminated", "MaxIters", "DtLessThanMin", "Unstable")
RUNNING, TERMINATED, MAX_ITERS, DT_TOO_SMALL, UNSTABLE = range(5)


@custom_vmap
def any_of(flag: Any) -> Any:
    """Whether a flag is set for any trajectory of the batch; itself where there is no batch."""
    return flag


@any_of.def_vmap
def _any_of_batch(axis_size: int, in_batched: list[bool], flag: Any) -> tuple[Any, bool]:  # pyright: ignore[reportUnusedFunction]
    return any_of(jnp.any(flag)), False


class EventFunctions(NamedTuple):
    """One event, lowered."""

    condition: Function
    values: Function
    targets: tuple[int, ...]
    direction: Literal["up", "down", "both"]
    terminal: bool


@dataclass(frozen=True)
class Plan:
    """What is fixed at compile time.

    Attributes
    ----------
    save : {"times", "steps", "end"}
        What is kept: the solution at given times, after every step, or only at the end.
    buffer : int
        How many steps (``save="steps"``) or events the buffers hold before the host has to empty
        them; 0: events are not recorded.
    adaptive : bool
        Whether the step size is controlled; else it is ``Arguments.dt``.
    given_dt : bool
        Whether the first step of an adaptive method is ``Arguments.dt``.
    batched : bool
        Whether the loop will run under ``vmap``.
    frozen : bool
        Whether the loop is differentiated: its steps are then taken as given, and who runs it
        collects the output.
    """

    stepper: Callable[[Arguments], Stepper]
    rhs: Function
    events: tuple[EventFunctions, ...]
    save: Literal["times", "steps", "end"]
    buffer: int
    adaptive: bool
    given_dt: bool
    batched: bool = False
    frozen: bool = False

    @property
    def uneven(self) -> bool:
        """Whether the trajectories of a batch can be at different times."""
        return self.batched and (self.adaptive or bool(self.events))


class Arguments(NamedTuple):
    """What may change without compiling again.

    Times run forward, whatever the sign of ``tspan``. ``key`` and ``index`` say which random path.
    """

    p: Any
    start: Any
    end: Any
    times: Any
    rtol: Any
    atol: Any
    dt: Any
    max_steps: Any
    stop_at: Any
    key: Any
    index: Any


class Carry(NamedTuple):
    """Where the integration is; None for what the plan has no use for."""

    t: Any
    t_next: Any
    h: Any
    y: Any
    stepper: Any
    jumped: Any
    code: Any
    n_steps: Any
    n_rejected: Any
    saved: Any
    ts: Any
    ys: Any
    fired: Any
    n_events: Any
    event_ts: Any
    event_which: Any


def put(buffer: Any, where: Any, value: Any, write: Any) -> Any:
    """Write one row, or nothing."""
    return buffer.at[jnp.where(write, where, buffer.shape[0])].set(value, mode="drop")
