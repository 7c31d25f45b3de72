"""`ps.fit`: it finds what made the data, says how sure it is, and survives what cannot be solved."""

from __future__ import annotations

import itertools
import warnings
from typing import Any, ClassVar

import numpy as np
import pytest
import sympy as sp
import xarray as xr
from scipy import optimize
from scipy.integrate import solve_ivp

import pysciml as ps
from pysciml.engines import base
from pysciml.engines.base import Engine, RawSolution, Sensitivities, SolveOptions
from pysciml.fitting import FitWarning

x, y = ps.variables("x y")
a, b, c, d, k = ps.parameters("a b c d k")
D = ps.D

lotka = ps.System([ps.Eq(D(x), a * x - b * x * y), ps.Eq(D(y), -c * y + d * x * y)], name="lotka")
TRUTH = {"a": 1.5, "b": 1.0, "c": 3.0, "d": 1.0}
decay = ps.System([ps.Eq(D(x), -k * x)], observed={"double": 2 * x, "log_x": sp.log(x), "mixed": k * x}, name="decay")


class Reference(Engine):
    """SciPy's DOP853 on the graph's interpreter: independent of every engine of the package."""

    name: ClassVar[str] = "reference"
    kinds: ClassVar[tuple[str, ...]] = ("ode",)

    def __init__(self, *, sensitive: bool = False, fails: Any = None) -> None:
        self.sensitive = sensitive
        self.fails = fails or (lambda u0, p: False)
        self.n_failed = 0

    def unavailable(self) -> str | None:
        return None

    def version(self) -> str:
        return "1"

    def algorithms(self) -> dict[str, str]:
        return {"DOP853": "Dormand and Prince 8(5,3)"}

    def check(self, model: Any, algorithm: str | None) -> None:
        self.check_algorithm(algorithm)

    def solve(
        self, model: Any, u0: Any, p: Any, tspan: Any, algorithm: str | None, options: SolveOptions
    ) -> RawSolution:
        if self.fails(u0, p):
            self.n_failed += 1
            return RawSolution(np.array([tspan[0]]), u0[:, None], "DOP853", "Unstable", "it blew up")
        got = solve_ivp(
            lambda t, u: model.graph.evaluate("rhs", u, p, t),
            tspan,
            u0,
            method="DOP853",
            t_eval=options.saveat,
            rtol=options.rtol,
            atol=options.atol,
        )
        return RawSolution(got.t, got.y, "DOP853", n_rhs=got.nfev)

    def sensitivities(
        self, model: Any, u0: Any, p: Any, tspan: Any, algorithm: str | None, options: SolveOptions
    ) -> Sensitivities:
        if not self.sensitive:
            return super().sensitivities(model, u0, p, tspan, algorithm, options)
        n, m = len(u0), len(p)
        (by_u, rows, cols), (by_p, rows_p, cols_p) = model.graph.jacobian("rhs"), model.graph.jacobian("rhs", "params")

        def rhs(t: float, z: Any) -> Any:
            u, s = z[:n], z[n:].reshape(n, m + n)
            j, jp = np.zeros((n, n)), np.zeros((n, m + n))
            j[rows, cols] = by_u.evaluate("jacobian", u, p, t)
            jp[rows_p, cols_p] = by_p.evaluate("jacobian", u, p, t)
            return np.concatenate([model.graph.evaluate("rhs", u, p, t), (j @ s + jp).ravel()])

        start = np.concatenate([u0, np.hstack([np.zeros((n, m)), np.eye(n)]).ravel()])
        got = solve_ivp(rhs, tspan, start, "DOP853", options.saveat, rtol=options.rtol, atol=options.atol)
        s = got.y[n:].reshape(n, m + n, -1).transpose(0, 2, 1)
        return Sensitivities(RawSolution(got.t, got.y[:n], "DOP853"), s[:, :, :m], s[:, :, m:])


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register a `Reference` engine, made with the given options, for one test."""

    def register(**options: Any) -> Reference:
        engine = Reference(**options)
        monkeypatch.setattr(base, "registry", lambda: {"reference": engine})
        return engine

    return register


def decaying(times: Any, noise: float = 0.0, seed: int = 0, rate: float = 0.7, start: float = 2.0) -> xr.Dataset:
    exact = start * np.exp(-rate * np.asarray(times))
    values = exact + noise * np.random.default_rng(seed).normal(size=exact.shape)
    return xr.Dataset({"x": ("t", values)}, coords={"t": times})


def decay_problem(**p: float) -> ps.Problem:
    return ps.Problem(decay, {x: 1.0}, (0, 5), {k: 1.0} | p)


def lotka_data(noise: float = 0.0, seed: int = 0) -> xr.Dataset:
    truth = ps.Problem(lotka, {x: 1.0, y: 1.0}, (0, 6), TRUTH)
    data = ps.solve(truth, saveat=0.2, rtol=1e-10, atol=1e-12)[["x", "y"]]
    rng = np.random.default_rng(seed)
    return data + noise * xr.Dataset({name: ("t", rng.normal(size=data.sizes["t"])) for name in ("x", "y")})


def lotka_start() -> ps.Problem:
    return ps.Problem(lotka, {x: 1.2, y: 0.9}, (0, 6), {a: 1.3, b: 0.9, c: 2.7, d: 1.2})


# ---- it finds what made the data ----


def test_exact_data_give_back_the_parameters_and_initial_values() -> None:
    result = ps.fit(lotka_start(), lotka_data(), [a, "b", c, "d", x, "y"])
    assert result.success
    expected = [*TRUTH.values(), 1.0, 1.0]
    np.testing.assert_allclose(result.estimates["estimate"], expected, rtol=1e-6)
    assert list(result.estimates["parameter"].values) == ["a", "b", "c", "d", "x", "y"]
    assert list(result.estimates["kind"].values) == ["parameter"] * 4 + ["initial value"] * 2
    fitted = dict(zip(lotka.model.parameters, result.problem.p, strict=True))
    assert fitted == pytest.approx(TRUTH, rel=1e-6)
    np.testing.assert_allclose(result.problem.u0, expected[4:], rtol=1e-6)
    assert result.loss < 1e-10


def test_noisy_data_give_intervals_that_hold_the_truth() -> None:
    result = ps.fit(lotka_start(), lotka_data(noise=0.1, seed=3), ["a", "b", "c", "d", "x", "y"])
    e = result.estimates
    truth = xr.DataArray([*TRUTH.values(), 1.0, 1.0], dims="parameter")
    assert bool(((e.ci_low < truth) & (truth < e.ci_high)).all())
    assert bool((e.stderr > 0).all())
    assert bool((e.stderr < 0.1 * e.estimate).all())


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    times = np.linspace(0, 4, 12)
    covered = 0
    for seed in range(100):
        data = decaying(times, noise=0.05, seed=seed)
        e = ps.fit(decay_problem(), data, [k, x]).estimates.sel(parameter="k")
        covered += bool(e.ci_low < 0.7 < e.ci_high)
    # 95 % of 100; the binomial distribution gives 88..99 with a probability of 0.99.
    assert 88 <= covered <= 99


def test_it_agrees_with_curve_fit_where_the_solution_is_known() -> None:
    times = np.linspace(0, 5, 25)
    data = decaying(times, noise=0.05, seed=1)
    result = ps.fit(decay_problem(), data, [k, x], rtol=1e-10, atol=1e-12)
    best, covariance = optimize.curve_fit(
        lambda t, rate, start: start * np.exp(-rate * t), times, data.x.values, [1.0, 1.0]
    )
    np.testing.assert_allclose(result.estimates["estimate"], best, rtol=1e-6)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-4)
    np.testing.assert_allclose(result.estimates["stderr"] ** 2, np.diag(covariance), rtol=1e-4)
    np.testing.assert_allclose(np.diag(result.correlation), 1.0)


def test_known_standard_deviations_are_taken_as_they_are() -> None:
    times = np.linspace(0, 5, 25)
    spread = 0.02 + 0.01 * times
    data = decaying(times)
    data["x"] = data.x + spread * np.random.default_rng(4).normal(size=25)
    sigma = {x: xr.DataArray(spread, dims="t", coords={"t": times})}
    result = ps.fit(decay_problem(), data, [k, x], sigma=sigma, absolute_sigma=True, rtol=1e-10, atol=1e-12)
    best, covariance = optimize.curve_fit(
        lambda t, rate, start: start * np.exp(-rate * t),
        times,
        data.x.values,
        [1.0, 1.0],
        sigma=spread,
        absolute_sigma=True,
    )
    np.testing.assert_allclose(result.estimates["estimate"], best, rtol=1e-6)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-4)


def test_weights_are_inverse_squares_of_sigma() -> None:
    data = decaying(np.linspace(0, 4, 9), noise=0.1)
    data["double"] = 2 * data.x + 0.1
    by_sigma = ps.fit(decay_problem(), data, [k], sigma={"x": 0.5, "double": 2.0})
    by_weight = ps.fit(decay_problem(), data, [k], weights={"x": 4.0, "double": 0.25})
    unweighted = ps.fit(decay_problem(), data, [k])
    assert float(by_sigma.estimates.estimate[0]) == pytest.approx(float(by_weight.estimates.estimate[0]), rel=1e-9)
    assert float(by_sigma.estimates.estimate[0]) != pytest.approx(float(unweighted.estimates.estimate[0]), rel=1e-4)


def test_missing_values_are_left_out() -> None:
    data = lotka_data(noise=0.05)
    data["x"][3:20] = np.nan
    data["y"][::2] = np.nan
    result = ps.fit(lotka_start().remake(u0={x: 1.0, y: 1.0}), data, [a, b, c, d])
    kept = int(data.x.notnull().sum() + data.y.notnull().sum())
    assert result.dof == kept - 4
    np.testing.assert_allclose(result.estimates.estimate, list(TRUTH.values()), rtol=0.1)
    assert np.array_equal(np.isnan(result.residuals.x), np.isnan(data.x))


def test_an_observed_quantity_alone_can_be_fitted() -> None:
    times = np.linspace(0, 5, 11)
    data = xr.Dataset({"log_x": ("t", np.log(2.0) - 0.7 * times)}, coords={"t": times})
    result = ps.fit(decay_problem(), data, [k, x])
    np.testing.assert_allclose(result.estimates["estimate"], [0.7, 2.0], rtol=1e-6)


def test_data_need_not_begin_where_the_problem_does() -> None:
    times = np.array([1.0, 1.5, 3.25])
    result = ps.fit(decay_problem(), decaying(times), ["k", "x"])
    np.testing.assert_allclose(result.estimates["estimate"], [0.7, 2.0], rtol=1e-6)
    assert np.array_equal(result.residuals["t"], times)
    assert float(result.solution["t"][-1]) == 5.0


def test_data_of_a_problem_that_runs_backward() -> None:
    times = np.linspace(0, 5, 11)
    problem = ps.Problem(decay, {x: 0.1}, (5, 0), {k: 1.0})
    result = ps.fit(problem, decaying(times, noise=0.01), [k, x])
    assert float(result.estimates.estimate[0]) == pytest.approx(0.7, rel=0.05)
    assert np.array_equal(result.residuals["t"], times)
    expected = decaying(times, noise=0.01).x - result.solution.x.sel(t=times)
    np.testing.assert_allclose(result.residuals.x, expected, atol=1e-7)


def test_residuals_are_data_minus_model() -> None:
    data = decaying(np.linspace(0, 5, 7), noise=0.1)
    result = ps.fit(decay_problem(), data, [k, x])
    model = result.solution.x.sel(t=data.t)
    np.testing.assert_allclose(result.residuals.x, data.x - model, atol=1e-7)
    assert result.loss == pytest.approx(float((result.residuals.x**2).sum()))


def test_what_solve_returns_can_be_fitted_as_it_is() -> None:
    made = ps.solve(decay_problem().remake(u0={x: 2.0}, p={k: 0.7}), saveat=0.1, rtol=1e-10)
    result = ps.fit(decay_problem(), made, [k, x])
    np.testing.assert_allclose(result.estimates["estimate"], [0.7, 2.0], rtol=1e-6)


# ---- scales, bounds, losses ----


def test_logarithmic_estimates_have_positive_asymmetric_intervals() -> None:
    data = decaying(np.linspace(0, 2, 6), noise=0.6, seed=5)
    plain = ps.fit(decay_problem(), data, [k, x])
    logged = ps.fit(decay_problem(), data, [k, x], log=["k"])
    np.testing.assert_allclose(logged.estimates.estimate, plain.estimates.estimate, rtol=1e-4)
    np.testing.assert_allclose(logged.covariance, plain.covariance, rtol=1e-3)
    assert float(plain.estimates.ci_low[0]) < 0  # so noisy that the symmetric interval is impossible
    e = logged.estimates.sel(parameter="k")
    assert 0 < e.ci_low < e.estimate < e.ci_high
    assert float(e.ci_low * e.ci_high) == pytest.approx(float(e.estimate) ** 2, rel=1e-9)
    assert np.array_equal(ps.fit(decay_problem(), data, [k, x], log=True).estimates.ci_low > 0, np.array([True, True]))


def test_bounds_hold_and_an_estimate_at_one_is_said() -> None:
    data = decaying(np.linspace(0, 5, 20), noise=0.01)
    with pytest.warns(FitWarning, match=r"k is at its bound \(0\.9\)"):
        result = ps.fit(decay_problem(), data, [k, x], bounds={k: (0.9, 2.0)})
    e = result.estimates
    assert float(e.estimate[0]) == pytest.approx(0.9, rel=1e-5)
    assert float(e.estimate[0]) >= 0.9
    assert np.isnan(e.stderr[0])
    assert e.stderr[1] > 0
    assert float(result.history["value"].sel(parameter="k").min()) >= 0.9


def test_bounds_that_do_not_matter_change_nothing() -> None:
    data = decaying(np.linspace(0, 5, 20), noise=0.05)
    free = ps.fit(decay_problem(), data, [k, x])
    bounded = ps.fit(decay_problem(), data, [k, x], bounds={"k": (0, 10), x: (None, np.inf)})
    np.testing.assert_allclose(free.estimates.estimate, bounded.estimates.estimate, rtol=1e-6)


@pytest.mark.parametrize("loss", ["soft_l1", "huber", "cauchy", "arctan"])
def test_a_robust_loss_is_not_drawn_by_outliers(loss: str) -> None:
    data = decaying(np.linspace(0, 5, 41), noise=0.02)
    data["x"][[5, 17, 30]] += 3.0
    plain = ps.fit(decay_problem(), data, [k, x]).estimates
    problem = ps.Problem(decay, {x: 1.8}, (0, 5), {k: 0.8})
    robust = ps.fit(problem, data, [k, x], loss=loss, loss_scale=0.05).estimates
    assert abs(float(robust.estimate[0]) - 0.7) < 0.02
    assert abs(float(plain.estimate[0]) - 0.7) > 5 * abs(float(robust.estimate[0]) - 0.7)
    assert bool((robust.stderr < 0.5 * plain.stderr).all())
    assert bool((robust.ci_low < [0.7, 2.0]).all() and (robust.ci_high > [0.7, 2.0]).all())


def test_a_loss_of_ones_own_is_the_one_it_imitates() -> None:
    data = decaying(np.linspace(0, 5, 21), noise=0.1)

    def cauchy(z: Any) -> Any:
        return np.stack([np.log1p(z), 1 / (1 + z), -1 / (1 + z) ** 2])

    own = ps.fit(decay_problem(), data, [k], loss=cauchy)
    named = ps.fit(decay_problem(), data, [k], loss="cauchy")
    assert own.loss == named.loss
    np.testing.assert_array_equal(own.covariance, named.covariance)


def test_the_covariance_of_a_robust_fit_is_that_of_the_plain_one_without_outliers() -> None:
    data = decaying(np.linspace(0, 5, 41), noise=0.02)
    plain = ps.fit(decay_problem(), data, [k, x])
    robust = ps.fit(decay_problem(), data, [k, x], loss="huber", loss_scale=10.0)  # no residual is that large
    np.testing.assert_allclose(robust.covariance, plain.covariance, rtol=1e-5)


# ---- derivatives ----


@pytest.mark.parametrize("log", [(), ("b", "x")])
def test_sensitivities_and_finite_differences_agree(reference: Any, log: Any) -> None:
    rng = np.random.default_rng(0)
    times = np.linspace(0.3, 4, 8)
    system = ps.System(
        [ps.Eq(D(x), a * x - b * x * y), ps.Eq(D(y), -c * y + d * x * y)], observed={"food": b * x * y + sp.sin(x)}
    )
    data = xr.Dataset({name: ("t", 1 + 0.3 * rng.normal(size=8)) for name in ("x", "y", "food")}, coords={"t": times})
    problem = ps.Problem(system, {x: 1.0, y: 1.0}, (0, 4), TRUTH)
    fits: list[Any] = []
    for sensitive in (True, False):
        reference(sensitive=sensitive)
        fits.append(ps.fit(problem, data, ["b", "d", "x"], log=log))
    exact, differences = fits
    assert exact.jacobian == exact.estimates.attrs["jacobian"] == "sensitivities"
    assert differences.jacobian == "finite differences"
    np.testing.assert_allclose(exact.estimates.estimate, differences.estimates.estimate, rtol=1e-5)
    np.testing.assert_allclose(exact.covariance, differences.covariance, rtol=1e-4)
    assert exact.history.n_solves[-1] < differences.history.n_solves[-1]


def test_the_jax_engine_differentiates_only_what_is_free_and_through_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ball dropped from 2 m, seen before and after its bounce; the estimates are those of the exact formula."""
    monkeypatch.setenv("PYSCIML_CACHE_DIR", "")
    g, e, h = 9.81, 0.8, 2.0
    ball = ps.System(
        [ps.Eq(D(x), y), ps.Eq(D(y), -a)], parameters=[a, b], events=[ps.Event(x, {y: -b * y}, direction="down")]
    )
    times = np.linspace(0.1, 1.1, 12)
    bounce = np.sqrt(2 * h / g)
    s = times - bounce
    height = np.where(s < 0, h - g / 2 * times**2, e * g * bounce * s - g / 2 * s**2)
    noise = 1e-3 * np.random.default_rng(1).normal(size=12)
    data = xr.Dataset({"x": ("t", height + noise)}, coords={"t": times})
    start = ps.Problem(ball, {x: 1.9, y: 0.0}, (0, 1.1), {a: 9.0, b: 0.7})
    found = ps.fit(start, data, [x, b, a], engine="jax")
    assert found.jacobian == "sensitivities by JAX, forward mode"
    assert "derivatives by sensitivities by JAX" not in repr(found)
    assert "derivatives: sensitivities by JAX, forward mode" in repr(found)
    np.testing.assert_allclose(found.estimates.estimate, [h, e, g], rtol=3e-3)

    def model(numbers: Any) -> Any:
        h, e, g = numbers
        t1 = np.sqrt(2 * h / g)
        s = times - t1
        return np.where(s < 0, h - g / 2 * times**2, e * g * t1 * s - g / 2 * s**2)

    exact = optimize.least_squares(lambda n: model(n) - data.x.values, [h, e, g], xtol=1e-12, ftol=1e-12)
    np.testing.assert_allclose(found.estimates.estimate, exact.x, rtol=1e-6)


