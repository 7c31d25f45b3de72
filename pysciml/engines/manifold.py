"""Systems of reduced index, for engines that solve index 1: see `pysciml.graph.manifold`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array, RawSolution, SolveOptions
from pysciml.engines.batch import Batch, BatchOptions
from pysciml.engines.timed import Solve
from pysciml.errors import UnsupportedError
from pysciml.graph import Model
from pysciml.graph.manifold import on_manifold, projected, start_on


def solve_on_manifold(
    solve: Solve,
    model: Model,
    u0: Array,
    p: Array,
    tspan: tuple[float, float],
    algorithm: str | None,
    options: SolveOptions,
) -> RawSolution:
    """Solve around the constraints, and return what is on them."""
    inner = on_manifold(model, backward=tspan[1] < tspan[0])
    raw = solve(inner, start_on(model, u0), p, tspan, algorithm, options)
    raw.u = projected(model, raw.u, p, raw.t)
    return raw


def batch_on_manifold(model: Model, batch: Batch, options: BatchOptions) -> Batch:
    """The batch of `on_manifold`, whose results are stored as those of the model."""
    saveat = options.solve.saveat
    times = np.array([batch.tspan[1]]) if saveat is None else saveat

    def inputs(low: int, high: int) -> tuple[Array, Array]:
        u0, p = batch.inputs(low, high)
        return start_on(model, u0), p

    def store(low: int, high: int, u: Array, retcodes: npt.NDArray[np.str_]) -> None:
        _, p = batch.inputs(low, high)
        rows = [projected(model, one.T, numbers, times).T for one, numbers in zip(u, p, strict=True)]
        batch.store(low, high, np.stack(rows), retcodes)

    near = None if batch.near is None else (start_on(model, batch.near[0]), batch.near[1])
    return replace(batch, inputs=inputs, store=store, near=near)


def refuse_constraints(model: Model, engine: str) -> None:
    """Raise for derivatives of solutions of which the index was reduced."""
    if model.constraints:
        raise UnsupportedError(
            f"the {engine} engine has no sensitivities of systems whose index was reduced, and {model.name!r} is "
            "one: finite differences by pysciml.fit, or pysciml.solve_ensemble, are possible",
            engine=engine,
        )
