"""Training on Julia with all arrays on a device: as on the CPU. On an NVIDIA GPU, and in the same kernels on a CPU.

Where Julia has JLArrays.jl its arrays are used as well, which refuse what a GPU's would be slow at or cannot do.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps
from pysciml.engines.jax.compiling import double_precision
from pysciml.fitting.inputs import read_data
from pysciml.fitting.moments import read_moments
from pysciml.fitting.objective import Layout
from pysciml.fitting.windows import cut, lay_out
from tests.engines.test_julia_device_fields import use_backend

x, y = ps.variables("x y")
a, c = ps.parameters("a c")
nn = ps.MLP("nn", inputs=3, outputs=2, hidden=(6, 4), seed=3)
TIMES = np.linspace(0.0, 3.0, 13)

REGULARIZERS = {
    "none": (),
    "error and stiffness": (ps.ErrorEstimate(0.5, aggregate="max"), ps.StiffnessEstimate(0.2, aggregate="mean")),
    "local": (ps.LocalErrorEstimate(2.5), ps.LocalStiffnessEstimate(0.1, sampling="biased")),
    "kinetic and end": (ps.KineticEnergy(0.1), ps.RandomEndTime(0.04)),
    "through steps": (ps.ErrorEstimate(0.5, through_steps=True), ps.KineticEnergy(0.1)),
}

WITH_NOISE = {
    "none": (),
    "error and stiffness": (ps.ErrorEstimate(0.5), ps.StiffnessEstimate(0.2, aggregate="max")),
    "local": (ps.LocalErrorEstimate(2.5), ps.LocalStiffnessEstimate(0.1, sampling="biased"), ps.KineticEnergy(0.2)),
}

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("julia_engine")]


@pytest.fixture
def gpu():
    from pysciml.engines.julia import bridge, environment

    if reason := environment.lacks("CUDA", "cuda") or str(bridge.julia().load_training_device("cuda")):
        pytest.skip(reason)
    return "cuda"


@pytest.fixture(params=["KernelAbstractions", "JLArrays", "cuda"])
def device(request):
    """A GPU, or kernels on a CPU under a name of their own."""
    return request.getfixturevalue("gpu") if request.param == "cuda" else use_backend(request.param)


def make_problem():
    u, v = nn(x, y, sp.sin(ps.t))
    equations = [ps.Eq(ps.D(x), a * x - x * y + u), ps.Eq(ps.D(y), -c * y + x * y + v * sp.cos(ps.t))]
    system = ps.System(equations, observed={"total": x + a * y + v})
    return ps.Problem(system, {x: 1.0, y: 0.7}, (0, 3), {a: 1.1, c: 0.8})


def make_data():
    rng = np.random.default_rng(0)
    rows = {name: ("t", 1 + 0.5 * np.sin(TIMES + k) + 0.1 * rng.normal(size=TIMES.size)) for k, name in enumerate("xy")}
    data = xr.Dataset(rows, coords={"t": TIMES})
    data["total"] = data.x + data.y
    return data


def evaluate(regularizers, device, precision):
    """Loss, evaluations and derivative for two of four windows."""
    from pysciml.fitting.on_julia import JuliaObjective

    problem = make_problem()
    observations = read_data(problem, make_data(), None, None)
    windows = lay_out(observations, cut(observations, 0.0, 4))
    size = problem.p.size
    layout = Layout(np.arange(size), np.array([0]), np.arange(size + 1) < 1, 3)
    starts = 1 + 0.3 * np.random.default_rng(1).normal(size=6)
    theta = np.concatenate([np.log(problem.p[:1]), problem.p[1:], problem.u0[:1], starts])
    objective = JuliaObjective(
        problem.system.model, problem.u0, problem.p, layout, regularizers, "Tsit5", 1e-4, 1e-5, 0.7,
        np.array([0.5, 2.0]), None, device, precision,
    )  # fmt: skip
    with double_precision():
        coefficients = np.array([r.weight for r in regularizers])
        run = objective.make(windows, 1, 256, train=True)
        total, value, slope = run(theta, np.array([1, 3]), coefficients, jax.random.key(5))
    assert value.success
    return total, value.n_rhs, slope


def make_stochastic():
    w, z = ps.brownian("w z")
    u, v = nn(x, y, sp.sin(ps.t))
    equations = [ps.Eq(ps.D(x), -a * x + u + 0.2 * z), ps.Eq(ps.D(y), x - y + (0.3 + c * v**2) * w)]
    system = ps.System(equations, observed={"total": x + a * y})
    return ps.Problem(system, {x: 1.0, y: 0.5}, (0, 2), {a: 1.1, c: 0.4})


def make_moments():
    times = np.linspace(0.0, 2.0, 5)
    both = np.stack([np.exp(-times), 0.1 + 0.05 * times])
    data = xr.Dataset(coords={"moment": ["mean", "variance"], "t": times})
    for name in ("y", "total"):
        data[name] = (("moment", "t"), both)
    return data


def evaluate_paths(regularizers, device, precision):
    """Loss, evaluations and derivative of a stochastic problem, for 20 paths; noise is drawn more than once."""
    from pysciml.fitting.moments_on_julia import JuliaMomentObjective

    problem = make_stochastic()
    observations = read_moments(problem, make_moments(), None, None)
    windows = lay_out(observations, cut(observations, 0.0, 1))
    size = problem.p.size
    layout = Layout(np.arange(size), np.array([1]), np.arange(size + 1) < 2, 0)
    theta = np.concatenate([np.log(problem.p[:2]), problem.p[2:], problem.u0[1:]])
    objective = JuliaMomentObjective(
        problem.system.model, problem.u0, problem.p, layout, regularizers, 3e-4, 3e-4, 20, device, precision
    )
    with double_precision():
        coefficients = np.array([r.weight for r in regularizers])
        run = objective.make(windows, 1, 512, train=True)
        total, value, slope = run(theta, np.zeros(1, int), coefficients, jax.random.key(2))
    assert value.success
    assert value.n_rhs > 4 * 64
    return total, value.n_rhs, slope


@pytest.mark.parametrize("name", REGULARIZERS)
def test_loss_evaluations_and_derivative_are_those_of_the_cpu(device, name):
    total, n_rhs, slope = evaluate(REGULARIZERS[name], "cpu", "float64")
    found, count, other = evaluate(REGULARIZERS[name], device, "float64")
    assert count == n_rhs
    assert found == pytest.approx(total, rel=1e-9)
    assert np.abs(other - slope).max() < 1e-8 * np.abs(slope).max()


def test_in_single_precision_the_loss_is_so_to_its_digits(device):
    total, _, slope = evaluate((), "cpu", "float64")
    found, _, other = evaluate((), device, "float32")
    assert 0 < abs(found - total) < 1e-4 * total
    assert np.abs(other - slope).max() < 1e-3 * np.abs(slope).max()


@pytest.mark.parametrize("name", WITH_NOISE)
def test_of_a_stochastic_problem_they_are_those_of_the_cpu_too(device, name):
    total, n_rhs, slope = evaluate_paths(WITH_NOISE[name], "cpu", "float64")
    found, count, other = evaluate_paths(WITH_NOISE[name], device, "float64")
    assert count == n_rhs
    assert found == pytest.approx(total, rel=1e-9)
    assert np.abs(other - slope).max() < 1e-8 * np.abs(slope).max()


def test_paths_in_single_precision_are_driven_by_the_same_noise(device):
    total, _, slope = evaluate_paths((), "cpu", "float64")
    found, _, other = evaluate_paths((), device, "float32")
    assert 0 < abs(found - total) < 1e-3 * total
    assert np.abs(other - slope).max() < 1e-2 * np.abs(slope).max()


def test_a_stochastic_fit_on_a_gpu_goes_the_way_of_that_on_the_cpu(gpu):
    options = {"trainable": ["nn", a], "epochs": 8, "trajectories": 50, "engine": "julia"}
    here, there = (ps.fit(make_stochastic(), make_moments(), device=place, **options) for place in ("cpu", gpu))
    assert there.problem.p == pytest.approx(here.problem.p, abs=1e-8)
    assert np.array_equal(there.history.n_rhs, here.history.n_rhs)


def test_a_fit_on_a_gpu_goes_the_way_of_that_on_the_cpu(gpu):
    options = {"trainable": ["nn", a, x], "log": [a], "segments": (4, 2), "epochs": 8, "seed": 4, "engine": "julia"}
    here, there = (ps.fit(make_problem(), make_data(), device=place, **options) for place in ("cpu", gpu))
    assert there.problem.p == pytest.approx(here.problem.p, abs=1e-8)
    assert np.array_equal(there.history.n_rhs, here.history.n_rhs)
    single = ps.fit(make_problem(), make_data(), device=gpu, precision="float32", rtol=1e-4, **options)
    assert single.history.loss[-1] < single.history.loss[0]
