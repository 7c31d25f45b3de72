"""A sweep that is computed when its numbers are asked for: arrays of Dask, one chunk a block."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from pysciml.ensemble.grid import Grid
from pysciml.ensemble.job import Job, Solved, unpacked
from pysciml.ensemble.sweep import Sweep
from pysciml.errors import EngineUnavailableError
from pysciml.symbolic import System


def lazy(system: System, sweep: Sweep, job: Job, grid: Grid, attrs: dict[str, Any]) -> xr.Dataset:
    """The Dataset of a sweep, of which nothing is computed yet.

    Every block is one task, whatever is asked of it; its variables are taken out by tasks of their own.
    """
    try:
        import dask.array as da
        from dask.delayed import delayed
    except ImportError as error:
        raise EngineUnavailableError('chunks= needs dask: run `pip install "pysciml[dask]"`') from error
    name = f"pysciml-{uuid.uuid4().hex[:12]}"
    packed = delayed(bytes, pure=True)(job.pack())
    edges = tuple(
        tuple(min(part, size - low) for low in range(0, size, part))
        for part, size in zip(grid.block, grid.shape, strict=True)
    )
    none = np.empty((0,) * len(grid.shape), dtype=object)
    given = {i: _whole(job, i, grid, edges) for i in job.given(np.zeros(1, dtype=np.int64))}
    solved = da.map_blocks(
        _solve,
        *given.values(),
        packed=packed,
        name_of=name,
        grid=grid,
        given=tuple(given),
        chunks=edges,
        dtype=object,
        meta=none,
        name=name,
    )
    n_t = len(job.times)
    variables: dict[str, Any] = {
        variable: xr.Variable(
            (*sweep.dims, "t"),
            da.map_blocks(
                _pick,
                solved,
                index=i,
                new_axis=len(grid.shape),
                chunks=(*edges, (n_t,)),
                dtype=job.options.solve.precision,
                meta=np.empty((0,) * (len(grid.shape) + 1), dtype=job.options.solve.precision),
            ),
            system.attrs.get(variable),
        )
        for i, variable in enumerate(job.names)
    }
    variables["retcode"] = xr.Variable(
        sweep.dims, da.map_blocks(_retcodes, solved, dtype="<U18", meta=none.astype(str))
    )
    return xr.Dataset(variables, coords={**sweep.coordinates(), "t": job.times}, attrs=attrs)


def _whole(job: Job, index: int, grid: Grid, edges: tuple[tuple[int, ...], ...]) -> Any:
    """Numbers too many to go to every worker, as an array whose chunks go with the blocks."""
    import dask.array as da

    varying = job.inputs.varying[index]
    view = varying.values.transpose(np.argsort(varying.axes))
    shape = tuple(size if axis in varying.axes else 1 for axis, size in enumerate(grid.shape))
    chunks: Any = tuple(part if axis in varying.axes else (1,) for axis, part in enumerate(edges))
    return da.from_array(view.reshape(shape), chunks=chunks)


class _Block:
    """A solved block inside an array of Dask: it has a shape, and no elements."""

    def __init__(self, solved: Solved, shape: tuple[int, ...]) -> None:
        self.solved, self.shape, self.ndim, self.dtype = solved, shape, len(shape), np.dtype(object)
        self.nbytes = int(solved.values.nbytes + solved.retcodes.nbytes)


def _solve(
    *arrays: npt.NDArray[np.float64],
    packed: bytes,
    name_of: str,
    grid: Grid,
    given: tuple[int, ...],
    block_id: tuple[int, ...] | None = None,
) -> Any:
    if block_id is None:  # dask asks what kind of array this makes
        return np.empty((0,) * len(grid.shape), dtype=object)
    number = int(np.ravel_multi_index(block_id, grid.counts))
    box = grid.box(number)
    shape = grid.shape_of(box)
    numbers = {i: np.broadcast_to(values, shape).ravel() for i, values in zip(given, arrays, strict=True)}
    solved = unpacked(packed, name_of).solve(grid.trajectories(box), numbers)
    return _Block(solved, shape)


def _pick(block: Any, index: int) -> Any:
    return block.solved.values[index].reshape(*block.shape, -1)


def _retcodes(block: Any) -> Any:
    return block.solved.retcodes.reshape(block.shape)
