"""Reading what a user gives `fit`: the data, its weights, what is trainable and within which bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import sympy as sp
import xarray as xr
from sympy.core.function import AppliedUndef

from pysciml.engines.base import Array
from pysciml.errors import ProblemError
from pysciml.hints import did_you_mean
from pysciml.problem import Problem, number

#: Data may lie outside ``tspan`` by this part of its length: the rounding of a sum of spacings.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Observations:
    """The data, in the order in which a solve meets it.

    Attributes
    ----------
    times : array, shape (n_t,)
        In the direction of integration.
    names : tuple of str
    rows : int array, shape (n_variables,)
        Which of the states followed by the observed quantities each variable is.
    values : array, shape (n_variables, n_t)
        NaN where missing.
    present : bool array, shape (n_variables, n_t)
    scale : array, shape (n_variables, n_t)
        What a residual is multiplied by: one over its standard deviation.
    attrs : dict
        The attributes of each variable of the data, and of ``t``.
    variables : tuple of Variable
        Of fields: which rows are a variable's, and where it was measured; see `pysciml.fitting.fields`.
    """

    times: Array
    names: tuple[str, ...]
    rows: npt.NDArray[np.intp]
    values: Array
    present: npt.NDArray[np.bool_]
    scale: Array
    attrs: dict[str, dict[str, Any]]
    variables: tuple[Any, ...] = ()

    @property
    def n(self) -> int:
        """How many numbers there are to fit."""
        return int(np.count_nonzero(self.present))


@dataclass(frozen=True)
class Free:
    """What may change, in the order asked for.

    Attributes
    ----------
    names : tuple of str
    is_state : bool array, shape (n_free,)
        True where it is the initial value of a state, False where it is a parameter.
    index : int array, shape (n_free,)
        Its place in ``problem.u0`` or ``problem.p``.
    start, lower, upper : array, shape (n_free,)
        On the natural scale.
    log : bool array, shape (n_free,)
        Whether its logarithm is what is searched for.
    """

    names: tuple[str, ...]
    is_state: npt.NDArray[np.bool_]
    index: npt.NDArray[np.intp]
    start: Array
    lower: Array
    upper: Array
    log: npt.NDArray[np.bool_]

    def inward(self, values: Array) -> Array:
        """From the natural scale to the one that is searched."""
        inner = values.copy()
        with np.errstate(divide="ignore"):
            inner[self.log] = np.log(values[self.log])
        return inner

    def outward(self, inner: Array) -> Array:
        """From the scale that is searched to the natural one."""
        values = inner.copy()
        with np.errstate(over="ignore"):
            values[self.log] = np.exp(inner[self.log])
        return values

    def slope(self, values: Array) -> Array:
        """The derivative of `outward`, at a point given on the natural scale."""
        return np.where(self.log, values, 1.0)

    def label(self, i: int) -> str:
        """How the quantity is called in a message."""
        return f"the initial value of {self.names[i]}" if self.is_state[i] else self.names[i]


def _name(key: Any) -> str:
    if isinstance(key, AppliedUndef):
        return key.func.__name__
    return key.name if isinstance(key, sp.Symbol) else str(key)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def read_data(problem: Problem, data: Any, sigma: Any, weights: Any) -> Observations:
    """Check the data against the problem; `ProblemError` names the variable that is wrong."""
    if isinstance(data, xr.DataArray) and data.name is not None:
        data = data.to_dataset()
    if not isinstance(data, xr.Dataset):
        example = "xr.Dataset({'x': ('t', values)}, coords={'t': times})"
        extra = "; a pandas frame with the times as index becomes one by .to_xarray()" if hasattr(data, "iloc") else ""
        raise ProblemError(
            f"data must be an xarray.Dataset, such as {example}, not {type(data).__name__}{extra}", symbol="data"
        )
    times, order = _read_times(problem, data)
    model = problem.system.model
    known = (*model.states, *model.observed)
    names = tuple(str(name) for name in data.data_vars)
    if not names:
        raise ProblemError("data has no variables: name one after a state or an observed quantity", symbol="data")
    values = np.empty((len(names), len(times)))
    for row, name in zip(values, names, strict=True):
        if name not in known:
            raise ProblemError(
                f"data has {name}, which is neither a state nor an observed quantity of the system "
                f"({_list(known)}){did_you_mean(name, known)}; leave it out by data.drop_vars({name!r})",
                symbol=name,
            )
        row[:] = _read_values(data[name], name)[order]
    present = ~np.isnan(values)
    for name, mask in zip(names, present, strict=True):
        if not mask.any():
            raise ProblemError(f"data: {name} has no values, all are missing", symbol=name)
    scale = _read_scale(sigma, weights, names, data, order, present)
    attrs = {name: dict(data[name].attrs) for name in names}
    attrs["t"] = dict(data["t"].attrs)
    rows = np.array([known.index(name) for name in names], dtype=np.intp)
    return Observations(times, names, rows, values, present, scale, attrs)


def _read_times(problem: Problem, data: xr.Dataset) -> tuple[Array, npt.NDArray[np.intp]]:
    if "t" not in data.dims:
        dims = ", ".join(map(str, data.dims)) or "none"
        raise ProblemError(
            f"data needs the dimension t; it has {dims}" + (": use data.rename(...)" if data.dims else ""), symbol="t"
        )
    if "t" not in data.coords:
        raise ProblemError("data has the dimension t without times: give it a coordinate t", symbol="t")
    raw = data["t"].values
    if raw.dtype.kind not in "fiu":
        more = "; turn dates into numbers, in the time unit of the model" if raw.dtype.kind in "mM" else ""
        raise ProblemError(f"data: the times t must be numbers, not {raw.dtype}{more}", symbol="t")
    times = raw.astype(np.float64)
    if times.size == 0:
        raise ProblemError("data has no times", symbol="t")
    if not np.isfinite(times).all():
        raise ProblemError("data: t has times that are not finite", symbol="t")
    steps = np.diff(times)
    if np.any(steps == 0):
        twice = times[:-1][steps == 0][0]
        raise ProblemError(f"data: t has {twice:g} twice; average repeated measurements, say", symbol="t")
    if np.any(steps < 0) and np.any(steps > 0):
        where = times[1:][steps < 0][0]
        raise ProblemError(f"data: t goes back at {where:g}; sort it by data.sortby('t')", symbol="t")
    start, end = problem.tspan
    low, high = min(start, end), max(start, end)
    slack = _ROUNDING * (high - low)
    outside = (times < low - slack) | (times > high + slack)
    if outside.any():
        raise ProblemError(
            f"data has t = {times[outside][0]:g}, outside the problem's tspan ({start:g} to {end:g}); "
            "widen it by problem.remake(tspan=...), or leave those data out by data.sel(t=slice(...))",
            symbol="t",
        )
    order = np.argsort(times) if end > start else np.argsort(-times)
    return np.clip(times[order], low, high), order


def _read_values(variable: xr.DataArray, name: str) -> Array:
    if variable.dims != ("t",):
        raise ProblemError(
            f"data: {name} must have the dimension t and no other, not ({', '.join(map(str, variable.dims))})",
            symbol=name,
        )
    return _real(variable.values, f"data: {name}", name)


def _real(raw: npt.NDArray[Any], what: str, name: str) -> Array:
    if raw.dtype.kind not in "fiu":
        raise ProblemError(f"{what} must be real numbers, not {raw.dtype}", symbol=name)
    values = raw.astype(np.float64)
    if np.isinf(values).any():
        raise ProblemError(f"{what} has infinite values; mark missing ones by NaN", symbol=name)
    return values


def _read_scale(
    sigma: Any,
    weights: Any,
    names: tuple[str, ...],
    data: xr.Dataset,
    order: npt.NDArray[np.intp],
    present: npt.NDArray[np.bool_],
) -> Array:
    """One over the standard deviation of each value, from ``sigma`` or from ``weights``."""
    scale = np.ones(present.shape)
    if sigma is not None and weights is not None:
        raise ProblemError("give sigma or weights, not both: a weight is 1 / sigma**2", symbol="weights")
    given, what = (sigma, "sigma") if sigma is not None else (weights, "weights")
    if given is None:
        return scale
    if isinstance(given, xr.Dataset):
        given = {str(name): given[name] for name in given.data_vars}
    if not isinstance(given, Mapping):
        raise ProblemError(
            f"{what} maps variables to a number or a DataArray over t, such as {{'{names[0]}': 0.1}}, not {given!r}",
            symbol=what,
        )
    for key, value in cast("Mapping[Any, Any]", given).items():
        name = _name(key)
        if name not in names:
            raise ProblemError(
                f"{what} has {name}, which is not among the data ({_list(names)}){did_you_mean(name, names)}",
                symbol=name,
            )
        i = names.index(name)
        spread = _read_spread(value, f"{what}: {name}", name, data)[order]
        bad = ~(spread > 0) & present[i]
        if bad.any():
            raise ProblemError(f"{what}: {name} must be positive, not {spread[bad][0]:g}", symbol=name)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale[i] = 1 / spread if what == "sigma" else np.sqrt(spread)
    scale[~present] = 0.0
    return scale


def _read_spread(value: Any, what: str, name: str, data: xr.Dataset) -> Array:
    n = data.sizes["t"]
    if isinstance(value, xr.DataArray):
        if value.dims == ():
            value = value.item()
        elif value.dims != ("t",):
            raise ProblemError(
                f"{what} must be over t alone, not ({', '.join(map(str, value.dims))})",
                symbol=name,
            )
        elif value.sizes["t"] != n or ("t" in value.coords and not np.array_equal(value["t"].values, data["t"].values)):
            raise ProblemError(f"{what} is given at other times than the data", symbol=name)
        else:
            return _real(value.values, what, name)
    if np.ndim(value) == 0:
        return np.full(n, number(value, what, name))
    array = np.asarray(value)
    if array.shape != (n,):
        raise ProblemError(f"{what} must be a number or have one value per time ({n}), not shape {array.shape}")
    return _real(array, what, name)


def read_free(problem: Problem, trainable: Any, bounds: Any, log: Any) -> Free:
    """Check what is trainable, its bounds and its scale; `ProblemError` names the culprit."""
    keys = _keys(trainable, "trainable")
    if not keys:
        raise ProblemError("trainable is empty: name parameters, or states for their initial values")
    model, system = problem.system.model, problem.system
    names: list[str] = []
    is_state: list[bool] = []
    index: list[int] = []
    for key in keys:
        state, parameter = _find(problem, key)
        if parameter is not None:
            names.append(model.parameters[parameter])
            index.append(parameter)
        elif state is not None:
            names.append(model.states[state])
            index.append(state)
            if not model.differential[state] or (model.guessed is not None and model.guessed[state]):
                raise ProblemError(
                    f"trainable: {names[-1]} is an algebraic unknown; its initial value follows from the equations",
                    symbol=names[-1],
                )
        else:
            known = (*model.parameters, *model.states)
            text = _name(key)
            raise ProblemError(
                f"trainable has {text}, which is neither a parameter nor a state of {system.name} "
                f"({_list(known)}){did_you_mean(text, known)}",
                symbol=text,
            )
        is_state.append(parameter is None)
        if names.count(names[-1]) > 1:
            raise ProblemError(f"trainable has {names[-1]} twice", symbol=names[-1])
    states = np.array(is_state)
    places = np.array(index, dtype=np.intp)
    start = np.array([problem.u0[i] if s else problem.p[i] for s, i in zip(is_state, index, strict=True)])
    lower, upper = _read_bounds(problem, bounds, names)
    logs = np.zeros(len(names), dtype=np.bool_)
    if isinstance(log, bool):
        logs[:] = log
    else:
        for key in _keys(log, "log"):
            logs[_position(problem, key, names, "log")] = True
    free = Free(tuple(names), states, places, start, lower, upper, logs)
    _check_start(free)
    return free


def _keys(given: Any, what: str) -> list[Any]:
    if isinstance(given, (str, sp.Basic)):
        return [given]
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise ProblemError(f"{what} must be a list of symbols or names, not {given!r}", symbol=what)
    return list(cast("Iterable[Any]", given))


def _find(problem: Problem, key: Any) -> tuple[int | None, int | None]:
    try:
        return problem.system.state_index(key), problem.system.parameter_index(key)
    except TypeError:  # an unhashable key
        return None, None


def _position(problem: Problem, key: Any, names: list[str], what: str) -> int:
    """Where a key of ``bounds`` or ``log`` stands among what is trainable."""
    state, parameter = _find(problem, key)
    model = problem.system.model
    name = (
        model.parameters[parameter]
        if parameter is not None
        else model.states[state]
        if state is not None
        else _name(key)
    )
    if name not in names:
        raise ProblemError(
            f"{what} has {name}, which is not trainable ({_list(names)}){did_you_mean(name, names)}", symbol=name
        )
    return names.index(name)


def _read_bounds(problem: Problem, bounds: Any, names: list[str]) -> tuple[Array, Array]:
    lower, upper = np.full(len(names), -math.inf), np.full(len(names), math.inf)
    if bounds is None:
        return lower, upper
    if not isinstance(bounds, Mapping):
        raise ProblemError(f"bounds maps a name to (low, high), not {bounds!r}", symbol="bounds")
    for key, pair in cast("Mapping[Any, Any]", bounds).items():
        i = _position(problem, key, names, "bounds")
        if isinstance(pair, (str, Mapping)) or not isinstance(pair, Iterable) or len(ends := list(pair)) != 2:
            raise ProblemError(f"bounds: {names[i]} needs a pair (low, high), not {pair!r}", symbol=names[i])
        for side, end in zip((lower, upper), ends, strict=True):
            # None and an infinity both leave the side open.
            if end is not None and not (isinstance(end, (float, np.floating)) and np.isinf(end)):
                side[i] = number(end, f"bounds: {names[i]}", names[i])
        if isinstance(ends[0], (float, np.floating)) and ends[0] == math.inf:
            raise ProblemError(f"bounds: the lower bound of {names[i]} is infinite", symbol=names[i])
        if isinstance(ends[1], (float, np.floating)) and ends[1] == -math.inf:
            raise ProblemError(f"bounds: the upper bound of {names[i]} is minus infinity", symbol=names[i])
        if not lower[i] < upper[i]:
            raise ProblemError(
                f"bounds: the lower bound of {names[i]} ({lower[i]:g}) is not below the upper ({upper[i]:g})",
                symbol=names[i],
            )
    return lower, upper


def _check_start(free: Free) -> None:
    for i, value in enumerate(free.start):
        if free.log[i]:
            if value <= 0:
                raise ProblemError(
                    f"log: {free.label(i)} starts at {value:g}; a logarithmic scale needs a positive start",
                    symbol=free.names[i],
                )
            free.lower[i] = max(free.lower[i], 0.0)
            if free.upper[i] <= 0:
                raise ProblemError(
                    f"bounds: {free.names[i]} is on a logarithmic scale and cannot stay below {free.upper[i]:g}",
                    symbol=free.names[i],
                )
        if not free.lower[i] <= value <= free.upper[i]:
            raise ProblemError(
                f"bounds: {free.label(i)} starts at {value:g}, outside ({free.lower[i]:g}, {free.upper[i]:g}); "
                "start inside, by problem.remake(...)",
                symbol=free.names[i],
            )
