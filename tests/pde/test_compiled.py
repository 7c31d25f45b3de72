"""Fields on a line as compiled by the native engine: against the graph itself, exact solutions, other solvers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines.native import line
from tests.pde.test_solving import scipy_solution

D, t = ps.D, ps.t
X, Y = ps.coordinates("X Y")
u, v = ps.fields("u v", X)
a, k = ps.parameters("a k")


def transport(scheme: str, order: int, boundary: Any = None) -> Any:
    """A velocity that changes its sign with place and time."""
    system = ps.PDESystem(
        [ps.Eq(D(u), -(sp.cos(3 * X) + a * sp.sin(t)) * D(u, X) - u**3)],
        {X: (0, 2)},
        {X: boundary or ps.Periodic()},
        {u: sp.sin(sp.pi * X) + sp.Rational(1, 5)},
    )
    return system.discretize({X: 24}, scheme=scheme, order=order)


def reaction(order: int = 2, points: Any = 20) -> Any:
    """Two fields, boundary values in time, coefficients of place, time and solution, a flux in divergence form."""
    system = ps.PDESystem(
        [
            ps.Eq(D(u), D((1 + u**2) * D(u, X), X) + a * sp.sin(X) * D(v, X) + sp.cos(2 * t) * sp.exp(-X)),
            ps.Eq(D(v), k * D(v, X, 2) - sp.tanh(u) * v + sp.Max(u, v) * sp.sin(a * t) + sp.sqrt(1 + X * k)),
        ],
        {X: (0, 1)},
        {
            X: {
                u: [ps.Dirichlet(lower=a * sp.sin(t)), ps.Robin(1, k, upper=sp.cos(t))],
                v: ps.Neumann(lower=t, upper=a),
            }
        },
        {u: X / 2, v: 1 + X},
    )
    return system.discretize({X: points}, order=order)


def branches() -> Any:
    """What is undefined in the branch that is not taken must not be seen."""
    system = ps.PDESystem(
        [
            ps.Eq(
                D(u, 2),
                D(u, X, 2) + sp.Piecewise((sp.sqrt(u - sp.Rational(1, 2)), u > sp.Rational(1, 2)), (u**2, True)),
            )
        ],
        {X: (0, 1)},
        {X: ps.Dirichlet(0)},
        {u: 2 * sp.sin(sp.pi * X)},
    )
    return system.discretize({X: 16}, order=4)


GRIDS = {
    "upwind 1": lambda: transport("upwind", 1),
    "upwind 3": lambda: transport("upwind", 3, [ps.Dirichlet(lower=sp.sin(t)), ps.Neumann(upper=0)]),
    "weno": lambda: transport("weno", 5),
    "central 6": lambda: transport("central", 6),
    "reaction": reaction,
    "reaction 4": lambda: reaction(4),
    "reaction, non-uniform": lambda: reaction(2, np.linspace(0, 1, 15) ** 1.5),
    "branches": branches,
}


@pytest.mark.parametrize(("name", "backward"), [(name, False) for name in GRIDS] + [("reaction", True)])
def test_the_compiled_right_hand_side_is_the_graph_s(name: str, backward: bool) -> None:
    grid = GRIDS[name]()
    graph, rng = grid.graph, np.random.default_rng(1)
    assert line.compilable(grid.model) is None
    prepared = line.prepare(grid.model, backward=backward)
    for _ in range(3):
        p, origin, t = rng.uniform(0.3, 1.5, graph.n_params), rng.normal(), rng.uniform(0, 2)
        y = rng.uniform(-0.5, 1.5, graph.n_states)
        expected = graph.evaluate("rhs", y, p, origin + (-t if backward else t)) * (-1 if backward else 1)
        inputs = np.concatenate([prepared.inputs(p, origin), y])
        found = prepared.compiled.ode.rhs(inputs, t, y)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["reaction"])
def test_it_is_also_that_of_jax(name: str) -> None:
    from pysciml.engines.jax.compiling import double_precision
    from pysciml.engines.jax.fields.run import compiled_operator

    grid = GRIDS[name]()
    p, y = np.full(grid.graph.n_params, 0.7), np.random.default_rng(2).random(grid.graph.n_states)
    prepared = line.prepare(grid.model, backward=False)
    found = prepared.compiled.ode.rhs(np.concatenate([prepared.inputs(p, 0.0), y]), 0.4, y)
    with double_precision():
        operator, _ = compiled_operator(grid.model, p, True)
        expected = operator.rhs(0.4, y)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("alg", ["Tsit5", "QNDF", "TRBDF2", "ESDIRK34", None])
def test_every_method_agrees_with_another_solver(alg: str | None) -> None:
    problem = reaction().problem((np.pi, np.pi + 1), {a: 0.8, k: 0.3})
    times = np.pi + np.array([0, 0.25, 1])
    expected = scipy_solution(problem, times)
    sol = ps.solve(problem, alg, engine="native", rtol=1e-7, atol=1e-7, saveat=times)
    assert sol.attrs["algorithm"] == alg or alg is None
    found = np.concatenate([sol.u.values, sol.v.values], axis=1).T
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("order", "cells"), [(2, [16, 32, 64]), (4, [16, 32, 64])])
def test_errors_fall_with_the_order_of_the_scheme(order: int, cells: list[int]) -> None:
    system = ps.PDESystem(
        [ps.Eq(D(u), D((1 + u**2) * D(u, X), X))], {X: (0, 1)}, {X: [ps.Dirichlet(lower=0), ps.Robin(1, 1, upper=0)]}
    )
    made = ps.testing.manufactured(system, {u: sp.exp(sp.sin(3 * X)) * sp.cos(t)})
    table = made.measure(cells, order=order, engine="native", rtol=1e-9)
    assert float(table.order[-1]) == pytest.approx(order, abs=0.2)


def test_what_is_carried_around_comes_back_the_better_the_finer_the_grid() -> None:
    system = ps.PDESystem([ps.Eq(D(u), -D(u, X))], {X: (0, 1)}, {X: ps.Periodic()}, {u: sp.exp(sp.sin(2 * sp.pi * X))})
    errors: list[float] = []
    for n in (24, 48):
        problem = system.discretize({X: n}, order=6).problem((0, 1))
        sol = ps.solve(problem, "Tsit5", engine="native", rtol=1e-10, atol=1e-10, saveat=0.5)
        assert float(np.abs(sol.u[1] - sol.u[0]).max()) > 1  # half way it is at the other place
        errors.append(float(np.abs(sol.u[-1] - sol.u[0]).max()))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(6, abs=0.3)


def test_the_text_is_no_longer_for_a_finer_grid() -> None:
    coarse, fine = (line.write(reaction(4, n).graph, backward=False).text.splitlines() for n in (20, 2000))
    assert len(coarse) == len(fine)
    assert len("".join(fine)) < 1.4 * len("".join(coarse))


def test_a_solve_depends_on_nothing_that_was_solved_before() -> None:
    problem = reaction().problem((0, 1), {a: 0.8, k: 0.3})
    how: dict[str, Any] = {"engine": "native", "saveat": 0.25}
    first = ps.solve(problem, **how)
    for value in (0.3001, 3.0):
        ps.solve(problem.remake(p={k: value}), **how)
    again = ps.solve(problem, **how)
    assert np.array_equal(first.u, again.u)
    assert again.attrs["compile_seconds"] == 0


def flat() -> Any:
    w = ps.fields("w", X, Y)
    return ps.PDESystem(
        [ps.Eq(D(w), ps.laplacian(w))], {X: (0, 1), Y: (0, 1)}, {X: ps.Neumann(0), Y: ps.Neumann(0)}, {w: X}
    ).discretize({X: 4, Y: 4})


def far() -> Any:
    return ps.PDESystem([ps.Eq(D(u), D(u, X, 2) - ps.integral(u))], {X: (0, 1)}, {X: ps.Neumann(0)}, {u: X}).discretize(
        {X: 8}
    )


def spectral() -> Any:
    return ps.PDESystem(
        [ps.Eq(D(u), D(u, X, 2))], {X: (0, 1)}, {X: ps.Periodic()}, {u: sp.sin(2 * sp.pi * X)}
    ).discretize({X: 8}, scheme="spectral")


def guarded() -> Any:
    """The square root is undefined in the cells whose branch is not taken, and their neighbours' is."""
    flux = sp.Piecewise((D(sp.sqrt(u - sp.Rational(1, 2)), X), u > 1), (0, True))
    return ps.PDESystem([ps.Eq(D(u), flux)], {X: (0, 1)}, {X: ps.Neumann(0)}, {u: 3 * X}).discretize({X: 8})


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (guarded, "has a branch that takes values from other cells"),
        (flat, "has more than one dimension"),
        (far, "needs total"),
        (spectral, "needs fourier"),
    ],
)
def test_what_is_not_compiled_is_said_and_solved_all_the_same(make: Any, why: str) -> None:
    problem = make().problem((0, 0.1))
    with pytest.raises(ps.UnsupportedError, match=f"TRBDF2 only for those it can compile, and 'pde' {why}"):
        ps.solve(problem, "TRBDF2", engine="native")
    assert ps.solve(problem, engine="native").attrs["algorithm"] in ("QNDF", "DP5")


def test_without_a_method_s_name_long_models_wait_for_no_compiler() -> None:
    grid = transport("weno", 5)
    assert line.compilable(grid.model) is None
    assert not line.pays(grid.model, backward=False)
    assert ps.solve(grid.problem((0, 0.1), {a: 0.5}), engine="native").attrs["algorithm"] == "DP5"


def test_a_first_step_is_for_the_methods_that_take_one() -> None:
    problem = reaction().problem((0, 0.1), {a: 0.8, k: 0.3})
    assert ps.solve(problem, engine="native", dt=1e-4).attrs["algorithm"] in ("QNDF", "DP5")
    with pytest.raises(ps.UnsupportedError, match="takes no dt"):
        ps.solve(problem, "TRBDF2", engine="native", dt=1e-4)
