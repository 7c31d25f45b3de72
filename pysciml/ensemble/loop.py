"""Ensembles on engines that solve one trajectory at a time: here, or in worker processes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array, Engine, SolveOptions
from pysciml.engines.batch import Batch, BatchOptions, BatchReport, RepeatableEngine
from pysciml.graph import Model

#: Less work than this, in seconds, is done in this process: starting others takes about as long.
_WORTH_STARTING: Final = 3.0
#: Seconds of work sent to a worker at a time.
_PORTION: Final = 0.5


def solve_one_by_one(
    engine: Engine,
    model: Model,
    algorithm: str | None,
    batch: Batch,
    options: BatchOptions,
    *,
    each: float | None = None,
) -> BatchReport:
    """See `pysciml.engines.batch.BatchEngine`: a loop of single solves, the same in every process.

    ``each`` is how many seconds one takes, where that is known.
    """
    first = Portion(engine, model, algorithm, batch.tspan, options.solve, batch.near)
    u, retcodes = first.solve(*batch.inputs(0, 1))  # compiles
    batch.store(0, 1, u, retcodes)
    begin, done = time.perf_counter(), 1
    while done < batch.size and (options.workers == 1 or (each is None and time.perf_counter() - begin < 0.2)):
        u, retcodes = first.solve(*batch.inputs(done, done + 1))
        batch.store(done, done + 1, u, retcodes)
        done += 1
    if done < batch.size:
        each = (time.perf_counter() - begin) / (done - 1) if each is None else each
        rest = batch.size - done
        per_trajectory = 8 * (len(model.states) + len(model.parameters) + u.shape[1] * u.shape[2])
        allowed = options.memory // (2 * options.workers * per_trajectory)
        size = max(1, min(int(_PORTION / each), rest // (2 * options.workers), allowed))
        portions = [(low, min(low + size, batch.size)) for low in range(done, batch.size, size)]
        if each * rest < _WORTH_STARTING:
            for low, high in portions:
                batch.store(low, high, *first.solve(*batch.inputs(low, high)))
        else:
            from pysciml.ensemble.workers import solve_in_workers

            first.algorithms |= solve_in_workers(engine.name, model, algorithm, batch, options, portions)
    return BatchReport(first.algorithm, first.compile_seconds, {})


class Portion:
    """Solves trajectories of one model one after the other."""

    def __init__(
        self,
        engine: Engine,
        model: Model,
        algorithm: str | None,
        tspan: tuple[float, float],
        options: SolveOptions,
        near: tuple[Array, Array] | None = None,
    ) -> None:
        self._engine, self._model, self._name = engine, model, algorithm
        self._tspan, self._near = tspan, near
        self._times = np.array([tspan[1]]) if options.saveat is None else options.saveat
        self._at_end = options.saveat is None
        self._options = replace(options, saveat=self._times, progress=False)
        self.algorithms: set[str] = set()
        self.compile_seconds = 0.0

    @property
    def algorithm(self) -> str:
        """What ran."""
        return ", ".join(sorted(self.algorithms)) or self._name or ""

    def solve(self, u0: Array, p: Array) -> tuple[Array, npt.NDArray[np.str_]]:
        """Solve for each row; the results are (count, n_t, n_states) and one return code each."""
        solved = [self._one(*row) for row in zip(u0, p, strict=True)]
        return np.stack([u for u, _ in solved]), np.array([retcode for _, retcode in solved])

    def _one(self, u0: Array, p: Array) -> tuple[Array, str]:
        times, engine = self._times, self._engine
        if self._near is not None and isinstance(engine, RepeatableEngine):
            raw = engine.solve_repeatably(self._model, u0, p, self._near, self._tspan, self._name, self._options)
        else:
            raw = engine.solve(self._model, u0, p, self._tspan, self._name, self._options)
        if raw.retcode == "Interrupted":
            raise KeyboardInterrupt
        self.algorithms.add(raw.algorithm)
        self.compile_seconds += raw.compile_seconds
        u = np.full((len(times), len(u0)), np.nan)
        if raw.successful:
            count = min(len(raw.t), len(times))
            same = raw.t[:count] == times[:count]  # a terminal event ends on a time of its own
            u[:count][same] = raw.u.T[:count][same]
            if self._at_end:
                u[-1] = raw.u[:, -1]
        return u, raw.retcode
