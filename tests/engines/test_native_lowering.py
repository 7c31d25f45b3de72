"""What the native engine compiles agrees with the graph's own evaluation."""

from __future__ import annotations

import numpy as np
import pydiffsol
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysciml.engines.native.compile import Prepared
from pysciml.engines.native.emit import emit
from pysciml.engines.native.library import Compiled
from pysciml.engines.native.lower import SUPPORTED, lower
from pysciml.engines.native.writing import number
from pysciml.graph import Graph, GraphBuilder, Model, ops

UNARY = sorted(code for code in SUPPORTED if ops.OPS[code].arity == 1)
BINARY = sorted(code for code in SUPPORTED if ops.OPS[code].arity == 2)
#: Arguments that keep an operation within its domain.
DOMAINS = {
    ops.SQRT: (0.1, 3.0),
    ops.LOG: (0.1, 3.0),
    ops.ASIN: (-0.95, 0.95),
    ops.ACOS: (-0.95, 0.95),
    ops.ATANH: (-0.95, 0.95),
    ops.ACOSH: (1.1, 4.0),
    ops.POW: (0.2, 3.0),
}


def compile_rhs(graph: Graph, *, vectors: bool) -> Compiled:
    written = emit(lower(graph, ["rhs"]), np.ones(graph.n_states, dtype=bool), vectors=vectors)
    ode = pydiffsol.Ode(written.text, matrix_type=pydiffsol.faer_sparse, linear_solver=pydiffsol.lu)
    return Compiled(ode, graph.n_states, graph.n_params + 1, 0.0, written.order)


def evaluate(compiled: Compiled, u: np.ndarray, p: np.ndarray, t: float) -> np.ndarray:
    order = np.arange(u.size) if compiled.order is None else compiled.order
    values = np.empty_like(u)
    values[order] = compiled.ode.rhs(np.concatenate([p, [0.0], u[order]]), t, u[order])
    return values


def graph_of(n_states: int, n_params: int, rows) -> Graph:
    b = GraphBuilder(n_states, n_params)
    return b.build({"rhs": rows(b)})


@pytest.mark.parametrize("code", UNARY, ids=lambda code: ops.OPS[code].name)
def test_every_unary_operation_is_evaluated_to_rounding(code: int) -> None:
    graph = graph_of(2, 0, lambda b: [b.call(code, b.state(0)), b.state(1)])
    compiled = compile_rhs(graph, vectors=False)
    low, high = DOMAINS.get(code, (-3.0, 3.0))
    points = np.concatenate([np.linspace(low, high, 41), [low, high]])
    if low < 0:
        points = np.concatenate([points, [0.0, 1.0, -1.0, 1e-9, -1e-9, 800.0 * (code == ops.TANH)]])
    points = points[np.isfinite(graph.evaluate("rhs", np.array([points, points]), [], 0.0)[0])]
    for x in points:
        u = np.array([x, 0.0])
        expected = graph.evaluate("rhs", u, [], 0.0)
        np.testing.assert_allclose(evaluate(compiled, u, np.zeros(0), 0.0), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("code", BINARY, ids=lambda code: ops.OPS[code].name)
def test_every_binary_operation_is_evaluated_to_rounding(code: int) -> None:
    graph = graph_of(2, 0, lambda b: [b.call(code, b.state(0), b.state(1)), b.state(1)])
    compiled = compile_rhs(graph, vectors=False)
    first = [0.5, 1.0, 2.5] if code == ops.POW else [-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]
    for x in first:
        for y in [-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]:
            if code == ops.DIV and y == 0:
                continue
            u = np.array([x, y])
            expected = graph.evaluate("rhs", u, [], 0.0)
            np.testing.assert_allclose(evaluate(compiled, u, np.zeros(0), 0.0), expected, rtol=1e-13, atol=1e-15)


@st.composite
def random_rows(draw: st.DrawFn) -> Graph:
    """Right-hand sides of random operations, within their domains by construction."""
    b = GraphBuilder(3, 2)
    leaves = [b.state(0), b.state(1), b.state(2), b.param(0), b.param(1), b.time()]
    leaves += [b.constant(draw(st.floats(-2, 2))) for _ in range(2)]
    nodes = list(leaves)
    for _ in range(draw(st.integers(3, 14))):
        code = draw(st.sampled_from([*UNARY, *BINARY, ops.ADD, ops.MUL, ops.SELECT]))
        # sin brings any argument into [-1, 1]; half of it plus a shift fits every domain.
        args = [b.call(ops.SIN, draw(st.sampled_from(nodes))) for _ in range(ops.OPS[code].arity)]
        shift = {ops.SQRT: 1.5, ops.LOG: 1.5, ops.ACOSH: 2.5, ops.POW: 1.5, ops.DIV: 2.0}.get(code, 0.0)
        args = [b.add(b.mul(b.constant(0.6), a), b.constant(shift)) for a in args]
        if code == ops.SELECT:
            args[0] = b.call(draw(st.sampled_from([ops.LT, ops.GE])), args[0], args[1])
        nodes.append(b.call(code, *args))
    return b.build({"rhs": [draw(st.sampled_from(nodes[len(leaves) :])) for _ in range(3)]})


@settings(max_examples=25)
@given(random_rows(), st.booleans())
def test_random_expressions_agree_with_the_graph(graph: Graph, vectors: bool) -> None:
    compiled = compile_rhs(graph, vectors=vectors)
    rng = np.random.default_rng(1)
    for _ in range(3):
        u, p = rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 2)
        expected = graph.evaluate("rhs", u, p, 0.3)
        np.testing.assert_allclose(evaluate(compiled, u, p, 0.3), expected, rtol=1e-10, atol=1e-10)


