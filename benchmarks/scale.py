"""Sweeps on two local worker processes: throughput, overhead, memory, and what kills do to them.

    python -m benchmarks.scale                  # everything, about eight minutes on two idle cores
    python -m benchmarks.scale throughput       # one part: throughput, overhead, memory or kills
    python -m benchmarks.scale --quick          # a look: a tenth of the work
    python -m benchmarks.scale --write          # keep the numbers in benchmarks/results/scale.json

Each part prints what was promised beside what was measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import pysciml as ps

RESULTS = Path(__file__).with_name("results") / "scale.json"

y1, y2, y3 = ps.variables("y1 y2 y3")
k1, k2, k3 = ps.parameters("k1 k2 k3")
ROBERTSON = ps.Problem(
    ps.System(
        [
            ps.Eq(ps.D(y1), -k1 * y1 + k3 * y2 * y3),
            ps.Eq(ps.D(y2), k1 * y1 - k3 * y2 * y3 - k2 * y2**2),
            ps.Eq(ps.D(y3), k2 * y2**2),
        ],
        name="robertson",
    ),
    {y1: 1.0, y2: 0.0, y3: 0.0},
    (0, 1e4),
    {k1: 0.04, k2: 3e7, k3: 1e4},
)
x, y, z = ps.variables("x y z")
sigma, rho, beta = ps.parameters("sigma rho beta")
LORENZ = ps.Problem(
    ps.System(
        [
            ps.Eq(ps.D(x), sigma * (y - x)),
            ps.Eq(ps.D(y), x * (rho - z) - y),
            ps.Eq(ps.D(z), x * y - beta * z),
        ],
        name="lorenz",
    ),
    {x: 1.0, y: 0.0, z: 0.0},
    (0, 1),
    {sigma: 10.0, rho: 28.0, beta: 8 / 3},
)


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """Some worker processes of one thread each, and a client."""
    import dask
    from distributed import Client, LocalCluster

    with (
        # A local cluster gives up a worker that is not back in time; here they are killed again and again.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
        ) as made,
        Client(made) as client,
    ):
        client.wait_for_workers(workers)
        yield client


def stiff(count: int) -> dict[str, Any]:
    """A sweep of that many stiff solves."""
    side = round(count**0.5)
    return {
        "over": {
            k1: xr.DataArray(np.linspace(0.03, 0.05, side), dims="k1"),
            k3: xr.DataArray(np.linspace(0.8e4, 1.2e4, count // side), dims="k3"),
        },
        "alg": "QNDF",
        "engine": "native",
        "saveat": [1.0, 100.0, 1e4],
    }


def throughput(scale: float) -> dict[str, Any]:
    """Stiff solves a second by one worker and by two; the share of time in which a worker had no block."""
    count = int(20_000 * scale)
    found: dict[str, Any] = {"solves": count}
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3):  # in turns, since the speed of a machine is not the same for minutes
        for workers, each in rates.items():
            with cluster(workers) as client, tempfile.TemporaryDirectory() as folder:
                client.run(_compile)
                before = sum(client.run(time.process_time).values())
                sweep = ps.solve_ensemble(
                    ROBERTSON, executor=client, store=f"{folder}/sweep.zarr", progress=True, **stiff(count)
                )
                used = sum(client.run(time.process_time).values()) - before
            attrs = sweep.attrs
            assert attrs["n_failed"] == attrs["n_retries"] == 0
            each.append(attrs["trajectories_per_second"])
            key = f"solves a processor second, {workers} workers"
            found[key] = max(found.get(key, 0.0), count / used)
            idle = 1 - attrs["busy_seconds"] / (workers * attrs["run_seconds"])
            found[f"blocks, {workers} workers"] = attrs["n_blocks"]
            found[f"block seconds, {workers} workers"] = attrs["busy_seconds"] / attrs["n_blocks"]
            key = f"overhead, {workers} workers"
            found[key] = min(found.get(key, 1.0), idle)
    for workers, each in rates.items():
        found[f"solves a second, {workers} workers"] = each
    found["ratio"] = statistics.median(two / one for one, two in zip(*rates.values(), strict=True))
    promise("two workers reach at least 1.7 times one worker's throughput", found["ratio"] >= 1.7, found["ratio"])
    worst = max(found["overhead, 1 workers"], found["overhead, 2 workers"])
    promise("scheduling overhead under 5 % at the chosen block size", worst < 0.05, worst)
    return found


def _compile() -> None:
    """Have the model compiled in a worker, so that only work is measured."""
    ps.solve(ROBERTSON, "QNDF", engine="native", saveat=[1e4])


def overhead(scale: float) -> dict[str, Any]:
    """What a block costs beside its solves: one trajectory each, kept in memory or written."""
    decay = ps.Problem(ps.System([ps.Eq(ps.D(x), -sigma * x)], name="decay"), {x: 1.0}, (0, 1), {sigma: 1.0})
    found: dict[str, Any] = {}
    count = int(2000 * scale)
    with cluster(2) as client, tempfile.TemporaryDirectory() as folder:
        for where in ("memory", "store"):
            given: dict[str, Any] = {"store": f"{folder}/s.zarr"} if where == "store" else {}
            begin = time.process_time()
            sweep = ps.solve_ensemble(
                decay,
                "Tsit5",
                over={sigma: np.linspace(1, 2, count)},
                engine="native",
                executor=client,
                block_size=1,
                **given,
            )
            found[f"processor seconds of client and scheduler a block, {where}"] = (time.process_time() - begin) / count
            found[f"blocks a second, {where}"] = count / sweep.attrs["run_seconds"]
            found[f"seconds a block, {where}"] = sweep.attrs["run_seconds"] / count
            found[f"of them busy in a worker, {where}"] = sweep.attrs["busy_seconds"] / count
    return found


_MEMORY = """
import json, resource, sys
from distributed import Client
import numpy as np, xarray as xr, pysciml as ps
from benchmarks.scale import LORENZ, beta, rho, streamed

