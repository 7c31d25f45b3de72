"""Blocks on the workers of a Dask cluster.

Blocks are submitted a few at a time, so that the scheduler never holds more than it can use. A block
whose worker dies is begun again by the scheduler, elsewhere; one that raises is submitted again here,
and so is one that is queued behind a long one while another worker has nothing to do.
With a store, workers write what they have solved themselves and send back a few numbers.
"""

from __future__ import annotations

import importlib
import logging
import os
import platform
import queue
import time
import uuid
from collections import deque
from concurrent.futures import CancelledError
from typing import Any, Final

from pysciml.ensemble.driver import ClusterLostError, Run, StoreError
from pysciml.ensemble.grid import Grid
from pysciml.ensemble.job import Given, Job, unpacked
from pysciml.ensemble.manifest import MANIFEST
from pysciml.ensemble.store import Record
from pysciml.ensemble.target import Target
from pysciml.ensemble.work import Report, Trial, solve_block, tried, try_out, writer_for
from pysciml.errors import EngineUnavailableError, ProblemError, PySciMLError

logger = logging.getLogger(__name__)

#: Blocks submitted beyond the cluster's threads, for each of them, so that no worker waits for a message between two.
#: Towards the end there are none: a block that is queued behind a long one would wait while others are idle.
_AHEAD: Final = 1
#: Results that are fetched together, at most.
_TOGETHER: Final = 32
#: Seconds that workers have to get ready before the first ones begin.
_READY: Final = 60.0
#: Seconds between two looks at the cluster.
_LOOK: Final = 1.0
#: Seconds after which a block that has not begun while a thread is idle is taken back and submitted again.
_QUEUED: Final = 2.0
#: What the loss of a worker counts as, beside a block that raised: the fault may be the machine's.
#: And what it counts as where the block had not begun, as far as is known: Dask blames all blocks
#: that the worker had been given.
_DEATH: Final = 0.5
_BLAMED: Final = 0.25
#: Seconds a block waits before it begins, so that its beginning is known if it kills its process;
#: longer for one that has been blamed before.
_HEARD: Final = 0.01
_SUSPECTED: Final = 0.5


class StoppedError(Exception):
    """The run was ended by its client."""


