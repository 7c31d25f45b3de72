"""Fields without a time derivative, which follow from others at every instant: eliminated, and as unknowns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp
from scipy.sparse import csc_array
from scipy.sparse.linalg import spsolve

import pysciml as ps
from pysciml.engines import base
from pysciml.graph.field_jacobian import FieldJacobian

D, t = ps.D, ps.t
X, Y = ps.coordinates("X Y")
u, v = ps.fields("u v", X)
w, psi = ps.fields("w psi", X, Y)
nu = ps.parameters("nu")

ADVECTION = -D(w * D(psi, Y), X) + D(w * D(psi, X), Y)
VORTICITY = [ps.Eq(D(w), ADVECTION + nu * ps.laplacian(w)), ps.Eq(ps.laplacian(psi), -w)]


def line(equations: list[Any], boundary: Any = None, initial: Any = None) -> ps.PDESystem:
    return ps.PDESystem(
        equations,
        domain={X: (0, 1)},
        boundary={X: ps.Dirichlet(0) if boundary is None else boundary},
        initial={u: sp.sin(sp.pi * X)} if initial is None else initial,
    )


#: Whether they are eliminated where that is possible.
BOTH = pytest.mark.parametrize("eliminate", [True, False])
SCREENED = [ps.Eq(D(u), nu * D(u, X, 2) + v), ps.Eq(D(v, X, 2) - v, u)]


@BOTH
@pytest.mark.parametrize("scheme", [{"order": 4}, {"scheme": "spectral"}])
def test_taylor_green_vortices_decay_as_they_do(scheme: dict[str, Any], eliminate: bool) -> None:
    """G. I. Taylor & A. E. Green, Proc. R. Soc. A 158 (1937) 499-521: exact, periodic, with a constant open."""
    flow = ps.PDESystem(
        VORTICITY,
        domain={X: (0, 2 * np.pi), Y: (0, 2 * np.pi)},
        boundary={X: ps.Periodic(), Y: ps.Periodic()},
        initial={w: 2 * sp.sin(X) * sp.sin(Y)},
    )
    assert flow.constrained == (psi,)
    n = 16 if scheme.get("scheme") else 48
    problem = flow.discretize({X: n, Y: n}, **scheme, eliminate=eliminate).problem((0, 2), {nu: 0.1})
    assert problem.system.kind == ("ode" if eliminate else "dae")
    solution = ps.solve(problem, engine="native", rtol=1e-8, atol=1e-9, saveat=[0, 1, 2])
    exact = np.sin(solution.X) * np.sin(solution.Y) * np.exp(-0.2 * solution.t)
    near = 1e-6 if scheme.get("scheme") else 2e-4
    assert float(np.abs(solution.psi - exact).max()) < near
    assert float(np.abs(solution.w - 2 * exact).max()) < 2 * near
    assert float(np.abs(solution.psi.mean(["X", "Y"])).max()) < 1e-12


@BOTH
def test_an_equation_of_fourth_order_written_as_two(eliminate: bool) -> None:
    """Cahn-Hilliard: with the chemical potential as a field, and without; mass is conserved."""
    x, c, mu = X, *ps.fields("c mu", X)
    start = {c: sp.cos(2 * sp.pi * x) / 10 + sp.Rational(1, 20)}
    force = c**3 - c - D(c, x, 2) / 200
    two = ps.PDESystem([ps.Eq(D(c), D(mu, x, 2)), ps.Eq(mu, force)], {x: (0, 1)}, {x: ps.Neumann(0)}, start)
    ends = [ps.Neumann(0), ps.Neumann(0, order=3)]
    one = ps.PDESystem([ps.Eq(D(c), D(force, x, 2))], {x: (0, 1)}, {x: ends}, start)
    how: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9, "saveat": [0.1, 0.5]}
    found, wanted = (ps.solve(s.discretize({x: 64}, eliminate=eliminate).problem((0, 0.5)), **how) for s in (two, one))
    assert float(np.abs(wanted.c).max()) > 0.5  # the phases have separated
    assert float(np.abs(found.c - wanted.c).max()) < 1e-7
    assert float(np.abs(found.c.mean("X") - 0.05).max()) < 1e-10


@BOTH
@pytest.mark.parametrize("order", [2, 4])
def test_the_order_of_the_scheme(order: int, eliminate: bool) -> None:
    equations = [ps.Eq(D(w), ps.laplacian(w) + D(psi, X)), ps.Eq(ps.laplacian(psi) - psi, w**2)]
    system = ps.PDESystem(equations, {X: (0, 1), Y: (0, 1)}, {X: ps.Dirichlet(0), Y: ps.Neumann(0)}, {w: 0})
    made = ps.testing.manufactured(system, {w: sp.exp(-t) * sp.sin(X) * sp.cos(Y), psi: sp.cos(X + t) * sp.sin(Y)})
    found = made.measure([12, 24], order=order, tspan=(0, 0.5), eliminate=eliminate)
    assert abs(float(found.order[-1]) - order) < 0.2


@BOTH
def test_charges_in_their_own_field_agree_with_solving_for_the_potential(eliminate: bool) -> None:
    """Nernst, Planck and Poisson: against SciPy's Radau for the charges alone, the potential solved for each time."""
    plus, minus, phi = ps.fields("plus minus phi", X)
    flux = [D(D(f, X) + z * f * D(phi, X), X) for f, z in ((plus, 1), (minus, -1))]
    system = ps.PDESystem(
        [ps.Eq(D(plus), flux[0]), ps.Eq(D(minus), flux[1]), ps.Eq(D(phi, X, 2), 20 * (minus - plus))],
        domain={X: (0, 1)},
        boundary={X: {plus: ps.Neumann(0), minus: ps.Neumann(0), phi: ps.Dirichlet(lower=1, upper=0)}},
        initial={plus: 1 + sp.cos(sp.pi * X) / 2, minus: 1},
    )
    solution = ps.solve(
        system.discretize({X: 40}, eliminate=eliminate).problem((0, 0.2)),
        engine="native",
        rtol=1e-9,
        atol=1e-10,
        saveat=[0.02, 0.2],
    )
    discrete = system.discretize({X: 40}, eliminate=False)
    problem = discrete.problem((0, 0.2))
    graph, jacobian = discrete.graph, FieldJacobian(discrete.graph)
    charges, part = np.flatnonzero(discrete.model.differential), np.flatnonzero(~discrete.model.differential)
    block = csc_array(jacobian(problem.u0, problem.p, 0.0)[part][:, part])

    def potential(y: Any) -> Any:
        whole = np.zeros(120)
        whole[charges] = y
        return np.asarray(spsolve(block, -graph.evaluate("rhs", whole, problem.p, 0.0)[part]))

    def rates(_: float, y: Any) -> Any:
        whole = np.zeros(120)
        whole[charges], whole[part] = y, potential(y)
        return graph.evaluate("rhs", whole, problem.p, 0.0)[charges]

    wanted: Any = solve_ivp(
        rates, (0, 0.2), problem.u0[charges], method="Radau", rtol=1e-9, atol=1e-10, t_eval=[0.02, 0.2]
    )
    for k in range(2):
        found = np.concatenate([solution[f].values[k] for f in discrete.model.states if f != "phi"])
        np.testing.assert_allclose(found, wanted.y[:, k], rtol=1e-6)
        np.testing.assert_allclose(solution.phi.values[k], potential(wanted.y[:, k]), rtol=1e-5, atol=1e-7)
    assert float(np.abs(solution.plus - solution.minus).isel(t=0).max()) > 0.1  # they are drawn to the walls


