"""Training on Julia: step by step what JAX does, with the same derivatives; what Julia cannot do is refused by name."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps
from pysciml.engines.jax.compiling import double_precision
from pysciml.fitting.inputs import read_data
from pysciml.fitting.moments import MomentObjective, read_moments
from pysciml.fitting.objective import Layout, Objective
from pysciml.fitting.windows import cut, lay_out
from pysciml.graph import networks
from pysciml.graph.networks import ACTIVATIONS

x, y = ps.variables("x y")
a, c = ps.parameters("a c")
nn = ps.MLP("nn", inputs=3, outputs=2, hidden=(6, 4), seed=3)
TIMES = np.linspace(0.0, 3.0, 13)


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
    data.x[4] = np.nan
    return data


REGULARIZERS = {
    "none": (),
    "error": (ps.ErrorEstimate(0.5),),
    "largest and mean": (ps.ErrorEstimate(0.5, aggregate="max"), ps.StiffnessEstimate(0.2, aggregate="mean")),
    "stiffness": (ps.StiffnessEstimate(0.2),),
    "local, unbiased": (ps.LocalErrorEstimate(2.5), ps.LocalStiffnessEstimate(0.1, sampling="biased")),
    "local, biased": (ps.LocalErrorEstimate(2.5, sampling="biased"), ps.LocalStiffnessEstimate(0.1)),
    "kinetic and end": (ps.KineticEnergy(0.1), ps.RandomEndTime(0.04)),
    "through steps": (ps.ErrorEstimate(0.5, through_steps=True), ps.StiffnessEstimate(0.1), ps.KineticEnergy(0.1)),
    "Taylor": (ps.TaylorDerivative(3, 0.02), ps.KineticEnergy(0.1)),
    "Jacobian": (ps.JacobianNorm(0.1), ps.LocalErrorEstimate(2.5)),
    "Taylor and Jacobian through steps": (
        ps.ErrorEstimate(0.5, through_steps=True),
        ps.TaylorDerivative(2, 0.05),
        ps.JacobianNorm(0.1),
    ),
}


def objectives(regularizers, algorithm="Tsit5", rtol=1e-4, atol=1e-5):
    """The same loss on both engines, and a point: two of the four windows, joined of eight."""
    from pysciml.fitting.on_julia import JuliaObjective

    problem = make_problem()
    observations = read_data(problem, make_data(), None, None)
    edges = cut(observations, 0.0, 8)
    windows = lay_out(observations, edges[::2])
    size = problem.p.size
    layout = Layout(np.arange(size), np.array([0]), np.arange(size + 1) < 1, 7)
    rng = np.random.default_rng(1)
    theta = np.concatenate([np.log(problem.p[:1]), problem.p[1:], problem.u0[:1], 1 + 0.3 * rng.normal(size=14)])
    args = (
        problem.system.model,
        problem.u0,
        problem.p,
        layout,
        regularizers,
        algorithm,
        rtol,
        atol,
        0.7,
        np.array([0.5, 2.0]),
    )
    coefficients = np.array([r.weight for r in regularizers])
    point = theta, np.array([1, 3]), coefficients, jax.random.key(5)
    with double_precision():
        return tuple(kind(*args).make(windows, 2, 256, train=True) for kind in (Objective, JuliaObjective)), point


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
@pytest.mark.parametrize(
    ("name", "algorithm"),
    [*((name, "Tsit5") for name in REGULARIZERS), ("largest and mean", "DP5"), ("through steps", "BS3")],
)
def test_loss_evaluations_and_derivative_are_those_of_jax(name, algorithm):
    (on_jax, on_julia), point = objectives(REGULARIZERS[name], algorithm)
    with double_precision():
        (total, value), slope = jax.jit(jax.value_and_grad(on_jax, has_aux=True))(*point)
        found, other, by_hand = on_julia(*point)
    assert bool(value.success)
    assert other.n_rhs == int(value.n_rhs)
    assert found == pytest.approx(float(total), rel=1e-9)
    assert other.regularization == pytest.approx(float(value.regularization), rel=1e-8, abs=1e-14)
    assert np.abs(by_hand - np.asarray(slope)).max() < 1e-8 * np.abs(slope).max()


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
@pytest.mark.parametrize("name", ["through steps", "Taylor and Jacobian through steps"])
def test_the_derivative_is_that_of_finite_differences(name):
    (_, on_julia), point = objectives(REGULARIZERS[name], "BS3", 1e-3, 1e-4)
    theta, *rest = point
    with double_precision():
        _, _, slope = on_julia(*point)
        for k in (0, 1, 5, 30, theta.size - 12, theta.size - 3):
            step = 1e-6 * (np.arange(theta.size) == k)
            up, down = on_julia(theta + step, *rest)[0], on_julia(theta - step, *rest)[0]
            assert slope[k] == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_the_steps_are_those_of_jax_one_by_one(tolerance):
    from pysciml.engines.julia.training import BatchSolve
    from pysciml.neural.adaptive import solve
    from pysciml.neural.steps import Setting, method

    problem = make_problem()
    members, n = 3, 512
    start, length = np.array([0.0, 0.5, 3.0]), np.array([3.0, 2.0, -2.0])
    y0 = problem.u0[:, None] * np.array([1.0, 0.8, 1.3])
    times = np.linspace(0.0, 1.0, 7)
    mine = BatchSolve(problem.system.model, "Tsit5", members, tolerance, tolerance, n)
    out = mine.solve(problem.p, y0, start, length, times=times)
    layout = Layout(np.zeros(0, int), np.zeros(0, int), np.zeros(0, bool), 0)
    args = problem.system.model, problem.u0, problem.p, layout, (), "Tsit5", tolerance, tolerance, 1.0, np.ones(2)
    with double_precision():
        field = Objective(*args).field()
        how = Setting(method("Tsit5"), tolerance, tolerance, n)
        other = jax.jit(lambda y: solve(how, field, (problem.p, start, length), y, 0.0, 1.0, times))(y0.T)
        other = jax.tree.map(np.asarray, other)
    count = int(other.n_records)
    assert out.n_records == count > 1
    assert (out.n_steps, out.n_rejected, out.n_rhs) == tuple(map(int, (other.n_steps, other.n_rejected, other.n_rhs)))
    # Rounding in the error moves the steps, by much less than the error itself.
    assert out.h == pytest.approx(other.h[:count], rel=1e-6)
    assert out.error == pytest.approx(other.error[:count], rel=1e-4)
    assert out.stiffness == pytest.approx(other.stiffness[:count], rel=1e-4)
    assert np.abs(out.ys - np.moveaxis(other.ys, 1, 2)).max() < 1e-9
    assert np.abs(out.y1 - other.y1.T).max() < 1e-9


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks_and_their_derivatives_have_the_same_output(activation):
    from pysciml.engines.julia.training import Observer

    net = ps.MLP("net", inputs=2, outputs=2, hidden=(7, 5), activation=activation, output_activation="sigmoid")
    first, second = net(x, y)
    observed = {"first": first, "second": second}
    if activation != "relu":
        observed["slope"] = first.diff(x)
    model = ps.System([ps.Eq(ps.D(x), -x), ps.Eq(ps.D(y), -y)], observed=observed).model
    rng = np.random.default_rng(2)
    weights, states = 0.7 * rng.normal(size=model.n_params), rng.normal(size=(3, 2, 4))
    found = Observer(model, 4).observe(weights, states, np.zeros(4), np.ones(4), np.zeros(3))
    for k in range(3):
        expected = model.graph.evaluate("observed", states[k], weights[:, None], np.zeros(4))
        assert found[k] == pytest.approx(expected, rel=1e-12, abs=1e-12)
        plain = networks.evaluate(model.graph.networks[0], weights[:, None], states[k])
        assert found[k, :2] == pytest.approx(plain, rel=1e-12, abs=1e-12)


OPTIONS = {"trainable": ["nn", a, x], "log": [a], "learning_rate": 2e-2, "segments": (4, 2), "seed": 4}


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
@pytest.mark.parametrize("name", ["error", "local, unbiased", "kinetic and end", "Jacobian"])
def test_a_fit_goes_the_way_of_that_on_jax(name):
    """For some epochs: rounding grows with every one, as the next test shows."""
    on_jax, on_julia = (
        ps.fit(make_problem(), make_data(), epochs=8, batch_size=2, validation=0.2, regularize=REGULARIZERS[name],
               engine=engine, **OPTIONS)
        for engine in ("jax", "julia")
    )  # fmt: skip
    assert on_julia.problem.p == pytest.approx(on_jax.problem.p, abs=1e-7)
    assert on_julia.problem.u0 == pytest.approx(on_jax.problem.u0, abs=1e-7)
    assert np.array_equal(on_julia.history.n_rhs, on_jax.history.n_rhs)
    for column in ("loss", "regularization", "validation"):
        assert on_julia.history[column].values == pytest.approx(on_jax.history[column].values, rel=1e-6)
    assert on_julia.options["engine"] == "julia"
    assert on_julia.solution.attrs["engine"].lower().startswith("julia")


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
def test_engines_come_apart_no_further_than_one_does_by_rounding_of_the_first_weights():
    """Thirty epochs on both engines, and on JAX from first weights moved by one rounding.

    The estimate of an error is a small difference of large numbers: that of a first step is near 1e-11 here, so that
    rounding changes it by some 1e-8 of itself. It sets the size of the next step, whose error is in the loss: the loss
    and its derivative are known to 1e-8, on either engine, and Adam lets that grow. In this fit it comes to more than
    1e-6 of the weights, though all steps are the same in number, and this on JAX alone as well.
    """
    problem, options = make_problem(), {**OPTIONS, "epochs": 30, "batch_size": 2, "validation": 0.2}
    weights = problem.p[problem.system.model.blocks["nn"]]
    ways = np.random.default_rng(7).choice([-np.inf, np.inf], weights.size)
    near = problem.remake(p={"nn": np.nextafter(weights, ways)})
    on_jax, moved, on_julia = (
        ps.fit(start, make_data(), regularize=REGULARIZERS["error"], engine=engine, **options)
        for start, engine in ((problem, "jax"), (near, "jax"), (problem, "julia"))
    )
    assert np.array_equal(on_julia.history.n_rhs, on_jax.history.n_rhs)
    by_rounding, by_engine = (np.abs(result.problem.p - on_jax.problem.p).max() for result in (moved, on_julia))
    assert by_rounding > 1e-7
    assert by_engine < 20 * by_rounding


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
def test_without_estimates_in_the_loss_engines_stay_together():
    on_jax, on_julia = (
        ps.fit(make_problem(), make_data(), epochs=30, regularize=ps.KineticEnergy(0.1), engine=engine, **OPTIONS)
        for engine in ("jax", "julia")
    )
    assert np.abs(on_julia.problem.p - on_jax.problem.p).max() < 1e-12


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
def test_a_fit_on_julia_learns():
    result = ps.fit(make_problem(), make_data(), epochs=30, regularize=REGULARIZERS["error"], engine="julia", **OPTIONS)
    assert result.loss < 0.8 * float(result.history.loss[0])
    assert result.history.n_rhs[-1] < result.history.n_rhs[0]


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
def test_a_training_that_blows_up_on_julia_keeps_the_last_good_state():
    from pysciml.fitting import FitWarning

    options = {"optimizer": "sgd", "learning_rate": 1e6, "segments": 1, "max_steps": 64}
    with pytest.warns(FitWarning, match="the training stopped"):
        result = ps.fit(make_problem(), make_data(), ["nn"], epochs=50, engine="julia", **options)
    assert not result.success
    assert "last good state" in result.message
    assert np.isfinite(result.problem.p).all()


def make_stochastic():
    w = ps.brownian("w")
    u, v = nn(x, y, 1.0)
    equations = [ps.Eq(ps.D(x), -a * x + u), ps.Eq(ps.D(y), x - y + (0.3 + c * v**2) * w)]
    system = ps.System(equations, observed={"total": x + a * y})
    return ps.Problem(system, {x: 1.0, y: 0.5}, (0, 2), {a: 1.1, c: 0.4})


def make_moments():
    times = np.linspace(0.0, 2.0, 5)
    both = np.stack([np.exp(-times), 0.1 + 0.05 * times])
    data = xr.Dataset(coords={"moment": ["mean", "variance"], "t": times})
    for name in ("y", "total"):
        data[name] = (("moment", "t"), both)
    return data


STOCHASTIC = ["largest and mean", "local, unbiased", "local, biased", "kinetic", "Jacobian"]


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_loss_evaluations_and_derivative_are_those_of_jax(name):
    from pysciml.fitting.moments_on_julia import JuliaMomentObjective

    regularizers = REGULARIZERS.get(name, (ps.KineticEnergy(0.2),))
    problem = make_stochastic()
    observations = read_moments(problem, make_moments(), None, None)
    windows = lay_out(observations, cut(observations, 0.0, 1))
    size = problem.p.size
    layout = Layout(np.arange(size), np.array([1]), np.arange(size + 1) < 2, 0)
    theta = np.concatenate([np.log(problem.p[:2]), problem.p[2:], problem.u0[1:]])
    args = problem.system.model, problem.u0, problem.p, layout, regularizers, 3e-4, 3e-4, 20
    point = theta, np.zeros(1, int), np.array([r.weight for r in regularizers]), jax.random.key(2)
    with double_precision():
        on_jax, on_julia = (
            kind(*args).make(windows, 1, 512, train=True) for kind in (MomentObjective, JuliaMomentObjective)
        )
        (total, value), slope = jax.jit(jax.value_and_grad(on_jax, has_aux=True))(*point)
        found, other, by_hand = on_julia(*point)
    assert bool(value.success)
    assert other.n_rhs == int(value.n_rhs) > 4 * 64  # more random numbers than there were at first
    assert found == pytest.approx(float(total), rel=1e-9)
    assert other.regularization == pytest.approx(float(value.regularization), rel=1e-7, abs=1e-14)
    assert np.abs(by_hand - np.asarray(slope)).max() < 1e-7 * np.abs(slope).max()


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
def test_a_stochastic_fit_ends_where_that_on_jax_does():
    options = {"trainable": ["nn", a], "epochs": 20, "trajectories": 20, "regularize": ps.LocalErrorEstimate(1e-2)}
    on_jax, on_julia = (
        ps.fit(make_stochastic(), make_moments(), engine=engine, **options) for engine in ("jax", "julia")
    )
    assert on_julia.problem.p == pytest.approx(on_jax.problem.p, abs=1e-6)
    assert np.array_equal(on_julia.history.n_rhs, on_jax.history.n_rhs)


def test_what_julia_cannot_train_is_said_before_it_starts():
    foreign = ps.Network("foreign", jax.numpy.sort, inputs=1, outputs=1)
    strange = ps.Problem(ps.System([ps.Eq(ps.D(x), a * foreign(x))]), {x: 1.0}, (0, 3), {a: 1.0})
    with pytest.raises(ps.UnsupportedError, match=r"the network foreign .* 'sort', which engine='jax' alone"):
        ps.fit(strange, make_data()[["x"]], [a], engine="julia", epochs=1, regularize=ps.ErrorEstimate(0.1))
