"""`solve`: from a problem to a labelled solution, through the engine that fits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import xarray as xr

from pysciml.engines import base
from pysciml.engines.base import Engine, RawSolution
from pysciml.errors import EngineUnavailableError, ProblemError, SolverError, UnsupportedError
from pysciml.graph import Model
from pysciml.hints import named_options
from pysciml.options import read_options
from pysciml.problem import Problem, require_problem
from pysciml.results import to_dataset


class SolveInterrupted(SolverError, KeyboardInterrupt):  # noqa: N818  (named as KeyboardInterrupt is)
    """Ctrl-C during a solve; a `KeyboardInterrupt` that still holds what was computed."""


@named_options()
def solve(
    problem: Problem,
    alg: str | None = None,
    *,
    engine: str = "auto",
    rtol: float = 1e-6,
    atol: float | Mapping[Any, float] = 1e-9,
    saveat: float | npt.ArrayLike | None = None,
    dt: float | None = None,
    max_steps: int = 1_000_000,
    seed: int | None = None,
    progress: bool = False,
    device: str = "cpu",
    precision: str = "float64",
    store: Any = None,
) -> xr.Dataset:
    """Solve a problem.

    Parameters
    ----------
    problem : Problem
    alg : str, optional
        An algorithm by its SciML name (``"Tsit5"``, ``"QNDF"``, ...); by default the engine
        chooses. Nothing is ever substituted silently.
    engine : str, default "auto"
        ``"native"``, ``"jax"``, ``"julia"``, or the name of a registered one. ``"auto"`` is
        ``$PYSCIML_ENGINE`` if set, else Julia where it has been set up, else the first embedded
        engine that supports the problem.
    rtol : float
        Relative tolerance of the local error.
    atol : float or mapping
        Absolute tolerance of the local error, in the units of the states. States of different sizes
        need different ones: ``{x: 1e-6, y: 1e-14}`` (symbols or names; 1e-9 for those left out), with the
        JAX and the Julia engine.
    saveat : float or array of float, optional
        Spacing of the output times (the end of ``tspan`` is always one), or the times; by default
        the solver's own steps.
    dt : float, optional
        Step size of a fixed-step method, first step size of an adaptive one. Stochastic equations
        without ``alg`` and ``dt`` take a thousand steps where the engine's own choice of method has
        no error estimate; attribute ``dt`` of the result says how long they were.
    max_steps : int
    seed : int, optional
        For stochastic equations.
    progress : bool
        Show a progress line on standard error.
    device : str, default "cpu"
        ``"cuda"`` places the work on a GPU, with an engine that can: JAX, and Julia for partial differential
        equations, where ``alg`` must be named (an explicit method, or an implicit one with a Krylov method, such as
        ``"QNDF(linsolve=KrylovJL_GMRES)"``).
    precision : {"float64", "float32"}
        Of the arithmetic and of the result. Single precision holds some six digits (``rtol`` 1e-6
        or more) and takes half the memory; the JAX engine has it, and the Julia engine on a GPU.
    store : path, address or fsspec mapping, optional
        Write the solution to a Zarr store (``"run.zarr"``, ``"s3://..."``) as it is computed, for runs
        larger than memory; needs ``saveat`` and the extra ``[dask]``. It is solved in pieces of as many
        output times as take 32 MiB (two of them at least), each from where the one before ended, so that memory stays
        bounded by some of those however many there are. Adaptive methods begin each piece as they begin a solve:
        the solution is as accurate and not the same to the last digit. Attribute ``pieces`` counts them.
        What is returned is read from the store when it is used. Anybody can read it meanwhile (what is
        not computed yet is NaN, attribute ``retcode`` is ``"Unfinished"``). After a kill, Ctrl-C or a failure the same
        call goes on after the last piece that was written, to the numbers of an undisturbed run; nothing is
        ever overwritten, and a store that holds anything else is refused. Not with events, delays or jumps;
        with noise it needs ``dt``, and each piece has a path of its own, independent of the others.

    Returns
    -------
    xarray.Dataset
        States and observed quantities by name over ``t``, with the attributes ``engine algorithm
        retcode n_steps n_rejected n_rhs solve_seconds compile_seconds model pysciml_version`` (a
        count is -1 where the library does not report it).

    Raises
    ------
    ProblemError
        For an option that makes no sense.
    UnsupportedError
        If the engine cannot do it; the message says which can.
    EngineUnavailableError
        If the engine is not installed; the message names the command that mends it.
    SolverError
        If the end was not reached; ``partial`` holds what was computed.

    Examples
    --------
    >>> sol = solve(problem, saveat=0.1)
    >>> sol.x.plot()
    """
    require_problem(problem, "solve")
    options = read_options(
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
    each = options.atols is not None
    if store is not None:
        from pysciml.streaming import stream

        def choose(name: str) -> Engine:
            return choose_engine(problem.system.model, alg, name, device, precision, each=each)

        return stream(problem, alg, engine, options, store, choose, failure)
    chosen = choose_engine(problem.system.model, alg, engine, device, precision, each=each)
    raw = chosen.solve(problem.system.model, problem.u0, problem.p, problem.tspan, alg, options)
    return finish(problem, raw, chosen.name)


def finish(problem: Problem, raw: RawSolution, engine: str) -> xr.Dataset:
    """Label a solution, or raise `SolverError` with what there is of it."""
    dataset = to_dataset(problem, raw, engine)
    if raw.successful:
        return dataset
    raise failure(problem, raw, engine, dataset)


def failure(problem: Problem, raw: RawSolution, engine: str, partial: xr.Dataset) -> SolverError:
    """What to raise for a solve that did not reach its end, with what there is of it."""
    reached = f"t = {raw.t[-1]:.6g} of {problem.tspan[1]:g}" if raw.t.size else "nothing"
    message = (
        f"{problem.system.name}: {raw.message or raw.retcode} ({engine} engine, {raw.algorithm}; "
        f"retcode {raw.retcode}; reached {reached}; .partial holds it)"
    )
    kind = SolveInterrupted if raw.retcode == "Interrupted" else SolverError
    return kind(message, partial=partial, retcode=raw.retcode)


def choose_engine(
    model: Model,
    alg: Any,
    engine: Any,
    device: str = "cpu",
    precision: str = "float64",
    *,
    ensemble: bool = False,
    each: bool = False,
) -> Engine:
    """The engine to use, checked to support the model, the algorithm, the device and the precision.

    ``each`` asks for a tolerance of each state.

    Raises
    ------
    UnsupportedError, EngineUnavailableError, ProblemError
    """
    if alg is not None and not isinstance(alg, str):
        raise ProblemError(f"alg must be the name of an algorithm, such as 'Tsit5', not {alg!r}", symbol="alg")
    if not isinstance(engine, str):
        raise ProblemError(f"engine must be the name of an engine, not {engine!r}", symbol="engine")
    if engine == "auto":
        engine = os.environ.get("PYSCIML_ENGINE") or "auto"
    if engine != "auto":
        chosen = base.get(engine)
        chosen.check_fields(model)
        chosen.check_constraints(model)
        chosen.check(model, alg)
        chosen.check_place(model, device, precision, ensemble=ensemble)
        chosen.check_tolerances(each)
        return chosen
    refusals: list[str] = []
    order = base.automatic_order()
    if model.fields:  # compiled loops (`benchmarks.fields_native`), then array operations, compiled and not
        known = base.registry()
        order = sorted(
            order,
            key=lambda name: (
                ensemble or not known[name].compiles_fields(model, alg),
                name != "jax",
                name != "native",
            ),
        )
    for name in order:
        candidate = base.registry()[name]
        reason = candidate.unavailable()
        if reason is None:
            try:
                candidate.check_fields(model)
                candidate.check_constraints(model)
                candidate.check(model, alg)
                candidate.check_place(model, device, precision, ensemble=ensemble)
                candidate.check_tolerances(each)
            except (UnsupportedError, EngineUnavailableError) as error:
                reason = str(error)
            else:
                return candidate
        refusals.append(f"{name}: {reason}")
    refusals += _not_ready(model, alg, device, ensemble)
    raise UnsupportedError(
        f"no engine here solves {model.name!r} ({model.kind}{'' if alg is None else f', {alg}'}):\n  "
        + "\n  ".join(refusals),
        algorithm=alg,
    )


def _not_ready(model: Model, alg: str | None, device: str, ensemble: bool) -> list[str]:
    """What to say of engines that could solve a model, were they installed."""
    found: list[str] = []
    for name in sorted(set(base.registry()) - set(base.automatic_order())):
        candidate = base.registry()[name]
        reason = candidate.unavailable()
        if reason is not None and device in candidate.devices_for(model, ensemble=ensemble):
            with contextlib.suppress(UnsupportedError, EngineUnavailableError):
                candidate.check(model, alg)
                known = alg is None or alg.partition("(")[0] in candidate.algorithms()
                what = "solves it, but is not ready" if known else f"is not ready to be asked whether it has {alg}"
                found.append(f"{name}: {what}. {reason}")
    return found
