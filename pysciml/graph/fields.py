"""Graphs whose nodes are arrays: a partial differential equation on a grid is a handful of nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from pysciml.errors import UnsupportedError
from pysciml.graph import array_ops as ao
from pysciml.graph import ops
from pysciml.graph.graph import Graph, Ints, Wrt
from pysciml.graph.interpret import Array, History
from pysciml.graph.networks import Call, Network

if TYPE_CHECKING:
    from pysciml.graph.field_program import FieldProgram

Shape = tuple[int, ...]
Attribute = tuple[int, ...]


class FieldGraph(Graph):
    """An expression graph over fields on grids.

    Every node has a shape: ``()`` for numbers, a grid's (or one that broadcasts to it) for the rest.
    The states are the cells of all fields, one field after the other, each in C order; the output
    ``"rhs"`` has one node per field. Building takes no longer for a finer grid.

    Attributes
    ----------
    fields : tuple of shapes
        The grid of each field.
    shapes : tuple of shapes
        The shape of each node.
    attributes : tuple of tuples of int
        What operations need besides their operands; see `pysciml.graph.array_ops`.
    tables : tuple of arrays
        Constant arrays.
    """

    def __init__(
        self,
        op: npt.NDArray[np.uint8],
        args: Ints,
        const: Array,
        index: Ints,
        n_params: int,
        outputs: Mapping[str, Ints],
        fields: Sequence[Shape],
        attributes: Sequence[Attribute],
        tables: Sequence[Array],
        networks: Sequence[Network] = (),
        calls: Sequence[Call] = (),
    ) -> None:
        sizes = [int(np.prod(shape)) for shape in fields]
        super().__init__(op, args, const, index, sum(sizes), n_params, outputs, networks, calls)
        self.fields = tuple(fields)
        self.attributes = tuple(attributes)
        self.tables = tuple(tables)
        for table in self.tables:
            table.setflags(write=False)
        self.offsets = tuple(np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist())
        shapes: list[Shape] = []
        for code, row, k in zip(op.tolist(), args.tolist(), index.tolist(), strict=True):
            operands = [shapes[a] for a in row[: ao.describe(code).arity]]
            shapes.append(shape_of(code, operands, k, self.fields, self.attributes, self.tables))
        self.shapes = tuple(shapes)
        self._field_programs: dict[str, FieldProgram] = {}

    def __repr__(self) -> str:
        fields = ", ".join("×".join(map(str, shape)) for shape in self.fields)
        outputs = ", ".join(f"{k}[{len(v)}]" for k, v in self.outputs.items())
        return f"FieldGraph({len(self)} nodes, fields {fields}, {self.n_params} parameters; {outputs})"

    @cached_property
    def hash(self) -> str:
        """Content hash (hex), the same in every process and on every machine."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"pysciml-fields-1 {self.fields} {self.n_params} {self.attributes}".encode())
        for array, kind in ((self.op, "<u1"), (self.args, "<i4"), (self.const, "<f8"), (self.index, "<i4")):
            digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        for table in self.tables:
            digest.update(f" {table.shape} ".encode())
            digest.update(np.ascontiguousarray(table, dtype="<f8").tobytes())
        for name in sorted(self.outputs):
            digest.update(f" {name} {len(self.outputs[name])} ".encode())
            digest.update(np.ascontiguousarray(self.outputs[name], dtype="<i4").tobytes())
        if self.networks:
            digest.update(repr(([network.content for network in self.networks], list(map(tuple, self.calls)))).encode())
        return digest.hexdigest()

    def operands(self, node: int) -> list[int]:
        """What a node is a function of: its operands; the inputs of a network, which are joined on the way to it."""
        if self.op[node] == ops.NETWORK:
            return self.inputs_of(node)
        return [a for a in self.args[node].tolist() if a >= 0]

    def split(self, u: Array) -> list[Array]:
        """The fields of a state vector, each of the shape of its grid."""
        return [u[a : a + int(np.prod(s))].reshape(s) for a, s in zip(self.offsets, self.fields, strict=False)]

    def arrays(self, name: str, u: npt.ArrayLike, p: npt.ArrayLike, t: float) -> list[Array]:
        """Evaluate a named output in NumPy: one array per node, of that node's shape."""
        from pysciml.graph.field_program import FieldProgram

        program = self._field_programs.get(name)
        if program is None:
            program = self._field_programs[name] = FieldProgram(self, self.outputs[name].tolist())
        return program(np.asarray(u, dtype=np.float64), np.asarray(p, dtype=np.float64), float(t))

    def evaluate(
        self, name: str, u: npt.ArrayLike, p: npt.ArrayLike, t: npt.ArrayLike, history: History | None = None
    ) -> Array:
        """Evaluate a named output in NumPy; arrays come one after the other.

        Parameters
        ----------
        u : array, shape (n_states,) or (n_states, k)
        p : array, shape (n_params,) or (n_params, 1) or (n_params, k)
        t : scalar or array, shape (k,)

        Returns
        -------
        array, shape (n,) or (n, k)
        """
        states, times = np.asarray(u, dtype=np.float64), np.asarray(t, dtype=np.float64)
        params = np.asarray(p, dtype=np.float64)
        if states.ndim == 1 and times.ndim == 0 and params.ndim == 1:
            return self._flat(name, states, params, float(times))
        count = int(np.broadcast_shapes(states.shape[1:], times.shape, params.shape[1:])[0])
        states = np.broadcast_to(states.reshape(len(states), -1), (len(states), count))
        params = np.broadcast_to(params.reshape(len(params), -1), (len(params), count))
        times = np.broadcast_to(times, (count,))
        columns = [self._flat(name, states[:, k], params[:, k], float(times[k])) for k in range(count)]
        return np.stack(columns, axis=1) if columns else np.zeros((0, 0))

    def _flat(self, name: str, u: Array, p: Array, t: float) -> Array:
        found = self.arrays(name, u, p, t)
        if name == "rhs":
            found = [np.broadcast_to(a, shape) for a, shape in zip(found, self.fields, strict=True)]
        return np.concatenate([a.ravel() for a in found]) if found else np.zeros(0)

    def jacobian(self, name: str = "rhs", wrt: Wrt = "states") -> tuple[Graph, Ints, Ints]:
        """A field's Jacobian is evaluated as a matrix: `pysciml.graph.field_jacobian.jacobian`."""
        raise UnsupportedError("the Jacobian of fields is not a graph: evaluate it with graph.field_jacobian.jacobian")

    def sparsity(self, name: str = "rhs", wrt: Wrt = "states") -> tuple[Ints, Ints]:
        """Which entries of the Jacobian by the states can be non-zero: ``rows, cols``, by row."""
        from pysciml.graph.field_jacobian import sparsity

        return sparsity(self, name)

    def document(self) -> dict[str, Any]:
        """The graph as plain lists, for JSON; one with networks has none."""
        if self.networks:
            raise UnsupportedError("a graph of fields with networks is not written as lists")
        return {
            "op": self.op.tolist(),
            "args": self.args.tolist(),
            "const": self.const.tolist(),
            "index": self.index.tolist(),
            "outputs": {name: nodes.tolist() for name, nodes in self.outputs.items()},
            "fields": [list(shape) for shape in self.fields],
            "attributes": [list(a) for a in self.attributes],
            "tables": [{"shape": list(a.shape), "values": a.ravel().tolist()} for a in self.tables],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any], n_params: int) -> FieldGraph:
        """Read what `document` wrote; from a file it is not trusted.

        Raises
        ------
        ValueError
            If it does not describe a graph of fields.
        """
        try:
            fields = [_shape(s) for s in cast("list[Any]", document["fields"])]
            attributes = [tuple(int(v) for v in a) for a in cast("list[Any]", document["attributes"])]
            tables = [
                np.asarray(a["values"], dtype=np.float64).reshape(_shape(a["shape"]))
                for a in cast("list[Any]", document["tables"])
            ]
            op = np.asarray(document["op"], dtype=np.int64)
            args = np.asarray(document["args"], dtype=np.int64)
            index = np.asarray(document["index"], dtype=np.int64)
            const = np.asarray(document["const"], dtype=np.float64)
            outputs = {
                str(k): np.asarray(v, dtype=np.int64) for k, v in cast("dict[str, Any]", document["outputs"]).items()
            }
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a graph of fields: {error}") from error
        n = len(op)
        if op.ndim != 1 or args.shape != (n, 3) or index.shape != (n,) or const.shape != (n,):
            raise ValueError("op, args, index and const do not match")
        if not np.isfinite(const).all() or not all(np.isfinite(a).all() for a in tables):
            raise ValueError("it has constants that are not finite")
        known = (set(ops.OPS) | set(ao.ARRAY_OPS)) - {ops.FREE, ops.HISTORY, ops.STATE}
        for i, (code, row, k) in enumerate(zip(op.tolist(), args.tolist(), index.tolist(), strict=True)):
            if code not in known:
                raise ValueError(f"node {i} has the unknown operation code {code}")
            arity = ao.describe(code).arity
            if any(not 0 <= a < i for a in row[:arity]) or any(a != -1 for a in row[arity:]):
                raise ValueError(f"node {i} has bad operands {row}")
            limits = {ops.PARAM: n_params, ao.FIELD: len(fields), ao.TABLE: len(tables)}
            limit = len(attributes) if code in ao.WITH_ATTRIBUTES else limits.get(code, 0)
            if (not 0 <= k < limit) if limit or code in limits or code in ao.WITH_ATTRIBUTES else k != -1:
                raise ValueError(f"node {i} has a bad index {k}")
        for name, nodes in outputs.items():
            if nodes.ndim != 1 or (nodes.size and (nodes.min() < 0 or nodes.max() >= n)):
                raise ValueError(f"output {name!r} names nodes that do not exist")
        if len(outputs.get("rhs", [])) != len(fields):
            raise ValueError("there is not one right-hand side per field")
        try:
            return cls(
                op.astype(np.uint8),
                args.astype(np.int32),
                const,
                index.astype(np.int32),
                n_params,
                {name: nodes.astype(np.int32) for name, nodes in outputs.items()},
                fields,
                attributes,
                tables,
            )
        except (ValueError, IndexError) as error:
            raise ValueError(f"its shapes do not fit: {error}") from error


