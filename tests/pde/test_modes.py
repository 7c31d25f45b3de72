"""Fields by their Fourier modes: the two parts add up, and few transforms are left in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.graph import array_ops as ao
from pysciml.graph.field_modes import Modal, diagonal, modal, separate
from pysciml.graph.fields import FieldGraph

D = ps.D
X, Y = ps.coordinates("X Y")
u, v = ps.fields("u v", X, Y)
k = ps.parameters("k")
SHAPE = (12, 9)


def graph_of(first: Any, second: Any, scheme: str = "spectral", boundary: Any = None) -> FieldGraph:
    system = ps.PDESystem(
        [ps.Eq(D(u), first), ps.Eq(D(v), second)],
        {X: (0, 3), Y: (0, 5)},
        {X: boundary or ps.Periodic(), Y: ps.Periodic()},
        {u: sp.sin(2 * sp.pi * X / 3), v: 1},
    )
    graph = system.discretize({X: SHAPE[0], Y: SHAPE[1]}, scheme=scheme).graph
    assert isinstance(graph, FieldGraph)
    return graph


def coupled(scheme: str = "spectral") -> FieldGraph:
    biharmonic = ps.laplacian(ps.laplacian(u))
    mixed = D(D(u, X), Y) * v + v * sp.cos(ps.t) * D(u, X) + sp.exp(ps.t) * D(u * v, Y)
    first = -D(u**2 / 2, X) - k * u * D(v, Y) - biharmonic - k * ps.laplacian(u) + mixed
    return graph_of(first, ps.laplacian(v) + u**2 - D(v * D(v, X), X) / k + D(k * D(v, X), X), scheme)


def multiplier(orders: tuple[int, ...]) -> Any:
    factor: Any = 1.0
    for axis, (n, order) in enumerate(zip(SHAPE, orders, strict=True)):
        waves = np.fft.rfftfreq(n, 1 / n) if axis == len(SHAPE) - 1 else np.fft.fftfreq(n, 1 / n)
        along = (1j * waves) ** order
        if n % 2 == 0 and order % 2:
            along[n // 2] = 0
        factor = factor * along.reshape([-1 if a == axis else 1 for a in range(len(SHAPE))])
    return factor


def by_modes(function: Modal, fields: list[Any], p: list[float], t: float) -> list[Any]:
    modes = [np.fft.rfftn(values) for values in fields]
    inputs = [np.fft.irfftn(modes[f] * multiplier(orders), s=SHAPE, axes=(0, 1)) for f, orders in function.inputs]
    values = function.graph.arrays("values", np.concatenate([i.ravel() for i in inputs]), p, t)
    found: list[Any] = [np.zeros(SHAPE) for _ in fields]
    for (f, orders), value in zip(function.outputs, values, strict=True):
        found[f] = found[f] + np.fft.irfftn(np.fft.rfftn(value) * multiplier(orders), s=SHAPE, axes=(0, 1))
    return found


@pytest.mark.parametrize("scheme", ["spectral", "central"])
def test_both_parts_by_modes_are_the_right_hand_side(scheme: str) -> None:
    graph = coupled(scheme)
    parts = separate(graph)
    assert parts is not None
    state = np.random.default_rng(0).normal(size=graph.n_states)
    total: list[Any] = [0.0, 0.0]
    for name in ("linear", "rest"):
        found = by_modes(modal(parts, name), graph.split(state), [0.3], 0.7)
        for ours, whole in zip(found, parts.arrays(name, state, [0.3], 0.7), strict=True):
            np.testing.assert_allclose(ours, whole, atol=1e-12 * np.abs(whole).max())
        total = [a + b for a, b in zip(total, found, strict=True)]
    for ours, whole in zip(total, graph.arrays("rhs", state, [0.3], 0.7), strict=True):
        np.testing.assert_allclose(ours, whole, atol=1e-12 * np.abs(whole).max())


def test_derivatives_are_taken_on_the_way_in_and_out() -> None:
    parts = separate(coupled())
    assert parts is not None
    rest, linear = modal(parts, "rest"), modal(parts, "linear")
    assert not {ao.FOURIER} & rest.graph.used_ops()
    assert set(rest.inputs) == {(0, (0, 0)), (1, (0, 0)), (0, (1, 0)), (1, (1, 0)), (0, (1, 1)), (1, (0, 1))}
    assert set(rest.outputs) == {(0, (0, 0)), (0, (1, 0)), (0, (0, 1)), (1, (0, 0)), (1, (1, 0))}
    assert set(linear.inputs) == {(0, (0, 0)), (1, (0, 0)), (1, (1, 0))}  # two odd derivatives are no even one


def test_what_modes_can_not_make_diagonal() -> None:
    assert diagonal(coupled()) is not None
    assert diagonal(coupled("central")) is not None
    sides = ps.Dirichlet(lower=0, upper=0)
    assert diagonal(graph_of(v + ps.laplacian(u), ps.laplacian(v) - u, "central", sides)) is None
    assert diagonal(graph_of(v + ps.laplacian(u), ps.laplacian(v) - u)) is not None  # cells on their own may be coupled
    assert diagonal(graph_of(v, ps.laplacian(u) - v, "central")) is None  # but not by derivatives
    assert diagonal(graph_of(D((2 + sp.sin(2 * sp.pi * X / 3)) * D(u, X), X) - u, -v, "central")) is None
    assert diagonal(graph_of(u**2, u * v)) is None
