"""Steady states: known ones are found, stability is told, and what has none is refused."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.errors import ProblemError, SolverError, UnsupportedError

D = ps.D
x, y, z = ps.variables("x y z")
a, b, c, d = ps.parameters("a b c d")
ALGORITHMS = ["SSRootfind", "DynamicSS"]


def test_predators_and_prey_stay_where_they_are() -> None:
    lotka = ps.System([ps.Eq(D(x), a * x - b * x * y), ps.Eq(D(y), -c * y + d * x * y)], observed={"sum": x + y})
    problem = ps.Problem(lotka, {x: 2, y: 1}, (0, 1), {a: 1.5, b: 1, c: 3, d: 1})
    state = ps.steady_state(problem)
    assert not state.sizes
    assert state.x.item() == pytest.approx(3, rel=1e-9)
    assert state.y.item() == pytest.approx(1.5, rel=1e-9)
    assert state["sum"].item() == pytest.approx(4.5, rel=1e-9)
    assert state.attrs["stability"] == pytest.approx(0, abs=1e-9)  # a center
    nobody = ps.steady_state(problem.remake(u0={x: 0.01, y: 0.01}))
    assert abs(nobody.x.item()) < 1e-8
    assert nobody.attrs["stability"] == pytest.approx(1.5)  # the prey would grow


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_the_brusselator_rests_where_it_is_stable(alg: str) -> None:
    """At (a, b/a), stable for b < 1 + a**2: eigenvalues of [[b - 1, a**2], [-b, -a**2]]."""
    system = ps.System([ps.Eq(D(x), a + x**2 * y - (b + 1) * x), ps.Eq(D(y), b * x - x**2 * y)])
    problem = ps.Problem(system, {x: 1.5, y: 1.5}, (0, 5), {a: 1, b: 1.5})
    state = ps.steady_state(problem, alg)
    assert state.x.item() == pytest.approx(1, rel=1e-6)
    assert state.y.item() == pytest.approx(1.5, rel=1e-6)
    assert state.attrs["stability"] == pytest.approx(-0.25, rel=1e-4)
    assert state.attrs["algorithm"] == alg


def test_what_is_conserved_decides_between_many() -> None:
    rate = a * x - b * y
    system = ps.System([ps.Eq(D(x), -rate), ps.Eq(D(y), rate)])
    problem = ps.Problem(system, {x: 1, y: 2}, (0, 1), {a: 1, b: 0.5})
    with pytest.raises(SolverError, match="singular: is a quantity conserved") as caught:
        ps.steady_state(problem)
    assert caught.value.retcode == "Singular"
    state = ps.steady_state(problem, "DynamicSS")
    assert state.x.item() == pytest.approx(1, rel=1e-6)
    assert state.y.item() == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_algebraic_equations_hold_too(alg: str) -> None:
    system = ps.System([ps.Eq(D(x), y - x), ps.Eq(y**2 + x, 6)])
    state = ps.steady_state(ps.Problem(system, {x: 1, y: 2}, (0, 1)), alg)
    assert state.x.item() == pytest.approx(2, rel=1e-6)
    assert state.y.item() == pytest.approx(2, rel=1e-6)
    assert "stability" not in state.attrs


def test_a_large_sparse_system() -> None:
    """The discrete Poisson equation u'' = -1 between zeros: n points of x*(1 - x)/2."""
    n = 400
    u = ps.variables(f"u:{n}")
    at = {-1: sp.Integer(0), n: sp.Integer(0)} | dict(enumerate(u))
    system = ps.System([ps.Eq(D(u[i]), (n + 1) ** 2 * (at[i - 1] - 2 * at[i] + at[i + 1]) + 1) for i in range(n)])
    state = ps.steady_state(ps.Problem(system, dict.fromkeys(u, 0), (0, 1)))
    places = np.arange(1, n + 1) / (n + 1)
    found = np.array([state[f"u{i}"].item() for i in range(n)])
    np.testing.assert_allclose(found, places * (1 - places) / 2, rtol=1e-9)
    assert state.attrs["stability"] == pytest.approx(-(np.pi**2), rel=1e-4)


def test_what_has_no_steady_state_is_said() -> None:
    growing = ps.Problem(ps.System([ps.Eq(D(x), sp.exp(-x))]), {x: 1}, (0, 1))
    with pytest.raises(SolverError, match="no steady state from u0") as caught:
        ps.steady_state(growing)
    assert caught.value.partial is not None
    forced = ps.Problem(ps.System([ps.Eq(D(x), sp.sin(ps.t) - x)]), {x: 1}, (0, 1))
    with pytest.raises(UnsupportedError, match="contain the time"):
        ps.steady_state(forced)
    w = ps.brownian("w")
    with pytest.raises(UnsupportedError, match="'model' is sde"):
        ps.steady_state(ps.Problem(ps.System([ps.Eq(D(x), -x + w)]), {x: 1}, (0, 1)))
    plain = ps.Problem(ps.System([ps.Eq(D(x), -x)]), {x: 1}, (0, 1))
    with pytest.raises(UnsupportedError, match="SSRootfind, DynamicSS"):
        ps.steady_state(plain, "Newton")
    with pytest.raises(ProblemError, match="rtol must be positive"):
        ps.steady_state(plain, rtol=0)
    with pytest.raises(ProblemError, match=r"takes a pysciml\.Problem"):
        ps.steady_state(plain.system)
