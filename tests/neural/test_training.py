"""fit with networks: it learns, stops, goes on after a kill bit for bit, and refuses what makes no sense."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import pysciml as ps
from pysciml.fitting import FitWarning

SETUP = """
import numpy as np, pysciml as ps, xarray as xr
x, = ps.variables("x,")
a, = ps.parameters("a,")
nn = ps.MLP("nn", inputs=1, outputs=1, hidden=(4,))
system = ps.System([ps.Eq(ps.D(x), -a * x + nn(x))], observed={"double": 2 * x})
times = np.linspace(0.0, 3.0, 31)
data = xr.Dataset({"x": ("t", 1 / (1 + 3 * np.exp(-2 * times)))}, coords={"t": times})  # logistic growth
problem = ps.Problem(system, {x: 0.25}, (0, 3), {a: 0.5})
options = dict(trainable=["nn", "a"], regularize=ps.LocalErrorEstimate(0.01), segments=3, batch_size=2, seed=1)
"""
scope: dict = {}
exec(SETUP, scope)
problem, data, options, nn = (scope[name] for name in ("problem", "data", "options", "nn"))


def weights_of(result):
    return np.concatenate([result.problem.p, result.problem.u0])


def test_it_learns_an_unknown_right_hand_side():
    result = ps.fit(problem, data, ["nn"], epochs=400, learning_rate=3e-2, segments=1)
    assert result.success
    assert set(result.history) == {"loss", "regularization", "n_rhs", "seconds"}
    assert result.history.sizes == {"epoch": 400}
    assert result.loss < 2e-3 * float(result.history.loss[0])
    error = result.solution.sel(t=data.t, method="nearest").x - data.x
    assert float(abs(error).max()) < 0.07
    assert result.problem.p[0] == 0.5  # not trainable
    assert float((result.solution.double - 2 * result.solution.x).max()) == 0.0


ENGINES = [
    ("jax", "adam", None),
    ("jax", "adam", "RecursiveCheckpointAdjoint"),
    pytest.param("julia", "adam", None, marks=pytest.mark.julia),
    pytest.param("julia", "Optimisers.AdaBelief", None, marks=pytest.mark.julia),
    pytest.param("julia", "adam", "InterpolatingAdjoint", marks=pytest.mark.julia),
]


@pytest.mark.parametrize(("engine", "optimizer", "adjoint"), ENGINES)
def test_a_killed_fit_goes_on_bit_for_bit(tmp_path, engine, optimizer, adjoint, request):
    if engine == "julia":
        request.getfixturevalue("julia_engine" if adjoint is None else "sensitivity")
    options = {**scope["options"], "engine": engine, "optimizer": optimizer, "adjoint": adjoint}
    path = tmp_path / "fit.npz"
    whole = ps.fit(problem, data, epochs=40, checkpoint=tmp_path / "whole.npz", **options)
    code = SETUP + (
        f"import sys; ps.fit(problem, data, epochs=100_000, checkpoint={str(path)!r}, checkpoint_every=3, "
        f"engine={engine!r}, optimizer={optimizer!r}, adjoint={adjoint!r}, **options)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2])
    try:
        while True:
            assert child.poll() is None
            if path.exists() and _epochs(path) >= 6:
                break
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    reached = _epochs(path)
    assert reached % 3 == 0
    further = ps.fit(problem, data, epochs=max(40, reached + 1), checkpoint=path, **options)
    if reached >= 40:  # the child was fast: the one never killed goes as far
        whole = ps.fit(problem, data, epochs=reached + 1, checkpoint=tmp_path / "whole.npz", **options)
    assert np.array_equal(weights_of(further), weights_of(whole))
    assert np.array_equal(further.history.loss, whole.history.loss)
    with pytest.raises(ps.ProblemError, match="checkpoint of another fit"):
        ps.fit(problem, data, epochs=40, checkpoint=path, **{**options, "seed": 2})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ps.ProblemError, match="is not a checkpoint"):
        ps.fit(problem, data, epochs=40, checkpoint=path, **options)


def _epochs(path):
    with np.load(path) as file:
        return int(file["numbers"][0])


def test_the_loss_has_the_derivative_of_finite_differences():
    import jax

    from pysciml.engines.jax.compiling import double_precision
    from pysciml.fitting.inputs import read_data
    from pysciml.fitting.objective import Layout, Objective
    from pysciml.fitting.windows import cut, lay_out

    observations = read_data(problem, data.assign(double=2.1 * data.x), None, None)
    windows = lay_out(observations, cut(observations, 0.0, 2))
    layout = Layout(np.arange(problem.p.size), np.array([0]), np.arange(problem.p.size + 1) == 0, 1)
    regularizers = (ps.ErrorEstimate(0.5, through_steps=True), ps.KineticEnergy(0.1), ps.StiffnessEstimate(0.1))
    objective = Objective(
        problem.system.model, problem.u0, problem.p, layout, regularizers, "BS3", 1e-3, 1e-4, 1.0, np.ones(1)
    )
    theta = np.concatenate([[np.log(0.5)], problem.p[1:], problem.u0, [0.6]])
    args = (np.arange(2), np.array([r.weight for r in regularizers]), jax.random.key(0))
    with double_precision():
        loss = jax.jit(lambda z: objective.make(windows, 1, 64, train=True)(z, *args)[0])
        slope = np.asarray(jax.grad(loss)(theta))
        for k in (0, 1, 5, 13, theta.size - 2, theta.size - 1):
            step = 1e-6 * (np.arange(theta.size) == k)
            found = (loss(theta + step) - loss(theta - step)) / 2e-6
            assert slope[k] == pytest.approx(float(found), rel=1e-5, abs=1e-8)


def test_validation_holds_out_the_end_and_stops_early(tmp_path):
    noisy = data + 0.05 * np.random.default_rng(0).normal(size=31)
    result = ps.fit(problem, noisy, ["nn"], epochs=400, learning_rate=0.1, segments=1, validation=0.3, patience=5)
    assert result.success
    assert "stopped early" in result.message
    assert result.history.sizes["epoch"] < 400
    best = int(np.argmin(result.history.validation.values))
    assert best == result.history.sizes["epoch"] - 6
    tail = noisy.x[22:]
    solved = ps.solve(result.problem, engine="jax", saveat=noisy.t.values).x[22:]
    assert float(((solved - tail) ** 2).mean()) == pytest.approx(float(result.history.validation[best]), rel=1e-3)


def test_a_training_that_blows_up_keeps_the_last_good_state():
    with pytest.warns(FitWarning, match="the training stopped"):
        result = ps.fit(problem, data, ["nn"], epochs=50, optimizer="sgd", learning_rate=1e6, segments=1, max_steps=64)
    assert not result.success
    assert "last good state" in result.message
    assert np.isfinite(result.problem.p).all()
    assert 1 <= result.history.sizes["epoch"] < 50


def test_ctrl_c_keeps_what_there_is(monkeypatch):
    from pysciml.fitting import training

    original = training._Training._epoch

    def interrupted(self, state, key, begin):
        if state.epoch == 3:
            raise KeyboardInterrupt
        return original(self, state, key, begin)

    monkeypatch.setattr(training._Training, "_epoch", interrupted)
    result = ps.fit(problem, data, epochs=10, **options)
    assert result.message == "interrupted by the user after 3 epochs"
    assert result.history.sizes["epoch"] == 3


def test_numbers_alone_can_be_trained_and_time_may_run_backward():
    x, k = ps.variables("x"), ps.parameters("k")
    decay = ps.Problem(ps.System([ps.Eq(ps.D(x), -k * x)]), {x: np.exp(-2.0)}, (2, 0), {k: 1.5})
    times = np.linspace(0, 2, 9)
    given = xr.Dataset({"x": ("t", np.exp(-times))}, coords={"t": times})
    result = ps.fit(decay, given, [k], optimizer="adam", learning_rate=0.05, epochs=150, log=[k])
    assert result.problem.p[0] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adamm"}, r"did you mean 'adam'\?"),
        ({"optimizer": 3}, "optimizer must be a name, an optax optimizer or a rule of Optimisers.jl"),
        ({"optimizer": "least_squares"}, "does not go with the network nn"),
        ({"trainable": ["nnn"]}, r"did you mean nn\?"),
        ({"trainable": ["nn", "nn"]}, "trainable has nn twice"),
        ({"trainable": []}, "trainable is empty"),
        ({"epochs": 0}, "epochs must be an integer"),
        ({"learning_rate": -1}, "learning_rate must be positive"),
        ({"segments": 40}, "30 times after the start, too few for segments=40"),
        ({"segments": (6, 4)}, "each stage must join windows"),
        ({"batch_size": 2}, "needs segments=2 or more"),
        ({"validation": 1.5}, "validation must be a share"),
        ({"patience": 3}, "patience needs validation"),
        ({"checkpoint": "nowhere/fit.npz"}, "the folder of nowhere"),
        ({"regularize": "error"}, "regularize must be a regularizer"),
        ({"regularize": ps.RandomEndTime(1.0)}, "less than half the time between observations"),
        ({"bounds": {"a": (0, 1)}}, "bounds= is for least squares"),
    ],
)
def test_bad_options_are_refused_by_name(change, message):
    given = {"trainable": ["nn"], "epochs": 2, **change}
    with pytest.raises(ps.ProblemError, match=message):
        ps.fit(problem, data, **given)


def test_what_training_cannot_do_is_said():
    with pytest.raises(ps.UnsupportedError, match="explicit methods"):
        ps.fit(problem, data, ["nn"], alg="Kvaerno5")
    with pytest.raises(ps.UnsupportedError, match="engine='jax'"):
        ps.fit(problem, data, ["nn"], engine="native")
    x, w = ps.variables("x"), ps.brownian("w")
    noisy = ps.Problem(ps.System([ps.Eq(ps.D(x), nn(x) + w)]), {x: 0.25}, (0, 3))
    with pytest.raises(ps.ProblemError, match="paths, with the dimension trajectory, or their moments"):
        ps.fit(noisy, data, ["nn"])
