"""The eigenvalue that decides about stiffness: whether what changes fastest decays, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from pysciml.engines.base import Array

#: Restarts of Arnoldi's method, each of some twenty products: more is not worth the answer.
_RESTARTS: Final = 20


def largest_eigenvalue(product: Callable[[Array], Any], n: int) -> complex | None:
    """The eigenvalue of largest modulus, to a few hundredths, by Arnoldi's method.

    Parameters
    ----------
    product : function
        Of the matrix with a vector.
    n : int
        Its size.

    Returns
    -------
    complex, or None where the method does not converge
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigs

    matvec: Any = product
    operator = LinearOperator((n, n), matvec=matvec, dtype=np.float64)
    start = np.random.default_rng(0).normal(size=n)  # always the same: a solve is to be reproducible
    found: Any
    try:
        found = eigs(operator, k=1, v0=start, tol=0.02, maxiter=_RESTARTS, return_eigenvectors=False)
    except ArpackError as error:
        found = getattr(error, "eigenvalues", ())
    return complex(found[0]) if len(found) and np.isfinite(found[0]) else None


def decay(eigenvalue: complex) -> float:
    """The rate of a mode that decays rather than oscillates, else 0."""
    return float(-eigenvalue.real) if -eigenvalue.real > abs(eigenvalue.imag) else 0.0
