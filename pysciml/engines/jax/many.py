"""Many trajectories: the same loop under ``vmap``, in chunks that fit the processor's caches."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import jax
import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array
from pysciml.engines.batch import Batch, BatchOptions, BatchReport
from pysciml.engines.jax.compiling import arithmetic, compiled
from pysciml.engines.jax.loop import advance, start
from pysciml.engines.jax.packing import MOST_STEPS
from pysciml.engines.jax.program import key_of, make_plan, pad_times, setting
from pysciml.engines.jax.single import calculus, step
from pysciml.engines.jax.state import RETCODES, RUNNING, UNSTABLE, Arguments
from pysciml.graph import Model

#: Working memory of one chunk's step, in bytes: about a processor core's second-level cache.
_CACHE: Final = 2**18
#: Trajectories that go together on an accelerator, where the memory allows.
_ACCELERATED: Final = 2**16
#: Arrays of the size of the state that a step works with.
_WORKING: Final = 16

_NAMES: Final = np.array(RETCODES)


def solve_many(model: Model, algorithm: str, batch: Batch, options: BatchOptions) -> BatchReport:
    """See `pysciml.engines.batch.BatchEngine`."""
    solving = options.solve
    save = "end" if solving.saveat is None else "times"
    single = solving.precision == "float32"
    how = setting(model, algorithm, batch.tspan, solving.dt, save, batched=True, single=single)
    where = {"precision": solving.precision, "device": solving.device}
    sign = 1.0 if how.forward else -1.0
    times = np.zeros(0) if solving.saveat is None else sign * solving.saveat
    with_start = times.size > 0 and times[0] == sign * batch.tspan[0]
    times = times[1:] if with_start else times
    key, seed = key_of(solving.seed) if model.kind == "sde" else (np.zeros(2, dtype=np.uint32), 0)
    n, n_p = model.graph.n_states, len(model.parameters)
    padded = pad_times(times) if save == "times" else np.zeros(0)
    numbers = n + n_p + len(padded) * n
    if model.fields:  # as long as many trajectories: a step's own arrays count, and one is enough at a time
        size = chunk_size(n, numbers + _WORKING * n, batch.size, options, least=1)
    else:
        size = chunk_size(n, numbers, batch.size, options)

    def arguments(p: Array, index: npt.NDArray[np.uint32]) -> Arguments:
        scalar = np.float64
        return Arguments(
            p=p,
            start=scalar(sign * batch.tspan[0]),
            end=scalar(sign * batch.tspan[1]),
            times=padded,
            rtol=scalar(solving.rtol),
            atol=np.asarray(solving.absolute, dtype=np.float64),
            dt=scalar(solving.dt if solving.dt is not None else 0.0),
            max_steps=np.int64(min(solving.max_steps, MOST_STEPS[solving.precision])),
            stop_at=np.int64(MOST_STEPS[solving.precision]),
            key=key,
            index=index,
        )

    def make() -> Callable[..., Any]:
        plan = make_plan(model, how)

        def one(y0: Any, args: Arguments) -> Any:
            final = advance(plan, start(plan, y0, args), args)
            values = final.y[None] if save == "end" else final.ys
            return values, final.y, final.code

        axes = Arguments(*(0 if name in ("p", "index") else None for name in Arguments._fields))
        return jax.vmap(one, in_axes=(0, axes))

    def inputs(low: int) -> tuple[int, Array, Arguments]:
        """One chunk's arguments; the last chunk is filled up with repetitions."""
        high = min(low + size, batch.size)
        u0, p = batch.inputs(low, high)
        index = batch.paths(low, high)
        missing = size - (high - low)
        if missing:
            u0 = np.concatenate([u0, np.repeat(u0[-1:], missing, axis=0)])
            p = np.concatenate([p, np.repeat(p[-1:], missing, axis=0)])
            index = np.concatenate([index, np.repeat(index[-1:], missing)])
        return high, np.ascontiguousarray(u0), arguments(np.ascontiguousarray(p), index)

    _, u0, args = inputs(0)
    run, compile_seconds = compiled(
        (model.hash, how, size, len(padded), n, n_p, solving.atols is None), make, u0, args, **where
    )

    def chunk(low: int) -> None:
        high, y0, now = inputs(low)
        with arithmetic(**where):
            values, last, codes = run(y0, now)
        count = high - low
        u = np.asarray(values)[:count]
        code = np.asarray(codes)[:count].copy()
        if save == "times":
            u = u[:, : len(times)]
            if with_start:
                u = np.concatenate([y0[:count, None].astype(u.dtype), u], axis=1)
        if not how.adaptive:
            finite = np.isfinite(np.asarray(last)[:count]).all(axis=1)
            code[~finite & (code == RUNNING)] = UNSTABLE
        batch.store(low, high, u, _NAMES[code])

    _parallel(chunk, range(0, batch.size, size), options.workers)
    extra = solving.place
    if model.kind == "sde":
        extra |= {"seed": seed, "calculus": calculus(model, algorithm)} | step(solving)
    return BatchReport(algorithm, compile_seconds, extra)


def chunk_size(n_states: int, numbers: int, trajectories: int, options: BatchOptions, least: int = 64) -> int:
    """How many trajectories go together: what the cache holds, and the memory allows.

    Parameters
    ----------
    n_states : int
    numbers : int
        Numbers that one trajectory's input and output take.
    trajectories : int
    options : BatchOptions
    least : int
        How many, if the memory allows, though the cache may not hold them.
    """
    # An accelerator wants many at a time, a processor core what its cache holds.
    cached = _CACHE // (8 * _WORKING * n_states) if options.solve.device == "cpu" else _ACCELERATED
    allowed = options.memory // (2 * 8 * numbers * options.workers)
    size = max(1, min(max(least, cached), allowed))
    return min(size, 1 << max(0, trajectories - 1).bit_length())


def _parallel(task: Callable[[int], None], items: range, workers: int) -> None:
    """Run the task for every item; the first error or interruption stops what has not begun."""
    if workers == 1 or len(items) == 1:
        for item in items:
            task(item)
        return
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(task, item) for item in items]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise
