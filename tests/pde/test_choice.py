"""What happens by default: which engine takes a field, and which method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines.eigenvalue import decay, largest_eigenvalue
from pysciml.solve import choose_engine

D = ps.D
X, Y = ps.coordinates("X Y")
u = ps.fields("u", X)
w = ps.fields("w", X, Y)


def heat(field: Any, n: int, order: int = 2, **options: Any) -> Any:
    coordinates = field.args[1:]
    system = ps.PDESystem(
        [ps.Eq(D(field), ps.laplacian(field))],
        dict.fromkeys(coordinates, (0, 1)),
        dict.fromkeys(coordinates, ps.Dirichlet(0)),
        {field: sp.sin(sp.pi * X)},
    )
    return system.discretize(dict.fromkeys(coordinates, n), order=order, **options)


def test_lines_are_compiled_and_squares_are_array_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax", reason="needs JAX")
    monkeypatch.delenv("PYSCIML_ENGINE", raising=False)
    assert choose_engine(heat(u, 16).model, None, "auto").name == "native"
    assert choose_engine(heat(u, 16).model, "QNDF", "auto").name == "native"
    assert choose_engine(heat(u, 16).model, "Tsit5", "auto", ensemble=True).name == "jax"
    assert choose_engine(heat(u, 16, scheme="spectral").model, None, "auto").name == "jax"
    assert choose_engine(heat(w, 16).model, None, "auto").name == "jax"


@pytest.mark.parametrize("n", [64, 400])
def test_a_smooth_start_does_not_hide_that_a_fine_grid_is_stiff(n: int) -> None:
    """The first steps could be long, were it not for stability."""
    sol = ps.solve(heat(u, n).problem((0, 3)), engine="native")
    assert sol.attrs["algorithm"] == "QNDF"
    assert sol.attrs["n_steps"] < 300
    np.testing.assert_allclose(sol.u.isel(t=-1), 0, atol=1e-8)


@pytest.mark.parametrize("where", [1, sp.Heaviside(X - 0.75)])
def test_what_happens_fast_at_one_place_is_stiff(where: Any) -> None:
    """A reaction, everywhere or in a quarter of the square, that diffusion is slow beside."""
    system = ps.PDESystem(
        [ps.Eq(D(w), ps.laplacian(w) / 100 - 1e5 * where * (w - sp.cos(ps.t) * sp.sin(sp.pi * X)))],
        {X: (0, 1), Y: (0, 1)},
        {X: ps.Dirichlet(0), Y: ps.Neumann(0)},
        {w: sp.sin(sp.pi * X)},
    )
    sol = ps.solve(system.discretize({X: 24, Y: 24}).problem((0, 1)), engine="native", saveat=[1])
    assert sol.attrs["algorithm"] == "QNDF"
    assert sol.attrs["n_steps"] < 200
    there = sol.w.isel(t=-1).sel(X=slice(0.8, None))
    assert float(np.abs(there - np.cos(1) * np.sin(np.pi * there.X)).max()) < 1e-4


def test_waves_on_a_fine_grid_are_not_stiff() -> None:
    wave = ps.PDESystem([ps.Eq(D(u, 2), D(u, X, 2))], {X: (0, 1)}, {X: ps.Dirichlet(0)}, {u: sp.sin(sp.pi * X)})
    sol = ps.solve(wave.discretize({X: 400}).problem((0, 1)), engine="native", saveat=[1])
    assert sol.attrs["algorithm"] == "Tsit5"
    np.testing.assert_allclose(sol.u[-1], -np.sin(np.pi * sol.X), atol=1e-4)


def test_the_largest_eigenvalue() -> None:
    generator = np.random.default_rng(2)
    n = 200
    decaying = -np.diag(generator.uniform(1, 50, n)) + np.triu(generator.normal(size=(n, n)), 1) / 10
    waves = np.zeros((n, n))
    waves[:-1, 1:] += np.eye(n - 1)
    waves[1:, :-1] -= np.eye(n - 1)
    for matrix in (decaying, waves):
        exact = np.linalg.eigvals(matrix)
        found = largest_eigenvalue(lambda v, matrix=matrix: matrix @ v, n)
        assert found is not None
        assert abs(found) == pytest.approx(np.abs(exact).max(), rel=0.05)
    assert decay(-3 + 1j) == 3
    assert decay(-1 + 3j) == 0
    assert decay(2 + 0j) == 0
    assert largest_eigenvalue(lambda v: v * np.nan, n) is None
