"""Ensembles: broadcasting, agreement with single solves, failures, bounded memory, worker processes."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import xarray as xr

import pysciml as ps
from pysciml.engines.base import SolveOptions
from pysciml.engines.batch import BatchOptions
from pysciml.engines.jax import many
from pysciml.ensemble.messages import pack_model, unpack_model
from pysciml.ensemble.sweep import Sweep

D = ps.D
x, y, v = ps.variables("x y v")
a, b, k = ps.parameters("a b k")
W, V = ps.brownian("W V")


@pytest.fixture(autouse=True)
def _cache(monkeypatch):
    monkeypatch.setenv("PYSCIML_CACHE_DIR", "")


@pytest.fixture(scope="module")
def lotka():
    system = ps.System(
        [ps.Eq(D(x), a * x - b * x * y), ps.Eq(D(y), -3 * y + x * y)], observed={"total": a * x + y}, name="lotka"
    )
    return ps.Problem(system, {x: 1.0, y: 1.0}, (0, 3), {a: 1.5, b: 1.0})


@pytest.fixture(scope="module")
def gbm():
    system = ps.System([ps.Eq(D(x), a * x + b * x * W)], name="gbm")
    return ps.Problem(system, {x: 1.0}, (0, 1), {a: 0.1, b: 0.2})


def values(n, dims, low=1.0, high=2.0):
    return xr.DataArray(np.linspace(low, high, n), dims=dims)


@pytest.mark.parametrize("engine", ["jax", "native"])
def test_an_ensemble_is_a_loop_of_single_solves(lotka, engine):
    over = {a: values(5, "a"), "b": values(4, "b", 0.5, 1.5), x: values(4, "b", 0.8, 1.1)}
    times = [0.0, 1.0, 2.5]
    sweep = ps.solve_ensemble(lotka, "Tsit5", over=over, engine=engine, saveat=times, rtol=1e-7)
    assert sweep.x.dims == ("a", "b", "t")
    assert dict(sweep.sizes) == {"a": 5, "b": 4, "t": 3}
    assert (sweep.retcode == "Success").all()
    for i, j in ((0, 0), (4, 1), (2, 3)):
        changed = lotka.remake(p={a: over[a][i], b: over["b"][j]}, u0={x: over[x][j]})
        single = ps.solve(changed, "Tsit5", engine=engine, saveat=times, rtol=1e-7)
        for name in ("x", "y", "total"):
            found, expected = sweep[name].isel(a=i, b=j), single[name]
            if engine == "native":
                np.testing.assert_array_equal(found, expected)
            else:
                np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(sweep.a, over[a])
    np.testing.assert_array_equal(sweep.x_initial, over[x])


def test_without_output_times_there_is_the_end(lotka):
    sweep = ps.solve_ensemble(lotka, over={a: [1.0, 2.0]}, engine="jax", rtol=1e-8)
    assert sweep.x.dims == ("a", "t")
    np.testing.assert_array_equal(sweep.t, [3.0])
    single = ps.solve(lotka.remake(p={a: 2.0}), "Tsit5", engine="jax", saveat=[3.0], rtol=1e-8)
    np.testing.assert_allclose(sweep.x[1], single.x, rtol=1e-12)


def test_failures_are_nan_and_named_and_the_rest_is_kept():
    system = ps.System([ps.Eq(D(x), a * x**2)])
    problem = ps.Problem(system, {x: 1.0}, (0, 2), {a: 1.0})
    sweep = ps.solve_ensemble(problem, over={a: [0.1, 0.4, 0.6, 3.0]}, engine="jax", saveat=[0, 1, 2], rtol=1e-8)
    assert sweep.retcode.values.tolist() == ["Success", "Success", "DtLessThanMin", "DtLessThanMin"]
    assert sweep.attrs["n_failed"] == 2
    np.testing.assert_allclose(sweep.x[:2, -1], [1 / 0.8, 1 / 0.2], rtol=1e-6)
    assert np.isnan(sweep.x[2:]).all()


def test_events_work_in_batches_and_terminal_ones_end_a_trajectory():
    system = ps.System([ps.Eq(D(x), -k)], events=[ps.Event(x - 0.5, {}, terminal=True)])
    problem = ps.Problem(system, {x: 1.0}, (0, 1), {k: 1.0})
    sweep = ps.solve_ensemble(problem, over={k: [0.25, 1.0, 2.0]}, engine="jax", saveat=[0.1, 0.4, 1.0])
    assert sweep.retcode.values.tolist() == ["Success", "Terminated", "Terminated"]
    expected = [[0.975, 0.9, 0.75], [0.9, 0.6, np.nan], [0.8, np.nan, np.nan]]
    np.testing.assert_allclose(sweep.x, expected, rtol=1e-9)


def test_chunks_and_memory_do_not_change_results(lotka, monkeypatch):
    over = {a: values(150, "a")}
    whole = ps.solve_ensemble(lotka, over=over, engine="jax", saveat=[1.0, 3.0])
    monkeypatch.setattr(many, "_CACHE", 1)  # chunks of 64, the last one not full
    parts = ps.solve_ensemble(lotka, over=over, engine="jax", saveat=[1.0, 3.0], workers=2)
    np.testing.assert_allclose(parts.x, whole.x, rtol=1e-12)


@pytest.mark.parametrize(("memory", "expected"), [(2**29, 1 << 12), (2**20, 8192), (2**10, 8)])
def test_what_is_under_way_stays_within_the_memory_option(memory, expected):
    options = BatchOptions(SolveOptions(), memory, 2)
    size = many.chunk_size(2, 4, 1_000_000, options)
    assert size <= max(expected, 1)
    assert 2 * 8 * 4 * options.workers * size <= memory


def test_paths_depend_on_seed_and_number_alone(gbm, monkeypatch):
    options = {"engine": "jax", "dt": 0.125, "saveat": [0.0, 0.5, 1.0]}
    paths = ps.solve_ensemble(gbm, "EM", trajectories=100, seed=4, **options)
    assert paths.x.dims == ("trajectory", "t")
    assert paths.attrs["seed"] == 4
    single = ps.solve(gbm, "EM", seed=4, **options)
    np.testing.assert_allclose(paths.x[0], single.x, rtol=1e-12)
    monkeypatch.setattr(many, "_CACHE", 1)
    fewer = ps.solve_ensemble(gbm, "EM", trajectories=70, seed=4, **options)
    np.testing.assert_allclose(fewer.x, paths.x[:70], rtol=1e-12)
    other = ps.solve_ensemble(gbm, "EM", trajectories=70, seed=5, **options)
    assert abs(np.corrcoef(other.x[:, -1], fewer.x[:, -1])[0, 1]) < 0.4
    swept = ps.solve_ensemble(gbm, "EM", over={b: [0.1, 0.2]}, trajectories=50, seed=4, **options)
    assert swept.x.dims == ("b", "trajectory", "t")
    noise = np.log(swept.x[:, :, -1])
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 0.5  # each its own path


def test_a_million_trajectories_are_never_written_out(lotka):
    """Inputs are made chunk by chunk from the labelled arrays."""
    sweep = Sweep(lotka, {a: values(1000, "a"), b: values(1000, "b")}, None)
    assert sweep.size == 1_000_000
    _, p = sweep.inputs(123_456, 123_458)
    np.testing.assert_allclose(p, [[1 + 123 / 999, 1 + 456 / 999], [1 + 123 / 999, 1 + 457 / 999]])


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (None, "an ensemble needs over="),
        ({"c": [1.0]}, "c is neither a parameter nor a state"),
        ({a: [[1.0, 2.0]]}, "must be a labelled array"),
        ({a: []}, "no values of a"),
        ({a: [1.0, np.nan]}, "not all finite"),
        ({a: ["one"]}, "not real numbers"),
        ({a: [1.0], "a": [2.0]}, "over has a twice"),
        ({a: values(3, "n"), b: values(4, "n")}, "share a dimension do not fit"),
        ({x: values(3, "x")}, "dimension 'x' has the name of a variable"),
    ],
)
def test_a_bad_sweep_is_refused_by_name(lotka, over, message):
    with pytest.raises(ps.ProblemError, match=message):
        ps.solve_ensemble(lotka, over=over)


def test_trajectories_are_for_stochastic_equations(lotka, gbm):
    with pytest.raises(ps.ProblemError, match="all would be the same"):
        ps.solve_ensemble(lotka, trajectories=10)
    with pytest.raises(ps.ProblemError, match="trajectories must be an integer"):
        ps.solve_ensemble(gbm, trajectories=0)


def test_models_go_to_workers_unchanged(lotka):
    model = lotka.system.model
    again = unpack_model(*pack_model(model))
    assert again.hash == model.hash
    assert again.states == model.states


def test_worker_processes_need_no_main_guard_and_agree_bit_by_bit(tmp_path):
    """As a user would write it: a plain script, top level code, no ``if __name__``."""
    script = tmp_path / "sweep.py"
    script.write_text(
        textwrap.dedent("""
        import numpy as np, pysciml as ps
        import pysciml.ensemble.loop as loop
        loop._WORTH_STARTING = 0.0
        x, = ps.variables("x,")
        a, = ps.parameters("a,")
        problem = ps.Problem(ps.System([ps.Eq(ps.D(x), -a*x + ps.t)]), {x: 1.0}, (0, 1), {a: 1.0})
        values = np.linspace(1, 2, 3000)
        sweep = ps.solve_ensemble(problem, "Tsit5", over={a: values}, engine="native", saveat=[0.5, 1], workers=2)
        assert (sweep.retcode == "Success").all()
        for i in (0, 1500, 2999):
            single = ps.solve(problem.remake(p={a: values[i]}), "Tsit5", engine="native", saveat=[0.5, 1])
            np.testing.assert_array_equal(sweep.x[i], single.x)
        from pysciml.ensemble import workers
        print("workers", len(workers._pool))
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "workers 2\n"
