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


@pytest.mark.parametrize("alg", ["Tsit5", "FBDF"])
def test_a_fourier_method_agrees_with_another_solver(alg: str) -> None:
    """Burgers' equation; the Jacobian goes through the transforms, column by column."""
    w = ps.fields("w", X)
    system = ps.PDESystem(
        [ps.Eq(D(w), D(w, X, 2) / 50 - w * D(w, X))], {X: (0, 1)}, {X: ps.Periodic()}, {w: sp.sin(2 * sp.pi * X)}
    )
    problem = system.discretize({X: 48}, scheme="spectral").problem((0, 1))
    times = [0.1, 1.0]
    sol = ps.solve(problem, alg, engine="julia", rtol=1e-9, atol=1e-9, saveat=times)
    np.testing.assert_allclose(sol.w.values.T, scipy_solution(problem, times), rtol=1e-6, atol=1e-7)


def test_sweeps_of_a_fourier_method_transform_on_their_own() -> None:
    w, speed = ps.fields("w", X), ps.parameters("speed")
    system = ps.PDESystem([ps.Eq(D(w), -speed * D(w, X))], {X: (0, 1)}, {X: ps.Periodic()}, {w: sp.sin(2 * sp.pi * X)})
    problem = system.discretize({X: 16}, scheme="spectral").problem((0, 1), {speed: 1})
    speeds = np.linspace(0.1, 2, 16)
    options = {"engine": "julia", "rtol": 1e-10, "atol": 1e-10, "saveat": [1.0]}
    sweep = ps.solve_ensemble(problem, "Vern9", over={speed: speeds}, **options)
    exact = np.sin(2 * np.pi * (sweep.X.values - speeds[:, None]))
    np.testing.assert_allclose(sweep.w.isel(t=0), exact, atol=1e-8)


def heat_with_noise() -> tuple[ps.Problem, dict[str, float]]:
    w, (s, a, k) = ps.fields("w", X), ps.parameters("s a k")
    numbers = {"s": 0.3, "a": 1.0, "k": 0.02}
    system = ps.PDESystem(
        [ps.Eq(D(w), k * D(w, X, 2) - a * w + s * ps.brownian("white", X))], {X: (0, 2)}, {X: ps.Periodic()}, {w: 0}
    )
    return system.discretize({X: 16}).problem((0, 10), {s: 0.3, a: 1.0, k: 0.02}), numbers


@pytest.mark.parametrize(("alg", "dt"), [("EM", 0.02), ("SOSRA", None)])
def test_the_modes_of_the_stochastic_heat_equation_have_their_stationary_variance(alg: str, dt: float | None) -> None:
    """Each Fourier mode is an Ornstein-Uhlenbeck process; Euler-Maruyama's own stationary law is known exactly."""
    problem, numbers = heat_with_noise()
    n, length, paths = 16, 2.0, 300
    options = {"rtol": 1e-3, "atol": 1e-3} if dt is None else {"dt": dt}
    times = [4.0, 6.0, 8.0, 10.0]
    sol = ps.solve_ensemble(problem, alg, engine="julia", trajectories=paths, seed=1, saveat=times, **options)
    assert (sol.retcode == "Success").all()
    found = (np.abs(np.fft.rfft(sol.w.values, axis=-1) / n) ** 2).mean(axis=(0, 1))
    waves = np.arange(n // 2 + 1)
    rate = numbers["a"] + numbers["k"] * (2 * n / length * np.sin(np.pi * waves / n)) ** 2
    wanted = numbers["s"] ** 2 / length / (2 * rate - rate**2 * (dt or 0.0))
    spread = np.where(np.isin(waves, [0, n // 2]), np.sqrt(2.0), 1.0) / np.sqrt(4 * paths)
    assert (np.abs(found / wanted - 1) < 4.5 * spread).all()


@pytest.mark.parametrize("alg", ["EM", "RKMil", "SOSRI"])
def test_multiplicative_noise_is_ito(alg: str) -> None:
    """Without diffusion each cell is a geometric Brownian motion: in the mean nothing changes."""
    n, w, s = 16, ps.fields("w", X), ps.parameters("s")
    system = ps.PDESystem([ps.Eq(D(w), s * w * ps.brownian("white", X))], {X: (0, 2)}, {X: ps.Periodic()}, {w: 1})
    problem = system.discretize({X: n}).problem((0, 1), {s: 0.2})
    options = {"dt": 0.005} if alg == "EM" else {"rtol": 1e-3, "atol": 1e-3}
    sol = ps.solve_ensemble(problem, alg, engine="julia", trajectories=500, seed=3, saveat=[1.0], **options)
    cells = sol.w.values.ravel()
    variance = np.expm1(0.2**2 / (2 / n))  # Stratonovich's mean would be exp(0.16)
    assert cells.mean() == pytest.approx(1, abs=4 * np.sqrt(variance / cells.size))
    assert cells.var() == pytest.approx(variance, rel=0.1)
    assert abs(np.corrcoef(sol.w.values[:, 0, :2].T)[0, 1]) < 4 / np.sqrt(500)


@pytest.mark.parametrize("cells", [20, 100])
def test_noise_that_drives_a_velocity_is_a_matrix(cells: int) -> None:
    """Damped oscillators in every place, of which noise moves the velocities: energy is shared out equally."""
    v, (a, b, s) = ps.fields("v", X), ps.parameters("a b s")
    system = ps.PDESystem(
        [ps.Eq(D(v, 2), -a * v - b * D(v) + s * ps.brownian("white", X))], {X: (0, 1)}, {X: ps.Periodic()}, {v: 0}
    )
    problem = system.discretize({X: cells}).problem((0, 40), {a: 2, b: 1, s: 0.1})
    model = problem.system.model
    assert model.noise_type == "additive"
    assert (model.n_noise, model.graph.n_states) == (cells, 2 * cells)
    paths = 4000 // cells
    sol = ps.solve_ensemble(
        problem, "EM", engine="julia", trajectories=paths, seed=4, dt=0.005, saveat=[20.0, 30.0, 40.0]
    )
    wanted = 0.1**2 * cells / (2 * 2 * 1)  # s^2 / h over 2 a b
    assert sol.v.values.var() == pytest.approx(wanted, rel=5 * np.sqrt(2 / sol.v.size))


def test_noise_in_time_alone_moves_all_places_together() -> None:
    w, s = ps.fields("w", X), ps.parameters("s")
    system = ps.PDESystem(
        [ps.Eq(D(w), D(w, X, 2) / 50 + s * ps.brownian("shared"))], {X: (0, 2)}, {X: ps.Periodic()}, {w: 0}
    )
    problem = system.discretize({X: 12}).problem((0, 1), {s: 0.5})
    sol = ps.solve_ensemble(problem, engine="julia", trajectories=400, seed=5, saveat=[1.0])
    ends = sol.w.values[:, 0]
    assert float(np.ptp(ends, axis=1).max()) < 1e-12
    assert ends[:, 0].var() == pytest.approx(0.25, rel=0.3)
    alone = [ps.solve(problem, engine="julia", seed=5, saveat=[1.0]) for _ in range(2)]
    assert float(abs(alone[0].w - alone[1].w).max()) == 0
    assert (alone[0].attrs["calculus"], alone[0].attrs["seed"]) == ("Ito", 5)


def test_what_it_has_not_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="KrylovJL_GMRES takes products with the Jacobian"):
        ps.solve(brusselator(8), "FBDF(linsolve=KrylovJL_GMRES)", engine="julia")
