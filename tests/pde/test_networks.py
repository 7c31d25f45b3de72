"""Networks in equations of fields: against the same functions written with SymPy, and their training."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps
from pysciml.fitting.fields import first_fields, read_field_data
from pysciml.graph.field_jacobian import jacobian, tangent_graph
from pysciml.graph.field_networks import expand_fields
from pysciml.graph.field_sensitivity import sensitivity_graph
from pysciml.pde.places import interpolation

D = ps.D
X, Y = ps.coordinates("X Y")
(x,) = ps.coordinates("x,")
u, v = ps.fields("u v", X, Y)
w = ps.fields("w", x)
k, a = ps.parameters("k a")
nn = ps.MLP("nn", 2, 2, (4,), seed=3)
source = ps.MLP("source", 1, 1, (3, 3), "softplus")


def formula(network: Any, weights: Any, *inputs: Any) -> list[sp.Expr]:
    """What a network is, in SymPy's own functions."""
    values = list(inputs)
    functions = {"tanh": sp.tanh, "softplus": lambda z: sp.log(1 + sp.exp(z)), "identity": lambda z: z}
    for layer in network.network.layers:
        matrix, bias = weights[layer.matrix].reshape(layer.shape), weights[layer.bias]
        sums = [sum(float(m) * z for m, z in zip(row, values, strict=True)) for row in matrix]
        values = [functions[layer.activation](s + float(c)) for s, c in zip(sums, bias, strict=True)]
    return values


def line(take: Any, **how: Any) -> Any:
    """A closure in a flux and a source, given by ``take(network, *inputs)``."""
    (s,) = take(source, w)
    first, second = take(nn, w, D(w, x))
    return ps.PDESystem(
        [ps.Eq(D(w), D((k + s**2) * D(w, x), x) - a * D(w, x) + first)],
        {x: (0, 2 * sp.pi)},
        {x: ps.Periodic()},
        {w: sp.sin(x)},
        observed={"second": second, "whole": ps.integral(s)},
    ).discretize({x: 16}, **how)


def plane(take: Any) -> Any:
    """Two fields, an end with a network in time, a start with one, and a derivative of a network."""
    first, second = take(nn, u, v)
    (end,), (start,) = take(source, ps.t), take(source, 0)
    return ps.PDESystem(
        [ps.Eq(D(u), k * ps.laplacian(u) + first), ps.Eq(D(v), k * D(v, Y, 2) - D(second, X))],
        {X: (0, 1), Y: (0, 1)},
        {X: ps.Dirichlet(lower=end, upper=0), Y: ps.Neumann(0)},
        {u: start * (1 - X), v: start * (1 - X**2)},
    ).discretize({X: 6, Y: 5})


def called(network: Any, *inputs: Any) -> Any:
    found = network(*inputs)
    return found if isinstance(found, tuple) else (found,)


def written(network: Any, *inputs: Any) -> Any:
    return formula(network, network.initial(), *inputs)


CASES = {
    "central": lambda take: line(take),
    "order 4": lambda take: line(take, order=4),
    "upwind": lambda take: line(take, scheme="upwind"),
    "weno": lambda take: line(take, scheme="weno"),
    "fourier": lambda take: line(take, scheme="spectral"),
    "plane": plane,
}