def test_the_history_counts_every_solve(reference: Any) -> None:
    engine = reference()
    calls = itertools.count()
    solve = engine.solve

    def counted(*args: Any) -> RawSolution:
        next(calls)
        return solve(*args)

    engine.solve = counted
    result = ps.fit(decay_problem(), decaying(np.linspace(0, 5, 6), noise=0.1), [k, x])
    history = result.history
    assert 0 <= next(calls) - int(history.n_solves[-1]) <= 5  # the solve and derivatives at the end come after it
    assert float(history.loss.min()) == pytest.approx(result.loss)
    assert bool((history.n_solves.diff("evaluation") > 0).all())
    assert bool((history.seconds.diff("evaluation") >= 0).all())
    assert history["value"].dims == ("evaluation", "parameter")
    assert not history.failed.any()
    assert int(history.n_rhs[-1]) > 0


# ---- what cannot be solved ----


def test_points_that_cannot_be_solved_turn_the_search_back(reference: Any) -> None:
    engine = reference(fails=lambda u0, p: p[0] < 0.6)
    data = decaying(np.linspace(0, 5, 11), rate=0.61)
    result = ps.fit(ps.Problem(decay, {x: 2.0}, (0, 5), {k: 3.0}), data, [k])
    assert engine.n_failed > 0
    assert float(result.estimates.estimate[0]) == pytest.approx(0.61, rel=1e-4)
    assert np.isfinite(result.history.loss).all()
    assert bool(result.history.failed.any()) == ("could not be solved" in result.message)


