"""One step of a stiff method: ESDIRK, from diffrax's tableaus, with Newton's method on exact Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import lu_factor, lu_solve

from pysciml.engines.jax.lower import Function
from pysciml.engines.jax.state import any_of
from pysciml.engines.jax.steppers import Step, Stepper, combine

#: The iteration error allowed in a stage, as a fraction of the tolerance (Hairer & Wanner, *Solving
#: Ordinary Differential Equations II*, section IV.8).
_KAPPA: Final = 1e-2
_ITERATIONS: Final = 10


class ImplicitStepper(Stepper):
    """An explicit-first-stage, singly diagonally implicit Runge-Kutta method.

    One Jacobian and one factorization serve all stages of a step. A stage that does not converge
    rejects the step.

    Attributes
    ----------
    differentiable : bool
        Whether derivatives through the step are wanted; they cost a factorization for each stage.
    """

    differentiable: bool = False

    def __init__(self, rhs: Function, jacobian: Function, solver: Any, rtol: Any, atol: Any, *, order: float) -> None:
        self._rhs, self._jacobian = rhs, jacobian
        self._rtol, self._atol = rtol, atol
        tableau: Any = solver.tableau
        if isinstance(tableau, diffrax.MultiButcherTableau):
            # Of an additive method, the implicit part for everything.
            tableau = next(part for part in tableau.tableaus if part.implicit)
        self._a = [np.asarray(row, dtype=np.float64) for row in tableau.a_lower]
        self._c = np.asarray(tableau.c, dtype=np.float64)
        self._b_error = np.asarray(tableau.b_error, dtype=np.float64)
        self._predict = [np.asarray(row, dtype=np.float64) for row in tableau.a_predictor]
        self._gamma = float(tableau.a_diagonal[-1])
        self.error_order = float(order)
        self.land = order > 3

    def init(self, t: Any, t_next: Any, y: Any, p: Any) -> Any:
        """See `Stepper.init`."""
        return self._rhs(t, y, p)

    def step(self, t: Any, t_next: Any, y: Any, p: Any, state: Any, jumped: Any) -> Step:
        """See `Stepper.step`."""
        h = t_next - t
        if jumped is not False:
            state = jax.lax.cond(jumped, lambda: self._rhs(t, y, p), lambda: state)
        matrix = jnp.eye(y.shape[0], dtype=y.dtype) - h * self._gamma * self._jacobian(t, y, p)
        # A matrix that is not finite is a step to reject, not one to factorize.
        usable = jnp.isfinite(matrix).all()
        factors = lu_factor(jnp.where(usable, matrix, jnp.eye(y.shape[0], dtype=y.dtype)))
        slopes = [state]
        converged = usable
        solve = self._implicit if self.differentiable else self._newton
        new = y
        for row, c, predict in zip(self._a, self._c, self._predict, strict=True):
            known = y + h * combine(row, slopes)
            guess = combine(predict, slopes)
            slope, fine = solve(t + c * h, known, guess, h, y, p, factors)
            new = known + h * self._gamma * slope
            slopes.append(slope)
            converged = converged & fine
        error = jnp.where(converged, h * combine(self._b_error, slopes), jnp.inf)
        return Step(new, error, {"y0": y, "y1": new, "k0": h * slopes[0], "k1": h * slopes[-1]}, slopes[-1])

    def _newton(self, t: Any, known: Any, guess: Any, h: Any, y: Any, p: Any, factors: Any) -> tuple[Any, Any]:
        """Solve ``k = f(t, known + h gamma k)``; also whether that converged."""
        scale = self._atol + self._rtol * jnp.abs(y)

        def going(carry: tuple[Any, ...]) -> Any:
            _, _, _, done, failed, count = carry
            return ~done & ~failed & (count < _ITERATIONS)

        def iterate(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            slope, size, rate, done, failed, count = carry
            active = going(carry)
            residual = self._rhs(t, known + h * self._gamma * slope, p) - slope
            change = lu_solve(factors, residual)
            new_size = jnp.sqrt(jnp.mean((h * self._gamma * change / scale) ** 2))
            new_rate = jnp.where(count == 0, rate, new_size / jnp.where(size > 0, size, 1.0))
            small = new_size < 1e-3 * _KAPPA
            new_done = small | ((count > 0) & (new_rate < 1) & (new_rate / (1 - new_rate) * new_size < _KAPPA))
            new_failed = ~jnp.isfinite(new_size) | ((count > 0) & (new_rate > 2))
            return (
                jnp.where(active, slope + change, slope),
                jnp.where(active, new_size, size),
                jnp.where(active, new_rate, rate),
                jnp.where(active, new_done & ~new_failed, done),
                jnp.where(active, new_failed, failed),
                count + 1,
            )

        no = jnp.asarray(False)
        first = (guess, jnp.zeros((), dtype=y.dtype), jnp.ones((), dtype=y.dtype), no, no, jnp.asarray(0))
        slope, _, _, done, _, _ = jax.lax.while_loop(lambda c: any_of(going(c)), iterate, first)
        return slope, done

    def _implicit(self, t: Any, known: Any, guess: Any, h: Any, y: Any, p: Any, factors: Any) -> tuple[Any, Any]:
        """As `_newton`, differentiable by the implicit function theorem."""

        def residual(slope: Any) -> Any:
            return self._rhs(t, known + h * self._gamma * slope, p) - slope

        def solve(_: Any, start: Any) -> tuple[Any, Any]:
            slope, converged = self._newton(t, known, start, h, y, p, factors)
            return slope, jnp.where(converged, 1.0, 0.0)  # what comes along must have a derivative

        def tangent(linear: Any, right: Any) -> Any:
            return jnp.linalg.solve(jax.jacfwd(linear)(right), right)

        slope, converged = jax.lax.custom_root(residual, guess, solve, tangent, has_aux=True)
        return slope, converged > 0.5

    def interpolate(self, t: Any, t_next: Any, dense: dict[str, Any]) -> Callable[[Any], Any]:
        """See `Stepper.interpolate`: the cubic Hermite polynomial."""
        return diffrax.ThirdOrderHermitePolynomialInterpolation(t0=t, t1=t_next, **dense).evaluate
