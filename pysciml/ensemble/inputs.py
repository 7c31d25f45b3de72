"""The numbers that go into the trajectories of a sweep, made for those that are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Varying:
    """One initial value or parameter that varies.

    Attributes
    ----------
    is_state : bool
    index : int
        Which of the states or parameters.
    axes : tuple of int
        The dimensions of the sweep that ``values`` has, in its order.
    values : array
    """

    is_state: bool
    index: int
    axes: tuple[int, ...]
    values: Array


@dataclass(frozen=True)
class Inputs:
    """Initial values and parameters of every trajectory, never written out.

    Attributes
    ----------
    u0, p : array, shapes (n_states,) and (n_params,)
        Where nothing varies.
    shape : tuple of int
        Of the sweep; trajectories are numbered in row-major order.
    varying : tuple of Varying
    """

    u0: Array
    p: Array
    shape: tuple[int, ...]
    varying: tuple[Varying, ...]
    #: Which initial values were given, where others follow from constraints (`pysciml.consistency`).
    given: npt.NDArray[np.bool_] | None = None

    @property
    def size(self) -> int:
        """How many trajectories."""
        return math.prod(self.shape)

    def at(self, trajectories: Indices) -> tuple[Array, Array]:
        """Initial values and parameters of these trajectories, one row each."""
        where = np.unravel_index(trajectories, self.shape)
        u0 = np.repeat(self.u0[None], len(trajectories), axis=0)
        p = np.repeat(self.p[None], len(trajectories), axis=0)
        for varying in self.varying:
            place = tuple(where[axis] for axis in varying.axes)
            (u0 if varying.is_state else p)[:, varying.index] = varying.values[place]
        return u0, p