@BOTH
def test_a_constant_that_is_open_on_cells_of_different_widths(eliminate: bool) -> None:
    edges = np.linspace(0, 1, 41) ** 1.3
    system = line([ps.Eq(D(u), nu * D(u, X, 2)), ps.Eq(D(v, X, 2), u)], ps.Neumann(0), {u: sp.cos(sp.pi * X)})
    problem = system.discretize({X: edges}, eliminate=eliminate).problem((0, 0.5), {nu: 0.1})
    solution = ps.solve(problem, engine="native", rtol=1e-8, atol=1e-9, saveat=[0, 0.5])
    decay = np.exp(-0.1 * np.pi**2 * solution.t)
    assert float(np.abs(solution.u - np.cos(np.pi * solution.X) * decay).max()) < 2e-3
    exact = -np.cos(np.pi * solution.X) / np.pi**2 * decay
    assert float(np.abs(solution.v - (exact - exact.mean("X"))).max()) < 5e-4
    shifted = ps.solve(problem.remake(u0={v: 7}), engine="native", rtol=1e-8, atol=1e-9, saveat=[0.5])
    np.testing.assert_allclose(shifted.v, solution.v.isel(t=[-1]) + 7, atol=1e-7)


def test_initial_values_are_solved_for_and_follow_the_numbers() -> None:
    a = ps.parameters("a")
    discrete = line([ps.Eq(D(u), v), ps.Eq(v**3 + v, a * u + X)], initial={u: a * sp.sin(sp.pi * X)}).discretize(
        {X: 16}
    )
    problem = discrete.problem((0, 1), {a: 2.0})
    for p, at in ((2.0, problem), (3.0, problem.remake(p={a: 3.0}))):
        x = np.asarray(discrete.coords["X"])
        value, found = p * np.sin(np.pi * x), at.u0[16:]
        np.testing.assert_allclose(at.u0[:16], value)
        np.testing.assert_allclose(found**3 + found, p * value + x, rtol=1e-12)


