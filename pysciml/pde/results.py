"""Solutions of fields as labelled arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from pysciml.engines.base import Array, RawSolution
from pysciml.graph.fields import FieldGraph


def fields_dataset(problem: Any, raw: RawSolution, attrs: dict[str, Any]) -> xr.Dataset:
    """Label a solution of fields: dimensions ``(t, X, Y)``, coordinates where the values are.

    Parameters
    ----------
    problem : FieldProblem
    raw : RawSolution
        ``u`` has a column for each time.
    attrs : dict
        Of the Dataset.
    """
    system, graph = problem.system, problem.system.graph
    assert isinstance(graph, FieldGraph)
    given = system.attrs
    dims = tuple(system.coords)
    variables: dict[str, Any] = {}
    rows = np.ascontiguousarray(raw.u.T)
    n_t = len(raw.t)
    for name, offset, shape in zip(system.model.states, graph.offsets, graph.fields, strict=False):
        values = rows[:, offset : offset + int(np.prod(shape))].reshape(n_t, *shape)
        variables[name] = (("t", *dims), values, given.get(name.removesuffix("_t"), {}) if name in given else {})
    if system.model.observed:
        found = [graph.arrays("observed", row, problem.p, float(t)) for row, t in zip(rows, raw.t, strict=True)]
        nodes = graph.outputs["observed"].tolist()
        for k, (name, node) in enumerate(zip(system.model.observed, nodes, strict=True)):
            variables[name] = (
                *_observed([values[k] for values in found], graph.shapes[node], dims),
                given.get(name, {}),
            )
    coords: dict[str, Any] = {"t": raw.t}
    for name, values in system.coords.items():
        coords[name] = (name, values, given.get(name, {}))
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _observed(values: list[Array], shape: tuple[int, ...], dims: tuple[str, ...]) -> tuple[tuple[str, ...], Array]:
    """An observed quantity over the dimensions along which it varies."""
    kept = [k for k, n in enumerate(shape) if n > 1]
    stacked = np.array(values).reshape(len(values), *(shape[k] for k in kept))
    return ("t", *(dims[k] for k in kept)), stacked
