"""`compare`: the same problem with several solvers and tolerances, against one reference."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from pysciml.engines.base import Array, registry
from pysciml.errors import EngineUnavailableError, ProblemError, SolverError, UnsupportedError
from pysciml.hints import named_options
from pysciml.options import read_options
from pysciml.problem import Problem, number, require_problem
from pysciml.solve import choose_engine, solve

#: How much tighter than the tightest tolerance the reference is solved.
_TIGHTER: Final = 1e-2
#: Solvers of the reference, best first.
_REFERENCES: Final = (
    ("julia", "Vern9"),
    ("julia", "Rodas5P"),
    ("jax", "Dopri8"),
    ("native", "Tsit5"),
    ("jax", "Kvaerno5"),
    ("native", "QNDF"),
    ("jax", "QNDF"),  # of fields
)
#: An explicit method that needs more steps than this for a reference has met a stiff problem.
_MOST_EXPLICIT: Final = 200_000
_EXPLICIT: Final = ("Vern9", "Dopri8", "Tsit5")
_OUTPUTS: Final = 20


@named_options()
def compare(
    problem: Problem,
    solvers: Iterable[tuple[str, str | None]] | None = None,
    tolerances: Sequence[float] = (1e-4, 1e-6, 1e-8),
    *,
    saveat: float | npt.ArrayLike | None = None,
    reference: xr.Dataset | None = None,
    repeats: int = 3,
    max_steps: int = 1_000_000,
) -> xr.Dataset:
    """Measure error and time of several solvers: the data of a work-precision diagram.

    Parameters
    ----------
    problem : Problem
        Of ordinary equations, delay equations or fields. For fields the reference is on the same grid:
        ``error`` is that of the integration in time, without that of the discretization
        (`pysciml.testing.manufactured` measures that one).
    solvers : list of (engine, algorithm), optional
        An algorithm of None is the engine's own choice; by default that of every engine that
        supports the problem. An engine that is not installed is left empty, with a warning that
        says how to install it, so that one script serves every machine.
    tolerances : list of float
        Used as ``rtol``; ``atol`` is a hundredth of it.
    saveat : float or array of float, optional
        Where solutions are compared; by default at 20 times, the end among them.
    reference : xarray.Dataset, optional
        The solution to compare with, with the states at these times. By default one is computed
        with the tightest solver there is, and confirmed by another tolerance.
    repeats : int
        The fastest of this many runs counts. Compilation is not counted.
    max_steps : int

    Returns
    -------
    xarray.Dataset
        Over (``solver``, ``tolerance``): ``error`` (the largest over states, times and cells, relative to
        the largest value of each state or field), ``seconds``, ``n_steps``, ``n_rhs`` (-1 where the library does
        not report it) and ``retcode``; a solver that fails has NaN for its error, and one that is
        not installed the retcode ``"Unavailable"``. Coordinates ``engine`` and ``algorithm`` over
        ``solver``.

    Raises
    ------
    ProblemError, UnsupportedError, EngineUnavailableError
        Before anything is solved; the last if none of the engines is installed.
    SolverError
        If no reference can be computed.

    Examples
    --------
    >>> table = compare(problem, solvers=[("native", "Tsit5"), ("jax", "Tsit5")], tolerances=[1e-4, 1e-6])
    >>> pysciml.plot.work_precision(table)
    """
    require_problem(problem, "compare")
    if problem.system.kind == "sde":
        raise UnsupportedError("compare needs one right solution; for stochastic equations compare moments instead")
    missing: dict[str, str] = {}
    chosen = read_solvers(problem, solvers, missing)
    if all(engine in missing for engine, _ in chosen):
        raise EngineUnavailableError("; ".join(missing.values()), engine=chosen[0][0])
    for engine, reason in missing.items():
        warnings.warn(f"compare leaves the {engine} engine empty: {reason}", stacklevel=2)
    tols = [number(tolerance, "tolerances", "tolerances") for tolerance in tolerances]
    if not tols or min(tols) <= 0 or max(tols) >= 1:
        raise ProblemError(f"tolerances must be numbers between 0 and 1, not {tolerances!r}", symbol="tolerances")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ProblemError(f"repeats must be an integer, 1 or more, not {repeats!r}", symbol="repeats")
    start, end = problem.tspan
    times = read_options(
        problem.tspan,
        rtol=1e-3,
        atol=0.0,
        saveat=np.linspace(start, end, _OUTPUTS + 1)[1:] if saveat is None else saveat,
        dt=None,
        max_steps=max_steps,
        seed=None,
        progress=False,
    ).saveat
    assert times is not None
    truth = _values(problem, solve_reference(problem, times, min(tols), max_steps) if reference is None else reference)
    shape = (len(chosen), len(tols))
    error, seconds = np.full(shape, np.nan), np.full(shape, np.nan)
    n_steps, n_rhs = np.full(shape, -1), np.full(shape, -1)
    retcodes = np.full(shape, "", dtype="<U18")
    for i, (engine, alg) in enumerate(chosen):
        if engine in missing:
            retcodes[i] = "Unavailable"
            continue
        for j, tolerance in enumerate(tols):
            options: dict[str, Any] = {
                "engine": engine,
                "rtol": tolerance,
                "atol": tolerance / 100,
                "max_steps": max_steps,
            }
            try:
                found = solve(problem, alg, saveat=times, **options)  # compiles
                for _ in range(repeats):
                    begin = time.perf_counter()
                    found = solve(problem, alg, saveat=times, **options)
                    seconds[i, j] = np.fmin(seconds[i, j], time.perf_counter() - begin)
            except SolverError as failure:
                retcodes[i, j] = failure.retcode
                continue
            retcodes[i, j] = found.attrs["retcode"]
            n_steps[i, j], n_rhs[i, j] = found.attrs["n_steps"], found.attrs["n_rhs"]
            error[i, j] = relative_error(_values(problem, found), truth)
    labels = [f"{engine} {alg or 'default'}" for engine, alg in chosen]
    dims = ("solver", "tolerance")
    return xr.Dataset(
        {
            "error": (dims, error, {"long_name": "error relative to the largest value of each state"}),
            "seconds": (dims, seconds, {"long_name": "time of one solve", "units": "s"}),
            "n_steps": (dims, n_steps),
            "n_rhs": (dims, n_rhs, {"long_name": "evaluations of the right-hand side"}),
            "retcode": (dims, retcodes),
        },
        coords={
            "solver": labels,
            "engine": ("solver", [engine for engine, _ in chosen]),
            "algorithm": ("solver", [alg or "default" for _, alg in chosen]),
            "tolerance": tols,
        },
        attrs={"model": problem.system.name},
    )


def relative_error(values: Array, truth: Array) -> float:
    """The largest difference, each state relative to its largest value; arrays (n_states, n_t · cells)."""
    if values.shape != truth.shape:
        return float("nan")
    scale = np.max(np.abs(truth), axis=1, keepdims=True)
    return float(np.max(np.abs(values - truth) / np.where(scale > 0, scale, 1.0)))


def solve_reference(problem: Problem, times: Array, tightest: float, max_steps: int) -> xr.Dataset:
    """A solution much more accurate than the tightest tolerance, by the first solver that gets there.

    Two tolerances have to agree; solvers that are not installed or do not fit are passed over.

    Raises
    ------
    SolverError
        If none gets there.
    """
    wanted = max(tightest * _TIGHTER, 1e-13)
    reasons: list[str] = []
    for engine, alg in _REFERENCES:
        if engine not in registry():
            continue
        try:
            choose_engine(problem.system.model, alg, engine)
            options: dict[str, Any] = {"engine": engine, "saveat": times, "max_steps": max_steps}
            if alg in _EXPLICIT:
                options["max_steps"] = min(max_steps, _MOST_EXPLICIT)
            rough = solve(problem, alg, rtol=wanted * 10, atol=wanted / 10, **options)
            fine = solve(problem, alg, rtol=wanted, atol=wanted / 100, **options)
        except (UnsupportedError, SolverError, ImportError) as error:
            reasons.append(f"{engine} {alg}: {error}")
            continue
        except EngineUnavailableError:
            continue
        difference = relative_error(_values(problem, rough), _values(problem, fine))
        if difference <= max(tightest, 1e-11):
            return fine
        reasons.append(f"{engine} {alg}: two tolerances differ by {difference:.1e}")
    raise SolverError(
        "no solver gives a reference that is accurate enough; pass one as reference=, or looser tolerances "
        "(a chaotic problem over a long time has none):\n  " + "\n  ".join(reasons)
    )


def _values(problem: Problem, solution: xr.Dataset) -> Array:
    """The states, a row for each; those of a field in one row."""
    names = problem.system.model.states
    return np.stack([np.asarray(solution[name].values, dtype=np.float64).ravel() for name in names])


def _refuse_bare(algorithm: Any) -> None:
    """Refuse the name of an algorithm where that of an engine, or a pair, is due."""
    if not isinstance(algorithm, str) or algorithm in registry():
        return
    for name, engine in registry().items():
        if engine.unavailable() is None and algorithm in engine.algorithms():
            raise ProblemError(
                f"solvers are engines or pairs (engine, algorithm), and {algorithm!r} is an algorithm: "
                f"write {(name, algorithm)}",
                symbol="solvers",
            )


def read_solvers(problem: Problem, solvers: Any, missing: dict[str, str] | None = None) -> list[tuple[str, str | None]]:
    """The solvers, each checked to fit the problem.

    Engines that are not installed are added to ``missing`` with the reason, or raise
    `EngineUnavailableError` where that is None.
    """
    model = problem.system.model
    if solvers is None:
        found: list[tuple[str, str | None]] = []
        for name, engine in registry().items():
            if engine.unavailable() is not None:
                continue
            try:
                engine.check_fields(model)
                engine.check_constraints(model)
                engine.check(model, None)
            except UnsupportedError:
                continue
            found.append((name, None))
        if not found:
            raise UnsupportedError(f"no engine here solves {model.name!r} ({model.kind})")
        return found
    chosen: list[tuple[str, str | None]] = []
    for solver in solvers:
        _refuse_bare(solver)
        pair = (solver, None) if isinstance(solver, str) else tuple(solver)
        if len(pair) != 2:
            raise ProblemError(f"solvers are pairs (engine, algorithm), not {solver!r}", symbol="solvers")
        try:
            choose_engine(model, pair[1], pair[0])
        except EngineUnavailableError as error:
            if missing is None:
                raise
            missing[pair[0]] = str(error)
        chosen.append((pair[0], pair[1]))
    if not chosen:
        raise ProblemError("solvers is empty", symbol="solvers")
    return chosen
