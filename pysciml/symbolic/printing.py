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

    def _print_Function(self, expr: Any, exp: Any = None) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        if isinstance(expr, AppliedUndef) and expr.args == (self._time,):
            name = self._print(sp.Symbol(expr.func.__name__))
            return name if exp is None else f"{name}^{{{exp}}}"
        return super()._print_Function(expr, exp)


def text(expression: sp.Basic, time: sp.Symbol) -> str:
    """One line for an expression or an equation (``lhs = rhs``)."""
    printer = _Text(time)
    if isinstance(expression, sp.Eq):
        return f"{printer.doprint(expression.lhs)} = {printer.doprint(expression.rhs)}"
    return printer.doprint(expression)


def latex(equations: tuple[sp.Eq, ...], time: sp.Symbol) -> str:
    """All equations, aligned at the equals sign, for a notebook."""
    printer = _Latex(time)
    rows = [f"{printer.doprint(eq.lhs)} &= {printer.doprint(eq.rhs)}" for eq in equations]
    return "$\\displaystyle \\begin{aligned}" + " \\\\ ".join(rows) + "\\end{aligned}$"
