"""Ensembles in the kernels that run on a GPU, here on a CPU: `make test-julia`, where Julia has DiffEqGPU.jl."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import pysciml as ps
from pysciml.engines.julia import JuliaEngine, bridge, environment

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("julia_engine")]

D = ps.D
x, y = ps.variables("x y")
a, b = ps.parameters("a b")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a device whose kernels run on the CPU."""
    found = environment.find()
    if isinstance(found, str) or environment.lacking(found.project, ("DiffEqGPU",)):
        pytest.skip("the Julia environment has no DiffEqGPU")
    module = bridge.julia()
    module.load_package("DiffEqGPU")
    module.seval('backend(::Val{:kernels}) = Base.loaded_modules[package_id("DiffEqGPU")].KernelAbstractions.CPU()')
    monkeypatch.setattr(JuliaEngine, "check_place", lambda self, model, device, precision, ensemble=False: None)
    return "kernels"


def lotka() -> ps.Problem:
    system = ps.System([ps.Eq(D(x), a * x - x * y), ps.Eq(D(y), x * y - b * y)], observed={"total": x + y})
    return ps.Problem(system, {x: 1, y: 1}, (0, 2), {a: 1.5, b: 3})


@pytest.mark.parametrize(("precision", "rtol"), [("float64", 1e-6), ("float32", 1e-3)])
@pytest.mark.parametrize("alg", ["Tsit5", "Rodas5P"])
def test_kernels_give_what_single_solves_give(device: str, alg: str, precision: str, rtol: float) -> None:
    over = {a: xr.DataArray(np.linspace(1, 2, 5), dims="a"), x: xr.DataArray([0.5, 2.0], dims="start")}
    options = {"engine": "julia", "saveat": 0.5, "rtol": 1e-5 if precision == "float32" else 1e-8}
    sweep = ps.solve_ensemble(lotka(), alg, over=over, device=device, precision=precision, **options)
    assert sweep.attrs["algorithm"] == f"GPU{alg}"
    assert sweep.attrs["device"] == device
    assert sweep.x.dtype == precision
    assert set(np.unique(sweep.retcode)) == {"Success"}
    alone = ps.solve(lotka().remake(u0={x: 2.0}, p={a: 1.25}), "Tsit5", engine="julia", saveat=0.5, rtol=1e-10)
    for name in ("x", "y", "total"):
        np.testing.assert_allclose(sweep[name].isel(a=1, start=1), alone[name], rtol=rtol)


def test_one_that_fails_in_a_kernel_leaves_the_others_alone(device: str) -> None:
    problem = ps.Problem(ps.System([ps.Eq(D(x), x**2)]), {x: 1}, (0, 2))
    ends = ps.solve_ensemble(problem, "Tsit5", over={x: [0.1, 1.0, 0.2]}, engine="julia", device=device)
    np.testing.assert_allclose(ends.x.isel(t=-1)[[0, 2]], [0.1 / 0.8, 0.2 / 0.6], rtol=1e-5)
    assert np.isnan(ends.x.isel(t=-1)[1])
    assert ends.retcode.values.tolist() == ["Success", "Failure", "Success"]


def test_what_kernels_cannot_solve_is_refused_by_name(device: str) -> None:
    for alg, reason in ((None, "name an algorithm, one of Tsit5"), ("FBDF", "no kernel of FBDF, but of Tsit5")):
        with pytest.raises(ps.UnsupportedError, match=reason):
            ps.solve_ensemble(lotka(), alg, over={a: [1.0, 2.0]}, engine="julia", device=device)
