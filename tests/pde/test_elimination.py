"""Fields that are solved for within the right-hand side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines.fields.operator import interpreted
from pysciml.engines.fields.precondition import Preconditioner
from pysciml.graph.field_jacobian import FieldJacobian

pytestmark = pytest.mark.filterwarnings("ignore:.*initial value of u:UserWarning")
D, t = ps.D, ps.t
X, Y, Z = ps.coordinates("X Y Z")
a, nu = ps.parameters("a nu")
EDGES = np.linspace(0, 1, 15) ** 1.4
WAVE = sp.sin(2 * sp.pi * X)


def follower(
    equation: Any, boundary: Any, coordinates: Any = (X, Y), domain: Any = (0, 1), start: Any = None
) -> tuple[ps.PDESystem, Any, Any]:
    """``u`` decays, and ``v`` follows from it."""
    u, v = ps.fields("u v", *coordinates)
    system = ps.PDESystem(
        [ps.Eq(D(u), -u + v), equation(u, v)],
        domain=dict.fromkeys(coordinates, domain),
        boundary=boundary,
        initial={u: sp.prod([sp.exp(-((x - 0.4) ** 2)) for x in coordinates]) if start is None else start},
    )
    return system, u, v


ENDS = ps.Dirichlet(lower=a, upper=sp.sin(t + 1))
SLOPES = ps.Neumann(lower=1, upper=a)
MIXED = ps.Robin(2, 1, lower=1, upper=0)
PERIODIC = ps.Periodic()


@pytest.mark.parametrize(
    ("equation", "boundary", "points", "how"),
    [
        (lambda u, v: ps.Eq(ps.laplacian(v), u), {X: ENDS, Y: ENDS}, {X: 14, Y: 17}, {}),
        (lambda u, v: ps.Eq(ps.laplacian(v), u), {X: ENDS, Y: SLOPES}, {X: 14, Y: 17}, {"order": 4}),
        (lambda u, v: ps.Eq(ps.laplacian(v), u), {X: MIXED, Y: PERIODIC}, {X: 14, Y: 18}, {"order": 6}),
        (lambda u, v: ps.Eq(v - a * ps.laplacian(v), u**2), {X: SLOPES, Y: ENDS}, {X: 14, Y: 17}, {"order": 4}),
        (lambda u, v: ps.Eq(a * D(v, X, 2) + 2 * D(v, Y, 2) - v / a, u), {X: ENDS, Y: MIXED}, {X: 14, Y: 17}, {}),
        (lambda u, v: ps.Eq(ps.laplacian(v) - v, u), {X: PERIODIC, Y: ENDS}, {X: 12, Y: 9}, {"scheme": "spectral"}),
        (lambda u, v: ps.Eq(ps.laplacian(v) + a, u), {X: ENDS, Y: SLOPES}, {X: EDGES, Y: EDGES}, {}),
        (lambda u, v: ps.Eq(D((1 + X**2) * D(v, X), X) + D(v, Y, 2), u), {X: ENDS, Y: ENDS}, {X: 14, Y: 12}, {}),
        (lambda u, v: ps.Eq(D((2 + Y) * D(v, Y), X), u - v), {X: ENDS, Y: PERIODIC}, {X: 14, Y: 12}, None),
        (lambda u, v: ps.Eq(v, D(D(u, X), Y) + a * v / 3), {X: ENDS, Y: PERIODIC}, {X: 14, Y: 12}, {}),
        (lambda u, v: ps.Eq(D(v, X, 2), u), {X: ENDS, Y: SLOPES}, {X: 14, Y: 12}, {"order": 4}),
    ],
)
def test_they_are_what_sparse_algebra_finds(equation: Any, boundary: Any, points: Any, how: Any) -> None:
    """Newton's method on the whole sparse system is the reference; a mixed derivative stays algebraic."""
    system, *_ = follower(equation, boundary)
    discrete = system.discretize(points, **(how or {}))
    assert discrete.kind == ("dae" if how is None else "ode")
    p = {a: 0.7} if a in system.parameters else {}
    if how is None:
        return
    problem = discrete.problem((0.3, 1), p)
    wanted = system.discretize(points, **how, eliminate=False).problem((0.3, 1), p).u0[problem.u0.size :]
    (found,) = discrete.graph.arrays("observed", problem.u0, problem.p, 0.3)
    np.testing.assert_allclose(found.ravel(), wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
    assert np.ptp(wanted) > 1e-3


def test_three_dimensions() -> None:
    boundary = {X: ENDS, Y: ps.Neumann(0), Z: PERIODIC}
    system, *_ = follower(lambda u, v: ps.Eq(ps.laplacian(v) - v, u), boundary, (X, Y, Z))
    points, p = {X: 6, Y: 7, Z: 8}, {a: 0.5}
    problem = system.discretize(points).problem((0, 1), p)
    wanted = system.discretize(points, eliminate=False).problem((0, 1), p).u0[problem.u0.size :]
    (found,) = problem.system.graph.arrays("observed", problem.u0, problem.p, 0.0)
    np.testing.assert_allclose(found.ravel(), wanted, rtol=1e-10)


@pytest.mark.parametrize("order", [2, 4])
def test_a_constant_that_is_open_is_the_given_mean(order: int) -> None:
    """By an expression with parameters, and by what a problem is given."""
    system, u, v = follower(
        lambda u, v: ps.Eq(ps.laplacian(v), u), {X: ps.Neumann(0), Y: PERIODIC}, start=sp.cos(sp.pi * X)
    )
    system = ps.PDESystem(
        system.equations, system.domain, {X: ps.Neumann(0), Y: PERIODIC}, {u: sp.cos(sp.pi * X), v: a + X - 0.5}
    )
    discrete = system.discretize({X: 16, Y: 12}, order=order)
    assert discrete.kind == "ode"
    problem = discrete.problem((0, 1), {a: 3.0})
    for at, mean in (
        (problem, 3.0),
        (problem.remake(p={a: -2.0}), -2.0),
        (problem.remake(u0={v: 5}), 5.0),
        (problem.remake(u0={"v": np.full((16, 12), 4.0)}).remake(p={a: 1.0}), 4.0),
    ):
        (found,) = at.system.graph.arrays("observed", at.u0, at.p, 0.0)
        assert abs(found.mean() - mean) < 1e-12
        exact = np.broadcast_to(-np.cos(np.pi * discrete.coords["X"])[:, None] / np.pi**2, (16, 12))
        np.testing.assert_allclose(found - mean, exact, atol=1e-3)
    assert len(problem.u0) == 16 * 12


def test_means_of_several_are_kept_one_by_one() -> None:
    u, v, w = ps.fields("u v w", X)
    equations = [ps.Eq(D(u), v + w), ps.Eq(D(v, X, 2), u), ps.Eq(D(w, X, 2), 2 * u)]
    system = ps.PDESystem(equations, {X: (0, 1)}, {X: ps.Neumann(0)}, {u: sp.cos(sp.pi * X)})
    problem = system.discretize({X: 12}).problem((0, 1), u0={v: 2, w: 3}).remake(u0={v: 5})
    found = problem.system.graph.arrays("observed", problem.u0, problem.p, 0.0)
    np.testing.assert_allclose([value.mean() for value in found], [5, 3], atol=1e-12)
    with pytest.raises(ps.ProblemError, match="initial value of w is not finite"):
        problem.remake(u0={w: np.nan})


def test_what_they_are_given_elsewhere_is_where_a_search_would_begin() -> None:
    system, _, v = follower(lambda u, v: ps.Eq(v, 2 * u), {X: PERIODIC, Y: PERIODIC}, start=sp.cos(2 * sp.pi * X))
    problem = system.discretize({X: 8, Y: 8}).problem((0, 1), u0={v: 3})
    (found,) = problem.system.graph.arrays("observed", problem.u0, problem.p, 0.0)
    np.testing.assert_allclose(found.ravel(), 2 * problem.u0)
    with pytest.raises(ps.ProblemError, match=r"u0 of v has the shape \(3,\)"):
        problem.remake(u0={v: [1, 2, 3]})


def test_one_after_the_other() -> None:
    """Two that follow, the second from the first; in a circle they stay algebraic."""
    u, v, w = ps.fields("u v w", X)
    boundary = {X: ps.Dirichlet(0)}
    chain = [ps.Eq(D(u), w), ps.Eq(w, D(v, X)), ps.Eq(D(v, X, 2), u)]
    circle = [ps.Eq(D(u), w), ps.Eq(D(w, X, 2), v + u), ps.Eq(D(v, X, 2), w)]
    start = {u: sp.sin(sp.pi * X)}
    for equations, kind in ((chain, "ode"), (circle, "dae")):
        system = ps.PDESystem(equations, {X: (0, 1)}, boundary, start)
        discrete = system.discretize({X: 32})
        assert discrete.kind == kind
    system = ps.PDESystem(chain, {X: (0, 1)}, boundary, start)
    both = [system.discretize({X: 32}, eliminate=e).problem((0, 0.5)) for e in (True, False)]
    found, wanted = (ps.solve(p, engine="native", rtol=1e-9, atol=1e-10, saveat=[0, 0.5]) for p in both)
    assert list(found) == ["u", "w", "v"]
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-7)


