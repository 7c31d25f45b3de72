"""Derivatives above the second where the domain ends: several conditions at an end, beams, plates, films."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.graph.field_jacobian import jacobian

D, t = ps.D, ps.t
X, Y = ps.coordinates("X Y")
u = ps.fields("u", X)
w = ps.fields("w", X, Y)
k = ps.parameters("k")
EXACT = sp.exp(sp.sin(2 * X + sp.Rational(3, 10))) * sp.cos(t) + 2

CLAMPED = [ps.Dirichlet(0), ps.Neumann(0)]
HINGED = [ps.Dirichlet(0), ps.Neumann(0, order=2)]
FREE = [ps.Neumann(0, order=2), ps.Neumann(0, order=3)]
SLIDING = [ps.Neumann(0), ps.Neumann(0, order=3)]
ENDS: dict[str, list[Any]] = {
    "clamped": CLAMPED,
    "hinged": HINGED,
    "free": FREE,
    "sliding": SLIDING,
    "on a spring": [ps.Neumann(0, order=2), ps.Robin(2, -1, 0, order=3)],
    "value and slope together": [ps.Robin(1, 2, 0), ps.Neumann(0, order=2)],
    "value given twice over": [ps.Robin(3, 1, 0, order=2), ps.Dirichlet(0)],
}


def system(rate: Any, boundary: Any, field: Any = u, initial: Any = 0, **more: Any) -> ps.PDESystem:
    coordinates = field.args[1:]
    return ps.PDESystem(
        [ps.Eq(D(field), rate)],
        domain=dict.fromkeys(coordinates, (0, 1)),
        boundary=dict.fromkeys(coordinates, boundary),
        initial={field: initial},
        **more,
    )


def spectrum(discrete: Any) -> Any:
    n = discrete.graph.n_states
    values = np.linalg.eigvals(jacobian(discrete.graph, np.zeros(n), np.zeros(0), 0.0).toarray())
    return values[np.argsort(np.abs(values))]


@pytest.mark.parametrize("order", [2, 4, 6])
@pytest.mark.parametrize("ends", list(ENDS))
def test_fourth_derivatives_have_the_order_of_the_scheme(ends: str, order: int) -> None:
    made = ps.testing.manufactured(system(-sp.Derivative(u, (X, 4)) / 100, ENDS[ends]), {u: EXACT})
    found = made.measure([18, 32] if order == 6 else [24, 48], order=order, tspan=(0, 0.05))
    assert float(found.order[-1]) > order - 0.2


@pytest.mark.parametrize("order", [2, 4])
def test_fourth_derivatives_on_cells_of_different_widths(order: int) -> None:
    made = ps.testing.manufactured(system(-sp.Derivative(u, (X, 4)) / 100, CLAMPED), {u: EXACT})
    grids = [{X: (np.linspace(0, 1, n + 1) ** 2 + 2 * np.linspace(0, 1, n + 1)) / 3} for n in (24, 48)]
    assert float(made.measure(grids, order=order, tspan=(0, 0.05)).order[-1]) > order - 0.2


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("ends", ["clamped", "hinged", "sliding"])
def test_plates(ends: str, order: int) -> None:
    exact = sp.exp(sp.sin(2 * X + Y)) * sp.cos(t) + 2
    plate = system(-ps.laplacian(ps.laplacian(w)) / 100, ENDS[ends], w)
    found = ps.testing.manufactured(plate, {w: exact}).measure([20, 32], order=order, tspan=(0, 0.02))
    assert float(found.order[-1]) > order - 0.2
    assert spectrum(plate.discretize({X: 12, Y: 12}, order=order)).real.max() < 1e-9


def test_a_nested_flux_of_third_order() -> None:
    made = ps.testing.manufactured(system(-D(u**3 * sp.Derivative(u, (X, 3)), X) / 100, SLIDING), {u: EXACT})
    for order in (2, 4):
        assert float(made.measure([24, 48], order=order, tspan=(0, 0.01)).order[-1]) > order - 0.2


@pytest.mark.parametrize(
    ("ends", "value"),
    [
        # Roots of the frequency equations (R. D. Blevins, Formulas for Natural Frequency and Mode Shape, table 8-1).
        (CLAMPED, 4.73004074**4),
        (HINGED, np.pi**4),
        ([ps.Dirichlet(0), ps.Neumann(lower=0), ps.Neumann(upper=0, order=2)], 3.92660231**4),
        (
            [ps.Dirichlet(lower=0), ps.Neumann(lower=0), ps.Neumann(upper=0, order=2), ps.Neumann(upper=0, order=3)],
            1.87510407**4,
        ),
    ],
    ids=["clamped", "hinged", "clamped and hinged", "cantilever"],
)
def test_frequencies_of_beams(ends: Any, value: float) -> None:
    found = spectrum(system(-sp.Derivative(u, (X, 4)), ends).discretize({X: 40}, order=4))
    np.testing.assert_allclose(-found[0].real, value, rtol=2e-5)
    assert np.abs(found.imag).max() < 1e-6
    assert found.real.max() < 0


def test_a_beam_keeps_swinging() -> None:
    beam = ps.PDESystem(
        [ps.Eq(D(u, 2), -sp.Derivative(u, (X, 4)))], {X: (0, 1)}, {X: HINGED}, {u: sp.sin(sp.pi * X)}, name="beam"
    )
    problem = beam.discretize({X: 24}, order=4).problem((0, 2 / np.pi))  # one period
    sol = ps.solve(problem, rtol=1e-7, atol=1e-9, saveat=[2 / np.pi])
    np.testing.assert_allclose(sol.u[-1], np.sin(np.pi * sol.X), atol=2e-4)


@pytest.mark.parametrize(
    ("ends", "deflection"),
    # S. Timoshenko & S. Woinowsky-Krieger, Theory of Plates and Shells, tables 8 and 35; more digits from the series.
    [(CLAMPED, 0.00126532), (HINGED, 0.00406235)],
    ids=["clamped", "hinged"],
)
def test_a_square_plate_bends_as_the_tables_say(ends: Any, deflection: float) -> None:
    plate = ps.PDESystem(
        [ps.Eq(ps.laplacian(ps.laplacian(w)), 1)], {X: (0, 1), Y: (0, 1)}, {X: ends, Y: ends}, name="plate"
    )
    middle = plate.discretize({X: 25, Y: 25}, order=4).steady().w.isel(X=12, Y=12)
    assert float(middle) == pytest.approx(deflection, rel=2e-5)


def test_the_fundamental_frequency_of_a_clamped_plate() -> None:
    found = spectrum(system(-ps.laplacian(ps.laplacian(w)), CLAMPED, w).discretize({X: 20, Y: 20}, order=4))
    # A. W. Leissa, Vibration of Plates (1969), section 4.3.1: 35.985 to 35.992 by different authors.
    assert np.sqrt(-found[0].real) == pytest.approx(35.985, rel=3e-4)


FILMS = {
    "Cahn-Hilliard": lambda f: ps.laplacian(f**3 - f - ps.laplacian(f) / 500),
    "thin film": lambda f: -ps.div(f**3 * ps.grad(ps.laplacian(f))),
}


@pytest.mark.parametrize("field", [u, w], ids=["line", "square"])
@pytest.mark.parametrize("film", list(FILMS))
def test_nothing_flows_through_closed_ends(film: str, field: Any) -> None:
    closed = system(FILMS[film](field), SLIDING, field).discretize(dict.fromkeys(field.args[1:], 14))
    rough = np.random.default_rng(1).uniform(0.5, 1.5, closed.graph.n_states)  # whatever the values
    change = closed.graph.evaluate("rhs", rough, np.zeros(0), 0.0)
    assert abs(change.sum()) < 1e-12 * np.abs(change).sum()


@pytest.mark.parametrize("order", [2, 4, 6])
def test_third_derivatives_have_the_order_of_the_scheme(order: int) -> None:
    made = ps.testing.manufactured(
        system(-sp.Derivative(u, (X, 3)), [ps.Dirichlet(0), ps.Neumann(upper=0)]), {u: EXACT}
    )
    found = made.measure([18, 32] if order == 6 else [24, 48], order=order, tspan=(0, 0.02))
    assert float(found.order[-1]) > order - 0.2


@pytest.mark.parametrize("order", [2, 4])
def test_a_soliton_leaves_through_an_open_end(order: int) -> None:
    """Korteweg and de Vries's equation has one condition where waves come in, and two where they leave."""
    open_ends = ps.PDESystem(
        [ps.Eq(D(u), -6 * u * D(u, X) - sp.Derivative(u, (X, 3)))],
        {X: (-10, 20)},
        {X: [ps.Dirichlet(0), ps.Neumann(upper=0)]},
        {u: 2 / sp.cosh(X) ** 2},
    ).discretize({X: 240}, order=order)
    assert spectrum(open_ends).real.max() < 1e-2
    sol = ps.solve(open_ends.problem((0, 2)), "Tsit5", rtol=1e-6, saveat=[2])
    exact = 2 / np.cosh(sol.X - 8) ** 2
    assert float(abs(sol.u[-1] - exact).max()) < (0.15 if order == 2 else 0.01)


