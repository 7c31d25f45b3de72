"""Building graphs of fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pysciml.graph import array_ops as ao
from pysciml.graph import ops
from pysciml.graph.builder import GraphBuilder
from pysciml.graph.fields import Attribute, FieldGraph, Shape, shape_of
from pysciml.graph.interpret import Array


class FieldBuilder(GraphBuilder):
    """Grows a graph of fields node by node; see `GraphBuilder` and `FieldGraph`.

    Parameters
    ----------
    fields : sequence of shapes
    n_params : int
    """

    def __init__(self, fields: Sequence[Shape], n_params: int) -> None:
        self.fields = tuple(tuple(shape) for shape in fields)
        self._shapes: list[Shape] = []
        self._attributes: list[Attribute] = []
        self._attribute_numbers: dict[Attribute, int] = {}
        self._tables: list[Array] = []
        self._table_numbers: dict[tuple[Shape, bytes], int] = {}
        super().__init__(sum(int(np.prod(s)) for s in self.fields), n_params)

    def _intern(self, code: int, args: tuple[int, ...], value: float, index: int) -> int:
        before = len(self._op)
        node = super()._intern(code, args, value, index)
        if node == before:
            operands = [self._shapes[a] for a in args]
            self._shapes.append(shape_of(code, operands, index, self.fields, self._attributes, self._tables))
        return node

    def shape(self, node: int) -> Shape:
        """The shape of a node."""
        return self._shapes[node]

    # -- leaves ---------------------------------------------------------------------------------

    def field(self, index: int) -> int:
        """The values of a field."""
        return self._intern(ao.FIELD, (), 0.0, index)

    def table(self, values: npt.ArrayLike) -> int:
        """A constant array, which must be finite."""
        return self._intern(ao.TABLE, (), 0.0, self._table(values))

    def _table(self, values: npt.ArrayLike) -> int:
        array = np.array(values, dtype=np.float64, order="C")
        if not np.isfinite(array).all():
            raise ValueError("a constant array must be finite")
        key = tuple(array.shape), array.tobytes()
        if key not in self._table_numbers:
            self._table_numbers[key] = len(self._tables)
            self._tables.append(array)
        return self._table_numbers[key]

    # -- operations -----------------------------------------------------------------------------

    def apply_attribute(self, code: int, args: tuple[int, ...], attribute: Attribute) -> int:
        """An operation that needs more than its operands."""
        number = self._attribute_numbers.get(attribute)
        if number is None:
            number = self._attribute_numbers[attribute] = len(self._attributes)
            self._attributes.append(attribute)
        return self._intern(code, args, 0.0, number)

    def spread(self, node: int, shape: Shape) -> int:
        """A node of exactly that shape."""
        if self._shapes[node] == tuple(shape):
            return node
        np.broadcast_shapes(self._shapes[node], shape)
        return self._intern(ops.MUL, tuple(sorted((node, self.table(np.ones(shape))))), 0.0, -1)

    def slice(self, node: int, axis: int, start: int, length: int) -> int:
        """A part of an axis; an axis of length one, along which a value is constant, stays."""
        shape = self._shapes[node]
        if not shape or shape[axis] == 1 or (start == 0 and length == shape[axis]):
            return node
        return self.apply_attribute(ao.SLICE, (node,), (axis, start, length))

    def join(self, parts: Sequence[int], axis: int) -> int:
        """Arrays one after the other along an axis."""
        result = parts[0]
        for part in parts[1:]:
            result = self.apply_attribute(ao.JOIN, (result, part), (axis,))
        return result

    def total(self, node: int, axis: int) -> int:
        """The sum along an axis, which keeps length one."""
        return self.apply_attribute(ao.TOTAL, (node,), (axis,))

    def largest(self, node: int, axis: int) -> int:
        """The largest value along an axis, which keeps length one."""
        return self.apply_attribute(ao.LARGEST, (node,), (axis,))

    def apply(self, matrix: npt.ArrayLike, node: int, axis: int) -> int:
        """A constant matrix times every line along an axis."""
        return self.apply_attribute(ao.APPLY, (node,), (axis, self._table(matrix)))

    def fourier(self, node: int, axis: int, order: int, length: float) -> int:
        """The spectral derivative along a periodic axis of that length."""
        derivative = self.apply_attribute(ao.FOURIER, (node,), (axis, order))
        return self.mul(self.constant((2 * np.pi / length) ** order), derivative)

    def substitute_all(self, nodes: Sequence[int], replacements: Mapping[int, int]) -> list[int]:
        """Rebuild several nodes with some nodes replaced."""
        done = dict(replacements)
        for current in self.cone(nodes, stop=replacements):
            new = tuple(done[a] for a in self._args[current])
            code = self._op[current]
            if new == self._args[current]:
                done[current] = current
            elif code in ao.WITH_ATTRIBUTES:
                done[current] = self._intern(code, new, 0.0, self._index[current])
            else:
                done[current] = self.again(code, new, self._const[current], self._index[current])
        return [done[node] for node in nodes]

    def build(self, outputs: Mapping[str, Sequence[int]]) -> FieldGraph:
        """Finish: keep what the outputs need, in an order that follows from the outputs alone."""
        roots = [node for nodes in outputs.values() for node in nodes]
        order: dict[int, int] = {}
        for root in roots:
            stack = [(root, False)]
            while stack:
                node, expanded = stack.pop()
                if node in order:
                    continue
                if expanded:
                    order[node] = len(order)
                else:
                    stack.append((node, True))
                    stack.extend((a, False) for a in reversed(self._args[node]) if a not in order)
        n = len(order)
        op = np.empty(n, dtype=np.uint8)
        args = np.full((n, 3), -1, dtype=np.int32)
        const, index = np.zeros(n), np.full(n, -1, dtype=np.int32)
        attributes: dict[Attribute, int] = {}
        tables: dict[int, int] = {}
        calls: dict[int, int] = {}
        for old, new in order.items():
            code = self._op[old]
            if code == ops.FREE:
                raise ValueError("a placeholder is left in the graph")
            op[new], const[new], index[new] = code, self._const[old], self._index[old]
            for k, a in enumerate(self._args[old]):
                args[new, k] = order[a]
            if code == ops.NETWORK:
                index[new] = calls.setdefault(self._index[old], len(calls))
            elif code == ao.TABLE:
                index[new] = tables.setdefault(self._index[old], len(tables))
            elif code in ao.WITH_ATTRIBUTES:
                attribute = self._attributes[self._index[old]]
                if code == ao.APPLY:
                    attribute = attribute[0], tables.setdefault(attribute[1], len(tables))
                index[new] = attributes.setdefault(attribute, len(attributes))
        named = {name: np.array([order[node] for node in nodes], dtype=np.int32) for name, nodes in outputs.items()}
        kept = [self._tables[k] for k in tables]
        known = self.networks, [self.calls[call] for call in calls]
        return FieldGraph(op, args, const, index, self.n_params, named, self.fields, tuple(attributes), kept, *known)
