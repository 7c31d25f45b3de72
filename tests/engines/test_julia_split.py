"""Terms marked as implicit, on a real Julia: orders, stiff problems, and that the marks change nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps
from pysciml import implicit

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("julia_engine")]

D = ps.D
t = ps.t
x, y = ps.variables("x y")
k = ps.parameters("k")


def solve(problem: ps.Problem, alg: str | None = None, **options):
    return ps.solve(problem, alg, engine="julia", **options)


def relaxation(mark, stiffness: float) -> ps.Problem:
    """A stiff first state that follows the cosine, and a slow second one."""
    system = ps.System([ps.Eq(D(x), mark(-k * (x - sp.cos(t))) + y), ps.Eq(D(y), -x * y)])
    return ps.Problem(system, {x: 1, y: 0.5}, (0, 1), {k: stiffness})


def plain(term):
    return term


@pytest.mark.parametrize(("alg", "order"), [("IMEXEuler", 1), ("SBDF2", 2), ("CNAB2", 2), ("CNLF2", 2)])
def test_fixed_steps_have_their_order(alg: str, order: int) -> None:
    problem = relaxation(implicit, 2.0)
    exact = ps.solve(problem, "Tsit5", engine="native", rtol=1e-12, atol=1e-12, saveat=[1.0])
    errors = np.array([abs(solve(problem, alg, dt=1 / n).x[-1].item() - exact.x.item()) for n in (64, 128, 256)])
    assert np.log2(errors[:-1] / errors[1:]) == pytest.approx([order, order], abs=0.35)


KENCARP = ["KenCarp3", "KenCarp4", "KenCarp5", "KenCarp47", "KenCarp58"]


@pytest.mark.parametrize("alg", [*KENCARP, "ARS343"])
def test_adaptive_methods_solve_the_stiff_part_implicitly(alg: str) -> None:
    """A stiff state is held to the tolerance, as the estimate of the error is taken as it is.

    Smoothed, it loses what the explicit part leaves in a stiff state: there the order of the additive methods falls,
    and no step is refused for it (the next test holds the other state alone).
    """
    options = {"rtol": 1e-7, "atol": 1e-7, "saveat": [0.5, 1.0]}
    marked, whole = relaxation(implicit, 1e6), relaxation(plain, 1e6)
    exact = solve(whole, "Rodas5P", rtol=1e-10, atol=1e-10, saveat=[0.5, 1.0])
    as_it_is = alg if alg == "ARS343" else f"{alg}(smooth_est=false)"
    for problem, name in ((marked, alg), (whole, as_it_is)):  # without marks everything is implicit
        sol = solve(problem, name, **options)
        assert sol.attrs["algorithm"] == as_it_is
        np.testing.assert_allclose(sol.x, exact.x, rtol=1e-5)
        np.testing.assert_allclose(sol.y, exact.y, rtol=1e-5)


@pytest.mark.parametrize("alg", KENCARP)
def test_a_smoothed_estimate_holds_the_state_that_is_not_stiff(alg: str) -> None:
    problem = relaxation(implicit, 1e6)
    exact = solve(problem, "Rodas5P", rtol=1e-10, atol=1e-10, saveat=[0.5, 1.0])
    sol = solve(problem, f"{alg}(smooth_est=true)", rtol=1e-9, atol=1e-9, saveat=[0.5, 1.0])
    np.testing.assert_allclose(sol.y, exact.y, rtol=1e-6)
    assert sol.attrs["n_steps"] < 100  # explicitly it would be some 1e6


def test_the_other_part_is_explicit() -> None:
    """Marking the wrong term leaves the stiff one to be solved explicitly, with steps of some 1/k.

    A smoothed estimate of the error does not see that well either: it lets such a solve go up.
    """
    slow = ps.System([ps.Eq(D(x), -k * (x - sp.cos(t)) + implicit(y)), ps.Eq(D(y), -x * y)])
    alg, options = "KenCarp4", {"rtol": 1e-4, "atol": 1e-4}
    right = solve(relaxation(implicit, 1e4), alg, **options)
    wrong = solve(ps.Problem(slow, {x: 1, y: 0.5}, (0, 1), {k: 1e4}), alg, **options)
    assert right.attrs["n_steps"] < 100
    assert wrong.attrs["n_steps"] > 1000
    assert wrong.x[-1].item() == pytest.approx(right.x[-1].item(), rel=1e-3)


@pytest.mark.parametrize("alg", [None, "Tsit5", "FBDF", "Rodas5P", "TRBDF2"])
def test_marks_change_nothing_for_other_methods(alg: str | None) -> None:
    options = {"rtol": 1e-7, "atol": 1e-7, "saveat": [0.3, 1.0]}
    marked, whole = (solve(relaxation(mark, 100.0), alg, **options) for mark in (implicit, plain))
    for name in ("x", "y"):
        np.testing.assert_allclose(marked[name], whole[name], rtol=1e-10)
    assert marked.attrs["n_steps"] == whole.attrs["n_steps"]


def test_a_sparse_implicit_part_and_an_ensemble() -> None:
    """Diffusion implicitly and reaction explicitly, on a ring of 80 cells."""
    n = 80
    u = ps.variables(f"u:{n}")
    equations = [
        ps.Eq(D(u[i]), implicit(k * (u[i - 1] - 2 * u[i] + u[(i + 1) % n])) + u[i] * (1 - u[i])) for i in range(n)
    ]
    start = {v: 0.5 + 0.4 * np.sin(2 * np.pi * i / n) for i, v in enumerate(u)}
    problem = ps.Problem(ps.System(equations), start, (0, 1), {k: 400.0})
    exact = ps.solve(problem, "QNDF", engine="native", rtol=1e-9, atol=1e-9, saveat=[1.0])
    sol = solve(problem, "KenCarp4", rtol=1e-8, atol=1e-8, saveat=[1.0])
    for i in (0, 17, 79):
        assert sol[f"u{i}"].item() == pytest.approx(exact[f"u{i}"].item(), rel=1e-6)
    options = {"rtol": 1e-8, "atol": 1e-8, "saveat": [1.0]}
    values = xr.DataArray([100.0, 400.0], dims="k")
    sweep = ps.solve_ensemble(problem, "KenCarp4", over={k: values}, engine="julia", **options)
    np.testing.assert_allclose(sweep.u17.isel(t=0), [solve(problem.remake(p={"k": v}), "KenCarp4", **options).u17.item()
                                                     for v in (100.0, 400.0)], rtol=1e-12)  # fmt: skip
