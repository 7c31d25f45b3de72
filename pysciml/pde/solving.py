"""Equations of fields, solved for their time derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    In a steady system the order is 0 and the expression is what is zero; so it is for fields that have
    no time derivative where others have, each with one of the equations that have none.

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
    still = [f for f in fields if not orders[f]]
    moving = [i for i, equation in enumerate(equations) if equation.atoms(sp.Derivative) & set(marks)]
    found = _constraints([eq for i, eq in enumerate(equations) if i not in moving], still)
    found |= _rates({i: equations[i] for i in moving}, marks, time)
    return {f: (orders[f], found[f]) for f in fields}


def _constraints(equations: Sequence[sp.Eq], fields: Sequence[Any]) -> dict[Any, Any]:
    """What is zero for each field without a time derivative: the equation with its highest derivatives."""
    names = ", ".join(f.func.__name__ for f in fields)
    if len(equations) != len(fields):
        raise ModelError(
            f"{len(fields)} of the fields {f'({names}) ' if names else ''}and {len(equations)} of the equations have "
            "no time derivative: there is one such equation for each such field"
        )
    if not fields:
        return {}
    from scipy.optimize import linear_sum_assignment

    def fits(equation: sp.Eq, f: Any) -> int:
        if not equation.has(f):
            return -1_000
        return max((d.derivative_count for d in equation.atoms(sp.Derivative) if d.has(f)), default=0)

    scores = [[fits(equation, f) for f in fields] for equation in equations]
    chosen = zip(*linear_sum_assignment(scores, maximize=True), strict=True)
    found: dict[Any, Any] = {}
    for i, k in ((int(i), int(k)) for i, k in chosen):
        if scores[i][k] < 0:
            raise UnsupportedError(
                f"{fields[k].func.__name__} has no time derivative, and no equation without time derivatives has it "
                "and is its own: an index higher than 1 is not solved; differentiate a constraint in time, or for a "
                "pressure write its Poisson equation"
            )
        found[fields[k]] = _difference(equations[i])
    return found


def _rates(equations: Mapping[int, sp.Eq], marks: dict[Any, sp.Dummy], time: sp.Symbol) -> dict[Any, Any]:
    """The highest time derivative of each field that has one, from the equations that have any."""
    simple = _simple(list(equations.values()), marks)
    if simple is not None:
        return simple
    rows: list[list[Any]] = []
    right: list[Any] = []
    for i, equation in equations.items():
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
    matrix: Any = sp.Matrix(rows)
    if matrix.is_diagonal() and all(not matrix[i, i].is_zero for i in range(len(rows))):
        found = [r / matrix[i, i] for i, r in enumerate(right)]
    else:
        if sp.simplify(matrix.det()) == 0:
            raise ModelError("the equations do not determine the time derivatives of all fields")
        found = list(matrix.LUsolve(sp.Matrix(right)))
    return {mark.expr: expr for mark, expr in zip(marks, found, strict=True)}


def _simple(equations: Sequence[sp.Eq], marks: dict[Any, sp.Dummy]) -> dict[Any, Any] | None:
    """Equations that read ``D(u) = ...`` already, as they stand."""
    found: dict[Any, Any] = {}
    for equation in equations:
        left, right = equation.args
        if left not in marks or any(right.has(mark) for mark in marks):
            return None
        found[left.args[0]] = right
    return found if len(found) == len(marks) else None


def _difference(equation: Any) -> sp.Expr:
    return equation.lhs - equation.rhs


def _counts(derivative: Any) -> list[tuple[Any, Any]]:
    return list(derivative.variable_count)
