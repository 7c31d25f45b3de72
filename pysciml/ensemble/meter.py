"""How a run is going: counts, rate, time left, and the summary at its end."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

logger = logging.getLogger(__name__)

#: Seconds between two progress lines.
_PAUSE: Final = 0.2


@dataclass
class Meter:
    """Counts of a run.

    Attributes
    ----------
    name : str
        Of the model.
    blocks, trajectories : int
        How many there are in all.
    done, done_trajectories : int
        How many of them there are results of, those of earlier runs among them.
    show : bool
        Whether to write a progress line to standard error.
    retries, given_up : int
        Blocks that were begun once more, and those that failed for good.
    busy : float
        Seconds that blocks took, summed over workers.
    """

    name: str
    blocks: int
    trajectories: int
    show: bool = False
    done: int = 0
    done_trajectories: int = 0
    retries: int = 0
    given_up: int = 0
    workers_lost: int = 0
    busy: float = 0.0
    compile_seconds: float = 0.0
    _begin: float = field(default_factory=time.perf_counter)
    _at_begin: tuple[int, int] = (0, 0)
    _last: float = 0.0
    _width: int = 0

    def begin(self, blocks: int, trajectories: int) -> None:
        """Start counting; this much is there already."""
        self.done, self.done_trajectories = blocks, trajectories
        self._at_begin = blocks, trajectories
        self._begin = time.perf_counter()
        if blocks:
            self.say(f"going on: {blocks} of {self.blocks} blocks are there already")

    def say(self, text: str) -> None:
        """Write a line of its own, where progress is shown."""
        logger.info("%s: %s", self.name, text)
        if self.show:
            sys.stderr.write(f"\r{f'{self.name}: {text}':<{self._width}}\n")
            sys.stderr.flush()

    def add(self, trajectories: int, seconds: float = 0.0, compile_seconds: float = 0.0) -> None:
        """A block is done."""
        self.done += 1
        self.done_trajectories += trajectories
        self.busy += seconds
        self.compile_seconds += compile_seconds
        if self.show:
            self._line()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self._begin

    @property
    def rate(self) -> float:
        """Trajectories a second in this run."""
        return (self.done_trajectories - self._at_begin[1]) / max(self.seconds, 1e-9)

    def _line(self) -> None:
        now = time.perf_counter()
        if now - self._last < _PAUSE and self.done < self.blocks:
            return
        self._last = now
        left = (self.trajectories - self.done_trajectories) / max(self.rate, 1e-9)
        text = (
            f"{self.name}: {self.done} of {self.blocks} blocks, {self.done_trajectories:,} of {self.trajectories:,} "
            f"trajectories, {self.rate:,.3g}/s, {duration(left)} left"
        )
        self._width = max(self._width, len(text))
        sys.stderr.write(f"\r{text:<{self._width}}")
        sys.stderr.flush()

    def summary(self) -> dict[str, Any]:
        """The run in numbers."""
        return {
            "n_blocks": self.blocks,
            "n_blocks_computed": self.done - self._at_begin[0],
            "n_retries": self.retries,
            "n_blocks_failed": self.given_up,
            "n_workers_lost": self.workers_lost,
            "trajectories_per_second": self.rate,
            "run_seconds": self.seconds,
            "busy_seconds": self.busy,
        }

    def finish(self) -> dict[str, Any]:
        """Say how it went."""
        found = self.summary()
        if self.show and self._width:
            sys.stderr.write("\n")
        logger.info("%s: finished", self.name, extra={"pysciml": found})
        self.say(
            f"{found['n_blocks_computed']} of {self.blocks} blocks computed in {duration(self.seconds)}, "
            f"{self.retries} retries, {self.given_up} failed, {self.rate:,.3g} trajectories/s"
        )
        return found


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 86400:.0f} days"
