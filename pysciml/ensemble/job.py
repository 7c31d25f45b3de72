"""What every process that works on a sweep has to know, and how it gets there."""

from __future__ import annotations

import io
import math
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pysciml._version import __version__
from pysciml.consistency import consistent_rows
from pysciml.engines import base
from pysciml.engines.base import Array, Engine
from pysciml.engines.batch import Batch, BatchEngine, BatchOptions, BatchReport
from pysciml.ensemble.inputs import Indices, Inputs, Varying
from pysciml.ensemble.loop import solve_one_by_one
from pysciml.ensemble.messages import pack_model, read_options, receive, send, unpack_model
from pysciml.errors import PySciMLError
from pysciml.graph import Model

#: Arrays of varying numbers longer than this are not sent to every process: their parts go with the blocks.
_SMALL: Final = 100_000
#: Jobs that a process keeps.
_KEPT: Final = 8

#: Numbers that go with a block: which of ``Inputs.varying``, and its values.
Given = dict[int, Array]


@dataclass(frozen=True)
class Solved:
    """The trajectories of one block.

    Attributes
    ----------
    values : array, shape (n_states + n_observed, count, n_t)
    retcodes : array of str, shape (count,)
    algorithm : str
    compile_seconds : float
    extra : dict
        Further attributes, from the engine.
    """

    values: npt.NDArray[np.floating[Any]]
    retcodes: npt.NDArray[np.str_]
    algorithm: str
    compile_seconds: float
    extra: dict[str, str | int | float]

    @property
    def failed(self) -> int:
        """How many trajectories did not reach their end."""
        return int(np.count_nonzero((self.retcodes != "Success") & (self.retcodes != "Terminated")))


