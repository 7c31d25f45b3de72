"""Solving fields: explicit methods in the engine's own loop, stiff ones stepped from the host.

The stiff method's steps are NumPy (`pysciml.engines.fields`), its right-hand side and the products
with the Jacobian are compiled: that is most of the work and compiles in a fraction of a second,
where a whole implicit loop takes XLA several seconds.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import replace
from typing import Any, Final, NamedTuple

import jax
import numpy as np

from pysciml.engines.base import Array, RawSolution, SolveOptions
from pysciml.engines.fields.choice import is_stiff
from pysciml.engines.fields.choice import solve as step_from_host
from pysciml.engines.fields.operator import Operator, near_product
from pysciml.engines.fields.precondition import Preconditioner
from pysciml.engines.jax.compiling import double_precision
from pysciml.engines.jax.fields.lower import lower_fields
from pysciml.engines.jax.fields.methods import IMEX
from pysciml.errors import UnsupportedError
from pysciml.graph import Model
from pysciml.graph.fields import FieldGraph


class _Functions(NamedTuple):
    """The right-hand side and its directional derivative, compiled."""

    rhs: Any
    push: Any


#: By the model's hash. Not the engine's ahead-of-time functions: each call of those takes longer
#: than a small field's right-hand side.
_functions: OrderedDict[str, _Functions] = OrderedDict()
_lock = threading.Lock()
#: Steps of a stochastic solve, where nothing asks for more.
_STEPS: Final = 1000
_KEPT: Final = 32


def compiled_operator(model: Model, p: Array, forward: bool) -> tuple[Operator, float]:
    """The operator as compiled functions, and the seconds compiling took; within `double_precision`."""
    graph = model.graph
    assert isinstance(graph, FieldGraph)
    begin = time.perf_counter()
    vector, params = np.zeros(graph.n_states), np.ascontiguousarray(p, dtype=np.float64)
    with _lock:
        found = _functions.get(model.hash)
        fresh = found is None
        if found is None:
            rhs = lower_fields(graph, "rhs")

            def derivative(t: Any, y: Any, v: Any, p: Any) -> Any:
                return jax.jvp(lambda u: rhs(t, u, p), (y,), (v,))[1]

            found = _functions[model.hash] = _Functions(jax.jit(rhs), jax.jit(derivative))
            found.rhs(0.0, vector, params)
            found.push(0.0, vector, vector, params)
            if len(_functions) > _KEPT:
                _functions.popitem(last=False)
        _functions.move_to_end(model.hash)
    seconds = time.perf_counter() - begin if fresh else 0.0
    rhs, push = found
    params = jax.device_put(params)
    if forward:
        return (
            Operator(
                graph,
                lambda t, y: np.asarray(rhs(t, y, params)),
                lambda t, y, v: np.asarray(push(t, y, v, params)),
                near=near_product(graph, p, forward=True),
            ),
            seconds,
        )
    return (
        Operator(
            graph,
            lambda t, y: -np.asarray(rhs(-t, y, params)),
            lambda t, y, v: -np.asarray(push(-t, y, v, params)),
            near=near_product(graph, p, forward=False),
        ),
        seconds,
    )


def with_noise_step(
    model: Model, u0: Array, p: Array, tspan: tuple[float, float], options: SolveOptions
) -> SolveOptions:
    """The options with a step size: a thousand steps, or as many as the fastest decay asks of an explicit method."""
    if options.dt is not None:
        return options
    with double_precision():
        operator, _ = compiled_operator(model, p, forward=True)
        fastest = Preconditioner(operator, tspan[0], u0).fastest
    span = abs(tspan[1] - tspan[0])
    return replace(options, dt=span / max(_STEPS, int(np.ceil(span * fastest))))


def solve(
    model: Model, u0: Array, p: Array, tspan: tuple[float, float], algorithm: str | None, options: SolveOptions
) -> RawSolution:
    """Solve; see `pysciml.engines.base.Engine.solve`.

    Without an algorithm it is QNDF where diffusion would hold an explicit method back, Tsit5 elsewhere;
    EM where there is noise.
    """
    if model.kind == "sde":
        from pysciml.engines.jax.single import solve as stochastic

        return stochastic(model, u0, p, tspan, algorithm or "EM", with_noise_step(model, u0, p, tspan, options))
    if algorithm in (None, "QNDF"):
        begin = time.perf_counter()
        with double_precision():
            operator, compiling = compiled_operator(model, p, tspan[1] > tspan[0])
            preconditioner = Preconditioner(operator, (1 if tspan[1] > tspan[0] else -1) * tspan[0], u0)
            if algorithm == "QNDF" or is_stiff(preconditioner, operator, u0, options.whole or tspan):
                if options.device != "cpu" or options.precision != "float64":
                    raise UnsupportedError(
                        f"QNDF for partial differential equations runs on the CPU in double precision, and "
                        f"{model.name!r} is stiff; Tsit5, BS3 and the other explicit methods run on device="
                        f"{options.device!r} in {options.precision}",
                        engine="jax",
                        algorithm="QNDF",
                    )
                solution = step_from_host(operator, model.name, u0, tspan, "QNDF", options, preconditioner)
                solution.compile_seconds = compiling
                solution.solve_seconds = time.perf_counter() - begin - compiling
                return solution
    if algorithm == "ETDRK4":
        from pysciml.engines.jax.fields.etd import solve as exponential

        return exponential(model, u0, p, tspan, options)
    if algorithm in IMEX:
        from pysciml.engines.jax.fields.imex import solve as additive

        return additive(model, u0, p, tspan, algorithm, options)
    from pysciml.engines.jax.single import solve as explicit

    return explicit(model, u0, p, tspan, algorithm or "Tsit5", options)
