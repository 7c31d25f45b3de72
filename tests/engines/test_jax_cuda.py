"""JAX on an NVIDIA GPU: the numbers of the CPU, from arrays that stay on the device until they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("jax_gpu")]

D = ps.D
x, v = ps.variables("x v")
(k,) = ps.parameters("k,")
(W,) = ps.brownian("W,")
X, Y = ps.coordinates("X Y")

#: Normal numbers are drawn in single precision, in which a GPU rounds a sum of products once.
DRAWS = 1e-6


@pytest.fixture(scope="module", autouse=True)
def _cache():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSCIML_CACHE_DIR", "")
        yield


@pytest.fixture(scope="module")
def problem() -> ps.Problem:
    system = ps.System([ps.Eq(D(x), v), ps.Eq(D(v), (1 - x**2) * v - k * x)], observed={"energy": v**2 + k * x**2})
    return ps.Problem(system, {x: 2.0, v: 0.0}, (0, 5), {k: 4.0})


@pytest.fixture(scope="module")
def noisy() -> ps.Problem:
    return ps.Problem(ps.System([ps.Eq(D(x), 0.1 * x + k * x * W)], name="gbm"), {x: 1.0}, (0, 1), {k: 0.2})


@pytest.fixture(scope="module")
def brusselator() -> ps.Problem:
    u, w = ps.fields("u w", X, Y)
    kick = sp.Piecewise((5, (X - sp.Rational(3, 10)) ** 2 + (Y - sp.Rational(3, 5)) ** 2 <= 0.01), (0, True))
    system = ps.PDESystem(
        [
            ps.Eq(D(u), 1 + u**2 * w - 4.4 * u + k * ps.laplacian(u) + kick),
            ps.Eq(D(w), 3.4 * u - u**2 * w + k * ps.laplacian(w)),
        ],
        domain={X: (0, 1), Y: (0, 1)},
        boundary={X: ps.Periodic(), Y: ps.Neumann(0)},
        initial={u: 1 + sp.cos(2 * sp.pi * X) / 2, w: 3 + sp.cos(sp.pi * Y)},
    )
    return system.discretize({X: 16, Y: 16}).problem((0, 0.5), {k: 0.01})


def agree(one: xr.Dataset, other: xr.Dataset, rtol: float) -> None:
    """All variables are those of the other to that part of their largest value."""
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.data_vars:
        scale = float(abs(other[name]).max())
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=rtol * scale, err_msg=str(name))


@pytest.mark.parametrize("alg", ["Tsit5", "KenCarp4", "Kvaerno5"])
def test_a_solve_is_that_of_the_cpu(problem: ps.Problem, alg: str) -> None:
    options = {"rtol": 1e-9, "atol": 1e-9, "saveat": 0.1, "engine": "jax"}
    there, here = (ps.solve(problem, alg, device=device, **options) for device in ("cuda", "cpu"))
    assert there.attrs["device"] == "cuda"
    assert there.attrs["n_steps"] == here.attrs["n_steps"]
    agree(there, here, 1e-7)


def test_single_precision(problem: ps.Problem) -> None:
    there = ps.solve(problem, "Tsit5", device="cuda", precision="float32", saveat=0.1, engine="jax")
    assert there.x.dtype == np.float32
    agree(there, ps.solve(problem, "Tsit5", saveat=0.1, rtol=1e-9, engine="jax"), 1e-3)


def test_a_device_is_reason_enough_to_take_the_engine(problem: ps.Problem) -> None:
    assert ps.solve(problem, device="cuda").attrs["engine"] == "jax"


def test_events_are_where_the_cpu_finds_them() -> None:
    fall = ps.System([ps.Eq(D(x), v), ps.Eq(D(v), -9.81)], events=[ps.Event(x, {v: -0.8 * v}, direction="down")])
    problem = ps.Problem(fall, {x: 1.0, v: 0.0}, (0, 2))
    there, here = (ps.solve(problem, "Tsit5", device=device, saveat=0.1, engine="jax") for device in ("cuda", "cpu"))
    agree(there, here, 1e-7)


def test_a_path_of_a_seed_is_the_same_one(noisy: ps.Problem) -> None:
    options = {"dt": 1e-3, "saveat": 0.1, "seed": 3, "engine": "jax"}
    there, here = (ps.solve(noisy, "EM", device=device, **options) for device in ("cuda", "cpu"))
    agree(there, here, DRAWS)


def test_ensembles_are_those_of_the_cpu(problem: ps.Problem, noisy: ps.Problem) -> None:
    over = {k: xr.DataArray(np.linspace(1, 4, 7), dims="k"), x: xr.DataArray([0.5, 2.0], dims="start")}
    options = {"over": over, "saveat": 0.5, "rtol": 1e-9, "atol": 1e-9, "engine": "jax"}
    there, here = (ps.solve_ensemble(problem, "Tsit5", device=device, **options) for device in ("cuda", "cpu"))
    agree(there[["x", "v", "energy"]], here[["x", "v", "energy"]], 1e-7)
    paths = {"dt": 0.01, "trajectories": 100, "seed": 3, "engine": "jax"}
    there, here = (ps.solve_ensemble(noisy, "EM", device=device, **paths) for device in ("cuda", "cpu"))
    agree(there[["x"]], here[["x"]], DRAWS)


@pytest.mark.parametrize("alg", ["Tsit5", "Dopri8"])
def test_fields_are_those_of_the_cpu(brusselator: ps.Problem, alg: str) -> None:
    options = {"rtol": 1e-8, "atol": 1e-8, "saveat": 0.1, "engine": "jax"}
    there, here = (ps.solve(brusselator, alg, device=device, **options) for device in ("cuda", "cpu"))
    assert there.attrs["device"] == "cuda"
    agree(there, here, 1e-7)


def test_spectral_fields_are_those_of_the_cpu() -> None:
    (u,) = ps.fields("u,", X)
    system = ps.PDESystem(
        [ps.Eq(D(u), -u * D(u, X) - D(u, X, 2) - D(u, X, 4))],
        domain={X: (0, 32 * sp.pi)},
        boundary={X: ps.Periodic()},
        initial={u: sp.cos(X / 16) * (1 + sp.sin(X / 16))},
    )
    problem = system.discretize({X: 128}, scheme="spectral").problem((0, 5))
    there, here = (ps.solve(problem, "ETDRK4", dt=0.05, saveat=1.0, device=d, engine="jax") for d in ("cuda", "cpu"))
    agree(there, here, 1e-9)


def test_what_runs_from_the_host_is_refused(brusselator: ps.Problem) -> None:
    with pytest.raises(ps.UnsupportedError, match="KenCarp4 for partial differential equations runs on the CPU"):
        ps.solve(brusselator, "KenCarp4", device="cuda", engine="jax")
