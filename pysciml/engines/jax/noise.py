"""What stochastic methods need to know of a system, worked out on the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pysciml.graph import Graph, GraphBuilder, Model
from pysciml.graph.derivative import tangents

_PROBES = 8


def stratonovich(model: Model) -> Graph:
    r"""The graph with the drift of the equivalent Stratonovich equation as its output ``"rhs"``.

    The Itô equation :math:`dX = a\,dt + b\,dW` has the same solution as the Stratonovich equation
    with the drift :math:`a_i - \frac12 \sum_{j,k} b_{kj} \partial b_{ij} / \partial x_k`
    (Kloeden & Platen, *Numerical Solution of Stochastic Differential Equations*, eq. 4.9.11).
    """
    graph = model.graph
    builder, moved = GraphBuilder.extend(graph)
    entries = [moved[n] for n in graph.outputs["diffusion"].tolist()]
    products = _products(model, builder, entries)
    half = builder.constant(0.5)
    drift = [moved[n] for n in graph.outputs["rhs"].tolist()]
    for row in range(len(drift)):
        terms = [node for (i, j, k), node in products.items() if i == row and j == k]
        if terms:
            drift[row] = builder.sub(drift[row], builder.mul(half, builder.sum(terms)))
    return builder.build({"rhs": drift, "diffusion": entries})


def is_commutative(model: Model) -> bool:
    r"""Whether the noise commutes: :math:`L^j b^{k} = L^k b^{j}` for all pairs of noises.

    Then strong order one needs no Lévy areas (Kloeden & Platen, section 10.3). Whether the two
    sides are equal is tried at random points.
    """
    if len(model.noise) == 1 or model.noise_type == "additive":
        return True
    builder, moved = GraphBuilder.extend(model.graph)
    entries = [moved[n] for n in model.graph.outputs["diffusion"].tolist()]
    products = _products(model, builder, entries)
    pairs = {(i, min(j, k), max(j, k)) for i, j, k in products if j != k}
    left = [products.get((i, j, k), builder.zero) for i, j, k in sorted(pairs)]
    right = [products.get((i, k, j), builder.zero) for i, j, k in sorted(pairs)]
    if not pairs:
        return True
    graph = builder.build({"left": left, "right": right})
    rng = np.random.default_rng(0)
    u = rng.uniform(0.2, 1.2, (graph.n_states, _PROBES))
    p = rng.uniform(0.2, 1.2, (graph.n_params, _PROBES))
    t = rng.uniform(0.2, 1.2, _PROBES)
    a, b = graph.evaluate("left", u, p, t), graph.evaluate("right", u, p, t)
    usable = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    if not usable.any():
        return False
    a, b = a[:, usable], b[:, usable]
    return bool(np.all(np.abs(a - b) <= 1e-10 * (np.abs(a) + np.abs(b))))


def _products(model: Model, builder: GraphBuilder, entries: Sequence[int]) -> dict[tuple[int, int, int], int]:
    """(i, j, k) -> the node of ``sum over l of b[l, k] * d b[i, j] / d x_l``, where not zero."""
    where = {
        (row, col): node
        for row, col, node in zip(model.diffusion_rows.tolist(), model.diffusion_cols.tolist(), entries, strict=True)
    }
    seeds = {builder.state(i): {i: builder.one} for i in range(builder.n_states)}
    by_row: dict[int, list[tuple[int, int]]] = {}
    for (row, col), node in where.items():
        by_row.setdefault(row, []).append((col, node))
    products: dict[tuple[int, int, int], int] = {}
    for ((i, j), _), slopes in zip(where.items(), tangents(builder, entries, seeds), strict=True):
        for state, slope in slopes.items():
            for k, other in by_row.get(state, []):
                term = builder.mul(slope, other)
                before = products.get((i, j, k))
                products[i, j, k] = term if before is None else builder.add(before, term)
    return {key: node for key, node in products.items() if node != builder.zero}
