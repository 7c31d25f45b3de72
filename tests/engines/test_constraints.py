"""Systems of higher index, solved: against exact solutions and independent formulations."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
import xarray as xr
from scipy.integrate import solve_ivp

import pysciml as ps
from pysciml.engines.base import registry
from pysciml.engines.native import emit
from pysciml.errors import ProblemError, UnsupportedError
from pysciml.graph.manifold import on_manifold

D, Eq, t = ps.D, ps.Eq, ps.t
x, y, z, w, tension = ps.variables("x y z w tension")
g, length = ps.parameters("g length")

PENDULUM = ps.System(
    [Eq(D(x, 2), -tension * x), Eq(D(y, 2), -tension * y - g), Eq(x**2 + y**2, length**2)],
    observed={"energy": (D(x) ** 2 + D(y) ** 2) / 2 + g * y},
    name="pendulum",
)
NUMBERS = {g: 9.81, length: 1}


def swinging(until: float, speed: float = 7.0) -> ps.Problem:
    """From the lowest point; from a speed of 6.27 on it goes full circle."""
    return ps.Problem(PENDULUM, {x: 0, y: -1, D(x): speed, D(y): 0}, (0, until), NUMBERS)


def by_angle(speed: float, times: np.ndarray) -> np.ndarray:
    """The angle and its derivative, by another program in the one coordinate that there is."""
    found = solve_ivp(
        lambda _, a: [a[1], -9.81 * np.sin(a[0])],
        (0, times[-1]),
        [0.0, speed],
        method="DOP853",
        rtol=1e-13,
        atol=1e-13,
        t_eval=times,
    )
    return found.y


@pytest.mark.parametrize("speed", [3.0, 7.0], ids=["to and fro", "full circle"])
@pytest.mark.parametrize(("engine", "alg"), [("native", "Tsit5"), ("native", "QNDF"), ("jax", "Tsit5")])
def test_a_pendulum_agrees_with_the_one_of_an_angle(engine: str, alg: str, speed: float) -> None:
    solution = ps.solve(swinging(5, speed), alg, engine=engine, rtol=1e-9, atol=1e-10, saveat=0.1)
    angle, rate = by_angle(speed, solution.t.values)
    tolerance = 1e-4 if alg == "QNDF" else 1e-6
    np.testing.assert_allclose(solution.x, np.sin(angle), atol=tolerance)
    np.testing.assert_allclose(solution.y, -np.cos(angle), atol=tolerance)
    np.testing.assert_allclose(solution.tension, rate**2 + 9.81 * np.cos(angle), atol=50 * tolerance)
    assert solution.attrs["index"] == 3
    assert "derivative in time of x**2" in solution.attrs["index_reduced"]


def test_a_hundred_turns_stay_on_the_circle_and_keep_their_energy() -> None:
    """One turn takes 4 K(m)/7 = 1.29 with m = 4 g/49; rounding is all that is left of the constraints."""
    solution = ps.solve(swinging(130), "Tsit5", engine="native", rtol=1e-8, atol=1e-9, saveat=0.05)
    assert float(np.abs(solution.x**2 + solution.y**2 - 1).max()) < 2e-15
    assert float(np.abs(solution.x * solution.x_t + solution.y * solution.y_t).max()) < 1e-14
    angle = by_angle(7.0, np.linspace(0, 130, 5))[0]
    assert angle[-1] > 2 * np.pi * 100
    minimal = ps.System([Eq(D(w, 2), -g * sp.sin(w))], observed={"energy": D(w) ** 2 / 2 - g * sp.cos(w)})
    other = ps.solve(
        ps.Problem(minimal, {w: 0, D(w): 7}, (0, 130), {g: 9.81}), "Tsit5", engine="native", rtol=1e-8, atol=1e-9
    )
    drift, least = (float(np.abs(s.energy - s.energy[0]).max()) for s in (solution, other))
    assert drift < 3 * least  # no worse than in the coordinate that needs no constraint


def test_an_index_2_system_of_ascher_and_petzold() -> None:
    """After Ascher & Petzold, SIAM J. Numer. Anal. 28 (1991) 1097: x = y = exp(t), z = -exp(t)/(2 - t)."""
    a = 50
    system = ps.System(
        [
            Eq(D(x), (a - 1 / (2 - t)) * x + (2 - t) * a * z + (3 - t) / (2 - t) * sp.exp(t)),
            Eq(D(y), (1 - a) / (t - 2) * x - y + (a - 1) * z + 2 * sp.exp(t)),
            Eq((t + 2) * x + (t**2 - 4) * y, (t**2 + t - 2) * sp.exp(t)),
        ]
    )
    assert system.index == 2
    solution = ps.solve(ps.Problem(system, {x: 1}, (0, 1)), rtol=1e-9, atol=1e-9, saveat=0.1)
    exact = np.exp(solution.t.values)
    np.testing.assert_allclose(solution.x, exact, rtol=2e-8)
    np.testing.assert_allclose(solution.y, exact, rtol=2e-8)
    np.testing.assert_allclose(solution.z, -exact / (2 - solution.t), rtol=2e-8)


def test_a_prescribed_path_of_index_5() -> None:
    """The control follows from the path by differentiation alone."""
    states = ps.variables("q:4")
    (control,) = ps.variables("control,")
    damping = sp.Rational(1, 10)
    equations = [Eq(D(states[i]), states[i + 1] + damping * sp.sin(states[i])) for i in range(3)]
    equations += [Eq(D(states[3]), control - damping * states[3] ** 2), Eq(states[0], sp.sin(t))]
    system = ps.System(equations)
    assert system.index == 5
    solution = ps.solve(ps.Problem(system, {}, (0, 20)), rtol=1e-6, atol=1e-8, saveat=0.5)
    exact = [sp.sin(t)]
    for _ in range(3):
        exact.append(sp.diff(exact[-1], t) - damping * sp.sin(exact[-1]))
    exact.append(sp.diff(exact[-1], t) + damping * exact[-1] ** 2)
    for name, value in zip(["q0", "q1", "q2", "q3", "control"], exact, strict=True):
        np.testing.assert_allclose(solution[name], sp.lambdify(t, value)(solution.t.values), atol=1e-12)


def test_a_loop_of_capacitors_and_a_source() -> None:
    """Two capacitors across a source have one degree of freedom: 3 v1' = 2 cos t + v1/5."""
    v1, v2, i1, i2 = ps.variables("v1 v2 i1 i2")
    system = ps.System([Eq(D(v1), i1), Eq(2 * D(v2), i2), Eq(v1 + v2, sp.sin(t)), Eq(i1, i2 + v1 / 5)])
    assert system.index == 2
    solution = ps.solve(ps.Problem(system, {v1: 0.5}, (0, 10)), rtol=1e-9, atol=1e-11, saveat=1.0)
    times, rate = solution.t.values, 1 / 15
    # v' = a v + b cos t: v = c exp(a t) + (b sin t - a b cos t)/(1 + a^2)
    particular = (2 / 3) * (np.sin(times) - rate * np.cos(times)) / (1 + rate**2)
    exact = (0.5 + (2 / 3) * rate / (1 + rate**2)) * np.exp(rate * times) + particular
    np.testing.assert_allclose(solution.v1, exact, rtol=1e-7)
    np.testing.assert_allclose(solution.v1 + solution.v2, np.sin(times), atol=1e-15)


