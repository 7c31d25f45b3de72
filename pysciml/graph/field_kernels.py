"""A graph of fields as a short list of loops: what a compiler of scalar code needs to run it.

Elementwise parts become kernels, each a scalar graph of the values at one place; what moves values is a view or a
copy. `pysciml.engines.julia` compiles the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pysciml.graph import array_ops as ao
from pysciml.graph import ops
from pysciml.graph.field_program import fourier_derivative
from pysciml.graph.fields import FieldGraph, Shape
from pysciml.graph.graph import Graph
from pysciml.graph.interpret import Array

#: Arrays are seen with this many axes; those that a field lacks have length one and come first.
AXES: Final = 3
#: A kernel reads at most this many arrays: compilers unroll the tuple of them.
_MOST_LEAVES: Final = 24


@dataclass(frozen=True)
class View:
    """A box of a buffer, which is in C order.

    Attributes
    ----------
    buffer : int
    shape : tuple of int
        ``AXES`` of them.
    offset : int
        Of its first element.
    strides : tuple of int
        In elements.
    """

    buffer: int
    shape: Shape
    offset: int
    strides: tuple[int, ...]

    def part(self, axis: int, start: int, length: int) -> View:
        """``length`` elements of an axis from ``start`` on."""
        shape = (*self.shape[:axis], length, *self.shape[axis + 1 :])
        return View(self.buffer, shape, self.offset + start * self.strides[axis], self.strides)

    def spread(self, shape: Shape) -> tuple[int, ...]:
        """Strides that repeat it over ``shape``, as NumPy broadcasts."""
        return tuple(0 if own == 1 else stride for own, stride in zip(self.shape, self.strides, strict=True))


@dataclass(frozen=True)
class Kernel:
    """``targets[k][i] = graph(leaves[0][i], leaves[1][i], ..., p, t)[k]``, all targets of one shape.

    The graph's states are the leaves, its output ``"value"`` has a node for each target.
    """

    graph: Graph
    targets: tuple[View, ...]
    leaves: tuple[View, ...]

    @property
    def shape(self) -> Shape:
        """What the loops run over."""
        return self.targets[0].shape


@dataclass(frozen=True)
class Copy:
    """``target = source``, of one shape, or repeated."""

    target: View
    source: View


@dataclass(frozen=True)
class Reduction:
    """The sum or the largest value along an axis."""

    largest: bool
    axis: int
    target: View
    source: View


@dataclass(frozen=True)
class Product:
    """The matrix ``tables[table]`` times every line along an axis."""

    table: int
    axis: int
    target: View
    source: View


@dataclass(frozen=True)
class Transform:
    """The derivative of every line along an axis, by its Fourier series (`FOURIER`); both boxes have one shape."""

    order: int
    axis: int
    target: View
    source: View


Step = Kernel | Copy | Reduction | Product | Transform


class Plan:
    """The steps that lead from the fields to a named output.

    Buffers are numbered: the fields, then the tables, then one for each node of the output, then what is needed in
    between.

    Parameters
    ----------
    graph : FieldGraph
    name : str
        An output, such as ``"rhs"``, which has one node per field.

    Attributes
    ----------
    sizes : list of int
        The number of elements of each buffer.
    steps : list of Step
        In order.
    outputs : list of View
        One per node of the output.
    """

    def __init__(self, graph: FieldGraph, name: str = "rhs") -> None:
        nodes: list[int] = graph.outputs[name].tolist()
        self._graph = graph
        self.steps: list[Step] = []
        self.sizes: list[int] = []
        self._views: dict[int, View] = {}
        self._fields = [self._buffer(shape) for shape in graph.fields]
        self._tables = [self._buffer(table.shape) for table in graph.tables]
        shapes = graph.fields if name == "rhs" else [graph.shapes[node] for node in nodes]
        self.outputs = [self._buffer(shape) for shape in shapes]
        self._write_outputs(nodes)

    @property
    def kernels(self) -> list[Kernel]:
        """The steps that compute."""
        return [step for step in self.steps if isinstance(step, Kernel)]

    def _buffer(self, shape: Sequence[int]) -> View:
        full = (1,) * (AXES - len(shape)) + tuple(shape)
        strides = tuple(math.prod(full[k + 1 :]) for k in range(AXES))
        self.sizes.append(math.prod(full))
        return View(len(self.sizes) - 1, full, 0, strides)

    def _axis(self, node: int, axis: int) -> int:
        return axis + AXES - len(self._graph.shapes[node])

    def _operands(self, node: int) -> list[int]:
        return [a for a in self._graph.args[node].tolist() if a >= 0]

    def _elementwise(self, node: int) -> bool:
        return int(self._graph.op[node]) not in ao.ARRAY_OPS

    def _view(self, node: int) -> View:
        """Where the node's values are, computed if they are not yet."""
        found = self._views.get(node)
        if found is None:
            found = self._views[node] = self._made(node)
        return found

    def _made(self, node: int) -> View:
        graph = self._graph
        code, k = int(graph.op[node]), int(graph.index[node])
        if code == ao.FIELD:
            return self._fields[k]
        if code == ao.TABLE:
            return self._tables[k]
        if code == ao.SLICE:
            axis, start, length = graph.attributes[k]
            return self._view(self._operands(node)[0]).part(self._axis(node, axis), start, length)
        if code in (ao.TOTAL, ao.LARGEST, ao.APPLY, ao.FOURIER):
            source, target = self._view(self._operands(node)[0]), self._buffer(graph.shapes[node])
            axis = self._axis(node, graph.attributes[k][0])
            if code == ao.APPLY:
                self.steps.append(Product(graph.attributes[k][1], axis, target, source))
            elif code == ao.FOURIER:
                self.steps.append(Transform(graph.attributes[k][1], axis, target, source))
            else:
                self.steps.append(Reduction(code == ao.LARGEST, axis, target, source))
            return target
        target = self._buffer(graph.shapes[node])
        self._write(node, target)
        return target

    def _write_outputs(self, nodes: Sequence[int]) -> None:
        """Have each node's values in its output: in one kernel for all of one shape, unless it reads too much."""
        together: dict[Shape, list[tuple[int, View]]] = {}
        for node, target in zip(nodes, self.outputs, strict=True):
            if self._elementwise(node):
                together.setdefault(target.shape, []).append((node, target))
            else:
                self._write(node, target)
        for pairs in together.values():
            begun: list[tuple[int, View]] = []
            for pair in pairs:
                if begun and len(self._gathered([node for node, _ in (*begun, pair)])[1]) > _MOST_LEAVES:
                    self._compute(begun)
                    begun = []
                begun.append(pair)
            self._compute(begun)

    def _compute(self, pairs: list[tuple[int, View]]) -> None:
        roots, targets = [node for node, _ in pairs], tuple(target for _, target in pairs)
        self.steps.append(self._kernel(roots[0], targets[0]) if len(roots) == 1 else self._fused(roots, targets))

    def _write(self, node: int, target: View) -> None:
        """Have the node's values in ``target``, of its shape or one that it is repeated over."""
        graph = self._graph
        whole = (
            View(0, (1,) * (AXES - len(graph.shapes[node])) + tuple(graph.shapes[node]), 0, ()).shape == target.shape
        )
        if node not in self._views and self._elementwise(node):
            self.steps.append(self._kernel(node, target))
        elif node not in self._views and int(graph.op[node]) == ao.JOIN and whole:
            axis, start = self._axis(node, graph.attributes[int(graph.index[node])][0]), 0
            for part in self._operands(node):
                length = graph.shapes[part][axis - AXES]
                self._write(part, target.part(axis, start, length))
                start += length
        else:
            self.steps.append(Copy(target, self._view(node)))

    def _kernel(self, root: int, target: View) -> Kernel:
        """The elementwise part above ``root``."""
        if len(self._gathered([root])[1]) > _MOST_LEAVES:
            for operand in self._operands(root):
                if self._elementwise(operand) and len(self._gathered([operand])[1]) > 1:
                    self._view(operand)
        return self._fused([root], (target,))

    def _fused(self, roots: Sequence[int], targets: tuple[View, ...]) -> Kernel:
        inside, leaves = self._gathered(roots)
        views = [self._view(leaf) for leaf in leaves]
        return Kernel(self._scalar(roots, inside, leaves), targets, tuple(views))

    def _gathered(self, roots: Sequence[int]) -> tuple[list[int], list[int]]:
        """The nodes of a kernel in order, and the nodes whose values it reads."""
        inside, leaves, stack = set(roots), set[int](), [a for root in roots for a in self._operands(root)]
        while stack:
            node = stack.pop()
            if node in inside or node in leaves:
                continue
            if not self._elementwise(node) or node in self._views:
                leaves.add(node)
            else:
                inside.add(node)
                stack += self._operands(node)
        return sorted(inside), sorted(leaves)

    def _scalar(self, roots: Sequence[int], inside: list[int], leaves: list[int]) -> Graph:
        graph = self._graph
        nodes = [*leaves, *inside]
        number = {node: k for k, node in enumerate(nodes)}
        op, index = graph.op[nodes].copy(), graph.index[nodes].copy()
        op[: len(leaves)], index[: len(leaves)] = ops.STATE, np.arange(len(leaves))
        args = np.full((len(nodes), 3), -1, dtype=np.int32)
        for node in inside:
            for k, operand in enumerate(self._operands(node)):
                args[number[node], k] = number[operand]
        const = graph.const[nodes].copy()
        const[: len(leaves)] = 0.0
        outputs = {"value": np.array([number[root] for root in roots], dtype=np.int32)}
        return Graph(op, args, const, index, len(leaves), graph.n_params, outputs)

    def evaluate(self, u: Array, p: Array, t: float) -> Array:
        """Run the plan in NumPy: what tests compare with the graph itself.

        Returns
        -------
        array, shape (n_states,)
        """
        graph = self._graph
        buffers = [np.full(size, np.nan) for size in self.sizes]
        known = [*graph.split(np.asarray(u, dtype=np.float64)), *graph.tables]
        for buffer, values in zip(buffers, known, strict=False):
            buffer[:] = np.ravel(values)

        def seen(view: View, shape: Shape | None = None) -> Array:
            strides = view.strides if shape is None else view.spread(shape)
            return np.lib.stride_tricks.as_strided(
                buffers[view.buffer][view.offset :], shape or view.shape, [8 * s for s in strides]
            )

        for step in self.steps:
            if isinstance(step, Kernel):
                shape = step.shape
                values = np.array([seen(leaf, shape).ravel() for leaf in step.leaves]).reshape(len(step.leaves), -1)
                if not step.leaves:
                    values = np.zeros((0, math.prod(shape)))
                times = np.full(values.shape[1], t)
                found = step.graph.evaluate("value", values, p, times)
                for place, row in zip(step.targets, found, strict=True):
                    seen(place)[...] = row.reshape(shape)
                continue
            target = seen(step.target)
            if isinstance(step, Copy):
                target[...] = seen(step.source, step.target.shape)
            elif isinstance(step, Reduction):
                source = seen(step.source)
                target[...] = (np.max if step.largest else np.sum)(source, axis=step.axis, keepdims=True)
            elif isinstance(step, Transform):
                target[...] = fourier_derivative(seen(step.source), step.axis, step.order)
            else:
                moved = np.tensordot(graph.tables[step.table], seen(step.source), axes=(1, step.axis))
                target[...] = np.moveaxis(moved, 0, step.axis)
        return np.concatenate([buffers[view.buffer] for view in self.outputs])
