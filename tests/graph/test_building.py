"""Building graphs: sharing, folding, simplification, linear size, one hash for one content."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.graph import Graph, GraphBuilder, ops
from pysciml.graph.derivative import steps_with

x, y = ps.variables("x y")
a = ps.parameters("a")


def test_equal_nodes_are_one_node():
    b = GraphBuilder(2, 0)
    u, v = b.state(0), b.state(1)
    assert b.add(u, v) == b.add(v, u)
    assert b.mul(u, v) == b.mul(v, u)
    assert b.sub(u, v) != b.sub(v, u)
    assert b.call(ops.SIN, b.add(u, v)) == b.call(ops.SIN, b.add(v, u))
    assert b.constant(0.0) == b.constant(-0.0) == b.zero


def test_constants_are_folded_where_the_result_is_finite():
    b = GraphBuilder(0, 0)
    two, three = b.constant(2.0), b.constant(3.0)
    assert b.value_of(b.add(two, three)) == 5.0
    assert b.value_of(b.power(two, three)) == 8.0
    assert b.value_of(b.call(ops.SELECT, b.one, two, three)) == 2.0
    assert b.value_of(b.call(ops.LOG, b.constant(-1.0))) is None
    assert b.value_of(b.div(b.one, b.zero)) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_constants_are_finite(value):
    with pytest.raises(ValueError, match="finite"):
        GraphBuilder(0, 0).constant(value)


def test_simplifications():
    b = GraphBuilder(2, 0)
    u, v = b.state(0), b.state(1)
    assert b.add(u, b.zero) == u
    assert b.mul(u, b.one) == u
    assert b.mul(u, b.zero) == b.zero
    assert b.sub(u, u) == b.zero
    assert b.sub(b.zero, u) == b.neg(u)
    assert b.neg(b.neg(u)) == u
    assert b.neg(b.sub(u, v)) == b.sub(v, u)
    assert b.add(u, b.neg(v)) == b.sub(u, v)
    assert b.mul(b.neg(u), b.neg(v)) == b.mul(u, v)
    assert b.div(u, b.one) == u
    assert b.power(u, b.zero) == b.one
    assert b.power(u, b.one) == u
    assert b.power(u, b.constant(2.0)) == b.mul(u, u)
    assert b.power(u, b.constant(0.5)) == b.call(ops.SQRT, u)
    assert b.call(ops.MIN, u, u) == u
    assert b.call(ops.SELECT, b.call(ops.LT, u, v), u, u) == u


@pytest.mark.parametrize("exponent", range(-9, 10))
def test_integer_powers(exponent):
    b = GraphBuilder(1, 0)
    graph = b.build({"rhs": [b.power(b.state(0), b.constant(exponent))]})
    for base in (-1.5, 0.75, 3.0):
        np.testing.assert_allclose(graph.evaluate("rhs", [base], [], 0.0), [base**exponent], rtol=1e-15)


def test_sums_are_balanced():
    b = GraphBuilder(1024, 0)
    graph = b.build({"rhs": [b.sum([b.state(k) for k in range(1024)])]})
    depth = np.zeros(len(graph), dtype=int)
    for node, row in enumerate(graph.args):
        depth[node] = max((depth[k] + 1 for k in row if k >= 0), default=0)
    assert depth.max() == 10
    assert graph.evaluate("rhs", np.arange(1024.0), [], 0.0).tolist() == [1023 * 512]


def test_a_shared_subexpression_stays_shared():
    """Sixty levels of doubling: 2**60 leaves when written out, some nodes a level in the graph."""

    def nodes(levels):
        expression = x
        for _ in range(levels):
            expression = sp.Add(sp.sin(expression, evaluate=False), sp.cos(expression, evaluate=False), evaluate=False)
        graph = ps.System([ps.Eq(ps.D(x), expression)]).graph
        jacobian, _, _ = graph.jacobian()
        return len(graph), len(jacobian), graph

    small, small_jacobian, _ = nodes(30)
    large, large_jacobian, graph = nodes(60)
    assert large - small == 3 * 30
    assert large_jacobian - small_jacobian <= 6 * 30
    value = 0.3
    for _ in range(60):
        value = np.sin(value) + np.cos(value)
    np.testing.assert_allclose(graph.evaluate("rhs", [0.3], [], 0.0), [value], rtol=1e-14)


def ring(n):
    q = ps.variables(f"q:{n}")
    stiffness = ps.parameters("stiffness")
    equations = [
        ps.Eq(ps.D(q[i]), stiffness * (q[i - 1] - 2 * q[i] + q[(i + 1) % n]) - sp.sin(q[i]) ** 3) for i in range(n)
    ]
    return ps.System(equations)


def test_a_thousand_coupled_equations_are_linear_in_size():
    sizes = {n: len(ring(n).graph) for n in (250, 500, 1000)}
    each = (sizes[500] - sizes[250]) / 250
    assert each == (sizes[1000] - sizes[500]) / 500
    assert each <= 12
    model = ring(1000)
    jacobian, rows, _ = model.graph.jacobian()
    assert len(rows) == 3000
    assert len(jacobian) <= 12 * 1000
    assert model.sparsity().nnz == 3000


def test_a_graph_holds_only_what_its_outputs_need():
    b = GraphBuilder(2, 1)
    wanted = b.add(b.state(0), b.param(0))
    b.call(ops.SIN, b.state(1))
    graph = b.build({"rhs": [wanted]})
    assert sorted(ops.OPS[code].name for code in graph.op.tolist()) == ["add", "param", "state"]


def test_operands_come_first():
    graph = ring(20).graph
    used = graph.args >= 0
    assert (graph.args[used] < np.broadcast_to(np.arange(len(graph))[:, None], graph.args.shape)[used]).all()


def test_a_placeholder_cannot_stay():
    b = GraphBuilder(1, 0)
    with pytest.raises(ValueError, match="placeholder"):
        b.build({"rhs": [b.add(b.state(0), b.free(1))]})


def test_substitution_shares_work_and_simplifies():
    b = GraphBuilder(1, 0)
    free, state = b.free(0), b.state(0)
    inner = b.mul(free, state)
    nodes = b.substitute_all([b.add(inner, state), inner, state], {free: b.zero})
    assert nodes == [state, b.zero, state]


def test_steps_with_sees_what_derivatives_do_not():
    b = GraphBuilder(2, 0)
    u, v = b.state(0), b.state(1)
    smooth = b.mul(b.call(ops.SIN, u), v)
    assert not steps_with(b, [smooth], [u])
    for node in (
        b.call(ops.SIGN, u),
        b.call(ops.MOD, u, v),
        b.call(ops.SELECT, b.call(ops.LT, u, v), v, b.one),
        b.history(1, b.sub(b.time(), u)),
        b.call(ops.BESSELJ, u, v),
    ):
        assert steps_with(b, [b.add(smooth, node)], [u])
    assert not steps_with(b, [b.call(ops.SIGN, v)], [u])


# -- evaluation over many points


def test_evaluation_broadcasts_over_trailing_dimensions():
    graph = ps.System([ps.Eq(ps.D(x), a * x + ps.t), ps.Eq(ps.D(y), 2)]).graph
    u = np.arange(12.0).reshape(2, 2, 3)
    many = graph.evaluate("rhs", u, [10.0], 0.5)
    assert many.shape == (2, 2, 3)
    np.testing.assert_array_equal(many[0], 10 * u[0] + 0.5)
    np.testing.assert_array_equal(many[1], 2.0)
    sweep = graph.evaluate("rhs", u[:, 0], np.array([[1.0, 2.0, 3.0]]), np.array([0.0, 1.0, 2.0]))
    np.testing.assert_array_equal(sweep[0], u[0, 0] * [1, 2, 3] + [0, 1, 2])
    outer = graph.evaluate("rhs", np.array([1.0, 0.0]), np.ones((1, 4, 1)), np.zeros(3))
    assert outer.shape == (2, 4, 3)


def test_evaluation_at_one_point_is_the_same_as_in_a_batch():
    graph = ring(7).graph
    u = np.random.default_rng(0).normal(size=(7, 5))
    batch = graph.evaluate("rhs", u, [2.0], 0.0)
    for k in range(5):
        np.testing.assert_array_equal(batch[:, k], graph.evaluate("rhs", u[:, k], [2.0], 0.0))


def test_history_is_asked_for_the_state_and_the_time():
    graph = ps.System([ps.Eq(ps.D(x), -a * x.subs(ps.t, ps.t - a) + y), ps.Eq(ps.D(y), 0)]).graph
    asked = []

    def history(state, time):
        asked.append((state, float(time)))
        return np.asarray(time) ** 2

    value = graph.evaluate("rhs", [0.0, 1.0], [0.5], 2.0, history)
    assert asked == [(0, 1.5)]
    np.testing.assert_allclose(value, [-0.5 * 2.25 + 1.0, 0.0])
    with pytest.raises(ValueError, match="history="):
        graph.evaluate("rhs", [0.0, 1.0], [0.5], 2.0)


def test_no_warning_escapes_where_a_branch_is_not_finite():
    graph = ps.System([ps.Eq(ps.D(x), sp.Piecewise((1 / x, x > 0), (0, True)))]).graph
    assert graph.evaluate("rhs", [0.0], [], 0.0).tolist() == [0.0]


# -- identity


def test_the_hash_is_the_same_in_every_process():
    code = (
        "import pysciml as ps, sympy as sp\n"
        "x, y = ps.variables('x y'); a, b, c = ps.parameters('a b c')\n"
        "s = ps.System([ps.Eq(ps.D(x), a*sp.sin(x*y + b) + sp.Max(x, y, c)), ps.Eq(ps.D(y), b*c*x - y**3)],"
        " observed={'e': x + y})\n"
        "print(s.graph.hash, s.model.hash, s.model.parameters)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(outputs) == 1
    scope = {}
    exec(code.replace("print", "result ="), scope)
    assert f"{scope['s'].graph.hash} {scope['s'].model.hash}" in outputs.pop()


def test_the_hash_does_not_depend_on_what_else_was_built():
    def make(noise):
        b = GraphBuilder(2, 1)
        for k in range(noise):
            b.call(ops.COS, b.constant(float(k) + 0.5))
            b.add(b.state(1), b.constant(float(k)))
        return b.build({"rhs": [b.add(b.state(0), b.param(0)), b.mul(b.state(1), b.state(0))]})

    graphs = [make(noise) for noise in (0, 1, 50)]
    assert len({graph.hash for graph in graphs}) == 1
    assert graphs[0] == graphs[2]
    assert len(set(graphs)) == 1


def test_the_hash_tells_contents_apart():
    def system(expression, **options):
        return ps.System([ps.Eq(ps.D(x), expression)], **options)

    models = [
        system(-a * x),
        system(-a * x**2),
        system(-a * x * 2),
        system(a * x),
        system(-a * x, observed={"o": x}),
        system(-a * x, events=[ps.Event(x - 1, terminal=True)]),
        system(-a * x, events=[ps.Event(x - 1, terminal=True, direction="up")]),
        system(-a * x, events=[ps.Event(x - 1, {x: x}, terminal=True)]),
        system(-a * x + ps.brownian("w")),
        ps.System([ps.Eq(0, -a * x)]),
    ]
    assert len({model.model.hash for model in models}) == len(models)
    renamed = ps.System([ps.Eq(ps.D(y), -ps.parameters("rate") * y)])
    assert renamed.model.hash == models[0].model.hash  # compiled code does not know names


def test_graphs_cannot_be_changed():
    graph = ring(3).graph
    for array in (graph.op, graph.args, graph.const, graph.index, graph.outputs["rhs"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


# -- arrays of unknown origin


def arrays():
    """x*x + p, by hand."""
    return {
        "op": [ops.STATE, ops.MUL, ops.PARAM, ops.ADD, ops.CONST],
        "args": [[-1, -1, -1], [0, 0, -1], [-1, -1, -1], [1, 2, -1], [-1, -1, -1]],
        "const": [0.0, 0.0, 0.0, 0.0, 2.5],
        "index": [0, -1, 0, -1, -1],
        "n_states": 1,
        "n_params": 1,
        "outputs": {"rhs": [3], "observed": [4]},
    }


def test_a_graph_from_arrays_is_the_graph():
    graph = Graph.from_arrays(**arrays())
    np.testing.assert_array_equal(graph.evaluate("rhs", [3.0], [1.0], 0.0), [10.0])
    np.testing.assert_array_equal(graph.evaluate("observed", [3.0], [1.0], 0.0), [2.5])
    model = ps.System([ps.Eq(ps.D(x), a * x), ps.Eq(ps.D(y), sp.sin(x) / y)], observed={"o": x * y}).graph
    copy = Graph.from_arrays(
        model.op, model.args, model.const, model.index, model.n_states, model.n_params, model.outputs
    )
    assert copy == model
    assert repr(copy) == repr(model)


def damage(*keys, value):
    def apply(given):
        inner = given
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage("op", 1, value=255), "node 1 has the unknown operation code 255"),
        (damage("op", 1, value=ops.FREE), "node 1 has the unknown operation code 4"),
        (damage("op", 1, value=-1), "node 1 has the unknown operation code -1"),
        (damage("op", 1, value=1.5), "op is not a 1-dimensional array of integers"),
        (damage("op", 1, value=10**30), "op is not a 1-dimensional array of integers"),
        (damage("op", value=[[1]]), "op is not a 1-dimensional array of integers"),
        (damage("op", value=["add"] * 5), "op is not a 1-dimensional array of integers"),
        (damage("op", value=[True] * 5), "op is not a 1-dimensional array of integers"),
        (damage("op", value=[]), "op has 0 nodes"),
        (damage("args", value=[[-1, -1, -1]]), "op has 5 nodes"),
        (damage("args", 1, value=[0, 0]), "args is not a 2-dimensional array"),
        (damage("args", value=[-1] * 15), "args is not a 2-dimensional array"),
        (damage("args", 1, 0, value=1), r"node 1 \(mul\) has bad operands"),
        (damage("args", 1, 0, value=3), r"node 1 \(mul\) has bad operands"),
        (damage("args", 1, 0, value=-1), r"node 1 \(mul\) has bad operands"),
        (damage("args", 1, 2, value=0), r"node 1 \(mul\) has bad operands"),
        (damage("args", 0, 0, value=0), r"node 0 \(state\) has bad operands"),
        (damage("args", 1, 0, value=-7), "args has values out of range"),
        (damage("args", 1, 0, value=2**40), "args has values out of range"),
        (damage("const", 4, value=float("nan")), "const has values that are not finite"),
        (damage("const", 4, value=float("inf")), "const has values that are not finite"),
        (damage("const", 1, value=1.0), "const has values at nodes that are no constants"),
        (damage("const", value=[0.0]), "op has 5 nodes"),
        (damage("const", 4, value="two"), "could not convert"),
        (damage("index", 0, value=1), r"node 0 \(state\) has a bad index 1"),
        (damage("index", 0, value=-1), r"node 0 \(state\) has a bad index -1"),
        (damage("index", 2, value=5), r"node 2 \(param\) has a bad index 5"),
        (damage("index", 1, value=0), r"node 1 \(mul\) takes no index"),
        (damage("index", value=[0]), "op has 5 nodes"),
        (damage("n_states", value=0), r"node 0 \(state\) has a bad index 0"),
        (damage("outputs", "rhs", value=[5]), "output 'rhs' names nodes that do not exist"),
        (damage("outputs", "rhs", value=[-1]), "output 'rhs' names nodes that do not exist"),
        (damage("outputs", "rhs", value=[[3]]), "output 'rhs' is not a 1-dimensional array"),
        (damage("outputs", "rhs", value=[3.0]), "output 'rhs' is not a 1-dimensional array"),
    ],
)
def test_arrays_that_are_no_graph_are_refused(change, message):
    given = arrays()
    change(given)
    with pytest.raises(ValueError, match=message):
        Graph.from_arrays(**given)
