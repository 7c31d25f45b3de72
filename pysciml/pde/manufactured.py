"""The method of manufactured solutions: source terms for a chosen solution, and the order that is reached.

P. J. Roache, *Code verification by the method of manufactured solutions*, J. Fluids Eng. 124 (2002)
4-10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import sympy as sp
import xarray as xr
from sympy.core.function import AppliedUndef

from pysciml.errors import ModelError, ProblemError, SolverError
from pysciml.graph.field_jacobian import FieldJacobian
from pysciml.pde.boundary import Boundary, Dirichlet, Neumann, Periodic, Robin, Side
from pysciml.pde.discrete import DiscreteSystem
from pysciml.pde.grid import Array
from pysciml.pde.system import PDESystem
from pysciml.symbolic.variables import equation, scalar

_RTOL: Final = 1e-10


@dataclass
class Manufactured:
    """A system with the source terms that make a chosen solution its solution.

    Attributes
    ----------
    sources : dict
        Field -> what its equation lacks for the chosen solution.
    system : PDESystem
        With the sources added, and with boundary and initial values those of the chosen solution.
    exact : dict
        Field -> the chosen solution.
    """

    sources: dict[Any, sp.Expr]
    system: PDESystem
    exact: dict[Any, sp.Expr]

    def measure(
        self,
        points: Sequence[int] | Sequence[Mapping[Any, Any]],
        order: int = 2,
        scheme: str = "central",
        *,
        tspan: tuple[float, float] = (0.0, 0.1),
        p: Mapping[Any, Any] | None = None,
        engine: str | None = None,
        rtol: float = _RTOL,
        eliminate: bool = True,
    ) -> xr.Dataset:
        """Solve on finer and finer grids and compare with the chosen solution.

        Parameters
        ----------
        points : list of int, or of mappings as `PDESystem.discretize` takes them
            Cells along every coordinate, rising.
        order, scheme
            As for `PDESystem.discretize`.
        tspan : pair of float
            The error is that at the end; steady systems have none.
        p : mapping, optional
        engine : str, optional
            Solves in time; by default the reference interpreter with SciPy's Radau method, and where a field
            has no time derivative the native engine.
        rtol : float
            Of the solution in time, which should be negligible.
        eliminate : bool
            As for `PDESystem.discretize`.

        Returns
        -------
        xarray.Dataset
            ``error`` (root mean square over all fields, relative) and ``order`` (between one grid and
            the one before, NaN for the first) over ``cells``.

        Raises
        ------
        SolverError
            If a grid is not solved.
        """
        given: list[Any] = [
            dict.fromkeys(self.system.coordinates, n) if isinstance(n, (int, np.integer)) else n for n in points
        ]
        if len(given) < 2:
            raise ProblemError("points: an order is measured between two grids at least", symbol="points")
        errors: list[float] = []
        cells: list[int] = []
        for grid in given:
            discrete = self.system.discretize(grid, order=order, scheme=scheme, eliminate=eliminate)
            found, exact = self._solve(discrete, tspan, p, engine, rtol)
            errors.append(float(np.linalg.norm(found - exact) / (np.linalg.norm(exact) or 1.0)))
            cells.append(discrete.axes[0].n)
        orders = [np.nan] + [
            float(np.log(errors[k - 1] / errors[k]) / np.log(cells[k] / cells[k - 1])) for k in range(1, len(errors))
        ]
        return xr.Dataset(
            {"error": ("cells", errors), "order": ("cells", orders)},
            coords={"cells": cells},
            attrs={"scheme": scheme, "system": self.system.name},
        )

    def _solve(
        self, discrete: DiscreteSystem, tspan: tuple[float, float], p: Any, engine: str | None, rtol: float
    ) -> tuple[Array, Array]:
        names = [s.name for s in self.system.states]
        if self.system.steady:
            exact = self._values(discrete, p, 0.0)
            # Of several solutions the one nearby is meant.
            solution = discrete.steady(p, dict(zip(names, discrete.graph.split(exact), strict=True)))
            return np.concatenate([solution[name].values.ravel() for name in names]), exact
        problem = discrete.problem(tspan, p)
        exact = self._values(discrete, p, tspan[1])
        if engine is None and not self.system.constrained:
            return _reference(discrete, problem, rtol), exact
        from pysciml.solve import solve

        solution = solve(problem, engine=engine or "native", rtol=rtol, atol=rtol, saveat=[tspan[1]])
        return np.concatenate([solution[name].values[-1].ravel() for name in names]), exact

    def _values(self, discrete: DiscreteSystem, p: Any, t: float) -> Array:
        numbers = {} if p is None else {discrete.parameter_index(key): value for key, value in p.items()}
        params = np.array([float(numbers[k]) for k in range(len(discrete.parameters))])
        from pysciml.pde.discrete import _evaluate
        from pysciml.pde.lowering import Lowering

        low = Lowering(self.system, discrete.axes, discrete.order, discrete.scheme)
        nodes = [
            low(sp.diff(self.exact[s.function], self.system.time, s.order) if s.order else self.exact[s.function])
            for s in self.system.states
        ]
        values = _evaluate(low.b, nodes, params, t)
        return np.concatenate([np.broadcast_to(v, low.shape).ravel() for v in values])


def _reference(discrete: DiscreteSystem, problem: Any, rtol: float) -> Array:
    """Solve with the graph's interpreter and SciPy: independent of the engines."""
    from scipy.integrate import solve_ivp

    graph, p = discrete.graph, problem.p
    jacobian = FieldJacobian(graph)
    found = solve_ivp(
        lambda t, y: graph.evaluate("rhs", y, p, t),
        problem.tspan,
        problem.u0,
        method="Radau",
        rtol=rtol,
        atol=rtol,
        jac=lambda t, y: jacobian(y, p, t).tocsc(),
    )
    if not found.success:
        raise SolverError(f"{discrete.name}: {found.message}")
    return np.asarray(found.y[:, -1])


