"""An engine whose trajectories can be told to misbehave, for processes that a test does not share its memory with.

It solves ``D(x) = -a x`` exactly. The parameter ``fault`` of a trajectory says what goes wrong with it; what processes
tell each other goes through the folder ``$PYSCIML_FAULTS``.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from pysciml.engines.base import Engine, RawSolution

RAISE, KILL, WAIT, SLOW = 1.0, 2.0, 3.0, 4.0


def folder() -> Path:
    return Path(os.environ["PYSCIML_FAULTS"])


class FaultyEngine(Engine):
    """See the module."""

    name = "faulty"
    kinds = ("ode",)

    def unavailable(self):
        return None

    def version(self):
        return "1.0"

    def algorithms(self):
        return {"Exact": "the solution itself"}

    def check(self, model, algorithm):
        self.check_algorithm(algorithm)

    def solve(self, model, u0, p, tspan, algorithm, options):
        rate, fault = p
        if "PYSCIML_FAULTS" in os.environ:
            with (folder() / f"log-{os.getpid()}").open("a") as log:
                log.write(f"{float(rate)!r} {id(model)}\n")
            if fault:
                self.fail(fault, rate)
        times = options.saveat
        u = u0[:, None] * np.exp(-rate * (times - tspan[0]))
        return RawSolution(t=times, u=u, algorithm="Exact", compile_seconds=0.0)

    def fail(self, fault, rate):
        if (folder() / "mended").exists():
            return
        if fault == RAISE:
            raise RuntimeError(f"the rate {rate:g} is not to be had")
        if fault == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == WAIT:
            here = folder() / f"waiting-{os.getpid()}"
            here.touch()
            while not (folder() / "go").exists():
                time.sleep(0.01)
            here.unlink()
        if fault == SLOW:
            time.sleep(0.02)