def read_client(executor: Any) -> Any:
    """The client of ``executor=``.

    Raises
    ------
    ProblemError, EngineUnavailableError
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise EngineUnavailableError('executor= needs dask: run `pip install "pysciml[dask]"`') from error
    if not isinstance(executor, Client):
        raise ProblemError(
            f"executor must be a dask.distributed.Client, not {type(executor).__name__}", symbol="executor"
        )
    if executor.asynchronous:
        raise ProblemError("executor: an asynchronous client cannot be waited for", symbol="executor")
    if executor.status != "running":
        raise ProblemError(f"executor: the client is {executor.status}", symbol="executor")
    return executor


class OnDask:
    """One run on a cluster.

    Parameters
    ----------
    client : distributed.Client
    job : Job
    """

    def __init__(self, client: Any, job: Job) -> None:
        self._client = client
        self._job = job
        self._name = f"pysciml-{uuid.uuid4().hex[:12]}"
        # A task of its own, so that the scheduler can always send it again.
        self._packed = client.submit(bytes, job.pack(), key=f"{self._name}-job")
        self._starts: dict[int, int] = {}
        self._sent: dict[int, float] = {}  # when each block was submitted
        self._moves = 0
        self._alone = False

    def processes(self) -> int:
        """How many blocks are solved at the same time (1 while there are no workers)."""
        return max(1, sum(self._client.nthreads().values()))

    def check(self, target: Target | None) -> None:
        """See that a worker can do the work at all.

        Raises
        ------
        PySciMLError
            What stands in the way.
        """
        try:
            self._client.submit(_prepare, self._packed, self._name, target, pure=False, retries=2).result()
        except PySciMLError:
            raise
        except Exception as error:
            raise PySciMLError(
                f"a worker of the cluster cannot do the work: {type(error).__name__}: {error}"
            ) from error
        self._prepare_all(target)

    def _prepare_all(self, target: Target | None) -> None:
        """Have every worker import, fetch and compile now, while none is too busy to hand the job on.

        A solver in compiled code holds the lock that a worker's communication needs. Nothing depends on this: a worker
        that fails or is lost meanwhile is met again with its first block.
        """
        from distributed import wait

        futures = [
            self._client.submit(
                _prepare, self._packed, self._name, target, workers=[address], allow_other_workers=True, pure=False
            )
            for address in self._threads()
        ]
        try:
            wait(futures, timeout=_READY)
        except Exception as error:
            logger.info("not all workers are ready: %s: %s", type(error).__name__, error)

    def trial(self) -> Trial | None:
        """What a few trajectories take on a worker; None where they fail."""
        given = self._job.given(tried(self._job))
        try:
            return self._client.submit(_try_out, self._packed, self._name, given, pure=False).result()
        except Exception as error:  # its block will fail too, and say so
            logger.warning("the trial block failed: %s: %s", type(error).__name__, error)
            return None

    def run(self, run: Run) -> None:
        """Do all blocks that are missing."""
        client = self._client
        waiting = deque(run.missing())
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        pending: dict[Any, int] = {}
        store = run.store
        where = None if store is None else (store.target, store.manifest.names, store.manifest.dims)
        topic = f"{self._name}-starts"

        def submit(number: int) -> None:
            future = self._submit(run, number, where, topic)
            pending[future] = number
            future.add_done_callback(ended.put)

        client.subscribe_topic(topic, self._note_start)
        busy, looked, known = 1, 0.0, set[str]()
        try:
            while waiting or pending:
                if time.monotonic() - looked > _LOOK:
                    looked = time.monotonic()
                    threads = self._threads()
                    busy = max(1, sum(threads.values()))
                    self._look(run, known, set(threads))
                    for number in self._take_back(pending, busy):
                        submit(number)
                arrived = [future for future in _arrived(ended) if future in pending] if pending else []
                numbers = [pending.pop(future) for future in arrived]
                while waiting and len(pending) < _width(
                    busy, len(waiting)
                ):  # before what follows: no worker waits for it
                    submit(waiting.popleft())
                waiting += self._finish(run, numbers, arrived)
        except BaseException:
            self._stop(list(pending))
            raise
        finally:
            if client.status == "running":
                client.unsubscribe_topic(topic)

    def _take_back(self, pending: dict[Any, int], busy: int) -> list[int]:
        """Blocks that wait behind a long one while a thread has nothing to do: they are to be submitted again.

        The scheduler places a block when it is submitted, and does not always move it afterwards. A block that begins
        just now is solved twice, with the same result.
        """
        begun = sum(number in self._starts for number in pending.values())
        old = time.monotonic() - _QUEUED
        queued = [f for f, number in pending.items() if number not in self._starts and self._sent[number] < old]
        moved = queued[: max(0, busy - begun)]
        if not moved or not begun:
            return []
        numbers = [pending.pop(future) for future in moved]
        try:
            self._client.cancel(moved)
        except Exception as error:
            raise ClusterLostError(f"the scheduler does not answer: {type(error).__name__}: {error}") from error
        self._moves += 1
        logger.debug("blocks taken back from a busy worker: %s", numbers)
        return numbers

    def _submit(self, run: Run, number: int, where: Any, topic: str) -> Any:
        self._sent[number] = time.monotonic()
        return self._client.submit(
            _solve_block,
            self._packed,
            self._name,
            run.grid,
            number,
            where,
            self._job.given(run.grid.trajectories(run.grid.box(number))) if self._job.has_large else {},
            topic,
            _SUSPECTED if number in run.failures else _HEARD,
            key=f"{self._name}-block-{number}-{int(100 * run.failures.get(number, 0))}-{self._moves}",
            pure=False,
        )

    def _finish(self, run: Run, numbers: list[int], futures: list[Any]) -> list[int]:
        """Take what became of some blocks: those that are to be submitted again."""
        again: list[int] = []
        reports: dict[Any, Any] = {}
        finished = [future for future in futures if future.status == "finished"]
        if finished:
            try:
                reports = dict(zip(finished, self._client.gather(finished), strict=True))
            except Exception as error:  # lost since, and failed when it was tried again
                logger.info("results are fetched one by one: %s: %s", type(error).__name__, error)
        for number, future in zip(numbers, futures, strict=True):
            if future in reports:
                run.take(reports[future])
            elif self._settle(run, number, future):
                again.append(number)
            run.meter.retries += max(0, self._starts.pop(number, 1) - 1)
        return again

    def _settle(self, run: Run, number: int, future: Any) -> bool:
        """Take what became of a block: whether it is to be submitted again."""
        from distributed import KilledWorker

        try:
            run.take(future.result())
        except KilledWorker as error:
            begun = self._starts.pop(number, 0)
            run.meter.retries += max(0, begun - 1)
            return run.fail(number, error, _DEATH * begun if begun else _BLAMED)
        except StoreError:
            raise
        except (Exception, CancelledError) as error:
            if self._client.status != "running" or getattr(error, "reason", "") == "scheduler-connection-lost":
                raise ClusterLostError(f"the scheduler was lost (the client is {self._client.status})") from error
            return run.fail(number, error)
        return False

    def _threads(self) -> dict[str, int]:
        """The cluster's workers and their threads."""
        try:
            return self._client.nthreads()
        except Exception as error:
            raise ClusterLostError(f"the scheduler does not answer: {type(error).__name__}: {error}") from error

    def _look(self, run: Run, known: set[str], now: set[str]) -> None:
        for address in sorted(known - now):
            run.meter.workers_lost += 1
            logger.warning("lost the worker %s", address, extra={"pysciml": {"worker": address}})
        if not now and not self._alone:
            run.meter.say("no workers; waiting for one")
        self._alone = not now
        known.clear()
        known |= now

    def _note_start(self, event: Any) -> None:
        """A worker has begun a block (called by the client, for each event)."""
        _, message = event
        number = int(message["block"])
        self._starts[number] = self._starts.get(number, 0) + 1
        logger.debug("block %d begun", number, extra={"pysciml": message})

    def _stop(self, futures: list[Any]) -> None:
        """Take back what was submitted, and let workers end what they are at."""
        if self._client.status != "running":
            return
        try:
            self._client.cancel(futures, force=True)
            self._client.run(_stop, self._name, on_error="ignore")
        except Exception as error:
            logger.warning("could not stop the workers: %s: %s", type(error).__name__, error)

    def close(self) -> None:
        """Let go of the job."""
        self._packed.release()


