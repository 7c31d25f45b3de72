"""Boundary conditions."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import sympy as sp

from pysciml.errors import ModelError, UnsupportedError
from pysciml.hints import named_options
from pysciml.symbolic.variables import scalar

SIDES: Final = ("lower", "upper")


class Boundary:
    """A condition along one coordinate, at one or both ends of it.

    Attributes
    ----------
    values : dict of "lower" and/or "upper" to SymPy expression
        May depend on time, on the other coordinates and on parameters; where there is one condition at an
        end also on fields there, and on their derivatives of first order.
    order : int
        Of the normal derivative in it.
    """

    kind: ClassVar[str] = ""
    order: int = 1

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
        """``(a, b)`` of ``a*u + b*(d/dn)**order u = value`` at that end; n points outward."""
        raise NotImplementedError

    def __repr__(self) -> str:
        parts = [f"{side}={value}" for side, value in self.values.items()]
        return f"{self.kind}({', '.join(parts + [f'order={self.order}'] * (self.order != 1))})"


class Dirichlet(Boundary):
    """The field's value: ``Dirichlet(0)`` at both ends, ``Dirichlet(lower=0, upper=sp.sin(ps.t))``."""

    kind: ClassVar[str] = "Dirichlet"

    def coefficients(self, side: str) -> tuple[sp.Expr, sp.Expr]:
        """See `Boundary.coefficients`."""
        return sp.Integer(1), sp.Integer(0)


class Neumann(Boundary):
    """The field's outward normal derivative: ``Neumann(0)`` lets nothing through.

    ``Neumann(upper=-sigma*u**4)`` radiates. At the lower end outward is against the coordinate: a field
    that grows with slope 1 along X has ``Neumann(lower=-1, upper=1)``.

    Parameters
    ----------
    value, lower, upper : number or expression
        As for `Dirichlet`.
    order : int
        Of the derivative, where equations of higher order ask for more than one condition at an end:
        a beam that rests on its end has ``[Dirichlet(0), Neumann(0, order=2)]``.
    """

    kind: ClassVar[str] = "Neumann"

    @named_options(ModelError)
    def __init__(self, value: Any = None, *, lower: Any = None, upper: Any = None, order: int = 1) -> None:
        self.order = _read_order(self.kind, order)
        super().__init__(value, lower=lower, upper=upper)

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
    order : int
        Of the derivative, as for `Neumann`.

    Examples
    --------
    >>> Robin(1, k, 0)                     # u + k du/dn = 0 at both ends
    >>> Robin(h, 1, upper=h*ambient)       # heat lost to the surroundings, at the upper end
    >>> Robin(k, -1, upper=0, order=3)     # a beam on a spring of stiffness k
    >>> Robin(z*D(phi, X), 1, upper=0)     # charges that a field pulls along X, and a wall holds: no flux
    """

    kind: ClassVar[str] = "Robin"

    @named_options(ModelError)
    def __init__(
        self, a: Any, b: Any, value: Any = None, *, lower: Any = None, upper: Any = None, order: int = 1
    ) -> None:
        self.order = _read_order(self.kind, order)
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


def _read_order(kind: str, order: Any) -> int:
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ModelError(f"{kind}: order is that of a derivative, 1 or more, not {order!r}", symbol="order")
    return order


class Side:
    """One condition at one end: ``a*u + b*(d/dn)**order u = value``.

    Attributes
    ----------
    leading : int
        Which normal derivative at the end follows from it: 0 is the value itself.
    """

    __slots__ = ("a", "b", "leading", "order", "value")

    def __init__(self, a: sp.Expr, b: sp.Expr, value: sp.Expr, order: int = 1, leading: int = 0) -> None:
        self.a, self.b, self.value, self.order, self.leading = a, b, value, order, leading

    @property
    def mixed(self) -> bool:
        """Whether both the value and a derivative are in it."""
        return self.a != 0 and self.b != 0

    def derived(self, variable: sp.Symbol, count: int = 1) -> Side:
        """The condition on a derivative, by time or along the end, that follows from this one."""
        change: Any = sp.diff(self.value, variable, count)
        return Side(self.a, self.b, change, self.order, self.leading)


#: The conditions at one end.
End = tuple[Side, ...]
#: Of one field along one coordinate, at the lower and the upper end: None where periodic.
Sides = tuple[End, End] | None


def read_boundary(given: Any, coordinate: sp.Symbol, field: Any, order: int = 2) -> Sides:
    """The conditions of one field along one coordinate.

    Parameters
    ----------
    given : condition, or list of conditions
    coordinate, field : SymPy objects
    order : int
        Of the highest derivative of the field along the coordinate: so many conditions there are, half
        of them at each end (and one more at either end where that is odd), and two at least.

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
    order = max(order, 2)
    found: dict[str, list[Side]] = {side: [] for side in SIDES}
    for part in parts:
        if isinstance(part, type) and issubclass(part, (Boundary, Periodic)):
            raise ModelError(f"{where}: write {part.__name__}(...), with parentheses", symbol=str(coordinate))
        if not isinstance(part, Boundary):
            raise ModelError(
                f"{where}: {part!r} is no boundary condition (Periodic, Dirichlet, Neumann, Robin)",
                symbol=str(coordinate),
            )
        for side, value in part.values.items():
            a, b = part.coefficients(side)
            if b != 0 and part.order >= order:
                raise ModelError(
                    f"{where}: a condition on the derivative of order {part.order} goes with equations of a higher "
                    f"order, and the highest derivative of {field.func.__name__} in {coordinate} is of order {order}",
                    symbol=str(coordinate),
                )
            found[side].append(Side(a, b, value, part.order))
    for side in SIDES:
        _check_count(where, coordinate, order, side, len(found[side]))
        _choose_leading(where, coordinate, side, found[side])
    lower, upper = (tuple(found[side]) for side in SIDES)
    if len(lower) + len(upper) != order:
        raise ModelError(
            f"{where}: derivatives of order {order} take {order} conditions, {order // 2} at one end and "
            f"{order - order // 2} at the other, and there are {len(lower) + len(upper)}",
            symbol=str(coordinate),
        )
    return lower, upper