def test_which_solution_is_that_near_the_given_values() -> None:
    system = line([ps.Eq(D(u), v), ps.Eq(v**2, 1 + u)], initial={u: X * (1 - X)})
    for sign in (1, -1):
        problem = system.discretize({X: 8}).problem((0, 0.1), u0={v: sign})
        solution = ps.solve(problem, rtol=1e-8, atol=1e-8, saveat=[0.1])
        exact = (np.sqrt(1 + solution.X * (1 - solution.X)) + sign * 0.05) ** 2 - 1
        assert float(np.abs(solution.u - exact).max()) < 1e-6


@BOTH
def test_sweeps_solve_for_every_start(eliminate: bool) -> None:
    discrete = line(SCREENED).discretize({X: 16}, eliminate=eliminate)
    how: dict[str, Any] = {"saveat": [0, 0.1], "rtol": 1e-9, "atol": 1e-11}  # the engines may differ
    swept = ps.solve_ensemble(discrete.problem((0, 0.1), {nu: 1.0}), over={nu: [0.5, 2.0]}, **how)
    for value in (0.5, 2.0):
        alone = ps.solve(discrete.problem((0, 0.1), {nu: value}), **how)
        np.testing.assert_allclose(swept.v.sel(nu=value), alone.v, rtol=1e-6, atol=1e-9)


@BOTH
def test_backward_in_time_and_forward_again(eliminate: bool) -> None:
    discrete = line(SCREENED).discretize({X: 16}, eliminate=eliminate)
    problem = discrete.problem((0, 1), {nu: 0.0})
    how: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}
    end = ps.solve(problem, saveat=[1], **how).isel(t=-1)
    back = ps.solve(problem.remake(u0={u: end.u}, tspan=(1, 0)), saveat=[0], **how)
    np.testing.assert_allclose(back.u.isel(t=-1), problem.u0[:16], atol=1e-7)


def test_work_done_is_kept() -> None:
    problem = line(SCREENED).discretize({X: 16}, eliminate=False).problem((0, 1), {nu: 1.0})
    with pytest.raises(ps.SolverError, match="max_steps=12") as caught:
        ps.solve(problem, max_steps=12)
    assert caught.value.partial is not None
    assert caught.value.partial.sizes["t"] > 1


@BOTH
def test_files_keep_them(tmp_path: Path, eliminate: bool) -> None:
    discrete = line(SCREENED).discretize({X: 16}, eliminate=eliminate)
    discrete.save(tmp_path / "model.json")
    loaded = ps.load(tmp_path / "model.json")
    assert loaded.kind == discrete.kind == ("ode" if eliminate else "dae")
    np.testing.assert_array_equal(loaded.problem((0, 1), {nu: 1.0}).u0, discrete.problem((0, 1), {nu: 1.0}).u0)


@BOTH
def test_least_squares_fits_them(eliminate: bool) -> None:
    discrete = line(SCREENED).discretize({X: 16}, eliminate=eliminate)
    data = ps.solve(discrete.problem((0, 0.1), {nu: 0.7}), saveat=[0.05, 0.1], rtol=1e-8, atol=1e-9)[["v"]]
    fit = ps.fit(discrete.problem((0, 0.1), {nu: 1.0}), data, trainable=[nu])
    assert abs(float(fit.problem.p[0]) - 0.7) < 1e-3


NOISE = ps.brownian("xi", X)


