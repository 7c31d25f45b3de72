"""From a graph of fields to a JAX function, one array operation a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from pysciml.engines.jax import network as networks
from pysciml.engines.jax.lower import FUNCTIONS, Function
from pysciml.graph import array_ops as ao
from pysciml.graph import ops
from pysciml.graph.field_program import fourier_multiplier
from pysciml.graph.fields import FieldGraph

#: What of the elementwise operations JAX evaluates.
ELEMENTWISE: Final = frozenset(FUNCTIONS)


def apply_along(matrix: Any, x: Any, axis: int) -> Any:
    """A matrix times every line along an axis."""
    return jnp.moveaxis(jnp.tensordot(matrix, x, axes=(1, axis)), 0, axis)


def _along(values: Any, axis: int, ndim: int) -> Any:
    return jnp.asarray(values).reshape([-1 if k == axis else 1 for k in range(ndim)])


def join(parts: Sequence[Any], axis: int) -> Any:
    """Arrays one after the other along an axis.

    Along the last axis the arrays get one more, of length one: XLA makes a loop of its own of every long
    concatenation along the last axis, which takes it several times as long to compile and to run as what it makes
    of all others, a part of the loop that uses them.
    """
    if len(parts) == 1:
        return parts[0]
    if axis == parts[0].ndim - 1 and axis > 0:
        return jnp.concatenate([part[..., None] for part in parts], axis=axis)[..., 0]
    return jnp.concatenate(parts, axis=axis)


def array_op(code: int, args: Sequence[Any], attribute: tuple[int, ...], tables: Sequence[Any]) -> Any:
    """One of the operations of `array_ops`."""
    x, axis = args[0], attribute[0]
    if code == ao.SLICE:
        return jax.lax.slice_in_dim(x, attribute[1], attribute[1] + attribute[2], axis=axis)
    if code == ao.JOIN:
        return join(args, axis)
    if code == ao.TOTAL:
        return jnp.sum(x, axis=axis, keepdims=True)
    if code == ao.LARGEST:
        return jnp.max(x, axis=axis, keepdims=True)
    if code == ao.APPLY:
        return apply_along(jnp.asarray(tables[attribute[1]], dtype=x.dtype), x, axis)
    n = x.shape[axis]
    modes = jnp.fft.rfft(x, axis=axis)
    multiplier = jnp.asarray(fourier_multiplier(n, attribute[1]), dtype=modes.dtype)
    return jnp.fft.irfft(modes * _along(multiplier, axis, x.ndim), n=n, axis=axis)


class _Joins:
    """What is joined where, so that a part of it is taken from the operands that it lies in.

    A neighbour's values are a slice of a field with a cell more at an end: taken from the joined array, they would
    have XLA look for the operand of each of its three parts.
    """

    def __init__(self, graph: FieldGraph, nodes: Sequence[int], wanted: Sequence[int]) -> None:
        self._graph = graph
        self._parts: dict[int, list[int]] = {}
        self.whole = set(wanted)  # those that something else uses than a slice or a join along the same axis
        for node in nodes:
            code, axis = int(graph.op[node]), self.axis(node)
            operands = [a for a in graph.args[node].tolist() if a >= 0]
            same = [code in (ao.JOIN, ao.SLICE) and self.axis(a) == axis and a in self._parts for a in operands]
            self.whole.update(a for a, taken in zip(operands, same, strict=True) if not taken)
            if code == ao.JOIN:
                pairs = zip(operands, same, strict=True)
                self._parts[node] = [part for a, taken in pairs for part in (self._parts[a] if taken else [a])]

    def axis(self, node: int) -> int:
        """Along which a node joins or slices; -1 for others."""
        code = int(self._graph.op[node])
        return self._graph.attributes[int(self._graph.index[node])][0] if code in (ao.JOIN, ao.SLICE) else -1

    def parts(self, node: int, axis: int) -> list[int]:
        """What makes up a node along an axis: itself, where it is not joined along that axis."""
        return self._parts[node] if node in self._parts and self.axis(node) == axis else [node]

    def slice(self, values: dict[int, Any], node: int, axis: int, start: int, length: int) -> Any:
        """A part of a node's values."""
        found: list[Any] = []
        at = 0
        for part in self.parts(node, axis):
            size = self._graph.shapes[part][axis]
            low, high = max(start - at, 0), min(start + length - at, size)
            if low < high:
                found.append(jax.lax.slice_in_dim(values[part], low, high, axis=axis))
            at += size
        return join(found, axis)