def test_derivatives_at_the_edge_of_what_can_be_solved_are_one_sided(reference: Any) -> None:
    engine = reference(fails=lambda u0, p: p[0] < 0.69999)
    data = decaying(np.linspace(0, 5, 11), noise=0.01)
    result = ps.fit(ps.Problem(decay, {x: 2.0}, (0, 5), {k: 0.7}), data, [k])
    assert engine.n_failed > 0
    assert 0.69 < float(result.estimates.estimate[0]) < 0.75


@pytest.mark.parametrize("loss", ["linear", "cauchy", "arctan"])
def test_it_never_ends_worse_than_it_started(reference: Any, loss: str) -> None:
    data = decaying(np.linspace(0, 5, 11), noise=0.1)
    problem = ps.Problem(decay, {x: 2.0}, (0, 5), {k: 0.9})
    start = problem.p[0]
    reference(fails=lambda u0, p: abs(p[0] - start) > 1e-12)  # nothing but the start can be solved
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        result = ps.fit(problem, data, [k], loss=loss)
    assert float(result.estimates.estimate[0]) == start
    assert result.loss == float(result.history.loss[0])


def test_a_start_that_cannot_be_solved_is_an_error_that_says_why(reference: Any) -> None:
    reference(fails=lambda u0, p: True)
    with pytest.raises(ps.SolverError, match=r"cannot be solved at the starting values.*it blew up") as caught:
        ps.fit(decay_problem(), decaying([1.0, 2.0]), [k])
    assert caught.value.retcode == "Unstable"
    assert caught.value.partial is not None


