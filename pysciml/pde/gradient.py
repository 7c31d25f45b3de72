"""How a quantity computed from a solution of fields depends on parameters and initial fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pysciml._version import __version__
from pysciml.engines.base import Array, SolveOptions
from pysciml.errors import SolverError, UnsupportedError
from pysciml.gradients import SolutionView, _read_inputs, _read_quantity, one_number
from pysciml.pde.sensitivity import FieldSensitivity
from pysciml.solve import choose_engine, finish

if TYPE_CHECKING:
    from pysciml.pde.discrete import FieldProblem

Inputs = list[tuple[str, bool, int]]


def gradient(
    problem: FieldProblem,
    of: Callable[[Any], Any] | Any,
    wrt: Iterable[Any] | None,
    alg: str | None,
    method: str,
    options: SolveOptions,
) -> xr.Dataset:
    """See `pysciml.gradient`.

    Forward, the derivatives by the parameters are fields that are solved for together with the
    others, by any engine and method that solves fields. Backward (for initial fields, whose
    derivatives are as many as there are cells), JAX differentiates the numerical solution of an
    explicit method.
    """
    inputs = _read_inputs(problem, wrt)
    function: Callable[[Any], Any] | None = of if callable(of) and not hasattr(of, "free_symbols") else None
    quantity = _read_quantity(problem, of) if function is None else None
    if method == "adjoint":
        raise UnsupportedError("method='adjoint' is for variables of time; fields have 'forward' and 'checkpointed'")
    initial = [label for label, is_state, _ in inputs if is_state]
    if method == "auto":
        method = "checkpointed" if initial else "forward"
    if initial and (method == "forward" or function is None):
        what = "method='forward'" if method == "forward" else f"of={quantity!r}"
        raise UnsupportedError(
            f"{what} and {initial[0]}: the derivatives by an initial field are those of one number, "
            "of=lambda sol: ..., with method='checkpointed'"
        )
    if options.saveat is None:
        options = replace(options, saveat=np.array([problem.tspan[1]]))
    if method == "checkpointed":
        if function is None:
            raise UnsupportedError(f"of={quantity!r} with method='checkpointed': a field has method='forward'")
        return _backward(problem, function, inputs, alg, options)
    return _forward(problem, function, quantity, inputs, alg, options)


def _forward(
    problem: FieldProblem, function: Any, quantity: str | None, inputs: Inputs, alg: str | None, options: SolveOptions
) -> xr.Dataset:
    system = problem.system
    by_p = [index for _, _, index in inputs]
    engine = choose_engine(system.model, alg, "auto")
    raw, slopes, observed = FieldSensitivity(system, by_p).solve(engine, problem, problem.tspan, alg, options)
    if not raw.successful:
        finish(problem, raw, engine.name)
    n_t = len(raw.t)
    arrays = _views(problem, raw.u)
    each = [_views(problem, slopes[:, :, k]) for k in range(len(by_p))]
    for j, name in enumerate(system.model.observed):
        arrays[name] = np.stack([at.values[j] for at in observed]).reshape(n_t, *_kept(observed[0].values[j].shape))
        for k, parts in enumerate(each):
            parts[name] = np.stack([at.slopes[k][j] for at in observed]).reshape(arrays[name].shape)
    attrs = _attrs(problem, "forward", engine.name, raw.algorithm, quantity)
    if quantity is not None:
        dims = _dims(problem, quantity)
        variables = {"value": (dims, arrays[quantity])}
        variables |= {label: (dims, parts[quantity]) for (label, _, _), parts in zip(inputs, each, strict=True)}
        coords = {"t": raw.t} | {name: values for name, values in system.coords.items() if name in dims}
        return xr.Dataset(variables, coords=coords, attrs=attrs)
    jax, inside = _jax()
    with inside():
        t = jax.numpy.asarray(raw.t)

        def whole(given: dict[str, Any]) -> Any:
            return one_number(function(SolutionView({**given, "t": t})))

        here = {name: jax.numpy.asarray(values) for name, values in arrays.items()}
        value, pull = jax.vjp(whole, here)
        (by_arrays,) = pull(jax.numpy.ones_like(value))
        found = [float(sum(np.vdot(by_arrays[name], parts[name]) for name in here)) for parts in each]
    variables = {"value": ((), float(value))}
    variables |= {label: ((), slope) for (label, _, _), slope in zip(inputs, found, strict=True)}
    return xr.Dataset(variables, attrs=attrs)


def _backward(
    problem: FieldProblem, function: Any, inputs: Inputs, alg: str | None, options: SolveOptions
) -> xr.Dataset:
    system = problem.system
    graph, model = system.graph, system.model
    choose_engine(model, alg, "jax")
    jax, inside = _jax()
    from pysciml.engines.jax.differentiable import solver
    from pysciml.engines.jax.engine import choose
    from pysciml.engines.jax.fields.lower import evaluator, split
    from pysciml.engines.jax.state import RETCODES, RUNNING

    name = choose(model, alg)
    _check_explicit(name)
    observe = evaluator(graph, "observed")
    shapes = [graph.shapes[node] for node in graph.outputs["observed"].tolist()]
    run = solver(model, problem.tspan, name, options, np.zeros(2, dtype=np.uint32), reverse=True)

    def whole(y0: Any, p: Any) -> Any:
        solved = run(y0, p)
        fields = jax.vmap(lambda y: split(graph, y))(solved.u.T)
        arrays = dict(zip(model.states, fields, strict=True))
        if shapes:
            found = jax.vmap(lambda t, y: observe(t, split(graph, y), p))(solved.t, solved.u.T)
            arrays |= {
                key: jax.numpy.reshape(values, (len(solved.t), *_kept(shape)))
                for key, values, shape in zip(model.observed, found, shapes, strict=True)
            }
        return one_number(function(SolutionView({**arrays, "t": solved.t}))), solved.code

    with inside():
        differentiate = jax.jit(jax.value_and_grad(whole, argnums=(0, 1), has_aux=True))
        (value, code), (by_u0, by_p) = differentiate(jax.numpy.asarray(problem.u0), jax.numpy.asarray(problem.p))
    if int(code) != RUNNING:
        raise SolverError(
            f"{system.name}: the solve ended with {RETCODES[int(code)]} (jax engine, {name})",
            retcode=RETCODES[int(code)],
        )
    by_u0, by_p = np.asarray(by_u0), np.asarray(by_p)
    by_p = by_p + _through_initial(problem, by_u0, [index for _, is_state, index in inputs if not is_state])
    parts = graph.split(by_u0)
    variables: dict[str, Any] = {"value": ((), float(value))}
    for label, is_state, index in inputs:
        variables[label] = (tuple(system.coords), parts[index]) if is_state else ((), float(by_p[index]))
    if not all(np.isfinite(np.asarray(values)).all() for _, values in variables.values()):
        raise SolverError(f"{system.name}: the derivative is not finite", retcode="Unstable")
    used = {dim for dims, _ in variables.values() for dim in dims}
    coords = {key: values for key, values in system.coords.items() if key in used}
    return xr.Dataset(variables, coords=coords, attrs=_attrs(problem, "checkpointed", "jax", name, None))


def _through_initial(problem: FieldProblem, by_u0: Array, indices: list[int]) -> Array:
    """What parameters do by the initial values, where those depend on them."""
    result = np.zeros(len(problem.p))
    if indices:
        starts = FieldSensitivity(problem.system, indices).start(problem).reshape(1 + len(indices), -1)[1:]
        result[indices] = starts @ by_u0
    return result


def _check_explicit(name: str) -> None:
    from pysciml.engines.jax.algorithms import ALGORITHMS

    row = ALGORITHMS.get(name)
    if row is None or row.kind != "ode" or row.family != "explicit":
        raise UnsupportedError(
            f"method='checkpointed' goes back through explicit methods, and {name} is none: take Tsit5, or "
            "method='forward' for parameters",
            engine="jax",
            algorithm=name,
        )


def _jax() -> tuple[Any, Any]:
    from pysciml.engines.base import get

    get("jax")
    import jax

    from pysciml.engines.jax.compiling import double_precision

    return jax, double_precision


def _kept(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an observed quantity in results: only along what it varies over."""
    return tuple(n for n in shape if n > 1)


def _views(problem: FieldProblem, u: Array) -> dict[str, Any]:
    """The fields of a solution by name, each of shape (n_t, *grid)."""
    graph, names = problem.system.graph, problem.system.model.states
    rows = np.ascontiguousarray(u.T)
    return {
        name: rows[:, offset : offset + int(np.prod(shape))].reshape(len(rows), *shape)
        for name, offset, shape in zip(names, graph.offsets, graph.fields, strict=False)
    }


def _dims(problem: FieldProblem, quantity: str) -> tuple[str, ...]:
    system = problem.system
    dims = tuple(system.coords)
    if quantity in system.model.states:
        return ("t", *dims)
    node = int(system.graph.outputs["observed"][system.model.observed.index(quantity)])
    return ("t", *(d for d, n in zip(dims, system.graph.shapes[node], strict=False) if n > 1))


def _attrs(problem: FieldProblem, method: str, engine: str, algorithm: str, quantity: str | None) -> dict[str, Any]:
    return {
        "of": quantity or "function",
        "method": method,
        "engine": engine,
        "algorithm": algorithm,
        "model": problem.system.name,
        "pysciml_version": __version__,
    }
