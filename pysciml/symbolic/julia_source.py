"""Models as Julia source: what one would write by hand to go on in Julia."""

from __future__ import annotations

import keyword
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import sympy as sp

from pysciml._version import __version__
from pysciml.errors import UnsupportedError
from pysciml.graph import Graph, Model, ops
from pysciml.graph.manifold import on_manifold
from pysciml.symbolic.from_graph import number

#: Operators with their binding strength; an operand that binds less gets parentheses.
_INFIX: Final[dict[int, tuple[str, int]]] = {
    ops.OR: (" | ", 2),
    ops.AND: (" & ", 3),
    ops.LT: (" < ", 4),
    ops.LE: (" <= ", 4),
    ops.GT: (" > ", 4),
    ops.GE: (" >= ", 4),
    ops.EQ: (" == ", 4),
    ops.NE: (" != ", 4),
    ops.ADD: (" + ", 5),
    ops.SUB: (" - ", 5),
    ops.MUL: ("*", 6),
    ops.DIV: ("/", 6),
    ops.POW: ("^", 8),
}
_NEGATION, _ATOM = 7, 9

_CALLS: Final[dict[int, str]] = {
    ops.SQRT: "sqrt",
    ops.EXP: "exp",
    ops.LOG: "log",
    ops.SIN: "sin",
    ops.COS: "cos",
    ops.TAN: "tan",
    ops.ASIN: "asin",
    ops.ACOS: "acos",
    ops.ATAN: "atan",
    ops.SINH: "sinh",
    ops.COSH: "cosh",
    ops.TANH: "tanh",
    ops.ASINH: "asinh",
    ops.ACOSH: "acosh",
    ops.ATANH: "atanh",
    ops.ATAN2: "atan",
    ops.ABS: "abs",
    ops.SIGN: "sign",
    ops.FLOOR: "floor",
    ops.CEIL: "ceil",
    ops.HEAVISIDE: "heaviside",
    ops.MIN: "min",
    ops.MAX: "max",
    ops.MOD: "mod",
    ops.ERF: "erf",
    ops.ERFC: "erfc",
    ops.GAMMA: "gamma",
    ops.LOGGAMMA: "loggamma",
    ops.POLYGAMMA: "polygamma",
    ops.BESSELJ: "besselj",
    ops.BESSELY: "bessely",
    ops.BESSELI: "besseli",
    ops.BESSELK: "besselk",
    ops.NOT: "!",
    ops.SELECT: "ifelse",
}
_SPECIAL: Final = frozenset(range(ops.ERF, ops.BESSELK + 1))
#: Where ``ifelse`` evaluates a branch that is not taken, these must not throw outside their domain.
_PARTIAL: Final = frozenset({ops.SQRT, ops.LOG, ops.ASIN, ops.ACOS, ops.ACOSH, ops.ATANH, ops.POW})

#: Names that the source itself uses.
_RESERVED: Final = """
begin break catch const continue do else elseif end export false finally for function global if import
let local macro module quote return struct true try using while where in isa mutable abstract primitive
type du u p t h f g out integrator problem solution callback im pi Inf NaN I Diagonal rhs diffusion
observed heaviside NaNMath ODEProblem ODEFunction SDEProblem DDEProblem ContinuousCallback CallbackSet
terminate implicit explicit split_problem SplitODEProblem
"""
_TAKEN: Final = frozenset(_RESERVED.split()) | frozenset(_CALLS.values())


