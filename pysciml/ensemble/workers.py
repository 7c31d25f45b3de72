"""Worker processes for engines that hold Python's lock.

The workers are plain child processes that talk through their standard streams, not those of
`multiprocessing`, which would run the user's script again in each of them. What goes through is
arrays and JSON.
"""

from __future__ import annotations

import atexit
import os
import queue
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pysciml.engines.batch import Batch, BatchOptions
from pysciml.ensemble.messages import pack_model, receive, send
from pysciml.errors import PySciMLError
from pysciml.graph import Model

_pool: list[Worker] = []


class Worker:
    """One child process, and the model it has."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pysciml.ensemble.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._model = ""

    def ask(self, header: dict[str, Any], arrays: dict[str, Any], model: Model) -> tuple[dict[str, Any], Any]:
        """Send one portion and wait for the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._model != model.hash:
            send(self._process.stdin, *pack_model(model))
            self._model = model.hash
        send(self._process.stdin, header, arrays)
        answer = receive(self._process.stdout)
        if answer is None:
            raise PySciMLError(f"a worker process ended with code {self._process.wait()}; its error is above")
        return answer

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None


def solve_in_workers(
    engine: str,
    model: Model,
    algorithm: str | None,
    batch: Batch,
    options: BatchOptions,
    portions: list[tuple[int, int]],
) -> set[str]:
    """Solve the portions of a batch, each in whatever worker is free; the algorithms that ran."""
    workers = _workers(min(options.workers, len(portions)))
    waiting: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for portion in portions:
        waiting.put(portion)
    failures: list[BaseException] = []
    settings = asdict(options.solve) | {"progress": False}
    constant = {name: found for name in ("saveat", "atols") if (found := settings.pop(name)) is not None}
    if batch.near is not None:
        constant |= {"near_u0": batch.near[0], "near_p": batch.near[1]}
    algorithms: set[str] = set()

    def serve(worker: Worker) -> None:
        try:
            while not failures:
                low, high = waiting.get_nowait()
                u0, p = batch.inputs(low, high)
                header = {"engine": engine, "algorithm": algorithm, "tspan": batch.tspan, "options": settings}
                answer, found = worker.ask(header, {"u0": u0, "p": p} | constant, model)
                if "error" in answer:
                    raise PySciMLError(answer["error"])
                algorithms.update(answer["algorithms"])
                batch.store(low, high, found["u"], np.array(answer["retcodes"]))
        except queue.Empty:
            return
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        stop_workers()
        raise
    if failures:
        stop_workers()
        raise failures[0]
    return algorithms


def _workers(count: int) -> list[Worker]:
    _pool[:] = [worker for worker in _pool if worker.alive]
    while len(_pool) < count:
        _pool.append(Worker())
    return _pool[:count]


@atexit.register
def stop_workers() -> None:
    """End all worker processes; the next ensemble starts new ones."""
    while _pool:
        _pool.pop().stop()