@dataclass(frozen=True)
class Job:
    """A sweep without its labels.

    Attributes
    ----------
    model : Model
    engine : str
    algorithm : str or None
    tspan : (float, float)
    options : BatchOptions
        ``workers`` is for the engine inside one block.
    inputs : Inputs
    """

    model: Model
    engine: str
    algorithm: str | None
    tspan: tuple[float, float]
    options: BatchOptions
    inputs: Inputs

    @property
    def names(self) -> tuple[str, ...]:
        """The variables of the result."""
        return (*self.model.states, *self.model.observed)

    @cached_property
    def times(self) -> Array:
        """The output times."""
        saveat = self.options.solve.saveat
        return np.array([self.tspan[1]]) if saveat is None else saveat

    @property
    def bytes_each(self) -> int:
        """What one trajectory's numbers take, those that go in and those that come out."""
        there = 8 * (len(self.inputs.u0) + len(self.inputs.p))
        return there + np.dtype(self.options.solve.precision).itemsize * len(self.names) * len(self.times) + 72

    @property
    def has_large(self) -> bool:
        """Whether some numbers must go with the blocks."""
        return any(varying.values.size > _SMALL for varying in self.inputs.varying)

    def given(self, trajectories: Indices) -> Given:
        """The numbers that must go with a block because they did not go with the job."""
        where = np.unravel_index(trajectories, self.inputs.shape)
        return {
            i: varying.values[tuple(where[axis] for axis in varying.axes)]
            for i, varying in enumerate(self.inputs.varying)
            if varying.values.size > _SMALL
        }

    def prepare(self) -> Engine:
        """The engine, ready to use in this process and with no more threads than it is to have."""
        if self.engine == "julia" and "juliacall" not in sys.modules:
            # Julia fixes its threads when it starts; cores are shared out by the cluster.
            os.environ.setdefault("PYTHON_JULIACALL_THREADS", str(self.options.workers))
        engine = base.get(self.engine)
        engine.check(self.model, self.algorithm)
        return engine

    def solve(
        self,
        trajectories: Indices,
        given: Given | None = None,
        *,
        each: float | None = None,
        check: Callable[[], None] | None = None,
    ) -> Solved:
        """Solve these trajectories.

        Parameters
        ----------
        trajectories : array of int, shape (count,)
        given : dict, optional
            See `given`.
        each : float, optional
            Seconds that one takes, where that is known.
        check : callable, optional
            Called again and again; what it raises ends the solve.
        """
        engine = self.prepare()
        model, inputs = self.model, self.inputs
        count, n = len(trajectories), len(model.states)
        u0, p = self._inputs(trajectories, given or {})
        values = np.full((len(self.names), count, len(self.times)), np.nan, dtype=self.options.solve.precision)
        retcodes = np.full(count, "Failure", dtype="<U18")

        def store(low: int, high: int, u: Array, codes: npt.NDArray[np.str_]) -> None:
            fine = (codes == "Success") | (codes == "Terminated")
            if not fine.all():
                u = np.where(fine[:, None, None], u, np.nan)
            values[:n, low:high] = np.moveaxis(u, 2, 0)
            if model.observed:
                rows = np.ascontiguousarray(p[low:high].T)[:, :, None]
                values[n:, low:high] = model.graph.evaluate("observed", values[:n, low:high], rows, self.times)
            retcodes[low:high] = codes
            if check is not None:
                check()

        batch = Batch(
            count,
            self.tspan,
            lambda low, high: (u0[low:high], p[low:high]),
            lambda low, high: trajectories[low:high].astype(np.uint32),
            store,
            (inputs.u0, inputs.p),
            math.prod(inputs.shape),
        )
        if isinstance(engine, BatchEngine):
            report: BatchReport = engine.solve_many(model, self.algorithm, batch, self.options)
        else:
            report = solve_one_by_one(engine, model, self.algorithm, batch, self.options, each=each)
        return Solved(values, retcodes, report.algorithm, report.compile_seconds, report.extra)

    def _inputs(self, trajectories: Indices, given: Given) -> tuple[Array, Array]:
        u0, p = self._raw_inputs(trajectories, given)
        return consistent_rows(self.model, u0, p, self.tspan[0], self.inputs.given), p

    def _raw_inputs(self, trajectories: Indices, given: Given) -> tuple[Array, Array]:
        if not given:
            return self.inputs.at(trajectories)
        here = tuple(varying for i, varying in enumerate(self.inputs.varying) if i not in given)
        u0, p = Inputs(self.inputs.u0, self.inputs.p, self.inputs.shape, here).at(trajectories)
        for i, values in given.items():
            varying = self.inputs.varying[i]
            (u0 if varying.is_state else p)[:, varying.index] = values
        return u0, p

    def pack(self) -> bytes:
        """The job as bytes: the graph's arrays, the numbers, the options."""
        header, arrays = pack_model(self.model)
        solve = asdict(self.options.solve)
        arrays |= {name: found for name in ("saveat", "atols") if (found := solve.pop(name)) is not None}
        header |= {
            "version": __version__,
            "engine": self.engine,
            "algorithm": self.algorithm,
            "tspan": self.tspan,
            "options": solve,
            "memory": self.options.memory,
            "workers": self.options.workers,
            "shape": self.inputs.shape,
            "varying": [[v.is_state, v.index, v.axes] for v in self.inputs.varying],
        }
        arrays |= {"u0": self.inputs.u0, "p": self.inputs.p}
        if self.inputs.given is not None:
            arrays["given"] = self.inputs.given
        for i, varying in enumerate(self.inputs.varying):
            arrays[f"varying{i}"] = varying.values if varying.values.size <= _SMALL else np.zeros(0)
        stream = io.BytesIO()
        send(stream, header, arrays)
        return stream.getvalue()

    @classmethod
    def unpack(cls, packed: bytes) -> Job:
        """The job of some bytes."""
        message = receive(io.BytesIO(packed))
        assert message is not None
        header, arrays = message
        if header["version"] != __version__:
            raise PySciMLError(f"this process has pysciml {__version__}, and the job comes from {header['version']}")
        varying = tuple(
            Varying(is_state, index, tuple(axes), arrays[f"varying{i}"])
            for i, (is_state, index, axes) in enumerate(header["varying"])
        )
        start, end = header["tspan"]
        return cls(
            unpack_model(header, arrays),
            header["engine"],
            header["algorithm"],
            (start, end),
            BatchOptions(read_options(header["options"], arrays), header["memory"], header["workers"]),
            Inputs(arrays["u0"], arrays["p"], tuple(header["shape"]), varying, arrays.get("given")),
        )


_jobs: OrderedDict[str, Job] = OrderedDict()


def unpacked(packed: bytes, key: str) -> Job:
    """`Job.unpack`, remembered: a process decodes a job once."""
    job = _jobs.get(key)
    if job is None:
        job = _jobs[key] = Job.unpack(packed)
        while len(_jobs) > _KEPT:
            _jobs.popitem(last=False)
    return job