@pytest.mark.parametrize(
    ("equation", "points"),
    [
        (lambda u, v: ps.Eq(v + v**3, u), {X: 16}),
        (lambda u, v: ps.Eq(D(u * D(v, X), X), 1), {X: 16}),
        (lambda u, v: ps.Eq(D(v, X, 2) - t * v, u), {X: 16}),
        (lambda u, v: ps.Eq(D(v, X, 2), u), {X: 4096}),
    ],
)
def test_what_is_not_of_that_kind_stays_algebraic(equation: Any, points: Any) -> None:
    system, *_ = follower(equation, {X: ps.Dirichlet(1)}, (X,), start=1 + X * (1 - X))
    discrete = system.discretize(points)
    assert discrete.kind == "dae"
    assert discrete.model.states == ("u", "v")


def test_parameters_for_which_an_equation_is_singular_are_refused() -> None:
    system, *_ = follower(lambda u, v: ps.Eq(D(v, X, 2) + a * v, u), {X: ps.Dirichlet(0)}, (X,), start=X * (1 - X))
    discrete = system.discretize({X: 16})
    discrete.problem((0, 1), {a: 1.0})
    whole = FieldJacobian(system.discretize({X: 16}, eliminate=False).graph)(np.zeros(32), np.zeros(1), 0.0)
    resonant = float(-np.linalg.eigvals(whole[16:, 16:].toarray()).real.max())
    with pytest.raises(
        ps.ProblemError, match="equation of v has no solution at the start: for these parameters"
    ) as error:
        discrete.problem((0, 1), {a: resonant})
    assert error.value.symbol == "v"


