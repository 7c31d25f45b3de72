"""The right-hand side of fields, and its directional derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array
from pysciml.graph.field_jacobian import jacobian_of, tangent_graph
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
    mass : array, shape (n_states,), optional
        Zero for the cells of fields without a time derivative, else one.
    jacobian : callable, optional
        ``jacobian(t, y)``, a sparse matrix; with ``mass``.
    near : callable, optional
        As ``push``, fields that were eliminated held: what is left couples cells that are near each other.
    """

    graph: FieldGraph
    rhs: Callable[[float, Array], Array]
    push: Callable[[float, Array, Array], Array]
    mass: Array | None = None
    jacobian: Callable[[float, Array], Any] | None = None
    near: Callable[[float, Array, Array], Array] | None = None
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
def _tangent(graph: FieldGraph, near: bool = False) -> FieldGraph:
    return tangent_graph(graph, near=near)


def _product(graph: FieldGraph, p: Array, sign: float, near: bool = False) -> Callable[[float, Array, Array], Array]:
    tangent = _tangent(graph, near)

    def push(t: float, y: Array, v: Array) -> Array:
        with np.errstate(all="ignore"):
            found = tangent.arrays("tangent", np.concatenate([y, v]), p, sign * t)
        parts = [np.broadcast_to(a, s).ravel() for a, s in zip(found, graph.fields, strict=True)]
        return sign * np.concatenate(parts)

    return push


def near_product(graph: FieldGraph, p: Array, forward: bool) -> Callable[[float, Array, Array], Array] | None:
    """`Operator.near`; None where no field was eliminated."""
    return _product(graph, p, 1.0 if forward else -1.0, near=True) if "far" in graph.outputs else None


def interpreted(
    graph: FieldGraph, p: Array, forward: bool, differential: npt.NDArray[np.bool_] | None = None
) -> Operator:
    """The operator evaluated node by node in NumPy: nothing to compile."""
    sign = 1.0 if forward else -1.0
    push = _product(graph, p, sign)

    def rhs(t: float, y: Array) -> Array:
        return sign * graph.evaluate("rhs", y, p, sign * t)

    if differential is None or differential.all():
        return Operator(graph, rhs, push, near=near_product(graph, p, forward))
    matrix = jacobian_of(graph)
    return Operator(graph, rhs, push, differential.astype(np.float64), lambda t, y: sign * matrix(y, p, sign * t))
