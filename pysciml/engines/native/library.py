"""The calls into pydiffsol: one place that knows how they fail.

What was found of pydiffsol 0.6.2 and is guarded here: ``klu`` ends the process (never used); a
failed call keeps nothing of what it computed, but its message says at which time it failed; a
panic of the library reaches Python as a ``BaseException`` and poisons the solver's lock, so the
compiled model is thrown away; the size of ``h0`` is ignored, only its sign counts.
"""

from __future__ import annotations

import math
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array

#: SciML names of the library's methods.
METHODS: Final[dict[str, str]] = {
    "Tsit5": "tsit45",
    "TRBDF2": "tr_bdf2",
    "ESDIRK34": "esdirk34",
    "QNDF": "bdf",
}

#: Return code of a failure to reach the last output time, by rounding.
MISSED: Final = "Missed"
#: Return code of a failure that goes away with another end of the call.
STUMBLED: Final = "Stumbled"

_TIME: Final = re.compile(r"time = (-?[0-9.]+(?:e[-+]?[0-9]+)?|inf|-inf|NaN)")


@dataclass
class Outcome:
    """One call: what it computed, or how it failed.

    Attributes
    ----------
    t : array, shape (n,)
        The solver's steps with the start, or the times asked for.
    u : array, shape (n_states, n)
    retcode : str
        ``"Success"`` or SciML's name of the failure; then ``t`` and ``u`` are empty.
    message : str
    failed_at : float
        Where it failed, NaN where the library does not say.
    seconds : float
    """

    t: Array
    u: Array
    retcode: str = "Success"
    message: str = ""
    failed_at: float = float("nan")
    seconds: float = 0.0


def _describe(message: str) -> tuple[str, str]:
    """SciML's return code of an error of the library, and a sentence."""
    if "Step size is too small" in message or "error test failures" in message:
        return "DtLessThanMin", "the step size went to zero: a singularity, or a discontinuity"
    if "nonlinear solver failures" in message or "Newton" in message:
        return "ConvergenceFailure", "the implicit equations of a step could not be solved"
    if "Stop time is at" in message:
        # Raised now and then where a step happens to end just before the end of the call.
        return STUMBLED, "the library stumbled over the end of a call"
    if "Initial condition" in message or "linesearch" in message:
        return "InitialFailure", "no consistent initial values were found"
    if "Linear algebra" in message or "LU" in message:
        return "Singular", "a matrix of the implicit method is singular"
    return "Failure", message


def _norm(x: Array) -> float:
    return math.sqrt(float(x @ x) / x.size)


def _never_started(n_states: int) -> Outcome:
    message = "the right-hand side is not finite, or too large, for a first step"
    return Outcome(np.zeros(0), np.zeros((n_states, 0)), "Unstable", message)


