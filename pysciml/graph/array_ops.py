"""Operations on whole fields: the second part of the op table.

The elementwise operations of `pysciml.graph.ops` broadcast over arrays as NumPy's do. These come on
top of them in a `FieldGraph`. What they need besides operands (an axis, an offset) is a tuple of
integers, ``FieldGraph.attributes[index]``. Codes are stable, as those of `ops` are.
"""

from __future__ import annotations

from typing import Final

from pysciml.graph import ops
from pysciml.graph.ops import Op

ARRAY_OPS: Final[dict[int, Op]] = {}


def _op(code: int, name: str, arity: int) -> int:
    ARRAY_OPS[code] = Op(code, name, arity)
    return code


#: The values of field ``index`` on its grid.
FIELD: Final = _op(200, "field", 0)
#: The constant array ``index``, such as coordinates.
TABLE: Final = _op(201, "table", 0)

#: ``(axis, start, length)``: a part of an axis.
SLICE: Final = _op(210, "slice", 1)
#: ``(axis,)``: one after the other along an axis; with `SLICE` it makes ghost layers and shifts.
JOIN: Final = _op(211, "join", 2)
#: ``(axis,)``: the sum along an axis, which keeps length one.
TOTAL: Final = _op(212, "total", 1)
#: ``(axis,)``: the largest value along an axis, which keeps length one.
LARGEST: Final = _op(213, "largest", 1)
#: ``(axis, table)``: a constant matrix times every line along an axis.
APPLY: Final = _op(214, "apply", 1)
#: ``(axis, order)``: the derivative of the trigonometric interpolant, for a period of 2 pi.
FOURIER: Final = _op(215, "fourier", 1)

#: Operations whose ``index`` is the number of an attribute.
WITH_ATTRIBUTES: Final = frozenset({SLICE, JOIN, TOTAL, LARGEST, APPLY, FOURIER})
#: Operations that are linear in their operands.
LINEAR: Final = frozenset({SLICE, JOIN, TOTAL, APPLY, FOURIER})


def describe(code: int) -> Op:
    """The row of an operation of either table."""
    return ARRAY_OPS[code] if code in ARRAY_OPS else ops.OPS[code]
