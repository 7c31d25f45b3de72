"""The problems the embedded engines are tested with, on Julia: `make test-julia`."""

from __future__ import annotations

import numpy as np
import pytest

import pysciml as ps
from benchmarks.detest import DETEST
from benchmarks.problems import PROBLEMS, TestProblem
from benchmarks.reference import reference

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("julia_engine")]


def achieved(problem: TestProblem, alg: str | None, rtol: float) -> float:
    """The error at the output times, in tolerances."""
    atol = rtol * problem.atol_factor
    solution = ps.solve(problem.pysciml(), alg, engine="julia", rtol=rtol, atol=atol, saveat=problem.times)
    values = np.array([solution[name].values for name in problem.states])
    return problem.error(values, reference(problem.name)) / rtol


def converges(problem: TestProblem, alg: str | None) -> None:
    """A local error control promises no global error: it must fall with the tolerance, to a small one."""
    errors = {rtol: rtol * achieved(problem, alg, rtol) for rtol in (1e-6, 1e-10)}
    assert errors[1e-10] < 1e-6
    assert errors[1e-10] <= errors[1e-6] or errors[1e-10] < 1e-10


@pytest.mark.parametrize("problem", [p for p in (*DETEST, *PROBLEMS) if p.n < 500], ids=lambda p: p.name)
def test_the_reference_is_reached(problem: TestProblem) -> None:
    converges(problem, "Rodas5P" if problem.stiff else "Vern9")


@pytest.mark.parametrize("problem", [p for p in (*DETEST, *PROBLEMS) if p.n < 500], ids=lambda p: p.name)
def test_the_default_algorithm_solves_it(problem: TestProblem) -> None:
    converges(problem, None)


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8])
def test_the_default_algorithm_heeds_the_tolerance_of_many_equations(rtol: float) -> None:
    """For 51 equations it switches to FBDF and back: steps with too large an error are taken again there, too."""
    (problem,) = (p for p in DETEST if p.name == "C4")
    assert achieved(problem, None, rtol) < 20