def _shape(values: Any) -> Shape:
    shape = tuple(int(v) for v in values)
    if not 0 <= len(shape) <= 4 or any(v < 0 for v in shape) or np.prod(shape, dtype=float) > 2**31:
        raise ValueError(f"bad shape {shape}")
    return shape


def shape_of(
    code: int,
    operands: Sequence[Shape],
    index: int,
    fields: Sequence[Shape],
    attributes: Sequence[Attribute],
    tables: Sequence[Array],
) -> Shape:
    """The shape of a node; `ValueError` where its operands do not fit."""
    if code == ao.FIELD:
        return fields[index]
    if code == ao.TABLE:
        return tuple(tables[index].shape)
    if code not in ao.ARRAY_OPS:
        return tuple(np.broadcast_shapes(*operands)) if operands else ()
    axis, *rest = attributes[index]
    shape = list(operands[0])
    if not 0 <= axis < len(shape):
        raise ValueError(f"there is no axis {axis} in the shape {tuple(shape)}")
    if code == ao.SLICE:
        start, length = rest
        if start < 0 or length < 1 or start + length > shape[axis]:
            raise ValueError(f"no {length} values from {start} on in the shape {tuple(shape)}")
        shape[axis] = length
    elif code == ao.JOIN:
        other = list(operands[1])
        if len(other) != len(shape) or shape[:axis] + shape[axis + 1 :] != other[:axis] + other[axis + 1 :]:
            raise ValueError(f"the shapes {tuple(shape)} and {tuple(other)} cannot be joined along axis {axis}")
        shape[axis] += other[axis]
    elif code in (ao.TOTAL, ao.LARGEST):
        shape[axis] = 1
    elif code == ao.APPLY:
        matrix = tables[rest[0]]
        if matrix.ndim != 2 or matrix.shape[1] != shape[axis]:
            raise ValueError(f"a matrix of shape {matrix.shape} does not fit axis {axis} of {tuple(shape)}")
        shape[axis] = matrix.shape[0]
    return tuple(shape)
