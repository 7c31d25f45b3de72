"""The Zarr arrays of a sweep: made whole at the start, filled block by block, checked by digest."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr

from pysciml.ensemble.grid import Grid
from pysciml.ensemble.job import Solved
from pysciml.ensemble.target import Target

#: The group beside the arrays that holds what is not data.
BOOKS: Final = "pysciml"
_ROOT: Final = "zarr.json"
#: Blocks of more bytes than this are stored as shards of smaller chunks, so that a part can be read.
_CHUNK: Final = 2**25

RETCODE: Final = "retcode"
ERROR: Final = "error"

Values = npt.NDArray[np.floating[Any]]
Box = tuple[slice, ...]


def digest(values: Values, retcodes: npt.NDArray[np.str_]) -> str:
    """What identifies the content of a block, whatever its compression."""
    found = hashlib.blake2b(digest_size=16)
    found.update(np.ascontiguousarray(values).tobytes())
    found.update("\n".join(retcodes.ravel().tolist()).encode())
    return found.hexdigest()


def create(
    target: Target,
    dims: tuple[str, ...],
    grid: Grid,
    variables: Mapping[str, Mapping[str, Any]],
    coordinates: xr.Dataset,
    dtype: str,
    attrs: Mapping[str, Any],
) -> None:
    """Make all arrays, empty.

    Parameters
    ----------
    dims : tuple of str
    grid : Grid
    variables : mapping
        Name -> attributes (units and the like).
    coordinates : xarray.Dataset
        The swept values and ``t``.
    dtype : str
    attrs : mapping
        Of the whole.
    """
    import zarr
    from zarr.storage import MemoryStore

    made: dict[str, Any] = {}
    draft = MemoryStore(made)
    quietly(lambda: coordinates.assign_attrs(attrs).to_zarr(draft, mode="w", zarr_format=3, consolidated=False))
    group = zarr.open_group(draft, mode="r+", zarr_format=3)
    group.create_group(BOOKS)
    n_t = coordinates.sizes["t"]
    for name, described in variables.items():
        block = (*grid.block, n_t)
        chunks = inner_chunks(block, np.dtype(dtype).itemsize)
        group.create_array(
            name,
            shape=(*grid.shape, n_t),
            chunks=chunks,
            shards=None if chunks == block else block,
            dtype=dtype,
            fill_value=np.nan,
            compressors=compressors(),
            dimension_names=(*dims, "t"),
            attributes=dict(described),
        )
    _create_text(group, RETCODE, dims, grid)
    consolidate(draft)
    # The root comes last: whoever looks before finds nothing, and then everything.
    for name in sorted(made, key=lambda name: name == _ROOT):
        target.write(name, made[name].to_bytes())


def _create_text(group: Any, name: str, dims: tuple[str, ...], grid: Grid) -> None:
    group.create_array(
        name,
        shape=grid.shape,
        chunks=grid.block,
        dtype="string",
        fill_value="",
        compressors=compressors(),
        dimension_names=dims,
    )


def compressors() -> list[Any]:
    """How chunks are packed."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    # The checksum lets any reader of Zarr see a damaged chunk.
    return [ZstdCodec(level=3), Crc32cCodec()]


def inner_chunks(block: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The chunks of a block: parts of equal size, small enough to be read one at a time."""
    total = int(np.prod(block, dtype=np.int64)) * itemsize
    axis = next((i for i, size in enumerate(block[:-1]) if size > 1), 0)
    for parts in range(1, block[axis] + 1):
        if block[axis] % parts == 0 and total / parts <= _CHUNK:
            return (*block[:axis], block[axis] // parts, *block[axis + 1 :])
    return (*block[:axis], 1, *block[axis + 1 :])


def quietly(action: Any) -> None:
    """Do something without zarr's warnings of what it may change some day."""
    with warnings.catch_warnings():
        # Consolidated metadata and text are extensions of Zarr 3 that zarr and xarray read and write.
        warnings.simplefilter("ignore")
        action()


def consolidate(store: Any) -> None:
    """Gather the metadata of all arrays in one file, which saves a reader the search."""
    import zarr

    quietly(lambda: zarr.consolidate_metadata(store, zarr_format=3))


def is_complete(target: Target) -> bool:
    """Whether `create` came to its end."""
    return target.read(_ROOT) is not None


@dataclass
class Arrays:
    """The arrays of a store, open for writing."""

    target: Target
    names: tuple[str, ...]
    dims: tuple[str, ...]
    grid: Grid

    def __post_init__(self) -> None:
        import zarr

        self._group: Any = zarr.open_group(self.target.zarr(), mode="r+", zarr_format=3, use_consolidated=False)
        self._arrays: dict[str, Any] = {name: self._group[name] for name in (*self.names, RETCODE)}

    @property
    def dtype(self) -> Any:
        """Of the numbers."""
        return self._arrays[self.names[0]].dtype

    @property
    def n_t(self) -> int:
        """How many output times there are."""
        return int(self._arrays[self.names[0]].shape[-1])

    def write(self, box: Box, solved: Solved) -> None:
        """Write a block; the return codes come last."""
        shape = self.grid.shape_of(box)
        for name, row in zip(self.names, solved.values, strict=True):
            self._arrays[name][(*box, slice(None))] = row.reshape(*shape, -1)
        self._arrays[RETCODE][box] = solved.retcodes.reshape(shape).astype(np.dtypes.StringDType())

    def read_digest(self, box: Box) -> str:
        """The digest of what the arrays hold there."""
        rows = [np.asarray(self._arrays[name][(*box, slice(None))]) for name in self.names]
        values = np.stack(rows).reshape(len(rows), -1, rows[0].shape[-1])
        return digest(values, np.asarray(self._arrays[RETCODE][box]))

    def write_error(self, box: Box, text: str) -> None:
        """Note why a block failed, in an array of its own that is made for the first of them."""
        if ERROR not in self._group:
            if not text:
                return
            _create_text(self._group, ERROR, self.dims, self.grid)
            consolidate(self.target.zarr())
        self._group[ERROR][box] = np.full(self.grid.shape_of(box), text, dtype=np.dtypes.StringDType())

    def finish(self, attrs: Mapping[str, Any], *, errors: bool) -> None:
        """Bring the attributes of the whole up to date."""
        if not errors and ERROR in self._group:
            del self._group[ERROR]
        self._group.attrs.update(dict(attrs))
        consolidate(self.target.zarr())


def open_dataset(target: Target, names: tuple[str, ...], *, with_dask: bool) -> xr.Dataset:
    """What there is of a sweep, read from the store when it is used; ``names`` is the order of variables."""
    chunks = {} if with_dask and find_spec("dask") is not None else None
    dataset = xr.open_zarr(target.zarr(read_only=True), chunks=chunks)
    texts = [name for name in (RETCODE, ERROR) if name in dataset]
    dataset = dataset[[*names, *texts]]
    for name in texts:
        dataset[name] = dataset[name].astype("<U18" if name == RETCODE else object)
    return dataset
