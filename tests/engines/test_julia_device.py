"""Ensembles in the kernels that run on a GPU, here on a CPU: `make test-julia`, where Julia has DiffEqGPU.jl."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps
from pysciml.engines.julia import JuliaEngine, bridge, environment

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("julia_engine")]

D = ps.D
x, y = ps.variables("x y")
a, b = ps.parameters("a b")


@pytest.fixture(params=["kernels", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a device: one whose kernels run on the CPU, and the GPU where there is one."""
    found = environment.find()
    if isinstance(found, str) or environment.lacking(found.project, ("DiffEqGPU",)):
        pytest.skip("the Julia environment has no DiffEqGPU")
    module = bridge.julia()
    if request.param == "cuda":
        if reason := str(module.load_device("cuda", True)):
            pytest.skip(reason)
        return "cuda"
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


def chain(n: int) -> ps.Problem:
    """A driven chain of ``n`` states, each of which follows the one before it."""
    states = ps.variables(f"c:{n}")
    before = (sp.cos(ps.t), *states)
    system = ps.System([ps.Eq(D(s), a * (one - s)) for s, one in zip(states, before, strict=False)], name="chain")
    return ps.Problem(system, {s: 0.1 * k for k, s in enumerate(states)}, (0, 2), {a: 1.0})


@pytest.mark.parametrize(("alg", "rtol"), [("Tsit5", 1e-6), ("BS3", 1e-5), ("QNDF(linsolve=KrylovJL_GMRES)", 1e-4)])
def test_models_of_many_states_are_solved_together(device: str, alg: str, rtol: float) -> None:
    options = {"engine": "julia", "saveat": 0.5, "rtol": 1e-8, "atol": 1e-8}
    sweep = ps.solve_ensemble(chain(25), alg, over={a: [0.5, 1.0, 3.0]}, device=device, **options)
    assert sweep.attrs["algorithm"] == alg
    assert sweep.attrs["device"] == device
    assert sweep.attrs["n_steps"] > 0
    for speed in (0.5, 3.0):
        alone = ps.solve(chain(25).remake(p={a: speed}), "Tsit5", engine="julia", saveat=0.5, rtol=1e-11, atol=1e-11)
        for name in ("c0", "c24"):
            np.testing.assert_allclose(sweep[name].sel(a=speed), alone[name], rtol=rtol, atol=rtol)


def test_portions_of_an_ensemble_solved_together(device: str) -> None:
    options = {"over": {a: np.linspace(0.5, 3, 7)}, "engine": "julia", "saveat": 1.0, "rtol": 1e-8, "atol": 1e-8}
    whole = ps.solve_ensemble(chain(25), "Tsit5", device=device, **options)
    parts = ps.solve_ensemble(chain(25), "Tsit5", device=device, memory=20_000, **options)
    xr.testing.assert_allclose(whole, parts, rtol=1e-6)
    assert parts.attrs["n_steps"] > whole.attrs["n_steps"]


def test_one_that_fails_together_with_others_is_found(device: str) -> None:
    problem = ps.Problem(ps.System([ps.Eq(D(x), x**2)]), {x: 1}, (0, 2))
    starts = np.append(np.linspace(0.05, 0.2, 6), 1.0)
    ends = ps.solve_ensemble(problem, "BS3", over={x: starts}, engine="julia", device=device, max_steps=5_000)
    np.testing.assert_allclose(ends.x.isel(t=-1)[:6], starts[:6] / (1 - 2 * starts[:6]), rtol=1e-4)
    assert np.isnan(ends.x.isel(t=-1)[6])
    assert (ends.retcode == "Success").values.tolist() == 6 * [True] + [False]


def test_what_kernels_cannot_solve_is_refused_by_name(device: str) -> None:
    for alg, reason in (
        (None, "name an algorithm, one of Tsit5"),
        ("FBDF", "FBDF factorizes the Jacobian; name another"),
    ):
        with pytest.raises(ps.UnsupportedError, match=reason):
            ps.solve_ensemble(lotka(), alg, over={a: [1.0, 2.0]}, engine="julia", device=device)
