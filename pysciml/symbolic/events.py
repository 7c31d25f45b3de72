"""Events and jumps: what happens where an expression crosses zero, at given times, or at random ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import Boolean, BooleanAtom

from pysciml.errors import ModelError
from pysciml.graph.model import Direction, When
from pysciml.hints import named_options
from pysciml.symbolic.variables import scalar


class Event:
    """Fires where an expression crosses zero, or at given times, and may set states or end the solve.

    Parameters
    ----------
    condition : SymPy expression ``h`` of states, parameters and time, optional
        The event fires where ``h`` crosses zero. A condition that holds or not, such as ``x < 1``, is
        looked at after each step of the solver, and the event fires whenever it holds there.
    affect : mapping, optional
        State -> its new value, in terms of the values just before the event.
    at : number, expression of parameters, or list of them, optional
        In place of a condition: the times at which the event fires, in the units of time; those outside
        of ``tspan`` do not count. Where output is asked for at such a time it has the new values.
    direction : {"both", "up", "down"}
        ``"down"`` counts only crossings where ``h`` falls from positive to negative.
    terminal : bool, default False
        End the solve there (``retcode`` ``"Terminated"``).

    Raises
    ------
    ModelError
        If an argument is not of that form.

    Examples
    --------
    A ball that bounces with four fifths of its speed, and a dose every twelve hours:

    >>> Event(h, {v: -0.8*v}, direction="down")
    >>> Event(at=range(0, 72, 12), affect={drug: drug + dose})
    """

    @named_options(ModelError)
    def __init__(
        self,
        condition: Any = None,
        affect: Mapping[Any, Any] | None = None,
        *,
        at: Any = None,
        direction: Direction = "both",
        terminal: bool = False,
    ) -> None:
        if (condition is None) == (at is None):
            raise ModelError(
                "Event: give either the expression whose zero crossing counts or the times at=, not "
                + ("both" if at is not None else "neither")
            )
        self.times: tuple[sp.Expr, ...] = () if at is None else _read_times(at)
        self.when: When = "times" if at is not None else "crossing"
        if at is None and isinstance(condition, Boolean) and not isinstance(condition, BooleanAtom):
            self.when = "step"
        elif at is None and (
            not isinstance(condition, sp.Expr) or condition.is_number or getattr(condition, "is_Matrix", False)
        ):
            raise ModelError(
                f"an Event fires where an expression crosses zero; {condition!r} is not an expression that can"
            )
        if direction not in ("up", "down", "both"):
            raise ModelError(f"Event: direction must be 'up', 'down' or 'both', not {direction!r}")
        if direction != "both" and self.when != "crossing":
            raise ModelError(
                f"Event: direction={direction!r} is for expressions that cross zero, and this one does not"
            )
        if not isinstance(terminal, bool):
            raise ModelError(f"Event: terminal must be True or False, not {terminal!r}")
        pairs = {} if affect is None else read_affect(affect, "Event")
        if not pairs and not terminal:
            raise ModelError("Event: it does nothing; give it new values for states, or terminal=True")
        self.condition: sp.Basic | None = condition
        self.affect = pairs
        self.direction: Direction = direction
        self.terminal = terminal

    @property
    def expressions(self) -> tuple[Any, ...]:
        """All expressions in it: what it waits for, and the new values."""
        return (*self.times, *(() if self.condition is None else (self.condition,)), *self.affect.values())

    def __repr__(self) -> str:
        if self.when == "times":
            return f"Event(at={list(self.times)}, affect={self.affect}, terminal={self.terminal})"
        return f"Event({self.condition}, {self.affect}, direction={self.direction!r}, terminal={self.terminal})"


class Jump:
    """Something that happens at random, so many times per unit of time on average.

    Between ``t`` and ``t + dt`` it happens with the probability ``rate*dt``, independently of what
    happened before: for a constant rate, a Poisson process.

    Parameters
    ----------
    rate : SymPy expression of states, parameters and time, or number
        It must not become negative.
    affect : mapping
        State -> its new value, in terms of the values just before. A state that only jumps change
        needs no equation.

    Raises
    ------
    ModelError
        If an argument is not of that form.

    Notes
    -----
    Where nothing changes between the jumps, they are sampled exactly (D. T. Gillespie, *Exact
    stochastic simulation of coupled chemical reactions*, J. Phys. Chem. 81 (1977) 2340); where states or
    rates do, the sum of the rates is integrated along with the states, up to the tolerance.

    Examples
    --------
    Births and deaths:

    >>> System([], jumps=[Jump(birth*n, {n: n + 1}), Jump(death*n, {n: n - 1})])
    """

    @named_options(ModelError)
    def __init__(self, rate: Any, affect: Mapping[Any, Any]) -> None:
        expression = scalar(rate)
        if expression is None:
            raise ModelError(f"Jump: the rate must be an expression or a number, not {rate!r}")
        if expression.is_extended_negative or expression.is_extended_real is False or expression.is_finite is False:
            raise ModelError(f"Jump: the rate is {expression}: how often something happens is no negative number")
        self.rate = expression
        self.affect = read_affect(affect, "Jump")
        if not self.affect:
            raise ModelError("Jump: it does nothing; give it new values for states, such as {x: x + 1}")

    def __repr__(self) -> str:
        return f"Jump({self.rate}, {self.affect})"


def read_affect(affect: Any, what: str) -> dict[sp.Expr, sp.Expr]:
    """The new values of states, checked as far as that goes without the system."""
    if not isinstance(affect, Mapping):
        raise ModelError(
            f"{what}: the second argument maps states to new values, such as {{v: -0.8*v}}, not {affect!r}"
        )
    pairs: dict[sp.Expr, sp.Expr] = {}
    for symbol, value in affect.items():
        if not isinstance(symbol, (AppliedUndef, sp.Derivative)):
            raise ModelError(f"{what}: {symbol!r} is not a state: keys are variables such as x", symbol=str(symbol))
        new = scalar(value)
        if new is None:
            raise ModelError(f"{what}: the new value of {symbol} must be an expression, not {value!r}")
        pairs[symbol] = new
    return pairs


def _read_times(at: Any) -> tuple[sp.Expr, ...]:
    given: list[Any]
    if isinstance(at, np.ndarray):
        given = at.ravel().tolist()
    elif isinstance(at, Iterable) and not isinstance(at, (str, bytes, Mapping, sp.Basic)):
        given = list(at)
    else:
        given = [at]
    if not given:
        raise ModelError("Event: at= has no times")
    times: list[sp.Expr] = []
    for value in given:
        time = scalar(value)
        if time is None or time.is_extended_real is False or time.is_finite is False or time is sp.nan:
            raise ModelError(f"Event: at= takes times, numbers or expressions of parameters, not {value!r}")
        times.append(time)
    return tuple(dict.fromkeys(times))
