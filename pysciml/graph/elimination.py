"""Solving linear equations on the graph, without a choice of pivots that could fail somewhere.

Entries are expressions, so no pivot can be chosen by its size. Orthogonalization needs none: it divides by lengths of
vectors, which are zero only where the matrix is singular (Björck, *Numerical Methods for Least Squares Problems*, 2nd
ed., SIAM 2024, 2.3: modified Gram-Schmidt). Nor does a positive definite matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pysciml.graph import ops
from pysciml.graph.builder import GraphBuilder
from pysciml.graph.derivative import steps_with, tangents

#: Larger blocks of coupled equations are left to the engine.
LARGEST_BLOCK = 16


def solve_blocks(b: GraphBuilder, residuals: Sequence[int], unknowns: Sequence[int]) -> dict[int, int]:
    """Solve the residuals for the unknowns where they enter linearly, block by block.

    Returns
    -------
    dict of unknown leaf to its expression
        In terms of other leaves and of the unknowns that are left.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching

    n = len(unknowns)
    number = {leaf: j for j, leaf in enumerate(unknowns)}
    rows = tangents(b, residuals, {leaf: {leaf: b.one} for leaf in unknowns})
    places = [(i, number[leaf]) for i, row in enumerate(rows) for leaf in row]
    if not places:
        return {}
    pattern = csr_array((np.ones(len(places)), tuple(np.array(places).T)), shape=(n, n))
    match = maximum_bipartite_matching(pattern, perm_type="row")  # unknown -> its equation
    if (match < 0).any():
        return {}
    permuted = csr_array(pattern[match])
    count, block = connected_components(permuted, directed=True, connection="strong")
    needs: dict[int, set[int]] = {k: set() for k in range(count)}
    first, second = permuted.nonzero()
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        if block[i] != block[j]:
            needs[int(block[i])].add(int(block[j]))
    solved: dict[int, int] = {}
    for k in _ordered(needs):
        members = np.flatnonzero(block == k).tolist()
        own = [unknowns[j] for j in members]
        nodes = b.substitute_all([residuals[int(match[j])] for j in members], solved)
        found = _solve_block(b, nodes, own) if len(own) <= LARGEST_BLOCK else None
        solved.update(found or {})
    return solved


def _ordered(needs: Mapping[int, set[int]]) -> list[int]:
    """Blocks, each after those it needs."""
    from graphlib import TopologicalSorter

    return list(TopologicalSorter(needs).static_order())


def _solve_block(b: GraphBuilder, residuals: Sequence[int], unknowns: Sequence[int]) -> dict[int, int] | None:
    """Solve one block if it is linear: modified Gram-Schmidt on the columns of its matrix."""
    rows = tangents(b, residuals, {leaf: {leaf: b.one} for leaf in unknowns})
    entries = [node for row in rows for node in row.values()]
    if not set(unknowns).isdisjoint(b.cone(entries)) or steps_with(b, residuals, unknowns):
        return None
    rest = b.substitute_all(residuals, dict.fromkeys(unknowns, b.zero))
    if len(unknowns) == 1:
        return {unknowns[0]: b.neg(b.div(rest[0], rows[0][unknowns[0]]))}
    columns = [[row.get(leaf, b.zero) for row in rows] for leaf in unknowns]
    right = [b.neg(node) for node in rest]
    above: list[list[int]] = [[] for _ in columns]  # above[j][i]: how much of direction i column j holds
    along: list[int] = []
    lengths: list[int] = []
    for j, column in enumerate(columns):
        length = b.call(ops.SQRT, _dot(b, column, column))
        direction = [b.div(entry, length) for entry in column]
        lengths.append(length)
        for k in range(j + 1, len(columns)):
            share = _dot(b, direction, columns[k])
            above[k].append(share)
            columns[k] = [b.sub(entry, b.mul(share, d)) for entry, d in zip(columns[k], direction, strict=True)]
        share = _dot(b, direction, right)
        along.append(share)
        right = [b.sub(entry, b.mul(share, d)) for entry, d in zip(right, direction, strict=True)]
    values = [b.zero] * len(columns)
    for j in reversed(range(len(columns))):
        later = b.sum([b.mul(above[k][j], values[k]) for k in range(j + 1, len(columns))])
        values[j] = b.div(b.sub(along[j], later), lengths[j])
    return dict(zip(unknowns, values, strict=True))


def _dot(b: GraphBuilder, one: Sequence[int], other: Sequence[int]) -> int:
    return b.sum([b.mul(p, q) for p, q in zip(one, other, strict=True) if b.zero not in (p, q)])


def solve_gram(b: GraphBuilder, rows: Sequence[Mapping[int, int]], right: Sequence[int]) -> list[int]:
    """Solve ``(N N^T) s = right`` for sparse rows of N of length one: a sparse L D L^T factorization."""
    n = len(rows)
    gram: list[dict[int, int]] = []
    for i, row in enumerate(rows):
        entries = {i: b.one}
        for k in range(i):
            shared = [b.mul(row[key], rows[k][key]) for key in row if key in rows[k]]
            node = b.sum(shared)
            if node != b.zero:
                entries[k] = node
        gram.append(entries)
    lower: list[dict[int, int]] = []
    pivots: list[int] = []
    for i in range(n):
        found: dict[int, int] = {}
        for k in range(i):
            terms = [b.mul(b.mul(found[m], lower[k][m]), pivots[m]) for m in found if m in lower[k]]
            entry = b.sub(gram[i].get(k, b.zero), b.sum(terms))
            if entry != b.zero:
                found[k] = b.div(entry, pivots[k])
        pivots.append(b.sub(b.one, b.sum([b.mul(b.mul(v, v), pivots[m]) for m, v in found.items()])))
        lower.append(found)
    forward: list[int] = []
    for i in range(n):
        forward.append(b.sub(right[i], b.sum([b.mul(v, forward[m]) for m, v in lower[i].items()])))
    values = [b.div(node, pivot) for node, pivot in zip(forward, pivots, strict=True)]
    for i in reversed(range(n)):
        for m, v in lower[i].items():
            values[m] = b.sub(values[m], b.mul(v, values[i]))
    return values
