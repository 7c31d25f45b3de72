"""Graphs of fields: shapes, evaluation, Jacobians, colouring, files."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import pysciml as ps
from pysciml.graph import ops
from pysciml.graph.field_builder import FieldBuilder
from pysciml.graph.field_jacobian import colour, jacobian
from pysciml.graph.fields import FieldGraph


def laplacian(b: FieldBuilder, x: int) -> int:
    terms = []
    for axis, n in enumerate(b.shape(x)):
        padded = b.join([b.slice(x, axis, n - 1, 1), x, b.slice(x, axis, 0, 1)], axis)
        around = b.add(b.slice(padded, axis, 0, n), b.slice(padded, axis, 2, n))
        terms.append(b.sub(around, b.mul(b.constant(2.0), x)))
    return b.sum(terms)


def everything(n: int = 6, m: int = 5) -> FieldGraph:
    """Two fields with every array operation and some branches."""
    b = FieldBuilder([(n, m), (n, m)], 2)
    u, v = b.field(0), b.field(1)
    x = b.table(np.arange(n)[:, None] / n)
    f = b.add(b.mul(b.param(0), laplacian(b, u)), b.add(b.mul(b.mul(u, u), v), b.call(ops.SIN, x)))
    branch = b.call(ops.SELECT, b.call(ops.GT, u, v), b.mul(u, v), v)
    g = b.sub(b.fourier(v, 0, 1, 2.0), b.call(ops.MAX, u, branch))
    g = b.add(g, b.mul(b.total(b.mul(u, u), 0), b.largest(b.largest(v, 0), 1)))
    g = b.add(g, b.apply(np.vander(np.linspace(0, 1, m)), v, 1))
    return b.build({"rhs": [f, g], "observed": [b.total(b.total(u, 0), 1)]})


def test_a_finer_grid_takes_no_more_nodes() -> None:
    assert len(everything(400, 300)) == len(everything(6, 5))


def test_the_periodic_laplacian_of_a_plane_wave() -> None:
    n = 32
    b = FieldBuilder([(n, n)], 0)
    graph = b.build({"rhs": [laplacian(b, b.field(0))]})
    phase = 2 * np.pi * np.arange(n) / n
    wave = np.sin(3 * phase[:, None] + 2 * phase)
    found = graph.evaluate("rhs", wave.ravel(), [], 0.0).reshape(n, n)
    symbol = 2 * np.cos(6 * np.pi / n) + 2 * np.cos(4 * np.pi / n) - 4
    np.testing.assert_allclose(found, symbol * wave, atol=1e-14)


def test_the_fourier_derivative_is_exact_below_the_highest_mode() -> None:
    n, length = 24, 3.0
    b = FieldBuilder([(n,)], 0)
    graph = b.build({"rhs": [b.fourier(b.field(0), 0, 3, length)]})
    k = 2 * np.pi / length
    x = length * np.arange(n) / n
    found = graph.evaluate("rhs", np.sin(5 * k * x), [], 0.0)
    np.testing.assert_allclose(found, -((5 * k) ** 3) * np.cos(5 * k * x), rtol=0, atol=1e-9)


def test_the_jacobian_agrees_with_finite_differences_and_its_pattern_covers_it() -> None:
    graph = everything()
    x, p, e = np.random.default_rng(0).normal(size=graph.n_states), np.array([0.3, 0.4]), 1e-6
    matrix = jacobian(graph, x, p, 0.1).toarray()
    columns = [
        (graph.evaluate("rhs", x + e * d, p, 0.1) - graph.evaluate("rhs", x - e * d, p, 0.1)) / (2 * e)
        for d in np.eye(graph.n_states)
    ]
    np.testing.assert_allclose(matrix, np.stack(columns, axis=1), rtol=0, atol=2e-8)
    covered = np.zeros(matrix.shape, dtype=bool)
    covered[graph.sparsity()] = True
    assert not np.any(matrix[~covered])


def test_colours_meet_in_no_row_and_are_few() -> None:
    n = 12
    b = FieldBuilder([(n, n)], 0)
    graph = b.build({"rhs": [laplacian(b, b.field(0))]})
    rows, cols = graph.sparsity()
    colours = colour(rows, cols, n * n)
    pairs = {(int(r), int(c)) for r, c in zip(rows, colours[cols], strict=True)}
    assert len(pairs) == len(rows) == 5 * n * n
    assert colours.max() + 1 <= 9


def test_a_batch_of_states_is_evaluated_column_by_column() -> None:
    graph = everything()
    states = np.random.default_rng(1).normal(size=(graph.n_states, 3))
    p, t = np.array([0.3, 0.4]), np.array([0.0, 1.0, 2.0])
    together = graph.evaluate("rhs", states, p[:, None], t)
    for k in range(3):
        np.testing.assert_array_equal(together[:, k], graph.evaluate("rhs", states[:, k], p, t[k]))


def test_the_hash_follows_from_the_content_and_survives_a_file() -> None:
    graph = everything()
    again = FieldGraph.from_document(json.loads(json.dumps(graph.document())), graph.n_params)
    assert again == graph == everything()
    assert everything(7, 5) != graph


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["op"].__setitem__(0, 77), "unknown operation"),
        (lambda d: d["args"].__setitem__(-1, [10**6, -1, -1]), "bad operands"),
        (lambda d: d["index"].__setitem__(-1, 99), "bad index"),
        (lambda d: d["const"].__setitem__(0, float("inf")), "not finite"),
        (lambda d: d["outputs"].__setitem__("rhs", [0]), "one right-hand side per field"),
        (lambda d: d["attributes"].__setitem__(0, [7, 0, 1]), "shapes do not fit"),
        (lambda d: d["tables"][0].__setitem__("shape", [3]), "not a graph"),
        (lambda d: d.pop("fields"), "not a graph"),
    ],
)
def test_a_damaged_file_is_refused(change: Any, message: str) -> None:
    document = everything().document()
    change(document)
    with pytest.raises(ValueError, match=message):
        FieldGraph.from_document(document, 2)


@pytest.mark.parametrize("order", [2, 6])
def test_a_finer_grid_compiles_to_no_more_loops(order: int) -> None:
    import jax

    from pysciml.engines.jax.compiling import double_precision
    from pysciml.engines.jax.fields.lower import lower_fields

    X, Y = ps.coordinates("X Y")
    u, k = ps.fields("u", X, Y), ps.parameters("k")
    heat = ps.PDESystem(
        [ps.Eq(ps.D(u), k * ps.laplacian(u) - u**2)],
        domain={X: (0, 1), Y: (0, 1)},
        boundary={X: ps.Dirichlet(lower=0, upper=Y), Y: ps.Periodic()},
        initial={u: 0},
    )

    def loops(n: int) -> int:
        graph = heat.discretize({X: n, Y: n}, order=order).graph
        with double_precision():
            function = jax.jit(lower_fields(graph, "rhs"))
            text = function.lower(0.0, np.zeros(graph.n_states), np.ones(1)).compile().as_text()
        entry = text[text.index("\nENTRY") :]
        return sum(entry.count(f" {what}(") for what in ("fusion", "concatenate", "copy", "slice"))

    assert loops(256) <= loops(64)


def test_parts_of_joined_arrays_come_from_where_they_lie() -> None:
    import jax

    from pysciml.engines.jax.compiling import double_precision
    from pysciml.engines.jax.fields.lower import lower_fields

    for shape in ((6,), (4, 6), (3, 4, 6)):
        b = FieldBuilder([shape], 0)
        u, outputs = b.field(0), []
        for axis, n in enumerate(shape):
            wrapped = b.join([b.slice(u, axis, n - 2, 2), u, b.slice(u, axis, 0, 2)], axis)
            outputs += [b.slice(wrapped, axis, start, n) for start in range(5)]
            outputs += [wrapped, b.slice(wrapped, axis, 1, 1), b.slice(wrapped, axis, 0, 2)]
            across = b.join([wrapped, b.mul(wrapped, wrapped)], (axis + 1) % len(shape))
            outputs += [across, b.slice(across, (axis + 1) % len(shape), 1, 4), b.slice(across, axis, 1, n)]
        graph = b.build({"values": outputs})
        y = np.random.default_rng(0).normal(size=graph.n_states)
        with double_precision():
            found = np.asarray(jax.jit(lower_fields(graph, "values"))(0.0, y, np.zeros(0)))
        expected = np.concatenate([a.ravel() for a in graph.arrays("values", y, np.zeros(0), 0.0)])
        assert np.array_equal(found, expected)
