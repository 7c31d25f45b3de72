"""Training by rules of Optimisers.jl: they do what optax's do, stop and go on, and are refused by name elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import optax
import pytest
import xarray as xr

import pysciml as ps
from pysciml.engines.julia import bridge
from pysciml.engines.julia.optimizers import Rule

x = ps.variables("x")
a = ps.parameters("a")
nn = ps.MLP("nn", inputs=1, outputs=1, hidden=(4,))
TIMES = np.linspace(0.0, 3.0, 31)
DATA = xr.Dataset({"x": ("t", 1 / (1 + 3 * np.exp(-2 * TIMES)))}, coords={"t": TIMES})  # logistic growth
OPTIONS = {"trainable": ["nn", "a"], "segments": 3, "batch_size": 2, "seed": 1, "engine": "julia"}


def make_problem():
    return ps.Problem(ps.System([ps.Eq(ps.D(x), -a * x + nn(x))]), {x: 0.25}, (0, 3), {a: 0.5})


def fit(**options):
    return ps.fit(make_problem(), DATA, **{**OPTIONS, **options})


@pytest.fixture
def jl(julia_engine):
    """``juliacall.Main`` with Optimisers.jl."""
    import juliacall

    if bridge.julia().load_package("Optimisers") is None:
        pytest.skip("Optimisers.jl is not in this Julia environment: Pkg.add it to test its rules")
    juliacall.Main.seval("import Optimisers")
    return juliacall.Main


def decay(count):
    return 0.05 * 0.9**count


ALIKE = {
    "Adam": (lambda jl: {"optimizer": "Optimisers.Adam", "learning_rate": 0.03}, lambda: optax.adam(0.03)),
    "gradient descent": (lambda jl: {"optimizer": "Optimisers.Descent"}, lambda: optax.sgd(1e-2)),
    "a schedule": (
        lambda jl: {"optimizer": "Optimisers.Adam", "learning_rate": decay},
        lambda: optax.adam(decay),
    ),
    "an object": (
        lambda jl: {"optimizer": jl.Optimisers.Momentum(0.01, 0.8)},
        lambda: optax.sgd(0.01, momentum=0.8),
    ),
    "an object with a schedule": (
        lambda jl: {"optimizer": jl.Optimisers.Adam(jl.Float32(1), (0.8, 0.99)), "learning_rate": decay},
        lambda: optax.adam(decay, b1=0.8, b2=0.99),
    ),
    "a chain": (
        lambda jl: {"optimizer": jl.Optimisers.OptimiserChain(jl.Optimisers.ClipGrad(1e-2), jl.Optimisers.Adam(0.03))},
        lambda: optax.chain(optax.clip(1e-2), optax.adam(0.03)),
    ),
}


@pytest.mark.julia
@pytest.mark.parametrize("name", ALIKE)
def test_a_rule_does_what_the_same_optimizer_of_optax_does(name, jl):
    rule, other = ALIKE[name]
    found, expected = fit(epochs=10, **rule(jl)), fit(epochs=10, optimizer=other())
    moved = np.abs(expected.problem.p - make_problem().p).max()
    assert moved > 1e-3
    assert np.abs(found.problem.p - expected.problem.p).max() < 1e-11 * moved


@pytest.mark.julia
def test_a_rule_stops_and_goes_on_bit_for_bit(tmp_path, jl):
    """With numbers of all kinds in its state: gradients added up, whole numbers that count, products of decays."""
    o = jl.Optimisers
    options = {"optimizer": o.OptimiserChain(o.AccumGrad(3), o.RAdam(0.02)), "learning_rate": decay}
    path = tmp_path / "fit.npz"
    whole = fit(epochs=12, **options)
    fit(epochs=5, checkpoint=path, **options)
    further = fit(epochs=12, checkpoint=path, **options)
    assert np.array_equal(further.problem.p, whole.problem.p)
    assert np.array_equal(further.history.loss, whole.history.loss)
    with np.load(path, allow_pickle=False) as file:  # data, and nothing else
        numbers, count = file["optimizer0"], file["optimizer1"]
    assert numbers.dtype == np.float64
    assert count == 24  # two batches in each epoch
    changed = o.OptimiserChain(o.AccumGrad(3), o.RAdam(0.02, (0.9, 0.99)))
    with pytest.raises(ps.ProblemError, match="checkpoint of another fit"):
        fit(epochs=12, checkpoint=path, **{**options, "optimizer": changed})


@pytest.mark.julia
def test_the_engine_of_a_rule_is_julia(jl):
    result = fit(epochs=1, engine="auto", optimizer=jl.Optimisers.Adam(0.01))
    assert result.options["engine"] == "julia"


@pytest.mark.julia
def test_what_is_no_rule_is_refused_by_name(jl):
    o = jl.Optimisers
    for options, message in (
        ({"optimizer": "Optimisers.Adamm"}, r"did you mean 'Optimisers.Adam'\?"),
        ({"optimizer": "Optimisers.AdaDelta"}, r"by name Optimisers.jl has .*AdaBelief.*jl.Optimisers.AdaDelta\(\)"),
        ({"optimizer": jl.sin}, "or a rule of Optimisers.jl such as"),
        ({"optimizer": o.Adam(1e-3), "learning_rate": 1e-3}, "learning_rate is part of an optimizer"),
        ({"optimizer": o.AdaDelta(), "learning_rate": decay}, "AdaDelta.* has none for a schedule to set"),
    ):
        with pytest.raises(ps.ProblemError, match=message):
            fit(epochs=1, **options)
    with pytest.raises(ps.UnsupportedError, match=r"rule of Optimisers.jl: give engine='julia'"):
        fit(engine="jax", optimizer=o.Adam(1e-3))


def test_rules_are_refused_where_julia_does_not_train():
    with pytest.raises(ps.UnsupportedError, match=r"optimizer='Optimisers.Adam' .* give engine='julia'"):
        fit(engine="jax", optimizer="Optimisers.Adam")


def test_without_optimisers_the_message_has_the_command(monkeypatch):
    monkeypatch.setattr(bridge, "julia", lambda: SimpleNamespace(load_package=lambda name: None))
    with pytest.raises(ps.EngineUnavailableError, match=r"Optimisers is not installed: run `.*Pkg.add\(.Optimisers.\)"):
        Rule("Optimisers.Adam", 1e-3)
