"""Derivatives of a solution by parameters and initial values: the forward variational equations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array, RawSolution, Sensitivities, SolveOptions
from pysciml.engines.jax.algorithms import ALGORITHMS
from pysciml.engines.jax.lower import Function, lower
from pysciml.engines.jax.program import deterministic, directed, setting
from pysciml.engines.jax.single import Run, solve
from pysciml.engines.jax.state import Arguments, Plan
from pysciml.engines.jax.steppers import Stepper
from pysciml.errors import SolverError, UnsupportedError
from pysciml.graph import Model

Indices = npt.NDArray[np.intp]

#: Augmented systems with more unknowns than this do not write out their stages.
_WRITE_OUT_LIMIT = 500


def sensitivities(
    model: Model, u0: Array, p: Array, tspan: tuple[float, float], algorithm: str, options: SolveOptions
) -> Sensitivities:
    """The states and their derivatives by all parameters and all initial values."""
    every_p, every_u0 = np.arange(model.n_params), np.arange(len(model.states))
    solution, slopes = sensitivities_by(model, u0, p, tspan, algorithm, options, every_p, every_u0)
    return Sensitivities(solution, by_p=slopes[..., : model.n_params], by_u0=slopes[..., model.n_params :])


def sensitivities_by(
    model: Model,
    u0: Array,
    p: Array,
    tspan: tuple[float, float],
    algorithm: str,
    options: SolveOptions,
    by_p: Indices,
    by_u0: Indices,
) -> tuple[RawSolution, Array]:
    """See `pysciml.engines.base.Engine.sensitivities_by`.

    With events, the numerical solution is differentiated, the events' times with it.
    """
    if model.kind != "ode":
        raise UnsupportedError(
            "the jax engine has sensitivities of ordinary equations", engine="jax", algorithm=algorithm
        )
    if not model.events:
        return _solve_variational(model, u0, p, tspan, algorithm, options, by_p, by_u0)
    from pysciml.engines.jax.gradient import gradient

    solution = solve(model, u0, p, tspan, algorithm, options)
    if not solution.successful or options.saveat is None or len(solution.t) != len(options.saveat):
        return solution, np.zeros((len(u0), 0, len(by_p) + len(by_u0)))
    _, slopes, _, _ = gradient(model, u0, p, tspan, algorithm, options, _states, "forward", "the states", by_p, by_u0)
    return solution, slopes


def _states(u: Any, observed: Any, t: Any) -> Any:
    return u


def variational(
    model: Model,
    u0: Array,
    p: Array,
    tspan: tuple[float, float],
    algorithm: str,
    options: SolveOptions,
    by_p: Indices,
    by_u0: Indices,
) -> tuple[Array, Array, Array]:
    """Times, states (n_states, n_t), and their derivatives (n_states, n_t, n_by_p + n_by_u0)."""
    if options.saveat is None:
        options = replace(options, saveat=np.array([tspan[1]]))
    solution, slopes = _solve_variational(model, u0, p, tspan, algorithm, options, by_p, by_u0)
    if not solution.successful:
        raise SolverError(solution.message, retcode=solution.retcode)
    return solution.t, solution.u, slopes


def _solve_variational(
    model: Model,
    u0: Array,
    p: Array,
    tspan: tuple[float, float],
    algorithm: str,
    options: SolveOptions,
    by_p: Indices,
    by_u0: Indices,
) -> tuple[RawSolution, Array]:
    r"""Solve for the states and their derivatives together.

    With :math:`S = \partial u / \partial (p, u_0)`: :math:`S' = J S + \partial f / \partial (p, u_0)`,
    and the tolerances hold for both.
    """
    n, m, count = len(u0), len(by_p), len(by_p) + len(by_u0)
    save = "steps" if options.saveat is None else "times"
    rows = 256 if save == "steps" else 0
    how = setting(model, algorithm, tspan, options.dt, save, batched=False, buffer=rows)
    directions = np.zeros((count, len(p)))
    directions[np.arange(m), by_p] = 1.0

    def plan() -> Plan:
        rhs = directed(augmented(lower(model.graph, "rhs"), n, directions), how.forward, derivative=True)
        chosen = ALGORITHMS[algorithm]
        jacobian = jax.jacfwd(rhs, argnums=1) if chosen.family == "implicit" else None

        def stepper(args: Arguments) -> Stepper:
            return deterministic(rhs, jacobian, chosen, n * (1 + count) <= _WRITE_OUT_LIMIT, args)

        return Plan(stepper, rhs, (), how.save, how.buffer, how.adaptive, how.given_dt, how.batched)

    start = np.zeros((1 + count, n))
    start[0] = u0
    start[1 + m + np.arange(len(by_u0)), by_u0] = 1.0
    variant = f"sensitivities {by_p.tolist()} {by_u0.tolist()}"
    run = Run(model, start.ravel(), p, tspan, how, options, np.zeros(2, dtype=np.uint32), plan, variant)
    run.to_the_end()
    solution = run.solution()
    parts = solution.u.reshape(1 + count, n, -1)
    solution.u = np.ascontiguousarray(parts[0])
    return solution, np.moveaxis(parts[1:], 0, 2)


def augmented(rhs: Function, n: int, directions: Array) -> Function:
    """The right-hand side of states and sensitivities, as one vector.

    Parameters
    ----------
    rhs : function
    n : int
        Number of states.
    directions : array, shape (n_inputs, n_params)
        How each input moves the parameters; zero for initial values.
    """
    count = len(directions)

    def function(t: Any, y: Any, p: Any) -> Any:
        parts = y.reshape(1 + count, n)

        def along(s: Any, e: Any) -> Any:
            return jax.jvp(lambda u, q: rhs(t, u, q), (parts[0], p), (s, e))[1]

        slopes = jax.vmap(along)(parts[1:], jnp.asarray(directions, dtype=y.dtype))
        return jnp.concatenate([rhs(t, parts[0], p)[None], slopes]).reshape(-1)

    return function
