"""Layers: what they return, what their regularizers do to a solve's cost, and what is refused."""

from __future__ import annotations

from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pysciml as ps


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


class Field(eqx.Module):
    net: eqx.nn.MLP

    def __init__(self, size, width, key):
        self.net = eqx.nn.MLP(size + 1, size, width, 1, activation=jnp.tanh, key=key)

    def __call__(self, t, y):
        return self.net(jnp.append(y, t))


def field():
    return Field(3, 8, jax.random.key(0))


def test_a_layer_solves_its_equation():
    layer = ps.neural.NeuralODE(lambda t, y: -y, t1=2.0, rtol=1e-9, atol=1e-9)
    x = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    out = layer(x)
    assert np.asarray(out.y) == pytest.approx(np.asarray(x) * np.exp(-2.0), rel=1e-7)
    assert int(out.evaluations) == 2 + 6 * int(out.steps + out.rejected)
    assert float(out.regularization) == 0.0
    sizes = np.asarray(out.step_sizes)
    assert np.count_nonzero(sizes) == int(out.steps) == np.flatnonzero(sizes)[-1] + 1
    assert sizes.sum() == pytest.approx(2.0, abs=1e-12)
    path = layer(x[0], jnp.asarray([0.0, 1.0, 2.0])).y
    assert np.asarray(path[:, 0]) == pytest.approx(np.exp([0.0, -1.0, -2.0]), rel=1e-7)
    short = ps.neural.NeuralODE(lambda t, y: -y, t1=2.0, rtol=1e-9, atol=1e-9, max_steps=2)(x)
    assert not bool(short.success)
    assert np.isnan(np.asarray(short.y)).all()


def test_training_with_the_error_estimate_makes_solves_cheaper():
    x = jax.random.normal(jax.random.key(1), (16, 3))
    target = jnp.sin(3 * x)
    cost = {}
    for name, regularizer in (("vanilla", None), ("error", ps.ErrorEstimate(1.0, final=0.1))):
        layer = ps.neural.NeuralODE(field(), regularize=regularizer, rtol=1e-7, atol=1e-7, max_steps=64)

        @eqx.filter_jit
        def step(layer, progress):
            def loss(layer):
                out = layer(x, progress=progress)
                return jnp.mean((out.y - target) ** 2) + out.regularization, out

            (_, out), slope = eqx.filter_value_and_grad(loss, has_aux=True)(layer)
            return eqx.apply_updates(layer, jax.tree.map(lambda g: -0.1 * g, slope)), out

        for k in range(60):
            layer, out = step(layer, jnp.asarray(k / 59))
        cost[name] = int(layer(x, train=False).evaluations)
        assert float(out.regularization) > 0 or name == "vanilla"
    assert cost["error"] <= 0.7 * cost["vanilla"]


def test_a_noisy_layer_has_the_moments_of_its_equation():
    layer = ps.neural.NeuralSDE(lambda t, y: -y, lambda t, y: 0.5 * jnp.ones_like(y), rtol=1e-3, atol=1e-3)
    out = eqx.filter_jit(layer)(jnp.ones((5000, 2)), key=jax.random.key(0))
    assert float(out.y.mean()) == pytest.approx(np.exp(-1.0), abs=0.02)
    assert float(out.y.std()) == pytest.approx(np.sqrt(0.125 * (1 - np.exp(-2.0))), rel=0.03)
    assert int(out.evaluations) == 4 * int(out.steps + out.rejected)
    several = [ps.ErrorEstimate(), ps.LocalErrorEstimate(), ps.KineticEnergy()]
    regularized = ps.neural.NeuralSDE(lambda t, y: -y, lambda t, y: 0.5 * y, regularize=several)
    solve = eqx.filter_jit(lambda key: regularized(jnp.ones((4, 2)), key=key).regularization)
    assert float(solve(jax.random.key(0))) > 0
    assert float(solve(jax.random.key(0))) == float(solve(jax.random.key(0))) != float(solve(jax.random.key(1)))


