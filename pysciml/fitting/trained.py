"""What a training returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from pysciml.ensemble import solve_ensemble
from pysciml.problem import Problem
from pysciml.solve import solve

_CURVE_POINTS = 501
#: Times at which fields are kept.
_FRAMES = 101
#: Steps of the paths of a stochastic problem.
_SDE_STEPS = 1000


@dataclass(frozen=True)
class TrainingResult:
    """A trained problem and how it got there.

    Attributes
    ----------
    problem : Problem
        With the trained numbers and weights in place: those of the last epoch, or with validation
        those of the epoch that did best there.
    history : xarray.Dataset, over ``epoch``
        ``loss`` (the mean weighted square of model minus data), ``regularization`` (weighted, as it
        is added), ``n_rhs`` (evaluations of the right-hand side by the solves of the epoch, forward),
        ``seconds`` since the start; ``validation`` where there is any.
    data : xarray.Dataset
        As given.
    success : bool
        Whether it went on to the last epoch or stopped early as asked.
    message : str
        How it ended.
    options : dict
        The solver options of the training, which `solution` uses too.
    """

    problem: Problem
    history: xr.Dataset
    data: xr.Dataset
    success: bool
    message: str
    options: dict[str, Any] = field(repr=False)

    @property
    def loss(self) -> float:
        """The loss of the last epoch."""
        return float(self.history["loss"].values[-1]) if self.history.sizes["epoch"] else float("nan")

    @cached_property
    def solution(self) -> xr.Dataset:
        """The trained problem solved over its ``tspan``: at the data and densely between them.

        Of a stochastic problem, as many paths as it was trained with, over ``(trajectory, t)``.

        Raises
        ------
        SolverError
            If it cannot be solved.
        """
        start, end = self.problem.tspan
        low, high = min(start, end), max(start, end)
        inside = np.clip(np.asarray(self.data["t"].values, dtype=np.float64), low, high)
        count = _FRAMES if self.problem.system.model.fields else _CURVE_POINTS
        times = np.union1d(np.linspace(start, end, count), inside)
        if self.problem.system.model.kind == "sde":
            return solve_ensemble(self.problem, saveat=times, dt=(end - start) / _SDE_STEPS, **self.options)
        return solve(self.problem, saveat=times if end > start else times[::-1], **self.options)

    def __repr__(self) -> str:
        n = self.history.sizes["epoch"]
        lines = [f"Training of {self.problem.system.name}: {self.message}"]
        if n:
            h = self.history
            seconds, first, last = (float(v) for v in (h["seconds"][-1], h["n_rhs"][0], h["n_rhs"][-1]))
            lines.append(
                f"  {n} epochs in {seconds:.3g} s; loss {float(h['loss'][0]):.4g} -> {float(h['loss'][-1]):.4g}; "
                f"evaluations {first:.4g} -> {last:.4g}"
            )
        return "\n".join(lines)