def test_a_finer_grid_has_no_more_nodes_and_few_probes() -> None:
    sizes = []
    for n in (32, 96):
        system, *_ = follower(lambda u, v: ps.Eq(ps.laplacian(v), u), {X: ENDS, Y: ps.Neumann(0)})
        problem = system.discretize({X: n, Y: n}).problem((0, 1), {a: 1.0})
        sizes.append(len(problem.system.graph))
        operator = interpreted(problem.system.graph, problem.p, True)
        seen: list[Any] = []
        near = operator.near
        assert near is not None
        operator.near = lambda t, y, v, seen=seen, near=near: (seen.append(0), near(t, y, v))[1]
        Preconditioner(operator, 0.0, problem.u0)
        if n == 96:
            assert len(seen) < 2 * n / 2
    assert sizes[1] <= sizes[0] + 1  # numbers that happen to be equal are one node


def stirred(kind: str, eliminate: bool = True) -> ps.Problem:
    """A vorticity whose diffusion is stiff, and the stream function."""
    w, psi = ps.fields("w psi", X, Y)
    carried = D(w * D(psi, X), Y) - D(w * D(psi, Y), X)
    sides = PERIODIC if kind == "periodic" else ps.Dirichlet(0)
    system = ps.PDESystem(
        [ps.Eq(D(w), carried + nu * ps.laplacian(w)), ps.Eq(ps.laplacian(psi), -w)],
        domain={X: (0, 1), Y: (0, 1)},
        boundary={X: sides, Y: sides},
        initial={
            w: 30 * sp.sin(2 * sp.pi * X) * sp.sin(2 * sp.pi * Y) + 10 * sp.sin(4 * sp.pi * X) * sp.sin(2 * sp.pi * Y)
        },
    )
    return system.discretize({X: 16, Y: 16}, eliminate=eliminate).problem((0, 0.2), {nu: 0.05})


