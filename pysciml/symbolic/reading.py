"""Equations as written → nodes over placeholders, every name and symbol checked on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import BooleanAtom

from pysciml.errors import ModelError
from pysciml.graph import GraphBuilder, Network
from pysciml.symbolic import printing
from pysciml.symbolic.to_graph import Converter
from pysciml.symbolic.variables import BrownianMotion, attributes
from pysciml.symbolic.variables import equation as make_equation

#: Names that mean something else in a result.
RESERVED = {"t": "the time coordinate", "trajectory": "the ensemble dimension"}


def normalize(equations: Any, *, may_be_empty: bool = False) -> tuple[sp.Eq, ...]:
    """Check that the argument is a list of equations; ``expr`` stands for ``expr = 0``, a matrix for its entries."""
    if isinstance(equations, (sp.Basic, sp.MatrixBase)):
        equations = [equations]
    if isinstance(equations, (str, bytes)) or not isinstance(equations, Sequence):
        raise ModelError(f"equations must be a list of equations, not {type(equations).__name__}")
    if not equations and not may_be_empty:
        raise ModelError("a System needs at least one equation")
    result: list[sp.Eq] = []
    for i, equation in enumerate(equations):
        if isinstance(equation, (bool, BooleanAtom)):
            raise ModelError(
                f"equation {i + 1} was decided to be {bool(equation)} before it got here: "
                "both sides are numbers or the same expression (write it with pysciml.Eq to keep it)",
                equation=str(equation),
            )
        if isinstance(equation, sp.Eq):
            result += _entries(equation, i)
        elif isinstance(equation, sp.MatrixBase):
            result += [make_equation(entry, sp.Integer(0)) for entry in equation.flat()]
        elif isinstance(equation, sp.Expr) and not getattr(equation, "is_Matrix", False):
            result.append(make_equation(equation, sp.Integer(0)))
        else:
            raise ModelError(
                f"equation {i + 1} is not an equation but {type(equation).__name__}: {equation!r}",
                equation=str(equation),
            )
    return tuple(result)


def _entries(equation: sp.Eq, position: int) -> list[sp.Eq]:
    """An equation of matrices as those of their entries, row by row; one of scalars as it is."""
    sides = equation.args
    if not any(getattr(side, "is_Matrix", False) for side in sides):
        return [equation]
    explicit: list[Any] = [side.doit() if isinstance(side, sp.MatrixExpr) else side for side in sides]
    if not all(isinstance(side, sp.MatrixBase) for side in explicit):
        raise ModelError(
            f"equation {position + 1} has a matrix without entries, or on one side alone: write both sides as matrices "
            "of expressions, or one equation per entry",
            equation=str(equation),
        )
    left, right = explicit
    if left.shape != right.shape:
        raise ModelError(
            f"equation {position + 1} has matrices of different shapes: {_size(left)} on the left side, "
            f"{_size(right)} on the right",
            equation=str(equation),
        )
    return [make_equation(*pair) for pair in zip(left.flat(), right.flat(), strict=True)]


def _size(matrix: Any) -> str:
    return "x".join(map(str, matrix.shape))


def find_time(expressions: Sequence[sp.Basic]) -> sp.Symbol | None:
    """The independent variable: what the first derivative is by, else what the first function depends on."""
    of_function: sp.Symbol | None = None
    seen: set[Any] = set()
    for expression in expressions:
        stack: list[Any] = [expression]
        while stack:
            expr = stack.pop()
            if expr in seen:
                continue
            seen.add(expr)
            by: Any = expr.variable_count[0] if isinstance(expr, sp.Derivative) else (None,)
            if isinstance(by[0], sp.Symbol):
                return by[0]
            if isinstance(expr, AppliedUndef) and of_function is None and isinstance(expr.args[0], sp.Symbol):
                of_function = expr.args[0]
            stack.extend(reversed(expr.args))
    return of_function


def describe(equation: sp.Basic, position: int, time: sp.Symbol) -> str:
    """``equation 2, D(x) = a*x``, for messages; long equations are cut."""
    line = printing.text(equation, time)
    return f"equation {position + 1}, {line if len(line) <= 120 else line[:117] + '...'}"


def name_of(symbol: Any) -> str:
    """The name a symbol or function has in results."""
    return symbol.func.__name__ if isinstance(symbol, AppliedUndef) else str(symbol)


def _kind_of(symbol: Any) -> str:
    if isinstance(symbol, Network):
        return f"the network {symbol.name}"
    if isinstance(symbol, tuple):
        return f"the derivative of order {symbol[2]} of {symbol[1]}"
    if isinstance(symbol, AppliedUndef):
        what, assumptions = "the function", dict(getattr(symbol.func, "_kwargs", {}))
    else:
        what = "the Brownian motion" if isinstance(symbol, BrownianMotion) else "the symbol"
        assumptions = dict(getattr(symbol, "_assumptions_orig", {})) or attributes(symbol)
    return f"{what} {symbol}" + (f" with {assumptions}" if assumptions else "")


@dataclass
class Unknown:
    """An unknown function while the equations are read."""

    function: Any
    name: str
    order: int = 0  # the highest derivative that appears
    leaves: dict[int, int] = field(default_factory=dict[int, int])  # order -> placeholder node


class Reader:
    """Reads expressions into one builder; every symbol becomes a placeholder.

    Placeholders are replaced by states and parameters once all equations are known.
    """

    def __init__(self, time: sp.Symbol, parameters: Sequence[sp.Symbol] | None) -> None:
        self.time = time
        self.builder = GraphBuilder(0, 0)
        self.declared = parameters is not None
        self.parameters: dict[sp.Symbol, int] = {}
        self.unknowns: dict[Any, Unknown] = {}
        self.noises: dict[sp.Symbol, int] = {}
        self.observed: dict[Any, int] = {}
        self.histories: dict[int, Any] = {}
        self.called: dict[str, Any] = {}  # functions of something else than time, by name
        self.mark: int | None = None  # a factor of every term that is marked as implicit
        self.closed = False  # True once the equations are read: nothing new may appear
        self._names: dict[str, Any] = {}
        self._free = 0
        self.convert = Converter(self.builder, time, self._leaf, self._delayed, self._network, self._marked)
        for symbol in parameters or ():
            self._add_parameter(symbol)

    def placeholder(self) -> int:
        """A fresh placeholder node."""
        self._free += 1
        return self.builder.free(self._free)

    def claim(self, name: str, symbol: Any, what: str) -> None:
        """Take a name for a symbol, or say who has it."""
        if not name.isidentifier():
            raise ModelError(
                f"{name!r} is no valid name for {what}: use letters, digits and underscores, not starting with a digit",
                symbol=name,
            )
        if name in RESERVED:
            raise ModelError(f"{name!r} cannot name {what}: it is {RESERVED[name]} of every result", symbol=name)
        if name == self.time.name and symbol != self.time:
            raise ModelError(f"{name!r} cannot name {what}: it is the time of this system", symbol=name)
        other = self._names.setdefault(name, symbol)
        if other != symbol:
            raise ModelError(
                f"the name {name!r} is used for two different symbols: {_kind_of(other)} and {_kind_of(symbol)}",
                symbol=name,
            )

    def _add_parameter(self, symbol: sp.Symbol) -> int:
        if symbol.is_extended_real is False or not symbol.is_commutative:
            raise ModelError(
                f"the symbol {symbol} is declared to be no real number: parameters are real", symbol=symbol.name
            )
        self.claim(symbol.name, symbol, "a parameter")
        node = self.parameters[symbol] = self.placeholder()
        return node

    def _leaf(self, symbol: Any, order: int) -> int:
        if isinstance(symbol, AppliedUndef):
            return self._function(symbol, order)
        if isinstance(symbol, BrownianMotion) and symbol.over:
            raise ModelError(
                f"{symbol} is noise over {', '.join(map(str, symbol.over))}, which is for a PDESystem: in a System "
                f"write pysciml.brownian({symbol.name!r})",
                symbol=symbol.name,
            )
        if isinstance(symbol, BrownianMotion):
            if symbol not in self.noises:
                self._not_new(symbol)
                self.claim(symbol.name, symbol, "a Brownian motion")
                self.noises[symbol] = self.placeholder()
            return self.noises[symbol]
        if symbol in self.observed:
            return self.observed[symbol]
        node = self.parameters.get(symbol)
        if node is None:
            if self.declared:
                raise ModelError(
                    f"undefined symbol {symbol}: it is not the time and not in parameters=", symbol=symbol.name
                )
            if symbol.name == self.time.name:
                raise ModelError(
                    f"the symbol {symbol} has the name of the time but other assumptions: use {self.time!r} itself",
                    symbol=symbol.name,
                )
            node = self._add_parameter(symbol)
        return node

    def _network(self, network: Network) -> None:
        other = self._names.get(network.name)
        if isinstance(other, Network) and other != network:
            raise ModelError(
                f"two different networks are called {network.name!r}: use one network object, or two names",
                symbol=network.name,
            )
        if network not in self.builder.networks and self.closed:
            raise ModelError(f"the network {network.name} appears in no equation of the system", symbol=network.name)
        self.claim(network.name, network, "a network")

    def _marked(self, node: int) -> int:
        if self.closed:  # in events and jumps marks say nothing
            return node
        if self.mark is None:
            self.mark = self.placeholder()
        return self.builder.mul(self.mark, node)

    def _not_new(self, symbol: Any) -> None:
        if self.closed:
            raise ModelError(f"{symbol} appears in no equation of the system", symbol=name_of(symbol))

    def _function(self, function: Any, order: int) -> int:
        if function in self.observed:
            if order:
                raise ModelError(
                    f"the derivative of the observed quantity {function} appears: make it an equation instead",
                    symbol=name_of(function),
                )
            return self.observed[function]
        unknown = self.unknowns.get(function)
        if unknown is None:
            self._not_new(function)
            name = name_of(function)
            self.claim(name, function, "a variable")
            unknown = self.unknowns[function] = Unknown(function, name)
        if self.closed and order > unknown.order:
            raise ModelError(
                f"D({unknown.name}, {order}) is higher than any derivative of {unknown.name} in the equations",
                symbol=unknown.name,
            )
        unknown.order = max(unknown.order, order)
        node = unknown.leaves.get(order)
        if node is None:
            node = unknown.leaves[order] = self.placeholder()
            self.convert.derivative_leaves[node] = (function, order)
        return node

    def order_unknowns(self) -> None:
        """Put the unknowns in the order of the equations that give their derivatives.

        That is the order in which a person would list them, and it keeps neighbours of a grid
        together, whatever order the terms of an equation are in.
        """
        last = len(self.builder)
        first = {f: min((leaf for k, leaf in x.leaves.items() if k), default=last) for f, x in self.unknowns.items()}
        self.unknowns = dict(sorted(self.unknowns.items(), key=lambda item: first[item[0]]))

    def _delayed(self, expression: Any, time: int) -> int:
        argument = expression.args[0]
        if not argument.has(self.time):
            raise ModelError(
                f"{expression} does not depend on the time of the system, {self.time}: an unknown at a fixed time is "
                "an initial value; give it in u0",
                symbol=name_of(expression),
            )
        if (self.time - argument).is_negative:
            raise ModelError(
                f"{expression} looks into the future: a delay must be positive", symbol=name_of(expression)
            )
        if expression.func(self.time) in self.observed:
            raise ModelError(
                f"{expression} is an observed quantity at another time: write out its definition there",
                symbol=name_of(expression),
            )
        if self.closed:
            raise ModelError(
                f"{expression} appears in no equation of the system: events only know delayed values that do",
                symbol=name_of(expression),
            )
        if argument.has(AppliedUndef):
            self.called[name_of(expression)] = expression
        self._function(expression.func(self.time), 0)
        node = self.builder.history(self._free + 1, time)
        self._free += 1
        self.histories[node] = expression.func(self.time)
        return node


def dependence_order(time: sp.Symbol, observed: Mapping[Any, sp.Expr]) -> list[Any]:
    """Observed quantities in an order in which each only uses earlier ones."""
    known = observed.keys() - {time}
    uses = {symbol: [s for s in symbols_in(expression) if s in known] for symbol, expression in observed.items()}
    done: dict[Any, None] = {}
    for root in observed:
        path: dict[Any, Any] = {root: iter(uses[root])}
        while path:
            symbol = next(reversed(path))
            following = next((s for s in path[symbol] if s not in done), None)
            if following is None:
                done[symbol] = None
                del path[symbol]
            elif following in path:
                names = ", ".join(sorted(name_of(s) for s in path))
                raise ModelError(
                    f"observed quantities cannot be defined by themselves: {names}", symbol=name_of(following)
                )
            else:
                path[following] = iter(uses[following])
    return list(done)


def symbols_in(expression: Any) -> list[Any]:
    """Symbols and functions of an expression, in the order met; shared parts are visited once."""
    seen: dict[Any, None] = {}
    stack = [expression]
    while stack:
        expr = stack.pop()
        if expr not in seen:
            seen[expr] = None
            stack.extend(reversed(expr.args))
    return [expr for expr in seen if isinstance(expr, (sp.Symbol, AppliedUndef))]


def read_observed(reader: Reader, symbol: Any, expression: sp.Expr) -> None:
    """Read one observed quantity; equations may use it from then on."""
    name = name_of(symbol)
    if isinstance(symbol, BrownianMotion) or symbol == reader.time or symbol in reader.parameters:
        raise ModelError(f"{_kind_of(symbol)} has a meaning already: it cannot name an observed quantity", symbol=name)
    if isinstance(symbol, AppliedUndef) and symbol.args != (reader.time,):
        raise ModelError(f"observed quantity {symbol}: it can only be a function of {reader.time}", symbol=name)
    reader.claim(name, symbol, "an observed quantity")
    try:
        node = reader.convert(expression)
    except ModelError as error:
        raise ModelError(f"observed quantity {name}: {error}", symbol=error.symbol) from error
    reader.observed[symbol] = node


def read_parameters(reader: Reader, what: str, groups: Sequence[Sequence[Any]]) -> None:
    """Parameters that only events or jumps know, such as a dose, are parameters too where none are declared."""
    for number, expressions in enumerate(() if reader.declared else groups):
        for expression in expressions:
            for symbol in symbols_in(expression):
                known = symbol == reader.time or symbol in reader.observed or isinstance(symbol, BrownianMotion)
                if isinstance(symbol, sp.Symbol) and not known:
                    try:
                        reader.convert(symbol)
                    except ModelError as error:
                        raise ModelError(f"{what} {number + 1}: {error}", symbol=error.symbol) from error


def check_observed(reader: Reader, sides: list[tuple[int, int]]) -> None:
    """What is observed follows from the equations: it brings no unknown and no higher derivative."""
    b = reader.builder
    used = set(b.cone([node for pair in sides for node in pair])) if reader.observed else set[int]()
    orders: dict[Any, int] = {}
    for node in used:
        function, order = reader.convert.derivative_leaves.get(node, (reader.histories.get(node), 0))
        if function is not None:
            orders[function] = max(order, orders.get(function, 0))
    for symbol, root in reader.observed.items():
        for node in b.cone([root]):
            function, order = reader.convert.derivative_leaves.get(node, (reader.histories.get(node), 0))
            if function is None or order <= orders.get(function, -1):
                continue
            name = name_of(function)
            what = f"D({name}, {order})" if function in orders else name
            raise ModelError(
                f"observed quantity {name_of(symbol)}: {what} appears in no equation of the system", symbol=name
            )


def read_equations(reader: Reader, equations: tuple[sp.Eq, ...]) -> list[tuple[int, int]]:
    """Read all equations as (left, right) nodes; no two may be the same."""
    seen: dict[tuple[int, int], int] = {}
    sides: list[tuple[int, int]] = []
    for i, equation in enumerate(equations):
        try:
            pair = reader.convert(equation.lhs), reader.convert(equation.rhs)
        except ModelError as error:
            where = describe(equation, i, reader.time)
            raise ModelError(f"{where}: {error}", equation=printing.plain(equation), symbol=error.symbol) from error
        mirrored = (pair[1], pair[0])
        if pair in seen or mirrored in seen:
            first = seen[pair] if pair in seen else seen[mirrored]
            raise ModelError(
                f"{describe(equation, i, reader.time)}, is the same as equation {first + 1}: leave one out",
                equation=printing.plain(equation),
            )
        seen[pair] = i
        sides.append(pair)
    if not reader.unknowns:
        raise ModelError(
            "the equations have no unknowns: write the states as functions of time, x = pysciml.variables('x')"
        )
    reader.order_unknowns()
    return sides
