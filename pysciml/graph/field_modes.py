"""Fields on a periodic domain by their Fourier modes.

A linear part that is the same at every place is diagonal in the modes; the rest of a right-hand side is evaluated at
the points, between transforms. Derivatives of what is known by its modes, or wanted by its modes, need no transform of
their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pysciml.graph import Graph, ops
from pysciml.graph import array_ops as ao
from pysciml.graph.field_builder import FieldBuilder
from pysciml.graph.field_jacobian import copy, near_nodes
from pysciml.graph.field_split import split
from pysciml.graph.fields import FieldGraph
from pysciml.graph.interpret import Array

#: How far the answers of two places to the same value may be apart, relative to the largest.
_SAME: Final = 1e-9
#: The order of a derivative along each axis.
Orders = tuple[int, ...]


def separate(graph: FieldGraph) -> FieldGraph | None:
    """Take what is linear in a field with constant coefficients out of its right-hand side.

    Returns
    -------
    FieldGraph or None
        With the outputs ``"linear"`` and ``"rest"``, one node per field each; they add up to ``"rhs"``.
        What a field does to another one is in the rest. None if nothing is linear.
    """
    builder = FieldBuilder(graph.fields, graph.n_params)
    moved = copy(graph, builder)
    lines: list[int] = []
    rests: list[int] = []
    for field, root in enumerate(graph.outputs["rhs"].tolist()):
        line, rest = _split(graph, builder, moved, _linear(graph, field), root)
        lines.append(line)
        rests.append(rest)
    if all(line == builder.zero for line in lines):
        return None
    return builder.build({"linear": lines, "rest": rests, **_far(graph, moved)})


def _far(graph: FieldGraph, moved: list[int]) -> dict[str, list[int]]:
    """The output ``"far"`` of `pysciml.graph.field_elimination`, if there is one."""
    return {"far": [moved[node] for node in graph.outputs["far"].tolist()]} if "far" in graph.outputs else {}


def _linear(graph: Graph, field: int) -> list[bool]:
    """Which nodes are linear in a field and have no other, the same at every place."""
    found: list[bool] = []
    constant: list[bool] = []  # numbers that do not depend on time
    for code, row, index in zip(graph.op.tolist(), graph.args.tolist(), graph.index.tolist(), strict=True):
        args = [a for a in row if a >= 0]
        constant.append(
            code in (ops.CONST, ops.PARAM)
            or (bool(args) and code not in ao.ARRAY_OPS and all(constant[a] for a in args))
        )
        if code == ao.FIELD:
            found.append(index == field)
        elif code in (ops.ADD, ops.SUB, ops.NEG, ao.FOURIER, ao.SLICE, ao.JOIN):
            found.append(all(found[a] for a in args))
        elif code == ops.MUL:
            a, b = args
            found.append((found[a] and constant[b]) or (found[b] and constant[a]))
        elif code == ops.DIV:
            found.append(found[args[0]] and constant[args[1]])
        else:
            found.append(False)
    return found


def _split(graph: FieldGraph, b: FieldBuilder, moved: list[int], linear: list[bool], root: int) -> tuple[int, int]:
    """The linear part of a sum, and the rest."""
    if linear[root]:
        return moved[root], b.zero
    code = int(graph.op[root])
    args = [a for a in graph.args[root].tolist() if a >= 0]
    if code in (ops.ADD, ops.SUB, ops.NEG):
        parts = [_split(graph, b, moved, linear, a) for a in args]
        return b.call(code, *(part[0] for part in parts)), b.call(code, *(part[1] for part in parts))
    return b.zero, moved[root]


def answers(parts: FieldGraph, p: Array) -> list[Array] | None:
    """What the linear part of `separate` makes of one cell, for each field.

    Returns
    -------
    list of arrays, or None
        Seen from the cell; None if another cell's answer is a different one: the domain is not periodic.
    """
    shape, count = parts.fields[0], len(parts.fields)
    found: list[Array] = []
    for f in range(count):
        images: list[Array] = []
        for start in ((0,) * len(shape), tuple(n // 2 for n in shape)):
            cell = np.zeros((count, *shape))
            cell[(f, *start)] = 1.0
            image = np.broadcast_to(parts.arrays("linear", cell.ravel(), p, 0.0)[f], shape)
            images.append(np.roll(image, [-k for k in start], axis=tuple(range(len(shape)))))
        if np.abs(images[0] - images[1]).max() > _SAME * np.abs(images[0]).max():
            return None
        found.append(images[0])
    return found


def diagonal(graph: FieldGraph) -> FieldGraph | None:
    """The parts of `separate`, if the linear one is diagonal in the modes and has all that is linear and joins cells.

    Where coefficients depend on the place, or fields are coupled by their derivatives, something like that is left in
    the rest, and could be as stiff as what was taken out.
    """
    if len(set(graph.fields)) > 1 or ao.APPLY in graph.op[near_nodes(graph, "rhs")]:
        return None
    parts = separate(graph)
    if parts is None or answers(parts, np.sqrt(np.arange(2.0, graph.n_params + 2))) is None:
        return None
    builder = FieldBuilder(graph.fields, graph.n_params)
    moved = copy(parts, builder)
    rest = builder.build({"rhs": [moved[node] for node in parts.outputs["rest"].tolist()], **_far(parts, moved)})
    rows, cols = split(rest).sparsity("implicit")
    cells = int(np.prod(graph.fields[0]))
    return parts if np.array_equal(rows % cells, cols % cells) else None


@dataclass(frozen=True)
class Modal:
    """A function of fields for values that are known, and wanted, by their modes.

    Attributes
    ----------
    graph : FieldGraph
        Its fields are the ``inputs``, at the points; its output ``"values"`` has a node for each of the ``outputs``.
    inputs : tuple of (int, Orders)
        Which derivative of which field.
    outputs : tuple of (int, Orders)
        Which derivative of the value counts for which field.
    """

    graph: FieldGraph
    inputs: tuple[tuple[int, Orders], ...]
    outputs: tuple[tuple[int, Orders], ...]


def modal(graph: FieldGraph, name: str) -> Modal:
    """A named output, which has one node per field, as a function of modes."""
    return _Rewriting(graph).result(name)


class _Rewriting:
    """Derivatives of linear combinations become linear combinations of derivatives, on the way in and out."""

    def __init__(self, graph: FieldGraph) -> None:
        self.graph = graph
        self.shape = graph.fields[0]
        self.plain: Orders = (0,) * len(self.shape)
        # No more inputs than that; those that are not needed are left out in the end.
        self.builder = FieldBuilder([self.shape] * (len(graph.fields) + len(graph)), graph.n_params)
        self.builder.copy_networks(graph.networks, graph.calls)  # the first ones: they keep their numbers
        self.inputs: dict[tuple[int, Orders], int] = {}
        self.moved: dict[tuple[int, Orders], int] = {}
        self.differentiated: list[bool] = []
        for node, row in enumerate(graph.args.tolist()):
            found = any(self.differentiated[a] for a in self._combined(node, [a for a in row if a >= 0]))
            self.differentiated.append(found or self._is_derivative(node))

    def result(self, name: str) -> Modal:
        """The output's derivatives collected from its sums, what is left of it rewritten."""
        b, groups = self.builder, dict[tuple[int, Orders], int]()

        def collect(field: int, node: int, orders: Orders, factor: int) -> None:
            code = int(self.graph.op[node])
            args = [a for a in self.graph.args[node].tolist() if a >= 0]
            if self._is_derivative(node) and (merged := self._with(node, orders)):
                collect(field, args[0], merged, factor)
            elif not self.differentiated[node] or self._is_derivative(node):
                value = b.mul(factor, self.move(node, self.plain))
                groups[field, orders] = b.add(groups.get((field, orders), b.zero), value)
            elif code in (ops.MUL, ops.DIV):
                inner, scalar = self._scaled(node, args)
                collect(field, inner, orders, b.call(code, factor, self.move(scalar, self.plain)))
            else:
                for k, a in enumerate(args):
                    minus = code == ops.NEG or (code == ops.SUB and k == 1)
                    collect(field, a, orders, b.neg(factor) if minus else factor)

        for field, root in enumerate(self.graph.outputs[name].tolist()):
            collect(field, root, self.plain, b.one)
        self.inputs = self.inputs or {(0, self.plain): 0}
        built = b.build({"values": [b.spread(value, self.shape) for value in groups.values()]})
        fields = built.fields[: len(self.inputs)]
        parts = built.op, built.args, built.const, built.index, built.n_params, built.outputs
        exact = FieldGraph(*parts, fields, built.attributes, built.tables, built.networks, built.calls)
        return Modal(exact, tuple(self.inputs), tuple(groups))

    def move(self, node: int, orders: Orders) -> int:
        """A derivative of a node in the new graph."""
        key = node, orders
        if key not in self.moved:
            self.moved[key] = self._move(node, orders)
        return self.moved[key]

    def _move(self, node: int, orders: Orders) -> int:
        graph, b, code, k = self.graph, self.builder, int(self.graph.op[node]), int(self.graph.index[node])
        args = [a for a in graph.args[node].tolist() if a >= 0]
        if code == ao.FIELD:
            return b.field(self.inputs.setdefault((k, orders), len(self.inputs)))
        if self._is_derivative(node):
            merged = self._with(node, orders)
            return self.move(args[0], merged) if merged else self._derivative(self.move(node, self.plain), orders)
        combined = self._combined(node, args)
        if orders == self.plain or not combined:
            return self._derivative(self._copy(node, code, k, [self.move(a, self.plain) for a in args]), orders)
        return b.call(code, *(self.move(a, orders if a in combined else self.plain) for a in args))

    def _copy(self, node: int, code: int, k: int, args: list[int]) -> int:
        graph, b = self.graph, self.builder
        if code == ao.TABLE:
            return b.table(graph.tables[k])
        if code == ao.APPLY:
            axis, table = graph.attributes[k]
            return b.apply(graph.tables[table], args[0], axis)
        if code in ao.WITH_ATTRIBUTES:
            return b.apply_attribute(code, tuple(args), graph.attributes[k])
        return b.again(code, tuple(args), float(graph.const[node]), k)

    def _derivative(self, node: int, orders: Orders) -> int:
        for axis, order in enumerate(orders):
            if order:
                node = self.builder.apply_attribute(ao.FOURIER, (self.builder.spread(node, self.shape),), (axis, order))
        return node

    def _is_derivative(self, node: int) -> bool:
        return self.graph.op[node] == ao.FOURIER and self.graph.shapes[node] == self.shape

    def _with(self, node: int, orders: Orders) -> Orders | None:
        """Both derivatives as one, if they are: odd ones leave the highest mode out, an even one does not."""
        axis, order = self.graph.attributes[int(self.graph.index[node])]
        if order % 2 and orders[axis] % 2:
            return None
        return (*orders[:axis], orders[axis] + order, *orders[axis + 1 :])

    def _scaled(self, node: int, args: list[int]) -> tuple[int, int]:
        """The two operands of a product or quotient with a number, the number last."""
        inner, scalar = args
        return (inner, scalar) if self.graph.shapes[scalar] == () else (scalar, inner)

    def _combined(self, node: int, args: list[int]) -> list[int]:
        """The operands, all of the grid's shape, of which a node is a linear combination; none if it is not one."""
        graph, code = self.graph, int(self.graph.op[node])
        whole = [graph.shapes[a] == self.shape for a in args]
        if code in (ops.ADD, ops.SUB, ops.NEG):
            return args if all(whole) else []
        if code == ops.MUL and any(whole) and () in (graph.shapes[a] for a in args):
            return [self._scaled(node, args)[0]]
        if code == ops.DIV and whole[0] and graph.shapes[args[1]] == ():
            return args[:1]
        return []
