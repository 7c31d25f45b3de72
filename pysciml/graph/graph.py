"""The expression graph: what a model is, for every engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from pysciml.graph import ops
from pysciml.graph.interpret import Array, History, Program
from pysciml.graph.networks import Call, Network

Ints = npt.NDArray[np.int32]
Wrt = Literal["states", "params"]


class Graph:
    """A hash-consed expression DAG in topological order, as flat NumPy arrays.

    Attributes
    ----------
    op : uint8 array, shape (n,)
        Operation codes (`pysciml.graph.ops`).
    args : int32 array, shape (n, 3)
        Operand nodes, -1 where an operation takes fewer; always smaller than the node's own number.
    const : float64 array, shape (n,)
        The value of ``CONST`` nodes, 0 elsewhere.
    index : int32 array, shape (n,)
        Which state or parameter a ``STATE``, ``PARAM`` or ``HISTORY`` node is, which of ``calls`` a
        ``NETWORK`` node, -1 elsewhere.
    n_states, n_params : int
        The weights of networks count as parameters: they are the last ones.
    outputs : dict of str to int32 array
        The named results, as node numbers: ``"rhs"``, ``"observed"``, ...
    networks : tuple of Network
    calls : tuple of Call
        What the ``NETWORK`` nodes are.

    Graphs are immutable and compare by `hash`. They come from a
    `GraphBuilder`, or from `Graph.from_arrays`, which checks arrays of unknown origin.
    """

    def __init__(
        self,
        op: npt.NDArray[np.uint8],
        args: Ints,
        const: Array,
        index: Ints,
        n_states: int,
        n_params: int,
        outputs: Mapping[str, Ints],
        networks: Sequence[Network] = (),
        calls: Sequence[Call] = (),
    ) -> None:
        self.networks = tuple(networks)
        self.calls = tuple(calls)
        self.op = op
        self.args = args
        self.const = const
        self.index = index
        self.n_states = n_states
        self.n_params = n_params
        self.outputs: dict[str, Ints] = dict(outputs)
        for array in (op, args, const, index, *self.outputs.values()):
            array.setflags(write=False)
        self._programs: dict[str, Program] = {}
        self._used_ops: dict[tuple[str, ...], frozenset[int]] = {}

    @classmethod
    def from_arrays(
        cls,
        op: npt.ArrayLike,
        args: npt.ArrayLike,
        const: npt.ArrayLike,
        index: npt.ArrayLike,
        n_states: int,
        n_params: int,
        outputs: Mapping[str, npt.ArrayLike],
        networks: Sequence[Network] = (),
        calls: Sequence[Call] = (),
    ) -> Graph:
        """Build from arrays that are not trusted, such as those of a file.

        Raises
        ------
        ValueError
            If they do not describe a graph: the message says which array and why.
        """
        codes = _integers("op", op, 1)
        operands = _integers("args", args, 2)
        indices = _integers("index", index, 1)
        constants = np.asarray(const, dtype=np.float64)
        n = len(codes)
        if operands.shape != (n, 3) or indices.shape != (n,) or constants.shape != (n,):
            raise ValueError(f"op has {n} nodes, and args, const and index do not match it")
        if not np.isfinite(constants).all():
            raise ValueError("const has values that are not finite")
        if np.any(constants[codes != ops.CONST]):
            raise ValueError("const has values at nodes that are no constants")
        allowed = set(ops.OPS) - {ops.FREE}
        for i, (code, row, k) in enumerate(zip(codes.tolist(), operands.tolist(), indices.tolist(), strict=True)):
            if code not in allowed:
                raise ValueError(f"node {i} has the unknown operation code {code}")
            arity = ops.OPS[code].arity
            if any(not 0 <= a < i for a in row[:arity]) or any(a != -1 for a in row[arity:]):
                raise ValueError(f"node {i} ({ops.OPS[code].name}) has bad operands {row}")
            limit = {ops.PARAM: n_params, ops.NETWORK: len(calls)}.get(code, n_states)
            if code in (ops.STATE, ops.PARAM, ops.HISTORY, ops.NETWORK):
                if not 0 <= k < limit:
                    raise ValueError(f"node {i} ({ops.OPS[code].name}) has a bad index {k}")
            elif k != -1:
                raise ValueError(f"node {i} ({ops.OPS[code].name}) takes no index")
        named: dict[str, Ints] = {}
        for name, nodes in outputs.items():
            array = _integers(f"output {name!r}", nodes, 1)
            if array.size and (array.min() < 0 or array.max() >= n):
                raise ValueError(f"output {name!r} names nodes that do not exist")
            named[name] = array.astype(np.int32)
        graph = cls(
            codes.astype(np.uint8),
            operands.astype(np.int32),
            constants,
            indices.astype(np.int32),
            n_states,
            n_params,
            named,
            networks,
            calls,
        )
        graph._check_networks()
        return graph

    def _check_networks(self) -> None:
        if sum(network.size for network in self.networks) > self.n_params:
            raise ValueError("the networks have more weights than there are parameters")
        for call in self.calls:
            network = self.networks[call.network] if 0 <= call.network < len(self.networks) else None
            if network is None or not 0 <= call.output < network.outputs:
                raise ValueError(f"calls has {tuple(call)}, which is no output of a network")
            if any(not 0 <= i < network.inputs for i in call.wrt) or list(call.wrt) != sorted(call.wrt):
                raise ValueError(f"calls has {tuple(call)}, which is no derivative of a network")
            if call.order < 0 or (call.order and call.wrt):
                raise ValueError(f"calls has {tuple(call)}, which is no Taylor coefficient of a network")
        joins = self.op == ops.JOIN
        chained = np.zeros(len(self), dtype=np.bool_)  # where a vector may be an operand
        chained[(self.op == ops.NETWORK) | joins] = True
        for node in np.flatnonzero(~chained).tolist():
            if any(a >= 0 and joins[a] for a in self.args[node].tolist()):
                raise ValueError(f"node {node} takes a vector, which only networks do")
        if any(joins[nodes].any() for nodes in self.outputs.values()):
            raise ValueError("an output is a vector")
        for node in np.flatnonzero(self.op == ops.NETWORK).tolist():
            call = self.calls[int(self.index[node])]
            wanted = self.networks[call.network].inputs * (call.order + 1)
            if len(self.inputs_of(node)) != wanted:
                raise ValueError(f"node {node} (network) does not have {wanted} inputs")

    @cached_property
    def blocks(self) -> tuple[slice, ...]:
        """Where the weights of each network are in the parameter vector."""
        start = self.n_params - sum(network.size for network in self.networks)
        found: list[slice] = []
        for network in self.networks:
            found.append(slice(start, start + network.size))
            start += network.size
        return tuple(found)

    def inputs_of(self, node: int) -> list[int]:
        """The inputs of a ``NETWORK`` node: its operand, with all ``JOIN`` nodes taken apart."""
        found: list[int] = []
        stack = [int(self.args[node, 0])]
        while stack:
            current = stack.pop()
            if self.op[current] == ops.JOIN:
                stack += [int(self.args[current, 1]), int(self.args[current, 0])]
            else:
                found.append(current)
        return found

    def __len__(self) -> int:
        return len(self.op)

    def __repr__(self) -> str:
        outputs = ", ".join(f"{k}[{len(v)}]" for k, v in self.outputs.items())
        return f"Graph({len(self)} nodes, {self.n_states} states, {self.n_params} parameters; {outputs})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.hash == other.hash

    def __hash__(self) -> int:
        return int(self.hash[:15], 16)

    @cached_property
    def hash(self) -> str:
        """Content hash (hex), the same in every process and on every machine."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"pysciml-graph-1 {self.n_states} {self.n_params}".encode())
        for array, kind in (
            (self.op, "<u1"),
            (self.args, "<i4"),
            (self.const, "<f8"),
            (self.index, "<i4"),
        ):
            digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        for name in sorted(self.outputs):
            digest.update(f" {name} {len(self.outputs[name])} ".encode())
            digest.update(np.ascontiguousarray(self.outputs[name], dtype="<i4").tobytes())
        if self.networks:
            calls = [tuple(c) if c.order else tuple(c)[:3] for c in self.calls]
            digest.update(repr(([n.content for n in self.networks], calls)).encode())
        return digest.hexdigest()

    def reachable(self, nodes: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Mark every node that the given nodes depend on, themselves included; shape (n,)."""
        needed = np.zeros(len(self), dtype=np.bool_)
        stack = np.unique(np.asarray(nodes, dtype=np.int64))
        while stack.size:
            needed[stack] = True
            operands = self.args[stack].ravel()
            operands = np.unique(operands[operands >= 0])
            stack = operands[~needed[operands]]
        return needed

    def used_ops(self, names: Iterable[str] | None = None) -> frozenset[int]:
        """The operation codes that the named outputs (all by default) need."""
        key = tuple(self.outputs if names is None else names)
        if key not in self._used_ops:  # every solve asks
            outputs = [self.outputs[name] for name in key]
            needed = self.reachable(np.concatenate(outputs)) if outputs else np.zeros(len(self), dtype=np.bool_)
            self._used_ops[key] = frozenset(np.unique(self.op[needed]).tolist())
        return self._used_ops[key]

    def evaluate(
        self,
        name: str,
        u: npt.ArrayLike,
        p: npt.ArrayLike,
        t: npt.ArrayLike,
        history: History | None = None,
    ) -> Array:
        """Evaluate a named output in NumPy.

        Parameters
        ----------
        name : str
            Which of ``outputs``.
        u : array, shape (n_states, ...)
        p : array, shape (n_params, ...)
        t : scalar or array
            ``u``, ``p`` and ``t`` broadcast over their trailing dimensions.
        history : callable, optional
            ``history(state, times)``, needed where the output has delays.

        Returns
        -------
        array, shape (len(outputs[name]), ...)
        """
        program = self._programs.get(name)
        if program is None:
            program = self._programs[name] = Program(self, self.outputs[name])
        return program(
            np.asarray(u, dtype=np.float64),
            np.asarray(p, dtype=np.float64),
            np.asarray(t, dtype=np.float64),
            history,
        )

    def jacobian(self, name: str = "rhs", wrt: Wrt = "states") -> tuple[Graph, Ints, Ints]:
        """Differentiate a named output exactly, on the graph.

        Returns
        -------
        graph : Graph
            Its output ``"jacobian"`` holds the entries that are not structurally zero, row by row.
        rows, cols : int32 arrays, shape (nnz,)
        """
        from pysciml.graph.derivative import jacobian

        return jacobian(self, name, wrt)

    def sparsity(self, name: str = "rhs", wrt: Wrt = "states") -> tuple[Ints, Ints]:
        """Which entries of the Jacobian can be non-zero: ``rows, cols``, ordered by row."""
        from pysciml.graph.derivative import sparsity

        return sparsity(self, name, wrt)


def _integers(what: str, values: npt.ArrayLike, ndim: int) -> npt.NDArray[np.int64]:
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{what} is not a {ndim}-dimensional array: {error}") from error
    if array.size == 0:
        return np.zeros((0, 3) if ndim == 2 else (0,), dtype=np.int64)
    if array.dtype.kind not in "iu" or array.ndim != ndim:
        raise ValueError(f"{what} is not a {ndim}-dimensional array of integers")
    if array.min() < -1 or array.max() >= 2**31:
        raise ValueError(f"{what} has values out of range")
    return array.astype(np.int64)