@pytest.mark.parametrize("engine", ["native", "jax"])
def test_engines_solve_them(engine: str) -> None:
    pytest.importorskip("jax", reason="needs JAX") if engine == "jax" else None
    problem = (
        system(-k * sp.Derivative(u, (X, 4)), HINGED, initial=sp.sin(sp.pi * X))
        .discretize({X: 32}, order=4)
        .problem((0, 1), {k: 0.01})
    )
    sol = ps.solve(problem, engine=engine, rtol=1e-7, atol=1e-9, saveat=[1.0])
    np.testing.assert_allclose(sol.u[-1], np.exp(-0.01 * np.pi**4) * np.sin(np.pi * sol.X), atol=2e-5)


def test_values_at_ends_may_change() -> None:
    """Several conditions with values that depend on time and parameters, in a file and out of it."""
    made = ps.testing.manufactured(
        system(-k * sp.Derivative(u, (X, 4)) / 100, ENDS["on a spring"]), {u: sp.exp(X) * sp.cos(3 * t)}
    )
    found = made.measure([24, 48], order=4, p={k: 2}, tspan=(0, 0.1))
    assert float(found.order[-1]) > 3.8


def test_files_keep_them(tmp_path: Path) -> None:
    kept = system(-k * sp.Derivative(u, (X, 4)), FREE, initial=X**2)
    kept.discretize({X: 20}).save(tmp_path / "beam.json")
    loaded = ps.load(tmp_path / "beam.json")
    values = np.sin(np.arange(20.0))
    again = loaded.graph.evaluate("rhs", values, np.array([2.0]), 0.0)
    np.testing.assert_array_equal(again, kept.discretize({X: 20}).graph.evaluate("rhs", values, np.array([2.0]), 0.0))
    assert repr(ps.Neumann(0, order=2)) == "Neumann(lower=0, upper=0, order=2)"


