"""The right-hand side of fields, and its directional derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pysciml.engines.base import Array
from pysciml.graph.field_jacobian import tangent_graph
from pysciml.graph.fields import FieldGraph


@dataclass
class Operator:
    """What a method needs of a right-hand side; time runs forward.

    Attributes
    ----------
    graph : FieldGraph
    rhs : callable
        ``rhs(t, y)``, shape (n_states,).
    push : callable
        ``push(t, y, v)``, the Jacobian at ``(t, y)`` times a vector.
    """

    graph: FieldGraph
    rhs: Callable[[float, Array], Array]
    push: Callable[[float, Array, Array], Array]
    evaluations: int = 0

    def __post_init__(self) -> None:
        rhs, push = self.rhs, self.push

        def counted(t: float, y: Array) -> Array:
            self.evaluations += 1
            return rhs(t, y)

        def pushed(t: float, y: Array, v: Array) -> Array:
            self.evaluations += 1
            return push(t, y, v)

        self.rhs, self.push = counted, pushed


@lru_cache(maxsize=32)
def _tangent(graph: FieldGraph) -> FieldGraph:
    return tangent_graph(graph)


def interpreted(graph: FieldGraph, p: Array, forward: bool) -> Operator:
    """The operator evaluated node by node in NumPy: nothing to compile."""
    tangent = _tangent(graph)
    sign = 1.0 if forward else -1.0

    def rhs(t: float, y: Array) -> Array:
        return sign * graph.evaluate("rhs", y, p, sign * t)

    def push(t: float, y: Array, v: Array) -> Array:
        with np.errstate(all="ignore"):
            found = tangent.arrays("tangent", np.concatenate([y, v]), p, sign * t)
        parts = [np.broadcast_to(a, s).ravel() for a, s in zip(found, graph.fields, strict=True)]
        return sign * np.concatenate(parts)

    return Operator(graph, rhs, push)
