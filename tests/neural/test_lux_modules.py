"""Lux models as terms of equations: the same numbers on every engine, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import pysciml as ps
from pysciml.graph.networks import evaluate, expand

pytestmark = pytest.mark.julia

x, y = ps.variables("x y")
(a,) = ps.parameters("a,")
D = ps.D

MODELS = {
    "dense": "Chain(Dense(2 => 5, tanh), Dense(5 => 4, tanh), Dense(4 => 2))",
    "a chain in a chain": "Chain(Chain(Dense(2 => 3, swish), Dense(3 => 3, swish)), Dense(3 => 2, softplus))",
    "one layer": "Dense(2 => 2)",
    "no biases": "Chain(Dense(2 => 4, sigmoid; use_bias = false), Dense(4 => 2))",
    "two activations": "Chain(Dense(2 => 4, relu), Dense(4 => 3, softplus), Dense(3 => 2))",
    "around": "SkipConnection(Chain(Dense(2 => 4, gelu), Dense(4 => 2)), +)",
    "side by side": "Chain(Parallel(vcat, Dense(2 => 2, sin), Dense(2 => 1)), LayerNorm((3,)), Dense(3 => 2, elu))",
    "functions": "Chain(WrappedFunction(z -> exp.(-abs2.(z)) .+ log1p.(z .^ 2)), Scale(2), Dense(2 => 2, tanh_fast))",
}
DENSE = {
    "dense": ((5, 4), "tanh", "identity"),
    "a chain in a chain": ((3, 3), "swish", "softplus"),
    "one layer": ((), "identity", "identity"),
}


@pytest.fixture(scope="module")
def lux(julia_engine):
    """Evaluates Julia with Lux at hand."""
    from pysciml.engines.julia.bridge import julia

    julia()
    from juliacall import Main

    if not Main.seval('Base.find_package("Lux") !== nothing'):
        pytest.skip("Lux is not in this Julia environment: Pkg.add it there to test its models as networks")
    Main.seval("using Lux, PySciML.Random")
    return Main


def set_up(lux, name):
    """A model with parameters in double precision, and a function of the vector that it computes."""
    model = lux.seval(MODELS[name])
    ps_, st = lux.seval("model -> Lux.setup(Xoshiro(1), model) |> Lux.f64")(model)
    function = lux.seval(
        "(model, ps, st) -> z -> vec(first(Lux.apply(model, reshape(z, :, 1), ps, Lux.testmode(st))))"
    )(model, ps_, st)
    vector = lux.seval("Vector{Float64}")
    return (model, ps_, st), lambda z: np.asarray(function(vector(z)))


def system_of(network):
    u, v = network(x, y)
    return ps.System([ps.Eq(D(x), -a * x + u), ps.Eq(D(y), -a * y + v)])


def problem_of(network):
    return ps.Problem(system_of(network), {x: 1.0, y: 0.5}, (0, 2), {a: 0.5})


@pytest.mark.parametrize("name", MODELS)
def test_a_model_keeps_its_values(lux, name):
    given, function = set_up(lux, name)
    network = ps.Network("own", given, inputs=2, outputs=2)
    inner = network.network
    assert (None if inner.foreign else (inner.hidden, inner.activation, inner.final)) == DENSE.get(name)
    points = np.random.default_rng(0).normal(size=(5, 2))
    expected = np.array([function(point) for point in points])
    values = evaluate(inner, network.initial()[:, None], points.T).T
    assert values == pytest.approx(expected, abs=1e-10)
    problem = problem_of(network)
    rates = expand(problem.system.graph).evaluate("rhs", points.T, problem.p[:, None], 0.0).T
    assert rates == pytest.approx(expected - 0.5 * points, abs=1e-10)


def test_a_model_alone_starts_from_weights_that_are_the_same_every_time(lux):
    model = lux.seval(MODELS["dense"])
    first, second = (ps.Network("own", model, inputs=2, outputs=2).initial() for _ in range(2))
    assert np.array_equal(first, second)
    assert np.abs(first).max() > 0.1


@pytest.mark.parametrize("name", ["dense", "side by side"])
def test_the_engines_agree(lux, name):
    problem = problem_of(ps.Network("own", set_up(lux, name)[0], inputs=2, outputs=2))
    options = {"rtol": 1e-9, "atol": 1e-11, "saveat": [1.0, 2.0]}
    found = {engine: ps.solve(problem, engine=engine, **options) for engine in ("julia", "native", "jax")}
    for engine in ("native", "jax"):
        for state in ("x", "y"):
            assert found[engine][state].values == pytest.approx(found["julia"][state].values, abs=1e-7)


def test_a_model_is_trained_with_the_same_result_on_julia_and_jax(lux):
    problem = problem_of(ps.Network("own", set_up(lux, "around")[0], inputs=2, outputs=2))
    data = ps.solve(problem.remake(p={a: 0.7}), saveat=np.linspace(0.25, 2, 8))
    options = {"trainable": ["own"], "epochs": 5, "regularize": ps.ErrorEstimate(0.1)}
    on_jax, on_julia = (ps.fit(problem, data, engine=engine, **options) for engine in ("jax", "julia"))
    assert on_julia.problem.p == pytest.approx(on_jax.problem.p, abs=1e-7)
    assert not np.allclose(on_jax.problem.p[1:], problem.p[1:])


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("Dense(3 => 2)", ps.ModelError, "its model has 3 inputs and 2 outputs, not 2 and 2"),
        ("SkipConnection(Dense(3 => 2), +)", ps.ModelError, "its model fails for 2 inputs"),
        ("Chain(Dense(2 => 2), WrappedFunction(sort))", ps.UnsupportedError, "cannot be written out"),
        ("sin", ps.ModelError, "is no Lux layer"),
    ],
)
def test_what_is_no_network_is_refused(lux, model, error, message):
    with pytest.raises(error, match=f"the network own.* {message}"):
        ps.Network("own", lux.seval(model), inputs=2, outputs=2)


def test_a_model_without_its_state_is_refused(lux):
    given, _ = set_up(lux, "dense")
    with pytest.raises(ps.ModelError, match="give a Lux model, or \\(model, parameters, state\\)"):
        ps.Network("own", given[:2], inputs=2, outputs=2)
