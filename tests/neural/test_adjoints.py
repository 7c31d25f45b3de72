"""Adjoints of diffrax and SciMLSensitivity in fits: the derivatives of the steps, as far as each can give them."""

from __future__ import annotations

import inspect
import sys
from functools import lru_cache

import diffrax
import jax
import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps
from pysciml.engines.jax.compiling import double_precision
from pysciml.fitting.inputs import read_data
from pysciml.fitting.objective import Layout, Objective, value_and_slope
from pysciml.fitting.windows import cut, lay_out
from pysciml.neural import adjoint_option as adjoints

x, y = ps.variables("x y")
a, c = ps.parameters("a c")
nn = ps.MLP("nn", inputs=3, outputs=2, hidden=(4,), seed=3)
TIMES = np.linspace(0.0, 3.0, 13)

JULIA = sorted(adjoints.SENSITIVITY)

REGULARIZERS = {
    "none": (),
    "local, unbiased": (ps.LocalErrorEstimate(2.5), ps.LocalStiffnessEstimate(0.1), ps.RandomEndTime(0.04)),
    "local, biased": (
        ps.LocalErrorEstimate(2.5, sampling="biased"),
        ps.LocalStiffnessEstimate(0.1, sampling="biased"),
        ps.KineticEnergy(0.1),
    ),
    "Taylor and Jacobian": (ps.TaylorDerivative(3, 0.02), ps.JacobianNorm(0.1)),
}


def make_problem():
    u, v = nn(x, y, ps.t)
    equations = [ps.Eq(ps.D(x), a * x - x * y + u), ps.Eq(ps.D(y), -c * y + x * y + v)]
    system = ps.System(equations, observed={"total": x + a * y + v})
    return ps.Problem(system, {x: 1.0, y: 0.7}, (0, 3), {a: 1.1, c: 0.8})


def make_data():
    rng = np.random.default_rng(0)
    rows = {name: ("t", 1 + 0.5 * np.sin(TIMES + k) + 0.1 * rng.normal(size=TIMES.size)) for k, name in enumerate("xy")}
    data = xr.Dataset(rows, coords={"t": TIMES})
    data["total"] = data.x + data.y
    return data


def evaluate(adjoint, name, tolerance, engine="jax", algorithm="BS3", steps=64):
    """The loss of two of four windows, what it reports, its derivative, the loss as a function, and the point."""
    problem, regularizers = make_problem(), REGULARIZERS[name]
    observations = read_data(problem, make_data(), None, None)
    windows = lay_out(observations, cut(observations, 0.0, 4))
    size = problem.p.size
    layout = Layout(np.arange(size), np.array([0]), np.arange(size + 1) < 1, 3)
    rng = np.random.default_rng(1)
    theta = np.concatenate([np.log(problem.p[:1]), problem.p[1:], problem.u0[:1], 1 + 0.3 * rng.normal(size=6)])
    model, spread = problem.system.model, np.array([0.5, 2.0])
    args = model, problem.u0, problem.p, layout, regularizers, algorithm, tolerance, tolerance, 0.7, spread
    rest = np.array([1, 3]), np.array([r.weight for r in regularizers]), jax.random.key(5)
    chosen = adjoints.read_adjoint(adjoint, engine, regularizers, stochastic=False)
    value = None if chosen is None else chosen.value
    with double_precision():
        if engine == "julia":
            from pysciml.fitting.on_julia import JuliaObjective

            loss = JuliaObjective(*args, value).make(windows, 1, 10_000, train=True)
            total, told, slope = loss(theta, *rest)
            return total, told, slope, lambda z: loss(z, *rest)[0], theta
        loss = Objective(*args, value).make(windows, 1, steps, train=True)
        differentiated = jax.jit(value_and_slope(loss, chosen is not None and chosen.forward))
        (total, told), slope = differentiated(theta, *rest)
        return float(total), jax.tree.map(np.asarray, told), np.asarray(slope), None, theta


