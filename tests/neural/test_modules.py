"""Modules of Equinox as terms of equations: the same numbers on every engine, and what is refused."""

from __future__ import annotations

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pysciml as ps
from pysciml.engines.jax import written
from pysciml.engines.jax.compiling import double_precision
from pysciml.ensemble import loop
from pysciml.ensemble.messages import pack_model, unpack_model
from pysciml.graph import ops
from pysciml.graph.networks import evaluate, expand

x, y = ps.variables("x y")
(a,) = ps.parameters("a,")
D = ps.D
KEYS = jax.random.split(jax.random.key(0), 8)


class Attention(eqx.Module):
    """Softmax, norms, maxima, branches and sums."""

    first: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    scale: jax.Array

    def __call__(self, z):
        h = self.first(z).reshape(3, 2)
        h = self.norm((jax.nn.softmax(h @ h.T, axis=-1) @ h).ravel())
        bent = jnp.where(h[0] > 0, jax.nn.elu(h[1]), jnp.sum(h**3))
        return jnp.stack([jnp.max(h), bent + self.scale[1] * jax.nn.softplus(h[-1])])


class Recurrent(eqx.Module):
    """A loop."""

    cell: eqx.nn.GRUCell

    def __call__(self, z):
        def step(state, _):
            state = self.cell(z, state)
            return state, state[0]

        state, firsts = jax.lax.scan(step, jnp.zeros(2), None, length=3)
        return state + firsts.sum() * jnp.cumsum(jnp.flip(z))[-1]


class Bent(eqx.Module):
    """Functions one by one, on one row of a matrix product in batches."""

    w: jax.Array

    def __call__(self, z):
        batch = jnp.einsum("bij,bj->bi", self.w, jnp.stack([z, z[::-1]]))
        u, v = jnp.clip(batch[0], -0.5, 0.8), batch[1]
        return (
            jnp.sqrt(1 + u**2) * jnp.exp2(v) + jnp.cbrt(v) / jnp.sqrt(2 + u) + jnp.expm1(u) * jax.lax.rsqrt(1 + v * v)
        )


def mlp(**options):
    return eqx.nn.MLP(2, 2, 5, 2, key=KEYS[0], **options)


def line(k=1):
    return eqx.nn.Linear(2, 2, key=KEYS[k])


#: Modules that are dense layers, and what those are.
DENSE = {
    "MLP": (lambda: mlp(activation=jnp.tanh), ((5, 5), "tanh", "identity")),
    "MLP by default": (mlp, ((5, 5), "relu", "identity")),
    "MLP with two activations": (
        lambda: mlp(activation=jax.nn.silu, final_activation=jax.nn.softplus),
        ((5, 5), "swish", "softplus"),
    ),
    "layer": (line, ((), "tanh", "identity")),
    "sequence": (
        lambda: eqx.nn.Sequential([line(1), eqx.nn.Lambda(jax.nn.sigmoid), line(2)]),
        ((2,), "sigmoid", "identity"),
    ),
}

#: Modules that are something else.
OTHER = {
    "an approximation": lambda: mlp(activation=jax.nn.gelu),
    "another function": lambda: mlp(activation=lambda z: z * jnp.cos(z)),
    "layers in a loop": lambda: eqx.nn.MLP(2, 2, 5, 4, activation=jax.nn.silu, scan=True, key=KEYS[3]),
    "no biases": lambda: mlp(use_bias=False, activation=jax.nn.sigmoid),
    "weights in the activation": lambda: mlp(activation=eqx.nn.PReLU()),
    "attention": lambda: Attention(eqx.nn.Linear(2, 6, key=KEYS[4]), eqx.nn.LayerNorm(6), jnp.ones(3)),
    "recurrent": lambda: Recurrent(eqx.nn.GRUCell(2, 2, key=KEYS[5])),
    "functions": lambda: Bent(jax.random.normal(KEYS[6], (2, 2, 2))),
    "a dense layer and a function": lambda: eqx.nn.Sequential([eqx.nn.Lambda(jnp.sin), line()]),
}


