"""Fields on a line, compiled: the graph's arrays as DiffSL vectors.

In one dimension a stencil is a handful of slices, so a discretized equation is a few vector statements,
whatever the number of cells, and the Jacobian is banded: diffsol's own methods with a sparse LU solve it
at compiled speed. How it is written is decided by what DiffSL (0.12) does with every element of a
product, which it follows while it compiles:

* a sparse matrix times a vector, or a number (a parameter, say) times a vector, costs the square of the
  number of cells, in time and in memory; slices, joins and elementwise operations cost in proportion to it;
* so nothing is a matrix, and whatever depends neither on the fields nor on the time (coefficients,
  coordinates, parameters in every cell) is computed in NumPy and is an input, as a vector.

In two dimensions the sparse factorization fills in and loses against the Krylov methods of
`pysciml.engines.fields`; see `benchmarks/fields_native.py` for all of these measurements.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array
from pysciml.engines.native.compile import SPARSE_STATES, Prepared
from pysciml.engines.native.library import Compiled
from pysciml.engines.native.lower import SAFE_POINTS, SUPPORTED, Lowering
from pysciml.engines.native.writing import PRECEDENCE_OF_ATOMS, Piece, join, number
from pysciml.graph import Model, ops
from pysciml.graph import array_ops as ao
from pysciml.graph.field_builder import FieldBuilder
from pysciml.graph.fields import FieldGraph

#: Models of more states are not compiled (benchmarks/fields_native.py).
MOST_STATES: Final = 8192
#: Without a method's name models of more statements are not compiled, either: the compiler takes seconds.
MOST_STATEMENTS: Final = 40
#: This many models stay compiled.
_KEPT: Final = 16
#: Expressions are cut into statements at this depth: the compiler's parser recurses.
_DEPTH: Final = 20

_ARRAY_OPS: Final = frozenset({ao.FIELD, ao.TABLE, ao.SLICE, ao.JOIN})


def compilable(model: Model) -> str | None:
    """Why a partial differential equation is not compiled, as what is said of it; None where it is."""
    graph = model.graph
    if not isinstance(graph, FieldGraph) or any(len(shape) != 1 for shape in graph.fields):
        return "has more than one dimension"
    if graph.n_states > MOST_STATES:
        return f"has more than {MOST_STATES} states"
    if model.events or not model.differential.all():
        return "has events or algebraic equations"
    by_field = _below(graph, ao.FIELD)
    moving = (by_field | _below(graph, ops.TIME)) & graph.reachable(graph.outputs["rhs"])
    missing = set(graph.op[moving].tolist()) - SUPPORTED - _ARRAY_OPS
    if missing:
        return f"needs {', '.join(sorted(ao.describe(code).name for code in missing))}"
    for node in np.flatnonzero(moving).tolist():
        if len(graph.shapes[node]) > 1:
            return "has more than one dimension"
        operands = [k for k in graph.args[node].tolist() if k >= 0 and by_field[k]]
        if int(graph.op[node]) not in ao.ARRAY_OPS and any(graph.shapes[k] != graph.shapes[node] for k in operands):
            return "has a value at one place that acts on all cells"
    if _moved_from_branches(graph, moving):
        return "has a branch that takes values from other cells, where they may be undefined"
    return None


def _moved_from_branches(graph: FieldGraph, needed: npt.NDArray[np.bool_]) -> bool:
    """Whether a branch holds values of other cells that may be undefined there.

    A branch is guarded cell by cell: what is undefined where it is not taken is replaced there. Values from
    other cells have left that guard, and a NaN that a branch would have dropped would poison the sum.
    """
    risky, moved = [False] * len(graph), [False] * len(graph)
    for node, (code, row) in enumerate(zip(graph.op.tolist(), graph.args.tolist(), strict=True)):
        operands = [a for a in row if a >= 0]
        risky[node] = _may_be_undefined(graph, code, operands) or any(risky[a] for a in operands)
        moved[node] = (code in ao.ARRAY_OPS and risky[node]) or any(moved[a] for a in operands)
        if code == ops.SELECT and needed[node] and any(moved[a] for a in operands[1:]):
            return True
    return False


def _may_be_undefined(graph: FieldGraph, code: int, operands: list[int]) -> bool:
    if code not in SAFE_POINTS:
        return False
    if code in (ops.DIV, ops.POW) and int(graph.op[operands[1]]) == ops.CONST:
        value = float(graph.const[operands[1]])
        return value == 0 if code == ops.DIV else value < 0 or value != int(value)
    return True


class _FieldLowering(Lowering):
    """The same rewriting as for numbers, on arrays."""

    def __init__(self, graph: FieldGraph, *, backward: bool) -> None:
        builder = FieldBuilder(graph.fields, graph.n_params + 1)
        super().__init__(graph, builder, backward=backward)
        self.arrays, self._fields = builder, graph

    def _lower(self, node: int, guard: int) -> int:
        code = self._op[node]
        if code not in ao.ARRAY_OPS:
            return super()._lower(node, guard)
        k = int(self._fields.index[node])
        if code == ao.FIELD:
            return self.arrays.field(k)
        if code == ao.TABLE:
            return self.arrays.table(self._fields.tables[k])
        # A branch of a piecewise function is guarded cell by cell; moved cells have left their guards.
        args = tuple(self._done[self._key(a, -1)] for a in self._args[node] if a >= 0)
        if code == ao.APPLY:
            axis, table = self._fields.attributes[k]
            return self.arrays.apply(self._fields.tables[table], args[0], axis)
        return self.arrays.apply_attribute(code, args, self._fields.attributes[k])

    def _needs(self, node: int, guard: int) -> list[tuple[int, int]]:
        if self._op[node] in ao.ARRAY_OPS:
            return [(a, -1) for a in self._args[node] if a >= 0]
        return super()._needs(node, guard)


@dataclass(frozen=True)
class Written:
    """A model's text, and what goes into it.

    Attributes
    ----------
    text : str
    graph : FieldGraph
        Its output ``"data"`` are the vectors that are inputs, its parameters the model's and the origin
        of time.
    widths : tuple of int
        How long each of them is.
    operations : int
        Elements computed by one evaluation.
    """

    text: str
    graph: FieldGraph
    widths: tuple[int, ...]
    operations: int

    def data(self, p: Array) -> Array:
        """The vectors for the parameters followed by the origin of time, one after the other."""
        values = self.graph.arrays("data", np.zeros(self.graph.n_states), p, 0.0)
        parts = [np.broadcast_to(v, (w,)) for v, w in zip(values, self.widths, strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0)


class _Writer:
    """Writes a lowered graph, every expression at the width it is used with."""

    def __init__(self, graph: FieldGraph) -> None:
        self._graph = graph
        self._op, self._args, self._index = graph.op.tolist(), graph.args.tolist(), graph.index.tolist()
        self._width = [_width(shape) for shape in graph.shapes]
        self._by_field = _below(graph, ao.FIELD)
        self._moving = np.logical_or(self._by_field, _below(graph, ops.TIME))
        needed = graph.reachable(graph.outputs["rhs"])
        operands = graph.args[needed]
        self._uses = np.bincount(operands[operands >= 0], minlength=len(graph)).tolist()
        self._pieces: dict[tuple[int, int], Piece] = {}
        self._lines: list[str] = []
        self._data: list[tuple[int, int]] = []
        self._ones: dict[int, str] = {}
        self._operations = 0

    def write(self, *, backward: bool) -> Written:
        """Write the right-hand side; backwards its sign is turned."""
        graph, n = self._graph, self._graph.n_states
        sign = "-" if backward else ""
        widths = [_width(shape) for shape in graph.fields]
        rows = [
            sign + self._part_of_list(root, w) for root, w in zip(graph.outputs["rhs"].tolist(), widths, strict=True)
        ]
        size = n + sum(width for _, width in self._data)
        head = [f"in_i {{ (0:{size}): a = 0.0 }}", f"u_i {{ {_slice('in', size - n, n, size)} }}"]
        offset = 0
        for k, (_, width) in enumerate(self._data):
            head.append(f"{_reference(f'd{k}', width)} {{ {_slice('in', offset, width, size)} }}")
            offset += width
        for k, width in enumerate(widths):
            head.append(f"{_reference(f'f{k}', width)} {{ {_slice('u', graph.offsets[k], width, n)} }}")
        text = "\n".join([*head, *self._lines, f"F_i {{ {', '.join(rows)} }}"]) + "\n"
        outputs = {"data": np.array([node for node, _ in self._data], dtype=np.int32)}
        kept = FieldGraph(
            graph.op,
            graph.args,
            graph.const,
            graph.index,
            graph.n_params,
            outputs,
            graph.fields,
            graph.attributes,
            graph.tables,
        )
        return Written(text, kept, tuple(width for _, width in self._data), self._operations)

    def _piece(self, node: int, width: int) -> Piece:
        """The expression of a node, of so many elements."""
        found = self._pieces.get((node, width))
        if found is None:
            found = self._pieces[node, width] = self._made(node, width)
        return found

    def _made(self, node: int, width: int) -> Piece:
        code, k = self._op[node], self._index[node]
        if code == ops.CONST:
            return number(float(self._graph.const[node]))
        if code == ops.TIME:
            return _atom("t")
        if not self._moving[node]:
            self._data.append((node, width))
            return _atom(_reference(f"d{len(self._data) - 1}", width))
        assert width == self._width[node] or not self._by_field[node]  # `compilable` has seen to that
        if code == ao.FIELD:
            return _atom(_reference(f"f{k}", width))
        operands = [a for a in self._args[node] if a >= 0]
        if code == ao.SLICE:
            _, start, length = self._graph.attributes[k]
            whole = self._width[operands[0]]
            return _atom(_slice(self._tensor(operands[0], whole), start, length, whole))
        if code == ao.JOIN:
            parts = [self._part_of_list(a, self._width[a]) for a in self._joined(node)]
            return self._defined(", ".join(parts), node, width)
        piece = join(code, [self._piece(a, width) for a in operands])
        self._operations += width
        if self._uses[node] > 1 or piece.depth > _DEPTH:
            return self._defined(self._filled(piece, width), node, width)
        return piece

    def _joined(self, node: int) -> list[int]:
        """What is joined, where joins are joined in turn."""
        parts: list[int] = []
        for a in self._args[node]:
            if a >= 0:
                again = self._op[a] == ao.JOIN and self._moving[a] and self._uses[a] == 1
                parts += self._joined(a) if again else [a]
        return parts

    def _defined(self, text: str, node: int, width: int) -> Piece:
        reference = _reference(f"v{node}w{width}", width)
        self._lines.append(f"{reference} {{ {text} }}")
        return _atom(reference)

    def _part_of_list(self, node: int, width: int) -> str:
        """All of a node, as an element of a list: a tensor, a slice, or a number."""
        piece = self._piece(node, width)
        if width == 1 and piece.precedence == PRECEDENCE_OF_ATOMS and piece.depth == 0:
            return piece.text
        if not _NAMED.fullmatch(piece.text):
            piece = self._pieces[node, width] = self._defined(self._filled(piece, width), node, width)
        return piece.text

    def _tensor(self, node: int, width: int) -> str:
        """The name of a tensor that holds a node, without its index."""
        text = self._part_of_list(node, width)
        if "[" in text or not text[0].isalpha() or text == "t":
            self._pieces[node, width] = self._defined(self._filled(self._piece(node, width), width), node, width)
            text = self._pieces[node, width].text
        return text.removesuffix("_i")

    def _filled(self, piece: Piece, width: int) -> str:
        """A text that has the width, even if what it says is the same everywhere."""
        if width == 1 or "_i" in piece.text:
            return piece.text
        if width not in self._ones:
            self._ones[width] = f"c{width}_i"
            self._lines.append(f"c{width}_i {{ (0:{width}): 1.0 }}")
        return f"{self._ones[width]} * {piece.within(PRECEDENCE_OF_ATOMS)}"


#: A tensor or a slice of one.
_NAMED: Final = re.compile(r"[a-z]\w*_i(\[\d+(:\d+)?\])?")


def _width(shape: tuple[int, ...]) -> int:
    return shape[0] if shape else 1


def _below(graph: FieldGraph, wanted: int) -> npt.NDArray[np.bool_]:
    """Which nodes have an operation among what they are computed from."""
    found = graph.op == wanted
    for node, row in enumerate(graph.args.tolist()):
        found[node] |= any(found[a] for a in row if a >= 0)
    return found


def _atom(text: str) -> Piece:
    return Piece(text, PRECEDENCE_OF_ATOMS, 0)


def _reference(name: str, width: int) -> str:
    return name if width == 1 else f"{name}_i"


def _slice(name: str, start: int, length: int, whole: int) -> str:
    if length == whole:
        return _reference(name, whole)
    return f"{name}_i[{start}]" if length == 1 else f"{name}_i[{start}:{start + length}]"


@dataclass
class Line(Prepared):
    """A model of fields on a line, in the forms that the methods of the engine need."""

    shared: Shared = field(default_factory=lambda: Shared())

    @cached_property
    def lowered(self) -> FieldGraph:
        """See `Prepared`; only its size is asked for."""
        assert isinstance(self.model.graph, FieldGraph)
        return self.model.graph

    @property
    def written(self) -> Written:
        """The text, written when first asked for."""
        with self.shared.lock:
            if self.shared.written is None:
                self.shared.written = write(self.lowered, backward=self.backward)
            return self.shared.written

    @cached_property
    def operations(self) -> int:
        """See `Prepared`."""
        return self.written.operations

    @cached_property
    def sparse(self) -> bool:
        """See `Prepared`: a band is sparse."""
        return self.lowered.n_states >= SPARSE_STATES

    @property
    def elimination(self) -> float:
        """See `Prepared`: a band does not fill in."""
        return 2.0e-7

    def inputs(self, p: Array, origin: float) -> Array:
        """See `Prepared`: the vectors that depend on them."""
        key = np.append(p, origin)
        if self._last is None or not np.array_equal(self._last[0], key):
            self._last = key, self.written.data(key)
        return self._last[1]

    _last: tuple[Array, Array] | None = None

    def jacobian(self, u: Array, p: Array, t: float) -> tuple[Array, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """See `Prepared`."""
        from pysciml.graph.field_jacobian import jacobian

        found = jacobian(self.lowered, u, p, t).tocoo()
        return found.data, found.row, found.col

    @property
    def compiled(self) -> Compiled:
        """See `Prepared`."""
        shared = self.shared
        with shared.lock:
            if shared.compiled is None or shared.compiled.broken:
                shared.compiled = self._compile()
            return shared.compiled

    def _compile(self) -> Compiled:
        import pydiffsol

        start = time.perf_counter()
        written = self.written
        ode = pydiffsol.Ode(
            written.text,
            matrix_type=pydiffsol.faer_sparse if self.sparse else pydiffsol.nalgebra_dense,
            linear_solver=pydiffsol.lu,
        )
        return Compiled(ode, self.lowered.n_states, sum(written.widths), time.perf_counter() - start)


@dataclass
class Shared:
    """What all solves of a model share."""

    written: Written | None = None
    compiled: Compiled | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)


def pays(model: Model, *, backward: bool) -> bool:
    """Whether compiling pays where nobody asked for it; `compilable` it must be."""
    return prepare(model, backward=backward).written.text.count("\n") <= MOST_STATEMENTS


_cache: OrderedDict[tuple[str, bool], Shared] = OrderedDict()
_cache_lock = threading.Lock()


def write(graph: FieldGraph, *, backward: bool) -> Written:
    """Write a graph that is `compilable`."""
    lowering = _FieldLowering(graph, backward=backward)
    nodes = [lowering.node(int(node), -1) for node in graph.outputs["rhs"]]
    return _Writer(lowering.arrays.build({"rhs": nodes})).write(backward=backward)


def prepare(model: Model, *, backward: bool) -> Line:
    """A model to be solved once: what is compiled is looked up, lessons of earlier solves are not.

    So a solve depends on nothing that was solved before.
    """
    key = model.hash, backward
    with _cache_lock:
        shared = _cache.setdefault(key, Shared())
        _cache.move_to_end(key)
        if len(_cache) > _KEPT:
            _cache.popitem(last=False)
    return Line(model, backward, shared=shared)
