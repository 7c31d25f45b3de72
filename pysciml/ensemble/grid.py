"""The blocks of a sweep: boxes of its dimensions, each solved and stored as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pysciml.ensemble.inputs import Indices
from pysciml.errors import ProblemError


@dataclass(frozen=True)
class Grid:
    """A sweep divided into boxes of equal shape, those at the far ends cut short.

    Attributes
    ----------
    shape : tuple of int
        Of the sweep.
    block : tuple of int
        Of a box.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """How many boxes there are along each dimension."""
        return tuple(-(-size // part) for size, part in zip(self.shape, self.block, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    @property
    def size(self) -> int:
        """How many trajectories there are in all."""
        return math.prod(self.shape)

    def box(self, number: int) -> tuple[slice, ...]:
        """Where block ``number`` is; blocks are numbered in row-major order."""
        place = np.unravel_index(number, self.counts)
        return tuple(
            slice(int(i) * part, min((int(i) + 1) * part, size))
            for i, part, size in zip(place, self.block, self.shape, strict=True)
        )

    def trajectories(self, box: tuple[slice, ...]) -> Indices:
        """The numbers of the trajectories of a box, in row-major order."""
        axes = np.ix_(*(np.arange(part.start, part.stop) for part in box))
        return np.asarray(np.ravel_multi_index(axes, self.shape)).ravel().astype(np.int64)

    def count(self, number: int) -> int:
        """How many trajectories block ``number`` has."""
        return math.prod(self.shape_of(self.box(number)))

    def shape_of(self, box: tuple[slice, ...]) -> tuple[int, ...]:
        """The shape of a box."""
        return tuple(part.stop - part.start for part in box)


def divide(shape: tuple[int, ...], size: int) -> Grid:
    """Blocks of about ``size`` trajectories that lie together in row-major order."""
    block = [1] * len(shape)
    room = max(1, size)
    for axis in reversed(range(len(shape))):
        parts = -(-shape[axis] // min(room, shape[axis]))
        block[axis] = -(-shape[axis] // parts)  # parts of equal size
        if parts > 1:
            break
        room //= shape[axis]
    return Grid(shape, tuple(block))


def read_chunks(dims: tuple[str, ...], shape: tuple[int, ...], chunks: Any, automatic: int) -> Grid:
    """The blocks of ``chunks=``, as xarray reads it.

    Parameters
    ----------
    dims, shape
        Of the sweep.
    chunks : mapping, int or "auto"
        Dimension -> size of a chunk along it, -1 for all of it; dimensions left out are not divided.
        An integer holds for every dimension.
    automatic : int
        How many trajectories make a block for ``"auto"``.

    Raises
    ------
    ProblemError
    """
    if chunks == "auto":
        return divide(shape, automatic)
    if isinstance(chunks, (int, np.integer)) and not isinstance(chunks, bool):
        chunks = dict.fromkeys(dims, int(chunks))
    if not isinstance(chunks, Mapping):
        raise ProblemError(
            f"chunks must be 'auto', a number, or map dimensions ({', '.join(dims)}) to numbers, not {chunks!r}",
            symbol="chunks",
        )
    for dim, part in chunks.items():
        if dim not in dims:
            raise ProblemError(
                f"chunks: {dim!r} is no dimension of the sweep ({', '.join(dims)}); t is never divided", symbol=str(dim)
            )
        if isinstance(part, bool) or not isinstance(part, (int, np.integer)) or (part < 1 and part != -1):
            raise ProblemError(f"chunks: the size along {dim!r} must be 1 or more, or -1, not {part!r}", symbol=dim)
    sizes = (int(chunks.get(dim, -1)) for dim in dims)
    return Grid(shape, tuple(size if part == -1 else min(part, size) for part, size in zip(sizes, shape, strict=True)))
