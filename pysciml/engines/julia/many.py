"""Ensembles on Julia's threads: portions short enough that Ctrl-C is seen between them.

Where it is worth its compilation (`_STATIC_EVALUATIONS`), a small ordinary model is solved out of place on static
vectors. Its trajectories then agree with those of `pysciml.solve` to the tolerances instead of to the last bit; they
are the same from run to run, and for every division of the ensemble into blocks.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array, SolveOptions
from pysciml.engines.batch import Batch, BatchOptions, BatchReport
from pysciml.engines.julia import bridge
from pysciml.engines.julia.algorithms import SEMILINEAR
from pysciml.engines.julia.together import solve_together
from pysciml.engines.julia.transfer import Compiled, address, compiled, default, floats, tolerances
from pysciml.engines.steps import whole_steps
from pysciml.errors import UnsupportedError
from pysciml.graph import Model

#: Seconds of work in a portion.
_PORTION: Final = 0.5
#: Ensembles in which the right-hand side is evaluated this often are solved on static vectors, if the model is a small
#: one. These save 10 to 60 ns of a thread's time for each evaluation, and compile for two to three seconds, once for
#: each model (`benchmarks/julia_static.py`). On two threads such an ensemble takes some four seconds in place; on
#: static vectors the first takes five or six, and the next two and a half.
_STATIC_EVALUATIONS: Final = 1e8
#: The steps of Weyl's sequence in Steele, Lea & Flood, Fast splittable pseudorandom number generators (2014).
_WEYL: Final = np.uint64(0x9E3779B97F4A7C15)


def path_seeds(seed: int, paths: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """A seed for every path from the ensemble's seed and the path's number alone; path 0 has the seed itself.

    SplitMix64 (Steele, Lea & Flood, OOPSLA 2014): different paths have different seeds.
    """
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + paths.astype(np.uint64) * _WEYL
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.where(paths == 0, np.uint64(seed), z)


def solve_many(model: Model, algorithm: str | None, batch: Batch, options: BatchOptions, call: Any) -> BatchReport:
    """See `pysciml.engines.batch.BatchEngine`; ``call`` runs a function and translates Julia's errors."""
    module = bridge.julia()
    solving = options.solve
    name = algorithm or default(model, solving.device)
    if name.partition("(")[0] in SEMILINEAR:
        whole_steps(name, batch.tspan, solving)
    ready, compile_seconds = call(lambda: compiled(model, name, solving.device))
    times = floats([batch.tspan[1]] if solving.saveat is None else solving.saveat)
    seed = secrets.randbits(63) if solving.seed is None else solving.seed
    allowed = max(1, options.memory // (16 * (len(times) * model.graph.n_states + len(model.parameters) + 64)))
    label, atols = name, tolerances(model, solving)
    if atols is not None and solving.device != "cpu":
        raise UnsupportedError("kernels on a GPU have one atol for all states", engine="julia")
    if solving.device != "cpu" and name and not module.in_kernels(ready.handle, name):
        with ready.lock:
            label, steps = solve_together(model, ready.handle, name, batch, options, times, call)
        return BatchReport(label, compile_seconds, {"n_steps": steps, **solving.place})
    static, seconds = _on_static_vectors(module, model, ready, batch, solving, name, times, call)
    compile_seconds += seconds
    each = 0 if atols is None else address(atols)
    low, size = 0, min(batch.size, max(2, options.workers))
    while low < batch.size:
        high = min(low + size, batch.size)
        u0, p = batch.inputs(low, high)
        if model.jumps:
            u0 = np.hstack([u0, np.zeros((high - low, 1))])
        seeds = path_seeds(seed, batch.paths(low, high))
        begin = time.perf_counter()

        u = np.empty((high - low, len(times), u0.shape[1]))
        codes = np.empty(high - low, dtype=np.int64)

        arrays = u, codes, floats(u0), floats(p), seeds

        def portion(arrays: Any = arrays) -> Any:
            u, codes, start, parameters, seeds = map(address, arrays)
            given = (
                ready.handle,
                u,
                codes,
                start,
                parameters,
                len(arrays[1]),
                float(batch.tspan[0]),
                float(batch.tspan[1]),
                name,
                float(solving.rtol),
                float(solving.atol),
                address(times),
                times.size,
                float(solving.dt or 0.0),
            )
            if solving.device != "cpu":
                return module.solve_on_device_at._jl_call_nogil(*given, solving.device, solving.precision)
            steps = int(solving.max_steps)
            return module.solve_many_at._jl_call_nogil(*given, steps, seeds, int(options.workers), static, each)

        with ready.lock:
            names, label = call(portion)
        batch.store(low, high, u[..., : model.graph.n_states], np.array(names.split(" "), dtype=np.str_)[codes])
        seconds = (time.perf_counter() - begin) / (high - low)
        low, size = high, max(1, min(int(_PORTION / seconds), 4 * size, allowed))
    extra: dict[str, str | int | float] = {"threads": min(options.workers, int(module.thread_count()))}
    if solving.device != "cpu":
        extra = {"device": solving.device}
    if solving.precision != "float64":
        extra["precision"] = solving.precision
    if static:
        extra["vectors"] = "static"
    if model.noise or model.jumps:
        extra["seed"] = seed
    if model.noise:
        extra["calculus"] = "Ito"
    return BatchReport(str(label), compile_seconds, extra)


def _on_static_vectors(
    module: Any, model: Model, ready: Compiled, batch: Batch, solving: SolveOptions, name: str, times: Array, call: Any
) -> tuple[bool, float]:
    """Whether the ensemble is solved on static vectors, and the seconds that finding out and compiling for it took.

    The problem that the ensemble varies says how many evaluations a trajectory takes, so that all blocks decide alike.
    """
    if batch.near is None or model.kind != "ode" or solving.device != "cpu" or solving.atols is not None:
        return False, 0.0
    begin = time.perf_counter()
    start, parameters = map(floats, batch.near)
    with ready.lock:
        static = call(
            lambda: module.prepare_static_at._jl_call_nogil(
                ready.handle,
                address(start),
                address(parameters),
                float(batch.tspan[0]),
                float(batch.tspan[1]),
                name,
                float(solving.rtol),
                float(solving.atol),
                address(times),
                times.size,
                float(solving.dt or 0.0),
                int(solving.max_steps),
                _STATIC_EVALUATIONS / (batch.size if batch.whole is None else batch.whole),
            )
        )
    return bool(static), time.perf_counter() - begin
