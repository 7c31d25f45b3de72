"""From step to step: output, limits, progress, Ctrl-C; the same for every method."""

from __future__ import annotations

import abc
import sys
import time
from typing import Final

import numpy as np

from pysciml.engines.base import Array, RawSolution, SolveOptions
from pysciml.engines.fields.operator import Operator

_MESSAGES: Final = {
    "MaxIters": "max_steps={max_steps} steps were not enough",
    "DtLessThanMin": "the step size became too small: the solution may blow up or not be smooth there",
    "Unstable": "the right-hand side is not finite at the initial values",
    "Interrupted": "interrupted by the user",
}


class StepSizeError(Exception):
    """The step size went to zero."""


class Stepper(abc.ABC):
    """A method on its way.

    Attributes
    ----------
    t, y
        How far it is.
    end : float
        Where it ends; time runs forward.
    finite : bool
        Whether the right-hand side is finite at the start.
    """

    name: str
    finite: bool = True

    def __init__(self, t: float, y: Array, end: float) -> None:
        self.t, self.y, self.end = t, y, end

    @abc.abstractmethod
    def step(self) -> bool:
        """One attempt; whether it was accepted.

        Raises
        ------
        StepSizeError
            If the next step would be too small to move the time.
        """

    @abc.abstractmethod
    def interpolate(self, t: float) -> Array:
        """The solution within the last accepted step."""

    def settle(self) -> None:
        """What is to be done before the next step, after an accepted one."""
        return


def march(
    stepper: Stepper, operator: Operator, name: str, tspan: tuple[float, float], options: SolveOptions, u0: Array
) -> RawSolution:
    """Run a method to the end of the span."""
    sign = 1.0 if tspan[1] > tspan[0] else -1.0
    every = options.saveat is None
    times = np.zeros(0) if options.saveat is None else sign * options.saveat
    ts: list[float] = []
    ys: list[Array] = []
    if every or (times.size and times[0] == sign * tspan[0]):
        ts.append(sign * tspan[0])
        ys.append(u0)
        times = times[1:]
    begin = time.perf_counter()
    accepted = rejected = saved = 0
    retcode = "Success" if stepper.finite else "Unstable"
    try:
        while stepper.t < stepper.end and retcode == "Success":
            if accepted + rejected >= options.max_steps:
                retcode = "MaxIters"
                break
            if not stepper.step():
                rejected += 1
                continue
            accepted += 1
            if every:
                ts.append(stepper.t)
                ys.append(stepper.y.copy())
            while saved < len(times) and times[saved] <= stepper.t:
                at_end = times[saved] == stepper.t
                ys.append(stepper.y.copy() if at_end else stepper.interpolate(float(times[saved])))
                ts.append(float(times[saved]))
                saved += 1
            stepper.settle()
            if options.progress:
                share = (stepper.t - sign * tspan[0]) / (stepper.end - sign * tspan[0])
                sys.stderr.write(f"\r{name}: {100 * share:.1f} %, {accepted} steps")
                sys.stderr.flush()
    except StepSizeError:
        retcode = "DtLessThanMin"
    except KeyboardInterrupt:
        retcode = "Interrupted"
    if options.progress:
        sys.stderr.write("\n")
    return RawSolution(
        t=sign * np.array(ts),
        u=np.stack(ys).T if ys else np.zeros((len(u0), 0)),
        algorithm=stepper.name,
        retcode=retcode,
        message=_MESSAGES.get(retcode, "").format(max_steps=options.max_steps),
        n_steps=accepted,
        n_rejected=rejected,
        n_rhs=operator.evaluations,
        solve_seconds=time.perf_counter() - begin,
    )
