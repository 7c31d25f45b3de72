"""Sweeps in blocks: on a cluster, streamed to a store, or computed when asked for."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import xarray as xr

from pysciml._version import __version__
from pysciml.engines.base import Engine
from pysciml.engines.batch import BatchOptions
from pysciml.ensemble.driver import ClusterLostError, Run, StoreError
from pysciml.ensemble.grid import read_chunks
from pysciml.ensemble.held import Held
from pysciml.ensemble.identity import compare, fingerprint, versions_of
from pysciml.ensemble.job import Job
from pysciml.ensemble.meter import Meter
from pysciml.ensemble.on_dask import OnDask, read_client
from pysciml.ensemble.store import Manifest, SweepStore
from pysciml.ensemble.sweep import Sweep
from pysciml.ensemble.target import Target, read_target
from pysciml.ensemble.where import Where
from pysciml.ensemble.work import Trial, choose_grid, largest_block, tried, try_out
from pysciml.errors import ProblemError, PySciMLError, SolverError
from pysciml.problem import Problem
from pysciml.solve import SolveInterrupted

logger = logging.getLogger(__name__)

#: What a trajectory is taken to need where the trial could not tell.
_UNKNOWN: Final = 0.01


#: Chooses the engine and the algorithm.
Choose = Callable[[str], tuple[Engine, str | None]]


def solve_large(
    problem: Problem, sweep: Sweep, options: BatchOptions, where: Where, choose: Choose, engine: str
) -> xr.Dataset:
    """See `pysciml.solve_ensemble`.

    Parameters
    ----------
    options : BatchOptions
        ``workers`` is for the engine inside one block.
    choose : callable
        ``choose(engine)``: the engine of that name and the algorithm, checked to fit.
    """
    if where.chunks is not None:
        return _lazily(problem, sweep, options, where, choose, engine)
    client = None if where.executor is None else read_client(where.executor)
    target = None if where.store is None else read_target(where.store)
    manifest = None if target is None else Manifest.read(target)
    if manifest is not None:
        # What was left to chance or to this machine is taken from the store.
        if options.solve.seed is None:
            options = replace(options, solve=replace(options.solve, seed=manifest.identity["seed"]))
        if engine == "auto":
            engine = manifest.identity["engine"]
    options = _with_seed(problem, options)
    chosen, alg = choose(engine)
    job = _job(problem, sweep, chosen, alg, options)
    identity = identify(problem, sweep, job)
    if manifest is not None and target is not None:
        compare(target, manifest.identity, identity, manifest.about.get("versions"), versions_of(job.engine))
    about = describe(problem, sweep, job, chosen, identity)
    meter = Meter(problem.system.name, 0, sweep.size, show=options.solve.progress)
    cluster = None if client is None else OnDask(client, job)
    try:
        try:
            run = _set_up(problem, sweep, job, where, target, manifest, identity, about, cluster, meter)
        except OSError as error:
            if target is None:
                raise
            raise ProblemError(f"store: {target} cannot be used: {error}", symbol="store") from error
        return _carry_out(run, cluster, client, about)
    finally:
        if cluster is not None:
            cluster.close()


def _set_up(
    problem: Problem,
    sweep: Sweep,
    job: Job,
    where: Where,
    target: Target | None,
    manifest: Manifest | None,
    identity: dict[str, Any],
    about: dict[str, Any],
    cluster: OnDask | None,
    meter: Meter,
) -> Run:
    """Divide the work, open the store, and see what is there already."""
    if cluster is not None:
        cluster.check(None)
    each = None
    if manifest is None:
        trial = _trial(job, cluster, meter) if where.block_size is None else None
        each = None if trial is None else trial.each
        processes = job.options.workers if cluster is None else cluster.processes()
        seconds = where.block_seconds * (processes if cluster is None else 1)
        at_once = 1 if cluster is None else processes
        grid = choose_grid(job, _UNKNOWN if each is None else each, seconds, where.block_size, at_once)
        if trial is not None:
            about |= {"algorithm": trial.algorithm, **trial.extra}
    else:
        grid, each = manifest.grid, manifest.each
    meter.blocks = len(grid)
    if target is None:
        held = Held(problem.system, sweep, grid, job.times, job.options.solve.precision)
        meter.begin(0, 0)
        return Run(job, grid, None, held, meter, where.retries, each)
    if manifest is None or not _made(target):
        if manifest is None:
            manifest = Manifest(identity, sweep.dims, grid.shape, grid.block, job.names, about, each)
        described = {name: problem.system.attrs.get(name, {}) for name in job.names}
        coordinates = xr.Dataset(coords={**sweep.coordinates(), "t": job.times})
        store = SweepStore.create(target, manifest, described, coordinates, job.options.solve.precision)
    else:
        store = SweepStore(target, manifest)
    damaged = store.check()
    if damaged:
        meter.say(f"{len(damaged)} damaged blocks of {target} will be computed again")
    if cluster is not None:
        cluster.check(target)
    missing = store.missing()
    meter.begin(len(grid) - len(missing), sweep.size - sum(map(grid.count, missing)))
    return Run(job, grid, store, None, meter, where.retries, each)


def _made(target: Target) -> bool:
    from pysciml.ensemble.arrays import is_complete

    return is_complete(target)


def _carry_out(run: Run, cluster: OnDask | None, client: Any, about: dict[str, Any]) -> xr.Dataset:
    """Do what is missing."""
    meter = run.meter
    if cluster is not None and getattr(client, "dashboard_link", None):
        meter.say(f"dashboard {client.dashboard_link}")
    try:
        if cluster is None:
            run.here()
        else:
            cluster.run(run)
    except KeyboardInterrupt as interruption:
        raise _ended(SolveInterrupted, "interrupted", run, about, retcode="Interrupted") from interruption
    except StoreError as failure:
        raise _ended(SolverError, f"results can no longer be stored: {failure}", run, about) from failure
    except ClusterLostError as loss:
        raise _ended(SolverError, str(loss), run, about, " with a new client") from loss
    summary = meter.finish()
    if run.store is None:
        assert run.held is not None
        return run.held.dataset(_attributes(run, about) | summary)
    try:
        run.store.finish(summary, run.extra)
    except Exception as error:
        raise _ended(SolverError, f"the manifest cannot be written: {error}", run, about) from error
    return run.store.dataset().assign_attrs(_timing(run) | summary)


def _ended(
    kind: type[SolverError],
    why: str,
    run: Run,
    about: dict[str, Any],
    how: str = "",
    retcode: str = "Failure",
) -> SolverError:
    """The error for a run that came to an end before its work did, with what there is."""
    if run.store is None:
        assert run.held is not None
        place, again = "memory", ""
        found = run.held.dataset(_attributes(run, about))
    else:
        place, again = str(run.store.target), f"; the same call{how} goes on from there"
        try:
            run.store.gather()
        except Exception as error:  # a full disk: the blocks' own records are there
            logger.warning("the manifest could not be brought up to date: %s", error)
        found = run.store.dataset(with_dask=False)  # Dask would ask the cluster, which may be what is lost
    meter = run.meter
    return kind(
        f"{meter.name}: {why}; {meter.done} of {meter.blocks} blocks are in {place}; .partial holds them{again}",
        partial=found,
        retcode=retcode,
    )


def _timing(run: Run) -> dict[str, Any]:
    return {
        "solve_seconds": max(0.0, run.meter.seconds - run.meter.compile_seconds),
        "compile_seconds": run.meter.compile_seconds,
    }


def _attributes(run: Run, about: dict[str, Any]) -> dict[str, Any]:
    return about | run.extra | _timing(run)


def _trial(job: Job, cluster: OnDask | None, meter: Meter) -> Trial | None:
    if cluster is not None:
        found = cluster.trial()
    else:
        try:
            found = try_out(job, {})
        except PySciMLError:
            raise
        except Exception as error:  # its block will fail too, and say so
            logger.warning("the trial block failed: %s: %s", type(error).__name__, error)
            found = None
    if found is not None:
        count = len(tried(job))
        meter.compile_seconds += found.compile_seconds
        logger.info("a trajectory takes %.3g s (tried among %d)", found.each, count)
    return found


def _lazily(
    problem: Problem, sweep: Sweep, options: BatchOptions, where: Where, choose: Choose, engine: str
) -> xr.Dataset:
    for name, value in (("executor", where.executor), ("store", where.store)):
        if value is not None:
            raise ProblemError(
                f"chunks= gives a Dataset that is computed later, by whatever Dask uses then: it goes without {name}=",
                symbol=name,
            )
    from pysciml.ensemble.lazy import lazy

    options = _with_seed(problem, options)
    chosen, alg = choose(engine)
    job = _job(problem, sweep, chosen, alg, options)
    grid = read_chunks(sweep.dims, sweep.shape, where.chunks, largest_block(job))
    about = describe(problem, sweep, job, chosen, identify(problem, sweep, job))
    return lazy(problem.system, sweep, job, grid, about)


def _job(problem: Problem, sweep: Sweep, engine: Engine, alg: str | None, options: BatchOptions) -> Job:
    quiet = replace(options, solve=replace(options.solve, progress=False))
    return Job(problem.system.model, engine.name, alg, problem.tspan, quiet, sweep.numbers)


def _with_seed(problem: Problem, options: BatchOptions) -> BatchOptions:
    """One seed for all processes, drawn here where none is given."""
    if problem.system.kind not in ("sde", "jump") or options.solve.seed is not None:
        return options
    seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> np.uint64(1))
    return replace(options, solve=replace(options.solve, seed=seed))


def identify(problem: Problem, sweep: Sweep, job: Job) -> dict[str, Any]:
    """All that the numbers of a sweep depend on, by name, as JSON has it."""
    model, solve = job.model, job.options.solve
    varied = [[v.is_state, v.name, list(map(str, v.values.dims)), fingerprint(v.values.values)] for v in sweep.varied]
    return {
        "model": model.hash,
        "variables": list(job.names),
        "parameters": list(model.parameters),
        "u0": fingerprint(problem.u0),
        "p": fingerprint(problem.p),
        "tspan": list(job.tspan),
        "over": [list(sweep.dims), list(sweep.shape), varied],
        "saveat": None if solve.saveat is None else fingerprint(solve.saveat),
        "engine": job.engine,
        "alg": job.algorithm,
        "rtol": solve.rtol,
        "atol": np.asarray(solve.absolute).tolist(),
        "dt": solve.dt,
        "max_steps": solve.max_steps,
        "seed": solve.seed,
        "device": solve.device,
        "precision": solve.precision,
    }


def describe(problem: Problem, sweep: Sweep, job: Job, engine: Engine, identity: dict[str, Any]) -> dict[str, Any]:
    """The attributes that say where the numbers come from: text, integers and floats."""
    solve = job.options.solve
    found: dict[str, Any] = {
        "engine": engine.name,
        "algorithm": job.algorithm or "",
        "n_trajectories": sweep.size,
        "model": problem.system.name,
        "model_hash": job.model.hash,
        "problem_hash": hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest(),
        "pysciml_version": __version__,
        "versions": versions_of(engine.name),
        "rtol": solve.rtol,
        "atol": np.asarray(solve.absolute).tolist(),
        "max_steps": solve.max_steps,
        "device": solve.device,
        "precision": solve.precision,
    }
    if solve.dt is not None:
        found["dt"] = solve.dt
    if solve.seed is not None:
        found["seed"] = solve.seed
    return found
