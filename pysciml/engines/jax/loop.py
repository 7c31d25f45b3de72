"""The integration loop: steps, step sizes, output, events; for one trajectory or a batch of them.

One ``lax.while_loop`` whose condition is "any trajectory still runs": under ``vmap`` it stays one
unbatched loop, in which finished trajectories stand still. Output goes into buffers that are
written where they change, never copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from pysciml.engines.jax.events import apply_events
from pysciml.engines.jax.state import (
    DT_TOO_SMALL,
    MAX_ITERS,
    RUNNING,
    UNSTABLE,
    Arguments,
    Carry,
    Plan,
    any_of,
    put,
)
from pysciml.engines.jax.steppers import Stepper

#: An integral controller remembers nothing from step to step: diffrax's initial state.
_MEMORYLESS: Final = (1.0, 1.0, False)
#: Bytes of an array that counts as small (XLA's ThunkExecutor, which runs such loops in one thread).
_SMALL: Final = 512
_BUFFERS: Final = frozenset({"ts", "ys", "event_ts", "event_which"})


def start(plan: Plan, y0: Any, args: Arguments) -> Carry:
    """The state before the first step."""
    stepper = plan.stepper(args)
    t = args.start
    code = jnp.asarray(RUNNING)
    if plan.adaptive:
        dt0 = args.dt if plan.given_dt else None
        term = diffrax.ODETerm(plan.rhs)  # pyright: ignore[reportArgumentType]
        t_first, _ = _controller(args).init(
            term, t, args.end, y0, dt0, args.p, lambda terms, t, y, p: terms.vf(t, y, p), stepper.error_order
        )
        h = t_first - t
        # diffrax's guess is 0 or infinite where the right-hand side or its change is zero or not finite.
        slope = plan.rhs(t, y0, args.p)
        code = jnp.where(jnp.isfinite(slope).all(), code, UNSTABLE)
        h = jnp.where(jnp.isfinite(h) & (h > 0), h, 1e-6 * (args.end - t))
    else:
        h = args.dt
    t_next = _target(plan, stepper, args, t, h, 0)
    n = y0.shape[0]
    rows = {"steps": plan.buffer, "end": 0, "times": args.times.shape[0]}[plan.save]
    n_events = len(plan.events)
    return Carry(
        t=jnp.asarray(t),
        t_next=t_next,
        h=jnp.asarray(h),
        y=y0,
        stepper=stepper.init(t, t_next, y0, args.p),
        jumped=jnp.asarray(False) if n_events else None,
        code=code,
        n_steps=jnp.asarray(0),
        n_rejected=jnp.asarray(0),
        saved=jnp.asarray(0) if plan.save != "end" else None,
        ts=jnp.zeros(rows, dtype=y0.dtype) if plan.save == "steps" else None,
        ys=jnp.full((rows, n), jnp.nan, dtype=y0.dtype) if plan.save != "end" and not plan.frozen else None,
        fired=jnp.ones(n_events, dtype=bool) if n_events else None,
        n_events=jnp.asarray(0) if n_events else None,
        event_ts=jnp.zeros(plan.buffer, dtype=y0.dtype) if n_events else None,
        event_which=jnp.zeros(plan.buffer, dtype=jnp.int32) if n_events else None,
    )


def advance(plan: Plan, carry: Carry, args: Arguments) -> Carry:
    """Integrate until the end, a failure, a full buffer, or ``args.stop_at`` steps."""
    stepper = plan.stepper(args)
    empty = jnp.asarray(0)
    if plan.save == "steps":
        carry = carry._replace(saved=empty)
    if plan.events:
        carry = carry._replace(n_events=empty)

    def running(c: Carry) -> Any:
        go = (c.code == RUNNING) & (c.t < args.end) & (c.n_steps < args.stop_at)
        if plan.save == "steps":
            go = go & (c.saved < plan.buffer - 1)
        if plan.events and plan.buffer:
            go = go & (c.n_events <= plan.buffer - len(plan.events))
        return go

    def body(c: Carry) -> Carry:
        if not plan.uneven:
            return step(plan, stepper, c, args, True)[0]
        active = running(c)
        new, _ = step(plan, stepper, c, args, active)
        return Carry(
            **{
                name: value
                if name in _BUFFERS
                else jax.tree.map(lambda a, b: jnp.where(active, a, b), value, getattr(c, name))
                for name, value in new._asdict().items()
            }
        )

    if plan.save == "times" and not plan.batched:
        return _in_blocks(plan, stepper, carry, args, running)
    return jax.lax.while_loop(lambda c: any_of(running(c)), body, carry)


def _in_blocks(plan: Plan, stepper: Stepper, carry: Carry, args: Arguments, running: Callable[[Carry], Any]) -> Carry:
    """Step, with the output written in blocks.

    Loops over small arrays alone are run by XLA in one thread, one operation after the other. With a
    large one among them, every operation is handed to a pool of threads, which takes longer than a
    step of a small system. So the loop over the steps sees no more than a small block of the output.
    """
    count, n = carry.ys.shape
    block = min(count, max(1, 1 << ((_SMALL // (carry.y.dtype.itemsize * n)) or 1).bit_length() - 1))

    def pending(c: Carry, last: Last) -> Any:
        return (c.saved < count) & (args.times[jnp.minimum(c.saved, count - 1)] <= last.reached)

    def fill(state: tuple[Carry, Last]) -> tuple[Carry, Last]:
        c, last = state
        first = c.saved // block * block
        here = args._replace(times=jax.lax.dynamic_slice_in_dim(args.times, first, block))
        small = c._replace(saved=c.saved - first, ys=jax.lax.dynamic_slice_in_dim(c.ys, first, block))
        inside = stepper.interpolate(last.t, last.t_next, last.dense)
        small = _save_times(small, here, inside, last.reached, True)
        small, last = jax.lax.while_loop(
            lambda s: running(s[0]) & (s[0].saved < block),
            lambda s: step(plan, stepper, s[0], here, True),
            (small, last),
        )
        ys = jax.lax.dynamic_update_slice_in_dim(c.ys, small.ys, first, 0)
        c = small._replace(saved=first + small.saved, ys=ys)
        if stepper.land:  # on the first time of the next block
            c = c._replace(t_next=_target(plan, stepper, args, c.t, c.h, c.saved))
        return c, last

    last = empty_last(plan, stepper, carry, args)._replace(reached=jnp.asarray(carry.t))
    return jax.lax.while_loop(lambda s: running(s[0]) | pending(*s), fill, (carry, last))[0]


def empty_last(plan: Plan, stepper: Stepper, carry: Carry, args: Arguments) -> Last:
    """In place of the last step, before the first one."""
    shapes = jax.eval_shape(lambda c: step(plan, stepper, c, args, True)[1], carry)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _eps(x: Any) -> float:
    """The spacing of numbers of this kind at 1."""
    return float(jnp.finfo(x.dtype).eps)


def _controller(args: Arguments) -> diffrax.PIDController:
    return diffrax.PIDController(rtol=args.rtol, atol=args.atol)


def _target(plan: Plan, stepper: Stepper, args: Arguments, t: Any, h: Any, saved: Any) -> Any:
    """Where a step of length ``h`` ends: at the end of the span, or on an output time to land on."""
    if not plan.adaptive:  # the grid of start + k dt, whatever happened in between
        done = (t - args.start) / args.dt
        slack = jnp.maximum(1e-6, 4 * _eps(done) * done)
        t_next = args.start + (jnp.floor(done + slack) + 1) * args.dt
        return jnp.where(t_next > args.end - slack * args.dt, args.end, t_next)
    last = args.end
    if plan.save == "times" and stepper.land:
        upcoming = args.times[jnp.minimum(saved, args.times.shape[0] - 1)]
        upcoming = jnp.where(saved < args.times.shape[0], upcoming, jnp.inf)
        last = jnp.minimum(last, jnp.where(upcoming > t, upcoming, jnp.inf))
    # A step that would leave a sliver is stretched.
    return jnp.where(t + 1.000001 * h >= last, last, t + h)


class Last(NamedTuple):
    """The last step: where the solution can be evaluated, and until when it is the solution."""

    t: Any
    t_next: Any
    dense: Any
    reached: Any


def step(plan: Plan, stepper: Stepper, c: Carry, args: Arguments, active: Any) -> tuple[Carry, Last]:
    """One step, accepted or rejected."""
    if plan.frozen:
        c = hold_steps(c)
    jumped = False if c.jumped is None else c.jumped
    done = stepper.step(c.t, c.t_next, c.y, args.p, c.stepper, jumped)
    if plan.adaptive:
        finite = jnp.isfinite(done.y).all()
        error = jnp.where(jnp.isfinite(done.error) & finite, done.error, jnp.inf)
        trial = jnp.where(finite, done.y, c.y)
        before = c.y
        if plan.frozen:
            error, trial, before = map(jax.lax.stop_gradient, (error, trial, before))
        keep, t, t_end, _, _, _ = _controller(args).adapt_step_size(
            c.t, c.t_next, before, trial, args.p, error, stepper.error_order, _MEMORYLESS
        )
        t = jnp.where(keep, c.t_next, c.t)
        h = t_end - jnp.where(keep, c.t_next, c.t)
        # A step cut short to land on an output time says nothing about the next one.
        h = jnp.where(keep & (c.t_next - c.t < c.h), jnp.maximum(h, c.h), h)
        smallest = jnp.maximum(4 * _eps(t) * jnp.abs(t), 1e-22 * (args.end - args.start))
        code = jnp.where(jnp.logical_not(keep) & ~(h > smallest), DT_TOO_SMALL, c.code)
        y = jnp.where(keep, done.y, c.y)
        state = jax.tree.map(lambda a, b: jnp.where(keep, a, b), done.state, c.stepper)
    else:
        keep, t, h, code, y, state = True, c.t_next, c.h, c.code, done.y, done.state
    c2 = c._replace(
        t=t,
        h=h,
        y=y,
        stepper=state,
        code=code,
        n_steps=c.n_steps + 1,
        n_rejected=c.n_rejected + jnp.where(keep, 0, 1),
    )
    inside = stepper.interpolate(c.t, c.t_next, done.dense)
    if plan.events:
        held = stepper.interpolate(c.t, c.t_next, jax.lax.stop_gradient(done.dense)) if plan.frozen else inside
        c2, reached = apply_events(plan, c, c2, args, inside, held, keep, active)
    else:
        reached = t
    write = jnp.asarray(active) & keep
    if plan.frozen:
        upto = jnp.searchsorted(args.times, reached, side="right")
        c2 = c2._replace(saved=upto.astype(c2.saved.dtype))
    elif plan.save == "times" and c.ys is not None:
        c2 = _save_times(c2, args, inside, reached, write)
    elif plan.save == "steps":
        c2 = c2._replace(
            ts=put(c2.ts, c2.saved, c2.t, write), ys=put(c2.ys, c2.saved, c2.y, write), saved=c2.saved + write
        )
    out_of_steps = (c2.code == RUNNING) & (c2.n_steps >= args.max_steps) & (c2.t < args.end)
    code = jnp.where(out_of_steps, MAX_ITERS, c2.code)
    t_next = _target(plan, stepper, args, c2.t, c2.h, c2.saved)
    return c2._replace(code=code, t_next=t_next), Last(c.t, c.t_next, done.dense, reached)


def hold_steps(c: Carry) -> Carry:
    """The carry with everything that decides on steps held constant."""
    held = {name: jax.lax.stop_gradient(getattr(c, name)) for name in ("t", "t_next", "h")}
    return c._replace(**held)


def _save_times(c: Carry, args: Arguments, inside: Callable[[Any], Any], reached: Any, write: Any) -> Carry:
    """Evaluate the solution at the output times the step has passed."""
    count = args.times.shape[0]

    def pending(pair: tuple[Any, Any]) -> Any:
        saved = pair[0]
        due = args.times[jnp.minimum(saved, count - 1)]
        return write & (saved < count) & (due <= reached)

    def body(pair: tuple[Any, Any]) -> tuple[Any, Any]:
        saved, ys = pair
        due = pending(pair)
        time = args.times[jnp.minimum(saved, count - 1)]
        return saved + due, put(ys, saved, inside(time), due)

    saved, ys = jax.lax.while_loop(lambda pair: any_of(pending(pair)), body, (c.saved, c.ys))
    return c._replace(saved=saved, ys=ys)
