"""Systems whose index somebody else reduces: the equations as written, and the system that is made of the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pysciml.errors import ModelError, UnsupportedError
from pysciml.graph import GraphBuilder, Model, ops
from pysciml.graph.reduction import Place, Reduced, Unreduced
from pysciml.symbolic.files import rebuild
from pysciml.symbolic.lowering import StateInfo, Transfer, lower, read
from pysciml.symbolic.reading import RESERVED, name_of
from pysciml.symbolic.system import System
from pysciml.symbolic.variables import attributes, variables

#: An unknown function, and which of its derivatives.
Derivative = tuple[Any, int]


@dataclass(frozen=True)
class Written:
    """A system's equations before index reduction.

    Attributes
    ----------
    unreduced : Unreduced
        Its graph has the output ``"observed"``, too.
    functions : tuple of applied SymPy functions
        The unknowns, in the order of their numbers.
    """

    unreduced: Unreduced
    functions: tuple[Any, ...]

    def derivative(self, place: Place) -> Derivative:
        """An unknown by its function."""
        return self.functions[place[0]], place[1]


def as_written(system: System) -> Written:
    """The equations of a system as they were written, on a graph.

    Raises
    ------
    UnsupportedError
        For what cannot be reduced again: other than ordinary and algebraic equations of time, events and networks.
    """
    _check(system)
    reader, sides = read(system.equations, system.parameters, system.observed)
    leaves = [(f, order) for f, unknown in reader.unknowns.items() for order in sorted(unknown.leaves)]
    numbered = GraphBuilder(len(leaves), len(system.parameters))
    moved = {reader.unknowns[f].leaves[order]: numbered.state(k) for k, (f, order) in enumerate(leaves)}
    moved |= {leaf: numbered.param(k) for k, leaf in enumerate(reader.parameters.values())}
    if reader.mark is not None:  # who splits the right-hand side needs the marks, and nobody else
        moved[reader.mark] = numbered.one
    transfer = Transfer(reader.builder, numbered, moved, {}, {})
    graph = numbered.build(
        {
            "residuals": [numbered.sub(transfer(left), transfer(right)) for left, right in sides],
            "observed": [transfer(reader.observed[symbol]) for symbol in system.observed],
        }
    )
    functions = tuple(reader.unknowns)
    number = {f: i for i, f in enumerate(functions)}
    return Written(Unreduced(graph, tuple((number[f], order) for f, order in leaves)), functions)


def _check(system: System) -> None:
    model = system.model
    has = (
        (f"fields ({', '.join(field.name for field in model.fields)})" if model.fields else "")
        or (f"networks ({', '.join(system.networks)})" if system.networks else "")
        or {"sde": f"noise ({', '.join(model.noise)})", "dde": "delays", "jump": "jumps"}.get(model.kind, "")
        or ("events" if model.events else "")
    )
    if has:
        raise UnsupportedError(
            f"{model.name!r} has {has}: reduce_index takes ordinary and algebraic equations of time alone"
        )
    if model.constraints:
        again = lower(system.equations, system.parameters, {}, (), (), model.name).model
        if again.constraints != model.constraints:
            raise UnsupportedError(
                f"{model.name!r} comes from a model file, which has the equations after the index was reduced: make "
                "the system of its own equations"
            )


def assembled(system: System, written: Written, reduced: Reduced) -> tuple[System, tuple[Derivative, ...]]:
    """The system of the reduced equations, and what each of its states was in the old one.

    A derivative that is no derivative any more, but an unknown that equations determine (a dummy derivative), is a new
    function, named as results name that derivative: ``x_t``, ``x_tt``. What was eliminated is observed.
    """
    builder, moved = GraphBuilder.extend(reduced.graph)
    rhs, eliminated = ([moved[n] for n in reduced.graph.outputs[name].tolist()] for name in ("rhs", "eliminated"))
    derivatives = tuple(written.derivative(place) for place in reduced.places)
    gone = [written.derivative(place) for place in reduced.eliminated]
    n, n_differential = len(derivatives), reduced.n_differential
    rates = dict(zip(derivatives[:n_differential], rhs, strict=False))
    values = {(f, order + 1): node for (f, order), node in rates.items()} | dict(zip(gone, eliminated, strict=True))
    values |= {derivative: builder.state(k) for k, derivative in enumerate(derivatives)}

    names = _Names(system, written)
    states: list[StateInfo] = []
    for k, (function, order) in enumerate(derivatives):
        if order and rates.get((function, order - 1)) == builder.state(k):
            states.append(StateInfo(names.of(function, order), function, order))
        else:
            states.append(StateInfo(names.of(function, order), names.function(function, order), 0))
    observed = (*(names.function(*derivative) for derivative in gone), *system.observed)
    graph = builder.build({"rhs": rhs, "observed": [*eliminated, *_copied(builder, written, values)]})
    model = Model(
        graph=graph,
        kind="ode" if n == n_differential else "dae",
        name=system.name,
        states=tuple(state.name for state in states),
        parameters=system.model.parameters,
        observed=tuple(name_of(symbol) for symbol in observed),
        differential=np.arange(n) < n_differential,
        index=int(n_differential < n),
    )
    return rebuild(model, system.time, tuple(states), system.parameters, observed), derivatives


def _copied(b: GraphBuilder, written: Written, values: dict[Derivative, int]) -> list[int]:
    """The observed quantities as they were written, in terms of what is left."""
    graph = written.unreduced.graph
    needed = graph.reachable(graph.outputs["observed"])
    moved: dict[int, int] = {}
    for node in np.flatnonzero(needed).tolist():
        code, index = int(graph.op[node]), int(graph.index[node])
        if code != ops.STATE:
            args = tuple(moved[int(a)] for a in graph.args[node, : ops.OPS[code].arity])
            moved[node] = b.again(code, args, float(graph.const[node]), index)
            continue
        derivative = function, order = written.derivative(written.unreduced.places[index])
        if derivative not in values:
            raise UnsupportedError(
                f"an observed quantity has the derivative of order {order} of {function}, which was eliminated: leave "
                "that quantity out"
            )
        moved[node] = values[derivative]
    return [moved[node] for node in graph.outputs["observed"].tolist()]


class _Names:
    """Names of derivatives, which nothing else may have, and the functions that stand for them."""

    def __init__(self, system: System, written: Written) -> None:
        self._time = system.time
        taken = (*system.parameters, *system.observed, *written.functions)
        self._taken = {name_of(symbol) for symbol in taken} | {system.time.name, *RESERVED}

    def of(self, function: Any, order: int) -> str:
        """``x``, ``x_t``, ``x_tt``."""
        name = name_of(function)
        if not order:
            return name
        name = f"{name}_{'t' * order}"
        if name in self._taken:
            raise ModelError(
                f"{name} is the name of the derivative of order {order} of {name_of(function)} in the reduced system: "
                "rename what has this name",
                symbol=name,
            )
        return name

    def function(self, function: Any, order: int) -> Any:
        """The unknown itself, or a new one for its derivative."""
        if not order:
            return function
        label = attributes(function).get("long_name", name_of(function))
        dots = "" if order == 1 else f" (order {order})"
        return variables(self.of(function, order), long_name=f"time derivative{dots} of {label}").func(self._time)
