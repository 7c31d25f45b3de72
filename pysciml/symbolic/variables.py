"""The words of a model: variables, parameters, Brownian motions, derivatives, equations.

All of them are plain SymPy objects; these functions only save typing.
"""

from __future__ import annotations

from typing import Any, Final, Self

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef, UndefinedFunction

from pysciml.errors import ModelError

#: The independent variable, ``sympy.Symbol("t")``.
t: Final = sp.Symbol("t")


class Parameter(sp.Symbol):
    """A parameter that carries ``units`` or a ``long_name``; else a plain symbol does."""

    __slots__ = ("attrs",)

    attrs: dict[str, str]

    def __new__(cls, name: str, attrs: dict[str, str] | None = None) -> Self:
        """Make a symbol; two of the same name but other attributes are different symbols."""
        symbol: Any = sp.Symbol.__xnew__(cls, name)
        symbol.attrs = dict(attrs or {})
        return symbol

    def _hashable_content(self) -> tuple[Any, ...]:
        return (*super()._hashable_content(), *sorted(self.attrs.items()))

    def __getnewargs_ex__(self) -> Any:
        return (self.name, self.attrs), {}


class BrownianMotion(sp.Symbol):
    """The increment dW of a Wiener process, as a factor on the right of an equation.

    Attributes
    ----------
    over : tuple of symbols
        The coordinates in which it is white, too: in each place an independent process. None for
        one process that acts everywhere.
    """

    __slots__ = ("over",)

    over: tuple[sp.Symbol, ...]

    def __new__(cls, name: str, over: tuple[sp.Symbol, ...] = ()) -> Self:
        """Make a symbol; over other coordinates it is another one."""
        symbol: Any = sp.Symbol.__xnew__(cls, name)
        symbol.over = tuple(over)
        return symbol

    def _hashable_content(self) -> tuple[Any, ...]:
        return (*super()._hashable_content(), *self.over)

    def __getnewargs_ex__(self) -> Any:
        return (self.name, self.over), {}


def _named(names: str, make: Any, what: str) -> Any:
    """Read names as ``sympy.symbols`` does, making each with ``make(name)``."""
    if not isinstance(names, str):
        raise ModelError(f"{what} takes names as text, such as {what}('x y'), not {names!r}")
    try:
        symbols = sp.symbols(names)
    except ValueError as error:
        raise ModelError(f"{what}({names!r}): {error}") from error

    def convert(symbol: Any) -> Any:
        if isinstance(symbol, sp.Symbol):
            return make(symbol.name)
        return tuple(convert(s) for s in symbol)

    return convert(symbols)


def attributes(symbol: sp.Basic) -> dict[str, str]:
    """The ``units`` and ``long_name`` a variable or parameter was given."""
    if isinstance(symbol, AppliedUndef):
        given = getattr(symbol.func, "_kwargs", {})
        return {k: v for k, v in given.items() if k in ("units", "long_name")}
    return dict(symbol.attrs) if isinstance(symbol, Parameter) else {}


def _attrs(units: str | None, long_name: str | None) -> dict[str, str]:
    given = {k: v for k, v in (("units", units), ("long_name", long_name)) if v is not None}
    for key, value in given.items():
        if not isinstance(value, str):
            raise ModelError(f"{key} must be text, not {value!r}", symbol=key)
    return given


def variables(names: str, *, units: str | None = None, long_name: str | None = None) -> Any:
    """Functions of time: ``x, y = variables("x y")`` are ``x(t), y(t)``.

    Parameters
    ----------
    names : str
        As for ``sympy.symbols``: ``"x"`` one object, ``"x,"`` a tuple, ``"q:8"`` a range.
    units, long_name : str, optional
        Become attributes of the results, so that plots label their axes. A variable made with
        them is another SymPy function than one of the same name made without.

    Returns
    -------
    applied SymPy function of ``pysciml.t``, or a tuple of them

    Raises
    ------
    ModelError
        If the names cannot be read.

    Examples
    --------
    >>> x, y = variables("x y")
    >>> x
    x(t)
    """
    extra = _attrs(units, long_name)

    def make(name: str) -> AppliedUndef:
        function: Any = UndefinedFunction(name, **extra) if extra else sp.Function(name)
        return function(t)

    return _named(names, make, "variables")


def parameters(names: str, *, units: str | None = None, long_name: str | None = None) -> Any:
    """Constants of the model: ``a, b = parameters("a b")`` are plain SymPy symbols.

    Parameters
    ----------
    names : str
        As for ``sympy.symbols``.
    units, long_name : str, optional
        Become attributes of estimates and of swept dimensions.

    Returns
    -------
    SymPy symbol, or a tuple of them

    Raises
    ------
    ModelError
        If the names cannot be read.
    """
    extra = _attrs(units, long_name)
    return _named(names, (lambda n: Parameter(n, extra)) if extra else sp.Symbol, "parameters")


