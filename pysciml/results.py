"""From an engine's arrays to the labelled Dataset the user gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from xarray.indexes import PandasIndex

from pysciml._version import __version__
from pysciml.engines.base import Array, RawSolution
from pysciml.problem import Problem


def to_dataset(problem: Problem, raw: RawSolution, engine: str) -> xr.Dataset:
    """Label a solution.

    Returns
    -------
    xarray.Dataset
        States and observed quantities by name over the coordinate ``t``; every attribute can be
        written to NetCDF.
    """
    system = problem.system
    model = system.model
    if model.fields:
        from pysciml.pde.results import fields_dataset

        return fields_dataset(problem, raw, attributes(problem, raw, engine))
    attrs = system.attrs
    observed = raw.observed
    if model.observed and observed is None:
        observed = system.graph.evaluate("observed", raw.u, problem.p[:, None], raw.t)
    variables: dict[str, Any] = {
        name: _variable(row, attrs.get(name)) for name, row in zip(model.states, raw.u, strict=True)
    }
    if observed is not None:
        for name, row in zip(model.observed, observed, strict=True):
            variables[name] = _variable(row.astype(raw.u.dtype, copy=False), attrs.get(name))
    return _dataset(variables, raw.t, attributes(problem, raw, engine))


def _checked_variable(row: Array, attrs: Any) -> xr.Variable:
    return xr.Variable("t", row, attrs, fastpath=True)


def _direct_variable(row: Array, attrs: Any) -> xr.Variable:
    """The same, of an array that is known to be one: a system of thousands of states has as many."""
    made: Any = object.__new__(xr.Variable)
    made._dims, made._data, made._attrs, made._encoding = ("t",), row, dict(attrs) if attrs else None, None
    return made


def _fastest_variable() -> Callable[[Array, Any], xr.Variable]:
    """The direct way, where this xarray's variables consist of what is set there."""
    parts = {name for kind in xr.Variable.__mro__ for name in getattr(kind, "__slots__", ())}
    return _direct_variable if parts == {"_dims", "_data", "_attrs", "_encoding"} else _checked_variable


_variable = _fastest_variable()


def _dataset(variables: dict[str, xr.Variable], t: Array, attrs: dict[str, Any]) -> xr.Dataset:
    """``xr.Dataset(variables, coords={"t": t}, attrs=attrs)``, without checking what is known to fit.

    The public constructor aligns and merges its arguments, which takes longer than solving a small
    problem. Where this xarray has no direct way, the public one is taken.
    """
    index = PandasIndex(pd.Index(t, name="t"), "t")
    coordinates = index.create_variables()
    try:
        return xr.Dataset._construct_direct(
            {**variables, **coordinates},
            coord_names={"t"},
            dims={"t": t.size},
            attrs=attrs,
            indexes={"t": index},
        )
    except (AttributeError, TypeError):
        return xr.Dataset(variables, coords={"t": t}, attrs=attrs)


def attributes(problem: Problem, raw: RawSolution, engine: str) -> dict[str, Any]:
    """The attributes of a solution: text, integers and floats."""
    attrs: dict[str, Any] = {
        "engine": engine,
        "algorithm": raw.algorithm,
        "retcode": raw.retcode,
        "n_steps": raw.n_steps,
        "n_rejected": raw.n_rejected,
        "n_rhs": raw.n_rhs,
        "solve_seconds": raw.solve_seconds,
        "compile_seconds": raw.compile_seconds,
        "model": problem.system.name,
        "pysciml_version": __version__,
        **raw.extra,
    }
    model = problem.system.model
    if model.constraints:
        attrs["index"] = model.index
        attrs["index_reduced"] = "constraints: " + "; ".join(model.constraints)
    if raw.event_times:
        attrs["event_times"] = np.array([time for time, _ in raw.event_times])
        attrs["event_numbers"] = np.array([number for _, number in raw.event_times], dtype=np.int64)
    return attrs