def test_a_start_without_finite_values_is_an_error(reference: Any) -> None:
    reference()
    data = xr.Dataset({"log_x": ("t", [0.0, -1.0])}, coords={"t": [1.0, 2.0]})
    with pytest.raises(ps.SolverError, match="not finite"):
        ps.fit(ps.Problem(decay, {x: -1.0}, (0, 5), {k: 1.0}), data, [k])


def test_a_terminal_event_before_the_last_datum_is_an_error() -> None:
    system = ps.System([ps.Eq(D(x), -k * x)], events=[ps.Event(x - 0.5, direction="down", terminal=True)])
    with pytest.raises(ps.SolverError, match="terminal event"):
        ps.fit(ps.Problem(system, {x: 1.0}, (0, 5), {k: 1.0}), decaying([0.1, 4.0]), [k])


def test_an_interrupt_is_passed_on(reference: Any) -> None:
    engine = reference()
    engine.solve = lambda *args: RawSolution(np.array([0.0]), np.ones((1, 1)), "DOP853", "Interrupted")
    with pytest.raises(KeyboardInterrupt):
        ps.fit(decay_problem(), decaying([1.0, 2.0]), [k])


# ---- what the data do not determine ----


def test_parameters_that_only_enter_as_a_product_are_named() -> None:
    system = ps.System([ps.Eq(D(x), -a * b * x + c - c * x)])
    data = decaying(np.linspace(0, 5, 20), noise=0.01)
    problem = ps.Problem(system, {x: 2.0}, (0, 5), {a: 1.0, b: 0.8, c: 0.05})
    with pytest.warns(FitWarning, match="the data do not determine a and b apart"):
        result = ps.fit(problem, data, [a, b, c])
    e = result.estimates
    assert np.isnan(e.stderr.sel(parameter=["a", "b"])).all()
    assert float(e.stderr.sel(parameter="c")) > 0
    found = dict(zip(e["parameter"].values.tolist(), e.estimate.values.tolist(), strict=True))
    assert found["a"] * found["b"] + found["c"] == pytest.approx(0.7, rel=0.1)


