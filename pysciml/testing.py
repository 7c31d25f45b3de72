"""Assertions for tests of models: that solvers agree, with a message that says where they do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from pysciml.comparing import read_solvers
from pysciml.errors import ProblemError, SolverError
from pysciml.hints import named_options
from pysciml.options import read_saveat
from pysciml.problem import Problem, number, require_problem
from pysciml.solve import solve

if TYPE_CHECKING:
    from pysciml.pde.manufactured import Manufactured
    from pysciml.pde.system import PDESystem

#: Solvers run with tolerances this much tighter than the agreement asked for.
_TIGHTER = 1e-2
_OUTPUTS = 10


def manufactured(system: PDESystem, exact: Mapping[Any, Any]) -> Manufactured:
    """Find the source terms for which a chosen function solves a system, to measure orders of convergence.

    Parameters
    ----------
    system : PDESystem
        Its equations and kinds of boundary conditions are kept; boundary and initial values become
        those of the chosen solution.
    exact : mapping
        Field -> expression of time and the coordinates.

    Returns
    -------
    Manufactured
        With ``sources``, the ``system`` they are added to, and ``measure(points, order, scheme)``,
        which solves on finer and finer grids and returns error and order.

    Raises
    ------
    ModelError
        If a field has no chosen solution, or one that is no function of time and space.

    Examples
    --------
    >>> made = manufactured(heat, {u: sp.exp(-ps.t)*sp.sin(3*X)})
    >>> made.measure([16, 32, 64], order=4).order
    """
    from pysciml.pde.manufactured import manufactured as make

    return make(system, exact)


@named_options()
def assert_solvers_agree(
    problem: Problem,
    rtol: float = 1e-6,
    *,
    solvers: Iterable[tuple[str, str | None]] | None = None,
    saveat: float | npt.ArrayLike | None = None,
    max_steps: int = 1_000_000,
) -> None:
    """Assert that solvers give the same solution, for regression tests of a model.

    Parameters
    ----------
    problem : Problem
        Also of fields, which are compared on the same grid.
    rtol : float
        How far two solutions may differ, relative to the largest value of each state or field. The solvers
        themselves run with a hundredth of it.
    solvers : list of (engine, algorithm), optional
        By default every available engine that supports the problem, with its own choice.
    saveat : float or array of float, optional
        Where they are compared; by default at 10 times.
    max_steps : int

    Raises
    ------
    AssertionError
        Saying which solvers differ, in which quantity, where and by how much; or which one failed.
    ProblemError, UnsupportedError, EngineUnavailableError
        As `pysciml.compare`; there must be two solvers to compare.

    Examples
    --------
    >>> def test_my_model():
    ...     assert_solvers_agree(problem, rtol=1e-6)
    """
    __tracebackhide__ = True
    require_problem(problem, "assert_solvers_agree")
    rtol = number(rtol, "rtol", "rtol")
    if not 0 < rtol < 1:
        raise ProblemError(f"rtol must be between 0 and 1, not {rtol!r}", symbol="rtol")
    chosen = read_solvers(problem, solvers)
    if len(chosen) < 2:
        names = ", ".join(engine for engine, _ in chosen)
        raise ProblemError(
            f"there is one solver ({names}) and nothing to compare it with: name two with solvers=, "
            'or install another engine (pip install "pysciml[jax]")',
            symbol="solvers",
        )
    start, end = problem.tspan
    times = read_saveat(np.linspace(start, end, _OUTPUTS + 1)[1:] if saveat is None else saveat, problem.tspan)
    found: list[tuple[str, xr.Dataset]] = []
    for engine, alg in chosen:
        label = f"{engine} {alg or 'default'}"
        try:
            solution = solve(
                problem,
                alg,
                engine=engine,
                rtol=max(rtol * _TIGHTER, 1e-13),
                atol=_absolute(problem, rtol),
                saveat=times,
                max_steps=max_steps,
            )
        except SolverError as error:
            raise AssertionError(f"{label} did not solve {problem.system.name!r}: {error}") from error
        found.append((f"{label} ({solution.attrs['algorithm']})", solution))
    reports = [
        report
        for i, (name, solution) in enumerate(found)
        for other, expected in found[:i]
        if (report := difference(other, expected, name, solution, rtol))
    ]
    if reports:
        message = f"solvers differ on {problem.system.name!r} by more than rtol={rtol:g}:\n\n" + "\n\n".join(reports)
        raise AssertionError(message)


def difference(first: str, one: xr.Dataset, second: str, other: xr.Dataset, rtol: float) -> str:
    """Where two solutions differ by more than ``rtol``, as a small table; empty where they do not."""
    if one.sizes["t"] != other.sizes["t"]:
        ends = f"{first} ends at t = {float(one.t[-1]):.9g}, {second} at t = {float(other.t[-1]):.9g}"
        return f"{ends} ({one.sizes['t']} and {other.sizes['t']} output times)"
    rows: list[tuple[float, str]] = []
    for name in one.data_vars:
        a, b = one[name].values, other[name].values
        scale = max(float(np.max(np.abs(a))), float(np.max(np.abs(b)))) or 1.0
        # Two non-finite values that are equal agree; a lone one does not.
        with np.errstate(invalid="ignore"):
            gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b) / scale)
        gap = np.where(np.isnan(gap), np.inf, gap)
        bad = (gap > rtol).reshape(len(gap), -1).any(axis=1)
        if bad.any():
            worst = tuple(map(int, np.unravel_index(np.argmax(gap), gap.shape)))
            most = ", ".join(f"{dim} = {float(one[dim][i]):.6g}" for dim, i in zip(one[name].dims, worst, strict=True))
            rows.append(
                (
                    -float(gap[worst]),
                    f"  {name!s:<12} {int(bad.sum()):>4} of {len(gap)} times, "
                    f"from t = {float(one.t[np.argmax(bad)]):.6g}; "
                    f"most at {most}: {a[worst]:.10g} and {b[worst]:.10g}, {gap[worst]:.2e} of {scale:.4g}",
                )
            )
    if not rows:
        return ""
    return f"{first} and {second}:\n" + "\n".join(text for _, text in sorted(rows)[:10])


def _absolute(problem: Problem, rtol: float) -> float:
    """An absolute tolerance below what any state, or field, that starts away from zero is compared to."""
    model = problem.system.model
    sizes = np.abs(problem.u0).reshape(len(model.states), -1).max(axis=1)
    sizes = sizes[sizes != 0]
    smallest = float(sizes.min()) if sizes.size else 1.0
    return max(rtol * _TIGHTER * min(1.0, smallest) * 1e-2, 1e-14)