@pytest.mark.parametrize(
    ("order", "boundary", "message"),
    [
        (4, ps.Dirichlet(0), "one condition at the lower end, and derivatives of order 4 take 2 there"),
        (4, [*CLAMPED, ps.Neumann(0, order=2)], "three conditions at the lower end"),
        (4, [ps.Dirichlet(0), ps.Dirichlet(1)], "two conditions on values at the lower end"),
        (4, [ps.Neumann(0, order=2), ps.Neumann(1, order=2)], "two conditions on derivatives of order 2"),
        (4, [ps.Dirichlet(0), ps.Neumann(lower=0)], "one condition at the upper end"),
        (4, [ps.Dirichlet(0), ps.Neumann(0, order=4)], "highest derivative of u in X is of order 4"),
        (3, ps.Dirichlet(0), "derivatives of order 3 take 3 conditions, 1 at one end and 2 at the other"),
        (3, CLAMPED, "and there are 4"),
        (2, ps.Neumann(0, order=2), "highest derivative of u in X is of order 2"),
        (2, [ps.Dirichlet(0), ps.Neumann(upper=0)], "two conditions at the upper end"),
    ],
)
def test_wrong_conditions_are_told(order: int, boundary: Any, message: str) -> None:
    with pytest.raises(ps.ModelError, match=message):
        system(-sp.Derivative(u, (X, order)), boundary)


def test_what_is_not_solved_is_said() -> None:
    with pytest.raises(ps.UnsupportedError, match="more than one Robin condition at the lower end"):
        system(-sp.Derivative(u, (X, 4)), [ps.Robin(1, 1, 0), ps.Robin(1, 2, 0, order=3)])
    with pytest.raises(
        ps.UnsupportedError, match="derivatives of order 4 in X are solved where the domain is periodic"
    ):
        system(-sp.Derivative(u, (X, 4)), CLAMPED).discretize({X: 32}, scheme="spectral")
    for order in (0, -1, 1.5, True, "2"):
        with pytest.raises(ps.ModelError, match="order is that of a derivative, 1 or more"):
            ps.Neumann(0, order=order)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ps.ProblemError, match="needs 16 cells in X"):
        system(-sp.Derivative(u, (X, 4)), CLAMPED).discretize({X: 12}, order=6)