def numbers(system: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    problem = system.problem((0, 0.2), dict.fromkeys(system.parameters, 0.3))
    return 0.5 * rng.normal(size=problem.u0.size), problem.p


@pytest.mark.parametrize("name", CASES)
def test_a_network_is_what_its_formula_says(name: str) -> None:
    system, plain = CASES[name](called), CASES[name](written)
    state, p = numbers(system)
    assert set(system.networks) == {"nn", "source"}
    for output in ("rhs", "observed"):
        expected = plain.graph.evaluate(output, state, p[: len(plain.parameters)], 0.4)
        for graph in (system.graph, expand_fields(system.graph)):
            assert graph.evaluate(output, state, p, 0.4) == pytest.approx(expected, rel=1e-11, abs=1e-11)
    expected = jacobian(plain.graph, state, p[: len(plain.parameters)], 0.4).toarray()
    found = jacobian(system.graph, state, p, 0.4).toarray()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 * abs(expected).max())
    direction = np.random.default_rng(2).normal(size=state.size)
    along = tangent_graph(system.graph).evaluate("tangent", np.concatenate([state, direction]), p, 0.4)
    assert along == pytest.approx(found @ direction, rel=1e-9, abs=1e-9 * abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_jax_evaluates_them_at_every_place_at_once(name: str) -> None:
    import jax.numpy as jnp

    from pysciml.engines.jax.compiling import double_precision
    from pysciml.engines.jax.lower import lower

    system = CASES[name](called)
    state, p = numbers(system)
    with double_precision():
        for output in ("rhs", "observed"):
            found = lower(system.graph, output)(0.4, jnp.asarray(state), jnp.asarray(p))
            assert np.asarray(found) == pytest.approx(
                system.graph.evaluate(output, state, p, 0.4), rel=1e-11, abs=1e-11
            )


def test_derivatives_by_parameters_and_weights() -> None:
    system = line(called)
    state, p = numbers(system)
    by_p = [0, 1, 5, len(p) - 1]
    graph = sensitivity_graph(system.graph, by_p)
    rates = np.concatenate([state, np.zeros(len(by_p) * state.size)])
    found = graph.evaluate("rhs", rates, p, 0.0).reshape(1 + len(by_p), -1)
    for row, index in zip(found[1:], by_p, strict=True):
        step = 1e-6 * (np.arange(p.size) == index)
        high, low = (system.graph.evaluate("rhs", state, p + s * step, 0.0) for s in (1, -1))
        assert row == pytest.approx((high - low) / 2e-6, rel=1e-6, abs=1e-7)


SOLVERS = [
    ("native", None, "central", {}),
    ("native", None, "fourier", {}),
    ("jax", "Tsit5", "weno", {}),
    ("jax", "QNDF", "plane", {}),
    ("jax", "KenCarp4", "central", {}),
    ("jax", "ETDRK4", "fourier", {"dt": 0.005}),
    pytest.param("julia", "Tsit5", "weno", {}, marks=pytest.mark.julia),
    pytest.param("julia", "Rodas5P", "central", {}, marks=pytest.mark.julia),
    pytest.param("julia", "FBDF", "plane", {}, marks=pytest.mark.julia),
]


@pytest.mark.parametrize(("engine", "alg", "name", "how"), SOLVERS)
def test_engines_solve_what_the_formula_gives(engine: str, alg: str | None, name: str, how: Any) -> None:
    system, plain = CASES[name](called), CASES[name](written)
    p = dict.fromkeys(system.parameters, 0.3)
    tight = {"rtol": 1e-9, "atol": 1e-10, "saveat": [0.2]}
    found = ps.solve(system.problem((0, 0.2), p), alg, engine=engine, **tight, **how)
    expected = ps.solve(plain.problem((0, 0.2), p), engine="native", **tight)
    for state in system.model.states:
        assert found[state].values == pytest.approx(expected[state].values, rel=1e-6, abs=1e-7)


def test_a_steady_state_with_a_network() -> None:
    def balance(take: Any) -> Any:
        (s,) = take(source, w)
        return ps.PDESystem([ps.Eq(0, D(w, x, 2) + s)], {x: (0, 1)}, {x: ps.Dirichlet(0)}).discretize({x: 20})

    assert balance(called).steady().w.values == pytest.approx(balance(written).steady().w.values, rel=1e-9)


def test_an_ensemble_of_them() -> None:
    problem = line(called).problem((0, 0.1), {k: 0.1, a: 0.2})
    sweep = ps.solve_ensemble(problem, over={k: [0.1, 0.2]}, engine="jax", saveat=[0.1])
    single = ps.solve(problem.remake(p={k: 0.2}), engine="jax", saveat=[0.1])
    assert sweep.w.isel(k=1).values == pytest.approx(single.w.values, rel=1e-5)


# -- training ---------------------------------------------------------------------------------------


def front(reaction: Any, start: Any = 3) -> Any:
    """Fisher's equation with a reaction."""
    return ps.PDESystem(
        [ps.Eq(D(w), k * D(w, x, 2) + reaction)],
        {x: (0, 10)},
        {x: ps.Neumann(0)},
        {w: 1 / (1 + sp.exp(start * (x - 4)))},
        observed={"mass": ps.integral(w)},
        name="front",
    ).discretize({x: 24})


def learned(**weights: Any) -> Any:
    return front(source(w), a).problem((0, 3), {k: 0.3, a: 3.0, **weights})


@pytest.fixture(scope="module")
def measured() -> xr.Dataset:
    """At places between the cells, and the mass."""
    solution = ps.solve(front(w * (1 - w)).problem((0, 3), {k: 0.3}), saveat=np.linspace(0, 3, 9), rtol=1e-8)
    places = xr.DataArray(np.linspace(0.7, 9.3, 13), dims="sensor")
    return xr.Dataset({"w": solution.w.interp(x=places), "mass": solution.mass})


def test_the_gradient_of_a_training_is_that_of_its_loss(measured: xr.Dataset) -> None:
    """One step of gradient descent against differences of a loss that another engine solves for."""
    problem = learned()
    weights = problem.weights["source"]
    rate = 1e-3
    options = {"optimizer": "sgd", "learning_rate": rate, "epochs": 1, "rtol": 1e-9, "atol": 1e-9}
    fit = ps.fit(problem, measured, ["source", k, a], **options)
    slopes = {
        "source": (weights - fit.problem.weights["source"]) / rate,
        "k": (problem.p[0] - fit.problem.p[0]) / rate,
        "a": (problem.p[1] - fit.problem.p[1]) / rate,
    }
    order = [s.name for s in problem.system.parameters]
    between = interpolation(list(problem.system.axes), (24,), [measured.x.values], 4).toarray()
    assert order == ["k", "a"]

    def loss(**changed: Any) -> float:
        solution = ps.solve(
            learned().remake(p=changed), "QNDF", engine="native", saveat=measured.t.values, rtol=1e-10, atol=1e-11
        )
        at = solution.w.values @ between.T
        squares = [(at - measured.w.values).ravel() ** 2, (solution.mass.values - measured.mass.values) ** 2]
        return float(np.concatenate(squares).mean())

    step = 1e-5
    for name in ("k", "a"):
        here = problem.p[order.index(name)]
        difference = (loss(**{name: here + step}) - loss(**{name: here - step})) / (2 * step)
        assert slopes[name] == pytest.approx(difference, rel=2e-3, abs=1e-6)
    for index in (0, 4, len(weights) - 1):
        change = step * (np.arange(len(weights)) == index)
        difference = (loss(source=weights + change) - loss(source=weights - change)) / (2 * step)
        assert slopes["source"][index] == pytest.approx(difference, rel=2e-3, abs=1e-6)


def test_a_reaction_is_learned_from_data(measured: xr.Dataset) -> None:
    term = ps.MLP("term", 1, 1, (8,))
    solution = ps.solve(front(w * (1 - w)).problem((0, 3), {k: 0.3}), saveat=np.linspace(0, 3, 9))
    problem = front(term(w)).problem((0, 3), {k: 0.3})
    fit = ps.fit(problem, solution[["w"]], [term], epochs=1200, learning_rate=1e-2, validation=measured[["w"]])
    assert fit.loss < 2e-4 < 0.1 < float(fit.history.loss[0])
    assert float(fit.history.validation.min()) < 5e-4
    at = np.linspace(0.05, 0.95, 10)
    found = formula(term, fit.problem.weights["term"], sp.Symbol("z"))[0]
    reaction = sp.lambdify(sp.Symbol("z"), found)(at)
    assert reaction == pytest.approx(at * (1 - at), abs=0.06)
    assert fit.solution.w.sel(t=3).values == pytest.approx(solution.w.isel(t=-1).values, abs=0.05)


def test_windows_start_from_fields_through_the_data() -> None:
    """Between sensors that stand anywhere; a field that nobody measured starts as the problem does."""
    system = plane(called)
    problem = system.problem((0, 1), {k: 0.1})
    rng = np.random.default_rng(0)
    coords = {"t": [0.0, 0.5, 1.0], "X": ("s", rng.random(200)), "Y": ("s", rng.random(200))}
    shape = coords["X"][1] + 2 * coords["Y"][1]
    data = xr.Dataset({"u": (("t", "s"), [shape, 3 * shape, 5 * shape])}, coords=coords)
    data["u"][1, ::5] = np.nan
    starts = first_fields(problem, read_field_data(problem, data, None, None), np.array([0.0, 0.25, 0.5, 1.0]))
    x_, y_ = np.meshgrid(*system.coords.values(), indexing="ij")
    for start, factor in zip(starts[1:], (2, 3), strict=True):
        assert start[:30] == pytest.approx(factor * (x_ + 2 * y_).ravel(), abs=0.1 * factor)
        assert np.array_equal(start[30:], problem.u0[30:])
    assert np.array_equal(starts[0], problem.u0)


def test_windows_are_joined(measured: xr.Dataset) -> None:
    """What one long solve does not find from here, windows do: the sign of a growth far from where it starts."""
    growth = ps.MLP("growth", 1, 1, (6,), seed=2)
    problem = front(w * growth(4 * w - 2)).problem((0, 3), {k: 0.3})
    options: Any = {"epochs": 200, "learning_rate": 3e-2, "rtol": 1e-4, "atol": 1e-5}
    fit = ps.fit(problem, measured[["w"]], [growth], segments=(4, 1), **options)
    z = sp.Symbol("z")
    found = sp.lambdify(z, formula(growth, fit.problem.weights["growth"], 4 * z - 2)[0])
    at = np.linspace(0.1, 1, 7)
    assert found(at) == pytest.approx(1 - at, abs=0.15)
    assert fit.loss < 1e-3


def test_a_training_goes_on_bit_for_bit(measured: xr.Dataset, tmp_path: Any) -> None:
    problem, path = learned(), tmp_path / "c.npz"
    options: Any = {"learning_rate": 1e-2, "regularize": ps.ErrorEstimate(0.1)}
    whole = ps.fit(problem, measured, ["source", k], epochs=6, **options)
    ps.fit(problem, measured, ["source", k], epochs=3, checkpoint=path, **options)
    rest = ps.fit(problem, measured, ["source", k], epochs=6, checkpoint=path, **options)
    assert np.array_equal(rest.problem.p, whole.problem.p)
    assert np.array_equal(rest.problem.u0, problem.u0)
    moved = measured.assign_coords(x=measured.x + 0.1)
    with pytest.raises(ps.ProblemError, match="of another fit"):
        ps.fit(problem, moved, ["source", k], epochs=6, checkpoint=path, **options)


def test_numbers_alone_are_trained_where_an_optimizer_is_named(measured: xr.Dataset) -> None:
    """Initial values follow a parameter that they are written with."""
    problem = front(w * (1 - w), a).problem((0, 3), {k: 0.3, a: 2.0})
    fit = ps.fit(problem, measured, [a], log=[a], optimizer="adam", epochs=150, learning_rate=3e-2)
    assert fit.problem.p[1] == pytest.approx(3.0, rel=0.02)
    assert fit.problem.u0 == pytest.approx(problem.remake(p={a: float(fit.problem.p[1])}).u0, abs=1e-14)


def test_what_is_not_trained_is_refused(measured: xr.Dataset) -> None:
    problem = learned()
    with pytest.raises(ps.UnsupportedError, match="engine='jax' alone"):
        ps.fit(problem, measured, ["source"], engine="julia")
    with pytest.raises(ps.UnsupportedError, match="w is a field"):
        ps.fit(problem, measured, ["source", w])
    with pytest.raises(ps.ProblemError, match="no network, parameter or state"):
        ps.fit(problem, measured, ["sauce"], epochs=2)


# -- the language and files -------------------------------------------------------------------------


def test_names_and_numbers_are_checked() -> None:
    other = ps.MLP("source", 1, 1, (2,))
    with pytest.raises(ps.ModelError, match="two different networks are called 'source'"):
        front(source(w) + other(w))
    with pytest.raises(ps.ModelError, match="'k' is used twice"):
        front(ps.MLP("k", 1, 1)(w))
    problem = learned()
    assert "source: 22 weights" in repr(problem)
    with pytest.raises(ps.ProblemError, match="22 numbers"):
        problem.remake(p={"source": np.zeros(3)})
    changed = problem.remake(p={source: np.arange(22.0)})
    assert np.array_equal(changed.weights["source"], np.arange(22.0))
    assert changed.p[0] == problem.p[0]


def test_files_hold_networks_and_weights(tmp_path: Any) -> None:
    system = line(called)
    path = tmp_path / "m.json"
    trained = np.linspace(-1, 1, nn.size)
    system.save(path, {nn: trained})
    loaded: Any = ps.load(path)
    assert loaded.model.hash == system.model.hash
    problem = loaded.problem((0, 1), {"k": 0.1, "a": 0.2})
    assert np.array_equal(problem.weights["nn"], trained)
    assert np.array_equal(problem.weights["source"], source.initial())
    system.system.save(path)
    again: Any = ps.load(path)
    assert again.discretize({x: 16}).model.hash == system.model.hash
    with pytest.raises(ps.ProblemError, match="not a network of the system"):
        system.save(path, {"mm": trained})


def _renamed(document: Any) -> None:
    document["networks"][0]["name"] = "mm"


def _cut(document: Any) -> None:
    node = next(node for node in document["nodes"] if node[0] == "network")
    node[4] = node[4][:-1]


def _another(document: Any) -> None:
    node = next(node for node in document["nodes"] if node[0] == "network")
    node[2] = 7


@pytest.mark.parametrize(
    ("damage", "message"), [(_renamed, "no network"), (_cut, "other inputs"), (_another, "outputs")]
)
def test_damaged_files_are_refused(damage: Any, message: str, tmp_path: Any) -> None:
    from pysciml.pde.files import _digest

    path = tmp_path / "m.json"
    line(called).save(path)
    document = json.loads(path.read_text())
    damage(document)
    document["digest"] = _digest(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ps.ModelError, match=message):
        ps.load(path)


def test_an_exact_solution_is_met_at_the_order_of_the_differences() -> None:
    """With a network in the flux and as a source."""
    (s,) = called(source, w)
    system = ps.PDESystem(
        [ps.Eq(D(w), D((k + s**2) * D(w, x), x) + s)], {x: (0, 1)}, {x: ps.Dirichlet(0)}, {w: sp.sin(sp.pi * x)}
    )
    exact = {w: sp.sin(sp.pi * x) * sp.exp(-ps.t)}
    measured = ps.testing.manufactured(system, exact).measure([16, 32, 64], tspan=(0, 0.1), p={k: 0.1})
    assert measured.order.values[1:] == pytest.approx([2, 2], abs=0.2)


def test_without_jax_numbers_are_fitted_and_training_says_what_to_install() -> None:
    script = """
        import sys
        sys.modules.update(dict.fromkeys(("jax", "diffrax", "equinox", "optax")))
        import pysciml as ps, sympy as sp
        x, = ps.coordinates("x,")
        u, (k,), nn = ps.fields("u", x), ps.parameters("k,"), ps.MLP("nn", 1, 1, (3,))
        system = ps.PDESystem([ps.Eq(ps.D(u), k*ps.D(u, x, 2) + nn(u))], {x: (0, 1)}, {x: ps.Dirichlet(0)},
                              {u: sp.sin(sp.pi*x)})
        problem = system.discretize({x: 8}).problem((0, 0.1), {k: 1.0})
        data = ps.solve(problem, saveat=[0.05, 0.1])[["u"]]
        print(round(ps.fit(problem.remake(p={k: 1.2}), data, [k]).problem.p[0], 3))
        try:
            ps.fit(problem, data, [nn])
        except ps.EngineUnavailableError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first == "1.0"
    assert 'pip install "pysciml[jax]"' in second
