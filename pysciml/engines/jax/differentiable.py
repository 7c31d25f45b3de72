"""The solve as a function that JAX differentiates: the numerical solution, with its steps taken as given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from equinox.internal import while_loop as checkpointed_loop

from pysciml.engines.base import SolveOptions
from pysciml.engines.jax.implicit import ImplicitStepper
from pysciml.engines.jax.loop import Last, empty_last, start, step
from pysciml.engines.jax.program import make_plan, setting
from pysciml.engines.jax.state import RUNNING, TERMINATED, Arguments, Carry, Plan
from pysciml.engines.jax.steppers import Stepper
from pysciml.graph import Model

#: States kept for the way back: with 64, some thousand steps are computed at most three times.
_CHECKPOINTS: Final = 64


class Solved(NamedTuple):
    """What a differentiable solve gives.

    Attributes
    ----------
    t : array, shape (n_t,)
        The output times; where none were asked for, the one where the solve ended.
    u : array, shape (n_states, n_t)
    code : int
    end : float
        Where it ended.
    """

    t: Any
    u: Any
    code: Any
    end: Any


def frozen_plan(model: Model, algorithm: str, tspan: tuple[float, float], options: SolveOptions) -> tuple[Plan, float]:
    """A plan whose steps are not differentiated, and the sign of time."""
    how = setting(model, algorithm, tspan, options.dt, "times", batched=False)
    plan = make_plan(model, how)
    plain = plan.stepper

    def stepper(args: Arguments) -> Stepper:
        made = plain(args)
        if isinstance(made, ImplicitStepper):
            made.differentiable = True
        return made

    return replace(plan, stepper=stepper, frozen=True), 1.0 if how.forward else -1.0


def arguments(
    options: SolveOptions, tspan: tuple[float, float], sign: float, times: Any, p: Any, key: Any
) -> Arguments:
    """The loop's arguments, to be traced."""
    return Arguments(
        p=p,
        start=jnp.asarray(sign * tspan[0]),
        end=jnp.asarray(sign * tspan[1]),
        times=jnp.asarray(times),
        rtol=jnp.asarray(options.rtol),
        atol=jnp.asarray(options.absolute),
        dt=jnp.asarray(options.dt if options.dt is not None else 0.0),
        max_steps=jnp.asarray(options.max_steps),
        stop_at=jnp.asarray(2**62),
        key=jnp.asarray(key),
        index=jnp.zeros((), dtype=jnp.uint32),
    )


def solver(
    model: Model, tspan: tuple[float, float], algorithm: str, options: SolveOptions, key: Any, *, reverse: bool
) -> Callable[[Any, Any], Solved]:
    """A function of initial values and parameters that JAX can differentiate.

    Its values are those of `solve`. Forward mode differentiates the loop as it is; for reverse mode
    (``reverse``) states are recomputed on the way back from checkpoints (Stumm & Walther, SIAM J.
    Sci. Comput. 32, 2010). A path of a stochastic equation is held fixed. The time of an event
    moves with what it depends on.
    """
    plan, sign = frozen_plan(model, algorithm, tspan, options)
    asked = np.array([tspan[1]]) if options.saveat is None else options.saveat
    times = sign * asked
    with_start = times[0] == sign * tspan[0]
    later = times[1:] if with_start else times

    def solve(y0: Any, p: Any) -> Solved:
        rows = [y0[None]] if with_start else []
        if not len(later):
            return Solved(jnp.asarray(asked), y0[:, None], jnp.asarray(RUNNING), jnp.asarray(tspan[0]))
        args = arguments(options, tspan, sign, later, p, key)
        stepper = plan.stepper(args)
        carry = start(plan, y0, args)
        last = empty_last(plan, stepper, carry, args)

        def until(state: tuple[Carry, Last], time: Any) -> tuple[tuple[Carry, Last], Any]:
            def going(state: tuple[Carry, Last]) -> Any:
                return (state[0].code == RUNNING) & (state[0].t < time)

            def body(state: tuple[Carry, Last]) -> tuple[Carry, Last]:
                return step(plan, stepper, state[0], args, True)

            if reverse:
                state = checkpointed_loop(going, body, state, kind="checkpointed", checkpoints=_CHECKPOINTS)
            else:
                state = jax.lax.while_loop(going, body, state)
            t, t_next = jax.lax.stop_gradient((state[1].t, state[1].t_next))
            return state, stepper.interpolate(t, t_next, state[1].dense)(time)

        (carry, _), found = jax.lax.scan(until, (carry, last), jnp.asarray(later))
        t, u = jnp.asarray(asked), jnp.concatenate([*rows, found]).T
        if options.saveat is None and plan.events:
            ended = carry.code == TERMINATED
            t = jnp.where(ended, sign * carry.t, t)
            u = jnp.where(ended, carry.y[:, None], u)
        return Solved(t, u, carry.code, sign * carry.t)

    return solve
