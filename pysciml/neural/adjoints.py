"""Solves that are differentiated as diffrax does it: by any of its adjoints, in its own loop.

`pysciml.neural.adaptive` differentiates the steps it has taken; what comes of that is the derivative of the numerical
solution, and of its estimates. A continuous adjoint knows the equation alone, of which it solves the adjoint one (Chen,
Rubanova, Bettencourt & Duvenaud, *Neural Ordinary Differential Equations*, NeurIPS 2018): the solution has a derivative
then, its error and stiffness estimates have none. What a regularizer takes from a single step needs no more (Pal,
Edelman & Rackauckas, *Locally Regularized Neural Differential Equations*, ICML 2023).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from pysciml.neural import adaptive
from pysciml.neural.adaptive import CLASSES, Field, Outcome, Record, Setting, evaluate


def solve(how: Setting, field: Field, params: Any, y0: Any, t0: Any, t1: Any, times: Any = None) -> Outcome:
    """See `pysciml.neural.adaptive.solve`; differentiated by the adjoint of the setting, if it has one.

    Then estimates of errors and stiffness are zero, and steps that are sampled are recorded where the setting says so.
    """
    if how.adjoint is None:
        return adaptive.solve(how, field, params, y0, t0, t1, times)
    span = jnp.asarray(t0, y0.dtype), jnp.asarray(t1, y0.dtype)
    times = jnp.zeros(0, y0.dtype) if times is None else jnp.asarray(times, y0.dtype)
    adjoint, steps_too = how.adjoint, how.local and not isinstance(how.adjoint, diffrax.BacksolveAdjoint)
    controller = diffrax.PIDController(how.rtol, how.atol, dtmin=8 * jnp.finfo(y0.dtype).eps * (span[1] - span[0]))
    begin = y0
    if how.quadrature:
        # What is integrated along has no say in the size of steps: neither of these, nor of those on the way back.
        begin = Along(y0, jnp.zeros((), y0.dtype))
        if isinstance(adjoint, diffrax.BacksolveAdjoint):
            adjoint = diffrax.BacksolveAdjoint(**{"stepsize_controller": controller, **adjoint.kwargs})
        controller = diffrax.PIDController(how.rtol, how.atol, norm=_norm_of_state, dtmin=controller.dtmin)

    def slope(t: Any, y: Any, params: Any) -> Any:
        return Along(*field(t, y.state, params)) if how.quadrature else field(t, y, params)

    # The first step is that of `adaptive.solve`, which has the same controller: both take the same steps.
    there = evaluate(how, field, span[0], y0, params)[0]
    first = jax.lax.stop_gradient(adaptive.first_step(how, field, *span, y0, there, params))
    wanted = diffrax.SubSaveAt(ts=times if times.size else None, t1=True)
    solution: Any = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        getattr(diffrax, CLASSES[how.method.name])(),
        *span,
        first,
        begin,
        params,
        saveat=diffrax.SaveAt(subs=[wanted, diffrax.SubSaveAt(t0=True, steps=True)] if steps_too else wanted),
        stepsize_controller=controller,
        adjoint=adjoint,
        max_steps=how.max_steps,
        throw=False,
    )
    found = solution.ys[0] if steps_too else solution.ys
    ys, integral = (found.state, found.integral[-1]) if how.quadrature else (found, jnp.zeros((), y0.dtype))
    attempts, n_steps, n_rejected = (solution.stats[f"num_{name}steps"] for name in ("", "accepted_", "rejected_"))
    each = jnp.zeros(how.max_steps, y0.dtype)
    record: Any = None
    n_records = n_steps
    if steps_too:
        states = solution.ys[1].state if how.quadrature else solution.ys[1]
        record = jax.lax.stop_gradient(_record(solution.ts[1], states))
    elif how.local:  # this adjoint keeps no steps: those of a solve that is not differentiated
        other = adaptive.solve(how, field, *jax.lax.stop_gradient((params, y0)), *span)
        record, n_records = other.record, other.n_records
    full = solution.result == diffrax.RESULTS.max_steps_reached
    return Outcome(
        ys=ys[:-1],
        y1=ys[-1],
        error=each,
        stiffness=each,
        h=each,
        integral=integral,
        n_steps=n_steps,
        n_rejected=n_rejected,
        n_rhs=2 + (how.method.stages - 1) * attempts,
        success=(solution.result == diffrax.RESULTS.successful) & jnp.isfinite(ys[-1]).all(),
        record=record,
        # diffrax counts rejected attempts, too, among those it may take.
        n_records=jnp.where(full, how.max_steps, n_records),
    )


class Along(NamedTuple):
    """A state, and what is integrated along with it."""

    state: Any
    integral: Any


def _norm_of_state(y: Along) -> Any:
    return jnp.sqrt(jnp.mean(jnp.square(y.state)))


def _record(times: Any, states: Any) -> Record:
    """Where steps began, from where all of them ended; the slopes there are left out."""
    sizes = jnp.diff(times)
    kept = jnp.isfinite(sizes)
    return Record(
        t=times[:-1],
        h=jnp.where(kept, sizes, 0.0),
        y=states[:-1],
        slope=None,
        saved=jnp.zeros(sizes.shape, jnp.int32),
        kept=kept,
    )
