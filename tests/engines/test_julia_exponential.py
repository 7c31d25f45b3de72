"""Exponential methods on a real Julia: a linear part exactly, by its matrix or by Fourier modes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines.julia import environment
from pysciml.errors import ProblemError, UnsupportedError


@pytest.fixture(scope="module")
def exponential_methods(julia_engine: None) -> None:
    """Skips where the Julia environment has none: it was made before they were part of the setup."""
    found = environment.find()
    package = "OrdinaryDiffEqExponentialRK"
    if isinstance(found, str) or environment.lacking(found.project, (package,)):
        pytest.skip(f"the Julia environment has no {package}: run `{environment.SETUP}`")


pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("exponential_methods")]

D, t = ps.D, ps.t
x, y = ps.variables("x y")
X, Y = ps.coordinates("X Y")
w = ps.fields("w", X)
k, a = ps.parameters("k a")

FIRST = [("LawsonEuler", 1), ("NorsettEuler", 1), ("ETD1", 1)]
ORDERS = [*FIRST, ("ETDRK2", 2), ("ETDRK3", 3), ("ETDRK4", 4), ("HochOst4", 4)]
LINEARIZING = [("Exp4", 4), ("EPIRK4s3A", 4), ("EPIRK4s3B", 4), ("EXPRB53s3", 5), ("EPIRK5P1", 5), ("EPIRK5P2", 5)]


def solve(problem: ps.Problem, alg: str, **options: Any):
    return ps.solve(problem, alg, engine="julia", **options)


def pair(linear: Any = None, rest: Any = None, other: Any = None, **options: Any) -> ps.Problem:
    """Two coupled equations with a marked part, driven in time."""
    linear = ps.implicit(-k * x + y + sp.sin(t)) if linear is None else linear
    rest = x * y * sp.cos(t) if rest is None else rest
    other = ps.implicit(-y) if other is None else other
    system = ps.System([ps.Eq(D(x), linear + rest), ps.Eq(D(y), other - x**2 * y)], name="pair", **options)
    return ps.Problem(system, {x: 1, y: 0.5}, (0, 1), {k: 2.0} if k in system.parameters else {})


def diffusing(
    rate: Any = None, boundary: Any = None, start: Any = None, cells: int = 40, scheme: str = "central"
) -> ps.Problem:
    """Allen and Cahn's equation, or another one, on a line."""
    system = ps.PDESystem(
        [ps.Eq(D(w), a * D(w, X, 2) + 5 * (w - w**3) if rate is None else rate)],
        {X: (0, 1)},
        {X: boundary or ps.Dirichlet(lower=0, upper=0)},
        {w: sp.sin(sp.pi * X) + 0.3 * sp.sin(3 * sp.pi * X) if start is None else start},
        name="diffusing",
    )
    return system.discretize({X: cells}, scheme=scheme).problem((0, 1), {a: 0.01} if a in system.parameters else {})


def observed_orders(problem: ps.Problem, alg: str, steps: tuple[int, ...], reference: Any) -> np.ndarray[Any, Any]:
    """How fast the error at the end falls when steps are halved."""

    def error(n: int) -> float:
        sol = solve(problem, alg, dt=1 / n, saveat=[1.0])
        return max(float(abs(sol[name] - reference[name]).max()) for name in sol.data_vars)

    errors = np.array([error(n) for n in steps])
    return np.log2(errors[:-1] / errors[1:])


@pytest.mark.parametrize(("alg", "order"), [*ORDERS, ("ETDRK4(krylov=true)", 4), ("ETDRK2(krylov=true, m=2)", 2)])
def test_equations_with_a_marked_part_are_solved_to_the_order(alg: str, order: int) -> None:
    """The marked part is driven in time, too: what is no product with the states goes to the rest."""
    problem = pair()
    exact = ps.solve(problem, "Tsit5", engine="native", rtol=1e-12, atol=1e-13, saveat=[1.0])
    assert observed_orders(problem, alg, (16, 32, 64), exact) == pytest.approx([order, order], abs=0.2)


@pytest.mark.parametrize(("alg", "order"), LINEARIZING)
def test_methods_that_take_the_jacobian_have_their_order(alg: str, order: int) -> None:
    problem = pair(-k * x + y, x * y)
    exact = ps.solve(problem, "Tsit5", engine="native", rtol=1e-12, atol=1e-13, saveat=[1.0])
    assert observed_orders(problem, alg, (8, 16, 32), exact) == pytest.approx([order, order], abs=0.25)


@pytest.mark.parametrize("alg", ["Exprb32", "Exprb43"])
def test_adaptive_methods_hold_the_tolerance(alg: str) -> None:
    problem = pair(-1e3 * x + y, x * y)
    exact = solve(problem, "Rodas5P", rtol=1e-11, atol=1e-12, saveat=[1.0])
    sol = solve(problem, alg, rtol=1e-7, atol=1e-8, saveat=[1.0])
    assert abs(sol.y - exact.y).item() < 1e-6
    assert sol.attrs["n_steps"] < 200  # explicitly it would be more than 300


