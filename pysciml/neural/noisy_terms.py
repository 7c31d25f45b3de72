"""Regularizers of stochastic solves; see `pysciml.neural.terms`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from pysciml.errors import UnsupportedError
from pysciml.neural import terms
from pysciml.neural.regularizers import (
    ErrorEstimate,
    JacobianNorm,
    KineticEnergy,
    LocalErrorEstimate,
    LocalStiffnessEstimate,
    Regularizer,
    StiffnessEstimate,
    TaylorDerivative,
)
from pysciml.neural.stochastic import NoisyField, NoisyOutcome, NoisySetting, noisy_step

_LOCAL = (LocalErrorEstimate, LocalStiffnessEstimate)


def check(regularizers: Sequence[Regularizer]) -> None:
    """Refuse what has no meaning for paths that have no derivatives."""
    for r in regularizers:
        if isinstance(r, TaylorDerivative):
            raise UnsupportedError("TaylorDerivative: the paths of a stochastic equation have no derivatives")
        if getattr(r, "through_steps", False):
            raise UnsupportedError("through_steps: stochastic solves are differentiated with their steps as taken")


def setting_for(how: NoisySetting, regularizers: Sequence[Regularizer]) -> NoisySetting:
    """The setting a solve needs for its regularizers."""
    return replace(how, quadrature=any(isinstance(r, (KineticEnergy, JacobianNorm)) for r in regularizers))


def field_for(field: NoisyField, regularizers: Sequence[Regularizer]) -> NoisyField:
    """The field with the integrands of the regularizers (of the drift), as `terms.field_for` makes it."""
    integrated = [(k, r) for k, r in enumerate(regularizers) if isinstance(r, (KineticEnergy, JacobianNorm))]
    if not integrated:
        return lambda t, y, given: field(t, y, given[0])

    def function(t: Any, y: Any, given: Any) -> Any:
        params, coefficients, noise = given
        drift, diffusion = field(t, y, params)
        total = jnp.zeros((), y.dtype)
        for k, r in integrated:
            value = drift
            if isinstance(r, JacobianNorm):
                value = jax.jvp(lambda z: field(t, z, params)[0], (y,), (noise,))[1]
            total = total + coefficients[k] * jnp.mean(jnp.square(value))
        return drift, diffusion, total

    return function


def values(
    how: NoisySetting,
    field: NoisyField,
    regularizers: Sequence[Regularizer],
    out: NoisyOutcome,
    end: Any,
    given: Any,
    key: Any,
) -> Any:
    """The weighted sum of all regularizers of a solve."""
    coefficients = given[1]
    total = out.integral if how.quadrature else jnp.zeros((), out.y1.dtype)
    for k, r in enumerate(regularizers):
        if isinstance(r, ErrorEstimate):
            total = total + coefficients[k] * terms.aggregate(out.error * out.h, r.aggregate, out.n_steps)
        elif isinstance(r, StiffnessEstimate):
            total = total + coefficients[k] * terms.aggregate(out.stiffness, r.aggregate, out.n_steps)
    for sampling in ("unbiased", "biased"):
        chosen = [(k, r) for k, r in enumerate(regularizers) if isinstance(r, _LOCAL) and r.sampling == sampling]
        if chosen:
            error, stiffness = local(how, field, out, end, given, key, sampling == "unbiased")
            for k, r in chosen:
                total = total + coefficients[k] * (error if isinstance(r, LocalErrorEstimate) else stiffness)
    return total


def local(
    how: NoisySetting, field: NoisyField, out: NoisyOutcome, end: Any, given: Any, key: Any, uniform: bool
) -> tuple[Any, Any]:
    """Error times step size, and stiffness, of one step with new noise at a random time."""
    record = jax.lax.stop_gradient(out.record)
    where, noise = jax.random.split(key)
    if uniform:
        begun = jnp.arange(how.max_steps) < out.n_records
        time = jax.random.uniform(where, (), out.y1.dtype, record.t[0], end)
        i = jnp.maximum(jnp.sum(jnp.where(begun, record.t, jnp.inf) <= time) - 1, 0)
        last = i + 1 >= out.n_records
        after = jnp.where(last, out.y1, record.y[jnp.minimum(i + 1, how.max_steps - 1)])
        part = (time - record.t[i]) / jnp.where(record.h[i] > 0, record.h[i], 1.0)
        start = jax.lax.stop_gradient(record.y[i] + part * (after - record.y[i]))
    else:
        i = jax.random.randint(where, (), 0, jnp.maximum(out.n_records, 1))
        time, start = record.t[i], record.y[i]
    size = jnp.maximum(jnp.minimum(record.h[i], end - time), 1e-3 * (end - record.t[0]))
    draw = jnp.sqrt(size) * jax.random.normal(noise, (2, *start.shape), start.dtype)
    _, error, stiffness, _ = noisy_step(how, field, time, size, start, draw[0], draw[1], given)
    return error * size, stiffness
