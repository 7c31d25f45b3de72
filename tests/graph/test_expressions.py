"""Any expression: the interpreter, SymPy's own numerics and exact derivatives agree to 1e-10."""

from __future__ import annotations

import mpmath
import numpy as np
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import pysciml as ps
from pysciml.graph import GraphBuilder
from pysciml.symbolic.from_graph import to_sympy

# Expressions are made of real symbols, so that SymPy can differentiate them; a System gets functions of time.
SYMBOLS = x, y, a, t = sp.symbols("x y a t", real=True)
FUNCTIONS = ps.variables("x y")
PARAMETER = ps.parameters("a")
TO_SYSTEM = dict(zip(SYMBOLS, (*FUNCTIONS, PARAMETER, ps.t), strict=True))
POINT = {x: 0.7318, y: -1.2471, a: 0.5903, t: 1.9137}

numbers = st.integers(-3, 3).map(sp.Integer) | st.fractions(-2, 2, max_denominator=7).map(
    lambda q: sp.Rational(q.numerator, q.denominator)
)
leaves = st.sampled_from(SYMBOLS) | numbers


def bounded(e):
    """Into (-1, 1), smoothly, so that what follows stays in its domain."""
    return sp.tanh(e)


def grow(inner):
    pairs = st.tuples(inner, inner)
    return st.one_of(
        pairs.map(lambda p: p[0] + p[1]),
        pairs.map(lambda p: p[0] - p[1]),
        pairs.map(lambda p: p[0] * p[1]),
        pairs.map(lambda p: p[0] / (1 + p[1] ** 2)),
        pairs.map(lambda p: (1 + p[0] ** 2) ** bounded(p[1])),
        pairs.map(lambda p: sp.atan2(p[0], 2 + bounded(p[1]))),
        pairs.map(lambda p: sp.Min(p[0], p[1])),
        pairs.map(lambda p: sp.Max(p[0], p[1])),
        st.tuples(st.sampled_from(SYMBOLS), numbers, inner, inner).map(
            lambda p: sp.Piecewise((p[2], p[0] < p[1]), (p[3], True))
        ),
        st.tuples(inner, st.integers(-3, 4)).map(lambda p: (2 + bounded(p[0])) ** p[1]),
        st.tuples(
            inner,
            st.sampled_from(
                [
                    sp.sin,
                    sp.cos,
                    sp.tanh,
                    sp.atan,
                    sp.erf,
                    sp.erfc,
                    sp.asinh,
                    sp.Abs,
                    lambda e: -e,
                    lambda e: sp.exp(bounded(e)),
                    lambda e: sp.sqrt(1 + e**2),
                    lambda e: sp.log(2 + bounded(e)),
                    lambda e: sp.asin(bounded(e) / 2),
                    lambda e: sp.acos(bounded(e) / 2),
                    lambda e: sp.atanh(bounded(e) / 2),
                    lambda e: sp.acosh(2 + bounded(e)),
                    lambda e: sp.sinh(bounded(e)),
                    lambda e: sp.cosh(bounded(e)),
                    lambda e: sp.tan(bounded(e)),
                    lambda e: sp.gamma(2 + bounded(e)),
                    lambda e: sp.loggamma(2 + bounded(e)),
                    lambda e: sp.besselj(1, 2 + bounded(e)),
                    lambda e: sp.sinc(e),
                ]
            ),
        ).map(lambda p: p[1](p[0])),
    )


expressions = st.recursive(leaves, grow, max_leaves=8)


def system_of(expression):
    equations = [ps.Eq(ps.D(FUNCTIONS[0]), expression.xreplace(TO_SYSTEM)), ps.Eq(ps.D(FUNCTIONS[1]), 1)]
    return ps.System(equations, parameters=[PARAMETER])


def precise(expression):
    with mpmath.workdps(50):
        value = sp.lambdify(SYMBOLS, expression, "mpmath")(*(mpmath.mpf(POINT[s]) for s in SYMBOLS))
        return float(mpmath.re(value))


#: The states (x, y), the parameter and the time of `POINT`, as a graph takes them.
AT = [POINT[x], POINT[y]], [POINT[a]], POINT[t]


def size_of(graph):
    """The largest number that appears on the way: what rounding errors are relative to."""
    builder, moved = GraphBuilder.extend(graph)
    values = builder.build({"all": moved}).evaluate("all", *AT)
    return max(1.0, float(np.max(np.abs(values), initial=0.0)))


@settings(max_examples=150)
@given(expressions)
def test_the_interpreter_agrees_with_sympy(expression):
    graph = system_of(expression).graph
    ours = graph.evaluate("rhs", *AT)[0]
    assert abs(ours - precise(expression)) <= 1e-10 * size_of(graph)


@settings(max_examples=60)
@given(expressions)
def test_derivatives_agree_with_sympy(expression):
    system = system_of(expression)
    for wrt, symbols in (("states", (x, y)), ("params", (a,))):
        jacobian, rows, cols = system.graph.jacobian(wrt=wrt)
        ours = np.zeros(len(symbols))
        ours[cols[rows == 0]] = jacobian.evaluate("jacobian", *AT)[rows == 0]
        scale = size_of(jacobian)
        for k, symbol in enumerate(symbols):
            assert abs(ours[k] - precise(sp.diff(expression, symbol))) <= 1e-10 * scale
        # and what is not in the sparsity is zero
        pattern = set(zip(*(indices.tolist() for indices in system.graph.sparsity(wrt=wrt)), strict=True))
        assert set(zip(rows.tolist(), cols.tolist(), strict=True)) <= pattern


@settings(max_examples=80)
@given(expressions)
def test_to_sympy_and_back(expression):
    system = system_of(expression)
    (back, _) = to_sympy(system.graph, "rhs", system.states, system.parameters, ps.t)
    again = system_of(back.xreplace({value: key for key, value in TO_SYSTEM.items()})).graph
    scale = size_of(system.graph)
    ours = again.evaluate("rhs", *AT)[0]
    assert abs(ours - system.graph.evaluate("rhs", *AT)[0]) <= 1e-10 * scale


@settings(max_examples=60)
@given(expressions)
def test_a_saved_model_is_the_model(tmp_path_factory, expression):
    system = system_of(expression)
    path = tmp_path_factory.mktemp("models") / "model.json"
    system.save(path)
    loaded = ps.load(path)
    assert loaded.graph == system.graph
    assert loaded.model.hash == system.model.hash
