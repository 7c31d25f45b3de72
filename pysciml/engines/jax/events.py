"""Events inside the loop: find the first crossing in a step, change the state, go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp

from pysciml.engines.jax.state import TERMINATED, Arguments, Carry, EventFunctions, Plan, any_of, put

#: Crossings are looked for at this many points of every step, so that a condition that goes
#: through zero and back within one step is seen.
_SAMPLES: Final = 10
#: Just after the start and just after an event the condition is about zero; its sign is taken this
#: fraction of a step later, and the event does not fire before that.
_NUDGE: Final = 1e-2
#: Bisections of the bracket: to the last bit.
_BISECTIONS: Final = 60


def apply_events(
    plan: Plan,
    before: Carry,
    after: Carry,
    args: Arguments,
    inside: Callable[[Any], Any],
    held: Callable[[Any], Any],
    keep: Any,
    active: Any,
) -> tuple[Carry, Any]:
    """Stop the step at its first event, if it has one.

    Parameters
    ----------
    inside, held : function of time
        The step's interpolant; the second one is not differentiated, and used to search.

    Returns
    -------
    carry : Carry
        At the event with the new state, or ``after``.
    reached : scalar
        Until when the step's interpolant is the solution.
    """
    t, h = before.t, before.t_next - before.t
    p, y_after = (jax.lax.stop_gradient((args.p, after.y))) if plan.frozen else (args.p, after.y)

    def conditions(theta: Any) -> Any:
        time = t + theta * h
        y = held(time)
        return jnp.stack([event.condition(time, y, p) for event in plan.events])

    thetas = jnp.linspace(0.0, 1.0, _SAMPLES + 1)
    g = jax.vmap(conditions)(thetas)  # (samples + 1, events)
    # Exactly at the ends the solution is known better than the interpolant knows it.
    g = g.at[-1].set(jnp.stack([event.condition(before.t_next, y_after, p) for event in plan.events]))
    nudged = conditions(jnp.asarray(_NUDGE))
    g = g.at[0].set(jnp.where(before.fired, nudged, g[0]))
    crossed = jnp.stack([_crossed(event, g[:-1, j], g[1:, j]) for j, event in enumerate(plan.events)], axis=1)
    crossed = crossed & keep & active
    found = crossed.any(axis=0)  # (events,)
    which = jnp.argmax(crossed, axis=0)
    low = jnp.where(before.fired & (which == 0), _NUDGE, thetas[which])
    high = thetas[which + 1]
    g_low = g[which, jnp.arange(len(plan.events))]

    def locate() -> Any:
        def halve(_: Any, bracket: tuple[Any, Any]) -> tuple[Any, Any]:
            left, right = bracket
            middle = 0.5 * (left + right)
            values = jnp.stack(
                [event.condition(t + middle[j] * h, held(t + middle[j] * h), p) for j, event in enumerate(plan.events)]
            )
            same = jnp.sign(values) == jnp.sign(g_low)
            return jnp.where(same, middle, left), jnp.where(same, right, middle)

        return jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))[1]

    happened = found.any()
    theta = jax.lax.cond(any_of(happened), locate, lambda: high)
    theta = jnp.where(found, theta, jnp.inf)
    first = theta.min()
    t_event = jnp.where(first >= 1.0, before.t_next, t + first * h)
    y = jnp.where(first >= 1.0, after.y, inside(jnp.where(happened, t_event, t)))
    fired = found & (theta <= first)
    shift = jnp.zeros_like(t_event)
    when = t_event
    if plan.frozen:
        shift, slope = _shift(plan, args, t_event, y, happened, jnp.argmin(theta))
        when, y = t_event + shift, y + slope * shift
    code = after.code
    event_ts, event_which, n_events = after.event_ts, after.event_which, after.n_events
    for j, event in enumerate(plan.events):
        mine = fired[j]
        if event.targets:
            changed = y.at[jnp.asarray(event.targets)].set(event.values(when, y, args.p))
            y = jnp.where(mine, changed, y)
        if event.terminal:
            code = jnp.where(mine, TERMINATED, code)
        if plan.buffer:
            event_ts = put(event_ts, n_events, t_event, mine)
            event_which = put(event_which, n_events, j, mine)
            n_events = n_events + mine
    if plan.frozen:  # what follows starts at a time that is not differentiated
        ends = jnp.stack([fired[j] & event.terminal for j, event in enumerate(plan.events)]).any()
        back = jnp.where(ends, 0.0, shift)
        y = y - jax.lax.stop_gradient(plan.rhs(t_event, y, args.p)) * back
    if plan.save == "steps":  # the state just before the event, too: a jump is two rows
        write = happened & active
        left = inside(jnp.where(happened, t_event, t))
        after = after._replace(
            ts=put(after.ts, after.saved, t_event, write),
            ys=put(after.ys, after.saved, left, write),
            saved=after.saved + write,
        )
    return after._replace(
        t=jnp.where(happened, when, after.t),
        y=jnp.where(happened, y, after.y),
        jumped=jnp.where(keep, happened, before.jumped),
        code=code,
        fired=jnp.where(keep, fired, before.fired),
        n_events=n_events,
        event_ts=event_ts,
        event_which=event_which,
    ), jnp.where(happened, t_event, after.t)


def _shift(plan: Plan, args: Arguments, t: Any, y: Any, happened: Any, which: Any) -> tuple[Any, Any]:
    r"""Zero, with the derivative of the event's time; and the slope of the solution there.

    By the implicit function theorem a change of the condition by :math:`dg` moves its root by
    :math:`-dg / (dg/dt)`, where :math:`dg/dt` is taken along the solution. With the state moved to
    the new time, reset, and moved back along the slope after the reset, the jump of the derivatives
    is that of the saltation matrix (Aizerman & Gantmakher, Q. J. Mech. Appl. Math. 11, 1958).
    """
    p_held, y_held = jax.lax.stop_gradient((args.p, y))
    slope = plan.rhs(t, y_held, p_held)

    def condition(time: Any, state: Any, numbers: Any) -> Any:
        return jnp.stack([event.condition(time, state, numbers) for event in plan.events])[which]

    rate = jax.jvp(lambda time, state: condition(time, state, p_held), (t, y_held), (jnp.ones_like(t), slope))[1]
    value = condition(t, y, args.p)
    change = (value - jax.lax.stop_gradient(value)) / jnp.where(happened, rate, 1.0)
    return jnp.where(happened, -change, 0.0), jnp.where(happened, slope, 0.0)


def _crossed(event: EventFunctions, left: Any, right: Any) -> Any:
    up = (left < 0) & (right >= 0)
    down = (left > 0) & (right <= 0)
    return {"up": up, "down": down, "both": up | down}[event.direction]
