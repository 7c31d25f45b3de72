"""The pieces of DiffSL expressions: numbers, operators and functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from pysciml.graph import ops

PRECEDENCE_OF_ATOMS: Final = 3
_SUM, _TERM = 1, 2


class Piece(NamedTuple):
    """An expression: its text, how tightly it binds, and how deep it nests."""

    text: str
    precedence: int
    depth: int

    def within(self, precedence: int) -> str:
        """Give the text, in parentheses where an operator that binds so tightly needs them."""
        return self.text if self.precedence >= precedence else f"({self.text})"


def number(value: float) -> Piece:
    """Write a number that reads back as exactly this one.

    Raises
    ------
    ValueError
        If it is not finite: DiffSL has no word for that.
    """
    if not math.isfinite(value):
        raise ValueError(f"DiffSL has no number {value}")
    text = repr(abs(value))
    if value < 0 or (value == 0 and math.copysign(1.0, value) < 0):
        return Piece(f"(-{text})", PRECEDENCE_OF_ATOMS, 0)
    return Piece(text, PRECEDENCE_OF_ATOMS, 0)


#: Operations that are functions in DiffSL, with their names.
_NAMES: Final[dict[int, str]] = {
    ops.POW: "pow",
    ops.SQRT: "sqrt",
    ops.EXP: "exp",
    ops.LOG: "log",
    ops.SIN: "sin",
    ops.COS: "cos",
    ops.SINH: "sinh",
    ops.COSH: "cosh",
    ops.ABS: "abs",
    ops.MIN: "min",
    ops.MAX: "max",
}

#: Operations written as a call.
FUNCTIONS: Final = frozenset(_NAMES) | {ops.GE}


def join(code: int, args: Sequence[Piece]) -> Piece:
    """Apply an operation to written operands."""
    depth = 1 + max(a.depth for a in args)
    name = _NAMES.get(code)
    if name is not None:
        return Piece(f"{name}({', '.join(a.text for a in args)})", PRECEDENCE_OF_ATOMS, depth)
    if code == ops.NEG:
        return Piece(f"(-{args[0].within(PRECEDENCE_OF_ATOMS)})", PRECEDENCE_OF_ATOMS, depth)
    left, right = args
    if code == ops.GE:  # heaviside(0) is 1 in DiffSL
        difference = f"{left.within(_SUM)} - {right.within(_TERM)}"
        return Piece(f"heaviside({difference})", PRECEDENCE_OF_ATOMS, depth)
    if code == ops.ADD:
        return Piece(f"{left.within(_SUM)} + {right.within(_TERM)}", _SUM, depth)
    if code == ops.SUB:
        return Piece(f"{left.within(_SUM)} - {right.within(_TERM)}", _SUM, depth)
    if code == ops.MUL:
        return Piece(f"{left.within(_TERM)} * {right.within(PRECEDENCE_OF_ATOMS)}", _TERM, depth)
    if code == ops.DIV:
        return Piece(f"{left.within(_TERM)} / {right.within(PRECEDENCE_OF_ATOMS)}", _TERM, depth)
    raise KeyError(f"operation {code} is not lowered")