if __name__ == "__main__":
    address, store, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with Client(address) as client:
        sweep = streamed(client, store, count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    attrs = {name: sweep.attrs[name] for name in ("n_failed", "n_blocks", "trajectories_per_second", "run_seconds")}
    print(json.dumps({"client": peak, **attrs}))
"""


def streamed(client: Any, store: str, count: int) -> xr.Dataset:
    """A large sweep, streamed."""
    side = round(count**0.5)
    over = {
        rho: xr.DataArray(np.linspace(20, 30, side), dims="rho"),
        beta: xr.DataArray(np.linspace(2, 3, count // side), dims="beta"),
    }
    return ps.solve_ensemble(
        LORENZ, "Tsit5", over=over, engine="jax", saveat=0.1, executor=client, store=store, progress=True
    )


def peak_memory() -> int:
    """The most memory this process has had, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(scale: float) -> dict[str, Any]:
    """The memory of client and workers while a million trajectories go to disk."""
    count = int(1_000_000 * scale)
    with cluster(2) as client, tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, client.scheduler.address, f"{folder}/s.zarr", str(count)],
            stdout=subprocess.PIPE,
            check=True,
        )
        found = {"trajectories": count, **json.loads(done.stdout)}
        workers = client.run(peak_memory)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        found["files"] = len(files)
        found["bytes on disk"] = sum(path.stat().st_size for path in files)
    found["worker"] = max(workers.values())
    promise("under 1 GB resident in the client", found["client"] < 1e9, f"{found['client'] / 1e9:.2f} GB")
    promise("under 2 GB per worker", found["worker"] < 2e9, f"{found['worker'] / 1e9:.2f} GB")
    return found


_KILLED = """
import sys
from distributed import Client
import pysciml as ps
from benchmarks.scale import ROBERTSON, stiff

if __name__ == "__main__":
    address, store, count, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with Client(address) as client:
        sweep = ps.solve_ensemble(
            ROBERTSON, executor=client, store=store, progress=True, block_size=size, **stiff(count)
        )
    print(sweep.attrs["n_retries"], sweep.attrs["n_workers_lost"], sweep.attrs["n_blocks_computed"])
"""


