"""The assertion that solvers agree: it passes where they do, and says where they do not."""

import numpy as np
import pytest
import xarray as xr

import pysciml as ps
from pysciml import testing

D = ps.D
x, y = ps.variables("x y")
(k,) = ps.parameters("k,")


@pytest.fixture(autouse=True)
def _cache(monkeypatch):
    monkeypatch.setenv("PYSCIML_CACHE_DIR", "")


@pytest.fixture(scope="module")
def problem():
    system = ps.System([ps.Eq(D(x), -k * x + y), ps.Eq(D(y), -y)], name="cascade")
    return ps.Problem(system, {x: 0.0, y: 1.0}, (0, 4), {k: 2.0})


def test_engines_that_agree_pass(problem):
    testing.assert_solvers_agree(problem, rtol=1e-6, solvers=[("native", "Tsit5"), ("jax", "Tsit5")])


def test_the_message_says_who_differs_where_and_by_how_much(problem, monkeypatch):
    def crooked(problem, alg, *, engine, **options):
        times = np.arange(5.0)
        sol = xr.Dataset({"x": ("t", np.ones(5)), "y": ("t", np.arange(5.0))}, {"t": times}, {"algorithm": alg})
        if engine == "jax":
            sol["x"][3] += 1e-3
            sol["x"][2] += 1e-5
        return sol

    monkeypatch.setattr(testing, "solve", crooked)
    with pytest.raises(AssertionError) as caught:
        testing.assert_solvers_agree(problem, solvers=[("native", "Tsit5"), ("jax", "DP5")])
    message = str(caught.value)
    assert "solvers differ on 'cascade' by more than rtol=1e-06" in message
    assert "native Tsit5 (Tsit5) and jax DP5 (DP5)" in message
    assert "x               2 of 5 times, from t = 2; most at t = 3: 1 and 1.001, 9.99e-04 of 1.001" in message
    assert "\n  y " not in message


def test_a_solver_that_fails_fails_the_assertion():
    bad = ps.Problem(ps.System([ps.Eq(D(x), x**2)], name="blowup"), {x: 1.0}, (0, 2))
    with pytest.raises(AssertionError, match="jax BS3 did not solve 'blowup'"):
        testing.assert_solvers_agree(bad, solvers=[("jax", "BS3"), ("jax", "Tsit5")])


def test_different_ends_and_lone_nans_are_differences():
    one = xr.Dataset({"x": ("t", [1.0, np.nan, np.nan])}, {"t": [0.0, 1.0, 2.0]})
    other = xr.Dataset({"x": ("t", [1.0, 2.0, np.nan])}, {"t": [0.0, 1.0, 2.0]})
    assert "1 of 3 times, from t = 1" in testing.difference("a", one, "b", other, 1e-6)
    assert "a ends at t = 2, b at t = 1" in testing.difference("a", one, "b", other.isel(t=slice(2)), 1e-6)


def test_bad_requests_are_refused(problem):
    with pytest.raises(ps.ProblemError, match="nothing to compare it with"):
        testing.assert_solvers_agree(problem, solvers=[("native", "Tsit5")])
    with pytest.raises(ps.ProblemError, match="rtol must be between"):
        testing.assert_solvers_agree(problem, rtol=2.0)
