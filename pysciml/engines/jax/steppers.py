"""One step of a method: what the loop advances by.

The methods are diffrax's (Kidger, *On Neural Differential Equations*, 2021). Runge-Kutta methods are
written out from diffrax's tableaus: XLA fuses a written-out step into a few loops, which makes
batches an order of magnitude faster.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from pysciml.engines.jax.lower import Function


class Step(NamedTuple):
    """What one step gives.

    Attributes
    ----------
    y : array, shape (n_states,)
    error : array like ``y``, or None
        The estimate of the local error.
    dense : dict
        What `Stepper.interpolate` needs.
    state : pytree
        What the next step needs.
    """

    y: Any
    error: Any
    dense: dict[str, Any]
    state: Any


class Stepper(abc.ABC):
    """A method. The right-hand side is given at construction, time runs forward.

    Attributes
    ----------
    error_order : int
        The order the step size controller counts with.
    land : bool
        Whether output times are stepped on, because the method has no interpolant of its order.
    """

    error_order: float
    land: bool = False

    @abc.abstractmethod
    def init(self, t: Any, t_next: Any, y: Any, p: Any) -> Any:
        """What the first step needs."""

    @abc.abstractmethod
    def step(self, t: Any, t_next: Any, y: Any, p: Any, state: Any, jumped: Any) -> Step:
        """From ``t`` to ``t_next``; ``jumped``: the state was changed since the last step."""

    @abc.abstractmethod
    def interpolate(self, t: Any, t_next: Any, dense: dict[str, Any]) -> Callable[[Any], Any]:
        """The solution within the step."""


class ExplicitStepper(Stepper):
    """An explicit Runge-Kutta method, written out."""

    def __init__(self, rhs: Function, solver: Any) -> None:
        self._rhs = rhs
        self._interpolation = solver.interpolation_cls
        tableau = solver.tableau
        self._fsal = bool(tableau.fsal)
        self._a = [np.asarray(row, dtype=np.float64) for row in tableau.a_lower]
        self._b = np.asarray(tableau.b_sol, dtype=np.float64)
        self._c = np.asarray(tableau.c, dtype=np.float64)
        self._b_error = np.asarray(tableau.b_error, dtype=np.float64)
        self.error_order = float(solver.order(None))

    def init(self, t: Any, t_next: Any, y: Any, p: Any) -> Any:
        """See `Stepper.init`."""
        return self._rhs(t, y, p) if self._fsal else None

    def step(self, t: Any, t_next: Any, y: Any, p: Any, state: Any, jumped: Any) -> Step:
        """See `Stepper.step`."""
        h = t_next - t
        if not self._fsal:
            slopes = [self._rhs(t, y, p)]
        elif jumped is False:
            slopes = [state]
        else:
            slopes = [jax.lax.cond(jumped, lambda: self._rhs(t, y, p), lambda: state)]
        inner = y
        for row, c in zip(self._a, self._c, strict=True):
            inner = y + h * combine(row, slopes)
            slopes.append(self._rhs(t + c * h, inner, p))
        # First same as last: the last stage is evaluated at the new solution.
        new = inner if self._fsal else y + h * combine(self._b, slopes)
        dense = {"y0": y, "y1": new, "k": h * jnp.stack(slopes)}
        return Step(new, h * combine(self._b_error, slopes), dense, slopes[-1] if self._fsal else None)

    def interpolate(self, t: Any, t_next: Any, dense: dict[str, Any]) -> Callable[[Any], Any]:
        """See `Stepper.interpolate`."""
        return self._interpolation(t0=t, t1=t_next, **dense).evaluate


def combine(weights: Any, slopes: list[Any]) -> Any:
    """The weighted sum of the slopes, zeros left out."""
    terms = [float(w) * k for w, k in zip(weights, slopes, strict=True) if w != 0]
    if not terms:
        return jnp.zeros_like(slopes[0])
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


class RolledStepper(Stepper):
    """diffrax's own step: it traces the right-hand side once, which large models need."""

    def __init__(self, rhs: Function, solver: Any) -> None:
        self._solver = solver
        self._term: Any = diffrax.ODETerm(rhs)  # pyright: ignore[reportArgumentType]
        self.error_order = float(solver.order(None))

    def init(self, t: Any, t_next: Any, y: Any, p: Any) -> Any:
        """See `Stepper.init`."""
        return self._solver.init(self._term, t, t_next, y, p)

    def step(self, t: Any, t_next: Any, y: Any, p: Any, state: Any, jumped: Any) -> Step:
        """See `Stepper.step`."""
        new, error, dense, state, _ = self._solver.step(self._term, t, t_next, y, p, state, jumped)
        return Step(new, error, dense, state)

    def interpolate(self, t: Any, t_next: Any, dense: dict[str, Any]) -> Callable[[Any], Any]:
        """See `Stepper.interpolate`."""
        return self._solver.interpolation_cls(t0=t, t1=t_next, **dense).evaluate


class EulerStepper(Stepper):
    """Euler's method: no error estimate, so the step is the user's."""

    def __init__(self, rhs: Function) -> None:
        self._rhs = rhs
        self.error_order = 1.0

    def init(self, t: Any, t_next: Any, y: Any, p: Any) -> Any:
        """See `Stepper.init`."""
        return None

    def step(self, t: Any, t_next: Any, y: Any, p: Any, state: Any, jumped: Any) -> Step:
        """See `Stepper.step`."""
        new = y + (t_next - t) * self._rhs(t, y, p)
        return Step(new, None, {"y0": y, "y1": new}, None)

    def interpolate(self, t: Any, t_next: Any, dense: dict[str, Any]) -> Callable[[Any], Any]:
        """See `Stepper.interpolate`."""
        return linear(t, t_next, dense)


def linear(t: Any, t_next: Any, dense: dict[str, Any]) -> Callable[[Any], Any]:
    """Linear interpolation between the ends of a step."""

    def evaluate(time: Any) -> Any:
        theta = (time - t) / (t_next - t)
        return dense["y0"] + theta * (dense["y1"] - dense["y0"])

    return evaluate


class SSPStepper(EulerStepper):
    """Shu and Osher's method: averages of Euler steps, so that it keeps whatever bounds those keep.

    C.-W. Shu & S. Osher, J. Comput. Phys. 77 (1988) 439-471, equation (2.18); order 3. Between
    steps it is linear, which keeps the bounds, too.
    """

    def step(self, t: Any, t_next: Any, y: Any, p: Any, state: Any, jumped: Any) -> Step:
        """See `Stepper.step`."""
        h = t_next - t
        first = y + h * self._rhs(t, y, p)
        second = 0.75 * y + 0.25 * (first + h * self._rhs(t_next, first, p))
        new = y / 3 + (2 / 3) * (second + h * self._rhs(t + h / 2, second, p))
        return Step(new, None, {"y0": y, "y1": new}, None)
