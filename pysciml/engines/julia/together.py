"""Ensembles on a GPU as one system of equations: models and methods for which there are no kernels of whole solves.

All trajectories have the same steps, the smallest that any of them needs. Their values agree with those of
`pysciml.solve` to the tolerances, and so do those of an ensemble that is divided into blocks. One that cannot be solved
stops all that are solved with it: it is looked for by halves.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.batch import Batch, BatchOptions
from pysciml.engines.julia import bridge
from pysciml.engines.julia.tapes import address, floats
from pysciml.graph import Model

#: Seconds between two looks for Ctrl-C.
_SLICE: Final = 0.1
#: Trajectories that did not get to the end together are solved again in two halves so often at most: enough for five
#: that fail among ten thousand.
_HALVINGS: Final = 64


def solve_together(
    model: Model, handle: Any, name: str, batch: Batch, options: BatchOptions, times: Array, call: Any
) -> tuple[str, int]:
    """Solve a batch; the name of the algorithm that ran, and its steps.

    Parameters
    ----------
    model : Model
    handle : Julia value
        The model there, which no other thread uses.
    name : str
        Of the algorithm.
    batch, options : Batch, BatchOptions
        See `pysciml.engines.batch.BatchEngine`.
    times : array of shape (n_t,)
        Where states are wanted.
    call : callable
        Calls a function and translates Julia's errors.
    """
    # The states wanted, and what a step of a method of high order keeps beside them.
    each = 8 * ((2 * len(times) + 24) * model.graph.n_states + 2 * model.graph.n_params)
    size, label, steps, halvings = max(1, options.memory // each), name, 0, _HALVINGS
    parts = [(low, min(low + size, batch.size)) for low in range(0, batch.size, size)]
    while parts:
        low, high = parts.pop()
        u, retcode, label, taken = _portion(handle, name, batch, options, (low, high), times, call)
        steps += taken
        if retcode == "Success" or high - low == 1 or not halvings:
            batch.store(low, high, u, np.full(high - low, retcode))
        else:
            middle, halvings = (low + high) // 2, halvings - 1
            parts += [(low, middle), (middle, high)]
    return label, steps


def _portion(
    handle: Any, name: str, batch: Batch, options: BatchOptions, part: tuple[int, int], times: Array, call: Any
) -> tuple[Array, str, str, int]:
    """States of shape (count, n_t, n_states), not a number from where they end; return code, algorithm, steps."""
    module, calls, solving = bridge.julia(), bridge.calls(), options.solve
    start, parameters = map(floats, batch.inputs(*part))
    count, n_states = start.shape
    run = call(
        lambda: module.start_together_at._jl_call_nogil(
            handle,
            address(start),
            address(parameters),
            count,
            float(batch.tspan[0]),
            float(batch.tspan[1]),
            name,
            float(solving.rtol),
            float(solving.atol),
            address(times),
            times.size,
            float(solving.dt or 0.0),
            int(solving.max_steps),
            solving.device,
            solving.precision,
        )
    )
    while not calls.advance(run, _SLICE):
        pass
    reached, _, label, retcode, _, steps, *_ = calls.outcome(run)
    states = np.empty((n_states, count, reached))
    nothing = np.empty(0), np.empty(0, dtype=np.int64)
    calls.write_outcome(run, address(np.empty(reached)), address(states), *map(address, nothing))
    u = np.full((count, times.size, n_states), np.nan)
    u[:, :reached] = states.transpose(1, 2, 0)
    return u, str(retcode), str(label), int(steps)