def _check_count(where: str, coordinate: sp.Symbol, order: int, side: str, count: int) -> None:
    """So many conditions as half the order, rounded down or up."""
    if order // 2 <= count <= order - order // 2:
        return
    if count == 0:
        raise ModelError(f"{where}: no condition at the {side} end", symbol=str(coordinate))
    words = {1: "one condition", 2: "two conditions", 3: "three conditions"}
    have = words.get(count, f"{count} conditions")
    if order == 2:
        rest = "for different ones at the two ends write [Dirichlet(lower=...), Neumann(upper=...)]"
        raise ModelError(f"{where}: {have} at the {side} end ({rest})", symbol=str(coordinate))
    least, most = order // 2, order - order // 2
    raise ModelError(
        f"{where}: {have} at the {side} end, and derivatives of order {order} take {least}"
        + (f" or {most}" if most > least else "")
        + " there, such as [Dirichlet(0), Neumann(0)]",
        symbol=str(coordinate),
    )


def _choose_leading(where: str, coordinate: sp.Symbol, side: str, conditions: list[Side]) -> None:
    """Which derivative at the end each condition gives; those with one possibility choose first."""
    taken: set[int] = set()
    mixed = [c for c in conditions if c.mixed]
    if len(mixed) > 1:
        raise UnsupportedError(f"{where}: more than one Robin condition at the {side} end")
    for condition in [c for c in conditions if not c.mixed] + mixed:
        wanted = [0, condition.order] if condition.mixed else [0 if condition.b == 0 else condition.order]
        free = [k for k in wanted if k not in taken]
        if not free:
            what = "values" if wanted == [0] else f"derivatives of order {wanted[-1]}"
            raise ModelError(f"{where}: two conditions on {what} at the {side} end", symbol=str(coordinate))
        condition.leading = free[0]
        taken.add(free[0])