@pytest.mark.parametrize(
    ("engine", "algorithm", "options"),
    [
        ("native", "DP5", {}),
        ("native", "QNDF", {}),
        ("jax", "Tsit5", {}),
        ("jax", "QNDF", {}),
        ("jax", "KenCarp4", {}),
        ("jax", "ETDRK4", {"dt": 1e-3}),
    ],
)
def test_every_method_comes_to_the_solution_of_the_algebraic_form(engine: str, algorithm: str, options: Any) -> None:
    problem, whole = (stirred("periodic", eliminate) for eliminate in (True, False))
    how: dict[str, Any] = {"saveat": [0.2], "rtol": 1e-8, "atol": 1e-9}
    found = ps.solve(problem, algorithm, engine=engine, **how, **options)
    wanted = ps.solve(whole, "QNDF", engine="native", **how)
    assert found.attrs["algorithm"] == algorithm
    scale = float(np.abs(wanted.w).max())
    assert scale > 1
    for name in ("w", "psi"):
        np.testing.assert_allclose(found[name], wanted[name], atol=2e-6 * scale)


@pytest.mark.parametrize("method", ["forward", "checkpointed"])
def test_gradients_agree_with_differences(method: str) -> None:
    problem = stirred("walls")

    def cost(solution: Any) -> Any:
        return ((solution["psi"] - 0.1) ** 2).sum() + (solution["w"] ** 2).sum() / 1000

    how: dict[str, Any] = {"saveat": [0.1, 0.2], "rtol": 1e-9, "atol": 1e-10}
    found = ps.gradient(problem, cost, [nu], method=method, **how)
    values = [float(cost(ps.solve(problem.remake(p={nu: 0.05 + h}), engine="native", **how))) for h in (1e-5, -1e-5)]
    np.testing.assert_allclose(float(found["nu"]), (values[0] - values[1]) / 2e-5, rtol=1e-5)


def test_noise_drives_what_others_follow() -> None:
    """The same path as with what follows written out by hand."""
    u, v = ps.fields("u v", X)
    xi = ps.brownian("xi", X)
    domain: Any = {X: (0, 1)}
    sides = {X: PERIODIC}
    start = {u: WAVE}
    apart = ps.PDESystem([ps.Eq(D(u), D(v, X, 2) - u + xi / 9), ps.Eq(v, u / 50 + 1)], domain, sides, start)
    alone = ps.PDESystem([ps.Eq(D(u), D(u / 50 + 1, X, 2) - u + xi / 9)], domain, sides, start)
    found, wanted = (
        ps.solve(s.discretize({X: 16}).problem((0, 0.5)), engine="jax", seed=5, dt=1e-3, saveat=[0.5])
        for s in (apart, alone)
    )
    np.testing.assert_allclose(found.u, wanted.u, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.v, wanted.u / 50 + 1, rtol=1e-10)
    assert float(np.abs(wanted.u - np.exp(-0.5) * np.sin(2 * np.pi * wanted.X)).max()) > 0.01


