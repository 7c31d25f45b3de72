"""`Problem`: a system and the numbers that make it a concrete task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import sympy as sp

from pysciml.consistency import consistent_start
from pysciml.errors import ProblemError
from pysciml.graph import Model
from pysciml.hints import did_you_mean, named_options
from pysciml.symbolic import System, printing

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: What Newton's method starts from for an algebraic unknown without an initial value.
ALGEBRAIC_GUESS = 1.0


class Problem:
    """A `System` with initial values, a time span and parameter values.

    Parameters
    ----------
    system : System
    u0 : mapping
        State -> initial value at ``tspan[0]``. Keys are symbols, names, or derivatives
        (``D(x)``) for equations of higher order. Algebraic unknowns may be left out; their values
        are starting guesses for consistent ones. Where the index was reduced, others may be left out
        too, as far as the constraints determine them.
    tspan : pair of float
        From where to where; reversed integrates backward.
    p : mapping, optional
        Parameter -> value, for every parameter. A network (or its name) -> its weights, one flat
        array; without them it starts with its initial weights.

    Attributes
    ----------
    u0 : float array, shape (n_states,), in the order of ``system.states``
    p : float array, shape (n_params,), in the order of ``system.parameters``, then the weights of networks
    weights : mapping of network name to float array, shape (size,)
    tspan : (float, float)

    Raises
    ------
    ProblemError
        Naming the state, parameter or option that is missing, unknown or not a finite real number.

    Examples
    --------
    >>> problem = Problem(lotka, u0={x: 1.0, y: 1.0}, tspan=(0, 10), p={a: 1.5, b: 1, c: 3, d: 1})
    >>> problem.remake(p={"a": 2.0})
    """

    _given: Mask | None = None

    @named_options()
    def __init__(
        self,
        system: System,
        u0: Mapping[Any, Any],
        tspan: Iterable[float],
        p: Mapping[Any, Any] | None = None,
    ) -> None:
        if not isinstance(system, System):
            raise ProblemError(f"a Problem is made of a pysciml.System, not {type(system).__name__}")
        self.system = system
        model = system.model
        self.u0 = self._fill_states(np.where(_may_be_left_out(model), ALGEBRAIC_GUESS, math.nan), u0)
        self._given = self._fixed_by(u0, np.zeros(len(model.states), dtype=np.bool_))
        missing = [name for name, value in zip(model.states, self.u0, strict=True) if math.isnan(value)]
        if missing:
            raise ProblemError(
                f"u0 has no value for {_list(missing)}{_derivatives(system, missing)}", symbol=missing[0]
            )
        self.tspan = _read_tspan(tspan)
        start = np.full(model.n_params, math.nan)
        for name, block in model.blocks.items():
            start[block] = system.initial_weights(name)
        self.p = self._fill_parameters(start, {} if p is None else p)
        missing = [name for name, value in zip(model.parameters, self.p, strict=False) if math.isnan(value)]
        if missing:
            raise ProblemError(f"p has no value for {_list(missing)}", symbol=missing[0])
        if self._given is not None:
            self.u0 = consistent_start(model, self.u0, self.p, self.tspan[0], self._given)
        self._freeze()

    def _freeze(self) -> None:
        self.u0.setflags(write=False)
        self.p.setflags(write=False)

    def _fill_states(self, start: Array, u0: Any) -> Array:
        return fill(start, u0, "u0", "state", self.system.state_index, self.system.model.states)

    def _fixed_by(self, u0: Mapping[Any, Any], given: Mask | None) -> Mask | None:
        """Which initial values the constraints must leave as they are, those of ``u0`` among them."""
        guessed = self.system.model.guessed
        if given is None or guessed is None:
            return None
        given = given.copy()
        for key in u0:
            given[self._place(key)] |= not guessed[self._place(key)]
        return given

    def _place(self, key: Any) -> int:
        """The position of a state that is known to be one."""
        return cast("int", self.system.state_index(key))

    @property
    def weights(self) -> Mapping[str, Array]:
        """The weights of each network, by its name: read-only parts of ``p``."""
        return {name: self.p[block] for name, block in self.system.model.blocks.items()}

    def _fill_parameters(self, start: Array, p: Any) -> Array:
        if isinstance(p, Mapping) and self.system.model.blocks:
            p = self._fill_weights(start, p)
        for key in p if isinstance(p, Mapping) else ():
            if self.system.parameter_index(key) is None and self.system.state_index(key) is not None:
                raise ProblemError(f"p: {key} is a state; its initial value goes into u0", symbol=str(key))
        return fill(start, p, "p", "parameter", self.system.parameter_index, self.system.model.parameters)

    def _fill_weights(self, start: Array, p: Mapping[Any, Any]) -> dict[Any, Any]:
        """Write the weights of networks; returns what is not about networks."""
        from pysciml.symbolic.files import weight_array

        rest: dict[Any, Any] = {}
        for key, value in p.items():
            found = self.system.network_block(key)
            if found is None:
                rest[key] = value
            else:
                name, block = found
                start[block] = weight_array(value, name, block.stop - block.start)
        return rest

    @named_options()
    def remake(
        self,
        u0: Mapping[Any, Any] | None = None,
        tspan: Iterable[float] | None = None,
        p: Mapping[Any, Any] | None = None,
    ) -> Problem:
        """Change some numbers; what is not given stays. Nothing is compiled again.

        Raises
        ------
        ProblemError
            As the constructor does.
        """
        new = object.__new__(Problem)
        new.system = self.system
        new.u0 = self.u0 if u0 is None else self._fill_states(self.u0.copy(), u0)
        new.tspan = self.tspan if tspan is None else _read_tspan(tspan)
        new.p = self.p if p is None else self._fill_parameters(self.p.copy(), p)
        new._given = self._given
        if self._given is not None:
            # A value that was solved for and is handed back is none that was given.
            changed = {k: v for k, v in (u0 or {}).items() if new.u0[self._place(k)] != self.u0[self._place(k)]}
            given = new._given = self._fixed_by(changed, self._given)
            if given is not None:
                new.u0 = consistent_start(self.system.model, new.u0, new.p, new.tspan[0], given)
        new._freeze()
        return new

    def __repr__(self) -> str:
        model = self.system.model
        lines = [
            f"Problem of {model.name} ({model.kind}), t from {self.tspan[0]:g} to {self.tspan[1]:g}",
            f"  u0: {_pairs(model.states, self.u0)}",
        ]
        if model.parameters:
            lines.append(f"  p: {_pairs(model.parameters, self.p)}")
        for name, values in self.weights.items():
            lines.append(f"  {name}: {values.size} weights")
        return "\n".join(lines)


def _may_be_left_out(model: Model) -> Mask:
    """Which initial values can follow from equations: those of algebraic states, and of those in constraints."""
    found = ~model.differential
    if model.constraints:
        _, cols = model.graph.sparsity("constraints")
        found[cols] = True
    return found


def _pairs(names: tuple[str, ...], values: Array) -> str:
    shown = [f"{n} = {v:g}" for n, v in zip(names[:12], values, strict=False)]
    return ", ".join(shown) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")


def _derivatives(system: System, missing: list[str]) -> str:
    """How to give the initial values of derivatives that are missing: ``x_t is D(x)``."""
    given = [
        f"{name} is {printing.text(state, system.time)}"
        for name, state in zip(system.model.states, system.states, strict=True)
        if name in missing[:10] and isinstance(state, sp.Derivative)
    ]
    return f" ({', '.join(given)})" if given else ""


def _list(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def fill(start: Array, given: Any, what: str, kind: str, index: Any, names: tuple[str, ...]) -> Array:
    """Write the given values into ``start`` at the places their keys name."""
    if not isinstance(given, Mapping):
        raise ProblemError(f"{what} maps each {kind} to a number, such as {{x: 1.0}}, not {given!r}", symbol=what)
    seen: dict[int, Any] = {}
    for key, value in given.items():
        try:
            i = index(key)
        except TypeError:  # an unhashable key part
            i = None
        if i is None:
            raise ProblemError(_unknown(key, what, kind, names), symbol=str(key))
        if i in seen:
            raise ProblemError(f"{what} has {names[i]} twice, as {seen[i]!r} and {key!r}", symbol=names[i])
        seen[i] = key
        start[i] = number(value, f"{what}: the value of {names[i]}", names[i])
    return start


def _unknown(key: Any, what: str, kind: str, names: tuple[str, ...]) -> str:
    text = str(key)
    if not names:
        return f"{what} has a value for {text}, but the system has no {kind}s"
    hint = did_you_mean(text, names)
    if text in names:
        hint = f": it only shares its name with {text}; use the very object of the equations, or the text {text!r}"
    return f"{what} has a value for {text}, which is not a {kind} of the system ({_list(list(names))}){hint}"


def require_problem(given: Any, function: str) -> None:
    """Refuse what is no `Problem`, and say how to make one of it."""
    if isinstance(given, Problem):
        return
    if isinstance(given, System):
        how = ": give it numbers by pysciml.Problem(system, u0, tspan, p)"
    elif hasattr(given, "discretize"):
        cells = ", ".join(f"{x}: 64" for x in given.coordinates)
        how = f": write system.discretize({{{cells}}}).problem(tspan, p)"
    elif hasattr(given, "problem"):
        how = ": give it numbers by .problem(tspan, p)"
    else:
        how = ""
    raise ProblemError(f"{function} takes a pysciml.Problem, not {type(given).__name__}{how}")


def number(value: Any, what: str, symbol: str | None = None) -> float:
    """Read one finite real number, or say what is wrong with ``what``."""
    if isinstance(value, (float, int)) and not isinstance(value, bool):  # the usual case, first
        try:
            result = float(value)
        except OverflowError:  # an integer beyond every float
            result = math.inf
    else:
        result = _unusual_number(value, what, symbol)
    if not math.isfinite(result):
        raise ProblemError(f"{what} must be a finite number, not {_cut(str(value))}", symbol=symbol)
    return result


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _unusual_number(given: Any, what: str, symbol: str | None) -> float:
    value: Any = given
    if isinstance(value, (bool, np.bool_, str, bytes)) or value is None:
        raise ProblemError(f"{what} must be a number, not {value!r}", symbol=symbol)
    if isinstance(value, sp.Basic):
        if not value.is_number:
            raise ProblemError(f"{what} must be a number, not the expression {value}", symbol=symbol)
        value = complex(cast("Any", value))
        if value.imag == 0 or math.isnan(value.real):
            return value.real
    if isinstance(value, (Mapping, set)):
        raise ProblemError(f"{what} must be a number, not {value!r}", symbol=symbol)
    shape = np.shape(value)
    if shape:
        raise ProblemError(
            f"{what} must be one number, not {type(value).__name__} of shape {shape}; "
            "to solve for many values use pysciml.solve_ensemble(over=...)",
            symbol=symbol,
        )
    if isinstance(value, complex) or np.iscomplexobj(value):
        raise ProblemError(f"{what} must be real, not the complex number {value}", symbol=symbol)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProblemError(f"{what} must be a number, not {value!r}", symbol=symbol) from error


def _read_tspan(tspan: Any) -> tuple[float, float]:
    if not isinstance(tspan, Iterable) or isinstance(tspan, (str, bytes, Mapping, AbstractSet)):
        raise ProblemError(f"tspan must be a pair of times, such as (0, 10), not {tspan!r}", symbol="tspan")
    ends = tuple(itertools.islice(tspan, 3))
    if len(ends) != 2:
        raise ProblemError(f"tspan must be a pair of times, such as (0, 10), not {tspan!r}", symbol="tspan")
    start = number(ends[0], "tspan: the start", "tspan")
    end = number(ends[1], "tspan: the end", "tspan")
    if start == end:
        raise ProblemError(f"tspan has zero length: it starts and ends at {start:g}", symbol="tspan")
    return start, end
