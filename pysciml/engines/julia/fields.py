"""Fields on the Julia side: the loops of a plan, compiled there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from pysciml.graph import Model, ops
from pysciml.graph.field_kernels import ARRAY_OPS, Copy, Kernel, Plan, Reduction, View
from pysciml.graph.fields import FieldGraph

#: Operations of `pysciml.graph.array_ops` that are loops.
OPERATIONS: Final = ARRAY_OPS


def send_fields(model: Model) -> Any:
    """The model as a Julia value."""
    from pysciml.engines.julia.bridge import julia
    from pysciml.engines.julia.transfer import address, floats, integers, send

    graph = model.graph
    assert isinstance(graph, FieldGraph)
    plan, module = Plan(graph), julia()
    fields = module.Fields(integers(plan.sizes), len(graph.fields))
    for table in graph.tables:
        values = floats(table)
        module.add_table_b(fields, address(values), values.size)

    def numbers(values: Sequence[int]) -> Any:
        return integers(np.asarray(values, dtype=np.int64))

    for step in plan.steps:
        target = numbers(_place(step.target))
        if isinstance(step, Kernel):
            leaves = [number for leaf in step.leaves for number in _place(leaf, step.target)]
            node = int(step.graph.outputs["value"][0])
            module.add_kernel_b(
                fields, send(step.graph), node, numbers(step.target.shape[::-1]), target, numbers(leaves)
            )
            continue
        source = numbers(_place(step.source, step.target if isinstance(step, Copy) else None))
        if isinstance(step, Copy):
            module.add_copy_b(fields, numbers(step.target.shape[::-1]), target, source)
            continue
        extent = list(step.target.shape)
        extent[step.axis] = 1
        length, stride = step.source.shape[step.axis], step.source.strides[step.axis]
        if isinstance(step, Reduction):
            module.add_reduction_b(fields, step.largest, numbers(extent[::-1]), length, stride, target, source)
        else:
            module.add_product_b(
                fields,
                len(graph.fields) + step.table,
                step.target.shape[step.axis],
                length,
                numbers(extent[::-1]),
                numbers([step.target.strides[step.axis], stride]),
                target,
                source,
            )
    depends_on_time = ops.TIME in graph.op[graph.reachable(graph.outputs["rhs"])]
    return module.fields_model(model.kind, fields, graph.n_params, not depends_on_time)


def _place(view: View, over: View | None = None) -> tuple[int, ...]:
    """A view as Julia reads it, whose fastest axis is the first; repeated over another one's shape."""
    strides = view.strides if over is None else view.spread(over.shape)
    return (view.buffer, view.offset, *strides[::-1])
