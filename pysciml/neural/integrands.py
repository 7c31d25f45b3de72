"""What regularizers integrate along a solve, as a graph: for engines that differentiate graphs, in reverse, once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pysciml.graph import Graph, GraphBuilder
from pysciml.graph.derivative import tangents
from pysciml.neural.regularizers import JacobianNorm, Regularizer, TaylorDerivative


def integrated(regularizer: Regularizer) -> bool:
    """Whether a regularizer integrates derivatives of the right-hand side."""
    order = regularizer.order if isinstance(regularizer, TaylorDerivative) else 0
    return order > 1 or isinstance(regularizer, JacobianNorm)


def integrand(graph: Graph, regularizers: Sequence[Regularizer]) -> tuple[Graph, npt.NDArray[np.intp]]:
    """The vectors whose mean squares are integrated, each as long as the state.

    Parameters
    ----------
    graph : Graph
        With the output ``rhs``.

    Returns
    -------
    Graph
        With the output ``integrand``, the vectors one after the other. Its states are those of ``graph``, then a
        random number for each, then the length of the time that the solution is over: derivatives are by relative
        time, and one factor of the length is left to be multiplied by.
    int array
        To which regularizer each output belongs.
    """
    n = graph.n_states
    b = GraphBuilder(2 * n + 1, graph.n_params)

    def rhs_of(source: Graph) -> list[int]:
        moved = b.copy_nodes(source)
        return [moved[node] for node in source.outputs["rhs"].tolist()]

    outputs: list[int] = []
    owners: list[int] = []
    for number, regularizer in enumerate(regularizers):
        if not integrated(regularizer):
            continue
        if isinstance(regularizer, TaylorDerivative):
            outputs += _along(b, rhs_of(graph), regularizer.order)
        else:
            toward = {b.state(i): {0: b.state(n + i)} for i in range(n)}
            outputs += [found.get(0, b.zero) for found in tangents(b, rhs_of(graph), toward, along=True)]
        owners += [number] * n
    return b.build({"integrand": outputs}), np.array(owners, dtype=np.intp)


def _along(b: GraphBuilder, rhs: list[int], order: int) -> list[int]:
    """The derivative of that order of the solution, by relative time but for one factor of its length."""
    seeds = {b.state(i): {0: node} for i, node in enumerate(rhs)}
    seeds[b.time()] = {0: b.one}
    values, length = rhs, b.state(b.n_states - 1)
    for _ in range(1, order):
        values = [b.mul(length, found.get(0, b.zero)) for found in tangents(b, values, seeds, along=True)]
    return values
