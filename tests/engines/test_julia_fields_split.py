"""Fields solved by IMEX methods on a real Julia: the linear part implicitly, the rest explicitly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.errors import UnsupportedError
from tests.pde.test_solving import brusselator

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("julia_engine")]

D, t = ps.D, ps.t
X = ps.coordinates("X")
w = ps.fields("w", X)
k, a = ps.parameters("k a")


def reaction(
    rate: Any = None, boundary: Any = None, start: Any = None, cells: int = 64, scheme: str = "central"
) -> ps.Problem:
    system = ps.PDESystem(
        [ps.Eq(D(w), rate if rate is not None else k * D(w, X, 2) + a * (w - w**3) + sp.cos(t))],
        {X: (0, 1)},
        {X: boundary or ps.Periodic()},
        {w: sp.sin(2 * sp.pi * X) if start is None else start},
    )
    values = {name: value for name, value in ((k, 0.1), (a, 2.0)) if name in system.parameters}
    return system.discretize({X: cells}, scheme=scheme).problem((0, 1), values)


@pytest.mark.parametrize(("alg", "order"), [("IMEXEuler", 1), ("SBDF2", 2), ("CNAB2", 2), ("CNLF2", 2)])
def test_fixed_steps_have_their_order(alg: str, order: int) -> None:
    problem = reaction(cells=24 if alg == "SBDF2" else 64)  # a dense matrix, sparse ones
    exact = ps.solve(problem, engine="native", rtol=1e-11, atol=1e-11, saveat=[1.0])
    errors = np.array(
        [
            float(abs(ps.solve(problem, alg, engine="julia", dt=1 / n, saveat=[1.0]).w - exact.w).max())
            for n in (200, 400, 800)
        ]
    )
    assert np.log2(errors[:-1] / errors[1:]) == pytest.approx([order, order], abs=0.25)


@pytest.mark.parametrize("alg", ["KenCarp4", "KenCarp5", "KenCarp58"])
def test_a_stiff_brusselator_agrees_and_takes_few_steps(alg: str) -> None:
    alpha = ps.parameters("alpha")
    problem = brusselator().remake(p={alpha: 2.0})
    reference = ps.solve(problem, "QNDF", engine="jax", rtol=1e-9, atol=1e-10, saveat=[0.5, 1.0])
    sol = ps.solve(problem, alg, engine="julia", rtol=1e-7, atol=1e-8, saveat=[0.5, 1.0])
    np.testing.assert_allclose(sol.u, reference.u, rtol=1e-4)
    assert sol.attrs["n_steps"] < 400
    explicit = ps.solve(problem, "Tsit5", engine="julia", rtol=1e-7, atol=1e-8, saveat=[0.5, 1.0])
    assert explicit.attrs["n_steps"] > 3 * sol.attrs["n_steps"]


def test_with_values_at_boundaries_that_move_the_whole_is_implicit() -> None:
    """In two parts, adaptive methods would be off by a thousand tolerances; those of fixed steps keep their order."""
    exact = sp.exp(-X) * sp.sin(5 * t) + X**2
    rate = D(w, X, 2) + w**2 + sp.diff(exact, t) - sp.diff(exact, X, 2) - exact**2
    problem = reaction(rate, ps.Dirichlet(lower=exact.subs(X, 0), upper=exact.subs(X, 1)), exact.subs(t, 0))
    other = ps.solve(problem, engine="native", rtol=1e-10, atol=1e-10, saveat=[1.0])
    sol = ps.solve(problem, "KenCarp4", engine="julia", rtol=1e-8, atol=1e-8, saveat=[1.0])
    np.testing.assert_allclose(sol.w, other.w, atol=1e-6)
    assert sol.attrs["algorithm"] == "KenCarp4"
    errors = [abs(ps.solve(problem, "CNAB2", engine="julia", dt=dt, saveat=[1.0]).w - other.w) for dt in (0.01, 0.005)]
    assert np.log2(float(errors[0].max()) / float(errors[1].max())) == pytest.approx(2, abs=0.25)
    again = ps.solve(problem, "KenCarp4", engine="julia", rtol=1e-8, atol=1e-8, saveat=[1.0])
    np.testing.assert_array_equal(again.w, sol.w)  # the parts are there now, and not taken


def test_an_equation_that_is_all_linear() -> None:
    problem = reaction(k * D(w, X, 2) - a * w)
    sol = ps.solve(problem, "CNAB2", engine="julia", dt=1e-3, saveat=[1.0])
    rate = 0.1 * 4 * 64**2 * np.sin(np.pi / 64) ** 2 + 2.0  # that of the mode on this grid
    x = sol.X.values
    np.testing.assert_allclose(sol.w[-1], np.exp(-rate) * np.sin(2 * np.pi * x), rtol=1e-4, atol=1e-9)


def test_sweeps_have_matrices_of_their_own() -> None:
    problem = reaction()
    values = np.linspace(0.05, 0.4, 7)
    options: dict[str, Any] = {"saveat": [1.0], "rtol": 1e-8, "atol": 1e-8, "engine": "julia"}
    sweep = ps.solve_ensemble(problem, "KenCarp4", over={k: values}, **options)
    assert (sweep.retcode == "Success").all()
    for value in (values[0], values[4]):
        one = ps.solve(problem.remake(p={k: value}), "KenCarp4", **options)
        np.testing.assert_allclose(sweep.w.sel(k=value), one.w, rtol=1e-12)


def test_without_a_linear_part_methods_that_need_none_solve_the_whole() -> None:
    problem = reaction(D(k * (1 + w**2) * D(w, X), X))
    other = ps.solve(problem, engine="native", rtol=1e-10, atol=1e-10, saveat=[1.0])
    sol = ps.solve(problem, "KenCarp4", engine="julia", rtol=1e-8, atol=1e-8, saveat=[1.0])
    np.testing.assert_allclose(sol.w, other.w, atol=1e-6)
    with pytest.raises(UnsupportedError, match="has no terms that are linear in the fields"):
        ps.solve(problem, "SBDF2", engine="julia", dt=1e-3)


def test_a_fourier_method_has_a_full_matrix() -> None:
    problem = reaction(cells=32, scheme="spectral")
    other = ps.solve(problem, "Tsit5", engine="jax", rtol=1e-9, atol=1e-9, saveat=[1.0])
    sol = ps.solve(problem, "KenCarp4", engine="julia", rtol=1e-8, atol=1e-8, saveat=[1.0])
    np.testing.assert_allclose(sol.w, other.w, atol=1e-6)
