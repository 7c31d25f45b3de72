"""A fast approximate inverse of ``I - c J``, for Krylov methods on grids.

Along each axis the Jacobian of a field is taken as one matrix, that of the middle of the domain, so
that in all it is a sum over axes and becomes diagonal in the product of their eigenvectors (fast
diagonalization: R. E. Lynch, J. R. Rice & D. H. Thomas, Numer. Math. 6 (1964) 185-199; Fourier
modes on periodic axes). What fields do to each other at a place is taken as its mean, and solved
mode by mode. For constant coefficients on a rectangle the linear part is exact; elsewhere the Krylov
method does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array
from pysciml.engines.fields.operator import Operator
from pysciml.graph import array_ops as ao
from pysciml.graph.field_jacobian import near_nodes
from pysciml.graph.field_program import apply_matrix
from pysciml.graph.fields import FieldGraph

Values = Any  # an array, real or complex

#: Derivatives and boundary conditions reach no further than this, unless they reach everywhere.
_REACH: Final = 6
#: Periodic axes of more cells than this are transformed by FFT, shorter ones by a matrix.
_BY_MATRIX: Final = 96
#: Eigenvectors worse conditioned than this are replaced by those of the symmetric part.
_CONDITION: Final = 1e7
#: At about as many places it is asked how fast things happen there.
_PLACES: Final = 1024
#: Matrices larger than this have their symmetric part taken at once.
_LARGE: Final = 384


class AxisModes(NamedTuple):
    """The transform of one axis: to modes and back by matrices, or None for Fourier modes."""

    forward: Array | None
    backward: Array | None


class Preconditioner:
    """Eigenvectors and eigenvalues of an operator's linear part, measured by probing it.

    Parameters
    ----------
    operator : Operator
    t, y
        Where it is linearized.

    Attributes
    ----------
    fastest : float
        The largest rate of decay, by transport in space and by what happens at one place.
    """

    def __init__(self, operator: Operator, t: float, y: Array) -> None:
        self._graph = operator.graph
        near = operator.near or operator.push  # what was eliminated is smooth, or in the mean reaction
        push = lambda v: finite(near(t, y, v))  # noqa: E731
        reaction = mean_reaction(self._graph, push)
        every = [
            [_matrix(self._graph, push, f, axis, reaction[f, f]) for axis in range(len(shape))]
            for f, shape in enumerate(self._graph.fields)
        ]
        self.shared = len(set(self._graph.fields)) == 1 and _same_directions(every)
        self.transforms: list[list[AxisModes]] = []
        self.eigenvalues: list[Values] = []
        firsts: list[Values] = []
        for f, row in enumerate(every):
            if self.shared and f:
                lists = [_scale(m, o) * v for m, o, v in zip(row, every[0], firsts, strict=True)]
                transforms = self.transforms[0]
            else:
                found = [decompose(matrix) for matrix in row]
                transforms = [modes for modes, _ in found]
                lists = [values for _, values in found]
                self.transforms.append(transforms)
            firsts = firsts or lists
            self.eigenvalues.append(_sum(lists, transforms))
        decay = _fastest_reaction(self._graph, lambda v: finite(operator.push(t, y, v)))
        self.fastest = decay + max(float(np.max(-values.real, initial=0.0)) for values in self.eigenvalues)

    def inverse(self, reaction: Array, c: float) -> Callable[[Array], Array]:
        """The function ``x -> (I - c J)^-1 x``, approximately."""
        graph = self._graph
        n = len(graph.fields)
        if not self.shared:
            diagonals = [_safe(1.0 - c * (self.eigenvalues[f] + min(float(reaction[f, f]), 0.0))) for f in range(n)]

            def separate(x: Array) -> Array:
                parts: list[Array] = []
                for f, part in enumerate(graph.split(x)):
                    modes = _forward(part, self.transforms[f]) / diagonals[f]
                    parts.append(_backward(modes, self.transforms[f], part.shape).ravel())
                return np.concatenate(parts)

            return separate
        shape = graph.fields[0]
        whole = np.broadcast_shapes(*(v.shape for v in self.eigenvalues))
        rows = [
            [
                1.0 - c * (self.eigenvalues[f] + reaction[f, f]) if f == g else np.full(whole, -c * reaction[f, g])
                for g in range(n)
            ]
            for f in range(n)
        ]
        blocks = _invert(rows)

        def together(x: Array) -> Array:
            parts = [_forward(part, self.transforms[0]) for part in x.reshape(n, *shape)]
            mixed = [sum(blocks[f][g] * parts[g] for g in range(n)) for f in range(n)]
            return np.concatenate([_backward(np.asarray(m), self.transforms[0], shape).ravel() for m in mixed])

        return together


def finite(x: Array) -> Array:
    """Zeros for what is not finite."""
    return np.where(np.isfinite(x), x, 0.0)


def _reactions(graph: FieldGraph, push: Callable[[Array], Array]) -> list[list[Array]]:
    """How fields change with each other where nothing varies in space: for each field what it does to all."""
    images: list[list[Array]] = []
    for f in range(len(graph.fields)):
        parts = [np.full(int(np.prod(s)), 1.0 if k == f else 0.0) for k, s in enumerate(graph.fields)]
        images.append(graph.split(push(np.concatenate(parts))))
    return images


def mean_reaction(graph: FieldGraph, push: Callable[[Array], Array]) -> Array:
    """How fields change with each other where nothing varies in space: a small matrix."""
    return np.array([[float(_mean(image, None)) for image in row] for row in _reactions(graph, push)]).T


def _fastest_reaction(graph: FieldGraph, push: Callable[[Array], Array]) -> float:
    """The largest rate of decay at one of some places away from walls."""
    shape = graph.fields[0]
    if set(graph.fields) != {shape}:
        return max(0.0, float(np.max(-np.linalg.eigvals(mean_reaction(graph, push)).real)))
    inner = tuple(slice(_REACH, n - _REACH) if n > 3 * _REACH else slice(n // 3, n - n // 3) for n in shape)
    cells = np.array([[image[inner].ravel() for image in row] for row in _reactions(graph, push)]).T
    some = cells[:: max(1, len(cells) // _PLACES)]
    return max(0.0, float(np.max(-np.linalg.eigvals(some).real)))


def _mean(image: Array, axis: int | None) -> Array:
    """The mean over the middle third of all axes but one: walls are not in it."""
    for k in reversed(range(image.ndim)):
        if k != axis:
            n = image.shape[k]
            image = np.mean(image[(slice(None),) * k + (slice(n // 3, max(n - n // 3, n // 3 + 1)),)], axis=k)
    return image


def _groups(graph: FieldGraph, n: int) -> npt.NDArray[np.int64]:
    """Which probe each column of an axis is in: columns far enough apart share one."""
    codes = set(graph.op[near_nodes(graph, "rhs")].tolist())
    if ao.APPLY in codes or ao.FOURIER in codes or n <= 3 * _REACH:
        return np.arange(n)
    stride = 2 * _REACH + 1
    groups = np.arange(n) % stride
    last = n - n % stride
    groups[last:] = stride + np.arange(n - last)  # around the end of a period the pattern does not go on
    return groups


def _matrix(graph: FieldGraph, push: Callable[[Array], Array], field: int, axis: int, reaction: float) -> Array:
    """The matrix of a field along an axis; what happens at each place by itself is not in it."""
    shape = graph.fields[field]
    n = shape[axis]
    groups = _groups(graph, n)
    dense = len(set(groups.tolist())) == n
    matrix = np.zeros((n, n))
    near = np.arange(-_REACH, _REACH + 1)
    for group in range(int(groups.max()) + 1):
        columns = np.flatnonzero(groups == group)
        vector = np.zeros(n)
        vector[columns] = 1.0
        probe = np.broadcast_to(vector.reshape([-1 if k == axis else 1 for k in range(len(shape))]), shape)
        parts = [probe.ravel() if k == field else np.zeros(int(np.prod(s))) for k, s in enumerate(graph.fields)]
        image = _mean(graph.split(push(np.concatenate(parts)))[field], axis)
        if dense:
            matrix[:, columns[0]] = image
        else:
            for j in columns:
                rows = (j + near) % n
                matrix[rows, j] = image[rows]
    matrix[np.diag_indices(n)] -= reaction
    return matrix


def _circulant(matrix: Array) -> Array | None:
    """The mean first column of a matrix that wraps around; None where the axis has ends."""
    scale = float(np.abs(matrix).max())
    if scale == 0 or abs(matrix[0, -1]) <= 1e-6 * scale:
        return None
    return np.mean([np.roll(matrix[:, j], -j) for j in range(len(matrix))], axis=0)


def decompose(matrix: Array) -> tuple[AxisModes, Values]:
    """The transform that makes one axis's matrix diagonal, and its eigenvalues."""
    n = len(matrix)
    column = _circulant(matrix)
    if column is not None and n > _BY_MATRIX:
        return AxisModes(None, None), np.fft.fft(column)
    if column is not None:
        matrix = np.stack([np.roll(column, j) for j in range(n)], axis=1)
    symmetric = (matrix + matrix.T) / 2
    if column is None and n <= _LARGE and np.abs(matrix - symmetric).max() > 1e-9 * np.abs(matrix).max():
        found: Any = np.linalg.eig(matrix)
        values, vectors = found
        if np.abs(values.imag).max() <= 1e-9 * np.abs(values).max() and np.linalg.cond(vectors) < _CONDITION:
            return AxisModes(np.linalg.inv(vectors).real.copy(), vectors.real.copy()), values.real
    values, vectors = np.linalg.eigh(symmetric)
    return AxisModes(vectors.T.copy(), vectors), values


