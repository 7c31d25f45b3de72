"""Steady states: Newton's method on the grid, with sparse linear algebra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from pysciml._version import __version__
from pysciml.engines.base import RawSolution
from pysciml.errors import SolverError
from pysciml.graph.field_jacobian import jacobian_of
from pysciml.pde.results import fields_dataset

if TYPE_CHECKING:
    from pysciml.pde.discrete import DiscreteSystem

_ITERATIONS: Final = 60


def steady(system: DiscreteSystem, p: Any, u0: Any, rtol: float) -> xr.Dataset:
    """See `DiscreteSystem.steady`."""
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import splu

    problem = _numbers(system, p, u0)
    graph = system.graph
    u, params = problem.u0.copy(), problem.p
    jacobian = jacobian_of(graph)
    residual = graph.evaluate("rhs", u, params, 0.0)
    iterations, converged = 0, False
    while iterations < _ITERATIONS and np.isfinite(residual).all():
        iterations += 1
        try:
            step = splu(csc_array(jacobian(u, params, 0.0))).solve(residual)
        except RuntimeError as error:
            raise SolverError(
                f"{system.name}: the linearized equations are singular: is a value fixed somewhere (only Neumann or "
                "periodic conditions leave a constant open)?",
                retcode="Singular",
            ) from error
        damping, size = 1.0, float(np.linalg.norm(residual))
        while True:
            trial = u - damping * step
            new = graph.evaluate("rhs", trial, params, 0.0)
            if (np.isfinite(new).all() and np.linalg.norm(new) <= (1 - damping / 4) * size) or damping < 1e-4:
                break
            small = np.linalg.norm(step) <= 1e-12 * np.linalg.norm(u)
            if small:
                break
            damping /= 2
        u, residual = trial, new
        if damping * np.linalg.norm(step) <= rtol * np.linalg.norm(u) + 1e-300:
            converged = True
            break
        if damping < 1e-4:
            break
    attrs = {"algorithm": "Newton", "n_steps": iterations, "model": system.name, "pysciml_version": __version__}
    raw = RawSolution(np.zeros(1), u[:, None], "Newton")
    solution = fields_dataset(problem, raw, attrs | {"retcode": "Success" if converged else "ConvergenceFailure"})
    solution = solution.isel(t=0, drop=True)
    if not converged:
        raise SolverError(
            f"{system.name}: Newton's method found no steady state in {iterations} iterations from here; start nearer, "
            "or solve in time",
            partial=solution,
            retcode="ConvergenceFailure",
        )
    return solution


class _Numbers:
    """What `fields_dataset` needs of a problem."""

    def __init__(self, system: Any, u0: Any, p: Any) -> None:
        self.system, self.u0, self.p = system, u0, p


def _numbers(system: DiscreteSystem, p: Mapping[Any, Any] | None, u0: Mapping[Any, Any] | None) -> _Numbers:
    from pysciml.pde.discrete import FieldProblem

    reader = object.__new__(FieldProblem)
    reader.system = system
    params = reader._read_parameters(p)
    given = {} if u0 is None else reader._read_fields(u0)
    arrays = [
        given.get(i, value if value is not None else np.zeros(layout.shape))
        for i, (layout, value) in enumerate(zip(system.model.fields, system.initial(params), strict=True))
    ]
    return _Numbers(system, np.concatenate([a.ravel() for a in arrays]), params)
