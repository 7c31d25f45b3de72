"""Equations as written → first-order equations on the graph, checked on the way.

The steps, each a function below: read every equation into a residual over the unknowns and their
derivatives; solve the residuals that are linear in the highest derivatives for them; what cannot
be solved becomes an algebraic equation; separate the noise; lower to first order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from pysciml.errors import ModelError, UnsupportedError
from pysciml.graph import EventSpec, Graph, GraphBuilder, Model, ops
from pysciml.graph.derivative import tangents
from pysciml.graph.model import Kind, NoiseType
from pysciml.symbolic import printing
from pysciml.symbolic.events import Event
from pysciml.symbolic.to_graph import Converter
from pysciml.symbolic.variables import BrownianMotion

#: Names that mean something else in a result.
_RESERVED = {"t": "the time coordinate", "trajectory": "the ensemble dimension"}
#: Random points at which a pivot must not vanish, to count as one.
_PROBES = 3


@dataclass(frozen=True)
class StateInfo:
    """One first-order state: the ``order``-th derivative of an unknown.

    Attributes
    ----------
    name : str
        Its name in results: ``x``, and ``x_t``, ``x_tt`` for its derivatives.
    function : applied SymPy function
    order : int
    """

    name: str
    function: Any
    order: int


@dataclass
class Lowered:
    """What `lower` returns: the model and the symbols its indices stand for."""

    model: Model
    time: sp.Symbol
    states: tuple[StateInfo, ...]
    parameters: tuple[sp.Symbol, ...]
    observed: tuple[sp.Basic, ...]


def describe(equation: sp.Basic, position: int, time: sp.Symbol) -> str:
    """``equation 2, D(x) = a*x``, for messages; long equations are cut."""
    line = printing.text(equation, time)
    return f"equation {position + 1}, {line if len(line) <= 120 else line[:117] + '...'}"


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


@dataclass
class _Unknown:
    """An unknown function while the equations are read."""

    function: Any
    name: str
    order: int = 0  # the highest derivative that appears
    leaves: dict[int, int] = field(default_factory=dict[int, int])  # order -> placeholder node


class _Reader:
    """Reads expressions into one builder; every symbol becomes a placeholder.

    Placeholders are replaced by states and parameters once all equations are known.
    """

    def __init__(self, time: sp.Symbol, parameters: Sequence[sp.Symbol] | None) -> None:
        self.time = time
        self.builder = GraphBuilder(0, 0)
        self.declared = parameters is not None
        self.parameters: dict[sp.Symbol, int] = {}
        self.unknowns: dict[Any, _Unknown] = {}
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
            raise ModelError(f"{symbol} appears in no equation of the system", symbol=_name_of(symbol))

    def _function(self, function: Any, order: int) -> int:
        if function in self.observed:
            if order:
                raise ModelError(
                    f"the derivative of the observed quantity {function} appears: make it an equation instead",
                    symbol=_name_of(function),
                )
            return self.observed[function]
        unknown = self.unknowns.get(function)
        if unknown is None:
            self._not_new(function)
            name = _name_of(function)
            self.claim(name, function, "a variable")
            unknown = self.unknowns[function] = _Unknown(function, name)
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
                symbol=_name_of(expression),
            )
        lag = self.time - argument
        if lag.is_number and lag.is_negative:
            raise ModelError(
                f"{expression} looks into the future: a delay must be positive", symbol=_name_of(expression)
            )
        self._function(expression.func(self.time), 0)
        node = self.builder.history(self._free + 1, time)
        self._free += 1
        self.histories[node] = expression.func(self.time)
        return node


def _name_of(symbol: Any) -> str:
    return symbol.func.__name__ if isinstance(symbol, AppliedUndef) else str(symbol)


def _kind_of(symbol: Any) -> str:
    if isinstance(symbol, AppliedUndef):
        return f"the function {symbol}"
    what = "the Brownian motion" if isinstance(symbol, BrownianMotion) else "the symbol"
    assumptions = dict(getattr(symbol, "_assumptions_orig", {}))
    return f"{what} {symbol}" + (f" with {assumptions}" if assumptions else "")


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
            result.append(sp.Eq(equation, sp.Integer(0), evaluate=False))
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


def lower(
    equations: tuple[sp.Eq, ...],
    parameters: Sequence[sp.Symbol] | None,
    observed: Mapping[Any, sp.Expr],
    events: Sequence[Event],
    name: str,
) -> Lowered:
    """Turn checked input into a `Model`; every `ModelError` names equation and symbol."""
    from pysciml.symbolic.variables import t as default_time

    time = find_time([*equations, *observed.values()]) or default_time
    if parameters is not None and time in parameters:
        raise ModelError(f"{time} is the time of this system and cannot be a parameter", symbol=str(time))
    reader = _Reader(time, parameters)
    for symbol, expression in observed.items():
        _read_observed(reader, symbol, expression)
    sides = _read_equations(reader, equations)
    reader.closed = True
    reader.declared = True
    for unknown in reader.unknowns.values():  # every lower derivative exists, named or not
        for order in range(unknown.order + 1):
            reader._function(unknown.function, order)
    _check_counts(reader, equations, sides)
    solution = _solve_for_derivatives(reader, sides)
    return _assemble(reader, solution, equations, observed, events, name)


def _read_observed(reader: _Reader, symbol: Any, expression: sp.Expr) -> None:
    name = _name_of(symbol)
    reader.claim(name, symbol, "an observed quantity")
    try:
        node = reader.convert(expression)
    except ModelError as error:
        raise ModelError(f"observed quantity {name}: {error}", symbol=error.symbol) from error
    reader.observed[symbol] = node


def _read_equations(reader: _Reader, equations: tuple[sp.Eq, ...]) -> list[tuple[int, int]]:
    seen: dict[tuple[int, int], int] = {}
    sides: list[tuple[int, int]] = []
    for i, equation in enumerate(equations):
        try:
            pair = reader.convert(equation.lhs), reader.convert(equation.rhs)
        except ModelError as error:
            where = describe(equation, i, reader.time)
            raise ModelError(f"{where}: {error}", equation=str(equation), symbol=error.symbol) from error
        if pair in seen or pair[::-1] in seen:
            first = seen.get(pair, seen.get(pair[::-1], 0))
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


def _check_counts(reader: _Reader, equations: tuple[sp.Eq, ...], sides: list[tuple[int, int]]) -> None:
    """One equation per unknown, and a pairing of the two must exist."""
    b = reader.builder
    owner: dict[int, str] = {
        leaf: unknown.name for unknown in reader.unknowns.values() for leaf in unknown.leaves.values()
    }
    history_owner = {node: reader.unknowns[f].name for node, f in reader.histories.items()}
    highest = {u.leaves[u.order]: u.name for u in reader.unknowns.values()}
    appears: list[list[str]] = []  # the unknowns an equation can determine, the likely one first
    for i, (lhs, rhs) in enumerate(sides):
        if lhs in highest:  # fast and usual: D(x) = ...
            appears.append([highest[lhs]])
            continue
        names = dict.fromkeys(owner[n] for n in b.cone((lhs, rhs)) if n in owner)
        present = names or dict.fromkeys(history_owner[n] for n in b.cone((lhs, rhs)) if n in history_owner)
        if not present:
            where = describe(equations[i], i, reader.time)
            raise ModelError(f"{where}: contains no unknown", equation=str(equations[i]))
        appears.append(list(names))
    match = _matching(appears)
    if len(match) < len(sides):  # explicit forms may hide other choices: look at all unknowns
        appears = [list(dict.fromkeys(owner[n] for n in b.cone(pair) if n in owner)) for pair in sides]
        match = _matching(appears)
    unmatched = [name for name in (u.name for u in reader.unknowns.values()) if name not in match]
    n_unknowns = len(reader.unknowns)
    names = ", ".join(u.name for u in reader.unknowns.values())
    if len(sides) < n_unknowns:
        raise ModelError(
            f"{len(sides)} equation{'s' if len(sides) > 1 else ''} for {n_unknowns} unknowns ({names}): "
            f"no equation is left to determine {', '.join(unmatched)}; add one, or make it a parameter",
            symbol=unmatched[0] if unmatched else None,
        )
    if len(match) < len(sides):
        used = set(match.values())
        extra = next(i for i in range(len(sides)) if i not in used)
        where = describe(equations[extra], extra, reader.time)
        if len(sides) > n_unknowns:
            raise ModelError(
                f"{len(sides)} equations for {n_unknowns} unknown{'s' if n_unknowns > 1 else ''} ({names}): "
                f"{where}, is one too many",
                equation=str(equations[extra]),
            )
        raise ModelError(
            f"{where}, has no unknown left to determine, and no equation determines {', '.join(unmatched)}: "
            f"its unknowns ({', '.join(appears[extra])}) follow from other equations",
            equation=str(equations[extra]),
            symbol=unmatched[0],
        )


def _matching(choices: Sequence[Sequence[str]]) -> dict[str, int]:
    """A maximum matching of equations to unknowns (Kuhn's algorithm): unknown -> equation."""
    match: dict[str, int] = {}

    def place(equation: int) -> bool:
        # Depth-first search for an augmenting path, with an explicit stack.
        visited: set[str] = set()
        stack: list[tuple[int, Any]] = [(equation, iter(choices[equation]))]
        path: list[str] = []
        while stack:
            current, candidates = stack[-1]
            for name in candidates:
                if name in visited:
                    continue
                visited.add(name)
                path.append(name)
                if name not in match:
                    for (owner, _), taken in zip(stack, path, strict=True):
                        match[taken] = owner
                    return True
                stack.append((match[name], iter(choices[match[name]])))
                break
            else:
                stack.pop()
                if path:
                    path.pop()
        return False

    for equation in range(len(choices)):
        place(equation)
    return match


@dataclass
class _Solution:
    """The residuals after solving: explicit derivatives, and what is left as algebraic."""

    explicit: dict[int, int]  # highest-derivative placeholder -> its expression
    residuals: list[tuple[int, int]]  # (residual node, position of its equation)


def _solve_for_derivatives(reader: _Reader, sides: list[tuple[int, int]]) -> _Solution:
    """Solve for the highest derivatives the equations that are linear in them."""
    b = reader.builder
    highest = {u.leaves[u.order] for u in reader.unknowns.values() if u.order > 0}
    explicit: dict[int, int] = {}
    waiting: list[tuple[int, int]] = []  # (residual, equation)
    coupled = b.depending_on(highest)
    for i, (lhs, rhs) in enumerate(sides):
        if lhs in highest and lhs not in explicit and not coupled[rhs]:
            explicit[lhs] = rhs
        elif rhs in highest and rhs not in explicit and not coupled[lhs]:
            explicit[rhs] = lhs
        else:
            waiting.append((b.sub(lhs, rhs), i))
    if not waiting:
        return _Solution(explicit, [])
    residuals: list[tuple[int, int]] = []
    rows: list[_Row] = []
    for node, i in waiting:
        node = b.substitute(node, explicit)
        coefficients = tangents(b, [node], {h: {h: b.one} for h in highest})[0]
        if not highest.isdisjoint(b.cone(coefficients.values())):  # nonlinear in a derivative
            residuals.append((node, i))
        elif coefficients:
            rest = b.substitute(node, dict.fromkeys(highest, b.zero))
            rows.append(_Row(coefficients, rest, i))
        else:
            residuals.append((node, i))
    solved = _eliminate(b, rows, residuals)
    if solved:
        residuals = list(
            zip(
                b.substitute_all([n for n, _ in residuals], solved),
                (i for _, i in residuals),
                strict=True,
            )
        )
        keys = list(explicit)
        explicit = dict(zip(keys, b.substitute_all([explicit[k] for k in keys], solved), strict=True))
    return _Solution(explicit | solved, residuals)


@dataclass
class _Row:
    """One linear equation: ``sum(coefficient * derivative) + rest = 0``."""

    coefficients: dict[int, int]
    rest: int
    equation: int


def _eliminate(b: GraphBuilder, rows: list[_Row], residuals: list[tuple[int, int]]) -> dict[int, int]:
    """Gauss-Jordan elimination on the graph; rows without a pivot join the residuals."""
    solved: list[tuple[int, _Row]] = []
    for row in rows:
        for pivot, other in solved:
            _subtract(b, row, pivot, other)
        row.coefficients = {k: c for k, c in row.coefficients.items() if not _vanishes(b, c)}
        if not row.coefficients:
            residuals.append((row.rest, row.equation))
            continue
        pivot = min(row.coefficients, key=lambda k: (b.value_of(row.coefficients[k]) is None, k))
        scale = row.coefficients.pop(pivot)
        row.coefficients = {k: b.div(c, scale) for k, c in row.coefficients.items()}
        row.rest = b.div(row.rest, scale)
        for _, other in solved:
            _subtract(b, other, pivot, row)
        solved.append((pivot, row))
    return {
        pivot: b.neg(b.add(b.sum([b.mul(c, k) for k, c in row.coefficients.items()]), row.rest))
        for pivot, row in solved
    }


def _subtract(b: GraphBuilder, row: _Row, pivot: int, other: _Row) -> None:
    """Replace the pivot in ``row`` by what ``other`` says it is."""
    factor = row.coefficients.pop(pivot, None)
    if factor is None:
        return
    for key, coefficient in other.coefficients.items():
        product = b.mul(factor, coefficient)
        row.coefficients[key] = b.sub(row.coefficients.get(key, b.zero), product)
    row.rest = b.sub(row.rest, b.mul(factor, other.rest))


def _vanishes(b: GraphBuilder, node: int) -> bool:
    """Whether a coefficient is zero everywhere: tried at random points where it is not constant."""
    value = b.value_of(node)
    if value is not None:
        return value == 0.0
    cone = b.cone([node])
    leaves = [n for n in cone if b.op_of(n) in (ops.FREE, ops.HISTORY)]
    probe = GraphBuilder(len(leaves), 0)
    moved = {leaf: probe.state(k) for k, leaf in enumerate(leaves)}
    scale: list[int] = []
    for n in cone:
        if n in moved:
            continue
        if b.op_of(n) == ops.CONST:
            moved[n] = probe.constant(b.value_of(n) or 0.0)
        elif b.op_of(n) == ops.TIME:
            moved[n] = probe.time()
        else:
            moved[n] = probe.call(b.op_of(n), *(moved[a] for a in b.args_of(n)))
        scale.append(moved[n])
    graph = probe.build({"node": [moved[node]], "scale": scale or [moved[node]]})
    rng = np.random.default_rng(0)
    u = rng.uniform(0.5, 1.5, (len(leaves), _PROBES))
    size = np.abs(graph.evaluate("scale", u, np.zeros(0), 0.7))
    size = np.max(np.where(np.isfinite(size), size, 0.0), axis=0, initial=1e-300)
    values = np.abs(graph.evaluate("node", u, np.zeros(0), 0.7)[0])
    return bool(np.all(values <= 1e-12 * size))


def _assemble(
    reader: _Reader,
    solution: _Solution,
    equations: tuple[sp.Eq, ...],
    observed: Mapping[Any, sp.Expr],
    events: Sequence[Event],
    name: str,
) -> Lowered:
    """Number the states, replace the placeholders, and collect the outputs."""
    b = reader.builder
    differential: list[StateInfo] = []
    algebraic: list[StateInfo] = []
    for unknown in reader.unknowns.values():
        for order in range(unknown.order):
            differential.append(_state(reader, unknown, order))
        if unknown.order == 0 or unknown.leaves[unknown.order] not in solution.explicit:
            algebraic.append(_state(reader, unknown, unknown.order))
    states = tuple(differential + algebraic)
    parameters = tuple(reader.parameters)

    numbered = GraphBuilder(len(states), len(parameters))
    index = {(s.function, s.order): i for i, s in enumerate(states)}
    moved: dict[int, int] = {}
    for unknown in reader.unknowns.values():
        for order, leaf in unknown.leaves.items():
            if (unknown.function, order) in index:
                moved[leaf] = numbered.state(index[unknown.function, order])
    for k, leaf in enumerate(reader.parameters.values()):
        moved[leaf] = numbered.param(k)
    for leaf in reader.noises.values():
        moved[leaf] = numbered.free(leaf)
    histories: dict[int, int] = {}
    for node, function in reader.histories.items():
        i = index[function, 0]
        if i >= len(differential):
            raise ModelError(
                f"{function} is delayed, but it is an algebraic unknown: only states with a derivative have a history",
                symbol=_name_of(function),
            )
        histories[node] = i
    # Now every placeholder that is left is a solved highest derivative: its expression follows.
    transfer = _Transfer(b, numbered, moved, histories, solution.explicit)

    rhs: list[int] = []
    for info in differential:
        unknown = reader.unknowns[info.function]
        rhs.append(transfer(unknown.leaves[info.order + 1]))
    residual_nodes = [(transfer(node), i) for node, i in solution.residuals]
    rhs.extend(node for node, _ in residual_nodes)
    if len(rhs) != len(states):
        raise ModelError(
            f"{len(states)} unknowns but {len(rhs)} independent equations: "
            "some equations follow from others, or contradict them"
        )
    noise = tuple(reader.noises)
    drift, diffusion = _separate_noise(reader, numbered, rhs, equations, residual_nodes)
    outputs: dict[str, Sequence[int]] = {"rhs": drift}
    if noise:
        outputs["diffusion"] = [node for _, _, node in diffusion]
    outputs["observed"] = [transfer(reader.observed[symbol]) for symbol in observed]
    specs = _read_events(reader, transfer, states, events, len(differential), outputs)
    _no_noise_outside(numbered, outputs)
    graph = numbered.build(outputs)
    kind = _kind(graph, bool(noise), bool(algebraic or residual_nodes), name)
    rows = np.array([r for r, _, _ in diffusion], dtype=np.int32)
    cols = np.array([c for _, c, _ in diffusion], dtype=np.int32)
    model = Model(
        graph=graph,
        kind=kind,
        name=name,
        states=tuple(s.name for s in states),
        parameters=tuple(p.name for p in parameters),
        observed=tuple(_name_of(symbol) for symbol in observed),
        differential=np.arange(len(states)) < len(differential),
        events=specs,
        noise=tuple(w.name for w in noise),
        diffusion_rows=rows,
        diffusion_cols=cols,
        noise_type=_noise_type(graph, rows, cols, len(noise)) if noise else None,
    )
    return Lowered(model, reader.time, states, parameters, tuple(observed))


def _state(reader: _Reader, unknown: _Unknown, order: int) -> StateInfo:
    if order == 0:
        return StateInfo(unknown.name, unknown.function, 0)
    name = f"{unknown.name}_{'t' * order}"
    reader.claim(name, ("derivative", unknown.function, order), f"the derivative of {unknown.name}")
    return StateInfo(name, unknown.function, order)


class _Transfer:
    """Copies nodes from the reading builder to the numbered one, placeholders replaced."""

    def __init__(
        self,
        source: GraphBuilder,
        target: GraphBuilder,
        moved: dict[int, int],
        histories: Mapping[int, int],
        explicit: Mapping[int, int],
    ) -> None:
        self._source = source
        self._target = target
        self._moved = moved
        self._histories = histories
        self._explicit = explicit

    def __call__(self, node: int) -> int:
        source, target, moved = self._source, self._target, self._moved
        stack = [node]
        while stack:
            current = stack[-1]
            if current in moved:
                stack.pop()
                continue
            if current in self._explicit:
                needs: Sequence[int] = (self._explicit[current],)
            else:
                needs = source.args_of(current)
            waiting = [n for n in needs if n not in moved]
            if waiting:
                stack.extend(waiting)
                continue
            code = source.op_of(current)
            if current in self._explicit:
                moved[current] = moved[self._explicit[current]]
            elif code == ops.CONST:
                moved[current] = target.constant(source.value_of(current) or 0.0)
            elif code == ops.TIME:
                moved[current] = target.time()
            elif code == ops.HISTORY:
                moved[current] = target.history(self._histories[current], moved[needs[0]])
            else:
                moved[current] = target.call(code, *(moved[n] for n in needs))
            stack.pop()
        return moved[node]


def _separate_noise(
    reader: _Reader,
    b: GraphBuilder,
    rhs: list[int],
    equations: tuple[sp.Eq, ...],
    residuals: list[tuple[int, int]],
) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Drift, and the diffusion entries as (row, noise, node)."""
    if not reader.noises:
        return rhs, []
    if residuals:
        where = describe(equations[residuals[0][1]], residuals[0][1], reader.time)
        raise UnsupportedError(
            f"the system has Brownian motions and an algebraic equation ({where}): stochastic "
            "differential-algebraic equations are not supported; solve the algebraic part by hand"
        )
    leaves = [b.free(leaf) for leaf in reader.noises.values()]
    seeds = {leaf: {k: b.one} for k, leaf in enumerate(leaves)}
    entries: list[tuple[int, int, int]] = []
    for row, directions in enumerate(tangents(b, rhs, seeds)):
        for k in sorted(directions):
            if not set(leaves).isdisjoint(b.cone([directions[k]])):
                w = list(reader.noises)[k]
                raise ModelError(
                    f"the Brownian motion {w} does not enter linearly: it may only be a factor, as in b*x*{w}",
                    symbol=str(w),
                )
            entries.append((row, k, directions[k]))
    return b.substitute_all(rhs, dict.fromkeys(leaves, b.zero)), entries


def _no_noise_outside(b: GraphBuilder, outputs: Mapping[str, Sequence[int]]) -> None:
    for output, nodes in outputs.items():
        if any(b.op_of(n) == ops.FREE for n in b.cone(nodes)):
            raise ModelError(f"a Brownian motion appears in {output}: it may only stand in equations with a derivative")


def _noise_type(graph: Graph, rows: Any, cols: Any, n_noise: int) -> NoiseType:
    if not len(graph.sparsity("diffusion")[0]):
        return "additive"
    if len(set(rows.tolist())) == len(rows) and len(set(cols.tolist())) == len(cols):
        return "diagonal"
    return "scalar" if n_noise == 1 else "general"


def _kind(graph: Graph, noisy: bool, algebraic: bool, name: str) -> Kind:
    delayed = ops.HISTORY in graph.used_ops()
    if delayed and (noisy or algebraic):
        other = "Brownian motions" if noisy else "algebraic equations"
        raise UnsupportedError(f"the system {name!r} has delays and {other}: this combination is not supported")
    if noisy:
        return "sde"
    if algebraic:
        return "dae"
    return "dde" if delayed else "ode"


def _read_events(
    reader: _Reader,
    transfer: _Transfer,
    states: tuple[StateInfo, ...],
    events: Sequence[Event],
    n_differential: int,
    outputs: dict[str, Sequence[int]],
) -> tuple[EventSpec, ...]:
    specs: list[EventSpec] = []
    keys = {(s.function, s.order): i for i, s in enumerate(states)}
    for number, event in enumerate(events):
        where = f"event {number + 1} ({printing.text(event.condition, reader.time)})"
        targets: list[int] = []
        values: list[int] = []
        try:
            outputs[f"event{number}"] = [transfer(reader.convert(event.condition))]
            for symbol, expression in event.affect.items():
                key = (symbol.expr, len(symbol.variables)) if isinstance(symbol, sp.Derivative) else (symbol, 0)
                target = keys.get(key)
                if target is None:
                    known = ", ".join(s.name for s in states)
                    raise ModelError(
                        f"it sets {printing.text(symbol, reader.time)}, which is not a state ({known})",
                        symbol=printing.text(symbol, reader.time),
                    )
                if target >= n_differential:
                    raise ModelError(
                        f"it sets {states[target].name}, which follows from an algebraic equation",
                        symbol=states[target].name,
                    )
                targets.append(target)
                values.append(transfer(reader.convert(expression)))
        except ModelError as error:
            raise ModelError(f"{where}: {error}", symbol=error.symbol) from error
        outputs[f"event{number}_values"] = values
        specs.append(
            EventSpec(f"event{number}", f"event{number}_values", tuple(targets), event.direction, event.terminal)
        )
    return tuple(specs)
