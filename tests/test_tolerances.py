"""One absolute tolerance for each state: `atol` as a mapping."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import pysciml as ps

D = ps.D
x, y = ps.variables("x y")
k = ps.parameters("k")

#: A power of two, by which floating-point numbers are scaled without rounding.
SMALL = 2.0**-40
JULIA = pytest.param("julia", marks=pytest.mark.julia)
ENGINES = pytest.mark.parametrize("engine", ["jax", JULIA])


@pytest.fixture(autouse=True)
def _ready(request):
    if "engine" in request.fixturenames and request.getfixturevalue("engine") == "julia":
        request.getfixturevalue("julia_engine")


def predators(scale, tspan=(0, 10)):
    """Lotka-Volterra equations with the predators counted in units of ``scale``."""
    system = ps.System([ps.Eq(D(x), x * (k - y / scale)), ps.Eq(D(y), y * (x - 3))], name="predators")
    return ps.Problem(system, {x: 1.0, y: scale}, tspan, {k: 1.5})


@ENGINES
@pytest.mark.parametrize("algorithm", ["Tsit5", "BS3"])
def test_tolerances_scale_with_their_states(engine, algorithm):
    """Other units of one state, in its tolerance too, change no step and no digit."""
    how = {"engine": engine, "rtol": 1e-7, "saveat": 0.25}
    one = ps.solve(predators(1.0), algorithm, atol={x: 1e-6, y: 1e-6}, **how)
    other = ps.solve(predators(SMALL), algorithm, atol={"x": 1e-6, "y": 1e-6 * SMALL}, **how)
    assert one.attrs["n_steps"] == other.attrs["n_steps"]
    np.testing.assert_array_equal(other.x, one.x)
    np.testing.assert_array_equal(other.y, one.y * SMALL)
    scalar = ps.solve(predators(1.0), algorithm, atol=1e-6, **how)
    assert scalar.attrs["n_steps"] == one.attrs["n_steps"]
    np.testing.assert_allclose(one.x, scalar.x, rtol=1e-12)


@ENGINES
@pytest.mark.parametrize("algorithm", ["Kvaerno5", "KenCarp4"])
def test_they_do_for_implicit_methods_but_for_rounding(engine, algorithm):
    """Linear systems of other units are solved in another order."""
    how = {"engine": engine, "rtol": 1e-7, "saveat": 0.25}
    one = ps.solve(predators(1.0), algorithm, atol={x: 1e-6, y: 1e-6}, **how)
    other = ps.solve(predators(SMALL), algorithm, atol={x: 1e-6, y: 1e-6 * SMALL}, **how)
    assert one.attrs["n_steps"] == other.attrs["n_steps"]
    np.testing.assert_allclose(other.x, one.x, rtol=1e-9)
    np.testing.assert_allclose(other.y, one.y * SMALL, rtol=1e-9)
    assert ps.solve(predators(SMALL), algorithm, atol=1e-6, **how).attrs["n_steps"] < one.attrs["n_steps"]


@ENGINES
def test_a_velocity_is_named_as_a_derivative_and_what_is_not_named_has_the_usual_one(engine):
    spring = ps.Problem(ps.System([ps.Eq(D(x, 2), -x)], name="spring"), {x: 1.0, D(x): 0.0}, (0, 10))
    how = {"engine": engine, "saveat": 1.0}
    named = ps.solve(spring, "Tsit5", atol={D(x): 1e-3}, **how)
    by_text = ps.solve(spring, "Tsit5", atol={"x_t": 1e-3, "x": 1e-9}, **how)
    np.testing.assert_array_equal(named.x, by_text.x)
    assert named.attrs["n_steps"] < ps.solve(spring, "Tsit5", **how).attrs["n_steps"]


@ENGINES
def test_ensembles_have_them_too_in_memory_and_in_a_store(engine, tmp_path):
    problem, tolerances = predators(SMALL), {y: 1e-9 * SMALL}
    how = {"engine": engine, "rtol": 1e-7, "saveat": 0.5}
    ks = xr.DataArray([1.0, 1.5], dims="k")
    sweep = ps.solve_ensemble(problem, "Tsit5", over={k: ks}, atol=tolerances, **how)
    single = ps.solve(problem, "Tsit5", atol=tolerances, **how)
    np.testing.assert_allclose(sweep.y.sel(k=1.5), single.y, rtol=1e-9)
    store = tmp_path / "sweep.zarr"
    stored = ps.solve_ensemble(problem, "Tsit5", over={k: ks}, atol=tolerances, store=store, **how)
    np.testing.assert_allclose(stored.y, sweep.y, rtol=1e-11)  # batches of other sizes are summed in another order
    assert stored.attrs["atol"] == [1e-9, 1e-9 * SMALL]
    with pytest.raises(ps.ProblemError, match="atol"):
        ps.solve_ensemble(problem, "Tsit5", over={k: ks}, store=store, **how)


def test_a_solve_into_a_store_has_them(tmp_path):
    problem, tolerances = predators(SMALL), {y: 1e-9 * SMALL}
    how = {"engine": "jax", "atol": tolerances, "saveat": 0.5}
    stored = ps.solve(problem, "Tsit5", store=tmp_path / "run.zarr", **how)
    np.testing.assert_allclose(stored.y, ps.solve(problem, "Tsit5", **how).y, rtol=1e-5)
    with pytest.raises(ps.ProblemError, match="atol"):
        ps.solve(problem, "Tsit5", store=tmp_path / "run.zarr", **(how | {"atol": 1e-9}))


def test_an_engine_that_has_them_is_chosen(monkeypatch):
    monkeypatch.delenv("PYSCIML_ENGINE", raising=False)
    assert ps.solve(predators(1.0, (0, 1)), atol={x: 1e-7}).attrs["engine"] != "native"
    with pytest.raises(ps.UnsupportedError, match=r"the native engine has one atol for all states; engine='jax'"):
        ps.solve(predators(1.0), atol={x: 1e-7}, engine="native")


@pytest.mark.parametrize(
    ("atol", "message"),
    [
        ({"z": 1e-9}, "atol has a value for z, which is not a state of the system"),
        ({k: 1e-9}, "atol has a value for k, which is not a state"),
        ({x: -1e-9}, "atol: the value of x must be 0 or more, not -1e-09"),
        ({x: "small"}, "atol: the value of x must be a number, not 'small'"),
        ({x: 1e-9, "x": 1e-8}, "atol has x twice"),
        ([1e-9, 1e-9], "atol must be one number, or one for each state, such as {x: 1e-9}"),
    ],
)
def test_what_makes_no_sense_is_refused(atol, message):
    with pytest.raises(ps.ProblemError, match=message):
        ps.solve(predators(1.0), atol=atol)


def test_who_takes_one_number_says_so():
    with pytest.raises(ps.ProblemError, match="atol must be one number here: solve and solve_ensemble take"):
        ps.gradient(predators(1.0), of=x, atol={x: 1e-9})
    X = ps.coordinates("X")
    u = ps.fields("u", X)
    heat = ps.PDESystem(
        [ps.Eq(D(u), ps.laplacian(u))], domain={X: (0, 1)}, boundary={X: ps.Periodic()}, initial={u: 1}, name="heat"
    )
    with pytest.raises(ps.UnsupportedError, match="atol must be one number for partial differential equations"):
        ps.solve(heat.discretize({X: 8}).problem((0, 1)), atol={u: 1e-9})


@pytest.mark.julia
def test_methods_of_two_halves_take_one(julia_engine):
    spring = ps.Problem(ps.System([ps.Eq(D(x, 2), -x)], name="spring"), {x: 1.0, D(x): 0.0}, (0, 1))
    with pytest.raises(ps.UnsupportedError, match="DPRKN6 takes one atol for all states"):
        ps.solve(spring, "DPRKN6", engine="julia", atol={x: 1e-9})
