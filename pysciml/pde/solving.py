"""Equations of fields, solved for their time derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef

from pysciml.errors import ModelError, UnsupportedError
from pysciml.symbolic import printing
from pysciml.symbolic.reading import describe


def solve_for_time_derivatives(
    equations: Sequence[sp.Eq], fields: Sequence[Any], time: sp.Symbol
) -> dict[Any, tuple[int, sp.Expr]]:
    """For every field the order of its highest time derivative, and what that derivative is.

    In a steady system the order is 0 and the expression is what is zero.

    Raises
    ------
    ModelError
        If the equations are not linear in the time derivatives, or do not determine them.
    """
    orders = dict.fromkeys(fields, 0)
    for equation in equations:
        for atom in equation.atoms(sp.Derivative):
            inner: Any = atom.expr
            count = sum(int(c) for v, c in _counts(atom) if v == time)
            if count and not isinstance(inner, AppliedUndef):
                raise UnsupportedError(
                    f"{atom}: write time derivatives of the fields themselves, not of expressions (use .doit())"
                )
            if count:
                orders[inner] = max(orders[inner], count)
    if not any(orders.values()):
        return {f: (0, _difference(eq)) for f, eq in zip(fields, equations, strict=True)}
    marks: dict[Any, sp.Dummy] = {}
    for f in fields:
        if orders[f]:
            derivative: Any = sp.Derivative(f, (time, orders[f]))
            marks[derivative] = sp.Dummy(f"rate_{f.func.__name__}")
    simple = _simple(equations, fields, marks)
    if simple is not None:
        return {f: (orders[f], simple[f]) for f in fields}
    rows: list[list[Any]] = []
    right: list[Any] = []
    for i, equation in enumerate(equations):
        marked: Any = _difference(equation).xreplace(marks)
        where = describe(equation, i, time)
        row = [sp.diff(marked, mark) for mark in marks.values()]
        if any(set(marks.values()) & entry.free_symbols or entry.has(sp.Derivative, sp.Subs) for entry in row):
            raise ModelError(
                f"{where}: it is not linear in the time derivatives, or has them under a space derivative",
                equation=printing.plain(equation),
            )
        rows.append(row)
        right.append(-marked.xreplace(dict.fromkeys(marks.values(), sp.Integer(0))))
    if len(marks) < len(fields):
        still = [f.func.__name__ for f in fields if not orders[f]]
        raise UnsupportedError(f"{', '.join(still)} has no time derivative, and other fields have")
    matrix: Any = sp.Matrix(rows)
    if matrix.is_diagonal() and all(not matrix[i, i].is_zero for i in range(len(rows))):
        found = [r / matrix[i, i] for i, r in enumerate(right)]
    else:
        if sp.simplify(matrix.det()) == 0:
            raise ModelError("the equations do not determine the time derivatives of all fields")
        found = list(matrix.LUsolve(sp.Matrix(right)))
    return {f: (orders[f], expr) for f, expr in zip(fields, found, strict=True)}


def _simple(equations: Sequence[sp.Eq], fields: Sequence[Any], marks: dict[Any, sp.Dummy]) -> dict[Any, Any] | None:
    """Equations that read ``D(u) = ...`` already, as they stand."""
    found: dict[Any, Any] = {}
    for equation in equations:
        left, right = equation.args
        if left not in marks or any(right.has(mark) for mark in marks):
            return None
        found[left.args[0]] = right
    return found if len(found) == len(fields) else None


def _difference(equation: Any) -> sp.Expr:
    return equation.lhs - equation.rhs


def _counts(derivative: Any) -> list[tuple[Any, Any]]:
    return list(derivative.variable_count)
