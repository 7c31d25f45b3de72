"""The same numbers to the last bit, however a sweep is divided: by blocks, chunks, processes, or not at all."""

from __future__ import annotations

import io

import numpy as np
import pytest
import xarray as xr

import pysciml as ps
from pysciml.engines.base import SolveOptions
from pysciml.engines.batch import BatchOptions
from pysciml.engines.jax import many
from pysciml.engines.native import auto, repeatable, stepping
from pysciml.ensemble.grid import Grid, divide
from pysciml.ensemble.inputs import Inputs, Varying
from pysciml.ensemble.job import Job
from pysciml.ensemble.messages import receive, send
from pysciml.ensemble.work import choose_grid, largest_block

D = ps.D
x, y = ps.variables("x y")
a, b = ps.parameters("a b")
W, V = ps.brownian("W V")


@pytest.fixture(autouse=True)
def _cache(monkeypatch):
    monkeypatch.setenv("PYSCIML_CACHE_DIR", "")


@pytest.fixture(scope="module")
def stiff():
    """Van der Pol: which method it takes, and what share of the tolerance, varies over the sweep."""
    system = ps.System([ps.Eq(D(x), y), ps.Eq(D(y), a * (1 - x**2) * y - x)], observed={"sum": x + y}, name="vdp")
    return ps.Problem(system, {x: 2.0, y: 0.0}, (0, 3), {a: 1.0})


@pytest.fixture(scope="module")
def noisy():
    system = ps.System([ps.Eq(D(x), -a * x + b * x * W), ps.Eq(D(y), x - y + 0.1 * V)], name="noisy")
    return ps.Problem(system, {x: 1.0, y: 0.0}, (0, 1), {a: 1.0, b: 0.5})


def same(found, expected):
    for name in expected.data_vars:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def over():
    return {
        a: xr.DataArray(np.geomspace(0.5, 1e6, 13), dims="a"),
        x: xr.DataArray([1.0, 2.0, 2.05], dims="start"),
    }


def test_the_native_engine_s_own_choices_do_not_depend_on_the_layout(stiff, tmp_path):
    given = {"over": over(), "engine": "native", "saveat": [1.0, 3.0]}
    whole = ps.solve_ensemble(stiff, **given, workers=1)
    assert "QNDF" in whole.attrs["algorithm"]
    assert "Tsit5" in whole.attrs["algorithm"]
    repeatable._lessons.clear()
    same(ps.solve_ensemble(stiff, store=tmp_path / "s", block_size=4, workers=1, **given), whole)
    repeatable._lessons.clear()
    same(ps.solve_ensemble(stiff, chunks={"a": 5, "start": 2}, **given).compute(scheduler="sync"), whole)
    repeatable._lessons.clear()
    backward = {a: over()[a][::-1], x: over()[x][::-1]}
    turned = ps.solve_ensemble(stiff, **(given | {"over": backward}), workers=1)
    same(turned.isel(a=slice(None, None, -1), start=slice(None, None, -1)), whole)


@pytest.mark.parametrize(("ratio", "near"), [(repeatable._DECIDED, auto._NEAR), (repeatable._PLANNED, stepping._NEAR)])
def test_cells_are_near_what_is_in_them(ratio, near):
    values = np.array([1.0, 1.04, 1.2, 3e8, -2.0, 0.0, 5e-324, -0.5, 1e-310])
    origin = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, -1.0])
    found = repeatable.centre(values, origin, ratio)
    assert found[0] == found[1] == 1.0
    assert (np.abs(found - values) <= near * np.maximum(np.abs(values), np.abs(found))).all()


@pytest.mark.parametrize("alg", ["EM", None])
def test_paths_of_stochastic_equations_do_not_depend_on_the_layout(noisy, tmp_path, monkeypatch, alg):
    given = {"over": {b: [0.1, 0.5]}, "trajectories": 60, "engine": "jax", "dt": 0.02, "saveat": 0.5, "seed": 7}
    whole = ps.solve_ensemble(noisy, alg, **given)
    monkeypatch.setattr(many, "_CACHE", 1)  # compiled for 64 at a time, not 128
    same(ps.solve_ensemble(noisy, alg, store=tmp_path / "s", block_size=31, **given), whole)
    lazy = ps.solve_ensemble(noisy, alg, chunks={"trajectory": 47}, **given)
    same(lazy.compute(scheduler="sync"), whole)
    assert lazy.attrs["seed"] == 7


