"""What varies between the trajectories: labelled arrays, broadcast by name and never written out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from pysciml.consistency import consistent_rows
from pysciml.engines.base import Array
from pysciml.ensemble.inputs import Inputs, Varying
from pysciml.errors import ProblemError
from pysciml.problem import Problem

#: The dimension of sampled paths.
TRAJECTORY = "trajectory"


@dataclass(frozen=True)
class Varied:
    """One quantity that varies: where it goes, and its values over its own dimensions."""

    name: str
    is_state: bool
    index: int
    values: xr.DataArray


class Sweep:
    """The trajectories of a problem, as the product of named dimensions.

    Parameters
    ----------
    problem : Problem
    over : mapping or None
        Parameter or state -> labelled array of values.
    trajectories : int or None

    Attributes
    ----------
    dims : tuple of str
    shape : tuple of int
    """

    def __init__(self, problem: Problem, over: Any, trajectories: Any) -> None:
        self._problem = problem
        self.varied = _read_over(problem, over)
        sizes: dict[str, int] = {}
        for varied in self.varied:
            for dim, size in zip(varied.values.dims, varied.values.shape, strict=True):
                sizes.setdefault(str(dim), size)
        if trajectories is not None:
            sizes[TRAJECTORY] = _read_trajectories(problem, trajectories, sizes)
        if not sizes:
            raise ProblemError(
                "an ensemble needs over={parameter or state: array of values}, or trajectories= for stochastic "
                "equations; for one solution use pysciml.solve",
                symbol="over",
            )
        taken = {*problem.system.model.states, *problem.system.model.observed, "t", "retcode"}
        for dim in sizes:
            if dim in taken:
                raise ProblemError(
                    f"over: the dimension {dim!r} has the name of a variable of the result; give it another one, "
                    f"such as xarray.DataArray(values, dims={dim + '0'!r})",
                    symbol=dim,
                )
        self.dims = tuple(sizes)
        self.shape = tuple(sizes.values())

    @cached_property
    def size(self) -> int:
        """How many trajectories."""
        return math.prod(self.shape)

    @cached_property
    def numbers(self) -> Inputs:
        """What varies, without labels."""
        varying = tuple(
            Varying(v.is_state, v.index, tuple(self.dims.index(str(dim)) for dim in v.values.dims), v.values.values)
            for v in self.varied
        )
        given = self._problem._given
        if given is not None:
            given = given.copy()
            given[[v.index for v in varying if v.is_state]] = True
        return Inputs(self._problem.u0, self._problem.p, self.shape, varying, given)

    def inputs(self, low: int, high: int) -> tuple[Array, Array]:
        """Initial values and parameters of some of the trajectories, one row each."""
        u0, p = self.numbers.at(np.arange(low, high))
        return consistent_rows(self._problem.system.model, u0, p, self._problem.tspan[0], self.numbers.given), p

    def paths(self, low: int, high: int) -> npt.NDArray[np.uint32]:
        """The number of each trajectory's random path: its place among all of them."""
        return np.arange(low, high, dtype=np.uint32)

    def coordinates(self) -> dict[str, Any]:
        """The swept values as coordinates; initial values get the suffix ``_initial``."""
        found: dict[str, Any] = {}
        attrs = self._problem.system.attrs
        for varied in self.varied:
            for name, coordinate in varied.values.coords.items():
                found[str(name)] = coordinate.variable
        for varied in self.varied:
            dims = tuple(map(str, varied.values.dims))
            name = varied.name
            if varied.is_state:
                name = dims[0] if dims == (f"{name}0",) else f"{name}_initial"
            if name not in found:
                found[name] = xr.Variable(dims, varied.values.values, attrs.get(varied.name))
        return found


def _read_over(problem: Problem, over: Any) -> tuple[Varied, ...]:
    if over is None:
        return ()
    if not isinstance(over, Mapping):
        raise ProblemError(
            f"over maps parameters or states to arrays of values, not {type(over).__name__}", symbol="over"
        )
    system = problem.system
    found: list[Varied] = []
    seen: set[tuple[bool, int]] = set()
    for key, values in over.items():
        index, is_state = system.parameter_index(key), False
        if index is None:
            index, is_state = system.state_index(key), True
        if index is None:
            names = ", ".join((*system.model.parameters, *system.model.states))
            raise ProblemError(
                f"over: {key} is neither a parameter nor a state of the system ({names})", symbol=str(key)
            )
        name = (system.model.states if is_state else system.model.parameters)[index]
        if (is_state, index) in seen:
            raise ProblemError(f"over has {name} twice", symbol=name)
        seen.add((is_state, index))
        found.append(Varied(name, is_state, index, _read_values(name, is_state, values)))
    try:
        aligned = xr.align(*(varied.values for varied in found), join="exact", copy=False)
    except ValueError as error:
        raise ProblemError(
            f"over: arrays that share a dimension do not fit together: {error}", symbol="over"
        ) from error
    return tuple(Varied(v.name, v.is_state, v.index, a) for v, a in zip(found, aligned, strict=True))


def _read_values(name: str, is_state: bool, values: Any) -> xr.DataArray:
    if not isinstance(values, xr.DataArray):
        plain = np.asarray(values)
        if plain.ndim != 1:
            raise ProblemError(
                f"over: the values of {name} must be a labelled array, xarray.DataArray(values, dims=...), or "
                f"one-dimensional, not of shape {plain.shape}",
                symbol=name,
            )
        values = xr.DataArray(plain, dims=f"{name}0" if is_state else name)
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"over: the values of {name} are not real numbers", symbol=name) from error
    if np.iscomplexobj(values) or values.dtype == bool:
        raise ProblemError(f"over: the values of {name} must be real numbers, not {values.dtype}", symbol=name)
    if numbers.size == 0:
        raise ProblemError(f"over: there are no values of {name} (shape {numbers.shape})", symbol=name)
    if not np.isfinite(numbers.values).all():
        raise ProblemError(f"over: the values of {name} are not all finite", symbol=name)
    return numbers


def _read_trajectories(problem: Problem, trajectories: Any, sizes: Mapping[str, int]) -> int:
    if problem.system.kind not in ("sde", "jump"):
        raise ProblemError(
            f"trajectories= samples paths of stochastic equations, and {problem.system.name!r} is an "
            f"{problem.system.kind}: all would be the same; vary something with over=",
            symbol="trajectories",
        )
    if isinstance(trajectories, bool) or not isinstance(trajectories, (int, np.integer)) or trajectories < 1:
        raise ProblemError(f"trajectories must be an integer, 1 or more, not {trajectories!r}", symbol="trajectories")
    if TRAJECTORY in sizes:
        raise ProblemError(
            f"over has a dimension {TRAJECTORY!r}, which trajectories= makes; rename it", symbol="trajectories"
        )
    return int(trajectories)
