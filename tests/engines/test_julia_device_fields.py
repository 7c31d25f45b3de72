"""Partial differential equations in the kernels that run on a GPU, here on a CPU: `make test-julia`.

Where Julia has JLArrays.jl its arrays are used as well, which refuse what a GPU's would be slow at or cannot do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines.julia import JuliaEngine, bridge, environment
from pysciml.engines.julia.fields import send_fields
from pysciml.engines.julia.transfer import address, floats
from tests.pde.test_kernels import SYSTEMS, conservation, stirred
from tests.pde.test_solving import brusselator

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("julia_engine")]

D, t = ps.D, ps.t
X, Y = ps.coordinates("X Y")

#: What has backends, with Julia's number of the package.
_PACKAGES = {
    "KernelAbstractions": ("63c18a36-062a-441e-b654-da1e3ab1ce7c", "CPU"),
    "JLArrays": ("27aeb0d3-9eb9-45fb-866b-73c2ecf80fcb", "JLBackend"),
}


def use_backend(package: str) -> str:
    """The name of a device whose backend a package has; skips where it is not installed."""
    found = environment.find()
    if isinstance(found, str) or environment.lacking(found.project, (package,)):
        pytest.skip(f"the Julia environment has no {package}")
    uuid, backend = _PACKAGES[package]
    device = package.lower()
    bridge.julia().seval(
        f"let loaded = Base.require(Base.PkgId(Base.UUID({uuid!r}), {package!r}))\n"
        f"    @eval backend(::Val{{:{device}}}) = $loaded.{backend}()\nend".replace("'", '"')
    )
    return device


@pytest.fixture(params=list(_PACKAGES))
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a device whose kernels run on the CPU."""
    monkeypatch.setattr(JuliaEngine, "check_place", lambda self, model, device, precision, ensemble=False: None)
    return use_backend(request.param)


def heat_on_a_line() -> ps.Problem:
    """Values at one end that move, a flux at the other."""
    w, k = ps.fields("w", X), ps.parameters("k")
    system = ps.PDESystem(
        [ps.Eq(D(w), k * D(w, X, 2))],
        {X: (0, 1)},
        {X: {w: (ps.Dirichlet(lower=sp.sin(t)), ps.Neumann(upper=1))}},
        {w: X**2 / 2},
        observed={"heat": ps.integral(w)},
    )
    return system.discretize({X: 40}).problem((0, 0.2), {k: 0.3})


def heat_on_a_square() -> ps.Problem:
    w = ps.fields("w", X, Y)
    system = ps.PDESystem(
        [ps.Eq(D(w), ps.laplacian(w) / 10)],
        {X: (0, 1), Y: (0, 1)},
        {X: ps.Dirichlet(0), Y: ps.Neumann(0)},
        {w: sp.sin(sp.pi * X) * (2 + sp.cos(sp.pi * Y))},
    )
    return system.discretize({X: 17, Y: 12}).problem((0, 0.2))


def driven_brusselator(n: int = 12) -> ps.Problem:
    """With a source in a disc, as in Hairer & Wanner, volume II, section IV.10, but one that swells instead of being
    switched on: across a jump in time the last digits of a step decide on more than the last ones of the solution.
    """
    u, v = ps.fields("u v", X, Y)
    A, B, alpha = ps.parameters("A B alpha")
    source = sp.Piecewise((5 * sp.sin(3 * t) ** 2, (X - 0.3) ** 2 + (Y - 0.6) ** 2 <= 0.01), (0, True))
    system = ps.PDESystem(
        [
            ps.Eq(D(u), B + u**2 * v - (A + 1) * u + alpha * ps.laplacian(u) + source),
            ps.Eq(D(v), A * u - u**2 * v + alpha * ps.laplacian(v)),
        ],
        domain={X: (0, 1), Y: (0, 1)},
        boundary={X: ps.Periodic(), Y: ps.Periodic()},
        initial={u: 22 * (Y * (1 - Y)) ** sp.Rational(3, 2), v: 27 * (X * (1 - X)) ** sp.Rational(3, 2)},
        observed={"total": ps.integral(u + v)},
    )
    return system.discretize({X: n, Y: n}).problem((0, 0.3), {A: 3.4, B: 1, alpha: 0.05})


PROBLEMS: dict[str, Any] = {
    "heat on a line": heat_on_a_line,
    "heat on a square": heat_on_a_square,
    "Brusselator": driven_brusselator,
    "WENO": lambda: conservation("weno").problem((0, 0.1)),
    "eliminated": lambda: stirred().problem((0, 0.1), {"a": 0.5}),
}


