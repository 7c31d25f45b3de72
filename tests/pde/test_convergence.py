"""Every scheme, boundary and dimension by manufactured solutions; conservation to rounding error.

Time is integrated by SciPy on the graph's own interpreter, so that what is measured is the grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.graph.field_jacobian import jacobian

D, t = ps.D, ps.t
X, Y, Z = ps.coordinates("X Y Z")
u = ps.fields("u", X)
w = ps.fields("w", X, Y)
PERIODIC = sp.exp(sp.sin(2 * sp.pi * X)) * sp.cos(t) + 2
WALLS = sp.exp(sp.sin(2 * X + sp.Rational(3, 10))) * sp.cos(t) + 2
BOUNDARIES: dict[str, Any] = {
    "periodic": ps.Periodic(),
    "Dirichlet": ps.Dirichlet(0),
    "Neumann": ps.Neumann(0),
    "Robin": ps.Robin(1, 2, 0),
    "mixed": [ps.Dirichlet(lower=0), ps.Neumann(upper=0)],
}
GRIDS = {2: [24, 48], 4: [24, 48], 6: [18, 30]}


def system(rate: Any, boundary: Any, field: Any = u) -> ps.PDESystem:
    return ps.PDESystem(
        [ps.Eq(D(field), rate)],
        domain=dict.fromkeys(field.args[1:], (0, 1)),
        boundary=dict.fromkeys(field.args[1:], boundary),
        initial={field: 0},
    )


def reached(made: Any, points: Any, **how: Any) -> float:
    return float(made.measure(points, **{"tspan": (0, 0.05), **how}).order[-1])


@pytest.mark.parametrize("order", [2, 4, 6])
@pytest.mark.parametrize("boundary", list(BOUNDARIES))
@pytest.mark.parametrize(
    "rate",
    [D((1 + u**2) * D(u, X), X) - 3 * D(u, X), D(sp.exp(X) * D(u, X), X) * sp.cos(t) + D(u, X, 2)],
    ids=["nonlinear", "coefficient"],
)
def test_central_differences(rate: Any, boundary: str, order: int) -> None:
    if boundary == "periodic" and rate.has(sp.exp):
        rate = rate.subs(sp.exp(X), 2 + sp.sin(2 * sp.pi * X))
    made = ps.testing.manufactured(
        system(rate, BOUNDARIES[boundary]), {u: PERIODIC if boundary == "periodic" else WALLS}
    )
    points = [28, 40] if (order, boundary) == (6, "periodic") else GRIDS[order]
    assert reached(made, points, order=order) > order - 0.2


@pytest.mark.parametrize("order", [1, 2, 3])
def test_upwind_differences(order: int) -> None:
    carried = system(-(1 + sp.sin(2 * sp.pi * X)) * D(u, X), ps.Periodic())
    assert reached(ps.testing.manufactured(carried, {u: PERIODIC}), [48, 96], order=order, scheme="upwind") == (
        pytest.approx(order, abs=0.2)
    )
    law = system(-D(u**2 / 2, X), ps.Periodic())
    assert reached(ps.testing.manufactured(law, {u: PERIODIC}), [64, 128], order=order, scheme="upwind") == (
        pytest.approx(order, abs=0.2)
    )


def test_weno_is_of_fifth_order_where_the_solution_is_smooth() -> None:
    for rate in (-(1 + sp.sin(2 * sp.pi * X)) * D(u, X), -D(u**2 / 2, X) + D(u, X, 2) / 50):
        made = ps.testing.manufactured(system(rate, ps.Periodic()), {u: PERIODIC})
        assert reached(made, [64, 128], scheme="weno") == pytest.approx(5, abs=0.2)
    made = ps.testing.manufactured(system(-(1 + X) * D(u, X), ps.Dirichlet(0)), {u: WALLS})
    assert reached(made, [32, 64], scheme="weno") > 4.8


@pytest.mark.parametrize("boundary", list(BOUNDARIES))
def test_spectral_methods_converge_faster_than_any_order(boundary: str) -> None:
    rate = D((1 + u**2) * D(u, X), X) - 3 * D(u, X)
    made = ps.testing.manufactured(
        system(rate, BOUNDARIES[boundary]), {u: PERIODIC if boundary == "periodic" else WALLS}
    )
    table = made.measure([8, 20], scheme="spectral", tspan=(0, 0.05))
    assert float(table.error[-1]) < 2e-7
    assert float(table.order[-1]) > 10


@pytest.mark.parametrize("boundary", list(BOUNDARIES))
@pytest.mark.parametrize("order", [2, 4])
def test_two_dimensions_with_a_mixed_derivative(boundary: str, order: int) -> None:
    exact = sp.exp(sp.sin(2 * X + Y)) * sp.cos(t) + 2
    if boundary == "periodic":
        exact = sp.exp(sp.sin(2 * sp.pi * (X + Y))) * sp.cos(t)
    made = ps.testing.manufactured(
        system(ps.laplacian(w) + sp.Derivative(w, X, Y) / 2, BOUNDARIES[boundary], w), {w: exact}
    )
    assert reached(made, [12, 24], order=order, tspan=(0, 0.01)) > order - 0.2


def test_a_system_of_two_fields_with_fluxes_across() -> None:
    v, z = ps.fields("v z", X, Y)
    coupled = ps.PDESystem(
        [
            ps.Eq(D(v), ps.laplacian(v) + z),
            ps.Eq(D(z), D(v**2 * D(z, X), X) + D(D(z, X) * v, Y) + 10 * D(z, Y, 2)),
        ],
        {X: (0, 1), Y: (0, 1)},
        {X: ps.Periodic(), Y: {v: ps.Dirichlet(0), z: ps.Neumann(0)}},
        {v: 0, z: 0},
    )
    exact = {v: sp.sin(2 * sp.pi * X) * sp.exp(Y * t) + 2, z: sp.cos(2 * sp.pi * X) * Y**3 + 3}
    made = ps.testing.manufactured(coupled, exact)
    assert reached(made, [8, 16], order=2, tspan=(0, 0.01)) == pytest.approx(2, abs=0.2)


def test_three_dimensions() -> None:
    v = ps.fields("v", X, Y, Z)
    steady = ps.PDESystem(
        [ps.Eq(0, ps.laplacian(v) - v**3)],
        {X: (0, 1), Y: (0, 1), Z: (0, 1)},
        {X: ps.Periodic(), Y: ps.Dirichlet(0), Z: ps.Neumann(0)},
    )
    made = ps.testing.manufactured(steady, {v: sp.sin(2 * sp.pi * X) * sp.exp(Y + Z)})
    assert reached(made, [6, 12]) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("order", [2, 4, 6])
def test_steady_states(order: int) -> None:
    steady = ps.PDESystem(
        [ps.Eq(0, D((1 + u**2) * D(u, X), X) - u**3)],
        {X: (0, 1)},
        {X: [ps.Dirichlet(lower=0), ps.Neumann(upper=1)]},
    )
    made = ps.testing.manufactured(steady, {u: sp.exp(X)})
    assert reached(made, [20, 40], order=order) > order - 0.2


def test_second_order_in_time() -> None:
    wave = ps.PDESystem([ps.Eq(D(u, 2), D(u, X, 2) - D(u) / 5)], {X: (0, 1)}, {X: ps.Dirichlet(0)}, {u: 0, D(u): 0})
    made = ps.testing.manufactured(wave, {u: WALLS})
    assert reached(made, [12, 24], order=4, tspan=(0, 0.3)) == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("geometry", ["polar", "cylindrical", "spherical"])
def test_symmetry_around_the_origin(geometry: str) -> None:
    r = ps.coordinates("r")
    v = ps.fields("v", r)
    disc = ps.PDESystem(
        [ps.Eq(D(v), ps.laplacian(v, geometry=geometry))],
        {r: (0, 1)},
        {r: [ps.Neumann(lower=0), ps.Dirichlet(upper=0)]},
        {v: 0},
    )
    made = ps.testing.manufactured(disc, {v: sp.cos(r**2) * sp.exp(-t)})
    assert reached(made, [16, 32]) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("boundary", ["periodic", "Dirichlet", "Neumann"])
def test_cells_of_different_widths(boundary: str) -> None:
    def edges(n: int) -> Any:
        s = np.linspace(0, 1, n + 1)
        return s + 0.2 * np.sin(2 * np.pi * s) / (2 * np.pi)

    rate = D((1 + u**2) * D(u, X), X) - 3 * D(u, X)
    made = ps.testing.manufactured(
        system(rate, BOUNDARIES[boundary]), {u: PERIODIC if boundary == "periodic" else WALLS}
    )
    assert reached(made, [{X: edges(n)} for n in (48, 96)]) == pytest.approx(2, abs=0.2)


CONSERVED: list[Any] = [
    (D((1 + u**2) * D(u, X), X), ps.Neumann(0), "central", 2),
    (D((1 + u**2) * D(u, X), X), ps.Periodic(), "central", 6),
    (D(sp.exp(-X) * D(u, X), X), ps.Neumann(0), "central", 2),
    (-D(u**2 / 2, X), ps.Periodic(), "upwind", 3),
    (-D(u**2 / 2, X) + D(u * D(u, X), X), ps.Periodic(), "weno", 5),
    (-D(u**3, X), ps.Periodic(), "spectral", 2),
]


@pytest.mark.parametrize(("rate", "boundary", "scheme", "order"), CONSERVED)
def test_conservative_schemes_conserve_to_rounding_error(rate: Any, boundary: Any, scheme: str, order: int) -> None:
    grid = system(rate, boundary).discretize({X: 64}, order=order, scheme=scheme)
    state = 1 + np.random.default_rng(0).random(64)
    change = grid.graph.evaluate("rhs", state, [], 0.0)
    assert abs(change.sum()) < 1e-12 * np.abs(change).sum()


def test_a_conservative_scheme_conserves_on_cells_of_different_widths() -> None:
    edges = np.sort(np.concatenate([[0, 1], np.random.default_rng(1).random(40)]))
    grid = system(D((1 + u**2) * D(u, X), X), ps.Neumann(0)).discretize({X: edges})
    change = grid.graph.evaluate("rhs", 1 + np.random.default_rng(0).random(41), [], 0.0) * np.diff(edges)
    assert abs(change.sum()) < 1e-12 * np.abs(change).sum()


def test_the_energy_of_a_wave_stays() -> None:
    wave = ps.PDESystem(
        [ps.Eq(D(w, 2), ps.laplacian(w))], {X: (0, 1), Y: (0, 1)}, {X: ps.Periodic(), Y: ps.Periodic()}, {w: 0}
    )
    grid = wave.discretize({X: 8, Y: 10}, order=4)
    matrix = jacobian(grid.graph, np.zeros(160), np.zeros(0), 0.0).toarray()
    assert np.abs(np.linalg.eigvals(matrix).real).max() < 1e-5


@pytest.mark.parametrize("boundary", list(BOUNDARIES))
@pytest.mark.parametrize(("scheme", "order"), [("central", 2), ("central", 4), ("central", 6), ("spectral", 2)])
def test_diffusion_only_decays(scheme: str, order: int, boundary: str) -> None:
    """No mode of the discretized heat equation grows, whatever the ends."""
    grid = system(D(u, X, 2), BOUNDARIES[boundary]).discretize({X: 40}, order=order, scheme=scheme)
    matrix = jacobian(grid.graph, np.zeros(40), np.zeros(0), 0.0).toarray()
    values = np.linalg.eigvals(matrix)
    assert values.real.max() < 1e-8 * np.abs(values).max()
