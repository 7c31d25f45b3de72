"""The right-hand side of fields in two parts: what is linear with coefficients that do not change, and the rest."""

from __future__ import annotations

from typing import Final

from pysciml.graph import array_ops as ao
from pysciml.graph import ops
from pysciml.graph.field_builder import FieldBuilder
from pysciml.graph.field_jacobian import copy
from pysciml.graph.fields import FieldGraph

_CONSTANT, _IN_TIME, _AFFINE, _OTHER = range(4)
#: Operations that are linear and reach near cells alone; the sum over an axis would fill the matrix.
_NEAR: Final = frozenset({ao.SLICE, ao.JOIN, ao.APPLY, ao.FOURIER})


def split(graph: FieldGraph) -> FieldGraph:
    """The two parts of the right-hand side, as the outputs ``"implicit"`` and ``"explicit"``; their sum is the whole.

    The implicit part has the terms that are affine in the fields, with a linear part whose coefficients depend on
    parameters and place alone: values at boundaries that change in time stay with the stencils they belong to.
    """
    builder = FieldBuilder(graph.fields, graph.n_params)
    moved, kinds = copy(graph, builder), _kinds(graph)

    def part(node: int, implicit: bool) -> int:
        if kinds[node] != _OTHER:
            return moved[node] if (kinds[node] == _AFFINE) == implicit else builder.zero
        code = int(graph.op[node])
        args = [a for a in graph.args[node].tolist() if a >= 0]
        if code in (ops.ADD, ops.SUB, ops.NEG):
            return builder.call(code, *(part(a, implicit) for a in args))
        if code == ops.MUL and _CONSTANT in (kinds[args[0]], kinds[args[1]]):
            factor, other = args if kinds[args[0]] == _CONSTANT else args[::-1]
            return builder.mul(moved[factor], part(other, implicit))
        if code == ops.DIV and kinds[args[1]] == _CONSTANT:
            return builder.div(part(args[0], implicit), moved[args[1]])
        return builder.zero if implicit else moved[node]

    roots = graph.outputs["rhs"].tolist()
    return builder.build(
        {
            name: [
                builder.spread(part(root, name == "implicit"), shape)
                for root, shape in zip(roots, graph.fields, strict=True)
            ]
            for name in ("implicit", "explicit")
        }
    )


def _kinds(graph: FieldGraph) -> list[int]:
    """What each node is: constant, changing in time alone, affine in the fields near, or other."""
    found: list[int] = []
    far = set(graph.outputs["far"].tolist()) if "far" in graph.outputs else set()
    for node, (code, row) in enumerate(zip(graph.op.tolist(), graph.args.tolist(), strict=True)):
        args = [found[a] for a in row if a >= 0]
        highest = max(args, default=_CONSTANT)
        if node in far:
            found.append(_OTHER)
        elif code == ao.FIELD:
            found.append(_AFFINE)
        elif code == ops.TIME:
            found.append(_IN_TIME)
        elif highest <= _IN_TIME:
            found.append(highest)
        elif highest == _AFFINE and (
            code in (ops.ADD, ops.SUB, ops.NEG)
            or code in _NEAR
            or (code == ops.MUL and min(args) == _CONSTANT)
            or (code == ops.DIV and args[1] == _CONSTANT)
        ):
            found.append(_AFFINE)
        else:
            found.append(_OTHER)
    return found
