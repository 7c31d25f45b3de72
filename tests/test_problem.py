"""A problem: numbers by symbol or name, remade without changing the original."""

from __future__ import annotations

import decimal
import fractions

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml import D, Eq, Problem, System

x, y = ps.variables("x y")
a, b = ps.parameters("a b")
spring = System([Eq(D(x, 2), -a * x - b * D(x)), Eq(D(y), x)], name="spring")
circuit = System([Eq(D(x), -y), Eq(y, a * x)])


def test_numbers_are_found_by_symbol_and_by_name():
    by_symbol = Problem(spring, {x: 1, D(x): 2, y: 3}, (0, 10), {a: 4, b: 5})
    by_name = Problem(spring, {"y": 3, "x_t": 2, "x": 1}, (0, 10), {"b": 5, "a": 4})
    for problem in (by_symbol, by_name):
        assert dict(zip(spring.model.states, problem.u0, strict=True)) == {"x": 1.0, "x_t": 2.0, "y": 3.0}
        assert dict(zip(spring.model.parameters, problem.p, strict=True)) == {"a": 4.0, "b": 5.0}
        assert problem.tspan == (0.0, 10.0)
        assert problem.system is spring


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (1, 1.0),
        (np.int32(2), 2.0),
        (np.float32(0.5), 0.5),
        (np.array(3.5), 3.5),
        (decimal.Decimal("0.25"), 0.25),
        (fractions.Fraction(1, 8), 0.125),
        (sp.Rational(1, 3), 1 / 3),
        (sp.pi, np.pi),
        (sp.sqrt(2), np.sqrt(2)),
        (1.5e308, 1.5e308),
    ],
)
def test_any_real_number_is_a_number(given, value):
    problem = Problem(System([Eq(D(x), -a * x)]), {x: given}, (0, 1), {a: given})
    assert problem.u0.tolist() == [value]
    assert problem.p.tolist() == [value]


@pytest.mark.parametrize(
    "tspan", [(0, 2), [0, 2], np.array([0, 2]), sp.Tuple(0, 2), range(0, 4, 2), (sp.S(0), np.float32(2))]
)
def test_any_pair_is_a_time_span(tspan):
    assert Problem(circuit, {x: 1}, tspan, {a: 1}).tspan == (0.0, 2.0)


def test_a_reversed_time_span_goes_backward():
    assert Problem(circuit, {x: 1}, (2, -1), {a: 1}).tspan == (2.0, -1.0)


def test_algebraic_unknowns_may_be_left_out():
    problem = Problem(circuit, {x: 3}, (0, 1), {a: 1})
    assert dict(zip(circuit.model.states, problem.u0, strict=True)) == {"x": 3.0, "y": 1.0}
    guessed = Problem(circuit, {x: 3, y: 7}, (0, 1), {a: 1})
    assert dict(zip(circuit.model.states, guessed.u0, strict=True)) == {"x": 3.0, "y": 7.0}


def test_remake_changes_what_it_is_given():
    problem = Problem(spring, {x: 1, D(x): 2, y: 3}, (0, 10), {a: 4, b: 5})
    remade = problem.remake(u0={D(x): -2.0}, p={"a": 0.5})
    assert remade.u0.tolist() == [1.0, -2.0, 3.0]
    assert dict(zip(spring.model.parameters, remade.p, strict=True)) == {"a": 0.5, "b": 5.0}
    assert remade.tspan == problem.tspan
    assert remade.remake(tspan=(1, 0)).tspan == (1.0, 0.0)
    # and nothing else
    assert problem.u0.tolist() == [1.0, 2.0, 3.0]
    assert problem.system.model is remade.system.model
    assert problem.remake().u0.tolist() == problem.u0.tolist()


def test_the_given_mappings_are_copied():
    u0, p = {x: 1.0}, {a: 2.0}
    problem = Problem(circuit, u0, (0, 1), p)
    u0[x], p[a] = 9.0, 9.0
    assert problem.u0[0] == 1.0
    assert problem.p.tolist() == [2.0]


def test_it_reads_well():
    problem = Problem(spring, {x: 1, D(x): 0, y: 0.25}, (0, 10), {a: 4, b: 0.1})
    assert repr(problem) == (
        "Problem of spring (ode), t from 0 to 10\n  u0: x = 1, x_t = 0, y = 0.25\n  p: a = 4, b = 0.1"
    )
    q = ps.variables("q:20")
    large = Problem(System([Eq(D(s), -s) for s in q]), dict.fromkeys(q, 1), (0, 1))
    assert repr(large).endswith("q11 = 1, ... (20 in all)")


def test_a_missing_initial_velocity_is_named_as_it_is_given():
    with pytest.raises(ps.ProblemError, match=r"no value for x_t \(x_t is D\(x\)\)"):
        Problem(spring, {x: 1, y: 0}, (0, 1), {a: 1, b: 0})