def _width(busy: int, waiting: int) -> int:
    """How many blocks are submitted at a time, with so many threads and so many blocks to come."""
    return busy * (1 + _AHEAD) if waiting > busy else busy


def _arrived(ended: queue.SimpleQueue[Any]) -> list[Any]:
    """The futures that have ended, a few at a time; none where there are none for a while."""
    found: list[Any] = []
    try:
        found.append(ended.get(timeout=_LOOK))
        while len(found) < _TOGETHER:
            found.append(ended.get_nowait())
    except queue.Empty:
        pass
    return found


# -- on the workers ----------------------------------------------------------------------------------

_stopped: set[str] = set()


def _stop(name: str) -> None:
    _stopped.add(name)


def _job(packed: bytes, name: str) -> Job:
    return unpacked(packed, name)


def _prepare(packed: bytes, name: str, target: Target | None) -> None:
    _job(packed, name).prepare()
    if target is None:
        return
    importlib.import_module("zarr")
    if target.read(MANIFEST) is None:
        raise PySciMLError(
            f"a worker (on {platform.node()}) does not see {target}: "
            "workers write results themselves, so that the store must be on a file system (or object store) they share"
        )


def _try_out(packed: bytes, name: str, given: Given) -> Trial:
    return try_out(_job(packed, name), given)


def _solve_block(
    packed: bytes,
    name: str,
    grid: Grid,
    number: int,
    where: tuple[Target, tuple[str, ...], tuple[str, ...]] | None,
    given: Given,
    topic: str,
    wait: float,
) -> Report:
    from distributed import get_worker

    def check() -> None:
        if name in _stopped:
            raise StoppedError("the run was ended")

    check()
    writer = None
    if where is not None:
        writer = writer_for(name, *where, grid)
        record: Record | None = writer.written(number)
        if record is not None:  # its worker died after it had written all
            return Report(number, grid.count(number), 0.0, 0.0, 0.0, record, None, None, "", {})
    get_worker().log_event(topic, {"block": number, "process": os.getpid()})
    time.sleep(wait)
    return solve_block(_job(packed, name), grid, number, writer, given, check=check)
