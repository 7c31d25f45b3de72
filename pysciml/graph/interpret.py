"""Evaluation in NumPy: the reference that every engine's lowering is tested against."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pysciml.graph import networks, ops

if TYPE_CHECKING:
    from pysciml.graph.graph import Graph

Array = npt.NDArray[np.float64]
#: ``history(state, time)`` returns the value of a state at an earlier time.
History = Callable[[int, Array], Array]


def _special(name: str) -> Callable[..., Any]:
    def call(*args: Array) -> Any:
        # SciPy is imported by the first graph that needs it, not by `import pysciml`.
        from scipy import special

        return getattr(special, name)(*args)

    return call


def _loggamma(x: Array) -> Array:
    from scipy import special

    return np.where(x > 0, special.gammaln(np.where(x > 0, x, 1.0)), np.nan)


def _polygamma(order: Array, x: Array) -> Array:
    from scipy import special

    return np.where(order == 0, special.digamma(x), special.polygamma(order.astype(int), x))


def _select(condition: Array, if_true: Array, if_false: Array) -> Array:
    return np.where(condition != 0, if_true, if_false)


def _mod(a: Array, b: Array) -> Array:
    return a - b * np.floor(a / b)


#: The NumPy function of each operation that is not a leaf. Conditions come back as booleans and
#: are stored as 0.0 or 1.0.
FUNCTIONS: Final[dict[int, Callable[..., Any]]] = {
    ops.ADD: np.add,
    ops.SUB: np.subtract,
    ops.MUL: np.multiply,
    ops.DIV: np.divide,
    ops.POW: np.power,
    ops.NEG: np.negative,
    ops.SQRT: np.sqrt,
    ops.EXP: np.exp,
    ops.LOG: np.log,
    ops.SIN: np.sin,
    ops.COS: np.cos,
    ops.TAN: np.tan,
    ops.ASIN: np.arcsin,
    ops.ACOS: np.arccos,
    ops.ATAN: np.arctan,
    ops.SINH: np.sinh,
    ops.COSH: np.cosh,
    ops.TANH: np.tanh,
    ops.ASINH: np.arcsinh,
    ops.ACOSH: np.arccosh,
    ops.ATANH: np.arctanh,
    ops.ATAN2: np.arctan2,
    ops.ABS: np.abs,
    ops.SIGN: np.sign,
    ops.FLOOR: np.floor,
    ops.CEIL: np.ceil,
    ops.HEAVISIDE: lambda x: np.heaviside(x, 0.5),
    ops.MIN: np.minimum,
    ops.MAX: np.maximum,
    ops.MOD: _mod,
    ops.ERF: _special("erf"),
    ops.ERFC: _special("erfc"),
    ops.GAMMA: _special("gamma"),
    ops.LOGGAMMA: _loggamma,
    ops.POLYGAMMA: _polygamma,
    ops.BESSELJ: _special("jv"),
    ops.BESSELY: _special("yv"),
    ops.BESSELI: _special("iv"),
    ops.BESSELK: _special("kv"),
    ops.LT: np.less,
    ops.LE: np.less_equal,
    ops.GT: np.greater,
    ops.GE: np.greater_equal,
    ops.EQ: np.equal,
    ops.NE: np.not_equal,
    ops.AND: np.logical_and,
    ops.OR: np.logical_or,
    ops.NOT: np.logical_not,
    ops.SELECT: _select,
}


def fold(code: int, values: tuple[float, ...]) -> float:
    """Evaluate one operation on numbers; used for constant folding."""
    with np.errstate(all="ignore"):
        return float(FUNCTIONS[code](*(np.float64(v) for v in values)))


def _aligned(rows: Array, n_batch: int) -> Array:
    """Give every row the batch's number of dimensions, so that trailing dimensions broadcast."""
    return rows.reshape(rows.shape[0], *(1,) * (n_batch - rows.ndim + 1), *rows.shape[1:])