def manufactured(system: PDESystem, exact: Mapping[Any, Any]) -> Manufactured:
    """Find the source terms for which a chosen function is the solution, to measure orders of convergence.

    Parameters
    ----------
    system : PDESystem
        Its equations and kinds of boundary conditions are kept; boundary and initial values become
        those of the chosen solution.
    exact : mapping
        Field -> expression of time, the coordinates and parameters.

    Returns
    -------
    Manufactured

    Raises
    ------
    ModelError
        If a field has no chosen solution, or one that is no function of time and space.

    Examples
    --------
    >>> made = manufactured(heat, {u: sp.exp(-ps.t)*sp.sin(3*X)})
    >>> made.sources[u]
    >>> made.measure([16, 32, 64], order=4).order
    """
    if not isinstance(system, PDESystem):
        raise ModelError(f"manufactured takes a PDESystem, not {type(system).__name__}")
    if system.noise:
        raise ModelError(f"{system.name} has noise, and a chosen solution has none: leave it out", symbol="noise")
    chosen: dict[Any, sp.Expr] = {}
    for f in system.fields:
        if f not in exact:
            raise ModelError(f"exact has no solution for {f.func.__name__}", symbol=f.func.__name__)
        expr = scalar(exact[f])
        if expr is None or expr.atoms(AppliedUndef):
            raise ModelError(f"exact: {exact[f]!r} is no function of time and space", symbol=f.func.__name__)
        chosen[f] = expr
    sources: dict[Any, sp.Expr] = {}
    equations: list[sp.Eq] = []
    for f in system.fields:
        order = system.orders[f]
        rate: Any = system.rates[f].xreplace(chosen)
        rate = rate.doit()
        left: Any = sp.diff(chosen[f], system.time, order) if order else sp.Integer(0)
        sources[f] = left - rate
        derivative: Any = sp.Derivative(f, (system.time, order)) if order else sp.Integer(0)
        equations.append(equation(derivative, system.rates[f] + sources[f]))
    initial: dict[Any, Any] = {}
    for s in system.states:
        key: Any = sp.Derivative(s.function, (system.time, s.order)) if s.order else s.function
        value = sp.diff(chosen[s.function], system.time, s.order) if s.order else chosen[s.function]
        initial[key] = value.subs(system.time, 0) if not system.steady else sp.Integer(0)
    made = PDESystem(
        equations,
        domain=system.domain,
        boundary={x: {f: _boundary(system, f, x, chosen) for f in system.fields} for x in system.coordinates},
        initial=initial,
        name=system.name,
    )
    return Manufactured(sources, made, chosen)


def _boundary(system: PDESystem, field: Any, x: sp.Symbol, chosen: Mapping[Any, sp.Expr]) -> Any:
    """The conditions of one field along one coordinate, with the chosen solution's values."""
    sides, exact = system.boundary[field, x], chosen[field]
    if sides is None:
        return Periodic()
    result: list[Boundary] = []
    for name, conditions, sign in zip(("lower", "upper"), sides, (-1, 1), strict=True):
        end = system.domain[x][0 if name == "lower" else 1]
        place = sp.nsimplify(end) if float(end).is_integer() else sp.Float(end)
        for side in conditions:
            value = _side_value(side, exact, x, sign)
            if any(e.atoms(AppliedUndef) for e in (side.a, side.b, side.value)):
                # It stays what it is, and what the chosen solution leaves of it is added.
                left: Any = value - side.value
                value = side.value + left.xreplace(dict(chosen)).doit().subs(x, place)
            else:
                value = value.subs(x, place)
            keywords: dict[str, Any] = {name: value}
            if side.b == 0:
                result.append(Dirichlet(**{name: value / side.a}))
            elif side.a == 0 and side.b == 1:
                result.append(Neumann(**keywords, order=side.order))
            else:
                result.append(Robin(side.a, side.b, **keywords, order=side.order))
    return result


def _side_value(side: Side, exact: sp.Expr, x: sp.Symbol, sign: int) -> Any:
    return side.a * exact + sign**side.order * side.b * sp.diff(exact, x, side.order)
