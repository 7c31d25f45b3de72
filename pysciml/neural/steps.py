"""Explicit Runge-Kutta methods, and one step of them with its error and stiffness estimates.

Everything here is a function of arrays that JAX differentiates; `pysciml.neural.adaptive` takes steps in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

#: ``field(t, y, params) -> dy``, or ``(dy, g)`` with a number g to integrate along.
Field = Callable[[Any, Any, Any], Any]

#: Half the length of the real stability interval, by which SciML scales the stiffness estimate.
_STABILITY: Final = {"Tsit5": 3.5068, "DP5": 3.3066, "BS3": 2.5127}
#: What diffrax calls the methods.
CLASSES: Final = {"Tsit5": "Tsit5", "DP5": "Dopri5", "BS3": "Bosh3"}
METHODS: Final = tuple(CLASSES)

#: The step size controller: diffrax's and Hairer's defaults.
_SAFETY: Final = 0.9
_SMALLEST_FACTOR: Final = 0.2
_LARGEST_FACTOR: Final = 10.0


@dataclass(frozen=True)
class Method:
    """An explicit method whose last stage is the first of the next step."""

    name: str
    a: tuple[tuple[float, ...], ...]
    c: tuple[float, ...]
    b: tuple[float, ...]
    b_error: tuple[float, ...]
    order: float

    @property
    def stages(self) -> int:
        """How many slopes a step has, the one it starts with included."""
        return len(self.b)

    def weights(self, theta: Any) -> Any:
        """How the slopes combine to the solution within the step, shape (stages,)."""
        if self.name == "Tsit5":  # its own interpolant, which is linear in the slopes
            unit = jnp.eye(self.stages, dtype=jnp.result_type(theta))
            none = jnp.zeros(self.stages, dtype=unit.dtype)
            # The times are NumPy's, of the dtype of theta: nothing is promoted.
            zero, one = jnp.zeros((), unit.dtype), jnp.ones((), unit.dtype)
            return diffrax.Tsit5.interpolation_cls(t0=zero, t1=one, y0=none, y1=none, k=unit).evaluate(theta)
        rise = theta * theta * (3 - 2 * theta)  # the cubic Hermite polynomial
        total = rise * jnp.asarray(self.b, dtype=jnp.result_type(theta))
        return total.at[0].add(theta * (1 - theta) ** 2).at[-1].add(theta * theta * (theta - 1))


def method(name: str) -> Method:
    """The method of that name, one of `METHODS`."""
    solver = getattr(diffrax, CLASSES[name])()
    tableau = solver.tableau
    assert tableau.fsal
    return Method(
        name,
        tuple(tuple(float(v) for v in np.asarray(row)) for row in tableau.a_lower),
        tuple(float(v) for v in tableau.c),
        tuple(float(v) for v in tableau.b_sol),
        tuple(float(v) for v in tableau.b_error),
        float(solver.order(None)),
    )


@dataclass(frozen=True)
class Setting:
    """What a solve depends on besides numbers.

    Attributes
    ----------
    method : Method
    rtol, atol : float
    max_steps : int
        How many steps there may be: so many records are kept.
    quadrature : bool
        Whether the field returns a number to integrate along with the derivative.
    through_steps : bool
        Whether step sizes are differentiated, too, rejected attempts included. Then the derivative is that of the
        whole adaptive solve; else that of the steps that were taken.
    adjoint : diffrax adjoint, optional
        By which `pysciml.neural.adjoints.solve` differentiates, instead.
    local : bool
        Whether steps are sampled, so that an adjoint must record them.
    rolled : bool
        Whether the stages of a step are differentiated in a loop, not written out one after the other: for fields of
        elementwise operations alone, which a compiler merges from stage to stage and computes again in each.
    """

    method: Method
    rtol: float
    atol: float
    max_steps: int = 256
    quadrature: bool = False
    through_steps: bool = False
    adjoint: Any = None
    local: bool = False
    rolled: bool = False


class Stepped(NamedTuple):
    """One step."""

    y: Any
    slopes: list[Any]
    error: Any
    stiffness: Any
    integral: Any


def _safe_norm(x: Any) -> Any:
    """Root mean square over everything, with derivative 0 where it is 0."""
    square = jnp.mean(jnp.square(x))
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def evaluate(how: Setting, field: Field, t: Any, y: Any, params: Any) -> tuple[Any, Any]:
    """The slope, and the number to integrate along or None."""
    if how.quadrature:
        return field(t, y, params)
    return field(t, y, params), None


def _combine(weights: tuple[float, ...], slopes: list[Any]) -> Any:
    total: Any = None
    for w, k in zip(weights, slopes, strict=False):
        if w != 0.0 and k is not None:
            total = w * k if total is None else total + w * k
    return total


def one_step(how: Setting, field: Field, t: Any, h: Any, y: Any, slope: tuple[Any, Any], params: Any) -> Stepped:
    """A step, with its estimates.

    Parameters
    ----------
    slope : (dy, g)
        Of the field at ``(t, y)``.
    """
    m = how.method
    slopes, numbers = [slope[0]], [slope[1]]
    inner = before = y
    for row, c in zip(m.a, m.c, strict=True):
        before = inner
        inner = y + h * _combine(row, slopes)
        k, g = evaluate(how, field, t + c * h, inner, params)
        slopes.append(k)
        numbers.append(g)
    return _estimated(how, h, y, slopes, numbers, inner, before)


def one_step_rolled(how: Setting, field: Field, t: Any, h: Any, y: Any, slope: tuple[Any, Any], params: Any) -> Stepped:
    """As `one_step`, stage by stage in a loop; see `Setting`."""
    m = how.method
    count = len(m.a)
    weights = np.zeros((count, count + 1))
    for number, row in enumerate(m.a):
        weights[number, : len(row)] = row
    first = jnp.zeros((count + 1, *y.shape), y.dtype).at[0].set(slope[0])
    along = None if slope[1] is None else jnp.zeros(count + 1, y.dtype).at[0].set(slope[1])

    def stage(carry: tuple[Any, Any], row: tuple[Any, Any, Any]) -> tuple[tuple[Any, Any], Any]:
        slopes, numbers = carry
        weights, c, number = row
        inner = y + h * jnp.tensordot(weights, slopes, axes=1)
        k, g = evaluate(how, field, t + c * h, inner, params)
        return (slopes.at[number].set(k), None if g is None else numbers.at[number].set(g)), inner

    rows = jnp.asarray(weights, y.dtype), jnp.asarray(m.c, y.dtype), jnp.arange(1, count + 1)
    (slopes, numbers), inner = jax.lax.scan(stage, (first, along), rows)
    each = [None] * (count + 1) if numbers is None else list(numbers)
    return _estimated(how, h, y, list(slopes), each, inner[-1], inner[-2])


def _estimated(how: Setting, h: Any, y: Any, slopes: list[Any], numbers: list[Any], inner: Any, before: Any) -> Stepped:
    """What a step's stages say of it; ``inner`` and ``before`` are where the last two were evaluated."""
    m = how.method
    error = h * _combine(m.b_error, slopes)
    scale = how.atol + how.rtol * jnp.maximum(jnp.abs(y), jnp.abs(inner))
    relative = _safe_norm(error / scale)
    # Shampine: the last two stages are at the same time, so that they tell the field's slope between them.
    apart = _safe_norm(inner - before)
    spread = _safe_norm(slopes[-1] - slopes[-2])
    stiffness = jnp.where(apart > 0, spread / jnp.where(apart > 0, apart, 1.0), 0.0) / _STABILITY[m.name]
    integral = h * _combine(m.b, numbers) if how.quadrature else jnp.zeros_like(h)
    return Stepped(inner, slopes, relative, stiffness, integral)


