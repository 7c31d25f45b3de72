"""Upwind and WENO differences of what carries a field along.

For ``D(u) = -c*D(u, X) + ...`` the derivative is taken from the side it comes from, by the sign of
``c`` at each cell. For conservation laws, ``D(u) = -D(f(u), X) + ...``, the flux is split into a
part that goes up and one that goes down (Lax and Friedrichs), ``(f ± a u)/2`` with ``a`` the largest
wave speed on each line of the grid, and each part is reconstructed at the faces from its own side:
C.-W. Shu, *Essentially non-oscillatory and weighted essentially non-oscillatory schemes for
hyperbolic conservation laws*, ICASE report 97-65 (1997), procedures 2.2 and 2.10; the weights of
G.-S. Jiang & C.-W. Shu, J. Comput. Phys. 126 (1996) 202-228.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sympy as sp

from pysciml.errors import UnsupportedError
from pysciml.graph import ops
from pysciml.graph.field_builder import FieldBuilder

if TYPE_CHECKING:
    from pysciml.pde.lowering import Lowering

_EPSILON: Final = 1e-6
#: One over the weight of a cell's end in the quadrature that is exact for polynomials of degree 5.
_POINTS: Final = 12.0
#: Keeps from dividing by zero.
_TINY: Final = 1e-30

#: The flux at a face from the cells on one side, nearest first, and the one beyond: weights of
#: (beyond, nearest, next, ...).
_UPWIND: Final = {1: (0.0, 1.0), 2: (0.0, 1.5, -0.5), 3: (1 / 3, 5 / 6, -1 / 6)}


def rate(low: Lowering, state: int, expr: Any) -> int:
    """A right-hand side, term by term; what one axis carries along is one flux."""
    b = low.b
    nodes: list[int] = []
    fluxes: dict[int, Any] = {}
    for term in sp.Add.make_args(sp.expand_mul(expr, deep=False)):
        _sort(low, state, term, nodes, fluxes)
    nodes += [_flux(low, state, flux, number) for number, flux in fluxes.items()]
    if low.system.states[state].function in low.positive and not fluxes:
        raise UnsupportedError("positive= limits fluxes, and it has none: write what carries it along as -D(f, X)")
    return b.sum(nodes)


def _sort(low: Lowering, state: int, term: Any, nodes: list[int], fluxes: dict[int, Any]) -> None:
    """Put a term among the fluxes, or write it."""
    factors = list(sp.Mul.make_args(term))
    slopes = [f for f in factors if isinstance(f, sp.Derivative) and _first_order(low, f)]
    if len(slopes) != 1 or sum(f.has(sp.Derivative) for f in factors) != 1:
        nodes.append(low(term))
        return
    slope: Any = slopes[0]
    x = slope.variables[0]
    number = low.number[x]
    coefficient = sp.Mul(*[f for f in factors if f is not slope])
    constant = not (coefficient.free_symbols - set(low.system.parameters) or coefficient.atoms(sp.Function))
    positive = low.system.states[state].function in low.positive
    if low._state_of(slope.expr) == state and not (positive and constant):
        if positive:
            raise UnsupportedError(f"positive= limits fluxes: write {term} as -D(f, {x}), which conserves")
        nodes.append(_carried(low, state, coefficient, number))
        return
    parts = sp.Add.make_args(sp.expand_mul(slope.expr, deep=False))
    carried = [p for p in parts if not p.has(sp.Derivative)]
    other_state = low._state_of(slope.expr)
    if other_state is not None and low.system.orders[low.system.states[state].function] != 1:
        carried = []  # a second time derivative: waves, which central differences carry without loss
    if not constant or not carried:
        nodes.append(low(term))
        return
    other = [p for p in parts if p.has(sp.Derivative)]
    if other:  # a flux with a diffusive part: that part is central
        central: Any = coefficient * sp.Derivative(sp.Add(*other), x)
        nodes.append(low(central))
    fluxes[number] = fluxes.get(number, sp.Integer(0)) + coefficient * sp.Add(*carried)


def _first_order(low: Lowering, derivative: Any) -> bool:
    pairs: Any = derivative.variable_count
    return len(pairs) == 1 and pairs[0][0] in low.number and pairs[0][1] == 1


def _carried(low: Lowering, state: int, coefficient: Any, number: int) -> int:
    """``coefficient * D(u, X)``: the velocity is minus the coefficient."""
    b, axis = low.b, low.axes[number]
    width = 3 if low.scheme == "weno" else low.order
    if not axis.uniform:
        return low(coefficient * sp.Derivative(low.system.states[state].function, low.system.coordinates[number]))
    padded = low.padded(state, number, width)
    h = axis.h
    n = axis.n
    differences = [
        b.mul(b.constant(1 / h), b.sub(b.slice(padded, number, k + 1, n), b.slice(padded, number, k, n)))
        for k in range(2 * width)
    ]  # differences[k] is from cell k - width to the next
    from_below = _one_sided(low, differences, +1, width)
    from_above = _one_sided(low, differences, -1, width)
    c = low(coefficient)
    up = b.call(ops.LE, c, b.zero)  # the velocity -c is upward
    return b.mul(c, b.call(ops.SELECT, up, from_below, from_above))


def _one_sided(low: Lowering, differences: Sequence[int], direction: int, width: int) -> int:
    """The derivative from one side; the differences are those between neighbouring cells."""
    b = low.b
    if direction > 0:
        # nearest first: the difference that ends at the cell, then those before it; the one beyond
        near = [differences[width - 1 - k] for k in range(width)]
        beyond = differences[width]
    else:
        near = [differences[width + k] for k in range(width)]
        beyond = differences[width - 1]
    if low.scheme == "weno":
        further = differences[width + 1] if direction > 0 else differences[width - 2]
        return _weno5(b, [near[2], near[1], near[0], beyond, further])
    weights = _UPWIND[low.order]
    return _combination(b, weights, [beyond, *near])


def _combination(b: FieldBuilder, weights: Sequence[float], nodes: Sequence[int]) -> int:
    return b.sum([b.mul(b.constant(w), node) for w, node in zip(weights, nodes, strict=False) if w])


def _weno5(b: FieldBuilder, v: Sequence[int]) -> int:
    """The value at the face between ``v[2]`` and ``v[3]``, mostly from the left."""

    def c(value: float, node: int) -> int:
        return b.mul(b.constant(value), node)

    def square(node: int) -> int:
        return b.mul(node, node)

    candidates = [
        b.sum([c(1 / 3, v[0]), c(-7 / 6, v[1]), c(11 / 6, v[2])]),
        b.sum([c(-1 / 6, v[1]), c(5 / 6, v[2]), c(1 / 3, v[3])]),
        b.sum([c(1 / 3, v[2]), c(5 / 6, v[3]), c(-1 / 6, v[4])]),
    ]
    second = [b.add(b.sub(v[k], c(2.0, v[k + 1])), v[k + 2]) for k in range(3)]
    first = [
        b.sum([v[0], c(-4.0, v[1]), c(3.0, v[2])]),
        b.sub(v[1], v[3]),
        b.sum([c(3.0, v[2]), c(-4.0, v[3]), v[4]]),
    ]
    smooth = [b.add(c(13 / 12, square(s)), c(0.25, square(f))) for s, f in zip(second, first, strict=True)]
    weights = [
        b.div(b.constant(share), square(b.add(b.constant(_EPSILON), s)))
        for share, s in zip((0.1, 0.6, 0.3), smooth, strict=True)
    ]
    total = b.sum([b.mul(w, q) for w, q in zip(weights, candidates, strict=True)])
    return b.div(total, b.sum(weights))


class _Split(NamedTuple):
    """The parts of a split flux at the faces of an axis, rising and falling.

    Attributes
    ----------
    means : (int, int)
        In the cell each part comes from.
    faces : (int, int)
        Reconstructed at the face.
    """

    means: tuple[int, int]
    faces: tuple[int, int]


def _flux(low: Lowering, state: int, flux: Any, number: int) -> int:
    """``D(g, X)`` for a flux ``g = -f``: the difference of the split flux at the faces."""
    b, axis = low.b, low.axes[number]
    split = _split(low, state, flux, number)
    total = b.add(*_limited(low, state, split, number))
    difference = b.sub(b.slice(total, number, 1, axis.n), b.slice(total, number, 0, axis.n))
    if axis.uniform:
        return b.mul(b.constant(-1 / axis.h), difference)
    raise UnsupportedError(f"scheme={low.scheme!r} needs cells of one width in {axis.name}")


def _split(low: Lowering, state: int, flux: Any, number: int) -> _Split:
    from pysciml.pde.lowering import Extended

    b, axis = low.b, low.axes[number]
    width = 3 if low.scheme == "weno" else max(low.order, 1)
    place = Extended(number, width)
    f = low.extend_full(low(-flux, place), number, width)
    u = low.padded(state, number, width)
    speed = _wave_speed(low, state, number, place)
    a = b.largest(low.extend_full(speed, number, width), number) if b.shape(speed) else speed
    up = b.mul(b.constant(0.5), b.add(f, b.mul(a, u)))
    down = b.mul(b.constant(0.5), b.sub(f, b.mul(a, u)))
    faces = axis.n + 1
    # face k lies between the cells k - 1 and k, which are k + width - 1 and k + width when extended

    def cells(node: int, offset: int) -> int:
        return b.slice(node, number, width + offset, faces)

    if low.scheme == "weno":
        rising = _weno5(b, [cells(up, k) for k in (-3, -2, -1, 0, 1)])
        falling = _weno5(b, [cells(down, k) for k in (2, 1, 0, -1, -2)])
    else:
        weights = _UPWIND[low.order]
        rising = _combination(b, weights, [cells(up, k) for k in (0, -1, -2)[: low.order + 1]])
        falling = _combination(b, weights, [cells(down, k) for k in (-1, 0, 1)[: low.order + 1]])
    return _Split((cells(up, -1), cells(down, 0)), (rising, falling))


def _limited(low: Lowering, state: int, split: _Split, number: int) -> tuple[int, int]:
    """The split flux at the faces, moved towards its cells' means where a field would become negative.

    A mean is a twelfth of the value at the face and eleven twelfths of a value elsewhere in the
    cell (the quadrature of Gauss and Lobatto that is exact for the reconstruction's degree). If both
    are not negative, neither is the mean after a step of Euler's method of at most ``h/(12 a)``
    along each axis, nor after one of any method that is made of such steps: X. Zhang & C.-W. Shu,
    J. Comput. Phys. 229 (2010) 3091-3120, with both values bounded through one: X. Zhang, Y. Xia &
    C.-W. Shu, J. Sci. Comput. 50 (2012) 29-62; for split fluxes at points: X. Zhang & C.-W. Shu,
    J. Comput. Phys. 231 (2012) 2245-2258. Fields that are carried together are moved together.
    """
    b = low.b
    fluxes = _fluxes(low, number)
    fields, jacobian = _flux_jacobian(low, fluxes)
    target = low.system.states[state].function
    together = [fields[k] for k in _coupled(jacobian, fields.index(target))] if low.positive else []
    leading = [f for f in together if f in low.positive]
    if not leading:
        return split.faces
    found: list[int] = []
    for side, sign in enumerate((1.0, -1.0)):
        shares: list[int] = []
        for field in leading:
            other = _split(low, low.state[field, 0], -fluxes[field], number)
            mean = b.call(ops.MAX, b.mul(b.constant(sign), other.means[side]), b.zero)
            gap = b.sub(mean, b.mul(b.constant(sign), other.faces[side]))
            room = b.call(ops.MAX, gap, b.mul(b.constant(-1 / (_POINTS - 1)), gap))
            shares.append(b.div(mean, b.call(ops.MAX, room, b.constant(_TINY))))
        share = b.one
        for one in shares:
            share = b.call(ops.MIN, share, one)
        mean, face = split.means[side], split.faces[side]
        moved = b.add(mean, b.mul(share, b.sub(face, mean)))
        if target in leading:  # rounding, and means that are not positive themselves
            moved = b.call(ops.MAX if sign > 0 else ops.MIN, moved, b.zero)
        found.append(moved)
    return found[0], found[1]


def _wave_speed(low: Lowering, state: int, number: int, place: Any) -> int:
    """The largest speed of the waves along an axis: the spectral radius of the flux Jacobian, or a bound."""
    fields, jacobian = _flux_jacobian(low, _fluxes(low, number))
    target = low.system.states[state].function
    # Fields that do not act on each other have speeds of their own.
    block = _coupled(jacobian, fields.index(target))
    jacobian = jacobian[block, block]
    b = low.b
    entries = [[low(jacobian[i, j], place) for j in range(len(block))] for i in range(len(block))]
    if len(block) == 1:
        return b.call(ops.ABS, entries[0][0])
    if len(block) == 2:
        half = b.mul(b.constant(0.5), b.add(entries[0][0], entries[1][1]))
        gap = b.mul(b.constant(0.5), b.sub(entries[0][0], entries[1][1]))
        inside = b.add(b.mul(gap, gap), b.mul(entries[0][1], entries[1][0]))
        return b.add(b.call(ops.ABS, half), b.call(ops.SQRT, b.call(ops.ABS, inside)))
    rows = [b.sum([b.call(ops.ABS, entry) for entry in row]) for row in entries]
    largest = rows[0]
    for row in rows[1:]:
        largest = b.call(ops.MAX, largest, row)
    return largest


def _flux_jacobian(low: Lowering, fluxes: dict[Any, Any]) -> tuple[list[Any], Any]:
    fields = [s.function for s in low.system.states if s.order == 0 and s.function in fluxes]
    return fields, sp.Matrix([[sp.diff(fluxes[f], g) for g in fields] for f in fields])


def _coupled(jacobian: Any, start: int) -> list[int]:
    found, stack = {start}, [start]
    while stack:
        i = stack.pop()
        for j in range(jacobian.shape[0]):
            if j not in found and (jacobian[i, j] != 0 or jacobian[j, i] != 0):
                found.add(j)
                stack.append(j)
    return sorted(found)


def _fluxes(low: Lowering, number: int) -> dict[Any, Any]:
    """The flux of every field along an axis: ``f`` in ``D(u) = -D(f, X)``."""
    fluxes: dict[Any, Any] = {}
    x = low.system.coordinates[number]
    for field, expr in low.system.rates.items():
        total: Any = sp.Integer(0)
        for term in sp.Add.make_args(sp.expand_mul(expr, deep=False)):
            for factor in sp.Mul.make_args(term):
                if isinstance(factor, sp.Derivative) and factor.variables == (x,):
                    coefficient = term / factor
                    carried = [
                        p for p in sp.Add.make_args(sp.expand_mul(factor.expr, deep=False)) if not p.has(sp.Derivative)
                    ]
                    total -= coefficient * sp.Add(*carried)
        fluxes[field] = total
    return fluxes