def test_a_double_pendulum_agrees_with_the_one_of_two_angles() -> None:
    xa, ya, xb, yb, la, lb = ps.variables("xa ya xb yb la lb")
    system = ps.System(
        [
            Eq(D(xa, 2), -2 * la * xa - 2 * lb * (xa - xb)),
            Eq(D(ya, 2), -2 * la * ya - 2 * lb * (ya - yb) - 9.81),
            Eq(D(xb, 2), -2 * lb * (xb - xa)),
            Eq(D(yb, 2), -2 * lb * (yb - ya) - 9.81),
            Eq(xa**2 + ya**2, 1),
            Eq((xb - xa) ** 2 + (yb - ya) ** 2, 1),
        ]
    )
    assert (system.index, on_manifold(system.model).kind) == (3, "ode")
    rest = {D(s): 0 for s in (xa, ya, xb, yb)}
    problem = ps.Problem(system, {xa: 1, ya: 0, xb: 2, yb: 0, **rest}, (0, 3))
    solution = ps.solve(problem, "Tsit5", engine="native", rtol=1e-9, atol=1e-9, saveat=0.1)

    def slope(_: float, s: np.ndarray) -> list[float]:
        first, second, one, two = s
        c, turn = np.cos(first - second), np.sin(first - second)
        right = [-(two**2) * turn - 2 * 9.81 * np.sin(first), one**2 * turn - 9.81 * np.sin(second)]
        return [one, two, *np.linalg.solve([[2, c], [c, 1]], right)]

    start = [np.pi / 2, np.pi / 2, 0, 0]
    found = solve_ivp(slope, (0, 3), start, rtol=1e-12, atol=1e-12, t_eval=solution.t.values).y
    np.testing.assert_allclose(solution.xb, np.sin(found[0]) + np.sin(found[1]), atol=1e-6)
    np.testing.assert_allclose((solution.xb - solution.xa) ** 2 + (solution.yb - solution.ya) ** 2, 1, atol=1e-14)


