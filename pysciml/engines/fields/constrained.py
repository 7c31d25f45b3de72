"""Fields without time derivatives among others: ``M y' = f``, with a sparse factorization of ``M - c J``.

What follows from other fields at every instant is tied to them so strongly (fourth-order equations split in
two, potentials of charges that move) that a preconditioner has to know all couplings: it is the factorized
matrix, kept while ``c`` changes little, and the Krylov method mends what has changed since.

Where only Neumann or periodic conditions are posed for a field a constant is open. Its mean is kept, and its
equation has to hold up to a constant only: what rounding and discretization leave of the condition under
which such equations have a solution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array
from pysciml.graph.fields import FieldGraph

if TYPE_CHECKING:
    from pysciml.engines.fields.operator import Operator

#: Row and column sums below this, relative to the largest entry, are zero.
_ZERO: Final = 1e-11
#: What is added to the diagonal of a field whose constant is open, relative to its largest entry.
_SHIFT: Final = 1e-8
#: The factorization is kept while ``c`` changes by less than this factor.
_NEAR: Final = 1.4
#: A pivot is taken from the diagonal unless it is smaller than this, relative to the largest of its column.
_PIVOT: Final = 0.01


class Open(NamedTuple):
    """A field without time derivatives of which a constant is open.

    Attributes
    ----------
    cells : slice
        Of the state.
    weights : array
        Their sum with the left-hand sides of its equations is zero whatever the field.
    """

    cells: slice
    weights: Array


def floating(graph: FieldGraph, jacobian: Any, differential: npt.NDArray[np.bool_]) -> list[Open]:
    """The fields without time derivatives of which a constant is open."""
    found: list[Open] = []
    rows = jacobian[np.flatnonzero(~differential)]
    for start, shape in zip(graph.offsets, graph.fields, strict=False):
        cells = slice(int(start), int(start) + int(np.prod(shape)))
        block = jacobian[cells, cells]
        level = _ZERO * float(np.abs(block.data).max(initial=0.0))
        if differential[cells.start] or level == 0 or np.abs(rows[:, cells].sum(axis=1)).max() > level:
            continue
        weights = _left(block, level)
        if weights is not None:
            found.append(Open(cells, weights))
    return found


def _left(block: Any, level: float) -> Array | None:
    """Weights of rows whose sum is zero; ones on a grid of equal cells."""
    weights = np.ones(block.shape[0])
    if np.abs(block.sum(axis=0)).max() > level:
        factors = _factors(block + _shift(block))
        if factors is None:
            return None
        for _ in range(3):  # inverse iteration
            weights = factors.solve(weights, trans="T")
            weights /= weights.mean()
        if np.abs(block.T @ weights).max() > 1e3 * level * np.abs(weights).max():
            return None
    return weights / weights.sum()


def project(x: Array, free: list[Open]) -> Array:
    """Take away the mean of the fields of which a constant is open."""
    for cells, _ in free:
        x[cells] -= x[cells].mean()
    return x


def balance(r: Array, free: list[Open]) -> Array:
    """Take away from a residual what no values of these fields could mend."""
    for cells, weights in free:
        r[cells] -= np.dot(weights, r[cells])
    return r


def _shift(block: Any) -> Any:
    from scipy import sparse

    entries = block.diagonal()
    return sparse.diags_array(_SHIFT * float(np.abs(entries).max()) * np.sign(entries))


def _factors(matrix: Any) -> Any:
    """The factorization of a matrix whose pattern is almost symmetric; None where it is singular."""
    from scipy import sparse
    from scipy.sparse.linalg import splu

    try:
        return splu(
            sparse.csc_array(matrix),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=_PIVOT,
            options={"SymmetricMode": True},
        )
    except RuntimeError:
        return None


def factorize(
    jacobian: Any, differential: npt.NDArray[np.bool_], c: float, free: list[Open]
) -> Callable[[Array], Array] | None:
    """The function ``x -> (M - c J)^-1 x``; None where the matrix is singular.

    With ``c = 0`` that of ``-J`` among the fields without time derivatives alone.
    """
    from scipy import sparse

    kept = np.arange(differential.size) if c else np.flatnonzero(~differential)
    matrix = -(c or 1.0) * jacobian[kept][:, kept]
    diagonal = np.where(differential, 1.0, 0.0)
    for cells, _ in free:
        diagonal[cells] = -(c or 1.0) * _shift(jacobian[cells, cells]).diagonal()
    factors = _factors(matrix + sparse.diags_array(diagonal[kept]))
    if factors is None:
        return None

    def inverse(x: Array) -> Array:
        result = np.zeros_like(x)
        result[kept] = factors.solve(x[kept])
        return result

    return inverse


class Factorization:
    """In place of a `Preconditioner`: the factorized ``M - c J`` of a recent step."""

    def __init__(self, operator: Operator, t: float, y: Array) -> None:
        assert operator.mass is not None
        assert operator.jacobian is not None
        self._differential = operator.mass > 0
        self._jacobian = operator.jacobian(t, y)
        self.free = floating(operator.graph, self._jacobian, self._differential)
        self._c, self._inverse = 0.0, None

    def slopes(self, f: Array, push: Callable[[Array], Array]) -> Array:
        """The time derivatives of all fields: where there is none in the equations from how others pull them."""
        moving = np.where(self._differential, f, 0.0)
        inverse = factorize(self._jacobian, self._differential, 0.0, self.free)
        if inverse is None:
            return moving
        pull = balance(np.where(self._differential, 0.0, push(moving)), self.free)
        return moving + project(inverse(pull), self.free)

    def inverse(self, c: float) -> Callable[[Array], Array]:
        """The function ``x -> (M - c J)^-1 x``, approximately."""
        if self._inverse is None or not self._c / _NEAR <= c <= self._c * _NEAR:
            self._c, self._inverse = c, factorize(self._jacobian, self._differential, c, self.free)
        inverse, free = self._inverse, self.free
        if inverse is None:  # which a Krylov method then reports
            return lambda x: np.full_like(x, np.nan)
        return lambda x: project(inverse(balance(x.copy(), free)), free)
