"""Networks in equations of fields, written out: every neuron as operations on whole fields."""

from __future__ import annotations

from functools import lru_cache

from pysciml.graph import array_ops as ao
from pysciml.graph import ops
from pysciml.graph.derivative import tangents
from pysciml.graph.field_builder import FieldBuilder
from pysciml.graph.fields import FieldGraph
from pysciml.graph.networks import write_out


@lru_cache(maxsize=64)
def expand_fields(graph: FieldGraph) -> FieldGraph:
    """The same graph without networks, their weights as parameters, for engines that compile the operations of a graph.

    Raises
    ------
    UnsupportedError
        For a module with operations that a graph has not.
    """
    if not graph.networks:
        return graph
    b = FieldBuilder(graph.fields, graph.n_params)
    moved: dict[int, int] = {}
    written: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for node, (code, k) in enumerate(zip(graph.op.tolist(), graph.index.tolist(), strict=True)):
        if code == ops.JOIN:
            continue
        args = tuple(moved[a] for a in graph.operands(node))
        if code == ops.NETWORK:
            moved[node] = _written(graph, b, k, args, written)
        elif code == ao.TABLE:
            moved[node] = b.table(graph.tables[k])
        elif code == ao.APPLY:
            axis, table = graph.attributes[k]
            moved[node] = b.apply(graph.tables[table], args[0], axis)
        elif code in ao.WITH_ATTRIBUTES:
            moved[node] = b.apply_attribute(code, args, graph.attributes[k])
        elif code == ao.FIELD:
            moved[node] = b.field(k)
        else:
            moved[node] = b.again(code, args, float(graph.const[node]), k)
    return b.build({name: [moved[node] for node in nodes.tolist()] for name, nodes in graph.outputs.items()})


def _written(
    graph: FieldGraph,
    b: FieldBuilder,
    k: int,
    args: tuple[int, ...],
    written: dict[tuple[int, tuple[int, ...]], list[int]],
) -> int:
    """One call of a network; all its outputs are written at once."""
    call = graph.calls[k]
    network, offset = graph.networks[call.network], graph.blocks[call.network].start
    if not call.wrt:
        key = call.network, args
        if key not in written:
            written[key] = write_out(b, network, args, offset)
        return written[key][call.output]
    # Differentiated by its inputs as if they were independent numbers, which are then put in their place.
    leaves = [b.free(-2 - i) for i in range(len(args))]
    value = write_out(b, network, leaves, offset)[call.output]
    for i in call.wrt:
        value = tangents(b, [value], {leaves[i]: {0: b.one}})[0].get(0, b.zero)
    return b.substitute_all([value], dict(zip(leaves, args, strict=True)))[0]