def module_of(name):
    with double_precision():
        return DENSE[name][0]() if name in DENSE else OTHER[name]()


def system_of(network):
    u, v = network(x, y)
    return ps.System([ps.Eq(D(x), -a * x + u), ps.Eq(D(y), -a * y + v)])


def problem_of(network):
    return ps.Problem(system_of(network), {x: 1.0, y: 0.5}, (0, 2), {a: 0.5})


@pytest.mark.parametrize("name", DENSE)
def test_dense_layers_are_taken_as_such(name, tmp_path):
    module = module_of(name)
    network = ps.Network("own", module, inputs=2, outputs=2)
    assert network.network.foreign is None
    assert (network.network.hidden, network.network.activation, network.network.final) == DENSE[name][1]
    points = np.random.default_rng(0).normal(size=(2, 7))
    with double_precision():
        expected = np.asarray(jax.vmap(module, in_axes=1, out_axes=1)(points))
    assert evaluate(network.network, network.initial()[:, None], points) == pytest.approx(expected, abs=1e-14)
    with pytest.raises(ps.UnsupportedError, match="comes with its weights"):
        network.initial(seed=1)
    path = tmp_path / "model.json"
    system_of(network).save(path)
    again = ps.Problem(ps.load(path), {"x": 1.0, "y": 0.5}, (0, 2), {"a": 0.5})
    assert np.array_equal(again.p, problem_of(network).p)


@pytest.mark.parametrize("name", OTHER)
def test_other_modules_are_written_out(name):
    """With the derivatives that JAX has, by inputs and by weights."""
    module = module_of(name)
    network = ps.Network("own", module, inputs=2, outputs=2)
    assert network.network.foreign is not None
    system, p = system_of(network), problem_of(network).p
    graph, where = expand(system.graph), np.array([0.8, -0.3])
    function = network.network.foreign.function

    def rates(z, p):
        return -p[0] * z + function(p[1:], z)

    with double_precision():
        assert np.asarray(function(p[1:], where)) == pytest.approx(np.asarray(module(where)), abs=1e-15)
        expected = np.asarray(rates(where, p))
        slopes = {"states": jax.jacfwd(rates)(where, p), "params": jax.jacfwd(rates, 1)(where, jnp.asarray(p))}
    assert graph.evaluate("rhs", where, p, 0.0) == pytest.approx(expected, abs=1e-13)
    for wrt, slope in slopes.items():
        jacobian, rows, cols = graph.jacobian(wrt=wrt)
        found = np.zeros(slope.shape)
        found[rows, cols] = jacobian.evaluate("jacobian", where, p, 0.0)
        assert found == pytest.approx(np.asarray(slope), abs=1e-12)


@pytest.mark.parametrize("name", ["MLP", "attention", "recurrent"])
def test_the_engines_agree(name):
    problem = problem_of(ps.Network("own", module_of(name), inputs=2, outputs=2))
    options = {"rtol": 1e-9, "atol": 1e-11, "saveat": [1.0, 2.0]}
    on_jax = ps.solve(problem, "Tsit5", engine="jax", **options)
    native = ps.solve(problem, engine="native", **options)
    for state in ("x", "y"):
        assert native[state].values == pytest.approx(on_jax[state].values, abs=1e-7)


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
@pytest.mark.parametrize("name", ["MLP", "attention", "recurrent"])
def test_julia_agrees(name):
    problem = problem_of(ps.Network("own", module_of(name), inputs=2, outputs=2))
    options = {"rtol": 1e-9, "atol": 1e-11, "saveat": [1.0, 2.0]}
    on_jax, on_julia = (ps.solve(problem, "Tsit5", engine=engine, **options) for engine in ("jax", "julia"))
    for state in ("x", "y"):
        assert on_julia[state].values == pytest.approx(on_jax[state].values, abs=1e-8)


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
def test_julia_trains_a_module_as_jax_does():
    problem = problem_of(ps.Network("own", module_of("recurrent"), inputs=2, outputs=2))
    times = np.linspace(0, 2, 9)
    data = ps.solve(problem.remake(p={a: 0.7}), saveat=times[1:])
    options = {"trainable": ["own"], "epochs": 5, "rtol": 1e-6, "atol": 1e-6, "regularize": ps.ErrorEstimate(0.1)}
    on_jax, on_julia = (ps.fit(problem, data, engine=engine, **options) for engine in ("jax", "julia"))
    assert on_julia.problem.p == pytest.approx(on_jax.problem.p, abs=1e-7)
    assert not np.allclose(on_jax.problem.p[1:], problem.p[1:])


