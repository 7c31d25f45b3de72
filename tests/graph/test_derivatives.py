"""Derivatives on the graph that are not known are refused; the known ones are tested with their operations."""

from __future__ import annotations

import pytest

from pysciml import UnsupportedError
from pysciml.graph import GraphBuilder, ops


@pytest.mark.parametrize("code", [ops.BESSELJ, ops.BESSELY, ops.BESSELI, ops.BESSELK, ops.POLYGAMMA])
def test_a_derivative_by_the_order_of_a_function_is_refused_not_zero(code):
    b = GraphBuilder(1, 1)
    graph = b.build({"rhs": [b.call(code, b.param(0), b.state(0))]})
    with pytest.raises(UnsupportedError, match=f"{ops.OPS[code].name} by its order"):
        graph.jacobian("rhs", "params")
    _, rows, _ = graph.jacobian("rhs", "states")
    assert rows.tolist() == [0]
