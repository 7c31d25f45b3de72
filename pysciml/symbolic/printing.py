"""How models read: ``D(x) = a*x``, not ``Eq(Derivative(x(t), t), a*x(t))``."""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.printing.latex import LatexPrinter
from sympy.printing.str import StrPrinter


class _Text(StrPrinter):
    def __init__(self, time: sp.Symbol) -> None:
        super().__init__()
        self._time = time

    def _print_Function(self, expr: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        if isinstance(expr, AppliedUndef) and expr.args == (self._time,):
            return expr.func.__name__
        return super()._print_Function(expr)

    def _print_Derivative(self, expr: Any) -> str:
        if all(v == self._time for v, _ in expr.variable_count):
            order = sum(count for _, count in expr.variable_count)
            return f"D({self._print(expr.expr)}{'' if order == 1 else f', {order}'})"
        return super()._print_Derivative(expr)


class _Latex(LatexPrinter):
    def __init__(self, time: sp.Symbol) -> None:
        super().__init__()
        self._time = time

    def _print_implicit(self, expr: Any) -> str:
        return rf"\underbrace{{{self._print(expr.args[0])}}}_{{\text{{implicit}}}}"

    def _print_Function(self, expr: Any, exp: Any = None) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        if isinstance(expr, AppliedUndef) and expr.args == (self._time,):
            name = self._print(sp.Symbol(expr.func.__name__))
            return name if exp is None else f"{name}^{{{exp}}}"
        return super()._print_Function(expr, exp)


#: Expressions of more parts than this, written out, are not: text has no shared subexpressions.
_LARGEST = 5000


def written_size(expression: Any) -> int:
    """How many parts an expression has when it is written out; shared parts are counted once each time."""
    sizes: dict[Any, int] = {}
    stack = [expression]
    while stack:
        expr = stack[-1]
        waiting = [arg for arg in expr.args if arg not in sizes]
        if waiting:
            stack.extend(waiting)
        else:
            sizes[expr] = 1 + sum(sizes[arg] for arg in expr.args)
            stack.pop()
    return sizes[expression]


def text(expression: Any, time: sp.Symbol) -> str:
    """One line for an expression or an equation (``lhs = rhs``)."""
    if isinstance(expression, sp.Eq):
        return f"{text(expression.lhs, time)} = {text(expression.rhs, time)}"
    size = written_size(expression)
    return _Text(time).doprint(expression) if size <= _LARGEST else f"(an expression of {size:.3g} parts)"


def plain(expression: Any) -> str:
    """``str(expression)``, where that is not endless."""
    size = written_size(expression)
    return str(expression) if size <= _LARGEST else f"(an expression of {size:.3g} parts)"


def latex(equations: tuple[sp.Eq, ...], time: sp.Symbol) -> str:
    """All equations, aligned at the equals sign, for a notebook."""
    printer = _Latex(time)

    def write(side: Any) -> str:
        size = written_size(side)
        return printer.doprint(side) if size <= _LARGEST else f"\\text{{(an expression of {size:.3g} parts)}}"

    rows = [f"{write(eq.lhs)} &= {write(eq.rhs)}" for eq in equations]
    return "$\\displaystyle \\begin{aligned}" + " \\\\ ".join(rows) + "\\end{aligned}$"