@pytest.mark.parametrize(
    ("equations", "error", "message"),
    [
        ([ps.Eq(D(u), v), ps.Eq(D(u) + u, v)], ps.ModelError, r"1 of the fields \(v\) and 0 of the equations"),
        ([ps.Eq(D(u), D(v, X)), ps.Eq(D(u, X), 0)], ps.UnsupportedError, "v has no time derivative, and no equation"),
        ([ps.Eq(D(u), v), ps.Eq(D(v, X, 2), u + NOISE)], ps.ModelError, "the equation of v .* noise .xi. drives"),
        ([ps.Eq(D(u), v + NOISE), ps.Eq(D(v, X, 2), v**3)], ps.UnsupportedError, "v has no .* and xi is noise"),
    ],
)
def test_equations_that_are_refused(equations: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        line(equations).discretize({X: 16})


@pytest.mark.parametrize(
    ("constraint", "boundary", "message"),
    [
        (ps.Eq(D(v, X, 2), 1 + u), ps.Neumann(0), "nothing fixes a constant"),
        (ps.Eq(v**2, -1 - u**2), ps.Dirichlet(0), "no solution near the initial values: give initial values near one"),
        (ps.Eq(sp.log(v), u), ps.Dirichlet(0), "not finite at the initial values: give some for v"),
    ],
)
@BOTH
def test_starts_without_a_solution_are_refused(constraint: Any, boundary: Any, message: str, eliminate: bool) -> None:
    system = line([ps.Eq(D(u), v), constraint], boundary, {u: sp.cos(sp.pi * X) ** 2})
    discrete = system.discretize({X: 32}, eliminate=eliminate)
    with pytest.raises(ps.ProblemError, match=message) as caught:
        discrete.problem((0, 1))
    assert caught.value.symbol == "v"


def test_engines_and_methods_without_algebraic_unknowns_say_so() -> None:
    discrete = line(SCREENED).discretize({X: 16}, eliminate=False)
    for algorithm in ("DP5", "SSPRK33", "TRBDF2", "Tsit5"):
        with pytest.raises(ps.UnsupportedError, match=f"the native engine has QNDF, not {algorithm}"):
            ps.solve(discrete.problem((0, 1), {nu: 1.0}), algorithm, engine="native")
    if "jax" in base.registry():
        with pytest.raises(ps.UnsupportedError, match="engine='native'"):
            base.registry()["jax"].check(discrete.model, None)
    with pytest.raises(ps.UnsupportedError, match="v has no time derivative: gradients"):
        ps.gradient(discrete.problem((0, 1), {nu: 1.0}), lambda solution: solution)


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
@pytest.mark.parametrize("algorithm", [None, "FBDF", "Rodas5P", "KenCarp4"])
def test_julia_agrees(algorithm: str | None) -> None:
    system = ps.PDESystem(
        [ps.Eq(D(w), nu * ps.laplacian(w) + D(psi, X) - w * D(psi, Y)), ps.Eq(ps.laplacian(psi), psi**3 - w)],
        domain={X: (0, 1), Y: (0, 1)},
        boundary={X: ps.Dirichlet(lower=0, upper=sp.sin(t)), Y: ps.Neumann(0)},
        initial={w: sp.sin(sp.pi * X) * sp.cos(sp.pi * Y)},
    )
    problem = system.discretize({X: 12, Y: 8}, order=4).problem((0, 0.5), {nu: 0.1})
    how: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-9, "saveat": [0, 0.25, 0.5]}
    found = ps.solve(problem, algorithm, engine="julia", **how)
    wanted = ps.solve(problem, engine="native", **how)
    assert float(np.abs(wanted.psi).max()) > 0.1
    for name in ("w", "psi"):
        np.testing.assert_allclose(found[name], wanted[name], atol=2e-6)


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
def test_julia_refuses_explicit_methods_and_gpus_and_sweeps_the_others() -> None:
    discrete = line(SCREENED).discretize({X: 16}, eliminate=False)
    problem = discrete.problem((0, 0.1), {nu: 1.0})
    for options in ({"alg": "Tsit5"}, {"alg": "ETDRK4", "dt": 1e-3}, {"device": "cuda"}):
        with pytest.raises((ps.UnsupportedError, ps.EngineUnavailableError)):
            ps.solve(problem, engine="julia", **options)
    how: dict[str, Any] = {"over": {nu: [0.5, 2.0]}, "saveat": [0.1], "rtol": 1e-8, "atol": 1e-9}
    found, wanted = (ps.solve_ensemble(problem, engine=name, **how) for name in ("julia", "native"))
    np.testing.assert_allclose(found.v, wanted.v, atol=1e-7)
