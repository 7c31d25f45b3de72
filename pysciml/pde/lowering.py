"""From equations of fields to a graph of fields: where finite differences are written.

Expressions are evaluated at one of several *places*: at the cells, at the cells and some beyond the
ends of an axis (``Extended``), at the faces between cells (``Faces``), or at one end (``AtEnd``). A field
gets there by its boundary conditions, a derivative from its values at the cells, everything else by its
operands.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from pysciml.errors import ModelError, UnsupportedError
from pysciml.graph.field_builder import FieldBuilder
from pysciml.pde import advection
from pysciml.pde.boundary import End, Side, Sides
from pysciml.pde.grid import Array, Axis, central_width, extrapolation, fornberg, ghosts, jets, spread, stencil
from pysciml.pde.system import PDESystem
from pysciml.symbolic.networks import NetworkTerm
from pysciml.symbolic.to_graph import HANDLERS, _head, _unknown, against_infinity

CELLS: Final = "cells"


class Extended(NamedTuple):
    """Cells, and ``extra`` more beyond each end of an axis."""

    axis: int
    extra: int


class Faces(NamedTuple):
    """Faces along an axis, and ``extra`` more beyond each end."""

    axis: int
    extra: int


class AtEnd(NamedTuple):
    """One end of an axis, ``"lower"`` or ``"upper"``: where a boundary condition is."""

    axis: int
    side: str


Place = str | Extended | Faces | AtEnd


class Lowering:
    """Writes one system on one grid.

    Parameters
    ----------
    system : PDESystem
    axes : list of Axis
    order : int
    scheme : str
    positive : sequence of fields
        Which fields upwind fluxes are to keep from becoming negative.
    """

    def __init__(
        self, system: PDESystem, axes: Sequence[Axis], order: int, scheme: str, positive: Sequence[Any] = ()
    ) -> None:
        self.system, self.axes, self.order, self.scheme = system, list(axes), order, scheme
        self.positive = tuple(positive)
        self.shape = tuple(axis.n for axis in axes)
        self.ndim = len(self.shape)
        weights = sum(network.size for network in system.networks.values())
        self.b = FieldBuilder([self.shape] * len(system.states), len(system.parameters) + weights)
        self.b.copy_networks(tuple(system.networks.values()), ())
        self.number = {symbol: i for i, symbol in enumerate(system.coordinates)}
        self.state = {(s.function, s.order): i for i, s in enumerate(system.states)}
        self.parameter = {symbol: i for i, symbol in enumerate(system.parameters)}
        self.central = order if scheme == "central" else 6 if scheme == "weno" else 2 * ((order + 1) // 2)
        self._memo: dict[tuple[Any, Place], int] = {}
        self._padded: dict[tuple[int, int, int], int] = {}
        #: Fields, and axes, whose conditions are being written: what these say of the fields is not known yet.
        self._asked: set[tuple[int, int]] = set()

    # -- expressions ----------------------------------------------------------------------------

    def __call__(self, expr: Any, place: Place = CELLS) -> int:
        """An expression at a place."""
        if isinstance(place, AtEnd):  # where what a field is depends on who asks
            return self._convert(expr, place)
        key = expr, place
        node = self._memo.get(key)
        if node is None:
            node = self._memo[key] = self._convert(expr, place)
        return node

    def _convert(self, expr: Any, place: Place) -> int:
        b = self.b
        if isinstance(expr, sp.Symbol):
            return self._symbol(expr, place)
        if expr.is_Number or isinstance(expr, sp.NumberSymbol):
            value = float(expr) if expr.is_finite else math.nan
            if not math.isfinite(value):
                raise ModelError(f"{expr} is not a finite number", symbol=str(expr))
            return b.constant(value)
        if isinstance(expr, AppliedUndef):
            return self._field(self.state[expr, 0], place)
        if isinstance(expr, sp.Derivative):
            return self._derivative(expr, place)
        if isinstance(expr, sp.Integral):
            return self._integral(expr)
        if isinstance(expr, NetworkTerm):
            inputs = [self(argument, place) for argument in expr.inputs]
            return b.network(expr.head.network, expr.head.output, inputs, expr.head.wrt)
        if isinstance(expr, sp.Mul):
            return self._product(expr, place)
        if isinstance(expr, sp.Piecewise):
            args = [self(part, place) for pair in expr.args for part in pair.args]
            return HANDLERS[sp.Piecewise](b, expr, args)
        decided = against_infinity(expr)
        if decided is not None or expr is sp.true or expr is sp.false:
            return b.one if decided or expr is sp.true else b.zero
        handler = HANDLERS.get(expr.func)
        if handler is None:
            raise ModelError(_unknown(expr), symbol=_head(expr))
        return handler(b, expr, [self(arg, place) for arg in expr.args])

    def _product(self, expr: Any, place: Place) -> int:
        b = self.b
        above, below, coefficient = [], [], 1.0
        for factor in expr.args:
            if factor.is_Number:
                coefficient *= float(factor)
            elif isinstance(factor, sp.Pow) and factor.exp.is_Number and factor.exp.is_negative:
                below.append(b.power(self(factor.base, place), b.constant(-float(factor.exp))))
            else:
                above.append(self(factor, place))
        # Factors that do not vary over the grid first: they are multiplied once.
        node = b.product(sorted(above, key=lambda a: int(np.prod(b.shape(a), dtype=float))))
        node = b.mul(b.constant(abs(coefficient)), node)
        if below:
            node = b.div(node, b.product(below))
        return b.neg(node) if coefficient < 0 else node

    def _symbol(self, symbol: sp.Symbol, place: Place) -> int:
        b = self.b
        if symbol == self.system.time:
            return b.time()
        if symbol in self.number:
            return b.table(spread(self._positions(self.number[symbol], place), self.number[symbol], self.ndim))
        if symbol in self.parameter:
            return b.param(self.parameter[symbol])
        raise ModelError(f"undefined symbol {symbol}", symbol=symbol.name)

    def _positions(self, number: int, place: Place) -> Array:
        axis = self.axes[number]
        if isinstance(place, Extended) and place.axis == number:
            return axis.nodes if axis.chebyshev else axis.extended(place.extra)
        if isinstance(place, Faces) and place.axis == number:
            return axis.faces(place.extra)
        if isinstance(place, AtEnd) and place.axis == number:
            return np.array([axis.low if place.side == "lower" else axis.high])
        return axis.centers

    # -- fields at places -----------------------------------------------------------------------

    def _field(self, state: int, place: Place) -> int:
        if place == CELLS:
            return self.b.field(state)
        if isinstance(place, Extended):
            return self.padded(state, place.axis, place.extra)
        if isinstance(place, AtEnd):
            return self._value_at(state, place)
        assert isinstance(place, Faces)
        half = self.central // 2
        source = self.padded(state, place.axis, half + place.extra)
        return self._to_faces(source, place, half + place.extra, 0)

    def _to_faces(self, source: int, place: Faces, count: int, derivative: int) -> int:
        """Interpolate (or differentiate) values with ``count`` cells beyond the ends to faces."""
        axis = self.axes[place.axis]
        half = self._face_width(derivative)
        where = axis.faces(place.extra)
        weights = stencil(axis.extended(count), where, count - place.extra - half, 2 * half, derivative, axis.uniform)
        return self._weighted(source, place.axis, len(where), weights.first, weights.weights)

    def _face_width(self, derivative: int) -> int:
        """How many cells to each side of a face its derivative takes."""
        return (derivative + self.central) // 2

    def _weighted(self, source: int, axis: int, length: int, first: int, weights: Sequence[float | Array]) -> int:
        """``sum_k weights[k] * source[first + k:][:length]``; equal weights are taken together."""
        b = self.b
        if not any(np.any(w) for w in weights):
            return b.zero
        if b.shape(source) == () or b.shape(source)[axis] == 1:
            totals = sum(np.asarray(w) for w in weights)
            if np.ndim(totals) == 0:
                return b.mul(b.constant(float(totals)), source)
            return b.mul(b.table(spread(totals, axis, self.ndim)), source)
        groups: dict[Any, list[int]] = {}
        for k, weight in enumerate(weights):
            if not np.any(weight):
                continue
            part = b.slice(source, axis, first + k, length)
            if isinstance(weight, np.ndarray):
                groups[b.table(spread(weight, axis, self.ndim)), "table"] = [part]
            elif -weight in groups:
                groups[-weight].append(-part - 1)
            else:
                groups.setdefault(weight, []).append(part)
        terms: list[int] = []
        for weight, parts in groups.items():
            total = b.sum([p for p in parts if p >= 0])
            for part in parts:
                if part < 0:
                    total = b.sub(total, -part - 1)
            terms.append(b.mul(weight[0] if isinstance(weight, tuple) else b.constant(weight), total))
        return b.sum(terms)

    def padded(self, state: int, number: int, count: int) -> int:
        """A field with ``count`` cells beyond both ends of an axis."""
        key = state, number, count
        if key not in self._padded:
            field = self.b.field(state)
            with self._asking(state, number):
                sides = self._sides(state, number)
                self._padded[key] = self._pad(field, sides, number, count, self._high(state, number))
        return self._padded[key]

    # -- fields at ends, for conditions that depend on them ---------------------------------------

    @contextmanager
    def _asking(self, state: int, number: int) -> Generator[None]:
        key = state, number
        fresh = key not in self._asked
        self._asked.add(key)
        try:
            yield
        finally:
            if fresh:
                self._asked.discard(key)

    def _value_at(self, state: int, place: AtEnd) -> int:
        """A field at an end: what its condition there says, or the cells alone while that is being written."""
        node = self.b.field(state)
        if (state, place.axis) in self._asked:
            return self._from_cells(node, place)
        return self._condition_at(state, place)[0]

    def _from_cells(self, node: int, place: AtEnd) -> int:
        """What the polynomial through the cells next to an end is there."""
        if self.b.shape(node) == () or self.b.shape(node)[place.axis] == 1:
            return node
        axis = self.axes[place.axis]
        count = max(self.central, 2)
        end, x = (axis.low, axis.centers) if place.side == "lower" else (axis.high, axis.centers[::-1])
        scale = abs(x[0] - end)
        weights = fornberg(0.0, (x[:count] - end) / scale, 0)
        return self._combine(weights, self._cells_at(node, place.axis, place.side, count))

    def _condition_at(self, state: int, place: AtEnd) -> tuple[int, int]:
        """The value of a field at an end, and its outward slope, by its condition."""
        b, (number, name) = self.b, place
        sides = self._sides(state, number)
        assert sides is not None
        if self._many(state, number):
            raise UnsupportedError(
                f"a boundary condition in {self.system.coordinates[number]} depends on "
                f"{self.system.states[state].name}, which has several conditions at that end"
            )
        (side,) = sides[0 if name == "lower" else 1]
        rule = ghosts(self.axes[number], name, 1, self.central)
        cells = self._cells_at(b.field(state), number, name, self.central)
        with self._asking(state, number):
            end = self._end_value(side, rule.slope_of_end, rule.slope_of_cells, cells, place)
        slope = b.add(b.mul(b.constant(rule.slope_of_end), end), self._combine(rule.slope_of_cells, cells))
        return end, slope

    def _slope_at(self, expr: Any, inner: Any, steps: Sequence[tuple[int, int]], place: AtEnd) -> int:
        """A derivative at an end."""
        state = self._state_of(inner)
        number = place.axis
        if all(axis != number for axis, _ in steps):
            return self._from_cells(self(expr), place)
        if state is None or list(steps) != [(number, 1)]:
            raise UnsupportedError(
                f"{expr} in a boundary condition: of derivatives across the end it has those of fields, of first order"
            )
        if (state, number) in self._asked:
            raise UnsupportedError(
                f"{expr} in a boundary condition of {self.system.states[state].name} itself, or in one that depends on "
                "it: what multiplies its slope is b of Robin(a, b, value)"
            )
        slope = self._condition_at(state, place)[1]
        return self.b.neg(slope) if place.side == "lower" else slope

    def _sides(self, state: int, number: int) -> Sides:
        info = self.system.states[state]
        sides = self.system.boundary[info.function, self.system.coordinates[number]]
        return _derived(sides, self.system.time, info.order)

    def _high(self, state: int, number: int) -> int:
        """The highest derivative of a field along an axis in the equations."""
        function = self.system.states[state].function
        return self.system.space_orders.get((function, self.system.coordinates[number]), 0)

    def _many(self, state: int, number: int) -> bool:
        """Whether a field has more conditions along an axis than one at each end."""
        return not self.axes[number].periodic and self._high(state, number) > 2

    def _pad(self, node: int, sides: Sides, number: int, count: int, order: int = 2) -> int:
        """Put ``count`` cells beyond both ends, for derivatives of the ``order``."""
        b, axis = self.b, self.axes[number]
        if count == 0:
            return node
        if sides is None:
            return self._wrap(node, number, count)
        if axis.chebyshev:
            return self._pad_chebyshev(node, sides, number)
        parts: list[int] = []
        for conditions, name in zip(sides, ("lower", "upper"), strict=True):
            if order > 2:
                values = self._beyond(node, conditions, number, name, count, order)
            else:
                (side,) = conditions
                rule = ghosts(axis, name, count, self.central)
                cells = self._cells_at(node, number, name, self.central)
                end = self._end_value(side, rule.slope_of_end, rule.slope_of_cells, cells, AtEnd(number, name))
                values = [
                    b.add(b.mul(b.constant(float(w)), end), self._combine(row, cells))
                    for w, row in zip(rule.of_end, rule.of_cells, strict=True)
                ]
            parts.append(self._join(values if name == "upper" else values[::-1], node, number))
        return b.join([parts[0], node, parts[1]], number)

    def _beyond(self, node: int, conditions: End, number: int, name: str, count: int, order: int) -> list[int]:
        """Cells beyond an end at which several conditions hold, or one of a higher order."""
        if self.central == 2 and all(side.a == 0 and side.order % 2 for side in conditions):
            return self._mirrored(node, conditions, number, name, count)
        b = self.b
        # As many as measured orders ask for; with fewer, explicit methods can take longer steps.
        width = self.central + order - len(conditions) - (order % 2) * (2 if self.central == 2 else 1)
        given = [side.leading for side in conditions]
        others = {0 if side.leading else side.order for side in conditions if side.mixed} - set(given)
        rule = jets(self.axes[number], name, count, width, given, sorted(others))
        cells = self._cells_at(node, number, name, width)
        found: dict[int, int] = {}
        for side in sorted(conditions, key=lambda side: side.mixed):
            of_lead, of_other = (side.b, side.a) if side.leading else (side.a, side.b)
            value, factor = self(side.value), self(of_lead)
            if side.mixed:
                other = 0 if side.leading else side.order
                if other in found:
                    known = found[other]
                else:  # what the polynomial says of it, in which the unknown derivative stands, too
                    row, weights = rule.other_of_jets[other], rule.other_of_cells[other]
                    terms = [b.mul(b.constant(float(row[given.index(k)])), node) for k, node in found.items()]
                    known = b.sum([*terms, self._combine(weights, cells)])
                    slope = b.constant(float(row[given.index(side.leading)]))
                    factor = b.add(factor, b.mul(slope, self(of_other)))
                value = b.sub(value, b.mul(self(of_other), known))
            found[side.leading] = b.div(value, factor)
        values: list[int] = []
        for by_jets, by_cells in zip(rule.of_jets, rule.of_cells, strict=True):
            terms = [b.mul(b.constant(float(w)), found[k]) for w, k in zip(by_jets, given, strict=True)]
            values.append(b.sum([*terms, self._combine(by_cells, cells)]))
        return values

    def _mirrored(self, node: int, conditions: End, number: int, name: str, count: int) -> list[int]:
        """Mirror images, and what odd derivatives at the end add: without these nothing flows through, exactly."""
        b, axis = self.b, self.axes[number]
        end, x = (axis.low, axis.centers) if name == "lower" else (axis.high, axis.centers[::-1])
        slopes = [(side.order, b.div(self(side.value), self(side.b))) for side in conditions]
        values: list[int] = []
        for cell, place in zip(self._cells_at(node, number, name, count), x, strict=False):
            gap = abs(float(place) - end)
            terms = [b.mul(b.constant(2 * gap**k / math.factorial(k)), slope) for k, slope in slopes]
            values.append(b.sum([cell, *terms]))
        return values

    def _end_value(self, side: Side, of_end: float, of_cells: Array, cells: list[int], place: AtEnd) -> int:
        """The value at an end, from ``a*end + b*(of_end*end + of_cells @ cells) = value``."""
        b = self.b
        value, of_value = self(side.value, place), self(side.a, place)
        if side.b == 0:
            return b.div(value, of_value)
        of_slope = self(side.b, place)
        slope = self._combine(of_cells, cells)
        below = b.add(of_value, b.mul(b.constant(of_end), of_slope))
        return b.div(b.sub(value, b.mul(of_slope, slope)), below)

    def _cells_at(self, node: int, number: int, side: str, count: int) -> list[int]:
        """The ``count`` cells next to an end, from the end inward."""
        n = self.b.shape(node)[number]
        where = range(count) if side == "lower" else range(n - 1, n - 1 - count, -1)
        return [self.b.slice(node, number, k, 1) for k in where]

    def _combine(self, weights: Array, nodes: Sequence[int]) -> int:
        b = self.b
        scale = np.abs(weights).max(initial=0.0)
        terms = [
            b.mul(b.constant(float(w)), node) for w, node in zip(weights, nodes, strict=True) if abs(w) > 1e-13 * scale
        ]
        return b.sum(terms)

    def _join(self, values: Sequence[int], node: int, number: int) -> int:
        shape = list(self.b.shape(node))
        shape[number] = 1
        return self.b.join([self.b.spread(v, tuple(shape)) for v in values], number)

    def _wrap(self, node: int, number: int, count: int) -> int:
        b = self.b
        n = b.shape(node)[number]
        return b.join([b.slice(node, number, n - count, count), node, b.slice(node, number, 0, count)], number)

    def extend(self, node: int, number: int, count: int) -> int:
        """Values at the cells, with more beyond the ends where no boundary condition is known."""
        b, axis = self.b, self.axes[number]
        shape = b.shape(node)
        if count == 0 or shape == () or shape[number] == 1:
            return node
        if axis.periodic:
            return self._wrap(node, number, count)
        points = min(max(self.central, 2), axis.n)
        parts: list[int] = []
        for name in ("lower", "upper"):
            cells = self._cells_at(node, number, name, points)
            values = [self._combine(row, cells) for row in extrapolation(axis, name, count, points)]
            parts.append(self._join(values if name == "upper" else values[::-1], node, number))
        return b.join([parts[0], node, parts[1]], number)

    def extend_full(self, node: int, number: int, count: int) -> int:
        """A node that was evaluated with cells beyond the ends, at its full length."""
        shape = list(self.b.shape(node) or (1,) * self.ndim)
        shape[number] = self.axes[number].n + 2 * count
        return self.b.spread(node, tuple(shape))

    # -- derivatives ----------------------------------------------------------------------------

    def _derivative(self, expr: Any, place: Place) -> int:
        inner, in_time, steps = expr.expr, 0, []
        pairs: Any = expr.variable_count
        for variable, count in pairs:
            if variable == self.system.time:
                in_time += int(count)
            else:
                steps.append((self.number[variable], int(count)))
        steps = _merged(steps)
        if in_time:
            if (inner, in_time) not in self.state:
                raise ModelError(f"{expr}: that time derivative is not known here", symbol=str(inner))
            if not steps:
                return self._field(self.state[inner, in_time], place)
            inner = sp.Derivative(inner, (self.system.time, in_time))
        if isinstance(place, AtEnd):
            return self._slope_at(expr, inner, steps, place)
        if self.scheme == "spectral":
            return self._spectral(inner, steps, place)
        state = self._state_of(inner)
        if state is not None and not isinstance(place, str):
            node = self._straight(state, steps, place)
            if node is not None:
                return node
        if place != CELLS:
            parts = _split_sum(expr)
            if parts is not None:
                return self(parts, place)
            node = self(expr, CELLS)
            if isinstance(place, Extended):
                return self.extend(node, place.axis, place.extra)
            assert isinstance(place, Faces)
            count = self.central // 2 + place.extra
            shape = self.b.shape(node)
            if shape == () or shape[place.axis] == 1:
                return node
            return self._to_faces(self.extend(node, place.axis, count), place, count, 0)
        (number, order), *rest = steps
        node = self._first(inner, number, order)
        done = [(number, order)]
        for number, order in rest:
            width = central_width(order, self.central)
            sides = self._along(state, done, number)
            if state is not None and sides is not None:
                node = self._pad(node, sides, number, width, self._high(state, number))
            else:
                node = self.extend(node, number, width)
            node = self._central(node, number, width, order)
            done.append((number, order))
        return node

    def _straight(self, state: int, steps: Sequence[tuple[int, int]], place: Extended | Faces) -> int | None:
        """A derivative of a field itself at another place, where its boundary conditions say what it is there."""
        number = place.axis
        others = [step for step in steps if step[0] != number]
        order = sum(count for axis, count in steps if axis == number)
        faces = isinstance(place, Faces)
        width = place.extra + (self._face_width(order) if faces else central_width(order, self.central) if order else 0)
        if not others and (faces or self._many(state, number)):
            node = self.padded(state, number, width)
        else:
            sides = self._along(state, others, number)
            if sides is None:
                return None
            info = self.system.states[state]
            time, field = self.system.time, info.function
            pairs: list[Any] = [(self.system.coordinates[axis], count) for axis, count in others]
            moved: Any = sp.Derivative(field, *([(time, info.order)] if info.order else []), *pairs)
            node = self._pad(self._everywhere(self(moved), number), sides, number, width, self._high(state, number))
        if isinstance(place, Faces):
            return self._to_faces(node, place, width, order)
        return self._central(node, number, width - place.extra, order, place.extra) if order else node

    def _along(self, state: int | None, steps: Sequence[tuple[int, int]], number: int) -> Sides:
        """The conditions at the ends of an axis on a derivative along the other axes, where they are many."""
        if state is None or not self._many(state, number) or any(number == other for other, _ in steps):
            return None
        sides = self._sides(state, number)
        for other, order in steps:
            x = self.system.coordinates[other]
            factors = [e for end in sides or () for side in end for e in (side.a, side.b)]
            if any(x in e.free_symbols for e in factors):
                return None
            sides = _derived(sides, x, order)
        return sides

    def _state_of(self, expr: Any) -> int | None:
        if isinstance(expr, AppliedUndef):
            return self.state[expr, 0]
        if isinstance(expr, sp.Derivative):
            pairs: Any = expr.variable_count
            if all(v == self.system.time for v, _ in pairs):
                return self.state.get((expr.expr, sum(int(c) for _, c in pairs)))
        return None

    def _first(self, inner: Any, number: int, order: int) -> int:
        """One or more derivatives along an axis of an expression, at the cells."""
        width = central_width(order, self.central)
        if order == 1 and self._state_of(inner) is None and _has_space_derivative(inner, self.system, number):
            return self._divergence(inner, number)
        return self._central(self(inner, Extended(number, width)), number, width, order)

    def _central(self, source: int, number: int, width: int, order: int, extra: int = 0) -> int:
        axis = self.axes[number]
        where = axis.extended(extra)
        weights = stencil(axis.extended(width + extra), where, 0, 2 * width + 1, order, axis.uniform)
        return self._weighted(source, number, len(where), weights.first, weights.weights)

    def _divergence(self, flux: Any, number: int) -> int:
        """The derivative of a flux, as the difference of its values at the faces: it conserves."""
        axis = self.axes[number]
        extra = self.central // 2 - 1
        source = self(flux, Faces(number, extra))
        if axis.uniform:
            weights = stencil(axis.faces(extra), axis.centers, 0, self.central, 1, uniform=True)
            return self._weighted(source, number, axis.n, 0, weights.weights)
        # On cells of different widths only the plain difference conserves.
        below = self.b.slice(source, number, extra, axis.n)
        above = self.b.slice(source, number, extra + 1, axis.n)
        return self.b.div(self.b.sub(above, below), self.b.table(spread(np.diff(axis.edges), number, self.ndim)))

    def _spectral(self, inner: Any, steps: Sequence[tuple[int, int]], place: Place) -> int:
        (number, order), *rest = steps
        axis = self.axes[number]
        at_nodes = isinstance(place, Extended) and place.axis == number
        if place != CELLS and not at_nodes:
            raise UnsupportedError(
                f"mixed and nested derivatives in more than one direction ({inner}) are not solved with Chebyshev "
                "points: take scheme='central'"
            )
        if axis.chebyshev:
            matrix = np.linalg.matrix_power(axis.differentiation, order)
            node = self.b.apply(
                matrix if at_nodes else matrix[1:-1], self._everywhere(self(inner, Extended(number, 1)), number), number
            )
        else:
            node = self.b.fourier(self._everywhere(self(inner), number), number, order, axis.length)
        for number, order in rest:
            axis = self.axes[number]
            if axis.chebyshev:
                raise UnsupportedError("mixed derivatives are not solved with Chebyshev points: take scheme='central'")
            node = self.b.fourier(node, number, order, axis.length)
        return node

    def _everywhere(self, node: int, number: int) -> int:
        """A node with the full length along an axis."""
        axis = self.axes[number]
        shape = list(self.b.shape(node) or (1,) * self.ndim)
        if shape[number] == 1:
            shape[number] = axis.n + 2 if axis.chebyshev else axis.n
        return self.b.spread(node, tuple(shape))

    def _pad_chebyshev(self, node: int, sides: tuple[End, End], number: int) -> int:
        """The values at both ends from both conditions: two linear equations."""
        b, axis = self.b, self.axes[number]
        for side in (side for end in sides for side in end):
            if any(e.atoms(AppliedUndef) for e in (side.a, side.b, side.value)):
                raise UnsupportedError(
                    f"a boundary condition in {self.system.coordinates[number]} depends on fields, which is not solved "
                    "with Chebyshev points: take scheme='central'"
                )
        slopes = axis.differentiation[[0, -1]] * np.array([[-1.0], [1.0]])
        known = [b.apply(slopes[k : k + 1, 1:-1], node, number) for k in range(2)]
        m: list[list[int]] = []
        right: list[int] = []
        for k, (side,) in enumerate(sides):
            a, c = self(side.a), self(side.b)
            row = [b.mul(c, b.constant(float(slopes[k, j]))) for j in (0, -1)]
            row[k] = b.add(row[k], a)
            m.append(row)
            right.append(b.sub(self(side.value), b.mul(c, known[k])) if side.b != 0 else self(side.value))
        det = b.sub(b.mul(m[0][0], m[1][1]), b.mul(m[0][1], m[1][0]))
        low = b.div(b.sub(b.mul(right[0], m[1][1]), b.mul(m[0][1], right[1])), det)
        high = b.div(b.sub(b.mul(m[0][0], right[1]), b.mul(m[1][0], right[0])), det)
        return b.join([self._join([low], node, number), node, self._join([high], node, number)], number)

    # -- integrals ------------------------------------------------------------------------------

    def _integral(self, expr: Any) -> int:
        b = self.b
        numbers: list[int] = []
        for variable, *limits in expr.limits:
            if variable not in self.number:
                raise ModelError(f"{expr} integrates over {variable}, which is no coordinate", symbol=str(variable))
            axis = self.axes[self.number[variable]]
            if limits and [float(limit) for limit in limits] != [axis.low, axis.high]:
                raise UnsupportedError(f"{expr}: integrals are over the whole domain ({axis.low:g} to {axis.high:g})")
            numbers.append(axis.number)
        curved = [k for k in numbers if self.axes[k].chebyshev]
        if len(curved) > 1:
            raise UnsupportedError("integrals over two directions of Chebyshev points are not supported")
        node = self(expr.function, Extended(curved[0], 1)) if curved else self(expr.function)
        for k in numbers:
            weights = b.table(spread(self.axes[k].quadrature, k, self.ndim))
            node = b.total(self._everywhere(b.mul(weights, node), k), k)
        return node

    # -- right-hand sides -----------------------------------------------------------------------

    def rate(self, state: int, expr: sp.Expr) -> int:
        """A right-hand side; with upwind schemes what carries the field along is taken apart first."""
        if self.scheme not in ("upwind", "weno"):
            return self(expr)
        return advection.rate(self, state, expr)

    def output(self, expr: sp.Expr, replaced: Mapping[Any, Any]) -> int:
        """An observed quantity, which may use others."""
        for _ in range(len(replaced) + 1):
            expr = expr.xreplace(dict(replaced))  # pyright: ignore[reportAssignmentType]
        return self(expr)


def _derived(sides: Sides, variable: sp.Symbol, count: int) -> Sides:
    """The conditions on a derivative of a field, by time or along the ends."""
    if sides is None or not count:
        return sides
    lower, upper = (tuple(side.derived(variable, count) for side in end) for end in sides)
    return lower, upper


def _merged(steps: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: dict[int, int] = {}
    for number, count in steps:
        merged[number] = merged.get(number, 0) + count
    return list(merged.items())


def _split_sum(expr: Any) -> Any:
    """A derivative of a sum as the sum of derivatives, numbers taken out; None for any other."""
    terms = sp.Add.make_args(expr.expr)
    numbers = [term.as_coeff_Mul() for term in terms]
    if len(terms) == 1 and numbers[0][0] == 1:
        return None
    return sp.Add(*(number * sp.Derivative(rest, *expr.variable_count) for number, rest in numbers))


def _has_space_derivative(expr: Any, system: PDESystem, number: int) -> bool:
    coordinate = system.coordinates[number]
    return any(coordinate in atom.variables for atom in expr.atoms(sp.Derivative))
