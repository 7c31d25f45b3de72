"""Equations as written → nodes over placeholders, every name and symbol checked on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef

from pysciml.errors import ModelError
from pysciml.graph import GraphBuilder
from pysciml.symbolic import printing
from pysciml.symbolic.to_graph import Converter
from pysciml.symbolic.variables import BrownianMotion
from pysciml.symbolic.variables import equation as make_equation

#: Names that mean something else in a result.
_RESERVED = {"t": "the time coordinate", "trajectory": "the ensemble dimension"}


def normalize(equations: Any) -> tuple[sp.Eq, ...]:
    """Check that the argument is a list of equations; ``expr`` stands for ``expr = 0``."""
    if isinstance(equations, sp.Basic):
        equations = [equations]
    if isinstance(equations, (str, bytes)) or not isinstance(equations, Sequence):
        raise ModelError(f"equations must be a list of equations, not {type(equations).__name__}")
    if not equations:
        raise ModelError("a System needs at least one equation")
    result: list[sp.Eq] = []
    for i, equation in enumerate(equations):
        if equation in (True, False) or equation in (sp.true, sp.false):
            raise ModelError(
                f"equation {i + 1} was decided to be {bool(equation)} before it got here: "
                "both sides are numbers or the same expression (write it with pysciml.Eq to keep it)",
                equation=str(equation),
            )
        if isinstance(equation, sp.Eq):
            result.append(equation)
        elif isinstance(equation, sp.Expr):
            result.append(make_equation(equation, sp.Integer(0)))
        else:
            raise ModelError(
                f"equation {i + 1} is not an equation but {type(equation).__name__}: {equation!r}",
                equation=str(equation),
            )
    for i, equation in enumerate(result):
        for side in equation.args:
            if getattr(side, "is_Matrix", False):
                raise ModelError(
                    f"equation {i + 1} has a matrix on one side: equations are scalar; write one per entry",
                    equation=str(equation),
                )
    return tuple(result)


def find_time(expressions: Sequence[sp.Basic]) -> sp.Symbol | None:
    """The independent variable: what the first function or derivative depends on."""
    for expression in expressions:
        stack: list[Any] = [expression]
        seen: set[Any] = set()
        while stack:
            expr = stack.pop()
            if expr in seen:
                continue
            seen.add(expr)
            if isinstance(expr, sp.Derivative) and expr.variables:
                return expr.variables[0]
            if isinstance(expr, AppliedUndef) and len(expr.args) == 1 and isinstance(expr.args[0], sp.Symbol):
                return expr.args[0]
            stack.extend(reversed(expr.args))
    return None


def describe(equation: sp.Basic, position: int, time: sp.Symbol) -> str:
    """``equation 2, D(x) = a*x``, for messages; long equations are cut."""
    line = printing.text(equation, time)
    return f"equation {position + 1}, {line if len(line) <= 120 else line[:117] + '...'}"


def name_of(symbol: Any) -> str:
    """The name a symbol or function has in results."""
    return symbol.func.__name__ if isinstance(symbol, AppliedUndef) else str(symbol)


def _kind_of(symbol: Any) -> str:
    if isinstance(symbol, AppliedUndef):
        return f"the function {symbol}"
    what = "the Brownian motion" if isinstance(symbol, BrownianMotion) else "the symbol"
    assumptions = dict(getattr(symbol, "_assumptions_orig", {}))
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
        self.closed = False  # True once the equations are read: nothing new may appear
        self._names: dict[str, Any] = {}
        self._free = 0
        self.convert = Converter(self.builder, time, self._leaf, self._delayed)
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
        if name in _RESERVED:
            raise ModelError(f"{name!r} cannot name {what}: it is {_RESERVED[name]} of every result", symbol=name)
        other = self._names.setdefault(name, symbol)
        if other != symbol:
            raise ModelError(
                f"the name {name!r} is used for two different symbols: {_kind_of(other)} and {_kind_of(symbol)}",
                symbol=name,
            )

    def _add_parameter(self, symbol: sp.Symbol) -> int:
        self.claim(symbol.name, symbol, "a parameter")
        node = self.parameters[symbol] = self.placeholder()
        return node

    def _leaf(self, symbol: Any, order: int) -> int:
        if isinstance(symbol, AppliedUndef):
            return self._function(symbol, order)
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

    def _delayed(self, expression: Any, time: int) -> int:
        argument = expression.args[0]
        if not argument.has(self.time):
            raise ModelError(
                f"{expression} does not depend on {self.time}: an unknown at a fixed time is an initial value; "
                "give it in u0",
                symbol=name_of(expression),
            )
        lag = self.time - argument
        if lag.is_number and lag.is_negative:
            raise ModelError(
                f"{expression} looks into the future: a delay must be positive", symbol=name_of(expression)
            )
        self._function(expression.func(self.time), 0)
        node = self.builder.history(self._free + 1, time)
        self._free += 1
        self.histories[node] = expression.func(self.time)
        return node


def read_observed(reader: Reader, symbol: Any, expression: sp.Expr) -> None:
    """Read one observed quantity; equations may use it from then on."""
    name = name_of(symbol)
    reader.claim(name, symbol, "an observed quantity")
    try:
        node = reader.convert(expression)
    except ModelError as error:
        raise ModelError(f"observed quantity {name}: {error}", symbol=error.symbol) from error
    reader.observed[symbol] = node


def read_equations(reader: Reader, equations: tuple[sp.Eq, ...]) -> list[tuple[int, int]]:
    """Read all equations as (left, right) nodes; no two may be the same."""
    seen: dict[tuple[int, int], int] = {}
    sides: list[tuple[int, int]] = []
    for i, equation in enumerate(equations):
        try:
            pair = reader.convert(equation.lhs), reader.convert(equation.rhs)
        except ModelError as error:
            where = describe(equation, i, reader.time)
            raise ModelError(f"{where}: {error}", equation=str(equation), symbol=error.symbol) from error
        mirrored = (pair[1], pair[0])
        if pair in seen or mirrored in seen:
            first = seen[pair] if pair in seen else seen[mirrored]
            raise ModelError(
                f"{describe(equation, i, reader.time)} is the same as equation {first + 1}: leave one out",
                equation=str(equation),
            )
        seen[pair] = i
        sides.append(pair)
    if not reader.unknowns:
        raise ModelError(
            "the equations have no unknowns: write the states as functions of time, x = pysciml.variables('x')"
        )
    return sides
