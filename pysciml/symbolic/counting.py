"""One equation per unknown: the count, and a pairing that shows which unknown is left over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp

from pysciml.errors import ModelError
from pysciml.symbolic import printing
from pysciml.symbolic.reading import Reader, describe


def check_counts(reader: Reader, equations: tuple[sp.Eq, ...], sides: list[tuple[int, int]]) -> None:
    """One equation per unknown, and a pairing of the two must exist."""
    b = reader.builder
    owner: dict[int, str] = {
        leaf: unknown.name for unknown in reader.unknowns.values() for leaf in unknown.leaves.values()
    }
    history_owner = {node: reader.unknowns[f].name for node, f in reader.histories.items()}
    highest = {u.leaves[u.order]: u.name for u in reader.unknowns.values()}
    derivatives = {u.leaves[u.order] for u in reader.unknowns.values() if u.order > 0}
    appears: list[list[str]] = []  # the unknowns an equation can determine, the likely one first
    for i, (lhs, rhs) in enumerate(sides):
        if lhs in highest:  # fast and usual: D(x) = ...
            appears.append([highest[lhs]])
            continue
        cone = b.cone((lhs, rhs))
        names = dict.fromkeys([owner[n] for n in cone if n in derivatives] + [owner[n] for n in cone if n in owner])
        present = names or dict.fromkeys(history_owner[n] for n in cone if n in history_owner)
        if not present:
            where = describe(equations[i], i, reader.time)
            raise ModelError(f"{where}: contains no unknown", equation=printing.plain(equations[i]))
        appears.append(list(names))
    match = _matching(appears)
    if len(match) < len(sides):  # explicit forms may hide other choices: look at all unknowns
        appears = [list(dict.fromkeys(owner[n] for n in b.cone(pair) if n in owner)) for pair in sides]
        match = _matching(appears)
    unmatched = [name for name in (u.name for u in reader.unknowns.values()) if name not in match]
    n_unknowns = len(reader.unknowns)
    names = ", ".join(u.name for u in reader.unknowns.values())
    if len(sides) < n_unknowns:
        called = next((reader.called[name] for name in unmatched if name in reader.called), None)
        if called is not None:
            raise ModelError(
                f"{called} is read as the unknown {called.func.__name__} at another time, without an equation: "
                "if it is a known function, write it out",
                symbol=called.func.__name__,
            )
        raise ModelError(
            f"{len(sides)} equation{'s' if len(sides) > 1 else ''} for {n_unknowns} unknowns ({names}): "
            f"no equation is left to determine {', '.join(unmatched)}; add one, or make it a parameter",
            symbol=unmatched[0] if unmatched else None,
        )
    if len(match) < len(sides):
        used = set(match.values())
        extra = next(i for i in range(len(sides)) if i not in used)
        where = describe(equations[extra], extra, reader.time)
        if len(sides) > n_unknowns:
            raise ModelError(
                f"{len(sides)} equations for {n_unknowns} unknown{'s' if n_unknowns > 1 else ''} ({names}): "
                f"{where}, is one too many",
                equation=printing.plain(equations[extra]),
            )
        raise ModelError(
            f"{where}, has no unknown left to determine, and no equation determines {', '.join(unmatched)}: "
            f"its unknowns ({', '.join(appears[extra])}) follow from other equations",
            equation=printing.plain(equations[extra]),
            symbol=unmatched[0],
        )


def _matching(choices: Sequence[Sequence[str]]) -> dict[str, int]:
    """A maximum matching of equations to unknowns (Kuhn's algorithm): unknown -> equation."""
    match: dict[str, int] = {}

    def place(equation: int) -> bool:
        # Depth-first search for an augmenting path, with an explicit stack; a free unknown is
        # taken before any other is asked to move.
        visited: set[str] = set()
        stack: list[tuple[int, Any]] = []
        path: list[str] = []
        following: int | None = equation
        while True:
            if following is not None:
                stack.append((following, iter(choices[following])))
                free = next((name for name in choices[following] if name not in match), None)
                if free is not None:
                    for (owner, _), taken in zip(stack, [*path, free], strict=True):
                        match[taken] = owner
                    return True
            name = next((n for n in stack[-1][1] if n not in visited), None)
            if name is not None:
                visited.add(name)
                path.append(name)
                following = match[name]
                continue
            following = None
            stack.pop()
            if not stack:
                return False
            path.pop()

    for equation in range(len(choices)):
        place(equation)
    return match
