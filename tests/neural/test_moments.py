"""fit of stochastic problems: by means and variances, against known ones; what makes no sense is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import pysciml as ps
from pysciml.fitting.moments import read_moments

x, y = ps.variables("x y")
a, m, s = ps.parameters("a m s")
w, v = ps.brownian("w v")
TIMES = np.linspace(0.25, 2.0, 8)


def ornstein_uhlenbeck(**numbers):
    system = ps.System([ps.Eq(ps.D(x), a * (m - x) + s * w)], observed={"double": 2 * x})
    return ps.Problem(system, {x: 2.0}, (0, 2), {"a": 1.5, "m": 0.5, "s": 0.6} | numbers)


def exact_moments(rate=1.5, level=0.5, size=0.6):
    """Of the Ornstein-Uhlenbeck process from 2 (Gardiner, *Handbook of Stochastic Methods*, eq. 3.8.74)."""
    mean = level + (2 - level) * np.exp(-rate * TIMES)
    variance = size**2 / (2 * rate) * (1 - np.exp(-2 * rate * TIMES))
    both = np.stack([mean, variance])
    return xr.Dataset({"x": (("moment", "t"), both)}, coords={"moment": ["mean", "variance"], "t": TIMES})


def test_parameters_of_drift_and_noise_are_those_of_the_exact_moments():
    start = ornstein_uhlenbeck(a=0.7, s=0.2)
    options = {"log": True, "optimizer": "adam", "learning_rate": 5e-2, "epochs": 80, "trajectories": 200}
    fit = ps.fit(start, exact_moments(), [a, s], **options)
    rate, _, size = fit.problem.p
    # A loss over 200 paths leaves some percent open.
    assert rate == pytest.approx(1.5, rel=0.1)
    assert size == pytest.approx(0.6, rel=0.1)
    assert float(fit.history.loss[-10:].mean()) < 0.02 * float(fit.history.loss[0])
    assert fit.solution.x.dims == ("trajectory", "t")
    assert fit.solution.sizes["trajectory"] == 200
    assert float(fit.solution.x.std("trajectory")[-1]) == pytest.approx(0.6 / np.sqrt(3), rel=0.15)


def test_a_network_learns_the_diffusion():
    nn = ps.MLP("nn", 1, 1, hidden=(8,), output_activation="softplus")
    system = ps.System([ps.Eq(ps.D(x), 1.5 * (0.5 - x) + nn(x) * w)], observed={"noise": nn(x)})
    problem = ps.Problem(system, {x: 2.0}, (0, 2))
    options = {"epochs": 80, "learning_rate": 2e-2, "trajectories": 50}
    fit = ps.fit(problem, exact_moments(size=0.3), ["nn"], regularize=ps.LocalErrorEstimate(1e-3), **options)
    assert float(fit.history.loss[-10:].mean()) < 0.05 * float(fit.history.loss[0])
    assert np.all(fit.history.regularization > 0)
    noise = system.graph.evaluate("observed", np.array([[0.7]]), fit.problem.p[:, None], np.zeros(1))
    assert float(noise[0, 0]) == pytest.approx(0.3, rel=0.15)


def test_paths_and_their_moments_are_the_same_data():
    values = np.random.default_rng(0).normal(size=(50, TIMES.size))
    paths = xr.Dataset({"x": (("trajectory", "t"), values)}, coords={"t": TIMES})
    paths["double"] = 2 * paths.x
    names = xr.DataArray(["mean", "variance"], dims="moment", name="moment")
    moments = xr.concat([paths.mean("trajectory"), paths.var("trajectory", ddof=1)], dim=names)
    one = read_moments(ornstein_uhlenbeck(), paths, {"x": 0.1}, None)
    other = read_moments(ornstein_uhlenbeck(), moments, {"x": 0.1}, None)
    assert np.array_equal(one.values, other.values)
    assert one.names == ("x", "double", "x", "double")
    # the variance of x is divided by the square of what its mean is divided by
    assert one.scale[:, 0] == pytest.approx([10.0, 1.0, 100.0, 1.0])
    assert one.values[1] == pytest.approx(2 * one.values[0], rel=1e-12)
    assert one.values[3] == pytest.approx(4 * one.values[2], rel=1e-12)
    # by default that is the root of the mean variance
    scale = read_moments(ornstein_uhlenbeck(), paths, None, None).scale[:, 0]
    assert scale[0] == pytest.approx(values.var(axis=0, ddof=1).mean() ** -0.5, rel=1e-12)
    assert scale == pytest.approx([scale[0], scale[0] / 2, scale[0] ** 2, scale[0] ** 2 / 4], rel=1e-12)


def test_it_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    path = tmp_path / "fit.npz"
    options = {"trainable": ["a", "s"], "optimizer": "adam", "trajectories": 20, "seed": 3}
    whole = ps.fit(ornstein_uhlenbeck(), exact_moments(), epochs=6, **options)
    ps.fit(ornstein_uhlenbeck(), exact_moments(), epochs=3, checkpoint=path, **options)
    further = ps.fit(ornstein_uhlenbeck(), exact_moments(), epochs=6, checkpoint=path, **options)
    assert np.array_equal(whole.problem.p, further.problem.p)
    assert np.array_equal(whole.history.loss, further.history.loss)
    assert len(set(whole.history.loss.values.tolist())) == 6  # new noise each time
    with pytest.raises(ps.ProblemError, match="another fit"):
        ps.fit(ornstein_uhlenbeck(), exact_moments(), epochs=6, checkpoint=path, **{**options, "trajectories": 21})


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda d: d.isel(moment=0, drop=True), {}, ps.ProblemError, "stochastic: data of a stochastic problem"),
        (lambda d: d.assign_coords(moment=["mean", "median"]), {}, ps.ProblemError, "'median'"),
        (lambda d: -d, {}, ps.ProblemError, "the variance of x is negative"),
        (lambda d: d.rename(moment="trajectory").isel(trajectory=[0]), {}, ps.ProblemError, "single trajectory"),
        (lambda d: d, {"segments": 4}, ps.UnsupportedError, "segments="),
        (lambda d: d, {"alg": "Tsit5"}, ps.UnsupportedError, "SOSRI"),
        (lambda d: d, {"trajectories": 1}, ps.ProblemError, "trajectories must be an integer, 2 or more"),
        (lambda d: d, {"regularize": ps.RandomEndTime(0.1)}, ps.UnsupportedError, "RandomEndTime"),
        (lambda d: d, {"regularize": ps.TaylorDerivative(2)}, ps.UnsupportedError, "TaylorDerivative"),
    ],
)
def test_what_makes_no_sense_is_refused(change, options, error, message):
    with pytest.raises(error, match=message):
        ps.fit(ornstein_uhlenbeck(), change(exact_moments()), ["a"], optimizer="adam", **options)


def test_noise_that_is_not_diagonal_and_paths_of_no_noise_are_refused():
    shared = ps.System([ps.Eq(ps.D(x), -x + w), ps.Eq(ps.D(y), -y + x * w + v)])
    problem = ps.Problem(shared, {x: 1.0, y: 1.0}, (0, 2))
    with pytest.raises(ps.UnsupportedError, match="noise that is diagonal"):
        ps.fit(problem, exact_moments(), ["x"], optimizer="adam")
    smooth = ps.Problem(ps.System([ps.Eq(ps.D(x), -a * x)]), {x: 1.0}, (0, 2), {a: 1.0})
    with pytest.raises(ps.ProblemError, match="trajectories= is for stochastic problems"):
        ps.fit(smooth, exact_moments().isel(moment=0, drop=True), [a], optimizer="adam", trajectories=10)