def test_a_latent_ode_reads_irregular_series_and_ignores_what_is_masked():
    inner = ps.neural.NeuralODE(Field(4, 8, jax.random.key(2)))
    model = ps.neural.LatentODE(inner, n_observed=2, n_hidden=4, width=8, key=jax.random.key(3))
    times = jnp.asarray([0.0, 0.1, 0.45, 1.0])
    x = jax.random.normal(jax.random.key(4), (3, 4, 2))
    mask = jnp.ones_like(x).at[:, 2].set(0.0)
    infer = eqx.filter_jit(lambda x: model(x, mask, times, key=jax.random.key(5), train=False))
    out = infer(x)
    assert out.x.shape == (3, 4, 2)
    assert out.kl.shape == (3,)
    other = infer(x.at[:, 2].set(100.0))
    assert np.array_equal(np.asarray(out.x), np.asarray(other.x))
    changed = infer(x.at[:, 1].set(100.0))
    assert not np.allclose(np.asarray(out.x), np.asarray(changed.x))


def slopes(adjoint, tolerance, regularize=None):
    """A loss of the solution and the regularization of a layer, and its derivatives by weights and initial values."""
    options = {"rtol": tolerance, "atol": tolerance, "regularize": regularize, "adjoint": adjoint}
    layer = ps.neural.NeuralODE(field(), t1=6.0, max_steps=128, **options)

    @eqx.filter_jit
    def evaluate(layer, x):
        out = layer(x, jnp.asarray([0.3, 6.0]), key=jax.random.key(3))
        return jnp.sum(out.y**2) + out.regularization

    given, rest = eqx.partition(layer, eqx.is_inexact_array)
    x = jax.random.normal(jax.random.key(1), (4, 3))
    value, found = jax.value_and_grad(lambda g, x: evaluate(eqx.combine(g, rest), x), (0, 1))(given, x)
    return float(value), np.concatenate([np.ravel(part) for part in jax.tree.leaves(found)])


def apart(slope, exact):
    return np.abs(slope - exact).max() / np.abs(exact).max()


@pytest.mark.parametrize("adjoint", ["RecursiveCheckpointAdjoint(checkpoints = 4)", diffrax.DirectAdjoint()])
def test_an_adjoint_of_the_steps_gives_the_derivative_of_a_layer(adjoint):
    regularize = [ps.LocalErrorEstimate(0.3), ps.KineticEnergy(0.1)]
    value, slope = slopes(adjoint, 1e-5, regularize)
    expected, exact = slopes(None, 1e-5, regularize)
    assert value == pytest.approx(expected, rel=1e-12)
    assert apart(slope, exact) < 1e-10


def test_a_continuous_adjoint_of_a_layer_comes_to_the_derivative_of_its_steps():
    far, near = (apart(slopes("BacksolveAdjoint", tol)[1], slopes(None, tol)[1]) for tol in (1e-4, 1e-9))
    assert far < 1e-2
    assert near < 1e-3 * far


def test_a_layer_is_differentiated_forward():
    layer = ps.neural.NeuralODE(lambda t, y: -y, t1=2.0, rtol=1e-9, atol=1e-9, adjoint="ForwardMode")
    value, slope = jax.jvp(lambda x: layer(x).y, (jnp.ones(2),), (jnp.asarray([1.0, -2.0]),))
    assert np.asarray(value) == pytest.approx(np.exp([-2.0, -2.0]), rel=1e-7)
    assert np.asarray(slope) == pytest.approx(np.exp(-2.0) * np.asarray([1.0, -2.0]), rel=1e-7)


