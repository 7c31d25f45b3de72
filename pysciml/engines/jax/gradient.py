"""Derivatives of functions of a solution, through the solve."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from pysciml.engines.base import Array, SolveOptions
from pysciml.engines.jax.adjoint import adjoint
from pysciml.engines.jax.algorithms import ALGORITHMS
from pysciml.engines.jax.compiling import compiled, double_precision
from pysciml.engines.jax.differentiable import solver
from pysciml.engines.jax.lower import lower
from pysciml.engines.jax.program import key_of
from pysciml.engines.jax.sensitivity import Indices, variational
from pysciml.engines.jax.state import RETCODES, RUNNING, TERMINATED
from pysciml.errors import SolverError, UnsupportedError
from pysciml.graph import Model

Method = Literal["forward", "checkpointed", "adjoint"]

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
    by_p: Indices,
    by_u0: Indices,
) -> tuple[Array, Array, Array, int]:
    """The value of a quantity and its derivatives by some parameters and initial values.

    Parameters
    ----------
    key : hashable
        Stands for ``of``: with the same key and options nothing is compiled again.
    by_p, by_u0 : int array
        Which parameters and which initial values.

    Returns
    -------
    value : array, shape of what ``of`` returns
    slopes : array, that shape and (n_by_p + n_by_u0,)
    t : array, shape (n_t,)
        The output times.
    seed : int
        Of the path; 0 for ordinary equations.
    """
    _check(model, algorithm, method)
    seed_key, seed = key_of(options.seed) if model.kind == "sde" else (np.zeros(2, dtype=np.uint32), 0)
    observe = lower(model.graph, "observed")

    def quantity(u: Any, q: Any, t: Any) -> Any:
        observed = jax.vmap(observe, in_axes=(0, 1, None), out_axes=1)(t, u, q)
        return jnp.asarray(of(u, observed, t))

    saved = None if options.saveat is None else options.saveat.tobytes()
    settings = (options.rtol, options.atol, saved, options.dt, options.max_steps)
    known = (model.hash, tspan, algorithm, settings, key, method, by_p.tobytes(), by_u0.tobytes())
    with double_precision():
        if method == "adjoint":
            value, slopes, t = adjoint(model, u0, p, tspan, algorithm, options, quantity, known, by_p, by_u0)
        elif method == "forward" and model.kind == "ode" and not model.events:
            t, u, by_inputs = variational(model, u0, p, tspan, algorithm, options, by_p, by_u0)
            times, q = jnp.asarray(t), jnp.asarray(p)
            value = quantity(jnp.asarray(u), q, times)
            by_u, by_q = jax.jacrev(quantity, argnums=(0, 1))(jnp.asarray(u), q, times)
            slopes = jnp.tensordot(by_u, by_inputs, axes=2)
            slopes = slopes.at[..., : len(by_p)].add(by_q[..., by_p])
        else:
            reverse = method == "checkpointed"

            def whole(inputs: Any, y0: Any, q: Any, words: Any) -> Any:
                q = q.at[by_p].set(inputs[: len(by_p)])
                y0 = y0.at[by_u0].set(inputs[len(by_p) :])
                solved = solver(model, tspan, algorithm, options, words, reverse=reverse)(y0, q)
                value = quantity(solved.u, q, solved.t)
                return value, (value, solved.t, solved.code, solved.end)

            mode = jax.jacrev if reverse else jax.jacfwd
            numbers = np.concatenate([p[by_p], u0[by_u0]]), u0, p, seed_key
            run, _ = compiled(("gradient", *known), lambda: mode(whole, has_aux=True), *numbers)
            slopes, (value, t, code, end) = run(*numbers)
            _check_end(model, algorithm, options, int(code), float(end))
    slopes = np.asarray(slopes)
    if not np.isfinite(slopes).all():
        raise SolverError(
            f"{model.name}: the derivative is not finite: the function is not differentiable there, or an event's "
            "condition is touched and not crossed",
            retcode="Unstable",
        )
    return np.asarray(value), slopes, np.asarray(t), seed


def goes_forward(algorithm: str) -> bool:
    """Whether forward mode can differentiate the method's steps; diffrax's own stochastic ones are for reverse mode."""
    return ALGORITHMS[algorithm].family != "levy"


def _check(model: Model, algorithm: str, method: Method) -> None:
    """Raise for what a method is not for."""
    if method == "forward" and not goes_forward(algorithm):
        raise UnsupportedError(
            f"method='forward' does not go through {algorithm}: 'checkpointed' does (or take EM, Milstein, EulerHeun)",
            engine="jax",
            algorithm=algorithm,
        )
    if method == "adjoint" and (model.kind != "ode" or model.events):
        what = "stochastic equations" if model.kind != "ode" else "equations with events"
        raise UnsupportedError(
            f"method='adjoint' is for ordinary equations without events, not for {what}: "
            "'forward' and 'checkpointed' do those",
            engine="jax",
            algorithm=algorithm,
        )


def _check_end(model: Model, algorithm: str, options: SolveOptions, code: int, end: float) -> None:
    """Raise for a solve that did not get to its output times."""
    if (
        code == TERMINATED
        and options.saveat is not None
        and abs(end - options.saveat[0]) < abs(options.saveat[-1] - options.saveat[0])
    ):
        raise SolverError(
            f"{model.name}: a terminal event ends the solve at t = {end:g}, before the last output time "
            f"({options.saveat[-1]:g}); without saveat= the end is where it ends",
            retcode="Terminated",
        )
    if code not in (RUNNING, TERMINATED):
        raise SolverError(
            f"{model.name}: the solve ended with {RETCODES[code]} (jax engine, {algorithm})", retcode=RETCODES[code]
        )
