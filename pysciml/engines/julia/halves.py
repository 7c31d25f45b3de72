"""Methods for states in two halves, positions and velocities: which models have them.

Symplectic and Nystrom methods move the positions by the velocities and the velocities by the
positions, in turns. A model is told to have such halves by the structure of its equations alone,
never by its numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import numpy as np

from pysciml.errors import UnsupportedError
from pysciml.graph import Graph, Model, ops

Refuse = Callable[[str], NoReturn]


@dataclass(frozen=True)
class Needs:
    """What a method needs of a model.

    Attributes
    ----------
    second_order : bool
        The rate of every position is a velocity, and nothing else.
    any_acceleration : bool
        Accelerations may depend on velocities.
    quadratic : bool
        The rates of positions are linear in the velocities, as with a quadratic kinetic energy.
    """

    second_order: bool = False
    any_acceleration: bool = False
    quadratic: bool = False


_SEPARABLE: Final = Needs()
_QUADRATIC: Final = Needs(quadratic=True)
_NEWTON: Final = Needs(second_order=True)
_ANY: Final = Needs(second_order=True, any_acceleration=True)

#: The methods of OrdinaryDiffEqSymplecticRK and OrdinaryDiffEqRKN.
PARTITIONED: Final[dict[str, Needs]] = {
    **dict.fromkeys(
        (
            *("SymplecticEuler", "VerletLeapfrog", "LeapfrogDriftKickDrift", "PseudoVerletLeapfrog", "McAte2"),
            *("Ruth3", "McAte3", "CandyRoz4", "Yoshida6", "KahanLi6", "McAte8", "KahanLi8", "SofSpa10"),
        ),
        _SEPARABLE,
    ),
    **dict.fromkeys(("McAte4", "CalvoSanz4", "McAte5"), _QUADRATIC),
    **dict.fromkeys(
        (
            *("VelocityVerlet", "Nystrom4VelocityIndependent", "Nystrom5VelocityIndependent", "IRKN3"),
            *("DPRKN4", "DPRKN5", "DPRKN6", "DPRKN6FM", "DPRKN8", "DPRKN12", "ERKN4", "ERKN5", "ERKN7"),
        ),
        _NEWTON,
    ),
    **dict.fromkeys(("Nystrom4", "FineRKN4", "FineRKN5"), _ANY),
}


@dataclass(frozen=True)
class Halves:
    """The states in two halves.

    Attributes
    ----------
    positions, velocities : tuple of int
        Where the rate of ``positions[k]`` is a velocity alone, it is ``velocities[k]``.
    reads_velocities : bool
        Whether accelerations depend on velocities.
    """

    positions: tuple[int, ...]
    velocities: tuple[int, ...]
    reads_velocities: bool = False


def halves(model: Model, name: str, engine: str) -> Halves:
    """The halves of a model for the method of that name.

    Raises
    ------
    UnsupportedError
        Naming the equation that does not fit.
    """
    needs = PARTITIONED[name]

    def refuse(why: str) -> NoReturn:
        raise UnsupportedError(f"{name} {why}", engine=engine, algorithm=name)

    if model.kind != "ode" or model.fields:
        what = "has fields" if model.fields else f"is {model.kind}"
        refuse(f"solves ordinary equations for positions and velocities, and {model.name!r} {what}")
    if model.events:
        refuse(f"follows no events, and {model.name!r} has some: Tsit5, Vern9 and the other first-order methods do")
    reads = _reads(model.graph)
    pairs, odd = _pairs(model)
    if odd is None:
        found = Halves(tuple(pairs), tuple(pairs.values()))
        moving = set(found.velocities)
        for velocity in found.velocities:
            other = next((state for state in sorted(reads[velocity]) if state in moving), None)
            if other is None:
                continue
            if needs.any_acceleration:
                return Halves(found.positions, found.velocities, True)
            refuse(
                "needs accelerations that do not depend on velocities, and the equation for "
                f"{model.states[velocity]} of {model.name!r} depends on {model.states[other]}; Nystrom4, FineRKN4 and "
                "FineRKN5 take such equations, as the first-order methods do"
            )
        return found
    if needs.second_order:
        refuse(
            f"solves second-order equations, and {model.states[odd]} of {model.name!r} is neither a position, whose "
            "rate is another state, nor the velocity of one: write D(x, 2) = ..."
        )
    return _two_colours(model, reads, needs, refuse)


def _reads(graph: Graph) -> list[frozenset[int]]:
    """The states each rate depends on, also through conditions and steps, which have no derivative."""
    rates = graph.outputs["rhs"]
    nothing: frozenset[int] = frozenset()
    found: dict[int, frozenset[int]] = {}
    for node in np.flatnonzero(graph.reachable(rates)).tolist():
        if graph.op[node] == ops.STATE:
            found[node] = frozenset((int(graph.index[node]),))
            continue
        parts = {found[operand] for operand in graph.args[node].tolist() if operand >= 0} - {nothing}
        found[node] = parts.pop() if len(parts) == 1 else nothing.union(*parts)
    return [found[node] for node in rates.tolist()]


def _pairs(model: Model) -> tuple[dict[int, int], int | None]:
    """Positions and their velocities; and the first state that is neither, if there is one."""
    graph = model.graph
    rate = graph.outputs["rhs"]
    plain = graph.op[rate] == ops.STATE
    n = len(model.states)
    to = [int(graph.index[rate[i]]) if plain[i] and graph.index[rate[i]] != i else -1 for i in range(n)]
    left = dict.fromkeys(range(n))
    pairs: dict[int, int] = {}
    pointed = np.bincount([j for j in to if j >= 0], minlength=n).tolist()
    free = deque(i for i in range(n) if pointed[i] == 0)  # nothing moves by these: they are positions

    def take(position: int) -> bool:
        velocity = to[position]
        if velocity not in left:
            return False
        pairs[position] = velocity
        for state in (position, velocity):
            del left[state]
            if (following := to[state]) in left:
                pointed[following] -= 1
                if pointed[following] == 0:
                    free.append(following)
        return True

    while left:
        position = free.popleft() if free else next(iter(left))
        if position in left and not take(position):
            return {}, position
    return dict(sorted(pairs.items())), None


def _two_colours(model: Model, reads: Sequence[Iterable[int]], needs: Needs, refuse: Refuse) -> Halves:
    """Colour the states so that no rate depends on a state of its own colour."""
    n = len(model.states)
    neighbours: list[set[int]] = [set() for _ in range(n)]
    for row, others in enumerate(reads):
        for other in others:
            neighbours[row].add(other)
            neighbours[other].add(row)
    colour = [-1] * n
    linear = _linear(model.graph) if needs.quadratic else [True] * n
    for start in range(n):
        if colour[start] >= 0:
            continue
        colour[start] = 0
        component, k = [start], 0
        while k < len(component):
            here = component[k]
            k += 1
            for other in neighbours[here]:
                if colour[other] < 0:
                    colour[other] = 1 - colour[here]
                    component.append(other)
        # Either half may be the positions; where one must be moved linearly it is that one.
        for position in (0, 1):
            stuck = [i for i in component if colour[i] == position and not linear[i]]
            if not stuck:
                for i in component:
                    colour[i] ^= position
                break
        else:
            refuse(
                f"needs a kinetic energy that is quadratic, and in {model.name!r} the equation for "
                f"{model.states[stuck[0]]} is not linear in the states it depends on; CandyRoz4, Yoshida6 and KahanLi8 "
                "do without"
            )
    for row, others in enumerate(reads):
        for other in others:
            if colour[row] == colour[other]:
                itself = "itself" if other == row else model.states[other]
                refuse(
                    "needs positions and velocities, the rates of each depending on the others alone, and the equation "
                    f"for {model.states[row]} of {model.name!r} depends on {itself}"
                    + ("" if other == row else f", which is in the same half as {model.states[row]}")
                )
    positions, velocities = (tuple(i for i in range(n) if colour[i] == half) for half in (0, 1))
    if not velocities:
        refuse(f"needs positions and velocities, and in {model.name!r} no rate depends on a state")
    return Halves(positions, velocities)


def _linear(graph: Graph) -> list[bool]:
    """Whether each rate is linear in the states."""
    rates = graph.outputs["rhs"]
    degree: dict[int, int] = {}  # 0 without states, 1 linear, 2 anything else
    for node in np.flatnonzero(graph.reachable(rates)).tolist():
        code = int(graph.op[node])
        parts = [degree[operand] for operand in graph.args[node].tolist() if operand >= 0]
        highest = max(parts, default=0)
        if code == ops.STATE:
            highest = 1
        elif highest == 1 and not (
            code in (ops.ADD, ops.SUB, ops.NEG)
            or (code == ops.MUL and min(parts) == 0)
            or (code == ops.DIV and parts[1] == 0)
            or (code == ops.SELECT and parts[0] == 0)
        ):
            highest = 2
        degree[node] = highest
    return [degree[node] < 2 for node in rates.tolist()]
