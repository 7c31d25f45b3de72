"""Graphs as tapes on the Julia side: evaluated for a batch, differentiated in reverse (``julia/src/tape.jl``)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pysciml.engines.julia import bridge
from pysciml.graph import Graph
from pysciml.graph.networks import ACTIVATIONS, expand, without_foreign

#: Codes of the operations in the table of ``julia/src/pointwise.jl``, and leaves and networks.
OPERATIONS: Final = frozenset(
    (0, 1, 2, 3, *range(10, 16), *range(20, 36), *range(40, 48), *range(50, 59), *range(60, 70), 80, 81)
)


def address(array: npt.NDArray[Any]) -> int:
    """Where the array's memory is; the array must outlive the call it is for."""
    return int(array.__array_interface__["data"][0])


def floats(array: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The array as Julia reads it: contiguous, in double precision."""
    return np.ascontiguousarray(array, dtype=np.float64)


def whole(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Integers as Julia reads them."""
    return np.ascontiguousarray(values, dtype=np.int64)


def send_tape(graph: Graph, outputs: tuple[str, ...]) -> Any:
    """The named outputs of a graph, one after the other, as a Julia ``Tape``."""
    graph = expand(graph) if any(call.wrt for call in graph.calls) else without_foreign(graph)
    layers = [
        (
            number,
            layer.shape[1],
            layer.shape[0],
            list(ACTIVATIONS).index(layer.activation),
            block.start + layer.matrix.start,
            block.start + layer.bias.start,
        )
        for number, (network, block) in enumerate(zip(graph.networks, graph.blocks, strict=True))
        for layer in network.layers
    ]
    arrays = (
        whole(graph.op),
        whole(graph.args),
        floats(graph.const),
        whole(graph.index),
        whole(np.concatenate([graph.outputs[name] for name in outputs])),
        whole(layers),
        whole([(call.network, call.output, call.order) for call in graph.calls]),
    )
    op, args, const, index, nodes, flat, calls = map(address, arrays)
    return bridge.julia().tape_at(
        op,
        args,
        const,
        index,
        len(graph),
        graph.n_states,
        graph.n_params,
        nodes,
        len(arrays[4]),
        flat,
        len(layers),
        calls,
        len(graph.calls),
    )
