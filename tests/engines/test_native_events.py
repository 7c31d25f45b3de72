"""Events, algebraic equations and sensitivities on the native engine."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines.base import SolveOptions
from pysciml.engines.native import NativeEngine
from pysciml.errors import SolverError, UnsupportedError

D = ps.D


def solve(problem: ps.Problem, alg: str | None = None, **options: object):
    return ps.solve(problem, alg, engine="native", **options)


def ball(end: float) -> ps.Problem:
    x, v = ps.variables("x v")
    g, e = ps.parameters("g e")
    system = ps.System(
        [ps.Eq(D(x), v), ps.Eq(D(v), -g)],
        parameters=[g, e],
        events=[ps.Event(x, {v: -e * v}, direction="down")],
    )
    return ps.Problem(system, {x: 1, v: 0}, (0, end), {g: 9.81, e: 0.8})


def bounces(n: int) -> np.ndarray:
    first = np.sqrt(2 / 9.81)
    return first + np.concatenate([[0], np.cumsum(2 * first * 0.8 ** np.arange(1, n))])


@pytest.mark.parametrize("algorithm", [None, "Tsit5", "QNDF", "TRBDF2", "ESDIRK34"])
@pytest.mark.parametrize("saveat", [None, 0.01])
def test_a_ball_bounces_when_it_should(algorithm: str | None, saveat: float | None) -> None:
    sol = solve(ball(3), algorithm, saveat=saveat, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sol.attrs["event_times"], bounces(6), atol=1e-7)
    assert float(sol.x.min()) > -1e-6
    if saveat is None:  # both sides of every bounce
        twice = sol.t.values[:-1][np.diff(sol.t) == 0]
        np.testing.assert_allclose(twice, bounces(6), atol=1e-7)
    else:
        assert sol.t.size == 301


def test_events_that_accumulate_are_an_error_not_a_hang() -> None:
    with pytest.raises(SolverError, match="follow each other without end") as caught:
        solve(ball(6))
    partial = caught.value.partial
    assert partial is not None
    assert float(partial.t[-1]) == pytest.approx(bounces(300)[-1], abs=1e-4)
    assert float(partial.x.min()) > -1e-6


def test_a_terminal_event_ends_the_solve() -> None:
    h = ps.variables("h")
    # Beyond the event the right-hand side is not defined.
    tank = ps.System([ps.Eq(D(h), -sp.sqrt(h))], events=[ps.Event(h - 1e-3, {}, direction="down", terminal=True)])
    sol = solve(ps.Problem(tank, {h: 1}, (0, 10)), rtol=1e-8, atol=1e-10)
    assert sol.attrs["retcode"] == "Terminated"
    assert float(sol.t[-1]) == pytest.approx(2 * (1 - np.sqrt(1e-3)), abs=1e-7)


@pytest.mark.parametrize(
    ("direction", "times"), [("up", [1.5, 3.5]), ("down", [0.5, 2.5]), ("both", [0.5, 1.5, 2.5, 3.5])]
)
def test_directions(direction: str, times: list[float]) -> None:
    x = ps.variables("x")
    system = ps.System([ps.Eq(D(x), 1)], events=[ps.Event(sp.cos(sp.pi * ps.t), {x: 0}, direction=direction)])
    sol = solve(ps.Problem(system, {x: 0}, (0, 4)), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(sol.attrs["event_times"], times, atol=1e-8)
    assert float(sol.x[-1]) == pytest.approx(4 - times[-1])


def test_two_events_at_one_time_both_fire_and_output_shows_what_follows() -> None:
    x = ps.variables("x")
    k = ps.parameters("k")
    dose = ps.System([ps.Eq(D(x), -k * x)], events=[ps.Event(ps.t - 1, {x: x + 1}), ps.Event(2 * ps.t - 2, {x: 2 * x})])
    sol = solve(ps.Problem(dose, {x: 1}, (0, 2), {k: 1}), saveat=1.0, rtol=1e-9, atol=1e-9)
    after = 2 * (np.exp(-1) + 1)
    np.testing.assert_allclose(sol.x, [1, after, after * np.exp(-1)], rtol=1e-7)


def test_two_crossings_within_one_step_are_seen() -> None:
    x = ps.variables("x")
    # The solution is so smooth that a step is longer than the time below zero.
    system = ps.System([ps.Eq(D(x), -1e-3 * x)], events=[ps.Event((ps.t - 5) ** 2 - 0.09, {x: 2 * x})])
    sol = solve(ps.Problem(system, {x: 1}, (0, 10)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(sol.attrs["event_times"], [4.7, 5.3], atol=1e-8)
    assert float(sol.x[-1]) == pytest.approx(4 * np.exp(-1e-2), rel=1e-5)


def test_events_backward_in_time() -> None:
    x = ps.variables("x")
    system = ps.System([ps.Eq(D(x), 1)], events=[ps.Event(x - 1, {x: x - 3})])
    sol = solve(ps.Problem(system, {x: 2}, (0, -2)), rtol=1e-8, atol=1e-8)
    assert sol.attrs["event_times"].tolist() == pytest.approx([-1])
    assert float(sol.x[-1]) == pytest.approx(-3)


def robertson_dae(start: float = 0.0) -> ps.Problem:
    y1, y2, y3 = ps.variables("y1 y2 y3")
    system = ps.System(
        [
            ps.Eq(D(y1), -0.04 * y1 + 1e4 * y2 * y3),
            ps.Eq(D(y2), 0.04 * y1 - 1e4 * y2 * y3 - 3e7 * y2**2),
            ps.Eq(y1 + y2 + y3, 1),
        ]
    )
    return ps.Problem(system, {y1: 1, y2: 0, y3: start}, (0, 40))


@pytest.mark.parametrize("algorithm", [None, "QNDF", "ESDIRK34"])
@pytest.mark.parametrize("start", [0.0, 0.5])
def test_an_algebraic_equation_holds_from_the_start(algorithm: str | None, start: float) -> None:
    # The inconsistent start is made consistent.
    sol = solve(robertson_dae(start), algorithm, rtol=1e-8, atol=1e-12)
    assert float(sol.y3[0]) == pytest.approx(0, abs=1e-12)
    # Hairer & Wanner, Solving ODEs II, section IV.10.
    assert float(sol.y1[-1]) == pytest.approx(0.7158270687193, rel=1e-5)
    assert float(sol.y2[-1]) == pytest.approx(0.9185534764529e-5, rel=1e-5)
    assert float(np.abs(sol.y1 + sol.y2 + sol.y3 - 1).max()) < 1e-8


def test_a_nonlinear_algebraic_equation() -> None:
    x, z = ps.variables("x z")
    system = ps.System([ps.Eq(D(x), -z), ps.Eq(z**3 + z, x)])
    sol = solve(ps.Problem(system, {x: 2, z: 0.3}, (0, 1)), rtol=1e-8, atol=1e-10)
    assert float(sol.z[0]) == pytest.approx(1)
    # x' = (3z^2 + 1) z' = -z, so 3z^2/2 + log z falls by t.
    invariant = 1.5 * sol.z**2 + np.log(sol.z) + sol.t
    np.testing.assert_allclose(invariant, 1.5, atol=1e-6)


def test_a_singular_algebraic_jacobian_is_refused() -> None:
    x, z = ps.variables("x z")
    system = ps.System([ps.Eq(D(x), z), ps.Eq(x * z, 0)])
    with pytest.raises(UnsupportedError, match=r"index.*derivatives in time"):
        solve(ps.Problem(system, {x: 0, z: 0.5}, (0, 1)))


def test_algebraic_equations_without_a_solution() -> None:
    x, z = ps.variables("x z")
    system = ps.System([ps.Eq(D(x), z), ps.Eq(z**2 + 1, -(x**2))])
    with pytest.raises(SolverError, match="consistent initial values") as caught:
        solve(ps.Problem(system, {x: 1, z: 0.5}, (0, 1)))
    assert caught.value.retcode == "InitialFailure"


def test_an_explicit_method_refuses_algebraic_equations() -> None:
    with pytest.raises(UnsupportedError, match="explicit"):
        solve(robertson_dae(), "Tsit5")


@pytest.mark.parametrize("algorithm", [None, "Tsit5", "QNDF"])
@pytest.mark.parametrize("span", [(0.0, 6.0), (6.0, 0.0)])
def test_sensitivities_agree_with_differences(algorithm: str | None, span: tuple[float, float]) -> None:
    x, y = ps.variables("x y")
    a, c = ps.parameters("a c")
    model = ps.System([ps.Eq(D(x), a * x - x * y), ps.Eq(D(y), -c * y + x * y)]).model
    engine, u0, p = NativeEngine(), np.array([1.0, 1.5]), np.array([1.5, 3.0])
    times = np.linspace(*span, 7)
    found = engine.sensitivities(model, u0, p, span, algorithm, SolveOptions(1e-9, 1e-9, times))
    assert found.by_p.shape == (2, 7, 2)
    assert found.by_u0.shape == (2, 7, 2)

    def end(u: np.ndarray, q: np.ndarray) -> np.ndarray:
        return engine.solve(model, u, q, span, "Tsit5", SolveOptions(1e-12, 1e-12, times)).u

    for k in range(2):
        step = 1e-5 * np.eye(2)[k]
        by_p = (end(u0, p + step) - end(u0, p - step)) / 2e-5
        by_u0 = (end(u0 + step, p) - end(u0 - step, p)) / 2e-5
        np.testing.assert_allclose(found.by_p[:, :, k], by_p, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.by_u0[:, :, k], by_u0, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.solution.u, end(u0, p), rtol=1e-5, atol=1e-6)


def test_sensitivities_with_events_are_refused() -> None:
    problem = ball(1)
    with pytest.raises(UnsupportedError, match="events"):
        NativeEngine().sensitivities(problem.system.model, problem.u0, problem.p, (0, 1), None, SolveOptions())
