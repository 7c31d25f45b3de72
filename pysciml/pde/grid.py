"""Grids, and the weights of finite differences on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import mpmath
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Spacings that differ by less than this, relatively, are one.
_UNIFORM: Final = 1e-10


def fornberg(at: float, nodes: npt.ArrayLike, order: int) -> Array:
    """The weights of a derivative at a point (B. Fornberg, Math. Comp. 51 (1988) 699-706).

    Parameters
    ----------
    at : float
    nodes : array, shape (n,)
        Where values are known; all different.
    order : int
        Of the derivative; 0 interpolates.

    Returns
    -------
    array, shape (n,)
    """
    x = np.asarray(nodes, dtype=np.float64)
    n = len(x)
    weights = np.zeros((n, order + 1))
    weights[0, 0] = 1.0
    c1, c4 = 1.0, x[0] - at
    for i in range(1, n):
        c2, c5, c4 = 1.0, c4, x[i] - at
        mn = min(i, order)
        for j in range(i):
            c3 = x[i] - x[j]
            c2 *= c3
            if j == i - 1:
                for k in range(mn, 0, -1):
                    weights[i, k] = c1 * (k * weights[i - 1, k - 1] - c5 * weights[i - 1, k]) / c2
                weights[i, 0] = -c1 * c5 * weights[i - 1, 0] / c2
            for k in range(mn, 0, -1):
                weights[j, k] = (c4 * weights[j, k] - k * weights[j, k - 1]) / c3
            weights[j, 0] = c4 * weights[j, 0] / c3
        c1 = c2
    return weights[:, order]


@dataclass(frozen=True, eq=False)
class Axis:
    """One coordinate of a grid.

    Attributes
    ----------
    name : str
    number : int
        Which axis of the arrays.
    edges : array, shape (n + 1,)
        Of the cells.
    periodic : bool
    spectral : bool
    """

    name: str
    number: int
    edges: Any
    periodic: bool
    spectral: bool = False

    @property
    def n(self) -> int:
        """How many values a field has along the axis."""
        return len(self.edges) - 1

    @property
    def low(self) -> float:
        """The lower end."""
        return float(self.edges[0])

    @property
    def high(self) -> float:
        """The upper end."""
        return float(self.edges[-1])

    @property
    def length(self) -> float:
        """From end to end."""
        return self.high - self.low

    @cached_property
    def uniform(self) -> bool:
        """Whether all cells have one width."""
        widths = np.diff(self.edges)
        return bool(np.ptp(widths) <= _UNIFORM * widths.mean())

    @property
    def h(self) -> float:
        """The width of the cells of a uniform axis."""
        return self.length / self.n

    @cached_property
    def chebyshev(self) -> bool:
        """Whether the values are at Chebyshev points."""
        return self.spectral and not self.periodic

    @cached_property
    def nodes(self) -> Array:
        """Chebyshev points with both ends, rising; shape (n + 2,)."""
        theta = np.pi * np.arange(self.n + 2) / (self.n + 1)
        inner = np.sin(theta - np.pi / 2)  # -cos, symmetric to the last bit
        points = self.low + self.length * (1 + inner) / 2
        points[0], points[-1] = self.low, self.high
        return points

    @cached_property
    def centers(self) -> Array:
        """Where the values are, shape (n,)."""
        if self.chebyshev:
            return self.nodes[1:-1]
        if self.uniform:
            return self.low + self.h * (np.arange(self.n, dtype=np.float64) + 0.5)
        return (self.edges[:-1] + self.edges[1:]) / 2

    def extended(self, k: int) -> Array:
        """Centres with ``k`` cells beyond each end: the periodic images, or mirror images."""
        x = self.centers
        if self.uniform and not self.chebyshev:
            return self.low + self.h * (np.arange(-k, self.n + k, dtype=np.float64) + 0.5)
        if self.periodic:
            return np.concatenate([x[-k:] - self.length, x, x[:k] + self.length]) if k else x
        return np.concatenate([2 * self.low - x[:k][::-1], x, 2 * self.high - x[-k:][::-1]]) if k else x

    def faces(self, extra: int) -> Array:
        """Edges with ``extra`` more beyond each end."""
        e = self.edges
        if self.uniform:
            return self.low + self.h * np.arange(-extra, self.n + 1 + extra, dtype=np.float64)
        if not extra:
            return e
        if self.periodic:
            return np.concatenate([e[-1 - extra : -1] - self.length, e, e[1 : 1 + extra] + self.length])
        return np.concatenate([2 * self.low - e[1 : 1 + extra][::-1], e, 2 * self.high - e[-1 - extra : -1][::-1]])

    @cached_property
    def quadrature(self) -> Array:
        """Weights of the integral over the axis: cell widths, or Clenshaw and Curtis's with both ends."""
        if not self.chebyshev:
            return np.diff(self.edges)
        m = self.n + 1
        theta = np.pi * np.arange(m + 1) / m
        k = np.arange(1, m // 2 + 1)
        factor = np.where(2 * k == m, 1.0, 2.0) / (4.0 * k**2 - 1)
        weights = 2.0 / m * (1 - np.sum(factor * np.cos(2 * np.outer(theta, k)), axis=1))
        weights[[0, -1]] /= 2
        return weights * self.length / 2

    @cached_property
    def differentiation(self) -> Array:
        """Chebyshev's differentiation matrix on `nodes` (Trefethen, *Spectral Methods in MATLAB*, chapter 6)."""
        m = self.n + 1
        x = np.sin(np.pi * np.arange(m + 1) / m - np.pi / 2)
        c = np.ones(m + 1)
        c[[0, -1]] = 2
        c *= (-1.0) ** np.arange(m + 1)
        theta = np.pi * np.arange(m + 1) / m
        # x_i - x_j by sines of half angles, which does not cancel
        gap = 2 * np.sin((theta[:, None] + theta) / 2) * np.sin((theta[:, None] - theta) / 2)
        matrix = np.outer(c, 1 / c) / (gap + np.eye(m + 1))
        matrix -= np.diag(matrix.sum(axis=1))
        assert x.shape == c.shape
        return matrix * 2 / self.length


@dataclass(frozen=True)
class Ghosts:
    """Values beyond one end as combinations: ``ghost_k = of_end[k]*end + sum_j of_cells[k, j]*cell_j``.

    ``slope = slope_of_end*end + slope_of_cells @ cells`` is the derivative along the outward normal
    at the end. Cells are counted from the end inward, ghosts outward.
    """

    of_end: Array
    of_cells: Array
    slope_of_end: float
    slope_of_cells: Array


def ghosts(axis: Axis, side: str, count: int, order: int) -> Ghosts:
    """Extrapolate through the value at an end and the first ``order`` cells."""
    x = axis.centers
    beyond = axis.extended(count)
    if side == "lower":
        end, cells, out = axis.low, x[:order], beyond[:count][::-1]
        sign = -1.0
    else:
        end, cells, out = axis.high, x[::-1][:order], beyond[len(beyond) - count :]
        sign = 1.0
    scale = abs(cells[0] - end)  # of the order of one, for accuracy
    nodes = np.concatenate([[0.0], (cells - end) / scale])
    rows = np.array([fornberg((at - end) / scale, nodes, 0) for at in out]).reshape(count, len(nodes))
    slope = sign * fornberg(0.0, nodes, 1) / scale
    return Ghosts(rows[:, 0], rows[:, 1:], float(slope[0]), slope[1:])


@dataclass(frozen=True)
class Jets:
    """Values beyond one end from several conditions: ``ghosts = of_jets @ jets + of_cells @ cells``.

    Attributes
    ----------
    of_jets : array, shape (ghosts, conditions)
        Of the outward normal derivatives at the end that the conditions give.
    of_cells : array, shape (ghosts, cells)
    other_of_jets, other_of_cells : dict of int to array
        The same for the derivatives that are not given, by their order.
    """

    of_jets: Array
    of_cells: Array
    other_of_jets: dict[int, Array]
    other_of_cells: dict[int, Array]


def jets(axis: Axis, side: str, count: int, cells: int, given: Sequence[int], others: Sequence[int] = ()) -> Jets:
    """Extrapolate through the first cells and the given derivatives at an end.

    The polynomial of lowest degree that has these derivatives at the end, and the cells' values: there
    is one for any set of derivatives, as all cells lie on one side of the end.
    """
    x = axis.centers
    beyond = axis.extended(count)
    if side == "lower":
        inward, out = x[:cells] - axis.low, beyond[:count][::-1] - axis.low
    else:
        inward, out = axis.high - x[::-1][:cells], axis.high - beyond[len(beyond) - count :]
    scale = float(inward[-1])
    free = [k for k in range(cells + len(given)) if k not in given][:cells]
    with mpmath.workdps(60):  # Vandermonde's matrices are ill-conditioned
        at = [mpmath.mpf(float(s)) / scale for s in inward]
        inverse = mpmath.inverse(mpmath.matrix([[s**k for k in free] for s in at]))
        taylor = mpmath.matrix([[s**k / mpmath.factorial(k) for k in given] for s in at])
        # Jets as outward derivatives in x; the polynomial is in the scaled distance inward.
        size = [mpmath.mpf(-scale) ** k for k in given]

        def rule(powers: list[Any], series: list[Any]) -> tuple[list[Any], list[Any]]:
            by_cells = mpmath.matrix([powers]) * inverse
            by_jets = mpmath.matrix([series]) - by_cells * taylor
            return [by_jets[j] * size[j] for j in range(len(given))], list(by_cells)

        rows = []
        for g in out:
            s = mpmath.mpf(float(g)) / scale
            rows.append(rule([s**k for k in free], [s**k / mpmath.factorial(k) for k in given]))
        more: dict[int, tuple[list[Any], list[Any]]] = {}
        for m in others:
            factor = mpmath.factorial(m) / mpmath.mpf(-scale) ** m
            powers = [factor if k == m else mpmath.mpf(0) for k in free]
            more[m] = rule(powers, [mpmath.mpf(0)] * len(given))
        return Jets(
            np.array([[float(v) for v in row[0]] for row in rows]).reshape(count, len(given)),
            np.array([[float(v) for v in row[1]] for row in rows]).reshape(count, cells),
            {m: np.array([float(v) for v in row[0]]) for m, row in more.items()},
            {m: np.array([float(v) for v in row[1]]) for m, row in more.items()},
        )


def extrapolation(axis: Axis, side: str, count: int, order: int) -> Array:
    """Weights of values beyond an end by cells alone, shape (count, order); both counted from the end."""
    x = axis.centers
    beyond = axis.extended(count)
    cells, out = (x[:order], beyond[:count][::-1]) if side == "lower" else (x[::-1][:order], beyond[-count:])
    scale = abs(cells[1] - cells[0])
    return np.array([fornberg((at - cells[0]) / scale, (cells - cells[0]) / scale, 0) for at in out])


@dataclass(frozen=True)
class Stencil:
    """A derivative at many places: ``sum_k weights[k] * values[first + k + place]``.

    Attributes
    ----------
    first : int
        Where the first place's stencil begins in the extended array.
    weights : list of float or array
        One for each point of the stencil; arrays where they differ from place to place.
    """

    first: int
    weights: tuple[float | Array, ...]


def stencil(source: Array, places: Array, first: int, width: int, order: int, uniform: bool) -> Stencil:
    """The weights of a derivative at ``places``, place k from ``source[first + k:][:width]``."""
    if uniform:
        h = float(source[1] - source[0]) if len(source) > 1 else 1.0
        h = (source[-1] - source[0]) / (len(source) - 1) if len(source) > 1 else h
        offset = (places[0] - source[first]) / h
        offset = round(2 * offset) / 2
        weights = _clean(fornberg(offset, np.arange(width, dtype=float), order)) / h**order
        return Stencil(first, tuple(float(w) for w in weights))
    rows: list[Array] = []
    for k, at in enumerate(places):
        nodes = source[first + k : first + k + width]
        scale = float(np.abs(nodes - at).max())
        rows.append(fornberg(0.0, (nodes - at) / scale, order) / scale**order)
    return Stencil(first, tuple(np.array(rows).T))


def _clean(weights: Array) -> Array:
    """Weights that are zero, but for rounding, made zero."""
    return np.where(np.abs(weights) < 1e-13 * np.abs(weights).max(), 0.0, weights)


def central_width(derivative: int, order: int) -> int:
    """How many cells to each side a central derivative takes."""
    return (derivative + 1) // 2 - 1 + order // 2


def spread(values: npt.ArrayLike, axis: int, ndim: int) -> Array:
    """A vector along one axis of an array."""
    shape: Sequence[int] = [-1 if k == axis else 1 for k in range(ndim)]
    return np.asarray(values, dtype=np.float64).reshape(shape)
