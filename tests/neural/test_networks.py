"""Networks as terms: their values, derivatives and files, the same on every engine, and what is refused."""

from __future__ import annotations

import json

import mpmath
import numpy as np
import pytest
import sympy as sp
from numpy.testing import assert_allclose

import pysciml as ps
from pysciml.graph import Graph, GraphBuilder, Network
from pysciml.graph.networks import ACTIVATIONS, Call, derivative, evaluate, expand

x, y = ps.variables("x y")
a, c = ps.parameters("a c")
D = ps.D


def hybrid(hidden=(8,), **options):
    nn = ps.MLP("nn", inputs=2, outputs=2, hidden=hidden, **options)
    u, v = nn(x, y)
    return nn, ps.System([ps.Eq(D(x), -a * x + u), ps.Eq(D(y), -c * y + v)])


def problem_of(system, **more):
    return ps.Problem(system, {x: 1.0, y: 0.5}, (0, 3), {a: 0.5, c: 0.3, **more})


def by_hand(weights, z):
    """tanh layers of widths 2, 3, 4, 1, written with loops."""
    values, at = list(z), 0
    for n_in, n_out, last in ((2, 3, False), (3, 4, False), (4, 1, True)):
        rows = [weights[at + r * n_in : at + (r + 1) * n_in] for r in range(n_out)]
        bias = weights[at + n_in * n_out : at + n_in * n_out + n_out]
        sums = [sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(rows, bias, strict=True)]
        values, at = (sums if last else [np.tanh(s) for s in sums]), at + n_in * n_out + n_out
    return values


def test_the_layout_of_flat_weights_is_as_documented():
    network = Network("nn", 2, 1, (3, 4))
    weights = np.random.default_rng(0).normal(size=network.size)
    assert evaluate(network, weights, np.array([0.3, -0.7])) == pytest.approx(by_hand(weights, (0.3, -0.7)), abs=1e-14)


def test_initial_weights_are_the_same_everywhere_and_differ_by_name_and_seed():
    first = ps.MLP("nn", 2, 2, (4,)).initial()
    assert first[:3] == pytest.approx([-0.04023735, -0.45788537, 0.54940816], abs=1e-8)
    assert np.array_equal(first, ps.MLP("nn", 2, 2, (4,)).initial())
    for other in (ps.MLP("other", 2, 2, (4,)).initial(), ps.MLP("nn", 2, 2, (4,), seed=1).initial()):
        assert not np.any(np.isclose(first[:8], other[:8]))
    assert np.abs(first[:8]).max() <= 1.0  # sqrt(6 / (2 + 4))
    assert not first[8:12].any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_the_same_in_numpy_operations_and_jax(activation):
    from pysciml.engines.jax.compiling import double_precision
    from pysciml.engines.jax.lower import lower

    network = Network("nn", 2, 2, (5,), activation, "softplus")
    b = GraphBuilder(2, network.size)
    nodes = [b.network(network, k, [b.state(0), b.mul(b.state(1), b.state(0))]) for k in range(2)]
    graph = b.build({"rhs": nodes})
    rng = np.random.default_rng(1)
    points, weights = 3 * rng.normal(size=(2, 40)), rng.normal(size=network.size)
    values = graph.evaluate("rhs", points, weights[:, None], 0.0)
    assert expand(graph).evaluate("rhs", points, weights[:, None], 0.0) == pytest.approx(values, abs=1e-13)
    with double_precision():
        function = lower(graph, "rhs")
        found = np.stack([function(0.0, point, weights) for point in points.T[:5]], axis=1)
    assert found == pytest.approx(values[:, :5], abs=1e-13)


