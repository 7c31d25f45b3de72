"""Comparing solvers: the table, its reference, and the pictures of comparisons and ensembles."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import pysciml as ps
from pysciml.engines.native import NativeEngine
from pysciml.plot import ensemble, work_precision
from tests.fake_engine import FakeEngine, only

D = ps.D
x, v = ps.variables("x v")
(k,) = ps.parameters("k,")


@pytest.fixture(autouse=True)
def _cache(monkeypatch):
    monkeypatch.setenv("PYSCIML_CACHE_DIR", "")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def oscillator():
    system = ps.System([ps.Eq(D(x), v), ps.Eq(D(v), -k * x)], name="oscillator")
    return ps.Problem(system, {x: 1.0, v: 0.0}, (0, 5), {k: 4.0})


@pytest.fixture(scope="module")
def table(oscillator):
    times = np.linspace(0.5, 5, 10)
    exact = xr.Dataset({"x": ("t", np.cos(2 * times)), "v": ("t", -2 * np.sin(2 * times))}, coords={"t": times})
    return ps.compare(
        oscillator,
        [("native", "Tsit5"), ("jax", "Tsit5")],
        [1e-4, 1e-6, 1e-8],
        saveat=times,
        reference=exact,
        repeats=1,
    )


def test_the_table_says_how_accurate_and_how_fast(table):
    assert table.error.dims == ("solver", "tolerance")
    assert table.solver.values.tolist() == ["native Tsit5", "jax Tsit5"]
    assert (table.retcode == "Success").all()
    assert (table.seconds > 0).all()
    assert (table.error[:, 0] > table.error[:, 2]).all()
    assert (table.error[:, 2] < 1e-6).all()
    assert (table.n_rhs.sel(solver="jax Tsit5").diff("tolerance") > 0).all()
    assert table.engine.values.tolist() == ["native", "jax"]


def test_a_solver_that_fails_is_in_the_table(oscillator):
    table = ps.compare(oscillator, [("native", "Tsit5")], [1e-4, 1e-9], repeats=1, max_steps=100, saveat=[5.0],
                       reference=xr.Dataset({"x": ("t", [np.cos(10)]), "v": ("t", [-2 * np.sin(10)])}))  # fmt: skip
    assert table.retcode.values.tolist() == [["Success", "MaxIters"]]
    assert np.isnan(table.error[0, 1])


def test_the_reference_is_found_and_confirmed(oscillator):
    table = ps.compare(oscillator, [("native", "Tsit5")], [1e-5], repeats=1, saveat=[2.5, 5.0])
    assert 1e-9 < float(table.error[0, 0]) < 1e-3


def test_bad_requests_are_refused_by_name(oscillator):
    with pytest.raises(ps.ProblemError, match="tolerances must be numbers between"):
        ps.compare(oscillator, [("native", "Tsit5")], [2.0])
    with pytest.raises(ps.ProblemError, match="pairs"):
        ps.compare(oscillator, [("native", "Tsit5", 3)])
    with pytest.raises(ps.UnsupportedError, match="no algorithm 'Magic'"):
        ps.compare(oscillator, [("native", "Magic")])
    noisy = ps.Problem(ps.System([ps.Eq(D(x), x * ps.brownian("W"))]), {x: 1.0}, (0, 1))
    with pytest.raises(ps.UnsupportedError, match="compare moments"):
        ps.compare(noisy)


def test_the_work_precision_diagram_shows_every_solver(table):
    ax = work_precision(table)
    assert [line.get_label() for line in ax.get_lines()] == ["native Tsit5", "jax Tsit5"]
    np.testing.assert_array_equal(ax.get_lines()[0].get_xdata(), table.error[0])
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert len(work_precision(table, work="n_rhs").get_lines()) >= 1
    with pytest.raises(ps.ProblemError, match=r"table of pysciml\.compare"):
        work_precision(xr.Dataset())


def test_ensemble_bands_are_the_quantiles():
    values = np.linspace(0, 1, 101)[:, None] * np.array([1.0, 2.0, 3.0])
    values[50] = np.nan
    paths = xr.DataArray(values, dims=("trajectory", "t"), coords={"t": [0.0, 1.0, 2.0]}, name="x")
    ax = ensemble(paths, samples=2)
    bands = [band.get_label() for band in ax.collections]
    assert bands == ["5 to 95 %", "25 to 75 %"]
    median = next(line for line in ax.get_lines() if line.get_label() == "median")
    np.testing.assert_allclose(median.get_ydata(), [0.5, 1.0, 1.5])
    assert len(ax.get_lines()) == 3
    two = paths.expand_dims(b=[1, 2])
    with pytest.raises(ps.ProblemError, match="select one value of b"):
        ensemble(two, dim="trajectory")
    with pytest.raises(ps.ProblemError, match="quantiles must be between"):
        ensemble(paths, quantiles=[5, 95])
    with pytest.raises(ps.ProblemError, match="over t and at least one other"):
        ensemble(paths.isel(trajectory=0))


@pytest.fixture(scope="module")
def reaction():
    X = ps.coordinates("X")
    u = ps.fields("u", X)
    system = ps.PDESystem(
        [ps.Eq(D(u), k * ps.laplacian(u) + u * (1 - u))],
        domain={X: (0, 1)},
        boundary={X: ps.Neumann(lower=0, upper=0)},
        initial={u: X**2 * (3 - 2 * X) / 2},
        name="reaction",
    )
    return system.discretize({X: 16}).problem((0, 1), {k: 0.1})


def test_fields_are_compared_on_their_grid(reaction):
    table = ps.compare(reaction, [("jax", "Tsit5"), ("jax", "QNDF"), ("native", None)], [1e-3, 1e-6], repeats=1)
    assert (table.retcode == "Success").all()
    assert (table.error[:, 0] < 1e-1).all()
    assert (table.error[:, 1] < 1e-4).all()
    assert (table.error[:, 1] < table.error[:, 0]).all()
    # the same by hand, with SciPy and a matrix
    from scipy.integrate import solve_ivp
    from scipy.sparse import diags

    stencil = diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(16, 16)).toarray()
    stencil[0, 0] = stencil[-1, -1] = -1.0
    right = solve_ivp(
        lambda t, u: 0.1 * 16**2 * stencil @ u + u * (1 - u), (0, 1), reaction.u0, "DOP853", rtol=1e-11, atol=1e-12
    ).y[:, -1]
    reference = xr.Dataset({"u": (("t", "X"), right[None])}, coords={"t": [1.0]})
    again = ps.compare(reaction, [("jax", "Tsit5")], [1e-6], repeats=1, saveat=[1.0], reference=reference)
    assert float(again.error[0, 0]) < 1e-4
    assert float(again.error[0, 0]) <= float(table.error[0, 1]) * 1.01


def test_solvers_of_fields_agree_or_the_message_says_where_not(reaction):
    ps.testing.assert_solvers_agree(reaction, rtol=1e-5)
    one = ps.solve(reaction, saveat=0.5)
    other = one.copy(deep=True)
    other["u"][1, 3] += 0.125
    message = ps.testing.difference("a", one, "b", other, 1e-3)
    where = f"1 of 3 times, from t = 0.5; most at t = 0.5, X = {float(one.X[3]):.6g}: "
    assert where in message


def test_an_engine_that_is_not_installed_is_left_empty_with_a_warning(oscillator, monkeypatch):
    missing = FakeEngine()
    missing.reason = "fake is not installed: pip install fake"
    with only(monkeypatch, NativeEngine(), missing):
        with pytest.warns(UserWarning, match="leaves the fake engine empty: fake is not installed"):
            table = ps.compare(oscillator, [("native", "Tsit5"), ("fake", "RK4")], [1e-4], repeats=1)
        assert table.retcode.values.tolist() == [["Success"], ["Unavailable"]]
        assert np.isnan(table.error.values[1, 0])
        assert table.error.values[0, 0] < 1e-2
        assert [line.get_label() for line in work_precision(table).get_lines()] == ["native Tsit5"]
        with pytest.raises(ps.EngineUnavailableError, match="pip install fake"):
            ps.compare(oscillator, [("fake", "RK4")], [1e-4])
