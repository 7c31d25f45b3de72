"""From words to labelled fields: both engines, every method, results, events of the clock."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps
from pysciml.engines.fields.operator import interpreted
from pysciml.graph.field_jacobian import jacobian

D, t = ps.D, ps.t
X, Y = ps.coordinates("X Y")
ENGINES = ["native", "jax"]


def brusselator(n: int = 16) -> Any:
    u, v = ps.fields("u v", X, Y)
    A, B, alpha = ps.parameters("A B alpha")
    system = ps.PDESystem(
        [
            ps.Eq(D(u), B + u**2 * v - (A + 1) * u + alpha * ps.laplacian(u)),
            ps.Eq(D(v), A * u - u**2 * v + alpha * ps.laplacian(v)),
        ],
        domain={X: (0, 1), Y: (0, 1)},
        boundary={X: ps.Periodic(), Y: ps.Periodic()},
        initial={u: 22 * (Y * (1 - Y)) ** sp.Rational(3, 2), v: 27 * (X * (1 - X)) ** sp.Rational(3, 2)},
        observed={"total": ps.integral(u + v), "product": u * v},
    )
    return system.discretize({X: n, Y: n}).problem((0, 1), {A: 3.4, B: 1, alpha: 0.1})


def scipy_solution(problem: Any, times: Any) -> Any:
    """An independent solver, with the Jacobian as a matrix."""
    from scipy.integrate import solve_ivp

    graph = problem.system.graph
    # Its first steps subtract rows of `numpy.empty`, which may hold anything, and do not use the result.
    with np.errstate(invalid="ignore", over="ignore"):
        return solve_ivp(
            lambda t, y: graph.evaluate("rhs", y, problem.p, t),
            problem.tspan,
            problem.u0,
            method="BDF",
            rtol=1e-9,
            atol=1e-9,
            t_eval=times,
            jac=lambda t, y: jacobian(graph, y, problem.p, t).tocsc(),
        ).y


@pytest.mark.parametrize("engine", ENGINES)
def test_the_brusselator_agrees_with_another_solver(engine: str) -> None:
    problem = brusselator()
    times = [0.25, 1.0]
    sol = ps.solve(problem, "QNDF", engine=engine, rtol=1e-7, atol=1e-7, saveat=times)
    expected = scipy_solution(problem, times)
    found = np.stack([np.concatenate([sol.u.values[k].ravel(), sol.v.values[k].ravel()]) for k in range(2)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    assert sol.u.dims == ("t", "X", "Y")
    np.testing.assert_allclose(sol.X, (np.arange(16) + 0.5) / 16)
    np.testing.assert_allclose(sol.total, (sol.u + sol.v).mean(("X", "Y")))
    np.testing.assert_allclose(sol["product"], sol.u * sol.v)


@pytest.mark.parametrize("engine", ENGINES)
def test_explicit_methods_agree_with_another_solver(engine: str) -> None:
    problem = brusselator(12)
    sol = ps.solve(
        problem, {"native": "DP5", "jax": "Tsit5"}[engine], engine=engine, rtol=1e-8, atol=1e-8, saveat=[1.0]
    )
    found = np.concatenate([sol.u.values[-1].ravel(), sol.v.values[-1].ravel()])
    np.testing.assert_allclose(found, scipy_solution(problem, [1.0])[:, -1], rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_compiled_and_interpreted_operators_agree(engine: str) -> None:
    """Ghosts of every kind, branches, integrals, upwind differences, in value and derivative."""
    u, w = ps.fields("u w", X, Y)
    c = ps.parameters("c")
    system = ps.PDESystem(
        [
            ps.Eq(D(u), -c * D(u, X) + D((1 + u**2) * D(u, Y), Y) + sp.Max(u, w) - D(u**3, X) + ps.integral(u * w)),
            ps.Eq(D(w, 2), ps.laplacian(w) + sp.Piecewise((u, u > 0.5), (w**2, True)) * sp.sin(X * t)),
        ],
        {X: (0, 1), Y: (0, 2)},
        {
            X: {u: ps.Dirichlet(lower=sp.cos(t), upper=Y), w: ps.Robin(1, c, Y)},
            Y: {u: [ps.Neumann(lower=0), ps.Dirichlet(upper=1)], w: ps.Neumann(1)},
        },
    )
    grid = system.discretize({X: 12, Y: 9}, scheme="weno") if engine == "jax" else system.discretize({X: 12, Y: 9})
    graph, rng = grid.graph, np.random.default_rng(0)
    y, v, p = rng.random(graph.n_states), rng.normal(size=graph.n_states), np.array([0.7])
    reference = interpreted(graph, p, True)
    matrix = jacobian(graph, y, p, 0.3)
    np.testing.assert_allclose(reference.push(0.3, y, v), matrix @ v, rtol=1e-9, atol=1e-9)
    if engine == "jax":
        from pysciml.engines.jax.compiling import double_precision
        from pysciml.engines.jax.fields.run import compiled_operator

        with double_precision():
            operator, _ = compiled_operator(grid.model, p, True)
            np.testing.assert_allclose(operator.rhs(0.3, y), reference.rhs(0.3, y), rtol=1e-10, atol=1e-9)
            np.testing.assert_allclose(operator.push(0.3, y, v), matrix @ v, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("boundary", "order"), [(ps.Periodic(), 2), (ps.Neumann(0), 4), (ps.Dirichlet(1), 2), (ps.Robin(1, 1, 1), 6)]
)
def test_the_preconditioner_inverts_the_heat_equation(boundary: Any, order: int) -> None:
    from pysciml.engines.fields.precondition import Preconditioner, mean_reaction

    u = ps.fields("u", X, Y)
    system = ps.PDESystem(
        [ps.Eq(D(u), 3 * D(u, X, 2) + D(u, Y, 2) - u)], {X: (0, 1), Y: (0, 1)}, {X: boundary, Y: boundary}
    )
    graph = system.discretize({X: 40, Y: 30}, order=order).graph
    y = np.zeros(graph.n_states)
    operator = interpreted(graph, np.zeros(0), True)
    found = Preconditioner(operator, 0.0, y)
    matrix = jacobian(graph, y, np.zeros(0), 0.0)
    x = np.random.default_rng(0).normal(size=y.size)
    inverse = found.inverse(mean_reaction(graph, lambda v: operator.push(0.0, y, v)), 0.1)
    np.testing.assert_allclose(inverse(x - 0.1 * (matrix @ x)), x, atol=1e-5)


def test_diffusion_is_solved_implicitly_and_waves_explicitly() -> None:
    u = ps.fields("u", X)
    heat = ps.PDESystem([ps.Eq(D(u), D(u, X, 2))], {X: (0, 1)}, {X: ps.Dirichlet(0)}, {u: sp.sin(sp.pi * X)})
    sol = ps.solve(heat.discretize({X: 200}).problem((0, 0.2)), engine="native", rtol=1e-7, saveat=[0.2])
    assert sol.attrs["algorithm"] == "QNDF"
    np.testing.assert_allclose(sol.u[-1], np.exp(-0.2 * np.pi**2) * np.sin(np.pi * sol.X), rtol=1e-4)
    wave = ps.PDESystem([ps.Eq(D(u, 2), D(u, X, 2))], {X: (0, 1)}, {X: ps.Dirichlet(0)}, {u: sp.sin(sp.pi * X)})
    sol = ps.solve(wave.discretize({X: 50}, order=6).problem((0, 2)), engine="native", rtol=1e-8, saveat=[1.0, 2.0])
    assert sol.attrs["algorithm"] == "Tsit5"
    np.testing.assert_allclose(sol.u.values, np.sin(np.pi * sol.X.values) * np.array([[-1.0], [1.0]]), atol=1e-6)
    assert list(sol.data_vars) == ["u", "u_t"]


def test_mass_is_conserved_through_a_stiff_solve() -> None:
    u = ps.fields("u", X)
    system = ps.PDESystem(
        [ps.Eq(D(u), D((1 + u**2) * D(u, X), X))],
        {X: (0, 1)},
        {X: ps.Neumann(0)},
        {u: sp.exp(-50 * (X - 0.3) ** 2)},
        observed={"mass": ps.integral(u)},
    )
    sol = ps.solve(system.discretize({X: 100}).problem((0, 1)), engine="native", saveat=0.25)
    np.testing.assert_allclose(sol.mass, sol.mass[0], rtol=1e-12)
    np.testing.assert_allclose(sol.u[-1], float(sol.mass[0]), rtol=1e-3)


def test_a_shock_moves_at_its_speed_and_weno_does_not_overshoot() -> None:
    u = ps.fields("u", X)
    system = ps.PDESystem(
        [ps.Eq(D(u), -D(u**2 / 2, X))],
        {X: (0, 3)},
        {X: [ps.Dirichlet(lower=2), ps.Neumann(upper=0)]},
        {u: sp.Piecewise((2, X < 1), (0, True))},
        observed={"mass": ps.integral(u)},
    )
    grid = system.discretize({X: 75}, scheme="weno")
    sol = ps.solve(grid.problem((0, 1)), engine="native", rtol=1e-3, atol=1e-3, saveat=[1.0])
    assert sol.attrs["algorithm"] == "DP5"
    np.testing.assert_allclose(sol.mass[-1], 2 + 2, atol=0.02)  # the shock from 1, at speed 1, is at 2
    assert float(sol.X[np.argmin(np.abs(sol.u[-1].values - 1))]) == pytest.approx(2, abs=0.06)
    assert float(sol.u.max()) < 2.01
    assert float(sol.u.min()) > -0.01


def test_etdrk4_is_of_fourth_order() -> None:
    u = ps.fields("u", X)
    system = ps.PDESystem(
        [ps.Eq(D(u), -u * D(u, X) + D(u, X, 2) / 10)],
        {X: (0, 2 * sp.pi.evalf())},
        {X: ps.Periodic()},
        {u: sp.sin(X) + sp.cos(2 * X)},
    )
    problem = system.discretize({X: 64}, scheme="spectral").problem((0, 1))
    at = [ps.solve(problem, "ETDRK4", engine="jax", dt=dt, saveat=[1.0]).u.values[-1] for dt in (0.1, 0.05, 0.005)]
    errors = [float(np.abs(a - at[-1]).max()) for a in at[:2]]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.3)
    assert errors[1] < 5e-4


def test_modes_that_grow_stay_those_of_a_real_field() -> None:
    """What rounding adds beside them grows as they do, and had ended this solve before t = 350."""
    length = 10 * np.pi
    w = ps.fields("w", X, Y)
    system = ps.PDESystem(
        [ps.Eq(D(w), -(D(w, X) ** 2 + D(w, Y) ** 2) / 2 - ps.laplacian(w) - ps.laplacian(ps.laplacian(w)))],
        {X: (0, length), Y: (0, length)},
        {X: ps.Periodic(), Y: ps.Periodic()},
        {w: sp.cos(X / 5) * sp.sin(Y / 5) + sp.cos(Y / 5) / 2 + sp.sin(2 * X / 5) / 3},
    )
    problem = system.discretize({X: 32, Y: 32}, scheme="spectral").problem((0, 400))
    sol = ps.solve(problem, "ETDRK4", engine="jax", dt=0.05, saveat=[400.0])
    assert 1 < float((sol.w - sol.w.mean()).std()) < 10


def test_etdrk4_keeps_what_fields_do_to_each_other() -> None:
    """Linear terms in another field are no part of a field's own exponential."""
    u, v = ps.fields("u v", X)
    waves = ps.PDESystem(
        [ps.Eq(D(u), -D(v, X) + D(u, X, 2) / 50), ps.Eq(D(v), -D(u, X) + D(v, X, 2) / 50)],
        {X: (0, 1)},
        {X: ps.Periodic()},
        {u: sp.sin(2 * sp.pi * X), v: 0},
    )
    problem = waves.discretize({X: 16}, scheme="spectral").problem((0, 0.3))
    sol = ps.solve(problem, "ETDRK4", engine="jax", dt=0.005, saveat=[0.3])
    wave = np.exp(-((2 * np.pi) ** 2) * 0.3 / 50) * np.sin(2 * np.pi * sol.X.values) * np.cos(0.6 * np.pi)
    np.testing.assert_allclose(sol.u[-1], wave, atol=1e-6)