def test_derivatives_on_the_graph_are_exact_to_second_order():
    network = Network("nn", 2, 2, (5, 4), "swish")
    weights = network.initial()
    z, h = np.array([0.4, -0.9]), 1e-5
    for i in range(2):
        step = h * np.eye(2)[i]
        slope = (evaluate(network, weights, z + step) - evaluate(network, weights, z - step)) / (2 * h)
        assert derivative(network, (i,), weights, z) == pytest.approx(slope, abs=1e-9)
        for j in range(i, 2):
            slope = derivative(network, (j,), weights, z + step) - derivative(network, (j,), weights, z - step)
            assert derivative(network, (i, j), weights, z) == pytest.approx(slope / (2 * h), abs=1e-8)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_taylor_series_through_networks(activation):
    from pysciml.engines.jax.compiling import double_precision
    from pysciml.engines.jax.lower import lower

    net, order = Network("n", 2, 2, (4, 3), activation, activation), 3
    rng = np.random.default_rng(0)
    weights, curve = net.initial() + 0.1 * rng.normal(size=net.size), rng.normal(size=(order + 1, 2))
    of_one = {
        "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
        "relu": lambda z: max(z, mpmath.mpf(0)),
        "softplus": lambda z: mpmath.log(1 + mpmath.exp(z)),
        "swish": lambda z: z / (1 + mpmath.exp(-z)),
        "gelu": lambda z: z * mpmath.ncdf(z),
        "identity": lambda z: z,
    }.get(activation) or getattr(mpmath, activation)

    def along(t):
        z = mpmath.matrix([mpmath.polyval(column[::-1].tolist(), t) for column in curve.T])
        for layer in net.layers:
            matrix = mpmath.matrix(weights[layer.matrix].reshape(layer.shape).tolist())
            z = (matrix * z + mpmath.matrix(weights[layer.bias].tolist())).apply(of_one)
        return z

    # Each coefficient follows from the one before: the derivative of coefficient m is m + 1 times the next.
    b = GraphBuilder(curve.size, net.size)
    nodes = [b.network(net, output, [b.state(0), b.state(1)]) for output in range(2)]
    outputs = {"0": nodes}
    for k in range(order):
        rates = [b.mul(b.constant(k + 1.0), b.state(2 * (k + 1) + i)) for i in range(2)]
        nodes = [b.next_coefficient(node, rates) for node in nodes]
        outputs[str(k + 1)] = nodes
    graph = b.build(outputs)
    with mpmath.workdps(40):
        wanted = [mpmath.taylor(lambda t, output=output: along(t)[output], 0, order) for output in range(2)]
    for k, name in enumerate(outputs):
        exact = [float(series[k]) for series in wanted]
        with double_precision():
            on_jax = lower(graph, name)(0.0, curve.ravel(), weights)
        one_by_one = expand(graph).evaluate(name, curve.ravel(), weights, 0.0)
        for found in (graph.evaluate(name, curve.ravel(), weights, 0.0), one_by_one, on_jax):
            assert_allclose(found, exact, rtol=1e-13, atol=1e-15)
    with pytest.raises(ps.UnsupportedError, match="write it out first"):
        b.differentiated(nodes[0], 0)


def test_jacobian_and_sparsity_see_through_networks():
    nn = ps.MLP("nn", inputs=1, outputs=1, hidden=(4,))
    system = ps.System([ps.Eq(D(x), nn(x) * y), ps.Eq(D(y), -y)])
    assert system.sparsity().toarray().tolist() == [[True, True], [False, True]]
    weights = nn.initial()
    u = np.array([0.3, 0.8])
    graph, rows, cols = system.graph.jacobian()
    dense = np.zeros((2, 2))
    dense[rows, cols] = graph.evaluate("jacobian", u, weights, 0.0)
    slope = derivative(nn.network, (0,), weights, u[:1])[0]
    assert dense == pytest.approx(np.array([[slope * 0.8, evaluate(nn.network, weights, u[:1])[0]], [0, -1]]))
    _, cols = system.graph.sparsity("rhs", "params")
    assert cols.tolist() == list(range(nn.size))
    assert system.jacobian()[0, 0].diff(y) == nn(x).diff(x)


@pytest.mark.parametrize(("hidden", "activation"), [((8,), "tanh"), ((6, 6), "swish")])
def test_engines_agree_on_the_same_weights(hidden, activation):
    _, system = hybrid(hidden, activation=activation)
    problem = problem_of(system)
    tight = {"rtol": 1e-12, "atol": 1e-13, "saveat": 0.5}
    native = ps.solve(problem, "Tsit5", engine="native", **tight)
    jax = ps.solve(problem, "Tsit5", engine="jax", **tight)
    assert jax.x.values == pytest.approx(native.x.values, abs=1e-10)
    assert jax.y.values == pytest.approx(native.y.values, abs=1e-10)
    implicit = ps.solve(problem, "Kvaerno5", engine="jax", rtol=1e-9, atol=1e-10, saveat=0.5)
    assert implicit.x.values == pytest.approx(native.x.values, abs=1e-7)


