"""The flux limiter that keeps densities from becoming negative: near vacuum, on smooth data, and what it conserves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps

D, t = ps.D, ps.t
x, X, Y = ps.coordinates("x X Y")
rho, m = ps.fields("rho m", x)
u = ps.fields("u", X, Y)
ONE = {x: (0, 1)}


def law(rate: Any, initial: Any, boundary: Any = None) -> ps.PDESystem:
    return ps.PDESystem([ps.Eq(D(rho), rate)], ONE, {x: boundary or ps.Periodic()}, {rho: initial})


BLOCK = sp.Piecewise((1, sp.And(x > 0.3, x < 0.6)), (0, True))


@pytest.mark.parametrize(
    ("scheme", "order", "engine"),
    [("weno", 5, "jax"), ("weno", 5, "native"), ("upwind", 2, "native"), ("upwind", 3, "native")],
)
@pytest.mark.parametrize("rate", [-D(rho, x), -D(rho**2 / 2, x), D((1 + sp.sin(2 * sp.pi * x)) * rho, x)])
def test_a_block_in_a_vacuum_stays_positive_and_whole(rate: Any, scheme: str, order: int, engine: str) -> None:
    grid = law(rate, BLOCK).discretize({x: 80}, scheme=scheme, order=order, positive=[rho])
    how: dict[str, Any] = {"dt": 1 / 80 / 12 / 2.001, "saveat": 0.05, "engine": engine}
    sol = ps.solve(grid.problem((0, 0.3)), "SSPRK33", **how)
    mass = sol.rho.sum("x")
    assert float(sol.rho.min()) >= 0
    np.testing.assert_allclose(mass, mass[0], rtol=1e-12)


def test_without_the_limiter_the_same_block_goes_below_zero() -> None:
    grid = law(-D(rho, x), BLOCK).discretize({x: 80}, scheme="weno")
    sol = ps.solve(grid.problem((0, 0.3)), "SSPRK33", dt=1 / 80 / 24, saveat=0.05, engine="native")
    assert float(sol.rho.min()) < -1e-8


def test_a_gas_that_is_torn_apart_leaves_a_near_vacuum() -> None:
    """Two rarefactions of an isothermal gas at Mach 6: in the middle the density is exp(-6) of the initial one."""
    speed, sound = 6.0, 1.0
    gas = ps.PDESystem(
        [ps.Eq(D(rho), -D(m, x)), ps.Eq(D(m), -D(m**2 / rho + sound**2 * rho, x))],
        {x: (-1, 1)},
        {x: ps.Neumann(0)},
        {rho: 1, m: sp.Piecewise((-speed, x < 0), (speed, True))},
    )
    n, end = 200, 0.1
    grid = gas.discretize({x: n}, scheme="weno", positive=[rho])
    sol = ps.solve(grid.problem((0, end)), "SSPRK33", dt=2 / n / (speed + sound) / 12, saveat=[0, end], engine="jax")
    density = sol.rho[-1].values
    assert density.min() > 0
    assert density.min() < 0.02
    # The exact self-similar solution: between the two fans density is constant, exp(-speed/sound).
    places, exact = sol.x.values, np.ones(n)
    for k, place in enumerate(places):
        ratio = abs(place) / end
        if ratio < speed + sound:
            exact[k] = np.exp(min(0.0, (ratio - speed - sound) / sound)) if ratio > sound else np.exp(-speed / sound)
    assert np.abs(density - exact).mean() < 0.01
    inside = float(sol.rho[0].sum() * (2 / n)) - 2 * speed * end  # both ends let gas out at that speed
    np.testing.assert_allclose(density.sum() * (2 / n), inside, rtol=1e-9)


def test_mass_is_kept_to_rounding_in_two_dimensions_with_two_fields() -> None:
    v = ps.fields("v", X, Y)
    pair = ps.PDESystem(
        [ps.Eq(D(u), -D(u * v, X) - D(u, Y)), ps.Eq(D(v), -D(v**2 / 2, X))],
        {X: (0, 1), Y: (0, 1)},
        {X: ps.Periodic(), Y: ps.Periodic()},
        {u: sp.Piecewise((1, (X - 0.5) ** 2 + (Y - 0.5) ** 2 < 0.04), (0, True)), v: 1 + sp.sin(2 * sp.pi * X) / 2},
    )
    grid = pair.discretize({X: 24, Y: 24}, scheme="weno", positive=["u"])
    assert "u kept positive" in repr(grid)
    sol = ps.solve(grid.problem((0, 0.2)), "SSPRK33", dt=1 / 24 / 12 / 2.6, saveat=[0, 0.1, 0.2], engine="jax")
    assert float(sol.u.min()) >= 0
    mass = sol.u.sum(("X", "Y"))
    np.testing.assert_allclose(mass, mass[0], rtol=1e-12)


@pytest.mark.parametrize("low", [0.5, 0.0])
def test_smooth_data_keep_the_order(low: float) -> None:
    """Also where the density touches zero."""
    made = low + sp.sin(sp.pi * (x - t)) ** 4
    errors: list[float] = []
    for n in (40, 80):
        grid = law(-D(rho, x), made.subs(t, 0)).discretize({x: n}, scheme="weno", positive=[rho])
        end = 0.25
        sol = ps.solve(grid.problem((0, end)), "SSPRK33", dt=end / (20 * (n / 40) ** 2 * 8), saveat=[end], engine="jax")
        exact = low + np.sin(np.pi * (sol.x.values - end)) ** 4
        errors.append(float(np.abs(sol.rho[-1] - exact).mean()))
    assert np.log2(errors[0] / errors[1]) > 4.7


def test_where_nothing_is_near_zero_the_limiter_changes_nothing() -> None:
    system = law(-D(rho**2 / 2, x) + D(rho, x, 2) / 50, 2 + sp.sin(2 * sp.pi * x))
    plain, limited = (system.discretize({x: 32}, scheme="weno", positive=p) for p in ((), (rho,)))
    state = plain.problem((0, 1)).u0
    values = [grid.graph.evaluate("rhs", state, [], 0.0) for grid in (plain, limited)]
    np.testing.assert_allclose(values[0], values[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ["native", "jax"])
def test_ssprk33_is_of_third_order(engine: str) -> None:
    grid = law(-D(rho**2 / 2, x) + D(rho, x, 2) / 100, 2 + sp.sin(2 * sp.pi * x)).discretize({x: 20})
    at = [
        ps.solve(grid.problem((0, 0.2)), "SSPRK33", engine=engine, dt=dt, saveat=[0.2]).rho.values[-1]
        for dt in (0.01, 0.005, 0.0005)
    ]
    assert np.log2(np.abs(at[0] - at[2]).max() / np.abs(at[1] - at[2]).max()) == pytest.approx(3, abs=0.2)


def test_a_system_of_two_fluxes_is_of_fifth_order_in_both() -> None:
    """A flux that is another field is no less a flux."""
    wave = ps.PDESystem([ps.Eq(D(rho), -D(m, x)), ps.Eq(D(m), -D(4 * rho, x))], ONE, {x: ps.Periodic()}, {rho: 0, m: 0})
    exact = {rho: sp.exp(sp.sin(2 * sp.pi * (x - 2 * t))), m: 2 * sp.exp(sp.sin(2 * sp.pi * (x - 2 * t)))}
    table = ps.testing.manufactured(wave, exact).measure([48, 96], scheme="weno", tspan=(0, 0.05))
    assert float(table.order[-1]) == pytest.approx(5, abs=0.3)


@pytest.mark.parametrize(
    ("rate", "how", "error", "message"),
    [
        (-D(rho, x), {"scheme": "central"}, ps.ProblemError, "scheme is 'central'"),
        (-D(rho, x), {"positive": ["q"]}, ps.ProblemError, "q, which is no field"),
        (-rho * D(rho, x), {}, ps.UnsupportedError, "the equation of rho: positive= limits fluxes: write"),
        (D(rho, x, 2), {}, ps.UnsupportedError, "it has none"),
    ],
)
def test_what_cannot_be_kept_positive_is_refused_by_name(rate: Any, how: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        law(rate, 1).discretize({x: 16}, **({"scheme": "weno", "positive": [rho]} | how))


def test_a_fixed_step_is_asked_for() -> None:
    grid = law(-D(rho, x), 1).discretize({x: 16}, scheme="weno")
    for engine in ("native", "jax"):
        with pytest.raises(ps.ProblemError, match="pass dt="):
            ps.solve(grid.problem((0, 1)), "SSPRK33", engine=engine)
