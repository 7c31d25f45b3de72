"""Ensembles over parameters of partial differential equations: each trajectory is what `solve` gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps

D = ps.D
x, X, Y = ps.coordinates("x X Y")
w = ps.fields("w", x)
u, v = ps.fields("u v", X, Y)
k, a, width = ps.parameters("k a width")

BAR = ps.PDESystem(
    [ps.Eq(D(w), k * D(w, x, 2) - a * w)],
    {x: (0, 1)},
    {x: [ps.Neumann(lower=0), ps.Dirichlet(upper=0)]},
    {w: sp.exp(-((x / width) ** 2)) * (1 - x)},
    observed={"mean": ps.integral(w), "flow": -k * D(w, x)},
    name="bar",
)
NUMBERS: dict[Any, Any] = {k: 0.02, a: 0.5, width: 0.3}


def bar(n: int = 12) -> Any:
    return BAR.discretize({x: n}).problem((0, 1), NUMBERS)


@pytest.mark.parametrize(("engine", "alg"), [("native", None), ("jax", "QNDF"), ("jax", "BS3")])
def test_each_trajectory_is_what_solve_gives(engine: str, alg: str | None) -> None:
    values = [0.01, 0.02, 0.05]
    how: dict[str, Any] = {"engine": engine, "rtol": 1e-6, "atol": 1e-8, "saveat": [0.0, 0.5, 1.0]}
    sweep = ps.solve_ensemble(bar(), alg, over={k: values}, **how)
    assert sweep.w.dims == ("k", "t", "x")
    assert sweep["mean"].dims == ("k", "t")
    assert sweep.retcode.values.tolist() == ["Success"] * 3
    for value in values:
        alone = ps.solve(bar().remake(p={k: value}), alg, **how)
        for name in ("w", "mean", "flow"):
            np.testing.assert_allclose(sweep[name].sel(k=value), alone[name], rtol=1e-12, atol=1e-14)
        assert sweep.attrs["algorithm"] == alone.attrs["algorithm"]


def test_distinct_dimensions_multiply_and_shared_ones_go_together() -> None:
    over = {
        k: xr.DataArray([0.01, 0.02], dims="run"),
        a: xr.DataArray([0.0, 1.0], dims="run"),
        width: xr.DataArray([0.2, 0.3, 0.4], dims="width"),
    }
    sweep = ps.solve_ensemble(bar(), over=over, engine="native")
    assert sweep.w.sizes == {"run": 2, "width": 3, "t": 1, "x": 12}
    one = bar().remake(p={k: 0.02, a: 1.0, width: 0.4})
    np.testing.assert_allclose(sweep.w[1, 2, 0], ps.solve(one, engine="native").w[-1], rtol=1e-12)
    np.testing.assert_allclose(sweep.x, one.system.coords["x"])


def test_a_stiff_ensemble_in_two_dimensions() -> None:
    pair = ps.PDESystem(
        [ps.Eq(D(u), k * ps.laplacian(u) + v - u), ps.Eq(D(v), k * ps.laplacian(v) - v)],
        {X: (0, 1), Y: (0, 1)},
        {X: ps.Periodic(), Y: ps.Neumann(0)},
        {u: sp.cos(sp.pi * Y), v: 1 + sp.sin(2 * sp.pi * X)},
    )
    problem = pair.discretize({X: 12, Y: 10}).problem((0, 30), {k: 1.0})
    sweep = ps.solve_ensemble(problem, over={k: [1.0, 20.0]}, saveat=[1.0, 30.0])
    assert sweep.attrs["algorithm"] == "QNDF"
    assert sweep.u.dims == ("k", "t", "X", "Y")
    np.testing.assert_allclose(sweep.v.mean(("X", "Y")), np.exp([[-1.0, -30.0]] * 2), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("engine", ["native", "jax"])
def test_what_fails_is_nan_and_says_so_and_the_rest_is_kept(engine: str) -> None:
    ignition = ps.PDESystem(
        [ps.Eq(D(w), D(w, x, 2) / 100 + a * w**2)],
        {x: (0, 1)},
        {x: ps.Neumann(0)},
        {w: 1},
        observed={"m": ps.integral(w)},
    )
    problem = ignition.discretize({x: 8}).problem((0, 1), {a: 0.1})
    sweep = ps.solve_ensemble(problem, over={a: [0.1, 4.0, 0.5]}, engine=engine, saveat=[0.5, 1.0])
    good = sweep.isel(a=[0, 2])
    assert good.retcode.values.tolist() == ["Success", "Success"]
    np.testing.assert_allclose(good.w[:, -1, 0], 1 / (1 - good.a), rtol=1e-4)
    assert sweep.retcode[1].item() in ("DtLessThanMin", "Unstable", "MaxIters")
    assert np.isnan(sweep.w[1]).all()
    assert np.isnan(sweep.m[1]).all()
    assert sweep.attrs["n_failed"] == 1


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"over": {w: [1.0, 2.0]}}, ps.UnsupportedError, "is a field"),
        ({"over": {"b": [1.0, 2.0]}}, ps.ProblemError, "b is neither"),
        ({"over": {k: xr.DataArray([0.1], dims="x")}}, ps.ProblemError, "name of a coordinate"),
        ({"over": {k: [0.1]}, "store": "s.zarr"}, ps.UnsupportedError, "store= and chunks="),
        ({"over": {k: [0.1]}, "trajectories": 3}, ps.ProblemError, "samples paths"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(how: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ps.solve_ensemble(bar(), **how)
