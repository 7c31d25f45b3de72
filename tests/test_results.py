"""From a problem to a labelled result, with an engine whose numbers are known; then with the real one."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps
from pysciml import D, Eq, Event, Problem, System
from pysciml.engines import base, info
from tests.fake_engine import FakeEngine, only

h = ps.variables("h", units="m", long_name="height")
g = ps.parameters("g", units="m/s^2")
energy = ps.parameters("energy", units="J/kg", long_name="energy per mass")
fall = System([Eq(D(h, 2), -g)], observed={energy: g * h + D(h) ** 2 / 2, "fallen": 5 - h}, name="fall")
problem = Problem(fall, {h: 5, D(h): 0}, (0, 1), {g: 9.81})

ATTRIBUTES = {
    "engine": str,
    "algorithm": str,
    "retcode": str,
    "n_steps": int,
    "n_rejected": int,
    "n_rhs": int,
    "solve_seconds": float,
    "compile_seconds": float,
    "model": str,
    "pysciml_version": str,
}


@pytest.fixture
def engine(monkeypatch):
    fake = FakeEngine()
    with only(monkeypatch, fake):
        yield fake


def test_a_result_is_a_labelled_dataset(engine):
    sol = ps.solve(problem, saveat=0.25)
    assert isinstance(sol, xr.Dataset)
    assert list(sol.data_vars) == ["h", "h_t", "energy", "fallen"]
    assert list(sol.coords) == ["t"]
    assert all(variable.dims == ("t",) for variable in sol.variables.values())
    t = np.array([0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(sol.t, t)
    np.testing.assert_allclose(sol.h, 5 - 9.81 * t**2 / 2, rtol=1e-13)
    np.testing.assert_allclose(sol.h_t, -9.81 * t, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(sol.energy, 5 * 9.81, rtol=1e-13)
    np.testing.assert_allclose(sol.fallen, 9.81 * t**2 / 2, rtol=1e-12, atol=1e-14)
    assert sol.sel(t=0.5).h.item() == sol.h.values[2]


def test_every_attribute_is_there_and_of_its_type(engine):
    sol = ps.solve(problem, "Fake", saveat=0.25)
    assert {name: type(value) for name, value in sol.attrs.items()} == ATTRIBUTES
    assert sol.attrs["engine"] == "fake"
    assert sol.attrs["algorithm"] == "Fake"
    assert sol.attrs["retcode"] == "Success"
    assert sol.attrs["model"] == "fall"
    assert sol.attrs["pysciml_version"] == ps.__version__
    assert (sol.attrs["n_steps"], sol.attrs["n_rejected"], sol.attrs["n_rhs"]) == (250, -1, 1000)
    assert (sol.attrs["solve_seconds"], sol.attrs["compile_seconds"]) == (0.25, 0.5)


def test_units_and_long_names_label_the_variables(engine):
    sol = ps.solve(problem)
    assert sol.h.attrs == {"units": "m", "long_name": "height"}
    assert sol.h_t.attrs == {"long_name": "time derivative of height"}
    assert sol.energy.attrs == {"units": "J/kg", "long_name": "energy per mass"}
    assert sol.fallen.attrs == {}


def test_a_result_is_written_and_read_as_netcdf(engine, tmp_path):
    engine.events = [(0.5, 0), (0.75, 1)]
    sol = ps.solve(problem, saveat=0.25)
    sol.to_netcdf(tmp_path / "fall.nc")
    with xr.open_dataset(tmp_path / "fall.nc") as read:
        xr.testing.assert_equal(read.load(), sol)
        for name in sol.variables:
            assert read[name].attrs == sol[name].attrs
        assert set(read.attrs) == set(sol.attrs)
        for name, value in sol.attrs.items():
            np.testing.assert_array_equal(read.attrs[name], value)


def test_a_result_is_written_and_read_as_zarr(engine, tmp_path):
    sol = ps.solve(problem, saveat=0.25)
    sol.to_zarr(tmp_path / "fall.zarr", consolidated=False)
    with xr.open_zarr(tmp_path / "fall.zarr", consolidated=False) as read:
        xr.testing.assert_identical(read.load(), sol)


def test_events_are_attributes(engine):
    engine.events = [(0.5, 0), (0.75, 1)]
    sol = ps.solve(problem)
    assert sol.attrs["event_times"].tolist() == [0.5, 0.75]
    assert sol.attrs["event_numbers"].tolist() == [0, 1]


def test_a_terminal_event_is_a_success(engine):
    engine.ending, engine.keep = ("Terminated", "event 1"), 4
    sol = ps.solve(problem)
    assert sol.attrs["retcode"] == "Terminated"
    assert sol.sizes["t"] == 4


@pytest.mark.parametrize("keep", [4, 1, 0])
def test_a_failure_holds_what_was_computed(engine, keep):
    engine.ending, engine.keep = ("Unstable", "the state became infinite"), keep
    with pytest.raises(ps.SolverError, match="the state became infinite") as caught:
        ps.solve(problem)
    error = caught.value
    assert error.retcode == "Unstable"
    for fragment in ("fall", "fake engine", "RK4", "Unstable", ".partial"):
        assert fragment in str(error)
    assert ("t = 0.3 of 1" in str(error)) == (keep == 4)
    assert error.partial.sizes["t"] == keep
    assert error.partial.attrs["retcode"] == "Unstable"
    np.testing.assert_allclose(error.partial.h, 5 - 9.81 * error.partial.t**2 / 2, rtol=1e-13)
    assert list(error.partial.data_vars) == ["h", "h_t", "energy", "fallen"]


def test_an_interrupt_holds_what_was_computed(engine):
    engine.ending, engine.keep = ("Interrupted", "stopped by Ctrl-C"), 3
    with pytest.raises(KeyboardInterrupt) as caught:
        ps.solve(problem)
    assert isinstance(caught.value, ps.SolverError)
    assert caught.value.partial.sizes["t"] == 3


def test_backward_in_time(engine):
    sol = ps.solve(problem.remake(tspan=(1, 0)), saveat=0.5)
    assert sol.t.values.tolist() == [1.0, 0.5, 0.0]
    np.testing.assert_allclose(sol.h_t, 9.81 * (1 - sol.t), rtol=1e-13)


# -- which engine


def test_the_first_engine_that_can_is_taken(monkeypatch):
    no, dae, yes = FakeEngine("native"), FakeEngine("jax"), FakeEngine("other")
    no.reason = "not installed"
    dae.kinds = ("dae",)
    with only(monkeypatch, yes, dae, no):
        assert ps.solve(problem).attrs["engine"] == "other"
        assert ps.solve(problem, engine="other").attrs["engine"] == "other"
    assert [len(engine.calls) for engine in (no, dae, yes)] == [0, 0, 2]


def test_julia_comes_first_where_it_is_set_up(monkeypatch):
    julia, native = FakeEngine("julia"), FakeEngine("native")
    with only(monkeypatch, native, julia):
        assert ps.solve(problem).attrs["engine"] == "julia"
        julia.reason = "pysciml julia setup"
        assert ps.solve(problem).attrs["engine"] == "native"


def test_the_environment_names_the_engine(monkeypatch):
    one, two = FakeEngine("native"), FakeEngine("two")
    with only(monkeypatch, one, two):
        monkeypatch.setenv("PYSCIML_ENGINE", "two")
        assert ps.solve(problem).attrs["engine"] == "two"
        assert ps.solve(problem, engine="native").attrs["engine"] == "native"  # asked for beats the environment
        monkeypatch.setenv("PYSCIML_ENGINE", "")
        assert ps.solve(problem).attrs["engine"] == "native"
        two.reason = "install two"
        monkeypatch.setenv("PYSCIML_ENGINE", "two")
        with pytest.raises(ps.EngineUnavailableError, match="install two"):
            ps.solve(problem)  # nothing is substituted silently


def test_an_engine_that_cannot_be_loaded_hides_no_other(monkeypatch):
    class Entry:
        name, value = "broken", "nowhere:Engine"

        def load(self):
            raise ImportError("no module named nowhere")

    class Good(Entry):
        name, value = "fake", "tests.fake_engine:FakeEngine"

        def load(self):
            return FakeEngine

    monkeypatch.setattr(base.metadata, "entry_points", lambda group: [Entry(), Good()])
    base.registry.cache_clear()
    try:
        engines = base.registry()
        assert list(engines) == ["broken", "fake"]
        assert engines["fake"].unavailable() is None
        assert ps.solve(problem).attrs["engine"] == "fake"
        with pytest.raises(ps.EngineUnavailableError, match=r"'broken'.*nowhere:Engine.*no module named nowhere"):
            ps.solve(problem, engine="broken")
    finally:
        monkeypatch.undo()
        base.registry.cache_clear()


def test_the_table_of_engines(monkeypatch):
    here, gone = FakeEngine("here"), FakeEngine("gone")
    gone.reason = "python -m pip install gone"
    monkeypatch.setattr(info, "registry", lambda: {"here": here, "gone": gone})
    table = ps.engines()
    assert [one.name for one in table] == ["here", "gone"]
    assert table["here"].available
    assert table["here"].algorithms == ("RK4", "Fake")
    assert table[1].why_not == "python -m pip install gone"
    lines = repr(table).splitlines()
    assert lines[0].split() == ["engine", "available", "version", "kinds", "algorithms"]
    assert lines[1].split() == ["here", "yes", "4.0", "ode", "RK4,", "Fake"]
    assert lines[2].endswith("python -m pip install gone")
    assert "<td>here</td>" in table._repr_html_()
    with pytest.raises(KeyError):
        table["nope"]


# -- the embedded engine


x, y = ps.variables("x y")
a, b, c, d = ps.parameters("a b c d")


def test_the_first_solve_of_the_contract(tmp_path):
    lotka = System([Eq(D(x), a * x - b * x * y), Eq(D(y), -c * y + d * x * y)], name="lotka_volterra")
    problem = Problem(lotka, u0={x: 1.0, y: 1.0}, tspan=(0, 10), p={a: 1.5, b: 1, c: 3, d: 1})
    sol = ps.solve(problem, engine="native", rtol=1e-9, atol=1e-11, saveat=0.1)
    assert sol.sizes == {"t": 101}
    assert {name: type(sol.attrs[name]) for name in ATTRIBUTES} == ATTRIBUTES
    invariant = 1.0 * sol.x - 3 * np.log(sol.x) + sol.y - 1.5 * np.log(sol.y)
    np.testing.assert_allclose(invariant, invariant[0], rtol=1e-7)
    sol.to_netcdf(tmp_path / "lotka.nc")
    with xr.open_dataset(tmp_path / "lotka.nc") as read:
        xr.testing.assert_equal(read, sol)


def test_the_fake_engine_and_the_native_one_agree(monkeypatch):
    system = System([Eq(D(x, 2), -a * x - b * D(x) ** 3), Eq(D(y), sp.sin(x))], observed={"e": D(x) ** 2 + a * x**2})
    problem = Problem(system, {x: 1, D(x): 0, y: 0}, (0, 3), {a: 2, b: 0.3})
    native = ps.solve(problem, engine="native", rtol=1e-9, atol=1e-11, saveat=0.1)
    with only(monkeypatch, FakeEngine()):
        fake = ps.solve(problem, saveat=0.1)
    xr.testing.assert_allclose(native, fake, rtol=1e-6, atol=1e-8)


def test_a_dosing_event_changes_the_state():
    dose = ps.parameters("dose")
    decay = System([Eq(D(x), -a * x)], events=[Event(ps.t - 1, {x: x + dose})])
    problem = Problem(decay, {x: 1}, (0, 2), {a: 0.7, dose: 3})
    sol = ps.solve(problem, engine="native", rtol=1e-9, atol=1e-11, saveat=[0.5, 1.5, 2])
    expected = [np.exp(-0.35), (np.exp(-0.7) + 3) * np.exp(-0.35), (np.exp(-0.7) + 3) * np.exp(-0.7)]
    np.testing.assert_allclose(sol.x, expected, rtol=1e-6)


def test_variables_made_directly_are_those_of_the_constructor() -> None:
    from pysciml.results import _checked_variable, _direct_variable, _variable

    assert _variable is _direct_variable
    row = np.arange(3.0)
    for attrs in (None, {}, {"units": "m"}):
        made, wanted = _direct_variable(row, attrs), _checked_variable(row, attrs)
        xr.testing.assert_identical(made, wanted)
        assert made.encoding == wanted.encoding == {}
        assert made.attrs == wanted.attrs
        assert (made + 1).equals(wanted + 1)
