"""Equations as written → first-order equations on the graph, checked on the way.

The steps: read every equation into two nodes over the unknowns and their derivatives (`reading`);
check that there is one per unknown (`counting`); solve for the highest derivatives those that are
linear in them (`solving`); differentiate algebraic equations that are constraints (`index`); number the
states, separate the noise, collect the outputs (here). What cannot be solved for a derivative becomes an
algebraic equation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from pysciml.errors import ModelError, UnsupportedError
from pysciml.graph import Graph, GraphBuilder, Model, ops
from pysciml.graph.derivative import steps_with, tangents
from pysciml.graph.model import Kind, NoiseType
from pysciml.symbolic.counting import check_counts
from pysciml.symbolic.events import Event, Jump
from pysciml.symbolic.happenings import Happenings
from pysciml.symbolic.index import reduce_index
from pysciml.symbolic.reading import (
    Reader,
    Unknown,
    check_observed,
    dependence_order,
    describe,
    find_time,
    name_of,
    read_equations,
    read_observed,
    read_parameters,
)
from pysciml.symbolic.solving import Solution, solve_for_derivatives
from pysciml.symbolic.variables import t as default_time


@dataclass(frozen=True)
class StateInfo:
    """One first-order state: the ``order``-th derivative of an unknown.

    Attributes
    ----------
    name : str
        Its name in results: ``x``, and ``x_t``, ``x_tt`` for its derivatives.
    function : applied SymPy function
    order : int
    """

    name: str
    function: Any
    order: int


@dataclass
class Lowered:
    """What `lower` returns: the model and the symbols its indices stand for."""

    model: Model
    time: sp.Symbol
    states: tuple[StateInfo, ...]
    parameters: tuple[sp.Symbol, ...]
    observed: tuple[sp.Basic, ...]


def lower(
    equations: tuple[sp.Eq, ...],
    parameters: Sequence[sp.Symbol] | None,
    observed: Mapping[Any, sp.Expr],
    events: Sequence[Event],
    jumps: Sequence[Jump],
    name: str,
) -> Lowered:
    """Turn checked input into a `Model`; every `ModelError` names equation and symbol."""
    reader, sides = read(equations, parameters, observed, events, jumps)
    solution = reduce_index(reader, equations, solve_for_derivatives(reader, equations, sides))
    return _assemble(reader, solution, equations, observed, events, jumps, name)


def read(
    equations: tuple[sp.Eq, ...],
    parameters: Sequence[sp.Symbol] | None,
    observed: Mapping[Any, sp.Expr],
    events: Sequence[Event] = (),
    jumps: Sequence[Jump] = (),
) -> tuple[Reader, list[tuple[int, int]]]:
    """Read equations as they are written, checked: (left, right) nodes over the reader's placeholders."""
    time = find_time([*equations, *observed.values()]) or default_time
    if parameters is not None and time in parameters:
        raise ModelError(f"{time} is the time of this system and cannot be a parameter", symbol=str(time))
    reader = Reader(time, parameters)
    for symbol in dependence_order(time, observed):
        read_observed(reader, symbol, observed[symbol])
    sides = read_equations(reader, equations)
    check_observed(reader, sides)
    read_parameters(reader, "event", [event.expressions for event in events])
    read_parameters(reader, "jump", [(jump.rate, *jump.affect.values()) for jump in jumps])
    reader.closed = True
    reader.declared = True
    for unknown in reader.unknowns.values():  # every lower derivative exists, named or not
        for order in range(unknown.order + 1):
            reader._function(unknown.function, order)
    check_counts(reader, equations, sides)
    return reader, sides


