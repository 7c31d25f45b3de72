"""Equations before and after an engine has reduced their index: graphs whose states are derivatives of unknowns."""

from __future__ import annotations

from dataclasses import dataclass

from pysciml.graph.graph import Graph

#: An unknown by its number, and which of its derivatives.
Place = tuple[int, int]


@dataclass(frozen=True)
class Unreduced:
    """Equations as they were written.

    Attributes
    ----------
    graph : Graph
        Output ``"residuals"``: what is zero.
    places : tuple of (int, int)
        Of each state of the graph: which unknown, and which derivative of it.
    """

    graph: Graph
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Reduced:
    """The same equations with index 1.

    Attributes
    ----------
    graph : Graph
        Outputs ``"rhs"``, the derivative of every differential state and what is zero for every algebraic one, and
        ``"eliminated"``.
    places : tuple of (int, int)
        Of each state, differential ones first.
    n_differential : int
    eliminated : tuple of (int, int)
        Unknowns and derivatives that are no states any more: whose values the outputs ``"eliminated"`` are.
    """

    graph: Graph
    places: tuple[Place, ...]
    n_differential: int
    eliminated: tuple[Place, ...]
