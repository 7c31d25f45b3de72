"""Networks that are graphs: what a module of another library computes, operation by operation, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pysciml.graph.graph import Graph
from pysciml.graph.networks import Foreign, Network, seed_of


def written_network(name: str, graph: Graph, start: Sequence[float], library: str, seed: int | None = None) -> Network:
    """A network that a graph computes.

    Parameters
    ----------
    graph : Graph
        Over states (inputs) and parameters (weights), with the output ``out``.
    start : sequence of float
        The weights it starts from.
    library : str
        Whose module was written out.
    seed : int, optional
        Of the weights that the module itself came with, where ``start`` are others: see `seed_of`.
    """

    def function(weights: Any, x: Any) -> Any:
        from pysciml.engines.jax.lower import lower

        return lower(graph, "out")(0.0, x, weights)

    foreign = Foreign(graph.hash, graph.n_params, library, function, graph)
    weights = tuple(start)
    known = seed_of(weights) if seed is None else seed
    return Network(name, graph.n_states, len(graph.outputs["out"]), (), "", "", known, foreign, weights)