def same(found: Any, expected: Any, rtol: float) -> None:
    """Every field and observed quantity, relative to its largest value."""
    assert list(found.data_vars) == list(expected.data_vars)
    for name in expected.data_vars:
        scale = float(abs(expected[name]).max())
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "Fourier"])
def test_kernels_compute_what_the_graph_means(device: str, name: str) -> None:
    model = SYSTEMS[name]().model
    graph, module = model.graph, bridge.julia()
    rng = np.random.default_rng(0)
    u, p = floats(rng.uniform(0.5, 2, graph.n_states)), floats(rng.uniform(0.5, 2, graph.n_params))
    states, parameters = module.floats(address(u), u.size), module.floats(address(p), p.size)
    on_device = module.seval(
        "(model, device, u, p, t) -> evaluate(model, backend(Val(Symbol(device))), u, p, t, Float64)"
    )
    found = np.array(on_device(send_fields(model), device, states, parameters, 0.3))
    np.testing.assert_allclose(found, graph.evaluate("rhs", u, p, 0.3), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_a_solve_is_that_of_the_cpu(device: str, name: str) -> None:
    problem = PROBLEMS[name]()
    options = {"engine": "julia", "rtol": 1e-7, "atol": 1e-9, "saveat": problem.tspan[1] / 4}
    there = ps.solve(problem, "Tsit5", device=device, **options)
    here = ps.solve(problem, "Tsit5", **options)
    same(there, here, 1e-12)
    counts = ("algorithm", "retcode", "n_steps", "n_rejected", "n_rhs")
    assert [there.attrs[key] for key in counts] == [here.attrs[key] for key in counts]
    assert (there.attrs["device"], "device" in here.attrs) == (device, False)


def test_steps_of_its_own_and_fixed_ones(device: str) -> None:
    problem = heat_on_a_line()
    for alg, options in (("Tsit5", {"rtol": 1e-5}), ("SSPRK22", {"dt": 5e-4}), ("ROCK2", {"rtol": 1e-5})):
        there = ps.solve(problem, alg, engine="julia", device=device, **options)
        here = ps.solve(problem, alg, engine="julia", **options)
        # Norms are summed in another order: estimates of the error, and steps by them, differ in their last digits.
        exact = "dt" in options
        np.testing.assert_allclose(there.t, here.t, rtol=0 if exact else 1e-6)
        same(there.isel(t=-1), here.isel(t=-1), 1e-12 if exact else 1e-9)


def test_single_precision(device: str) -> None:
    problem = driven_brusselator()
    options = {"engine": "julia", "saveat": [0.1, 0.3]}
    single = ps.solve(problem, "Tsit5", device=device, precision="float32", rtol=1e-5, atol=1e-5, **options)
    assert (single.u.dtype, single.attrs["precision"]) == ("float32", "float32")
    same(single, ps.solve(problem, "Tsit5", rtol=1e-9, atol=1e-9, **options), 2e-4)


def test_an_implicit_method_takes_products_with_the_jacobian(device: str) -> None:
    problem = brusselator(8)
    options = {"engine": "julia", "rtol": 1e-7, "atol": 1e-7, "saveat": [1.0]}
    there = ps.solve(problem, "QNDF(linsolve=KrylovJL_GMRES)", device=device, **options)
    same(there, ps.solve(problem, "Tsit5", engine="julia", rtol=1e-10, atol=1e-10, saveat=[1.0]), 1e-5)


def test_what_was_computed_before_a_failure_is_kept(device: str) -> None:
    with pytest.raises(ps.SolverError, match="max_steps = 5 steps") as caught:
        ps.solve(heat_on_a_line(), "Tsit5", engine="julia", device=device, max_steps=5)
    assert caught.value.retcode == "MaxIters"
    assert 1 < caught.value.partial.t.size <= 6


def test_what_a_gpu_cannot_solve_is_refused_by_name(device: str) -> None:
    problem = heat_on_a_line()
    for alg, reason in (
        (None, "name an algorithm: ROCK2 and ROCK4"),
        ("FBDF", "FBDF factorizes the Jacobian"),
        ("AutoTsit5", "AutoTsit5 factorizes the Jacobian"),
    ):
        with pytest.raises(ps.UnsupportedError, match=f"on a GPU: .*{reason}"):
            ps.solve(problem, alg, engine="julia", device=device)
    waves = SYSTEMS["Fourier"]().problem((0, 1e-3))
    if device == "jlarrays":
        with pytest.raises(ps.UnsupportedError, match="no Fourier transforms of a JLArray"):
            ps.solve(waves, "Tsit5", engine="julia", device=device)
    else:
        options = {"engine": "julia", "saveat": [1e-3], "rtol": 1e-6}
        same(ps.solve(waves, "Tsit5", device=device, **options), ps.solve(waves, "Tsit5", **options), 1e-10)