def test_a_branch_not_taken_cannot_poison_the_result() -> None:
    def rows(b: GraphBuilder) -> list[int]:
        x = b.state(0)
        positive = b.call(ops.GT, x, b.zero)
        root = b.call(ops.SELECT, positive, b.call(ops.SQRT, x), b.zero)
        log = b.call(ops.SELECT, positive, b.call(ops.LOG, x), b.constant(-7.0))
        ratio = b.call(ops.SELECT, b.call(ops.EQ, x, b.zero), b.one, b.div(b.call(ops.SIN, x), x))
        nested = b.call(
            ops.SELECT,
            positive,
            b.call(ops.SELECT, b.call(ops.LT, x, b.one), b.call(ops.ACOS, x), b.call(ops.ACOSH, x)),
            b.call(ops.EXP, b.mul(b.constant(-2000.0), b.neg(x))),
        )
        return [root, log, ratio, nested]

    graph = graph_of(4, 0, rows)
    compiled = compile_rhs(graph, vectors=False)
    for x in (-3.0, -1e-9, 0.0, 1e-12, 0.5, 1.0, 4.0):
        u = np.array([x, 0.0, 0.0, 0.0])
        found = evaluate(compiled, u, np.zeros(0), 0.0)
        np.testing.assert_allclose(found, graph.evaluate("rhs", u, [], 0.0), rtol=1e-12, atol=1e-14)
        slope = compiled.ode.rhs_jac_mul(np.append(0.0, u), 0.0, u, np.array([1.0, 0.0, 0.0, 0.0]))
        assert np.isfinite(slope).all()


def grid_model(n: int, scrambled: bool) -> Graph:
    """Two diffusing, reacting fields on an n x n periodic grid; optionally with states in no order."""
    place = np.arange(2 * n * n)
    if scrambled:
        np.random.default_rng(0).shuffle(place)

    def rows(b: GraphBuilder) -> list[int]:
        right = [0] * (2 * n * n)
        for i in range(n):
            for j in range(n):
                here = i * n + j
                near = [((i + 1) % n) * n + j, ((i - 1) % n) * n + j, i * n + (j + 1) % n, i * n + (j - 1) % n]
                u, v = b.state(int(place[here])), b.state(int(place[n * n + here]))
                product = b.mul(b.mul(u, u), v)
                for field, local in ((0, b.sub(product, b.mul(b.param(0), u))), (n * n, b.sub(b.param(1), product))):
                    around = [b.state(int(place[field + k])) for k in near]
                    here_too = b.mul(b.constant(-4.0), b.state(int(place[field + here])))
                    spread = b.sum([*around, here_too])
                    right[place[field + here]] = b.add(local, b.mul(b.param(2), spread))
        return right

    return graph_of(2 * n * n, 3, rows)


@pytest.mark.parametrize("scrambled", [False, True])
def test_repeated_equations_become_vectors(scrambled: bool) -> None:
    graph = grid_model(12, scrambled)
    written = emit(lower(graph, ["rhs"]), np.ones(graph.n_states, dtype=bool))
    assert written.text.count("{") < 40  # not one statement an equation
    compiled = compile_rhs(graph, vectors=True)
    rng = np.random.default_rng(2)
    u, p = rng.uniform(0.5, 2, graph.n_states), rng.uniform(0.5, 2, 3)
    np.testing.assert_allclose(evaluate(compiled, u, p, 0.0), graph.evaluate("rhs", u, p, 0.0), rtol=1e-12)


def test_vectors_with_unequal_rows_sums_and_single_members() -> None:
    def rows(b: GraphBuilder) -> list[int]:
        x = [b.state(k) for k in range(7)]
        long = b.sum([b.mul(b.constant(k + 0.5), s) for k, s in enumerate(x)])
        shared = b.call(ops.SIN, x[0])
        return [
            long,
            b.sum([x[0], x[2], x[4], x[6], b.time(), b.constant(2.0), b.mul(b.param(0), shared)]),
            x[3],
            b.constant(4.0),
            b.mul(x[1], shared),
            b.mul(x[2], b.call(ops.SIN, x[5])),
            b.neg(long),
        ]

    graph = graph_of(7, 1, rows)
    compiled = compile_rhs(graph, vectors=True)
    u, p = np.linspace(0.3, 2.1, 7), np.array([1.7])
    np.testing.assert_allclose(evaluate(compiled, u, p, 0.4), graph.evaluate("rhs", u, p, 0.4), rtol=1e-13)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_read_back_exactly(value: float) -> None:
    assert float(number(value).text.strip("()")) == value


def test_the_compiler_reads_extreme_numbers_exactly() -> None:
    values = [5e-324, -1e-300, 1.7976931348623157e308, -123456789012345.67, 1e22, 0.1]
    graph = graph_of(len(values), 0, lambda b: [b.constant(v) for v in values])
    compiled = compile_rhs(graph, vectors=False)
    assert evaluate(compiled, np.zeros(len(values)), np.zeros(0), 0.0).tolist() == values


def test_sparsity_decides_the_linear_algebra() -> None:
    def model(graph: Graph) -> Prepared:
        names = tuple(map(str, range(graph.n_states)))
        return Prepared(Model(graph, "ode", "m", names, (), (), np.ones(graph.n_states, dtype=bool)), False)

    assert model(grid_model(8, False)).sparse
    assert not model(graph_of(2, 0, lambda b: [b.state(1), b.state(0)])).sparse