@lru_cache
def by_steps(name, tolerance, engine="jax", algorithm="BS3", steps=64):
    """As `evaluate`, without an adjoint."""
    return evaluate(None, name, tolerance, engine, algorithm, steps)


def distance(slope, exact):
    return np.abs(slope - exact).max() / np.abs(exact).max()


def test_every_adjoint_over_time_of_diffrax_has_its_name():
    found = {
        name
        for name, value in vars(diffrax).items()
        if inspect.isclass(value) and issubclass(value, diffrax.AbstractAdjoint)
    }
    assert found == {*adjoints.DIFFRAX, "AbstractAdjoint", "ImplicitAdjoint"}


@pytest.mark.parametrize(
    ("adjoint", "name"),
    [
        ("RecursiveCheckpointAdjoint(checkpoints = 4)", "none"),
        ("RecursiveCheckpointAdjoint", "local, unbiased"),
        ("RecursiveCheckpointAdjoint", "local, biased"),
        ("RecursiveCheckpointAdjoint", "Taylor and Jacobian"),
        ("DirectAdjoint", "local, unbiased"),
        ("ForwardMode", "local, biased"),
    ],
)
def test_an_adjoint_of_the_steps_gives_their_derivative(adjoint, name):
    """diffrax takes the steps that are taken without it; rounding is all that differs."""
    total, told, slope, *_ = evaluate(adjoint, name, 1e-5)
    expected, other, exact, *_ = by_steps(name, 1e-5)
    assert told.success
    assert told.n_rhs == other.n_rhs
    assert total == pytest.approx(expected, rel=1e-12)
    assert told.regularization == pytest.approx(other.regularization, rel=1e-10, abs=1e-15)
    assert distance(slope, exact) < 1e-10


def test_a_continuous_adjoint_on_jax_comes_to_the_derivative_of_the_steps():
    """It solves another equation to the same tolerance: what is between both goes to zero with it."""
    far, near = (
        distance(
            evaluate("BacksolveAdjoint", "local, biased", tolerance, algorithm="Tsit5")[2],
            by_steps("local, biased", tolerance, algorithm="Tsit5")[2],
        )
        for tolerance in (1e-4, 1e-8)
    )
    assert far < 1e-2
    assert near < 1e-3 * far


@pytest.mark.parametrize("adjoint", ["RecursiveCheckpointAdjoint", diffrax.BacksolveAdjoint()])
def test_a_fit_goes_down_the_same_curve(adjoint):
    options = {"trainable": ["nn", a, x], "log": [a], "segments": (4, 2), "seed": 4, "epochs": 6, "rtol": 1e-8}
    options |= {"regularize": REGULARIZERS["local, unbiased"], "learning_rate": 2e-2, "atol": 1e-8}
    plain, other = (ps.fit(make_problem(), make_data(), adjoint=way, **options) for way in (None, adjoint))
    assert other.history.loss.values == pytest.approx(plain.history.loss.values, rel=1e-6)
    assert other.history.loss[-1] < other.history.loss[0]
    assert other.problem.p == pytest.approx(plain.problem.p, abs=1e-5)
    assert np.array_equal(other.history.n_rhs, plain.history.n_rhs)


