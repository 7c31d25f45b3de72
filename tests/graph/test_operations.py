"""Every operation against mpmath: its value and its derivative."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from pysciml.graph import Graph, GraphBuilder, ops
from pysciml.graph.interpret import FUNCTIONS

ANY = (-3.0, 3.0)
POSITIVE = (0.1, 4.0)


def apart(a, b):
    """Away from ties, where a derivative exists."""
    return abs(a - b) > 1e-3


#: name -> (mpmath's function, where its operands are drawn from)
SMOOTH = {
    "add": (lambda a, b: a + b, (ANY, ANY)),
    "sub": (lambda a, b: a - b, (ANY, ANY)),
    "mul": (lambda a, b: a * b, (ANY, ANY)),
    "div": (lambda a, b: a / b, (ANY, POSITIVE)),
    "pow": (lambda a, b: a**b, (POSITIVE, ANY)),
    "neg": (lambda a: -a, (ANY,)),
    "sqrt": (mpmath.sqrt, (POSITIVE,)),
    "exp": (mpmath.exp, (ANY,)),
    "log": (mpmath.log, (POSITIVE,)),
    "sin": (mpmath.sin, (ANY,)),
    "cos": (mpmath.cos, (ANY,)),
    "tan": (mpmath.tan, ((-1.3, 1.3),)),
    "asin": (mpmath.asin, ((-0.95, 0.95),)),
    "acos": (mpmath.acos, ((-0.95, 0.95),)),
    "atan": (mpmath.atan, (ANY,)),
    "sinh": (mpmath.sinh, (ANY,)),
    "cosh": (mpmath.cosh, (ANY,)),
    "tanh": (mpmath.tanh, (ANY,)),
    "asinh": (mpmath.asinh, (ANY,)),
    "acosh": (mpmath.acosh, ((1.1, 5.0),)),
    "atanh": (mpmath.atanh, ((-0.9, 0.9),)),
    "atan2": (mpmath.atan2, (ANY, ANY)),
    "abs": (abs, (ANY,)),
    "min": (min, (ANY, ANY)),
    "max": (max, (ANY, ANY)),
    "mod": (lambda a, b: a - b * mpmath.floor(a / b), (ANY, POSITIVE)),
    "erf": (mpmath.erf, (ANY,)),
    "erfc": (mpmath.erfc, (ANY,)),
    "gamma": (mpmath.gamma, ((-0.9, 6.0),)),
    "loggamma": (mpmath.loggamma, (POSITIVE,)),
}

#: Functions of an order and an argument, with some orders.
ORDERED = {
    "polygamma": (mpmath.polygamma, (0, 1, 3), POSITIVE),
    "besselj": (mpmath.besselj, (0, 1, 2.5, -1), POSITIVE),
    "bessely": (mpmath.bessely, (0, 1, 2.5), POSITIVE),
    "besseli": (mpmath.besseli, (0, 1, 2.5), POSITIVE),
    "besselk": (mpmath.besselk, (0, 1, 2.5), POSITIVE),
}

#: Steps: derivative zero wherever there is one.
STEPS = {
    "sign": (mpmath.sign, (ANY,)),
    "floor": (mpmath.floor, (ANY,)),
    "ceil": (mpmath.ceil, (ANY,)),
    "heaviside": (lambda a: (mpmath.sign(a) + 1) / 2, (ANY,)),
    "lt": (lambda a, b: a < b, (ANY, ANY)),
    "le": (lambda a, b: a <= b, (ANY, ANY)),
    "gt": (lambda a, b: a > b, (ANY, ANY)),
    "ge": (lambda a, b: a >= b, (ANY, ANY)),
    "eq": (lambda a, b: a == b, (ANY, ANY)),
    "ne": (lambda a, b: a != b, (ANY, ANY)),
    "and": (lambda a, b: a != 0 and b != 0, (ANY, ANY)),
    "or": (lambda a, b: a != 0 or b != 0, (ANY, ANY)),
    "not": (lambda a: a == 0, (ANY,)),
}

LEAVES = {"const", "time", "state", "param", "free", "history"}


def points(ranges, n=40):
    rng = np.random.default_rng(1)
    return np.array([rng.uniform(low, high, n) for low, high in ranges])


def one_operation(name, order=None):
    op = ops.BY_NAME[name]
    count = op.arity if order is None else op.arity - 1
    builder = GraphBuilder(count, 0)
    leaves = [builder.state(k) for k in range(count)]
    operands = leaves if order is None else [builder.constant(order), *leaves]
    node = builder.call(op.code, *operands)
    return builder.build({"rhs": [node]})


def check(graph: Graph, function, u):
    ours = graph.evaluate("rhs", u, np.zeros(0), 0.0)[0]
    with mpmath.workdps(30):
        expected = [float(function(*map(mpmath.mpf, point))) for point in u.T]
    np.testing.assert_allclose(ours, expected, rtol=2e-13, atol=2e-14)


def check_derivative(graph: Graph, function, u):
    jacobian, rows, cols = graph.jacobian()
    assert rows.tolist() == [0] * len(cols)
    forward = np.zeros_like(u)
    forward[cols] = jacobian.evaluate("jacobian", u, np.zeros(0), 0.0)
    n = len(u)
    with mpmath.workdps(40):
        expected = [
            [float(mpmath.diff(function, tuple(map(mpmath.mpf, point)), tuple(int(i == k) for i in range(n))))
             for point in u.T]
            for k in range(n)
        ]  # fmt: skip
    np.testing.assert_allclose(forward, expected, rtol=1e-11, atol=1e-12)


def test_every_operation_is_tested_and_has_a_function():
    named = {op.name for op in ops.OPS.values() if op.code not in ops.VECTORS}
    assert named == LEAVES | {"select"} | set(SMOOTH) | set(ORDERED) | set(STEPS)
    assert {ops.OPS[code].name for code in FUNCTIONS} == named - LEAVES
    assert len(ops.BY_NAME) == len(ops.OPS)


def test_operation_codes_never_change():
    """Codes are in model files."""
    codes = {op.name: op.code for op in ops.OPS.values()}
    assert codes["const"] == 0
    assert codes["history"] == 5
    assert codes["neg"] == 15
    assert codes["atan2"] == 35
    assert codes["mod"] == 47
    assert codes["besselk"] == 58
    assert (codes["join"], codes["network"]) == (80, 81)
    assert codes["select"] == 69
    assert all(0 <= code < 256 for code in codes.values())


@pytest.mark.parametrize("name", SMOOTH)
def test_values_and_derivatives(name):
    function, ranges = SMOOTH[name]
    u = points(ranges)
    graph = one_operation(name)
    check(graph, function, u)
    check_derivative(graph, function, u)


@pytest.mark.parametrize(("name", "order"), [(name, n) for name, (_, orders, _) in ORDERED.items() for n in orders])
def test_values_and_derivatives_of_a_given_order(name, order):
    function, _, domain = ORDERED[name]
    u = points([domain], 12)
    graph = one_operation(name, order)
    check(graph, lambda a: function(order, a), u)
    check_derivative(graph, lambda a: function(order, a), u)


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_flat(name):
    function, ranges = STEPS[name]
    u = np.concatenate([points(ranges), np.array([[0.0, 1.0, -2.0, 1.0]] * len(ranges))], axis=1)
    graph = one_operation(name)
    check(graph, function, u)
    jacobian, rows, _ = graph.jacobian()
    assert len(rows) == 0
    assert len(jacobian.outputs["jacobian"]) == 0


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("heaviside", (0.0,), 0.5),
        ("sign", (0.0,), 0.0),
        ("mod", (-1.0, 3.0), 2.0),
        ("mod", (1.0, -3.0), -2.0),
        ("atan2", (0.0, -1.0), np.pi),
        ("pow", (0.0, 0.0), 1.0),
        ("pow", (-2.0, 3.0), -8.0),
        ("gamma", (-0.5,), -2 * np.sqrt(np.pi)),
        ("besselj", (0.0, 0.0), 1.0),
        ("floor", (-0.5,), -1.0),
        ("ceil", (-0.5,), 0.0),
    ],
)
def test_conventions_at_special_points(name, values, expected):
    builder = GraphBuilder(len(values), 0)
    node = builder.call(ops.BY_NAME[name].code, *(builder.state(k) for k in range(len(values))))
    value = builder.build({"rhs": [node]}).evaluate("rhs", values, [], 0.0)
    np.testing.assert_allclose(value, [expected], rtol=1e-15)


@pytest.mark.parametrize("name", ["sqrt", "log", "asin", "acosh", "loggamma"])
def test_outside_its_domain_an_operation_is_nan(name):
    graph = one_operation(name)
    assert np.isnan(graph.evaluate("rhs", [-2.0 if name != "acosh" else 0.5], [], 0.0)[0])


def test_the_derivative_of_a_power_by_its_exponent_exists_where_the_base_is_zero():
    graph = one_operation("pow")
    jacobian, _, cols = graph.jacobian()
    values = dict(zip(cols.tolist(), jacobian.evaluate("jacobian", [0.0, 2.0], [], 0.0), strict=True))
    assert values == {0: 0.0, 1: 0.0}


def select_graph(build):
    builder = GraphBuilder(2, 0)
    x, y = builder.state(0), builder.state(1)
    return builder.build({"rhs": [build(builder, x, y)]})


HIDDEN = {
    "a root of a negative number": lambda b, x, y: b.call(
        ops.SELECT, b.call(ops.GT, x, b.zero), b.call(ops.SQRT, x), y
    ),
    "a division by zero": lambda b, x, y: b.call(
        ops.SELECT, b.call(ops.GT, x, b.zero), b.div(y, b.add(x, b.one)), y
    ),
    "a root in the other operand of a maximum": lambda b, x, y: b.call(
        ops.MAX, y, b.call(ops.SQRT, b.add(x, b.one))
    ),
    "a hidden branch used twice": lambda b, x, y: b.add(
        b.call(ops.SELECT, b.call(ops.GT, x, b.zero), b.call(ops.LOG, b.add(x, b.one)), y),
        b.call(ops.SELECT, b.call(ops.GT, x, y), b.call(ops.LOG, b.add(x, b.one)), b.zero),
    ),
    "a branch in a branch": lambda b, x, y: b.call(
        ops.SELECT,
        b.call(ops.GT, x, b.zero),
        b.call(ops.SELECT, b.call(ops.GT, y, b.zero), b.call(ops.SQRT, x), b.call(ops.LOG, x)),
        y,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HIDDEN)
def test_a_branch_not_taken_leaves_no_trace(case):
    """At x = -1 the hidden branch or its derivative is infinite or no number: the result is y all the same."""
    graph = select_graph(HIDDEN[case])
    u = np.array([-1.0, 3.0])
    assert graph.evaluate("rhs", u, [], 0.0).tolist() == [3.0]
    jacobian, _, cols = graph.jacobian()
    forward = np.zeros(2)
    forward[cols] = jacobian.evaluate("jacobian", u, [], 0.0)
    assert forward.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("case", HIDDEN)
def test_a_branch_that_is_taken_has_its_derivative(case):
    graph = select_graph(HIDDEN[case])
    u = points([(0.2, 2.0), (0.1, 3.0)])
    jacobian, _, cols = graph.jacobian()
    forward = np.zeros_like(u)
    forward[cols] = jacobian.evaluate("jacobian", u, [], 0.0)
    h = 1e-6
    for k, e in enumerate(h * np.eye(2)):
        ahead, behind = (graph.evaluate("rhs", u + side * e[:, None], [], 0.0)[0] for side in (1, -1))
        np.testing.assert_allclose(forward[k], (ahead - behind) / (2 * h), rtol=1e-7, atol=1e-9)
