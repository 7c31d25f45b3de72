"""Jacobians of fields as sparse matrices, their pattern, and its colouring.

Every operation on arrays that is linear is a sparse matrix, every elementwise one a diagonal; the
chain rule multiplies them (forward accumulation: Griewank & Walther, *Evaluating Derivatives*, 2nd
ed., SIAM 2008, chapter 7).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pysciml.graph import array_ops as ao
from pysciml.graph import ops
from pysciml.graph.derivative import RULES
from pysciml.graph.field_builder import FieldBuilder
from pysciml.graph.field_program import FieldProgram, evaluate_array_op
from pysciml.graph.fields import FieldGraph, Shape
from pysciml.graph.graph import Ints
from pysciml.graph.interpret import Array

if TYPE_CHECKING:
    import scipy.sparse

#: Fourier derivatives of more cells than this have no matrix: it would be full.
_LARGEST_FULL = 4096


def linear_matrix(graph: FieldGraph, node: int) -> list[scipy.sparse.csr_array[Any]]:
    """The matrices of a linear array operation, one per operand."""
    shapes = [graph.shapes[a] for a in graph.args[node].tolist() if a >= 0]
    return operation_matrices(int(graph.op[node]), shapes, graph.attributes[int(graph.index[node])], graph.tables)


def operation_matrices(
    code: int, shapes: Sequence[Shape], attribute: tuple[int, ...], tables: Sequence[Array]
) -> list[scipy.sparse.csr_array[Any]]:
    """The matrices of a linear array operation for operands of the given shapes."""
    from scipy import sparse

    axis = attribute[0]
    shape = shapes[0]
    if code in (ao.APPLY, ao.FOURIER, ao.TOTAL):
        if code == ao.APPLY:
            matrix = tables[attribute[1]]
        elif code == ao.TOTAL:
            matrix = np.ones((1, shape[axis]))
        else:
            matrix = evaluate_array_op(code, [np.eye(shape[axis])], (0, attribute[1]), tables)
        before, after = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
        inner = sparse.kron(sparse.csr_array(matrix), sparse.eye_array(after), format="csr")
        return [sparse.csr_array(sparse.kron(sparse.eye_array(before), inner, format="csr"))]
    # What remains only moves values: where each value comes from is found by moving their numbers.
    numbers, offset = [], 0
    for s in shapes:
        size = int(np.prod(s))
        numbers.append(np.arange(offset, offset + size).reshape(s))
        offset += size
    source = evaluate_array_op(code, numbers, attribute, tables).ravel()
    count = len(source)
    whole = sparse.csr_array((np.ones(count), source, np.arange(count + 1)), shape=(count, offset))
    ends = np.cumsum([0, *(int(np.prod(s)) for s in shapes)]).tolist()
    return [sparse.csr_array(whole[:, a:b]) for a, b in itertools.pairwise(ends)]


def spreading(shape: Shape, target: Shape) -> npt.NDArray[np.int64]:
    """Which element of an array of one shape each element of the broadcast array is."""
    return np.broadcast_to(np.arange(int(np.prod(shape))).reshape(shape), target).ravel()


class FieldJacobian:
    """The Jacobian of a named output by the states, for any values."""

    def __init__(self, graph: FieldGraph, name: str = "rhs") -> None:
        _check_size(graph, name)
        builder = FieldBuilder(graph.fields, graph.n_params)
        moved = copy(graph, builder)
        needed = graph.reachable(graph.outputs[name])
        depends = _depends(graph)
        partials: dict[int, list[int]] = {}
        wanted: list[int] = []
        for node in np.flatnonzero(needed & depends).tolist():
            code = int(graph.op[node])
            operands = tuple(moved[a] for a in graph.operands(node))
            if code == ops.JOIN:  # a network asks what it joins
                continue
            if code == ops.NETWORK:
                partials[node] = [builder.differentiated(moved[node], k) for k in range(len(operands))]
                continue
            if code in ao.ARRAY_OPS:
                if code == ao.LARGEST:
                    where = builder.call(ops.EQ, moved[node], operands[0])
                    partials[node] = [where]
                continue
            if code in (ops.SELECT, ops.MIN, ops.MAX):
                test = {ops.MIN: ops.LE, ops.MAX: ops.GE}.get(code)
                first = operands[0] if test is None else builder.call(test, *operands)
                second = builder.sub(builder.one, builder.call(ops.NE, first, builder.zero))
                taken = builder.sub(builder.one, second)
                partials[node] = [builder.zero] * (code == ops.SELECT) + [taken, second]
            else:
                partials[node] = list(RULES[code](builder, operands, moved[node]))
        for found in partials.values():
            wanted.extend(found)
        self._graph, self._name = graph, name
        self._roots = graph.outputs[name].tolist()
        self._nodes = np.flatnonzero(needed & depends).tolist()
        self._partials = {node: (start, len(p)) for start, (node, p) in _starts(partials)}
        built = builder.build({"all": wanted})
        self._program = FieldProgram(built, built.outputs["all"].tolist())
        self._matrices: dict[int, list[Any]] = {}

    def __call__(self, u: Array, p: Array, t: float, *, pattern: bool = False) -> scipy.sparse.csr_array[Any]:
        """Evaluate; with ``pattern=True`` every partial derivative counts as one."""
        from scipy import sparse

        graph = self._graph
        partials = [] if pattern else self._program(u, p, t)
        found: dict[int, Any] = {}
        for node in self._nodes:
            code = int(graph.op[node])
            shape = graph.shapes[node]
            size = int(np.prod(shape))
            operands = graph.operands(node)
            if code == ops.JOIN:
                continue
            if code == ao.FIELD:
                offset = graph.offsets[int(graph.index[node])]
                columns = np.arange(offset, offset + size)
                ones = np.ones(size)
                found[node] = sparse.csr_array((ones, columns, np.arange(size + 1)), shape=(size, graph.n_states))
                continue
            total: Any = None
            if code in ao.LINEAR:
                if node not in self._matrices:
                    matrices = linear_matrix(graph, node)
                    self._matrices[node] = [abs(m) for m in matrices] if pattern else matrices
                for matrix, a in zip(self._matrices[node], operands, strict=True):
                    if a in found:
                        term = matrix @ found[a]
                        total = term if total is None else total + term
            else:
                start, _ = self._partials[node]
                for k, a in enumerate(operands):
                    if a not in found:
                        continue
                    if code == ao.LARGEST:
                        axis = graph.attributes[int(graph.index[node])]
                        sums = operation_matrices(ao.TOTAL, [graph.shapes[a]], axis, ())[0]
                        weight = np.ones(sums.shape[1]) if pattern else _first_only(partials[start], axis[0])
                        term = sums @ (sparse.diags_array(weight.ravel()) @ found[a])
                    else:
                        weight = np.ones(size) if pattern else np.broadcast_to(partials[start + k], shape).ravel()
                        inner = found[a]
                        if graph.shapes[a] != shape:
                            inner = inner[spreading(graph.shapes[a], shape)]
                        term = sparse.diags_array(weight) @ inner
                    total = term if total is None else total + term
            if total is not None:
                found[node] = sparse.csr_array(total)
        rows: list[Any] = []
        for root, shape in zip(self._roots, self._shapes(), strict=True):
            if root in found:
                rows.append(found[root][spreading(graph.shapes[root], shape)])
            else:
                rows.append(sparse.csr_array((int(np.prod(shape)), graph.n_states)))
        result = sparse.csr_array(sparse.vstack(rows, format="csr"))
        result.sum_duplicates()
        result.sort_indices()
        return result

    def _shapes(self) -> list[Shape]:
        if self._name == "rhs":
            return list(self._graph.fields)
        return [self._graph.shapes[root] for root in self._roots]


def _starts(partials: dict[int, list[int]]) -> list[tuple[int, tuple[int, list[int]]]]:
    result, start = [], 0
    for node, found in partials.items():
        result.append((start, (node, found)))
        start += len(found)
    return result


def _first_only(where: Array, axis: int) -> Array:
    """One where the largest value is first met along an axis, zero elsewhere."""
    first = np.zeros_like(where)
    np.put_along_axis(first, np.argmax(where, axis=axis, keepdims=True), 1.0, axis=axis)
    return first


def _check_size(graph: FieldGraph, name: str) -> None:
    needed = np.flatnonzero(graph.reachable(graph.outputs[name]))
    for node in needed.tolist():
        size = int(np.prod(graph.shapes[node]))
        if graph.op[node] == ao.FOURIER and size > _LARGEST_FULL:
            raise ValueError(f"the matrix of a Fourier derivative of {size} cells would be full")


def _depends(graph: FieldGraph) -> npt.NDArray[np.bool_]:
    """Which nodes depend on the states."""
    depends = graph.op == ao.FIELD
    for node, row in enumerate(graph.args.tolist()):
        if any(depends[a] for a in row if a >= 0):
            depends[node] = True
    return depends


def copy(graph: FieldGraph, builder: FieldBuilder) -> list[int]:
    """Copy all nodes of a graph into a builder of the same fields; returns where each went."""
    moved: list[int] = []
    calls = builder.copy_networks(graph.networks, graph.calls)
    for code, row, value, k in zip(
        graph.op.tolist(), graph.args.tolist(), graph.const.tolist(), graph.index.tolist(), strict=True
    ):
        args = tuple(moved[a] for a in row if a >= 0)
        if code == ao.TABLE:
            node = builder.table(graph.tables[k])
        elif code == ao.APPLY:
            axis, table = graph.attributes[k]
            node = builder.apply(graph.tables[table], args[0], axis)
        elif code in ao.WITH_ATTRIBUTES:
            node = builder.apply_attribute(code, args, graph.attributes[k])
        elif code in ops.COMMUTATIVE:
            node = builder._intern(code, tuple(sorted(args)), value, k)
        elif code == ops.NETWORK:
            node = builder._intern(code, args, value, calls[k])
        else:
            node = builder._intern(code, args, value, k)
        moved.append(node)
    return moved


@lru_cache(maxsize=4)  # the matrices of a fine grid are large
def jacobian_of(graph: FieldGraph, name: str = "rhs") -> FieldJacobian:
    """The `FieldJacobian` of a graph, made once."""
    return FieldJacobian(graph, name)


def jacobian(graph: FieldGraph, u: Array, p: Array, t: float, name: str = "rhs") -> scipy.sparse.csr_array[Any]:
    """The Jacobian of a named output by the states: ``csr_array``, shape (n_outputs, n_states)."""
    return jacobian_of(graph, name)(u, p, t)


def sparsity(graph: FieldGraph, name: str = "rhs") -> tuple[Ints, Ints]:
    """See `FieldGraph.sparsity`."""
    none = np.zeros(0)
    pattern = FieldJacobian(graph, name)(none, none, 0.0, pattern=True).tocoo()
    return pattern.row.astype(np.int32), pattern.col.astype(np.int32)


def colour(rows: Ints, cols: Ints, n: int) -> npt.NDArray[np.int32]:
    """Colour columns so that no two of one colour meet in a row (Curtis, Powell & Reid 1974).

    Greedy in the order of the columns. One product of the Jacobian with the sum of all unit vectors
    of a colour then gives all their columns.

    Returns
    -------
    int32 array, shape (n,)
        The colour of each column, from 0.
    """
    from scipy import sparse

    by_row = sparse.csr_array((np.ones(len(rows), dtype=np.int8), (rows, cols)))
    by_col = sparse.csc_array(by_row)
    colours = np.full(n, -1, dtype=np.int32)
    indptr, indices = by_row.indptr, by_row.indices
    for column in range(by_col.shape[1]):
        meeting = by_col.indices[by_col.indptr[column] : by_col.indptr[column + 1]]
        near = np.concatenate([indices[indptr[r] : indptr[r + 1]] for r in meeting] or [np.zeros(0, dtype=np.int64)])
        taken = np.unique(colours[near])
        taken = taken[taken >= 0]
        free = np.flatnonzero(taken != np.arange(len(taken)))
        colours[column] = free[0] if free.size else len(taken)
    colours[colours < 0] = 0
    return colours


def near_nodes(graph: FieldGraph, name: str) -> npt.NDArray[np.bool_]:
    """What stands between states and an output beside eliminated fields (`pysciml.graph.field_elimination`)."""
    held = set(graph.outputs["far"].tolist()) if "far" in graph.outputs else set()
    depends = graph.op == ao.FIELD
    for node, row in enumerate(graph.args.tolist()):
        if node not in held and any(depends[a] for a in row if a >= 0):
            depends[node] = True
    needed = np.zeros(len(graph), dtype=np.bool_)
    needed[graph.outputs[name]] = True
    for node in range(len(graph) - 1, -1, -1):
        if needed[node] and node not in held:
            needed[[a for a in graph.args[node].tolist() if a >= 0]] = True
    return depends & needed


def tangent_graph(graph: FieldGraph, name: str = "rhs", *, near: bool = False) -> FieldGraph:
    """The product of a Jacobian with a vector, as a graph; ``near`` holds eliminated fields.

    Returns
    -------
    FieldGraph
        Its fields are those of ``graph`` and then the vector's; its output ``"tangent"`` has a node
        for each node of the named output.
    """
    count = len(graph.fields)
    builder = FieldBuilder([*graph.fields, *graph.fields], graph.n_params)
    moved = copy(graph, builder)
    needed = near_nodes(graph, name) if near else graph.reachable(graph.outputs[name])
    nodes = np.flatnonzero(needed).tolist()
    tangent = {node: builder.field(count + int(graph.index[node])) for node in nodes if graph.op[node] == ao.FIELD}
    push_forward(graph, builder, moved, nodes, tangent)
    roots = graph.outputs[name].tolist()
    return builder.build({"tangent": [tangent.get(root, builder.zero) for root in roots]})


def push_forward(
    graph: FieldGraph, builder: FieldBuilder, moved: Sequence[int], nodes: Sequence[int], tangent: dict[int, int]
) -> None:
    """Write the derivatives of nodes in one direction, forward from those of the leaves.

    Parameters
    ----------
    graph : FieldGraph
    builder : FieldBuilder
        Where they are written.
    moved : list of int
        Where each node of the graph is in the builder.
    nodes : list of int
        Which nodes, in the graph's order.
    tangent : dict
        Node of the graph -> its derivative in the builder: given for leaves, filled for the others;
        nodes that do not change are not in it.
    """
    for node in nodes:
        code, k = int(graph.op[node]), int(graph.index[node])
        operands = graph.operands(node)
        if code == ops.JOIN or node in tangent or not any(a in tangent for a in operands):
            continue
        values = tuple(moved[a] for a in operands)
        if code in (ao.APPLY, ao.SLICE, ao.TOTAL, ao.FOURIER, ao.JOIN):
            parts = tuple(tangent.get(a, builder.zero) for a in operands)
            parts = tuple(builder.spread(part, graph.shapes[a]) for part, a in zip(parts, operands, strict=True))
            if code == ao.APPLY:
                axis, table = graph.attributes[k]
                tangent[node] = builder.apply(graph.tables[table], parts[0], axis)
            else:
                tangent[node] = builder.apply_attribute(code, parts, graph.attributes[k])
        elif code == ao.LARGEST:
            where = builder.call(ops.EQ, values[0], moved[node])
            weighted = builder.spread(builder.mul(where, tangent[operands[0]]), graph.shapes[operands[0]])
            hits = builder.total(builder.spread(where, graph.shapes[operands[0]]), graph.attributes[k][0])
            tangent[node] = builder.div(builder.total(weighted, graph.attributes[k][0]), hits)
        elif code in (ops.SELECT, ops.MIN, ops.MAX):
            test = {ops.MIN: ops.LE, ops.MAX: ops.GE}.get(code)
            condition = values[0] if test is None else builder.call(test, *values)
            first, second = (tangent.get(a, builder.zero) for a in operands[-2:])
            tangent[node] = builder.call(ops.SELECT, condition, first, second)
        else:
            if code == ops.NETWORK:
                partials = tuple(builder.differentiated(moved[node], i) for i in range(len(operands)))
            else:
                partials = RULES[code](builder, values, moved[node])
            terms = [builder.mul(p, tangent[a]) for p, a in zip(partials, operands, strict=True) if a in tangent]
            tangent[node] = builder.sum([term for term in terms if term != builder.zero])
