"""The layers of the experiments, solved and differentiated by Julia: for ``--engine julia``.

Encoders, classifiers, losses and optimizers stay what they are, in JAX; inside the compiled step the layer calls Julia
and gets derivatives back. A layer is taken over with its weights: its networks become those of a graph, which is what
Julia solves. Random numbers are drawn on this side of the call, and not those that JAX would draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pysciml as ps
from benchmarks.experiments import Cubed, Dynamics
from pysciml.engines.julia.training import BatchSolve, NoisyBatchSolve, Outcome
from pysciml.fitting.on_julia import by_estimates, kinetic_coefficient, local_coefficients
from pysciml.graph import GraphBuilder, Model, Network
from pysciml.neural import LatentODE, NeuralODE, NeuralSDE
from pysciml.neural.integrands import integrand, integrated
from pysciml.neural.layers import Solved
from pysciml.neural.regularizers import Regularizer
from pysciml.neural.terms import end_shift

#: Attempted steps for which there are random numbers at first; twice as many where they do not suffice.
DRAWS = 64


def on_julia(model: Any) -> Any:
    """The same model with its layer on Julia."""
    if isinstance(model, dict):
        return {name: on_julia(part) for name, part in model.items()}
    if isinstance(model, LatentODE):
        return eqx.tree_at(lambda whole: whole.layer, model, on_julia(model.layer))
    if isinstance(model, NeuralODE):
        equation, p = _ordinary(model.field)
        kind: Any = partial(OrdinaryHost, model.algorithm)
    elif isinstance(model, NeuralSDE):
        equation, p = _stochastic(model.drift, model.diffusion)
        kind = StochasticHost
    else:
        return model
    how = model.rtol, model.atol, model.max_steps
    return JuliaLayer(jnp.asarray(p), _host(kind, equation, how, model.regularize), model.t0, model.t1)


def _host(kind: Any, equation: Model, how: tuple[float, float, int], regularizers: tuple[Regularizer, ...]) -> Host:
    """One for all seeds, so that what calls it is compiled once."""
    key = equation.hash, how, repr(regularizers)
    if key not in _HOSTS:
        _HOSTS[key] = kind(equation, how, regularizers)
    return _HOSTS[key]


_HOSTS: dict[Any, Host] = {}


# -- equations ---------------------------------------------------------------------------------------


def _flat(layers: Sequence[eqx.nn.Linear]) -> np.ndarray:
    parts = [part for layer in layers for part in (layer.weight, layer.bias)]
    return np.concatenate([np.asarray(part).ravel() for part in parts])


def _layers(module: eqx.nn.MLP | eqx.nn.Linear) -> Sequence[eqx.nn.Linear]:
    return [module] if isinstance(module, eqx.nn.Linear) else module.layers


def _network(name: str, module: eqx.nn.MLP | eqx.nn.Linear) -> Network:
    layers = _layers(module)
    hidden = tuple(int(layer.out_features) for layer in layers[:-1])
    return Network(name, int(layers[0].in_features), int(layers[-1].out_features), hidden)


def _call(b: GraphBuilder, network: Network, inputs: list[int]) -> list[int]:
    return [b.network(network, k, inputs) for k in range(network.outputs)]


def _apply(b: GraphBuilder, network: Network, field: Any) -> list[int]:
    """The outputs of a `Still` or `Cubed` field."""
    states = [b.state(i) for i in range(b.n_states)]
    if isinstance(field, Cubed):
        states = [b.mul(x, b.mul(x, x)) for x in states]
    return _call(b, network, states)


def _inner(field: Any) -> Any:
    return field.net if isinstance(field, Cubed) else field.inner


def _names(n: int) -> tuple[str, ...]:
    return tuple(f"x{i}" for i in range(n))


def _ordinary(field: Any) -> tuple[Model, np.ndarray]:
    if isinstance(field, Dynamics):
        n, width = int(field.second.out_features), int(field.first.out_features)
        first = Network("first", n + 1, width, hidden=(), final="tanh")
        second = Network("second", width + 1, n, hidden=())
        b = GraphBuilder(n, first.size + second.size)
        hidden = _call(b, first, [*(b.state(i) for i in range(n)), b.time()])
        rhs = _call(b, second, [*hidden, b.time()])
        p = _flat([field.first, field.second])
    else:
        network = _network("field", _inner(field))
        n = network.outputs
        b = GraphBuilder(n, network.size)
        rhs, p = _apply(b, network, field), _flat(_layers(_inner(field)))
    return Model(b.build({"rhs": rhs}), "ode", "layer", _names(n), (), (), np.ones(n, dtype=np.bool_)), p


def _stochastic(drift: Any, diffusion: Any) -> tuple[Model, np.ndarray]:
    networks = _network("drift", _inner(drift)), _network("diffusion", _inner(diffusion))
    n = networks[0].outputs
    x, w = ps.variables(f"x:{n}"), ps.brownian(f"w:{n}")
    terms = [
        ps.MLP(net.name, net.inputs, net.outputs, net.hidden)(*(z**3 if isinstance(f, Cubed) else z for z in x))
        for net, f in zip(networks, (drift, diffusion), strict=True)
    ]
    system = ps.System([ps.Eq(ps.D(z), f + g * noise) for z, f, g, noise in zip(x, *terms, w, strict=True)])
    graph = system.model.graph
    p = np.zeros(graph.n_params)
    for net, block in zip(graph.networks, graph.blocks, strict=True):
        p[block] = _flat(_layers(_inner(drift if net.name == "drift" else diffusion)))
    return system.model, p


# -- solves ------------------------------------------------------------------------------------------


class Host:
    """What is called from the compiled step, with arrays: samples last, as Julia has them.

    One solve after the other: derivatives are those of the last one.
    """

    def __init__(self, equation: Model, regularizers: tuple[Regularizer, ...]) -> None:
        self.equation, self.regularizers = equation, regularizers
        self._last: Any = None

    def solve(self, train: bool, p: Any, y0: Any, times: Any, end: Any, coefficients: Any, seed: Any) -> Any:
        """The solution at the times and at the end, the weighted regularizers, and what it took.

        The value leaves local regularizers out, whose derivatives are all that a training needs.
        """
        raise NotImplementedError

    def pull(self, ys_bar: Any, y1_bar: Any, total_bar: Any) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives by parameters and by ``y0``, of the last solve."""
        raise NotImplementedError

    def _results(self, train: bool, solved: Any) -> tuple[np.ndarray, ...]:
        """What `solve` returns; while training the rest is kept for `pull`."""
        _, out, coefficients, *_ = solved
        total = 0.0
        if train:
            self._last = solved
            estimates = by_estimates(self.regularizers, coefficients, out)
            total = out.integral + sum(c * value for c, value, *_ in estimates)
        counts = np.array([out.n_rhs, out.n_steps, out.n_rejected, out.success], dtype=np.int64)
        return out.ys, out.y1, np.float64(total), counts

    def _estimates(self, out: Outcome, coefficients: np.ndarray, scale: float) -> np.ndarray:
        """Derivatives by the error, stiffness and size of each step."""
        bars = np.zeros((3, out.n_records))
        for c, _, *by in by_estimates(self.regularizers, coefficients, out):
            bars += scale * c * np.array(by)
        return bars


