"""From an engine's arrays to the labelled Dataset the user gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from pysciml._version import __version__
from pysciml.engines.base import RawSolution
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
    attrs = system.attrs
    observed = raw.observed
    if model.observed and observed is None:
        observed = system.graph.evaluate("observed", raw.u, problem.p[:, None], raw.t)
    variables: dict[str, Any] = {
        name: xr.Variable("t", row, attrs.get(name), fastpath=True)
        for name, row in zip(model.states, raw.u, strict=True)
    }
    if observed is not None:
        for name, row in zip(model.observed, observed, strict=True):
            variables[name] = xr.Variable("t", row, attrs.get(name), fastpath=True)
    return xr.Dataset(
        variables,
        coords={"t": xr.Variable("t", raw.t)},
        attrs=attributes(problem, raw, engine),
    )


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
    }
    if raw.event_times:
        attrs["event_times"] = np.array([time for time, _ in raw.event_times])
        attrs["event_numbers"] = np.array([number for _, number in raw.event_times], dtype=np.int64)
    return attrs
