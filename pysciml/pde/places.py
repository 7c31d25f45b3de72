"""Values of a field between the points of its grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pysciml.engines.base import Array
from pysciml.pde.grid import Axis, fornberg

if TYPE_CHECKING:
    import scipy.sparse

#: Places this near to a point of the grid, relative to the distance of its neighbours, are that point.
_SAME = 1e-9


def along(axis: Axis, places: Array, count: int) -> tuple[Any, Array]:
    """Interpolate along one axis: which points, and with which weights; both of shape (n, count).

    The polynomial through the ``count`` nearest points; around the end of a period it goes on.
    """
    count = min(count, axis.n)
    extra = count if axis.periodic else 0
    points = axis.extended(extra) if extra else axis.centers
    first = np.searchsorted(points, places) - count // 2
    first = np.clip(first, 0, len(points) - count)
    where = first[:, None] + np.arange(count)
    weights = np.empty(where.shape)
    for k, place in enumerate(places.tolist()):
        near = points[where[k]]
        gap = np.abs(near - place)
        hit = int(np.argmin(gap))
        if gap[hit] <= _SAME * (near[-1] - near[0]):
            weights[k] = np.arange(count) == hit
        else:
            weights[k] = fornberg(place, near, 0)
    return (where - extra) % axis.n, weights


def interpolation(
    axes: list[Axis], shape: tuple[int, ...], places: list[Array], count: int
) -> scipy.sparse.csr_array[Any]:
    """The matrix from a field's values to those at some places.

    Parameters
    ----------
    axes : list of Axis
    shape : tuple of int
        Of the field; along an axis of length one it does not vary.
    places : list of array, shape (n_places,)
        One array for each axis; not used where the field does not vary.
    count : int
        How many points along each axis one value is made of.

    Returns
    -------
    csr_array, shape (n_places, size of the field)
    """
    from scipy import sparse

    n = max((len(p) for p in places), default=1)
    columns, weights = np.zeros((n, 1), dtype=np.int64), np.ones((n, 1))
    for axis, size, here in zip(axes, shape, places, strict=True):
        if size == 1:
            continue
        where, share = along(axis, here, count)
        columns = (columns[:, :, None] * size + where[:, None, :]).reshape(n, -1)
        weights = (weights[:, :, None] * share[:, None, :]).reshape(n, -1)
    rows = np.repeat(np.arange(n), columns.shape[1])
    matrix = sparse.csr_array((weights.ravel(), (rows, columns.ravel())), shape=(n, int(np.prod(shape))))
    matrix.eliminate_zeros()
    return matrix