def test_many_applications_of_one_network_are_lowered_together():
    from pysciml.engines.jax.compiling import double_precision
    from pysciml.engines.jax.lower import lower

    n = 300
    states = ps.variables(f"q:{n}")
    nn = ps.MLP("nn", inputs=2, outputs=1, hidden=(4,))
    system = ps.System([ps.Eq(D(q), nn(q, states[k - 1])) for k, q in enumerate(states)])
    u = np.random.default_rng(0).normal(size=n)
    with double_precision():
        found = lower(system.graph, "rhs")(0.0, u, nn.initial())
    assert np.asarray(found) == pytest.approx(evaluate(nn.network, nn.initial(), np.stack([u, np.roll(u, 1)]))[0])


def test_networks_in_drift_and_diffusion_of_a_stochastic_equation():
    w = ps.brownian("w")
    f, g = ps.MLP("f", 1, 1, (6,)), ps.MLP("g", 1, 1, (6,), output_activation="softplus")
    system = ps.System([ps.Eq(D(x), f(x) + g(x) * w)])
    assert (system.kind, system.noise_type) == ("sde", "diagonal")
    problem = ps.Problem(system, {x: 1.0}, (0, 1))
    # Itô and Stratonovich methods meet only where the derivative of the network is right.
    ends = {
        alg: ps.solve(problem, alg, engine="jax", dt=1 / 1024, seed=1, saveat=1.0).x.values[-1]
        for alg in ("EM", "Milstein", "EulerHeun")
    }
    assert ends["Milstein"] == pytest.approx(ends["EulerHeun"], abs=1e-3)
    assert ends["EM"] == pytest.approx(ends["EulerHeun"], abs=3e-2)


def test_weights_are_numbers_of_the_problem():
    nn, system = hybrid()
    problem = problem_of(system)
    assert problem.p.size == 2 + nn.size
    assert np.array_equal(problem.weights["nn"], nn.initial())
    other = problem.remake(p={"nn": nn.initial(3), "a": 2.0})
    assert np.array_equal(other.weights["nn"], nn.initial(3))
    assert other.p[0] == 2.0
    assert np.array_equal(problem_of(system, nn=nn.initial(3)).weights["nn"], nn.initial(3))
    assert np.array_equal(problem.remake(p={nn: nn.initial(3)}).weights["nn"], nn.initial(3))
    with pytest.raises(ps.ProblemError, match="one flat array of 42 numbers"):
        problem.remake(p={"nn": np.zeros(3)})
    with pytest.raises(ps.ProblemError, match="not all finite"):
        problem.remake(p={"nn": np.full(42, np.nan)})


def test_a_model_file_keeps_networks_and_their_weights(tmp_path):
    nn, system = hybrid(activation="swish")
    system.save(tmp_path / "m.json")
    loaded = ps.load(tmp_path / "m.json")
    assert loaded.model.hash == system.model.hash
    again = ps.Problem(loaded, {"x": 1.0, "y": 0.5}, (0, 3), {"a": 0.5, "c": 0.3})
    assert np.array_equal(again.p, problem_of(system).p)
    assert loaded.equations == system.equations
    system.save(tmp_path / "m.json", weights={"nn": nn.initial(5)})
    loaded = ps.load(tmp_path / "m.json")
    loaded.save(tmp_path / "n.json")  # what was loaded is not lost
    assert np.array_equal(ps.load(tmp_path / "n.json").initial_weights("nn"), nn.initial(5))
    document = json.loads((tmp_path / "m.json").read_text())
    for change in ({"activation": "eval"}, {"inputs": 3}, {"hidden": [2**40]}, {"weights": [1.0]}, {"name": "x"}):
        broken = json.loads(json.dumps(document))
        broken["graph"]["networks"][0] |= change
        (tmp_path / "b.json").write_text(json.dumps(broken))
        with pytest.raises(ps.ModelError):
            ps.load(tmp_path / "b.json")


