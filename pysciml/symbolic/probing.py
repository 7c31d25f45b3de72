"""What an expression is almost everywhere: its values at random points.

A polynomial that vanishes at a random point vanishes identically, with probability one (Schwartz 1980); the same holds
for analytic functions. Rounding is told from zero by the size of what was added up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pysciml.graph import GraphBuilder, ops

#: Random points of each kind: with positive values, and with both signs.
_PROBES = 3

Array = npt.NDArray[np.float64]


def probe(b: GraphBuilder, nodes: Sequence[int]) -> tuple[Array, Array]:
    """Evaluate nodes over placeholders at random points.

    Returns
    -------
    values : array, shape (n_nodes, n_points)
        Not finite outside an operation's domain.
    size : array, shape (n_points,)
        The largest value on the way.
    """
    cone = b.cone(nodes)
    leaves = [n for n in cone if b.op_of(n) in (ops.FREE, ops.HISTORY)]
    n_weights = sum(network.size for network in b.networks)
    copy = GraphBuilder(len(leaves), n_weights)
    calls = copy.copy_networks(b.networks, b.calls)
    moved = {leaf: copy.state(k) for k, leaf in enumerate(leaves)}
    scale: list[int] = []
    for n in cone:
        if n in moved:
            continue
        if b.op_of(n) == ops.CONST:
            moved[n] = copy.constant(b.value_of(n) or 0.0)
        elif b.op_of(n) == ops.TIME:
            moved[n] = copy.time()
        else:
            index = calls[b.index_of(n)] if b.op_of(n) == ops.NETWORK else -1
            moved[n] = copy.again(b.op_of(n), tuple(moved[a] for a in b.args_of(n)), 0.0, index)
        if b.op_of(n) != ops.JOIN:
            scale.append(moved[n])
    targets = [moved[node] for node in nodes]
    graph = copy.build({"nodes": targets, "scale": scale or targets})
    rng = np.random.default_rng(0)
    u = rng.uniform(0.5, 1.5, (len(leaves), 2 * _PROBES))
    u[:, _PROBES:] *= rng.choice([-1.0, 1.0], (len(leaves), _PROBES))
    weights = rng.normal(size=(n_weights, 1))
    size = np.abs(graph.evaluate("scale", u, weights, 0.7))
    size = np.max(np.where(np.isfinite(size), size, 0.0), axis=0, initial=1e-300)
    values = np.broadcast_to(graph.evaluate("nodes", u, weights, 0.7), (len(nodes), 2 * _PROBES))
    return values, np.broadcast_to(size, (2 * _PROBES,))


def vanishes(b: GraphBuilder, node: int) -> bool:
    """Whether an expression is zero everywhere: tried at random points where it is not constant."""
    value = b.value_of(node)
    if value is not None:
        return value == 0.0
    values, size = probe(b, [node])
    known = np.isfinite(values[0])  # outside an operation's domain there is nothing to see
    return bool(known.any() and np.all(np.abs(values[0][known]) <= 1e-12 * size[known]))
