"""Leading the work: which blocks are to be done, what becomes of those that fail, and where results go."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from pysciml.ensemble.grid import Grid
from pysciml.ensemble.held import Held
from pysciml.ensemble.job import Job
from pysciml.ensemble.meter import Meter
from pysciml.ensemble.store import SweepStore
from pysciml.ensemble.work import Report, StorageError, solve_block

logger = logging.getLogger(__name__)


class StoreError(Exception):
    """Results can no longer be stored; the run ends."""


class ClusterLostError(Exception):
    """The scheduler is gone; the run ends."""


@dataclass
class Run:
    """One run over the blocks of a sweep that are still missing.

    Attributes
    ----------
    job : Job
    grid : Grid
    store : SweepStore or None
    held : Held or None
        Where the results go, one or the other.
    meter : Meter
    retries : int
        How often a block is begun again.
    each : float or None
        Seconds that a trajectory takes, by the trial.
    """

    job: Job
    grid: Grid
    store: SweepStore | None
    held: Held | None
    meter: Meter
    retries: int
    each: float | None
    failures: dict[int, float] = field(default_factory=dict[int, float])
    extra: dict[str, str | int | float] = field(default_factory=dict[str, str | int | float])

    def missing(self) -> list[int]:
        """The blocks to be done."""
        if self.store is not None:
            return self.store.missing()
        assert self.held is not None
        return self.held.missing()

    def take(self, report: Report) -> None:
        """A block is done."""
        if report.record is not None:
            assert self.store is not None
            try:
                self.store.add(report.record)
            except Exception as error:
                raise StoreError(f"{type(error).__name__}: {error}") from error
        else:
            assert self.held is not None
            self.held.take(report)
        self.extra |= report.extra
        self.meter.add(report.count, report.seconds + report.write_seconds, report.compile_seconds)
        logger.debug(
            "block %d done",
            report.number,
            extra={"pysciml": {"block": report.number, "seconds": report.seconds, "write": report.write_seconds}},
        )

    def fail(self, number: int, error: BaseException, weight: float = 1.0) -> bool:
        """A block has failed: whether it is to be tried again; if not, it is given up.

        Raises
        ------
        StoreError
            If it was the storing that failed, and it cannot be hoped to go better.
        """
        text = f"{type(error).__name__}: {error}"
        self.failures[number] = self.failures.get(number, 0.0) + weight
        again = self.failures[number] < self.retries + 1
        if isinstance(error, StorageError):
            # What cannot be stored is no failure of the block: the numbers are right, and not lost if the run ends.
            text = str(error)
            if error.hopeless or not again:
                raise StoreError(text) from error
        if again:
            self.meter.retries += 1
            logger.warning("block %d failed and is tried again: %s", number, text)
            return True
        logger.error("block %d failed for good: %s", number, text)
        self.meter.given_up += 1
        try:
            if self.store is not None:
                self.store.give_up(number, text)
            elif self.held is not None:
                self.held.give_up(number, text)
        except Exception as problem:
            raise StoreError(f"{type(problem).__name__}: {problem}") from problem
        self.meter.add(self.grid.count(number))
        return False

    def here(self) -> None:
        """Do the work in this process (and in the engine's own threads or processes)."""
        for number in self.missing():
            while True:
                try:
                    writer = None if self.store is None else self.store.writer
                    report = solve_block(self.job, self.grid, number, writer, each=self.each)
                except Exception as error:  # whatever an engine raises
                    if self.fail(number, error):
                        continue
                else:
                    self.take(report)
                break
