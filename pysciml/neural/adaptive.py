"""An adaptive Runge-Kutta solve that keeps what it knows: error and stiffness estimates, differentiable.

Forward, the states at the steps are recorded. Backward, each step is computed once more from its record and
differentiated: the discrete adjoint of the numerical solution. Every step's error estimate and stiffness estimate is a
result as differentiable as the solution, which is what regularization by solver heuristics needs (Pal, Ma, Shah &
Rackauckas, *Opening the Blackbox*, ICML 2021).

A batch is one state with one step size, as in the papers.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pysciml.neural.steps import (
    Field,
    Setting,
    Stepped,
    evaluate,
    first_step,
    one_step,
    one_step_rolled,
    step_factor,
    used_step,
    within,
)


class Record(NamedTuple):
    """What is kept of every step: where it began. Not differentiable; the slope may be None, not kept."""

    t: Any
    h: Any
    y: Any
    slope: Any
    saved: Any
    kept: Any


class Outcome(NamedTuple):
    """What a solve gives.

    Attributes
    ----------
    ys : array, shape (n_save, ...)
    y1 : array
        At the end.
    error, stiffness, h : arrays, shape (max_steps,)
        Of each step: the error norm relative to the tolerance, Shampine's stiffness estimate, the step size; zero
        beyond the last step and where a step was rejected.
    integral : scalar
        Of the number the field returns.
    n_steps, n_rejected, n_rhs : integers
    success : bool
        Whether the end was reached.
    record : Record
        Of the steps, for regularizers that sample them.
    n_records : integer
    """

    ys: Any
    y1: Any
    error: Any
    stiffness: Any
    h: Any
    integral: Any
    n_steps: Any
    n_rejected: Any
    n_rhs: Any
    success: Any
    record: Record
    n_records: Any


class _Carry(NamedTuple):
    t: Any
    h: Any
    y: Any
    slope: Any
    ys: Any
    saved: Any
    count: Any
    n_steps: Any
    n_rejected: Any
    attempts: Any
    integral: Any
    error: Any
    stiffness: Any
    taken: Any
    failed: Any
    record: Record


def _forward(how: Setting, field: Field, params: Any, y0: Any, span: tuple[Any, Any], times: Any, dt: Any) -> Any:
    """Solve, and record every step (every attempt, where step sizes are differentiated)."""
    start, end = span
    n, count = how.max_steps, times.shape[0]
    k0, g0 = evaluate(how, field, start, y0, params)
    h = first_step(how, field, start, end, y0, k0, params) if dt is None else jnp.asarray(dt, y0.dtype)
    zero = jnp.zeros((), dtype=y0.dtype)
    whole = jnp.asarray(0)
    # Output times at the very start are the initial value.
    at_start = jnp.sum(times <= start)
    ys = jnp.where((jnp.arange(count) < at_start).reshape(-1, *(1,) * y0.ndim), y0, jnp.zeros((), y0.dtype))
    slope = (k0, g0) if how.quadrature else (k0, None)
    record = Record(
        t=jnp.zeros(n, y0.dtype),
        h=jnp.zeros(n, y0.dtype),
        y=jnp.zeros((n, *y0.shape), y0.dtype),
        slope=jax.tree.map(lambda s: jnp.zeros((n, *jnp.shape(s)), y0.dtype), slope),
        saved=jnp.zeros(n, jnp.int32),
        kept=jnp.zeros(n, bool),
    )
    each = jnp.zeros(n, y0.dtype)
    carry = _Carry(
        start,
        h,
        y0,
        slope,
        ys,
        at_start,
        whole,
        whole,
        whole,
        whole,
        zero,
        each,
        each,
        each,
        jnp.asarray(False),
        record,
    )

    def going(c: _Carry) -> Any:
        return (c.t < end) & (c.count < n) & ~c.failed

    def body(c: _Carry) -> _Carry:
        h = used_step(c.t, c.h, end)
        done = one_step(how, field, c.t, h, c.y, c.slope, params)
        finite = jnp.isfinite(done.y).all()
        error = jnp.where(finite & jnp.isfinite(done.error), done.error, jnp.inf)
        keep = error <= 1
        factor = step_factor(how, error)
        reached = jnp.where(c.t + h >= end, end, c.t + h)
        write = keep | how.through_steps
        slot = jnp.where(write, c.count, n)
        record = Record(
            t=c.record.t.at[slot].set(c.t, mode="drop"),
            h=c.record.h.at[slot].set(c.h, mode="drop"),
            y=c.record.y.at[slot].set(c.y, mode="drop"),
            slope=jax.tree.map(lambda b, s: b.at[slot].set(s, mode="drop"), c.record.slope, c.slope),
            saved=c.record.saved.at[slot].set(c.saved.astype(jnp.int32), mode="drop"),
            kept=c.record.kept.at[slot].set(keep, mode="drop"),
        )
        saved, ys = c.saved, c.ys
        if count:
            saved, ys = _save(how, c, done, h, times, jnp.where(keep, reached, c.t))
        last = (done.slopes[-1], _last_number(how, field, reached, done, params))
        shrunk = jnp.where(keep, factor, jnp.minimum(factor, 1.0)) * h
        # A step cut short by the end says nothing about the next one.
        following = jnp.where(keep & (h < c.h), jnp.maximum(shrunk, c.h), shrunk)
        tiny = ~(shrunk > 8 * jnp.finfo(y0.dtype).eps * jnp.maximum(jnp.abs(c.t), 1e-3 * (end - start)))
        value = jnp.where(keep, 1.0, 0.0)
        return _Carry(
            t=jnp.where(keep, reached, c.t),
            h=following,
            y=jnp.where(keep, done.y, c.y),
            slope=jax.tree.map(lambda a, b: jnp.where(keep, a, b), last, c.slope),
            ys=ys,
            saved=saved,
            count=c.count + write,
            n_steps=c.n_steps + keep,
            n_rejected=c.n_rejected + ~keep,
            attempts=c.attempts + 1,
            integral=c.integral + jnp.where(keep, done.integral, 0.0),
            error=c.error.at[slot].set(jnp.where(keep, done.error, 0.0), mode="drop"),
            stiffness=c.stiffness.at[slot].set(jnp.where(keep, done.stiffness, 0.0), mode="drop"),
            taken=c.taken.at[slot].set(value * h, mode="drop"),
            failed=~keep & tiny,
            record=record,
        )

    c = jax.lax.while_loop(going, body, carry)
    before = 1 + (dt is None)
    return Outcome(
        ys=c.ys,
        y1=c.y,
        error=c.error,
        stiffness=c.stiffness,
        h=c.taken,
        integral=c.integral,
        n_steps=c.n_steps,
        n_rejected=c.n_rejected,
        n_rhs=before + (how.method.stages - 1) * c.attempts,
        success=(c.t >= end) & jnp.isfinite(c.y).all(),
        record=c.record,
        n_records=c.count,
    )


def _last_number(how: Setting, field: Field, t: Any, done: Stepped, params: Any) -> Any:
    return evaluate(how, field, t, done.y, params)[1] if how.quadrature else None


def _save(how: Setting, c: _Carry, done: Stepped, h: Any, times: Any, reached: Any) -> tuple[Any, Any]:
    """Evaluate the solution at the output times the step has passed."""
    count = times.shape[0]
    slopes = jnp.stack(done.slopes)

    def pending(pair: tuple[Any, Any]) -> Any:
        return (pair[0] < count) & (times[jnp.minimum(pair[0], count - 1)] <= reached)

    def write(pair: tuple[Any, Any]) -> tuple[Any, Any]:
        saved, ys = pair
        value = within(how, c.y, slopes, c.t, h, times[saved])
        return saved + 1, ys.at[saved].set(value)

    return jax.lax.while_loop(pending, write, (c.saved, c.ys))


def solve(
    how: Setting, field: Field, params: Any, y0: Any, t0: Any, t1: Any, times: Any = None, dt: Any = None
) -> Outcome:
    """Solve from ``t0`` to ``t1 > t0``; differentiable by ``params`` and ``y0`` in reverse.

    Parameters
    ----------
    how : Setting
    field : callable
        Depends on arrays through ``params`` alone (it must not close over traced ones).
    params : pytree of floating-point arrays
    y0 : array, any shape
        Its norm is the root mean square over all of it.
    t0, t1 : scalars
    times : array, shape (n_save,), optional
        Where to return the solution, ascending, within the span.
    dt : scalar, optional
        The first step size to try.

    Returns
    -------
    Outcome
    """
    times = jnp.zeros(0, y0.dtype) if times is None else jnp.asarray(times, y0.dtype)
    span = jnp.asarray(t0, y0.dtype), jnp.asarray(t1, y0.dtype)

    @jax.custom_vjp
    def run(params: Any, y0: Any, span: tuple[Any, Any], times: Any) -> Outcome:
        return _forward(how, field, params, y0, span, times, dt)

    def forward(params: Any, y0: Any, span: tuple[Any, Any], times: Any) -> tuple[Outcome, Any]:
        out = _forward(how, field, params, y0, span, times, dt)
        return out, (params, out.record, out.n_records, span, times, y0)

    def backward(kept: Any, bar: Outcome) -> Any:
        params, record, count, span, times, y0 = kept
        return _backward(how, field, params, record, count, span, times, y0, dt is None, bar)

    run.defvjp(forward, backward)
    return run(params, y0, span, times)


def _backward(
    how: Setting,
    field: Field,
    params: Any,
    record: Record,
    count: Any,
    span: tuple[Any, Any],
    times: Any,
    y0: Any,
    guessed: bool,
    bar: Outcome,
) -> Any:
    """From the derivatives by the results to those by parameters and initial value, step by step back."""
    end = span[1]
    n_save = times.shape[0]

    def attempt(keep: Any, y: Any, slope: Any, t: Any, h: Any, params: Any) -> Any:
        used = used_step(t, h, end)
        if not how.through_steps:
            t, h, used = jax.lax.stop_gradient((t, h, used))
        step = one_step_rolled if how.rolled else one_step
        done = step(how, field, t, used, y, slope, params)
        last = (done.slopes[-1], _last_number(how, field, t + used, done, params))
        if not how.through_steps:
            return done.y, last, t, h, done.error, done.stiffness, used, done.integral, _stack(done, n_save)
        factor = step_factor(how, done.error)
        shrunk = jnp.where(keep, factor, jnp.minimum(factor, 1.0)) * used
        following = jnp.where(keep & (used < h), jnp.maximum(shrunk, h), shrunk)
        zero = jnp.zeros_like(used)
        return (
            jnp.where(keep, done.y, y),
            jax.tree.map(lambda a, b: jnp.where(keep, a, b), last, slope),
            jnp.where(keep, t + used, t),
            following,
            jnp.where(keep, done.error, zero),
            jnp.where(keep, done.stiffness, zero),
            jnp.where(keep, used, zero),
            jnp.where(keep, done.integral, zero),
            _stack(done, n_save),
        )

    def saves(i: Any, y: Any, slopes: Any, t: Any, h: Any, y_bar: Any) -> tuple[Any, ...]:
        """What the saved values within step ``i`` pass on to its start, its slopes and its size."""
        until = jnp.where(i + 1 < count, record.saved[jnp.minimum(i + 1, how.max_steps - 1)], n_save)
        used = used_step(t, h, end)

        def add(j: Any, total: tuple[Any, ...]) -> tuple[Any, ...]:
            def value(y: Any, slopes: Any, t: Any, used: Any) -> Any:
                return within(how, y, slopes, t, used, times[j])

            _, pull = jax.vjp(value, y, slopes, t, used)
            return jax.tree.map(jnp.add, total, pull(bar.ys[j]))

        zero = jnp.zeros_like(t)
        return jax.lax.fori_loop(record.saved[i], until, add, (y_bar, jnp.zeros_like(slopes), zero, zero))

    def back(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        i, y_bar, slope_bar, t_bar, h_bar, params_bar = carry
        y, t, h, keep = record.y[i], record.t[i], record.h[i], record.kept[i]
        slope = jax.tree.map(lambda s: s[i], record.slope)
        out, pull = jax.vjp(partial(attempt, keep), y, slope, t, h, params)
        extra_y, extra_t, extra_used = jnp.zeros_like(y), jnp.zeros_like(t), jnp.zeros_like(t)
        slopes_bar = out[8]
        if n_save:
            extra_y, slopes_bar, extra_t, extra_used = saves(i, y, out[8], t, h, extra_y)
        cotangent = (
            y_bar,
            slope_bar,
            t_bar,
            h_bar,
            bar.error[i],
            bar.stiffness[i],
            bar.h[i] + extra_used,
            bar.integral,
            slopes_bar,
        )
        y_bar, slope_bar, t_bar, h_bar, more = pull(cotangent)
        return i - 1, y_bar + extra_y, slope_bar, t_bar + extra_t, h_bar, jax.tree.map(jnp.add, params_bar, more)

    zero = jnp.zeros((), y0.dtype)
    slope_bar = jax.tree.map(lambda s: jnp.zeros_like(s[0]), record.slope)
    nothing = jax.tree.map(jnp.zeros_like, params)
    carry = (count - 1, bar.y1, slope_bar, zero, zero, nothing)
    _, y_bar, slope_bar, _, h_bar, params_bar = jax.lax.while_loop(lambda c: c[0] >= 0, back, carry)

    def begin(y: Any, params: Any) -> Any:
        slope = evaluate(how, field, span[0], y, params)
        guess = zero
        if guessed and how.through_steps:
            guess = first_step(how, field, span[0], end, y, slope[0], params)
        return slope, guess

    _, pull = jax.vjp(begin, y0, params)
    more_y, more = pull((slope_bar, h_bar))
    if n_save:  # values saved at the very start
        first = (jnp.arange(n_save) < record.saved[0]).reshape(-1, *(1,) * y0.ndim)
        more_y = more_y + jnp.sum(jnp.where(first, bar.ys, 0.0), axis=0)
    params_bar = jax.tree.map(jnp.add, params_bar, more)
    none = jax.tree.map(jnp.zeros_like, (span, times))
    return params_bar, y_bar + more_y, *none


def _stack(done: Stepped, n_save: int) -> Any:
    return jnp.stack(done.slopes) if n_save else jnp.zeros((), done.y.dtype)
