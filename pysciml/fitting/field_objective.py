"""The training loss of partial differential equations, in JAX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from pysciml.engines.jax.fields.lower import evaluator, split
from pysciml.fitting.objective import Objective
from pysciml.fitting.windows import Windows
from pysciml.graph.fields import FieldGraph
from pysciml.pde.discrete import FieldProblem


@dataclass(frozen=True)
class FieldObjective(Objective):
    """See `Objective`; solutions are compared with data at the places where these were measured.

    Attributes
    ----------
    problem : FieldProblem
        Whose initial values follow the parameters where they are written with them.
    """

    problem: FieldProblem | None = None

    rolled: ClassVar[bool] = True

    def start(self, u0: Any, p: Any) -> Any:
        """See `Objective.start`."""
        assert self.problem is not None
        fields = self.problem.following
        if not fields:
            return u0
        graph, where = self.problem.system.start
        rhs = self._graph()
        nothing = [jnp.zeros(shape, p.dtype) for shape in graph.fields]
        values = evaluator(graph, "values")(jnp.zeros((), p.dtype), nothing, p)
        parts = split(rhs, u0)
        for i, value in zip(where, values, strict=True):
            if i in fields:
                parts[i] = jnp.broadcast_to(value, rhs.fields[i])
        return jnp.concatenate([part.ravel() for part in parts])

    def compared(self, windows: Windows) -> Callable[[Any, Any, Any], Any]:
        """See `Objective.compared`."""
        graph, n = self._graph(), len(self.model.states)
        observe = evaluator(graph, "observed")
        needs_observed = any(variable.number >= n for variable in windows.variables)
        measures = [(variable.number, _measure(variable.matrix)) for variable in windows.variables]

        def at_once(t: Any, y: Any, p: Any) -> Any:
            fields = split(graph, y)
            if needs_observed:
                fields = [*fields, *observe(t, fields, p)]
            return jnp.concatenate([measure(jnp.ravel(fields[number])) for number, measure in measures])

        def function(t: Any, ys: Any, p: Any) -> Any:
            rows = jax.vmap(jax.vmap(at_once, in_axes=(0, 0, None)), in_axes=(0, 0, None))(t, ys, p)
            return jnp.moveaxis(rows, 2, 0)

        return function

    def _graph(self) -> FieldGraph:
        assert isinstance(self.model.graph, FieldGraph)
        return self.model.graph


def _measure(matrix: Any) -> Callable[[Any], Any]:
    """A sparse matrix of a few entries a row, as a function of a vector: most often it takes entries as they are."""
    rows = matrix.tocsr()
    rows.eliminate_zeros()
    counts = np.diff(rows.indptr)
    width = int(counts.max(initial=1))
    inside = np.arange(width) < counts[:, None]
    columns, weights = np.zeros(inside.shape, dtype=np.int64), np.zeros(inside.shape)
    columns[inside], weights[inside] = rows.indices, rows.data
    if width == 1 and (weights == 1).all():
        return lambda x: x[columns[:, 0]]
    return lambda x: jnp.sum(jnp.asarray(weights, x.dtype) * x[columns], axis=1)
