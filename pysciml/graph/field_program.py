"""Evaluation of fields in NumPy: the reference that every engine's lowering is tested against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from pysciml.graph import array_ops as ao
from pysciml.graph import networks, ops
from pysciml.graph.interpret import FUNCTIONS, Array

if TYPE_CHECKING:
    from pysciml.graph.fields import Attribute, FieldGraph

_NUMBERS: Final = ops.CONDITIONS


def fourier_derivative(values: Array, axis: int, order: int) -> Array:
    """The derivative of the trigonometric interpolant of values on a period of 2 pi.

    The highest mode of an even number of points has no odd derivative (Trefethen, *Spectral
    Methods in MATLAB*, SIAM 2000, chapter 3).
    """
    n = values.shape[axis]
    multiplier = fourier_multiplier(n, order)
    shape = [1] * values.ndim
    shape[axis] = len(multiplier)
    return np.fft.irfft(np.fft.rfft(values, axis=axis) * multiplier.reshape(shape), n=n, axis=axis)


def fourier_multiplier(n: int, order: int) -> np.ndarray[tuple[int], np.dtype[np.complex128]]:
    """What each mode of a real transform of ``n`` values is multiplied with."""
    waves = np.arange(n // 2 + 1).astype(np.complex128)
    multiplier = (1j * waves) ** order
    if n % 2 == 0 and order % 2:
        multiplier[-1] = 0.0
    return multiplier


def apply_matrix(matrix: Array, values: Array, axis: int) -> Array:
    """A matrix times every line along an axis."""
    return np.moveaxis(np.tensordot(matrix, values, axes=(1, axis)), 0, axis)


def evaluate_array_op(code: int, args: Sequence[Array], attribute: Attribute, tables: Sequence[Array]) -> Array:
    """One of the operations of `array_ops`."""
    axis = attribute[0]
    if code == ao.SLICE:
        _, start, length = attribute
        return args[0][(slice(None),) * axis + (slice(start, start + length),)]
    if code == ao.JOIN:
        return np.concatenate(args, axis=axis)
    if code == ao.TOTAL:
        return np.sum(args[0], axis=axis, keepdims=True)
    if code == ao.LARGEST:
        return np.max(args[0], axis=axis, keepdims=True)
    if code == ao.APPLY:
        return apply_matrix(tables[attribute[1]], args[0], axis)
    return fourier_derivative(args[0], axis, attribute[1])


def _network(graph: FieldGraph, number: int, wrt: tuple[int, ...], p: Array, args: Sequence[Array]) -> Array:
    """The outputs of a network at every place, shape (outputs, ...)."""
    network, weights = graph.networks[number], p[graph.blocks[number]]
    inputs = np.stack(np.broadcast_arrays(*args))
    return networks.derivative(network, wrt, weights.reshape(-1, *(1,) * (inputs.ndim - 1)), inputs)


class FieldProgram:
    """The part of a graph that some nodes need, one NumPy call a node.

    Parameters
    ----------
    graph : FieldGraph
    wanted : list of int
        Node numbers.
    """

    def __init__(self, graph: FieldGraph, wanted: Sequence[int]) -> None:
        self._graph = graph
        self._wanted = list(wanted)
        self._nodes: list[int] = np.flatnonzero(graph.reachable(np.asarray(wanted, dtype=np.int64))).tolist()

    def all_values(self, u: Array, p: Array, t: float) -> dict[int, Array]:
        """The value of every node that is needed, by node."""
        graph = self._graph
        fields = graph.split(u)
        values: dict[int, Array] = {}
        applied: dict[tuple[int, int, tuple[int, ...]], Array] = {}
        with np.errstate(all="ignore"):
            for node in self._nodes:
                code, k = int(graph.op[node]), int(graph.index[node])
                if code == ops.JOIN:
                    continue
                args = [values[a] for a in graph.operands(node)]
                if code == ops.CONST:
                    value = np.asarray(graph.const[node])
                elif code == ops.TIME:
                    value = np.asarray(t)
                elif code == ops.PARAM:
                    value = p[k]
                elif code == ao.FIELD:
                    value = fields[k]
                elif code == ao.TABLE:
                    value = graph.tables[k]
                elif code in ao.ARRAY_OPS:
                    value = evaluate_array_op(code, args, graph.attributes[k], graph.tables)
                elif code == ops.NETWORK:
                    number, output, wrt, _ = graph.calls[k]
                    key = number, int(graph.args[node, 0]), wrt
                    if key not in applied:  # all outputs at once
                        applied[key] = _network(graph, number, wrt, p, args)
                    value = applied[key][output]
                else:
                    value = FUNCTIONS[code](*args)
                    if code in _NUMBERS:
                        value = np.asarray(value, dtype=np.float64)
                values[node] = value
        return values

    def __call__(self, u: Array, p: Array, t: float) -> list[Array]:
        """The values of the wanted nodes, each of its own shape."""
        values = self.all_values(u, p, t)
        return [np.asarray(values[node], dtype=np.float64) for node in self._wanted]
