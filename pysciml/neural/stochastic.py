r"""An adaptive stochastic solve for diagonal Itô noise that keeps its estimates, differentiable.

SOSRI, a stability-optimized stochastic Runge-Kutta method of strong order 3/2 (Rackauckas & Nie, *Stability-optimized
high order methods and stiffness detection for pathwise stiff SDEs*, IEEE HPEC 2020, table 1), of Rößler's class (SIAM
J. Numer. Anal. 48, 2010), with the error estimate of its natural embedding (Rackauckas & Nie, *Adaptive methods for
SDEs via natural embeddings and rejection sampling with memory*, DCDS-B 22, 2017). A rejected step does not throw its
Brownian increment away: it is split by a Brownian bridge, and the rest waits on a stack.

As in `pysciml.neural.adaptive`, steps are recorded forward and differentiated one by one backward, as they were taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp

#: ``field(t, y, params) -> (drift, diffusion)``, each of the shape of ``y``.
NoisyField = Callable[[Any, Any, Any], Any]

_A0: Final = (
    (-0.04199224421316468,),
    (2.842612915017106, -2.0527723684000727),
    (4.338237071435815, -2.8895936137439793, 2.3017575594644466),
)
_A1: Final = (
    (0.26204282091330466,),
    (0.20903646383505375, -0.1502377115150361),
    (0.05836595312746999, 0.6149440396332373, 0.08535117634046772),
)
_B0: Final = (
    (-0.21641093549612528,),
    (1.5336352863679572, 0.26066223492647056),
    (-1.0536037558179159, 1.7015284721089472, -0.20725685784180017),
)
_B1: Final = (
    (-0.5119011827621657,),
    (2.67767339866713, -4.9395031322250995),
    (0.15580956238299215, 3.2361551006624674, -1.4223118283355949),
)
_ALPHA: Final = (1.140099274172029, -0.6401334255743456, 0.4736296532772559, 0.026404498125060714)
_C0: Final = (0.0, -0.04199224421316468, 0.7898405466170333, 3.7504010171562823)
_C1: Final = (0.0, 0.26204282091330466, 0.05879875232001766, 0.758661169101175)
_BETA1: Final = (-1.8453464565104432, 2.688764531100726, -0.2523866501071323, 0.40896857551684956)
_BETA2: Final = (0.4969658141589478, -0.5771202869753592, -0.12919702470322217, 0.2093514975196336)
_BETA3: Final = (2.8453464565104425, -2.688764531100725, 0.2523866501071322, -0.40896857551684945)
_BETA4: Final = (0.11522663875443433, -0.57877086147738, 0.2857851028163886, 0.17775911990655704)

#: How much of the deterministic error estimate counts, and the size of the stability region (SOSRI2's, in SciML).
_DELTA: Final = 1 / 6
_STABILITY: Final = 10.6
_ORDER: Final = 1.5
#: Increments that can wait; each rejection in a row adds one.
_STACK: Final = 24
#: Evaluations of drift, and of diffusion, in a step.
STAGES: Final = 4


@dataclass(frozen=True)
class NoisySetting:
    """What a solve depends on besides numbers; see `pysciml.neural.steps.Setting`."""

    rtol: float
    atol: float
    max_steps: int = 256
    quadrature: bool = False


class NoisyRecord(NamedTuple):
    """Every accepted step: where it began, and its noise. Not differentiable."""

    t: Any
    h: Any
    y: Any
    dw: Any
    dz: Any
    saves: Any


class NoisyOutcome(NamedTuple):
    """What a solve gives; see `pysciml.neural.adaptive.Outcome`. ``n_rhs`` counts evaluations of the drift."""

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
    record: NoisyRecord
    n_records: Any


def _norm(x: Any) -> Any:
    square = jnp.mean(jnp.square(x))
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def _weighted(weights: tuple[float, ...], values: list[Any]) -> Any:
    total = weights[0] * values[0]
    for w, v in zip(weights[1:], values[1:], strict=False):
        total = total + w * v
    return total


def noisy_step(
    how: NoisySetting, field: NoisyField, t: Any, h: Any, y: Any, dw: Any, dz: Any, params: Any
) -> tuple[Any, Any, Any, Any]:
    """One step: the new state, the relative error estimate, the stiffness estimate, the integral.

    Parameters
    ----------
    dw, dz : arrays like ``y``
        Increments over the step of two independent Brownian motions; the second makes the iterated integral.
    """
    root = jnp.sqrt(h)
    chi1 = (dw**2 - h) / (2 * root)
    chi2 = 0.5 * (dw + dz / jnp.sqrt(jnp.asarray(3.0, y.dtype)))
    chi3 = (dw**3 - 3 * dw * h) / (6 * h)

    def drift(t: Any, z: Any) -> Any:
        return field(t, z, params)[0]

    first = field(t, y, params)
    f, g = [first[0]], [first[1]]
    inner: list[Any] = [y]
    for stage in range(1, STAGES):
        at = y + h * _weighted(_A0[stage - 1], f) + chi2 * _weighted(_B0[stage - 1], g)
        also = y + h * _weighted(_A1[stage - 1], f) + root * _weighted(_B1[stage - 1], g)
        inner.append(at)
        f.append(drift(t + _C0[stage] * h, at))
        g.append(field(t + _C1[stage] * h, also, params)[1])
    noise = chi2 * _weighted(_BETA3, g) + chi3 * _weighted(_BETA4, g)
    new = y + h * _weighted(_ALPHA, f) + noise + dw * _weighted(_BETA1, g) + chi1 * _weighted(_BETA2, g)
    # The signs of the embedding alternate, so that a constant drift has no error.
    smooth = h * (f[0] - f[1] + f[2] - f[3])
    scale = how.atol + how.rtol * jnp.maximum(jnp.abs(y), jnp.abs(new))
    error = _norm((_DELTA * smooth + noise) / scale)
    apart, spread = _norm(inner[3] - inner[2]), _norm(f[3] - f[2])
    stiffness = jnp.where(apart > 0, spread / jnp.where(apart > 0, apart, 1.0), 0.0) / _STABILITY
    integral = h * first[2] if how.quadrature else jnp.zeros_like(h)
    return new, error, stiffness, integral


class _Carry(NamedTuple):
    t: Any
    h: Any
    y: Any
    ys: Any
    saved: Any
    n_steps: Any
    attempts: Any
    waiting: Any
    lengths: Any
    stack: Any
    integral: Any
    error: Any
    stiffness: Any
    taken: Any
    failed: Any
    record: NoisyRecord


def solve_noisy(
    how: NoisySetting,
    field: NoisyField,
    params: Any,
    y0: Any,
    t0: Any,
    t1: Any,
    key: Any,
    times: Any = None,
    dt: Any = None,
) -> NoisyOutcome:
    """Solve from ``t0`` to ``t1 > t0`` along one path of each entry's Brownian motion.

    Parameters
    ----------
    field : callable
        Depends on arrays through ``params`` alone.
    y0 : array, any shape
        One state with one step size; every entry has a Brownian motion of its own.
    key : JAX key
    times : array, shape (n_save,), optional
        Where to return the solution; steps end there.
    dt : scalar, optional
        The first step size to try; by default a tenth of the span.
    """
    times = jnp.zeros(0, y0.dtype) if times is None else jnp.asarray(times, y0.dtype)
    span = jnp.asarray(t0, y0.dtype), jnp.asarray(t1, y0.dtype)
    raw = jax.random.key_data(key)

    @jax.custom_vjp
    def run(params: Any, y0: Any, span: Any, times: Any, raw: Any) -> NoisyOutcome:
        return _forward(how, field, params, y0, span, times, jax.random.wrap_key_data(raw), dt)

    def forward(params: Any, y0: Any, span: Any, times: Any, raw: Any) -> Any:
        out = _forward(how, field, params, y0, span, times, jax.random.wrap_key_data(raw), dt)
        return out, (params, out.record, out.n_records, span, times, y0, raw)

    def backward(kept: Any, bar: NoisyOutcome) -> Any:
        params, record, count, span, times, y0, raw = kept
        params_bar, y_bar = _backward(how, field, params, record, count, times, y0, bar)
        none = jax.tree.map(jnp.zeros_like, (span, times))
        return params_bar, y_bar, *none, jnp.zeros(raw.shape, jax.dtypes.float0)

    run.defvjp(forward, backward)
    return run(params, y0, span, times, raw)


def _forward(
    how: NoisySetting, field: NoisyField, params: Any, y0: Any, span: Any, times: Any, key: Any, dt: Any
) -> Any:
    start, end = span
    n, count = how.max_steps, times.shape[0]
    dtype = y0.dtype
    h = 0.1 * (end - start) if dt is None else jnp.asarray(dt, dtype)
    at_start = jnp.sum(times <= start)
    ys = jnp.where((jnp.arange(count) < at_start).reshape(-1, *(1,) * y0.ndim), y0, jnp.zeros((), dtype))
    each, many = jnp.zeros(n, dtype), jnp.zeros((n, *y0.shape), dtype)
    record = NoisyRecord(each, each, many, many, many, jnp.full(n, -1, jnp.int32))
    zero, whole = jnp.zeros((), dtype), jnp.asarray(0)
    carry = _Carry(
        t=start,
        h=h,
        y=y0,
        ys=ys,
        saved=at_start,
        n_steps=whole,
        attempts=whole,
        waiting=whole,
        lengths=jnp.zeros(_STACK, dtype),
        stack=jnp.zeros((_STACK, 2, *y0.shape), dtype),
        integral=zero,
        error=each,
        stiffness=each,
        taken=each,
        failed=jnp.asarray(False),
        record=record,
    )

    def body(c: _Carry) -> _Carry:
        due = times[jnp.minimum(c.saved, count - 1)] if count else end
        stop = jnp.where(c.saved < count, jnp.minimum(due, end), end) if count else end
        wanted = jnp.where(c.t + 1.0001 * c.h >= stop, stop - c.t, c.h)
        draw = jax.random.normal(jax.random.fold_in(key, c.attempts), (2, *y0.shape), dtype)
        # What waits is used first: whole, or split by a Brownian bridge.
        top = jnp.maximum(c.waiting - 1, 0)
        length, piece = c.lengths[top], c.stack[top]
        there = c.waiting > 0
        whole_piece = there & (wanted >= length * 0.9999)
        h = jnp.where(whole_piece, length, wanted)
        q = jnp.where(there & ~whole_piece, h / jnp.where(there, length, 1.0), 0.0)
        split = q * piece + jnp.sqrt(jnp.maximum(q * (1 - q) * length, 0.0)) * draw
        pair = jnp.where(there, jnp.where(whole_piece, piece, split), jnp.sqrt(h) * draw)
        rest = piece - pair
        lengths = c.lengths.at[top].set(jnp.where(there & ~whole_piece, length - h, length))
        stack = c.stack.at[top].set(jnp.where(there & ~whole_piece, rest, piece))
        waiting = c.waiting - whole_piece
        new, error, stiffness, integral = noisy_step(how, field, c.t, h, c.y, pair[0], pair[1], params)
        finite = jnp.isfinite(new).all() & jnp.isfinite(error)
        error = jnp.where(finite, error, jnp.inf)
        keep = error <= 1
        safe = jnp.where(error > 1e-12, error, 1.0)
        factor = jnp.where(error > 1e-12, 0.9 * safe ** (-1 / _ORDER), 5.0)
        factor = jnp.clip(jnp.where(finite, factor, 0.2), 0.2, jnp.where(keep, 5.0, 0.9))
        # A rejected step waits itself.
        slot = jnp.where(keep, _STACK, waiting)
        lengths = lengths.at[slot].set(h, mode="drop")
        stack = stack.at[slot].set(pair, mode="drop")
        reached = jnp.where(h >= stop - c.t - 1e-6 * (end - start), stop, c.t + h)
        hit = keep & (count > 0) & (reached >= due) & (c.saved < count)
        ys = c.ys.at[jnp.where(hit, c.saved, count)].set(new, mode="drop") if count else c.ys
        place = jnp.where(keep, c.n_steps, n)
        record = NoisyRecord(
            t=c.record.t.at[place].set(c.t, mode="drop"),
            h=c.record.h.at[place].set(h, mode="drop"),
            y=c.record.y.at[place].set(c.y, mode="drop"),
            dw=c.record.dw.at[place].set(pair[0], mode="drop"),
            dz=c.record.dz.at[place].set(pair[1], mode="drop"),
            saves=c.record.saves.at[place].set(jnp.where(hit, c.saved, -1).astype(jnp.int32), mode="drop"),
        )
        following = factor * h
        return _Carry(
            t=jnp.where(keep, reached, c.t),
            h=jnp.where(keep & (h < c.h), jnp.maximum(following, c.h), following),
            y=jnp.where(keep, new, c.y),
            ys=ys,
            saved=c.saved + hit,
            n_steps=c.n_steps + keep,
            attempts=c.attempts + 1,
            waiting=waiting + ~keep,
            lengths=lengths,
            stack=stack,
            integral=c.integral + jnp.where(keep, integral, 0.0),
            error=c.error.at[place].set(error, mode="drop"),
            stiffness=c.stiffness.at[place].set(stiffness, mode="drop"),
            taken=c.taken.at[place].set(h, mode="drop"),
            failed=waiting + ~keep >= _STACK,
            record=record,
        )

    c = jax.lax.while_loop(lambda c: (c.t < end) & (c.n_steps < n) & ~c.failed, body, carry)
    return NoisyOutcome(
        ys=c.ys,
        y1=c.y,
        error=c.error,
        stiffness=c.stiffness,
        h=c.taken,
        integral=c.integral,
        n_steps=c.n_steps,
        n_rejected=c.attempts - c.n_steps,
        n_rhs=STAGES * c.attempts,
        success=(c.t >= end) & jnp.isfinite(c.y).all(),
        record=c.record,
        n_records=c.n_steps,
    )


def _backward(
    how: NoisySetting,
    field: NoisyField,
    params: Any,
    record: NoisyRecord,
    count: Any,
    times: Any,
    y0: Any,
    bar: NoisyOutcome,
) -> tuple[Any, Any]:
    n_save = times.shape[0]

    def back(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        i, y_bar, params_bar = carry
        if n_save:
            j = record.saves[i]
            y_bar = y_bar + jnp.where(j >= 0, bar.ys[jnp.maximum(j, 0)], 0.0)

        def step(y: Any, params: Any) -> Any:
            return noisy_step(how, field, record.t[i], record.h[i], y, record.dw[i], record.dz[i], params)

        _, pull = jax.vjp(step, record.y[i], params)
        y_bar, more = pull((y_bar, bar.error[i], bar.stiffness[i], bar.integral))
        return i - 1, y_bar, jax.tree.map(jnp.add, params_bar, more)

    nothing = jax.tree.map(jnp.zeros_like, params)
    _, y_bar, params_bar = jax.lax.while_loop(lambda c: c[0] >= 0, back, (count - 1, bar.y1, nothing))
    if n_save:
        start = record.t[0]
        first = (times <= start).reshape(-1, *(1,) * y0.ndim)
        y_bar = y_bar + jnp.sum(jnp.where(first, bar.ys, 0.0), axis=0)
    return params_bar, y_bar
