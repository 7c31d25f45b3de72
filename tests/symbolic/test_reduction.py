"""Systems from equations whose index an engine has reduced: names, what was eliminated, initial values, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines import base
from pysciml.engines.base import Engine
from pysciml.errors import EngineUnavailableError, ModelError, ProblemError, UnsupportedError
from pysciml.graph import GraphBuilder
from pysciml.graph.reduction import Reduced, Unreduced
from pysciml.symbolic.reduction import as_written
from tests.fake_engine import FakeEngine

D, Eq, t = ps.D, ps.Eq, ps.t
x, y, tension = ps.variables("x y tension")
g = ps.parameters("g")


def pendulum(**more) -> ps.System:
    return ps.System(
        [Eq(D(x, 2), -x * tension), Eq(D(y, 2), -y * tension - g), Eq(x**2 + y**2, 1)], name="pendulum", **more
    )


class ByHand(FakeEngine):
    """Knows the pendulum: x and its velocity stay differential, y and its derivatives become algebraic."""

    def index_reduced(self, unreduced: Unreduced, preferred: tuple[int, ...]) -> Reduced:
        assert preferred in ((), (0,))
        b = GraphBuilder(5, 1)
        sx, sv, sy, sw, st = (b.state(k) for k in range(5))
        rhs = [
            sv,
            b.neg(b.mul(sx, st)),
            b.sub(b.add(b.mul(sx, sx), b.mul(sy, sy)), b.one),
            b.add(b.mul(sx, sv), b.mul(sy, sw)),
            b.sub(b.add(b.mul(sv, sv), b.mul(sw, sw)), b.add(st, b.mul(sy, b.param(0)))),
        ]
        eliminated = [b.neg(b.add(b.mul(sy, st), b.param(0)))]
        graph = b.build({"rhs": rhs, "eliminated": eliminated})
        return Reduced(graph, ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)), 2, ((1, 2),))


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    engines: dict[str, Engine] = {"hand": ByHand("hand"), **base.registry()}
    monkeypatch.setattr(base, "registry", lambda: engines)


def test_equations_as_they_were_written_are_the_residuals() -> None:
    written = as_written(pendulum(observed={"speed": sp.sqrt(D(x) ** 2 + D(y) ** 2)}))
    assert written.functions == (x, y, tension)
    assert written.unreduced.places == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0))
    values = np.array([0.6, 1.5, 2.0, 0.8, -0.5, 3.0, 7.0])
    residuals = written.unreduced.graph.evaluate("residuals", values, np.array([9.81]), 0.0)
    np.testing.assert_allclose(residuals, [2.0 + 0.6 * 7, 3.0 + 0.8 * 7 + 9.81, 0.0], atol=1e-15)
    speed = written.unreduced.graph.evaluate("observed", values, np.array([9.81]), 0.0)
    np.testing.assert_allclose(speed, np.sqrt(1.5**2 + 0.5**2))


def test_dummy_derivatives_are_unknowns_and_what_was_eliminated_is_observed() -> None:
    reduced = ps.reduce_index(pendulum(observed={"energy": (D(x) ** 2 + D(y) ** 2) / 2 + g * y}), engine="hand")
    assert (reduced.name, reduced.kind, reduced.index, reduced.constraints) == ("pendulum", "dae", 1, {})
    dummy, second = reduced.states[3], next(iter(reduced.observed))
    assert reduced.states == (x, D(x), y, dummy, tension)
    assert reduced.model.states == ("x", "x_t", "y", "y_t", "tension")
    assert reduced.model.observed == ("y_tt", "energy")
    assert reduced.equations[0] == Eq(D(x, 2), -tension * x)
    assert sp.expand(reduced.equations[2].rhs - (x * D(x) + y * dummy)) == 0
    assert sp.expand(reduced.observed[second] - (-tension * y - g)) == 0
    assert sp.expand(reduced.observed[sp.Symbol("energy")] - (D(x) ** 2 / 2 + dummy**2 / 2 + g * y)) == 0
    assert reduced.attrs["y_tt"] == {"long_name": "time derivative (order 2) of y"}
    again = ps.System(reduced.equations, observed=reduced.observed)
    assert (again.index, set(again.states)) == (1, set(reduced.states))


def test_a_problem_keeps_its_numbers() -> None:
    start = {x: 0.6, y: -0.8, D(x): 0.4, D(y): 0.3, tension: 5.0}
    problem = ps.Problem(pendulum(), start, (0, 2), {g: 9.81})
    reduced = ps.reduce_index(problem, engine="hand")
    assert isinstance(reduced, ps.Problem)
    assert reduced.system.model.states == ("x", "x_t", "y", "y_t", "tension")
    np.testing.assert_array_equal(reduced.u0, [0.6, 0.4, -0.8, 0.3, 5.0])
    assert (reduced.tspan, reduced.p.tolist()) == ((0.0, 2.0), [9.81])


def test_the_reduced_system_has_the_same_solution() -> None:
    problem = ps.Problem(pendulum(), {x: 0.6, y: -0.8, D(x): 0, D(y): 0}, (0, 1), {g: 9.81})
    options = {"engine": "native", "rtol": 1e-8, "atol": 1e-9, "saveat": 0.1}
    one, other = ps.solve(problem, **options), ps.solve(ps.reduce_index(problem, engine="hand"), **options)
    for name in ("x", "y", "x_t", "y_t", "tension"):
        np.testing.assert_allclose(other[name], one[name], atol=2e-6)
    assert float(np.abs(other.x**2 + other.y**2 - 1).max()) < 1e-7


NETWORK = ps.MLP("nn", inputs=1, outputs=1, hidden=(2,), activation="tanh")
DECAY = Eq(D(x), -x)


@pytest.mark.parametrize(
    ("system", "what"),
    [
        (ps.System([Eq(D(x), -x + ps.brownian("w"))]), r"noise \(w\)"),
        (ps.System([Eq(D(x), -x.subs(t, t - 1))]), "delays"),
        (ps.System([DECAY], jumps=[ps.Jump(1, {x: 0})]), "jumps"),
        (ps.System([DECAY], events=[ps.Event(x - 1, {x: 2})]), "events"),
        (ps.System([Eq(D(x), NETWORK(x))]), r"networks \(nn\)"),
    ],
    ids=["noise", "delays", "jumps", "events", "networks"],
)
def test_what_has_no_index_to_reduce_is_refused(system: ps.System, what: str) -> None:
    with pytest.raises(
        UnsupportedError, match=rf"'model' has {what}: reduce_index takes ordinary and algebraic equations"
    ):
        ps.reduce_index(system, engine="hand")


def test_other_refusals(tmp_path) -> None:
    with pytest.raises(ProblemError, match=r"takes a pysciml.System or a pysciml.Problem, not Mul"):
        ps.reduce_index(-x)
    with pytest.raises(UnsupportedError, match="native engine reduces no index"):
        ps.reduce_index(pendulum(), engine="native")
    with pytest.raises(ProblemError, match=r"prefer has z, which is no unknown of the system \(x, y, tension\)"):
        ps.reduce_index(pendulum(), prefer=[x, "z"], engine="hand")
    with pytest.raises(ProblemError, match=r"prefer is a list of unknowns, such as \[x\], not 'x'"):
        ps.reduce_index(pendulum(), prefer="x", engine="hand")
    assert ps.reduce_index(pendulum(), prefer=["x"], engine="hand").states[:2] == (x, D(x))
    y_tt = ps.parameters("y_tt")
    named = ps.System([Eq(D(x, 2), -x * tension), Eq(D(y, 2), -y * tension - y_tt), Eq(x**2 + y**2, 1)])
    with pytest.raises(ModelError, match="y_tt is the name of the derivative of order 2 of y in the reduced system"):
        ps.reduce_index(named, engine="hand")
    pendulum().save(tmp_path / "pendulum.json")
    with pytest.raises(UnsupportedError, match="'pendulum' comes from a model file"):
        ps.reduce_index(ps.load(tmp_path / "pendulum.json"), engine="hand")


def test_without_julia_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for owner in ("JULIACALL", "JULIAPKG"):
        for what in ("EXE", "PROJECT"):
            monkeypatch.delenv(f"PYTHON_{owner}_{what}", raising=False)
    monkeypatch.setenv("PYSCIML_JULIA_HOME", str(tmp_path / "home"))
    with pytest.raises(EngineUnavailableError, match="pysciml julia setup"):
        ps.reduce_index(pendulum())
