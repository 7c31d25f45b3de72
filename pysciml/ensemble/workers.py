"""Worker processes for engines that hold Python's lock.

The workers are plain child processes that talk through their standard streams, not those of
`multiprocessing`, which would run the user's script again in each of them. What goes through is
arrays and JSON.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import queue
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from pysciml.engines.base import SolveOptions
from pysciml.engines.batch import Batch, BatchOptions
from pysciml.errors import PySciMLError
from pysciml.graph import EventSpec, Graph, Model

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
) -> None:
    """Solve the portions of a batch, each in whatever worker is free."""
    workers = _workers(min(options.workers, len(portions)))
    waiting: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for portion in portions:
        waiting.put(portion)
    failures: list[BaseException] = []
    settings = asdict(options.solve) | {"saveat": None, "progress": False}
    times = options.solve.saveat

    def serve(worker: Worker) -> None:
        try:
            while not failures:
                low, high = waiting.get_nowait()
                u0, p = batch.inputs(low, high)
                header = {"engine": engine, "algorithm": algorithm, "tspan": batch.tspan, "options": settings}
                arrays = {"u0": u0, "p": p} | ({} if times is None else {"saveat": times})
                answer, found = worker.ask(header, arrays, model)
                if "error" in answer:
                    raise PySciMLError(answer["error"])
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


# -- messages: the length of a JSON header, the header, and the arrays as .npz -----------------------

_LENGTH: Final = 16


def send(stream: IO[bytes], header: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Write one message."""
    text = json.dumps(header).encode()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    body = buffer.getbuffer()
    stream.write(f"{len(text):>{_LENGTH}}{len(body):>{_LENGTH}}".encode())
    stream.write(text)
    stream.write(body)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Read one message; None where the other side is gone."""
    lengths = stream.read(2 * _LENGTH)
    if len(lengths) < 2 * _LENGTH:
        return None
    text = stream.read(int(lengths[:_LENGTH]))
    body = stream.read(int(lengths[_LENGTH:]))
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return json.loads(text), dict(arrays)


def pack_model(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model as a message."""
    graph = model.graph
    header = {
        "model": {
            "kind": model.kind,
            "name": model.name,
            "states": model.states,
            "parameters": model.parameters,
            "observed": model.observed,
            "events": [asdict(event) for event in model.events],
        },
        "outputs": list(graph.outputs),
    }
    arrays = {"op": graph.op, "args": graph.args, "const": graph.const, "index": graph.index}
    outputs = {f"output{i}": nodes for i, nodes in enumerate(graph.outputs.values())}
    return header, {**arrays, **outputs, "differential": model.differential}


def unpack_model(header: dict[str, Any], arrays: dict[str, Any]) -> Model:
    """The model of a message."""
    fields: dict[str, Any] = dict(header["model"])
    graph = Graph(
        arrays["op"],
        arrays["args"],
        arrays["const"],
        arrays["index"],
        len(fields["states"]),
        len(fields["parameters"]),
        {name: arrays[f"output{i}"] for i, name in enumerate(header["outputs"])},
    )
    specs: list[dict[str, Any]] = [{**event, "targets": tuple(event["targets"])} for event in fields.pop("events")]
    events = tuple(EventSpec(**spec) for spec in specs)
    names = {key: tuple(fields.pop(key)) for key in ("states", "parameters", "observed")}
    return Model(graph=graph, differential=arrays["differential"], events=events, **names, **fields)


def read_options(options: dict[str, Any], arrays: dict[str, Any]) -> SolveOptions:
    """The options of a message."""
    fields: dict[str, Any] = {**options, "saveat": arrays.get("saveat")}
    return SolveOptions(**fields)
