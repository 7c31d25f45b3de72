"""Sweeps on a Dask cluster whose processes are really killed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr

import pysciml as ps
from tests.ensemble.faulty import KILL, RAISE, SLOW, WAIT
from tests.ensemble.sweeps import PATIENCE, arguments, content, problem, until

pytestmark = pytest.mark.filterwarnings("default")  # of the cluster's own libraries


@pytest.fixture(scope="module")
def cluster(plugin, faults_root):
    """Two worker processes of one thread, with nannies that replace the killed."""
    import dask
    from distributed import LocalCluster

    quiet = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.comm.timeouts.connect": "60s",
        "distributed.deploy.lost-worker-timeout": "1h",  # on a busy machine a nanny may take long
        "distributed.admin.system-monitor.gil.enabled": False,
    }
    with (
        dask.config.set(quiet),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL) as made,
    ):
        yield made


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster, set_as_default=False) as made:
        made.wait_for_workers(2, timeout=PATIENCE)
        yield made


@pytest.fixture(scope="module")
def undisturbed(plugin, tmp_path_factory):
    """What a run without cluster or fault leaves: that of the sweep itself, and one with a trajectory that waits."""
    folder = tmp_path_factory.mktemp("undisturbed")
    faults = os.environ.pop("PYSCIML_FAULTS", None)
    found = {}
    for kind in (0.0, WAIT):
        ps.solve_ensemble(problem(), store=folder / f"{kind}.zarr", **arguments(faults=[(22, kind)]))
        found[kind] = content(folder / f"{kind}.zarr")
    if faults is not None:
        os.environ["PYSCIML_FAULTS"] = faults
    return found


def in_background(call):
    """Run something while the test does other things."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


def test_a_cluster_and_a_process_of_its_own_give_the_same_bytes(client, faults, undisturbed, tmp_path):
    sweep = ps.solve_ensemble(problem(), executor=client, store=tmp_path / "s", **arguments())
    assert content(tmp_path / "s") == undisturbed[0.0]
    assert (sweep.attrs["n_blocks"], sweep.attrs["n_retries"]) == (8, 0)
    held = ps.solve_ensemble(problem(), executor=client, **arguments(block_size=7))
    for name in ("x", "double", "retcode", "a", "fault"):
        xr.testing.assert_identical(held[name].variable, sweep[name].variable.compute())
    # each process took the model apart once for each of the two runs
    models = {(process, model) for process, _, model in faults.lines()}
    assert len(models) <= 2 * len({process for process, _ in models})


def test_progress_names_the_dashboard(client, faults, capsys, monkeypatch):
    monkeypatch.setattr(type(client), "dashboard_link", "http://somewhere:8787/status")
    ps.solve_ensemble(problem(), executor=client, progress=True, **arguments())
    written = capsys.readouterr().err
    assert "dashboard http://somewhere:8787/status" in written
    assert "8 of 8 blocks, 40 of 40 trajectories" in written


def test_a_worker_killed_in_mid_block_costs_nothing_but_time(client, faults, undisturbed, tmp_path):
    store = tmp_path / "sweep.zarr"
    running = in_background(
        lambda: ps.solve_ensemble(problem(), executor=client, store=store, **arguments(faults=[(22, WAIT)]))
    )
    victim = until(faults.waiting, "a block under way")[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: set(faults.waiting()) - {victim}, "the block on another worker")
    faults.go()
    sweep = running.result(PATIENCE)
    assert content(store) == undisturbed[WAIT]
    assert sweep.attrs["n_retries"] == 1
    assert sweep.attrs["n_blocks_failed"] == 0
    waited = repr(float(sweep.a.values[22]))
    assert len({process for process, rate, _ in faults.lines() if rate == waited}) == 2


