"""Fitting parameters of partial differential equations: data at places and times, and their residuals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import xarray as xr

from pysciml.engines.base import Array, RawSolution
from pysciml.errors import ProblemError, SolverError, UnsupportedError
from pysciml.fitting.inputs import Observations, _find, _list, _name, _read_times, _real
from pysciml.fitting.residuals import Residuals
from pysciml.hints import did_you_mean
from pysciml.pde.discrete import DiscreteSystem, FieldProblem
from pysciml.pde.places import interpolation
from pysciml.pde.sensitivity import METHOD, FieldSensitivity
from pysciml.problem import number

if TYPE_CHECKING:
    from pysciml.fitting.training_options import TrainingOptions

#: Points that a value between them is interpolated from, along each axis; few where there may be jumps.
_SMOOTH: Final = 4
_ROUGH: Final = 2
#: How much unevenness counts beside differences to data, where windows start.
_EVENNESS: Final = 1e-2


@dataclass(frozen=True)
class Variable:
    """One variable of the data.

    Attributes
    ----------
    number : int
        Which of the fields followed by the observed quantities.
    rows : slice
        Its places among the rows of all.
    matrix : csr_array, shape (n_places, size)
        From the values on the grid to those at its places.
    template : DataArray
        With the dimensions ``("t", ...)`` and the coordinates of the data.
    """

    number: int
    rows: slice
    matrix: Any
    template: xr.DataArray


@dataclass(frozen=True)
class FieldObservations(Observations):
    """Data at places and times: each row of ``values`` is one place of one variable over time."""

    order: Any = None


def refuse_initial(problem: FieldProblem, keys: Any) -> None:
    """Raise for fields among what is trainable."""
    for key in keys:
        state, parameter = _find(problem, key)
        if state is not None and parameter is None:
            name = problem.system.model.states[state]
            raise UnsupportedError(
                f"trainable: {name} is a field, whose initial values are as many as there are cells: write them with "
                f"parameters, as in initial={{{name}: a*sp.exp(-X**2)}}, and fit those"
            )


def check_training(problem: FieldProblem, trainable: list[Any], options: TrainingOptions) -> None:
    """Raise for what the training of fields has not."""
    refuse_initial(problem, trainable)
    name = problem.system.name
    if options.engine != "jax":
        raise UnsupportedError(
            f"{name} is a partial differential equation, which engine='jax' alone trains", engine=options.engine
        )
    if problem.system.kind != "ode":
        raise UnsupportedError(f"{name} is a stochastic partial differential equation, which is not trained")


def places(*variables: tuple[Variable, ...]) -> list[Any]:
    """Where data were measured, for fingerprints."""
    return [
        (each.number, each.matrix.data.tobytes(), each.matrix.indices.tobytes(), each.matrix.indptr.tobytes())
        for group in variables
        for each in group
    ]


def first_fields(problem: FieldProblem, data: FieldObservations, edges: Array) -> Array:
    """Where windows start: fields through the data, as even as these allow; shape (n_windows, n_states).

    They minimize the squares of the differences to the data (interpolated in time) and, with a small weight, of those
    between neighbouring cells. Fields that were not measured start as the problem does.
    """
    from scipy import sparse
    from scipy.sparse.linalg import splu

    graph, n = problem.system.graph, len(problem.system.model.states)
    starts = np.tile(problem.u0, (edges.size - 1, 1))
    order = np.argsort(data.times)
    for variable in data.variables if len(starts) > 1 else ():
        if variable.number >= n:
            continue
        rows = np.arange(variable.rows.start, variable.rows.stop)[data.present[variable.rows].any(axis=1)]
        values = np.empty((len(rows), edges.size - 2))
        for row, found in zip(rows.tolist(), values, strict=True):
            seen = order[data.present[row][order]]
            found[:] = np.interp(edges[1:-1], data.times[seen], data.values[row][seen])
        matrix = variable.matrix[rows - variable.rows.start]
        even = _differences(graph.fields[variable.number])
        normal = sparse.csc_array(matrix.T @ matrix + _EVENNESS * (even.T @ even))
        block = slice(graph.offsets[variable.number], graph.offsets[variable.number + 1])
        starts[1:, block] = splu(normal).solve(np.asarray(matrix.T @ values)).T
    return starts


def _differences(shape: tuple[int, ...]) -> Any:
    """The matrix of the differences between neighbours on a grid."""
    from scipy import sparse

    parts: list[Any] = []
    for axis, size in enumerate(shape):
        if size > 1:
            eyes: list[Any] = [sparse.eye_array(k) for k in shape]
            eyes[axis] = sparse.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(size - 1, size))
            whole = eyes[0]
            for factor in eyes[1:]:
                whole = sparse.kron(whole, factor)
            parts.append(whole)
    return sparse.vstack(parts)


def spread_of(problem: FieldProblem, starts: Array) -> Array:
    """The scale of each cell: the range of its field."""
    found = np.empty(starts.shape[1])
    offsets = problem.system.graph.offsets
    for k in range(len(problem.system.model.states)):
        found[offsets[k] : offsets[k + 1]] = np.ptp(starts[:, offsets[k] : offsets[k + 1]])
    return found


def read_field_data(problem: FieldProblem, data: Any, sigma: Any, weights: Any) -> FieldObservations:
    """Check the data against the problem; `ProblemError` names the variable that is wrong."""
    if isinstance(data, xr.DataArray) and data.name is not None:
        data = data.to_dataset()
    if not isinstance(data, xr.Dataset):
        raise ProblemError(
            f"data must be an xarray.Dataset of fields or observed quantities over t and places, not "
            f"{type(data).__name__}",
            symbol="data",
        )
    times, order = _read_times(problem, data)
    system: DiscreteSystem = problem.system
    known = (*system.model.states, *system.model.observed)
    names = tuple(str(name) for name in data.data_vars)
    if not names:
        raise ProblemError("data has no variables: name one after a field or an observed quantity", symbol="data")
    spreads = _read_spreads(sigma, weights, names)
    variables: list[Variable] = []
    values: list[Array] = []
    scales: list[Array] = []
    start = 0
    for name in names:
        if name not in known:
            raise ProblemError(
                f"data has {name}, which is neither a field nor an observed quantity of the system "
                f"({_list(known)}){did_you_mean(name, known)}; leave it out by data.drop_vars({name!r})",
                symbol=name,
            )
        variable = data[name]
        if "t" not in variable.dims:
            raise ProblemError(f"data: {name} has no dimension t", symbol=name)
        variable = variable.transpose("t", ...)
        number_ = known.index(name)
        matrix = _places(system, number_, name, variable)
        rows = slice(start, start + matrix.shape[0])
        start = rows.stop
        variables.append(Variable(number_, rows, matrix, variable))
        raw = _real(variable.values, f"data: {name}", name).reshape(len(times), -1)
        if np.isnan(raw).all():
            raise ProblemError(f"data: {name} has no values, all are missing", symbol=name)
        values.append(raw[order].T)
        scales.append(_scale(spreads, sigma is not None, name, variable)[order].T)
    everything = np.concatenate(values)
    present = ~np.isnan(everything)
    scale = np.concatenate(scales)
    bad = ~(scale > 0) & present
    if bad.any():
        raise ProblemError("sigma and weights must be positive where there are data", symbol="sigma")
    scale = np.where(present, scale, 0.0)
    attrs = {name: dict(data[name].attrs) for name in names} | {"t": dict(data["t"].attrs)}
    numbers = np.arange(len(everything), dtype=np.intp)
    return FieldObservations(
        times, names, numbers, everything, present, scale, attrs, variables=tuple(variables), order=order
    )


def _places(system: DiscreteSystem, number_: int, name: str, variable: xr.DataArray) -> Any:
    """The interpolation matrix to where a variable was measured."""
    model, graph = system.model, system.graph
    if number_ < len(model.states):
        shape = graph.fields[number_]
    else:
        shape = graph.shapes[int(graph.outputs["observed"][number_ - len(model.states)])]
        shape = shape or (1,) * len(system.axes)
    free = variable.isel(t=0)
    places: list[Array] = []
    for axis, size in zip(system.axes, shape, strict=True):
        if size == 1:
            places.append(np.zeros(free.size))
            continue
        if axis.name not in free.coords:
            raise ProblemError(
                f"data: {name} has no coordinate {axis.name}: say where it was measured, by a dimension {axis.name} or "
                "a coordinate along another one, such as sensors",
                symbol=name,
            )
        where = free.coords[axis.name]
        if set(where.dims) - set(free.dims):
            raise ProblemError(f"data: the coordinate {axis.name} of {name} changes in time", symbol=name)
        here = _real(where.broadcast_like(free).transpose(*free.dims).values, f"data: {axis.name}", axis.name).ravel()
        slack = 1e-9 * axis.length
        outside = ~((here >= axis.low - slack) & (here <= axis.high + slack))
        if outside.any():
            raise ProblemError(
                f"data: {name} was measured at {axis.name} = {here[outside][0]:g}, outside the domain "
                f"({axis.low:g} to {axis.high:g})",
                symbol=axis.name,
            )
        places.append(here)
    count = _SMOOTH if system.scheme in ("central", "spectral") else _ROUGH
    return interpolation(list(system.axes), shape, places, count)


def _read_spreads(sigma: Any, weights: Any, names: tuple[str, ...]) -> dict[str, Any]:
    if sigma is not None and weights is not None:
        raise ProblemError("give sigma or weights, not both: a weight is 1 / sigma**2", symbol="weights")
    given, what = (sigma, "sigma") if sigma is not None else (weights, "weights")
    if given is None:
        return {}
    if isinstance(given, xr.Dataset):
        given = {str(name): given[name] for name in given.data_vars}
    if not isinstance(given, Mapping):
        raise ProblemError(
            f"{what} maps variables to a number or a DataArray, such as {{'{names[0]}': 0.1}}, not {given!r}",
            symbol=what,
        )
    found = {_name(key): value for key, value in cast("Mapping[Any, Any]", given).items()}
    for name in found:
        if name not in names:
            raise ProblemError(
                f"{what} has {name}, which is not among the data ({_list(names)}){did_you_mean(name, names)}",
                symbol=name,
            )
    return found


def _scale(spreads: dict[str, Any], is_sigma: bool, name: str, variable: xr.DataArray) -> Array:
    """One over the standard deviation of each value, shape (n_t, n_places)."""
    value = spreads.get(name, 1.0)
    if isinstance(value, xr.DataArray):
        try:
            value = value.broadcast_like(variable).transpose(*variable.dims)
            value = value.values if value.shape == variable.shape else None
        except ValueError:
            value = None
        if value is None:
            raise ProblemError(f"the spread of {name} does not fit the dimensions of its data", symbol=name)
        spread = _real(value, f"the spread of {name}", name)
    else:
        spread = np.full(variable.shape, number(value, f"the spread of {name}", name))
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1 / spread if is_sigma or name not in spreads else np.sqrt(spread)
    return np.nan_to_num(scale, nan=0.0, posinf=0.0).reshape(variable.shape[0], -1)


class FieldResiduals(Residuals):
    """See `Residuals`; derivatives are solved for together with the fields."""

    problem: FieldProblem
    data: FieldObservations

    @property
    def derivatives(self) -> str:
        """See `Residuals.derivatives`."""
        return METHOD

    def numbers(self, inner: Array) -> tuple[Array, Array]:
        """See `Residuals.numbers`; initial values follow the parameters."""
        p = self.problem.p.copy()
        p[self.free.index] = self.free.outward(inner)
        if not np.isfinite(p).all():
            return self.problem.u0, p
        return self._at(p).u0, p

    def _at(self, p: Array) -> FieldProblem:
        return self.problem.remake(p=dict(zip(self.problem.system.model.parameters, p.tolist(), strict=False)))

    def _at_data(self, raw: RawSolution, p: Array) -> Array | None:
        if not raw.successful or raw.u.shape[1] != self.data.times.size:
            return None
        system = self.problem.system
        observed: list[list[Array]] = []
        if any(v.number >= len(system.model.states) for v in self.data.variables):
            observed = [system.graph.arrays("observed", raw.u[:, j], p, float(t)) for j, t in enumerate(raw.t)]
        values = self._measure(raw.u, observed)
        return values if np.isfinite(values[self.data.present]).all() else None

    def _measure(self, u: Array, observed: list[list[Array]]) -> Array:
        """What the data would be, shape (n_rows, n_t)."""
        graph, n = self.problem.system.graph, len(self.problem.system.model.states)
        values = np.empty(self.data.values.shape)
        for variable in self.data.variables:
            k = variable.number
            if k < n:
                field = u[graph.offsets[k] : graph.offsets[k + 1]]
            else:
                field = np.stack([arrays[k - n].ravel() for arrays in observed], axis=1)
            values[variable.rows] = variable.matrix @ field
        return values

    @cached_property
    def _sensitivity(self) -> FieldSensitivity:
        return FieldSensitivity(self.problem.system, self.free.index.tolist())

    def _by_sensitivities(self, inner: Array) -> Array | None:
        _, p = self.numbers(inner)
        try:
            raw, slopes, observed = self._sensitivity.solve(
                self._engine, self._at(p), self._span, self._algorithm, self._options
            )
        except UnsupportedError:
            self._exact = False
            return None
        except SolverError:
            self.n_solves += 1
            return None
        self._exact = True
        self._count(raw)
        if not raw.successful or raw.u.shape[1] != self.data.times.size:
            return None
        columns = [
            self._measure(slopes[:, :, k], [at.slopes[k] for at in observed]) for k in range(len(self.free.names))
        ]
        weighted = np.stack(columns, axis=-1) * self.data.scale[:, :, None]
        result = (weighted * self.free.slope(self.free.outward(inner)))[self.data.present]
        return result if np.isfinite(result).all() else None

    def fitted(self, inner: Array) -> FieldProblem:
        """See `Residuals.fitted`."""
        return self._at(self.numbers(inner)[1])

    def unweighted(self, predicted: Array, data: Any) -> xr.Dataset:
        """See `Residuals.unweighted`."""
        found: dict[str, xr.DataArray] = {}
        back = np.argsort(self.data.order)
        for name, variable in zip(self.data.names, self.data.variables, strict=True):
            rows = (self.data.values - predicted)[variable.rows].T[back]
            found[name] = variable.template.copy(data=rows.reshape(variable.template.shape))
        return xr.Dataset(found)
