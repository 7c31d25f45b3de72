"""Many trajectories of fields: explicit methods under ``vmap``, those stepped from the host one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from pysciml.engines.batch import Batch, BatchOptions, BatchReport
from pysciml.engines.fields.choice import is_stiff
from pysciml.engines.fields.precondition import Preconditioner
from pysciml.engines.jax.compiling import double_precision
from pysciml.engines.jax.fields.methods import FROM_HOST
from pysciml.engines.jax.fields.run import compiled_operator, with_noise_step
from pysciml.graph import Model

if TYPE_CHECKING:
    from pysciml.engines.jax.engine import JaxEngine

#: Trajectories that are looked at to find out whether an ensemble is stiff.
_PROBES: Final = 3


def solve_many(
    engine: JaxEngine, model: Model, algorithm: str | None, batch: Batch, options: BatchOptions
) -> BatchReport:
    """See `pysciml.engines.batch.BatchEngine`.

    Without an algorithm three trajectories are looked at: where one of them is stiff each is solved
    as `solve` does, by itself.
    """
    by_itself = algorithm in FROM_HOST or (algorithm is None and model.kind == "ode" and _any_stiff(model, batch))
    if by_itself:
        from pysciml.ensemble.loop import solve_one_by_one

        one = BatchOptions(options.solve, options.memory, 1)
        return solve_one_by_one(engine, model, algorithm, batch, one)
    if model.kind == "sde":
        u0, p = batch.inputs(0, 1)
        options = replace(options, solve=with_noise_step(model, u0[0], p[0], batch.tspan, options.solve))
    from pysciml.engines.jax.engine import choose
    from pysciml.engines.jax.many import solve_many as together

    return together(model, choose(model, algorithm), batch, options)


def _any_stiff(model: Model, batch: Batch) -> bool:
    forward = batch.tspan[1] > batch.tspan[0]
    start = (1.0 if forward else -1.0) * batch.tspan[0]
    with double_precision():
        for which in sorted(set(np.linspace(0, batch.size - 1, _PROBES).astype(int).tolist())):
            u0, p = batch.inputs(which, which + 1)
            operator, _ = compiled_operator(model, p[0], forward)
            if is_stiff(Preconditioner(operator, start, u0[0]), operator, u0[0], batch.tspan):
                return True
    return False
