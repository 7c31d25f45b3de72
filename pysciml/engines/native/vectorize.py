"""Large models as vectors: equations of the same form become one DiffSL tensor expression.

The compile time of a DiffSL model grows with the square of the number of its statements; the
2,048 equations of a Brusselator on a 32 x 32 grid, written one by one, would take minutes. Models
of that size are always repetitive, so they are taken apart into *rows*, and rows of one form are
written together:

* The graph is cut at the right-hand sides, at every subexpression used more than once and at
  every long sum. Each cut is a row, computed once.
* A long sum is a linear combination of other rows, states and parameters. All those of one level
  that draw on the same sources are one sparse matrix product per source.
* Every other row is a template, an expression with anonymous leaves. Rows with the same template
  are one elementwise expression over gathered leaves. A gather is a slice where the indices run
  on, a list of slices where they run in few pieces, and a sparse 0/1 matrix product elsewhere.

The Jacobian's sparsity survives all of it, since DiffSL tracks it through slices and sparse
products.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from pysciml.engines.native.writing import PRECEDENCE_OF_ATOMS, Piece, join, number
from pysciml.graph import Graph, ops

#: Sums of more terms than this are linear combinations, shorter ones are part of a template.
_SHORT_SUM: Final = 4
#: One sum of at most so many terms is written term by term. Sums of two have to be: DiffSL's loop for the
#: sum of a vector of two ends the process. Its compiler has LLVM's instruction combiner verify that going over a
#: function once was enough, LLVM aborts where it was not, and for the counter of that loop it seldom is.
_ADDENDS: Final = 16
#: A gather in at most this many pieces is written as slices.
_SLICES: Final = 8
#: Heights of blocks that are tried for a sparse product. LLVM unrolls shorter loops completely,
#: which costs far more than it brings.
_HEIGHTS: Final = (1024, 512, 256)
#: What a statement costs the compiler, in elements of a broadcast product.
_STATEMENT: Final = 90_000
#: Columns not needed that a block takes along rather than being cut there.
_GAP: Final = 16
#: Right-hand sides in more pieces than this are put in order by a sparse product.
_RUNS: Final = 100
#: Depth at which a template is cut.
_DEPTH: Final = 25

_STATES: Final = "u"
_INPUTS: Final = "in"
_TIME: Final = "t"
_NUMBER: Final = "c"

#: A template: an operation with the forms of its operands, or the source of a leaf.
_Form = tuple[int, tuple["_Form", ...]] | str


def state_order(graph: Graph, roots: Sequence[int]) -> list[int]:
    """Find an order of the states in which equations of one form follow each other.

    The states of a system come in the order in which they were found, which need not be that of a
    grid or a chain; vectors want the equations of one form next to each other, and the states of
    different forms that belong together (the two fields of a grid point) in the same order.

    Returns
    -------
    list of int
        The states, in the order they should have.
    """
    op, args = graph.op.tolist(), graph.args.tolist()
    forms: list[int] = [0] * len(op)
    for _ in range(3):  # forms down to three operations deep, whatever the order of operands
        forms = [hash((code, *sorted(forms[a] for a in row if a >= 0))) for code, row in zip(op, args, strict=True)]
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for state, root in enumerate(roots):
        groups[forms[root]].append(state)
    rows, cols = graph.sparsity("rhs")
    users: defaultdict[int, list[int]] = defaultdict(list)
    for row, col in zip(rows.tolist(), cols.tolist(), strict=True):
        users[col].append(row)
    position: dict[int, int] = {}
    order: list[int] = []
    for members in sorted(groups.values(), key=lambda m: (-len(m), m[0])):
        placed = {j: [position[i] for i in users[j] if i in position] for j in members}
        members.sort(key=lambda j: (placed[j][0] if len(placed[j]) == 1 else len(roots), j))
        for j in members:
            position[j] = len(order)
            order.append(j)
    return order


class _Leaf(NamedTuple):
    """What a template's slot holds in one row: a number, or an element of a source vector."""

    source: str
    at: int
    value: float


