"""The test problems and their references: against published values, and pysciml against both."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.detest import DETEST
from benchmarks.problems import PROBLEMS, TestProblem
from benchmarks.reference import REQUIRED_AGREEMENT, reference, stored

ALL = (*DETEST, *PROBLEMS)
SMALL = tuple(problem for problem in ALL if problem.n < 500)
STIFF = tuple(problem for problem in PROBLEMS if problem.stiff)


def named(problem: TestProblem) -> str:
    return problem.name


@pytest.mark.parametrize("problem", ALL, ids=named)
def test_two_independent_methods_agree_on_every_reference(problem: TestProblem) -> None:
    record = stored()[problem.name]
    assert record["agreement"] <= REQUIRED_AGREEMENT
    assert tuple(record["times"]) == problem.times
    assert np.shape(record["values"]) == (problem.n, len(problem.times))


@pytest.mark.parametrize("problem", [p for p in ALL if p.published], ids=named)
def test_references_are_the_published_values(problem: TestProblem) -> None:
    for time, values in problem.published:
        record = stored()[problem.name]
        if time not in problem.times:
            record = record["far"]
        computed = np.array(record["values"])[: len(values), record["times"].index(time)]
        # The published values are double precision solutions, good to 12 digits or so.
        np.testing.assert_allclose(computed, values, rtol=2e-11, atol=2e-13 * problem.atol_factor)


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.vector_rhs is not None], ids=named)
def test_array_formulas_agree_with_the_scalar_ones(problem: TestProblem) -> None:
    y = np.array(problem.u0) + 0.1 * np.cos(np.arange(problem.n))
    assert problem.vector_rhs is not None
    scalar = np.array(problem.rhs(0.3, y, problem.p, math), dtype=float)
    np.testing.assert_allclose(problem.vector_rhs(0.3, y, problem.p, np), scalar, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("problem", SMALL, ids=named)
def test_the_graph_evaluates_the_formula(problem: TestProblem) -> None:
    built = problem.pysciml()
    assert built.system.graph.n_states == problem.n
    for time in (0.0, 1.7):
        y = np.array(problem.u0) + 0.1 * np.cos(np.arange(problem.n) + time)
        order = [problem.states.index(name) for name in built.system.model.states]
        p = np.array([problem.p[name] for name in built.system.model.parameters])
        formula = np.array(problem.rhs(time, y.tolist(), problem.p, math), dtype=float)
        evaluated = built.system.graph.evaluate("rhs", y[order], p, time)
        np.testing.assert_allclose(evaluated, formula[order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("problem", [*DETEST, *[p for p in STIFF if p.n < 500]], ids=named)
def test_the_achieved_error_is_within_twenty_tolerances(problem: TestProblem) -> None:
    import pysciml as ps

    built, expected = problem.pysciml(), reference(problem.name)
    achieved = {}
    for rtol in (1e-4, 1e-6, 1e-8):
        solution = ps.solve(built, rtol=rtol, atol=rtol * problem.atol_factor, saveat=problem.times)
        values = np.array([solution[name].values for name in problem.states])
        achieved[rtol] = problem.error(values, expected) / rtol
    assert max(achieved.values()) <= 20, achieved