def evaluator(graph: FieldGraph, name: str) -> Callable[[Any, Sequence[Any], Any], list[Any]]:
    """A function of ``(t, fields, p)`` that returns the arrays of a named output."""
    wanted = graph.outputs[name].tolist()
    nodes = np.flatnonzero(graph.reachable(graph.outputs[name])).tolist()
    joins = _Joins(graph, nodes, wanted)

    def function(t: Any, fields: Sequence[Any], p: Any) -> list[Any]:
        dtype = jnp.result_type(fields[0])
        values: dict[int, Any] = {}
        applied: dict[Any, Any] = {}
        for node in nodes:
            code, k = int(graph.op[node]), int(graph.index[node])
            operands = [a for a in graph.args[node].tolist() if a >= 0]
            if code == ao.JOIN:
                if node in joins.whole:
                    axis = graph.attributes[k][0]
                    values[node] = join([values[a] for a in joins.parts(node, axis)], axis)
                continue
            if code == ao.SLICE:
                values[node] = joins.slice(values, operands[0], *graph.attributes[k])
                continue
            if code == ops.JOIN:  # a network gathers what is joined itself
                continue
            if code == ops.NETWORK:
                values[node] = network_output(graph, node, [values[a] for a in graph.inputs_of(node)], p, applied)
                continue
            args = [values[a] for a in operands]
            if code == ops.CONST:
                value: Any = jnp.asarray(graph.const[node], dtype=dtype)
            elif code == ops.TIME:
                value = jnp.asarray(t, dtype=dtype)
            elif code == ops.PARAM:
                value = p[k]
            elif code == ao.FIELD:
                value = fields[k]
            elif code == ao.TABLE:
                value = jnp.asarray(graph.tables[k], dtype=dtype)
            elif code in ao.ARRAY_OPS:
                value = array_op(code, args, graph.attributes[k], graph.tables)
            else:
                value = FUNCTIONS[code](*args)
            values[node] = value
        return [values[node] for node in wanted]

    return function


def network_output(graph: FieldGraph, node: int, inputs: Sequence[Any], p: Any, applied: dict[Any, Any]) -> Any:
    """The values of a ``NETWORK`` node at every place; ``applied`` keeps those of its other outputs."""
    number, output, wrt, _ = graph.calls[int(graph.index[node])]
    key = number, int(graph.args[node, 0]), wrt
    if key not in applied:
        x = jnp.stack(jnp.broadcast_arrays(*inputs), axis=-1)
        applied[key] = networks.derivative(graph.networks[number], wrt, p[graph.blocks[number]], x)
    return applied[key][..., output]


def split(graph: FieldGraph, y: Any) -> list[Any]:
    """The fields of a state vector."""
    sizes = [int(np.prod(shape)) for shape in graph.fields]
    return [
        jax.lax.slice_in_dim(y, offset, offset + size).reshape(shape)
        for offset, size, shape in zip(graph.offsets, sizes, graph.fields, strict=False)
    ]


def lower_fields(graph: FieldGraph, name: str) -> Function:
    """A JAX function of ``(t, y, p)`` that returns the named output as one vector."""
    evaluate = evaluator(graph, name)
    shapes = (
        [tuple(s) for s in graph.fields] if name == "rhs" else [tuple(graph.shapes[n]) for n in graph.outputs[name]]
    )

    def function(t: Any, y: Any, p: Any) -> Any:
        found = evaluate(t, split(graph, y), p)
        if not found:
            return jnp.zeros(0, dtype=jnp.result_type(y))
        parts = [jnp.broadcast_to(a, shape) for a, shape in zip(found, shapes, strict=True)]
        if len(set(shapes)) == 1:  # XLA makes one loop of this, and several of the other
            return jnp.stack(parts).ravel()
        return jnp.concatenate([part.ravel() for part in parts])

    return function