def test_networks_among_them() -> None:
    """In what drives a follower, and in what follows from it; the whole right-hand side is the reference."""
    u, v = ps.fields("u v", X)
    source, rate = (ps.MLP(name, inputs=1, outputs=1, hidden=[3]) for name in ("source", "rate"))
    system = ps.PDESystem(
        [ps.Eq(D(u), D(u, X, 2) + rate(v)), ps.Eq(D(v, X, 2) - v, source(u))],
        {X: (0, 1)},
        {X: ps.Neumann(0)},
        {u: sp.cos(sp.pi * X)},
    )
    found, whole = (system.discretize({X: 12}, eliminate=e).problem((0, 1)) for e in (True, False))
    assert found.system.kind == "ode"
    (v_found,) = found.system.graph.arrays("observed", found.u0, found.p, 0.0)
    np.testing.assert_allclose(v_found, whole.u0[12:], rtol=1e-10)
    wanted = whole.system.graph.evaluate("rhs", whole.u0, whole.p, 0.0)[:12]
    np.testing.assert_allclose(found.system.graph.evaluate("rhs", found.u0, found.p, 0.0), wanted, rtol=1e-9)


def test_written_as_it_is_computed(tmp_path: Path) -> None:
    problem = stirred("walls")
    how: dict[str, Any] = {"engine": "native", "saveat": np.linspace(0, 0.2, 6)}
    stored = ps.solve(problem, store=tmp_path / "run.zarr", **how)
    np.testing.assert_allclose(stored.psi, ps.solve(problem, **how).psi, rtol=1e-6, atol=1e-6)


def test_the_near_part_of_a_derivative_holds_them() -> None:
    problem = stirred("walls")
    graph = problem.system.graph
    operator = interpreted(graph, problem.p, True)
    assert operator.near is not None
    held = FieldJacobian(stirred("walls", eliminate=False).system.graph)
    psi = graph.arrays("observed", problem.u0, problem.p, 0.0)[0].ravel()
    n = problem.u0.size
    block = held(np.concatenate([problem.u0, psi]), problem.p, 0.0)[:n, :n]
    v = np.cos(np.arange(n))
    np.testing.assert_allclose(operator.near(0.0, problem.u0, v), block @ v, rtol=1e-9, atol=1e-8)


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
@pytest.mark.parametrize("algorithm", [None, "Tsit5", "FBDF", "KenCarp4"])
def test_julia_agrees(algorithm: str | None) -> None:
    problem = stirred("walls")
    how: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-9, "saveat": [0, 0.1, 0.2]}
    found = ps.solve(problem, algorithm, engine="julia", **how)
    wanted = ps.solve(problem, engine="native", **how)
    for name in ("w", "psi"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
def test_julia_has_no_full_jacobian_of_many_cells() -> None:
    system, *_ = follower(
        lambda u, v: ps.Eq(ps.laplacian(v) - v, u),
        {X: ps.Dirichlet(0), Y: ps.Dirichlet(0)},
        start=X * Y * (1 - X) * (1 - Y),
    )
    problem = system.discretize({X: 64, Y: 64}).problem((0, 0.1))
    with pytest.raises(ps.UnsupportedError, match=r"full.*Tsit5.*KenCarp4.*eliminate=False"):
        ps.solve(problem, "FBDF", engine="julia")
    found = ps.solve(problem, engine="julia", saveat=[0.1], rtol=1e-8, atol=1e-10)
    wanted = ps.solve(problem, engine="native", saveat=[0.1], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.u, wanted.u, atol=1e-7)