class OrdinaryHost(Host):
    """Of a `NeuralODE`."""

    def __init__(
        self, algorithm: str, equation: Model, how: tuple[float, float, int], regularizers: tuple[Regularizer, ...]
    ) -> None:
        super().__init__(equation, regularizers)
        along, self._owners = None, None
        if any(map(integrated, regularizers)):
            along, self._owners = integrand(equation.graph, regularizers)
        self._make: Callable[..., BatchSolve] = lambda members, train: BatchSolve(
            equation, algorithm, members, *how, integrand=along if train else None
        )
        self._solvers: dict[tuple[int, bool], BatchSolve] = {}

    def solve(self, train: bool, p: Any, y0: Any, times: Any, end: Any, coefficients: Any, seed: Any) -> Any:
        p, y0, coefficients, end = np.asarray(p), np.asarray(y0), np.asarray(coefficients), float(end)
        members = y0.shape[1]
        if (members, train) not in self._solvers:
            self._solvers[members, train] = self._make(members, train)
        solver = self._solvers[members, train]
        rng = np.random.default_rng(int(seed))
        given: dict[str, Any] = {}
        if train:
            given["kinetic"] = kinetic_coefficient(self.regularizers, coefficients)
            if self._owners is not None:
                given |= {"weights": coefficients[self._owners], "noise": rng.normal(size=y0.shape)}
        zeros, ones = np.zeros(members), np.ones(members)
        out = solver.solve(p, y0, zeros, ones, end, np.asarray(times), **given)
        return self._results(train, (solver, out, coefficients, p.size, end, rng))

    def pull(self, ys_bar: Any, y1_bar: Any, total_bar: Any) -> tuple[np.ndarray, np.ndarray]:
        solver, out, coefficients, size, end, rng = self._last
        scale, p_bar = float(total_bar), np.zeros(size)
        bars = self._estimates(out, coefficients, scale)
        y0_bar = solver.pull(np.asarray(ys_bar), np.asarray(y1_bar), *bars, scale)
        for uniform, by_error, by_stiffness in local_coefficients(self.regularizers, coefficients):
            where = rng.uniform(0, end) if uniform else rng.integers(max(out.n_records, 1))
            solver.local(uniform, float(where), scale * by_error, scale * by_stiffness)
        solver.add_by_parameters(p_bar)
        return p_bar, y0_bar


