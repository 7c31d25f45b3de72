"""Jumps: which are sampled exactly, and one more state for those that are not.

Where nothing changes between jumps, their times are exponential and Gillespie's methods sample them.
Otherwise the sum of the rates is integrated along with the states, from minus a number that is
exponentially distributed with mean 1: when it reaches zero a jump happens, which one by the rates
there (A. Alfonsi et al., *Adaptive simulation of hybrid stochastic and deterministic models for
biochemical systems*, ESAIM: Proceedings 14 (2005) 1). The integral is a state like any other, so any method
for the equations, its error control and its exact Jacobian serve for jumps as well.
"""

from __future__ import annotations

import numpy as np

from pysciml.engines.base import Array
from pysciml.errors import ProblemError
from pysciml.graph import Graph, GraphBuilder, Model, ops


def is_pure(model: Model) -> bool:
    """Whether nothing changes between the jumps, and no event waits for a crossing there."""
    graph = model.graph
    still = bool(np.all(graph.op[graph.outputs["rhs"]] == ops.CONST) and not graph.const[graph.outputs["rhs"]].any())
    timeless = ops.TIME not in graph.used_ops([jump.rate for jump in model.jumps])
    return still and timeless and not model.noise and all(event.when != "crossing" for event in model.events)


def with_intensity(graph: Graph, model: Model) -> Graph:
    """The graph with the integral of all rates as its last state."""
    builder = GraphBuilder(graph.n_states + 1, graph.n_params)
    moved = builder.copy_nodes(graph)
    outputs = {name: [moved[node] for node in nodes.tolist()] for name, nodes in graph.outputs.items()}
    outputs["rhs"].append(builder.sum([outputs[jump.rate][0] for jump in model.jumps]))
    return builder.build(outputs)


def check_rates(model: Model, u0: Array, p: Array, tspan: tuple[float, float]) -> None:
    """Refuse numbers no jump can start from.

    Raises
    ------
    ProblemError
        If time runs backward, or a rate is negative or not finite at the start.
    """
    if tspan[1] < tspan[0]:
        raise ProblemError(f"tspan: jumps happen forward in time, and it goes from {tspan[0]:g} to {tspan[1]:g}")
    for number, jump in enumerate(model.jumps):
        rate = float(model.graph.evaluate(jump.rate, u0, p, tspan[0])[0])
        if not 0 <= rate < np.inf:
            raise ProblemError(f"the rate of jump {number + 1} is {rate:g} at the start: it must not be negative")
