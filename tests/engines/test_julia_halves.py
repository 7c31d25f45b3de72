"""Symplectic and Nystrom methods: which models they take, their energy over long times, their agreement with others."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines.julia import JuliaEngine
from pysciml.engines.julia.algorithms import ALGORITHMS
from pysciml.engines.julia.halves import PARTITIONED, Halves, halves
from pysciml.errors import ProblemError, UnsupportedError

D = ps.D
t = ps.t
x, y, v, p, q = ps.variables("x y v p q")
k, m = ps.parameters("k m")


def found(equations, name: str) -> Halves:
    return halves(ps.System(equations).model, name, "julia")


# -- which models have halves


FIT = {
    "second order": ([ps.Eq(D(x, 2), -k * sp.sin(x))], (0,), (1,), PARTITIONED),
    "two of second order": (
        [ps.Eq(D(x, 2), y), ps.Eq(D(y, 2), x - m * y * t)],
        (0, 2),
        (1, 3),
        ("VelocityVerlet", "KahanLi8", "DPRKN6"),
    ),
    "the same as four of first order": (
        [ps.Eq(D(v), -x), ps.Eq(D(p), -q), ps.Eq(D(x), v), ps.Eq(D(q), p)],
        (2, 3),
        (0, 1),
        ("VelocityVerlet", "McAte4", "DPRKN6"),
    ),
    "each the other's velocity": ([ps.Eq(D(x), y), ps.Eq(D(y), x)], (0,), (1,), ("VelocityVerlet", "McAte5")),
    "a separable Hamiltonian": ([ps.Eq(D(q), p / m), ps.Eq(D(p), -sp.sin(q))], (0,), (1,), ("McAte4", "Yoshida6")),
    "momenta first": ([ps.Eq(D(p), -sp.sin(q)), ps.Eq(D(q), p / m)], (1,), (0,), ("McAte4", "CalvoSanz4")),
    "another kinetic energy": ([ps.Eq(D(q), p / sp.sqrt(1 + p**2)), ps.Eq(D(p), -(q**3))], (0,), (1,), ("KahanLi8",)),
}


@pytest.mark.parametrize("case", FIT)
def test_halves_are_told_by_the_structure(case: str) -> None:
    equations, positions, velocities, names = FIT[case]
    for name in names:
        assert found(equations, name) == Halves(positions, velocities)


def test_drag_is_for_the_nystrom_methods_that_take_it() -> None:
    drag = [ps.Eq(D(x, 2), -sp.sin(x) - k * D(x))]
    for name in ("Nystrom4", "FineRKN4", "FineRKN5"):
        assert found(drag, name) == Halves((0,), (1,), reads_velocities=True)


UNFIT = {
    "drag": ([ps.Eq(D(x, 2), -x - k * D(x))], "KahanLi8", r"the equation for x_t of 'model' depends on x_t; Nystrom4"),
    "drag through a sign": ([ps.Eq(D(x, 2), -x - k * sp.sign(D(x)))], "DPRKN6", r"equation for x_t .* depends on x_t"),
    "a magnetic field": ([ps.Eq(D(x, 2), D(y)), ps.Eq(D(y, 2), -D(x))], "Yoshida6", r"for x_t .* depends on y_t"),
    "growth": ([ps.Eq(D(x), x * y), ps.Eq(D(y), -x)], "McAte2", r"the equation for x of 'model' depends on itself"),
    "a ring of three": (
        [ps.Eq(D(x), 2 * y), ps.Eq(D(y), 2 * v), ps.Eq(D(v), -x)],
        "Ruth3",
        r"the equation for y of 'model' depends on v, which is in the same half as y",
    ),
    "third order": ([ps.Eq(D(x, 3), -x)], "DPRKN12", r"x_tt of 'model' is neither a position"),
    "a mass": ([ps.Eq(D(q), p / m), ps.Eq(D(p), -q)], "VelocityVerlet", r"q of 'model' is neither a position"),
    "two that are not linear": (
        [ps.Eq(D(q), p**3), ps.Eq(D(p), -(q**3))],
        "McAte4",
        r"kinetic energy that is quadratic, and in 'model' the equation for p is not linear",
    ),
    "a step of the momentum": ([ps.Eq(D(q), sp.sign(p)), ps.Eq(D(p), -(q**3))], "CalvoSanz4", r"is quadratic"),
    "nothing coupled": ([ps.Eq(D(x), 1), ps.Eq(D(y), sp.cos(t))], "KahanLi6", r"no rate depends on a state"),
    "an algebraic equation": ([ps.Eq(D(x, 2), -y), ps.Eq(y, x**3)], "KahanLi6", r"'model' is dae"),
    "noise": ([ps.Eq(D(x), v), ps.Eq(D(v), -x + ps.brownian("w"))], "KahanLi6", r"'model' is sde"),
    "a delay": ([ps.Eq(D(x), v), ps.Eq(D(v), -x.subs(t, t - 1))], "DPRKN6", r"'model' is dde"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_named(case: str) -> None:
    equations, name, says = UNFIT[case]
    with pytest.raises(UnsupportedError, match=says) as caught:
        JuliaEngine().check(ps.System(equations).model, name)
    assert (caught.value.engine, caught.value.algorithm) == ("julia", name)
    assert str(caught.value).startswith(name)


def test_events_are_refused_by_name() -> None:
    system = ps.System([ps.Eq(D(x, 2), -x)], events=[ps.Event(x, {D(x): 0})])
    with pytest.raises(UnsupportedError, match="KahanLi8 follows no events"):
        JuliaEngine().check(system.model, "KahanLi8")


def test_every_method_is_listed_and_the_broken_one_is_not() -> None:
    assert PARTITIONED.keys() <= ALGORITHMS.keys()
    pendulum = ps.System([ps.Eq(D(x, 2), -sp.sin(x))]).model
    for name in PARTITIONED:
        JuliaEngine().check(pendulum, name)
    with pytest.raises(UnsupportedError, match="McAte42 has order 1 and not 4"):
        JuliaEngine().check(pendulum, "McAte42")
    with pytest.raises(UnsupportedError, match="IRKN4 has order 3 and not 4"):
        JuliaEngine().check(pendulum, "IRKN4")
    with pytest.raises(UnsupportedError, match=r"RKN4 .* linear equations alone"):
        JuliaEngine().check(pendulum, "RKN4")


# -- on a real Julia

on_julia = [pytest.mark.julia, pytest.mark.usefixtures("julia_engine")]


def marked(test):
    for mark in on_julia:
        test = mark(test)
    return test


def solve(problem: ps.Problem, alg: str, **options):
    return ps.solve(problem, alg, engine="julia", **options)


def kepler(eccentricity: float = 0.6, periods: float = 100) -> ps.Problem:
    """One revolution takes 2 pi; the energy is -1/2."""
    cube = (x**2 + y**2) ** sp.Rational(3, 2)
    system = ps.System(
        [ps.Eq(D(x, 2), -x / cube), ps.Eq(D(y, 2), -y / cube)],
        observed={
            "energy": (D(x) ** 2 + D(y) ** 2) / 2 - 1 / sp.sqrt(x**2 + y**2),
            "angular": x * D(y) - y * D(x),
        },
        name="kepler",
    )
    e = eccentricity
    start = {x: 1 - e, D(x): 0, y: 0, D(y): np.sqrt((1 + e) / (1 - e))}
    return ps.Problem(system, start, (0, 2 * np.pi * periods))


@marked
@pytest.mark.parametrize(("alg", "largest"), [("VelocityVerlet", 0.02), ("CalvoSanz4", 1e-4), ("KahanLi8", 1e-7)])
def test_the_energy_of_an_orbit_does_not_drift(alg: str, largest: float) -> None:
    """Symplectic methods conserve the energy of a neighbouring orbit; others lose more of it with every revolution."""
    problem = kepler()
    sol = solve(problem, alg, dt=2 * np.pi / 500)
    assert list(sol.data_vars)[:4] == ["x", "x_t", "y", "y_t"]
    error = abs(sol.energy + 0.5)
    early, late = error.sel(t=slice(0, 63)).max().item(), error.sel(t=slice(565, None)).max().item()
    assert early < largest
    assert late < max(1.2 * early, 1e-12)  # rounding errors add up
    np.testing.assert_allclose(sol.angular, 0.8, rtol=1e-11)


@marked
def test_a_first_order_method_of_the_same_step_loses_energy() -> None:
    sol = solve(kepler(), "RK4", dt=2 * np.pi / 100)
    error = abs(sol.energy + 0.5)
    assert error[-1].item() > 5 * error.sel(t=slice(0, 63)).max().item()


@marked
@pytest.mark.parametrize("alg", ["KahanLi8", "DPRKN6", "DPRKN12", "SofSpa10"])
def test_henon_and_heiles_conserve_their_energy(alg: str) -> None:
    """M. Henon & C. Heiles, Astron. J. 69 (1964) 73: a chaotic orbit at energy 1/8."""
    potential = (x**2 + y**2) / 2 + x**2 * y - y**3 / 3
    system = ps.System(
        [ps.Eq(D(x, 2), -sp.diff(potential, x)), ps.Eq(D(y, 2), -sp.diff(potential, y))],
        observed={"energy": (D(x) ** 2 + D(y) ** 2) / 2 + potential},
    )
    problem = ps.Problem(system, {x: 0, y: 0.1, D(x): 0.49057, D(y): 0}, (0, 200))
    sol = solve(problem, alg, dt=0.05, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(sol.energy, sol.energy[0].item(), atol=1e-7)
    assert sol.attrs["algorithm"] == alg


@marked
@pytest.mark.parametrize("alg", sorted(PARTITIONED))
def test_the_solution_is_that_of_other_methods(alg: str) -> None:
    """A driven pendulum, in an order that is not that of the halves."""
    order = [ps.Eq(D(v), -sp.sin(x) + k * sp.cos(2 * t)), ps.Eq(D(x), v)]
    problem = ps.Problem(ps.System(order), {x: 1.2, v: 0.5}, (0, 2), {k: 0.7})
    reference = ps.solve(problem, "Tsit5", engine="native", rtol=1e-12, atol=1e-12, saveat=[1.0, 2.0])
    sol = solve(problem, alg, dt=1e-4, rtol=1e-9, atol=1e-9, saveat=[1.0, 2.0])
    assert list(sol.data_vars) == ["v", "x"]
    np.testing.assert_array_equal(sol.t, [1, 2])
    for name in ("x", "v"):
        np.testing.assert_allclose(sol[name], reference[name], rtol=1e-3 if alg == "SymplecticEuler" else 1e-6)


@marked
def test_ensembles_of_them() -> None:
    import xarray as xr

    problem = kepler(periods=1)
    starts = xr.DataArray([0.4, 0.5, 0.6], dims="start")
    sweep = ps.solve_ensemble(problem, "KahanLi8", over={x: starts}, engine="julia", dt=0.01, saveat=[0.0, 1.0, 2.0])
    for number, start in enumerate(starts.values):
        alone = solve(problem.remake(u0={x: start}), "KahanLi8", dt=0.01, saveat=[0.0, 1.0, 2.0])
        for name in ("x", "x_t", "y", "y_t", "energy"):
            np.testing.assert_array_equal(sweep[name].isel(start=number), alone[name])


@marked
def test_fixed_steps_need_their_size_and_failures_are_told() -> None:
    with pytest.raises(ProblemError, match="VelocityVerlet has fixed steps"):
        solve(kepler(), "VelocityVerlet")
    with pytest.raises(ps.SolverError, match="max_steps = 10") as caught:
        solve(kepler(), "DPRKN6", max_steps=10)
    assert 2 < caught.value.partial.sizes["t"] <= 11