def test_a_parameter_without_influence_is_named() -> None:
    system = ps.System([ps.Eq(D(x), -k * x), ps.Eq(D(y), -a * y)])
    problem = ps.Problem(system, {x: 1.0, y: 1.0}, (0, 5), {k: 1.0, a: 1.0})
    with pytest.warns(FitWarning, match="do not determine a: it has no influence"):
        result = ps.fit(problem, decaying(np.linspace(0, 5, 20), noise=0.05), [k, a, x])
    assert np.isnan(result.estimates.stderr.sel(parameter="a"))
    assert float(result.problem.p[list(system.model.parameters).index("a")]) == pytest.approx(1.0)
    clean = ps.fit(decay_problem(), decaying(np.linspace(0, 5, 20), noise=0.05), [k, x])
    np.testing.assert_allclose(
        result.estimates.stderr.sel(parameter="k") * np.sqrt(17), clean.estimates.stderr[0] * np.sqrt(18), rtol=0.05
    )


def test_as_many_estimates_as_data_have_no_intervals() -> None:
    with pytest.warns(FitWarning, match="2 data for 2 estimates"):
        result = ps.fit(decay_problem(), decaying([1.0, 2.0]), [k, x])
    np.testing.assert_allclose(result.estimates.estimate, [0.7, 2.0], rtol=1e-6)
    assert np.isnan(result.estimates.ci_low).all()


