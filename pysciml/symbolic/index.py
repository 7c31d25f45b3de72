"""Index reduction: which algebraic equations to differentiate, how often, and the result.

An algebraic equation that has no algebraic unknown left to determine is a constraint: its derivatives in time hold as
well, and it is one of these that determines something. Which equations to differentiate, and how often, follows from
where unknowns appear (Pantelides, SIAM J. Sci. Stat. Comput. 9 (1988) 213). The derivatives are exact, taken on the
graph along the equations that are solved for a derivative. Where the equations found in this way do not determine
their unknowns after all, because terms cancel, one of the equations is replaced by the combination in which they do
(Tan, Nedialkov & Pryce, the linear combination method, in: Mathematical and Computational Approaches in Advancing
Modern Science and Engineering (2016) 743), and the search starts again.

What was differentiated stays as a constraint on the states (`Constraint`). Nothing is thrown away, so no choice of
states is made that could fail along the way; `pysciml.graph.manifold` keeps solutions on the constraints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import sympy as sp

from pysciml.errors import ModelError, UnsupportedError
from pysciml.graph import ops
from pysciml.graph.derivative import steps_with, tangents
from pysciml.symbolic import printing
from pysciml.symbolic.probing import probe, vanishes
from pysciml.symbolic.reading import Reader, describe
from pysciml.symbolic.solving import Constraint, Solution

#: Whether up to so many algebraic equations can be solved is tried with numbers.
_MOST_TRIED: Final = 400
#: Steps in time that have no derivative.
_STEPS: Final = frozenset({ops.SIGN, ops.FLOOR, ops.CEIL, ops.HEAVISIDE, ops.MOD})
_ORDINAL: Final = {1: "", 2: "second ", 3: "third ", 4: "fourth ", 5: "fifth "}


def reduce_index(reader: Reader, equations: tuple[sp.Eq, ...], solution: Solution) -> Solution:
    """Differentiate algebraic equations until the rest determines the algebraic unknowns.

    Returns
    -------
    Solution
        The same where the index is 1 already. Else with derivatives in place of the equations that were
        differentiated, which are now ``constraints``. Unknowns of the reader may have got derivatives.

    Raises
    ------
    ModelError
        Where equations follow from others or contradict them.
    UnsupportedError
        Where an equation has no derivative, or where the method does not apply.
    """
    unknowns = [u for u in reader.unknowns.values() if u.leaves[u.order] not in solution.explicit]
    if not solution.residuals or len(unknowns) != len(solution.residuals) or reader.histories or reader.noises:
        return solution
    search = _Search(reader, equations, solution)
    if search.is_solvable():
        return replace(solution, index=int(0 in search.top))
    for residual in search.residuals:
        residual.chain = [search.without_cancelled(residual.top)]
    for _ in range(2 * len(unknowns) + 10):
        search.differentiate()
        rows = search.jacobian()
        if search.is_regular(rows):
            return search.result()
        search = search.combined(rows)
    raise search.unsupported()


@dataclass
class _Residual:
    """An algebraic equation and its derivatives in time."""

    chain: list[int]
    equation: int
    others: tuple[int, ...] = ()  # what it is combined with
    raised: int = 0  # how often equations in the combination were differentiated before

    @property
    def top(self) -> int:
        return self.chain[-1]


class _Search:
    def __init__(
        self,
        reader: Reader,
        equations: tuple[sp.Eq, ...],
        solution: Solution,
        residuals: list[_Residual] | None = None,
    ) -> None:
        self.reader = reader
        self.equations = equations
        self.solution = solution
        self.b = reader.builder
        self.residuals = residuals or [_Residual([node], i) for node, i in solution.residuals]
        self.functions = [f for f, u in reader.unknowns.items() if u.leaves[u.order] not in solution.explicit]
        self.number = {f: j for j, f in enumerate(self.functions)}
        self._coefficients: dict[int, dict[int, int]] = {}
        self.top = [self._base(f) for f in self.functions]
        for residual in residuals or ():  # combinations may hold derivatives
            for leaf in self.coefficients(residual.top):
                f, order = self._owner(leaf)
                self.top[self.number[f]] = max(self.top[self.number[f]], order)

    # -- the unknowns ---------------------------------------------------------------------------

    def _base(self, function: Any) -> int:
        """The order of an algebraic unknown before anything is differentiated: what the explicit equations hold."""
        return self.solution.orders.get(function, self.reader.unknowns[function].order)

    def _owner(self, leaf: int) -> tuple[Any, int]:
        return self.reader.convert.derivative_leaves[leaf]

    def leaf(self, function: Any, order: int) -> int:
        """The placeholder of a derivative, made when first asked for."""
        unknown = self.reader.unknowns[function]
        if order not in unknown.leaves:
            node = unknown.leaves[order] = self.reader.placeholder()
            self.reader.convert.derivative_leaves[node] = (function, order)
        return unknown.leaves[order]

    def _tops(self) -> list[int]:
        return [self.leaf(f, order) for f, order in zip(self.functions, self.top, strict=True)]

    def coefficients(self, node: int) -> dict[int, int]:
        """The derivative of an expression by every algebraic unknown and its derivatives, where it is not zero."""
        found = self._coefficients.get(node)
        if found is None:
            owners = self.reader.convert.derivative_leaves
            seeds: dict[int, dict[int, int]] = {}
            for leaf in self.b.cone([node]):
                f, order = owners.get(leaf, (None, 0))
                if f in self.number and order >= self._base(f):
                    seeds[leaf] = {leaf: self.b.one}
            direct = tangents(self.b, [node], seeds)[0]
            found = self._coefficients[node] = {k: c for k, c in direct.items() if not vanishes(self.b, c)}
        return found

    def _incident(self, residual: _Residual) -> list[int]:
        """The numbers of the unknowns that an equation may determine."""
        found = self.coefficients(residual.top)
        return [j for j, leaf in enumerate(self._tops()) if leaf in found]

    # -- index 1 --------------------------------------------------------------------------------

    def is_solvable(self) -> bool:
        """Whether the equations as they stand determine the unknowns: structurally, and almost everywhere."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import structural_rank

        leaves = {leaf: j for j, leaf in enumerate(self._tops())}
        seeds = {leaf: {leaf: self.b.one} for leaf in leaves}
        rows = tangents(self.b, [r.top for r in self.residuals], seeds)
        n = len(rows)
        places = [(i, leaves[leaf]) for i, row in enumerate(rows) for leaf in row]
        if len({i for i, _ in places}) < n or len({j for _, j in places}) < n:
            return False
        pattern = csr_array((np.ones(len(places)), tuple(np.array(places).T)), shape=(n, n))
        return int(structural_rank(pattern)) == n and self.is_regular(rows)

    def jacobian(self) -> list[dict[int, int]]:
        """The derivatives of the last derivatives of the equations by those of the unknowns, row by row."""
        tops = set(self._tops())
        return [{k: c for k, c in self.coefficients(r.top).items() if k in tops} for r in self.residuals]

    def is_regular(self, rows: list[dict[int, int]]) -> bool:
        """Whether a Jacobian is regular at some random point."""
        n = len(rows)
        if n > _MOST_TRIED:
            return True
        column = {leaf: j for j, leaf in enumerate(self._tops())}
        entries = [(i, column[leaf], node) for i, row in enumerate(rows) for leaf, node in row.items()]
        values, _ = probe(self.b, [node for _, _, node in entries])
        at = np.array([i for i, _, _ in entries]), np.array([j for _, j, _ in entries])
        points = np.flatnonzero(np.isfinite(values).all(axis=0))
        return not points.size or any(_is_regular(n, at, values[:, k]) for k in points.tolist())

    # -- Pantelides -----------------------------------------------------------------------------

    def differentiate(self) -> None:
        """Differentiate equations until each has an unknown of its own to determine."""
        holder: dict[int, int] = {}  # unknown -> the equation that determines it
        for start in range(len(self.residuals)):
            while True:
                reached, path = self._augment(start, holder)
                if path is not None:
                    holder.update(path)
                    break
                unknowns = {j for i in reached for j in self._incident(self.residuals[i])}
                for j in unknowns:
                    self.top[j] += 1
                for i in sorted(reached):
                    self.residuals[i].chain.append(self._slope(self.residuals[i]))
                self._check_count()

    def _augment(self, start: int, holder: dict[int, int]) -> tuple[set[int], list[tuple[int, int]] | None]:
        """Breadth-first search for an unknown that nothing determines yet; the equations reached, and the way."""
        came: dict[int, tuple[int, int] | None] = {start: None}  # equation -> (its unknown, the equation before)
        queue, seen = [start], set[int]()
        for i in queue:
            for j in self._incident(self.residuals[i]):
                if j in seen:
                    continue
                seen.add(j)
                if j not in holder:
                    path = [(j, i)]
                    step = came[i]
                    while step is not None:
                        path.append(step)
                        step = came[step[1]]
                    return set(came), path
                came[holder[j]] = (j, i)
                queue.append(holder[j])
        return set(came), None

    def _slope(self, residual: _Residual) -> int:
        """The derivative of an equation in time, along the equations that are solved for a derivative."""
        b, node = self.b, residual.top
        seeds: dict[int, dict[int, int]] = {b.time(): {0: b.one}}
        cone = b.cone([node])
        for leaf in cone:
            if leaf in self.reader.convert.derivative_leaves:
                function, order = self._owner(leaf)
                following = self.leaf(function, order + 1)
                seeds[leaf] = {0: self.solution.explicit.get(following, following)}
        self._check_smooth(residual, cone, seeds)
        slope = self.without_cancelled(tangents(b, [node], seeds)[0].get(0, b.zero))
        if vanishes(b, slope) or not self._has_unknown(slope):
            raise ModelError(
                f"{self._describe(residual)}, determines nothing: once it holds it holds for ever by the other "
                "equations, or it contradicts them",
                equation=printing.plain(self.equations[residual.equation]),
            )
        return slope

    def without_cancelled(self, node: int) -> int:
        """An expression without the algebraic unknowns that are written in it and make no difference."""
        b, held = self.b, self.coefficients(node)
        gone = [
            leaf
            for leaf in b.cone([node])
            if leaf not in held
            and self.reader.convert.derivative_leaves.get(leaf, (None, 0))[0] in self.number
            and self._owner(leaf)[1] >= self._base(self._owner(leaf)[0])
            and not steps_with(b, [node], [leaf])
        ]
        return b.substitute(node, dict.fromkeys(gone, b.zero)) if gone else node

    def _has_unknown(self, node: int) -> bool:
        return any(leaf in self.reader.convert.derivative_leaves for leaf in self.b.cone([node]))

    def _check_smooth(self, residual: _Residual, cone: list[int], seeds: dict[int, Any]) -> None:
        b = self.b
        moving = [leaf for leaf in seeds if leaf != b.time()]
        stepping = steps_with(b, [residual.top], moving)
        if not stepping:
            timed = b.depending_on([b.time()])
            stepping = any(timed[n] and b.op_of(n) in _STEPS for n in cone)
        if stepping:
            raise UnsupportedError(
                f"{self._describe(residual)}, is a constraint that has to be differentiated in time (the index is "
                "higher than 1), and it has a step, a rounding or a condition, which has no derivative"
            )

    def _check_count(self) -> None:
        """There cannot be more constraints than states."""
        n_states = sum(
            self.top[self.number[f]] if f in self.number else u.order for f, u in self.reader.unknowns.items()
        )
        if sum(len(r.chain) - 1 for r in self.residuals) > n_states:
            worst = max(self.residuals, key=lambda r: len(r.chain))
            raise ModelError(
                f"{self._describe(worst)}, has no unknown to determine, however often it is differentiated: it "
                "follows from the other equations, or contradicts them",
                equation=printing.plain(self.equations[worst.equation]),
            )

    # -- cancellation ---------------------------------------------------------------------------

    def combined(self, rows: list[dict[int, int]]) -> _Search:
        """The search with an equation replaced by the combination in which its unknowns cancel."""
        b = self.b
        weights = self._null_combination(rows)
        counts = {i: len(self.residuals[i].chain) - 1 for i in weights}
        least = min(counts.values())
        moving = {
            self.leaf(f, order)
            for f, top in zip(self.functions, self.top, strict=True)
            for order in range(max(top - least, self._base(f)), top + 1)
        }
        if not moving.isdisjoint(b.cone(weights.values())):
            raise self.unsupported()
        chosen = min(
            (i for i, count in counts.items() if count == least),
            key=lambda i: (b.value_of(weights[i]) is None, i),
        )
        terms = [
            b.mul(b.div(weight, weights[chosen]), self.residuals[i].chain[counts[i] - least])
            for i, weight in weights.items()
        ]
        whole = b.sum(terms)
        whole = self.without_cancelled(whole)
        old = self.residuals[chosen]
        others = tuple(sorted({*old.others, *(self.residuals[i].equation for i in weights)} - {old.equation}))
        raised = max(count - least + self.residuals[i].raised for i, count in counts.items())
        new = _Residual([whole], old.equation, others, raised)
        if vanishes(b, whole) or not self._has_unknown(whole):
            raise ModelError(
                f"{self._describe(new)}, leaves nothing to determine: one of these equations follows from the others, "
                "or contradicts them",
                equation=printing.plain(self.equations[old.equation]),
            )
        residuals = [new if i == chosen else replace(r, chain=r.chain[:1]) for i, r in enumerate(self.residuals)]
        return _Search(self.reader, self.equations, self.solution, residuals)

    def _null_combination(self, rows: list[dict[int, int]]) -> dict[int, int]:
        """Weights of equations, of which the sum holds none of the last derivatives: elimination on the graph."""
        b = self.b
        done: list[tuple[int, dict[int, int], dict[int, int]]] = []  # (pivot, row, its combination)
        order = sorted(range(len(rows)), key=lambda i: -len(self.residuals[i].chain))
        for i in order:
            row, weights = dict(rows[i]), {i: b.one}
            for pivot, other, combination in done:
                if pivot not in row:
                    continue
                factor = b.div(row[pivot], other[pivot])
                row = self._minus(row, factor, other)
                row.pop(pivot, None)
                weights = self._minus(weights, factor, combination)
            if not row:
                return weights
            pivot = min(row, key=lambda k: (b.value_of(row[k]) is None, k))
            done.append((pivot, row, weights))
        raise self.unsupported()

    def _minus(self, row: dict[int, int], factor: int, other: dict[int, int]) -> dict[int, int]:
        b = self.b
        result = dict(row)
        for key, entry in other.items():
            product = b.mul(factor, entry)
            difference = b.sub(row.get(key, b.zero), product)
            value, size = b.value_of(difference), b.value_of(product)
            rounding = value is not None and size is not None and abs(value) <= 1e-13 * abs(size)
            if rounding or vanishes(b, difference):
                result.pop(key, None)
            else:
                result[key] = difference
        return result

    # -- the result -----------------------------------------------------------------------------

    def result(self) -> Solution:
        """The differentiated equations, and what they leave as constraints."""
        for f, order in zip(self.functions, self.top, strict=True):
            unknown = self.reader.unknowns[f]
            for k in range(order + 1):
                self.leaf(f, k)
            for k in [k for k in unknown.leaves if k > order]:
                del unknown.leaves[k]
            unknown.order = order
        constraints = [
            Constraint(node, r.equation, level, self._phrase(r, level))
            for r in self.residuals
            for level, node in enumerate(r.chain[:-1])
        ]
        return replace(
            self.solution,
            residuals=[(r.top, r.equation) for r in self.residuals],
            constraints=constraints,
            index=max(len(r.chain) - 1 + r.raised for r in self.residuals) + (0 in self.top),
        )

    def _describe(self, residual: _Residual) -> str:
        where = describe(self.equations[residual.equation], residual.equation, self.reader.time)
        return where + (f" (with equation {_list(residual.others)})" if residual.others else "")

    def _phrase(self, residual: _Residual, level: int) -> str:
        line = printing.text(self.equations[residual.equation], self.reader.time)
        line = line if len(line) <= 120 else line[:117] + "..."
        if residual.others:
            line += f" (with equation {_list(residual.others)})"
        ordinal = _ORDINAL.get(level, f"{level}th ")
        return line if level == 0 else f"the {ordinal}derivative in time of {line}"

    def unsupported(self) -> UnsupportedError:
        names = ", ".join(self.reader.unknowns[f].name for f in self.functions[:10])
        return UnsupportedError(
            f"the index of the equations is higher than 1, and differentiating them does not lead to equations that "
            f"determine the algebraic unknowns ({names}): terms cancel that depend on these themselves; replace "
            "constraints by their derivatives in time by hand"
        )


def _list(positions: tuple[int, ...]) -> str:
    return ", ".join(str(i + 1) for i in positions)


def _is_regular(n: int, at: tuple[npt.NDArray[Any], npt.NDArray[Any]], values: npt.NDArray[np.float64]) -> bool:
    matrix = np.zeros((n, n))
    matrix[at] = values
    rows = np.abs(matrix).max(axis=1)
    if not rows.all():
        return False
    matrix /= rows[:, None]
    columns = np.abs(matrix).max(axis=0)
    if not columns.all():
        return False
    singular = np.linalg.svd(matrix / columns, compute_uv=False)
    return bool(singular[-1] > 1e-11 * singular[0])
