"""Events: what happens where an expression crosses zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef

from pysciml.errors import ModelError
from pysciml.graph.model import Direction
from pysciml.symbolic.variables import scalar


class Event:
    """Fires where an expression crosses zero, and may set states or end the solve.

    Parameters
    ----------
    condition : SymPy expression ``h`` of states, parameters and time
    affect : mapping, optional
        State -> its new value, in terms of the values just before the event.
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
    A ball that bounces with four fifths of its speed:

    >>> Event(h, {v: -0.8*v}, direction="down")
    """

    def __init__(
        self,
        condition: Any,
        affect: Mapping[Any, Any] | None = None,
        *,
        direction: Direction = "both",
        terminal: bool = False,
    ) -> None:
        if not isinstance(condition, sp.Expr) or condition.is_number or getattr(condition, "is_Matrix", False):
            raise ModelError(
                f"an Event fires where an expression crosses zero; {condition!r} is not an expression that can"
            )
        if affect is not None and not isinstance(affect, Mapping):
            raise ModelError(
                f"Event: the second argument maps states to new values, such as {{v: -0.8*v}}, not {affect!r}"
            )
        if direction not in ("up", "down", "both"):
            raise ModelError(f"Event: direction must be 'up', 'down' or 'both', not {direction!r}")
        if not isinstance(terminal, bool):
            raise ModelError(f"Event: terminal must be True or False, not {terminal!r}")
        pairs: dict[sp.Expr, sp.Expr] = {}
        for symbol, value in (affect or {}).items():
            if not isinstance(symbol, (AppliedUndef, sp.Derivative)):
                raise ModelError(f"Event: {symbol!r} is not a state: keys are variables such as x", symbol=str(symbol))
            new = scalar(value)
            if new is None:
                raise ModelError(f"Event: the new value of {symbol} must be an expression, not {value!r}")
            pairs[symbol] = new
        if not pairs and not terminal:
            raise ModelError("Event: it does nothing; give it new values for states, or terminal=True")
        self.condition = condition
        self.affect = pairs
        self.direction: Direction = direction
        self.terminal = terminal

    def __repr__(self) -> str:
        return f"Event({self.condition}, {self.affect}, direction={self.direction!r}, terminal={self.terminal})"
