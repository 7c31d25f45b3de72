"""Partial differential equations on a real Julia: `make test-julia`."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines.julia import bridge
from pysciml.engines.julia.fields import send_fields
from pysciml.engines.julia.transfer import address, floats
from pysciml.errors import UnsupportedError
from tests.pde.test_kernels import SYSTEMS
from tests.pde.test_solving import brusselator, scipy_solution

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("julia_engine")]

D, t = ps.D, ps.t
X, Y = ps.coordinates("X Y")


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_the_loops_compute_what_the_graph_means(name: str) -> None:
    model = SYSTEMS[name]().model
    graph, module = model.graph, bridge.julia()
    rng = np.random.default_rng(0)
    u, p = floats(rng.uniform(0.5, 2, graph.n_states)), floats(rng.uniform(0.5, 2, graph.n_params))
    states, parameters = module.floats(address(u), u.size), module.floats(address(p), p.size)
    found = np.array(module.evaluate(send_fields(model), states, parameters, 0.3))
    np.testing.assert_allclose(found, graph.evaluate("rhs", u, p, 0.3), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("alg", ["Tsit5", "FBDF", "Rodas5P", "FBDF(linsolve=KLUFactorization)"])
def test_the_brusselator_agrees_with_another_solver(alg: str) -> None:
    problem = brusselator()
    times = [0.25, 1.0]
    sol = ps.solve(problem, alg, engine="julia", rtol=1e-8, atol=1e-8, saveat=times)
    assert sol.attrs["engine"] == "julia"
    assert sol.u.dims == ("t", "X", "Y")
    found = np.stack([sol.u.values, sol.v.values], axis=1).reshape(2, -1).T
    np.testing.assert_allclose(found, scipy_solution(problem, times), rtol=2e-6, atol=2e-6)


def test_boundaries_that_move_have_their_time_derivative() -> None:
    """Rosenbrock methods lose their order without it."""
    w = ps.fields("w", X)
    exact = sp.exp(-X) * sp.sin(5 * t) + X**2
    source = sp.diff(exact, t) - sp.diff(exact, X, 2)
    system = ps.PDESystem(
        [ps.Eq(D(w), D(w, X, 2) + source)],
        {X: (0, 1)},
        {X: ps.Dirichlet(lower=exact.subs(X, 0), upper=exact.subs(X, 1))},
        {w: exact.subs(t, 0)},
    )
    problem = system.discretize({X: 64}, order=4).problem((0, 1))
    other = ps.solve(problem, engine="native", rtol=1e-10, atol=1e-10, saveat=[1.0])
    errors, steps = [], []
    for rtol in (1e-4, 1e-8):
        sol = ps.solve(problem, "Rodas5P", engine="julia", rtol=rtol, atol=rtol, saveat=[1.0])
        errors.append(float(abs(sol.w - other.w).max()))
        steps.append(sol.attrs["n_steps"])
    assert errors[0] < 1e-2
    assert errors[1] < 1e-6
    assert steps[1] < 30 * steps[0]


def test_sweeps_run_on_threads_with_buffers_of_their_own() -> None:
    problem = brusselator(8)
    alpha = np.linspace(0.05, 0.4, 7)
    key = ps.parameters("alpha")
    sweep = ps.solve_ensemble(problem, "Tsit5", over={key: alpha}, engine="julia", saveat=[1.0], rtol=1e-8, atol=1e-8)
    assert (sweep.retcode == "Success").all()
    for value in (alpha[0], alpha[4]):
        one = ps.solve(problem.remake(p={key: value}), "Tsit5", engine="julia", saveat=[1.0], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(sweep.u.sel(alpha=value), one.u, rtol=1e-12)


def test_large_loops_on_several_threads_compute_the_same() -> None:
    problem = brusselator(256)
    graph, module = problem.system.model.graph, bridge.julia()
    fields = send_fields(problem.system.model)
    assert graph.n_states // 2 > 32_768
    u, p = floats(np.random.default_rng(0).uniform(0.5, 2, graph.n_states)), floats(problem.p)
    states, parameters = module.floats(address(u), u.size), module.floats(address(p), p.size)
    found = [np.array(module.evaluate(fields, states, parameters, 0.3)) for _ in range(20)]
    np.testing.assert_allclose(found[0], graph.evaluate("rhs", u, p, 0.3), rtol=1e-11, atol=1e-7)
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_what_it_has_not_is_refused_by_name() -> None:
    w = ps.fields("w", X)
    system = ps.PDESystem([ps.Eq(D(w), D(w, X, 2))], {X: (0, 1)}, {X: ps.Periodic()}, {w: sp.sin(2 * sp.pi * X)})
    problem = system.discretize({X: 16}, scheme="spectral").problem((0, 0.1))
    with pytest.raises(UnsupportedError, match="fourier"):
        ps.solve(problem, engine="julia")
    with pytest.raises(UnsupportedError, match="KrylovJL_GMRES takes products with the Jacobian"):
        ps.solve(brusselator(8), "FBDF(linsolve=KrylovJL_GMRES)", engine="julia")
