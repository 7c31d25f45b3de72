"""Fields on the Julia side: the loops of a plan, compiled there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from pysciml.graph import Model, ops
from pysciml.graph.array_ops import ARRAY_OPS
from pysciml.graph.field_kernels import Copy, Kernel, Plan, Reduction, Transform, View
from pysciml.graph.field_modes import diagonal, modal
from pysciml.graph.field_networks import expand_fields
from pysciml.graph.field_split import split
from pysciml.graph.fields import FieldGraph

#: Operations on arrays that have a step in Julia.
OPERATIONS: Final = frozenset(ARRAY_OPS)


def _graph(model: Model) -> FieldGraph:
    """Its graph, with networks written out."""
    assert isinstance(model.graph, FieldGraph)
    return expand_fields(model.graph)


def send_fields(model: Model) -> Any:
    """The model as a Julia value."""
    from pysciml.engines.julia.bridge import julia
    from pysciml.engines.julia.transfer import integers

    graph, module = _graph(model), julia()
    module.load_kind(model.kind)
    fields = _send(graph, "rhs")
    depends_on_time = ops.TIME in graph.op[graph.reachable(graph.outputs["rhs"])]
    algebraic = () if model.differential.all() else (integers(model.differential),)
    handle = module.fields_model(model.kind, fields, graph.n_params, not depends_on_time, *algebraic)
    if model.noise_type is not None:
        module.set_fields_noise_b(
            handle,
            _send(graph, "diffusion"),
            integers(model.diffusion_rows),
            integers(model.diffusion_cols),
            model.n_noise,
            model.noise_type,
        )
    return handle


@lru_cache(maxsize=32)
def _parts(graph: FieldGraph) -> FieldGraph:
    return split(graph)


def has_linear_part(model: Model) -> bool:
    """Whether the right-hand side has terms that IMEX methods solve for: see `pysciml.graph.field_split`."""
    graph = _graph(model)
    return bool(_parts(graph).sparsity("implicit")[0].size)


def has_moving_boundary(model: Model) -> bool:
    """Whether what IMEX methods solve for depends on time: by values at boundaries that stand in stencils."""
    graph = _graph(model)
    parts = _parts(graph)
    return ops.TIME in parts.op[parts.reachable(parts.outputs["implicit"])]


def send_fields_split(model: Model, handle: Any) -> None:
    """Send the linear part and the rest."""
    from pysciml.engines.julia.bridge import julia
    from pysciml.engines.julia.transfer import integers

    graph = _graph(model)
    parts = _parts(graph)
    rows, cols = parts.sparsity("implicit")
    both = (_send(parts, name) for name in ("implicit", "explicit"))
    julia().set_fields_split_b(handle, *both, integers(rows), integers(cols), has_moving_boundary(model))


@lru_cache(maxsize=32)
def _diagonal(graph: FieldGraph) -> FieldGraph | None:
    return diagonal(graph)


def has_diagonal_part(model: Model) -> bool:
    """Whether exponential methods can step Fourier modes: see `pysciml.graph.field_modes.diagonal`."""
    return isinstance(model.graph, FieldGraph) and _diagonal(_graph(model)) is not None


def send_fields_modes(model: Model, handle: Any) -> None:
    """Send the linear part and the rest as functions of Fourier modes."""
    from pysciml.engines.julia.bridge import julia
    from pysciml.engines.julia.transfer import integers

    graph = _graph(model)
    parts = _diagonal(graph)
    assert parts is not None
    given: list[Any] = []
    for name in ("linear", "rest"):
        part = modal(parts, name)
        places = [[n for k, orders in terms for n in (k, *orders[::-1])] for terms in (part.inputs, part.outputs)]
        given += [_send(part.graph, "values"), tuple(map(integers, places))]
    julia().set_modes_b(handle, integers(graph.fields[0][::-1]), len(graph.fields), *given)


def _send(graph: FieldGraph, name: str) -> Any:
    """The loops that compute an output, as a Julia value."""
    from pysciml.engines.julia.bridge import julia
    from pysciml.engines.julia.transfer import address, floats, integers, send

    plan, module = Plan(graph, name), julia()
    fields = module.Fields(integers(plan.sizes), len(graph.fields), len(plan.outputs))
    for table in graph.tables:
        values = floats(table)
        module.add_table_b(fields, address(values), values.size)

    def numbers(values: Sequence[int]) -> Any:
        return integers(np.asarray(values, dtype=np.int64))

    for step in plan.steps:
        if isinstance(step, Kernel):
            targets = [number for target in step.targets for number in _place(target)]
            leaves = [number for leaf in step.leaves for number in _place(leaf, step.targets[0])]
            nodes = numbers(step.graph.outputs["value"].tolist())
            module.add_kernel_b(
                fields, send(step.graph), nodes, numbers(step.shape[::-1]), numbers(targets), numbers(leaves)
            )
            continue
        target = numbers(_place(step.target))
        source = numbers(_place(step.source, step.target if isinstance(step, Copy) else None))
        if isinstance(step, Copy):
            module.add_copy_b(fields, numbers(step.target.shape[::-1]), target, source)
            continue
        lines = list(step.target.shape)
        lines[step.axis] = 1
        extent = numbers(lines[::-1])
        length, stride = step.source.shape[step.axis], step.source.strides[step.axis]
        strides = numbers([step.target.strides[step.axis], stride])
        if isinstance(step, Reduction):
            module.add_reduction_b(fields, step.largest, extent, length, stride, target, source)
        elif isinstance(step, Transform):
            module.add_transform_b(fields, step.order, length, extent, strides, target, source)
        else:
            rows, matrix = step.target.shape[step.axis], len(graph.fields) + step.table
            module.add_product_b(fields, matrix, rows, length, extent, strides, target, source)
    return fields


def _place(view: View, over: View | None = None) -> tuple[int, ...]:
    """A view as Julia reads it, whose fastest axis is the first; repeated over another one's shape."""
    strides = view.strides if over is None else view.spread(over.shape)
    return (view.buffer, view.offset, *strides[::-1])
