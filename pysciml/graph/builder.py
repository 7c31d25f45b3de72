"""Building a graph: hash consing, constant folding and the simplifications that are always right."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pysciml.errors import UnsupportedError
from pysciml.graph import interpret, ops
from pysciml.graph.graph import Graph
from pysciml.graph.networks import Call, Network

#: Integer powers up to this one become products, which every engine multiplies faster than it
#: raises to a power.
_LARGEST_PRODUCT_POWER = 8


class GraphBuilder:
    """Grows a graph node by node.

    Equal nodes are one node (common subexpressions are shared by construction), operands of
    commutative operations are ordered, constants are folded where the result is finite.
    Methods take and return node numbers.

    Parameters
    ----------
    n_states, n_params : int
    """

    def __init__(self, n_states: int, n_params: int) -> None:
        self.n_states = n_states
        self.n_params = n_params
        self._op: list[int] = []
        self._args: list[tuple[int, ...]] = []
        self._const: list[float] = []
        self._index: list[int] = []
        self._memo: dict[tuple[object, ...], int] = {}
        self.networks: list[Network] = []
        self.calls: list[Call] = []
        self._call_numbers: dict[Call, int] = {}
        self.zero = self.constant(0.0)
        self.one = self.constant(1.0)

    @classmethod
    def extend(cls, graph: Graph) -> tuple[GraphBuilder, list[int]]:
        """Start from a finished graph; also returns where each of its nodes went."""
        builder = cls(graph.n_states, graph.n_params)
        return builder, builder.copy_nodes(graph)

    def copy_nodes(self, graph: Graph) -> list[int]:
        """Copy all nodes of a graph into this one; returns where each went."""
        moved: list[int] = []
        calls = self.copy_networks(graph.networks, graph.calls)
        for code, row, value, index in zip(
            graph.op.tolist(),
            graph.args.tolist(),
            graph.const.tolist(),
            graph.index.tolist(),
            strict=True,
        ):
            args = tuple(moved[a] for a in row[: ops.OPS[code].arity])
            moved.append(self._intern(code, args, value, calls[index] if code == ops.NETWORK else index))
        return moved

    def copy_networks(self, networks: Sequence[Network], calls: Sequence[Call]) -> list[int]:
        """Know another graph's networks, too; returns which of ``calls`` each of its calls is here."""
        numbers = [self._network_number(network) for network in networks]
        return [self._call_number(call._replace(network=numbers[call.network])) for call in calls]

    def _network_number(self, network: Network) -> int:
        if network not in self.networks:
            self.networks.append(network)
        return self.networks.index(network)

    def _call_number(self, call: Call) -> int:
        number = self._call_numbers.setdefault(call, len(self.calls))
        if number == len(self.calls):
            self.calls.append(call)
        return number

    def __len__(self) -> int:
        return len(self._op)

    def op_of(self, node: int) -> int:
        """The operation code of a node."""
        return self._op[node]

    def args_of(self, node: int) -> tuple[int, ...]:
        """The operands of a node."""
        return self._args[node]

    def value_of(self, node: int) -> float | None:
        """The value of a constant node, None for every other."""
        return self._const[node] if self._op[node] == ops.CONST else None

    def index_of(self, node: int) -> int:
        """Which state, parameter or placeholder a leaf is."""
        return self._index[node]

    # -- leaves ---------------------------------------------------------------------------------

    def constant(self, value: float) -> int:
        """A number; it must be finite."""
        value = float(value) + 0.0  # -0.0 and 0.0 are one constant
        if not math.isfinite(value):
            raise ValueError(f"a constant must be finite, not {value}")
        return self._intern(ops.CONST, (), value, -1)

    def time(self) -> int:
        """The independent variable."""
        return self._intern(ops.TIME, (), 0.0, -1)

    def state(self, index: int) -> int:
        """State number ``index``."""
        return self._intern(ops.STATE, (), 0.0, index)

    def param(self, index: int) -> int:
        """Parameter number ``index``."""
        return self._intern(ops.PARAM, (), 0.0, index)

    def free(self, index: int) -> int:
        """A placeholder, to be differentiated by or substituted for before `build`."""
        return self._intern(ops.FREE, (), 0.0, index)

    def history(self, index: int, time: int) -> int:
        """State ``index`` at an earlier time."""
        return self._intern(ops.HISTORY, (time,), 0.0, index)

    def _intern(self, code: int, args: tuple[int, ...], value: float, index: int) -> int:
        key = (code, args, value, index)
        node = self._memo.get(key)
        if node is None:
            node = self._memo[key] = len(self._op)
            self._op.append(code)
            self._args.append(args)
            self._const.append(value)
            self._index.append(index)
        return node

    def network(self, network: Network, output: int, inputs: Sequence[int], wrt: Sequence[int] = ()) -> int:
        """An output of a network, differentiated by the inputs in ``wrt``."""
        call = Call(self._network_number(network), output, tuple(sorted(wrt)))
        return self._intern(ops.NETWORK, (self._joined(inputs),), 0.0, self._call_number(call))

    def _joined(self, inputs: Sequence[int]) -> int:
        vector = inputs[0]
        for node in inputs[1:]:
            vector = self._intern(ops.JOIN, (vector, node), 0.0, -1)
        return vector

    def inputs_of(self, node: int) -> list[int]:
        """The inputs of a ``NETWORK`` node; see `Graph.inputs_of`."""
        found: list[int] = []
        stack = [self._args[node][0]]
        while stack:
            current = stack.pop()
            if self._op[current] == ops.JOIN:
                stack += reversed(self._args[current])
            else:
                found.append(current)
        return found

    def next_coefficient(self, node: int, rates: Sequence[int]) -> int:
        """After a ``NETWORK`` node the next Taylor coefficient; ``rates`` are the derivatives of its last inputs."""
        call = self.calls[self._index[node]]
        order = call.order + 1
        scale = self.constant(1.0 / order)
        inputs = [*self.inputs_of(node), *(self.mul(scale, rate) for rate in rates)]
        number = self._call_number(call._replace(order=order))
        return self._intern(ops.NETWORK, (self._joined(inputs),), 0.0, number)

    def differentiated(self, node: int, by: int) -> int:
        """The derivative of a ``NETWORK`` node by its input number ``by``."""
        call = self.calls[self._index[node]]
        if call.order:
            raise UnsupportedError(
                "derivatives of a network's Taylor coefficients: write it out first (networks.expand)"
            )
        new = call._replace(wrt=tuple(sorted((*call.wrt, by))))
        return self._intern(ops.NETWORK, self._args[node], 0.0, self._call_number(new))

    @staticmethod
    def _flat(call: Call) -> tuple[int, ...]:
        return call.network, call.output, *call.wrt

    def again(self, code: int, args: tuple[int, ...], value: float, index: int) -> int:
        """A node of any kind, from its parts; operations are simplified."""
        if code in ops.LEAVES or code in (ops.HISTORY, ops.NETWORK, ops.JOIN):
            return self._intern(code, args, value, index)
        return self.call(code, *args)

    # -- operations -----------------------------------------------------------------------------

    def call(self, code: int, *args: int) -> int:
        """Apply an operation, simplified."""
        simplify = _SIMPLIFY.get(code)
        if simplify is not None:
            node = simplify(self, *args)
            if node is not None:
                return node
        values = [self._const[a] for a in args if self._op[a] == ops.CONST]
        if len(values) == len(args):
            result = interpret.fold(code, tuple(values))
            if math.isfinite(result):
                return self.constant(result)
        if code in ops.COMMUTATIVE and args[0] > args[1]:
            args = (args[1], args[0])
        return self._intern(code, args, 0.0, -1)

    def add(self, a: int, b: int) -> int:
        """``a + b``."""
        return self.call(ops.ADD, a, b)

    def sub(self, a: int, b: int) -> int:
        """``a - b``."""
        return self.call(ops.SUB, a, b)

    def mul(self, a: int, b: int) -> int:
        """``a * b``."""
        return self.call(ops.MUL, a, b)

    def div(self, a: int, b: int) -> int:
        """``a / b``."""
        return self.call(ops.DIV, a, b)

    def neg(self, a: int) -> int:
        """``-a``."""
        return self.call(ops.NEG, a)

    def power(self, base: int, exponent: int) -> int:
        """``base ** exponent``; small integer powers become products."""
        value = self.value_of(exponent)
        if value is not None and value == int(value) and abs(value) <= _LARGEST_PRODUCT_POWER:
            product = self._product_power(base, abs(int(value)))
            return product if value >= 0 else self.div(self.one, product)
        if value == 0.5:
            return self.call(ops.SQRT, base)
        if value == -0.5:
            return self.div(self.one, self.call(ops.SQRT, base))
        return self.call(ops.POW, base, exponent)

    def _product_power(self, base: int, n: int) -> int:
        if n == 0:
            return self.one
        half = self._product_power(base, n // 2)
        square = self.mul(half, half)
        return self.mul(square, base) if n % 2 else square

    def sum(self, terms: Sequence[int]) -> int:
        """Add many terms as a balanced tree: shallow, and with small rounding errors."""
        if not terms:
            return self.zero
        while len(terms) > 1:
            paired = [self.add(terms[i], terms[i + 1]) for i in range(0, len(terms) - 1, 2)]
            terms = paired + ([terms[-1]] if len(terms) % 2 else [])
        return terms[0]

    def product(self, factors: Sequence[int]) -> int:
        """Multiply many factors, left to right."""
        result = self.one
        for factor in factors:
            result = self.mul(result, factor)
        return result

    def substitute(self, node: int, replacements: Mapping[int, int]) -> int:
        """Rebuild a node with some nodes replaced by others."""
        return self.substitute_all([node], replacements)[0]

    def substitute_all(self, nodes: Sequence[int], replacements: Mapping[int, int]) -> list[int]:
        """Rebuild several nodes with some nodes replaced; work is shared between them."""
        done: dict[int, int] = {}
        for current in self.cone(nodes, stop=replacements):
            args = self._args[current]
            new = tuple(done[a] if a in done else replacements[a] for a in args)
            if new == args:
                done[current] = current
            else:
                done[current] = self.again(self._op[current], new, 0.0, self._index[current])
        return [done[node] if node in done else replacements[node] for node in nodes]

    def cone(self, nodes: Iterable[int], stop: Mapping[int, object] | None = None) -> list[int]:
        """All nodes the given ones depend on, operands first; not descending below ``stop``."""
        seen: set[int] = set()
        stack = list(nodes)
        blocked = stop if stop is not None else {}
        while stack:
            node = stack.pop()
            if node in seen or node in blocked:
                continue
            seen.add(node)
            stack.extend(self._args[node])
        return sorted(seen)

    def depending_on(self, leaves: Iterable[int]) -> bytearray:
        """Mark the nodes that depend on any of the given ones, in one pass over the builder."""
        marked = bytearray(len(self._op))
        for leaf in leaves:
            marked[leaf] = 1
        for node, args in enumerate(self._args):
            if any(marked[a] for a in args):
                marked[node] = 1
        return marked

    def build(self, outputs: Mapping[str, Sequence[int]]) -> Graph:
        """Finish: keep what the outputs need, renumbered in topological order.

        The numbering follows from the outputs alone, so that the same model has the same hash
        whatever else the builder held, and in whatever order it grew.
        """
        operands = self._canonical_operands([node for nodes in outputs.values() for node in nodes])
        order: dict[int, int] = {}
        for nodes in outputs.values():
            for root in nodes:
                stack = [(root, False)]
                while stack:
                    node, expanded = stack.pop()
                    if node in order:
                        continue
                    if expanded:
                        order[node] = len(order)
                        continue
                    stack.append((node, True))
                    stack.extend((a, False) for a in reversed(operands[node]) if a not in order)
        n = len(order)
        op = np.empty(n, dtype=np.uint8)
        args = np.full((n, 3), -1, dtype=np.int32)
        const = np.zeros(n)
        index = np.full(n, -1, dtype=np.int32)
        calls: dict[int, int] = {}  # in the order in which they are met
        for old, new in order.items():
            code = self._op[old]
            if code == ops.FREE:
                raise ValueError("a placeholder is left in the graph")
            op[new] = code
            const[new] = self._const[old]
            index[new] = self._index[old]
            if code == ops.NETWORK:
                index[new] = calls.setdefault(self._index[old], len(calls))
            for k, a in enumerate(operands[old]):
                args[new, k] = order[a]
        named = {name: np.array([order[node] for node in nodes], dtype=np.int32) for name, nodes in outputs.items()}
        kept = [self.calls[call] for call in calls]
        return Graph(op, args, const, index, self.n_states, self.n_params, named, self.networks, kept)

    def _canonical_operands(self, roots: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """The operands of every node needed; those that commute are ordered by what they are.

        While the builder grows it orders them by number, which depends on what else it holds.
        """
        prints: dict[int, int] = {}  # a fingerprint of each node's content
        operands: dict[int, tuple[int, ...]] = {}
        for node in self.cone(roots):
            code, args = self._op[node], self._args[node]
            if code in ops.COMMUTATIVE and prints[args[0]] > prints[args[1]]:
                args = (args[1], args[0])
            operands[node] = args
            index = self._index[node]
            if code == ops.NETWORK:  # the number of a call depends on what else the builder holds
                index = 0
                for part in self._flat(self.calls[self._index[node]]):
                    index = (index * 0x100000001B3 + part + 1) & 0xFFFFFFFFFFFFFFFF
            mixed = code * 0x9E3779B97F4A7C15 + index + 1
            if code == ops.CONST:
                mixed ^= int.from_bytes(struct.pack("<d", self._const[node]), "little")
            for a in args:
                mixed = ((mixed ^ prints[a]) * 0xD6E8FEB86659FD93) & 0xFFFFFFFFFFFFFFFF
                mixed ^= mixed >> 32
            prints[node] = mixed
        return operands


# Simplifications: each returns a node, or None where there is nothing to simplify. Products with
# an exact zero are zero, as in every computer algebra system.


def _simplify_add(b: GraphBuilder, x: int, y: int) -> int | None:
    if x == b.zero:
        return y
    if y == b.zero:
        return x
    if b.op_of(y) == ops.NEG:
        return b.sub(x, b.args_of(y)[0])
    if b.op_of(x) == ops.NEG:
        return b.sub(y, b.args_of(x)[0])
    return None


def _simplify_sub(b: GraphBuilder, x: int, y: int) -> int | None:
    if y == b.zero:
        return x
    if x == b.zero:
        return b.neg(y)
    if x == y:
        return b.zero
    if b.op_of(y) == ops.NEG:
        return b.add(x, b.args_of(y)[0])
    return None


def _simplify_mul(b: GraphBuilder, x: int, y: int) -> int | None:
    if b.zero in (x, y):
        return b.zero
    if x == b.one:
        return y
    if y == b.one:
        return x
    for one, other in ((x, y), (y, x)):
        if b.value_of(one) == -1.0:
            return b.neg(other)
        if b.op_of(one) == ops.NEG:
            return b.neg(b.mul(b.args_of(one)[0], other))
    return None


def _simplify_div(b: GraphBuilder, x: int, y: int) -> int | None:
    if y == b.one:
        return x
    if x == b.zero and y != b.zero:
        return b.zero
    if b.op_of(x) == ops.NEG:
        return b.neg(b.div(b.args_of(x)[0], y))
    return None


def _simplify_neg(b: GraphBuilder, x: int) -> int | None:
    if b.op_of(x) == ops.NEG:
        return b.args_of(x)[0]
    if b.op_of(x) == ops.SUB:
        return b.sub(*reversed(b.args_of(x)))
    return None


def _simplify_pow(b: GraphBuilder, x: int, y: int) -> int | None:
    if y == b.one:
        return x
    return b.one if y == b.zero else None


def _simplify_same(b: GraphBuilder, x: int, y: int) -> int | None:
    return x if x == y else None


def _simplify_and(b: GraphBuilder, x: int, y: int) -> int | None:
    if b.zero in (x, y):
        return b.zero
    if x == b.one or x == y:
        return y
    return x if y == b.one else None


def _simplify_or(b: GraphBuilder, x: int, y: int) -> int | None:
    if b.one in (x, y):
        return b.one
    if x == b.zero or x == y:
        return y
    return x if y == b.zero else None


def _simplify_select(b: GraphBuilder, c: int, x: int, y: int) -> int | None:
    value = b.value_of(c)
    if value is not None:
        return x if value != 0 else y
    return x if x == y else None


_SIMPLIFY = {
    ops.ADD: _simplify_add,
    ops.SUB: _simplify_sub,
    ops.MUL: _simplify_mul,
    ops.DIV: _simplify_div,
    ops.NEG: _simplify_neg,
    ops.POW: _simplify_pow,
    ops.MIN: _simplify_same,
    ops.MAX: _simplify_same,
    ops.AND: _simplify_and,
    ops.OR: _simplify_or,
    ops.SELECT: _simplify_select,
}
