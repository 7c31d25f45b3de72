"""Stochastic equations: strong and weak order, moments, and that a seed is a path."""

import jax
import numpy as np
import pytest
import sympy as sp
from jax.extend.random import threefry_2x32
from scipy import stats

import pysciml as ps
from pysciml.engines.base import SolveOptions, registry
from pysciml.engines.batch import Batch, BatchOptions
from pysciml.engines.jax import brownian
from pysciml.engines.jax.algorithms import ALGORITHMS
from pysciml.engines.jax.noise import is_commutative, stratonovich
from pysciml.engines.jax.rossler import TABLEAUS

D = ps.D
x, y = ps.variables("x y")
mu, sigma, theta = ps.parameters("mu sigma theta")
W, V = ps.brownian("W V")


@pytest.fixture(autouse=True)
def _cache(monkeypatch):
    monkeypatch.setenv("PYSCIML_CACHE_DIR", "")


def ends(system, u0, p, count, alg, dt, seed=1, end=1.0):
    """The end values of ``count`` trajectories, shape (count, n_states)."""
    model = system.model
    u0 = np.tile([u0[name] for name in model.states], (count, 1))
    p = np.tile([p[name] for name in model.parameters], (count, 1))
    out = np.empty((count, len(model.states)))

    def store(low, high, u, retcodes):
        assert set(retcodes) == {"Success"}
        out[low:high] = u[:, 0]

    batch = Batch(
        count,
        (0.0, end),
        lambda low, high: (u0[low:high], p[low:high]),
        lambda low, high: np.arange(low, high, dtype=np.uint32),
        store,
    )
    engine = registry()["jax"]
    engine.check(model, alg)
    engine.solve_many(model, alg, batch, BatchOptions(SolveOptions(dt=dt, seed=seed), 2**28, 1))
    return out


GBM = ps.System([ps.Eq(D(x), mu * x + sigma * x * W)], name="gbm")
#: A commutative two-noise equation with a solution: both noises scale the same state.
MULTI = ps.System([ps.Eq(D(x), mu * x + sigma * x * W + theta * x * V)], name="multi")
OU = ps.System([ps.Eq(D(x), -theta * x + sigma * W)], name="ou")
#: The noises themselves; methods with and without Lévy areas have their own paths.
PATH = ps.System([ps.Eq(D(x), W), ps.Eq(D(y), V)], name="path")
ONE = ps.System([ps.Eq(D(x), W)], name="one")


@pytest.mark.parametrize(
    ("alg", "order"),
    [
        ("EM", 0.5),
        ("Milstein", 1.0),
        ("RKMil", 1.0),
        ("EulerHeun", 1.0),
        ("GeneralShARK", 1.0),
        ("SlowRK", 1.5),
        ("SRIW1", 1.5),
        ("SOSRI", 1.5),
    ],
)
def test_strong_order_on_geometric_brownian_motion(alg, order):
    """X(1) = exp(mu - sigma^2/2 + sigma W(1)), on the same path."""
    own = ALGORITHMS[alg].family == "increment"
    steps = {"increment": (8, 32, 128), "levy": (4, 16), "rossler": (16, 128)}[ALGORITHMS[alg].family]
    w = ends(ONE, {"x": 0.0}, {}, 1000, "EM" if own else "SRA1", 1 / 4)[:, 0]
    exact = np.exp(1.5 - 0.5 + w)
    errors = [
        np.mean(np.abs(ends(GBM, {"x": 1.0}, {"mu": 1.5, "sigma": 1.0}, 1000, alg, 1 / n)[:, 0] - exact)) for n in steps
    ]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -slope == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(("alg", "order"), [("EM", 0.5), ("Milstein", 1.0)])
