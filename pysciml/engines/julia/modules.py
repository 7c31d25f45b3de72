"""Models of Lux as networks: dense layers as such, other models traced by Symbolics and brought here as a graph."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from pysciml.engines.julia import bridge
from pysciml.engines.julia.simplifying import written
from pysciml.errors import ModelError, UnsupportedError
from pysciml.graph import Graph, GraphBuilder
from pysciml.graph.networks import ACTIVATIONS, Network, seed_of, write_out
from pysciml.graph.written import written_network

#: Julia's exceptions that say that a model does not fit its inputs.
_MISFITS: Final = ("DimensionMismatch", "BoundsError", "AssertionError")


def from_lux(name: str, given: Any, inputs: int, outputs: int) -> Network:
    """Take a model apart; see `pysciml.symbolic.networks.Network`.

    Parameters
    ----------
    given : Julia value, or tuple of three
        A model, with or without its parameters and state.
    """
    module = bridge.julia()
    model = given[0] if isinstance(given, tuple) else given
    if not module.is_network(model):
        raise ModelError(f"the network {name}: {str(model)[:80]} is no Lux layer", symbol=name)
    if isinstance(given, tuple) and len(given) != 3:
        raise ModelError(f"the network {name}: give a Lux model, or (model, parameters, state)", symbol=name)
    parameters, state = given[1:] if isinstance(given, tuple) else module.set_up_network(model)
    dense = module.dense_network(model, parameters)
    if dense is not None:
        widths, names, numbers = ([*part] for part in dense)
        _check_sizes(name, (int(widths[0]), int(widths[-1])), (inputs, outputs))
        hidden, activations = tuple(int(width) for width in widths[1:-1]), [str(activation) for activation in names]
        start = tuple(float(number) for number in numbers)
        if len(set(activations[:-1])) <= 1:
            activation = activations[0] if hidden else next(iter(ACTIVATIONS))
            return Network(name, inputs, outputs, hidden, activation, activations[-1], seed_of(start), start=start)
        graph = _chained((inputs, *hidden, outputs), activations)
    else:
        graph, start = _traced(name, module, (model, parameters, state), inputs)
        _check_sizes(name, (inputs, len(graph.outputs["out"])), (inputs, outputs))

    return written_network(name, graph, start, "lux")


def _check_sizes(name: str, found: tuple[int, int], wanted: tuple[int, int]) -> None:
    if found != wanted:
        raise ModelError(
            f"the network {name}: its model has {found[0]} inputs and {found[1]} outputs, not {wanted[0]} and "
            f"{wanted[1]}",
            symbol=name,
        )


def _chained(widths: tuple[int, ...], activations: list[str]) -> Graph:
    """Dense layers with activations of their own, with weights layer by layer as those of a `Network`."""
    networks = [
        Network("", n_in, n_out, (), final=activation)
        for n_in, n_out, activation in zip(widths, widths[1:], activations, strict=False)
    ]
    b = GraphBuilder(widths[0], sum(network.size for network in networks))
    values, offset = [b.state(k) for k in range(widths[0])], 0
    for network in networks:
        values = write_out(b, network, values, offset)
        offset += network.size
    return b.build({"out": values})


def _traced(name: str, module: Any, parts: tuple[Any, Any, Any], inputs: int) -> tuple[Graph, tuple[float, ...]]:
    try:
        numbers, *arrays = module.written_network(*parts, inputs)
    except Exception as error:
        if type(error).__name__ != "JuliaError":
            raise
        message = bridge.message_of(error)
        if any(word in message for word in _MISFITS):
            raise ModelError(
                f"the network {name}: its model fails for {inputs} inputs: {message}", symbol=name
            ) from error
        if "Boolean context" in message:
            message = "it branches on the values of its inputs or weights"
        raise UnsupportedError(
            f"the network {name} is a Lux model that cannot be written out: {message[:300]}; a pysciml.MLP runs on "
            "every engine",
            engine="julia",
        ) from error
    start = tuple(float(number) for number in numbers)
    b = GraphBuilder(inputs, len(start))
    op, args, const, index, outputs = (np.array(array) for array in arrays)
    nodes = written(b, op.tolist(), args.reshape(-1, 3).tolist(), const.tolist(), index.tolist())
    return b.build({"out": [nodes[k] for k in outputs.tolist()]}), start