class StochasticHost(Host):
    """Of a `NeuralSDE`."""

    def __init__(self, equation: Model, how: tuple[float, float, int], regularizers: tuple[Regularizer, ...]) -> None:
        super().__init__(equation, regularizers)
        self._how = how
        self._solvers: dict[tuple[int, bool], NoisyBatchSolve] = {}
        self._size = DRAWS

    def solve(self, train: bool, p: Any, y0: Any, times: Any, end: Any, coefficients: Any, seed: Any) -> Any:
        p, y0, coefficients, end = np.asarray(p), np.asarray(y0), np.asarray(coefficients), float(end)
        n, paths = y0.shape
        if (paths, train) not in self._solvers:
            self._solvers[paths, train] = NoisyBatchSolve(self.equation, paths, *self._how)
        solver = self._solvers[paths, train]
        kinetic = kinetic_coefficient(self.regularizers, coefficients) if train else 0.0
        out = None
        while out is None:
            rng = np.random.default_rng(int(seed))
            draws = rng.normal(size=(self._size, 2, n, paths))
            out = solver.solve(p, y0, (0.0, end), np.asarray(times), draws, kinetic)
            self._size *= 1 if out is not None else 2
        return self._results(train, (solver, out, coefficients, p.size, end, rng))

    def pull(self, ys_bar: Any, y1_bar: Any, total_bar: Any) -> tuple[np.ndarray, np.ndarray]:
        solver, out, coefficients, size, end, rng = self._last
        scale, p_bar = float(total_bar), np.zeros(size)
        error_bar, stiffness_bar, _ = self._estimates(out, coefficients, scale)
        y0_bar = solver.pull(np.asarray(ys_bar), np.asarray(y1_bar), error_bar, stiffness_bar, scale)
        for uniform, by_error, by_stiffness in local_coefficients(self.regularizers, coefficients):
            where = rng.uniform(0, end) if uniform else rng.integers(max(out.n_records, 1))
            draw = rng.normal(size=(2, *out.y1.shape))
            solver.local(uniform, float(where), out.y1, draw, scale * by_error, scale * by_stiffness)
        solver.add_by_parameters(p_bar)
        return p_bar, y0_bar


# -- the layer ---------------------------------------------------------------------------------------


class JuliaLayer(eqx.Module):
    """`NeuralODE` or `NeuralSDE` on Julia: called in the same way, with the same results."""

    p: Any
    host: Host = eqx.field(static=True)
    t0: float = eqx.field(static=True)
    t1: float = eqx.field(static=True)

    def __call__(self, y0: Any, ts: Any = None, *, key: Any = None, progress: Any = 1.0, train: bool = True) -> Solved:
        """Solve; see `NeuralODE`."""
        regularizers = self.host.regularizers if train else ()
        keys = jax.random.split(jax.random.key(0) if key is None else key)
        end = jnp.asarray(self.t1 - self.t0)
        times = jnp.zeros(0) if ts is None else jnp.asarray(ts) - self.t0
        if shift := end_shift(regularizers):
            last = end
            end = end + jax.random.uniform(keys[0], (), end.dtype, -shift, shift)
            times = jnp.where(times >= last, end, jnp.minimum(times, end))
        coefficients = jnp.asarray([r.coefficient(progress) for r in regularizers], end.dtype)
        seed = jnp.floor(jax.random.uniform(keys[1], (), end.dtype) * 2.0**52)
        # The transposes are compiled, and their derivatives.
        ys, y1, total, counts = _solve(self.host, train, self.p, y0.T, (times, end, coefficients, seed))
        y = jnp.where(counts[3] > 0, y1.T if ts is None else jnp.swapaxes(ys, 1, 2), jnp.nan)
        return Solved(y, total, counts[0], counts[1], counts[2], counts[3] > 0, jnp.zeros(0))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solve(host: Host, train: bool, p: Any, y0: Any, given: Any) -> Any:
    shapes = (
        jax.ShapeDtypeStruct((given[0].size, *y0.shape), y0.dtype),
        jax.ShapeDtypeStruct(y0.shape, y0.dtype),
        jax.ShapeDtypeStruct((), y0.dtype),
        jax.ShapeDtypeStruct((4,), np.int64),
    )
    return jax.pure_callback(partial(host.solve, train), shapes, p, y0, *given)


def _forward(host: Host, train: bool, p: Any, y0: Any, given: Any) -> Any:
    out = _solve(host, train, p, y0, given)
    return out, (p, y0, given, out[3])


def _backward(host: Host, train: bool, kept: Any, bars: Any) -> Any:
    p, y0, given, counts = kept
    shapes = jax.ShapeDtypeStruct(p.shape, p.dtype), jax.ShapeDtypeStruct(y0.shape, y0.dtype)
    # The counts make sure that it comes after the solve.
    p_bar, y0_bar = jax.pure_callback(lambda _, *bars: host.pull(*bars), shapes, counts, *bars[:3])
    return p_bar, y0_bar, jax.tree.map(jnp.zeros_like, given)


_solve.defvjp(_forward, _backward)