def test_strong_order_with_two_noises(alg, order):
    w = ends(PATH, {"x": 0.0, "y": 0.0}, {}, 1000, "EM", 1 / 4)
    exact = np.exp(1.0 - (0.8**2 + 0.5**2) / 2 + 0.8 * w[:, 0] + 0.5 * w[:, 1])
    p = {"mu": 1.0, "sigma": 0.8, "theta": 0.5}
    steps = (8, 64)
    errors = [np.mean(np.abs(ends(MULTI, {"x": 1.0}, p, 1000, alg, 1 / n)[:, 0] - exact)) for n in steps]
    assert np.log(errors[0] / errors[1]) / np.log(8) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(("alg", "order"), [("RKMil", 1.0), ("SOSRI", 1.5)])
def test_strong_order_with_diagonal_noise_and_a_drift_that_couples(alg, order):
    """dX = (a X + Y) dt + s X dW, dY = s Y dV, against steps many times smaller on the same paths."""
    system = ps.System([ps.Eq(D(x), -theta * x + y + sigma * x * W), ps.Eq(D(y), sigma * sp.sin(y) * V)], name="pair")
    start, p = {"x": 1.0, "y": 1.0}, {"theta": 1.0, "sigma": 0.7}
    fine = ends(system, start, p, 400, "SOSRI" if alg == "SOSRI" else "Milstein", 1 / 512)
    errors = [np.mean(np.abs(ends(system, start, p, 400, alg, 1 / n) - fine)) for n in (4, 16)]
    assert np.log(errors[0] / errors[1]) / np.log(4) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", ["SRIW1", "SOSRI"])