def _sum(lists: Sequence[Values], transforms: Sequence[AxisModes]) -> Values:
    """The sums of the eigenvalues of all axes, in the layout of the transformed fields."""
    fourier = [k for k, modes in enumerate(transforms) if modes.forward is None]
    total: Any = 0.0
    for axis, values in enumerate(lists):
        if fourier and axis == fourier[-1]:  # the last axis of a real transform keeps half of the modes
            values = values[: len(values) // 2 + 1]
        total = total + values.reshape([-1 if k == axis else 1 for k in range(len(lists))])
    return np.asarray(total)


def _scale(matrix: Array, other: Array) -> float:
    size = float(np.sum(other * other))
    return float(np.sum(matrix * other) / size) if size else 0.0


def _same_directions(every: list[list[Array]]) -> bool:
    for row in every[1:]:
        for matrix, other in zip(row, every[0], strict=True):
            gap = np.abs(matrix - _scale(matrix, other) * other).max()
            if gap > 0.05 * np.abs(matrix).max():
                return False
    return True


def _forward(x: Array, axes: Sequence[AxisModes]) -> Values:
    from scipy import fft

    fourier = [k for k, modes in enumerate(axes) if modes.forward is None]
    result: Values = x
    for k, modes in enumerate(axes):
        if modes.forward is not None:
            result = apply_matrix(modes.forward, result, k)
    return np.asarray(fft.rfftn(result, axes=fourier)) if fourier else result


def _backward(x: Values, axes: Sequence[AxisModes], shape: tuple[int, ...]) -> Array:
    from scipy import fft

    fourier = [k for k, modes in enumerate(axes) if modes.forward is None]
    result: Any = fft.irfftn(x, s=[shape[k] for k in fourier], axes=fourier) if fourier else x
    for k, modes in enumerate(axes):
        if modes.backward is not None:
            result = apply_matrix(modes.backward, result, k)
    return np.asarray(result)


def _safe(x: Values) -> Values:
    """Keep away from zero what divides."""
    return np.where(np.abs(x) < 0.1, 0.1, x)


def _invert(rows: list[list[Values]]) -> list[list[Any]]:
    """The inverse of a small matrix at every mode, by elimination."""
    n = len(rows)
    left: list[list[Any]] = [list(row) for row in rows]
    right: list[list[Any]] = [[1.0 if i == j else 0.0 for j in range(n)] for i in range(n)]
    for k in range(n):
        pivot = _safe(left[k][k])
        left[k] = [entry / pivot for entry in left[k]]
        right[k] = [entry / pivot for entry in right[k]]
        for i in range(n):
            if i != k:
                factor = left[i][k]
                left[i] = [a - factor * b for a, b in zip(left[i], left[k], strict=True)]
                right[i] = [a - factor * b for a, b in zip(right[i], right[k], strict=True)]
    return right
