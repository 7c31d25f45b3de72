"""`reduce_index`: a system whose index an engine with a computer algebra system has reduced."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, overload

import numpy as np
import sympy as sp

from pysciml.engines import base
from pysciml.errors import ProblemError
from pysciml.hints import did_you_mean, named_options
from pysciml.problem import ALGEBRAIC_GUESS, Problem
from pysciml.symbolic import System
from pysciml.symbolic.reading import name_of
from pysciml.symbolic.reduction import Derivative, as_written, assembled


@overload
def reduce_index(given: System, *, prefer: Iterable[Any] = (), engine: str = "julia") -> System: ...
@overload
def reduce_index(given: Problem, *, prefer: Iterable[Any] = (), engine: str = "julia") -> Problem: ...
@named_options()
def reduce_index(given: System | Problem, *, prefer: Iterable[Any] = (), engine: str = "julia") -> System | Problem:
    """Reduce the index of equations to 1, by another method than solving them needs.

    Systems of any index are solved as they are: `System` differentiates constraints and keeps solutions on them. The
    Julia engine has ModelingToolkit.jl's structural simplification: Pantelides' algorithm, dummy derivatives
    (Mattsson & Söderlind, SIAM J. Sci. Comput. 14 (1993) 677), and tearing, which eliminates what can be solved for.
    What it gives is a system like any other, for every engine. It has fewer states, and the constraints are algebraic
    equations in it. Which states are independent is chosen once: a solution ends where that choice does not hold, as
    that of a pendulum does whose height was chosen, when it comes to the lowest point, and where its other coordinate
    was, when it comes to a side.

    Parameters
    ----------
    given : System or Problem
        Ordinary and algebraic equations, without events, noise, delays, jumps and networks.
    prefer : list of unknowns or names
        Which to have as independent (differential) states, with their derivatives, where there is a choice.
    engine : str, default "julia"
        Who reduces.

    Returns
    -------
    System or Problem
        As given. Unknowns have the names they had; a derivative that became an unknown is called as it is in results,
        ``x_t`` or ``x_tt``; what was eliminated is observed. A problem's initial values are carried over, and those of
        algebraic states are guesses.

    Raises
    ------
    EngineUnavailableError
        If the engine, or its package for this, is not set up.
    UnsupportedError
        If it cannot reduce the index, or not of such a system.
    ProblemError
        If ``prefer`` has something else than unknowns.

    Examples
    --------
    >>> pendulum = System([Eq(D(x, 2), -x*tension), Eq(D(y, 2), -y*tension - 9.81), Eq(x**2 + y**2, 1)])
    >>> pendulum.index, reduce_index(pendulum).index
    (3, 1)
    """
    if isinstance(given, Problem):
        system, derivatives = _reduced(given.system, prefer, engine)
        return Problem(system, _carried(given, system, derivatives), given.tspan, _parameters(given))
    what: Any = given
    if not isinstance(what, System):
        raise ProblemError(f"reduce_index takes a pysciml.System or a pysciml.Problem, not {type(what).__name__}")
    return _reduced(given, prefer, engine)[0]


def _reduced(system: System, prefer: Iterable[Any], engine: str) -> tuple[System, tuple[Derivative, ...]]:
    written = as_written(system)
    preferred = _numbers(prefer, written.functions)
    return assembled(system, written, base.get(engine).index_reduced(written.unreduced, preferred))


def _numbers(prefer: Any, functions: tuple[Any, ...]) -> tuple[int, ...]:
    """The unknowns of ``prefer``, by their numbers."""
    names = [name_of(function) for function in functions]
    known = {key: k for k, pair in enumerate(zip(functions, names, strict=True)) for key in pair}
    if isinstance(prefer, str) or not isinstance(prefer, Iterable):
        raise ProblemError(f"prefer is a list of unknowns, such as [{names[0]}], not {prefer!r}", symbol="prefer")
    numbers: list[int] = []
    for key in prefer:
        number = known.get(key) if isinstance(key, str | sp.Basic) else None
        if number is None:
            raise ProblemError(
                f"prefer has {key}, which is no unknown of the system ({', '.join(names[:10])})"
                f"{did_you_mean(str(key), names)}",
                symbol=str(key),
            )
        numbers.append(number)
    return tuple(numbers)


def _parameters(problem: Problem) -> dict[str, float]:
    return dict(zip(problem.system.model.parameters, problem.p.tolist(), strict=True))


def _carried(problem: Problem, system: System, derivatives: tuple[Derivative, ...]) -> dict[str, float]:
    """Initial values for the reduced system: those of the same derivatives, and highest ones by the equations."""
    old = problem.system
    known: dict[Any, float] = {}
    with np.errstate(all="ignore"):
        rates = old.graph.evaluate("rhs", problem.u0, problem.p, problem.tspan[0])
    for info, rate, moves in zip(old._lowered.states, rates.tolist(), old.model.differential, strict=True):
        if moves and math.isfinite(rate):
            known[info.function, info.order + 1] = rate
    known |= {
        (info.function, info.order): value for info, value in zip(old._lowered.states, problem.u0.tolist(), strict=True)
    }
    return {
        name: known.get(derivative, ALGEBRAIC_GUESS)
        for name, derivative in zip(system.model.states, derivatives, strict=True)
    }