def test_a_latent_ode_is_differentiated_by_the_adjoint_of_its_layer():
    times = jnp.asarray([0.0, 0.1, 0.45, 1.0])
    x = jax.random.normal(jax.random.key(4), (3, 4, 2))
    found = []
    for adjoint in (None, "BacksolveAdjoint"):
        inner = ps.neural.NeuralODE(Field(4, 8, jax.random.key(2)), rtol=1e-8, atol=1e-8, max_steps=64, adjoint=adjoint)
        model = ps.neural.LatentODE(inner, n_observed=2, n_hidden=4, width=8, key=jax.random.key(3))

        @eqx.filter_jit
        @eqx.filter_grad
        def slope(model):
            out = model(x, jnp.ones_like(x), times, key=jax.random.key(5))
            return jnp.mean((out.x - x) ** 2) + out.kl.mean()

        found.append(np.concatenate([np.ravel(part) for part in jax.tree.leaves(slope(model))]))
    assert 0 < apart(found[1], found[0]) < 1e-5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"adjoint": "BacksolveAdjont"}, ps.ProblemError, r"did you mean 'BacksolveAdjoint'\?"),
        ({"adjoint": 3}, ps.ProblemError, "must be the name of an adjoint"),
        ({"adjoint": "DirectAdjoint(checkpoints = 3)"}, ps.ProblemError, "DirectAdjoint has no option checkpoints"),
        ({"adjoint": diffrax.ImplicitAdjoint()}, ps.UnsupportedError, "differentiates steady states"),
        (
            {"adjoint": "GaussAdjoint"},
            ps.UnsupportedError,
            "NeuralODE: .* SciMLSensitivity's, which the Lux layers of Julia have: .* DirectAdjoint",
        ),
        (
            {"adjoint": "DirectAdjoint", "regularize": ps.ErrorEstimate()},
            ps.UnsupportedError,
            "does not see them: leave adjoint out, or regularize by LocalErrorEstimate",
        ),
        (
            {"adjoint": "DirectAdjoint", "regularize": [ps.RandomEndTime(), ps.StiffnessEstimate()]},
            ps.UnsupportedError,
            "does not see them: leave adjoint out, or regularize by LocalStiffnessEstimate",
        ),
    ],
)
def test_what_is_no_adjoint_of_a_layer_is_refused_where_it_is_made(options, error, message):
    with pytest.raises(error, match=message):
        ps.neural.NeuralODE(field(), **options)


def test_a_noisy_layer_has_no_choice_of_adjoint():
    with pytest.raises(ps.UnsupportedError, match="is for ordinary differential equations"):
        ps.neural.NeuralSDE(field(), field(), adjoint="BacksolveAdjoint")


def test_a_random_end_time_moves_the_end():
    layer = ps.neural.NeuralODE(lambda t, y: jnp.ones_like(y), regularize=ps.RandomEndTime(0.5))
    solve = eqx.filter_jit(lambda key: layer(jnp.zeros(1), key=key).y[0])
    ends = [float(solve(jax.random.key(k))) for k in range(20)]
    assert 0.5 <= min(ends) < 0.8
    assert 1.2 < max(ends) <= 1.5
    assert float(layer(jnp.zeros(1), train=False).y[0]) == pytest.approx(1.0)


@pytest.mark.parametrize("noisy", [False, True])
def test_what_a_layer_cannot_solve_is_refused_before_it_is_solved(noisy):
    def layer(field, **options):
        if noisy:
            return partial(ps.neural.NeuralSDE(field, lambda t, y: 0 * y, **options), key=jax.random.key(0))
        return ps.neural.NeuralODE(field, **options)

    name = "drift" if noisy else "field"
    with pytest.raises(
        ps.ProblemError, match=rf"{name}\(t, y\) fails for y of shape \(4,\), of states of shape \(2, 4\): "
    ):
        layer(field())(jnp.ones((2, 4)))
    with pytest.raises(ps.ProblemError, match=rf"{name} turns states of shape \(3,\) into \(4,\)"):
        layer(lambda t, y: jnp.append(y, t))(jnp.ones(3))
    with pytest.raises(ps.ProblemError, match=rf"{name} turns states of shape \(1,\) into tuple"):
        layer(lambda t, y: (y, y))(jnp.ones(1))
    with pytest.raises(ps.ProblemError, match=f"{name} returns float64 for states in float32: convert either"):
        layer(field())(jnp.ones(3, jnp.float32))
    with pytest.raises(ps.ProblemError, match=r"states are real, not complex"):
        layer(lambda t, y: y)(jnp.ones(2) * 1j)
    with pytest.raises(ps.ProblemError, match=r"a single number is jnp.array\(\[y0\]\)"):
        layer(lambda t, y: y)(1.0)
    for ts in ([0.5, 0.1], [-0.1, 0.5], [0.5, 1.1]):
        with pytest.raises(ps.ProblemError, match="times must ascend from 0 to 1 at most; they are"):
            eqx.filter_jit(layer(field()))(jnp.ones(3), tuple(ts))
        with pytest.raises(ps.ProblemError, match="times must ascend from 0 to 1 at most; they are"):
            layer(field())(jnp.ones(3), jnp.asarray(ts))
    for ts in ([], 0.5, [[0.5]]):
        with pytest.raises(ps.ProblemError, match=r"times are an array of shape \(n_ts,\), not"):
            layer(field())(jnp.ones(3), jnp.asarray(ts))
    with pytest.raises(ps.ProblemError, match=f"{name} must be callable"):
        layer(3)
    with jax.enable_x64(False):  # 0.7 is larger in single precision: the end is among the times all the same
        assert bool(layer(lambda t, y: -y, t1=0.7)(jnp.ones(1), [0.7]).success)
    assert jax.jit(layer(lambda t, y: 0 * y))(np.array([1, 2])).y.tolist() == [1.0, 2.0]


