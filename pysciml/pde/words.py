"""The words of a partial differential equation: coordinates, fields, and operators on them.

All of them are plain SymPy objects; `laplacian`, `grad`, `div` and `curl` write derivatives out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

import sympy as sp
from sympy.core.function import AppliedUndef, UndefinedFunction

from pysciml.errors import ModelError
from pysciml.symbolic.variables import Parameter, _attrs, _named, scalar, t

_GEOMETRIES: Final = ("cartesian", "polar", "cylindrical", "spherical")


def coordinates(names: str, *, units: str | None = None, long_name: str | None = None) -> Any:
    """Space coordinates: ``X, Y = coordinates("X Y")`` are plain SymPy symbols.

    Parameters
    ----------
    names : str
        As for ``sympy.symbols``.
    units, long_name : str, optional
        Become attributes of the results' coordinates.

    Returns
    -------
    SymPy symbol, or a tuple of them

    Raises
    ------
    ModelError
        If the names cannot be read.
    """
    extra = _attrs(units, long_name)
    return _named(names, (lambda n: Parameter(n, extra)) if extra else sp.Symbol, "coordinates")


def fields(names: str, *over: sp.Symbol, units: str | None = None, long_name: str | None = None) -> Any:
    """Unknown functions of time and space: ``u, v = fields("u v", X, Y)`` are ``u(t, X, Y), v(t, X, Y)``.

    Parameters
    ----------
    names : str
        As for ``sympy.symbols``.
    *over : symbols
        The coordinates, in the order the results' dimensions have.
    units, long_name : str, optional
        Become attributes of the results.

    Returns
    -------
    applied SymPy function, or a tuple of them

    Raises
    ------
    ModelError
        If the names cannot be read, or a coordinate is none or given twice.

    Examples
    --------
    >>> X, = coordinates("X,")
    >>> fields("u", X)
    u(t, X)
    """
    extra = _attrs(units, long_name)
    if not over:
        raise ModelError('fields takes the coordinates after the names: fields("u", X)')
    for symbol in over:
        if not isinstance(symbol, sp.Symbol) or symbol == t:
            raise ModelError(f"fields: {symbol!r} is no coordinate", symbol=str(symbol))
    if len(set(over)) < len(over):
        raise ModelError(f"fields: a coordinate is given twice: {', '.join(map(str, over))}", symbol=str(over[0]))

    def make(name: str) -> AppliedUndef:
        function: Any = UndefinedFunction(name, **extra) if extra else sp.Function(name)
        return function(t, *over)

    return _named(names, make, "fields")


def space_of(*expressions: Any) -> tuple[sp.Symbol, ...]:
    """The coordinates of the fields in some expressions.

    Raises
    ------
    ModelError
        If there is no field, or fields over different coordinates.
    """
    found: dict[tuple[Any, ...], None] = {}
    for expression in expressions:
        for atom in sp.preorder_traversal(expression):
            if isinstance(atom, AppliedUndef) and len(atom.args) > 1:
                found[tuple(atom.args[1:])] = None
    if not found:
        shown = ", ".join(str(e) for e in expressions)
        raise ModelError(f"{shown} has no field, so that its coordinates are not known: pass coordinates=")
    if len(found) > 1:
        raise ModelError(f"fields over different coordinates: {' and '.join(map(str, found))}: pass coordinates=")
    return next(iter(found))


def _scalar(value: Any, what: str) -> sp.Expr:
    result = scalar(value)
    if result is None:
        raise ModelError(f"{what} takes a scalar expression, not {value!r}")
    return result


def _vector(value: Any, what: str) -> list[sp.Expr]:
    is_vector = isinstance(value, (list, tuple, sp.MatrixBase))
    parts: list[Any] = list(cast("Iterable[Any]", value)) if is_vector else []
    if not is_vector:
        raise ModelError(f"{what} takes a vector, such as grad(u) or [u, v], not {value!r}")
    return [_scalar(part, what) for part in parts]


def _by(expression: Any, *by: Any) -> sp.Expr:
    result: Any = sp.Derivative(expression, *by)
    return result


def grad(expression: Any, coordinates: tuple[sp.Symbol, ...] | None = None) -> sp.Matrix:
    """The gradient, as a SymPy column: one first derivative for each coordinate of the fields."""
    expr = _scalar(expression, "grad")
    over = coordinates if coordinates is not None else space_of(expr)
    return sp.Matrix([_by(expr, x) for x in over])


def div(vector: Any, coordinates: tuple[sp.Symbol, ...] | None = None) -> sp.Expr:
    """The divergence of a vector; ``div(k*grad(u))`` stays in this form, which conserves.

    Raises
    ------
    ModelError
        If the vector has not one component for each coordinate.
    """
    parts = _vector(vector, "div")
    over = coordinates if coordinates is not None else space_of(*parts)
    if len(parts) != len(over):
        raise ModelError(f"div: a vector of {len(parts)} components over {len(over)} coordinates")
    return sp.Add(*(_by(part, x) for part, x in zip(parts, over, strict=True)))


def curl(vector: Any, coordinates: tuple[sp.Symbol, ...] | None = None) -> Any:
    """The curl of a vector over three coordinates; over two, the scalar ``D(F[1], X) - D(F[0], Y)``."""
    f = _vector(vector, "curl")
    over = coordinates if coordinates is not None else space_of(*f)
    if len(f) != len(over) or len(f) not in (2, 3):
        raise ModelError(f"curl: a vector of {len(f)} components over {len(over)} coordinates")
    if len(f) == 2:
        return _by(f[1], over[0]) - _by(f[0], over[1])
    x, y, z = over
    return sp.Matrix([_by(f[2], y) - _by(f[1], z), _by(f[0], z) - _by(f[2], x), _by(f[1], x) - _by(f[0], y)])


def laplacian(
    expression: Any, coordinates: tuple[sp.Symbol, ...] | None = None, *, geometry: str = "cartesian"
) -> sp.Expr:
    """The Laplacian: the sum of the second derivatives by the coordinates of the fields.

    Parameters
    ----------
    expression : SymPy expression
    coordinates : tuple of symbols, optional
        By default those of the fields in the expression.
    geometry : {"cartesian", "polar", "cylindrical", "spherical"}
        What the coordinates are: ``(r, theta)`` or ``(r,)`` polar, ``(r, z)`` or ``(r,)``
        cylindrical with symmetry around the axis, ``(r,)`` spherical with full symmetry. At
        ``r = 0`` the boundary condition is ``Neumann(lower=0)``.

    Examples
    --------
    >>> X, Y = coordinates("X Y")
    >>> laplacian(fields("u", X, Y))
    Derivative(u(t, X, Y), (X, 2)) + Derivative(u(t, X, Y), (Y, 2))
    """
    expr = _scalar(expression, "laplacian")
    over = coordinates if coordinates is not None else space_of(expr)
    if geometry not in _GEOMETRIES:
        raise ModelError(f"geometry is one of {', '.join(_GEOMETRIES)}, not {geometry!r}", symbol="geometry")
    if geometry == "cartesian":
        return sp.Add(*(_by(expr, (x, 2)) for x in over))
    r, *rest = over
    if len(rest) > (0 if geometry == "spherical" else 1):
        raise ModelError(f"the {geometry} Laplacian is not written over {len(over)} coordinates", symbol="geometry")
    weight = r**2 if geometry == "spherical" else r
    radial = _by(weight * _by(expr, r), r) / weight
    around = [_by(expr, (x, 2)) / (r**2 if geometry == "polar" else 1) for x in rest]
    return sp.Add(radial, *around)


def integral(expression: Any, *over: sp.Symbol) -> sp.Expr:
    """The integral over the domain, for observed quantities and in equations.

    Parameters
    ----------
    expression : SymPy expression
    *over : symbols, optional
        The coordinates to integrate over; by default all.

    Examples
    --------
    >>> PDESystem(..., observed={"mass": integral(u)})
    """
    expr = _scalar(expression, "integral")
    result: Any = sp.Integral(expr, *(over or space_of(expr)))
    return result
