"""The NDF method of variable order, with Newton and Krylov iterations.

L. F. Shampine & M. W. Reichelt, *The MATLAB ODE suite*, SIAM J. Sci. Comput. 18 (1997) 1-22, with
backward differences that are rescaled when the step changes (section 2.2), Newton's iteration tested
as Hairer & Wanner do (*Solving Ordinary Differential Equations II*, section IV.8). The Jacobian is
never formed: the linear equations are solved by Orthomin (P. K. W. Vinsome, SPE 5729, 1976;
S. C. Eisenstat, H. C. Elman & M. H. Schultz, SIAM J. Numer. Anal. 20 (1983) 345-357) with its
products, preconditioned by `precondition`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.fields.constrained import Factorization, balance
from pysciml.engines.fields.marching import Stepper, StepSizeError
from pysciml.engines.fields.operator import Operator
from pysciml.engines.fields.precondition import Preconditioner, mean_reaction

_MOST: Final = 5  # the highest order
_KAPPA: Final = np.array([0, -0.1850, -1 / 9, -0.0823, -0.0415, 0])
_GAMMA: Final = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, _MOST + 1))])
_ALPHA: Final = (1 - _KAPPA) * _GAMMA
_ERROR: Final = _KAPPA * _GAMMA + 1 / np.arange(1, _MOST + 2)
_NEWTON: Final = 5
_KRYLOV: Final = 60
#: Directions that Orthomin keeps.
_KEPT: Final = 15
_SMALLEST_FACTOR: Final = 0.2
_LARGEST_FACTOR: Final = 10.0
#: The preconditioner is measured again after this many steps, where it has become worse.
_AGE: Final = 20
#: How fields act on each other is measured every so many steps.
_REACTION_AGE: Final = 5


def norm(x: Array) -> float:
    """The root mean square."""
    return float(np.sqrt(np.dot(x, x) / x.size))


class QNDF(Stepper):
    """The method, from one time to another."""

    name = "QNDF"

    def __init__(
        self,
        operator: Operator,
        preconditioner: Preconditioner | Factorization,
        t: float,
        y: Array,
        end: float,
        rtol: float,
        atol: float,
        dt: float | None,
    ) -> None:
        super().__init__(t, y, end)
        self._operator, self._preconditioner = operator, preconditioner
        self._rtol, self._atol = rtol, atol
        self._tolerance = max(10 * np.finfo(float).eps / max(rtol, 1e-15), min(0.03, rtol**0.5))
        f = operator.rhs(t, y)
        self.finite = bool(np.isfinite(f).all())
        #: Ones for what has a time derivative; 1 where everything has.
        self._mass: Array | float = 1.0 if operator.mass is None else operator.mass
        if isinstance(preconditioner, Factorization):
            # What follows from other fields by solving has more rounding than a tighter iteration could remove.
            self._tolerance = max(self._tolerance, 0.01)
            f = preconditioner.slopes(f, lambda v: operator.push(t, y, v))
        scale = atol + rtol * np.abs(y)
        with np.errstate(all="ignore"):
            d0, d1 = norm(y / scale), norm(f / scale)
        # A step that moves the solution by a hundredth of its size (Hairer, Nørsett & Wanner, II.4).
        h = 1e-6 * (end - t) if d0 < 1e-5 or d1 < 1e-5 or not np.isfinite(d1) else 0.01 * d0 / d1
        self._h = min(h if dt is None else dt, end - t)
        self._order = 1
        self._equal = 0
        self._failed = 0
        self._age, self._work, self._usual = 0, 0, 0.0
        self._differences = np.zeros((_MOST + 3, y.size))
        self._differences[0] = y
        self._differences[1] = self._h * f
        self._reaction: Array | None = None
        self._last: tuple[float, float, int, Array] | None = None
        self._pending: tuple[bool, float, float, Array] = False, 0.0, 1.0, y

    def step(self) -> bool:
        """One attempt; whether it was accepted."""
        t, h, order, d = self.t, self._h, self._order, self._differences
        t_new = self.end if t + 1.000001 * h >= self.end else t + h
        predicted = d[: order + 1].sum(axis=0)
        scale = self._atol + self._rtol * np.abs(predicted)
        psi = np.dot(_GAMMA[1 : order + 1], d[1 : order + 1]) / _ALPHA[order]
        change, converged, iterations = self._newton(t_new, h / _ALPHA[order], predicted, psi, scale)
        safety = 0.9 * (2 * _NEWTON + 1) / (2 * _NEWTON + iterations)
        error = float("inf") if change is None else _ERROR[order] * norm(change / scale)
        if change is None or not converged or not error <= 1:
            self._failed += 1
            if not converged:
                self._age = max(self._age, _AGE)
            shrink = max(_SMALLEST_FACTOR, safety * min(error, 1e9) ** (-1 / (order + 1))) if converged else 0.3
            self._rescale(shrink)
            if not self._h > max(16 * np.finfo(float).eps * abs(t), 1e-22 * abs(self.end)):
                raise StepSizeError
            return False
        self._failed = 0
        d[order + 2] = change - d[order + 1]
        d[order + 1] = change
        for i in range(order, -1, -1):
            d[i] += d[i + 1]
        self._last = t_new, h, order, d
        self.t, self.y = t_new, d[0].copy()
        self._equal += 1
        self._age += 1
        self._pending = self._equal >= order + 1, error, safety, scale
        return True

    def settle(self) -> None:
        """Choose order and length of the next step, once the output of this one is written."""
        ready, error, safety, scale = self._pending
        order, d = self._order, self._differences
        factor = 1.0
        if ready:
            below = _ERROR[order - 1] * norm(d[order] / scale) if order > 1 else np.inf
            above = _ERROR[order + 1] * norm(d[order + 2] / scale) if order < _MOST else np.inf
            errors = np.maximum([below, error, above], 1e-30)
            factors = errors ** (-1 / np.arange(order, order + 3))
            best = int(np.argmax(factors))
            self._order = order + best - 1
            factor = min(_LARGEST_FACTOR, safety * float(factors[best]))
            self._equal = 0
        to_go = self.end - self.t
        if to_go > 0 and 1.000001 * factor * self._h >= to_go:
            factor = to_go / self._h
        if factor != 1.0:
            self._rescale(factor)

    def _rescale(self, factor: float) -> None:
        """Change the step and the differences with it."""
        order = self._order

        def part(value: float) -> Array:
            i = np.arange(1, order + 1)[:, None]
            matrix: Array = np.zeros((order + 1, order + 1))
            matrix[0] = 1.0
            matrix[1:, 1:] = (i - 1 - value * i.T) / i
            return np.asarray(np.cumprod(matrix, axis=0), dtype=np.float64)

        self._differences[: order + 1] = (part(factor) @ part(1.0)).T @ self._differences[: order + 1]
        self._h *= factor
        self._equal = 0

    def interpolate(self, t: float) -> Array:
        """See `Stepper.interpolate`."""
        assert self._last is not None
        end, h, order, d = self._last
        k = np.arange(order)
        weights = np.cumprod((t - (end - h * k)) / (h * (1 + k)))
        return d[0] + np.dot(weights, d[1 : order + 1])

    # -- the implicit equations -----------------------------------------------------------------

    def _newton(self, t: float, c: float, predicted: Array, psi: Array, scale: Array) -> tuple[Array | None, bool, int]:
        """Solve ``M change = c f(t, predicted + change) - M psi``."""
        operator = self._operator
        self._refresh(t, predicted)

        def push(v: Array) -> Array:
            return operator.push(t, predicted, v)

        stale = self._reaction is None or self._failed or self._age % _REACTION_AGE == 0
        if operator.mass is None and stale:
            self._reaction = np.nan_to_num(mean_reaction(operator.graph, push))
        if isinstance(self._preconditioner, Factorization):
            inverse = self._preconditioner.inverse(c)
        else:
            assert self._reaction is not None
            inverse = self._preconditioner.inverse(self._reaction, c)
        change = np.zeros_like(predicted)
        old = 0.0
        self._work = 0
        for count in range(_NEWTON):
            right = c * operator.rhs(t, predicted + change) - self._mass * (psi + change)
            if not np.isfinite(right).all():
                return None, False, count + 1
            step, fine = self._krylov(push, inverse, c, right, scale)
            if not fine:
                return None, False, count + 1
            size = norm(step / scale)
            rate = size / old if old else 0.0
            later = rate / (1 - rate) * size if rate < 1 else np.inf
            change += step
            if size <= 0.02 * self._tolerance or (count and later < self._tolerance):
                return change, True, count + 1
            if count and (rate >= 1 or rate ** (_NEWTON - 1 - count) * later > self._tolerance):
                return None, False, count + 1
            old = size
        return None, False, _NEWTON

    def _refresh(self, t: float, y: Array) -> None:
        """Measure the preconditioner again where the Krylov method needs far more products than it did."""
        if self._age < _AGE:
            return
        self._age = 0
        if self._failed or self._work > max(8.0, 2 * self._usual):
            self._preconditioner = type(self._preconditioner)(self._operator, t, y)
            self._usual = 0.0
        else:
            self._usual = max(self._usual, float(self._work))

    def _krylov(
        self,
        push: Callable[[Array], Array],
        inverse: Callable[[Array], Array],
        c: float,
        right: Array,
        scale: Array,
    ) -> tuple[Array, bool]:
        """Solve ``(M - c J) x = right``, to a fiftieth of the first correction.

        Where fields have no time derivative a residual says little about the error, which is then taken
        from what the preconditioner makes of the residual.
        """
        direct = self._preconditioner if isinstance(self._preconditioner, Factorization) else None
        free = [] if direct is None else direct.free
        x, r = np.zeros_like(right), balance(right.copy(), free)
        goal = 0.2 * self._tolerance
        if direct is None and norm(r / scale) <= goal:
            return r, True
        directions: list[Array] = []
        images: list[Array] = []
        for count in range(_KRYLOV):
            z = inverse(r)
            if count == 0:
                goal = max(goal, 0.02 * norm(z / scale))
            if direct is not None and norm(z / scale) <= (0.2 * self._tolerance if count == 0 else goal):
                return x + z, True
            w = balance(self._mass * z - c * push(z), free)
            self._work += 1
            for p, q in zip(directions, images, strict=True):
                overlap = float(np.dot(q, w))
                w -= overlap * q
                z -= overlap * p
            length = float(np.sqrt(np.dot(w, w)))
            if not np.isfinite(length) or length == 0:
                return x, False
            w /= length
            z /= length
            along = float(np.dot(w, r))
            x += along * z
            r -= along * w
            if direct is None and norm(r / scale) <= goal:
                return x, True
            directions.append(z)
            images.append(w)
            if len(images) > _KEPT:
                directions.pop(0)
                images.pop(0)
        return x, False