def _assemble(
    reader: Reader,
    solution: Solution,
    equations: tuple[sp.Eq, ...],
    observed: Mapping[Any, sp.Expr],
    events: Sequence[Event],
    jumps: Sequence[Jump],
    name: str,
) -> Lowered:
    """Number the states, replace the placeholders, and collect the outputs."""
    b = reader.builder
    differential: list[StateInfo] = []
    algebraic: list[StateInfo] = []
    for unknown in reader.unknowns.values():
        differential.extend(_state(reader, unknown, order) for order in range(unknown.order))
        if unknown.order == 0 or unknown.leaves[unknown.order] not in solution.explicit:
            algebraic.append(_state(reader, unknown, unknown.order))
    states = tuple(differential + algebraic)
    parameters = tuple(reader.parameters)

    networks = b.networks
    numbered = GraphBuilder(len(states), len(parameters) + sum(network.size for network in networks))
    numbered.copy_networks(networks, ())
    index = {(s.function, s.order): i for i, s in enumerate(states)}
    moved: dict[int, int] = {}
    for unknown in reader.unknowns.values():
        for order, leaf in unknown.leaves.items():
            if (unknown.function, order) in index:
                moved[leaf] = numbered.state(index[unknown.function, order])
    for k, leaf in enumerate(reader.parameters.values()):
        moved[leaf] = numbered.param(k)
    for leaf in reader.noises.values():
        moved[leaf] = numbered.free(leaf)
    if reader.mark is not None:
        moved[reader.mark] = numbered.free(reader.mark)
    histories: dict[int, int] = {}
    for node, function in reader.histories.items():
        i = index[function, 0]
        if i >= len(differential):
            raise ModelError(
                f"{function} is delayed, but it is an algebraic unknown: only states with a derivative have a history",
                symbol=name_of(function),
            )
        histories[node] = i
    # Now every placeholder that is left is a solved highest derivative: its expression follows.
    transfer = Transfer(b, numbered, moved, histories, solution.explicit)

    rhs: list[int] = []
    for info in differential:
        unknown = reader.unknowns[info.function]
        rhs.append(transfer(unknown.leaves[info.order + 1]))
    residual_nodes = [(transfer(node), i) for node, i in solution.residuals]
    rhs.extend(node for node, _ in residual_nodes)
    if len(rhs) != len(states):
        raise ModelError(
            f"{len(states)} unknowns but {len(rhs)} independent equations: "
            "some equations follow from others, or contradict them"
        )
    noise = tuple(reader.noises)
    drift, diffusion = _separate_noise(reader, numbered, states, rhs, equations, residual_nodes)
    outputs: dict[str, Sequence[int]] = {"rhs": drift}
    if reader.mark is not None:
        parts = _separate_implicit(numbered, numbered.free(reader.mark), drift, states)
        if not (algebraic or residual_nodes):  # no method takes algebraic equations in two parts
            outputs |= parts
    if noise:
        outputs["diffusion"] = [node for _, _, node in diffusion]
    outputs["observed"] = [transfer(reader.observed[symbol]) for symbol in observed]
    if solution.constraints:
        outputs["constraints"] = [transfer(constraint.node) for constraint in solution.constraints]
    guessed = np.array([s.order >= _fixed(reader, solution, s.function) for s in states])
    happenings = Happenings(reader, transfer, states, guessed.tolist(), outputs)
    specs = tuple(happenings.event(number, event) for number, event in enumerate(events))
    jump_specs = tuple(happenings.jump(number, jump) for number, jump in enumerate(jumps))
    if reader.mark is not None:  # whatever else a marked term is in, it is there with its value
        one = {numbered.free(reader.mark): numbered.one}
        outputs = {output: numbered.substitute_all(nodes, one) for output, nodes in outputs.items()}
    _no_noise_outside(reader, numbered, outputs)
    graph = numbered.build(outputs)
    kind = _kind(graph, bool(noise), bool(algebraic or residual_nodes), bool(jumps), name)
    rows = np.array([r for r, _, _ in diffusion], dtype=np.int32)
    cols = np.array([c for _, c, _ in diffusion], dtype=np.int32)
    model = Model(
        graph=graph,
        kind=kind,
        name=name,
        states=tuple(s.name for s in states),
        parameters=tuple(p.name for p in parameters),
        observed=tuple(name_of(symbol) for symbol in observed),
        differential=np.arange(len(states)) < len(differential),
        events=specs,
        noise=tuple(w.name for w in noise),
        diffusion_rows=rows,
        diffusion_cols=cols,
        noise_type=type_of_noise(graph, rows, cols, len(noise)) if noise else None,
        jumps=jump_specs,
        constraints=tuple(constraint.phrase for constraint in solution.constraints),
        guessed=guessed if solution.constraints else None,
        index=solution.index,
    )
    return Lowered(model, reader.time, states, parameters, tuple(observed))


def _fixed(reader: Reader, solution: Solution, function: Any) -> int:
    """From which derivative on an unknown's initial values are guesses: what algebraic equations determine."""
    unknown = reader.unknowns[function]
    explicit = unknown.leaves[unknown.order] in solution.explicit
    return unknown.order if explicit else solution.orders[function]


def _state(reader: Reader, unknown: Unknown, order: int) -> StateInfo:
    if order == 0:
        return StateInfo(unknown.name, unknown.function, 0)
    name = f"{unknown.name}_{'t' * order}"
    reader.claim(name, ("derivative", unknown.function, order), f"the derivative of {unknown.name}")
    return StateInfo(name, unknown.function, order)


class Transfer:
    """Copies nodes from the reading builder to the numbered one, placeholders replaced."""

    def __init__(
        self,
        source: GraphBuilder,
        target: GraphBuilder,
        moved: dict[int, int],
        histories: Mapping[int, int],
        explicit: Mapping[int, int],
    ) -> None:
        self._source = source
        self._target = target
        self._moved = moved
        self._histories = histories
        self._explicit = explicit

    def __call__(self, node: int) -> int:
        """The node in the numbered builder."""
        source, target, moved = self._source, self._target, self._moved
        stack = [node]
        while stack:
            current = stack[-1]
            if current in moved:
                stack.pop()
                continue
            if current in self._explicit:
                needs: Sequence[int] = (self._explicit[current],)
            else:
                needs = source.args_of(current)
            waiting = [n for n in needs if n not in moved]
            if waiting:
                stack.extend(waiting)
                continue
            code = source.op_of(current)
            if current in self._explicit:
                moved[current] = moved[self._explicit[current]]
            elif code == ops.CONST:
                moved[current] = target.constant(source.value_of(current) or 0.0)
            elif code == ops.TIME:
                moved[current] = target.time()
            elif code == ops.HISTORY:
                moved[current] = target.history(self._histories[current], moved[needs[0]])
            else:
                index = -1
                if code == ops.NETWORK:
                    index = target.copy_networks(source.networks, [source.calls[source.index_of(current)]])[0]
                moved[current] = target.again(code, tuple(moved[n] for n in needs), 0.0, index)
            stack.pop()
        return moved[node]