def test_parameters_and_initial_values_are_remade_without_building_again() -> None:
    u = ps.fields("u", X)
    a, k = ps.parameters("a k")
    system = ps.PDESystem([ps.Eq(D(u), k * D(u, X, 2))], {X: (0, 1)}, {X: ps.Neumann(0)}, {u: a * X})
    problem = system.discretize({X: 8}).problem((0, 1), {a: 2, k: 1})
    again = problem.remake(p={"a": 3})
    assert again.system is problem.system
    np.testing.assert_allclose(again.u0, 1.5 * problem.u0)
    given = xr.DataArray(np.arange(8.0), dims="X")
    np.testing.assert_allclose(problem.remake(u0={u: given}).u0, np.arange(8.0))
    np.testing.assert_allclose(problem.remake(u0={"u": given}).remake(p={a: 5}).u0, np.arange(8.0))


def test_it_runs_backward_in_time_and_saves_every_step() -> None:
    u = ps.fields("u", X)
    system = ps.PDESystem([ps.Eq(D(u), -D(u, X))], {X: (0, 1)}, {X: ps.Periodic()}, {u: sp.sin(2 * sp.pi * X)})
    sol = ps.solve(system.discretize({X: 32}, order=6).problem((1, 0)), engine="native", rtol=1e-8)
    assert float(sol.t[0]) == 1
    assert float(sol.t[-1]) == 0
    assert sol.sizes["t"] == sol.attrs["n_steps"] + 1
    np.testing.assert_allclose(sol.u[-1], sol.u[0], atol=1e-3)


