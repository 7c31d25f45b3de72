"""Events at given times and jumps: what the words mean, what is refused, and model files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines.julia.jumps import is_pure, with_intensity
from pysciml.errors import ModelError, ProblemError, UnsupportedError

D = ps.D
t = ps.t
n, m, x, y = ps.variables("n m x y")
birth, death, dose = ps.parameters("birth death dose")
w = ps.brownian("w")


def births_and_deaths(**options) -> ps.System:
    return ps.System([], jumps=[ps.Jump(birth, {n: n + 1}), ps.Jump(death * n, {n: n - 1, m: m + 1})], **options)


def test_a_state_that_jumps_alone_change_needs_no_equation() -> None:
    system = births_and_deaths()
    assert system.kind == "jump"
    assert system.states == (n, m)
    assert set(system.parameters) == {birth, death}
    assert system.rhs == (0, 0)
    assert [system.graph.evaluate(jump.rate, [4, 1], [3, 0.5], 0)[0] for jump in system.model.jumps] == [3, 2]
    assert [jump.targets for jump in system.model.jumps] == [(0,), (0, 1)]
    assert system.graph.evaluate("jump1_values", [4, 1], [3, 0.5], 0).tolist() == [3, 2]
    assert "2 jumps" in repr(system)
    mixed = ps.System([ps.Eq(D(x), -n * x)], jumps=[ps.Jump(x, {n: 1})])
    assert mixed.states == (x, n)
    assert ps.System([ps.Eq(D(x, 2), -x)], jumps=[ps.Jump(1, {D(x): 0})]).model.jumps[0].targets == (1,)


def test_what_changes_between_jumps_is_told_from_what_does_not() -> None:
    pure = births_and_deaths()
    assert is_pure(pure.model)
    assert is_pure(births_and_deaths(events=[ps.Event(at=1, affect={n: 0})]).model)
    for system in (
        ps.System([ps.Eq(D(x), 1)], jumps=[ps.Jump(1, {n: n + 1})]),
        ps.System([], jumps=[ps.Jump(sp.sin(t) + 1, {n: n + 1})]),
        ps.System([ps.Eq(D(n), w)], jumps=[ps.Jump(1, {n: n + 1})]),
        births_and_deaths(events=[ps.Event(t - 1, terminal=True)]),
    ):
        assert system.kind == "jump"
        assert not is_pure(system.model)
    graph = with_intensity(pure.graph, pure.model)
    assert graph.n_states == 3
    np.testing.assert_array_equal(graph.evaluate("rhs", [4, 1, 9], [3, 0.5], 0), [0, 0, 5])
    entries, rows, cols = graph.jacobian()
    assert (rows.tolist(), cols.tolist()) == ([2], [0])
    assert entries.evaluate("jacobian", [4, 1, 9], [3, 0.5], 0).tolist() == [0.5]


def test_other_engines_refuse_jumps_by_name() -> None:
    problem = ps.Problem(births_and_deaths(), {n: 1, m: 0}, (0, 1), {birth: 1, death: 1})
    for engine in ("native", "jax"):
        with pytest.raises(UnsupportedError, match=r"(?s)jump.*julia"):
            ps.solve(problem, engine=engine)


BAD_JUMPS = {
    "a rate that is text": (lambda: ps.Jump("a", {n: 1}), ["rate", "'a'"]),
    "a negative rate": (lambda: ps.Jump(-3, {n: 1}), ["rate", "-3"]),
    "an imaginary rate": (lambda: ps.Jump(sp.I, {n: 1}), ["rate", "I"]),
    "no effect": (lambda: ps.Jump(1, {}), ["Jump", "nothing"]),
    "an effect that is no mapping": (lambda: ps.Jump(1, n + 1), ["Jump", "n(t) + 1"]),
    "an effect on a parameter": (lambda: ps.Jump(1, {birth: 1}), ["Jump", "birth"]),
    "an effect that is text": (lambda: ps.Jump(1, {n: "n"}), ["Jump", "'n'"]),
    "something else": (lambda: ps.System([ps.Eq(D(x), 1)], jumps=[1]), ["jump 1", "pysciml.Jump", "int"]),
    "an unknown variable": (lambda: ps.System([], jumps=[ps.Jump(y, {n: 1})]), ["jump 1 (rate y)", "y(t)"]),
    "an undeclared parameter": (
        lambda: ps.System([], parameters=[birth], jumps=[ps.Jump(death, {n: 1})]),
        ["jump 1 (rate death)", "undefined symbol death"],
    ),
    "noise in a rate": (
        lambda: ps.System([ps.Eq(D(x), w)], jumps=[ps.Jump(w, {x: 1})]),
        ["Brownian motion w", "jump 1"],
    ),
    "no equations": (lambda: ps.System([]), ["at least one equation"]),
}


@pytest.mark.parametrize("case", BAD_JUMPS)
def test_bad_jumps_are_named(case: str) -> None:
    make, words = BAD_JUMPS[case]
    with pytest.raises(ModelError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


def test_jumps_are_not_for_delays_and_algebraic_equations() -> None:
    with pytest.raises(UnsupportedError, match="jumps and delays"):
        ps.System([ps.Eq(D(x), -x.subs(t, t - 1))], jumps=[ps.Jump(1, {x: 0})])
    with pytest.raises(UnsupportedError, match="jumps and algebraic"):
        ps.System([ps.Eq(D(x), -y), ps.Eq(y, x)], jumps=[ps.Jump(1, {x: 0})])


BAD_EVENTS = {
    "neither a condition nor times": (lambda: ps.Event(affect={x: 1}), ["Event", "at="]),
    "both": (lambda: ps.Event(x - 1, {x: 1}, at=1), ["Event", "at="]),
    "no times": (lambda: ps.Event(at=[], affect={x: 1}), ["at="]),
    "text for times": (lambda: ps.Event(at="ab", affect={x: 1}), ["at=", "'ab'"]),
    "an infinite time": (lambda: ps.Event(at=[1, sp.oo], affect={x: 1}), ["at=", "oo"]),
    "not a time": (lambda: ps.Event(at=float("nan"), affect={x: 1}), ["at=", "nan"]),
    "a direction for times": (lambda: ps.Event(at=1, affect={x: 1}, direction="up"), ["direction", "cross"]),
    "a time that is a state": (
        lambda: ps.System([ps.Eq(D(x), 1)], events=[ps.Event(at=x + 1, affect={x: 1})]),
        ["event 1 (at x + 1)", "changes in time"],
    ),
    "a time that moves": (
        lambda: ps.System([ps.Eq(D(x), 1)], events=[ps.Event(at=2 * t, affect={x: 1})]),
        ["event 1 (at 2*t)", "changes in time"],
    ),
}


@pytest.mark.parametrize("case", BAD_EVENTS)
def test_bad_times_are_named(case: str) -> None:
    make, words = BAD_EVENTS[case]
    with pytest.raises(ModelError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


def test_model_files_keep_jumps_and_times(tmp_path: Path) -> None:
    events = [ps.Event(at=[1, dose, 2.5], affect={n: n + dose}), ps.Event(n > 100, terminal=True)]
    system = births_and_deaths(events=events)
    system.save(tmp_path / "model.json")
    loaded = ps.load(tmp_path / "model.json")
    assert loaded.model.hash == system.model.hash
    assert loaded.kind == "jump"
    assert [event.when for event in loaded.events] == ["times", "step"]
    assert loaded.events[0].times == (1, dose, sp.Rational(5, 2))
    assert loaded.jumps[1].affect == {n: n - 1, m: m + 1}
    text = (tmp_path / "model.json").read_text()
    for old, new in (
        ('"when": "times"', '"when": "chance"'),
        ('"jumps": [{"targets": [0]}', '"jumps": [{"targets": [7]}'),
    ):
        assert old in text
        (tmp_path / "bad.json").write_text(text.replace(old, new, 1))
        with pytest.raises(ModelError):
            ps.load(tmp_path / "bad.json")


# -- events at given times on the embedded engines

DOSES = ps.System([ps.Eq(D(x), -x)], events=[ps.Event(at=[0, 1, dose], affect={x: x + 1})])
ENGINES = [("native", None), ("native", "Tsit5"), ("native", "QNDF"), ("jax", "Tsit5")]


def exact(times: np.ndarray, doses: tuple[float, ...]) -> np.ndarray:
    return sum((np.where(times >= at, np.exp(np.minimum(at - times, 0)), 0) for at in doses), np.zeros(len(times)))


@pytest.mark.parametrize(("engine", "alg"), ENGINES)
def test_doses_at_given_times(engine: str, alg: str | None) -> None:
    problem = ps.Problem(DOSES, {x: 0}, (0, 3), {dose: 2.5})
    times = np.linspace(0, 3, 13)
    sol = ps.solve(problem, alg, engine=engine, rtol=1e-9, atol=1e-9, saveat=times)
    np.testing.assert_array_equal(sol.t, times)
    np.testing.assert_allclose(sol.x, exact(times, (0, 1, 2.5)), rtol=1e-6)
    np.testing.assert_array_equal(sol.attrs["event_times"], [0, 1, 2.5])
    own = ps.solve(problem, alg, engine=engine, rtol=1e-9, atol=1e-9)
    assert np.count_nonzero(np.diff(own.t) == 0) == 2  # both sides of those inside
    late = ps.solve(problem.remake(p={dose: 3.0}), alg, engine=engine, rtol=1e-9, atol=1e-9, saveat=[1.5, 3.0])
    np.testing.assert_allclose(late.x, exact(late.t.values, (0, 1, 3.0)), rtol=1e-6)
    early = ps.solve(problem, alg, engine=engine, rtol=1e-9, atol=1e-9, saveat=[0.5, 2.75])
    np.testing.assert_array_equal(early.t, [0.5, 2.75])
    back = ps.solve(problem.remake(tspan=(3, 0.5), u0={x: 1}), alg, engine=engine, rtol=1e-9, atol=1e-9, saveat=[0.5])
    grown = ((np.exp(0.5) + 1) * np.exp(1.5) + 1) * np.exp(0.5)
    assert back.x.item() == pytest.approx(grown, rel=1e-6)


def test_times_and_crossings_go_together() -> None:
    h, v = ps.variables("h v")
    bounce = ps.Event(h, {v: -0.8 * v}, direction="down")
    stop = ps.Event(at=1.1, terminal=True)
    kick = ps.Event(at=0.2, affect={v: v + 1})
    system = ps.System([ps.Eq(D(h), v), ps.Eq(D(v), -9.81)], events=[stop, bounce, kick])
    sol = ps.solve(ps.Problem(system, {h: 1, v: 0}, (0, 9)), engine="native", rtol=1e-9, atol=1e-9, saveat=0.5)
    assert sol.attrs["retcode"] == "Terminated"
    assert sol.t[-1].item() == 1.1
    assert sol.attrs["event_numbers"].tolist() == [2, 1, 0]
    landing = (1 + np.sqrt(1 + 2 * 9.81 * (1 - 0.2))) / 9.81  # 1 - 9.81 t**2/2 + (t - 0.2) = 0
    assert sol.attrs["event_times"][1] == pytest.approx(landing, rel=1e-7)


def test_algebraic_states_follow_an_event_at_a_given_time() -> None:
    system = ps.System([ps.Eq(D(x), -y), ps.Eq(y, 2 * x)], events=[ps.Event(at=1, affect={x: 5})])
    sol = ps.solve(ps.Problem(system, {x: 1}, (0, 1.5)), engine="native", saveat=[0.5, 1.0, 1.5], rtol=1e-8)
    np.testing.assert_allclose(sol.y, 2 * sol.x, rtol=1e-6)
    assert sol.x[1].item() == pytest.approx(5)
    with pytest.raises(UnsupportedError, match="event 1 sets states at t = 1, where the solve ends"):
        ps.solve(ps.Problem(system, {x: 1}, (0, 1)), engine="native")


def test_ensembles_with_doses() -> None:
    problem = ps.Problem(DOSES, {x: 0}, (0, 3), {dose: 2.5})
    sweep = ps.solve_ensemble(
        problem, "Tsit5", over={dose: [0.5, 2.5, 7]}, engine="native", rtol=1e-9, atol=1e-9, saveat=[3.0]
    )
    both = np.exp(-3) + np.exp(-2)
    np.testing.assert_allclose(sweep.x.isel(t=-1), [both + np.exp(-2.5), both + np.exp(-0.5), both], rtol=1e-6)
    with pytest.raises(UnsupportedError, match="single solves with the jax engine"):
        ps.solve_ensemble(problem, "Tsit5", over={dose: [0.5, 2.5]}, engine="jax")


def test_a_failure_keeps_what_was_computed_before_it() -> None:
    system = ps.System([ps.Eq(D(x), x**2)], events=[ps.Event(at=0.5, affect={x: 2 * x})])
    with pytest.raises(ps.SolverError) as caught:
        ps.solve(ps.Problem(system, {x: 1}, (0, 2)), engine="native")
    partial = caught.value.partial
    assert partial is not None
    assert partial.t[0].item() == 0
    assert 0.5 < partial.t[-1].item() <= 0.76
    ends = ps.System([ps.Eq(D(x), -x)], events=[ps.Event(at=0, terminal=True)])
    with pytest.raises(ps.SolverError, match="event 1 ends the solve where it starts"):
        ps.solve(ps.Problem(ends, {x: 1}, (0, 2)), engine="native")


def test_conditions_of_each_step_are_refused_by_name() -> None:
    system = ps.System([ps.Eq(D(x), 1)], events=[ps.Event(x > 0.5, {x: 0})])
    problem = ps.Problem(system, {x: 0}, (0, 1))
    for engine in ("native", "jax"):
        with pytest.raises(UnsupportedError, match=f"the {engine} engine.*each step.*julia"):
            ps.solve(problem, engine=engine)


def test_bad_numbers_for_jumps_are_named() -> None:
    from pysciml.engines.julia.jumps import check_rates

    model = births_and_deaths().model
    check_rates(model, np.array([1.0, 0.0]), np.array([1.0, 1.0]), (0, 1))
    with pytest.raises(ProblemError, match="the rate of jump 2 is -3"):
        check_rates(model, np.array([3.0, 0.0]), np.array([1.0, -1.0]), (0, 1))
    with pytest.raises(ProblemError, match="forward in time"):
        check_rates(model, np.array([1.0, 0.0]), np.array([1.0, 1.0]), (1, 0))


def test_the_source_for_julia_has_jumps_and_times() -> None:
    events = [ps.Event(at=[1, dose], affect={n: n + dose}), ps.Event(n > 100, terminal=True)]
    source = births_and_deaths(events=events).to_julia()
    for line in (
        "using JumpProcesses",
        "    VariableRateJump(rate1, affect_jump1!),",
        "PresetTimeCallback(times1(p), affect1!)",
        "    return height != 0",
        "DiscreteCallback(condition2, affect2!)",
    ):
        assert line in source