def test_more_estimates_than_data_are_not_determined() -> None:
    with pytest.warns(FitWarning, match="do not determine"):
        result = ps.fit(decay_problem(), decaying([2.0]), [k, x])
    assert np.isnan(result.estimates.stderr).all()


def test_a_search_cut_short_says_so() -> None:
    with pytest.warns(FitWarning, match="did not converge: it stopped at the limit of 2 evaluations"):
        result = ps.fit(lotka_start(), lotka_data(), [a, b, c, d], max_evaluations=2)
    assert not result.success
    assert "did not converge" in repr(result)


# ---- what it looks like ----


def test_the_result_reads_as_a_table() -> None:
    result = ps.fit(decay_problem(), decaying(np.linspace(0, 5, 20), noise=0.05), [k, x], log=[k])
    text = repr(result)
    for part in ("Fit of decay", "estimate", "95 % from", "k ", "x (initial)", "converged", result.jacobian):
        assert part in text
    html = result._repr_html_()
    assert html.count("<tr>") == 3
    assert "x (initial)" in html


def test_tables_can_be_written_and_read(tmp_path: Any) -> None:
    result = ps.fit(decay_problem(), decaying(np.linspace(0, 5, 20), noise=0.05), [k, x])
    for name in ("estimates", "history", "residuals", "solution"):
        dataset = getattr(result, name)
        dataset.to_netcdf(tmp_path / f"{name}.nc", engine="h5netcdf")
        with xr.open_dataset(tmp_path / f"{name}.nc", engine="h5netcdf") as back:
            xr.testing.assert_equal(back.load(), dataset)


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    ps.fit(decay_problem(), decaying(np.linspace(0, 5, 5)), [k], progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "fit: point 1, 1 solves, loss" in captured.err


# ---- bad input ----

GOOD = decaying([0.0, 1.0, 2.0])


def at_times(times: Any) -> xr.Dataset:
    return xr.Dataset({"x": ("t", np.ones(len(times)))}, coords={"t": times})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param({"x": [1, 2]}, "must be an xarray.Dataset.*not dict", id="dict"),
        pytest.param(GOOD.to_dataframe(), "to_xarray", id="pandas"),
        pytest.param(GOOD.x.rename(None), "not DataArray", id="nameless"),
        pytest.param(GOOD.rename(t="time"), "needs the dimension t; it has time", id="other dimension"),
        pytest.param(GOOD.drop_vars("t"), "without times", id="no times"),
        pytest.param(GOOD.drop_vars("x"), "no variables", id="no variables"),
        pytest.param(GOOD.rename(x="doubel"), "doubel.*did you mean double", id="misspelt"),
        pytest.param(GOOD.expand_dims(site=2), "x must have the dimension t and no other", id="two dimensions"),
        pytest.param(GOOD.assign(x=3.0), "x must have the dimension t", id="no dimension"),
        pytest.param(GOOD.assign(x=("t", ["a", "b", "c"])), "x must be real numbers", id="text"),
        pytest.param(GOOD.assign(x=GOOD.x + 1j), "x must be real numbers, not complex", id="complex"),
        pytest.param(GOOD.assign(x=GOOD.x > 1), "x must be real numbers, not bool", id="bool"),
        pytest.param(GOOD.assign(x=GOOD.x * np.inf), "x has infinite values", id="infinite"),
        pytest.param(GOOD.assign(x=GOOD.x * np.nan), "x has no values, all are missing", id="all missing"),
        pytest.param(at_times([0.0, 2.0, 1.0]), "goes back at 1; sort it", id="unsorted"),
        pytest.param(at_times([0.0, 1.0, 1.0]), "t has 1 twice", id="repeated time"),
        pytest.param(at_times([0.0, np.nan]), "times that are not finite", id="time not finite"),
        pytest.param(at_times([-1.0, 1.0]), r"t = -1, outside the problem's tspan \(0 to 5\)", id="before"),
        pytest.param(at_times([1.0, 5.1]), "t = 5.1, outside", id="after"),
        pytest.param(at_times(["a", "b"]), "times t must be numbers", id="times are text"),
        pytest.param(at_times(np.array(["2020-01-01"], "M8[ns]")), "turn dates into numbers", id="dates"),
        pytest.param(at_times([]), "no times", id="empty"),
    ],
)
def test_bad_data_are_named(data: Any, message: str) -> None:
    with pytest.raises(ps.ProblemError, match=message):
        ps.fit(decay_problem(), data, [k])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable": []}, "trainable is empty"),
        ({"trainable": 3}, "trainable must be a list"),
        ({"trainable": ["kk"]}, "kk, which is neither.*did you mean k"),
        ({"trainable": ["double"]}, "double, which is neither a parameter nor a state"),
        ({"trainable": [[1]]}, "neither a parameter nor a state"),
        ({"trainable": [k, "k"]}, "k twice"),
        ({"bounds": [(0, 1)]}, "bounds maps a name"),
        ({"bounds": {"x": (0, 1)}}, "bounds has x, which is not trainable"),
        ({"bounds": {k: 3}}, "k needs a pair"),
        ({"bounds": {k: (0, 1, 2)}}, "k needs a pair"),
        ({"bounds": {k: "01"}}, "k needs a pair"),
        ({"bounds": {k: (2, 1)}}, r"lower bound of k \(2\) is not below the upper \(1\)"),
        ({"bounds": {k: (np.nan, 2)}}, "bounds: k must be a finite number"),
        ({"bounds": {k: (np.inf, None)}}, "lower bound of k is infinite"),
        ({"bounds": {k: (None, -np.inf)}}, "upper bound of k is minus infinity"),
        ({"bounds": {k: (2, 3)}}, r"k starts at 1, outside \(2, 3\)"),
        ({"log": ["x"]}, "log has x, which is not trainable"),
        ({"log": ["k"], "bounds": {k: (-2, -1)}}, "k is on a logarithmic scale"),
        ({"sigma": 0.1}, "sigma maps variables"),
        ({"sigma": {"z": 0.1}}, "sigma has z, which is not among the data"),
        ({"sigma": {"x": 0.0}}, "sigma: x must be positive"),
        ({"sigma": {"x": -1}}, "sigma: x must be positive"),
        ({"sigma": {"x": "big"}}, "sigma: x must be a number"),
        ({"sigma": {"x": [1, 2]}}, r"sigma: x must be a number or have one value per time \(3\)"),
        ({"sigma": {"x": xr.DataArray([1, 2], dims="t")}}, "x is given at other times"),
        ({"sigma": {"x": xr.DataArray([1.0, 2, 3], dims="t", coords={"t": [5, 6, 7]})}}, "x is given at other times"),
        ({"sigma": {"x": xr.DataArray([1.0, 2, 3], dims="z")}}, "x must be over t alone"),
        ({"sigma": {"x": 1}, "weights": {"x": 1}}, "not both"),
        ({"weights": {"x": -1.0}}, "weights: x must be positive"),
        ({"absolute_sigma": True}, "absolute_sigma needs sigma"),
        ({"loss": "l1"}, "loss must be one of linear, soft_l1"),
        ({"loss": lambda z: z}, r"loss must return rho and its two derivatives"),
        ({"loss_scale": 0}, "loss_scale must be positive"),
        ({"confidence": 95}, "confidence must be between 0 and 1"),
        ({"tolerance": -1}, "tolerance must be positive"),
        ({"max_evaluations": 0}, "max_evaluations must be a positive integer"),
        ({"rtol": -1}, "rtol must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ps.ProblemError, match=message):
        ps.fit(decay_problem(), GOOD, **({"trainable": [k]} | options))


def test_a_logarithmic_scale_needs_a_positive_start() -> None:
    with pytest.raises(ps.ProblemError, match="k starts at -1; a logarithmic scale needs a positive start"):
        ps.fit(ps.Problem(decay, {x: 1.0}, (0, 5), {k: -1.0}), GOOD, [k], log=[k])


def test_an_algebraic_unknown_has_no_initial_value_to_fit() -> None:
    system = ps.System([ps.Eq(D(x), -k * x), ps.Eq(0, y - x)])
    with pytest.raises(ps.ProblemError, match="y is an algebraic unknown"):
        ps.fit(ps.Problem(system, {x: 1.0}, (0, 5), {k: 1.0}), GOOD, [y])


def test_something_else_than_a_problem_is_refused() -> None:
    with pytest.raises(ps.ProblemError, match=r"takes a pysciml\.Problem, not System"):
        ps.fit(decay, GOOD, [k])  # type: ignore[arg-type]


@pytest.mark.parametrize(("option", "value"), [("regularize", object()), ("epochs", 100), ("learning_rate", 1e-2)])
def test_what_is_for_training_does_not_go_with_least_squares(option: str, value: Any) -> None:
    with pytest.raises(ps.ProblemError, match=f"does not go with {option}="):
        ps.fit(decay_problem(), GOOD, [k], optimizer="least_squares", **{option: value})


def test_stochastic_systems_are_refused() -> None:
    w = ps.brownian("w")
    system = ps.System([ps.Eq(D(x), -k * x + w)])
    with pytest.raises(ps.UnsupportedError, match="stochastic"):
        ps.fit(ps.Problem(system, {x: 1.0}, (0, 5), {k: 1.0}), GOOD, [k])


def test_an_engine_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ps.UnsupportedError, match="no engine 'magic'"):
        ps.fit(decay_problem(), GOOD, [k], engine="magic")
