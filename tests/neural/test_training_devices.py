"""Trainings in other places: single precision, and the options that name a device, refused where they do not go."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps

x = ps.variables("x")
a = ps.parameters("a")
nn = ps.MLP("nn", inputs=1, outputs=1, hidden=(8,), seed=3)
TIMES = np.linspace(0.0, 2.0, 9)


def problem(rate=None):
    return ps.Problem(ps.System([ps.Eq(ps.D(x), (rate or -a * x) + nn(x))]), {x: 1.0}, (0, 2), {a: 0.5})


def data():
    return xr.Dataset({"x": ("t", np.exp(-TIMES))}, coords={"t": TIMES})


def fit(**options):
    return ps.fit(problem(), data(), ["nn", a], epochs=6, segments=2, rtol=1e-4, atol=1e-4, seed=1, **options)


def test_single_precision_learns_what_double_does_to_its_own_digits():
    double, single = fit(engine="jax"), fit(engine="jax", precision="float32")
    assert np.array_equal(single.problem.p, single.problem.p.astype(np.float32))
    difference = np.abs(single.problem.p - double.problem.p).max()
    assert 0 < difference < 1e-4
    assert single.history.loss[-1] < single.history.loss[0]


def test_a_training_in_another_precision_does_not_go_on_with_a_checkpoint(tmp_path):
    path = tmp_path / "checkpoint"
    fit(engine="jax", checkpoint=path)
    with pytest.raises(ps.ProblemError, match="checkpoint"):
        fit(engine="jax", checkpoint=path, precision="float32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": 3}, "device must be a name"),
        ({"precision": "half"}, "precision must be 'float64' or 'float32'"),
        ({"precision": "float32", "rtol": 1e-9}, "finer than float32 can hold"),
        ({"device": "tpu", "engine": "jax"}, "no device 'tpu'"),
    ],
)
def test_what_is_no_place_is_refused(options, message):
    with pytest.raises((ps.ProblemError, ps.UnsupportedError), match=message):
        ps.fit(problem(), data(), ["nn"], **options)


def test_least_squares_has_no_device():
    with pytest.raises(ps.ProblemError, match="does not go with device="):
        ps.fit(problem(), data(), [a], optimizer="least_squares", device="cuda")


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
def test_julia_trains_in_double_precision_on_a_cpu():
    with pytest.raises(ps.UnsupportedError, match="precision='float32' is for device='cuda'"):
        fit(engine="julia", precision="float32")
    with pytest.raises(ps.UnsupportedError, match="there is no device='tpu'"):
        fit(engine="julia", device="tpu")


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
def test_functions_that_a_gpu_has_not_are_refused_by_name():
    special = ps.Problem(ps.System([ps.Eq(ps.D(x), -sp.gamma(x + 1) + nn(x))]), {x: 1.0}, (0, 2))
    with pytest.raises(ps.UnsupportedError, match="no function gamma"):
        ps.fit(special, data(), ["nn"], engine="julia", device="cuda")
    special = ps.Problem(ps.System([ps.Eq(ps.D(x), nn(x) + sp.gamma(x + 1) * ps.brownian("w"))]), {x: 1.0}, (0, 2))
    with pytest.raises(ps.UnsupportedError, match="no function gamma"):
        ps.fit(special, data().expand_dims(trajectory=2), ["nn"], engine="julia", device="cuda")


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"regularize": ps.JacobianNorm(0.1)}, "JacobianNorm"),
        ({"regularize": ps.TaylorDerivative(2, 0.1)}, "TaylorDerivative"),
    ],
)
def test_what_julia_trains_on_a_cpu_alone_is_refused_by_name(options, named):
    with pytest.raises(ps.UnsupportedError, match=named):
        fit(engine="julia", device="cuda", **options)