def test_a_seed_that_was_not_given_is_drawn_once_and_kept(noisy, tmp_path):
    given = {"trajectories": 6, "engine": "jax", "dt": 0.1, "block_size": 2}
    first = ps.solve_ensemble(noisy, "EM", store=tmp_path / "s", **given)
    again = ps.solve_ensemble(noisy, "EM", store=tmp_path / "s", **given)  # the same store, not another problem
    same(again, first)
    assert ps.solve_ensemble(noisy, "EM", seed=first.attrs["seed"], trajectories=6, engine="jax", dt=0.1).equals(
        first.compute()
    )
    with pytest.raises(ps.ProblemError, match=f"seed \\({first.attrs['seed']} there, 1 here\\)"):
        ps.solve_ensemble(noisy, "EM", store=tmp_path / "s", seed=1, **given)


def test_a_lazy_sweep_computes_what_is_asked_for(stiff, monkeypatch):
    solved = []
    solve = Job.solve

    def count(self, trajectories, *args, **options):
        solved.extend(trajectories.tolist())
        return solve(self, trajectories, *args, **options)

    monkeypatch.setattr(Job, "solve", count)
    sweep = ps.solve_ensemble(
        stiff, "Tsit5", over={a: np.linspace(1, 2, 12)}, chunks={"a": 4}, saveat=1.0, engine="native"
    )
    assert solved == []
    assert sweep.x.chunks == ((4, 4, 4), (4,))
    part = sweep.isel(a=slice(5, 7)).compute(scheduler="sync")
    assert sorted(solved) == [4, 5, 6, 7]
    solved.clear()
    found = sweep.mean("a").compute(scheduler="sync")
    assert sorted(solved) == list(range(12))  # once for all variables
    whole = ps.solve_ensemble(stiff, "Tsit5", over={a: np.linspace(1, 2, 12)}, saveat=1.0, engine="native", workers=1)
    same(part, whole.isel(a=slice(5, 7)))
    xr.testing.assert_allclose(found, whole.drop_vars("retcode").mean("a"), rtol=1e-14)


def test_the_job_travels_as_arrays(noisy):
    inputs = Inputs(noisy.u0, noisy.p, (5, 7), (Varying(False, 1, (1,), np.linspace(0, 1, 7)),))
    options = BatchOptions(SolveOptions(saveat=np.array([0.5, 1.0]), seed=3, dt=0.1), 2**20, 1)
    job = Job(noisy.system.model, "jax", "EM", (0.0, 1.0), options, inputs)
    packed = job.pack()
    assert b"sympy" not in packed
    assert len(packed) < 20_000
    again = Job.unpack(packed)
    assert again.model.hash == job.model.hash
    assert again.model.noise_type == job.model.noise_type
    some = np.array([3, 20, 34])
    for found, expected in zip(again.inputs.at(some), job.inputs.at(some), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(again.solve(some).values, job.solve(some).values)


def test_messages_hold_no_objects():
    with pytest.raises(ValueError, match="Object arrays cannot be"):
        send(io.BytesIO(), {}, {"thing": np.array([{}], dtype=object)})
    stream = io.BytesIO()
    send(stream, {"n": 1}, {"v": np.arange(3)})
    stream.seek(0)
    header, arrays = receive(stream)
    assert header == {"n": 1}
    np.testing.assert_array_equal(arrays["v"], [0, 1, 2])
    assert receive(stream) is None


@pytest.mark.parametrize("shape", [(1,), (17,), (3, 5), (4, 1, 6), (2, 3, 4, 5)])
@pytest.mark.parametrize("size", [1, 2, 5, 12, 1000])
def test_blocks_cover_a_sweep_once(shape, size):
    grid = divide(shape, size)
    together = np.concatenate([grid.trajectories(grid.box(n)) for n in range(len(grid))])
    np.testing.assert_array_equal(together, np.arange(grid.size))  # neighbours stay together
    assert max(len(grid.trajectories(grid.box(n))) for n in range(len(grid))) <= size
    odd = Grid(shape, tuple(max(1, n // 2) for n in shape))
    together = np.concatenate([odd.trajectories(odd.box(n)) for n in range(len(odd))])
    np.testing.assert_array_equal(np.sort(together), np.arange(odd.size))


def test_a_block_fits_the_time_the_memory_and_the_number_of_workers(stiff):
    inputs = Inputs(stiff.u0, stiff.p, (1000, 1000), ())
    options = BatchOptions(SolveOptions(saveat=np.linspace(0, 3, 301)), 2**28, 1)
    job = Job(stiff.system.model, "native", None, (0.0, 3.0), options, inputs)
    size = np.prod(choose_grid(job, 1e-3, 5.0, None, 4).block)
    assert 2500 <= size <= 5000
    assert np.prod(choose_grid(job, 1e-9, 5.0, None, 4).block) * job.bytes_each * 4 <= 2**28
    assert largest_block(job) * job.bytes_each * 4 <= 2**28
    assert len(choose_grid(job, 1e-9, 1e9, None, 1000)) >= 8000
    assert choose_grid(job, 1e-3, 5.0, 300, 4).block == (1, 250)
