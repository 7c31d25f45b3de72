"""A graph of fields on a periodic domain, evaluated with as few transforms as possible.

Each value is known at the points of the grid, by its Fourier modes, or both: derivatives and linear
combinations stay with the modes where they are known, everything else is evaluated at the points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from pysciml.engines.jax.fields.lower import array_op, network_output
from pysciml.engines.jax.lower import FUNCTIONS
from pysciml.graph import array_ops as ao
from pysciml.graph import ops
from pysciml.graph.field_program import fourier_multiplier
from pysciml.graph.fields import FieldGraph


class Value:
    """A value at the points (``here``), by its modes (``modes``), or both."""

    def __init__(self, shape: tuple[int, ...], here: Any = None, modes: Any = None) -> None:
        self.shape, self._here, self._modes = shape, here, modes

    @property
    def known_by_modes(self) -> bool:
        """Whether the modes are known already."""
        return self._modes is not None

    @property
    def here(self) -> Any:
        """At the points."""
        if self._here is None:
            self._here = jnp.fft.irfftn(self._modes, s=self.shape)
        return self._here

    @property
    def modes(self) -> Any:
        """By the real transform over all axes."""
        if self._modes is None:
            self._modes = jnp.fft.rfftn(jnp.broadcast_to(self._here, self.shape))
        return self._modes


def multiplier(shape: tuple[int, ...], axis: int, order: int) -> Any:
    """What a derivative along an axis multiplies the modes with."""
    n = shape[axis]
    values = fourier_multiplier(n, order)
    if axis != len(shape) - 1:  # only the last axis of a real transform keeps half of its modes
        negative = np.conj(values[1 : (n + 1) // 2][::-1])
        values = np.concatenate([values, negative])
    return values.reshape([-1 if k == axis else 1 for k in range(len(shape))])


def spectral_evaluator(graph: FieldGraph, name: str) -> Callable[[Any, Sequence[Any], Any], list[Any]]:
    """A function of ``(t, modes of the fields, p)`` that returns the modes of a named output."""
    nodes = np.flatnonzero(graph.reachable(graph.outputs[name])).tolist()
    shape = graph.fields[0]

    def function(t: Any, fields: Sequence[Any], p: Any) -> list[Any]:
        values: dict[int, Value] = {}
        applied: dict[Any, Any] = {}
        for node in nodes:
            code, k = int(graph.op[node]), int(graph.index[node])
            if code == ops.JOIN:
                continue
            args = [values[a] for a in graph.operands(node)]
            whole = graph.shapes[node] == shape
            if code == ops.CONST:
                values[node] = Value((), jnp.asarray(graph.const[node]))
            elif code == ops.TIME:
                values[node] = Value((), jnp.asarray(t))
            elif code == ops.PARAM:
                values[node] = Value((), p[k])
            elif code == ao.FIELD:
                values[node] = Value(shape, modes=fields[k])
            elif code == ao.TABLE:
                values[node] = Value(graph.shapes[node], jnp.asarray(graph.tables[k]))
            elif code == ao.FOURIER and whole:
                axis, order = graph.attributes[k]
                values[node] = Value(shape, modes=args[0].modes * multiplier(shape, axis, order))
            elif code in ao.ARRAY_OPS:
                inner = [a.here for a in args]
                values[node] = Value(graph.shapes[node], array_op(code, inner, graph.attributes[k], graph.tables))
            elif code == ops.NETWORK:
                here = network_output(graph, node, [a.here for a in args], p, applied)
                values[node] = Value(graph.shapes[node], here)
            elif whole and code in (ops.ADD, ops.SUB, ops.NEG) and all(_modal(a, shape) for a in args):
                values[node] = Value(shape, modes=FUNCTIONS[code](*(a.modes for a in args)))
            elif whole and code == ops.MUL and args[0].shape == () and _modal(args[1], shape):
                values[node] = Value(shape, modes=args[0].here * args[1].modes)
            elif whole and code in (ops.MUL, ops.DIV) and args[1].shape == () and _modal(args[0], shape):
                values[node] = Value(shape, modes=FUNCTIONS[code](args[0].modes, args[1].here))
            else:
                values[node] = Value(graph.shapes[node], FUNCTIONS[code](*(a.here for a in args)))
        found = [values[node] for node in graph.outputs[name].tolist()]
        return [Value(shape, v.here).modes if v.shape != shape else v.modes for v in found]

    return function


def _modal(value: Value, shape: tuple[int, ...]) -> bool:
    return value.shape == shape and value.known_by_modes
