"""Fields as loops: the plan that compilers of scalar code get, against the graph itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.graph import ops
from pysciml.graph.field_builder import FieldBuilder
from pysciml.graph.field_kernels import _MOST_LEAVES, Plan
from tests.pde.test_fields import everything

D, t = ps.D, ps.t
X, Y, Z = ps.coordinates("X Y Z")


def conservation(scheme: str, **options: Any) -> Any:
    u = ps.fields("u", X)
    system = ps.PDESystem(
        [ps.Eq(D(u), -D(u**2 / 2, X))], {X: (0, 1)}, {X: ps.Periodic()}, {u: 2 + sp.sin(2 * sp.pi * X)}
    )
    return system.discretize({X: 24}, scheme=scheme, **options)


def mixed(scheme: str = "central", order: int = 2) -> Any:
    """Two fields on a rectangle, with every kind of boundary, coefficients of place, time and solution."""
    u, v = ps.fields("u v", X, Y)
    a = ps.parameters("a")
    system = ps.PDESystem(
        [
            ps.Eq(D(u), D((1 + u**2) * D(u, X), X) + a * ps.laplacian(u) + sp.sin(X) * sp.cos(t) - D(u * v, Y)),
            ps.Eq(D(v), ps.laplacian(v) - sp.Max(u, v) * v + (0 if scheme == "spectral" else ps.integral(u))),
        ],
        {X: (0, 1), Y: (0, 2)},
        {X: ps.Dirichlet(lower=sp.sin(t), upper=Y), Y: ps.Robin(1, 2, lower=X, upper=0)},
        {u: X * Y / 2, v: 1 + X},
    )
    return system.discretize({X: 13, Y: 17}, scheme=scheme, order=order)


def ball() -> Any:
    w = ps.fields("w", X, Y, Z)
    system = ps.PDESystem(
        [ps.Eq(D(w), ps.laplacian(w) - w**3)],
        {X: (0, 1), Y: (0, 1), Z: (0, 1)},
        {X: ps.Periodic(), Y: ps.Neumann(0), Z: ps.Dirichlet(0)},
        {w: 0},
    )
    return system.discretize({X: 6, Y: 7, Z: 8})


def waves() -> Any:
    """Derivatives of the Fourier series along both axes of a rectangle, of even and odd lengths and orders."""
    u = ps.fields("u", X, Y)
    system = ps.PDESystem(
        [ps.Eq(D(u), D(u, X, 2) - D(u, Y, 3) - u * D(u, X) + D(u, Y, 4))],
        {X: (0, 1), Y: (0, 2)},
        {X: ps.Periodic(), Y: ps.Periodic()},
        {u: sp.sin(2 * sp.pi * X) * sp.cos(sp.pi * Y)},
    )
    return system.discretize({X: 12, Y: 9}, scheme="spectral")


def plate(order: int = 2) -> Any:
    """Fourth derivatives, nested in a flux, with two conditions at every end, of all kinds."""
    w = ps.fields("w", X, Y)
    k = ps.parameters("k")
    system = ps.PDESystem(
        [ps.Eq(D(w), -ps.div((1 + w**2) * ps.grad(ps.laplacian(w))) - k * w)],
        {X: (0, 1), Y: (0, 1)},
        {
            X: [
                ps.Dirichlet(lower=sp.sin(t)),
                ps.Robin(k, 1, lower=Y, order=2),
                ps.Neumann(upper=0, order=2),
                ps.Robin(k, -1, upper=Y * t, order=3),
            ],
            Y: [ps.Neumann(0), ps.Neumann(0, order=3)],
        },
        {w: X * Y / 2},
    )
    return system.discretize({X: 13, Y: 15}, order=order)


def stirred() -> Any:
    """A vorticity, and a stream function that is eliminated: with parameters in its equation, and ends that move."""
    w, psi = ps.fields("w psi", X, Y)
    a = ps.parameters("a")
    carried = D(w * D(psi, X), Y) - D(w * D(psi, Y), X)
    system = ps.PDESystem(
        [ps.Eq(D(w), carried + ps.laplacian(w) / 10), ps.Eq(a * ps.laplacian(psi) - psi, -w)],
        {X: (0, 1), Y: (0, 1)},
        {X: ps.Dirichlet(lower=0, upper=sp.sin(t)), Y: ps.Periodic()},
        {w: 5 * sp.sin(sp.pi * X) * (1 + sp.cos(2 * sp.pi * Y))},
    )
    return system.discretize({X: 17, Y: 20}, order=4)


SYSTEMS = {
    "upwind": lambda: conservation("upwind"),
    "weno": lambda: conservation("weno"),
    "boundaries": mixed,
    "fourth order": lambda: mixed(order=4),
    "Chebyshev": lambda: mixed("spectral"),
    "three dimensions": ball,
    "Fourier": waves,
    "plate": plate,
    "plate, fourth order": lambda: plate(4),
    "eliminated": stirred,
}


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_the_loops_compute_what_the_graph_means(name: str) -> None:
    graph = SYSTEMS[name]().model.graph
    rng = np.random.default_rng(0)
    u, p = rng.uniform(0.5, 2, graph.n_states), rng.uniform(0.5, 2, graph.n_params)
    plan = Plan(graph)
    np.testing.assert_allclose(plan.evaluate(u, p, 0.3), graph.evaluate("rhs", u, p, 0.3), rtol=1e-12, atol=1e-10)
    assert max(len(kernel.leaves) for kernel in plan.kernels) <= _MOST_LEAVES


def test_there_are_no_more_loops_on_a_finer_grid() -> None:
    u = ps.fields("u", X)
    system = ps.PDESystem([ps.Eq(D(u), D(u, X, 2))], {X: (0, 1)}, {X: ps.Dirichlet(0)}, {u: 0})
    counts = {len(Plan(system.discretize({X: n}).model.graph).steps) for n in (16, 4096)}
    assert len(counts) == 1


def test_kernels_of_very_many_arrays_are_several() -> None:
    n, width = 64, 40
    b = FieldBuilder([(n,)], 0)
    u = b.field(0)
    padded = b.join([u, u], 0)
    total = b.sum([b.mul(b.constant(float(k)), b.slice(padded, 0, k, n)) for k in range(width)])
    graph = b.build({"rhs": [total]})
    plan = Plan(graph)
    assert len(plan.kernels) > 1
    values = np.random.default_rng(1).normal(size=n)
    np.testing.assert_allclose(
        plan.evaluate(values, np.zeros(0), 0.0), graph.evaluate("rhs", values, [], 0.0), rtol=1e-12
    )


def test_fields_of_one_shape_are_one_loop() -> None:
    """Which computes once what they share; what reads more arrays than a kernel may is several."""
    u, v = ps.fields("u v", X)
    a = ps.parameters("a")
    shared = sp.sin(u * v) ** 2

    def kernels(first: Any, second: Any) -> Any:
        system = ps.PDESystem([ps.Eq(D(u), first), ps.Eq(D(v), second)], {X: (0, 1)}, {X: ps.Periodic()}, {u: 1, v: X})
        graph = system.discretize({X: 16}).model.graph
        plan = Plan(graph)
        state = np.random.default_rng(0).uniform(0.5, 2, graph.n_states)
        np.testing.assert_allclose(
            plan.evaluate(state, np.ones(graph.n_params), 0.3),
            graph.evaluate("rhs", state, np.ones(graph.n_params), 0.3),
        )
        return [kernel for kernel in plan.kernels if kernel.shape[-1] == 16]

    (both,) = kernels(a * D(u, X, 2) + shared, D(v, X, 2) - shared)
    assert len(both.targets) == 2
    assert np.count_nonzero(both.graph.op == ops.SIN) == 1
    (both,) = kernels(shared, shared)
    assert len(both.graph.outputs["value"]) == 2
    assert len(kernels(v, shared)) == 1


def test_loops_of_very_many_arrays_are_not_joined() -> None:
    n, width = 64, 20
    b = FieldBuilder([(n,), (n,)], 0)
    roots = []
    for k in range(2):
        padded = b.join([b.field(k), b.field(k)], 0)
        roots.append(b.sum([b.mul(b.constant(float(j)), b.slice(padded, 0, j, n)) for j in range(width)]))
    graph = b.build({"rhs": roots})
    plan = Plan(graph)
    assert [len(kernel.targets) for kernel in plan.kernels] == [1, 1]
    values = np.random.default_rng(1).normal(size=2 * n)
    np.testing.assert_allclose(
        plan.evaluate(values, np.zeros(0), 0.0), graph.evaluate("rhs", values, [], 0.0), rtol=1e-12
    )


def test_every_operation_on_arrays_has_a_step() -> None:
    graph = everything()
    u = np.random.default_rng(2).uniform(0.5, 2, graph.n_states)
    p = np.random.default_rng(3).uniform(0.5, 2, graph.n_params)
    for name in graph.outputs:
        expected = np.concatenate([np.ravel(part) for part in graph.arrays(name, u, p, 0.3)])
        np.testing.assert_allclose(Plan(graph, name).evaluate(u, p, 0.3), expected, rtol=1e-12, atol=1e-12)