def kills(scale: float, every: float) -> dict[str, Any]:
    """Kill a worker again and again, and the client once; compare with an undisturbed run."""
    count = int(40_000 * scale)
    found: dict[str, Any] = {"solves": count, "workers killed": 0, "seconds between": every}
    with tempfile.TemporaryDirectory() as folder, cluster(2) as client:
        ps.solve_ensemble(
            ROBERTSON, executor=client, store=f"{folder}/calm.zarr", progress=True, block_seconds=2, **stiff(count)
        )
        expected = content(Path(folder) / "calm.zarr")
        manifest = json.loads((Path(folder) / "calm.zarr" / "pysciml" / "manifest.json").read_text())
        size, total = int(np.prod(manifest["block"])), len(manifest["done"])
        where = f"{folder}/s.zarr"
        arguments = [sys.executable, "-c", _KILLED, client.scheduler.address, where, str(count), str(size)]
        running = subprocess.Popen(arguments, stdout=subprocess.PIPE)
        records = Path(folder) / "s.zarr" / "pysciml" / "done"
        last, client_killed = time.monotonic(), False
        while running.poll() is None:
            time.sleep(0.1)
            if not client_killed and len(list(records.glob("*.json"))) >= total // 2:
                running.send_signal(signal.SIGKILL)
                running.wait()
                found["blocks done when the client was killed"] = len(list(records.glob("*.json")))
                running, client_killed = subprocess.Popen(arguments, stdout=subprocess.PIPE), True
            if time.monotonic() - last > every:
                last = time.monotonic()
                victims = list(client.run(os.getpid, on_error="ignore").values())
                for victim in victims[-1:]:
                    os.kill(victim, signal.SIGKILL)
                    found["workers killed"] += 1
        output = running.communicate()[0].split()
        found |= dict(
            zip(("retries seen", "workers lost seen", "blocks of the second client"), map(int, output), strict=True)
        )
        found["blocks"] = total
        found["client killed"] = client_killed
        found["the same bytes"] = content(Path(folder) / "s.zarr") == expected
    fine = found["the same bytes"] and client_killed and found["workers killed"] > 0
    promise("the final store equals an undisturbed run's, bit for bit", fine, found)
    return found


def content(store: Path) -> dict[str, bytes]:
    """Every file of a store but its books."""
    files = (path for path in store.rglob("*") if path.is_file())
    return {
        name: path.read_bytes() for path in files if not (name := str(path.relative_to(store))).startswith("pysciml/")
    }


def promise(text: str, holds: bool, measured: Any) -> None:
    """Say what was promised, and whether it holds."""
    shown = f"{measured:.3g}" if isinstance(measured, float) else measured
    print(f"{'holds' if holds else 'DOES NOT HOLD'}: {text}: {shown}", flush=True)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("throughput", "overhead", "memory", "kills")
    parser.add_argument("part", nargs="?", choices=parts)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--write", action="store_true", help="keep the numbers")
    parser.add_argument("--every", type=float, help="seconds between two kills (10; 3 with --quick)")
    options = parser.parse_args()
    scale = 0.1 if options.quick else 1.0
    every = options.every or (3.0 if options.quick else 10.0)
    measures = {
        "throughput": lambda: throughput(scale),
        "overhead": lambda: overhead(scale),
        "memory": lambda: memory(scale),
        "kills": lambda: kills(scale, every),
    }
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if options.write and RESULTS.exists() else {}
    for part in parts:
        if options.part in (None, part):
            begin = time.perf_counter()
            found[part] = measures[part]()
            print(json.dumps({part: found[part]}, indent=1), f"({time.perf_counter() - begin:.0f} s)", flush=True)
    found["machine"] = f"{platform.system()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    if options.write:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
