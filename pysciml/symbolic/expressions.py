"""SymPy expressions as plain data: a list of nodes, each made of earlier ones.

A node is a list whose first entry says what it is: a number, a symbol, a function of a closed set.
Nothing is ever parsed as text. What is read back is built without evaluation, so that it is the
same expression, and its size is bounded before SymPy sees it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import sympy as sp
from sympy.core.function import AppliedUndef, UndefinedFunction

from pysciml.errors import ModelError, UnsupportedError
from pysciml.graph import Network
from pysciml.symbolic.networks import NetworkHead, NetworkTerm
from pysciml.symbolic.to_graph import HANDLERS, LARGEST_ORDER
from pysciml.symbolic.variables import BrownianMotion, Parameter, attributes

#: Name in files -> SymPy head.
HEADS: Final[dict[str, Any]] = {head.__name__: head for head in (*HANDLERS, sp.Mul)}
#: Name in files -> constant.
CONSTANTS: Final[dict[str, Any]] = {
    "pi": sp.pi,
    "E": sp.E,
    "EulerGamma": sp.EulerGamma,
    "GoldenRatio": sp.GoldenRatio,
    "Catalan": sp.Catalan,
}
#: Heads that take no ``evaluate=``.
_PLAIN: Final = frozenset({"UnevaluatedExpr"})
#: Functions whose exact values are long numbers.
_GROWING: Final = frozenset({"factorial", "gamma", "beta", "loggamma", "polygamma"})
#: An expression written out has no more parts than this, a number no more digits.
_LARGEST: Final = 1_000_000
_DIGITS: Final = 2_000
_ASSUMPTIONS: Final = frozenset(
    {
        *("algebraic", "antihermitian", "commutative", "complex", "composite", "even", "extended_negative"),
        *("extended_nonnegative", "extended_nonpositive", "extended_nonzero", "extended_positive", "extended_real"),
        *("finite", "hermitian", "imaginary", "infinite", "integer", "irrational", "negative", "noninteger"),
        *("nonnegative", "nonpositive", "nonzero", "odd", "positive", "prime", "rational", "real", "transcendental"),
        *("polar", "zero"),
    }
)


def name(value: Any) -> str:
    """Check what a file gives as a name."""
    if not isinstance(value, str) or not value.isidentifier() or len(value) > 200:
        shown = repr(value)
        raise ModelError(f"{shown if len(shown) < 60 else shown[:57] + '...'} is no valid name")
    return value


class Writer:
    """Turns expressions into nodes; equal subexpressions are written once.

    Attributes
    ----------
    nodes : list of list
    """

    def __init__(self) -> None:
        self.nodes: list[list[Any]] = []
        self._numbers: dict[tuple[Any, Any], int] = {}

    def __call__(self, expression: Any) -> int:
        """The number of the node of an expression.

        Raises
        ------
        UnsupportedError
            Naming what has no place in a file.
        """
        stack: list[Any] = [expression]
        while stack:
            expr = stack[-1]
            children = _children(expr)
            waiting = [child for child in children if not self._has(child)]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            stack.pop()
            if not self._has(expr):
                self._numbers[type(expr), expr] = len(self.nodes)
                self.nodes.append(self._node(expr))
        return self._number(expression)

    def _has(self, expr: Any) -> bool:
        return (type(expr), expr) in self._numbers

    def _number(self, expr: Any) -> int:
        return self._numbers[type(expr), expr]

    def _node(self, expr: Any) -> list[Any]:
        if isinstance(expr, sp.Integer):
            return ["integer", int(expr)]
        if isinstance(expr, sp.Rational):
            return ["rational", int(expr.p), int(expr.q)]
        if isinstance(expr, sp.Float):
            value = float(expr)
            if math.isfinite(value):
                return ["float", value]
        for key, constant in CONSTANTS.items():
            if expr is constant:
                return ["constant", key]
        if expr is sp.true or expr is sp.false:
            return ["truth", expr is sp.true]
        if isinstance(expr, BrownianMotion):
            return ["brownian", expr.name, [self._number(x) for x in expr.over]]
        if isinstance(expr, sp.Symbol):
            given = attributes(expr) if isinstance(expr, Parameter) else _assumptions(expr)
            return ["symbol", expr.name, given]
        if isinstance(expr, AppliedUndef):
            given = {k: v for k, v in getattr(expr.func, "_kwargs", {}).items() if isinstance(v, (bool, str))}
            return ["function", expr.func.__name__, [self._number(a) for a in expr.args], given]
        if isinstance(expr, sp.Derivative):
            pairs: Any = expr.variable_count
            by = [[self._number(x), int(count)] for x, count in pairs]
            return ["derivative", self._number(expr.expr), by]
        if isinstance(expr, sp.Integral):
            bounds: Any = expr.limits
            limits = [[self._number(part) for part in limit] for limit in bounds]
            return ["integral", self._number(expr.function), limits]
        if isinstance(expr, sp.Piecewise):
            pairs = [[self._number(part) for part in pair.args] for pair in expr.args]
            return ["piecewise", pairs]
        if isinstance(expr, NetworkTerm):
            head = expr.head
            return ["network", head.network.name, head.output, list(head.wrt), [self._number(a) for a in expr.inputs]]
        head = getattr(expr.func, "__name__", "")
        if HEADS.get(head) is expr.func:
            return ["call", head, [self._number(a) for a in expr.args]]
        raise UnsupportedError(f"{expr} has no place in a model file ({type(expr).__name__})")


def _assumptions(symbol: Any) -> dict[str, bool]:
    given = getattr(symbol, "_assumptions_orig", {})
    return {key: bool(value) for key, value in given.items() if value is not None and key != "commutative"}


def _children(expr: Any) -> list[Any]:
    if isinstance(expr, BrownianMotion):
        return list(expr.over)
    if isinstance(expr, sp.Derivative):
        pairs: Any = expr.variable_count
        return [expr.expr, *(x for x, _ in pairs)]
    if isinstance(expr, sp.Integral):
        bounds: Any = expr.limits
        return [expr.function, *(part for limit in bounds for part in limit)]
    if isinstance(expr, sp.Piecewise):
        return [part for pair in expr.args for part in pair.args]
    if isinstance(expr, NetworkTerm):
        return list(expr.inputs)
    return [] if isinstance(expr, (sp.Number, sp.NumberSymbol)) else list(expr.args)


class Reader:
    """Builds the expressions of a file, which is not trusted.

    Parameters
    ----------
    nodes : list
        What `Writer.nodes` was.
    networks : mapping, optional
        Name -> network, of those that the nodes name.

    Raises
    ------
    ModelError
        Naming the node that is wrong.
    """

    def __init__(self, nodes: Any, networks: Mapping[str, Network] | None = None) -> None:
        self._networks = {} if networks is None else networks
        self._built: list[Any] = []
        self._sizes: list[int] = []
        self._digits: list[int | None] = []  # None where there are symbols
        if not isinstance(nodes, list):
            raise ModelError("nodes is not a list")
        for i, node in enumerate(cast("list[Any]", nodes)):
            try:
                built = self._build(node)
            except ModelError as error:
                raise ModelError(f"nodes[{i}]: {error}") from error
            except Exception as error:  # whatever SymPy says of operands that do not fit
                raise ModelError(f"nodes[{i}] cannot be built: {type(error).__name__}: {error}") from error
            if not isinstance(built, sp.Basic):
                raise ModelError(f"nodes[{i}] is no expression")
            self._built.append(built)

    def __call__(self, number: Any) -> Any:
        """The expression of a node."""
        self._check(number)
        return self._built[number]

    def _check(self, number: Any) -> None:
        if type(number) is not int or not 0 <= number < len(self._built):
            raise ModelError(f"{str(number)[:40]} is not the number of an earlier node")

    def _operands(self, numbers: Any) -> list[Any]:
        if not isinstance(numbers, list):
            raise ModelError("its operands are not a list")
        return [self(number) for number in cast("list[Any]", numbers)]

    def _measure(self, numbers: Iterable[int], digits: int | None) -> None:
        """Note how large a node is; refuse what would take SymPy for ever."""
        size = 1 + sum(self._sizes[n] for n in numbers)
        if size > _LARGEST:
            raise ModelError(f"it has more than {_LARGEST:,} parts")
        if digits is not None and digits > _DIGITS:
            raise ModelError(f"it has a number of more than {_DIGITS:,} digits")
        self._sizes.append(size)
        self._digits.append(digits)

    def _build(self, node: Any) -> Any:
        if not isinstance(node, list) or not node or not isinstance(node[0], str):
            raise ModelError("it is not a list that begins with what it is")
        kind, *rest = cast("list[Any]", node)
        if kind == "network":
            return self._network(rest)
        lengths = {"rational": 2, "symbol": 2, "brownian": 2, "function": 3, "derivative": 2, "integral": 2, "call": 2}
        if len(rest) != lengths.get(kind, 1):
            raise ModelError(f"{kind[:40]!r} has {len(rest)} entries")
        if kind in ("integer", "rational"):
            if any(type(v) is not int for v in rest) or (kind == "rational" and rest[1] <= 0):
                raise ModelError(f"it is no {kind}")
            self._measure((), sum(_length(v) for v in rest))
            return sp.Rational(*rest)
        if kind == "float":
            if not isinstance(rest[0], (int, float)) or isinstance(rest[0], bool) or not math.isfinite(rest[0]):
                raise ModelError("it is no finite number")
            self._measure((), 17)
            return sp.Float(float(rest[0]))
        if kind == "constant":
            self._measure((), 1)
            if not isinstance(rest[0], str) or rest[0] not in CONSTANTS:
                raise ModelError(f"{str(rest[0])[:40]!r} is no known constant")
            return CONSTANTS[rest[0]]
        if kind == "truth":
            self._measure((), 1)
            if not isinstance(rest[0], bool):
                raise ModelError("it is neither true nor false")
            return sp.true if rest[0] else sp.false
        if kind == "symbol":
            self._measure((), None)
            given = _properties(rest[1])
            words = {k: v for k, v in given.items() if isinstance(v, str)}
            return Parameter(name(rest[0]), words) if words else sp.Symbol(name(rest[0]), **given)
        if kind == "brownian":
            over = self._operands(rest[1])
            self._measure(rest[1], None)
            return BrownianMotion(name(rest[0]), tuple(over))
        if kind == "function":
            args = self._operands(rest[1])
            self._measure(rest[1], None)
            function: Any = UndefinedFunction(name(rest[0]), **_properties(rest[2]))
            return function(*args)
        if kind == "derivative":
            return self._derivative(rest[0], rest[1])
        if kind == "integral":
            limits = [self._operands(limit) for limit in _lists(rest[1])]
            inner = self(rest[0])
            self._measure([rest[0], *(n for limit in rest[1] for n in limit)], None)
            return sp.Integral(inner, *(tuple(limit) for limit in limits))
        if kind == "piecewise":
            pairs = [self._operands(pair) for pair in _lists(rest[0])]
            self._measure([n for pair in rest[0] for n in pair], None)
            if any(len(pair) != 2 for pair in pairs):
                raise ModelError("it has an entry that is not (value, condition)")
            return sp.Piecewise(*(tuple(pair) for pair in pairs), evaluate=False)
        if kind == "call":
            return self._call(rest[0], rest[1])
        raise ModelError(f"{kind[:40]!r} is no known kind of node")

    def _network(self, rest: list[Any]) -> Any:
        if len(rest) != 4 or not isinstance(rest[0], str) or rest[0] not in self._networks:
            raise ModelError("it names no network of the file")
        network, output, wrt = self._networks[rest[0]], rest[1], rest[2]
        inputs = self._operands(rest[3])
        if len(inputs) != network.inputs or type(output) is not int or not 0 <= output < network.outputs:
            raise ModelError(f"it calls the network {network.name} with other inputs or outputs than it has")
        if not isinstance(wrt, list) or not all(type(i) is int and 0 <= i < network.inputs for i in wrt):
            raise ModelError(f"it differentiates the network {network.name} by something that is no input")
        self._measure(rest[3], None)
        return NetworkTerm(NetworkHead(network, output, tuple(cast("list[int]", wrt))), *inputs)

    def _derivative(self, inner: Any, by: Any) -> Any:
        expr = self(inner)
        pairs = _lists(by)
        for pair in pairs:
            if len(pair) != 2 or type(pair[1]) is not int or not 1 <= pair[1] <= LARGEST_ORDER:
                raise ModelError("it differentiates by something that is not (symbol, order)")
        symbols = [self(pair[0]) for pair in pairs]
        if not pairs or not all(isinstance(symbol, sp.Symbol) for symbol in symbols):
            raise ModelError("it differentiates by something that is no symbol")
        self._measure([inner], None)
        return sp.Derivative(expr, *((symbol, pair[1]) for symbol, pair in zip(symbols, pairs, strict=True)))

    def _call(self, head: Any, numbers: Any) -> Any:
        if not isinstance(head, str) or head not in HEADS:
            raise ModelError(f"{str(head)[:40]!r} is no known function")
        args = self._operands(numbers)
        if not args:
            raise ModelError(f"{head} has no operands")
        known = [self._digits[n] for n in numbers]
        digits = None if any(d is None for d in known) else sum(cast("list[int]", known))
        if digits is not None and head == "Pow" and len(args) == 2 and args[1].is_Rational:
            digits = cast("int", known[0]) * max(1, abs(int(args[1]))) + cast("int", known[1])
        if digits is not None and head in _GROWING:
            digits *= 100
        self._measure(numbers, digits)
        return HEADS[head](*args) if head in _PLAIN else HEADS[head](*args, evaluate=False)


def _lists(value: Any) -> Sequence[list[Any]]:
    entries = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not isinstance(value, list) or not all(isinstance(entry, list) for entry in entries):
        raise ModelError("it has an entry that is not a list of lists")
    return cast("list[list[Any]]", entries)


def _length(value: int) -> int:
    return value.bit_length() * 3 // 10 + 1


def _properties(given: Any) -> dict[str, Any]:
    """The assumptions and attributes of a symbol or function."""
    if not isinstance(given, dict):
        raise ModelError("its properties are not an object")
    for key, value in cast("dict[str, Any]", given).items():
        if not (key in ("units", "long_name") and isinstance(value, str)) and not (
            key in _ASSUMPTIONS and isinstance(value, bool)
        ):
            raise ModelError(f"{key[:40]!r} is no known property")
    return dict(cast("dict[str, Any]", given))
