"""`steady_state`: where a system stays for ever."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import xarray as xr

from pysciml.engines.base import Array, Engine, RawSolution, SolveOptions
from pysciml.errors import ProblemError, SolverError, UnsupportedError
from pysciml.graph import Model, ops
from pysciml.hints import named_options
from pysciml.problem import Problem, number, require_problem
from pysciml.results import to_dataset
from pysciml.solve import choose_engine

ALGORITHMS: Final = {
    "SSRootfind": "Newton's method on the right-hand side, from the initial values",
    "DynamicSS": "solving in time until nothing changes any more",
}
#: Newton's method: steps, and the smallest share of one that is taken.
_ITERATIONS: Final = 200
_DAMPING: Final = 1e-8
#: Solving in time: spans, each twice as long as the one before.
_SPANS: Final = 60


@named_options()
def steady_state(
    problem: Problem,
    alg: str = "SSRootfind",
    *,
    engine: str = "auto",
    rtol: float = 1e-8,
    atol: float = 1e-10,
) -> xr.Dataset:
    """Solve for a state that does not change.

    Parameters
    ----------
    problem : Problem
        Of ordinary or differential-algebraic equations in which the time does not appear. Its ``u0`` is
        where the search begins; its ``tspan`` is the first stretch that ``"DynamicSS"`` solves.
    alg : {"SSRootfind", "DynamicSS"}
        Newton's method finds a steady state near ``u0``, be it stable or not. ``"DynamicSS"`` solves in
        time and finds the one that the solution tends to, also where quantities are conserved and there
        are many.
    engine : str, default "auto"
        Which engine solves in time, as in `solve`. Newton's method takes the exact Jacobian of the graph,
        whatever the engine.
    rtol, atol : float
        ``"SSRootfind"``: of the last correction. ``"DynamicSS"``: of the rates of change per unit of time;
        and those of the solver.

    Returns
    -------
    xarray.Dataset
        States and observed quantities, without dimensions. Attribute ``stability`` is the largest real
        part among the eigenvalues of the Jacobian, up to a thousand states: negative where small
        disturbances die out, zero where a quantity is conserved.

    Raises
    ------
    UnsupportedError
        For other kinds of systems, and for equations with the time in them.
    ProblemError
        For an option that makes no sense.
    SolverError
        If none is found; ``partial`` holds the last values tried.

    Examples
    --------
    >>> steady_state(problem).x.item()
    """
    require_problem(problem, "steady_state")
    rtol, atol = (_tolerance(name, value) for name, value in (("rtol", rtol), ("atol", atol)))
    if alg not in ALGORITHMS:
        raise UnsupportedError(f"steady_state has no algorithm {alg!r}: it has {', '.join(ALGORITHMS)}", algorithm=alg)
    model = problem.system.model
    _check(model)
    if model.constraints and alg == "SSRootfind":
        raise UnsupportedError(
            f"SSRootfind does not keep to the constraints of {model.name!r}, whose index was reduced: alg='DynamicSS' "
            "does",
            algorithm=alg,
        )
    chosen = choose_engine(model, None, engine)
    if alg == "SSRootfind":
        raw = _newton(model, problem.u0, problem.p, rtol, atol)
    else:
        raw = _in_time(chosen, problem, rtol, atol)
    solution = to_dataset(problem, raw, chosen.name).isel(t=-1, drop=True)
    if alg == "SSRootfind":
        solution.attrs["engine"] = "graph"
    if not raw.successful:
        raise SolverError(
            f"{problem.system.name}: {raw.message or raw.retcode} ({alg}, retcode {raw.retcode}; .partial holds the "
            "last values)",
            partial=solution,
            retcode=raw.retcode,
        )
    if model.differential.all() and len(model.states) <= 1000:
        solution.attrs["stability"] = float(np.linalg.eigvals(_jacobian(model, raw.u[:, -1], problem.p)).real.max())
    return solution


def _tolerance(name: str, value: Any) -> float:
    tolerance = number(value, name, name)
    if tolerance <= 0:
        raise ProblemError(f"{name} must be positive, not {tolerance:g}", symbol=name)
    return tolerance


def _check(model: Model) -> None:
    if model.fields:
        raise UnsupportedError("steady_state takes ordinary equations: a discretized PDESystem has its own, .steady()")
    if model.kind not in ("ode", "dae"):
        raise UnsupportedError(f"steady_state solves ode and dae systems, and {model.name!r} is {model.kind}")
    if ops.TIME in model.graph.used_ops(["rhs"]):
        raise UnsupportedError(
            f"the equations of {model.name!r} contain the time: there is no state in which nothing changes"
        )


def _jacobian(model: Model, u: Array, p: Array) -> Array:
    graph, rows, cols = model.graph.jacobian()
    matrix = np.zeros((u.size, u.size))
    matrix[rows, cols] = graph.evaluate("jacobian", u, p, 0.0)
    return matrix


def _newton(model: Model, u0: Array, p: Array, rtol: float, atol: float) -> RawSolution:
    """Newton's method, damped so that the residual falls, with the exact Jacobian."""
    from scipy import sparse
    from scipy.sparse.linalg import splu

    graph, rows, cols = model.graph.jacobian()
    n = u0.size
    u = np.array(u0, dtype=np.float64)
    residual = model.graph.evaluate("rhs", u, p, 0.0)
    evaluations = 1

    def ended(code: str, message: str = "") -> RawSolution:
        at = np.zeros(1)
        return RawSolution(at, u[:, None], "SSRootfind", code, message, None, count, 0, evaluations)

    count = 0
    while count < _ITERATIONS:
        count += 1
        if not np.isfinite(residual).all():
            return ended("Unstable", "the right-hand side is not finite where the search begins")
        entries = graph.evaluate("jacobian", u, p, 0.0)
        try:
            step = splu(sparse.csc_array((entries, (rows, cols)), shape=(n, n))).solve(residual)
        except RuntimeError:
            step = np.full(n, np.nan)
        if not np.isfinite(step).all():
            return ended(
                "Singular",
                "the Jacobian is singular: is a quantity conserved? Then alg='DynamicSS' finds the state with as much "
                "of it as u0",
            )
        size, damping = float(np.linalg.norm(residual)), 1.0
        while True:
            trial = u - damping * step
            new = model.graph.evaluate("rhs", trial, p, 0.0)
            evaluations += 1
            small = bool((np.abs(step) <= rtol * np.abs(u) + atol).all())
            falls = bool(np.isfinite(new).all()) and float(np.linalg.norm(new)) <= (1 - damping / 4) * size
            if falls or small or damping < _DAMPING:
                break
            damping /= 2
        if not falls and not small:
            break
        u, residual = (trial, new) if np.isfinite(new).all() else (u, residual)
        if small:
            return ended("Success")
    return ended("ConvergenceFailure", f"Newton's method found no steady state from u0 in {count} steps")