def test_blocks_that_always_fail_are_nan_and_the_rest_finishes(client, faults, tmp_path):
    """One raises, one kills whatever process takes it."""
    given = arguments(faults=[(12, RAISE), (33, KILL)])
    sweep = ps.solve_ensemble(problem(), executor=client, store=tmp_path / "s", retries=0, **given)
    failed = np.isin(np.arange(40) // 5, [2, 6])
    np.testing.assert_array_equal(sweep.retcode == "Failure", failed)
    np.testing.assert_array_equal(np.isnan(sweep.x).all("t"), failed)
    np.testing.assert_allclose(sweep.x[~failed], np.exp(-sweep.a * sweep.t)[~failed], rtol=1e-15)
    read = xr.open_zarr(tmp_path / "s")
    assert read.error.values[12] == "RuntimeError: the rate 0.961538 is not to be had"
    assert read.error.values[33].startswith("KilledWorker: ")
    assert sweep.attrs["n_blocks_failed"] == 2
    faults.mend()
    again = ps.solve_ensemble(problem(), executor=client, store=tmp_path / "s", **given)
    assert (again.retcode == "Success").all()
    assert again.attrs["n_blocks_computed"] == 2


CLIENT = """
import sys
from distributed import Client
import pysciml as ps
from tests.ensemble.sweeps import arguments, problem
from tests.ensemble.faulty import SLOW, WAIT

if __name__ == "__main__":
    address, what = sys.argv[1:]
    slow = [(i, SLOW) for i in range(20_000)]
    given = arguments(faults=[(22, WAIT)]) if what == "wait" else arguments(20_000, 10_000, slow)
    with Client(address) as client:
        try:
            ps.solve_ensemble(problem(), executor=client, store="sweep.zarr", **given)
        except KeyboardInterrupt as stopped:
            print(f"interrupted: {stopped}; {stopped.partial.sizes['n']}", flush=True)
            sys.exit(3)
        except ps.SolverError as error:
            print(f"lost: {error}; {int((error.partial.retcode == 'Success').sum())}", flush=True)
            sys.exit(4)
"""


@pytest.fixture
def start_client(faults, tmp_path):
    """Start the script above; whatever happens, it is ended."""
    started = []

    def start(address, what):
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, address, what],
            cwd=tmp_path,
            env=faults.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_client_killed_and_started_again_goes_on(client, faults, undisturbed, tmp_path, start_client):
    first = start_client(client.scheduler.address, "wait")
    until(faults.waiting, "a block under way", first)
    done = tmp_path / "sweep.zarr" / "pysciml" / "done"
    until(lambda: len(list(done.glob("*.json"))) == 7, "the other blocks", first)  # none stays behind it
    os.kill(first.pid, signal.SIGKILL)
    first.wait(PATIENCE)
    finished = [int(path.stem) for path in done.glob("*.json")]
    faults.go()
    sweep = ps.solve_ensemble(
        problem(), executor=client, store=tmp_path / "sweep.zarr", **arguments(faults=[(22, WAIT)])
    )
    assert content(tmp_path / "sweep.zarr") == undisturbed[WAIT]
    assert sweep.attrs["n_blocks_computed"] <= 2  # 0 where the worker that was left behind has been faster
    rates = [rate for _, rate, _ in faults.lines()]
    for number in finished:
        assert {rates.count(repr(float(rate))) for rate in sweep.a.values[5 * number : 5 * number + 5]} == {1}