class _Term(NamedTuple):
    """One term of a long sum."""

    leaf: _Leaf
    factor: float


def vector_body(
    graph: Graph,
    roots: Sequence[int],
    signs: np.ndarray,
    differential: np.ndarray,
) -> str:
    """Write a whole model; see `emit.emit`."""
    return _Vectors(graph, roots, signs, differential).write()


class _Block(NamedTuple):
    """Some consecutive rows of a sparse matrix, and the columns they need."""

    first: int
    entries: list[tuple[int, int, float]]
    columns: list[int]
    runs: list[tuple[int, int]]


def _blocks(ordered: Sequence[tuple[int, int, float]], height: int) -> list[_Block]:
    """Cut a matrix, given by its entries in the order of rows, into blocks of rows."""
    by_block: defaultdict[int, list[tuple[int, int, float]]] = defaultdict(list)
    for entry in ordered:
        by_block[entry[0] // height].append(entry)
    blocks: list[_Block] = []
    for k, entries in by_block.items():
        columns = np.unique([column for _, column, _ in entries])
        parts = np.split(columns, np.flatnonzero(np.diff(columns) > _GAP) + 1)
        runs = [(int(part[0]), int(part[-1]) + 1) for part in parts]
        if len(columns) == 1:  # a single column would be a scalar to DiffSL
            first, last = runs[0]
            runs = [(first, last + 1)] if first == 0 else [(first - 1, last)]
        every = [column for a, b in runs for column in range(a, b)]
        blocks.append(_Block(k * height, entries, every, runs))
    return blocks


class _Vectors:
    def __init__(
        self,
        graph: Graph,
        roots: Sequence[int],
        signs: np.ndarray,
        differential: np.ndarray,
    ) -> None:
        self._graph = graph
        self._op = graph.op.tolist()
        self._args = graph.args.tolist()
        self._roots = list(roots)
        self._signs, self._differential = signs, differential
        self._lines: list[str] = []
        self._where: dict[int, tuple[str, int]] = {}
        self._sizes = {_STATES: graph.n_states, _INPUTS: graph.n_params + graph.n_states, _TIME: 1}
        self._gathers: dict[tuple[str, tuple[int, ...]], str] = {}
        self._names = 0

    def _name(self, letter: str) -> str:
        self._names += 1
        return f"{letter}{self._names}"

    # -- cutting ----------------------------------------------------------------------------------

    def _cuts(self) -> tuple[list[int], set[int]]:
        """Find the nodes to be rows, operands first, and those of them that are long sums."""
        graph = self._graph
        needed = graph.reachable(self._roots)
        order = np.flatnonzero(needed).tolist()
        uses: defaultdict[int, int] = defaultdict(int)
        for node in order:
            for a in self._args[node]:
                if a >= 0:
                    uses[a] += 1
        cut = {node for node in self._roots if self._op[node] not in ops.LEAVES}
        for node in order:
            if self._op[node] not in ops.LEAVES and uses[node] > 1 and not self._trivial(node):
                cut.add(node)
        # A sum is as long as the number of its terms; sums inside sums count as one sum, up to
        # the next cut. Only the outermost node of a sum decides.
        length: dict[int, int] = {}
        depth: dict[int, int] = {}
        inner: set[int] = set()
        for node in order:
            code, args = self._op[node], [a for a in self._args[node] if a >= 0]
            if code in ops.LEAVES:
                length[node], depth[node] = 1, 0
                continue
            depth[node] = 1 + max(0 if a in cut else depth[a] for a in args)
            if code in (ops.ADD, ops.SUB):
                length[node] = sum(1 if a in cut else length[a] for a in args)
                inner.update(a for a in args if a not in cut and length[a] > 1)
            elif code == ops.NEG:
                length[node] = 1 if args[0] in cut else length[args[0]]
                if length[node] > 1:
                    inner.add(args[0])
            else:
                length[node] = 1
                if depth[node] > _DEPTH:
                    cut.add(node)
        long = {node for node in order if length[node] > _SHORT_SUM and (node in cut or node not in inner)}
        for node in long:
            cut.add(node)
            for term, _ in self._flatten(node, cut):
                if self._op[term] not in ops.LEAVES:
                    cut.add(term)
        return [node for node in order if node in cut], long

    def _trivial(self, node: int) -> bool:
        """Whether a shared node is cheaper repeated: a sum of two leaves, or a scaled leaf.

        As rows of their own these would hide a stencil's sum from `_flatten`.
        """
        operands = self._args[node][: ops.OPS[self._op[node]].arity]
        if any(self._op[a] not in ops.LEAVES for a in operands):
            return False
        scaled = self._op[node] == ops.MUL and any(self._op[a] == ops.CONST for a in operands)
        return scaled or self._op[node] in (ops.ADD, ops.SUB, ops.NEG)

    def _flatten(self, node: int, cut: set[int]) -> list[tuple[int, float]]:
        """Take a sum apart into its terms with their numerical factors."""
        terms: list[tuple[int, float]] = []
        stack = [(node, 1.0)]
        while stack:
            current, factor = stack.pop()
            code, args = self._op[current], self._args[current]
            if current != node and (current in cut or code in ops.LEAVES):
                terms.append((current, factor))
            elif code == ops.ADD:
                stack += [(args[1], factor), (args[0], factor)]
            elif code == ops.SUB:
                stack += [(args[1], -factor), (args[0], factor)]
            elif code == ops.NEG:
                stack.append((args[0], -factor))
            elif code == ops.MUL and self._op[args[0]] == ops.CONST:
                stack.append((args[1], factor * float(self._graph.const[args[0]])))
            elif code == ops.MUL and self._op[args[1]] == ops.CONST:
                stack.append((args[0], factor * float(self._graph.const[args[1]])))
            else:
                terms.append((current, factor))
        return terms

    # -- rows -------------------------------------------------------------------------------------

    def _leaf(self, node: int) -> _Leaf:
        code = self._op[node]
        if code == ops.CONST:
            return _Leaf(_NUMBER, 0, float(self._graph.const[node]))
        if code == ops.TIME:
            return _Leaf(_TIME, 0, 0.0)
        if code == ops.STATE:
            return _Leaf(_STATES, int(self._graph.index[node]), 0.0)
        if code == ops.PARAM:
            return _Leaf(_INPUTS, int(self._graph.index[node]), 0.0)
        name, position = self._where[node]
        return _Leaf(name, position, 0.0)

    def _template(self, root: int, cut: set[int]) -> tuple[_Form, list[_Leaf]]:
        """Find the form of an expression, and its leaves in the order the form names them.

        Operands of commutative operations are put in the order of their forms, so that equations
        that differ only in the order of their symbols have one form.
        """

        def walk(node: int) -> tuple[_Form, list[_Leaf], str]:
            code = self._op[node]
            if node != root and (node in cut or code in ops.LEAVES):
                leaf = self._leaf(node)
                return leaf.source, [leaf], leaf.source
            parts = [walk(a) for a in self._args[node][: ops.OPS[code].arity]]
            if code in ops.COMMUTATIVE:
                parts.sort(key=lambda part: part[2])
            leaves = [leaf for _, below, _ in parts for leaf in below]
            key = f"{code}({','.join(text for _, _, text in parts)})"
            return (code, tuple(form for form, _, _ in parts)), leaves, key

        form, leaves, _ = walk(root)
        return form, leaves

    # -- writing ----------------------------------------------------------------------------------

    def write(self) -> str:
        n, m = self._graph.n_states, self._graph.n_params
        self._lines.append(f"in_i {{ (0:{m + n}): a = 0.0 }}")
        self._lines.append(f"u_i {{ in_i[{m}:{m + n}] }}")
        if not self._differential.all():
            self._lines.append(f"dudt_i {{ (0:{n}): d = 0.0 }}")
            mass = ", ".join("1.0" if d else "0.0" for d in self._differential)
            self._lines += [f"mass_i {{ {mass} }}", "M_i { mass_i * d_i }"]
        cuts, long = self._cuts()
        cut = set(cuts)
        by_level: defaultdict[int, list[int]] = defaultdict(list)
        levels: dict[int, int] = {}
        for node in cuts:
            levels[node] = 1 + max((levels[a] for a in self._below(node, cut)), default=-1)
            by_level[levels[node]].append(node)
        first_row = self._first_rows()
        for level in sorted(by_level):
            nodes = sorted(by_level[level], key=lambda v: (first_row[v], v))
            groups: defaultdict[_Form, list[tuple[int, list[_Leaf]]]] = defaultdict(list)
            sums: defaultdict[tuple[str, ...], list[tuple[int, list[_Term]]]] = defaultdict(list)
            for node in nodes:
                if node in long:
                    terms = [_Term(self._leaf(v), f) for v, f in self._flatten(node, cut)]
                    sources = {term.leaf.source for term in terms} - {_NUMBER}
                    sums[tuple(sorted(sources))].append((node, terms))
                else:
                    form, leaves = self._template(node, cut)
                    groups[form].append((node, leaves))
            for form, members in groups.items():
                self._write_template(form, [x for _, x in members], [v for v, _ in members])
            for rows in sums.values():
                self._write_sums([x for _, x in rows], [v for v, _ in rows])
        self._lines.append(f"F_i {{ {self._right_hand_side()} }}")
        return "\n".join(self._lines) + "\n"

    def _first_rows(self) -> dict[int, int]:
        """The first right-hand side that needs a node, for every node."""
        first: dict[int, int] = {}
        for k, root in enumerate(self._roots):
            first.setdefault(root, k)
        for node in range(len(self._op) - 1, -1, -1):
            if node in first:
                for a in self._args[node]:
                    if a >= 0:
                        first[a] = min(first.get(a, first[node]), first[node])
        return first

    def _below(self, node: int, cut: set[int]) -> list[int]:
        """Find the nearest cuts below a node."""
        found: list[int] = []
        stack = [a for a in self._args[node] if a >= 0]
        while stack:
            current = stack.pop()
            if current in cut:
                found.append(current)
            else:
                stack.extend(a for a in self._args[current] if a >= 0)
        return found

    def _define(self, letter: str, text: str, size: int) -> str:
        """Add a tensor, a scalar where it has one element; returns how to refer to all of it."""
        name = self._name(letter)
        suffix = "" if size == 1 else "_i"
        self._sizes[name] = size
        self._lines.append(f"{name}{suffix} {{ {text} }}")
        return name + suffix

    def _place(self, reference: str, nodes: Sequence[int]) -> None:
        name = reference.removesuffix("_i")
        for position, node in enumerate(nodes):
            self._where[node] = name, position

    def _write_template(self, form: _Form, leaves: Sequence[Sequence[_Leaf]], nodes: Sequence[int]) -> None:
        slots = iter([self._slot([row[k] for row in leaves]) for k in range(len(leaves[0]))])

        def walk(part: _Form) -> Piece:
            if isinstance(part, str):
                return next(slots)
            code, operands = part
            return join(code, [walk(operand) for operand in operands])

        self._place(self._define("v", walk(form).text, len(nodes)), nodes)

    def _slot(self, leaves: Sequence[_Leaf]) -> Piece:
        """One leaf of a template, in all its rows."""
        source = leaves[0].source
        if source == _NUMBER:
            return self._numbers([leaf.value for leaf in leaves])
        return _atom(self._gather(source, [leaf.at for leaf in leaves]))

    def _numbers(self, values: Sequence[float]) -> Piece:
        if all(value == values[0] for value in values):
            return number(values[0])
        return _atom(self._define("c", ", ".join(number(v).text for v in values), len(values)))

    def _element(self, leaf: _Leaf) -> str:
        if leaf.source == _NUMBER:
            return number(leaf.value).text
        if self._sizes[leaf.source] == 1:
            return leaf.source
        return f"{leaf.source}_i[{leaf.at}]"

    def _gather(self, source: str, indices: Sequence[int]) -> str:
        """Elements of a vector, as an expression of that length (or a scalar, if all are one)."""
        if self._sizes[source] == 1:
            return source
        if all(index == indices[0] for index in indices):
            return f"{source}_i[{indices[0]}]"
        slices = _slices(source, indices, self._sizes[source])
        if len(slices) == 1:
            return slices[0]
        key = source, tuple(indices)
        known = self._gathers.get(key)
        if known is None:
            if len(slices) <= _SLICES:
                text = ", ".join(slices)
            else:
                entries = [(row, column, 1.0) for row, column in enumerate(indices)]
                text = self._multiply(entries, len(indices), source)
            known = self._gathers[key] = self._define("g", text, len(indices))
        return known

    def _matrix(self, entries: Sequence[tuple[int, int, float]], shape: tuple[int, int]) -> str:
        """Write a sparse constant; runs along a diagonal are one element."""
        name = self._name("s")
        by_diagonal = sorted(entries, key=lambda e: (e[1] - e[0], e[0]))
        parts: list[str] = []
        start = 0
        for k in range(1, len(by_diagonal) + 1):
            row, column, value = by_diagonal[start]
            length = k - start
            if k < len(by_diagonal) and by_diagonal[k] == (row + length, column + length, value):
                continue
            where = f"{row},{column}"
            if length > 1:
                where = f"{row}..{row + length},{column}..{column + length}"
            parts.append(f"({where}): {number(value).text}")
            start = k
        last = shape[0] - 1, shape[1] - 1
        if all((row, column) != last for row, column, _ in entries):
            parts.append(f"({last[0]},{last[1]}): 0.0")
        self._lines.append(f"{name}_ij {{ {', '.join(parts)} }}")
        return f"{name}_ij"

    def _write_sums(self, rows: Sequence[Sequence[_Term]], nodes: Sequence[int]) -> None:
        size = len(rows)
        constants = [sum(x.factor * x.leaf.value for x in row if x.leaf.source == _NUMBER) for row in rows]
        addends: list[str] = []
        by_source: defaultdict[str, dict[tuple[int, int], float]] = defaultdict(dict)
        for k, row in enumerate(rows):
            for leaf, factor in row:
                if leaf.source != _NUMBER:
                    entries = by_source[leaf.source]
                    entries[k, leaf.at] = entries.get((k, leaf.at), 0.0) + factor
        for source, entries in by_source.items():
            addends.append(self._product(source, entries, size))
        if any(constants):
            addends.append(self._numbers(constants).text)
        self._place(self._define("v", " + ".join(addends), size), nodes)

    def _product(self, source: str, entries: dict[tuple[int, int], float], size: int) -> str:
        """Multiply a sparse matrix, which has an entry in every row, by a source vector."""
        columns = [column for _, column in entries]
        if len(entries) == size:  # one entry a row
            return self._scaled(list(entries.values()), self._gather(source, columns))
        if size == 1:
            return self._sum(source, columns, list(entries.values()))
        flat = [(row, column, value) for (row, column), value in entries.items()]
        return self._define("v", self._multiply(flat, size, source), size)

    def _sum(self, source: str, columns: Sequence[int], factors: Sequence[float]) -> str:
        """Write one sum: a short one term by term, a long one as DiffSL's loop over a vector."""
        if len(columns) <= _ADDENDS:
            elements = [self._element(_Leaf(source, column, 0.0)) for column in columns]
            scaled = zip(factors, elements, strict=True)
            return " + ".join(x if factor == 1.0 else f"{number(factor).text} * {x}" for factor, x in scaled)
        vector = self._define("g", self._scaled(factors, self._gather(source, columns)), len(columns))
        return self._define("v", vector, 1)

    def _multiply(self, entries: Sequence[tuple[int, int, float]], size: int, source: str) -> str:
        """Write a sparse product as one product, or by blocks of rows where that compiles faster.

        DiffSL follows the dependencies of every element of the broadcast product, rows times
        columns whether they are zero or not, so rows that draw on a few neighbouring columns are
        multiplied with these alone.
        """
        columns = self._sizes[source]
        ordered = sorted(entries)
        best, height = size * columns, size
        for candidate in _HEIGHTS:
            # A last block of one row would be a scalar to DiffSL.
            if candidate < size and size % candidate != 1 and best > _STATEMENT:
                blocks = _blocks(ordered, candidate)
                cost = sum(len(block.columns) * candidate + _STATEMENT * (2 + len(block.runs)) for block in blocks)
                if cost < best:
                    best, height = cost, candidate
        if height == size:
            return f"{self._matrix(entries, (size, columns))} * {source}_j"
        parts: list[str] = []
        for block in _blocks(ordered, height):
            rows = min(height, size - block.first)
            local = {column: k for k, column in enumerate(block.columns)}
            picked = ", ".join(_slice(source, a, b - a, columns) for a, b in block.runs)
            vector = self._define("g", picked, len(local))
            matrix = self._matrix(
                [(row - block.first, local[column], value) for row, column, value in block.entries],
                (rows, len(local)),
            )
            parts.append(self._define("v", f"{matrix} * {vector.removesuffix('_i')}_j", rows))
        return ", ".join(parts)

    def _scaled(self, factors: Sequence[float], vector: str) -> str:
        if all(factor == 1.0 for factor in factors):
            return vector
        return f"{self._numbers(factors).text} * {vector}"

    def _right_hand_side(self) -> str:
        leaves = [self._leaf(node) for node in self._roots]
        runs: list[tuple[int, int]] = []
        start = 0
        for k in range(1, len(leaves) + 1):
            if k < len(leaves):
                length, first, this = k - start, leaves[start], leaves[k]
                follows = this.source == first.source and this.at == first.at + length
                vector = first.source not in (_NUMBER, _TIME)
                if vector and follows and self._signs[k] == self._signs[start]:
                    continue
            runs.append((start, k))
            start = k
        if len(runs) > _RUNS:
            return self._permuted(leaves)
        parts: list[str] = []
        for start, stop in runs:
            first = leaves[start]
            text = self._element(first)
            if stop - start > 1:
                text = _slice(first.source, first.at, stop - start, self._sizes[first.source])
            parts.append(text if self._signs[start] > 0 else f"-{text}")
        return ", ".join(parts)

    def _permuted(self, leaves: Sequence[_Leaf]) -> str:
        """Rows in no order that slices could follow: a signed selection from all their sources."""
        offset: dict[tuple[str, float], int] = {}
        parts: list[str] = []
        total = 0
        for leaf in leaves:
            key = leaf.source, leaf.value
            if key not in offset:
                offset[key] = total
                scalar = leaf.source == _NUMBER or self._sizes[leaf.source] == 1
                total += 1 if scalar else self._sizes[leaf.source]
                parts.append(self._element(leaf) if scalar else f"{leaf.source}_i")
        everything = self._define("g", ", ".join(parts), total)
        entries = [
            (row, offset[leaf.source, leaf.value] + leaf.at, float(sign))
            for row, (leaf, sign) in enumerate(zip(leaves, self._signs, strict=True))
        ]
        return self._multiply(entries, len(leaves), everything.removesuffix("_i"))


def _atom(text: str) -> Piece:
    return Piece(text, PRECEDENCE_OF_ATOMS, 0)


def _slice(source: str, start: int, length: int, size: int) -> str:
    if length == size:
        return f"{source}_i"
    return f"{source}_i[{start}:{start + length}]"


def _slices(source: str, indices: Sequence[int], size: int) -> list[str]:
    """Split indices into runs of consecutive ones, as slices."""
    breaks = np.flatnonzero(np.diff(np.asarray(indices)) != 1) + 1
    return [
        f"{source}_i[{run[0]}]" if len(run) == 1 else _slice(source, int(run[0]), len(run), size)
        for run in np.split(np.asarray(indices), breaks)
    ]
