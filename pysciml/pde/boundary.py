"""Boundary conditions."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import sympy as sp

from pysciml.errors import ModelError
from pysciml.hints import named_options
from pysciml.symbolic.variables import scalar

SIDES: Final = ("lower", "upper")


class Boundary:
    """A condition along one coordinate, at one or both ends of it.

    Attributes
    ----------
    values : dict of "lower" and/or "upper" to SymPy expression
        May depend on time, on the other coordinates and on parameters.
    """

    kind: ClassVar[str] = ""

    @named_options(ModelError)
    def __init__(self, value: Any = None, *, lower: Any = None, upper: Any = None) -> None:
        if value is not None and (lower is not None or upper is not None):
            raise ModelError(f"{self.kind}: give one value for both ends, or lower= and upper=")
        given = {"lower": value, "upper": value} if value is not None else {"lower": lower, "upper": upper}
        self.values: dict[str, sp.Expr] = {}
        for side, what in given.items():
            if what is None:
                continue
            expr = scalar(what)
            if expr is None:
                raise ModelError(f"{self.kind}({side}=): {what!r} is not a scalar expression", symbol=str(what))
            self.values[side] = expr
        if not self.values:
            raise ModelError(f"{self.kind}: no value: write {self.kind}(0), or {self.kind}(lower=0, upper=1)")

    def coefficients(self, side: str) -> tuple[sp.Expr, sp.Expr]:
        """``(a, b)`` of the condition ``a*u + b*du/dn = value`` at that end; n points outward."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{self.kind}({', '.join(f'{side}={value}' for side, value in self.values.items())})"


class Dirichlet(Boundary):
    """The field's value: ``Dirichlet(0)`` at both ends, ``Dirichlet(lower=0, upper=sp.sin(ps.t))``."""

    kind: ClassVar[str] = "Dirichlet"

    def coefficients(self, side: str) -> tuple[sp.Expr, sp.Expr]:
        """See `Boundary.coefficients`."""
        return sp.Integer(1), sp.Integer(0)


class Neumann(Boundary):
    """The field's outward normal derivative: ``Neumann(0)`` lets nothing through.

    At the lower end outward is against the coordinate: a field that grows with slope 1 along X has
    ``Neumann(lower=-1, upper=1)``.
    """

    kind: ClassVar[str] = "Neumann"

    def coefficients(self, side: str) -> tuple[sp.Expr, sp.Expr]:
        """See `Boundary.coefficients`."""
        return sp.Integer(0), sp.Integer(1)


class Robin(Boundary):
    """``a*u + b*du/dn = value`` with the outward normal derivative.

    Parameters
    ----------
    a, b : number or expression
    value, lower, upper : number or expression
        As for `Dirichlet`.

    Examples
    --------
    >>> Robin(1, k, 0)                     # u + k du/dn = 0 at both ends
    >>> Robin(h, 1, upper=h*ambient)       # heat lost to the surroundings, at the upper end
    """

    kind: ClassVar[str] = "Robin"

    @named_options(ModelError)
    def __init__(self, a: Any, b: Any, value: Any = None, *, lower: Any = None, upper: Any = None) -> None:
        parts: list[sp.Expr] = []
        for name, given in (("a", a), ("b", b)):
            expr = scalar(given)
            if expr is None:
                raise ModelError(f"Robin: {name} is not a scalar expression: {given!r}", symbol=name)
            parts.append(expr)
        if parts == [0, 0]:
            raise ModelError("Robin: a and b are both zero, which is no condition", symbol="a")
        self.a, self.b = parts
        super().__init__(value, lower=lower, upper=upper)

    def coefficients(self, side: str) -> tuple[sp.Expr, sp.Expr]:
        """See `Boundary.coefficients`."""
        return self.a, self.b


class Periodic:
    """The ends of the coordinate are the same place."""

    kind: ClassVar[str] = "Periodic"

    def __repr__(self) -> str:
        return "Periodic()"


class Side:
    """One condition at one end: ``a*u + b*du/dn = value``."""

    __slots__ = ("a", "b", "value")

    def __init__(self, a: sp.Expr, b: sp.Expr, value: sp.Expr) -> None:
        self.a, self.b, self.value = a, b, value

    def derived(self, time: sp.Symbol) -> Side:
        """The condition on the time derivative that follows from this one."""
        change: Any = sp.diff(self.value, time)
        return Side(self.a, self.b, change)


#: Of one field along one coordinate: None where periodic.
Sides = tuple[Side, Side] | None


def read_boundary(given: Any, coordinate: sp.Symbol, field: Any) -> Sides:
    """The two conditions of one field along one coordinate.

    Raises
    ------
    ModelError
        Naming field, coordinate and end of a condition that is missing or doubled.
    """
    where = f"boundary of {field.func.__name__} in {coordinate}"
    parts = list(given) if isinstance(given, (list, tuple)) else [given]
    if any(isinstance(part, Periodic) for part in parts):
        if len(parts) > 1:
            raise ModelError(f"{where}: Periodic() stands alone", symbol=str(coordinate))
        return None
    found: dict[str, Side] = {}
    for part in parts:
        if isinstance(part, type) and issubclass(part, (Boundary, Periodic)):
            raise ModelError(f"{where}: write {part.__name__}(...), with parentheses", symbol=str(coordinate))
        if not isinstance(part, Boundary):
            raise ModelError(
                f"{where}: {part!r} is no boundary condition (Periodic, Dirichlet, Neumann, Robin)",
                symbol=str(coordinate),
            )
        for side, value in part.values.items():
            if side in found:
                raise ModelError(
                    f"{where}: two conditions at the {side} end (for different ones at the two ends write "
                    "[Dirichlet(lower=...), Neumann(upper=...)])",
                    symbol=str(coordinate),
                )
            a, b = part.coefficients(side)
            found[side] = Side(a, b, value)
    for side in SIDES:
        if side not in found:
            raise ModelError(f"{where}: no condition at the {side} end", symbol=str(coordinate))
    return found["lower"], found["upper"]
