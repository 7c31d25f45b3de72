"""Derivatives of a solution by parameters and initial values: the forward variational equations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pysciml.engines.base import Array, Sensitivities, SolveOptions
from pysciml.engines.jax.algorithms import ALGORITHMS
from pysciml.engines.jax.lower import Function, lower
from pysciml.engines.jax.program import deterministic, directed, setting
from pysciml.engines.jax.single import Run
from pysciml.engines.jax.state import Arguments, Plan
from pysciml.engines.jax.steppers import Stepper
from pysciml.errors import UnsupportedError
from pysciml.graph import Model

#: Augmented systems with more unknowns than this do not write out their stages.
_WRITE_OUT_LIMIT = 500


def sensitivities(
    model: Model, u0: Array, p: Array, tspan: tuple[float, float], algorithm: str, options: SolveOptions
) -> Sensitivities:
    r"""Solve for the states and their derivatives together.

    With :math:`S = \partial u / \partial (p, u_0)`: :math:`S' = J S + \partial f / \partial (p, u_0)`,
    and the tolerances hold for both.
    """
    if model.kind != "ode" or model.events:
        raise UnsupportedError(
            "the jax engine has sensitivities of ordinary equations without events",
            engine="jax",
            algorithm=algorithm,
        )
    n, m = len(model.states), len(model.parameters)
    save = "steps" if options.saveat is None else "times"
    rows = 256 if save == "steps" else 0
    how = setting(model, algorithm, tspan, options.dt, save, batched=False, buffer=rows)

    def plan() -> Plan:
        rhs = directed(augmented(lower(model.graph, "rhs"), n, m), how.forward, derivative=True)
        chosen = ALGORITHMS[algorithm]
        jacobian = jax.jacfwd(rhs, argnums=1) if chosen.family == "implicit" else None

        def stepper(args: Arguments) -> Stepper:
            return deterministic(rhs, jacobian, chosen, n * (1 + m + n) <= _WRITE_OUT_LIMIT, args)

        return Plan(stepper, rhs, (), how.save, how.buffer, how.adaptive, how.given_dt, how.batched)

    start = np.zeros((1 + m + n, n))
    start[0] = u0
    start[1 + m :] = np.eye(n)
    no_key = np.zeros(2, dtype=np.uint32)
    run = Run(model, start.ravel(), p, tspan, how, options, no_key, plan, "sensitivities")
    run.to_the_end()
    solution = run.solution()
    parts = solution.u.reshape(1 + m + n, n, -1)
    solution.u = np.ascontiguousarray(parts[0])
    return Sensitivities(solution, by_p=np.moveaxis(parts[1 : 1 + m], 0, 2), by_u0=np.moveaxis(parts[1 + m :], 0, 2))


def augmented(rhs: Function, n: int, m: int) -> Function:
    """The right-hand side of states and sensitivities, as one vector."""

    def function(t: Any, y: Any, p: Any) -> Any:
        parts = y.reshape(1 + m + n, n)
        directions = jnp.concatenate([jnp.eye(m, dtype=y.dtype), jnp.zeros((n, m), dtype=y.dtype)])

        def along(s: Any, e: Any) -> Any:
            return jax.jvp(lambda u, q: rhs(t, u, q), (parts[0], p), (s, e))[1]

        slopes = jax.vmap(along)(parts[1:], directions)
        return jnp.concatenate([rhs(t, parts[0], p)[None], slopes]).reshape(-1)

    return function
