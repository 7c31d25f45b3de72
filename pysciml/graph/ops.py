"""The closed set of operations a graph is made of.

Codes are part of the model file format: an operation keeps its code for ever, new ones are
appended. Each operation has one row here, one in `derivative.RULES`, one in
`interpret.FUNCTIONS`, one in the SymPy table and one in the table of every engine that supports it.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Op(NamedTuple):
    """One operation: its code in ``Graph.op``, its name, and how many operands it takes."""

    code: int
    name: str
    arity: int


OPS: Final[dict[int, Op]] = {}
BY_NAME: Final[dict[str, Op]] = {}


def _op(code: int, name: str, arity: int) -> int:
    op = Op(code, name, arity)
    OPS[code] = op
    BY_NAME[name] = op
    return code


# Leaves. FREE is a placeholder that only lives inside a builder (a derivative or a Brownian
# motion while the equations are taken apart); it never reaches a finished graph.
CONST: Final = _op(0, "const", 0)
TIME: Final = _op(1, "time", 0)
STATE: Final = _op(2, "state", 0)
PARAM: Final = _op(3, "param", 0)
FREE: Final = _op(4, "free", 0)
#: State ``index`` at the time its operand gives (a delay).
HISTORY: Final = _op(5, "history", 1)

ADD: Final = _op(10, "add", 2)
SUB: Final = _op(11, "sub", 2)
MUL: Final = _op(12, "mul", 2)
DIV: Final = _op(13, "div", 2)
POW: Final = _op(14, "pow", 2)
NEG: Final = _op(15, "neg", 1)

SQRT: Final = _op(20, "sqrt", 1)
EXP: Final = _op(21, "exp", 1)
LOG: Final = _op(22, "log", 1)
SIN: Final = _op(23, "sin", 1)
COS: Final = _op(24, "cos", 1)
TAN: Final = _op(25, "tan", 1)
ASIN: Final = _op(26, "asin", 1)
ACOS: Final = _op(27, "acos", 1)
ATAN: Final = _op(28, "atan", 1)
SINH: Final = _op(29, "sinh", 1)
COSH: Final = _op(30, "cosh", 1)
TANH: Final = _op(31, "tanh", 1)
ASINH: Final = _op(32, "asinh", 1)
ACOSH: Final = _op(33, "acosh", 1)
ATANH: Final = _op(34, "atanh", 1)
ATAN2: Final = _op(35, "atan2", 2)

ABS: Final = _op(40, "abs", 1)
#: -1, 0 or 1.
SIGN: Final = _op(41, "sign", 1)
FLOOR: Final = _op(42, "floor", 1)
CEIL: Final = _op(43, "ceil", 1)
#: 0 below zero, 1 above, 1/2 at zero (SymPy's convention).
HEAVISIDE: Final = _op(44, "heaviside", 1)
MIN: Final = _op(45, "min", 2)
MAX: Final = _op(46, "max", 2)
#: ``a - b*floor(a/b)``: the sign of the divisor, as in SymPy and Python.
MOD: Final = _op(47, "mod", 2)

ERF: Final = _op(50, "erf", 1)
ERFC: Final = _op(51, "erfc", 1)
GAMMA: Final = _op(52, "gamma", 1)
LOGGAMMA: Final = _op(53, "loggamma", 1)
#: ``polygamma(n, x)``; ``n = 0`` is the digamma function.
POLYGAMMA: Final = _op(54, "polygamma", 2)
#: Bessel functions of (order, argument).
BESSELJ: Final = _op(55, "besselj", 2)
BESSELY: Final = _op(56, "bessely", 2)
BESSELI: Final = _op(57, "besseli", 2)
BESSELK: Final = _op(58, "besselk", 2)

# Conditions are numbers: 1.0 where they hold, 0.0 where they do not.
LT: Final = _op(60, "lt", 2)
LE: Final = _op(61, "le", 2)
GT: Final = _op(62, "gt", 2)
GE: Final = _op(63, "ge", 2)
EQ: Final = _op(64, "eq", 2)
NE: Final = _op(65, "ne", 2)
AND: Final = _op(66, "and", 2)
OR: Final = _op(67, "or", 2)
NOT: Final = _op(68, "not", 1)
#: ``select(condition, if_true, if_false)``: the branch not taken may be non-finite.
SELECT: Final = _op(69, "select", 3)

#: Two vectors (a number is a vector of one) one after the other: the inputs of a network.
JOIN: Final = _op(80, "join", 2)
#: An output of a network, or a derivative of one by inputs; ``index`` says which, in ``Graph.calls``.
NETWORK: Final = _op(81, "network", 1)

LEAVES: Final = frozenset({CONST, TIME, STATE, PARAM, FREE})
COMMUTATIVE: Final = frozenset({ADD, MUL, MIN, MAX, EQ, NE, AND, OR})
#: Networks, which every part of the package treats on its own.
VECTORS: Final = frozenset({JOIN, NETWORK})
CONDITIONS: Final = frozenset({LT, LE, GT, GE, EQ, NE, AND, OR, NOT})
