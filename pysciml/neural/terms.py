"""Regularizers at work: how a solve is set up for them, and their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import jet

from pysciml.neural.adaptive import Outcome
from pysciml.neural.regularizers import (
    ErrorEstimate,
    JacobianNorm,
    KineticEnergy,
    LocalErrorEstimate,
    LocalStiffnessEstimate,
    RandomEndTime,
    Regularizer,
    StiffnessEstimate,
    TaylorDerivative,
)
from pysciml.neural.steps import Field, Setting, evaluate, one_step

_INTEGRATED = (TaylorDerivative, KineticEnergy, JacobianNorm)
_LOCAL = (LocalErrorEstimate, LocalStiffnessEstimate)


def setting_for(how: Setting, regularizers: Sequence[Regularizer]) -> Setting:
    """The setting a solve needs for its regularizers."""
    return replace(
        how,
        quadrature=any(isinstance(r, _INTEGRATED) for r in regularizers),
        through_steps=how.through_steps or any(getattr(r, "through_steps", False) for r in regularizers),
        local=any(isinstance(r, _LOCAL) for r in regularizers),
    )


def field_for(field: Field, regularizers: Sequence[Regularizer]) -> Field:
    """The field with the integrands of the regularizers; its parameters become ``(params, coefficients, noise)``."""
    integrated = [(k, r) for k, r in enumerate(regularizers) if isinstance(r, _INTEGRATED)]

    if not integrated:
        return lambda t, y, given: field(t, y, given[0])

    def function(t: Any, y: Any, given: Any) -> tuple[Any, Any]:
        params, coefficients, noise = given

        def plain(z: Any) -> Any:
            return field(t, z, params)

        dy = plain(y)
        total = jnp.zeros((), y.dtype)
        for k, r in integrated:
            if isinstance(r, TaylorDerivative):
                value = taylor(lambda s, z: field(s, z, params), r.order, t, y, dy)
            elif isinstance(r, KineticEnergy):
                value = dy
            else:
                value = jax.jvp(plain, (y,), (noise,))[1]
            total = total + coefficients[k] * jnp.mean(jnp.square(value))
        return dy, total

    return function


def taylor(field: Callable[[Any, Any], Any], order: int, t: Any, y: Any, dy: Any) -> Any:
    """The derivative of that order by time of the solution through ``(t, y)``.

    The coefficients of the solution follow one by one from those of the field along it (Kelly et al. 2020, alg. 1).
    """
    if order == 1:
        return dy
    series = [dy]
    one, zero = jnp.ones_like(t), jnp.zeros_like(t)
    for known in range(1, order):
        times = [one] + [zero] * (known - 1)
        _, found = jet.jet(field, (t, y), (times, series))
        series = [dy, *found]
    return series[order - 1]


def values(
    how: Setting,
    field: Field,
    regularizers: Sequence[Regularizer],
    out: Outcome,
    end: Any,
    given: Any,
    key: Any,
) -> Any:
    """The weighted sum of all regularizers of a solve.

    Parameters
    ----------
    field : callable
        As `field_for` made it.
    given : (params, coefficients, noise)
        As it was given to the solve.
    key : JAX key
        For those that sample.
    """
    coefficients = given[1]
    total = out.integral if how.quadrature else jnp.zeros((), out.y1.dtype)
    for k, r in enumerate(regularizers):
        if isinstance(r, ErrorEstimate):
            total = total + coefficients[k] * aggregate(out.error * out.h, r.aggregate, out.n_steps)
        elif isinstance(r, StiffnessEstimate):
            total = total + coefficients[k] * aggregate(out.stiffness, r.aggregate, out.n_steps)
    for sampling in ("unbiased", "biased"):
        chosen = [(k, r) for k, r in enumerate(regularizers) if isinstance(r, _LOCAL) and r.sampling == sampling]
        if chosen:
            error, stiffness = local(how, field, out, end, given, key, sampling == "unbiased")
            for k, r in chosen:
                total = total + coefficients[k] * (error if isinstance(r, LocalErrorEstimate) else stiffness)
    return total


def aggregate(each: Any, how: str, count: Any) -> Any:
    """Of the values of all steps, one."""
    if how == "max":
        return jnp.max(each)
    total = jnp.sum(each)
    return total / jnp.maximum(count, 1) if how == "mean" else total


def local(how: Setting, field: Field, out: Outcome, end: Any, given: Any, key: Any, uniform: bool) -> tuple[Any, Any]:
    """Error times step size, and stiffness, of one step at a random time, from the state there as given."""
    record = out.record
    t, h, y, slope = jax.lax.stop_gradient((record.t, record.h, record.y, record.slope))
    end = jnp.asarray(end, out.y1.dtype)
    if uniform:
        begun = jnp.arange(how.max_steps) < out.n_records
        begins = jnp.where(begun & record.kept, t, jnp.inf)
        time = jax.random.uniform(key, (), out.y1.dtype, t[0], end)
        i = jnp.max(jnp.where(begins <= time, jnp.arange(how.max_steps), 0))
        # The step that contains the time, cut off there, leads from its record to the state.
        short = jnp.maximum(time - t[i], 0.0)
        slope_there = evaluate(how, field, t[i], y[i], given) if slope is None else jax.tree.map(lambda s: s[i], slope)
        start = one_step(how, field, t[i], short, y[i], slope_there, given).y
        start = jax.lax.stop_gradient(start)
    else:
        i = jax.random.randint(key, (), 0, jnp.maximum(out.n_records, 1))
        time, start = t[i], y[i]
    size = jnp.minimum(h[i], end - time)
    first = field(time, start, given)
    done = one_step(how, field, time, size, start, first if how.quadrature else (first, None), given)
    return done.error * size, done.stiffness


def samples(regularizer: Regularizer) -> bool:
    """Whether a regularizer draws random numbers."""
    return isinstance(regularizer, (*_LOCAL, JacobianNorm, RandomEndTime))


def end_shift(regularizers: Sequence[Regularizer]) -> float:
    """By how much the end is moved at most."""
    return next((r.b for r in regularizers if isinstance(r, RandomEndTime)), 0.0)
