"""The right-hand side of fields in two parts: what is affine with fixed coefficients, and the rest."""

from __future__ import annotations

import numpy as np
import pytest

from pysciml.graph.field_split import split
from tests.pde.test_kernels import SYSTEMS


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_the_parts_make_the_whole_and_one_is_affine(name: str) -> None:
    graph = SYSTEMS[name]().model.graph
    parts = split(graph)
    rng = np.random.default_rng(0)
    u, v = rng.uniform(0.5, 2, (2, graph.n_states))
    p = rng.uniform(0.5, 2, graph.n_params)

    def part(which: str, at: np.ndarray, t: float = 0.3) -> np.ndarray:
        return parts.evaluate(which, at, p, t)

    whole = graph.evaluate("rhs", u, p, 0.3)
    scale = np.abs(part("implicit", u)).max() + np.abs(whole).max()
    np.testing.assert_allclose(part("implicit", u) + part("explicit", u), whole, atol=1e-12 * scale)
    step = part("implicit", u + v) - part("implicit", u)
    np.testing.assert_allclose(part("implicit", 2 * v) - part("implicit", v), step, atol=1e-11 * scale)
    later = part("implicit", u + v, 1.7) - part("implicit", u, 1.7)  # its linear part is the same at all times
    np.testing.assert_allclose(later, step, atol=1e-11 * scale)
