"""One trajectory: run the compiled loop in slices, collect what it saves."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from pysciml.engines.base import Array, RawSolution, SolveOptions
from pysciml.engines.jax.algorithms import ALGORITHMS
from pysciml.engines.jax.compiling import arithmetic, compiled
from pysciml.engines.jax.loop import advance, start
from pysciml.engines.jax.packing import MOST_STEPS, Buffers, Inputs, Report, outputs
from pysciml.engines.jax.program import Setting, key_of, make_plan, pad_times, setting
from pysciml.engines.jax.state import RETCODES, RUNNING, UNSTABLE, Plan
from pysciml.graph import Model

#: Steps that are tried in one call.
_FIRST: Final = 10_000
#: Steps between two looks at the keyboard.
_SLICE: Final = 50_000
_MESSAGES: Final = {
    "MaxIters": "max_steps={max_steps} steps were not enough{hint}",
    "DtLessThanMin": "the step size became too small: the solution may blow up or not be smooth there",
    "Unstable": "the solution or its derivative is not finite",
    "Interrupted": "interrupted by the user",
}
_HINT: Final = " (for a stiff problem choose Kvaerno5, KenCarp4 or the native engine)"


def solve(
    model: Model, u0: Array, p: Array, tspan: tuple[float, float], algorithm: str, options: SolveOptions
) -> RawSolution:
    """Solve; see `pysciml.engines.base.Engine.solve`."""
    save = "steps" if options.saveat is None else "times"
    rows = max(256, min(4096, 2**22 // (8 * len(u0)))) if save == "steps" else 0
    buffer = rows or (256 if model.events else 0)
    single = options.precision == "float32"
    how = setting(model, algorithm, tspan, options.dt, save, batched=False, buffer=buffer, single=single)
    key, seed = key_of(options.seed) if model.kind == "sde" else (np.zeros(2, dtype=np.uint32), 0)
    run = Run(model, u0, p, tspan, how, options, key)
    run.to_the_end()
    solution = run.solution()
    solution.extra = options.place
    if model.kind == "sde":
        solution.extra |= {"seed": seed, "calculus": calculus(model, algorithm)} | step(options)
    return solution


def step(options: SolveOptions) -> dict[str, str | int | float]:
    """The attribute that says what the step size was, where it was given or chosen beforehand."""
    return {} if options.dt is None else {"dt": options.dt}


def calculus(model: Model, algorithm: str) -> str:
    """How an Itô equation was treated, in words."""
    if ALGORITHMS[algorithm].calculus == "ito":
        return "Ito"
    if model.noise_type == "additive":
        return "Ito, which is Stratonovich here: the noise is additive"
    return "Ito, solved as the equivalent Stratonovich equation (drift corrected)"


class Run:
    """The host's side of one solve.

    Parameters
    ----------
    plan : callable, optional
        Makes the loop's plan; by default the model's own.
    variant : str
        Names such a plan, for the cache of compiled functions.
    """

    def __init__(
        self,
        model: Model,
        u0: Array,
        p: Array,
        tspan: tuple[float, float],
        how: Setting,
        options: SolveOptions,
        key: Any,
        plan: Callable[[], Plan] | None = None,
        variant: str = "",
    ) -> None:
        self._model, self._how, self._options = model, how, options
        self._make_plan = plan if plan is not None else lambda: make_plan(model, how)
        self._variant = variant
        self._u0 = np.ascontiguousarray(u0, dtype=np.float64)
        self._sign = 1.0 if how.forward else -1.0
        self._tspan = tspan
        times = np.zeros(0) if options.saveat is None else self._sign * options.saveat
        begin = self._sign * tspan[0]
        self._with_start = options.saveat is None or (times.size > 0 and times[0] == begin)
        self._times = times[1:] if options.saveat is not None and self._with_start else times
        self._begin, self._end = begin, self._sign * tspan[1]
        times = pad_times(self._times) if how.save == "times" else np.zeros(0)
        self._inputs = Inputs(len(self._u0), len(p), np.size(options.absolute), len(times))
        most = min(options.max_steps, MOST_STEPS[options.precision])
        self._packed = self._inputs.pack(
            self._u0, p, times, options.absolute, (begin, self._end, options.rtol, options.dt or 0.0, most, _FIRST)
        )
        self._key = key
        self._chunks: list[tuple[Array, Array]] = []
        self._event_times: list[tuple[float, int]] = []
        self._buffers: Any = None
        self._report: Report | None = None
        self._retcode = ""
        self.compile_seconds = 0.0
        self.solve_seconds = 0.0

    def _make_whole(self) -> Callable[..., Any]:
        plan, inputs = self._make_plan(), self._inputs

        def run(packed: Any, key: Any) -> Any:
            y, args = inputs.unpack(packed, key)
            return outputs(advance(plan, start(plan, y, args), args))

        return run

    def _make_first(self) -> Callable[..., Any]:
        plan, inputs = self._make_plan(), self._inputs

        def run(packed: Any, key: Any) -> Any:
            return start(plan, *inputs.unpack(packed, key))

        return run

    def _make_more(self) -> Callable[..., Any]:
        plan, inputs = self._make_plan(), self._inputs

        def run(carry: Any, packed: Any, key: Any) -> Any:
            carry = advance(plan, carry, inputs.unpack(packed, key)[1])
            return *outputs(carry), carry

        return run

    def to_the_end(self) -> None:
        """Run; a short solve is one call, a long one is begun again and run slice after slice.

        The state to go on from is some twenty arrays, which take as long to hand over as a small
        problem takes to solve.
        """
        begin = time.perf_counter()
        try:
            with arithmetic(self._options.precision, self._options.device):
                whole = self._compiled("whole", self._make_whole, self._packed, self._key)
                if self._collect(*whole(self._packed, self._key)):
                    self._in_slices()
        except KeyboardInterrupt:
            self._retcode = "Interrupted"
        self.solve_seconds = time.perf_counter() - begin - self.compile_seconds

    def _in_slices(self) -> None:
        inputs = self._packed, self._key
        carry = self._compiled("first", self._make_first, *inputs)(*inputs)
        more = self._compiled("more", self._make_more, carry, *inputs)
        self._chunks.clear()
        self._event_times.clear()
        steps, going = 0, True
        while going:
            self._inputs.stop_at(self._packed, steps + _SLICE)
            *found, carry = more(carry, *inputs)
            going = self._collect(*found)
            assert self._report is not None
            steps = self._report.n_steps
            self._progress(self._report)

    def _compiled(self, what: str, make: Callable[[], Callable[..., Any]], *args: Any) -> Callable[..., Any]:
        key = (self._model.hash, self._variant, self._how, *self._inputs, what)
        found, seconds = compiled(key, make, *args, precision=self._options.precision, device=self._options.device)
        self.compile_seconds += seconds
        return found

    def _collect(self, packed: Any, buffers: Buffers) -> bool:
        """Empty the buffers; whether there is more to do."""
        self._buffers = buffers
        report = self._report = Report.read(np.asarray(packed))
        if self._how.save == "steps":
            self._chunks.append((np.asarray(buffers.ts)[: report.saved], np.asarray(buffers.ys)[: report.saved]))
        if self._model.events:
            count = report.n_events
            pairs = zip(np.asarray(buffers.event_ts)[:count], np.asarray(buffers.event_which)[:count], strict=True)
            self._event_times.extend((self._sign * float(when), int(which)) for when, which in pairs)
        return report.code == RUNNING and report.t < float(np.asarray(self._end, dtype=report.y.dtype))

    def _progress(self, report: Report) -> None:
        if self._options.progress:
            done = (report.t - self._begin) / (self._end - self._begin)
            sys.stderr.write(f"\r{self._model.name}: {100 * done:.1f} %, {report.n_steps} steps")
            sys.stderr.flush()

    def solution(self) -> RawSolution:
        """What there is, with its return code."""
        report = self._report
        if report is None:  # interrupted in the first slice
            return self._raw(np.array([self._tspan[0]]), self._u0[:, None], "Interrupted", 0, 0)
        if self._options.progress:
            sys.stderr.write("\n")
        t_end, y_end = report.t, report.y
        if self._how.save == "steps":
            ts = np.concatenate([chunk[0] for chunk in self._chunks])
            ys = np.concatenate([chunk[1] for chunk in self._chunks])
        else:
            ts, ys = self._times[: report.saved], np.asarray(self._buffers.ys)[: report.saved]
        retcode = self._retcode or RETCODES[report.code]
        if not ALGORITHMS[self._how.algorithm].adaptive or not self._how.adaptive:
            bad = ~np.isfinite(ys).all(axis=1)
            if bad.any():
                first = int(np.argmax(bad))
                ts, ys = ts[:first], ys[:first]
                retcode = RETCODES[UNSTABLE]
            elif not np.isfinite(y_end).all():
                retcode = RETCODES[UNSTABLE]
        if retcode == "Terminated" and (ts.size == 0 or ts[-1] < t_end):  # the event itself is the last row
            ts, ys = np.append(ts, t_end), np.concatenate([ys, y_end[None]])
        if self._with_start:
            ts = np.concatenate([[self._begin], ts])
            ys = np.concatenate([self._u0[None].astype(ys.dtype), ys])
        return self._raw(self._sign * ts, np.ascontiguousarray(ys.T), retcode, report.n_steps, report.n_rejected)

    def _raw(self, t: Array, u: Array, retcode: str, n_steps: int, n_rejected: int) -> RawSolution:
        message = _MESSAGES.get(retcode, "").format(
            max_steps=self._options.max_steps,
            hint=_HINT if self._model.kind == "ode" and ALGORITHMS[self._how.algorithm].family == "explicit" else "",
        )
        return RawSolution(
            t=t,
            u=u,
            algorithm=self._how.algorithm,
            retcode=retcode,
            message=message,
            n_steps=n_steps - n_rejected,
            n_rejected=n_rejected,
            n_rhs=evaluations(self._how, n_steps, bool(self._model.events)),
            solve_seconds=self.solve_seconds,
            compile_seconds=self.compile_seconds,
            event_times=self._event_times,
        )


#: Evaluations of the right-hand side in every step and before the first one (of which two choose
#: its size).
_EVALUATIONS: Final = {
    "Tsit5": (6, 4),
    "DP5": (6, 4),
    "Dopri8": (13, 4),
    "BS3": (3, 4),
    "Heun": (2, 3),
    "Midpoint": (2, 3),
    "Ralston": (2, 3),
    "Euler": (1, 0),
    "SSPRK33": (3, 0),
    "EM": (1, 0),
    "RKMil": (1, 0),
    "SOSRI": (4, 0),
    "SOSRA": (3, 0),
    "Milstein": (1, 0),
    "EulerHeun": (2, 0),
}


def evaluations(how: Setting, n_steps: int, events: bool) -> int:
    """How often the right-hand side was evaluated; -1 where the library does not say."""
    if how.algorithm not in _EVALUATIONS or events:
        return -1
    each, before = _EVALUATIONS[how.algorithm]
    return each * n_steps + before - (2 if how.adaptive and how.given_dt else 0)
