"""Boundary conditions that depend on fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

import pysciml as ps

D, t = ps.D, ps.t
X, Y = ps.coordinates("X Y")
u, v = ps.fields("u v", X)
w, q = ps.fields("w q", X, Y)
k = ps.parameters("k")

RADIATION = [ps.Neumann(lower=-(u**4) / 4), ps.Neumann(upper=1 - u**2 / 2)]


def line(boundary: Any, rate: Any = None) -> ps.PDESystem:
    return ps.PDESystem([ps.Eq(D(u), D(u, X, 2) if rate is None else rate)], {X: (0, 1)}, {X: boundary}, {u: 1})


@pytest.mark.parametrize("order", [2, 4, 6])
@pytest.mark.parametrize(
    "boundary",
    [
        RADIATION,
        [ps.Robin(1 + u**2, 1, lower=sp.sin(u)), ps.Robin(u, 2, upper=sp.exp(-u) + t)],
        [ps.Dirichlet(lower=1), ps.Neumann(upper=-(u**3) / 3)],
    ],
)
def test_the_order_of_the_scheme_on_a_line(boundary: Any, order: int) -> None:
    made = ps.testing.manufactured(line(boundary), {u: 1 + sp.exp(-t) * sp.sin(2 * X + 1) / 2})
    cells = {2: [12, 24], 4: [16, 32], 6: [16, 32]}[order]
    found = made.measure(cells, order=order, tspan=(0, 0.1), rtol=1e-11)
    reached = float(found.order[-1])
    assert reached > order - 0.2
    assert reached < order + 0.2 or order == 6  # on few cells errors of both ends can cancel


@pytest.mark.parametrize("order", [2, 4])
def test_the_order_on_a_square_with_conditions_of_several_fields(order: int) -> None:
    """A flux that another field drives, with slopes across the end and along it."""
    carried = ps.div(ps.grad(w) + w * ps.grad(q))
    system = ps.PDESystem(
        [ps.Eq(D(w), carried), ps.Eq(D(q), ps.laplacian(q) - w)],
        {X: (0, 1), Y: (0, 1)},
        {
            X: {w: [ps.Robin(-D(q, X), 1, lower=0), ps.Robin(D(q, X), 1, upper=D(q, Y) * w)], q: ps.Dirichlet(0)},
            Y: {w: ps.Neumann(0), q: [ps.Neumann(lower=w / 2), ps.Neumann(upper=-(q**3))]},
        },
        {w: 0, q: 0},
    )
    exact = {w: 2 + sp.cos(X + t) * sp.cos(Y), q: sp.sin(X - t) * sp.cos(2 * Y) / 2}
    found = ps.testing.manufactured(system, exact).measure([12, 24], order=order, tspan=(0, 0.1), rtol=1e-10)
    assert float(found.order[-1]) == pytest.approx(order, abs=0.3)


def test_heat_that_is_radiated_is_what_is_lost() -> None:
    """The discrete balance is exact at order 2: the flux at the last face is the condition's."""
    discrete = line([ps.Neumann(lower=0), ps.Neumann(upper=-(u**4))]).discretize({X: 20})
    problem = discrete.problem((0, 1))
    rate = discrete.graph.evaluate("rhs", np.linspace(1, 2, 20) ** 2, problem.p, 0.0)
    at_end = np.array([3, -1]) / 2 @ (np.linspace(1, 2, 20)[[-1, -2]] ** 2)
    assert rate.sum() / 20 == pytest.approx(-(at_end**4), rel=1e-12)


def test_a_lumped_body_that_radiates() -> None:
    """So good a conductor that the temperature is one number: u' = -k u^4, in closed form."""
    fast = line([ps.Neumann(lower=0), ps.Neumann(upper=-k * u**4 / 1000)], 1000 * D(u, X, 2))
    sol = ps.solve(fast.discretize({X: 16}).problem((0, 2), {k: 0.8}), rtol=1e-8, atol=1e-9, saveat=[1, 2])
    exact = (1 + 3 * 0.8 * sol.t) ** (-1 / 3)
    np.testing.assert_allclose(sol.u.mean("X"), exact, rtol=1e-3)
    assert float(sol.u.std("X").max()) < 1e-3


@pytest.mark.parametrize("algorithm", [None, "Tsit5"])
def test_steps_that_overflow_are_made_shorter(algorithm: str | None) -> None:
    """A radiating rod, to its steady state: 1 - g at the end, where g = 2 (1 - g)^4."""
    rod = line([ps.Dirichlet(lower=1), ps.Neumann(upper=-k * u**4)])
    sol = ps.solve(rod.discretize({X: 100}).problem((0, 3), {k: 2}), algorithm, engine="native", saveat=[3])
    slope = float(brentq(lambda g: g - 2 * (1 - g) ** 4, 0, 1))
    np.testing.assert_allclose(sol.u[-1], 1 - slope * sol.X, atol=2e-5)


