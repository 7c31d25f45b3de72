"""The double-where guard: branches not taken must not poison reverse-mode derivatives.

``where(c, sqrt(x), 0)`` has a finite value at ``x < 0``, but its reverse-mode derivative there is
``0 * (1/sqrt(x)) = nan``. The cure is known: the operand of the singular operation is itself
selected, ``sqrt(where(c, x, 1))``, so that the branch not taken is evaluated at a harmless point.
This is a rewrite of the graph, and only of nodes that nothing but the branch uses.
"""

from __future__ import annotations

from typing import Final

from pysciml.graph import Graph, GraphBuilder, ops

#: Operations with points where value or derivative is not finite: (operand, harmless value).
_SINGULAR: Final[dict[int, tuple[tuple[int, float], ...]]] = {
    ops.DIV: ((1, 1.0),),
    ops.POW: ((0, 1.0), (1, 1.0)),
    ops.SQRT: ((0, 1.0),),
    ops.EXP: ((0, 0.0),),
    ops.LOG: ((0, 1.0),),
    ops.TAN: ((0, 0.0),),
    ops.ASIN: ((0, 0.0),),
    ops.ACOS: ((0, 0.0),),
    ops.SINH: ((0, 0.0),),
    ops.COSH: ((0, 0.0),),
    ops.ACOSH: ((0, 2.0),),
    ops.ATANH: ((0, 0.0),),
    ops.ATAN2: ((0, 1.0), (1, 1.0)),
    ops.MOD: ((1, 1.0),),
    ops.GAMMA: ((0, 1.0),),
    ops.LOGGAMMA: ((0, 1.0),),
    ops.POLYGAMMA: ((1, 1.0),),
}

#: A condition node and whether it has to hold.
_Guard = tuple[int, bool]


def guarded(graph: Graph) -> Graph:
    """The graph with the operands of singular operations inside branches selected, too.

    Values are unchanged: where a guard does not hold, the branch's value is not taken.
    """
    codes = graph.used_ops()
    if ops.SELECT not in codes or codes.isdisjoint(_SINGULAR):
        return graph
    guards = _guards(graph)
    builder = GraphBuilder(graph.n_states, graph.n_params)
    calls = builder.copy_networks(graph.networks, graph.calls)
    moved: dict[int, int] = {}
    for node in _order(graph, guards):
        code = int(graph.op[node])
        args = [moved[a] for a in graph.args[node, : ops.OPS[code].arity].tolist()]
        if code in _SINGULAR and guards[node]:
            condition = builder.one
            for where, holds in sorted(guards[node]):
                value = moved[where] if holds else builder.call(ops.NOT, moved[where])
                condition = builder.call(ops.AND, condition, value)
            for position, harmless in _SINGULAR[code]:
                if builder.value_of(args[position]) is None:
                    args[position] = builder.call(ops.SELECT, condition, args[position], builder.constant(harmless))
        index = int(graph.index[node])
        index = calls[index] if code == ops.NETWORK else index
        moved[node] = builder.again(code, tuple(args), float(graph.const[node]), index)
    return builder.build({name: [moved[n] for n in nodes.tolist()] for name, nodes in graph.outputs.items()})


def _guards(graph: Graph) -> list[frozenset[_Guard]]:
    """What is known to hold wherever a node's value is used; empty where it is used freely."""
    n = len(graph)
    known: list[frozenset[_Guard] | None] = [None] * n  # None: not used yet
    nothing: frozenset[_Guard] = frozenset()
    for nodes in graph.outputs.values():
        for node in nodes.tolist():
            known[node] = nothing
    for node in range(n - 1, -1, -1):
        here = known[node] or nothing
        code = int(graph.op[node])
        for position, operand in enumerate(graph.args[node, : ops.OPS[code].arity].tolist()):
            use = here
            if code == ops.SELECT and position > 0:
                use = here | {(int(graph.args[node, 0]), position == 1)}
            before = known[operand]
            known[operand] = use if before is None else before & use
    return [found or nothing for found in known]


def _order(graph: Graph, guards: list[frozenset[_Guard]]) -> list[int]:
    """A topological order in which the conditions of a guarded node come before it."""
    done: set[int] = set()
    order: list[int] = []
    for root in range(len(graph)):
        stack = [root]
        while stack:
            node = stack[-1]
            if node in done:
                stack.pop()
                continue
            code = int(graph.op[node])
            needs = graph.args[node, : ops.OPS[code].arity].tolist()
            if code in _SINGULAR:
                needs += [where for where, _ in guards[node]]
            waiting = [m for m in needs if m not in done]
            if waiting:
                stack.extend(waiting)
            else:
                done.add(node)
                order.append(node)
                stack.pop()
    return order
