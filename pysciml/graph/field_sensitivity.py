"""The derivatives of fields by parameters, as further fields of one graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pysciml.graph import array_ops as ao
from pysciml.graph import ops
from pysciml.graph.field_builder import FieldBuilder
from pysciml.graph.field_jacobian import copy, push_forward
from pysciml.graph.field_networks import expand_fields
from pysciml.graph.fields import FieldGraph


def sensitivity_graph(graph: FieldGraph, by_p: Sequence[int]) -> FieldGraph:
    r"""The fields together with their derivatives by some parameters.

    With :math:`s_k = \partial u / \partial p_k`: :math:`s_k' = J s_k + \partial f / \partial p_k`, exact
    for the discretized equations, so that every engine that solves fields solves for these.

    Parameters
    ----------
    graph : FieldGraph
    by_p : sequence of int
        Which parameters.

    Returns
    -------
    FieldGraph
        Its fields are those of ``graph``, then their derivatives by each parameter; so are its
        outputs.
    """
    weights = graph.n_params - sum(network.size for network in graph.networks)
    if any(k >= weights for k in by_p):
        graph = expand_fields(graph)
    count = len(graph.fields)
    builder = FieldBuilder(graph.fields * (1 + len(by_p)), graph.n_params)
    moved = copy(graph, builder)
    roots = {name: graph.outputs[name].tolist() for name in ("rhs", "observed", "far") if name in graph.outputs}
    nodes = np.flatnonzero(graph.reachable(np.concatenate([graph.outputs[name] for name in roots]))).tolist()
    outputs = {name: [moved[root] for root in found] for name, found in roots.items()}
    for number, parameter in enumerate(by_p, start=1):
        tangent: dict[int, int] = {}
        for node in nodes:
            code, k = int(graph.op[node]), int(graph.index[node])
            if code == ao.FIELD:
                tangent[node] = builder.field(number * count + k)
            elif code == ops.PARAM and k == parameter:
                tangent[node] = builder.one
        push_forward(graph, builder, moved, nodes, tangent)
        for name, found in roots.items():
            outputs[name] += [tangent.get(root, builder.zero) for root in found]
    return builder.build(outputs)
