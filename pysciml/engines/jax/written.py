"""A JAX function written out as a graph: each entry of its arrays is a node.

What moves entries about and computes nothing (reshape, slice, concatenate, ...) JAX does itself, to numbers of nodes.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from pysciml.errors import UnsupportedError
from pysciml.graph import Graph, GraphBuilder, ops
from pysciml.graph.networks import ACTIVATIONS

Nodes = npt.NDArray[np.int32]
#: An operation of JAX on nodes, one for each operand.
Rule = Callable[..., int]

#: Functions that would take more operations are not written out.
MOST_OPERATIONS: Final = 200_000


class Written(NamedTuple):
    """An array of nodes; arrays that do not depend on the function's arguments stay arrays of NumPy.

    Attributes
    ----------
    largest : bool
        Whether it is the largest entries of others, of which a softmax is independent.
    """

    nodes: Nodes
    largest: bool = False


def write_out(function: Callable[..., Any], n_weights: int, n_inputs: int) -> Graph:
    """The function ``function(weights, x)`` of two vectors as a graph with the output ``out``.

    Its parameters are the weights, its states the inputs. To be called with JAX in double precision.

    Raises
    ------
    UnsupportedError
        For an operation that a graph has not, by its name, and for functions of more than `MOST_OPERATIONS`.
    """
    traced = jax.make_jaxpr(function)(jnp.zeros(n_weights), jnp.zeros(n_inputs))
    b = GraphBuilder(n_inputs, n_weights)
    weights = np.array([b.param(k) for k in range(n_weights)], dtype=np.int32)
    inputs = np.array([b.state(k) for k in range(n_inputs)], dtype=np.int32)
    (out,) = _run(b, traced.jaxpr, traced.consts, [Written(weights), Written(inputs)])
    return b.build({"out": _nodes(b, out).ravel().tolist()})


def _run(b: GraphBuilder, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """The results of a traced function, arrays of NumPy or `Written`."""
    known: dict[Any, Any] = {}
    known.update(zip(jaxpr.constvars, map(np.asarray, constants), strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return np.asarray(atom.val) if hasattr(atom, "val") else known[atom]

    for equation in jaxpr.eqns:
        found = _apply(b, equation, [read(atom) for atom in equation.invars])
        if len(b) > MOST_OPERATIONS:
            raise UnsupportedError(f"more than {MOST_OPERATIONS:,} operations")
        known.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(b: GraphBuilder, equation: Any, arguments: list[Any]) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if not any(isinstance(argument, Written) for argument in arguments):
        return _bind(equation, arguments)
    if name == "scan":
        return _loop(b, params, arguments)
    inner = _inner(name, params)
    if inner is not None:
        return _run(b, *inner, arguments)
    if name in _MOVES:
        fixed = _INDICES.get(name)
        moved = [
            argument if fixed is not None and k >= fixed and not isinstance(argument, Written) else _nodes(b, argument)
            for k, argument in enumerate(arguments)
        ]
        if fixed is not None and any(isinstance(argument, Written) for argument in arguments[fixed:]):
            raise UnsupportedError(f"the operation '{name}' with places that depend on weights or inputs")
        largest = all(isinstance(argument, Written) and argument.largest for argument in arguments[:fixed])
        return [Written(found, largest) for found in _bind(equation, moved)]
    if name == "stop_gradient" and arguments[0].largest:
        return arguments
    if name == "select_n" and not isinstance(arguments[0], Written):
        return [_chosen(b, arguments[0], arguments[1:])]
    if name == "dot_general":
        return [_product(b, params["dimension_numbers"], *arguments)]
    if name in _REDUCTIONS:
        return [Written(_reduced(b, _REDUCTIONS[name], params["axes"], arguments[0]), name == "reduce_max")]
    if name == "cumsum":
        return [_sums(b, params, arguments[0])]
    if name in ("convert_element_type", "copy", "copy_p"):
        return [_converted(params.get("new_dtype"), arguments[0])]
    if name in ("not", "and", "or") and equation.outvars[0].aval.dtype != np.bool_:
        raise UnsupportedError(f"the operation '{name}' of whole numbers")
    rule = _POINTWISE.get(name)
    if rule is None:
        raise UnsupportedError(f"the operation '{name}'")
    shape = equation.outvars[0].aval.shape
    columns = [
        np.broadcast_to(_nodes(b, argument, limits=name in _LIMITED), shape).ravel().tolist() for argument in arguments
    ]
    entries = [rule(b, params, *row) for row in zip(*columns, strict=True)]
    cases = [argument for argument in arguments[name == "select_n" :] if isinstance(argument, Written)]
    largest = name in ("max", "select_n") and len(cases) == 1 and cases[0].largest
    return [Written(np.array(entries, dtype=np.int32).reshape(shape), largest)]


def _inner(name: str, params: dict[str, Any]) -> tuple[Any, Sequence[Any]] | None:
    """The function that an operation calls, where that is all it does."""
    if name in ("while", "cond"):
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in params:
            called = params[key]
            return (called.jaxpr, called.consts) if hasattr(called, "consts") else (called, ())
    return None


def _loop(b: GraphBuilder, params: dict[str, Any], arguments: list[Any]) -> list[Any]:
    """A scan, pass by pass."""
    fixed, carried = params["num_consts"], params["num_carry"]
    constants, state, rows = arguments[:fixed], arguments[fixed : fixed + carried], arguments[fixed + carried :]
    body = params["jaxpr"]
    outputs: list[list[Any]] = []
    order = range(params["length"])
    for k in reversed(order) if params["reverse"] else order:
        row = [Written(value.nodes[k]) if isinstance(value, Written) else value[k] for value in rows]
        found = _run(b, body.jaxpr, body.consts, [*constants, *state, *row])
        state = found[:carried]
        outputs.append([_nodes(b, value) for value in found[carried:]])
    if params["reverse"]:
        outputs.reverse()
    return [*state, *(Written(np.stack(column)) for column in zip(*outputs, strict=True))]


def _bind(equation: Any, arguments: Sequence[Any]) -> list[Any]:
    """Let JAX do it, with numbers."""
    found = equation.primitive.bind(*map(jnp.asarray, arguments), **equation.params)
    return [np.asarray(value) for value in (found if equation.primitive.multiple_results else [found])]


#: An infinite number: as the limit of a maximum or minimum it says nothing.
_NO_LIMIT: Final = -1


def _nodes(b: GraphBuilder, value: Any, *, limits: bool = False) -> Nodes:
    """Numbers as constants."""
    if isinstance(value, Written):
        return value.nodes
    numbers = np.asarray(value, dtype=np.float64)
    if not limits and not np.isfinite(numbers).all():
        raise UnsupportedError("a number that is not finite")
    flat = [b.constant(x) if math.isfinite(x) else _NO_LIMIT for x in numbers.ravel().tolist()]
    return np.array(flat, dtype=np.int32).reshape(numbers.shape)


def _sums(b: GraphBuilder, params: dict[str, Any], value: Any) -> Written:
    """Sums up to each entry along an axis."""
    nodes = np.moveaxis(_nodes(b, value), params["axis"], -1)
    nodes = nodes[..., ::-1] if params["reverse"] else nodes
    rows = [list(itertools.accumulate(row, b.add)) for row in nodes.reshape(-1, nodes.shape[-1]).tolist()]
    sums = np.array(rows, dtype=np.int32).reshape(nodes.shape)
    return Written(np.moveaxis(sums[..., ::-1] if params["reverse"] else sums, -1, params["axis"]))


def _chosen(b: GraphBuilder, which: Any, cases: Sequence[Any]) -> Written:
    """Of several arrays, entry by entry, which it is known to be: numbers in the others may be infinite."""
    nodes = np.choose(np.asarray(which, dtype=np.int64), [_nodes(b, case, limits=True) for case in cases])
    if (nodes == _NO_LIMIT).any():
        raise UnsupportedError("a number that is not finite")
    return Written(nodes)


def _converted(dtype: Any, value: Any) -> Any:
    assert isinstance(value, Written)
    if dtype is not None and dtype not in (np.float64, np.bool_):
        raise UnsupportedError(f"numbers rounded to {np.dtype(dtype).name}")
    return value


def _product(b: GraphBuilder, numbers: Any, left: Any, right: Any) -> Written:
    """Sums of products over the contracted dimensions; those left are of the batch, of ``left``, of ``right``."""
    ((left_sum, right_sum), (left_batch, right_batch)) = numbers
    x, y = _nodes(b, left), _nodes(b, right)
    left_free = [k for k in range(x.ndim) if k not in (*left_sum, *left_batch)]
    right_free = [k for k in range(y.ndim) if k not in (*right_sum, *right_batch)]
    batch = [x.shape[k] for k in left_batch]
    shape = (*batch, *(x.shape[k] for k in left_free), *(y.shape[k] for k in right_free))
    depth, width = math.prod(x.shape[k] for k in left_sum), math.prod(batch)
    rows = x.transpose(*left_batch, *left_free, *left_sum).reshape(width, -1, depth)
    columns = y.transpose(*right_batch, *right_free, *right_sum).reshape(width, -1, depth)
    entries = [
        b.sum([b.mul(p, q) for p, q in zip(row, column, strict=True)])
        for some_rows, some_columns in zip(rows.tolist(), columns.tolist(), strict=True)
        for row in some_rows
        for column in some_columns
    ]
    return Written(np.array(entries, dtype=np.int32).reshape(shape))


def _reduced(b: GraphBuilder, rule: Callable[[GraphBuilder, list[int]], int], axes: Sequence[int], value: Any) -> Nodes:
    nodes = _nodes(b, value)
    kept = [k for k in range(nodes.ndim) if k not in axes]
    rows = nodes.transpose(*kept, *axes).reshape(math.prod(nodes.shape[k] for k in kept), -1)
    entries = [rule(b, row) for row in rows.tolist()]
    return np.array(entries, dtype=np.int32).reshape([nodes.shape[k] for k in kept])


def _in_turn(code: int) -> Callable[[GraphBuilder, list[int]], int]:
    def rule(b: GraphBuilder, row: list[int]) -> int:
        total = row[0]
        for node in row[1:]:
            total = b.call(code, total, node)
        return total

    return rule


def _one(code: int) -> Rule:
    return lambda b, params, *nodes: b.call(code, *nodes)


def _limit(code: int) -> Rule:
    def rule(b: GraphBuilder, params: Any, x: int, y: int) -> int:
        if _NO_LIMIT in (x, y):
            return max(x, y)
        return b.call(code, x, y)

    return rule


def _clamp(b: GraphBuilder, params: Any, low: int, x: int, high: int) -> int:
    above = _limit(ops.MAX)(b, params, x, low)
    return _limit(ops.MIN)(b, params, above, high)


def _cube_root(b: GraphBuilder, params: Any, x: int) -> int:
    size = b.power(b.call(ops.ABS, x), b.constant(1 / 3))
    return b.mul(b.call(ops.SIGN, x), size)


def _select(b: GraphBuilder, params: Any, which: int, *cases: int) -> int:
    if len(cases) != 2:
        raise UnsupportedError("the operation 'select_n' of more than two cases")
    return b.call(ops.SELECT, which, cases[1], cases[0])


_MOVES: Final = frozenset(
    {
        "broadcast_in_dim",
        "concatenate",
        "dynamic_slice",
        "dynamic_update_slice",
        "expand_dims",
        "gather",
        "pad",
        "reshape",
        "rev",
        "slice",
        "split",
        "squeeze",
        "stack",
        "tile",
        "transpose",
        "unstack",
    }
)
#: From which operand on those of a move are places, not entries.
_INDICES: Final = {"dynamic_slice": 1, "dynamic_update_slice": 2, "gather": 1}

_REDUCTIONS: Final[dict[str, Callable[[GraphBuilder, list[int]], int]]] = {
    "reduce_sum": lambda b, row: b.sum(row),
    "reduce_prod": lambda b, row: b.product(row),
    "reduce_max": _in_turn(ops.MAX),
    "reduce_min": _in_turn(ops.MIN),
    "reduce_and": _in_turn(ops.AND),
    "reduce_or": _in_turn(ops.OR),
}

#: Operations that JAX has by the same names.
_SAME: Final = (
    frozenset(ops.OPS)
    - ops.LEAVES
    - ops.VECTORS
    - {ops.HISTORY, ops.HEAVISIDE, ops.MOD, ops.GAMMA, ops.LOGGAMMA, ops.POLYGAMMA, ops.SELECT}
    - {ops.BESSELJ, ops.BESSELY, ops.BESSELI, ops.BESSELK}
)
_LIMITED: Final = frozenset({"max", "min", "clamp"})

_POINTWISE: Final[dict[str, Rule]] = {
    **{name: _one(op.code) for name, op in ops.BY_NAME.items() if op.code in _SAME},
    "max": _limit(ops.MAX),
    "min": _limit(ops.MIN),
    "clamp": _clamp,
    "select_n": _select,
    "is_finite": lambda b, params, x: b.call(ops.LE, b.call(ops.ABS, x), b.constant(sys.float_info.max)),
    "square": lambda b, params, x: b.mul(x, x),
    "integer_pow": lambda b, params, x: b.power(x, b.constant(params["y"])),
    "rsqrt": lambda b, params, x: b.div(b.one, b.call(ops.SQRT, x)),
    "cbrt": _cube_root,
    "exp2": lambda b, params, x: b.call(ops.EXP, b.mul(b.constant(math.log(2.0)), x)),
    "expm1": lambda b, params, x: b.sub(b.call(ops.EXP, x), b.one),
    "log1p": lambda b, params, x: b.call(ops.LOG, b.add(b.one, x)),
    "logistic": lambda b, params, x: ACTIVATIONS["sigmoid"][1](b, x),
    "lgamma": lambda b, params, x: b.call(ops.LOGGAMMA, x),
    "digamma": lambda b, params, x: b.call(ops.POLYGAMMA, b.zero, x),
}
