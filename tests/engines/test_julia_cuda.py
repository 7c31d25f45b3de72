"""Partial differential equations on an NVIDIA GPU, compared with the CPU, where Julia has CUDA.jl and it finds one."""

from __future__ import annotations

import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines.julia import bridge, environment
from tests.engines.test_julia_device_fields import PROBLEMS, driven_brusselator, same

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("julia_engine", "gpu")]

X = ps.coordinates("X")
CUDA = {"engine": "julia", "device": "cuda"}


@pytest.fixture(scope="module")
def gpu() -> None:
    """Skip where there is no GPU."""
    found = environment.find()
    if isinstance(found, str) or environment.lacking(found.project, ("CUDA",)):
        pytest.skip("the Julia environment has no CUDA")
    if reason := str(bridge.julia().load_device("cuda", False)):
        pytest.skip(reason)


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_a_solve_is_that_of_the_cpu(name: str) -> None:
    problem = PROBLEMS[name]()
    options = {"rtol": 1e-7, "atol": 1e-9, "saveat": problem.tspan[1] / 4}
    there = ps.solve(problem, "Tsit5", **CUDA, **options)
    here = ps.solve(problem, "Tsit5", engine="julia", **options)
    # The device has multiplications and additions in one rounding, and sums in another order.
    same(there, here, 1e-9)
    assert (there.attrs["n_steps"], there.attrs["device"]) == (here.attrs["n_steps"], "cuda")


@pytest.mark.parametrize(
    ("alg", "options"), [("SSPRK43", {"rtol": 1e-6}), ("ROCK2", {"rtol": 1e-6}), ("SSPRK33", {"dt": 1e-3})]
)
def test_other_explicit_methods(alg: str, options: dict[str, float]) -> None:
    problem = driven_brusselator(16)
    there = ps.solve(problem, alg, saveat=[0.3], **CUDA, **options)
    same(there, ps.solve(problem, alg, engine="julia", saveat=[0.3], **options), 1e-6)


def test_spectral_derivatives() -> None:
    u = ps.fields("u", X)
    burgers = ps.PDESystem(
        [ps.Eq(ps.D(u), -u * ps.D(u, X) + ps.D(u, X, 2) / 20)],
        domain={X: (0, 2 * sp.pi)},
        boundary={X: ps.Periodic()},
        initial={u: 1 + sp.sin(X) / 2},
    )
    problem = burgers.discretize({X: 48}, scheme="spectral").problem((0, 1))
    options = {"saveat": [0.5, 1], "rtol": 1e-9, "atol": 1e-10}
    same(ps.solve(problem, "Tsit5", **CUDA, **options), ps.solve(problem, "Tsit5", engine="julia", **options), 1e-8)


def test_single_precision() -> None:
    problem = driven_brusselator(16).remake(tspan=(0, 0.1))  # before the source comes on, which costs its own accuracy
    single = ps.solve(problem, "Tsit5", precision="float32", rtol=1e-5, atol=1e-5, saveat=[0.05, 0.1], **CUDA)
    assert (single.u.dtype, single.attrs["precision"]) == ("float32", "float32")
    same(single, ps.solve(problem, "Tsit5", engine="julia", rtol=1e-9, atol=1e-9, saveat=[0.05, 0.1]), 1e-5)


def test_an_implicit_method_takes_products_with_the_jacobian() -> None:
    problem = driven_brusselator(16)
    options = {"rtol": 1e-7, "atol": 1e-7, "saveat": [0.1]}
    there = ps.solve(problem, "QNDF(linsolve=KrylovJL_GMRES)", **CUDA, **options)
    same(there, ps.solve(problem, "Tsit5", engine="julia", rtol=1e-10, atol=1e-10, saveat=[0.1]), 1e-5)