def brownian(names: str, *over: sp.Symbol) -> Any:
    """Increments of independent Wiener processes (Itô), as factors in equations.

    ``Eq(D(x), a*x + b*x*w)`` with ``w = brownian("w")`` is dx = a x dt + b x dW. Over coordinates of a
    `PDESystem` it is white in space, too: ``Eq(D(u), D(u, X, 2) + s*w)`` with ``w = brownian("w", X)`` is
    the stochastic heat equation, driven by space-time white noise; without coordinates one process
    moves all places together.

    Parameters
    ----------
    names : str
        As for ``sympy.symbols``.
    *over : symbols
        Coordinates.

    Returns
    -------
    BrownianMotion, or a tuple of them

    Notes
    -----
    On a grid white noise becomes its mean over each cell: independent Wiener processes divided by
    the square root of the cell's length, area or volume (E. J. Allen, S. J. Novosel & Z. Zhang,
    Stochastics 64 (1998) 117-142; I. Gyöngy, Potential Anal. 9 (1998) 1-25; G. J. Lord, C. E. Powell
    & T. Shardlow, *An Introduction to Computational Stochastic PDEs*, Cambridge 2014, chapter 10).
    Over one coordinate solutions of the heat equation converge on finer grids. Over two or three
    they are no functions any more: the variance at a place grows with every refinement.
    """
    for symbol in over:
        if not isinstance(symbol, sp.Symbol) or symbol == t:
            raise ModelError(f"brownian: {symbol!r} is no coordinate", symbol=str(symbol))
    return _named(names, lambda name: BrownianMotion(name, over), "brownian")


def D(expression: Any, order: int | sp.Symbol = 1, count: int = 1) -> sp.Expr:
    """Differentiate by time: ``D(x)`` is ``sympy.Derivative(x, t)``, ``D(x, 2)`` the second.

    For partial derivatives ``D(u, X)`` is ``sympy.Derivative(u, X)`` and ``D(u, X, 2)`` the second;
    they are nested as written, ``D(k*D(u, X), X)``.

    Parameters
    ----------
    expression : SymPy expression
        Or a matrix of expressions: the matrix of their derivatives.
    order : int or symbol, default 1
        Of the time derivative; or a coordinate to differentiate by.
    count : int, default 1
        Of the derivative by a coordinate.

    Raises
    ------
    ModelError
        If the order is not a positive integer.
    """
    by, order = (order, count) if isinstance(order, sp.Symbol) else (t, order)
    if isinstance(order, bool) or not isinstance(order, (int, np.integer, sp.Integer)) or order < 1:
        raise ModelError(f"D({expression}, {order!r}): the order must be a positive integer")
    if isinstance(expression, sp.MatrixBase):
        matrix: Any = expression
        return matrix.applyfunc(lambda entry: D(entry, order) if by == t else D(entry, by, order))
    if not isinstance(expression, sp.Expr) or getattr(expression, "is_Matrix", False):
        # Text above all: SymPy would evaluate it.
        raise ModelError(f"D({expression!r}): not an expression that can be differentiated")
    return sp.Derivative(expression, (by, int(order)))


def Eq(lhs: Any, rhs: Any) -> sp.Eq:
    """Write an equation ``lhs = rhs``; unlike ``sympy.Eq`` it is never decided on the spot.

    Parameters
    ----------
    lhs, rhs : SymPy expressions or numbers
        Or two matrices of them, of one shape, which `System` and `PDESystem` read as an equation for each entry.

    Raises
    ------
    ModelError
        If a side is neither, or one is a matrix and the other is not.
    """
    if all(getattr(side, "is_Matrix", False) for side in (lhs, rhs)):
        return equation(lhs, rhs)
    return equation(_side("left", lhs), _side("right", rhs))


def equation(lhs: sp.Expr, rhs: sp.Expr) -> sp.Eq:
    """An unevaluated equation of two expressions."""
    result: Any = sp.Eq(lhs, rhs, evaluate=False)
    return result


def _side(name: str, value: Any) -> sp.Expr:
    result = scalar(value)
    if result is None:
        raise ModelError(f"Eq: the {name} side must be a scalar expression, not {type(value).__name__}: {value!r}")
    return result


def scalar(value: Any) -> sp.Expr | None:
    """A number or an expression as a scalar SymPy expression; None for anything else."""
    if isinstance(value, sp.Expr):
        return None if getattr(value, "is_Matrix", False) else value
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return sp.Integer(int(value))
    if isinstance(value, (float, np.floating)):
        return sp.Float(float(value))
    return None
