"""A fast approximate inverse of ``I - c J``, for Krylov methods on grids.

Along each axis the Jacobian of a field is taken as one matrix, that of the middle of the domain, so
that in all it is a sum over axes and becomes diagonal in the product of their eigenvectors (fast
diagonalization: R. E. Lynch, J. R. Rice & D. H. Thomas, Numer. Math. 6 (1964) 185-199; Fourier
modes on periodic axes). What fields do to each other at a place is taken as its mean, and solved
mode by mode. For constant coefficients on a rectangle the linear part is exact; elsewhere the Krylov
method does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.jax.fields.lower import apply_along, split
from pysciml.graph import array_ops as ao
from pysciml.graph.fields import FieldGraph

#: Derivatives and boundary conditions reach no further than this, unless they reach everywhere.
_REACH: Final = 8
#: Periodic axes of more cells than this are transformed by FFT, shorter ones by a matrix.
_BY_MATRIX: Final = 160
#: Eigenvectors worse conditioned than this are replaced by those of the symmetric part.
_CONDITION: Final = 1e7
#: Matrices larger than this have their symmetric part taken at once.
_LARGE: Final = 384


class Probe(NamedTuple):
    """Vectors along one axis whose images give the columns of the axis's matrix.

    ``groups[j]`` is the probe of column j.
    """

    vectors: Array
    groups: np.ndarray[Any, np.dtype[np.int64]]
    dense: bool


def probes(graph: FieldGraph, axis: int) -> Probe:
    """Choose the probes of an axis: columns far enough apart share one."""
    n = max(shape[axis] for shape in graph.fields)
    codes = graph.used_ops(["rhs"])
    if (ao.APPLY in codes or ao.FOURIER in codes) or n <= 3 * _REACH:
        return Probe(np.eye(n), np.arange(n), dense=True)
    stride = 2 * _REACH + 1
    groups = np.arange(n) % stride
    last = n - n % stride if n % stride else n
    groups[last:] = stride + np.arange(n - last)  # around the end of a period the pattern does not go on
    vectors = np.zeros((int(groups.max()) + 1, n))
    vectors[groups, np.arange(n)] = 1.0
    return Probe(vectors, groups, dense=False)


def _mean(image: Any, axis: int | None) -> Any:
    """The mean over the middle third of all axes but one: walls are not in it."""
    for k in reversed(range(image.ndim)):
        if k != axis:
            n = image.shape[k]
            first, last = n // 3, max(n - n // 3, n // 3 + 1)
            image = jnp.mean(jax.lax.slice_in_dim(image, first, last, axis=k), axis=k)
    return image


class Measured(NamedTuple):
    """The images of the probes of every field along every axis, and what fields do to each other."""

    images: list[list[Array]]
    reaction: Array


def measure(graph: FieldGraph, every: Sequence[Probe], push: Any, dtype: Any) -> Any:
    """Push all probes through the linearized right-hand side; `collect` makes sense of the result."""
    shapes = graph.fields
    ndim = len(shapes[0])
    factors: list[list[Array]] = [[] for _ in range(ndim)]
    which: list[Array] = []
    for field in range(len(shapes)):
        for axis in range(ndim + 1):
            vectors = every[axis].vectors if axis < ndim else np.ones((1, 1))
            for vector in vectors:
                which.append(np.arange(len(shapes)) == field)
                for k in range(ndim):
                    factors[k].append(vector if k == axis else np.ones(shapes[0][k]))

    def one(probe: tuple[Any, ...]) -> Any:
        chosen, *along = probe
        vector: Any = 1.0
        for k, factor in enumerate(along):
            vector = vector * factor.reshape([-1 if j == k else 1 for j in range(ndim)])
        parts = [(chosen[f] * jnp.broadcast_to(vector, s)).ravel() for f, s in enumerate(shapes)]
        images = split(graph, push(jnp.concatenate(parts)))
        chosen_image = sum(jnp.where(chosen[f] > 0, image, 0.0) for f, image in enumerate(images))
        return [_mean(chosen_image, k) for k in range(ndim)], jnp.stack([_mean(image, None) for image in images])

    arrays = [jnp.asarray(np.array(which), dtype=dtype), *(jnp.asarray(np.array(f), dtype=dtype) for f in factors)]
    return jax.lax.map(one, tuple(arrays))


def collect(graph: FieldGraph, every: Sequence[Probe], found: Any) -> Measured:
    """What `measure` found, by field and axis."""
    along, means = found
    ndim = len(graph.fields[0])
    images: list[list[Array]] = []
    reaction: list[Array] = []
    row = 0
    for _ in graph.fields:
        images.append([])
        for axis in range(ndim):
            count = len(every[axis].vectors)
            images[-1].append(np.asarray(along[axis], dtype=np.float64)[row : row + count])
            row += count
        reaction.append(np.asarray(means, dtype=np.float64)[row])
        row += 1
    mixed = np.stack(reaction, axis=1)
    return Measured(images, np.where(np.isfinite(mixed), mixed, 0.0))


def mean_reaction(graph: FieldGraph, push: Any, dtype: Any) -> Any:
    """How fields change with each other where nothing varies in space: a small matrix."""
    sizes = [int(np.prod(shape)) for shape in graph.fields]

    def column(chosen: Any) -> Any:
        parts = [jnp.broadcast_to(chosen[f], size) for f, size in enumerate(sizes)]
        return jnp.stack([_mean(image, None) for image in split(graph, push(jnp.concatenate(parts)))])

    return jax.lax.map(column, jnp.eye(len(sizes), dtype=dtype)).T


class AxisModes(NamedTuple):
    """The transform of one axis: matrices, or None for Fourier modes."""

    forward: Any
    backward: Any


class Modes(NamedTuple):
    """What the preconditioner needs, as arrays; one entry for all fields where they share it.

    Attributes
    ----------
    transforms : per set of fields, per axis, `AxisModes`
    eigenvalues : per field, over the modes: the sum over axes
    """

    transforms: Any
    eigenvalues: Any


def matrices(graph: FieldGraph, every: Sequence[Probe], measured: Measured) -> list[list[Array]]:
    """The matrix of each field along each axis, from the images of the probes; no reaction in it."""
    result: list[list[Array]] = []
    for field, shape in enumerate(graph.fields):
        row: list[Array] = []
        for axis, n in enumerate(shape):
            probe, image = every[axis], measured.images[field][axis]
            if probe.dense:
                matrix = image.T.copy()
            else:
                matrix = np.zeros((n, n))
                near = np.arange(-_REACH, _REACH + 1)
                for j in range(n):
                    rows = (j + near) % n
                    matrix[rows, j] = image[probe.groups[j], rows]
            matrix[np.diag_indices(n)] -= measured.reaction[field, field]
            row.append(np.where(np.isfinite(matrix), matrix, 0.0))
        result.append(row)
    return result


def _circulant(matrix: Array) -> Array | None:
    """The mean first column of a matrix that is nearly circulant around its ends; None where it is not."""
    n = len(matrix)
    rolled = np.stack([np.roll(matrix[:, j], -j) for j in range(n)], axis=1)
    column = rolled.mean(axis=1)
    # A wall changes the first and the last rows; a period does not.
    ends = np.abs(rolled[:, [0, -1]] - column[:, None]).max()
    return column if ends <= 0.5 * np.abs(matrix).max() and _wraps(matrix) else None


def _wraps(matrix: Array) -> bool:
    scale = np.abs(matrix).max()
    return bool(scale == 0 or abs(matrix[0, -1]) > 1e-6 * scale)


def decompose(matrix: Array) -> tuple[AxisModes, np.ndarray[Any, Any]]:
    """The transform that makes one axis's matrix diagonal, and its eigenvalues."""
    n = len(matrix)
    column = _circulant(matrix)
    if column is not None and n > _BY_MATRIX:
        return AxisModes(None, None), np.fft.fft(column)
    symmetric = (matrix + matrix.T) / 2
    if column is not None:
        symmetric = np.stack([np.roll(column, j) for j in range(n)], axis=1)
        symmetric = (symmetric + symmetric.T) / 2
    elif n <= _LARGE and np.abs(matrix - symmetric).max() > 1e-9 * np.abs(matrix).max():
        values, vectors = np.linalg.eig(matrix)
        if np.abs(values.imag).max() <= 1e-9 * np.abs(values).max() and np.linalg.cond(vectors) < _CONDITION:
            inverse = np.linalg.inv(vectors)
            return AxisModes(inverse.real.copy(), vectors.real.copy()), values.real
    values, vectors = np.linalg.eigh(symmetric)
    return AxisModes(vectors.T.copy(), vectors), values