@pytest.mark.parametrize(("alg", "order"), [("ETDRK2", 2), ("ETDRK4", 4), ("HochOst4", 4)])
@pytest.mark.parametrize("scheme", ["central", "spectral"])
def test_fields_with_sides_are_solved_to_the_order(alg: str, order: int, scheme: str) -> None:
    """By the matrix of the linear part: a sparse one, or with a Chebyshev method a full one."""
    problem = diffusing(cells=60 if scheme == "central" else 20, scheme=scheme)
    exact = solve(problem, "Rodas5P", rtol=1e-12, atol=1e-13, saveat=[1.0])
    steps = (80, 160, 320) if order == 2 else (20, 40, 80)
    assert observed_orders(problem, alg, steps, exact) == pytest.approx([order, order], abs=0.4)


@pytest.mark.parametrize(("alg", "order"), ORDERS)
def test_periodic_fields_are_solved_to_the_order_by_their_modes(alg: str, order: int) -> None:
    rate = -D(w**2 / 2, X) + 0.05 * D(w, X, 2) - 1e-4 * D(w, X, 3) + sp.cos(t) * w * D(w, X)
    problem = diffusing(rate, ps.Periodic(), sp.sin(2 * sp.pi * X), 32, "spectral")
    exact = ps.solve(problem, "Tsit5", engine="jax", rtol=1e-12, atol=1e-13, saveat=[1.0])
    steps = (50, 100, 200) if order == 4 else (100, 200, 400)
    assert observed_orders(problem, alg, steps, exact) == pytest.approx([order, order], abs=0.2)


def kuramoto_sivashinsky() -> ps.Problem:
    length = 32 * sp.pi
    system = ps.PDESystem(
        [ps.Eq(D(w), -D(w**2 / 2, X) - D(w, X, 2) - D(w, X, 4))],
        {X: (0, length)},
        {X: ps.Periodic()},
        {w: sp.cos(X / 16) * (1 + sp.sin(X / 16))},
    )
    return system.discretize({X: 128}, scheme="spectral").problem((0, 20), {})


def test_kuramoto_and_sivashinsky_agree_with_jax_step_by_step() -> None:
    """The same method on the same modes: apart by rounding alone, which the equation magnifies."""
    options: dict[str, Any] = {"dt": 0.05, "saveat": 2.0}
    ours = solve(kuramoto_sivashinsky(), "ETDRK4", **options)
    theirs = ps.solve(kuramoto_sivashinsky(), "ETDRK4", engine="jax", **options)
    np.testing.assert_allclose(ours.w, theirs.w, atol=1e-11)
    np.testing.assert_array_equal(ours.t, theirs.t)
    assert float(abs(ours.w[-1]).max()) > 1
    assert (ours.attrs["algorithm"], ours.attrs["n_steps"], ours.attrs["n_rhs"]) == ("ETDRK4", 400, 1601)
    again = solve(kuramoto_sivashinsky(), "ETDRK4", dt=0.05)
    assert again.sizes["t"] == 401
    np.testing.assert_allclose(again.w[::40], ours.w, atol=1e-12)


@pytest.mark.parametrize("scheme", ["spectral", "central"])
def test_coupled_fields_in_two_dimensions(scheme: str) -> None:
    u, v = ps.fields("u v", X, Y)
    system = ps.PDESystem(
        [
            ps.Eq(D(u), 0.02 * ps.laplacian(u) - D(u**2 / 2, X) - v * D(u, Y) + k * v),
            ps.Eq(D(v), 0.05 * ps.laplacian(v) - u * D(v, X) - D(v**2 / 2, Y) + sp.sin(t) * u**2),
        ],
        {X: (0, 2), Y: (0, 3)},
        {X: ps.Periodic(), Y: ps.Periodic()},
        {u: sp.sin(sp.pi * X) * sp.cos(2 * sp.pi * Y / 3), v: sp.cos(sp.pi * X) / 2},
    )
    problem = system.discretize({X: 16, Y: 15}, scheme=scheme).problem((0, 0.5), {k: 0.5})
    exact = ps.solve(problem, "Tsit5", engine="jax", rtol=1e-11, atol=1e-12, saveat=[0.25, 0.5])
    sol = solve(problem, "ETDRK4", dt=0.0025, saveat=[0.25, 0.5])
    for name in ("u", "v"):
        np.testing.assert_allclose(sol[name], exact[name], atol=1e-8)


def test_a_coefficient_that_depends_on_the_place_is_in_the_matrix() -> None:
    """On a periodic domain, too: modes would leave it to the rest, where steps of some 1e-4 were needed."""
    start = sp.sin(2 * sp.pi * X)
    problem = diffusing(D((1 + start / 2) * D(w, X), X) - w**3, ps.Periodic(), start, 64)
    exact = solve(problem, "Rodas5P", rtol=1e-10, atol=1e-11, saveat=[1.0])
    np.testing.assert_allclose(solve(problem, "ETDRK4", dt=0.005, saveat=[1.0]).w, exact.w, atol=1e-6)


