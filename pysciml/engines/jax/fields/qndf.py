"""The NDF method of variable order, with Newton and Krylov iterations, as one compiled loop.

L. F. Shampine & M. W. Reichelt, *The MATLAB ODE suite*, SIAM J. Sci. Comput. 18 (1997) 1-22, in the
form with backward differences that are rescaled when the step changes (section 2.2); the Newton
iteration's tests after Hairer & Wanner, *Solving Ordinary Differential Equations II*, section IV.8.
The Jacobian is never formed: its products come from the linearized right-hand side.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pysciml.engines.jax.fields import krylov
from pysciml.engines.jax.fields.precondition import Modes, make_inverse, mean_reaction
from pysciml.engines.jax.lower import Function
from pysciml.graph.fields import FieldGraph

_MOST: Final = 5  # the highest order
_KAPPA: Final = np.array([0, -0.1850, -1 / 9, -0.0823, -0.0415, 0])
_GAMMA: Final = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, _MOST + 1))])
_ALPHA: Final = (1 - _KAPPA) * _GAMMA
_ERROR: Final = _KAPPA * _GAMMA + 1 / np.arange(1, _MOST + 2)
_NEWTON: Final = 5
_KRYLOV: Final = 40
_SMALLEST_FACTOR: Final = 0.2
_LARGEST_FACTOR: Final = 10.0

RUNNING, DONE, DT_TOO_SMALL, UNSTABLE = 0, 1, 3, 4


class Inputs(NamedTuple):
    """What may change without compiling again. Times run forward."""

    p: Any
    end: Any
    times: Any
    rtol: Any
    atol: Any
    stop_at: Any
    modes: Modes


class Carry(NamedTuple):
    """Where the integration is."""

    t: Any
    h: Any
    order: Any
    differences: Any  # (8, n): backward differences, the solution first
    equal: Any  # steps since step or order changed
    failed: Any  # failures in a row
    code: Any
    n_steps: Any
    n_rejected: Any
    n_rhs: Any
    saved: Any
    ts: Any
    ys: Any


def start(f: Any, t: Any, y: Any, end: Any, rtol: Any, atol: Any, dt: Any, rows: int) -> Carry:
    """The state before the first step, ``f`` being the right-hand side there.

    Its length moves the solution by a hundredth of its size (Hairer, Nørsett & Wanner, II.4).
    """
    scale = atol + rtol * jnp.abs(y)
    d0, d1 = _norm(y / scale), _norm(f / scale)
    h = jnp.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / jnp.where(d1 > 0, d1, 1.0))
    h = jnp.where(jnp.isfinite(h) & (h > 0), h, 1e-6 * (end - t))
    h = jnp.minimum(jnp.where(dt > 0, dt, h), end - t)
    differences = jnp.zeros((_MOST + 3, y.shape[0]), dtype=y.dtype).at[0].set(y).at[1].set(h * f)
    zero = jnp.asarray(0)
    code = jnp.where(jnp.isfinite(f).all(), RUNNING, UNSTABLE)
    return Carry(
        *(jnp.asarray(t), h, jnp.asarray(1), differences, zero, zero, code, zero, zero, jnp.asarray(1), zero),
        ts=jnp.zeros(rows, dtype=y.dtype),
        ys=jnp.zeros((rows, y.shape[0]), dtype=y.dtype),
    )


def advance(graph: FieldGraph, rhs: Function, shared: bool, steps: bool, carry: Carry, inputs: Inputs) -> Carry:
    """Step until the end, a failure, ``stop_at`` steps, or a full buffer.

    Parameters
    ----------
    shared : bool
        Whether the fields share their modes.
    steps : bool
        Save every step, from the buffer's beginning; else save at ``inputs.times``.
    """
    if steps:
        carry = carry._replace(saved=jnp.asarray(0))
    rows = carry.ys.shape[0]

    def going(c: Carry) -> Any:
        go = (c.code == RUNNING) & (c.t < inputs.end) & (c.n_steps < inputs.stop_at)
        return go & (c.saved < rows) if steps else go

    return jax.lax.while_loop(going, lambda c: _step(graph, rhs, shared, steps, c, inputs), carry)


def _norm(x: Any) -> Any:
    return jnp.sqrt(jnp.mean(x * x))


def _combine(weights: Any, rows: Any) -> Any:
    """``weights @ rows``, as a sum: a matrix product would take longer to compile than to run."""
    return jnp.sum(weights.astype(rows.dtype)[:, None] * rows, axis=0)


def _rescale(differences: Any, order: Any, factor: Any) -> Any:
    """The differences for steps ``factor`` times as long."""

    def matrix(value: Any) -> Any:
        i = jnp.arange(1, _MOST + 1, dtype=differences.dtype)[:, None]
        j = jnp.arange(1, _MOST + 1, dtype=differences.dtype)[None]
        inner = (i - 1 - value * j) / i
        whole = jnp.zeros((_MOST + 1, _MOST + 1), dtype=differences.dtype).at[0].set(1.0).at[1:, 1:].set(inner)
        product = jnp.cumprod(whole, axis=0)
        index = jnp.arange(_MOST + 1)
        inside = (index[:, None] <= order) & (index[None] <= order)
        return jnp.where(inside, product, jnp.eye(_MOST + 1, dtype=differences.dtype))

    first, second = matrix(factor), matrix(jnp.ones_like(factor))
    change = jnp.sum(first[:, :, None] * second[None], axis=1)  # [i, j]: of difference i in the new difference j
    old = differences[: _MOST + 1]
    new = jnp.stack([_combine(change[:, j], old) for j in range(_MOST + 1)])
    return differences.at[: _MOST + 1].set(new)


def _step(graph: FieldGraph, rhs: Function, shared: bool, steps: bool, c: Carry, inputs: Inputs) -> Carry:
    """One attempt at a step."""
    dtype = c.differences.dtype
    h, order = c.h, c.order
    reaches_end = c.t + 1.000001 * h >= inputs.end
    t_new = jnp.where(reaches_end, inputs.end, c.t + h)
    index = jnp.arange(_MOST + 3)
    predicted = _combine(jnp.where(index <= order, 1.0, 0.0), c.differences)
    scale = inputs.atol + inputs.rtol * jnp.abs(predicted)
    gammas = jnp.asarray(np.concatenate([_GAMMA, [0.0, 0.0]]), dtype=dtype)
    alpha = jnp.asarray(_ALPHA, dtype=dtype)[order]
    psi = _combine(jnp.where(index <= order, gammas, 0.0) / alpha, c.differences)
    change, converged, iterations, work = _newton(graph, rhs, shared, t_new, h / alpha, predicted, psi, scale, inputs)
    safety = 0.9 * (2 * _NEWTON + 1) / (2 * _NEWTON + iterations)
    constants = jnp.asarray(_ERROR, dtype=dtype)
    error = constants[order] * _norm(change / scale)
    error = jnp.where(jnp.isfinite(error), error, jnp.inf)
    accept = converged & (error <= 1.0)
    # Accepted: the order and step that promise the longest next step, once enough equal steps are made.
    new = _advance_differences(c.differences, change, order)
    ready = accept & (c.equal + 1 >= order + 1)
    below = jnp.where(order > 1, constants[order - 1] * _norm(new[order] / scale), jnp.inf)
    above = constants[jnp.minimum(order + 1, _MOST)] * _norm(new[order + 2] / scale)
    norms = jnp.stack([below, error, jnp.where(order < _MOST, above, jnp.inf)])
    factors = jnp.maximum(norms, 1e-30) ** (-1.0 / (order + jnp.arange(3)))
    best = jnp.argmax(factors)
    grow = jnp.where(ready, jnp.minimum(_LARGEST_FACTOR, safety * factors[best]), 1.0)
    # Rejected: a shorter step, of the same order.
    by_error = jnp.maximum(_SMALLEST_FACTOR, safety * jnp.minimum(error, 1e9) ** (-1.0 / (order + 1)))
    shrink = jnp.where(converged, by_error, jnp.where(c.failed > 2, 0.25, 0.5))
    t = jnp.where(accept, t_new, c.t)
    next_order = jnp.where(ready, order + best - 1, order)
    factor = jnp.where(accept, grow, shrink)
    # The last step ends at the end; one that would leave a sliver is stretched.
    to_go = inputs.end - t
    factor = jnp.where((1.000001 * factor * h >= to_go) & (to_go > 0), to_go / h, factor)
    differences = _rescale(jnp.where(accept, new, c.differences), next_order, factor)
    smallest = jnp.maximum(16 * jnp.finfo(dtype).eps * jnp.abs(t), 1e-22 * jnp.abs(inputs.end))
    done = c._replace(
        t=t,
        h=h * factor,
        order=next_order,
        differences=differences,
        equal=jnp.where(accept & (factor == 1.0), c.equal + 1, 0),
        failed=jnp.where(accept, 0, c.failed + 1),
        code=jnp.where(~accept & ~(h * factor > smallest), DT_TOO_SMALL, c.code),
        n_steps=c.n_steps + 1,
        n_rejected=c.n_rejected + jnp.where(accept, 0, 1),
        n_rhs=c.n_rhs + iterations + work + 1,
    )
    if steps:
        where = jnp.where(accept, c.saved, c.ys.shape[0])
        return done._replace(
            ts=c.ts.at[where].set(t, mode="drop"),
            ys=c.ys.at[where].set(new[0], mode="drop"),
            saved=c.saved + accept,
        )
    return _save(done, inputs, accept, t_new, h, order, new)


def _advance_differences(differences: Any, change: Any, order: Any) -> Any:
    """The backward differences at the end of an accepted step."""
    above = jnp.take(differences, order + 1, axis=0)
    new = differences.at[order + 2].set(change - above).at[order + 1].set(change)
    # new[i] += new[i + 1] from i = order down to 0
    rows = [new[k] for k in range(_MOST + 3)]
    for i in range(_MOST, -1, -1):
        rows[i] = rows[i] + jnp.where(i <= order, 1.0, 0.0).astype(new.dtype) * rows[i + 1]
    return jnp.stack(rows)


def _save(c: Carry, inputs: Inputs, accept: Any, t_new: Any, h: Any, order: Any, d: Any) -> Carry:
    """Evaluate the step's polynomial at the output times it has passed."""
    count = inputs.times.shape[0]
    if count == 0:
        return c

    index = jnp.arange(_MOST)

    def due(pair: tuple[Any, Any]) -> Any:
        return accept & (pair[0] < count) & (inputs.times[jnp.minimum(pair[0], count - 1)] <= t_new)

    def write(pair: tuple[Any, Any]) -> tuple[Any, Any]:
        saved, ys = pair
        x = (inputs.times[saved] - (t_new - h * index)) / (h * (1 + index))
        weights = jnp.where(index < order, jnp.cumprod(x), 0.0).astype(d.dtype)
        return saved + 1, ys.at[saved].set(d[0] + _combine(weights, d[1 : _MOST + 1]))

    saved, ys = jax.lax.while_loop(due, write, (c.saved, c.ys))
    return c._replace(saved=saved, ys=ys)


