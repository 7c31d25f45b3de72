"""The layers of the experiments on Julia: what JAX's give, with the derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pysciml as ps

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
jnp = jax.numpy
pytestmark = pytest.mark.julia

TIMES = np.linspace(0.0, 1.0, 4)


@pytest.fixture(autouse=True)
def double() -> Any:
    # for all threads: JAX calls Julia from one of its own
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def slope(layer: Any, y0: Any, ts: Any) -> Any:
    """What the layer gives, the loss made of it, and derivatives by weights, in order of size, and by the states."""

    def loss(given: Any) -> Any:
        out = given[0](given[1], ts, key=jax.random.key(2))
        return jnp.sum(jnp.sin(out.y)) + out.regularization, out

    (value, out), (by_layer, by_y0) = eqx.filter_jit(eqx.filter_value_and_grad(loss, has_aux=True))((layer, y0))
    leaves = jax.tree.leaves(eqx.filter(by_layer, eqx.is_inexact_array))
    return out, float(value), np.sort(np.concatenate([np.ravel(leaf) for leaf in leaves])), np.asarray(by_y0)


@pytest.mark.parametrize("ts", [None, TIMES], ids=["end", "times"])
@pytest.mark.parametrize(
    "regularize",
    [
        None,
        ps.ErrorEstimate(0.3),
        ps.StiffnessEstimate(0.1, aggregate="max"),
        ps.TaylorDerivative(3, weight=0.1),
        ps.KineticEnergy(0.2),
        [ps.ErrorEstimate(0.3), ps.StiffnessEstimate(0.1)],
    ],
    ids=str,
)
def test_an_ordinary_layer_is_what_it_is_in_jax(regularize: Any, ts: Any) -> None:
    from benchmarks.experiments import Dynamics
    from benchmarks.on_julia import on_julia

    key = jax.random.key(1)
    layer = ps.neural.NeuralODE(Dynamics(5, 7, key), regularize=regularize, rtol=1e-6, atol=1e-6, max_steps=64)
    y0 = jax.random.normal(key, (6, 5))
    (there, value, by_weights, by_y0), (here, *ours) = slope(layer, y0, ts), slope(on_julia(layer), y0, ts)
    for name in ("y", "regularization", "evaluations", "steps", "rejected", "success"):
        np.testing.assert_allclose(getattr(here, name), getattr(there, name), rtol=1e-10, atol=1e-13, err_msg=name)
    np.testing.assert_allclose(ours[0], value, rtol=1e-11)
    np.testing.assert_allclose(ours[1], by_weights, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(ours[2], by_y0, rtol=1e-9, atol=1e-10)


def test_a_local_regularizer_has_the_derivative_it_has_in_jax() -> None:
    from benchmarks.experiments import Dynamics
    from benchmarks.on_julia import on_julia

    key = jax.random.key(1)
    y0 = jax.random.normal(key, (6, 5))

    def mean_slope(move: Any) -> Any:
        found = []
        for regularize in (ps.LocalErrorEstimate(1.0), None):
            layer = move(ps.neural.NeuralODE(Dynamics(5, 7, key), regularize=regularize, rtol=1e-4, atol=1e-4))

            def loss(given: Any, k: Any) -> Any:
                out = given(y0, key=k)
                return jnp.sum(jnp.sin(out.y)) + out.regularization

            gradient = eqx.filter_jit(eqx.filter_grad(loss))
            slopes = [gradient(layer, jax.random.key(number)) for number in range(300 if regularize else 1)]
            rows = [
                np.sort(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(eqx.filter(s, eqx.is_array))]))
                for s in slopes
            ]
            found.append(np.array(rows))
        return found[0] - found[1]

    ours, theirs = mean_slope(on_julia), mean_slope(lambda layer: layer)
    spread = np.sqrt(ours.var(axis=0) / len(ours) + theirs.var(axis=0) / len(theirs))
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) <= 5 * spread + 1e-12).all()
    assert np.abs(ours.mean(axis=0)).max() > 0


def test_a_stochastic_layer_has_the_law_it_has_in_jax() -> None:
    from benchmarks.experiments import Cubed, Still
    from benchmarks.on_julia import on_julia

    one, two = jax.random.split(jax.random.key(1))
    drift = Cubed(eqx.nn.MLP(2, 2, 6, 1, activation=jnp.tanh, key=one))
    layer = ps.neural.NeuralSDE(drift, Still(eqx.nn.Linear(2, 2, key=two)), rtol=1e-2, atol=1e-2)
    y0 = jnp.tile(jnp.asarray([0.5, -0.3]), (4000, 1))
    ends = [np.asarray(move(layer)(y0, key=jax.random.key(3)).y) for move in (on_julia, lambda layer: layer)]
    for power in (1, 2, 3):
        means = [(end**power).mean(axis=0) for end in ends]
        error = np.sqrt(sum((end**power).var(axis=0) for end in ends) / len(y0))
        assert (np.abs(means[0] - means[1]) < 4 * error).all()
