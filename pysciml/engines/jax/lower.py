"""From the graph to JAX functions: the op table and the two ways of tracing a graph.

Small graphs are traced node by node, on scalars, which XLA fuses into a few loops. Large ones are
traced in batches: all nodes of one operation on one level are one array operation, so that a
model of thousands of similar equations is some dozens of JAX calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
import numpy.typing as npt

from pysciml.engines.jax import network as networks
from pysciml.engines.jax.guard import guarded
from pysciml.graph import Graph, ops
from pysciml.graph.fields import FieldGraph
from pysciml.graph.networks import expand

#: ``function(t, y, p) -> values``: t scalar, y (n_states,), p (n_params,).
Function = Callable[[Any, Any, Any], Any]

#: Graphs with more nodes than this are traced in batches.
_SCALAR_LIMIT = 400


def _loggamma(x: Any) -> Any:
    return jnp.where(x > 0, jsp.gammaln(jnp.where(x > 0, x, 1.0)), jnp.nan)


def _polygamma(order: Any, x: Any) -> Any:
    return jnp.where(order == 0, jsp.digamma(x), jsp.polygamma(jnp.maximum(order, 1.0).astype(jnp.int32), x))


def _condition(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def call(a: Any, b: Any) -> Any:
        return jnp.where(compare(a, b), 1.0, 0.0)

    return call


#: The JAX function of each operation that is not a leaf.
FUNCTIONS: Final[dict[int, Callable[..., Any]]] = {
    ops.ADD: jnp.add,
    ops.SUB: jnp.subtract,
    ops.MUL: jnp.multiply,
    ops.DIV: jnp.divide,
    ops.POW: jnp.power,
    ops.NEG: jnp.negative,
    ops.SQRT: jnp.sqrt,
    ops.EXP: jnp.exp,
    ops.LOG: jnp.log,
    ops.SIN: jnp.sin,
    ops.COS: jnp.cos,
    ops.TAN: jnp.tan,
    ops.ASIN: jnp.arcsin,
    ops.ACOS: jnp.arccos,
    ops.ATAN: jnp.arctan,
    ops.SINH: jnp.sinh,
    ops.COSH: jnp.cosh,
    ops.TANH: jnp.tanh,
    ops.ASINH: jnp.arcsinh,
    ops.ACOSH: jnp.arccosh,
    ops.ATANH: jnp.arctanh,
    ops.ATAN2: jnp.arctan2,
    ops.ABS: jnp.abs,
    ops.SIGN: jnp.sign,
    ops.FLOOR: jnp.floor,
    ops.CEIL: jnp.ceil,
    ops.HEAVISIDE: lambda x: jnp.heaviside(x, 0.5),
    ops.MIN: jnp.minimum,
    ops.MAX: jnp.maximum,
    ops.MOD: lambda a, b: a - b * jnp.floor(a / b),
    ops.ERF: jsp.erf,
    ops.ERFC: jsp.erfc,
    ops.GAMMA: jsp.gamma,
    ops.LOGGAMMA: _loggamma,
    ops.POLYGAMMA: _polygamma,
    ops.LT: _condition(jnp.less),
    ops.LE: _condition(jnp.less_equal),
    ops.GT: _condition(jnp.greater),
    ops.GE: _condition(jnp.greater_equal),
    ops.EQ: _condition(jnp.equal),
    ops.NE: _condition(jnp.not_equal),
    ops.AND: lambda a, b: jnp.where(a != 0, jnp.where(b != 0, 1.0, 0.0), 0.0),
    ops.OR: lambda a, b: jnp.where(a != 0, 1.0, jnp.where(b != 0, 1.0, 0.0)),
    ops.NOT: lambda a: jnp.where(a != 0, 0.0, 1.0),
    ops.SELECT: lambda c, a, b: jnp.where(c != 0, a, b),
}


def lower(graph: Graph, name: str) -> Function:
    """A JAX function of ``(t, y, p)`` that returns the named output, shape (n_out,)."""
    if isinstance(graph, FieldGraph):
        from pysciml.engines.jax.fields.lower import lower_fields

        return lower_fields(graph, name)
    if any(call.order for call in graph.calls):
        graph = expand(graph)  # Taylor coefficients of networks: neuron by neuron
    graph = guarded(graph)
    outputs = graph.outputs[name]
    if len(outputs) == 0:
        return lambda t, y, p: jnp.zeros(0, dtype=jnp.result_type(y))
    needed = np.flatnonzero(graph.reachable(outputs))
    if len(needed) <= _SCALAR_LIMIT:
        return _scalars(graph, needed, outputs)
    return _batches(graph, needed, outputs)


def _scalars(graph: Graph, needed: npt.NDArray[np.intp], outputs: npt.NDArray[np.int32]) -> Function:
    steps = [
        (node, int(graph.op[node]), graph.args[node, : ops.OPS[int(graph.op[node])].arity].tolist())
        for node in needed.tolist()
    ]
    wanted = outputs.tolist()

    def function(t: Any, y: Any, p: Any) -> Any:
        dtype = jnp.result_type(y)
        values: dict[int, Any] = {}
        applied: dict[Any, Any] = {}
        for node, code, args in steps:
            if code == ops.JOIN:
                continue
            if code == ops.NETWORK:
                number, output, wrt, _ = graph.calls[int(graph.index[node])]
                key = number, args[0], wrt
                if key not in applied:  # all outputs at once
                    x = jnp.stack([values[a] for a in graph.inputs_of(node)])
                    network, block = graph.networks[number], graph.blocks[number]
                    applied[key] = networks.derivative(network, wrt, p[block], x)
                values[node] = applied[key][output]
            elif code == ops.CONST:
                values[node] = jnp.asarray(graph.const[node], dtype=dtype)
            elif code == ops.TIME:
                values[node] = jnp.asarray(t, dtype=dtype)
            elif code == ops.STATE:
                values[node] = y[int(graph.index[node])]
            elif code == ops.PARAM:
                values[node] = p[int(graph.index[node])]
            else:
                values[node] = FUNCTIONS[code](*(values[a] for a in args))
        return jnp.stack([values[node] for node in wanted])

    return function


def _batches(graph: Graph, needed: npt.NDArray[np.intp], outputs: npt.NDArray[np.int32]) -> Function:
    """All nodes of one operation on one level at once.

    A group's values are one array; operands are gathered from the concatenation of just the groups
    they come from.
    """
    group_of = np.full(len(graph), -1, dtype=np.int64)
    place = np.zeros(len(graph), dtype=np.int64)
    levels = np.zeros(len(graph), dtype=np.int64)
    members: dict[tuple[int, int, int], list[int]] = {}
    for node in needed.tolist():
        code = int(graph.op[node])
        arity = ops.OPS[code].arity
        level = 1 + max((int(levels[a]) for a in graph.args[node, :arity].tolist()), default=-1)
        levels[node] = level
        if code == ops.JOIN:  # a network gathers what is joined itself
            continue
        # Networks go together where they are the same output of the same network.
        which = int(graph.index[node]) if code == ops.NETWORK else -1
        members.setdefault((level, code, which), []).append(node)
    keys = sorted(members)
    for number, key in enumerate(keys):
        nodes = members[key]
        group_of[nodes] = number
        place[nodes] = np.arange(len(nodes))
    plan: list[tuple[int, npt.NDArray[np.int64], list[_Gather]]] = []
    for key in keys:
        code = key[1]
        nodes = np.asarray(members[key])
        rows = graph.args[nodes, : ops.OPS[code].arity]
        if code == ops.NETWORK:
            rows = np.array([graph.inputs_of(node) for node in members[key]])
        operands = [_Gather(column, group_of, place) for column in rows.T]
        plan.append((code, nodes, operands))
    final = _Gather(outputs, group_of, place)

    def function(t: Any, y: Any, p: Any) -> Any:
        dtype = jnp.result_type(y)
        values: list[Any] = []
        for code, nodes, operands in plan:
            if code == ops.CONST:
                values.append(jnp.asarray(graph.const[nodes], dtype=dtype))
            elif code == ops.TIME:
                values.append(jnp.asarray(t, dtype=dtype)[None])
            elif code == ops.STATE:
                values.append(_take(y, graph.index[nodes]))
            elif code == ops.PARAM:
                values.append(_take(p, graph.index[nodes]))
            elif code == ops.NETWORK:
                number, output, wrt, _ = graph.calls[int(graph.index[nodes[0]])]
                given = [jnp.broadcast_to(operand(values), nodes.shape) for operand in operands]
                network, weights = graph.networks[number], p[graph.blocks[number]]
                values.append(networks.derivative(network, wrt, weights, jnp.stack(given, axis=-1))[..., output])
            else:
                values.append(FUNCTIONS[code](*(operand(values) for operand in operands)))
        return jnp.broadcast_to(final(values), (len(outputs),))

    return function


def _take(array: Any, where: npt.NDArray[Any]) -> Any:
    """``array[where]``, as a slice where it is one."""
    first = int(where[0])
    if np.array_equal(where, np.arange(first, first + len(where))):
        if first == 0 and len(where) == array.shape[0]:
            return array
        return jax.lax.slice_in_dim(array, first, first + len(where))
    if np.all(where == first):
        return jax.lax.slice_in_dim(array, first, first + 1)  # one value for all: broadcasting does the rest
    return array[np.asarray(where)]


class _Gather:
    """Collects operands from the groups they are in."""

    def __init__(
        self, nodes: npt.NDArray[np.int32], group_of: npt.NDArray[np.int64], place: npt.NDArray[np.int64]
    ) -> None:
        groups, which = np.unique(group_of[nodes], return_inverse=True)
        self._groups = groups.tolist()
        sizes = np.array([int(np.count_nonzero(group_of == g)) for g in self._groups])
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self._where = offsets[which] + place[nodes]
        self._count = len(nodes)

    def __call__(self, values: list[Any]) -> Any:
        sources = [values[g] for g in self._groups]
        return _take(sources[0] if len(sources) == 1 else jnp.concatenate(sources), self._where)