def test_values_at_the_sides_that_move() -> None:
    exact = sp.exp(-X) * sp.sin(5 * t) + X**2
    rate = D(w, X, 2) + w**2 + sp.diff(exact, t) - sp.diff(exact, X, 2) - exact**2
    sides = ps.Dirichlet(lower=exact.subs(X, 0), upper=exact.subs(X, 1))
    problem = diffusing(rate, sides, exact.subs(t, 0))
    other = ps.solve(problem, engine="native", rtol=1e-11, atol=1e-11, saveat=[1.0])
    np.testing.assert_allclose(solve(problem, "HochOst4", dt=0.005, saveat=[1.0]).w, other.w, atol=1e-7)


def test_large_matrices_are_applied_in_krylov_subspaces() -> None:
    problem = diffusing(cells=1100)
    options: dict[str, Any] = {"dt": 1e-3, "saveat": [0.01]}
    short = problem.remake(tspan=(0, 0.01))
    sol = solve(short, "ETDRK4", **options)
    assert sol.attrs["algorithm"] == "ETDRK4(krylov=true)"
    exact = ps.solve(short, "QNDF", engine="jax", rtol=1e-9, atol=1e-10, saveat=[0.01])
    np.testing.assert_allclose(sol.w, exact.w, atol=1e-6)
    with pytest.raises(UnsupportedError, match="HochOst4 takes at most 1000 states"):
        solve(short, "HochOst4", **options)


def test_a_subspace_that_is_too_small_is_refused() -> None:
    rough = diffusing(start=sp.sin(37 * sp.pi * X) + sp.exp(-100 * X) * X)
    with pytest.raises(UnsupportedError, match="in a Krylov subspace of m = 3 dimensions"):
        solve(rough, "ETDRK4(krylov=true, m=3)", dt=0.1)


def test_sweeps_have_matrices_of_their_own() -> None:
    values = np.array([0.01, 0.02, 0.05])
    options: dict[str, Any] = {"dt": 0.025, "saveat": [0.5, 1.0], "engine": "julia"}
    for problem in (diffusing(), diffusing(boundary=ps.Periodic(), start=sp.sin(2 * sp.pi * X), scheme="spectral")):
        sweep = ps.solve_ensemble(problem, "ETDRK4", over={a: values}, **options)
        assert (sweep.retcode == "Success").all()
        for value in values[[0, 2]]:
            one = ps.solve(problem.remake(p={a: value}), "ETDRK4", **options)
            np.testing.assert_allclose(sweep.w.sel(a=value), one.w, rtol=1e-12, atol=1e-14)


def test_backward_in_time() -> None:
    problem = pair()
    there = solve(problem, "ETDRK4", dt=0.01, saveat=[1.0])
    back = ps.Problem(problem.system, {x: there.x.item(), y: there.y.item()}, (1, 0), {k: 2.0})
    assert solve(back, "ETDRK4", dt=0.01, saveat=[0.0]).x.item() == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize(
    ("problem", "alg", "message"),
    [
        (lambda: pair(-k * x, x, -y), "ETDRK4", r"the linear terms of 'pair' with pysciml.implicit\(\)"),
        (lambda: pair(ps.implicit(-(x**2))), "ETDRK4", "equation for x of 'pair' are not linear in the states"),
        (lambda: pair(ps.implicit(-sp.cos(t) * x)), "HochOst4", "equation for x of 'pair' are not free of time"),
        (lambda: pair(events=[ps.Event(x - y, {x: 1})]), "ETDRK2", "events of 'pair' would end them early"),
        (pair, "EXPRB53s3", "loses its order where, as in 'pair', time is in the equations"),
        (pair, "EPIRK5s3", "has order 2 and not 5"),
        (pair, "HochOst4(krylov=true)", "order 1"),
        (pair, "ETDRK4(p=3)", "has no option p: it has .*krylov, m"),
        (lambda: diffusing(D((1 + w**2) * D(w, X), X)), "ETDRK4", "linear in the fields"),
    ],
)
def test_what_does_not_fit_is_refused(problem: Any, alg: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        solve(problem(), alg, dt=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass dt="),
        ({"dt": 0.3}, "dt=0.3 does not divide the span 1"),
        ({"dt": 0.1, "saveat": [0.25]}, "0.25 is not a whole number of steps"),
    ],
)
def test_steps_that_do_not_meet_the_times(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        solve(pair(), "ETDRK4", **options)


def test_steps_that_are_too_long_are_reported() -> None:
    problem = diffusing(0.01 * D(w, X, 2) + 200 * w**3, start=10 * sp.sin(sp.pi * X))
    with pytest.raises(ps.SolverError) as caught:
        solve(problem, "ETDRK4", dt=0.1)
    assert caught.value.retcode == "Unstable"