@dataclass
class Compiled:
    """A compiled model with its solver; calls are serialized by a lock.

    Attributes
    ----------
    ode : pydiffsol.Ode
    n_states, n_params : int
    seconds : float
        How long compiling took.
    order : int array or None
        State ``k`` of the compiled model is state ``order[k]`` of the model.
    broken : bool
        Whether the library panicked, after which it cannot be used.
    """

    ode: Any
    n_states: int
    n_params: int
    seconds: float
    order: npt.NDArray[np.int64] | None = None
    broken: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def run(
        self,
        method: str,
        t0: float,
        u0: Array,
        p: Array,
        until: float | Array,
        rtol: float,
        atol: float,
        min_step: float,
    ) -> Outcome:
        """Solve from ``t0``, to a time with all steps kept, or at given times.

        Parameters
        ----------
        method : str
            A key of `METHODS`.
        until : float or array
        min_step : float
            The library gives up where it would need smaller steps.
        """
        import pydiffsol

        inputs = np.concatenate([p, u0 if self.order is None else u0[self.order]])
        with self.lock:
            ode = self.ode
            ode.ode_solver = getattr(pydiffsol, METHODS[method])
            ode.rtol, ode.atol, ode.t0 = rtol, atol, t0
            ode.options.min_timestep = min_step
            start = time.perf_counter()
            first, f0 = self._first_step(inputs, t0, u0, rtol, atol)
            if first == 0:
                return _never_started(self.n_states)
            end = float(until[-1]) if isinstance(until, np.ndarray) else until
            if end - t0 < 1e-12 * first:  # too short for the library, and a straight line
                t = until if isinstance(until, np.ndarray) else np.array([t0, end])
                return Outcome(t, u0[:, None] + (t - t0) * f0[:, None])
            try:
                solution = ode.solve_dense(inputs, until) if isinstance(until, np.ndarray) else ode.solve(inputs, until)
                t, u = solution.ts, self._sorted(solution.ys)
            except Exception as error:
                retcode, message = _describe(str(error))
                found = _TIME.search(str(error))
                where = float(found.group(1)) if found else float("nan")
            except BaseException as error:
                if type(error).__name__ != "PanicException":
                    raise
                self.broken = True
                retcode, message, where = "Failure", f"the library failed: {error}", float("nan")
                if "before consuming all t_eval" in str(error):
                    retcode = MISSED
            else:
                seconds = time.perf_counter() - start
                if np.isfinite(u).all():
                    return Outcome(t, u, seconds=seconds)
                bad = ~np.isfinite(u).all(axis=0)
                keep = int(np.argmax(bad))
                return Outcome(
                    t[:keep],
                    u[:, :keep],
                    "Unstable",
                    "the solution is not finite any more",
                    float(t[max(keep - 1, 0)]) if keep else t0,
                    seconds,
                )
            empty = np.zeros((self.n_states, 0))
            return Outcome(np.zeros(0), empty, retcode, message, where, time.perf_counter() - start)

    def _first_step(self, inputs: Array, t0: float, u0: Array, rtol: float, atol: float) -> tuple[float, Array]:
        """The length of the library's first step, 0 where it has none, and the right-hand side.

        The library computes it as Hairer, Nørsett & Wanner do (1993, II.4), without looking for
        overflow; a step of length zero is then repeated for ever.
        """
        u = u0 if self.order is None else u0[self.order]
        with np.errstate(all="ignore"):
            scale = 1 / (atol + rtol * np.abs(u))
            f0 = self.ode.rhs(inputs, t0, u)
            d0, d1 = _norm(u * scale), _norm(f0 * scale)
            h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
            if not 0 < h0 < np.inf:
                return 0.0, f0
            d2 = _norm((self.ode.rhs(inputs, t0 + h0, u + h0 * f0) - f0) * scale) / h0
        starts = np.isfinite(d1) and not np.isinf(d2) and max(d1, d2) < 1e150
        return (h0 if starts else 0.0), self._sorted(f0)

    def _sorted(self, u: Array) -> Array:
        if self.order is None:
            return u
        back = np.empty_like(u)
        back[self.order] = u
        return back

    def forward_sensitivities(
        self,
        method: str,
        t0: float,
        u0: Array,
        p: Array,
        times: Array,
        rtol: float,
        atol: float,
        min_step: float,
    ) -> tuple[Outcome, Array]:
        """Solve with the derivatives of all states by all inputs.

        Returns
        -------
        outcome : Outcome
        derivatives : array, shape (n_params + n_states, n_states, n_t)
        """
        import pydiffsol

        with self.lock:
            ode = self.ode
            ode.ode_solver = getattr(pydiffsol, METHODS[method])
            ode.rtol, ode.atol, ode.t0 = rtol, atol, t0
            ode.sens_rtol, ode.sens_atol = rtol, atol
            ode.options.min_timestep = min_step
            start = time.perf_counter()
            none = np.zeros((self.n_params + self.n_states, self.n_states, 0))
            try:
                order = np.arange(u0.size) if self.order is None else self.order
                solution = ode.solve_fwd_sens(np.concatenate([p, u0[order]]), times)
                t, u = solution.ts, self._sorted(solution.ys)
                raw = np.asarray(solution.sens)
                derivatives = np.empty_like(raw)
                m = self.n_params
                derivatives[np.append(np.arange(m), m + order)[:, None], order] = raw
            except Exception as error:
                retcode, message = _describe(str(error))
                t, u, derivatives = np.zeros(0), np.zeros((self.n_states, 0)), none
            except BaseException as error:
                if type(error).__name__ != "PanicException":
                    raise
                self.broken = True
                retcode, message = "Failure", f"the library failed: {error}"
                t, u, derivatives = np.zeros(0), np.zeros((self.n_states, 0)), none
            else:
                retcode, message = "Success", ""
                if not (np.isfinite(u).all() and np.isfinite(derivatives).all()):
                    retcode, message = "Unstable", "the sensitivities are not finite"
            seconds = time.perf_counter() - start
            return Outcome(t, u, retcode, message, seconds=seconds), derivatives