def _newton(
    graph: FieldGraph,
    rhs: Function,
    shared: bool,
    t: Any,
    c: Any,
    predicted: Any,
    psi: Any,
    scale: Any,
    inputs: Inputs,
) -> tuple[Any, Any, Any, Any]:
    """Solve ``change = c f(t, predicted + change) - psi``; whether that converged, and the work it took."""
    p = inputs.p
    eps = float(jnp.finfo(predicted.dtype).eps)
    tolerance = jnp.maximum(10 * eps / inputs.rtol, jnp.minimum(0.03, jnp.sqrt(inputs.rtol)))
    _, push = jax.linearize(lambda u: rhs(t, u, p), predicted)
    inverse = make_inverse(graph, inputs.modes, shared, mean_reaction(graph, push, predicted.dtype), c)

    def multiply(x: Any) -> Any:
        return x - c * push(x)

    def norm(x: Any) -> Any:
        return _norm(x / scale)

    def going(s: tuple[Any, ...]) -> Any:
        _, _, done, failed, count, _ = s
        return ~done & ~failed & (count < _NEWTON)

    def iterate(s: tuple[Any, ...]) -> tuple[Any, ...]:
        change, old, _, _, count, work = s
        right = c * rhs(t, predicted + change, p) - psi - change
        step, fine, used = krylov.solve(multiply, inverse, right, norm, 0.2 * tolerance, 0.02, _KRYLOV)
        size = norm(step)
        rate = jnp.where(count == 0, 0.0, size / jnp.where(old > 0, old, 1.0))
        later = rate / jnp.maximum(1 - rate, 1e-3) * size  # what the iterations to come will add
        hopeless = (count > 0) & ((rate >= 1) | (rate ** (_NEWTON - 1 - count) * later > tolerance))
        done = fine & ((size <= 0.02 * tolerance) | ((count > 0) & (rate < 1) & (later < tolerance)))
        failed = ~done & (~fine | ~jnp.isfinite(size) | hopeless)
        return change + step, size, done, failed, count + 1, work + used

    no, zero = jnp.asarray(False), jnp.asarray(0)
    begin = (jnp.zeros_like(predicted), jnp.ones((), dtype=predicted.dtype), no, no, zero, zero)
    change, _, done, _, count, work = jax.lax.while_loop(going, iterate, begin)
    return change, done, count, work