def make_modes(graph: FieldGraph, every: list[list[Array]]) -> tuple[Modes, bool]:
    """The transforms of all fields, and whether all share one set of eigenvectors."""
    shared = len(set(graph.fields)) == 1 and _same_directions(every)
    transforms: list[list[AxisModes]] = []
    eigenvalues: list[Any] = []
    firsts: list[Any] = []
    for field, row in enumerate(every):
        pairs: list[tuple[AxisModes, np.ndarray[Any, Any]]] = []
        for axis, matrix in enumerate(row):
            if shared and field:
                scale = _scale(matrix, every[0][axis])
                pairs.append((transforms[0][axis], scale * firsts[axis]))
            else:
                pairs.append(decompose(matrix))
        if field == 0:
            firsts = [values for _, values in pairs]
        if not (shared and field):
            transforms.append([modes for modes, _ in pairs])
        total: Any = 0.0
        halved = [k for k, (modes, _) in enumerate(pairs) if modes.forward is None]
        for axis, (_, values) in enumerate(pairs):
            if halved and axis == halved[-1]:  # the last axis of a real transform keeps half of the modes
                values = values[: len(values) // 2 + 1]
            total = total + values.reshape([-1 if k == axis else 1 for k in range(len(pairs))])
        eigenvalues.append(np.asarray(total))
    return Modes(transforms, eigenvalues), shared


def _scale(matrix: Array, other: Array) -> float:
    size = float(np.sum(other * other))
    return float(np.sum(matrix * other) / size) if size else 0.0


def _same_directions(every: list[list[Array]]) -> bool:
    for row in every[1:]:
        for matrix, other in zip(row, every[0], strict=True):
            gap = np.abs(matrix - _scale(matrix, other) * other).max()
            if gap > 0.05 * np.abs(matrix).max():
                return False
            if not np.any(other) and np.any(matrix):
                return False
    return True


def _transform(x: Any, axes: Sequence[AxisModes], *, forward: bool, shape: tuple[int, ...]) -> Any:
    """To modes or back; a leading axis of fields stays."""
    lead = x.ndim - len(shape)
    fourier = [k + lead for k, modes in enumerate(axes) if modes.forward is None]
    if not forward and fourier:
        x = jnp.fft.irfftn(x, s=[shape[k - lead] for k in fourier], axes=fourier)
    for k, modes in enumerate(axes):
        if modes.forward is not None:
            x = apply_along(modes.forward if forward else modes.backward, x, k + lead)
    if forward and fourier:
        x = jnp.fft.rfftn(x, axes=fourier)
    return x


def make_inverse(graph: FieldGraph, modes: Modes, shared: bool, reaction: Any, c: Any) -> Any:
    """The function ``x -> (I - c J)^-1 x``, approximately."""
    n_fields = len(graph.fields)
    if not shared:
        diagonals = [
            _safe(1.0 - c * (modes.eigenvalues[f] + jnp.minimum(reaction[f, f], 0.0))) for f in range(n_fields)
        ]

        def separate(x: Any) -> Any:
            parts = []
            for f, part in enumerate(split(graph, x)):
                inner = _transform(part, modes.transforms[f], forward=True, shape=part.shape)
                inner = inner / diagonals[f]
                parts.append(_transform(inner, modes.transforms[f], forward=False, shape=part.shape).ravel())
            return jnp.concatenate(parts)

        return separate
    rows = [
        [
            (1.0 - c * (modes.eigenvalues[f] + reaction[f, f]) if f == g else -c * reaction[f, g])
            for g in range(n_fields)
        ]
        for f in range(n_fields)
    ]
    inverse = _invert(rows)
    shape = graph.fields[0]

    def together(x: Any) -> Any:
        inner = _transform(x.reshape(n_fields, *shape), modes.transforms[0], forward=True, shape=shape)
        mixed = jnp.stack([sum(inverse[f][g] * inner[g] for g in range(n_fields)) for f in range(n_fields)])
        return _transform(mixed, modes.transforms[0], forward=False, shape=shape).ravel()

    return together


def _safe(x: Any) -> Any:
    """Keep away from zero what divides."""
    size = jnp.abs(x)
    return jnp.where(size < 0.1, 0.1, x)


def _invert(rows: list[list[Any]]) -> list[list[Any]]:
    """The inverse of a small matrix at every mode, by elimination."""
    n = len(rows)
    left = [list(row) for row in rows]
    right: list[list[Any]] = [[1.0 if i == j else 0.0 for j in range(n)] for i in range(n)]
    for k in range(n):
        pivot = _safe(left[k][k])
        for j in range(n):
            left[k][j], right[k][j] = left[k][j] / pivot, right[k][j] / pivot
        for i in range(n):
            if i == k:
                continue
            factor = left[i][k]
            for j in range(n):
                left[i][j] = left[i][j] - factor * left[k][j]
                right[i][j] = right[i][j] - factor * right[k][j]
    return right