def test_the_tableaus_of_strong_order_fulfil_its_conditions(name):
    """Rößler 2010, theorem 6.1: the conditions for strong order 3/2, all 25 of them."""
    tab = TABLEAUS[name]

    def square(rows):
        return np.array([[0.0] * 4, *([*row, *[0.0] * (4 - len(row))] for row in rows)])

    a0, a1, b0, b1 = map(square, (tab.a0, tab.a1, tab.b0, tab.b1))
    one = np.ones(4)
    betas = np.array([tab.beta1, tab.beta2, tab.beta3, tab.beta4])
    np.testing.assert_allclose(betas @ one, [1, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(betas @ b1 @ one, [0, 1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(betas @ a1 @ one, [1, 0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(betas @ (b1 @ one) ** 2, [1, 0, -1, 2], atol=1e-11)
    np.testing.assert_allclose(betas @ b1 @ (b1 @ one), [0, 0, 0, 1], atol=1e-11)
    drift = [one, a0 @ one, b0 @ one, (b0 @ one) ** 2]
    np.testing.assert_allclose([np.dot(tab.alpha, v) for v in drift], [1, 1 / 2, 1, 3 / 2], atol=1e-12)
    assert np.dot(tab.beta1, a1 @ b0 @ one) / 2 + np.dot(tab.beta3, a1 @ b0 @ one) / 3 == pytest.approx(0, abs=1e-11)
    np.testing.assert_allclose(a1 @ one, tab.c1, atol=1e-14)


def test_methods_for_separate_noise_refuse_any_other():
    engine = registry()["jax"]
    shared = ps.System([ps.Eq(D(x), x * W), ps.Eq(D(y), x * y * W)])  # one noise, whatever it depends on
    apart = ps.System([ps.Eq(D(x), sp.sqrt(x) * W), ps.Eq(D(y), sigma * y * V)])
    mixed = ps.System([ps.Eq(D(x), y * x * W), ps.Eq(D(y), sigma * y * V)])
    for name in ("RKMil", "SOSRI"):
        engine.check(shared.model, name)
        engine.check(apart.model, name)
        for system in (mixed, MULTI):
            with pytest.raises(ps.UnsupportedError, match=f"{name} needs scalar or diagonal noise"):
                engine.check(system.model, name)


@pytest.mark.parametrize("alg", ["SRA1", "SOSRA", "ShARK", "SEA"])
def test_additive_methods_converge_with_their_order(alg):
    """On du = sin(u) dt + dW, against steps many times smaller on the same path."""
    system = ps.System([ps.Eq(D(x), sp.sin(x) - theta * x + sigma * W)], name="pull")
    p = {"theta": 0.3, "sigma": 0.8}
    fine = ends(system, {"x": 1.0}, p, 200, alg, 1 / 128)[:, 0]
    errors = [np.sqrt(np.mean((ends(system, {"x": 1.0}, p, 200, alg, 1 / n)[:, 0] - fine) ** 2)) for n in (4, 16)]
    assert np.log(errors[0] / errors[1]) / np.log(4) == pytest.approx(ALGORITHMS[alg].order, abs=0.35)


def test_weak_order_one_and_moments_of_euler_maruyama():
    """E[X(1)] of geometric Brownian motion is exp(mu); of the scheme it is (1 + mu h)^n."""
    for n in (4, 16):
        values = ends(GBM, {"x": 1.0}, {"mu": 1.0, "sigma": 0.2}, 20_000, "EM", 1 / n)[:, 0]
        sem = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - (1 + 1 / n) ** n) < 4 * sem
        assert abs((1 + 1 / n) ** n - np.e) > 10 * sem  # so that the order is seen


def test_the_distribution_of_the_ornstein_uhlenbeck_process():
    values = ends(OU, {"x": 1.0}, {"theta": 1.0, "sigma": 0.5}, 4000, "SRA1", 1 / 8)[:, 0]
    exact = stats.norm(np.exp(-1), 0.5 * np.sqrt((1 - np.exp(-2)) / 2))
    assert stats.kstest(values, exact.cdf).pvalue > 0.01


def test_adaptive_steps_converge_on_one_path():
    problem = ps.Problem(GBM, {x: 1.0}, (0, 1), {mu: 0.5, sigma: 0.3})

    def end(tolerance):
        sol = ps.solve(problem, "SPaRK", engine="jax", rtol=tolerance, atol=tolerance, seed=5, saveat=[1.0])
        return float(sol.x[-1]), sol.attrs["n_steps"]

    (coarse, few), (middle, more), (fine, most) = end(1e-2), end(1e-3), end(1e-5)
    assert few < more < most
    assert abs(middle - fine) < abs(coarse - fine) < 0.1
    assert abs(middle - fine) < 1e-2


def test_a_seed_is_a_path_whatever_the_output_and_the_step():
    problem = ps.Problem(ONE, {x: 0.0}, (0, 2))
    coarse = ps.solve(problem, "EM", engine="jax", dt=0.1, seed=7, saveat=0.5)
    fine = ps.solve(problem, "EM", engine="jax", dt=0.003, seed=7, saveat=[2.0])
    own = ps.solve(problem, "EM", engine="jax", dt=0.1, seed=7)
    other = ps.solve(problem, "EM", engine="jax", dt=0.1, seed=8, saveat=0.5)
    np.testing.assert_allclose(coarse.x[-1], fine.x[-1], rtol=1e-10)
    np.testing.assert_allclose(own.sel(t=[0.5, 1.0, 2.0], method="nearest").x, coarse.x[[1, 2, 4]], rtol=1e-10)
    assert abs(float(other.x[-1] - coarse.x[-1])) > 1e-3
    assert coarse.attrs["seed"] == 7


def test_without_a_seed_one_is_drawn_and_told():
    problem = ps.Problem(ONE, {x: 0.0}, (0, 1))
    first = ps.solve(problem, "EM", engine="jax", dt=0.1, saveat=[1.0])
    second = ps.solve(problem, "EM", engine="jax", dt=0.1, saveat=[1.0])
    again = ps.solve(problem, "EM", engine="jax", dt=0.1, saveat=[1.0], seed=first.attrs["seed"])
    assert float(first.x[-1]) != float(second.x[-1])
    assert float(first.x[-1]) == float(again.x[-1])


def test_the_brownian_motion_has_the_covariance_of_one():
    times = np.array([0.25, 0.3, 0.301, 1 / 3, 0.7, 1.0])
    key = np.array([0, 3], dtype=np.uint32)

    def path(index):
        own = brownian.trajectory_key(key, index)
        return jax.lax.scan(lambda s, r: brownian.walk(s, own, r), brownian.walker(3, 16), times)[1]

    with jax.enable_x64(True):
        w = np.asarray(jax.jit(jax.vmap(path))(np.arange(50_000, dtype=np.uint32)))
    expected = np.minimum.outer(times, times)
    np.testing.assert_allclose(np.cov(w[:, :, 0].T), expected, atol=0.03)
    np.testing.assert_allclose(np.corrcoef(w[:, 3].T), np.eye(3), atol=0.02)
    for j, time in enumerate(times):
        assert stats.kstest(w[:, j, 2] / np.sqrt(time), "norm").pvalue > 1e-3


def test_normal_numbers_keep_their_digits_in_the_tails():
    words = np.concatenate([np.arange(0, 2000, 2), np.random.default_rng(0).integers(0, 2**32, 10_000)])
    words = words.astype(np.uint32)
    exact = stats.norm.ppf(((words >> 1) + 0.5) * 2.0**-32) * np.where(words & 1, -1.0, 1.0)
    found = np.asarray(brownian.normal(words)).astype(float)
    np.testing.assert_allclose(np.abs(found), np.abs(exact), rtol=5e-4, atol=2e-7)


def test_the_counter_generator_is_threefry():
    """The zero vector's known answer (Random123, threefry2x32 with 20 rounds), and JAX's own for others."""
    zero = np.uint32(0)
    words = brownian.threefry(np.zeros(2, np.uint32), zero, zero)
    assert tuple(int(word) for word in words) == (0x6B200159, 0x99BA4EFE)
    key, counter = np.array([7, 9], np.uint32), np.array([3, 2**31 + 5], np.uint32)
    np.testing.assert_array_equal(np.stack(brownian.threefry(key, *counter)), threefry_2x32(key, counter))


def test_the_drift_correction_is_the_exact_one():
    """dx = a x dt + s x y dW, dy = s y dW: b = s (x y, y), correction = s^2/2 (x y^2 + x y, y)."""
    system = ps.System([ps.Eq(D(x), mu * x + sigma * x * y * W), ps.Eq(D(y), sigma * y * W)])
    graph = stratonovich(system.model)
    p = [{"mu": 0.7, "sigma": 0.4}[name] for name in system.model.parameters]
    found = graph.evaluate("rhs", [2.0, 3.0], p, 0.0)
    np.testing.assert_allclose(found, [0.7 * 2 - 0.08 * (18 + 6), -0.08 * 3], rtol=1e-14)


def test_milstein_refuses_noise_that_does_not_commute():
    heston = ps.System([ps.Eq(D(x), sp.sqrt(y) * x * W), ps.Eq(D(y), theta * (1 - y) + sigma * sp.sqrt(y) * V)])
    assert not is_commutative(heston.model)
    assert is_commutative(MULTI.model)
    with pytest.raises(ps.UnsupportedError, match="does not commute; EM"):
        registry()["jax"].check(heston.model, "Milstein")
    with pytest.raises(ps.UnsupportedError, match="needs additive noise"):
        registry()["jax"].check(GBM.model, "SRA1")


def test_what_a_stochastic_solve_needs_is_said():
    problem = ps.Problem(GBM, {x: 1.0}, (0, 1), {mu: 0.5, sigma: 0.3})
    with pytest.raises(ps.ProblemError, match=r"EM steps with a fixed step size: pass dt=.*SPaRK"):
        ps.solve(problem, "EM", engine="jax")
    chosen = ps.solve(problem, engine="jax", saveat=[1.0], seed=3)
    assert (chosen.attrs["algorithm"], chosen.attrs["dt"], chosen.attrs["n_steps"]) == ("EM", 1e-3, 1000)
    same = ps.solve(problem, "EM", engine="jax", dt=1e-3, saveat=[1.0], seed=3)
    assert float(chosen.x[0]) == float(same.x[0])
    with pytest.raises(ps.ProblemError, match="backward"):
        ps.solve(problem.remake(tspan=(1, 0)), engine="jax", dt=0.1)
    heun = ps.solve(problem, "EulerHeun", engine="jax", dt=0.1, saveat=[1.0])
    assert "drift corrected" in heun.attrs["calculus"]