@pytest.mark.parametrize(
    ("adjoint", "engine", "error", "message"),
    [
        ("RecursiveCheckpointAdjont", "auto", ps.ProblemError, r"did you mean 'RecursiveCheckpointAdjoint'\?"),
        ("GausAdjoint", "julia", ps.ProblemError, r"did you mean 'GaussAdjoint'\?"),
        (
            "DirectAdjoint(checkpoints = 3)",
            "jax",
            ps.ProblemError,
            "DirectAdjoint has no option checkpoints",
        ),
        ("RecursiveCheckpointAdjoint(checkpoints = 0)", "jax", ps.ProblemError, "must be a positive integer, not 0"),
        ("RecursiveCheckpointAdjoint(steps = 3)", "jax", ps.ProblemError, "no option steps: it has checkpoints"),
        ("BacksolveAdjoint(checkpointing = no)", "julia", ps.ProblemError, "must be true or false, not no"),
        ("Backsolve Adjoint", "jax", ps.ProblemError, "does not name one"),
        (3, "jax", ps.ProblemError, "must be the name of an adjoint, .* not 3"),
        (diffrax.DirectAdjoint, "jax", ps.ProblemError, "must be the name of an adjoint"),
        ("GaussAdjoint", "jax", ps.UnsupportedError, "is SciMLSensitivity's: give engine='julia', or .* DirectAdjoint"),
        ("ForwardMode", "julia", ps.UnsupportedError, "is diffrax's: give engine='jax', or .* GaussAdjoint"),
        (diffrax.DirectAdjoint(), "julia", ps.UnsupportedError, "engine='julia' trains on Julia: name one of"),
        (diffrax.ImplicitAdjoint(), "jax", ps.UnsupportedError, "differentiates steady states"),
    ],
)
def test_what_is_no_adjoint_is_said_before_anything_is_computed(adjoint, engine, error, message):
    with pytest.raises(error, match=message):
        ps.fit(make_problem(), make_data(), ["nn"], adjoint=adjoint, engine=engine)


@pytest.mark.parametrize(("adjoint", "engine"), [("DirectAdjoint", "jax"), ("GaussAdjoint", "julia")])
@pytest.mark.parametrize("regularizer", [ps.ErrorEstimate(0.1), ps.StiffnessEstimate(0.1)])
def test_estimates_of_all_steps_need_the_derivative_of_the_steps(adjoint, engine, regularizer):
    instead = f"does not see them: leave adjoint out, or regularize by Local{type(regularizer).__name__}"
    with pytest.raises(ps.UnsupportedError, match=instead):
        ps.fit(make_problem(), make_data(), ["nn"], adjoint=adjoint, engine=engine, regularize=regularizer)


def test_other_problems_have_no_choice_of_adjoint():
    w = ps.brownian("w")
    noisy = ps.Problem(ps.System([ps.Eq(ps.D(x), -a * x + w)]), {x: 1.0}, (0, 1), {a: 1.0})
    with pytest.raises(ps.UnsupportedError, match="is for ordinary differential equations"):
        ps.fit(noisy, make_data(), [a], adjoint="DirectAdjoint", optimizer="adam")
    with pytest.raises(ps.ProblemError, match="does not go with adjoint="):
        ps.fit(make_problem(), make_data(), [a], adjoint="DirectAdjoint", optimizer="least_squares")
    with pytest.raises(ps.ProblemError, match=r"no option sensealg: .*; did you mean adjoint\?"):
        ps.fit(make_problem(), make_data(), [a], sensealg="GaussAdjoint")


def test_what_was_begun_with_one_adjoint_does_not_go_on_with_another(tmp_path):
    options = {"trainable": ["nn"], "epochs": 1, "segments": 4, "checkpoint": tmp_path / "fit.npz"}
    ps.fit(make_problem(), make_data(), **options)
    with pytest.raises(ps.ProblemError, match="checkpoint of another fit"):
        ps.fit(make_problem(), make_data(), adjoint="BacksolveAdjoint", engine="jax", **options)


def test_an_adjoint_of_one_engine_chooses_it():
    assert adjoints.engine_of("GaussAdjoint(checkpointing = true)") == "julia"
    assert adjoints.engine_of("ForwardMode") == adjoints.engine_of(diffrax.DirectAdjoint()) == "jax"
    assert adjoints.engine_of("BacksolveAdjoint") is None
    assert adjoints.engine_of(None) is None