def test_expressions_behave_like_sympy():
    nn = ps.MLP("nn", inputs=2, outputs=1)
    term = nn(x, 2 * y)
    assert term.subs(y, x) == nn(x, 2 * x)
    assert term.diff(y) == 2 * term.partial(1)
    assert term.free_symbols == {ps.t}
    assert term.func(*term.args) == term
    assert (term - term) == 0
    assert str(term) == "nn(x(t), 2*y(t))"
    assert sp.latex(term.diff(y)).startswith("2 \\partial_{2}\\mathrm{nn}")
    assert "nn(x, 2*y)" in repr(ps.System([ps.Eq(D(x), term), ps.Eq(D(y), -y)]))


def test_equations_may_have_derivatives_inside_a_network():
    nn = ps.MLP("nn", inputs=1, outputs=1, hidden=(4,))
    oscillator = ps.System([ps.Eq(D(x, 2), -x + nn(D(x)))])
    assert oscillator.kind == "ode"
    implicit = ps.System([ps.Eq(D(x) + nn(D(x)), -x)])
    assert implicit.kind == "dae"
    chained = ps.System([ps.Eq(D(x), nn(x)), ps.Eq(y, D(nn(x)))])  # the chain rule: y = nn'(x) nn(x)
    assert chained.kind == "dae"
    where = np.array([0.4])
    slope = derivative(nn.network, (0,), nn.initial(), where) * evaluate(nn.network, nn.initial(), where)
    assert abs(chained.graph.evaluate("rhs", [0.4, slope[0]], nn.initial(), 0.0)[1]) < 1e-14
    assert chained.rhs[1].has(nn(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "tanhh"}, r"did you mean 'tanh'\?"),
        ({"inputs": 0}, "inputs must be an integer, 1 or more"),
        ({"hidden": (8, -1)}, "hidden must be an integer"),
        ({"hidden": "32"}, "widths of the hidden layers"),
        ({"name": "a b"}, "must be a word"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
def test_bad_networks_are_refused(arguments, message):
    with pytest.raises(ps.ModelError, match=message):
        ps.MLP(**{"name": "nn", "inputs": 2, "outputs": 2, **arguments})


def test_julia_source_of_a_network_is_refused_by_name():
    (x,) = ps.variables("x,")
    system = ps.System([ps.Eq(ps.D(x), ps.MLP("nn", inputs=1, outputs=1)(x))])
    with pytest.raises(ps.UnsupportedError, match=r"has a network \(nn\)"):
        system.to_julia()


def test_bad_uses_are_refused():
    nn = ps.MLP("nn", inputs=2, outputs=1)
    with pytest.raises(ps.ModelError, match="has 2 inputs, and is called with 1"):
        nn(x)
    with pytest.raises(ps.ModelError, match="input 2 of the network nn is no scalar"):
        nn(x, "y")
    with pytest.raises(ps.ModelError, match="two different networks are called 'nn'"):
        ps.System([ps.Eq(D(x), nn(x, y)), ps.Eq(D(y), ps.MLP("nn", 1, 1)(x))])
    clash = ps.MLP("a", 1, 1)
    with pytest.raises(ps.ModelError, match="'a' is used for two different symbols"):
        ps.System([ps.Eq(D(x), a * clash(x))])
    w = ps.brownian("w")
    with pytest.raises(ps.ModelError, match="does not enter linearly"):
        ps.System([ps.Eq(D(x), nn(x, w))])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (Call(0, 0, (), 1), "does not have 4 inputs"),
        (Call(0, 0, (1,), 1), "is no Taylor coefficient of a network"),
        (Call(0, 0, (), -1), "is no Taylor coefficient of a network"),
        (Call(0, 2), "is no output of a network"),
    ],
    ids=str,
)
def test_calls_that_a_graph_cannot_have(call, message):
    network = Network("n", 2, 2)
    b = GraphBuilder(2, network.size)
    graph = b.build({"out": [b.network(network, 0, [b.state(0), b.state(1)])]})
    parts = graph.op, graph.args, graph.const, graph.index, 2, network.size, graph.outputs, [network], [call]
    with pytest.raises(ValueError, match=message):
        Graph.from_arrays(*parts)
