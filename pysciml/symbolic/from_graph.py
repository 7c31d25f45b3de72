"""Graph to SymPy: for reading, printing and symbolic work on a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Final

import sympy as sp

from pysciml.graph import Graph, ops
from pysciml.symbolic.networks import NetworkHead, NetworkTerm

#: Denominators up to this one are shown as fractions: 1/3 and 1/25 rather than 0.333 and 0.04.
_LARGEST_DENOMINATOR = 10**6


def number(value: float) -> sp.Expr:
    """The simplest exact SymPy number whose float is ``value``."""
    if value == int(value) and abs(value) < 2**53:
        return sp.Integer(int(value))
    fraction = Fraction(value).limit_denominator(_LARGEST_DENOMINATOR)
    if float(fraction) == value:
        return sp.Rational(fraction.numerator, fraction.denominator)
    return sp.Float(value)


_FUNCTIONS: Final[dict[int, Callable[..., Any]]] = {
    ops.ADD: sp.Add,
    ops.SUB: lambda a, b: a - b,
    ops.MUL: sp.Mul,
    ops.DIV: lambda a, b: a / b,
    ops.POW: sp.Pow,
    ops.NEG: lambda a: -a,
    ops.SQRT: sp.sqrt,
    ops.EXP: sp.exp,
    ops.LOG: sp.log,
    ops.SIN: sp.sin,
    ops.COS: sp.cos,
    ops.TAN: sp.tan,
    ops.ASIN: sp.asin,
    ops.ACOS: sp.acos,
    ops.ATAN: sp.atan,
    ops.SINH: sp.sinh,
    ops.COSH: sp.cosh,
    ops.TANH: sp.tanh,
    ops.ASINH: sp.asinh,
    ops.ACOSH: sp.acosh,
    ops.ATANH: sp.atanh,
    ops.ATAN2: sp.atan2,
    ops.ABS: sp.Abs,
    ops.SIGN: sp.sign,
    ops.FLOOR: sp.floor,
    ops.CEIL: sp.ceiling,
    ops.HEAVISIDE: sp.Heaviside,
    ops.MIN: sp.Min,
    ops.MAX: sp.Max,
    ops.MOD: sp.Mod,
    ops.ERF: sp.erf,
    ops.ERFC: sp.erfc,
    ops.GAMMA: sp.gamma,
    ops.LOGGAMMA: sp.loggamma,
    ops.POLYGAMMA: sp.polygamma,
    ops.BESSELJ: sp.besselj,
    ops.BESSELY: sp.bessely,
    ops.BESSELI: sp.besseli,
    ops.BESSELK: sp.besselk,
    ops.LT: sp.StrictLessThan,
    ops.LE: sp.LessThan,
    ops.GT: sp.StrictGreaterThan,
    ops.GE: sp.GreaterThan,
    ops.EQ: sp.Eq,
    ops.NE: sp.Ne,
    ops.AND: lambda a, b: sp.And(_condition(a), _condition(b)),
    ops.OR: lambda a, b: sp.Or(_condition(a), _condition(b)),
    ops.NOT: lambda a: sp.Not(_condition(a)),
    ops.SELECT: lambda c, a, b: sp.Piecewise((_value(a), _condition(c)), (_value(b), True)),
}


def _condition(expr: Any) -> Any:
    """A condition from a node's value: numbers hold where they are not zero."""
    return sp.Ne(expr, 0) if isinstance(expr, sp.Expr) else expr


def _value(expr: Any) -> Any:
    """A number from a node's value: conditions are 1 where they hold."""
    return expr if isinstance(expr, sp.Expr) else sp.Piecewise((1, expr), (0, True))


def to_sympy(
    graph: Graph,
    name: str,
    states: Sequence[sp.Expr],
    parameters: Sequence[sp.Symbol],
    time: sp.Symbol,
) -> list[sp.Expr]:
    """Write a named output as SymPy expressions, one per node of the output."""
    outputs = graph.outputs[name]
    needed = graph.reachable(outputs)
    done: dict[int, Any] = {}
    for node in range(len(graph)):
        if not needed[node]:
            continue
        code = int(graph.op[node])
        index = int(graph.index[node])
        args = [done[int(a)] for a in graph.args[node, : ops.OPS[code].arity]]
        if code == ops.CONST:
            done[node] = number(float(graph.const[node]))
        elif code == ops.TIME:
            done[node] = time
        elif code == ops.STATE:
            done[node] = states[index]
        elif code == ops.PARAM:
            done[node] = parameters[index]
        elif code == ops.JOIN:
            done[node] = None  # the network takes it apart itself
        elif code == ops.NETWORK:
            call = graph.calls[index]
            head = NetworkHead(graph.networks[call.network], call.output, call.wrt)
            done[node] = NetworkTerm(head, *(_value(done[k]) for k in graph.inputs_of(node)))
        elif code == ops.HISTORY:
            done[node] = states[index].subs(time, args[0])
        elif code in (ops.SELECT, ops.AND, ops.OR, ops.NOT):
            done[node] = _FUNCTIONS[code](*args)
        else:
            done[node] = _FUNCTIONS[code](*map(_value, args))
    return [_value(done[int(node)]) for node in outputs]