def test_a_slider_crank_agrees_with_the_one_of_an_angle() -> None:
    """Crank, rod and slider, with two constraints for the rod; the other form from the Lagrangian in the angle."""
    crank, rod, slider, la, lb = ps.variables("crank rod slider la lb")
    # h = (cos c + 2 cos r - s, sin c + 2 sin r), inertias 1, 1/3 and mass 1/2, a torque of 1 on the crank
    system = ps.System(
        [
            Eq(D(crank, 2), 1 + la * sp.sin(crank) - lb * sp.cos(crank)),
            Eq(D(rod, 2) / 3, 2 * la * sp.sin(rod) - 2 * lb * sp.cos(rod)),
            Eq(D(slider, 2) / 2, la),
            Eq(sp.cos(crank) + 2 * sp.cos(rod), slider),
            Eq(sp.sin(crank) + 2 * sp.sin(rod), 0),
        ]
    )
    assert system.index == 3
    problem = ps.Problem(system, {crank: 0, rod: 0, D(crank): 2}, (0, 6))
    np.testing.assert_allclose(problem.u0[problem.system.model.states.index("slider")], 3, rtol=1e-12)
    solution = ps.solve(problem, "Tsit5", engine="native", rtol=1e-9, atol=1e-10, saveat=0.1)
    c, dc = sp.symbols("c dc")
    angle = -sp.asin(sp.sin(c) / 2)
    place = sp.cos(c) + 2 * sp.cos(angle)
    inertia = 1 + sp.diff(angle, c) ** 2 / 3 + sp.diff(place, c) ** 2 / 2
    second = sp.lambdify((c, dc), (1 - sp.diff(inertia, c) * dc**2 / 2) / inertia)
    found = solve_ivp(
        lambda _, s: [s[1], second(*s)],
        (0, 6),
        [0, 2],
        method="DOP853",
        rtol=1e-12,
        atol=1e-12,
        t_eval=solution.t.values,
    ).y
    assert found[0, -1] > 4 * np.pi  # the crank goes round, through both dead centres
    np.testing.assert_allclose(solution.crank, found[0], atol=1e-6)
    np.testing.assert_allclose(solution.slider, sp.lambdify(c, place)(found[0]), atol=1e-6)


