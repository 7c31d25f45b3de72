"""Ensembles of partial differential equations: what goes in, and results with the dimensions of the grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pysciml.engines.base import Array
from pysciml.ensemble.front import _Result
from pysciml.ensemble.sweep import Sweep
from pysciml.errors import ProblemError, UnsupportedError

if TYPE_CHECKING:
    from pysciml.pde.discrete import FieldProblem


class FieldSweep(Sweep):
    """The trajectories of a partial differential equation; initial values follow the parameters."""

    def __init__(self, problem: FieldProblem, over: Any, trajectories: Any) -> None:
        system = problem.system
        for key in over if isinstance(over, Mapping) else ():
            if system.parameter_index(key) is None and system.state_index(key) is not None:
                raise UnsupportedError(
                    f"over: {key} is a field: vary a parameter of its initial value, or loop over "
                    "problem.remake(u0=...)"
                )
        super().__init__(problem, over, trajectories)
        self._fields = problem
        for dim in self.dims:
            if dim in system.coords:
                raise ProblemError(f"over: the dimension {dim!r} has the name of a coordinate", symbol=dim)
        varied = {system.parameters[v.index] for v in self.varied}
        follow = any(expr.free_symbols & varied for (_, _), expr in system.system.initial.items())
        self._moves = follow or bool(system.system.constrained)

    def inputs(self, low: int, high: int) -> tuple[Array, Array]:
        """See `Sweep.inputs`."""
        u0, p = super().inputs(low, high)
        if self._moves:
            names = self._fields.system.model.parameters
            for row, values in zip(u0, p, strict=True):
                row[:] = self._fields.remake(p=dict(zip(names, values.tolist(), strict=False))).u0
        return u0, p


class FieldResult(_Result):
    """The arrays of a result, filled as trajectories come in."""

    _problem: FieldProblem

    def _make(self, precision: str) -> None:
        graph, count = self._problem.system.graph, (self._sweep.size, len(self.t))
        self._shapes = [graph.shapes[node] for node in graph.outputs["observed"].tolist()]
        kept = [tuple(n for n in shape if n > 1) for shape in self._shapes]
        self._fields = [np.full((*count, *shape), np.nan, dtype=precision) for shape in graph.fields]
        self._observed = [np.full((*count, *shape), np.nan, dtype=precision) for shape in kept]

    def _fill(self, low: int, high: int, u: Array) -> None:
        graph = self._problem.system.graph
        for array, offset, shape in zip(self._fields, graph.offsets, graph.fields, strict=False):
            array[low:high] = u[:, :, offset : offset + int(np.prod(shape))].reshape(len(u), len(self.t), *shape)
        p = self._sweep.inputs(low, high)[1] if self._observed else ()
        for k, row in enumerate(p):
            for j, t in enumerate(self.t.tolist()):
                found = graph.arrays("observed", u[k, j], row, t)
                for array, values in zip(self._observed, found, strict=True):
                    array[low + k, j] = values.reshape(array.shape[2:])

    def _variables(self) -> dict[str, xr.Variable]:
        system, sweep = self._problem.system, self._sweep
        names = (*system.model.states, *system.model.observed)
        every = tuple(system.coords)
        dims = [every] * len(self._fields)
        dims += [tuple(d for d, n in zip(every, shape, strict=False) if n > 1) for shape in self._shapes]
        return {
            name: xr.Variable(
                (*sweep.dims, "t", *over), array.reshape(*sweep.shape, *array.shape[1:]), system.attrs.get(name)
            )
            for name, over, array in zip(names, dims, (*self._fields, *self._observed), strict=True)
        }

    def _coordinates(self) -> dict[str, Any]:
        system = self._problem.system
        places = {name: (name, values, system.attrs.get(name, {})) for name, values in system.coords.items()}
        return {**super()._coordinates(), **places}