def test_ctrl_c_stops_the_workers_and_keeps_what_is_done(client, faults, tmp_path, start_client):
    process = start_client(client.scheduler.address, "slow")
    until(lambda: len(faults.lines()) > 10, "blocks under way", process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, errors
    assert "interrupted: decay: interrupted; 0 of 2 blocks are in" in output
    assert "the same call goes on from there; 20000" in output
    # A worker that still took its block's 200 seconds could not answer.
    for future in [client.submit(os.getpid, workers=[w], pure=False) for w in client.scheduler_info()["workers"]]:
        future.result(timeout=PATIENCE)
    assert len(faults.lines()) < 20_000
    assert xr.open_zarr(tmp_path / "sweep.zarr").sizes["n"] == 20_000


def test_the_scheduler_lost_is_said_and_the_rest_is_done_without_it(faults, undisturbed, tmp_path, start_client):
    folder = tmp_path / "cluster"
    folder.mkdir()
    address = folder / "address.json"
    quiet = faults.environment() | {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s"}
    options = ["--scheduler-file", str(address)]
    dask = [sys.executable, "-m", "dask"]
    processes = [
        subprocess.Popen([*dask, what, *options, *more], cwd=folder, env=quiet, stderr=subprocess.DEVNULL)
        for what, more in (
            ("scheduler", ["--port", "0", "--no-dashboard", "--host", "127.0.0.1"]),
            ("worker", ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "20"]),
        )
    ]
    try:
        until(address.exists, "the scheduler", processes[0])
        import json

        until(lambda: address.read_text().endswith("}"), "its address", processes[0])
        client = start_client(json.loads(address.read_text())["address"], "wait")
        until(faults.waiting, "a block under way", client)
        until(lambda: len({rate for _, rate, _ in faults.lines()}) >= 23, "blocks before it", client)
        processes[0].send_signal(signal.SIGKILL)
        output, errors = client.communicate(timeout=PATIENCE)
        assert client.returncode == 4, errors
        assert "the scheduler was lost" in output
        assert "the same call with a new client goes on from there; 20" in output
    finally:
        for process in processes:
            process.kill()
            process.wait()
    faults.go()
    sweep = ps.solve_ensemble(problem(), store=tmp_path / "sweep.zarr", **arguments(faults=[(22, WAIT)]))
    assert sweep.attrs["n_blocks_computed"] == 4
    assert content(tmp_path / "sweep.zarr") == undisturbed[WAIT]


def test_a_store_that_takes_no_more_ends_the_run_and_nothing_is_taken_for_failed(client, faults, tmp_path):
    store = tmp_path / "sweep.zarr"
    given = arguments(faults=[(22, WAIT)])
    running = in_background(lambda: ps.solve_ensemble(problem(), executor=client, store=store, retries=1, **given))
    until(faults.waiting, "a block under way")
    until(
        lambda: len(list((store / "pysciml" / "done").glob("*.json"))) == 7, "the other blocks"
    )  # none stays behind it
    (store / "double" / "c" / "4").write_text("in the way")
    faults.go()
    with pytest.raises(ps.SolverError, match=r"can no longer be stored: .*; 7 of 8 blocks are in") as caught:
        running.result(PATIENCE)
    assert (caught.value.partial.retcode == "Success").sum() == 35
    assert "error" not in caught.value.partial
    (store / "double" / "c" / "4").unlink()
    again = ps.solve_ensemble(problem(), executor=client, store=store, **given)
    assert again.attrs["n_blocks_computed"] <= 2
    assert (again.retcode == "Success").all()


def test_a_store_that_workers_cannot_see_is_refused(client, faults):
    with pytest.raises(ps.PySciMLError, match="does not see memory://"):
        ps.solve_ensemble(problem(), executor=client, store="memory://mine/sweep.zarr", **arguments())
    assert faults.lines() == []


def test_numbers_too_many_to_send_to_everybody_go_with_their_blocks(client, faults, monkeypatch):
    monkeypatch.setattr("pysciml.ensemble.job._SMALL", 10)
    sweep = ps.solve_ensemble(problem(), executor=client, **arguments(faults=[(3, SLOW)]))
    np.testing.assert_allclose(sweep.x, np.exp(-sweep.a * sweep.t), rtol=1e-15)
    lazy = ps.solve_ensemble(problem(), chunks={"n": 9}, **{k: v for k, v in arguments().items() if k != "block_size"})
    np.testing.assert_allclose(lazy.x, np.exp(-lazy.a * lazy.t), rtol=1e-15)
