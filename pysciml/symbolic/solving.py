"""Solving the equations for the highest derivatives, where they enter linearly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from pysciml.errors import ModelError
from pysciml.graph import GraphBuilder
from pysciml.graph.derivative import steps_with, tangents
from pysciml.symbolic import printing
from pysciml.symbolic.probing import vanishes
from pysciml.symbolic.reading import Reader, describe


@dataclass
class Constraint:
    """What states fulfil because its derivative stands among the equations.

    Attributes
    ----------
    node : int
    equation : int
        The position of the equation it comes from.
    level : int
        How often that was differentiated.
    phrase : str
        For messages.
    """

    node: int
    equation: int
    level: int
    phrase: str


@dataclass
class Solution:
    """The residuals after solving: explicit derivatives, and what is left as algebraic."""

    explicit: dict[int, int]  # highest-derivative placeholder -> its expression
    residuals: list[tuple[int, int]]  # (residual node, position of its equation)
    constraints: list[Constraint] = field(default_factory=list[Constraint])
    index: int = 0
    orders: dict[Any, int] = field(default_factory=dict[Any, int])  # unknown -> its order in the equations


def solve_for_derivatives(reader: Reader, equations: tuple[sp.Eq, ...], sides: list[tuple[int, int]]) -> Solution:
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
    orders = {function: unknown.order for function, unknown in reader.unknowns.items()}
    if not waiting:
        return Solution(explicit, [], orders=orders)
    residuals: list[tuple[int, int]] = []
    rows: list[_Row] = []
    seeds = {h: {h: b.one} for h in highest}
    zeros = dict.fromkeys(highest, b.zero)
    for node, i in waiting:
        node = b.substitute(node, explicit)
        coefficients = tangents(b, [node], seeds)[0]
        if steps_with(b, [node], highest) or not highest.isdisjoint(b.cone(coefficients.values())):  # nonlinear
            residuals.append((node, i))
        elif coefficients:
            rest = b.substitute(node, zeros)
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
    _check_residuals(reader, equations, residuals)
    return Solution(explicit | solved, residuals, index=int(bool(residuals)), orders=orders)


def _check_residuals(reader: Reader, equations: tuple[sp.Eq, ...], residuals: list[tuple[int, int]]) -> None:
    """What is left of an equation must still say something about an unknown."""
    leaves = {leaf for unknown in reader.unknowns.values() for leaf in unknown.leaves.values()}
    for node, i in residuals:
        cone = reader.builder.cone([node])
        if leaves.isdisjoint(cone) and reader.histories.keys().isdisjoint(cone):
            raise ModelError(
                f"{describe(equations[i], i, reader.time)}, determines nothing: it is always true, follows from the "
                "other equations, or contradicts them",
                equation=printing.plain(equations[i]),
            )


@dataclass
class _Row:
    """One linear equation: ``sum(coefficient * derivative) + rest = 0``."""

    coefficients: dict[int, int]
    rest: int
    equation: int


def _eliminate(b: GraphBuilder, rows: list[_Row], residuals: list[tuple[int, int]]) -> dict[int, int]:
    """Gauss-Jordan elimination on the graph; rows without a pivot join the residuals."""
    solved: dict[int, _Row] = {}
    holders: dict[int, list[_Row]] = {}  # derivative -> the solved rows that still hold it
    for row in rows:
        for pivot in [k for k in row.coefficients if k in solved]:
            _subtract(b, row, pivot, solved[pivot])
        row.coefficients = {k: c for k, c in row.coefficients.items() if not vanishes(b, c)}
        if not row.coefficients:
            residuals.append((row.rest, row.equation))
            continue
        pivot = min(row.coefficients, key=lambda k: (b.value_of(row.coefficients[k]) is None, k))
        scale = row.coefficients.pop(pivot)
        row.coefficients = {k: b.div(c, scale) for k, c in row.coefficients.items()}
        row.rest = b.div(row.rest, scale)
        holding = holders.pop(pivot, [])
        for other in holding:
            _subtract(b, other, pivot, row)
        for k in row.coefficients:
            holders.setdefault(k, []).extend((row, *holding))
        solved[pivot] = row
    return {
        pivot: b.neg(b.add(b.sum([b.mul(c, k) for k, c in row.coefficients.items()]), row.rest))
        for pivot, row in solved.items()
    }


def _subtract(b: GraphBuilder, row: _Row, pivot: int, other: _Row) -> None:
    """Replace the pivot in ``row`` by what ``other`` says it is."""
    factor = row.coefficients.pop(pivot, None)
    if factor is None:
        return
    for key, coefficient in other.coefficients.items():
        product = b.mul(factor, coefficient)
        before = row.coefficients.get(key, b.zero)
        difference = b.sub(before, product)
        value, size = b.value_of(difference), b.value_of(product)
        if value is not None and size is not None and abs(value) <= 1e-14 * abs(size):
            difference = b.zero  # what rounding leaves of two equal numbers is no pivot
        row.coefficients[key] = difference
    row.rest = b.sub(row.rest, b.mul(factor, other.rest))