def identifiers(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Julia identifiers for names, as like them as possible and all different."""
    used = set(_TAKEN) | set(taken)
    result: list[str] = []
    for name in names:
        word = re.sub(r"\W", "_", name)
        if not word or not (word[0].isalpha() or word[0] == "_") or keyword.iskeyword(word) or set(word) == {"_"}:
            word = f"v_{word}"
        while word in used:
            word += "_"
        used.add(word)
        result.append(word)
    return result


class _Body:
    """Writes outputs of a graph as assignments, shared subexpressions as local variables."""

    def __init__(self, graph: Graph, states: Sequence[str], params: Sequence[str]) -> None:
        self._graph = graph
        self._states, self._params = states, params
        self._total = ops.SELECT in graph.used_ops()
        self._text: dict[int, tuple[str, int]] = {}

    def write(self, name: str, targets: Sequence[str]) -> list[str]:
        """One line for each output, after those of what they share."""
        graph, outputs = self._graph, self._graph.outputs[name].tolist()
        needed = np.flatnonzero(graph.reachable(outputs)).tolist()
        uses = np.zeros(len(graph), dtype=np.int64)
        for node in needed:
            for operand in set(graph.args[node].tolist()) - {-1}:
                uses[operand] += 1
        for node in outputs:
            uses[node] += 1
        lines: list[str] = []
        self._text = {}
        shared = 0
        for node in needed:
            text, strength = self._expression(node)
            if uses[node] > 1 and ops.OPS[int(graph.op[node])].arity and strength < _ATOM + 1 and len(text) > 3:
                shared += 1
                local = f"s{shared}"
                while local in self._states or local in self._params:
                    shared += 1
                    local = f"s{shared}"
                lines.append(f"{local} = {text}")
                text, strength = local, _ATOM
            self._text[node] = text, strength
        lines += [f"{target} = {self._number(node)}" for target, node in zip(targets, outputs, strict=True)]
        self._text = {}
        return lines

    def leaves(self, name: str) -> tuple[list[int], list[int]]:
        """The states and the parameters that an output depends on."""
        graph = self._graph
        needed = graph.reachable(graph.outputs[name])
        found = [sorted(set(graph.index[needed & (graph.op == code)].tolist())) for code in (ops.STATE, ops.PARAM)]
        return found[0], found[1]

    def _number(self, node: int) -> str:
        """A node where a number is wanted."""
        text = self._text[node][0]
        return f"ifelse({text}, 1.0, 0.0)" if int(self._graph.op[node]) in ops.CONDITIONS else text

    def _condition(self, node: int, least: int = 0) -> str:
        if int(self._graph.op[node]) in ops.CONDITIONS:
            return self._operand(node, least)
        return f"({self._text[node][0]} != 0)"

    def _operand(self, node: int, least: int) -> str:
        text, strength = self._text[node]
        return text if strength >= least else f"({text})"

    def _value(self, node: int, least: int) -> str:
        if int(self._graph.op[node]) in ops.CONDITIONS:
            return self._number(node)
        return self._operand(node, least)

    def _expression(self, node: int) -> tuple[str, int]:
        graph = self._graph
        code, index = int(graph.op[node]), int(graph.index[node])
        args = graph.args[node, : ops.OPS[code].arity].tolist()
        if code == ops.CONST:
            return _constant(float(graph.const[node]))
        if code == ops.TIME:
            return "t", _ATOM
        if code == ops.STATE:
            return self._states[index], _ATOM
        if code == ops.PARAM:
            return self._params[index], _ATOM
        if code == ops.HISTORY:
            return f"h(p, {self._value(args[0], 0)}; idxs = {index + 1})", _ATOM
        if code == ops.NEG:
            return f"-{self._value(args[0], _INFIX[ops.MUL][1])}", _INFIX[ops.ADD][1]
        if code == ops.MUL and args[0] == args[1]:
            return f"{self._value(args[0], _ATOM)}^2", _INFIX[ops.POW][1]
        if code == ops.NOT:
            return f"!{self._condition(args[0], _ATOM)}", _NEGATION
        if code in (ops.AND, ops.OR):
            sign, strength = _INFIX[code]
            # In Julia `&` binds more tightly than comparisons do.
            return sign.join(self._condition(a, _ATOM) for a in args), strength
        if code == ops.SELECT:
            chosen = self._condition(args[0])
            return f"ifelse({chosen}, {self._value(args[1], 0)}, {self._value(args[2], 0)})", _ATOM
        if code == ops.POW and self._total and not self._is_whole(args[1]):
            return f"NaNMath.pow({self._value(args[0], 0)}, {self._value(args[1], 0)})", _ATOM
        if code == ops.ADD and any(self._is_negative(a) for a in args):  # x - 1, not -1 + x
            first, last = args if self._is_negative(args[1]) else reversed(args)
            subtracted = _constant(-float(graph.const[last]))[0]
            return f"{self._value(first, _INFIX[code][1])} - {subtracted}", _INFIX[code][1]
        if code == ops.MUL and self._rank(args[1]) < self._rank(args[0]):  # a*x, not x*a
            args.reverse()
        if code in _INFIX:
            sign, strength = _INFIX[code]
            right = strength + (1 if code in (ops.SUB, ops.DIV, ops.POW) or strength == 4 else 0)
            left = strength + (1 if code == ops.POW or strength == 4 else 0)
            return f"{self._value(args[0], left)}{sign}{self._value(args[1], right)}", strength
        called = _CALLS[code]
        if code in _PARTIAL and self._total:
            called = f"NaNMath.{called}"
        given = [self._value(a, 0) for a in args]
        if code in (ops.POLYGAMMA, ops.BESSELJ, ops.BESSELY, ops.BESSELI, ops.BESSELK) and code == ops.POLYGAMMA:
            given[0] = given[0].removesuffix(".0")
        return f"{called}({', '.join(given)})", _ATOM

    def _is_negative(self, node: int) -> bool:
        return int(self._graph.op[node]) == ops.CONST and float(self._graph.const[node]) < 0

    def _rank(self, node: int) -> int:
        return {ops.CONST: 0, ops.PARAM: 1}.get(int(self._graph.op[node]), 2)

    def _is_whole(self, node: int) -> bool:
        return int(self._graph.op[node]) == ops.CONST and float(self._graph.const[node]).is_integer()


def _constant(value: float) -> tuple[str, int]:
    exact = number(value)
    if isinstance(exact, sp.Integer):
        # Whole numbers read better without a point, and exponents must have none.
        text = str(int(exact)) if abs(value) < 2**53 else repr(value)
    elif isinstance(exact, sp.Rational) and exact.q <= 1000 and repr(value) != f"{value:.6g}":
        return f"{exact.p}/{exact.q}", _INFIX[ops.DIV][1] if exact.p > 0 else _INFIX[ops.ADD][1]
    else:
        text = repr(value)
    return text, _ATOM if value >= 0 else _INFIX[ops.ADD][1]


def _unpack(names: Sequence[str], source: str, wanted: Iterable[int]) -> list[str]:
    chosen = list(wanted)
    if not chosen:
        return []
    if len(names) > 1 and chosen == list(range(len(names))):
        return textwrap.wrap(f"{', '.join(names)} = {source}", 96, subsequent_indent="    ")
    return [f"{names[i]} = {source}[{i + 1}]" for i in chosen]


def _function(head: str, lines: Iterable[str]) -> list[str]:
    return [f"function {head}", *(f"    {line}" for line in lines), "    return nothing", "end", ""]


class _Writer:
    def __init__(self, model: Model, shown: tuple[str, ...]) -> None:
        self._model = model
        self._shown = shown
        self._states = identifiers(model.states)
        self._params = identifiers(model.parameters, self._states)
        self._body = _Body(model.graph, self._states, self._params)

    def _lines(self, name: str, targets: Sequence[str]) -> list[str]:
        states, params = self._body.leaves(name)
        return [
            *_unpack(self._states, "u", states),
            *_unpack(self._params, "p", params),
            *self._body.write(name, targets),
        ]

    def text(self) -> str:
        """The whole file."""
        model = self._model
        n = len(model.states)
        used = model.graph.used_ops()
        lines = [f"# {_one_line(model.name)}: written by pysciml {__version__}"]
        lines += [f"# u[{i + 1}] is {_one_line(name)}" for i, name in enumerate(model.states[:200])]
        lines += [f"# p[{i + 1}] is {_one_line(name)}" for i, name in enumerate(model.parameters[:200])]
        packages = ["OrdinaryDiffEq"]
        if not model.differential.all():
            packages.append("LinearAlgebra")
        if model.noise:
            packages = ["StochasticDiffEq"]
        if model.jumps:
            packages.append("JumpProcesses")
        if model.kind == "dde":
            packages.append("DelayDiffEq")
        if any(event.when == "times" for event in model.events):
            packages.append("DiffEqCallbacks")
        if used & _SPECIAL:
            packages.append("SpecialFunctions")
        if ops.SELECT in used:
            packages.append("NaNMath")
        lines += ["", *(f"using {package}" for package in packages), ""]
        if ops.HEAVISIDE in used:
            lines += ["heaviside(x) = (1 + sign(x))/2", ""]
        arguments = "du, u, h, p, t" if model.kind == "dde" else "du, u, p, t"
        rhs = self._lines("rhs", [f"du[{i + 1}]" for i in range(n)])
        lines += _function(f"rhs!({arguments})", rhs)
        lines += self._problem()
        lines += self._split(n)
        lines += self._jumps()
        if model.observed:
            targets = [f"out[{i + 1}]" for i in range(len(model.observed))]
            lines += [f"# out[{i + 1}] is {_one_line(name)}" for i, name in enumerate(model.observed)]
            history = "h, " if ops.HISTORY in model.graph.used_ops(["observed"]) else ""
            lines += _function(f"observed!(out, u, {history}p, t)", self._lines("observed", targets))
        lines += self._projection()
        lines += self._events()
        return "\n".join(lines).rstrip() + "\n"

    def _problem(self) -> list[str]:
        model = self._model
        if model.noise:
            return self._stochastic()
        if model.kind == "dde":
            return [
                "# h(p, t; idxs) gives the state before the start; pass constant_lags to follow discontinuities.",
                "problem(u0, h, tspan, p; options...) = DDEProblem(rhs!, u0, h, tspan, p; options...)",
                "",
            ]
        if model.differential.all():
            return ["problem(u0, tspan, p) = ODEProblem(rhs!, u0, tspan, p)", ""]
        diagonal = ", ".join("1" if row else "0" for row in model.differential.tolist())
        wrapped = textwrap.wrap(f"mass_matrix = Diagonal(Float64[{diagonal}])", 96, subsequent_indent="    ")
        return [
            "# Where the diagonal is 0, the row is an algebraic equation 0 = du[i].",
            *wrapped,
            "problem(u0, tspan, p) = ODEProblem(ODEFunction(rhs!; mass_matrix), u0, tspan, p)",
            "",
        ]

    def _projection(self) -> list[str]:
        if "projected" not in self._model.graph.outputs:
            return []
        targets = [f"out[{i + 1}]" for i in range(len(self._shown))]
        lines = [
            "# The states on the constraints, from u near them. A Newton step: again with the result is more exact."
        ]
        lines += [f"# out[{i + 1}] is {_one_line(name)}" for i, name in enumerate(self._shown)]
        return lines + _function("projected!(out, u, p, t)", self._lines("projected", targets))

    def _split(self, n: int) -> list[str]:
        """The right-hand side as the two sums that marks make of it."""
        if "implicit" not in self._model.graph.outputs or self._model.kind != "ode":
            return []
        targets = [f"du[{i + 1}]" for i in range(n)]
        lines = ["# The same in two parts, for methods that solve for one of them alone (KenCarp4, SBDF2)."]
        for name in ("implicit", "explicit"):
            lines += _function(f"{name}!(du, u, p, t)", self._lines(name, targets))
        return [*lines, "split_problem(u0, tspan, p) = SplitODEProblem(implicit!, explicit!, u0, tspan, p)", ""]

    def _stochastic(self) -> list[str]:
        model = self._model
        rows, cols = model.diffusion_rows.tolist(), model.diffusion_cols.tolist()
        n, m = len(model.states), len(model.noise)
        diagonal = rows == cols and n == m
        places = [f"du[{r + 1}]" if diagonal else f"du[{r + 1}, {c + 1}]" for r, c in zip(rows, cols, strict=True)]
        lines = _function("diffusion!(du, u, p, t)", ["fill!(du, 0)", *self._lines("diffusion", places)])
        option = "" if diagonal else f"; noise_rate_prototype = zeros({n}, {m})"
        return [*lines, f"problem(u0, tspan, p) = SDEProblem(rhs!, diffusion!, u0, tspan, p{option})", ""]

    def _events(self) -> list[str]:
        lines: list[str] = []
        names: list[str] = []
        for k, event in enumerate(self._model.events, start=1):
            if event.when == "times":
                times = [f"time{i + 1}" for i in range(len(self._model.graph.outputs[event.condition]))]
                lines += [f"function times{k}(p)", *(f"    {line}" for line in self._lines(event.condition, times))]
                lines += [f"    return [{', '.join(times)}]", "end", ""]
                lines += self._affect(k, event.targets, event.values, event.terminal)
                names.append(f"PresetTimeCallback(times{k}(p), affect{k}!)")
                continue
            lines += [f"function condition{k}(u, t, integrator)", "    p = integrator.p"]
            lines += [f"    {line}" for line in self._lines(event.condition, ["height"])]
            lines += [f"    return height{' != 0' if event.when == 'step' else ''}", "end", ""]
            lines += self._affect(k, event.targets, event.values, event.terminal)
            if event.when == "step":
                names.append(f"DiscreteCallback(condition{k}, affect{k}!)")
                continue
            up = f"affect{k}!" if event.direction != "down" else "nothing"
            down = f"affect{k}!" if event.direction != "up" else "nothing"
            lines += [f"event{k} = ContinuousCallback(condition{k}, {up}, {down})", ""]
            names.append(f"event{k}")
        if any(event.when == "times" for event in self._model.events):
            lines += [
                "# solve(problem(u0, tspan, p); callback = callback(p))",
                f"callback(p) = CallbackSet({', '.join(names)})",
            ]
            lines.append("")
        elif names:
            lines += ["# solve(problem(u0, tspan, p); callback)", f"callback = CallbackSet({', '.join(names)})", ""]
        return lines

    def _affect(self, name: object, targets: Sequence[int], output: str, terminal: bool = False) -> list[str]:
        affect = ["u, p, t = integrator.u, integrator.p, integrator.t"]
        if targets:
            new = [f"new{i + 1}" for i in range(len(targets))]
            affect += self._lines(output, new)
            affect += [f"u[{state + 1}] = {value}" for state, value in zip(targets, new, strict=True)]
        if terminal:
            affect.append("terminate!(integrator)")
        return _function(f"affect{name}!(integrator)", affect)

    def _jumps(self) -> list[str]:
        """Jumps whose rates may change at any time; `ConstantRateJump` is faster for those that do not."""
        lines: list[str] = []
        names: list[str] = []
        for k, jump in enumerate(self._model.jumps, start=1):
            rate = [*self._lines(jump.rate, ["often"]), "return often"]
            lines += [f"function rate{k}(u, p, t)", *(f"    {line}" for line in rate), "end", ""]
            lines += self._affect(f"_jump{k}", jump.targets, jump.values)
            names.append(f"VariableRateJump(rate{k}, affect_jump{k}!)")
        if names:
            lines += ["# solve(jump_problem(u0, tspan, p), Tsit5())", "jump_problem(u0, tspan, p) = JumpProblem("]
            lines += [f"    {argument}," for argument in ("problem(u0, tspan, p)", "Direct()", *names)]
            lines += [")", ""]
        return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())


def julia_source(model: Model) -> str:
    """Write a model as Julia source: functions, and a constructor of its problem.

    Parameters
    ----------
    model : Model

    Returns
    -------
    str
        A file for Julia with OrdinaryDiffEq (StochasticDiffEq, DelayDiffEq). Its right-hand side
        takes any number type, so Symbolics and automatic differentiation can go through it.

    Raises
    ------
    UnsupportedError
        For models with networks.
    """
    if model.graph.networks:
        names = ", ".join(network.name for network in model.graph.networks)
        raise UnsupportedError(f"{model.name!r} has a network ({names}), which is not written as Julia source")
    return _Writer(on_manifold(model), model.states).text()
