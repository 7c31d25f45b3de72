"""From a lowered graph to DiffSL text.

The text is built from the graph's numbers alone, with generated names: ``p`` parameters, ``a``
initial values, ``x`` states, ``v`` intermediates, ``g`` and ``s`` gathers. Nothing a user typed
reaches the compiler.

Inputs of the compiled model are the parameters followed by the initial values, so that neither
ever makes it compile again.

Small models are written equation by equation. The time LLVM takes grows with the square of the
number of statements, so larger ones are written as vectors (`pysciml.engines.native.vectorize`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pysciml.engines.native.vectorize import state_order, vector_body
from pysciml.engines.native.writing import FUNCTIONS, PRECEDENCE_OF_ATOMS, Piece, join, number
from pysciml.graph import Graph, ops

#: Up to this many operations the model is written equation by equation, and up to
#: `IRREGULAR_OPERATIONS` too if few of its equations repeat: irregular models then compile and run
#: two to three times faster, regular ones compile slower (measured by benchmarks/native_rules.py).
SCALAR_OPERATIONS: Final = 250
IRREGULAR_OPERATIONS: Final = 1000
#: A model is regular if it takes at most one statement for this many operations.
_REGULAR: Final = 16

#: Expressions are cut into intermediates at this depth: the compiler's parser recurses, and 4,000
#: nested parentheses overflow its stack.
_DEPTH: Final = 30


class Emitted(NamedTuple):
    """A written model.

    Attributes
    ----------
    text : str
    order : int array, shape (n_states,), or None
        State ``k`` of the text is state ``order[k]`` of the graph; None where they agree.
    """

    text: str
    order: npt.NDArray[np.int64] | None = None


def emit(
    lowered: Graph,
    differential: npt.NDArray[np.bool_],
    *,
    backward: bool = False,
    vectors: bool | None = None,
) -> Emitted:
    """Write a model.

    Parameters
    ----------
    lowered : Graph
        In the operations of `lower.EMITTED`, with the output ``"rhs"``.
    differential : bool array, shape (n_states,)
    backward : bool
        Negate the rows that are derivatives (the graph's time is already negated).
    vectors : bool, optional
        Write vectors rather than scalars; decided by size when left out.
    """
    roots: list[int] = lowered.outputs["rhs"].tolist()
    operations = count_operations(lowered)
    undecided = vectors is None and operations <= IRREGULAR_OPERATIONS
    if vectors is None:
        vectors = lowered.n_states > 1 and operations > SCALAR_OPERATIONS
    if not vectors:
        signs = np.where(differential & backward, -1, 1)
        return Emitted(_scalar_body(lowered, roots, signs, differential))
    order = np.array(state_order(lowered, roots))
    where = np.argsort(order)
    index = lowered.index.copy()
    states = lowered.op == ops.STATE
    index[states] = where[index[states]]
    moved = Graph(lowered.op, lowered.args, lowered.const, index, lowered.n_states, lowered.n_params, {})
    ordered = differential[order]
    signs = np.where(ordered & backward, -1, 1)
    text = vector_body(moved, [roots[k] for k in order], signs, ordered)
    if undecided and text.count("{") * _REGULAR > operations:
        return emit(lowered, differential, backward=backward, vectors=False)
    same = bool(np.array_equal(order, np.arange(order.size)))
    return Emitted(text, None if same else order)


def count_operations(graph: Graph) -> int:
    """How many nodes of a graph compute something."""
    return int(np.count_nonzero(~np.isin(graph.op, list(ops.LEAVES))))


def _scalar_body(
    graph: Graph,
    roots: Sequence[int],
    signs: np.ndarray,
    differential: np.ndarray,
) -> str:
    n, m = graph.n_states, graph.n_params
    inputs = [f"p{k} = 0.0" for k in range(m)] + [f"a{k} = 0.0" for k in range(n)]
    lines = [
        "in_i { " + ", ".join(inputs) + " }",
        "u_i { " + ", ".join(f"x{k} = a{k}" for k in range(n)) + " }",
    ]
    if not differential.all():
        lines.append("dudt_i { " + ", ".join(f"d{k} = 0.0" for k in range(n)) + " }")
        rows = [f"d{k}" if differential[k] else "0.0" for k in range(n)]
        lines.append("M_i { " + ", ".join(rows) + " }")
    pieces = _Scalars(graph, roots)
    body = pieces.write()
    lines += body
    right = [
        piece if sign > 0 else f"-({piece})"
        for piece, sign in zip((pieces.use(r).text for r in roots), signs, strict=True)
    ]
    lines.append("F_i { " + ", ".join(right) + " }")
    return "\n".join(lines) + "\n"


class _Scalars:
    """Expressions, with one statement for every subexpression that is used more than once."""

    def __init__(self, graph: Graph, roots: Sequence[int]) -> None:
        self._graph = graph
        self._needed = graph.reachable(roots)
        uses = np.zeros(len(graph), dtype=np.int64)
        np.add.at(uses, graph.args[self._needed][graph.args[self._needed] >= 0], 1)
        self._uses = uses
        self._pieces: dict[int, Piece] = {}
        self._lines: list[str] = []

    def use(self, node: int) -> Piece:
        return self._pieces[node]

    def write(self) -> list[str]:
        """Write all statements; afterwards `use` gives every node's expression."""
        graph = self._graph
        for node in np.flatnonzero(self._needed).tolist():
            code = int(graph.op[node])
            if code == ops.CONST:
                piece = number(float(graph.const[node]))
            elif code == ops.TIME:
                piece = Piece("t", PRECEDENCE_OF_ATOMS, 0)
            elif code in (ops.STATE, ops.PARAM):
                letter = "x" if code == ops.STATE else "p"
                piece = Piece(f"{letter}{int(graph.index[node])}", PRECEDENCE_OF_ATOMS, 0)
            else:
                operands = graph.args[node, : ops.OPS[code].arity].tolist()
                piece = join(code, [self._pieces[a] for a in operands])
                shared = self._uses[node] > 1 and code in FUNCTIONS | _ARITHMETIC
                if shared or piece.depth > _DEPTH:
                    self._lines.append(f"v{node} {{ {piece.text} }}")
                    piece = Piece(f"v{node}", PRECEDENCE_OF_ATOMS, 0)
            self._pieces[node] = piece
        return self._lines


_ARITHMETIC: Final = frozenset({ops.ADD, ops.SUB, ops.MUL, ops.DIV, ops.NEG})