def test_on_julia_an_adjoint_needs_its_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHON_JULIACALL_EXE", sys.executable)
    monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", str(tmp_path))
    (tmp_path / "Manifest.toml").write_text("[[deps.PySciML]]\n")
    with pytest.raises(ps.EngineUnavailableError, match=r'SciMLSensitivity is not installed: run `.*Pkg.add\("SciML'):
        ps.fit(make_problem(), make_data(), ["nn"], adjoint="GaussAdjoint")


@pytest.mark.julia
@pytest.mark.usefixtures("sensitivity")
@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("adjoint", JULIA)
def test_a_continuous_adjoint_on_julia_comes_to_the_derivative_of_the_steps(adjoint, name):
    """The solution is that without an adjoint; its derivative goes to that of the steps with the tolerance."""
    found = {}
    for tolerance in (1e-4, 1e-9):
        total, told, slope, *_ = evaluate(adjoint, name, tolerance, "julia", "Tsit5")
        expected, other, exact, *_ = by_steps(name, tolerance, "julia", "Tsit5")
        assert (total, told.n_rhs) == (expected, other.n_rhs)
        found[tolerance] = distance(slope, exact)
    assert found[1e-4] < 1e-2
    assert found[1e-9] < 1e-3 * found[1e-4]


@pytest.mark.julia
@pytest.mark.usefixtures("sensitivity")
@pytest.mark.parametrize("adjoint", JULIA)
def test_a_continuous_adjoint_on_julia_gives_the_derivative_of_finite_differences(adjoint):
    _, _, slope, loss, theta = evaluate(adjoint, "Taylor and Jacobian", 1e-11, "julia", "Tsit5")
    for k in (0, 1, 5, 20, theta.size - 7, theta.size - 2):
        step = 1e-5 * (np.arange(theta.size) == k)
        with double_precision():
            assert slope[k] == pytest.approx((loss(theta + step) - loss(theta - step)) / 2e-5, rel=1e-6, abs=1e-8)


@pytest.mark.julia
@pytest.mark.usefixtures("sensitivity")
def test_an_adjoint_that_can_not_be_solved_on_julia_stops_the_fit():
    """Backward in time the states leave what they had decayed to; SciMLSensitivity's solver gives up, and warns."""
    fast = ps.Problem(ps.System([ps.Eq(ps.D(x), -a * (x - sp.cos(ps.t)))]), {x: 0.5}, (0, 4), {a: 300.0})
    times = np.linspace(0.0, 4.0, 3)
    data = xr.Dataset({"x": ("t", np.cos(times))}, coords={"t": times})
    options = {"trainable": [a], "optimizer": "adam", "epochs": 2, "engine": "julia", "max_steps": 10_000}
    with pytest.raises(ps.SolverError, match="its gradient is not finite with the starting numbers"):
        ps.fit(fast, data, adjoint="BacksolveAdjoint(checkpointing = false)", **options)
    assert np.isfinite(ps.fit(fast, data, adjoint="InterpolatingAdjoint", **options).history.loss).all()


@pytest.mark.julia
@pytest.mark.usefixtures("sensitivity")
@pytest.mark.parametrize("adjoint", [*JULIA, "InterpolatingAdjoint(checkpointing = true)"])
def test_a_fit_on_julia_goes_down_the_same_curve(adjoint):
    options = {"trainable": ["nn", a, x], "log": [a], "segments": (4, 2), "seed": 4, "epochs": 8, "engine": "julia"}
    options |= {"regularize": REGULARIZERS["local, biased"], "learning_rate": 2e-2, "rtol": 1e-9, "atol": 1e-9}
    plain, other = (ps.fit(make_problem(), make_data(), adjoint=way, **options) for way in (None, adjoint))
    assert other.history.loss.values == pytest.approx(plain.history.loss.values, rel=1e-6)
    assert other.history.loss[-1] < other.history.loss[0]
    assert other.problem.p == pytest.approx(plain.problem.p, abs=1e-5)
    assert np.array_equal(other.history.n_rhs, plain.history.n_rhs)
