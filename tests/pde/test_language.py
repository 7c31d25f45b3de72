"""What is wrong is refused before anything is computed, by name."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps

D, t = ps.D, ps.t
X, Y, Z = ps.coordinates("X Y Z")
u, v = ps.fields("u v", X, Y)
w = ps.fields("w", X)
k = ps.parameters("k")
SQUARE = {X: (0, 1), Y: (0, 1)}
CLOSED = {X: ps.Periodic(), Y: ps.Neumann(0)}
HEAT = [ps.Eq(D(u), k * ps.laplacian(u))]


def build(**changed: Any) -> ps.PDESystem:
    given: dict[str, Any] = {"equations": HEAT, "domain": SQUARE, "boundary": CLOSED, "initial": {u: X}}
    return ps.PDESystem(**(given | changed))


def with_boundary(condition: Any) -> dict[str, Any]:
    return {"boundary": {X: ps.Periodic(), Y: condition}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"equations": [ps.Eq(D(u), sp.Symbol("k") * v)]}, "1 equations for 2 fields"),
        ({"equations": [ps.Eq(D(u), u.subs(X, 0))]}, "field at another place"),
        ({"equations": [ps.Eq(D(u), ps.variables("q"))]}, r"q\(t\) is not a field over time and space"),
        ({"equations": [ps.Eq(D(u), u), ps.Eq(D(w), w)]}, "over different coordinates"),
        ({"equations": [ps.Eq(D(u) ** 2, u)]}, "not linear in the time derivatives"),
        ({"equations": [ps.Eq(D(u), sp.Derivative(u, Z))]}, "differentiates by Z, which is no coordinate"),
        ({"equations": [ps.Eq(D(u), sp.Symbol("X", positive=True))]}, "name of a coordinate but other assumptions"),
        ({"equations": [sp.Symbol("a")]}, "no fields"),
        ({"parameters": []}, "undefined symbol k"),
        ({"domain": {X: (0, 1)}}, "no interval for Y"),
        ({"domain": SQUARE | {Z: (0, 1)}}, "Z, which is no coordinate"),
        ({"domain": {X: (1, 0), Y: (0, 1)}}, "interval of X"),
        ({"domain": {X: (0, float("inf")), Y: (0, 1)}}, "interval of X"),
        ({"domain": [0, 1]}, "domain maps coordinates"),
        ({"boundary": {X: ps.Periodic()}}, "no condition in Y"),
        ({"equations": [ps.Eq(D(u), -ps.laplacian(ps.laplacian(u)))]}, "derivatives of order 4 take 2 there"),
        ({"boundary": CLOSED | {Z: ps.Periodic()}}, "Z, which is no coordinate"),
        (with_boundary(ps.Dirichlet(lower=0)), "boundary of u in Y: no condition at the upper end"),
        (with_boundary([ps.Dirichlet(0), ps.Neumann(upper=0)]), "two conditions at the upper end"),
        (with_boundary([ps.Periodic(), ps.Neumann(upper=0)]), "stands alone"),
        (with_boundary(ps.Periodic), "with parentheses"),
        (with_boundary(0), "0 is no boundary condition"),
        (with_boundary(ps.Dirichlet(Y)), "Y, lower end: Y has Y"),
        (with_boundary(ps.Dirichlet(u)), "has u"),
        (with_boundary({v: ps.Neumann(0)}), "no field of the equations"),
        (with_boundary({}), "no condition for u"),
        ({"initial": {v: 0}}, "which is no state"),
        ({"initial": {u: t}}, "initial value of u has t"),
        ({"initial": {D(u): 0}}, "which is no state"),
        ({"initial": {u: "X"}}, "not a scalar expression"),
        ({"observed": {"u": u}}, "cannot name an observed quantity"),
        ({"observed": {"m": v}}, "no field of the equations"),
        ({"name": ""}, "name must be"),
    ],
)
def test_wrong_words(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ps.ModelError, match=message):
        build(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"equations": [ps.Eq(D(u), u + v), ps.Eq(D(u, X), 0)]}, "v has no time derivative, and no equation without"),
        ({"equations": [ps.Eq(D(u, 3), u)]}, "time derivatives go up to the second"),
        ({"equations": [ps.Eq(D(u), u.subs(t, t - 1))]}, "a field at another time: delays of fields"),
        ({"equations": [ps.Eq(D(u**2), u)]}, "not of expressions"),
    ],
)
def test_what_is_not_solved_is_said(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ps.UnsupportedError, match=message):
        build(**changed)


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        ({X: 8}, {}, "no number of cells for Y"),
        ({X: 8, Y: 8, Z: 8}, {}, "Z, which is no coordinate"),
        ({X: 8, Y: 8.5}, {}, "cells in Y must be an integer"),
        ({X: 8, Y: 2}, {}, "needs 4 cells in Y"),
        ({X: 8, Y: [0, 0.5, 0.4, 0.6, 0.8, 1]}, {}, "edges of the cells in Y"),
        ({X: 8, Y: np.linspace(0, 2, 9)}, {}, "edges in Y go from 0 to 2"),
        ({X: 8, Y: 8}, {"order": 3}, "order is one of 2, 4, 6"),
        ({X: 8, Y: 8}, {"scheme": "magic"}, "scheme is one of"),
        ({X: 10**6, Y: 10**6}, {}, "cells"),
        (8, {}, "points maps coordinates"),
    ],
)
def test_wrong_grids(points: Any, options: Any, message: str) -> None:
    with pytest.raises(ps.ProblemError, match=message):
        build().discretize(points, **options)


@pytest.mark.parametrize(
    ("p", "u0", "message"),
    [
        ({}, {}, "p has no value for k"),
        ({k: 1, "q": 2}, {}, "q, which is not a parameter"),
        ({k: float("nan")}, {}, "finite"),
        ({k: 1}, {v: 0}, "v.*no field"),
        ({k: 1}, {u: np.zeros((3, 3))}, r"shape \(3, 3\)"),
        ({k: 1}, {u: np.full((8, 8), np.inf)}, "not finite at X = 0.0625"),
    ],
)
def test_wrong_numbers(p: Any, u0: Any, message: str) -> None:
    with pytest.raises(ps.ProblemError, match=message):
        build(initial={u: sp.cos(2 * sp.pi * X)}).discretize({X: 8, Y: 8}).problem((0, 1), p, u0)


def test_a_span_is_asked_for_where_there_is_time() -> None:
    with pytest.raises(ps.ProblemError, match=r"problem needs a tspan, such as \.problem\(\(0, 10\), p\)"):
        build().discretize({X: 8, Y: 8}).problem(p={k: 1})
    resting = build(equations=[ps.Eq(ps.laplacian(u), 1)], **with_boundary(ps.Dirichlet(0))).discretize({X: 8, Y: 8})
    with pytest.raises(ps.ProblemError, match=r"has no time derivative: solve it with \.steady\(p\)"):
        resting.problem()


def test_initial_and_boundary_values_that_disagree_are_reported() -> None:
    grid = build(**(with_boundary(ps.Dirichlet(2)) | {"initial": {u: 1 + X}})).discretize({X: 8, Y: 8})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        grid.problem((0, 1), {k: 1})
    said = [str(w.message) for w in caught]
    assert len(said) == 3
    assert "not periodic in X: between the ends it jumps by up to 1" in said[0]
    assert "boundary condition at Y = 0: it is off by up to 0.9" in said[1]


def test_methods_that_are_not_for_fields_are_refused() -> None:
    problem = build(initial={u: 0}).discretize({X: 8, Y: 8}).problem((0, 1), {k: 1})
    with pytest.raises(ps.UnsupportedError, match="native engine has QNDF, DP5, SSPRK33"):
        ps.solve(problem, "TRBDF2", engine="native")
    x = ps.variables("x")
    ordinary = ps.Problem(ps.System([ps.Eq(D(x), -x)]), {x: 1}, (0, 1))
    with pytest.raises(ps.UnsupportedError, match="partial differential equations"):
        ps.solve(ordinary, "DP5", engine="native")


def test_operators_write_out_derivatives() -> None:
    assert ps.laplacian(u) == sp.Derivative(u, (X, 2)) + sp.Derivative(u, (Y, 2))
    assert ps.div(k * ps.grad(u)) == sp.Derivative(k * sp.Derivative(u, X), X) + sp.Derivative(
        k * sp.Derivative(u, Y), Y
    )
    assert ps.curl([u, v]) == sp.Derivative(v, X) - sp.Derivative(u, Y)
    assert D(k * D(u, X), X) == sp.Derivative(k * sp.Derivative(u, X), X)
    assert D(u, X, 2) == sp.Derivative(u, (X, 2))
    with pytest.raises(ps.ModelError, match="2 components over 1"):
        ps.div([w, w])
    with pytest.raises(ps.ModelError, match="no field"):
        ps.grad(k)


def test_equations_are_solved_for_the_rates() -> None:
    mixed = build(equations=[ps.Eq(2 * D(u) + D(v), u), ps.Eq(D(u) - D(v), ps.laplacian(v))], initial={u: 0, v: 0})
    assert sp.simplify(mixed.rates[u] - (u + ps.laplacian(v)) / 3) == 0


def test_more_cells_make_no_more_nodes_and_the_same_model_has_the_same_hash() -> None:
    small, large = (build().discretize({X: n, Y: n}) for n in (16, 512))
    assert len(small.graph) == len(large.graph) < 60
    assert small.model.hash == build().discretize({X: 16, Y: 16}).model.hash != large.model.hash


def test_it_reads_well() -> None:
    system = build()
    assert "D(u(t, X, Y)) = k*(" in repr(system)
    assert "begin{aligned}" in system._repr_latex_()
    assert "X: 8, Y: 9 (central, order 2); 72 states" in repr(system.discretize({X: 8, Y: 9}))


def test_what_takes_variables_of_time_alone_says_so() -> None:
    problem = build(initial={u: 0}).discretize({X: 8, Y: 8}).problem((0, 1), {k: 1})
    with pytest.raises(ps.UnsupportedError, match="partial differential equation"):
        ps.solve_ensemble(problem, over={k: [1.0, 2.0]}, store="sweep.zarr")
