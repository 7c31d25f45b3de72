"""Exact derivatives on the graph: tangents, Jacobians and their sparsity.

Every operation has one rule: its partial derivatives, as nodes (Griewank & Walther, *Evaluating
Derivatives*, 2nd ed., SIAM 2008, chapters 3 and 7). An operation that takes one of its operands
(`_BRANCHES`) takes that operand's derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pysciml.errors import UnsupportedError
from pysciml.graph import ops
from pysciml.graph.builder import GraphBuilder
from pysciml.graph.networks import expand

if TYPE_CHECKING:
    from pysciml.graph.graph import Graph, Ints, Wrt

#: Partial derivatives of a node: ``rule(builder, operands, node)``, one per operand.
Rule = Callable[[GraphBuilder, tuple[int, ...], int], Sequence[int]]


def _power(b: GraphBuilder, args: tuple[int, ...], node: int) -> Sequence[int]:
    base, exponent = args
    by_base = b.mul(exponent, b.power(base, b.sub(exponent, b.one)))
    if b.value_of(exponent) is not None:
        return by_base, b.zero
    # 0**y is constant in y; log(0) must not spoil it.
    positive = b.call(ops.NE, base, b.zero)
    safe = b.call(ops.SELECT, positive, base, b.one)
    return by_base, b.mul(node, b.call(ops.LOG, safe))


def _minus_sine(b: GraphBuilder, args: tuple[int, ...], node: int) -> Sequence[int]:
    return (b.neg(b.call(ops.SIN, args[0])),)


def _inverse_sine(sign: float) -> Rule:
    def rule(b: GraphBuilder, args: tuple[int, ...], node: int) -> Sequence[int]:
        root = b.call(ops.SQRT, b.sub(b.one, b.mul(args[0], args[0])))
        return (b.div(b.constant(sign), root),)

    return rule


def _one_over(quadratic: Callable[[GraphBuilder, int], int]) -> Rule:
    def rule(b: GraphBuilder, args: tuple[int, ...], node: int) -> Sequence[int]:
        return (b.div(b.one, quadratic(b, b.mul(args[0], args[0]))),)

    return rule


def _atan2(b: GraphBuilder, args: tuple[int, ...], node: int) -> Sequence[int]:
    y, x = args
    square = b.add(b.mul(x, x), b.mul(y, y))
    return b.div(x, square), b.neg(b.div(y, square))


def _mod(b: GraphBuilder, args: tuple[int, ...], node: int) -> Sequence[int]:
    return b.one, b.neg(b.call(ops.FLOOR, b.div(*args)))


def _gaussian(sign: float) -> Rule:
    def rule(b: GraphBuilder, args: tuple[int, ...], node: int) -> Sequence[int]:
        bell = b.call(ops.EXP, b.neg(b.mul(args[0], args[0])))
        return (b.mul(b.constant(sign * 2.0 / math.sqrt(math.pi)), bell),)

    return rule


def _digamma(b: GraphBuilder, x: int) -> int:
    return b.call(ops.POLYGAMMA, b.zero, x)


def _polygamma(b: GraphBuilder, args: tuple[int, ...], node: int) -> Sequence[int]:
    return b.zero, b.call(ops.POLYGAMMA, b.add(args[0], b.one), args[1])


def _bessel(code: int, below: float, above: float) -> Rule:
    """d/dx Z_n = (below Z_{n-1} + above Z_{n+1})/2 (DLMF 10.6.1 and 10.29.1)."""

    def rule(b: GraphBuilder, args: tuple[int, ...], node: int) -> Sequence[int]:
        order, x = args
        lower = b.mul(b.constant(below / 2), b.call(code, b.sub(order, b.one), x))
        upper = b.mul(b.constant(above / 2), b.call(code, b.add(order, b.one), x))
        return b.zero, b.add(lower, upper)

    return rule


def _flat(arity: int) -> Rule:
    def rule(b: GraphBuilder, args: tuple[int, ...], node: int) -> Sequence[int]:
        return (b.zero,) * arity

    return rule


RULES: Final[dict[int, Rule]] = {
    ops.ADD: lambda b, a, n: (b.one, b.one),
    ops.SUB: lambda b, a, n: (b.one, b.constant(-1.0)),
    ops.MUL: lambda b, a, n: (a[1], a[0]),
    ops.DIV: lambda b, a, n: (b.div(b.one, a[1]), b.neg(b.div(n, a[1]))),
    ops.POW: _power,
    ops.NEG: lambda b, a, n: (b.constant(-1.0),),
    ops.SQRT: lambda b, a, n: (b.div(b.constant(0.5), n),),
    ops.EXP: lambda b, a, n: (n,),
    ops.LOG: lambda b, a, n: (b.div(b.one, a[0]),),
    ops.SIN: lambda b, a, n: (b.call(ops.COS, a[0]),),
    ops.COS: _minus_sine,
    ops.TAN: lambda b, a, n: (b.add(b.one, b.mul(n, n)),),
    ops.ASIN: _inverse_sine(1.0),
    ops.ACOS: _inverse_sine(-1.0),
    ops.ATAN: _one_over(lambda b, xx: b.add(b.one, xx)),
    ops.SINH: lambda b, a, n: (b.call(ops.COSH, a[0]),),
    ops.COSH: lambda b, a, n: (b.call(ops.SINH, a[0]),),
    ops.TANH: lambda b, a, n: (b.sub(b.one, b.mul(n, n)),),
    ops.ASINH: _one_over(lambda b, xx: b.call(ops.SQRT, b.add(xx, b.one))),
    ops.ACOSH: _one_over(lambda b, xx: b.call(ops.SQRT, b.sub(xx, b.one))),
    ops.ATANH: _one_over(lambda b, xx: b.sub(b.one, xx)),
    ops.ATAN2: _atan2,
    ops.ABS: lambda b, a, n: (b.call(ops.SIGN, a[0]),),
    ops.SIGN: _flat(1),
    ops.FLOOR: _flat(1),
    ops.CEIL: _flat(1),
    ops.HEAVISIDE: _flat(1),
    ops.MOD: _mod,
    ops.ERF: _gaussian(1.0),
    ops.ERFC: _gaussian(-1.0),
    ops.GAMMA: lambda b, a, n: (b.mul(n, _digamma(b, a[0])),),
    ops.LOGGAMMA: lambda b, a, n: (_digamma(b, a[0]),),
    ops.POLYGAMMA: _polygamma,
    ops.BESSELJ: _bessel(ops.BESSELJ, 1.0, -1.0),
    ops.BESSELY: _bessel(ops.BESSELY, 1.0, -1.0),
    ops.BESSELI: _bessel(ops.BESSELI, 1.0, 1.0),
    ops.BESSELK: _bessel(ops.BESSELK, -1.0, -1.0),
    ops.LT: _flat(2),
    ops.LE: _flat(2),
    ops.GT: _flat(2),
    ops.GE: _flat(2),
    ops.EQ: _flat(2),
    ops.NE: _flat(2),
    ops.AND: _flat(2),
    ops.OR: _flat(2),
    ops.NOT: _flat(1),
}

#: The operands an operation's value can change smoothly with; a Bessel function's order or a
#: condition is not one of them, and a step is flat almost everywhere.
_SMOOTH: Final[dict[int, tuple[int, ...]]] = {
    ops.SELECT: (1, 2),
    ops.POLYGAMMA: (1,),
    ops.BESSELJ: (1,),
    ops.BESSELY: (1,),
    ops.BESSELI: (1,),
    ops.BESSELK: (1,),
    **dict.fromkeys(ops.CONDITIONS | {ops.SIGN, ops.FLOOR, ops.CEIL, ops.HEAVISIDE}, ()),
}

#: Functions of an order, by which no derivative is known.
_ORDERED: Final = frozenset({ops.POLYGAMMA, ops.BESSELJ, ops.BESSELY, ops.BESSELI, ops.BESSELK})

#: Operations that take one of their operands -> the condition for taking the first, if not given.
_BRANCHES: Final[dict[int, int]] = {ops.SELECT: ops.SELECT, ops.MIN: ops.LE, ops.MAX: ops.GE}

#: Operations that jump although their rule gives a slope, or whose operand is a time.
_JUMPS: Final = frozenset({ops.MOD, ops.HISTORY})


def steps_with(b: GraphBuilder, nodes: Sequence[int], leaves: Iterable[int]) -> bool:
    """Whether nodes depend on any of the leaves in a way that derivatives do not see.

    A condition, a rounding or a delay may: ``sign(x)`` has the slope 0 and is not constant.
    """
    depends = set(leaves)
    for node in b.cone(nodes):
        args = b.args_of(node)
        moving = [k for k, a in enumerate(args) if a in depends]
        if not moving:
            continue
        code = b.op_of(node)
        if code in _JUMPS or not set(moving) <= set(_SMOOTH.get(code, moving)):
            return True
        depends.add(node)
    return False


def tangents(
    b: GraphBuilder, outputs: Sequence[int], seeds: Mapping[int, Mapping[int, int]], *, along: bool = False
) -> list[dict[int, int]]:
    """Forward accumulation with sparse tangents.

    Parameters
    ----------
    outputs : nodes to differentiate
    seeds : node -> {direction: derivative node}
        What the tangent of a leaf is; a node without an entry has none.
    along : bool
        Whether the one direction, 0, is that of a curve, such as a solution, so that tangents of tangents are its
        next derivatives: networks are then carried on as Taylor series.

    Returns
    -------
    list of {direction: node}, one per output; a direction that is absent is exactly zero.
    """
    tangent: dict[int, Mapping[int, int]] = {}
    nothing: Mapping[int, int] = {}
    for node in b.cone(outputs):
        if node in seeds:
            tangent[node] = seeds[node]
            continue
        args = b.args_of(node)
        code = b.op_of(node)
        if code == ops.JOIN:  # a network asks what it joins
            tangent[node] = nothing
            continue
        if code == ops.NETWORK:
            _no_weights(b, seeds)
            args = tuple(b.inputs_of(node))
        smooth = _SMOOTH.get(code, range(len(args)))
        moving = [(k, tangent[args[k]]) for k in smooth if tangent[args[k]]]
        if code in _ORDERED and tangent[args[0]]:
            raise UnsupportedError(
                f"the derivative of {ops.OPS[code].name} by its order is not known: the order must be a number "
                "wherever derivatives are needed"
            )
        if not moving or code == ops.HISTORY:
            tangent[node] = nothing
            continue
        if code in _BRANCHES:  # select the tangents themselves: 0 * inf must not appear
            condition, taken, other = _branches(b, code, args)
            tangent[node] = _select_tangent(b, condition, tangent[taken], tangent[other])
            continue
        if along and code == ops.NETWORK:
            call = b.calls[b.index_of(node)]
            rates = [tangent[a].get(0, b.zero) for a in args[-b.networks[call.network].inputs :]]
            found = b.next_coefficient(node, rates)
            tangent[node] = {0: b.mul(b.constant(call.order + 1.0), found)}
            continue
        partials = () if code == ops.NETWORK else RULES[code](b, args, node)
        total: dict[int, int] = {}
        for k, directions in moving:
            partial = b.differentiated(node, k) if code == ops.NETWORK else partials[k]
            for direction, derivative in directions.items():
                term = b.mul(partial, derivative)
                total[direction] = b.add(total[direction], term) if direction in total else term
        tangent[node] = {d: v for d, v in total.items() if v != b.zero}
    return [dict(tangent[node]) for node in outputs]


def _no_weights(b: GraphBuilder, seeds: Mapping[int, object]) -> None:
    """Networks are differentiated by their inputs here; by their weights they have to be written out first."""
    first = b.n_params - sum(network.size for network in b.networks)
    if any(b.op_of(leaf) == ops.PARAM and b.index_of(leaf) >= first for leaf in seeds):
        raise UnsupportedError("derivatives by the weights of a network: write it out first (graph.networks.expand)")


def _branches(b: GraphBuilder, code: int, args: Sequence[int]) -> tuple[int, int, int]:
    """An operation that takes one of two operands: the condition, and the two."""
    if code == ops.SELECT:
        return args[0], args[1], args[2]
    return b.call(_BRANCHES[code], *args), args[0], args[1]


def _select_tangent(
    b: GraphBuilder, condition: int, if_true: Mapping[int, int], if_false: Mapping[int, int]
) -> dict[int, int]:
    return {
        d: b.call(ops.SELECT, condition, if_true.get(d, b.zero), if_false.get(d, b.zero))
        for d in dict.fromkeys((*if_true, *if_false))
    }


def jacobian(graph: Graph, name: str, wrt: Wrt) -> tuple[Graph, Ints, Ints]:
    """See `Graph.jacobian`."""
    if wrt == "params":
        graph = expand(graph)
    b, moved = GraphBuilder.extend(graph)
    count = graph.n_states if wrt == "states" else graph.n_params
    leaf = b.state if wrt == "states" else b.param
    seeds = {leaf(k): {k: b.one} for k in range(count)}
    entries: list[int] = []
    rows: list[int] = []
    cols: list[int] = []
    outputs = [moved[node] for node in graph.outputs[name].tolist()]
    for row, directions in enumerate(tangents(b, outputs, seeds)):
        for col in sorted(directions):
            rows.append(row)
            cols.append(col)
            entries.append(directions[col])
    return (
        b.build({"jacobian": entries}),
        np.asarray(rows, dtype=np.int32),
        np.asarray(cols, dtype=np.int32),
    )


def sparsity(graph: Graph, name: str, wrt: Wrt) -> tuple[Ints, Ints]:
    """See `Graph.sparsity`."""
    leaf = ops.STATE if wrt == "states" else ops.PARAM
    weights = [frozenset(range(block.start, block.stop)) for block in graph.blocks] if wrt == "params" else []
    outputs: npt.NDArray[np.int32] = graph.outputs[name]
    needed = graph.reachable(outputs)
    nothing: frozenset[int] = frozenset()
    depends: dict[int, frozenset[int]] = {}
    for node in np.flatnonzero(needed).tolist():
        code = int(graph.op[node])
        if code == leaf:
            depends[node] = frozenset((int(graph.index[node]),))
            continue
        arity = ops.OPS[code].arity if code != ops.HISTORY else 0
        union = nothing
        for k in _SMOOTH.get(code, range(arity)):
            other = depends[int(graph.args[node, k])]
            if other and other is not union:
                union = union | other if union else other
        if code == ops.NETWORK and weights:
            union = union | weights[graph.calls[int(graph.index[node])].network]
        depends[node] = union
    rows: list[int] = []
    cols: list[int] = []
    for row, node in enumerate(outputs.tolist()):
        columns = sorted(depends[node])
        rows.extend([row] * len(columns))
        cols.extend(columns)
    return np.asarray(rows, dtype=np.int32), np.asarray(cols, dtype=np.int32)
