r"""An adaptive Runge-Kutta solve that keeps what it knows: error and stiffness estimates, differentiable.

Forward, the states at the steps are recorded. Backward, each step is computed once more from its record and
differentiated: the discrete adjoint of the numerical solution. Every step's error estimate and stiffness estimate is a
result as differentiable as the solution, which is what regularization by solver heuristics needs (Pal, Ma, Shah &
Rackauckas, *Opening the Blackbox*, ICML 2021).

A batch is one state with one step size, as in the papers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

#: ``field(t, y, params) -> dy``, or ``(dy, g)`` with a number g to integrate along.
Field = Callable[[Any, Any, Any], Any]

#: Half the length of the real stability interval, by which SciML scales the stiffness estimate.
_STABILITY: Final = {"Tsit5": 3.5068, "DP5": 3.3066, "BS3": 2.5127}
#: What diffrax calls the methods.
CLASSES: Final = {"Tsit5": "Tsit5", "DP5": "Dopri5", "BS3": "Bosh3"}
METHODS: Final = tuple(CLASSES)

#: The step size controller: diffrax's and Hairer's defaults.
_SAFETY: Final = 0.9
_SMALLEST_FACTOR: Final = 0.2
_LARGEST_FACTOR: Final = 10.0


@dataclass(frozen=True)
class Method:
    """An explicit method whose last stage is the first of the next step."""

    name: str
    a: tuple[tuple[float, ...], ...]
    c: tuple[float, ...]
    b: tuple[float, ...]
    b_error: tuple[float, ...]
    order: float

    @property
    def stages(self) -> int:
        """How many slopes a step has, the one it starts with included."""
        return len(self.b)

    def weights(self, theta: Any) -> Any:
        """How the slopes combine to the solution within the step, shape (stages,)."""
        if self.name == "Tsit5":  # its own interpolant, which is linear in the slopes
            unit = jnp.eye(self.stages, dtype=jnp.result_type(theta))
            none = jnp.zeros(self.stages, dtype=unit.dtype)
            # The times are NumPy's, of the dtype of theta: nothing is promoted.
            zero, one = jnp.zeros((), unit.dtype), jnp.ones((), unit.dtype)
            return diffrax.Tsit5.interpolation_cls(t0=zero, t1=one, y0=none, y1=none, k=unit).evaluate(theta)
        rise = theta * theta * (3 - 2 * theta)  # the cubic Hermite polynomial
        total = rise * jnp.asarray(self.b, dtype=jnp.result_type(theta))
        return total.at[0].add(theta * (1 - theta) ** 2).at[-1].add(theta * theta * (theta - 1))


def method(name: str) -> Method:
    """The method of that name, one of `METHODS`."""
    solver = getattr(diffrax, CLASSES[name])()
    tableau = solver.tableau
    assert tableau.fsal
    return Method(
        name,
        tuple(tuple(float(v) for v in np.asarray(row)) for row in tableau.a_lower),
        tuple(float(v) for v in tableau.c),
        tuple(float(v) for v in tableau.b_sol),
        tuple(float(v) for v in tableau.b_error),
        float(solver.order(None)),
    )


@dataclass(frozen=True)
class Setting:
    """What a solve depends on besides numbers.

    Attributes
    ----------
    method : Method
    rtol, atol : float
    max_steps : int
        How many steps there may be: so many records are kept.
    quadrature : bool
        Whether the field returns a number to integrate along with the derivative.
    through_steps : bool
        Whether step sizes are differentiated, too, rejected attempts included. Then the derivative is that of the
        whole adaptive solve; else that of the steps that were taken.
    adjoint : diffrax adjoint, optional
        By which `pysciml.neural.adjoints.solve` differentiates, instead.
    local : bool
        Whether steps are sampled, so that an adjoint must record them.
    rolled : bool
        Whether the stages of a step are differentiated in a loop, not written out one after the other: for fields of
        elementwise operations alone, which a compiler merges from stage to stage and computes again in each.
    """

    method: Method
    rtol: float
    atol: float
    max_steps: int = 256
    quadrature: bool = False
    through_steps: bool = False
    adjoint: Any = None
    local: bool = False
    rolled: bool = False


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


class Stepped(NamedTuple):
    """One step."""

    y: Any
    slopes: list[Any]
    error: Any
    stiffness: Any
    integral: Any


def _safe_norm(x: Any) -> Any:
    """Root mean square over everything, with derivative 0 where it is 0."""
    square = jnp.mean(jnp.square(x))
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def evaluate(how: Setting, field: Field, t: Any, y: Any, params: Any) -> tuple[Any, Any]:
    """The slope, and the number to integrate along or None."""
    if how.quadrature:
        return field(t, y, params)
    return field(t, y, params), None


def _combine(weights: tuple[float, ...], slopes: list[Any]) -> Any:
    total: Any = None
    for w, k in zip(weights, slopes, strict=False):
        if w != 0.0 and k is not None:
            total = w * k if total is None else total + w * k
    return total


def one_step(how: Setting, field: Field, t: Any, h: Any, y: Any, slope: tuple[Any, Any], params: Any) -> Stepped:
    """A step, with its estimates.

    Parameters
    ----------
    slope : (dy, g)
        Of the field at ``(t, y)``.
    """
    m = how.method
    slopes, numbers = [slope[0]], [slope[1]]
    inner = before = y
    for row, c in zip(m.a, m.c, strict=True):
        before = inner
        inner = y + h * _combine(row, slopes)
        k, g = evaluate(how, field, t + c * h, inner, params)
        slopes.append(k)
        numbers.append(g)
    return _estimated(how, h, y, slopes, numbers, inner, before)


def _one_step_rolled(
    how: Setting, field: Field, t: Any, h: Any, y: Any, slope: tuple[Any, Any], params: Any
) -> Stepped:
    """As `one_step`, stage by stage in a loop; see `Setting`."""
    m = how.method
    count = len(m.a)
    weights = np.zeros((count, count + 1))
    for number, row in enumerate(m.a):
        weights[number, : len(row)] = row
    first = jnp.zeros((count + 1, *y.shape), y.dtype).at[0].set(slope[0])
    along = None if slope[1] is None else jnp.zeros(count + 1, y.dtype).at[0].set(slope[1])

    def stage(carry: tuple[Any, Any], row: tuple[Any, Any, Any]) -> tuple[tuple[Any, Any], Any]:
        slopes, numbers = carry
        weights, c, number = row
        inner = y + h * jnp.tensordot(weights, slopes, axes=1)
        k, g = evaluate(how, field, t + c * h, inner, params)
        return (slopes.at[number].set(k), None if g is None else numbers.at[number].set(g)), inner

    rows = jnp.asarray(weights, y.dtype), jnp.asarray(m.c, y.dtype), jnp.arange(1, count + 1)
    (slopes, numbers), inner = jax.lax.scan(stage, (first, along), rows)
    each = [None] * (count + 1) if numbers is None else list(numbers)
    return _estimated(how, h, y, list(slopes), each, inner[-1], inner[-2])


def _estimated(how: Setting, h: Any, y: Any, slopes: list[Any], numbers: list[Any], inner: Any, before: Any) -> Stepped:
    """What a step's stages say of it; ``inner`` and ``before`` are where the last two were evaluated."""
    m = how.method
    error = h * _combine(m.b_error, slopes)
    scale = how.atol + how.rtol * jnp.maximum(jnp.abs(y), jnp.abs(inner))
    relative = _safe_norm(error / scale)
    # Shampine: the last two stages are at the same time, so that they tell the field's slope between them.
    apart = _safe_norm(inner - before)
    spread = _safe_norm(slopes[-1] - slopes[-2])
    stiffness = jnp.where(apart > 0, spread / jnp.where(apart > 0, apart, 1.0), 0.0) / _STABILITY[m.name]
    integral = h * _combine(m.b, numbers) if how.quadrature else jnp.zeros_like(h)
    return Stepped(inner, slopes, relative, stiffness, integral)


