"""Index reduction by ModelingToolkit.jl: against this package's own, exact solutions and independent formulations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sympy as sp
import xarray as xr
from scipy.integrate import solve_ivp

import pysciml as ps
from pysciml.engines.julia import environment
from pysciml.errors import EngineUnavailableError, UnsupportedError

D, Eq, t = ps.D, ps.Eq, ps.t
x, y, z, tension = ps.variables("x y z tension")
g = ps.parameters("g")

PENDULUM = ps.System(
    [Eq(D(x, 2), -tension * x), Eq(D(y, 2), -tension * y - g), Eq(x**2 + y**2, 1)],
    observed={"energy": (D(x) ** 2 + D(y) ** 2) / 2 + g * y},
    name="pendulum",
)


def with_modelingtoolkit(test):
    return pytest.mark.julia(pytest.mark.usefixtures("modelingtoolkit")(test))


def released(angle: float, until: float) -> ps.Problem:
    """At rest, so many radians from the lowest point."""
    return ps.Problem(PENDULUM, {x: np.sin(angle), y: -np.cos(angle), D(x): 0, D(y): 0}, (0, until), {g: 9.81})


def values_of(solution: xr.Dataset, *names: str) -> np.ndarray:
    return np.array([solution[name] for name in names])


def test_without_modelingtoolkit_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pysciml.engines.julia.reducing import index_reduced
    from pysciml.symbolic.reduction import as_written

    missing = "the Julia package ModelingToolkit is not installed: run `pysciml julia setup --modelingtoolkit`"
    monkeypatch.setattr(environment, "lacks", lambda package, option: missing if option == "modelingtoolkit" else "")
    with pytest.raises(
        EngineUnavailableError, match="reduce_index: the Julia package ModelingToolkit is not installed"
    ):
        index_reduced(as_written(PENDULUM).unreduced)


@with_modelingtoolkit
@pytest.mark.parametrize("engine", ["native", "julia"])
def test_a_pendulum_agrees_with_the_one_of_an_angle_and_with_the_other_reduction(engine: str) -> None:
    problem = released(0.5, 4)
    reduced = ps.reduce_index(problem, prefer=[x])
    assert (problem.system.index, reduced.system.index, reduced.system.kind) == (3, 1, "dae")
    assert reduced.system.states[:2] == (x, D(x))  # a position and its velocity are all that is free
    assert int(reduced.system.model.differential.sum()) == 2
    options = {"engine": engine, "rtol": 1e-9, "atol": 1e-10, "saveat": 0.1}
    one, other = ps.solve(problem, **options), ps.solve(reduced, **options)
    names = ("x", "y", "x_t", "y_t", "tension", "energy")
    np.testing.assert_allclose(values_of(other, *names), values_of(one, *names), atol=1e-5)
    angle = solve_ivp(
        lambda _, a: [a[1], -9.81 * np.sin(a[0])], (0, 4), [0.5, 0], rtol=1e-12, atol=1e-12, t_eval=other.t
    ).y[0]
    np.testing.assert_allclose(other.x, np.sin(angle), atol=1e-6)
    np.testing.assert_allclose(other.y, -np.cos(angle), atol=1e-6)
    # Constraints and their derivatives are among the equations that are solved.
    assert float(np.abs(other.x**2 + other.y**2 - 1).max()) < 1e-8
    assert float(np.abs(other.x * other.x_t + other.y * other.y_t).max()) < 1e-8


@with_modelingtoolkit
def test_other_states_are_preferred() -> None:
    states = {ps.reduce_index(PENDULUM, prefer=[unknown]).states[:2] for unknown in (x, "y")}
    assert states == {(x, D(x)), (y, D(y))}


@with_modelingtoolkit
def test_an_index_2_system_of_ascher_and_petzold() -> None:
    """After Ascher & Petzold, SIAM J. Numer. Anal. 28 (1991) 1097: x = y = exp(t), z = -exp(t)/(2 - t)."""
    system = ps.System(
        [
            Eq(D(x), (50 - 1 / (2 - t)) * x + (2 - t) * 50 * z + sp.exp(t) * (3 - t) / (2 - t)),
            Eq(D(y), (1 - 50) / (t - 2) * x - y + (50 - 1) * z + 2 * sp.exp(t)),
            Eq((t + 2) * x + (t**2 - 4) * y, (t**2 + t - 2) * sp.exp(t)),
        ],
        name="ascher_petzold",
    )
    problem = ps.Problem(system, {x: 1, y: 1}, (0, 1))
    reduced = ps.reduce_index(problem)
    assert (system.index, reduced.system.index) == (2, 1)
    assert int(reduced.system.model.differential.sum()) == 1
    solution = ps.solve(reduced, engine="native", rtol=1e-8, atol=1e-9, saveat=0.1)
    exact = np.exp(solution.t)
    np.testing.assert_allclose(values_of(solution, "x", "y"), [exact, exact], rtol=1e-6)
    np.testing.assert_allclose(solution.z, -exact / (2 - solution.t), rtol=1e-5)


@with_modelingtoolkit
def test_a_loop_of_capacitors_and_a_source() -> None:
    """A source over two capacitors in series, one with a resistor beside: index 2 in the current of the source.

    With v1 + v2 = sin t and C1 = C2 = R = 1: 2 v2' = cos t - v2, and i = v1'.
    """
    v1, v2, i = ps.variables("v1 v2 i")
    C, R = ps.parameters("C R")
    circuit = ps.System([Eq(C * D(v1), i), Eq(C * D(v2), i - v2 / R), Eq(v1 + v2, sp.sin(t))], name="circuit")
    reduced = ps.reduce_index(ps.Problem(circuit, {v1: 0, v2: 0}, (0, 5), {C: 1, R: 1}))
    assert (circuit.index, reduced.system.index) == (2, int(reduced.system.kind == "dae"))
    solution = ps.solve(reduced, engine="native", rtol=1e-9, atol=1e-10, saveat=0.25)
    when = solution.t
    second = (np.cos(when) + 2 * np.sin(when) - np.exp(-when / 2)) / 5
    slope = (2 * np.cos(when) - np.sin(when) + np.exp(-when / 2) / 2) / 5
    np.testing.assert_allclose(solution.v2, second, atol=1e-7)
    np.testing.assert_allclose(solution.v1, np.sin(when) - second, atol=1e-7)
    np.testing.assert_allclose(solution.i, np.cos(when) - slope, atol=1e-6)


@with_modelingtoolkit
def test_a_slider_crank_agrees_with_the_other_reduction() -> None:
    """A crank of length 1 that turns by itself, a rod of length 2, and a mass that slides."""
    a, s, force, ordinate = ps.variables("a s force ordinate")
    system = ps.System(
        [
            Eq(D(a, 2), -force * (2 * sp.sin(a) * s)),
            Eq(D(s, 2), -force * (2 * s - 2 * sp.cos(a))),
            Eq((s - sp.cos(a)) ** 2 + sp.sin(a) ** 2, 4),
            Eq(ordinate, sp.sin(a)),
        ],
        name="slider_crank",
    )
    position = np.cos(0.3) + np.sqrt(4 - np.sin(0.3) ** 2)
    problem = ps.Problem(system, {a: 0.3, D(a): 1.5, s: position}, (0, 1))
    options = {"engine": "native", "rtol": 1e-9, "atol": 1e-10, "saveat": 0.1}
    reduced = ps.reduce_index(problem)
    one, other = ps.solve(problem, **options), ps.solve(reduced, **options)
    assert "ordinate" in other
    np.testing.assert_allclose(values_of(other, "a", "s", "ordinate"), values_of(one, "a", "s", "ordinate"), atol=1e-6)


@with_modelingtoolkit
def test_what_modelingtoolkit_cannot_differentiate_is_told_in_its_words() -> None:
    constraint = ps.System([Eq(D(x), z), Eq(D(y), g - z), Eq(sp.gamma(x), y)])
    assert constraint.index == 2
    with pytest.raises(UnsupportedError, match=r"ModelingToolkit\.jl: "):
        ps.reduce_index(constraint)
