"""The graph as a JAX function: every operation, both ways of tracing, and derivatives through branches."""

import jax
import numpy as np
import pytest

from pysciml.engines.jax.lower import FUNCTIONS, lower
from pysciml.graph import GraphBuilder, ops

#: Operands each operation is tried at; the default suits most.
POINTS = {
    ops.ACOSH: [[1.2, 2.0, 5.0]],
    ops.ASIN: [[-0.9, 0.1, 0.8]],
    ops.ACOS: [[-0.9, 0.1, 0.8]],
    ops.ATANH: [[-0.9, 0.1, 0.8]],
    ops.POLYGAMMA: [[0.0, 1.0, 2.0], [0.7, 1.5, 3.0]],
    ops.MOD: [[5.5, -5.5, 5.5], [2.0, 2.0, -2.0]],
    ops.GAMMA: [[0.5, 3.0, -1.5]],
    ops.HEAVISIDE: [[-1.0, 0.0, 2.0]],
    ops.AND: [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]],
    ops.OR: [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]],
    ops.NOT: [[0.0, 1.0, 1.0]],
    ops.EQ: [[1.0, 2.0, 3.0], [1.0, 2.5, 3.0]],
    ops.SELECT: [[1.0, 0.0, 1.0], [0.3, 0.7, 1.9], [5.0, 6.0, 7.0]],
}
DEFAULT = [[0.3, 0.7, 1.9], [1.1, 0.7, 0.4]]


@pytest.mark.parametrize("code", sorted(FUNCTIONS), ids=lambda code: ops.OPS[code].name)
def test_every_operation_agrees_with_numpy(code):
    points = np.array(POINTS.get(code, DEFAULT)[: ops.OPS[code].arity])
    builder = GraphBuilder(len(points), 0)
    graph = builder.build({"f": [builder.call(code, *(builder.state(i) for i in range(len(points))))]})
    with jax.enable_x64(True):
        values = [float(lower(graph, "f")(0.0, column, np.zeros(0))[0]) for column in points.T]
    np.testing.assert_allclose(values, graph.evaluate("f", points, np.zeros(0), 0.0)[0], rtol=1e-12)


def chain(n):
    """A ring of n coupled equations with time, parameters and constants in it."""
    b = GraphBuilder(n, 2)
    rhs = []
    for i in range(n):
        left, here, right = b.state((i - 1) % n), b.state(i), b.state((i + 1) % n)
        term = b.mul(b.param(0), b.sub(b.add(left, right), b.mul(b.constant(2.0), here)))
        forced = b.add(term, b.mul(b.param(1), b.call(ops.SIN, b.add(b.time(), b.constant(float(i % 3))))))
        rhs.append(b.sub(forced, b.mul(b.mul(here, here), here)))
    return b.build({"rhs": rhs, "same": [rhs[0]] * 3})


def test_large_graphs_are_traced_in_batches_and_agree_with_numpy():
    graph = chain(2_000)
    u, p = np.random.default_rng(0).normal(size=2_000), np.array([0.3, 0.7])
    with jax.enable_x64(True):
        function = lower(graph, "rhs")
        traced = jax.make_jaxpr(function)(0.4, u, p)
        values = jax.jit(function)(0.4, u, p)
        repeated = lower(graph, "same")(0.4, u, p)
    assert len(traced.eqns) < 100
    np.testing.assert_allclose(values, graph.evaluate("rhs", u, p, 0.4), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(repeated, graph.evaluate("same", u, p, 0.4), rtol=1e-12)


def test_branches_not_taken_do_not_poison_reverse_derivatives():
    b = GraphBuilder(1, 0)
    x = b.state(0)
    root = b.call(ops.SQRT, x)
    inner = b.call(ops.SELECT, b.call(ops.GT, x, b.constant(4.0)), b.call(ops.LOG, b.sub(x, b.constant(4.0))), root)
    graph = b.build({"f": [b.call(ops.SELECT, b.call(ops.GT, x, b.zero), inner, b.mul(x, x))]})
    with jax.enable_x64(True):
        slope = jax.grad(lambda y: lower(graph, "f")(0.0, y, np.zeros(0))[0])
        found = [float(slope(np.array([value]))[0]) for value in (-1.0, 0.0, 1.0, 9.0)]
    np.testing.assert_allclose(found, [-2.0, 0.0, 0.5, 0.2], rtol=1e-14)
