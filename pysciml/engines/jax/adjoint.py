r"""The continuous adjoint: gradients by solving the adjoint equation backward in time.

For a function :math:`G(u(t_1), u(t_2), ...)` of a solution of :math:`u' = f(t, u, p)`, the adjoint
:math:`\lambda' = -J^T \lambda` runs from the end to the start, jumps by :math:`\partial G / \partial
u(t_k)` at every output time, and arrives as the derivative by the initial values; that by the
parameters is :math:`\int \lambda^T \partial f / \partial p\,dt` (Cao, Li, Petzold & Serban, SIAM J.
Sci. Comput. 24, 2003). The states are those of the forward solve, interpolated within its steps;
they are not solved for backward, which would be unstable where the equation is stiff (Kim et al.,
*Stiff neural ordinary differential equations*, Chaos 31, 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from pysciml.engines.base import Array, SolveOptions
from pysciml.engines.jax.algorithms import ALGORITHMS
from pysciml.engines.jax.differentiable import arguments, frozen_plan
from pysciml.engines.jax.loop import Last, advance, empty_last, start, step
from pysciml.engines.jax.program import deterministic
from pysciml.engines.jax.sensitivity import Indices
from pysciml.engines.jax.state import MAX_ITERS, RETCODES, RUNNING, Arguments, Carry, Plan, put
from pysciml.errors import SolverError
from pysciml.graph import Model

#: Steps of the forward solve that are fetched at a time.
_SLICE: Final = 1024
_KEPT: Final = 16
_made: dict[Hashable, tuple[Any, ...]] = {}


def adjoint(
    model: Model,
    u0: Array,
    p: Array,
    tspan: tuple[float, float],
    algorithm: str,
    options: SolveOptions,
    quantity: Callable[[Any, Any, Any], Any],
    key: Hashable,
    by_p: Indices,
    by_u0: Indices,
) -> tuple[Any, Array, Array]:
    """See `pysciml.engines.jax.gradient.gradient`; value, slopes and times."""
    asked = np.array([tspan[1]]) if options.saveat is None else options.saveat
    if key not in _made:
        while len(_made) >= _KEPT:
            del _made[next(iter(_made))]
        _made[key] = _make(model, tspan, algorithm, options, asked, quantity)
    forward, differentiate, backward = _made[key]
    u, steps = _record(model, algorithm, forward, u0, p, options)
    value, (by_u, direct) = differentiate(u, p)
    value = np.asarray(value)
    by_u, direct = np.asarray(by_u).reshape(-1, *u.shape), np.asarray(direct).reshape(-1, len(p))
    rows: list[Array] = []
    for seed, along in zip(by_u, direct, strict=True):
        size = float(np.abs(seed).max()) or 1.0  # the tolerances are for an adjoint that starts at one
        ends, code = backward(steps, seed / size, p)
        if int(code) != RUNNING:
            raise SolverError(
                f"{model.name}: the adjoint equation ended with {RETCODES[int(code)]} (jax engine, {algorithm})",
                retcode=RETCODES[int(code)],
            )
        whole = size * np.asarray(ends)
        rows.append(np.concatenate([(along + whole[len(u0) :])[by_p], whole[: len(u0)][by_u0]]))
    return value, np.stack(rows).reshape(*value.shape, -1), asked


def _make(
    model: Model,
    tspan: tuple[float, float],
    algorithm: str,
    options: SolveOptions,
    asked: Array,
    quantity: Callable[[Any, Any, Any], Any],
) -> tuple[Any, ...]:
    """The three compiled parts: a slice of the forward solve, the quantity, the way back."""
    if ALGORITHMS[algorithm].family == "implicit":  # its cubic interpolant has fewer digits than its steps
        options = replace(options, rtol=options.rtol / 10, atol=options.atol / 10)
    plan, sign = frozen_plan(model, algorithm, tspan, options)
    times = sign * asked
    no_key = np.zeros(2, dtype=np.uint32)

    def forward(carry: Carry | None, y0: Any, p: Any) -> Any:
        args = arguments(options, tspan, sign, times, p, no_key)
        stepper = plan.stepper(args)
        carry = start(plan, y0, args) if carry is None else carry
        shape = empty_last(plan, stepper, carry, args)
        buffers = jax.tree.map(lambda leaf: jnp.zeros((_SLICE, *leaf.shape), leaf.dtype), shape)

        def going(state: tuple[Any, ...]) -> Any:
            return (state[0].code == RUNNING) & (state[0].t < args.end) & (state[2] < _SLICE)

        def body(state: tuple[Any, ...]) -> tuple[Any, ...]:
            before, buffers, filled = state
            after, last = step(plan, stepper, before, args, True)
            kept = after.t > before.t
            return (
                after,
                jax.tree.map(lambda buffer, leaf: put(buffer, filled, leaf, kept), buffers, last),
                filled + kept,
            )

        return jax.lax.while_loop(going, body, (carry, buffers, jnp.asarray(0)))

    def evaluate(steps: Last, p: Any) -> Any:
        interpolate = _interpolant(plan, arguments(options, tspan, sign, times, p, no_key), steps)
        return jax.vmap(interpolate)(jnp.asarray(times)).T

    def differentiate(u: Any, p: Any) -> Any:
        return quantity(u, p, jnp.asarray(asked)), jax.jacrev(quantity, argnums=(0, 1))(u, p, jnp.asarray(asked))

    backward = partial(_backward, plan, algorithm, options, tspan, sign, times)
    return (jax.jit(forward), jax.jit(evaluate)), jax.jit(differentiate), jax.jit(backward)


def _interpolant(plan: Plan, args: Arguments, steps: Last) -> Callable[[Any], Any]:
    """The forward solution as a function of time; after the last step there are only repetitions of it."""
    stepper = plan.stepper(args)

    def interpolate(time: Any) -> Any:
        which = jnp.minimum(jnp.searchsorted(steps.t_next, time), steps.t.shape[0] - 1)
        here = jax.tree.map(lambda leaf: leaf[which], steps)
        return stepper.interpolate(here.t, here.t_next, here.dense)(time)

    return interpolate


def _record(
    model: Model, algorithm: str, forward: tuple[Any, Any], u0: Array, p: Array, options: SolveOptions
) -> tuple[Any, Last]:
    """Solve forward: the states at the output times, and every step, padded to a power of two."""
    advance_slice, evaluate = forward
    parts: list[Any] = []
    carry = None
    while True:
        carry, buffers, filled = advance_slice(carry, u0, p)
        filled = int(filled)
        parts.append(jax.tree.map(lambda leaf, filled=filled: np.asarray(leaf)[:filled], buffers))
        code = int(carry.code)
        if code != RUNNING:
            raise SolverError(
                f"{model.name}: the solve ended with {RETCODES[code]} (jax engine, {algorithm})", retcode=RETCODES[code]
            )
        if filled < _SLICE:
            break
    steps: Any = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    size = 1 << (len(steps.t) - 1).bit_length()
    steps = jax.tree.map(lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], size - len(leaf), axis=0)]), steps)
    return evaluate(steps, p), steps


def _backward(
    plan: Plan,
    algorithm: str,
    options: SolveOptions,
    tspan: tuple[float, float],
    sign: float,
    times: Array,
    steps: Last,
    seed: Any,
    p: Any,
) -> tuple[Any, Any]:
    """The adjoint and the integral for the parameters at the start, as one vector."""
    n, m = seed.shape[0], p.shape[0]
    args = arguments(options, tspan, sign, times, p, np.zeros(2, dtype=np.uint32))
    states = _interpolant(plan, args, steps)

    def rhs(t: Any, z: Any, q: Any) -> Any:  # in the time -t, which runs forward
        u = states(-t)
        _, pull = jax.vjp(lambda v, numbers: plan.rhs(-t, v, numbers), u, q)
        return jnp.concatenate(pull(z[:n]))

    chosen = ALGORITHMS[algorithm]
    jacobian = jax.jacfwd(rhs, argnums=1) if chosen.family == "implicit" else None
    stepper = partial(deterministic, rhs, jacobian, chosen, True)
    first = Plan(stepper, rhs, (), "end", 0, plan.adaptive, plan.given_dt)
    later = Plan(stepper, rhs, (), "end", 0, plan.adaptive, True)

    def stretch(plan: Plan, z: Any, begin: Any, end: Any, h: Any) -> tuple[Any, Any, Any, Any]:
        here = args._replace(start=begin, end=end, dt=h)
        done = advance(plan, start(plan, z, here), here)
        return done.y, done.h, done.code, done.n_steps

    z = jnp.concatenate([seed[:, -1], jnp.zeros(m, dtype=seed.dtype)])
    ends = -np.concatenate([[sign * tspan[0]], times[:-1]])[::-1]  # of the stretches, from the end to the start
    begins = -times[::-1]
    jumps = jnp.concatenate([jnp.zeros((n, 1), dtype=seed.dtype), seed[:, :-1]], axis=1).T[::-1]
    usable = begins < ends
    if not usable.any():
        return z, jnp.asarray(RUNNING)
    k = int(np.argmax(usable))
    z, h, code, count = stretch(first, z, begins[k], ends[k], args.dt)
    z = z.at[:n].add(jumps[k])

    def following(carry: tuple[Any, ...], item: tuple[Any, Any, Any]) -> tuple[tuple[Any, ...], None]:
        z, h, code, count = carry
        begin, end, jump = item
        dt = jnp.minimum(h, end - begin) if plan.adaptive else args.dt
        z, h, now, more = stretch(later, z, begin, end, dt)
        return (z.at[:n].add(jump), h, jnp.where(code == RUNNING, now, code), count + more), None

    rest = usable & (np.arange(len(usable)) > k)
    items = (jnp.asarray(begins[rest]), jnp.asarray(ends[rest]), jumps[rest])
    (z, _, code, count), _ = jax.lax.scan(following, (z, h, code, count), items)
    return z, jnp.where((code == RUNNING) & (count > options.max_steps), MAX_ITERS, code)
