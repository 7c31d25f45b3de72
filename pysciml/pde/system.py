"""`PDESystem`: partial differential equations in SymPy, checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sympy as sp
from sympy.core.function import AppliedUndef

from pysciml.errors import ModelError, UnsupportedError
from pysciml.hints import named_options
from pysciml.pde.boundary import Side, Sides, read_boundary
from pysciml.pde.noise import read_noise
from pysciml.pde.solving import solve_for_time_derivatives
from pysciml.symbolic import printing
from pysciml.symbolic.networks import NetworkTerm
from pysciml.symbolic.reading import RESERVED, describe, normalize
from pysciml.symbolic.system import _read_observed, _read_parameters
from pysciml.symbolic.variables import BrownianMotion, attributes, scalar
from pysciml.symbolic.variables import t as default_time

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pysciml.graph import Network
    from pysciml.pde.discrete import DiscreteSystem


@dataclass(frozen=True)
class FieldInfo:
    """An unknown field, or a time derivative of one that is a state.

    Attributes
    ----------
    name : str
        In results: ``u``, and ``u_t`` for its time derivative.
    function : applied SymPy function
    order : int
        Which time derivative.
    """

    name: str
    function: Any
    order: int


class PDESystem:
    """Partial differential equations over an interval, a rectangle or a box.

    Parameters
    ----------
    equations : list of sympy.Eq
        One for each field, with time derivatives of first or second order (`pysciml.D`), and space
        derivatives of any order, mixed and nested: ``Derivative(k*Derivative(u, X), X)`` is
        discretized as it stands, which conserves. Without any time derivative the system is steady.
        A field without one where others have some follows from them at every instant by an equation
        without time derivatives, such as ``Eq(laplacian(psi), -w)``.
        `pysciml.brownian` as a factor is noise (Itô), white in the coordinates it is given.
    domain : mapping
        Coordinate -> (lower, upper).
    boundary : mapping
        Coordinate -> a condition for all fields, or field -> condition. A condition is
        ``Periodic()``, ``Dirichlet``, ``Neumann``, ``Robin``, or a list of those that hold at one end
        each. A field with derivatives of order n along a coordinate has n conditions there, half of
        them at each end, such as ``[Dirichlet(0), Neumann(0)]`` for the fourth order (one more at
        either end for an odd order), and never less than one at each end.
    initial : mapping, optional
        Field -> expression of the coordinates and parameters; ``D(u)`` too where the equation is of
        second order in time (without it the field starts from rest).
    parameters : list of symbols, optional
        By default every symbol that is no coordinate. Given, any other symbol is an error.
    observed : mapping, optional
        Name -> expression; `pysciml.integral` gives numbers, anything else fields.
    name : str

    Attributes
    ----------
    fields, coordinates, parameters, noise : tuples of SymPy objects
    networks : dict of str to Network
        Those among the terms; they act at each place on what they are given there.
    equations : tuple of sympy.Eq
    steady : bool
    constrained : tuple of fields
        Those that follow from the others at every instant.

    Raises
    ------
    ModelError
        If the equations, the domain or the boundary conditions are wrong; the message names which.
    UnsupportedError
        For what is right but not solved here.

    Examples
    --------
    >>> X, = coordinates("X,")
    >>> u = fields("u", X)
    >>> heat = PDESystem([Eq(D(u), laplacian(u))], {X: (0, 1)}, {X: Dirichlet(0)}, {u: sp.sin(sp.pi*X)})
    >>> solve(heat.discretize({X: 64}).problem((0, 0.1)))
    """

    @named_options(ModelError)
    def __init__(
        self,
        equations: Any,
        domain: Mapping[Any, Any],
        boundary: Mapping[Any, Any],
        initial: Mapping[Any, Any] | None = None,
        parameters: Iterable[sp.Symbol] | None = None,
        observed: Mapping[Any, Any] | Sequence[sp.Eq] | None = None,
        name: str = "pde",
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ModelError(f"name must be a non-empty text, not {name!r}")
        self.name = name
        self.time = default_time
        self.equations: tuple[sp.Eq, ...] = normalize(equations)
        self.observed: dict[Any, sp.Expr] = _read_observed(observed)
        self.domain = _read_domain(domain)
        self.fields: tuple[Any, ...] = self._find_fields()
        self.coordinates: tuple[sp.Symbol, ...] = tuple(self.fields[0].args[1:])
        self._check_domain()
        self._check_names()
        rates = solve_for_time_derivatives(self.equations, self.fields, self.time)
        self.steady = not any(order for order, _ in rates.values())
        self._check_orders(rates)
        rates, self.noise, self.diffusion = read_noise(self, rates)
        self.constrained: tuple[Any, ...] = tuple(f for f, (order, _) in rates.items() if not (order or self.steady))
        for f, motion in self.diffusion:
            if f in self.constrained:
                raise ModelError(
                    f"the equation of {f.func.__name__} has no time derivative, and noise ({motion}) drives equations "
                    "that have one",
                    symbol=motion.name,
                )
        self.orders: dict[Any, int] = {f: order for f, (order, _) in rates.items()}
        self.rates: dict[Any, sp.Expr] = {f: rate for f, (_, rate) in rates.items()}
        self.states: tuple[FieldInfo, ...] = tuple(
            FieldInfo(f.func.__name__ + ("_" + "t" * k if k else ""), f, k)
            for f in self.fields
            for k in range(max(self.orders[f], 1))
        )
        #: Of the highest derivative of each field along each coordinate.
        self.space_orders: dict[tuple[Any, sp.Symbol], int] = self._find_orders()
        self.boundary: dict[tuple[Any, sp.Symbol], Sides] = self._read_boundaries(boundary)
        self.initial: dict[tuple[Any, int], sp.Expr] = self._read_initial(initial)
        self.networks: dict[str, Network] = {}
        self.parameters: tuple[sp.Symbol, ...] = self._find_parameters(_read_parameters(parameters))
        self._weights: dict[str, npt.NDArray[np.float64]] = {}

    # -- reading --------------------------------------------------------------------------------

    def _expressions(self) -> list[tuple[str, sp.Basic]]:
        """Everything written, with where it stands."""
        result: list[tuple[str, sp.Basic]] = [
            (describe(equation, i, self.time), equation) for i, equation in enumerate(self.equations)
        ]
        result += [(f"observed quantity {name}", expr) for name, expr in self.observed.items()]
        return result

    def _find_fields(self) -> tuple[Any, ...]:
        found: dict[Any, None] = {}
        names: dict[str, Any] = {}
        for i, equation in enumerate(self.equations):
            where = describe(equation, i, self.time)
            for atom in sp.preorder_traversal(equation):
                if not isinstance(atom, AppliedUndef):
                    continue
                symbol = atom.func.__name__
                if self.time in atom.args[0].free_symbols - {atom.args[0]}:
                    raise UnsupportedError(
                        f"{where}: {atom} is a field at another time: delays of fields are not solved"
                    )
                if atom.args[0] != self.time or len(atom.args) < 2:
                    raise ModelError(
                        f"{where}: {atom} is not a field over time and space: make it one with "
                        f"pysciml.fields({symbol!r}, {', '.join(map(str, self.domain))})"
                        + (" (ordinary equations beside fields are not solved)" if atom.args == (self.time,) else ""),
                        equation=printing.plain(equation),
                        symbol=symbol,
                    )
                if not all(isinstance(a, sp.Symbol) for a in atom.args):
                    raise ModelError(
                        f"{where}: {atom} is a field at another place: only boundary conditions fix places",
                        equation=printing.plain(equation),
                        symbol=symbol,
                    )
                first = names.setdefault(symbol, atom)
                if first != atom:
                    raise ModelError(f"{where}: {atom} and {first} have one name", symbol=symbol)
                found[atom] = None
        if not found:
            raise ModelError("the equations have no fields: write the unknowns as pysciml.fields('u', X)")
        spaces = {tuple(f.args[1:]): f for f in found}
        if len(spaces) > 1:
            a, b = list(spaces.values())[:2]
            raise ModelError(
                f"{a} and {b} are over different coordinates: all fields of a system are over all coordinates",
                symbol=b.func.__name__,
            )
        if len(found) != len(self.equations):
            names_ = ", ".join(f.func.__name__ for f in found)
            raise ModelError(f"{len(self.equations)} equations for {len(found)} fields ({names_})")
        return tuple(found)

    def _check_domain(self) -> None:
        if len(self.coordinates) > 3:
            raise UnsupportedError(f"{len(self.coordinates)} space dimensions: there are one to three")
        for x in self.coordinates:
            if x not in self.domain:
                raise ModelError(f"domain has no interval for {x}", symbol=str(x))
        for x in self.domain:
            if x not in self.coordinates:
                raise ModelError(f"domain has {x}, which is no coordinate of the fields", symbol=str(x))

    def _check_names(self) -> None:
        taken: dict[str, str] = {}
        for what, symbols in (("a coordinate", self.coordinates), ("a field", self.fields)):
            for symbol in symbols:
                name = symbol.func.__name__ if isinstance(symbol, AppliedUndef) else symbol.name
                if not name.isidentifier() or name in RESERVED:
                    raise ModelError(f"{name!r} cannot name {what}", symbol=name)
                if name in taken:
                    raise ModelError(f"{name!r} names {taken[name]} and {what}", symbol=name)
                taken[name] = what
        for key in self.observed:
            name = key.func.__name__ if isinstance(key, AppliedUndef) else str(key)
            if name in taken or name in RESERVED or not name.isidentifier():
                raise ModelError(f"{name!r} cannot name an observed quantity", symbol=name)

    def _check_orders(self, rates: Mapping[Any, tuple[int, sp.Expr]]) -> None:
        high = [f.func.__name__ for f, (order, _) in rates.items() if order > 2]
        if high:
            raise UnsupportedError(f"{', '.join(high)}: time derivatives go up to the second")

    def _read_boundaries(self, boundary: Any) -> dict[tuple[Any, sp.Symbol], Sides]:
        if not isinstance(boundary, Mapping):
            raise ModelError(f"boundary maps coordinates to conditions, such as {{X: Periodic()}}, not {boundary!r}")
        for x in boundary:
            if x not in self.coordinates:
                raise ModelError(f"boundary has {x}, which is no coordinate of the fields", symbol=str(x))
        result: dict[tuple[Any, sp.Symbol], Sides] = {}
        for x in self.coordinates:
            if x not in boundary:
                raise ModelError(f"boundary has no condition in {x}", symbol=str(x))
            given = boundary[x]
            for key in given if isinstance(given, Mapping) else ():
                if key not in self.fields:
                    raise ModelError(f"boundary in {x}: {key} is no field of the equations", symbol=str(key))
            for f in self.fields:
                name = f.func.__name__
                if isinstance(given, Mapping):
                    if f not in given:
                        raise ModelError(f"boundary in {x} has no condition for {name}", symbol=name)
                    given_here = given[f]
                else:
                    given_here = given
                sides = read_boundary(given_here, x, f, self.space_orders.get((f, x), 0))
                ends = zip(("lower", "upper"), sides or (), strict=False)
                for which, side in [(which, side) for which, end in ends for side in end]:
                    self._check_condition(f"boundary of {name} in {x}, {which} end", f, x, side)
                result[f, x] = sides
            periodic = {f.func.__name__ for f in self.fields if result[f, x] is None}
            if periodic and len(periodic) < len(self.fields):
                raise ModelError(
                    f"boundary in {x}: {', '.join(sorted(periodic))} is periodic and other fields are not: a domain "
                    "is periodic for all fields or for none",
                    symbol=str(x),
                )
        return result

    def _check_condition(self, where: str, f: Any, x: sp.Symbol, side: Side) -> None:
        """What a condition may depend on: the fields, too, where it is the only one at its end."""
        for expr in (side.a, side.b, side.value):
            inside = expr.atoms(AppliedUndef)
            bare: Any = expr.replace(lambda e: isinstance(e, (sp.Derivative, AppliedUndef)), lambda e: sp.Dummy())
            wrong = [atom for atom in inside if atom not in self.fields] + ([x] if x in bare.free_symbols else [])
            if wrong:
                raise ModelError(
                    f"{where}: {expr} has {wrong[0]}: conditions may depend on time, the other coordinates, parameters "
                    "and the fields",
                    symbol=str(wrong[0]),
                )
            if not inside:
                continue
            if side.b == 0 and f in inside:
                raise ModelError(f"{where}: {expr} has {f}, whose value it is to say", symbol=f.func.__name__)
            several = self.space_orders.get((f, x), 0) > 2
            if several or (self.orders[f] > 1 and expr is not side.value):
                raise UnsupportedError(
                    f"{where}: {expr} has {next(iter(inside))}: conditions that depend on fields are solved where "
                    "there is one at each end, and of equations of second order in time in its value alone"
                )

    def periodic(self, coordinate: sp.Symbol) -> bool:
        """Whether the domain is periodic along a coordinate."""
        return self.boundary[self.fields[0], coordinate] is None

    def _find_orders(self) -> dict[tuple[Any, sp.Symbol], int]:
        """The highest derivative of each field by each coordinate, nested ones added up."""
        best: dict[tuple[Any, sp.Symbol], int] = {}
        for i, equation in enumerate(self.equations):
            for (f, x), order in _space_orders(equation, self.time).items():
                if x not in self.coordinates:
                    raise ModelError(
                        f"{describe(equation, i, self.time)}: it differentiates by {x}, which is no coordinate of the "
                        "fields",
                        equation=printing.plain(equation),
                        symbol=str(x),
                    )
                if f is not None:
                    best[f, x] = max(best.get((f, x), 0), order)
        return best

    def _read_initial(self, initial: Any) -> dict[tuple[Any, int], sp.Expr]:
        if initial is None:
            return {}
        if not isinstance(initial, Mapping):
            raise ModelError(f"initial maps fields to expressions, such as {{u: sp.sin(X)}}, not {initial!r}")
        result: dict[tuple[Any, int], sp.Expr] = {}
        known = {(s.function, s.order): s.name for s in self.states}
        for key, value in initial.items():
            state = (key.expr, len(key.variables)) if isinstance(key, sp.Derivative) else (key, 0)
            if state not in known:
                raise ModelError(f"initial has {key}, which is no state ({', '.join(known.values())})", symbol=str(key))
            expr = scalar(value)
            if expr is None:
                raise ModelError(f"initial: {value!r} is not a scalar expression", symbol=known[state])
            inside = expr.atoms(AppliedUndef)
            if inside or self.time in expr.free_symbols:
                culprit = next(iter(inside), self.time)
                raise ModelError(
                    f"initial value of {known[state]} has {culprit}: it may depend on the coordinates and parameters",
                    symbol=str(culprit),
                )
            result[state] = expr
        return result

    def _find_parameters(self, declared: tuple[sp.Symbol, ...] | None) -> tuple[sp.Symbol, ...]:
        known = {self.time, *self.coordinates}
        places: list[tuple[str, sp.Basic]] = self._expressions()
        for (f, x), sides in self.boundary.items():
            for side in (side for end in sides or () for side in end):
                places += [(f"boundary of {f.func.__name__} in {x}", e) for e in (side.a, side.b, side.value)]
        places += [(f"initial value of {f.func.__name__}", e) for (f, _), e in self.initial.items()]
        found: dict[sp.Symbol, None] = {}
        for where, expression in places:
            for atom in sp.preorder_traversal(expression):
                if isinstance(atom, NetworkTerm):
                    network = atom.head.network
                    if self.networks.setdefault(network.name, network) != network:
                        raise ModelError(
                            f"two different networks are called {network.name!r}: use one network object, or two names",
                            symbol=network.name,
                        )
                if isinstance(atom, AppliedUndef) and atom not in self.fields:
                    raise ModelError(f"{where}: {atom} is no field of the equations", symbol=atom.func.__name__)
                if isinstance(atom, BrownianMotion) and atom not in self.noise:
                    raise ModelError(f"{where}: {atom} is noise, which drives equations alone", symbol=atom.name)
                if not isinstance(atom, sp.Symbol) or atom in {*known, *self.noise} or atom in self.observed:
                    continue
                if atom.name in {s.name for s in known}:
                    raise ModelError(
                        f"{where}: the symbol {atom} has the name of a coordinate but other assumptions",
                        symbol=atom.name,
                    )
                if declared is not None and atom not in declared:
                    raise ModelError(
                        f"{where}: undefined symbol {atom}: it is no coordinate and not in parameters=",
                        symbol=atom.name,
                    )
                found[atom] = None
        parameters = declared if declared is not None else tuple(found)
        names = [s.name for s in parameters] + [s.name for s in self.states] + [w.name for w in self.noise]
        names += list(self.networks)
        for name in names:
            if names.count(name) > 1:
                raise ModelError(f"the name {name!r} is used twice", symbol=name)
            if not name.isidentifier() or name in RESERVED or name in {str(x) for x in self.coordinates}:
                raise ModelError(f"{name!r} cannot name a parameter, a field or a network", symbol=name)
        return parameters

    # -- onwards --------------------------------------------------------------------------------

    @named_options()
    def discretize(
        self,
        points: Mapping[Any, int | npt.ArrayLike],
        order: int = 2,
        scheme: str = "central",
        *,
        positive: Iterable[Any] = (),
        eliminate: bool = True,
    ) -> DiscreteSystem:
        """Put the equations on a grid: the method of lines.

        Parameters
        ----------
        points : mapping
            Coordinate -> number of cells, or for a non-uniform grid their edges (an increasing array
            from one end of the domain to the other).
        order : int
            Of accuracy: 2, 4 or 6 for ``scheme="central"``, 1, 2 or 3 for ``"upwind"``; ``"weno"``
            is of order 5 and ``"spectral"`` of any, where the solution is smooth.
        scheme : {"central", "upwind", "weno", "spectral"}
            How derivatives of first order are taken that carry something along: by central
            differences, or from where it comes (``"upwind"``, ``"weno"``: Jiang & Shu 1996); all
            others are central differences. ``"spectral"``: Fourier where periodic, else Chebyshev.
        positive : list of fields or names, optional
            With ``"weno"`` and ``"upwind"``: what cannot be negative, such as a density, whose equation
            is a conservation law, ``D(rho) = -D(f, X) - ...``. Its fluxes are limited where they would
            take more from a cell than there is (Zhang & Shu 2010, 2012), which conserves, and changes
            nothing where the solution is smooth and away from zero. It is kept so by ``SSPRK33`` with
            ``dt * sum(speed/width) <= 1/12``, the sum over the coordinates; by other methods and longer
            steps as a rule. What is no flux, such as a sink, is not limited.
        eliminate : bool
            Solve for fields without a time derivative within the right-hand side, where their equations
            are linear with constant coefficients (Poisson and Helmholtz equations, chemical potentials):
            directly, by the eigenvectors along each axis (Lynch, Rice & Thomas 1964). They are observed
            quantities then, and the rest are ordinary differential equations, for every engine.
            Equations that are not of that kind, and with False all, stay algebraic (``kind == "dae"``).

        Returns
        -------
        DiscreteSystem

        Raises
        ------
        ProblemError
            For a number of points, an order or a scheme that makes no sense; it names which.
        UnsupportedError
            If the scheme cannot do what the equations ask for.

        Notes
        -----
        Values are at the centres of cells. Boundary conditions become expressions for the cells
        beyond the ends, from the polynomial through as many cells as the order and the condition
        (for Chebyshev: at the points of Gauss and Lobatto, the ends following from the conditions).
        """
        from pysciml.pde.discrete import discretize

        return discretize(self, points, order, scheme, positive, eliminate)

    def save(self, path: str | Path, weights: Mapping[Any, npt.ArrayLike] | None = None) -> None:
        """Write the equations, domain, conditions and names as JSON: data and never code.

        `pysciml.load` reads it. Numbers of a problem (parameters, arrays of initial values) are not
        part of it.

        Parameters
        ----------
        path : path
        weights : mapping, optional
            Network -> its weights, such as ``fit.problem.weights``: what problems of the loaded
            system start with. Other networks start with their initial weights, as they do here.

        Raises
        ------
        OSError
            If the file cannot be written; an existing file is replaced only by a whole new one.
        ProblemError
            If weights do not fit.
        UnsupportedError
            If an expression has a part that has no place in a file.
        """
        from pysciml.pde.files import save

        save(self, path, weights=weights)

    @property
    def attrs(self) -> dict[str, dict[str, str]]:
        """``units`` and ``long_name`` by name, for fields, coordinates and parameters."""
        symbols: list[Any] = [*self.fields, *self.coordinates, *self.parameters, *self.observed]
        found = {getattr(s.func, "__name__", str(s)) if s.args else str(s): attributes(s) for s in symbols}
        return {name: given for name, given in found.items() if given}

    def __repr__(self) -> str:
        what = "steady" if self.steady else "PDE"
        names = ", ".join(s.name for s in self.states)
        domain = ", ".join(f"{x} in {a:g}..{b:g}" for x, (a, b) in self.domain.items())
        lines = [f"PDESystem {self.name} ({what}): fields {names}; {domain}"]
        lines += [f"  {printing.text(eq, self.time)}" for eq in self.equations[:20]]
        return "\n".join(lines)

    def _repr_latex_(self) -> str:
        return printing.latex(self.equations[:50], self.time)


def _read_domain(domain: Any) -> dict[sp.Symbol, tuple[float, float]]:
    if not isinstance(domain, Mapping) or not domain:
        raise ModelError(f"domain maps coordinates to intervals, such as {{X: (0, 1)}}, not {domain!r}")
    result: dict[sp.Symbol, tuple[float, float]] = {}
    for x, interval in domain.items():
        if not isinstance(x, sp.Symbol) or x == default_time:
            raise ModelError(f"domain: {x!r} is no coordinate", symbol=str(x))
        try:
            low, high = (float(end) for end in interval)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"domain: the interval of {x} must be two numbers, not {interval!r}", symbol=str(x)
            ) from error
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ModelError(f"domain: the interval of {x} must go from a lower to a higher number, not {interval!r}")
        result[x] = low, high
    return result


def _space_orders(equation: sp.Basic, time: sp.Symbol) -> dict[tuple[Any, sp.Symbol], int]:
    """The highest derivative of each field by each symbol, nested ones added up; None for what is no field."""
    best: dict[tuple[Any, sp.Symbol], int] = {}

    def walk(expr: Any, above: dict[sp.Symbol, int]) -> None:
        if isinstance(expr, sp.Derivative):
            above = dict(above)
            pairs: Any = expr.variable_count
            for x, count in pairs:
                if x != time:
                    above[x] = above.get(x, 0) + int(count)
                    best[None, x] = 0
        if isinstance(expr, AppliedUndef):
            for x, order in above.items():
                best[expr, x] = max(best.get((expr, x), 0), order)
            return
        for arg in expr.args:
            walk(arg, above)

    walk(equation, {})
    return best