def _separate_noise(
    reader: Reader,
    b: GraphBuilder,
    states: tuple[StateInfo, ...],
    rhs: list[int],
    equations: tuple[sp.Eq, ...],
    residuals: list[tuple[int, int]],
) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Drift, and the diffusion entries as (row, noise, node)."""
    if not reader.noises:
        return rhs, []
    if residuals:
        where = describe(equations[residuals[0][1]], residuals[0][1], reader.time)
        raise UnsupportedError(
            f"the system has Brownian motions and an algebraic equation ({where}): stochastic "
            "differential-algebraic equations are not supported; solve the algebraic part by hand"
        )
    noises = list(reader.noises)
    leaves = [b.free(leaf) for leaf in reader.noises.values()]
    seeds = {leaf: {k: b.one} for k, leaf in enumerate(leaves)}
    entries: list[tuple[int, int, int]] = []
    noisy = b.depending_on(leaves)
    for row, directions in enumerate(tangents(b, rhs, seeds)):
        if not noisy[rhs[row]]:
            continue
        cone = set(b.cone([rhs[row]]))
        nonlinear = [k for k, d in directions.items() if not set(leaves).isdisjoint(b.cone([d]))]
        if steps_with(b, [rhs[row]], leaves):
            nonlinear.extend(k for k, leaf in enumerate(leaves) if leaf in cone)
        if nonlinear:
            w = noises[nonlinear[0]]
            raise ModelError(
                f"the equation for {states[row].name}: the Brownian motion {w} does not enter linearly: it may only "
                f"be a factor, as in b*x*{w}",
                symbol=str(w),
            )
        entries.extend((row, k, directions[k]) for k in sorted(directions))
    return b.substitute_all(rhs, dict.fromkeys(leaves, b.zero)), entries


def _separate_implicit(
    b: GraphBuilder, mark: int, rates: Sequence[int], states: tuple[StateInfo, ...]
) -> dict[str, Sequence[int]]:
    """The rates as two sums: of the terms that have the mark as a factor, and of the others."""
    marked: list[int] = []
    for rate, directions, state in zip(rates, tangents(b, rates, {mark: {0: b.one}}), states, strict=True):
        part = directions.get(0, b.zero)
        if mark in b.cone([part]) or steps_with(b, [rate], [mark]):
            raise ModelError(
                f"the equation for {state.name}: implicit() stands where it does not split the right-hand side into a "
                "sum: it may mark terms, or factors of terms, and not what is inside of a function, a denominator or "
                "another mark",
                symbol=state.name,
            )
        marked.append(part)
    if all(part == b.zero for part in marked):
        return {}
    return {"implicit": marked, "explicit": b.substitute_all(rates, {mark: b.zero})}


def _no_noise_outside(reader: Reader, b: GraphBuilder, outputs: Mapping[str, Sequence[int]]) -> None:
    leaves = {b.free(leaf): w for w, leaf in reader.noises.items()}
    for output, nodes in outputs.items():
        for node in nodes:
            found = next((leaves[n] for n in b.cone([node]) if n in leaves), None) if leaves else None
            if found is not None:
                happening = re.match(r"(event|jump)(\d+)", output)
                where = f"{happening[1]} {int(happening[2]) + 1}" if happening else "an observed quantity"
                raise ModelError(
                    f"the Brownian motion {found} appears in {where}: it may only stand in equations with a derivative",
                    symbol=str(found),
                )


def type_of_noise(graph: Graph, rows: Any, cols: Any, n_noise: int) -> NoiseType:
    """The type of noise whose diffusion has entries at these places."""
    if ops.STATE not in graph.used_ops(["diffusion"]):
        return "additive"
    if len(set(rows.tolist())) == len(rows) and len(set(cols.tolist())) == len(cols):
        return "diagonal"
    return "scalar" if n_noise == 1 else "general"


def _kind(graph: Graph, noisy: bool, algebraic: bool, jumping: bool, name: str) -> Kind:
    delayed = ops.HISTORY in graph.used_ops()
    if jumping and (delayed or algebraic):
        other = "delays" if delayed else "algebraic equations"
        raise UnsupportedError(f"the system {name!r} has jumps and {other}: this combination is not supported")
    if delayed and (noisy or algebraic):
        other = "Brownian motions" if noisy else "algebraic equations"
        raise UnsupportedError(f"the system {name!r} has delays and {other}: this combination is not supported")
    if jumping:
        return "jump"
    if noisy:
        return "sde"
    if algebraic:
        return "dae"
    return "dde" if delayed else "ode"
