"""Derivatives of solutions of fields, and fits of their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps
from pysciml.pde.places import interpolation

D, t = ps.D, ps.t
x, X, Y = ps.coordinates("x X Y")
w = ps.fields("w", x)
u, v = ps.fields("u v", X, Y)
k, a, b = ps.parameters("k a b")

BAR = ps.PDESystem([ps.Eq(D(w), k * D(w, x, 2))], {x: (0, 1)}, {x: ps.Neumann(0)}, {w: 1 + sp.cos(sp.pi * x)})


def exact(values: float, places: Any, times: Any) -> Any:
    return 1 + np.exp(-values * np.pi**2 * np.asarray(times)[:, None]) * np.cos(np.pi * np.asarray(places))


def rich(scheme: str = "central", **how: Any) -> Any:
    """Parameters in the equations, at an end, in the initial value and in what is observed."""
    flux = a * w**2 / 2 - k * (1 + w**2) * D(w, x)
    system = ps.PDESystem(
        [ps.Eq(D(w), -D(flux, x) - (w - b) ** 2)],
        {x: (0, 1)},
        {x: [ps.Robin(1, k, lower=a * sp.cos(t)), ps.Neumann(upper=0)]},
        {w: a * sp.exp(-20 * (x - b) ** 2) + 0.1},
        observed={"content": b * ps.integral(w**2), "slope": k * D(w, x)},
    )
    return system.discretize({x: 12}, scheme=scheme, order=2, **how).problem((0, 0.3), {k: 0.03, a: 0.8, b: 0.4})


@pytest.mark.parametrize(
    ("scheme", "how"), [("central", {}), ("upwind", {}), ("weno", {}), ("weno", {"positive": [w]})]
)
def test_the_equations_of_sensitivities_are_the_derivatives_of_the_equations(scheme: str, how: Any) -> None:
    from pysciml.graph.field_sensitivity import sensitivity_graph

    problem = rich(scheme, **how)
    graph, p, n = problem.system.graph, problem.p, 12
    rng = np.random.default_rng(0)
    state, directions = 1 + rng.random(n), rng.normal(size=(3, n))
    both = sensitivity_graph(graph, [0, 1, 2])
    for name in ("rhs", "observed"):
        found = both.evaluate(name, np.concatenate([state, directions.ravel()]), p, 0.2).reshape(4, -1)
        np.testing.assert_array_equal(found[0], graph.evaluate(name, state, p, 0.2))
        for j in range(3):
            e = 1e-6 * (np.arange(3) == j)
            high, low = (graph.evaluate(name, state + s * 1e-6 * directions[j], p + s * e, 0.2) for s in (1, -1))
            np.testing.assert_allclose(found[1 + j], (high - low) / 2e-6, rtol=1e-5, atol=1e-5 * abs(found).max())


def test_sensitivities_agree_with_differences_of_solutions() -> None:
    from pysciml.engines.base import SolveOptions, get
    from pysciml.pde.sensitivity import FieldSensitivity

    problem, engine = rich(), get("native")
    options = SolveOptions(saveat=np.array([0.1, 0.3]), rtol=1e-8, atol=1e-10)
    raw, slopes, observed = FieldSensitivity(problem.system, [0, 1, 2]).solve(
        engine, problem, problem.tspan, None, options
    )
    assert len(observed) == 2
    for j, name in enumerate(problem.system.model.parameters):
        h = 1e-3 * problem.p[j]
        ends = [problem.remake(p={name: problem.p[j] + s * h}) for s in (1, -1)]
        high, low = (engine.solve(end.system.model, end.u0, end.p, end.tspan, None, options).u for end in ends)
        np.testing.assert_allclose(slopes[:, :, j], (high - low) / (2 * h), atol=1e-4 * abs(slopes[:, :, j]).max())
        content = [
            problem.system.graph.arrays("observed", u[:, 1], end.p, 0.3)[0].item()
            for u, end in zip((high, low), ends, strict=True)
        ]
        assert observed[1].slopes[j][0].item() == pytest.approx((content[0] - content[1]) / (2 * h), rel=1e-4)
    np.testing.assert_allclose(raw.t, [0.1, 0.3])


def test_the_derivatives_of_a_function_are_those_of_the_matrix_exponential_in_both_modes() -> None:
    from scipy.linalg import expm

    from pysciml.graph.field_jacobian import jacobian

    bar = ps.PDESystem(
        [ps.Eq(D(w), k * D(w, x, 2))],
        {x: (0, 1)},
        {x: ps.Neumann(0)},
        {w: 1 + a * sp.cos(sp.pi * x)},
        observed={"content": a * ps.integral(w)},
    )
    problem = bar.discretize({x: 10}).problem((0, 0.7), {k: 0.05, a: 0.5})
    how: dict[str, Any] = {"saveat": [0.35, 0.7], "rtol": 1e-8, "atol": 1e-10, "alg": "BS3"}

    def loss(sol: Any) -> Any:
        return (sol.w[-1] ** 2).sum() + sol.content[0] * sol.t[0]

    backward = ps.gradient(problem, loss, wrt=[w, k, a], **how)
    forward = ps.gradient(problem, loss, wrt=[k, a], **how)
    assert (forward.attrs["method"], backward.attrs["method"]) == ("forward", "checkpointed")
    for name in ("value", "k", "a"):
        np.testing.assert_allclose(backward[name], forward[name], rtol=1e-6)
    propagator = expm(0.7 * jacobian(problem.system.graph, problem.u0, problem.p, 0.0).toarray())
    end = propagator @ problem.u0
    by_u0 = 2 * propagator.T @ end + 0.35 * 0.5 / 10  # the content stays what it was
    np.testing.assert_allclose(backward.w_initial, by_u0, rtol=1e-6)
    assert backward.w_initial.dims == ("x",)
    by_a = by_u0 @ np.cos(np.pi * problem.system.coords["x"]) + 0.35 * problem.u0.mean()
    np.testing.assert_allclose(forward.a, by_a, rtol=1e-6)
    field = ps.gradient(problem, of=w, wrt=[k, a], **how)
    assert field.a.dims == ("t", "x")
    np.testing.assert_allclose(field.a[-1], propagator @ np.cos(np.pi * problem.system.coords["x"]), rtol=1e-6)
    assert ps.gradient(problem, of="content", wrt=[k, a], **how).a.dims == ("t",)


def test_a_stiff_problem_has_sensitivities_by_the_stiff_method() -> None:
    pair = ps.PDESystem(
        [ps.Eq(D(u), k * ps.laplacian(u) + a * v - u), ps.Eq(D(v), k * ps.laplacian(v) - a * v)],
        {X: (0, 1), Y: (0, 1)},
        {X: ps.Periodic(), Y: ps.Neumann(0)},
        {u: 0, v: 1},
    )
    problem = pair.discretize({X: 8, Y: 8}).problem((0, 20), {k: 10.0, a: 0.3})
    found = ps.gradient(problem, of=v, wrt=[a, k], saveat=[2.0, 20.0])
    assert found.attrs["algorithm"] == "QNDF"
    times = found.t.values[:, None, None]
    np.testing.assert_allclose(found.a, np.broadcast_to(-times * np.exp(-0.3 * times), found.a.shape), rtol=1e-5)
    assert float(abs(found.k).max()) < 1e-8


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"of": "w", "wrt": ["w"]}, "derivatives by an initial field"),
        ({"of": "w", "method": "checkpointed"}, "a field has method='forward'"),
        ({"of": "w", "method": "adjoint"}, "'adjoint' is for variables of time"),
        ({"of": lambda sol: sol.w.sum(), "method": "checkpointed", "alg": "QNDF"}, "QNDF is none"),
    ],
)
def test_what_gradient_cannot_do_is_refused_by_name(how: Any, message: str) -> None:
    with pytest.raises(ps.UnsupportedError, match=message):
        ps.gradient(rich(), **how)


# ---- fits ----


@pytest.mark.parametrize("engine", ["native", "jax"])
def test_a_diffusion_coefficient_comes_back_from_the_field(engine: str) -> None:
    problem = BAR.discretize({x: 16}).problem((0, 1), {k: 0.05})
    data = ps.solve(problem, engine=engine, rtol=1e-9, atol=1e-11, saveat=0.2)[["w"]]
    found = ps.fit(problem.remake(p={k: 0.2}), data, trainable=[k], log=True, engine=engine)
    assert found.success
    assert found.jacobian == "sensitivities, solved for with the fields"
    assert float(found.estimates.estimate[0]) == pytest.approx(0.05, rel=1e-6)
    assert found.residuals.w.dims == ("t", "x")
    assert found.solution.w.sizes["x"] == 16
    np.testing.assert_allclose(found.problem.p, [0.05], rtol=1e-6)


def test_sensors_between_the_cells_with_noise_gaps_and_two_spreads() -> None:
    rng = np.random.default_rng(1)
    times, places = np.linspace(0.1, 1.5, 15), np.sort(rng.uniform(0.02, 0.98, 7))
    sigma = xr.DataArray(np.where(np.arange(7) < 4, 0.01, 0.05), dims="sensor")
    values = exact(0.07, places, times) + sigma.values * rng.normal(size=(15, 7))
    values[3:5, 2] = np.nan
    data = xr.Dataset({"w": (("t", "sensor"), values)}, coords={"t": times, "x": ("sensor", places)})
    problem = BAR.discretize({x: 32}, order=4).problem((0, 1.5), {k: 0.02})
    found = ps.fit(problem, data, [k], sigma={w: sigma}, absolute_sigma=True, engine="native")
    error = float(found.estimates.stderr[0])
    assert abs(float(found.estimates.estimate[0]) - 0.07) < 3 * error
    # The information in the data, by the exact solution.
    slope = -(np.pi**2) * times[:, None] * (exact(0.07, places, times) - 1)
    wanted = 1 / np.sqrt(np.nansum((slope / sigma.values)[~np.isnan(values)] ** 2))
    assert error == pytest.approx(wanted, rel=0.05)
    assert np.isnan(found.residuals.w.values[3:5, 2]).all()
    assert found.residuals.x.dims == ("sensor",)


def test_observed_quantities_are_data_too_and_times_may_run_down() -> None:
    problem = rich()
    truth = ps.solve(problem, engine="native", rtol=1e-9, atol=1e-11, saveat=0.1)
    data = truth[["content", "slope"]].isel(t=slice(1, None), x=slice(2, None, 5)).sortby("t", ascending=False)
    found = ps.fit(problem.remake(p={a: 0.6, k: 0.05}), data, [a, k], engine="native")
    np.testing.assert_allclose(found.estimates.estimate, [0.8, 0.03], rtol=1e-5)
    np.testing.assert_array_equal(found.residuals.t, data.t)


def test_a_method_that_cannot_take_derivatives_along_says_so() -> None:
    ring = ps.PDESystem([ps.Eq(D(w), k * D(w, x, 2) - w)], {x: (0, 1)}, {x: ps.Periodic()}, {w: sp.sin(2 * sp.pi * x)})
    problem = ring.discretize({x: 16}, scheme="spectral").problem((0, 0.5), {k: 0.05})
    from pysciml.engines.base import SolveOptions, get
    from pysciml.pde.sensitivity import FieldSensitivity

    options = SolveOptions(saveat=np.array([0.5]), dt=0.01)
    with pytest.raises(ps.UnsupportedError, match="ETDRK4 solves for no derivatives"):
        FieldSensitivity(problem.system, [0]).solve(get("jax"), problem, (0, 0.5), "ETDRK4", options)


def test_cubic_interpolation_is_exact_for_cubics_and_goes_round_a_period() -> None:
    grid = ps.PDESystem(
        [ps.Eq(D(u), ps.laplacian(u))], {X: (0, 2), Y: (0, 1)}, {X: ps.Periodic(), Y: ps.Neumann(0)}, {u: 0}
    ).discretize({X: 40, Y: np.linspace(0, 1, 15) ** 1.5})
    rng = np.random.default_rng(0)
    places = [rng.uniform(0, 2, 50), rng.uniform(0, 1, 50)]
    centers = [axis.centers for axis in grid.axes]
    matrix = interpolation(list(grid.axes), (40, 14), places, 4)
    np.testing.assert_allclose(matrix @ np.tile(centers[1] ** 3, 40), places[1] ** 3, atol=1e-12)
    wave = np.repeat(np.sin(np.pi * centers[0]), 14)
    np.testing.assert_allclose(matrix @ wave, np.sin(np.pi * places[0]), atol=2e-5)
    at_cells = interpolation(list(grid.axes), (40, 14), [np.repeat(centers[0], 14), np.tile(centers[1], 40)], 4)
    np.testing.assert_array_equal(at_cells.toarray(), np.eye(560))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.rename(w="q"), "data has q, which is neither a field"),
        (lambda d: d.drop_vars("x"), "has no coordinate x"),
        (lambda d: d.assign_coords(x=d.x + 1), "outside the domain"),
        (lambda d: d.drop_vars("t"), "without times"),
        (lambda d: d.isel(t=0), "needs the dimension t"),
        (lambda d: d * np.nan, "all are missing"),
    ],
)
def test_data_that_do_not_fit_are_named(change: Any, message: str) -> None:
    problem = BAR.discretize({x: 8}).problem((0, 1), {k: 0.05})
    data = xr.Dataset({"w": (("t", "x"), np.ones((2, 3)))}, coords={"t": [0.1, 0.2], "x": [0.1, 0.2, 0.3]})
    with pytest.raises(ps.ProblemError, match=message):
        ps.fit(problem, change(data), [k])


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"trainable": [w]}, ps.UnsupportedError, "w is a field, whose initial values"),
        ({"trainable": [k], "optimizer": "adam", "bounds": {"k": (0, 1)}}, ps.ProblemError, "is for least squares"),
        ({"trainable": [k], "sigma": {"w": -1.0}}, ps.ProblemError, "must be positive"),
        ({"trainable": [k], "sigma": {"q": 1.0}}, ps.ProblemError, "sigma has q"),
        (
            {"trainable": [k], "sigma": {"w": xr.DataArray([1.0], dims="q")}},
            ps.ProblemError,
            "does not fit the dimensions",
        ),
    ],
)
def test_what_fit_cannot_do_is_refused_by_name(how: Any, error: Any, message: str) -> None:
    problem = BAR.discretize({x: 8}).problem((0, 1), {k: 0.05})
    data = xr.Dataset({"w": (("t", "x"), np.ones((2, 3)))}, coords={"t": [0.1, 0.2], "x": [0.1, 0.2, 0.3]})
    with pytest.raises(error, match=message):
        ps.fit(problem, data, **how)