def test_what_is_not_observed_may_be_not_a_number():
    model = ps.neural.LatentODE(ps.neural.NeuralODE(field()), 2, 3, key=jax.random.key(0))
    x, times = jax.random.normal(jax.random.key(1), (4, 5, 2)), jnp.linspace(0, 1, 5)
    mask = (jax.random.uniform(jax.random.key(2), x.shape) < 0.6) * 1

    def loss(model, x):
        out = model(x, mask, times, key=jax.random.key(3))
        return jnp.sum(out.x**2) + jnp.sum(out.kl)

    value, slope = eqx.filter_value_and_grad(loss)(model, x)
    other, with_gaps = eqx.filter_value_and_grad(loss)(model, jnp.where(mask > 0, x, jnp.nan))
    assert float(value) == float(other)
    for found, wanted in zip(jax.tree.leaves(with_gaps), jax.tree.leaves(slope), strict=True):
        assert np.array_equal(found, wanted)
    with pytest.raises(ps.ProblemError, match=r"x has the shape \(4, 5, 2\), and its mask \(4, 5, 1\)"):
        model(x, mask[..., :1], times, key=jax.random.key(0))
    with pytest.raises(ps.ProblemError, match=r"shape \(batch, n_t, 2\) .* it has \(4, 5, 2\), and times \(4,\)"):
        model(x, mask, times[1:], key=jax.random.key(0))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ps.ProblemError, match="t1 must be after t0"):
        ps.neural.NeuralODE(field(), t0=1.0, t1=0.0)
    with pytest.raises(ps.ProblemError, match="algorithm must be one of Tsit5"):
        ps.neural.NeuralODE(field(), algorithm="Kvaerno5")
    with pytest.raises(ps.ProblemError, match="LocalErrorEstimate samples: pass key="):
        ps.neural.NeuralODE(field(), regularize=ps.LocalErrorEstimate())(jnp.ones(3))
    with pytest.raises(ps.ProblemError, match="regularize must be a regularizer"):
        ps.neural.NeuralODE(field(), regularize="error")
    with pytest.raises(ps.UnsupportedError, match="have no derivatives"):
        ps.neural.NeuralSDE(field(), field(), regularize=ps.TaylorDerivative(2))
    with pytest.raises(ps.ProblemError, match="less than t1 - t0"):
        ps.neural.NeuralODE(field(), regularize=ps.RandomEndTime(1.5))
    with pytest.raises(ps.ProblemError, match=r"no option regularise: .* did you mean regularize"):
        ps.neural.NeuralODE(field(), regularise=None)
    with pytest.raises(ps.ProblemError, match="NeuralSDE has no option diffusive"):
        ps.neural.NeuralSDE(field(), diffusive=field())
    with pytest.raises(ps.ProblemError, match=r"LatentODE has no option widht: .* did you mean width"):
        ps.neural.LatentODE(ps.neural.NeuralODE(field()), 1, 1, widht=4, key=0)