class _Applied:
    """One ``NETWORK`` node."""

    def __init__(self, graph: Graph, call: int, where: int, inputs: npt.NDArray[np.int64]) -> None:
        number, self._output, self._wrt, self._order = graph.calls[call]
        self._network, self._block = graph.networks[number], graph.blocks[number]
        self._where, self._inputs = where, inputs

    def __call__(self, values: Array, p: Array) -> None:
        weights, x = p[self._block], values[self._inputs]
        if self._order:
            y = networks.series(self._network, self._order, weights, x)
        else:
            y = networks.derivative(self._network, self._wrt, weights, x)
        values[self._where] = y[self._output]


class Program:
    """The part of a graph that one output needs, batched by level and operation.

    Nodes of one level do not depend on each other, so all nodes of one operation on a level are
    one NumPy call: a model of thousands of similar equations costs some dozens of calls.
    """

    def __init__(self, graph: Graph, outputs: npt.NDArray[np.int32]) -> None:
        needed = graph.reachable(outputs)
        nodes = np.flatnonzero(needed)
        position = np.full(len(graph.op), -1, dtype=np.int64)
        position[nodes] = np.arange(len(nodes))
        op = graph.op[nodes]
        args = graph.args[nodes]
        index = graph.index[nodes]
        levels = np.zeros(len(nodes), dtype=np.int64)
        groups: dict[tuple[int, int], list[int]] = {}
        self._networks: dict[int, list[_Applied]] = {}  # by level
        local = position[args]  # -1 for unused operands indexes garbage that is never read
        for i, (code, operands) in enumerate(zip(op.tolist(), local.tolist(), strict=True)):
            arity = ops.OPS[code].arity
            if arity:
                level = 1 + max(int(levels[operands[k]]) for k in range(arity))
                levels[i] = level
                if code == ops.NETWORK:
                    inputs = position[graph.inputs_of(int(nodes[i]))]
                    self._networks.setdefault(level, []).append(_Applied(graph, int(index[i]), i, inputs))
                elif code != ops.JOIN:  # a network gathers what is joined itself
                    groups.setdefault((level, code), []).append(i)
        self._size = len(nodes)
        self._outputs = position[outputs]
        self._constants = np.flatnonzero(op == ops.CONST), graph.const[nodes[op == ops.CONST]]
        self._time = np.flatnonzero(op == ops.TIME)
        self._states = np.flatnonzero(op == ops.STATE), index[op == ops.STATE]
        self._params = np.flatnonzero(op == ops.PARAM), index[op == ops.PARAM]
        self._steps: list[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64], Array]] = []
        for level, code in sorted({*groups, *((level, ops.NETWORK) for level in self._networks)}):
            where = np.asarray(groups.get((level, code), []), dtype=np.int64)
            operands = np.array([level]) if code == ops.NETWORK else local[where, : ops.OPS[code].arity].T
            self._steps.append((code, where, operands, index[where].astype(float)))

    def __call__(self, u: Array, p: Array, t: Array, history: History | None = None) -> Array:
        """Evaluate; see `Graph.evaluate`."""
        batch = np.broadcast_shapes(u.shape[1:], p.shape[1:], t.shape)
        extra = (1,) * len(batch)
        values = np.empty((self._size, *batch))
        where, constants = self._constants
        values[where] = constants.reshape(-1, *extra)
        values[self._time] = t
        where, index = self._states
        values[where] = _aligned(u, len(batch))[index]
        where, index = self._params
        values[where] = _aligned(p, len(batch))[index]
        with np.errstate(all="ignore"):
            for code, where, operands, index in self._steps:
                if code == ops.NETWORK:
                    for applied in self._networks[int(operands[0])]:
                        applied(values, _aligned(p, len(batch)))
                elif code == ops.HISTORY:
                    if history is None:
                        raise ValueError("the graph has delays: pass history=")
                    for node, operand, state in zip(where, operands[0], index, strict=True):
                        values[node] = history(int(state), values[operand])
                else:
                    values[where] = FUNCTIONS[code](*(values[row] for row in operands))
        return values[self._outputs]
