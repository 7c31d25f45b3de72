"""Rules of Optimisers.jl for the vector that is trained; see ``julia/src/optimizers.jl``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.julia import bridge, environment
from pysciml.engines.julia.tapes import address, floats
from pysciml.errors import EngineUnavailableError, ProblemError
from pysciml.hints import did_you_mean

#: What the name of a rule begins with.
PREFIX: Final = "Optimisers."


def is_rule(given: Any) -> bool:
    """Whether this may be a rule: a name that begins with ``"Optimisers."``, or a value of Julia's."""
    if isinstance(given, str):
        return given.startswith(PREFIX)
    juliacall = sys.modules.get("juliacall")  # who has a value of Julia's has imported it
    return juliacall is not None and isinstance(given, juliacall.AnyValue)


class Rule:
    """A rule of Optimisers.jl.

    Its state is kept by the caller, as arrays: the numbers of Julia's, and how many updates there were.

    Parameters
    ----------
    given : str or Julia value
        ``"Optimisers.Adam"``, with the given learning rate, or ``jl.Optimisers.Adam(1e-3)``.
    learning_rate : float or callable
        A number is that of a rule given by name; others have their own. A callable gives it for each update of either,
        from the number of those before, as optax's schedules do.

    Attributes
    ----------
    text : str
        The rule with its numbers, as Julia writes it.

    Raises
    ------
    EngineUnavailableError
        If Optimisers.jl is not installed.
    ProblemError
        If there is no such rule, or it has no learning rate.
    """

    def __init__(self, given: Any, learning_rate: float | Callable[[int], Any]) -> None:
        self._module = bridge.julia()
        if self._module.load_package("Optimisers") is None:
            raise EngineUnavailableError(_missing(), engine="julia")
        self._schedule = learning_rate if callable(learning_rate) else None
        rule = self._named(given) if isinstance(given, str) else self._checked(given)
        if isinstance(given, str) or self._schedule is not None:
            first = learning_rate(0) if callable(learning_rate) else learning_rate
            rule = self._module.with_rate(rule, float(first))
        self._rule = rule
        self.text = str(self._module.rule_text(self._rule))
        self._state: Any = None

    def _named(self, given: str) -> Any:
        name, known = given.removeprefix(PREFIX), [str(name) for name in self._module.rule_names()]
        if name not in known:
            hint = did_you_mean(given, [PREFIX + one for one in known], quote="'")
            raise ProblemError(
                f"optimizer {given!r}: by name Optimisers.jl has {', '.join(known)}, and others are given as what they "
                f"are, such as jl.Optimisers.AdaDelta() with jl = juliacall.Main{hint}",
                symbol="optimizer",
            )
        return self._module.named_rule(name)

    def _checked(self, given: Any) -> Any:
        if not self._module.is_rule(given):
            raise ProblemError(
                f"optimizer must be a name, an optax optimizer or a rule of Optimisers.jl such as "
                f"jl.Optimisers.Adam(1e-3), not {given!r}",
                symbol="optimizer",
            )
        if self._schedule is not None and not self._module.has_rate(given):
            raise ProblemError(
                f"learning_rate: {self._module.rule_text(given)} has none for a schedule to set", symbol="learning_rate"
            )
        return given

    def start(self, theta: Array) -> list[Any]:
        """The state before the first update of a vector like this."""
        values = floats(theta)
        self._state = self._module.rule_state(self._rule, address(values), values.size)
        try:
            numbers = np.empty(int(self._module.state_length(self._state)))
        except Exception as error:
            raise ProblemError(f"optimizer {self.text}: {bridge.message_of(error)}", symbol="optimizer") from error
        self._module.write_state_b(self._state, address(numbers))
        return [numbers, np.array(0, dtype=np.int64)]

    def update(self, theta: Array, state: list[Any], slope: Array) -> tuple[Array, list[Any]]:
        """The vector and the state after an update by this derivative; those given stay as they are."""
        new, numbers, by = np.array(theta, dtype=np.float64), state[0].copy(), floats(slope)
        count = int(state[1])
        rate = np.nan if self._schedule is None else float(self._schedule(count))
        self._module.update_at_b(self._state, address(new), new.size, address(by), address(numbers), rate)
        return new, [numbers, np.array(count + 1, dtype=np.int64)]


def _missing() -> str:
    found = environment.find()
    how = "" if isinstance(found, str) else f"{found.executable} --project={found.project} "
    return f"the Julia package Optimisers is not installed: run `{how}-e 'using Pkg; Pkg.add(\"Optimisers\")'`"