#: Functions that cannot be written out, and what is said of them.
REFUSED = {
    "sorting": (jnp.sort, "'sort'"),
    "single precision": (lambda z: z.astype(jnp.float32).astype(jnp.float64), "rounded to float32"),
    "a stopped derivative": (jax.lax.stop_gradient, "'stop_gradient'"),
    "a place that depends on the input": (
        lambda z: z + jnp.arange(5.0)[jnp.where(z[0] > 0, 1, 2)],
        "'select_n' of whole numbers|places that depend|rounded to",
    ),
    "a loop until": (lambda z: jax.lax.while_loop(lambda s: s[0] < 1, lambda s: s + 1, z), "'while'"),
    "infinity": (lambda z: jnp.where(z > 0, z, jnp.inf), "not finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_out_is_for_jax_alone(name):
    function, message = REFUSED[name]
    problem = problem_of(ps.Network("own", function, inputs=2, outputs=2))
    with pytest.raises(ps.UnsupportedError, match=rf"the network own is a module with .*({message}).*MLP") as caught:
        ps.solve(problem, engine="native")
    assert caught.value.engine == "native"


def test_a_module_too_large_to_write_out_is_refused(monkeypatch):
    monkeypatch.setattr(written, "MOST_OPERATIONS", 100)
    problem = problem_of(ps.Network("large", module_of("no biases"), inputs=2, outputs=2))
    with pytest.raises(ps.UnsupportedError, match="more than 100 operations"):
        ps.solve(problem, engine="native")
    assert ps.solve(problem, "Kvaerno3", engine="jax").attrs["retcode"] == "Success"


def test_automatically_an_engine_is_chosen_that_can_run_it():
    problem = problem_of(ps.Network("own", jnp.sort, inputs=2, outputs=2))
    assert ps.solve(problem).attrs["engine"] == "jax"


@pytest.mark.parametrize("activation", [jnp.tanh, jnp.cos])
def test_modules_of_one_shape_keep_their_own_weights(activation):
    with double_precision():
        modules = [eqx.nn.MLP(2, 2, 2, 1, activation=activation, key=key) for key in KEYS[:2]]
    networks = [ps.MLP("own", 2, 2, (2,)), *(ps.Network("own", module, inputs=2, outputs=2) for module in modules)]
    problems = [problem_of(network) for network in networks]
    for network, problem in zip(networks, problems, strict=True):
        assert np.array_equal(problem.p[1:], network.initial())
    assert len({problem.p.tobytes() for problem in problems}) == 3


def test_bad_modules_are_refused(tmp_path):
    module = module_of("MLP")
    with pytest.raises(ps.ModelError, match=r"returns \(2,\)"):
        ps.Network("own", module, inputs=2, outputs=3)
    with pytest.raises(ps.ModelError, match="fails for 3 inputs"):
        ps.Network("own", module, inputs=3, outputs=2)
    with pytest.raises(ps.UnsupportedError, match=r"never code: the network own .* 'sort'"):
        system_of(ps.Network("own", jnp.sort, inputs=2, outputs=2)).save(tmp_path / "m.json")


def test_a_file_of_a_module_holds_its_weights(tmp_path):
    network = ps.Network("own", module_of("MLP"), inputs=2, outputs=2)
    system_of(network).save(tmp_path / "m.json")
    document = json.loads((tmp_path / "m.json").read_text())
    assert document["graph"]["networks"][0]["weights"] == network.initial().tolist()


@pytest.mark.parametrize("name", ["attention", "recurrent", "no biases"])
def test_a_file_of_another_module_holds_what_it_computes(name, tmp_path):
    """The same numbers on every engine, with no module about, and weights that can be given and trained."""
    network = ps.Network("own", module_of(name), inputs=2, outputs=2)
    system, path = system_of(network), tmp_path / "m.json"
    system.save(path)
    loaded = ps.load(path)
    assert isinstance(loaded, ps.System)
    assert loaded.model.hash == system.model.hash
    problem = problem_of(network)
    again = ps.Problem(loaded, {"x": 1.0, "y": 0.5}, (0, 2), {"a": 0.5})
    assert np.array_equal(again.p, problem.p)
    for engine in ("native", "jax"):
        expected, found = (
            ps.solve(one, "KenCarp4" if engine == "jax" else None, engine=engine, rtol=1e-9, atol=1e-9)
            for one in (problem, again)
        )
        assert found.x.values[-1] == pytest.approx(expected.x.values[-1], abs=1e-8)
    trained = network.initial() + 0.1
    other = tmp_path / "other.json"
    loaded.save(other, {network: trained})
    again = ps.load(other)
    assert isinstance(again, ps.System)
    assert np.array_equal(ps.Problem(again, {"x": 1.0, "y": 0.5}, (0, 2), {"a": 0.5}).p[1:], trained)
    assert again.model.hash == system.model.hash


def _set(document, key, value):
    document["graph"]["networks"][0][key] = value


def _take(graph, code):
    """Make another operation of the first state."""
    node = graph["op"].index(ops.STATE)
    graph["op"][node], graph["index"][node] = code, -1


DAMAGES = {
    "another constant": (
        lambda d: _set(d, "written", json.loads(json.dumps(_written(d)).replace("6.0", "7.0"))),
        "hash",
    ),
    "too few weights": (lambda d: _set(d, "weights", d["graph"]["networks"][0]["weights"][:-1]), "bad index|hash"),
    "no library": (lambda d: _set(d, "library", "os"), "no module"),
    "outputs": (lambda d: _set(d, "outputs", 3), "other outputs"),
    "operands": (lambda d: _written(d)["args"].__setitem__(0, [7, 7, 7]), "bad operands"),
    "time": (lambda d: _take(_written(d), ops.TIME), "the operation time"),
}


def _written(document):
    return document["graph"]["networks"][0]["written"]


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_module_in_a_file_is_refused(name, tmp_path):
    damage, message = DAMAGES[name]
    path = tmp_path / "m.json"
    system_of(ps.Network("own", module_of("attention"), inputs=2, outputs=2)).save(path)
    document = json.loads(path.read_text())
    damage(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ps.ModelError, match=message):
        ps.load(path)


def test_other_processes_are_sent_what_a_module_computes(monkeypatch):
    problem = problem_of(ps.Network("own", module_of("recurrent"), inputs=2, outputs=2))
    model = problem.system.model
    sent = unpack_model(*pack_model(model))
    assert sent.hash == model.hash
    assert sent.graph.networks == model.graph.networks
    monkeypatch.setattr(loop, "_WORTH_STARTING", 0.0)
    over = {a: np.linspace(0.2, 0.6, 400)}
    one, two = (ps.solve_ensemble(problem, engine="native", over=over, saveat=[2.0], workers=k) for k in (1, 2))
    assert np.array_equal(one.x.values, two.x.values)
    with pytest.raises(ps.UnsupportedError, match="'sort'"):
        pack_model(problem_of(ps.Network("own", jnp.sort, inputs=2, outputs=2)).system.model)
