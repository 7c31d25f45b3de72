"""A block, as any process works on it: solve it, write it, say what happened."""

from __future__ import annotations

import errno
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pysciml.engines.batch import BatchEngine
from pysciml.ensemble.grid import Grid, divide
from pysciml.ensemble.inputs import Indices
from pysciml.ensemble.job import Given, Job
from pysciml.ensemble.store import Record, Writer
from pysciml.ensemble.target import Target

logger = logging.getLogger(__name__)

#: What a trial measures at least, in seconds, and how many trajectories it tries at most.
_TRIAL: Final = 0.3
_TRIED: Final = 4096
#: Longer than this no engine takes to load: a first measurement of more is a measurement.
_PATIENCE: Final = 30.0
#: A block's numbers exist about this many times while it is solved, labelled and compressed.
_COPIES: Final = 4
#: Blocks there are at least for each process, so that none waits long for the others at the end.
_SHARES: Final = 12
#: What a block costs beside its trajectories, as a share of a block of full size.
_BESIDE: Final = 0.015
#: No space left, over quota, read-only: trying again does not help.
_HOPELESS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class StorageError(Exception):
    """A solved block could not be written; ``hopeless`` where trying again cannot help."""

    def __init__(self, message: str, hopeless: bool = False) -> None:
        super().__init__(message, hopeless)  # all of it, so that it can be sent from process to process
        self.message, self.hopeless = message, hopeless

    def __str__(self) -> str:
        return self.message


@dataclass
class Report:
    """What became of a block.

    Attributes
    ----------
    number : int
    count : int
        Trajectories.
    seconds, compile_seconds, write_seconds : float
    record : Record or None
        Where it was written.
    values, retcodes : array or None
        Where it was not.
    extra : dict
        Further attributes, from the engine.
    """

    number: int
    count: int
    seconds: float
    compile_seconds: float
    write_seconds: float
    record: Record | None
    values: npt.NDArray[Any] | None
    retcodes: npt.NDArray[np.str_] | None
    algorithm: str
    extra: dict[str, str | int | float]


def solve_block(
    job: Job,
    grid: Grid,
    number: int,
    writer: Writer | None,
    given: Given | None = None,
    *,
    each: float | None = None,
    check: Callable[[], None] | None = None,
) -> Report:
    """Solve a block and, where there is a writer, write it.

    Raises
    ------
    StorageError
        If it was solved and could not be written.
    """
    begin = time.perf_counter()
    solved = job.solve(grid.trajectories(grid.box(number)), given, each=each, check=check)
    middle = time.perf_counter()
    report = Report(
        number,
        solved.values.shape[1],
        middle - begin,
        solved.compile_seconds,
        0.0,
        None,
        solved.values,
        solved.retcodes,
        solved.algorithm,
        solved.extra,
    )
    if writer is not None:
        try:
            report.record = writer.write(number, solved)
        except Exception as error:  # whatever the file system's library raises
            raise _storage_error(error) from error
        report.write_seconds = time.perf_counter() - middle
        report.values = report.retcodes = None
    return report


def _storage_error(error: BaseException) -> StorageError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _HOPELESS:
            return StorageError(f"{type(cause).__name__}: {cause}", True)
        cause = cause.__cause__ or cause.__context__
    return StorageError(f"{type(error).__name__}: {error}", False)


_writers: OrderedDict[str, Writer] = OrderedDict()


def writer_for(key: str, target: Target, names: tuple[str, ...], dims: tuple[str, ...], grid: Grid) -> Writer:
    """A writer, remembered: a process opens the arrays once for a run."""
    writer = _writers.get(key)
    if writer is None:
        writer = _writers[key] = Writer(target, names, dims, grid)
        while len(_writers) > _SHARES:
            _writers.popitem(last=False)
    return writer


@dataclass(frozen=True)
class Trial:
    """What a few trajectories took.

    Attributes
    ----------
    each : float
        Seconds for one, compiled.
    algorithm : str
    compile_seconds : float
    extra : dict
    """

    each: float
    algorithm: str
    compile_seconds: float
    extra: dict[str, str | int | float]


def tried(job: Job) -> Indices:
    """The trajectories that a trial may use: neighbours, as in a block, from the middle of the sweep."""
    count = min(job.inputs.size, _TRIED)
    low = (job.inputs.size - count) // 2
    return np.arange(low, low + count)


def try_out(job: Job, given: Given) -> Trial:
    """Solve a few trajectories twice: to compile, and to measure.

    ``given`` is `Job.given` of the trajectories in `tried`.
    """
    among = tried(job)
    most = len(among)
    count = min(most, 64 if isinstance(job.prepare(), BatchEngine) else 1)
    compile_seconds, compiled = 0.0, 0
    while True:
        part = slice((most - count) // 2, (most - count) // 2 + count)
        begin = time.perf_counter()
        solved = job.solve(among[part], {i: values[part] for i, values in given.items()})
        seconds = time.perf_counter() - begin - solved.compile_seconds
        compile_seconds += solved.compile_seconds
        if compiled < count and seconds < _PATIENCE:
            compiled = count  # it has loaded and compiled, perhaps anew for this number: once more
            continue
        if seconds > _TRIAL or count == most:
            logger.info("%d trajectories took %.3g s", count, seconds)
            return Trial(max(seconds, 1e-9) / count, solved.algorithm, compile_seconds, solved.extra)
        count = min(most, max(2 * count, int(count * min(16.0, 1.5 * _TRIAL / max(seconds, 1e-6)))))


def choose_grid(job: Job, each: float, block_seconds: float, block_size: int | None, processes: int) -> Grid:
    """Blocks that take about ``block_seconds`` and fit the memory, and enough of them.

    Parameters
    ----------
    each : float
        Seconds for one trajectory.
    block_size : int or None
        Trajectories of a block, where the user says so.
    processes : int
        That work at the same time.
    """
    if block_size is not None:
        return divide(job.inputs.shape, block_size)
    by_time = int(block_seconds / max(each, 1e-12))
    by_memory = largest_block(job)
    by_share = -(-job.inputs.size // (_SHARES * processes))
    size = max(1, min(by_time, by_memory, by_share))
    logger.info(
        "blocks of %d trajectories", size, extra={"pysciml": {"time": by_time, "memory": by_memory, "share": by_share}}
    )
    return evenly(job.inputs.shape, size, processes)


def evenly(shape: tuple[int, ...], size: int, processes: int) -> Grid:
    """Blocks of at most about ``size`` trajectories, at least of half of it, that end together.

    Where all trajectories take as long, the sweep ends after ``ceil(blocks / processes)`` of its largest blocks: of
    the sizes that there are, the one for which that is least, counting what a block costs beside its trajectories.
    """
    found = divide(shape, size)
    if len(found) > 64 * processes:  # the last blocks are a small part of it all
        return found

    def longest(grid: Grid) -> float:
        return -(-len(grid) // processes) * (math.prod(grid.block) + _BESIDE * size)

    for smaller in np.unique(np.linspace(size, size / 2, 33).astype(int))[::-1]:
        grid = divide(shape, max(1, int(smaller)))
        if longest(grid) < longest(found):
            found = grid
    return found


def largest_block(job: Job) -> int:
    """How many trajectories fit the memory option."""
    return max(1, job.options.memory // (_COPIES * job.bytes_each))
