"""Solving on the native engine: accuracy, output, limits, failures, compiling once."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines.native import NativeEngine
from pysciml.engines.native import compile as compiling
from pysciml.errors import SolverError, UnsupportedError

D = ps.D
ALGORITHMS = ("Tsit5", "QNDF", "TRBDF2", "ESDIRK34")


def oscillator(tspan: tuple[float, float] = (0, 10)) -> ps.Problem:
    x, v = ps.variables("x v")
    w = ps.parameters("w")
    return ps.Problem(ps.System([ps.Eq(D(x), v), ps.Eq(D(v), -(w**2) * x)]), {x: 1, v: 0}, tspan, {w: 2})


def solve(problem: ps.Problem, alg: str | None = None, **options: object):
    return ps.solve(problem, alg, engine="native", **options)


@pytest.mark.parametrize(("algorithm", "order"), [("Tsit5", 5), ("TRBDF2", 2), ("ESDIRK34", 3)])
def test_one_step_methods_have_their_order(algorithm: str, order: int) -> None:
    coarse, fine = (solve(oscillator(), algorithm, rtol=tol, atol=tol) for tol in (1e-6, 1e-9))
    error = [float(np.abs(sol.x - np.cos(2 * sol.t)).max()) for sol in (coarse, fine)]
    found = np.log(error[0] / error[1]) / np.log(fine.attrs["n_steps"] / coarse.attrs["n_steps"])
    assert coarse.attrs["algorithm"] == algorithm
    assert abs(found - order) < 0.5


def test_the_multistep_method_converges_with_the_tolerance() -> None:
    errors = []
    for tolerance in (1e-4, 1e-6, 1e-8):
        sol = solve(oscillator(), "QNDF", rtol=tolerance, atol=tolerance, saveat=0.5)
        errors.append(float(np.abs(sol.x - np.cos(2 * sol.t)).max()))
    assert errors[2] < errors[1] / 10 < errors[0] / 100


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_the_default_delivers_the_accuracy_asked_for(tolerance: float) -> None:
    # Kepler's orbit of eccentricity 0.9 (DETEST D5) amplifies the error of a step a thousandfold.
    x, y, u, v = ps.variables("x y u v")
    r3 = (x**2 + y**2) ** sp.Rational(3, 2)
    orbit = ps.System([ps.Eq(D(x), u), ps.Eq(D(y), v), ps.Eq(D(u), -x / r3), ps.Eq(D(v), -y / r3)])
    start = {x: 0.1, y: 0, u: 0, v: np.sqrt(19)}
    sol = solve(ps.Problem(orbit, start, (0, 20)), rtol=tolerance, atol=tolerance)
    end = np.array([-1.295266250987574, 0.4003938963792321, -0.6775390924707566, -0.1270838154278686])
    found = np.array([float(sol[name][-1]) for name in "xyuv"])
    assert np.max(np.abs(found - end) / (1 + np.abs(end))) < 20 * tolerance


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_the_default_finds_stiffness_by_itself(tolerance: float) -> None:
    y1, y2, y3 = ps.variables("y1 y2 y3")
    fast = 3e7 * y2**2
    system = ps.System(
        [
            ps.Eq(D(y1), -0.04 * y1 + 1e4 * y2 * y3),
            ps.Eq(D(y2), 0.04 * y1 - 1e4 * y2 * y3 - fast),
            ps.Eq(D(y3), fast),
        ]
    )
    sol = solve(ps.Problem(system, {y1: 1, y2: 0, y3: 0}, (0, 40)), rtol=tolerance, atol=tolerance * 1e-2)
    assert sol.attrs["algorithm"] == "QNDF"
    # Hairer & Wanner, Solving ODEs II, section IV.10.
    end = np.array([0.7158270687193e0, 0.9185534764529e-5, 0.2841637457462e0])
    found = np.array([float(sol[name][-1]) for name in ("y1", "y2", "y3")])
    assert np.max(np.abs(found - end) / (1e-2 + np.abs(end))) < 20 * tolerance


def test_an_easy_problem_is_solved_by_the_explicit_method() -> None:
    assert solve(oscillator()).attrs["algorithm"] == "Tsit5"


@pytest.mark.parametrize("algorithm", [None, *ALGORITHMS])
def test_backward_in_time(algorithm: str | None) -> None:
    x = ps.variables("x")
    problem = ps.Problem(ps.System([ps.Eq(D(x), -2 * ps.t * x)]), {x: 1}, (1, -2))
    sol = solve(problem, algorithm, rtol=1e-8, atol=1e-8, saveat=0.5)
    assert sol.t.values.tolist() == [1, 0.5, 0, -0.5, -1, -1.5, -2]
    np.testing.assert_allclose(sol.x, np.exp(1 - sol.t**2), rtol=1e-4)
    assert (np.diff(solve(problem, algorithm).t) < 0).all()


def test_output_times_are_exactly_those_asked_for() -> None:
    times = [0.0, 0.1, 3.7, 9.99]
    sol = solve(oscillator(), saveat=times, rtol=1e-8, atol=1e-8)
    assert sol.t.values.tolist() == times
    np.testing.assert_allclose(sol.x, np.cos(2 * sol.t), atol=1e-7)
    assert float(sol.x[0]) == 1.0


def test_without_output_times_the_solver_s_steps_are_given() -> None:
    sol = solve(oscillator(), "Tsit5")
    assert sol.attrs["n_steps"] == sol.t.size - 1
    assert sol.t[0] == 0
    assert sol.t[-1] == 10
    assert len(set(np.round(np.diff(sol.t), 9).tolist())) > 3


def test_solving_again_gives_the_same_bits() -> None:
    problem = oscillator()
    first, second = solve(problem, saveat=0.1), solve(problem, saveat=0.1)
    assert np.array_equal(first.x, second.x)
    assert first.attrs["n_steps"] == second.attrs["n_steps"] > 0


def test_new_parameters_and_initial_values_do_not_compile_again(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = oscillator()
    solve(problem)

    def refuse(self: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(compiling.Prepared, "_compile", refuse)
    sol = solve(problem.remake(p={"w": 3}, u0={"x": 2}, tspan=(1, 5)), saveat=1.0, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(sol.x, 2 * np.cos(3 * (sol.t - 1)), atol=1e-6)
    assert sol.attrs["compile_seconds"] == 0


def test_the_cache_of_compiled_models_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "CACHE_SIZE", 3)
    monkeypatch.setattr(compiling, "_cache", OrderedDict())
    x = ps.variables("x")
    models = [ps.System([ps.Eq(D(x), -k * x)]).model for k in (1, 2, 3, 4)]
    prepared = [compiling.prepare(model) for model in models]
    assert compiling.prepare(models[3]) is prepared[3]
    assert compiling.prepare(models[0]) is not prepared[0]  # the least recently used went


@pytest.mark.parametrize("saveat", [None, 0.1])
def test_max_steps_stops_a_solve_and_keeps_what_there_is(saveat: float | None) -> None:
    with pytest.raises(SolverError, match="max_steps = 50") as caught:
        solve(oscillator((0, 1000)), saveat=saveat, max_steps=50)
    partial = caught.value.partial
    assert caught.value.retcode == "MaxIters"
    assert partial is not None
    assert 3 < partial.t.size < 500
    np.testing.assert_allclose(partial.x, np.cos(2 * partial.t), atol=1e-3)
    assert partial.attrs["n_steps"] == 50


@pytest.mark.parametrize(
    ("right", "start", "until"),
    [
        (lambda x: x**2, 1.0, 0.99),  # blows up at t = 1
        (lambda x: sp.exp(x), 0.0, 0.99),  # blows up at t = 1
        (lambda x: sp.sqrt(1 - x), 0.0, 1.8),  # leaves the domain at t = 2
    ],
)
@pytest.mark.parametrize("algorithm", [None, "QNDF"])
def test_a_singularity_is_an_error_with_the_solution_up_to_it(right, start, until, algorithm) -> None:
    x = ps.variables("x")
    problem = ps.Problem(ps.System([ps.Eq(D(x), right(x))]), {x: start}, (0, 5))
    with pytest.raises(SolverError) as caught:
        solve(problem, algorithm)
    partial = caught.value.partial
    assert partial is not None
    assert float(partial.t[-1]) > until
    assert np.isfinite(partial.x).all()
    assert caught.value.retcode in ("DtLessThanMin", "Unstable", "ConvergenceFailure")


def test_a_right_hand_side_that_is_not_finite_at_the_start() -> None:
    x = ps.variables("x")
    with pytest.raises(SolverError, match="not finite at the initial values"):
        solve(ps.Problem(ps.System([ps.Eq(D(x), sp.log(x))]), {x: -1}, (0, 1)))


def test_operations_the_engine_lacks_are_named() -> None:
    x = ps.variables("x")
    with pytest.raises(UnsupportedError, match="gamma"):
        solve(ps.Problem(ps.System([ps.Eq(D(x), sp.gamma(x))]), {x: 1}, (0, 1)))


def test_an_algorithm_the_engine_lacks_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"Vern9.*Tsit5"):
        solve(oscillator(), "Vern9")


def test_a_first_step_size_is_refused_rather_than_ignored() -> None:
    with pytest.raises(UnsupportedError, match="dt"):
        solve(oscillator(), dt=0.1)


def test_other_kinds_are_refused() -> None:
    x = ps.variables("x")
    noisy = ps.System([ps.Eq(D(x), -x + ps.brownian("w"))])
    with pytest.raises(UnsupportedError, match="sde"):
        NativeEngine().check(noisy.model, None)


def test_a_long_solve_is_cut_into_slices_that_join() -> None:
    # A quarter of a million steps is more than one call may take.
    problem = oscillator((0, 20_000))
    sol = solve(problem, "Tsit5", rtol=1e-6, atol=1e-6, saveat=5_000.0)
    again = solve(problem, "Tsit5", rtol=1e-6, atol=1e-6, saveat=5_000.0)
    steps = solve(problem, "Tsit5", rtol=1e-6, atol=1e-6)
    assert np.array_equal(sol.x, again.x)
    assert float(steps.x[-1]) == pytest.approx(float(sol.x[-1]), abs=1e-9)
    assert (np.diff(steps.t) > 0).all()
    assert steps.attrs["n_steps"] == sol.attrs["n_steps"] > 100_000


@pytest.mark.parametrize(("saveat", "times"), [(0.1, np.arange(14) / 10), ([1.3, 9], [1.3]), ([0, 9], [0]), ([9], [])])
@pytest.mark.parametrize("algorithm", [None, "Tsit5"])
def test_what_comes_before_a_singularity_is_kept(capfd, algorithm, saveat, times):
    # x grows without bound near t = 1.3036: steps become shorter than numbers there can tell apart
    x, y = ps.variables("x y")
    system = ps.System([ps.Eq(D(x), 0.39292012 * x + 0.796523 * x * y), ps.Eq(D(y), x * y - y)])
    problem = ps.Problem(system, {x: 1, y: 1}, (0, 10))
    with pytest.raises(ps.SolverError) as caught:
        ps.solve(problem, algorithm, engine="native", rtol=1e-8, atol=1e-10, saveat=saveat)
    partial = caught.value.partial
    np.testing.assert_allclose(partial.t, times)
    if len(times):
        before = ps.solve(problem.remake(tspan=(0, 1.3)), rtol=1e-10, atol=1e-12, saveat=partial.t.values)
        np.testing.assert_allclose(partial.x, before.x, rtol=2e-5)
    assert capfd.readouterr().err == ""


def test_the_steps_before_a_singularity_go_forward():
    x = ps.variables("x")
    with pytest.raises(ps.SolverError) as caught:
        ps.solve(ps.Problem(ps.System([ps.Eq(D(x), x**2)]), {x: 1}, (0, 10)), "Tsit5", engine="native", rtol=1e-8)
    t = caught.value.partial.t.values
    assert (np.diff(t) > 0).all()
    assert t[-1] == pytest.approx(1, abs=1e-6)
