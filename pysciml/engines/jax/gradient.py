"""Derivatives of functions of a solution, through the solve."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Final, Literal

import jax
import jax.numpy as jnp
import numpy as np

from pysciml.engines.base import Array, SolveOptions
from pysciml.engines.jax.algorithms import ALGORITHMS
from pysciml.engines.jax.compiling import double_precision
from pysciml.engines.jax.implicit import ImplicitStepper
from pysciml.engines.jax.loop import advance, start
from pysciml.engines.jax.lower import lower
from pysciml.engines.jax.program import dense_jacobian, deterministic, directed, setting
from pysciml.engines.jax.sensitivity import sensitivities
from pysciml.engines.jax.state import MAX_ITERS, RETCODES, RUNNING, Arguments, Plan
from pysciml.engines.jax.steppers import Stepper
from pysciml.errors import SolverError, UnsupportedError
from pysciml.graph import Model

Method = Literal["forward", "checkpointed"]

#: States kept for the way back: with 64, some thousand steps are computed at most three times.
_CHECKPOINTS: Final = 64

#: How many differentiated functions are kept in the process.
_KEPT: Final = 32
_differentiated: dict[Hashable, Callable[..., Any]] = {}

#: ``of(u, observed, t)``: u (n_states, n_t), observed (n_observed, n_t) -> array of any shape.
Quantity = Callable[[Any, Any, Any], Any]


def gradient(
    model: Model,
    u0: Array,
    p: Array,
    tspan: tuple[float, float],
    algorithm: str,
    options: SolveOptions,
    of: Quantity,
    method: Method,
    key: Hashable,
) -> tuple[Array, Array, Array]:
    """The value of a quantity and its derivatives by parameters and initial values.

    Parameters
    ----------
    key : hashable
        Stands for ``of``: with the same key and options nothing is compiled again.

    Returns
    -------
    value : array, shape of what ``of`` returns
    by_p : array, that shape and (n_params,)
    by_u0 : array, that shape and (n_states,)
    """
    if model.kind != "ode" or model.events:
        raise UnsupportedError(
            "gradients are for ordinary equations without events in this version", engine="jax", algorithm=algorithm
        )
    assert options.saveat is not None
    times = options.saveat
    observe = lower(model.graph, "observed")

    def quantity(u: Any, q: Any) -> Any:
        observed = jax.vmap(observe, in_axes=(0, 1, None), out_axes=1)(jnp.asarray(times), u, q)
        return jnp.asarray(of(u, observed, jnp.asarray(times)))

    with double_precision():
        if method == "forward":
            solved = sensitivities(model, u0, p, tspan, algorithm, options)
            if not solved.solution.successful:
                raise SolverError(solved.solution.message, retcode=solved.solution.retcode)
            u = jnp.asarray(solved.solution.u)
            value = quantity(u, p)
            by_u, by_q = jax.jacrev(quantity, argnums=(0, 1))(u, jnp.asarray(p))
            by_p = by_q + jnp.tensordot(by_u, solved.by_p, axes=2)
            by_u0 = jnp.tensordot(by_u, solved.by_u0, axes=2)
        else:
            solve = checkpointed_solve(model, tspan, algorithm, options)

            def whole(y0: Any, q: Any) -> Any:
                u, code = solve(y0, q)
                value = quantity(u, q)
                return value, (value, code)

            options_key = (options.rtol, options.atol, times.tobytes(), options.dt, options.max_steps)
            known = (model.hash, tspan, algorithm, options_key, key)
            differentiate = _differentiated.get(known)
            if differentiate is None:
                while len(_differentiated) >= _KEPT:
                    del _differentiated[next(iter(_differentiated))]
                differentiate = jax.jit(jax.jacrev(whole, argnums=(0, 1), has_aux=True))
                _differentiated[known] = differentiate
            (by_u0, by_p), (value, code) = differentiate(jnp.asarray(u0), jnp.asarray(p))
            if int(code) != RUNNING:
                raise SolverError(
                    f"{model.name}: the solve ended with {RETCODES[int(code)]} (jax engine, {algorithm})",
                    retcode=RETCODES[int(code)],
                )
    return np.asarray(value), np.asarray(by_p), np.asarray(by_u0)


def checkpointed_solve(
    model: Model, tspan: tuple[float, float], algorithm: str, options: SolveOptions
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A function of initial values and parameters that JAX can differentiate in reverse.

    It returns the states at ``options.saveat``, shape (n_states, n_t), and the return code. The
    numerical solution itself is differentiated, with its steps taken as given; on the way back,
    states are recomputed from checkpoints (Stumm & Walther, SIAM J. Sci. Comput. 32, 2010).
    """
    chosen = ALGORITHMS[algorithm]
    how = setting(model, algorithm, tspan, options.dt, "end", batched=False)
    sign = 1.0 if how.forward else -1.0
    rhs = directed(lower(model.graph, "rhs"), how.forward, derivative=True)
    implicit = chosen.family == "implicit"
    jacobian = directed(dense_jacobian(model), how.forward, derivative=True) if implicit else None

    def stepper(args: Arguments) -> Stepper:
        made = deterministic(rhs, jacobian, chosen, True, args)
        if isinstance(made, ImplicitStepper):
            made.differentiable = True
        return made

    make = partial(Plan, stepper, rhs, (), "end", 0, how.adaptive)
    first, later = make(how.given_dt, checkpoints=_CHECKPOINTS), make(True, checkpoints=_CHECKPOINTS)
    assert options.saveat is not None
    times = sign * options.saveat
    with_start = times[0] == sign * tspan[0]
    ends = times[1:] if with_start else times

    def solve(y0: Any, p: Any) -> tuple[Any, Any]:
        args = Arguments(
            p=p,
            start=jnp.asarray(sign * tspan[0]),
            end=jnp.asarray(ends[0] if len(ends) else times[0]),
            times=jnp.zeros(0),
            rtol=jnp.asarray(options.rtol),
            atol=jnp.asarray(options.atol),
            dt=jnp.asarray(options.dt if options.dt is not None else 0.0),
            max_steps=jnp.asarray(options.max_steps),
            stop_at=jnp.asarray(2**62),
            key=jnp.zeros(2, dtype=jnp.uint32),
            index=jnp.zeros((), dtype=jnp.uint32),
        )
        if not len(ends):
            return y0[:, None], jnp.asarray(RUNNING)

        def stretch(plan: Plan, y: Any, begin: Any, end: Any, h: Any) -> tuple[Any, Any, Any, Any]:
            here = args._replace(start=begin, end=end, dt=h)
            done = advance(plan, start(plan, y, here), here)
            return done.y, jax.lax.stop_gradient(done.h), done.code, done.n_steps

        y, h, code, count = stretch(first, y0, args.start, args.end, args.dt)

        def following(carry: tuple[Any, ...], ends: tuple[Any, Any]) -> tuple[tuple[Any, ...], Any]:
            y, h, code, count = carry
            dt = jnp.minimum(h, ends[1] - ends[0]) if how.adaptive else args.dt
            y, h, now, more = stretch(later, y, ends[0], ends[1], dt)
            return (y, h, jnp.where(code == RUNNING, now, code), count + more), y

        pairs = (jnp.asarray(ends[:-1]), jnp.asarray(ends[1:]))
        (_, _, code, count), rest = jax.lax.scan(following, (y, h, code, count), pairs)
        code = jnp.where((code == RUNNING) & (count > options.max_steps), MAX_ITERS, code)
        rows = [y0[None]] if with_start else []
        return jnp.concatenate([*rows, y[None], rest]).T, code

    return solve
