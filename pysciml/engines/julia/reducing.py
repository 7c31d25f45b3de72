"""Index reduction by ModelingToolkit.jl: residuals go there as arrays, and reduced equations come back as arrays."""

from __future__ import annotations

import numpy as np

from pysciml.engines.julia import bridge, environment
from pysciml.engines.julia.simplifying import written
from pysciml.engines.julia.transfer import integers, send
from pysciml.errors import EngineUnavailableError, UnsupportedError
from pysciml.graph import GraphBuilder
from pysciml.graph.reduction import Reduced, Unreduced


def index_reduced(unreduced: Unreduced, preferred: tuple[int, ...] = ()) -> Reduced:
    """The same equations with index 1, after ModelingToolkit's structural simplification.

    Where it has a choice, it makes the ``preferred`` unknowns differential states.

    Raises
    ------
    EngineUnavailableError
        If ModelingToolkit.jl is not installed.
    UnsupportedError
        With its own message, if it cannot simplify the equations.
    """
    if missing := environment.lacks("ModelingToolkit", "modelingtoolkit"):
        raise EngineUnavailableError(f"reduce_index: {missing}", engine="julia")
    graph, places = unreduced.graph, unreduced.places
    module = bridge.julia()
    module.load_package("ModelingToolkit")
    try:
        arrays = module.index_reduced(
            send(graph),
            integers(graph.outputs["residuals"]),
            integers([owner for owner, _ in places]),
            integers([order for _, order in places]),
            integers(preferred),
        )
    except Exception as error:
        if type(error).__name__ != "JuliaError":
            raise
        raise UnsupportedError(f"ModelingToolkit.jl: {bridge.message_of(error)}", engine="julia") from error
    op, args, const, index, owners, orders, n_differential, rhs, gone, gone_orders, eliminated = map(np.array, arrays)
    builder = GraphBuilder(len(owners), graph.n_params)
    nodes = written(builder, op.tolist(), args.reshape(-1, 3).tolist(), const.tolist(), index.tolist())
    outputs = {"rhs": rhs, "eliminated": eliminated}
    return Reduced(
        builder.build({name: [nodes[k] for k in numbers.tolist()] for name, numbers in outputs.items()}),
        tuple(zip(owners.tolist(), orders.tolist(), strict=True)),
        int(n_differential),
        tuple(zip(gone.tolist(), gone_orders.tolist(), strict=True)),
    )