def first_step(how: Setting, field: Field, t: Any, end: Any, y: Any, slope: Any, params: Any) -> Any:
    """A guess of the first step size (Hairer, Nørsett & Wanner, *Solving ODEs I*, II.4)."""
    scale = how.atol + how.rtol * jnp.abs(y)
    size, speed = _safe_norm(y / scale), _safe_norm(slope / scale)
    small = (size < 1e-5) | (speed < 1e-5)
    h = jnp.where(small, 1e-6, 0.01 * size / jnp.where(small, 1.0, speed))
    h = jnp.minimum(h, end - t)
    moved, _ = evaluate(how, field, t + h, y + h * slope, params)
    bend = _safe_norm((moved - slope) / scale) / h
    largest = jnp.maximum(speed, bend)
    flat = largest <= 1e-15
    better = jnp.where(
        flat, jnp.maximum(1e-6, h * 1e-3), (0.01 / jnp.where(flat, 1.0, largest)) ** (1 / (how.method.order + 1))
    )
    return jnp.minimum(100 * h, better)


def step_factor(how: Setting, error: Any) -> Any:
    """By what the step size changes after an error."""
    safe = jnp.where(error > 1e-12, error, 1.0)
    wanted = jnp.where(error > 1e-12, _SAFETY * safe ** (-1 / how.method.order), _LARGEST_FACTOR)
    return jnp.clip(jnp.where(jnp.isfinite(error), wanted, _SMALLEST_FACTOR), _SMALLEST_FACTOR, _LARGEST_FACTOR)


def used_step(t: Any, h: Any, end: Any) -> Any:
    """The step to the end, where one of length ``h`` would leave less than a sliver."""
    return jnp.where(t + 1.000001 * h >= end, end - t, h)


def within(how: Setting, y: Any, slopes: Any, t: Any, h: Any, time: Any) -> Any:
    """The solution within a step."""
    return y + h * jnp.tensordot(how.method.weights((time - t) / h), slopes, axes=1)
