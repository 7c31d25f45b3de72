"""Streaming to a store, in this process: readable at any moment, resumed, checked, refused."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem

import pysciml as ps
from pysciml.ensemble.arrays import inner_chunks
from tests.ensemble.faulty import RAISE, SLOW, WAIT, FaultyEngine
from tests.ensemble.sweeps import a, arguments, content, fault, problem, until


@pytest.fixture(scope="module")
def undisturbed(plugin, tmp_path_factory):
    """What an undisturbed run leaves."""
    store = tmp_path_factory.mktemp("undisturbed") / "sweep.zarr"
    ps.solve_ensemble(problem(), store=store, **arguments())
    return content(store)


def solved(faults, process):
    return [rate for number, rate, _ in faults.lines() if number == process]


def test_a_store_holds_the_sweep_and_says_where_it_comes_from(faults, tmp_path):
    store = tmp_path / "sweep.zarr"
    sweep = ps.solve_ensemble(problem(), store=store, **arguments())
    read = xr.open_zarr(store)  # with no help of ours
    exact = np.exp(-read.a * read.t)
    np.testing.assert_allclose(read.x, exact, rtol=1e-15)
    np.testing.assert_allclose(read.double, 2 * exact, rtol=1e-15)
    assert set(read.retcode.values.tolist()) == {"Success"}
    assert list(sweep) == ["x", "double", "retcode"]
    assert sweep.x.dims == ("n", "t")
    assert sweep.x.chunks == ((5,) * 8, (3,))
    assert read.attrs["model_hash"] == problem().system.model.hash
    known = {"engine": "faulty", "algorithm": "Exact", "n_trajectories": 40, "n_failed": 0, "model": "decay"}
    assert known.items() <= read.attrs.items()
    assert "faulty 1.0, numpy" in read.attrs["versions"]
    assert sweep.attrs["n_blocks"] == 8
    sweep.to_netcdf(tmp_path / "sweep.nc", engine="h5netcdf")
    manifest = json.loads((store / "pysciml" / "manifest.json").read_text())
    assert manifest["identity"]["model"] == read.attrs["model_hash"]
    assert len(manifest["done"]) == 8
    assert list((store / "pysciml" / "done").iterdir()) == []  # gathered


def test_it_is_readable_at_any_moment(faults, tmp_path, monkeypatch):
    store = tmp_path / "sweep.zarr"
    seen = []
    solve = FaultyEngine.solve

    def look(self, *args):
        if (store / "zarr.json").exists():
            now = xr.open_zarr(store)
            done = now.retcode.values == "Success"
            np.testing.assert_array_equal(np.isfinite(now.x.values).all("t" and 1), done)
            seen.append(int(done.sum()))
        return solve(self, *args)

    monkeypatch.setattr("faulty_engine.FaultyEngine.solve", look)
    ps.solve_ensemble(problem(), store=store, workers=1, **arguments(20, 5))
    assert seen == [5 * (i // 5) for i in range(20)]


def test_a_finished_store_is_not_computed_again_nor_changed(faults, tmp_path):
    store = tmp_path / "sweep.zarr"
    first = ps.solve_ensemble(problem(), store=store, **arguments())
    before, lines = content(store), len(faults.lines())
    again = ps.solve_ensemble(problem(), store=str(store), **arguments())
    assert len(faults.lines()) == lines
    assert content(store) == before
    xr.testing.assert_equal(first.compute(), again.compute())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rtol": 1e-7}, "rtol \\(1e-06 there, 1e-07 here\\)"),
        ({"saveat": [0.5, 1.0]}, "differs in saveat"),
        ({"over": {a: np.linspace(1, 2, 40)}}, "differs in over"),
    ],
)
def test_another_problem_is_refused(faults, tmp_path, change, message):
    ps.solve_ensemble(problem(), store=tmp_path / "s", **arguments(5))
    before = content(tmp_path / "s")
    with pytest.raises(ps.ProblemError, match=message):
        ps.solve_ensemble(problem(), store=tmp_path / "s", **(arguments(5) | change))
    assert content(tmp_path / "s") == before


def test_another_model_is_refused_and_what_is_no_sweep_is_never_touched(faults, tmp_path):
    ps.solve_ensemble(problem(), store=tmp_path / "s", **arguments(5))
    x = ps.variables("x")
    system = ps.System([ps.Eq(ps.D(x), -2 * a * x)], parameters=[a, fault], observed={"double": 2 * x}, name="decay")
    other = ps.Problem(system, {x: 1.0}, (0, 1), {a: 1.0, fault: 0.0})
    with pytest.raises(ps.ProblemError, match="another problem: it differs in model"):
        ps.solve_ensemble(other, store=tmp_path / "s", **arguments(5))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ps.ProblemError, match="is not a sweep of pysciml; nothing is ever overwritten"):
        ps.solve_ensemble(problem(), store=mine, **arguments(5))
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("where", ["memory", "mapper", "file"])
def test_any_file_system_of_fsspec_will_do(faults, tmp_path, where, undisturbed):
    store = f"file://{tmp_path}/sweep.zarr" if where == "file" else f"memory://{tmp_path.name}/sweep.zarr"
    given = fsspec.get_mapper(store) if where == "mapper" else store
    sweep = ps.solve_ensemble(problem(), store=given, **arguments())
    np.testing.assert_allclose(sweep.x, np.exp(-sweep.a * sweep.t), rtol=1e-15)
    found = dict(fsspec.get_mapper(store))
    assert {name: bytes(found[name]) for name in undisturbed} == undisturbed
    lines = len(faults.lines())
    ps.solve_ensemble(problem(), store=given, **arguments())
    assert len(faults.lines()) == lines


@pytest.mark.parametrize("damage", ["flipped", "cut", "deleted", "codes"])
def test_a_damaged_block_is_seen_and_computed_again(faults, tmp_path, undisturbed, damage, caplog):
    store = tmp_path / "sweep.zarr"
    ps.solve_ensemble(problem(), store=store, **arguments())
    chunk = store / "retcode" / "c" / "3" if damage == "codes" else store / "x" / "c" / "3" / "0"
    damaged = bytearray(chunk.read_bytes())
    if damage == "deleted":
        chunk.unlink()
    elif damage == "cut":
        chunk.write_bytes(damaged[:-7])
    else:
        damaged[len(damaged) // 2] ^= 0x10
        chunk.write_bytes(damaged)
    lines = len(faults.lines())
    with caplog.at_level(logging.WARNING, logger="pysciml.ensemble.store"):
        ps.solve_ensemble(problem(), store=store, **arguments())
    assert ["block 3" in record.message and "damaged" in record.message for record in caplog.records] == [True]
    assert len(faults.lines()) == lines + 5
    assert content(store) == undisturbed


def test_a_store_that_was_never_finished_being_made_is_made(faults, tmp_path, undisturbed):
    store = tmp_path / "sweep.zarr"
    ps.solve_ensemble(problem(), store=store, **arguments())
    manifest = json.loads((store / "pysciml" / "manifest.json").read_text())
    manifest["done"] = []
    for path in sorted(store.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (store / "pysciml").mkdir()
    (store / "pysciml" / "manifest.json").write_text(json.dumps(manifest))
    ps.solve_ensemble(problem(), store=store, **arguments())
    assert content(store) == undisturbed


class Full(MemoryFileSystem):
    """A disk on which no more than so many files find room."""

    cachable = False
    store: dict = {}
    pseudo_dirs = [""]
    room = 0

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        if len(self.store) >= Full.room and path not in self.store:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().pipe_file(path, value, mode=mode, **kwargs)


def test_a_full_disk_ends_the_run_and_loses_nothing(faults, undisturbed):
    place = fsspec.FSMap("/sweep.zarr", Full())
    # All but the blocks' three chunks each, the manifest, and then three blocks with their records and a half.
    Full.room = len(undisturbed) - 8 * 3 + 1 + 3 * 4 + 2
    with pytest.raises(ps.SolverError, match=r"can no longer be stored: .*No space left on device.*goes on") as caught:
        ps.solve_ensemble(problem(), store=place, **arguments())
    partial = caught.value.partial.compute()
    done = partial.retcode.values == "Success"
    assert done.sum() == 15
    np.testing.assert_allclose(partial.x[done], np.exp(-partial.a * partial.t)[done], rtol=1e-15)
    before = len(faults.lines())
    Full.room = 10**9
    ps.solve_ensemble(problem(), store=place, **arguments())
    assert len(faults.lines()) - before == 40 - done.sum()
    found = dict(place)
    assert {name: bytes(found[name]) for name in undisturbed} == undisturbed


def test_a_real_limit_on_files_is_a_full_disk_too(faults, tmp_path):
    script = """
        import resource, signal
        import pysciml as ps
        from tests.ensemble.sweeps import arguments, problem
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        given = arguments(1_000, 500) | {"saveat": 0.01}  # blocks of 400 kB
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            ps.solve_ensemble(problem(), store="sweep.zarr", **given)
        except ps.SolverError as error:
            print(error)
    """
    environment = faults.environment()
    del environment["PYSCIML_FAULTS"]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "can no longer be stored" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert xr.open_zarr(tmp_path / "sweep.zarr").sizes["n"] == 1_000
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_block_that_always_fails_is_nan_and_says_why_and_a_later_call_tries_it_again(faults, tmp_path, undisturbed):
    store = tmp_path / "sweep.zarr"
    given = arguments(faults=[(12, RAISE)])
    sweep = ps.solve_ensemble(problem(), store=store, retries=2, workers=1, **given)
    read = xr.open_zarr(store)
    failed = np.zeros(40, dtype=bool)
    failed[10:15] = True  # its block
    np.testing.assert_array_equal(read.retcode == "Failure", failed)
    np.testing.assert_array_equal(np.isnan(read.x).all("t"), failed)
    assert (read.retcode[~failed] == "Success").all()
    assert set(read.error.values[failed].tolist()) == {"RuntimeError: the rate 0.961538 is not to be had"}
    assert set(read.error.values[~failed].tolist()) == {""}
    assert read.attrs["n_failed"] == 5
    assert (sweep.attrs["n_blocks_failed"], sweep.attrs["n_retries"]) == (1, 2)
    lines = len(faults.lines())
    faults.mend()
    sweep = ps.solve_ensemble(problem(), store=store, **given)
    assert len(faults.lines()) == lines + 5
    assert "error" not in xr.open_zarr(store)
    np.testing.assert_allclose(sweep.x, np.exp(-sweep.a * sweep.t), rtol=1e-15)


def test_a_block_that_fails_once_is_tried_again(faults, tmp_path, undisturbed, monkeypatch):
    store = tmp_path / "sweep.zarr"
    solve, calls = FaultyEngine.solve, []

    def fail_once(self, *args):
        calls.append(args)
        if len(calls) == 13:
            raise MemoryError("for once")
        return solve(self, *args)

    monkeypatch.setattr("faulty_engine.FaultyEngine.solve", fail_once)
    sweep = ps.solve_ensemble(problem(), store=store, workers=1, **arguments())
    assert sweep.attrs["n_retries"] == 1
    assert content(store) == undisturbed


# A shell's background job ignores Ctrl-C, and so would what it starts.
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np, pysciml as ps
from tests.ensemble.sweeps import arguments, problem

try:
    ps.solve_ensemble(problem(), store="sweep.zarr", workers=1, **arguments(faults=[(22, {kind})]))
except KeyboardInterrupt as stopped:
    done = int((stopped.partial.retcode == "Success").sum())
    print("interrupted", done, stopped)
    sys.exit(3)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_or_interrupted_process_loses_no_finished_block(faults, tmp_path, sent):
    client = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(kind=WAIT)],
        cwd=tmp_path,
        env=faults.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    until(faults.waiting, "the trajectory that waits", client)
    client.send_signal(sent)
    output, _ = client.communicate(timeout=60)
    if sent == signal.SIGINT:
        assert client.returncode == 3
        assert output.startswith("interrupted 20 decay: interrupted; 4 of 8 blocks are in ")
    else:
        assert client.returncode == -signal.SIGKILL
    assert len(solved(faults, client.pid)) == 23
    faults.go()
    sweep = ps.solve_ensemble(problem(), store=tmp_path / "sweep.zarr", **arguments(faults=[(22, WAIT)]))
    assert solved(faults, os.getpid()) == [repr(float(rate)) for rate in sweep.a.values[20:]]
    reference = tmp_path / "reference.zarr"
    ps.solve_ensemble(problem(), store=reference, **arguments(faults=[(22, WAIT)]))
    assert content(tmp_path / "sweep.zarr") == content(reference)


def test_progress_says_how_far_how_fast_and_what_came_of_it(faults, tmp_path, capsys):
    ps.solve_ensemble(problem(), store=tmp_path / "s", progress=True, workers=1, **arguments(faults=[(0, SLOW)]))
    written = capsys.readouterr().err
    assert "8 of 8 blocks, 40 of 40 trajectories, " in written
    assert "/s, " in written
    assert " left" in written
    assert "decay: 8 of 8 blocks computed in" in written
    assert "0 retries, 0 failed" in written
    ps.solve_ensemble(problem(), store=tmp_path / "s", progress=True, **arguments(faults=[(0, SLOW)]))
    assert "going on: 8 of 8 blocks are there already" in capsys.readouterr().err


def test_large_blocks_are_shards_of_smaller_chunks():
    assert inner_chunks((10, 100, 3), 8) == (10, 100, 3)
    block = (1, 1000, 50, 1001)  # 400 MB
    chunks = inner_chunks(block, 8)
    assert chunks[0::2] == (1, 50)
    assert chunks[3] == 1001
    assert 1000 % chunks[1] == 0
    assert 8 * np.prod(chunks) <= 2**25


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"store": "/proc/sweep.zarr"}, "store: /proc/sweep.zarr cannot be used: "),
        ({"store": 3}, "store must be a path"),
        ({"store": "nowhere://x"}, "store: Protocol not known: nowhere"),
        ({"executor": "client"}, "executor must be a dask.distributed.Client, not str"),
        ({"store": "s", "block_seconds": 0}, "block_seconds must be positive"),
        ({"store": "s", "block_size": 0}, "block_size must be an integer, 1 or more"),
        ({"store": "s", "retries": -1}, "retries must be an integer, 0 or more"),
        ({"chunks": {"m": 3}}, "'m' is no dimension of the sweep \\(n\\)"),
        ({"chunks": {"n": 0}}, "the size along 'n' must be 1 or more"),
        ({"chunks": 5, "store": "s"}, "chunks= gives a Dataset that is computed later"),
    ],
)
def test_bad_options_are_refused_by_name(faults, option, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ps.ProblemError, match=message):
        ps.solve_ensemble(problem(), **(arguments(5) | option))
    assert faults.lines() == []
    assert list(Path().iterdir()) == []
