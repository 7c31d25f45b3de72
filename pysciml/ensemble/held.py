"""Results that are kept in memory, and how they are labelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from pysciml.ensemble.grid import Grid
from pysciml.ensemble.sweep import Sweep
from pysciml.ensemble.work import Report
from pysciml.symbolic import System


class Held:
    """The arrays of a result, filled block by block."""

    def __init__(self, system: System, sweep: Sweep, grid: Grid, times: npt.NDArray[np.float64], dtype: str) -> None:
        self._system, self._sweep, self._times = system, sweep, times
        self.grid = grid
        names = (*system.model.states, *system.model.observed)
        self._u = np.full((len(names), *grid.shape, len(times)), np.nan, dtype=dtype)
        self._retcodes = np.full(grid.shape, "Interrupted", dtype="<U18")
        self._errors: dict[int, str] = {}
        self._missing = set(range(len(grid)))
        self._algorithms: set[str] = set()

    def take(self, report: Report) -> None:
        """Keep a block."""
        box = self.grid.box(report.number)
        shape = self.grid.shape_of(box)
        assert report.values is not None
        assert report.retcodes is not None
        self._u[(slice(None), *box)] = report.values.reshape(len(self._u), *shape, -1)
        self._retcodes[box] = report.retcodes.reshape(shape)
        self._missing.discard(report.number)
        self._algorithms |= set(report.algorithm.split(", "))

    def give_up(self, number: int, error: str) -> None:
        """Note why a block failed."""
        self._retcodes[self.grid.box(number)] = "Failure"
        self._errors[number] = error
        self._missing.discard(number)

    def missing(self) -> list[int]:
        """The blocks that are not there."""
        return sorted(self._missing)

    def finish(self, run: dict[str, Any]) -> None:
        """There is nothing to be closed."""

    def dataset(self, attrs: Mapping[str, Any]) -> xr.Dataset:
        """What there is, labelled."""
        system, sweep = self._system, self._sweep
        names = (*system.model.states, *system.model.observed)
        failed = int(np.count_nonzero((self._retcodes != "Success") & (self._retcodes != "Terminated")))
        variables: dict[str, Any] = {
            name: xr.Variable((*sweep.dims, "t"), row, system.attrs.get(name))
            for name, row in zip(names, self._u, strict=True)
        }
        variables["retcode"] = xr.Variable(sweep.dims, self._retcodes)
        if self._errors:
            texts = np.full(self.grid.shape, "", dtype=object)
            for number, text in self._errors.items():
                texts[self.grid.box(number)] = text
            variables["error"] = xr.Variable(sweep.dims, texts)
        about = {**attrs, "n_failed": failed}
        if self._algorithms:
            about["algorithm"] = ", ".join(sorted(self._algorithms - {""}))
        return xr.Dataset(variables, coords={**sweep.coordinates(), "t": self._times}, attrs=about)
