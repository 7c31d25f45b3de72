"""A sweep on disk: the arrays, and the books about what is done.

Beside the Zarr arrays lies a group ``pysciml`` with ``manifest.json``: what the sweep is, how it is
divided, and which blocks are done, each with the digest of its content. A block is written array by
array, and then a small record of its own, ``pysciml/done/<number>.json``, by the same process: from
then on it is done, whoever is killed. The records are gathered into the manifest from time to time.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import xarray as xr

from pysciml.ensemble import arrays
from pysciml.ensemble.grid import Grid
from pysciml.ensemble.job import Solved
from pysciml.ensemble.manifest import MANIFEST, manifest_text, read_manifest
from pysciml.ensemble.target import Target

logger = logging.getLogger(__name__)

_FORMAT: Final = "pysciml-sweep-1"
_DONE: Final = f"{arrays.BOOKS}/done"
#: Records on their own, beyond which they are gathered.
_GATHER: Final = 1000
_READERS: Final = 8


@dataclass
class Record:
    """What is known of a block that is done, or was given up.

    Attributes
    ----------
    number : int
    digest : str
    failed : int
        Trajectories that did not reach their end.
    algorithm : str
    error : str
        Why it was given up; empty where it was not.
    """

    number: int
    digest: str
    failed: int
    algorithm: str
    error: str = ""

    def row(self) -> list[Any]:
        """As it is kept."""
        return [self.number, self.digest, self.failed, self.algorithm, self.error]


@dataclass
class Manifest:
    """What a store says about itself.

    Attributes
    ----------
    identity : dict
        All that the numbers depend on, by name.
    dims, shape, block
        How the sweep is divided.
    names : list of str
        The variables.
    about : dict
        Attributes of the whole, known from the start.
    each : float or None
        Seconds that a trajectory took in the trial.
    done : dict of int to Record
    runs : list of dict
        Summaries of the runs that worked on it.
    """

    identity: dict[str, Any]
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    block: tuple[int, ...]
    names: tuple[str, ...]
    about: dict[str, Any]
    each: float | None
    done: dict[int, Record] = field(default_factory=dict[int, Record])
    runs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def grid(self) -> Grid:
        """The blocks."""
        return Grid(self.shape, self.block)

    def text(self) -> bytes:
        """As it is written."""
        content = {
            "identity": self.identity,
            "dims": self.dims,
            "shape": self.shape,
            "block": self.block,
            "names": self.names,
            "about": self.about,
            "each": self.each,
            "runs": self.runs,
            "done": [self.done[number].row() for number in sorted(self.done)],
        }
        return manifest_text(_FORMAT, content)

    @classmethod
    def read(cls, target: Target) -> Manifest | None:
        """That of a store; None where there is nothing.

        Raises
        ------
        ProblemError
            If there is something, but not a sweep.
        """
        return read_manifest(
            target,
            "a sweep",
            _FORMAT,
            lambda found: f"has the format {found!r}, and this version writes {_FORMAT!r}",
            lambda content: cls(
                content["identity"],
                tuple(content["dims"]),
                tuple(content["shape"]),
                tuple(content["block"]),
                tuple(content["names"]),
                content["about"],
                content["each"],
                {row[0]: Record(*row) for row in content["done"]},
                content["runs"],
            ),
        )


class Writer:
    """Writes blocks, in whatever process solves them."""

    def __init__(self, target: Target, names: Iterable[str], dims: tuple[str, ...], grid: Grid) -> None:
        self._target, self._grid = target, grid
        self.arrays = arrays.Arrays(target, tuple(names), dims, grid)

    def write(self, number: int, solved: Solved) -> Record:
        """Write a block and, once all of it is there, its record."""
        self.arrays.write(self._grid.box(number), solved)
        content = arrays.digest(solved.values, solved.retcodes)
        record = Record(number, content, solved.failed, solved.algorithm)
        self.note(record)
        return record

    def written(self, number: int) -> Record | None:
        """The record of a block that was written since the manifest was brought up to date."""
        text = self._target.read(f"{_DONE}/{number}.json")
        try:
            record = None if text is None else Record(*json.loads(text))
        except (ValueError, TypeError):
            return None
        return None if record is None or record.error else record

    def note(self, record: Record) -> None:
        """Write a record."""
        self._target.write(f"{_DONE}/{record.number}.json", json.dumps(record.row()).encode())


class SweepStore:
    """The store as the process sees it that leads the work."""

    def __init__(self, target: Target, manifest: Manifest) -> None:
        self.target, self.manifest = target, manifest
        self.grid = manifest.grid
        self.writer = Writer(target, manifest.names, manifest.dims, self.grid)
        self._loose: set[int] = set()
        self._lock = threading.Lock()

    @classmethod
    def create(
        cls,
        target: Target,
        manifest: Manifest,
        variables: Mapping[str, Mapping[str, Any]],
        coordinates: xr.Dataset,
        dtype: str,
    ) -> SweepStore:
        """Make a store, or finish making it."""
        target.write(MANIFEST, manifest.text())  # first, so that nothing half made is anonymous
        arrays.create(target, manifest.dims, manifest.grid, variables, coordinates, dtype, manifest.about)
        logger.info("made %s: %d blocks of %s", target, len(manifest.grid), manifest.block)
        return cls(target, manifest)

    def check(self) -> list[int]:
        """Read all that is said to be done; what is damaged or was given up is to be done again.

        Returns
        -------
        list of int
            The blocks whose content was not what it was when they were written.
        """
        self.target.sweep_up()
        found = self.manifest.done
        for record in self._records():
            found[record.number] = record
        kept = [record for record in found.values() if not record.error]
        with ThreadPoolExecutor(_READERS) as pool:
            sound = list(pool.map(self._is_sound, kept))
        damaged = [record.number for record, good in zip(kept, sound, strict=True) if not good]
        for number in damaged:
            logger.warning("block %d of %s is damaged and will be computed again", number, self.target)
            del found[number]
        self.gather()
        return damaged

    def _is_sound(self, record: Record) -> bool:
        try:
            return self.writer.arrays.read_digest(self.grid.box(record.number)) == record.digest
        except Exception as error:  # whatever a codec says of damaged bytes
            logger.info("block %d cannot be read: %r", record.number, error)
            return False

    def _records(self) -> list[Record]:
        names = [name for name in self.target.names(_DONE) if name.endswith(".json")]
        with ThreadPoolExecutor(_READERS) as pool:
            texts = list(pool.map(lambda name: self.target.read(f"{_DONE}/{name}"), names))
        found: list[Record] = []
        for name, text in zip(names, texts, strict=True):
            try:
                record = Record(*json.loads(text or b""))
            except (ValueError, TypeError):
                logger.warning(
                    "the record %s of %s cannot be read; its block will be computed again", name, self.target
                )
                self.target.delete(f"{_DONE}/{name}")
                continue
            self._loose.add(record.number)
            found.append(record)
        return found

    def missing(self) -> list[int]:
        """The blocks that are still to be done, in order."""
        done = self.manifest.done
        return [n for n in range(len(self.grid)) if n not in done or done[n].error]

    def add(self, record: Record) -> None:
        """Take note of a block that some process has written."""
        with self._lock:
            before = self.manifest.done.get(record.number)
            if before is not None and before.error and not record.error:
                self.writer.arrays.write_error(self.grid.box(record.number), "")
            self.manifest.done[record.number] = record
            self._loose.add(record.number)
            if len(self._loose) >= _GATHER:
                self.gather()

    def give_up(self, number: int, error: str) -> None:
        """Write a block as failed: NaN, the return code ``"Failure"``, and why."""
        box, count = self.grid.box(number), self.grid.count(number)
        n_t = int(self.writer.arrays.n_t)
        values = np.full((len(self.manifest.names), count, n_t), np.nan, dtype=self.writer.arrays.dtype)
        solved = Solved(values, np.full(count, "Failure"), "", 0.0, {})
        self.writer.arrays.write(box, solved)
        self.writer.arrays.write_error(box, error)
        record = Record(number, arrays.digest(solved.values, solved.retcodes), count, "", error)
        self.writer.note(record)
        self.add(record)

    def gather(self) -> None:
        """Bring the manifest up to date and remove the records it now holds."""
        self.target.write(MANIFEST, self.manifest.text())
        while self._loose:
            self.target.delete(f"{_DONE}/{self._loose.pop()}.json")

    def finish(self, run: dict[str, Any], extra: Mapping[str, Any]) -> None:
        """Bring everything up to date at the end of a run; ``extra`` are attributes from the engine."""
        done = self.manifest.done.values()
        self.manifest.runs.append(run)
        self.gather()
        algorithms = sorted({name for record in done for name in record.algorithm.split(", ") if name})
        attrs: dict[str, Any] = {**extra, "n_failed": sum(record.failed for record in done)}
        if algorithms:
            attrs["algorithm"] = ", ".join(algorithms)
        self.writer.arrays.finish(attrs, errors=any(record.error for record in done))
        self.target.sweep_up()

    def dataset(self, *, with_dask: bool = True) -> xr.Dataset:
        """What there is, read when it is used, as arrays of Dask or without it."""
        return arrays.open_dataset(self.target, self.manifest.names, with_dask=with_dask)
