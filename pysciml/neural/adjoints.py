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
import equinox as eqx
import jax
import jax.numpy as jnp

from pysciml.neural import adaptive
from pysciml.neural.adaptive import Outcome, Record
from pysciml.neural.steps import CLASSES, Field, Setting, evaluate, first_step, step_factor, used_step


def solve(how: Setting, field: Field, params: Any, y0: Any, t0: Any, t1: Any, times: Any = None) -> Outcome:
    """See `pysciml.neural.adaptive.solve`; differentiated by the adjoint of the setting, if it has one.

    Then estimates of errors and stiffness are zero, and steps that are sampled are recorded where the setting says so.
    """
    if how.adjoint is None:
        return adaptive.solve(how, field, params, y0, t0, t1, times)
    span = jnp.asarray(t0, y0.dtype), jnp.asarray(t1, y0.dtype)
    times = jnp.zeros(0, y0.dtype) if times is None else jnp.asarray(times, y0.dtype)
    adjoint, steps_too = how.adjoint, how.local
    if isinstance(adjoint, diffrax.BacksolveAdjoint):
        steps_too = False
        # What it solves on the way back has steps of its own, as many as it takes; a failure there is not to be missed.
        back = diffrax.PIDController(how.rtol, how.atol, dtmin=8 * jnp.finfo(y0.dtype).eps * (span[1] - span[0]))
        usual = {"stepsize_controller": back, "max_steps": None, "throw": True}
        adjoint = diffrax.BacksolveAdjoint(**{**usual, **adjoint.kwargs})
    begin = Along(y0, jnp.zeros((), y0.dtype)) if how.quadrature else y0

    def slope(t: Any, y: Any, params: Any) -> Any:
        return Along(*field(t, y.state, params)) if how.quadrature else field(t, y, params)

    there = evaluate(how, field, span[0], y0, params)[0]
    first = jax.lax.stop_gradient(first_step(how, field, *span, y0, there, params))
    wanted = diffrax.SubSaveAt(ts=times if times.size else None, t1=True)
    solution: Any = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        getattr(diffrax, CLASSES[how.method.name])(),
        *span,
        first,
        begin,
        params,
        saveat=diffrax.SaveAt(subs=[wanted, diffrax.SubSaveAt(t0=True, steps=True)] if steps_too else wanted),
        stepsize_controller=Controller(how.rtol, how.atol, how=how, start=span[0], end=span[1]),
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


def _state(y: Any) -> Any:
    return y.state if isinstance(y, Along) else y


def _norm(x: Any) -> Any:
    return jnp.sqrt(jnp.mean(jnp.square(x)))


class Controller(diffrax.AbstractAdaptiveStepSizeController[Any, Any]):
    """The controller of `pysciml.neural.steps` for diffrax's loop: both take the same steps.

    Its state is the size to try. What is integrated along has no say. Steps are not differentiated, as diffrax's own
    controllers do not differentiate them.
    """

    rtol: Any
    atol: Any
    how: Setting = eqx.field(static=True)
    start: Any
    end: Any
    norm: Any = _norm

    def wrap(self, direction: Any) -> Controller:
        """Time goes forward."""
        return self

    def init(
        self, terms: Any, t0: Any, t1: Any, y0: Any, dt0: Any, args: Any, func: Any, error_order: Any
    ) -> tuple[Any, Any]:
        """The end of the first step, and its size."""
        return t0 + used_step(t0, dt0, self.end), dt0

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: Any,
        y1_candidate: Any,
        args: Any,
        y_error: Any,
        error_order: Any,
        controller_state: Any,
    ) -> tuple[Any, ...]:
        """Whether the step is accepted, where the next one begins and ends, and its size."""
        before, after, estimate = jax.lax.stop_gradient((_state(y0), _state(y1_candidate), _state(y_error)))
        error = self.norm(estimate / (self.atol + self.rtol * jnp.maximum(jnp.abs(before), jnp.abs(after))))
        error = jnp.where(jnp.isfinite(error) & jnp.isfinite(after).all(), error, jnp.inf)
        keep = error <= 1
        factor = step_factor(self.how, error)
        # The difference of its ends is a step's size but for rounding, which is not to make another one of it.
        following = jnp.where(keep, factor, jnp.minimum(factor, 1.0)) * used_step(t0, controller_state, self.end)
        least = 8 * jnp.finfo(after.dtype).eps * jnp.maximum(jnp.abs(t0), 1e-3 * (self.end - self.start))
        result = diffrax.RESULTS.where(
            ~keep & ~(following > least), diffrax.RESULTS.dt_min_reached, diffrax.RESULTS.successful
        )
        reached = jnp.where(keep, t1, t0)
        return keep, reached, reached + used_step(reached, following, self.end), False, following, result


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
