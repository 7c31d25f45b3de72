"""Events and jumps onto the graph: what sets them off, and the states they set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sympy as sp

from pysciml.errors import ModelError
from pysciml.graph import EventSpec, JumpSpec, ops
from pysciml.symbolic import printing
from pysciml.symbolic.events import Event, Jump
from pysciml.symbolic.reading import Reader

if TYPE_CHECKING:
    from pysciml.symbolic.lowering import StateInfo


class Happenings:
    """Reads events and jumps, and adds what engines need of them to the outputs of the graph.

    Parameters
    ----------
    reader : Reader
    transfer : callable
        From the reader's nodes to those of the finished graph.
    states : tuple of StateInfo
    algebraic : list of bool
        Which states algebraic equations determine.
    outputs : dict
        The outputs of the graph, which grow.
    """

    def __init__(
        self,
        reader: Reader,
        transfer: Callable[[int], int],
        states: tuple[StateInfo, ...],
        algebraic: list[bool],
        outputs: dict[str, Sequence[int]],
    ) -> None:
        self._reader = reader
        self._transfer = transfer
        self._states = states
        self._algebraic = algebraic
        self._outputs = outputs
        self._keys = {(s.function, s.order): i for i, s in enumerate(states)}

    def event(self, number: int, event: Event) -> EventSpec:
        """Read event ``number``.

        Raises
        ------
        ModelError
            If it has an unknown symbol or sets what is no differential state; it names the event.
        """
        waits_for = event.times if event.condition is None else (event.condition,)
        what = "at " if event.when == "times" else ""
        what += ", ".join(printing.text(expression, self._reader.time) for expression in waits_for[:3])
        name = f"event{number}"
        try:
            self._outputs[name] = [self._node(expression) for expression in waits_for]
            if event.when == "times":
                for expression in waits_for:
                    self._check_time(expression)
            targets = self._affect(f"{name}_values", event.affect)
        except ModelError as error:
            raise ModelError(f"event {number + 1} ({what}): {error}", symbol=error.symbol) from error
        return EventSpec(name, f"{name}_values", targets, event.direction, event.terminal, event.when)

    def jump(self, number: int, jump: Jump) -> JumpSpec:
        """Read jump ``number``; raises as `event` does."""
        name = f"jump{number}"
        try:
            self._outputs[name] = [self._node(jump.rate)]
            targets = self._affect(f"{name}_values", jump.affect)
        except ModelError as error:
            where = f"jump {number + 1} (rate {printing.text(jump.rate, self._reader.time)})"
            raise ModelError(f"{where}: {error}", symbol=error.symbol) from error
        return JumpSpec(name, f"{name}_values", targets)

    def _node(self, expression: Any) -> int:
        return self._transfer(self._reader.convert(expression))

    def _check_time(self, expression: sp.Basic) -> None:
        b = self._reader.builder
        for node in b.cone([self._reader.convert(expression)]):
            moving = b.op_of(node) in (ops.TIME, ops.HISTORY) or node in self._reader.convert.derivative_leaves
            if moving:
                raise ModelError(
                    f"{printing.text(expression, self._reader.time)} changes in time: at= takes numbers and "
                    "expressions of parameters; a condition such as x - 1 fires where it crosses zero"
                )

    def _affect(self, output: str, affect: Mapping[sp.Expr, sp.Expr]) -> tuple[int, ...]:
        targets: list[int] = []
        values: list[int] = []
        for symbol, expression in affect.items():
            key = (symbol.expr, len(symbol.variables)) if isinstance(symbol, sp.Derivative) else (symbol, 0)
            target = self._keys.get(key)
            if target is None:
                known = ", ".join(s.name for s in self._states)
                name = printing.text(symbol, self._reader.time)
                raise ModelError(f"it sets {name}, which is not a state ({known})", symbol=name)
            if self._algebraic[target]:
                name = self._states[target].name
                raise ModelError(f"it sets {name}, which follows from an algebraic equation", symbol=name)
            targets.append(target)
            values.append(self._node(expression))
        self._outputs[output] = values
        return tuple(targets)
