"""KenCarp3, 4 and 5 on fields: the linear part implicit, the rest explicit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps

D, t = ps.D, ps.t
x, X, Y = ps.coordinates("x X Y")
w = ps.fields("w", x)
u, v = ps.fields("u v", X, Y)
k, a = ps.parameters("k a")


def reaction(boundary: Any = None, rate: Any = None) -> Any:
    system = ps.PDESystem(
        [ps.Eq(D(w), rate if rate is not None else k * D(w, x, 2) + a * (w - w**3) + sp.cos(t))],
        {x: (0, 1)},
        {x: boundary or ps.Periodic()},
        {w: sp.sin(2 * sp.pi * x)},
    )
    return system.discretize({x: 24}).problem((0, 1), {k: 0.1, a: 2.0})


@pytest.mark.parametrize(("name", "order"), [("KenCarp3", 3), ("KenCarp4", 4), ("KenCarp5", 5)])
def test_the_order(name: str, order: int) -> None:
    from scipy.integrate import solve_ivp

    from pysciml.engines.fields.operator import interpreted
    from pysciml.engines.jax.fields.imex import KenCarp, linear_matrix

    problem = reaction()
    graph, p = problem.system.graph, problem.p
    exact = solve_ivp(lambda t, y: graph.evaluate("rhs", y, p, t), (0, 1), problem.u0, "DOP853", rtol=1e-13, atol=1e-13)
    errors: list[float] = []
    for steps in (20, 40):
        operator = interpreted(graph, p, forward=True)
        matrix = linear_matrix(problem.system.model, p, name)
        method = KenCarp(name, operator, matrix, 0.0, problem.u0, 1.0, 1e-6, 1e-6, None)
        y = problem.u0
        for i in range(steps):
            y, _ = method.attempt(i / steps, y, operator.rhs(i / steps, y), 1 / steps)
        errors.append(float(np.abs(y - exact.y[:, -1]).max()))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


def test_the_linear_part_is_what_is_linear_with_coefficients_that_do_not_change() -> None:
    from pysciml.engines.jax.fields.imex import linear_matrix

    rate = k * (D(w, x, 2) * (1 + x) + sp.sin(w)) - a * w / 2 + t * w + D(w**2, x)
    problem = reaction([ps.Dirichlet(lower=sp.sin(t)), ps.Robin(1, k, upper=2)], rate)
    found = linear_matrix(problem.system.model, problem.p, "KenCarp4").toarray()
    same = reaction([ps.Dirichlet(lower=0), ps.Robin(1, k, upper=0)], k * D(w, x, 2) * (1 + x) - a * w / 2)
    wanted = np.stack([same.system.graph.evaluate("rhs", e, same.p, 0.0) for e in np.eye(24)], axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-9)


def test_a_stiff_brusselator_agrees_with_qndf_and_takes_few_steps() -> None:
    system = ps.PDESystem(
        [
            ps.Eq(D(u), 1 + u**2 * v - (a + 1) * u + k * ps.laplacian(u)),
            ps.Eq(D(v), a * u - u**2 * v + k * ps.laplacian(v)),
        ],
        {X: (0, 1), Y: (0, 1)},
        {X: ps.Periodic(), Y: ps.Neumann(0)},
        {u: 1 + X * (1 - X), v: 1 + sp.cos(sp.pi * Y)},
    )
    problem = system.discretize({X: 12, Y: 12}).problem((0, 5), {a: 2.0, k: 2.0})
    how: dict[str, Any] = {"engine": "jax", "saveat": [2.5, 5.0]}
    reference = ps.solve(problem, "QNDF", rtol=1e-9, atol=1e-10, **how)
    for name in ("KenCarp3", "KenCarp4", "KenCarp5"):
        found = ps.solve(problem, name, rtol=1e-6, atol=1e-8, **how)
        np.testing.assert_allclose(found.u, reference.u, rtol=2e-4)
        assert found.attrs["algorithm"] == name
        assert found.attrs["n_steps"] < 400  # an explicit method needs 5 * 4608 / 3.3, some seven thousand


def test_it_goes_with_ensembles_and_derivatives() -> None:
    problem = reaction()
    sweep = ps.solve_ensemble(problem, "KenCarp4", over={k: [0.1, 0.2]}, saveat=[1.0], rtol=1e-7)
    alone = ps.solve(problem.remake(p={k: 0.2}), "KenCarp4", saveat=[1.0], rtol=1e-7)
    np.testing.assert_allclose(sweep.w[1], alone.w, rtol=1e-12)
    slope = ps.gradient(problem, of=w, wrt=k, alg="KenCarp4", rtol=1e-7, atol=1e-9).k[-1]
    ends = [ps.solve(problem.remake(p={k: 0.1 + s}), "KenCarp4", saveat=[1.0], rtol=1e-9).w[-1] for s in (1e-3, -1e-3)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-3, atol=1e-3 * float(abs(slope).max()))


def test_what_it_is_not_for_is_refused_by_name() -> None:
    problem = reaction(rate=a * k * w * D(w, x, 2))
    with pytest.raises(ps.UnsupportedError, match="have none: take QNDF"):
        ps.solve(problem, "KenCarp4", engine="jax")
    with pytest.raises(ps.UnsupportedError, match="native engine has"):
        ps.solve(reaction(), "KenCarp4", engine="native")
    with pytest.raises(ps.UnsupportedError, match="double precision"):
        ps.solve(reaction(), "KenCarp4", engine="jax", precision="float32", rtol=1e-4)
