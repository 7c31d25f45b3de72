"""The sweep that the tests of blocks share, and what they see of other processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import xarray as xr

import pysciml as ps

ROOT = Path(__file__).resolve().parents[2]
#: Seconds after which something that must happen has not; machines may be busy.
PATIENCE = 120.0

x = ps.variables("x")
a, fault = ps.parameters("a fault")


class Faults:
    """What the engine's processes have said."""

    def __init__(self, folder, plugin):
        self.folder, self.plugin = folder, plugin

    def go(self):
        (self.folder / "go").touch()

    def mend(self):
        (self.folder / "mended").touch()

    def waiting(self):
        """The processes that wait."""
        return [int(path.name.split("-")[1]) for path in self.folder.glob("waiting-*")]

    def lines(self):
        """What was solved: (process, rate, model's address) of each trajectory."""
        found = []
        for path in self.folder.glob("log-*"):
            for line in path.read_text().splitlines():
                rate, model = line.split()
                found.append((int(path.name.split("-")[1]), rate, model))
        return found

    def environment(self):
        paths = [str(self.plugin), str(ROOT), os.environ.get("PYTHONPATH", "")]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


def until(condition, what, process=None):
    """Wait for something that another process does."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"{what}: the process ended with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < end, what
        time.sleep(0.01)
    return found


def problem():
    system = ps.System([ps.Eq(ps.D(x), -a * x)], parameters=[a, fault], observed={"double": 2 * x}, name="decay")
    return ps.Problem(system, {x: 1.0}, (0, 1), {a: 1.0, fault: 0.0})


def arguments(count=40, block_size=5, faults=()):
    """The same sweep in every process: rates, and which trajectories misbehave how."""
    faulty = np.zeros(count)
    for index, kind in faults:
        faulty[index] = kind
    rates = xr.DataArray(np.linspace(0.5, 2, count), dims="n")
    return {
        "over": {a: rates, fault: xr.DataArray(faulty, dims="n")},
        "engine": "faulty",
        "saveat": [0.0, 0.5, 1.0],
        "block_size": block_size,
    }


def content(store):
    """Every byte of a store but those of its books."""
    root = Path(store)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] != "pysciml"
    }
