"""SymPy to graph, in one pass over the shared expression and without expanding it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.logic.boolalg import BooleanFalse, BooleanTrue
from sympy.matrices.expressions.matexpr import MatrixElement

from pysciml.errors import ModelError
from pysciml.graph import GraphBuilder, ops
from pysciml.graph.derivative import tangents
from pysciml.graph.networks import Network
from pysciml.symbolic import printing
from pysciml.symbolic.marks import implicit
from pysciml.symbolic.networks import NetworkTerm

#: Derivatives of a higher order than this are a slip: every order is one more state.
LARGEST_ORDER: Final = 99

Handler = Callable[[GraphBuilder, Any, Sequence[int]], int]


def _nary(code: int) -> Handler:
    def handler(b: GraphBuilder, expr: Any, args: Sequence[int]) -> int:
        node = args[0]
        for other in args[1:]:
            node = b.call(code, node, other)
        return node

    return handler


def _call(code: int) -> Handler:
    return lambda b, expr, args: b.call(code, *args)


def _reciprocal_of(code: int) -> Handler:
    return lambda b, expr, args: b.div(b.one, b.call(code, args[0]))


def _of_reciprocal(code: int) -> Handler:
    return lambda b, expr, args: b.call(code, b.div(b.one, args[0]))


def _sum(b: GraphBuilder, expr: Any, args: Sequence[int]) -> int:
    plus = [a for a in args if b.op_of(a) != ops.NEG]
    minus = [b.args_of(a)[0] for a in args if b.op_of(a) == ops.NEG]
    return b.sub(b.sum(plus), b.sum(minus))


def _heaviside(b: GraphBuilder, expr: Any, args: Sequence[int]) -> int:
    step = b.call(ops.HEAVISIDE, args[0])
    if len(args) == 1 or b.value_of(args[1]) == 0.5:
        return step
    return b.call(ops.SELECT, b.call(ops.EQ, args[0], b.zero), args[1], step)


def _sinc(b: GraphBuilder, expr: Any, args: Sequence[int]) -> int:
    x = args[0]
    at_zero = b.call(ops.EQ, x, b.zero)
    safe = b.call(ops.SELECT, at_zero, b.one, x)
    return b.call(ops.SELECT, at_zero, b.one, b.div(b.call(ops.SIN, safe), safe))


def _piecewise(b: GraphBuilder, expr: Any, args: Sequence[int]) -> int:
    if expr.args[-1].cond is not sp.true:
        raise ModelError(f"{expr} has no value where none of its conditions holds: end it with (value, True)")
    node = args[-2]
    for value, condition in zip(args[-4::-2], args[-3::-2], strict=True):
        node = b.call(ops.SELECT, condition, value, node)
    return node


def _beta(b: GraphBuilder, expr: Any, args: Sequence[int]) -> int:
    x, y = args[0], args[-1]
    gammas = [b.call(ops.GAMMA, z) for z in (x, y, b.add(x, y))]
    return b.div(b.mul(gammas[0], gammas[1]), gammas[2])


def _digamma(b: GraphBuilder, expr: Any, args: Sequence[int]) -> int:
    return b.call(ops.POLYGAMMA, b.zero, args[0])


#: SymPy head -> how it becomes a node. Everything is real: real parts and conjugates are the
#: quantity itself, imaginary parts are zero.
HANDLERS: Final[dict[Any, Handler]] = {
    sp.Add: _sum,
    sp.Pow: lambda b, e, a: b.power(*a),
    sp.exp: _call(ops.EXP),
    sp.log: lambda b, e, a: b.call(ops.LOG, a[0]),
    sp.sin: _call(ops.SIN),
    sp.cos: _call(ops.COS),
    sp.tan: _call(ops.TAN),
    sp.cot: _reciprocal_of(ops.TAN),
    sp.sec: _reciprocal_of(ops.COS),
    sp.csc: _reciprocal_of(ops.SIN),
    sp.sinc: _sinc,
    sp.asin: _call(ops.ASIN),
    sp.acos: _call(ops.ACOS),
    sp.atan: _call(ops.ATAN),
    sp.acot: _of_reciprocal(ops.ATAN),
    sp.asec: _of_reciprocal(ops.ACOS),
    sp.acsc: _of_reciprocal(ops.ASIN),
    sp.atan2: _call(ops.ATAN2),
    sp.sinh: _call(ops.SINH),
    sp.cosh: _call(ops.COSH),
    sp.tanh: _call(ops.TANH),
    sp.coth: _reciprocal_of(ops.TANH),
    sp.sech: _reciprocal_of(ops.COSH),
    sp.csch: _reciprocal_of(ops.SINH),
    sp.asinh: _call(ops.ASINH),
    sp.acosh: _call(ops.ACOSH),
    sp.atanh: _call(ops.ATANH),
    sp.acoth: _of_reciprocal(ops.ATANH),
    sp.asech: _of_reciprocal(ops.ACOSH),
    sp.acsch: _of_reciprocal(ops.ASINH),
    sp.Abs: _call(ops.ABS),
    sp.sign: _call(ops.SIGN),
    sp.floor: _call(ops.FLOOR),
    sp.ceiling: _call(ops.CEIL),
    sp.frac: lambda b, e, a: b.sub(a[0], b.call(ops.FLOOR, a[0])),
    sp.Heaviside: _heaviside,
    sp.Min: _nary(ops.MIN),
    sp.Max: _nary(ops.MAX),
    sp.Mod: _call(ops.MOD),
    sp.erf: _call(ops.ERF),
    sp.erfc: _call(ops.ERFC),
    sp.gamma: _call(ops.GAMMA),
    sp.factorial: lambda b, e, a: b.call(ops.GAMMA, b.add(a[0], b.one)),
    sp.beta: _beta,
    sp.loggamma: _call(ops.LOGGAMMA),
    sp.digamma: _digamma,
    sp.polygamma: _call(ops.POLYGAMMA),
    sp.besselj: _call(ops.BESSELJ),
    sp.bessely: _call(ops.BESSELY),
    sp.besseli: _call(ops.BESSELI),
    sp.besselk: _call(ops.BESSELK),
    sp.UnevaluatedExpr: lambda b, e, a: a[0],
    implicit: lambda b, e, a: a[0],
    sp.re: lambda b, e, a: a[0],
    sp.conjugate: lambda b, e, a: a[0],
    sp.im: lambda b, e, a: b.zero,
    sp.Piecewise: _piecewise,
    sp.StrictLessThan: _call(ops.LT),
    sp.LessThan: _call(ops.LE),
    sp.StrictGreaterThan: _call(ops.GT),
    sp.GreaterThan: _call(ops.GE),
    sp.Eq: _call(ops.EQ),
    sp.Ne: _call(ops.NE),
    sp.And: _nary(ops.AND),
    sp.Or: _nary(ops.OR),
    sp.Not: _call(ops.NOT),
    sp.Xor: _nary(ops.NE),
    sp.ITE: _call(ops.SELECT),
}


def against_infinity(expr: Any) -> bool | None:
    """What a comparison with an infinity comes to, since everything else is finite; None for anything else.

    SymPy writes them as conditions of integrals that it has computed.
    """
    if not isinstance(expr, Relational) or not any(side in (sp.oo, -sp.oo) for side in expr.args):
        return None
    left, right = (sp.Integer(0) if side.is_finite is not False else side for side in expr.args)
    return bool(expr.func(left, right))


class Converter:
    """Turns SymPy expressions into nodes of one builder; equal subexpressions are met once.

    Parameters
    ----------
    builder : GraphBuilder
    time : sympy.Symbol
        The independent variable.
    leaf : callable
        ``leaf(symbol, order)``: the node of a symbol, or of the ``order``-th time derivative of an
        applied function; raises `ModelError` for one that is not known.
    delayed : callable
        ``delayed(function, time_node, expression)``: the node of a function at another time.
    known : callable, optional
        ``known(network)`` raises `ModelError` for a network that may not stand here.
    marked : callable, optional
        ``marked(node)``: what becomes of a term that is marked as `implicit`; by default nothing.
    """

    def __init__(
        self,
        builder: GraphBuilder,
        time: sp.Symbol,
        leaf: Callable[[sp.Basic, int], int],
        delayed: Callable[[AppliedUndef, int], int],
        known: Callable[[Network], None] = lambda network: None,
        marked: Callable[[int], int] = lambda node: node,
    ) -> None:
        self._b = builder
        self._time = time
        self._leaf = leaf
        self._delayed = delayed
        self._known = known
        self._marked = marked
        self._memo: dict[sp.Basic, int] = {}
        #: leaf node of the k-th derivative of a function -> (function, k); see `total_derivative`.
        self.derivative_leaves: dict[int, tuple[sp.Basic, int]] = {}

    def __call__(self, expression: sp.Basic) -> int:
        """Convert one expression; raises `ModelError` naming what cannot be converted."""
        memo = self._memo
        stack: list[sp.Basic] = [expression]
        while stack:
            expr = stack[-1]
            if expr in memo:
                stack.pop()
                continue
            children = self._children(expr)
            waiting = [child for child in children if child not in memo]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            node = memo[expr] = self._convert(expr, [memo[child] for child in children])
            self._check_finite(expr, node)
            stack.pop()
        return memo[expression]

    def _check_finite(self, expr: Any, node: int) -> None:
        """An operation on constants that was not folded has no finite real value."""
        b = self._b
        operands = b.args_of(node)
        free = b.op_of(node) in (ops.HISTORY, ops.NETWORK)
        if operands and not free and all(b.value_of(a) is not None for a in operands):
            raise ModelError(f"{_cut(expr)} is not a finite real number", symbol=_cut(expr))

    def _children(self, expr: Any) -> Sequence[sp.Basic]:
        """What has to be converted first."""
        if not expr.args or against_infinity(expr) is not None:
            return ()
        if isinstance(expr, NetworkTerm):
            return expr.inputs
        if isinstance(expr, AppliedUndef):
            return () if expr.args == (self._time,) else expr.args
        if isinstance(expr, sp.Derivative):
            return () if isinstance(expr.expr, AppliedUndef) else (expr.expr,)
        if isinstance(expr, (sp.Sum, sp.Product, sp.Integral)):
            done = expr.doit()
            if isinstance(done, type(expr)):
                raise ModelError(f"{expr} cannot be written as a finite expression")
            return (cast("sp.Basic", done),)
        if isinstance(expr, sp.Piecewise):
            return [part for pair in expr.args for part in pair.args]
        if expr.func not in HANDLERS and not isinstance(expr, sp.Mul):
            raise ModelError(_unknown(expr), symbol=_head(expr))
        return expr.args

    def _convert(self, expr: Any, args: list[int]) -> int:
        b = self._b
        if isinstance(expr, sp.Symbol):
            return b.time() if expr == self._time else self._leaf(expr, 0)
        if expr.is_Number or isinstance(expr, sp.NumberSymbol) or expr is sp.zoo:
            return self._number(expr)
        if isinstance(expr, sp.Mul):
            return self._product(expr, args)
        if isinstance(expr, AppliedUndef):
            if len(expr.args) != 1:
                raise ModelError(_several_variables(expr), symbol=expr.func.__name__)
            return self._leaf(expr, 0) if not args else self._delayed(expr, args[0])
        if isinstance(expr, sp.Derivative):
            return self._derivative(expr, args)
        if isinstance(expr, NetworkTerm):
            self._known(expr.head.network)
            return b.network(expr.head.network, expr.head.output, args, expr.head.wrt)
        if isinstance(expr, (sp.Sum, sp.Product, sp.Integral)):
            return args[0]
        if isinstance(expr, implicit):
            return self._marked(args[0])
        decided = against_infinity(expr)
        if decided is not None:
            return b.one if decided else b.zero
        if isinstance(expr, BooleanTrue):
            return b.one
        if isinstance(expr, BooleanFalse):
            return b.zero
        handler = HANDLERS.get(expr.func)
        if handler is None:
            raise ModelError(_unknown(expr), symbol=_head(expr))
        return handler(b, expr, args)

    def _number(self, expr: Any) -> int:
        value = float(expr) if expr.is_finite else math.nan
        if not math.isfinite(value):
            raise ModelError(f"{_cut(expr)} is not a finite number", symbol=_cut(expr))
        return self._b.constant(value)

    def _product(self, expr: Any, args: list[int]) -> int:
        """Write one quotient, with the sign in front, so that sums can subtract it."""
        b = self._b
        coefficient = 1.0
        above: list[int] = []
        below: list[int] = []
        for factor, node in zip(expr.args, args, strict=True):
            value = b.value_of(node)
            if value is not None:
                coefficient *= value
            elif isinstance(factor, sp.Pow) and factor.exp.is_Number and factor.exp.is_negative:
                below.append(b.power(self._memo[factor.base], b.constant(-float(factor.exp))))
            else:
                above.append(node)
        if not math.isfinite(coefficient):
            raise ModelError(f"{expr} has a coefficient that is not finite")
        node = b.product(above)
        if below:
            # 3*x/4 is (3*x)/4 for exact constants but one multiplication for a folded one.
            node = b.div(b.mul(b.constant(abs(coefficient)), node), b.product(below))
        else:
            node = b.mul(b.constant(abs(coefficient)), node)
        return b.neg(node) if coefficient < 0 else node

    def _derivative(self, expr: Any, args: list[int]) -> int:
        inner = expr.expr
        if isinstance(inner, AppliedUndef) and len(inner.args) != 1:
            raise ModelError(_several_variables(inner), symbol=inner.func.__name__)
        for variable, _ in expr.variable_count:
            if variable != self._time:
                raise ModelError(
                    f"{expr} differentiates by {variable}, and the other equations by {self._time}: "
                    "a System has one independent variable (for partial derivatives use PDESystem)",
                    symbol=str(variable),
                )
        order: Any = sum((count for _, count in expr.variable_count), sp.Integer(0))
        if not order.is_Integer:
            raise ModelError(f"{expr}: the order of a derivative must be a number", symbol=str(order))
        if order > LARGEST_ORDER:
            raise ModelError(f"{expr}: derivatives go up to order {LARGEST_ORDER}", symbol=str(inner))
        if isinstance(inner, sp.Symbol) and inner != self._time:
            raise ModelError(
                f"{expr} is the derivative of a parameter, which is constant: to make {inner} an unknown, write "
                f"{inner} = pysciml.variables('{inner}')",
                symbol=inner.name,
            )
        if isinstance(inner, AppliedUndef):
            if inner.args != (self._time,):
                raise ModelError(
                    f"{expr} is the derivative of a delayed quantity: neutral delay equations are not supported",
                    symbol=inner.func.__name__,
                )
            return self._leaf(inner, int(order))
        node = args[0]
        for _ in range(int(order)):
            node = self._total_derivative(node)
        return node

    def _total_derivative(self, node: int) -> int:
        """d/dt by the chain rule, through every function and its derivatives."""
        b = self._b
        seeds: dict[int, dict[int, int]] = {b.time(): {0: b.one}}
        for part in b.cone([node]):
            if b.op_of(part) == ops.HISTORY:
                raise ModelError("the derivative of a delayed quantity: neutral delay equations are not supported")
            if part in self.derivative_leaves:
                function, order = self.derivative_leaves[part]
                seeds[part] = {0: self._leaf(function, order + 1)}
        return tangents(b, [node], seeds)[0].get(0, b.zero)


def _cut(expr: Any) -> str:
    """An expression as text, short enough for a message."""
    line = printing.plain(expr)
    return line if len(line) <= 60 else line[:57] + "..."


def _head(expr: Any) -> str:
    return str(expr) if expr is sp.I else getattr(expr.func, "__name__", str(expr.func))


def _several_variables(expr: Any) -> str:
    return (
        f"{expr} depends on {len(expr.args)} variables: the unknowns of a System depend on time "
        "alone (partial differential equations are a PDESystem)"
    )


def _unknown(expr: Any) -> str:
    if expr is sp.I:
        return "the imaginary unit appears: models are real; split the equation into real and imaginary parts"
    if isinstance(expr, (MatrixElement, sp.Indexed)):
        return f"{expr} is an entry of an array: equations are scalar; use one symbol per entry"
    if isinstance(expr, (sp.MatrixBase, sp.MatrixExpr)):
        return f"{expr} is a matrix: equations are scalar; write one per entry"
    if isinstance(expr, sp.Subs):
        return f"{expr} is not evaluated: substitute before building the System (delayed derivatives are not supported)"
    if isinstance(expr, (Relational, ExprCondPair)):
        return f"{expr} is a condition, where a value is expected"
    return f"{_head(expr)} is not a known function: {_cut(expr)}"
