"""Explicit Runge-Kutta methods: Dormand and Prince's, order 5(4), and Shu and Osher's, order 3.

J. R. Dormand & P. J. Prince, J. Comput. Appl. Math. 6 (1980) 19-26; the interpolant of order 4 after
Hairer, Nørsett & Wanner, *Solving Ordinary Differential Equations I*, section II.6; step sizes by a
proportional-integral controller (section IV.2 of volume II).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.fields.marching import Stepper, StepSizeError
from pysciml.engines.fields.operator import Operator
from pysciml.engines.fields.qndf import norm

_A: Final = [
    [1 / 5],
    [3 / 40, 9 / 40],
    [44 / 45, -56 / 15, 32 / 9],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
    [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
]
_C: Final = [1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0]
_ERROR: Final = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40]
_DENSE: Final = [
    -12715105075 / 11282082432,
    0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
]


class DP5(Stepper):
    """The method, from one time to another."""

    name = "DP5"

    def __init__(
        self, operator: Operator, t: float, y: Array, end: float, rtol: float, atol: float, dt: float | None
    ) -> None:
        super().__init__(t, y.copy(), end)
        self._rhs = operator.rhs
        self._rtol, self._atol = rtol, atol
        self._slope = self._rhs(t, y)
        self.finite = bool(np.isfinite(self._slope).all())
        scale = atol + rtol * np.abs(y)
        with np.errstate(all="ignore"):
            d0, d1 = norm(y / scale), norm(self._slope / scale)
        h = 1e-6 * (end - t) if d0 < 1e-5 or d1 < 1e-5 or not np.isfinite(d1) else 0.01 * d0 / d1
        self._h = min(h if dt is None else dt, end - t)
        self._old = 1e-4
        self._last: tuple[float, float, Array, list[Array]] | None = None

    def step(self) -> bool:
        """See `Stepper.step`."""
        t, y = self.t, self.y
        h = self.end - t if t + 1.000001 * self._h >= self.end else self._h
        slopes = [self._slope]
        new = y
        for row, c in zip(_A, _C, strict=True):
            new = y + h * _combine(row, slopes)
            slopes.append(self._rhs(t + c * h, new))
        with np.errstate(all="ignore"):
            scale = self._atol + self._rtol * np.maximum(np.abs(y), np.abs(new))
            error = norm(h * _combine(_ERROR, slopes) / scale)
        if not error <= 1:
            self._h = h * max(0.2, 0.9 * error**-0.2 if np.isfinite(error) else 0.2)
            if not self._h > max(16 * np.finfo(float).eps * abs(t), 1e-22 * abs(self.end)):
                raise StepSizeError
            return False
        self._last = t, h, y, slopes
        self.t, self.y, self._slope = (self.end if h == self.end - t else t + h), new, slopes[-1]
        factor = 0.9 * max(error, 1e-10) ** -0.17 * self._old**0.04
        self._old = max(error, 1e-4)
        self._h = max(self._h, h) * min(10.0, max(0.2, factor))
        return True

    def interpolate(self, t: float) -> Array:
        """See `Stepper.interpolate`."""
        assert self._last is not None
        begin, h, y, slopes = self._last
        s = (t - begin) / h
        gap = self.y - y
        left = h * slopes[0] - gap
        right = gap - h * slopes[-1] - left
        return y + s * (gap + (1 - s) * (left + s * (right + (1 - s) * h * _combine(_DENSE, slopes))))


class SSPRK33(Stepper):
    """Shu and Osher's method: averages of Euler steps, so that it keeps whatever bounds those keep.

    C.-W. Shu & S. Osher, J. Comput. Phys. 77 (1988) 439-471, equation (2.18); order 3, of fixed
    step size. Between steps it is linear, which keeps the bounds, too.
    """

    name = "SSPRK33"

    def __init__(self, operator: Operator, t: float, y: Array, end: float, dt: float) -> None:
        super().__init__(t, y.copy(), end)
        self._rhs, self._dt, self._start, self._count = operator.rhs, dt, t, 0
        self.finite = bool(np.isfinite(operator.rhs(t, y)).all())
        self._last: tuple[float, Array] = t, y

    def step(self) -> bool:
        """See `Stepper.step`."""
        t, y, rhs = self.t, self.y, self._rhs
        self._count += 1
        new_t = self._start + self._count * self._dt
        new_t = self.end if new_t > self.end - 1e-6 * self._dt else new_t
        h = new_t - t
        first = y + h * rhs(t, y)
        second = 0.75 * y + 0.25 * (first + h * rhs(new_t, first))
        new = y / 3 + (2 / 3) * (second + h * rhs(t + h / 2, second))
        if not np.isfinite(new).all():
            raise StepSizeError
        self._last = t, y
        self.t, self.y = new_t, new
        return True

    def interpolate(self, t: float) -> Array:
        """See `Stepper.interpolate`."""
        begin, y = self._last
        s = (t - begin) / (self.t - begin)
        return (1 - s) * y + s * self.y


def _combine(weights: list[float], slopes: list[Array]) -> Array:
    total = np.zeros_like(slopes[0])
    for weight, slope in zip(weights, slopes, strict=False):
        if weight:
            total += weight * slope
    return total
