"""Consistent initial values of semi-explicit index-1 systems."""

from __future__ import annotations

import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.native.compile import Prepared
from pysciml.graph import Model

_ITERATIONS = 50


class InconsistentError(Exception):
    """No consistent values were found.

    Attributes
    ----------
    singular : bool
        Whether the algebraic equations do not determine the algebraic states: a higher index.
    """

    def __init__(self, message: str, *, singular: bool) -> None:
        super().__init__(message)
        self.singular = singular


def structurally_singular(model: Model) -> bool:
    """Whether no choice of numbers lets the algebraic equations determine the algebraic states."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import structural_rank

    rows, cols = model.graph.sparsity("rhs")
    algebraic = ~model.differential
    keep = algebraic[rows] & algebraic[cols]
    number = np.cumsum(algebraic) - 1
    n = int(algebraic.sum())
    pattern = csr_array((np.ones(int(keep.sum())), (number[rows[keep]], number[cols[keep]])), shape=(n, n))
    return int(structural_rank(pattern)) < n


def consistent(prepared: Prepared, u0: Array, p: Array, t: float, rtol: float, atol: float) -> Array:
    """Solve the algebraic equations for the algebraic states, the others kept.

    A damped Newton iteration from the values given, with the graph's Jacobian.

    Parameters
    ----------
    t : float
        In the model's time.

    Raises
    ------
    InconsistentError
    """
    algebraic = ~prepared.model.differential
    if not algebraic.any():
        return u0
    u = u0.copy()
    residual = prepared.rhs(u, p, t)[algebraic]
    for _ in range(_ITERATIONS):
        if not np.isfinite(residual).all():
            raise InconsistentError("the algebraic equations are not finite at the initial values", singular=False)
        step = _newton_step(prepared, u, p, t, residual)
        damping = 1.0
        size = float(np.linalg.norm(residual))
        while True:
            trial = u.copy()
            trial[algebraic] -= damping * step
            new = prepared.rhs(trial, p, t)[algebraic]
            shrinks = bool(np.isfinite(new).all()) and float(np.linalg.norm(new)) <= (1 - 0.1 * damping) * size + 1e-300
            small = np.all(np.abs(damping * step) <= 1e-14 * np.abs(u[algebraic]) + 1e-300)
            if shrinks or small or damping < 1e-6:
                break
            damping /= 2
        if not shrinks:
            # No progress: at rounding error, or stuck.
            if np.all(np.abs(step) <= 1e-3 * (atol + rtol * np.abs(u[algebraic])) + 1e-13):
                return u
            raise InconsistentError("no consistent initial values near those given were found", singular=False)
        u, residual = trial, new
        if np.all(np.abs(damping * step) <= 1e-13 * (np.abs(u[algebraic]) + 1e-3)):
            return u
    raise InconsistentError("no consistent initial values were found", singular=False)


def _newton_step(prepared: Prepared, u: Array, p: Array, t: float, residual: Array) -> Array:
    from scipy import linalg
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import splu

    algebraic = ~prepared.model.differential
    number = np.cumsum(algebraic) - 1
    n = residual.size
    values, rows, cols = prepared.jacobian(u, p, t)
    keep = algebraic[rows] & algebraic[cols]
    values, rows, cols = values[keep], number[rows[keep]], number[cols[keep]]
    singular = InconsistentError(
        "the algebraic equations do not determine the algebraic states at the initial values "
        "(their Jacobian is singular): the index is higher than 1",
        singular=True,
    )
    if not np.isfinite(values).all():
        raise InconsistentError("the Jacobian is not finite at the initial values", singular=False)
    if n > 300:
        try:
            return np.asarray(splu(csc_array((values, (rows, cols)), shape=(n, n))).solve(residual))
        except RuntimeError as error:
            raise singular from error
    matrix = np.zeros((n, n))
    np.add.at(matrix, (rows, cols), values)
    scale = np.abs(matrix).max(axis=1)
    if not scale.all() or np.linalg.cond(matrix / scale[:, None]) > 1e14:
        raise singular
    return np.asarray(linalg.solve(matrix, residual))