def test_backward_in_time() -> None:
    forth = ps.solve(swinging(2), "Tsit5", engine="native", rtol=1e-10, atol=1e-10)
    end = {name: float(forth[name][-1]) for name in ("x", "x_t", "y", "y_t")}
    back = ps.solve(ps.Problem(PENDULUM, end, (2, 0), NUMBERS), "Tsit5", engine="native", rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose([back.x[-1], back.y[-1], back.x_t[-1]], [0, -1, 7], atol=1e-7)


@pytest.mark.parametrize("engine", ["native", "jax"])
def test_an_event_that_sets_one_velocity_leaves_the_states_on_the_constraints(engine: str) -> None:
    """A wall at x = 0.5: the velocity turns round; what sets only one component is projected."""
    wall = ps.System(
        PENDULUM.equations,
        events=[ps.Event(x - sp.Rational(1, 2), {D(x): -D(x), D(y): -D(y)}, direction="up")],
        name="wall",
    )
    problem = ps.Problem(wall, {x: 0, y: -1, D(x): 2.5, D(y): 0}, (0, 1.5), NUMBERS)
    solution = ps.solve(problem, engine=engine, rtol=1e-9, atol=1e-9, saveat=0.01)
    assert len(solution.attrs["event_times"]) >= 1
    energy = (solution.x_t**2 + solution.y_t**2) / 2 + 9.81 * solution.y
    np.testing.assert_allclose(energy, energy[0], atol=1e-6)
    assert float(solution.x.max()) <= 0.5 + 1e-9
    one = ps.System(PENDULUM.equations, events=[ps.Event(at=0.25, affect={D(x): 1.0})])
    stopped = ps.solve(
        ps.Problem(one, {x: 0.6, y: -0.8, D(x): 0, D(y): 0}, (0, 0.5), NUMBERS), engine=engine, saveat=[0.25, 0.5]
    )
    assert float(np.abs(stopped.x**2 + stopped.y**2 - 1).max()) < 1e-14
    assert float(np.abs(stopped.x * stopped.x_t + stopped.y * stopped.y_t).max()) < 1e-13


@pytest.mark.parametrize("engine", ["native", "jax"])
def test_a_sweep_starts_every_trajectory_on_its_constraints(engine: str) -> None:
    problem = ps.Problem(PENDULUM, {x: 0.6, D(x): 0.8}, (0, 1), NUMBERS)
    over = {length: xr.DataArray([1.0, 2.0], dims="length"), x: xr.DataArray([0.1, 0.6], dims="x0")}
    tight = {"engine": engine, "saveat": 0.5, "rtol": 1e-9, "atol": 1e-9}
    sweep = ps.solve_ensemble(problem, over=over, **tight)
    np.testing.assert_allclose((sweep.x**2 + sweep.y**2).transpose("t", "x0", "length")[:, 0], [[1, 4]] * 3, atol=1e-14)
    alone = ps.solve(problem.remake(p={length: 2}, u0={x: 0.1}), **tight)
    np.testing.assert_allclose(sweep.x.sel(length=2.0).isel(x0=0), alone.x, rtol=1e-6)
    full = ps.Problem(PENDULUM, {x: 0.6, y: 0.8, D(x): 0.8, D(y): -0.6}, (0, 1), NUMBERS)
    with pytest.raises(ProblemError, match=r"does not fulfil x\*\*2"):
        ps.solve_ensemble(full, over={length: [1.0, 2.0]}, engine=engine)


def test_a_fit_finds_the_length_of_a_pendulum() -> None:
    truth = ps.Problem(PENDULUM, {x: 0.6, D(x): 0.0}, (0, 1), {g: 9.81, length: 1.3})
    data = ps.solve(truth, saveat=0.1, rtol=1e-9, atol=1e-9)[["x"]]
    fit = ps.fit(truth.remake(p={length: 1.25}), data, trainable=[length], engine="native", alg="Tsit5")
    assert fit.problem.p[1] == pytest.approx(1.3, rel=1e-4)
    start = dict(zip(fit.problem.system.model.states, fit.problem.u0.tolist(), strict=True))
    assert start["x"] ** 2 + start["y"] ** 2 == pytest.approx(fit.problem.p[1] ** 2, rel=1e-9)


def test_what_cannot_keep_to_constraints_says_so() -> None:
    with pytest.raises(UnsupportedError, match="DynamicSS"):
        ps.steady_state(swinging(1), engine="native")
    with pytest.raises(UnsupportedError, match="index was reduced"):
        ps.gradient(swinging(1), x, wrt=[g])


def test_julia_source_projects() -> None:
    text = PENDULUM.to_julia()
    assert "ODEProblem(rhs!, u0, tspan, p)" in text
    assert "function projected!(out, u, p, t)" in text
    assert "# out[5] is tension" in text


def hanging_chain(n: int) -> tuple[ps.System, list[sp.Expr], list[sp.Expr]]:
    """Rods of length one that hang on each other, and the coordinates of their ends, across and up."""
    across, up = [sp.Integer(0), *ps.variables(f"X:{n}")], [sp.Integer(0), *ps.variables(f"Y:{n}")]
    places = list(zip(across, up, strict=True))
    pulls = [*ps.variables(f"L:{n}"), sp.Integer(0)]
    rods = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(places)]
    rods.append((sp.Integer(0), sp.Integer(0)))
    equations = []
    for i in range(n):
        for axis, weight in ((0, 0.0), (1, 9.81)):
            force = pulls[i + 1] * rods[i + 1][axis] - pulls[i] * rods[i][axis] - weight
            equations.append(Eq(D(places[i + 1][axis], 2), force))
        equations.append(Eq(rods[i][0] ** 2 + rods[i][1] ** 2, 1))
    energy = sum(D(v) ** 2 / 2 for v in (*across[1:], *up[1:])) + 9.81 * sum(up)
    return ps.System(equations, observed={"energy": energy}, name="chain"), across[1:], up[1:]


def test_irregular_systems_of_any_size_are_not_refused() -> None:
    chain, _, _ = hanging_chain(6)
    assert (chain.index, len(chain.constraints)) == (3, 12)
    registry()["native"].check(chain.model, None)


def test_constraints_written_as_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """As large systems are written: the energy is kept, and so is the length of the rods."""
    monkeypatch.setattr(emit, "SCALAR_OPERATIONS", 0)
    monkeypatch.setattr(emit, "IRREGULAR_OPERATIONS", 0)
    chain, across, up = hanging_chain(2)
    u0 = {v: float(k + 1) for k, v in enumerate(across)} | dict.fromkeys(up, 0.0)
    u0 |= {D(v): 0.0 for v in (*across, *up)}
    sol = ps.solve(ps.Problem(chain, u0, (0, 2)), engine="native", rtol=1e-9, atol=1e-9, saveat=0.1)
    first, second = np.hypot(sol.X0, sol.Y0), np.hypot(sol.X1 - sol.X0, sol.Y1 - sol.Y0)
    np.testing.assert_allclose([first, second], 1, rtol=1e-12)
    np.testing.assert_allclose(sol.energy, 0, atol=1e-5)