def test_charges_that_no_wall_lets_through_come_to_boltzmanns_law() -> None:
    """At rest the flux is zero everywhere: density times exp(potential) is one number (Poisson and Boltzmann)."""
    n, phi = ps.fields("n phi", X)
    walls = [ps.Robin(-D(phi, X), 1, lower=0), ps.Robin(D(phi, X), 1, upper=0)]
    system = ps.PDESystem(
        [ps.Eq(D(n), D(D(n, X) + n * D(phi, X), X)), ps.Eq(D(phi, X, 2), 1 - n)],
        {X: (0, 1)},
        {X: {n: walls, phi: ps.Dirichlet(lower=1, upper=0)}},
        {n: 1},
    )
    sol = ps.solve(system.discretize({X: 80}, order=4).problem((0, 3)), rtol=1e-8, atol=1e-9, saveat=[0, 3])
    end = sol.isel(t=-1)
    level = end.n * np.exp(end.phi)
    assert float(level.std() / level.mean()) < 1e-5
    assert float(end.n.max() / end.n.min()) > 2
    assert abs(float(end.n.mean()) - 1) < 1e-5


def test_engines_agree_and_scipy_does() -> None:
    problem = line(RADIATION).discretize({X: 16}).problem((0, 0.5))
    how: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-10, "saveat": [0.5]}
    found = [ps.solve(problem, engine=engine, **how).u.values[-1] for engine in ("native", "jax")]
    graph = problem.system.graph
    wanted = solve_ivp(
        lambda s, y: graph.evaluate("rhs", y, problem.p, s), (0, 0.5), problem.u0, "Radau", rtol=1e-10, atol=1e-11
    )
    for values in found:
        np.testing.assert_allclose(values, wanted.y[:, -1], rtol=1e-7)


def test_files_keep_them_and_gradients_go_through_them(tmp_path: Path) -> None:
    discrete = line([ps.Neumann(lower=0), ps.Neumann(upper=-k * u**4)]).discretize({X: 12})
    discrete.save(tmp_path / "model.json")
    loaded = ps.load(tmp_path / "model.json")
    assert loaded.graph.hash == discrete.graph.hash
    problem = discrete.problem((0, 0.5), {k: 0.4})
    how: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-10, "saveat": [0.5]}
    found = ps.gradient(problem, lambda s: s["u"].sum(), wrt=[k], **how)
    ends = [float(ps.solve(problem.remake(p={k: 0.4 + h}), **how).u.sum()) for h in (1e-4, -1e-4)]
    assert float(found.k) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-5)


@pytest.mark.parametrize(
    ("boundary", "how", "error", "message"),
    [
        (ps.Neumann(sp.sin(X) * u), {}, ps.ModelError, "has X: conditions may depend"),
        (ps.Neumann(v), {}, ps.ModelError, "has v.* and the fields"),
        (ps.Neumann(D(u, X) ** 2), {}, ps.UnsupportedError, "itself.*what multiplies its slope is b of Robin"),
        (ps.Neumann(D(u, X, 2)), {}, ps.UnsupportedError, "of derivatives across the end it has those .* first order"),
        (ps.Neumann(u**2), {"scheme": "spectral"}, ps.UnsupportedError, "not solved with Chebyshev points"),
    ],
)
def test_what_they_cannot_depend_on(boundary: Any, how: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        line(boundary).discretize({X: 16}, **how)


def test_equations_of_higher_order_say_so() -> None:
    ends = [ps.Dirichlet(0), ps.Neumann(u**2, order=2)]
    with pytest.raises(ps.UnsupportedError, match="solved where there is one at each end"):
        line(ends, -sp.Derivative(u, (X, 4)))
    wave = [ps.Eq(D(u, 2), D(u, X, 2))]
    with pytest.raises(ps.UnsupportedError, match="of second order in time in its value alone"):
        ps.PDESystem(wave, {X: (0, 1)}, {X: ps.Robin(u, 1, 0)}, {u: 0})
    soft = ps.PDESystem(wave, {X: (0, 1)}, {X: [ps.Dirichlet(lower=0), ps.Neumann(upper=-(u**3))]}, {u: X})
    made = ps.testing.manufactured(soft, {u: sp.sin(X + t)})
    assert float(made.measure([16, 32], tspan=(0, 0.3)).order[-1]) == pytest.approx(2, abs=0.2)