def test_limits_end_a_solve_with_what_there_is() -> None:
    with pytest.raises(ps.SolverError, match="max_steps=5") as caught:
        ps.solve(brusselator(8), engine="native", max_steps=5)
    assert caught.value.retcode == "MaxIters"
    assert caught.value.partial is not None
    assert caught.value.partial.sizes["t"] > 1


def test_a_solution_that_blows_up_says_so() -> None:
    u = ps.fields("u", X)
    system = ps.PDESystem([ps.Eq(D(u), D(u, X, 2) + u**2)], {X: (0, 1)}, {X: ps.Neumann(0)}, {u: 1 + X})
    with pytest.raises(ps.SolverError, match="step size"):
        ps.solve(system.discretize({X: 16}).problem((0, 5)), engine="native")


def test_results_are_saved_and_pictures_drawn(tmp_path: Any) -> None:
    problem = brusselator(8)
    sol = ps.solve(problem, engine="native", rtol=1e-4, saveat=0.25)
    sol.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "b.nc", engine="h5netcdf") as read:
        xr.testing.assert_allclose(read.u, sol.u)
    panels = ps.plot.snapshots(sol, "v", [0, 0.5, 1.0])
    assert [panel.get_title() or panel.get_title(loc="left") for panel in panels.ravel()] == [
        "t = 0",
        "t = 0.5",
        "t = 1",
    ]
    film = tmp_path / "film.gif"
    ps.plot.animate(sol, "u", film)
    assert film.read_bytes()[:6] == b"GIF89a"
    line = ps.plot.snapshots(sol.isel(Y=0), "u", 3)
    assert len(line[0].lines) == 3
    with pytest.raises(ps.ProblemError, match="no field 'z'"):
        ps.plot.snapshots(sol, "z")
