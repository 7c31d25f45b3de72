"""Expressions simplified by Symbolics.jl: a graph goes there as arrays and comes back as arrays."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.julia import bridge
from pysciml.engines.julia.transfer import integers, send
from pysciml.errors import UnsupportedError
from pysciml.graph import Graph, GraphBuilder, ops

#: Random places at which a simplified expression must have the value of the one it came from.
_PLACES: Final = 16


def simplified(graph: Graph, expand: bool = False) -> Graph:
    """The same outputs with simpler expressions.

    Raises
    ------
    UnsupportedError
        For graphs with networks, and for what Symbolics makes that is no operation of a graph.
    """
    return _rewritten(graph, simplify=True, expand=expand)


def there_and_back(graph: Graph) -> Graph:
    """The same outputs as Symbolics writes them, not simplified."""
    return _rewritten(graph, simplify=False, expand=False)


def _rewritten(graph: Graph, simplify: bool, expand: bool) -> Graph:
    if graph.networks:
        names = ", ".join(network.name for network in graph.networks)
        raise UnsupportedError(f"expressions with networks ({names}) are not simplified", engine="julia")
    names = list(graph.outputs)
    wanted = np.concatenate([graph.outputs[name] for name in names])
    module = bridge.julia()
    try:
        arrays = module.rewritten(send(graph), integers(wanted), simplify, expand)
    except Exception as error:
        if type(error).__name__ != "JuliaError":
            raise
        raise UnsupportedError(f"Symbolics.jl: {bridge.message_of(error)}", engine="julia") from error
    op, args, const, index, outputs = (np.array(array) for array in arrays)
    builder, moved = GraphBuilder.extend(graph)
    new_nodes = written(builder, op.tolist(), args.reshape(-1, 3).tolist(), const.tolist(), index.tolist())
    pairs = [(moved[old], new_nodes[new]) for old, new in zip(wanted.tolist(), outputs.tolist(), strict=True)]
    chosen = iter(_equal_ones(builder, pairs) if simplify else [new for _, new in pairs])
    return builder.build({name: [next(chosen) for _ in graph.outputs[name]] for name in names})


def written(b: GraphBuilder, op: list[int], args: list[list[int]], const: list[float], index: list[int]) -> list[int]:
    """The nodes of arrays that Julia wrote, in a builder, which checks and folds them."""
    nodes: list[int] = []
    for code, operands, value, k in zip(op, args, const, index, strict=True):
        parts = [nodes[a] for a in operands[: ops.OPS[code].arity]]
        if code == ops.CONST:
            nodes.append(b.constant(value))
        elif code == ops.TIME:
            nodes.append(b.time())
        elif code == ops.STATE:
            nodes.append(b.state(k))
        elif code == ops.PARAM:
            nodes.append(b.param(k))
        elif code == ops.HISTORY:
            nodes.append(b.history(k, parts[0]))
        elif code == ops.POW:
            nodes.append(b.power(*parts))
        else:
            nodes.append(b.call(code, *parts))
    return nodes


def _equal_ones(b: GraphBuilder, pairs: list[tuple[int, int]]) -> list[int]:
    """The new node of each pair where it is, as far as seen, the same function as the old one; else the old one.

    Rules for simplification hold for complex numbers, or almost everywhere, or in exact arithmetic.
    """
    both = b.build({"old": [old for old, _ in pairs], "new": [new for _, new in pairs]})
    rng = np.random.default_rng(0)
    u, p = rng.uniform(-2, 2, (b.n_states, _PLACES)), rng.uniform(-2, 2, (b.n_params, _PLACES))
    u[:, : _PLACES // 2], p[:, : _PLACES // 2] = abs(u[:, : _PLACES // 2]), abs(p[:, : _PLACES // 2])
    time = rng.uniform(0, 2, _PLACES)

    def history(state: int, when: Any) -> Array:
        return np.cos(np.asarray(when, dtype=np.float64)) + state

    with np.errstate(all="ignore"):
        old, new = (both.evaluate(name, u, p, time, history) for name in ("old", "new"))
        near = np.abs(old - new) <= 1e-9 * (1 + np.abs(old))
    known = np.isfinite(old)
    same = np.all(near | ~known, axis=1) & known.any(axis=1)
    return [new if equal else old for (old, new), equal in zip(pairs, same.tolist(), strict=True)]
