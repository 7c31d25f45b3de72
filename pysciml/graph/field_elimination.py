"""Fields that follow from others at every instant, solved for within the right-hand side.

An equation without time derivatives that is linear in its field, whose coefficients depend on no other field and not
on time, and whose terms are differentiated along one axis each, is ``(s + A_1 + ... + A_d) v = -g`` on a grid, with
one matrix along each axis and ``g`` what other fields and boundaries make of it. In the product of the eigenvectors of
these matrices it is diagonal (fast diagonalization: R. E. Lynch, J. R. Rice & D. H. Thomas, Numer. Math. 6 (1964)
185-199), so that ``v`` is a handful of operations on arrays, exact up to rounding, with a derivative by everything.
What is left are ordinary differential equations.

Where only Neumann or periodic conditions are posed a constant is open, and a source has to have the integral zero:
what is left of it by rounding and discretization is taken away, and the mean of the field is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from pysciml.graph import array_ops as ao
from pysciml.graph import ops
from pysciml.graph.field_builder import FieldBuilder
from pysciml.graph.field_program import FieldProgram, evaluate_array_op
from pysciml.graph.fields import FieldGraph
from pysciml.graph.interpret import Array

#: Matrices along longer axes cost more than a sparse factorization.
_LONGEST: Final = 2048
#: Entries, sums of rows and eigenvalues below this, relative to the largest, are zero.
_ZERO: Final = 1e-11
#: Eigenvectors and matrices worse conditioned than this are not used.
_CONDITION: Final = 1e7, 1e11
#: The axis of what multiplies a field by a number.
_NONE: Final = -1

#: (What it is multiplied with, a node without place, or the axis) -> a number or a sparse matrix.
Linear = dict[tuple[int, int], Any]


class Elimination(NamedTuple):
    """Equations without the fields that follow from others.

    Attributes
    ----------
    graph : FieldGraph
        Of the other fields, with the outputs as they were, ``"observed"`` beginning with the eliminated fields. Those
        that depend on values far away are the output ``"far"``.
    start : FieldGraph
        The same fields; its outputs are what is left of the eliminated fields' equations (``"residual"``) and what
        they are without these fields (``"source"``).
    floating : tuple of int
        The numbers of eliminated fields of which a constant is open.
    """

    graph: FieldGraph
    start: FieldGraph
    floating: tuple[int, ...]


class _RefusedError(Exception):
    """An equation is not of that form."""


def eliminate(
    graph: FieldGraph, gone: Sequence[int], means: Mapping[int, float], initial: str = "initial"
) -> Elimination | None:
    """Solve for fields without a time derivative.

    Parameters
    ----------
    graph : FieldGraph
        Row ``i`` of its output ``"rhs"`` is what is zero, for the fields in ``gone``.
    gone : sequence of int
        The numbers of the fields.
    means : mapping
        Field -> the mean it is to have if a constant is open.
    initial : str
        The output with one node for each of these fields, whose mean is taken where there is no other.

    Returns
    -------
    Elimination or None
        None where an equation is not of the form above.
    """
    try:
        return _Elimination(graph, gone, means, initial).result()
    except _RefusedError:
        return None


class _Elimination:
    def __init__(self, graph: FieldGraph, gone: Sequence[int], means: Mapping[int, float], initial: str) -> None:
        self.graph, self.gone, self.means = graph, list(gone), means
        self.kept = [f for f in range(len(graph.fields)) if f not in self.gone]
        self.b = FieldBuilder([graph.fields[f] for f in self.kept], graph.n_params)
        self.calls = self.b.copy_networks(graph.networks, graph.calls)
        #: Field -> its node, once it is known.
        self.fields = {f: self.b.field(k) for k, f in enumerate(self.kept)}
        self.moved: dict[int, int] = {}
        self.given = initial
        self.initial = dict(zip(self.gone, graph.outputs[initial].tolist(), strict=True))
        self.floating: list[int] = []
        self.far: list[int] = []
        self.marks = _marked(graph, ops.PARAM, ops.NETWORK), _marked(graph, ops.TIME), _marked(graph, ao.FIELD)

    def result(self) -> Elimination:
        graph, b = self.graph, self.b
        roots = graph.outputs["rhs"].tolist()
        sources: dict[int, int] = {}
        for f in self._order(roots):
            self.fields[f], sources[f] = self._solve(f, roots[f])
        found = [self.fields[f] for f in self.gone]
        outputs: dict[str, list[int]] = {
            name: [self.move(node) for node in nodes.tolist()]
            for name, nodes in graph.outputs.items()
            if name not in ("rhs", "observed", self.given)
        }
        outputs["rhs"] = [self.move(roots[f]) for f in self.kept]
        outputs["observed"] = [*found, *(self.move(node) for node in graph.outputs["observed"].tolist())]
        if self.far:
            outputs["far"] = self.far
        residuals = [b.spread(self.move(roots[f]), graph.fields[f]) for f in self.gone]
        start = b.build({"residual": residuals, "source": [sources[f] for f in self.gone]})
        return Elimination(b.build(outputs), start, tuple(self.floating))

    def _order(self, roots: Sequence[int]) -> list[int]:
        """These fields, each after those that its equation has."""
        graph, order = self.graph, list[int]()
        needs = {
            f: {int(graph.index[n]) for n in np.flatnonzero(graph.reachable([roots[f]])) if graph.op[n] == ao.FIELD}
            for f in self.gone
        }
        while len(order) < len(self.gone):
            ready = [f for f in self.gone if f not in order and not needs[f] & set(self.gone) - {f} - set(order)]
            if not ready:
                raise _RefusedError
            order.append(ready[0])
        return order

    # -- moving nodes ---------------------------------------------------------------------------

    def move(self, root: int) -> int:
        """A node in the new graph; all fields it depends on must be there."""
        for node in np.flatnonzero(self.graph.reachable([root])).tolist():
            if node not in self.moved:
                self.moved[node] = self._again(node, [self.moved[a] for a in self.graph.args[node].tolist() if a >= 0])
        return self.moved[root]

    def _again(self, node: int, args: list[int]) -> int:
        """An operation of the old graph on nodes of the new one."""
        graph, b, code, k = self.graph, self.b, int(self.graph.op[node]), int(self.graph.index[node])
        if code == ao.FIELD:
            return self.fields[k]
        if code == ao.TABLE:
            return b.table(graph.tables[k])
        if code in ao.WITH_ATTRIBUTES:
            if code == ao.SLICE:
                return b.slice(args[0], *graph.attributes[k])
            whole = [b.spread(a, graph.shapes[o]) for a, o in zip(args, graph.operands(node), strict=True)]
            if code == ao.APPLY:
                axis, table = graph.attributes[k]
                return b.apply(graph.tables[table], whole[0], axis)
            return b.apply_attribute(code, tuple(whole), graph.attributes[k])
        return b.again(code, tuple(args), float(graph.const[node]), self.calls[k] if code == ops.NETWORK else k)

    # -- one equation ---------------------------------------------------------------------------

    def _solve(self, field: int, root: int) -> tuple[int, int]:
        """The field, from what is zero, and what that is without it."""
        b, shape = self.b, self.graph.fields[field]
        linear, rest = self._parts(field, root)
        source = b.spread(b.zero if rest is None else rest, shape)
        identity, matrices = _by_axis(linear)
        floating = not identity and all(_is_singular(m) for row in matrices.values() for m in row.values())
        if not matrices:
            if not identity:
                raise _RefusedError
            return b.neg(b.div(source, self._weighted(identity))), source
        if floating and len(matrices) < len(shape):  # a constant for every line
            raise _RefusedError
        if len(matrices) == 1 and set(identity) | {c for row in matrices.values() for c in row} == {b.one}:
            ((axis, row),) = matrices.items()
            found = b.apply(_inverse(identity.get(b.one, 0.0), row[b.one], floating), source, axis)
        else:
            found = self._by_modes(shape, source, identity, matrices, floating)
        self.far.append(found)
        return self._with_mean(field, found) if floating else found, source

    def _by_modes(
        self, shape: tuple[int, ...], source: int, identity: dict[int, float], matrices: Any, floating: bool
    ) -> int:
        b, ndim = self.b, len(shape)
        numeric = set(identity) | {c for row in matrices.values() for c in row} == {b.one}
        known: dict[Any, Any] = {}  # axes of a square have the same
        modes: dict[int, tuple[Array, Array, list[Array]]] = {}
        for axis, row in matrices.items():
            key = tuple((c, m.tobytes()) for c, m in row.items())
            modes[axis] = known[key] = known.get(key) or _modes(list(row.values()))
        values: dict[int, Array] = {c: np.full((1,) * ndim, s) for c, s in identity.items()}
        still = np.ones((1,) * ndim)
        for axis, (_, _, eigenvalues) in modes.items():
            along = [-1 if k == axis else 1 for k in range(ndim)]
            level = _ZERO * max(float(np.abs(e).max()) for e in eigenvalues) * 100
            if floating:
                rests = np.all([np.abs(e) <= level for e in eigenvalues], axis=0)
                if rests.sum() != 1:
                    raise _RefusedError
                eigenvalues = [np.where(rests, 0.0, e) for e in eigenvalues]
                still = still * rests.reshape(along)
            for c, e in zip(matrices[axis], eigenvalues, strict=True):
                values[c] = values.get(c, np.zeros((1,) * ndim)) + e.reshape(along)
        if numeric:
            whole = np.where(still > 0, np.inf, values[b.one]) if floating else values[b.one]
            if np.abs(whole).min() <= _ZERO * np.abs(values[b.one]).max():
                raise _RefusedError
            scale = lambda node: b.mul(b.table(-1.0 / whole), node)  # noqa: E731
        else:
            below = self._weighted({c: b.table(v) for c, v in values.items()})
            if floating:
                below = b.add(below, b.table(still))
            scale = lambda node: b.neg(b.div(node, below))  # noqa: E731
        node = source
        for axis, (forward, _, _) in modes.items():
            node = b.apply(forward, node, axis)
        node = b.spread(scale(node), shape)
        for axis, (_, backward, _) in modes.items():
            node = b.apply(backward, node, axis)
        return node

    def _weighted(self, values: Mapping[int, Any]) -> int:
        """The sum of coefficients times numbers or nodes of tables."""
        b = self.b
        terms = [b.mul(c, b.constant(v) if isinstance(v, float) else v) for c, v in values.items()]
        return b.sum(terms)

    def _with_mean(self, field: int, node: int) -> int:
        """A field with the mean it is to have."""
        b, shape = self.b, self.graph.fields[field]
        self.floating.append(field)
        node = b.sub(node, self._mean(node))
        if field in self.means:
            return b.add(node, b.constant(self.means[field]))
        given = self.initial[field]
        if self.marks[2][given]:  # it has fields, which an initial value has not
            raise _RefusedError
        start = self.move(given)
        return b.add(node, self._mean(b.spread(start, shape)) if b.shape(start) else start)

    def _mean(self, node: int) -> int:
        b, size = self.b, int(np.prod(self.b.shape(node)))
        for axis in range(len(b.shape(node))):
            node = b.total(node, axis)
        return b.mul(b.constant(1.0 / size), node)

    # -- what is linear in a field --------------------------------------------------------------

    def _parts(self, field: int, root: int) -> tuple[Linear, int | None]:
        """What is linear in a field, and what there is without it (None for nothing)."""
        graph = self.graph
        depends = _depending(graph, field)
        if not depends[root]:
            raise _RefusedError
        found: dict[int, tuple[Linear, int | None]] = {}
        for node in np.flatnonzero(graph.reachable([root]) & depends).tolist():
            found[node] = self._step(node, depends, found)
        return found[root]

    def _step(
        self, node: int, depends: Any, found: Mapping[int, tuple[Linear, int | None]]
    ) -> tuple[Linear, int | None]:
        graph, b = self.graph, self.b
        code, operands, shape = int(graph.op[node]), graph.operands(node), graph.shapes[node]
        if code == ao.FIELD:
            return {(b.one, _NONE): 1.0}, None
        parts = [found[a] if depends[a] else ({}, self.move(a)) for a in operands]
        within = [graph.shapes[a] for a in operands if depends[a]]
        if code in (ops.ADD, ops.SUB, ops.NEG) and all(s == shape for s in within):
            signs = [1.0, -1.0] if code == ops.SUB else [-1.0] if code == ops.NEG else [1.0, 1.0]
            linear: Linear = {}
            for (part, _), sign in zip(parts, signs, strict=True):
                _accumulate(linear, part, sign)
            rests = [rest for _, rest in parts]
            if code == ops.NEG:
                return linear, None if rests[0] is None else b.neg(rests[0])
            first, second = rests
            if second is None:
                return linear, first
            if first is None:
                return linear, second if code == ops.ADD else b.neg(second)
            return linear, b.call(code, first, second)
        if code in (ops.MUL, ops.DIV) and len(within) == 1 and within[0] == shape:
            k = 0 if depends[operands[0]] else 1
            if code == ops.MUL or k == 0:
                coefficient, array = self._factor(operands[1 - k])
                if code == ops.DIV:
                    coefficient, array = b.div(b.one, coefficient), 1.0 / array
                linear, rest = parts[k]
                other = parts[1 - k][1]
                assert other is not None
                return self._scaled(linear, coefficient, array), None if rest is None else b.call(code, rest, other)
        if code in ao.LINEAR - {ao.TOTAL}:
            return self._moved(node, parts)
        raise _RefusedError

    def _moved(self, node: int, parts: Sequence[tuple[Linear, int | None]]) -> tuple[Linear, int | None]:
        """An operation along an axis."""
        from scipy import sparse

        graph, b = self.graph, self.b
        code, operands, attribute = int(graph.op[node]), graph.operands(node), graph.attributes[int(graph.index[node])]
        axis = attribute[0]
        lengths = [graph.shapes[a][axis] for a in operands]
        lines = [_along(linear, axis, n) for (linear, _), n in zip(parts, lengths, strict=True)]
        rests = [
            None if rest is None else b.spread(rest, graph.shapes[a])
            for (_, rest), a in zip(parts, operands, strict=True)
        ]
        if code == ao.JOIN:
            keys = dict.fromkeys(key for line in lines for key in line)
            width = next(iter(m.shape[1] for line in lines for m in line.values()))
            empty = [sparse.csr_array((n, width)) for n in lengths]
            joined = {
                key: sparse.csr_array(sparse.vstack([line.get(key, e) for line, e in zip(lines, empty, strict=True)]))
                for key in keys
            }
            if all(rest is None for rest in rests):
                return joined, None
            both = [b.spread(b.zero, graph.shapes[a]) if r is None else r for r, a in zip(rests, operands, strict=True)]
            return joined, b.join(both, axis)
        if code == ao.SLICE:
            _, start, length = attribute
            sliced = {key: matrix[start : start + length] for key, matrix in lines[0].items()}
            return sliced, None if rests[0] is None else b.slice(rests[0], axis, start, length)
        if lengths[0] > _LONGEST:
            raise _RefusedError
        if code == ao.APPLY:
            matrix = graph.tables[attribute[1]]
            rest = None if rests[0] is None else b.apply(matrix, rests[0], axis)
        else:
            matrix = evaluate_array_op(code, [np.eye(lengths[0])], (0, attribute[1]), ())
            rest = None if rests[0] is None else b.apply_attribute(code, (rests[0],), attribute)
        return {key: sparse.csr_array(matrix @ inner) for key, inner in lines[0].items()}, rest

    def _factor(self, node: int) -> tuple[int, Array]:
        """What something is multiplied with, as a product of a number that may have parameters and an array."""
        graph, b = self.graph, self.b
        parameters, in_time, of_fields = (marks[node] for marks in self.marks)
        if of_fields or in_time:
            raise _RefusedError
        if not parameters:
            return b.one, FieldProgram(graph, [node])(np.zeros(graph.n_states), np.zeros(graph.n_params), 0.0)[0]
        if graph.shapes[node] == ():
            return self.move(node), np.ones(())
        code, operands = int(graph.op[node]), graph.operands(node)
        if code in (ops.MUL, ops.DIV, ops.NEG):
            factors = [self._factor(a) for a in operands]
            (c, array), *more = factors
            for other, values in more:
                c, array = b.call(code, c, other), array * values if code == ops.MUL else array / values
            return c, -array if code == ops.NEG else array
        raise _RefusedError

    def _scaled(self, linear: Linear, coefficient: int, array: Array) -> Linear:
        from scipy import sparse

        varying = [axis for axis, n in enumerate(array.shape) if n > 1]
        if np.all(array == array.flat[0]):
            varying = []
        if not np.all(np.isfinite(array)) or len(varying) > 1:
            raise _RefusedError
        result: Linear = {}
        for (c, axis), inner in linear.items():
            key = self.b.mul(c, coefficient)
            if not varying:
                _accumulate(result, {(key, axis): inner}, float(array.flat[0]))
                continue
            weights = sparse.diags_array(array.ravel())
            ((_, along), matrix), *_ = _along({(key, axis): inner}, varying[0], array.size).items()
            _accumulate(result, {(key, along): sparse.csr_array(weights @ matrix)}, 1.0)
        return result


def _marked(graph: FieldGraph, *codes: int) -> list[bool]:
    """Which nodes depend on such leaves."""
    found: list[bool] = []
    for node, code in enumerate(graph.op.tolist()):
        found.append(code in codes or any(found[a] for a in graph.args[node].tolist() if a >= 0))
    return found


def _depending(graph: FieldGraph, field: int) -> Any:
    depends = (graph.op == ao.FIELD) & (graph.index == field)
    for node, row in enumerate(graph.args.tolist()):
        if any(depends[a] for a in row if a >= 0):
            depends[node] = True
    return depends


def _accumulate(into: Linear, other: Linear, factor: float) -> None:
    for key, value in other.items():
        into[key] = into[key] + factor * value if key in into else factor * value


def _along(linear: Linear, axis: int, length: int) -> Linear:
    """The same as matrices along an axis."""
    from scipy import sparse

    result: Linear = {}
    for (c, k), value in linear.items():
        if k not in (_NONE, axis):
            raise _RefusedError
        _accumulate(result, {(c, axis): value * sparse.eye_array(length, format="csr") if k == _NONE else value}, 1.0)
    return result


def _by_axis(linear: Linear) -> tuple[dict[int, float], dict[int, dict[int, Array]]]:
    """Numbers, and for each axis full matrices; what is zero, or on the diagonal alone, is not among these."""
    identity: dict[int, float] = {}
    matrices: dict[int, dict[int, Array]] = {}
    for (c, axis), value in linear.items():
        if axis == _NONE:
            identity[c] = identity.get(c, 0.0) + float(value)
            continue
        if value.shape[0] != value.shape[1]:
            raise _RefusedError
        if value.shape[0] > _LONGEST:
            raise _RefusedError
        matrix = value.toarray()
        shift = float(matrix[0, 0])
        level = _ZERO * float(np.abs(matrix).max(initial=0.0))
        if np.abs(matrix - shift * np.eye(len(matrix))).max() <= level:
            identity[c] = identity.get(c, 0.0) + shift
        else:
            matrices.setdefault(axis, {})[c] = matrix
    return {c: s for c, s in identity.items() if s}, matrices


def _is_singular(matrix: Array) -> bool:
    """Whether constants are mapped to zero."""
    return bool(np.abs(matrix.sum(axis=1)).max() <= _ZERO * np.abs(matrix).max() * len(matrix) ** 0.5)


def _inverse(shift: float, matrix: Array, floating: bool) -> Array:
    """``-(shift + matrix)^-1``; with the mean zero where a constant is open."""
    n = len(matrix)
    whole = shift * np.eye(n) + matrix
    if floating:
        scale = float(np.abs(whole).max())
        edge = np.full((n, 1), scale / n)
        whole = np.block([[whole, edge], [edge.T, np.zeros((1, 1))]])
    inverse = _inverted(whole, _CONDITION[1])
    return np.array(-inverse[:n, :n])


def _inverted(matrix: Array, most: float) -> Array:
    """The inverse of a matrix whose condition, by sums of rows, is less than the most."""
    try:
        inverse = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
    except np.linalg.LinAlgError:
        raise _RefusedError from None
    if not np.abs(matrix).sum(axis=1).max() * np.abs(inverse).sum(axis=1).max() < most:
        raise _RefusedError
    return inverse


def _modes(matrices: Sequence[Array]) -> tuple[Array, Array, list[Array]]:
    """To common eigenvectors of some matrices and back, and the eigenvalues of each."""
    first = matrices[0]
    if np.abs(first - first.T).max() <= _ZERO * np.abs(first).max():
        _, backward = np.linalg.eigh((first + first.T) / 2)
        forward = backward.T.copy()
    else:
        found: Any = np.linalg.eig(first)
        values, backward = found
        if np.abs(values.imag).max() > _ZERO * np.abs(values).max():
            raise _RefusedError
        backward = np.ascontiguousarray(backward.real)
        forward = _inverted(backward, _CONDITION[0])
    eigenvalues: list[Array] = []
    for matrix in matrices:
        inner = forward @ matrix @ backward
        eigenvalues.append(np.diagonal(inner).copy())
        gap = np.abs(inner - np.diag(eigenvalues[-1])).max()
        if gap > 1e3 * _ZERO * np.abs(matrix).max():
            raise _RefusedError
    return forward, backward, eigenvalues