def _in_time(engine: Engine, problem: Problem, rtol: float, atol: float) -> RawSolution:
    """Solve over ever longer spans until the rates of change are small."""
    model, p = replace(problem.system.model, events=()), problem.p
    t, span = problem.tspan[0], problem.tspan[1] - problem.tspan[0]
    raw, steps = RawSolution(np.array([t]), problem.u0[:, None], "DynamicSS"), 0
    for _ in range(_SPANS):
        # The solver's own errors keep the rates from falling below its tolerances.
        finer = SolveOptions(rtol=max(rtol / 1000, 1e-13), atol=atol / 1000, saveat=np.array([t + span]))
        last, raw = raw, engine.solve(model, raw.u[:, -1], p, (t, t + span), None, finer)
        steps += max(raw.n_steps, 0)
        raw.n_steps, raw.algorithm = steps, "DynamicSS"
        if not raw.successful:
            raw.t, raw.u = last.t, last.u
            return raw
        t, span, u = t + span, 2 * span, raw.u[:, -1]
        rates = model.graph.evaluate("rhs", u, p, 0.0)[model.differential]
        if (np.abs(rates) <= rtol * np.abs(u[model.differential]) + atol).all():
            return raw
    raw.retcode, raw.message = "MaxIters", f"the state still changes at t = {t:.3g}"
    return raw