def first_step(how: Setting, field: Field, t: Any, end: Any, y: Any, slope: Any, params: Any) -> Any:
    """A guess of the first step size (Hairer, Nørsett & Wanner, *Solving ODEs I*, II.4)."""
    scale = how.atol + how.rtol * jnp.abs(y)
    size, speed = _safe_norm(y / scale), _safe_norm(slope / scale)
    small = (size < 1e-5) | (speed < 1e-5)
    h = jnp.where(small, 1e-6, 0.01 * size / jnp.where(small, 1.0, speed))
    h = jnp.minimum(h, end - t)
    moved, _ = evaluate(how, field, t + h, y + h * slope, params)
    bend = _safe_norm((moved - slope) / scale) / h
    largest = jnp.maximum(speed, bend)
    flat = largest <= 1e-15
    better = jnp.where(
        flat, jnp.maximum(1e-6, h * 1e-3), (0.01 / jnp.where(flat, 1.0, largest)) ** (1 / (how.method.order + 1))
    )
    return jnp.minimum(100 * h, better)


def step_factor(how: Setting, error: Any) -> Any:
    """By what the step size changes after an error."""
    safe = jnp.where(error > 1e-12, error, 1.0)
    wanted = jnp.where(error > 1e-12, _SAFETY * safe ** (-1 / how.method.order), _LARGEST_FACTOR)
    return jnp.clip(jnp.where(jnp.isfinite(error), wanted, _SMALLEST_FACTOR), _SMALLEST_FACTOR, _LARGEST_FACTOR)


def used_step(t: Any, h: Any, end: Any) -> Any:
    """The step to the end, where one of length ``h`` would leave less than a sliver."""
    return jnp.where(t + 1.000001 * h >= end, end - t, h)


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
        value = _within(how, c.y, slopes, c.t, h, times[saved])
        return saved + 1, ys.at[saved].set(value)

    return jax.lax.while_loop(pending, write, (c.saved, c.ys))


def _within(how: Setting, y: Any, slopes: Any, t: Any, h: Any, time: Any) -> Any:
    """The solution within a step."""
    return y + h * jnp.tensordot(how.method.weights((time - t) / h), slopes, axes=1)


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
        step = _one_step_rolled if how.rolled else one_step
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
                return _within(how, y, slopes, t, used, times[j])

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
