"""`solve_ensemble`: what the user calls."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from pysciml._version import __version__
from pysciml.engines.base import Array, Engine, registry
from pysciml.engines.batch import Batch, BatchEngine, BatchOptions, BatchReport
from pysciml.ensemble.sweep import Sweep
from pysciml.ensemble.where import Where
from pysciml.errors import ProblemError, UnsupportedError
from pysciml.hints import named_options
from pysciml.options import read_options
from pysciml.problem import Problem, number, require_problem
from pysciml.solve import SolveInterrupted, choose_engine

#: Seconds a block takes, unless told otherwise: long beside what a task costs, short beside the
#: patience of whoever watches, and little to lose with a worker.
BLOCK_SECONDS: Final = 5.0
RETRIES: Final = 3
#: What trajectories under way may take, unless told otherwise.
_MEMORY: Final = 2**29
#: Below this many seconds of work, compiling for batches costs more than it saves.
_WORTH_COMPILING: Final = 2.0
#: With fewer trajectories than this nothing is tried.
_MANY: Final = 100
#: What the native engine says it took when it found nothing stiff.
_NOT_STIFF: Final = "Tsit5"


@named_options()
def solve_ensemble(
    problem: Problem,
    alg: str | None = None,
    *,
    over: Any = None,
    trajectories: int | None = None,
    engine: str = "auto",
    rtol: float = 1e-6,
    atol: float | Mapping[Any, float] = 1e-9,
    saveat: float | npt.ArrayLike | None = None,
    dt: float | None = None,
    max_steps: int = 1_000_000,
    seed: int | None = None,
    memory: int | None = None,
    workers: int | None = None,
    progress: bool = False,
    device: str = "cpu",
    precision: str = "float64",
    executor: Any = None,
    store: Any = None,
    chunks: Any = None,
    block_seconds: float = BLOCK_SECONDS,
    block_size: int | None = None,
    retries: int = RETRIES,
) -> xr.Dataset:
    """Solve a problem for many parameters, initial values or random paths.

    Arrays broadcast as everywhere in xarray: distinct dimensions multiply, shared ones go together.
    Each trajectory is what `solve` gives for its numbers with the same engine and algorithm.

    Parameters
    ----------
    problem : Problem
    alg : str, optional
        As for `solve`.
    over : mapping, optional
        Parameter or state (symbol or name) -> ``xarray.DataArray`` of its values (for a state, its
        initial values). A plain one-dimensional array gets a dimension of its own.
    trajectories : int, optional
        How many paths of a stochastic equation, for each of the numbers in ``over``: the dimension
        ``trajectory``. Path ``i`` depends on ``seed`` and ``i`` alone, not on how the work is
        divided; path 0 is the one `solve` gives.
    engine : str, default "auto"
        ``"auto"`` tries three trajectories with the engine that `solve` would take, and takes the
        JAX engine for all where there is much to do and none of the three is stiff.
    rtol, atol, dt, max_steps, seed
        As for `solve`.
    saveat : float or array of float, optional
        As for `solve`, but None means the end alone: trajectories have no steps in common.
    memory : int, optional
        Bytes that trajectories under way may take (default 512 MiB); the result itself comes on
        top of it.
    workers : int, optional
        Threads (JAX) or processes (native); by default one for each processor core.
    progress : bool
        Show a progress line on standard error.
    device, precision
        As for `solve`. The Julia engine has ``device="cuda"`` here, in both precisions, for ordinary
        equations without events. Up to 20 states and with the methods that DiffEqGPU.jl has kernels of,
        each trajectory has its own steps, which are not counted (``max_steps``); otherwise all
        trajectories under way (``memory``) are one system of equations, whose error is that of the worst.
    executor : dask.distributed.Client, optional
        Solve on a cluster, in blocks of trajectories. ``memory`` is then for one worker's block, and
        ``workers`` the engine's threads within it (by default 1: the cluster shares out the cores).
    store : path, address or fsspec mapping, optional
        Stream to a Zarr store, whose blocks are written as they are done; what is returned is read
        from it when it is used. Anybody can watch with ``xarray.open_zarr``. The same call goes on
        where an earlier one stopped, however it was stopped; another problem is refused.
    chunks : mapping, int or "auto", optional
        Compute nothing now: the Dataset consists of Dask arrays with these chunks (dimension ->
        size), and asking for numbers solves what they need.
    block_seconds : float, default 5
        How long a block takes, by a trial of some trajectories (with ``executor`` or ``store``).
        It is smaller where ``memory`` asks for that, or where workers would have no share.
    block_size : int, optional
        Trajectories in a block; this is then not tried out.
    retries : int, default 3
        How often a block that fails is begun again (losing its worker counts half, as the fault may
        be the machine's). One that always fails is NaN, with the return code ``"Failure"`` and the
        reason in the variable ``error``; the rest goes on.

    Returns
    -------
    xarray.Dataset
        States and observed quantities over (the dimensions of ``over``, ``trajectory``, ``t``), and
        ``retcode`` over all of these but ``t``; fields have the dimensions of their grid, too. A
        trajectory that fails is NaN, the others are kept; after a terminal event a trajectory is
        NaN. The swept values are coordinates.

    Raises
    ------
    ProblemError, UnsupportedError, EngineUnavailableError
        As `solve`.
    SolverError
        On Ctrl-C, when the cluster is lost or the store can hold no more, with what was computed
        until then.

    Examples
    --------
    >>> sweep = solve_ensemble(problem, over={a: xr.DataArray(np.linspace(1, 2, 50), dims="a")}, saveat=0.1)
    >>> paths = solve_ensemble(sde_problem, trajectories=10_000, seed=0, dt=0.01, saveat=0.1)
    """
    require_problem(problem, "solve_ensemble")
    solving = read_options(
        problem.tspan,
        rtol=rtol,
        atol=atol,
        saveat=saveat,
        dt=dt,
        max_steps=max_steps,
        seed=seed,
        progress=progress,
        device=device,
        precision=precision,
        problem=problem,
    )
    result_of, sweep_of = _Result, Sweep
    if problem.system.model.fields:
        from pysciml.pde.ensemble import FieldResult, FieldSweep

        result_of, sweep_of = FieldResult, cast("type[Sweep]", FieldSweep)
        if executor is not None or store is not None or chunks is not None:
            raise UnsupportedError(
                f"{problem.system.name!r} is a partial differential equation: executor=, store= and chunks= divide "
                "ensembles of ordinary equations"
            )
    sweep = sweep_of(problem, over, trajectories)
    options = BatchOptions(
        solve=solving,
        memory=_count("memory", memory, _MEMORY),
        workers=_count("workers", workers, len(_cores()) if executor is None and chunks is None else 1),
    )
    where = _where(executor, store, chunks, block_seconds, block_size, retries)
    if where is not None:
        from pysciml.ensemble.large import solve_large

        return solve_large(
            problem, sweep, options, where, lambda name: _choose(problem, alg, name, sweep, options), engine
        )
    result = result_of(problem, sweep, solving.saveat, progress, solving.precision)
    near = None if problem.system.model.fields else (problem.u0, problem.p)
    batch = Batch(sweep.size, problem.tspan, sweep.inputs, sweep.paths, result.store, near)
    begin = time.perf_counter()
    chosen, alg = _choose(problem, alg, engine, sweep, options)
    try:
        if isinstance(chosen, BatchEngine):
            report = chosen.solve_many(problem.system.model, alg, batch, options)
        else:
            from pysciml.ensemble.loop import solve_one_by_one

            if problem.system.model.fields:  # worker processes are not sent graphs of fields
                options = replace(options, workers=1)
            report = solve_one_by_one(chosen, problem.system.model, alg, batch, options)
    except KeyboardInterrupt as interruption:
        report = BatchReport(alg or "", 0.0, {})
        partial = result.dataset(chosen.name, report, time.perf_counter() - begin)
        done = int(np.count_nonzero(partial.retcode != "Interrupted"))
        raise SolveInterrupted(
            f"{problem.system.name}: interrupted after {done} of {sweep.size} trajectories; .partial holds them",
            partial=partial,
            retcode="Interrupted",
        ) from interruption
    return result.dataset(chosen.name, report, time.perf_counter() - begin)


class _Result:
    """The arrays of the result, filled as chunks come in."""

    def __init__(
        self, problem: Problem, sweep: Sweep, saveat: Array | None, progress: bool, precision: str = "float64"
    ) -> None:
        self._problem, self._sweep, self._progress = problem, sweep, progress
        self.t = np.array([problem.tspan[1]]) if saveat is None else saveat
        self._make(precision)
        self._retcodes = np.full(sweep.size, "Interrupted", dtype="<U18")
        self._done = 0
        self._lock = threading.Lock()

    def _make(self, precision: str) -> None:
        """Make the arrays."""
        model = self._problem.system.model
        rows = len(model.states) + len(model.observed)
        self._u = np.full((rows, self._sweep.size, len(self.t)), np.nan, dtype=precision)

    def store(self, low: int, high: int, u: Array, retcodes: npt.NDArray[np.str_]) -> None:
        """See `Batch.store`."""
        fine = (retcodes == "Success") | (retcodes == "Terminated")
        self._fill(low, high, u if fine.all() else np.where(fine[:, None, None], u, np.nan))
        self._retcodes[low:high] = retcodes
        if self._progress:
            with self._lock:
                self._done += high - low
                sys.stderr.write(f"\r{self._problem.system.name}: {self._done} of {self._sweep.size} trajectories")
                sys.stderr.write("\n" if self._done == self._sweep.size else "")
                sys.stderr.flush()

    def _fill(self, low: int, high: int, u: Array) -> None:
        """Write some trajectories, shape (high - low, n_t, n_states), and what is observed of them."""
        model = self._problem.system.model
        n = len(model.states)
        self._u[:n, low:high] = np.moveaxis(u, 2, 0)
        if model.observed:
            p = self._sweep.inputs(low, high)[1]
            self._u[n:, low:high] = model.graph.evaluate(
                "observed", self._u[:n, low:high], np.ascontiguousarray(p.T)[:, :, None], self.t
            )

    def _variables(self) -> dict[str, xr.Variable]:
        """The arrays, labelled."""
        system, sweep = self._problem.system, self._sweep
        names = (*system.model.states, *system.model.observed)
        return {
            name: xr.Variable((*sweep.dims, "t"), row.reshape(*sweep.shape, -1), system.attrs.get(name))
            for name, row in zip(names, self._u, strict=True)
        }

    def _coordinates(self) -> dict[str, Any]:
        return {**self._sweep.coordinates(), "t": self.t}

    def dataset(self, engine: str, report: BatchReport, seconds: float) -> xr.Dataset:
        """What there is, labelled."""
        system, sweep = self._problem.system, self._sweep
        failed = int(np.count_nonzero((self._retcodes != "Success") & (self._retcodes != "Terminated")))
        variables: dict[str, Any] = {**self._variables()}
        variables["retcode"] = xr.Variable(sweep.dims, self._retcodes.reshape(sweep.shape))
        attrs: dict[str, Any] = {
            "engine": engine,
            "algorithm": report.algorithm,
            "n_trajectories": sweep.size,
            "n_failed": failed,
            "solve_seconds": max(0.0, seconds - report.compile_seconds),
            "compile_seconds": report.compile_seconds,
            "model": system.name,
            "pysciml_version": __version__,
            **report.extra,
        }
        return xr.Dataset(variables, coords=self._coordinates(), attrs=attrs)


def _choose(
    problem: Problem, alg: str | None, engine: str, sweep: Sweep, options: BatchOptions
) -> tuple[Engine, str | None]:
    """The engine and the algorithm; ``"auto"`` tries three trajectories to find out."""
    model = problem.system.model
    place = options.solve.device, options.solve.precision
    chosen = choose_engine(model, alg, engine, *place, ensemble=True, each=options.solve.atols is not None)
    automatic = engine == "auto" and not os.environ.get("PYSCIML_ENGINE")
    jax = registry().get("jax")
    if not automatic or isinstance(chosen, BatchEngine) or jax is None or jax.unavailable() is not None:
        return chosen, alg
    try:
        jax.check(model, alg)
        jax.check_place(model, *place, ensemble=True)
    except UnsupportedError:
        return chosen, alg
    if sweep.size < _MANY:
        return chosen, alg
    seconds = 0.0
    for which in (0, sweep.size // 2, sweep.size - 1):
        u0, p = sweep.inputs(which, which + 1)
        trial = chosen.solve(model, u0[0], p[0], problem.tspan, alg, options.solve)
        if trial.algorithm != _NOT_STIFF:
            return chosen, alg
        seconds = max(seconds, trial.solve_seconds)
    return (jax, alg) if seconds * sweep.size / options.workers > _WORTH_COMPILING else (chosen, alg)


def _where(executor: Any, store: Any, chunks: Any, block_seconds: Any, block_size: Any, retries: Any) -> Where | None:
    """The options about blocks, checked; None where there are no blocks."""
    seconds = number(block_seconds, "block_seconds", "block_seconds")
    if seconds <= 0:
        raise ProblemError(f"block_seconds must be positive, not {block_seconds!r}", symbol="block_seconds")
    if isinstance(retries, bool) or not isinstance(retries, (int, np.integer)) or retries < 0:
        raise ProblemError(f"retries must be an integer, 0 or more, not {retries!r}", symbol="retries")
    size = None if block_size is None else _count("block_size", block_size, 1)
    if executor is None and store is None and chunks is None:
        return None
    return Where(executor, store, chunks, seconds, size, int(retries))


def _count(name: str, value: Any, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ProblemError(f"{name} must be an integer, 1 or more, not {value!r}", symbol=name)
    return int(value)


def _cores() -> set[int]:
    """The processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))
