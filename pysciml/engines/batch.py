"""The contract between the front and an engine that solves many trajectories at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array, RawSolution, SolveOptions
from pysciml.graph import Model


@dataclass(frozen=True)
class Batch:
    """Trajectories of one model: the numbers that go in, and where the results go.

    Attributes
    ----------
    size : int
    tspan : (float, float)
    inputs : callable
        ``inputs(low, high)``: initial values (high - low, n_states) and parameters
        (high - low, n_params) of those trajectories.
    paths : callable
        ``paths(low, high)``: the number of each trajectory's random path, uint32.
    store : callable
        ``store(low, high, u, retcodes)`` with ``u`` of shape (high - low, n_t, n_states) and one
        return code per trajectory. May be called from several threads and in any order.
    near : (array, array), optional
        See `RepeatableEngine`.
    whole : int, optional
        How many trajectories the ensemble has of which these may be a block.
    """

    size: int
    tspan: tuple[float, float]
    inputs: Callable[[int, int], tuple[Array, Array]]
    paths: Callable[[int, int], npt.NDArray[np.uint32]]
    store: Callable[[int, int, Array, npt.NDArray[np.str_]], None]
    near: tuple[Array, Array] | None = None
    whole: int | None = None


@dataclass(frozen=True)
class BatchOptions:
    """How to solve them.

    Attributes
    ----------
    solve : SolveOptions
        ``saveat`` holds the output times; None means the end of ``tspan`` alone.
    memory : int
        Bytes the engine may use for trajectories under way.
    workers : int
        Threads or processes.
    """

    solve: SolveOptions
    memory: int
    workers: int


@dataclass(frozen=True)
class BatchReport:
    """What an engine says about a batch: the algorithm that ran, seconds, further attributes."""

    algorithm: str
    compile_seconds: float
    extra: dict[str, str | int | float]


@runtime_checkable
class BatchEngine(Protocol):
    """An engine that solves batches by itself."""

    def solve_many(self, model: Model, algorithm: str | None, batch: Batch, options: BatchOptions) -> BatchReport:
        """Solve all trajectories of the batch; one that fails is stored with its return code."""
        ...


@runtime_checkable
class RepeatableEngine(Protocol):
    """An engine whose `solve` learns from earlier ones, and which can also do without.

    Trajectories of an ensemble are solved by this: they are the same to the last bit however the
    ensemble is divided among processes.
    """

    def solve_repeatably(
        self,
        model: Model,
        u0: Array,
        p: Array,
        near: tuple[Array, Array],
        tspan: tuple[float, float],
        algorithm: str | None,
        options: SolveOptions,
    ) -> RawSolution:
        """`Engine.solve`, as a function of its arguments alone.

        ``near`` holds initial values and parameters that the trajectories of one ensemble have in
        common where they do not vary.
        """
        ...
