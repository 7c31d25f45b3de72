"""Gradients: exact ones, agreement of the methods, of finite differences and of the native engine."""

import jax.numpy as jnp
import numpy as np
import pytest

import pysciml as ps
from pysciml.engines.base import SolveOptions, registry

D = ps.D
x, y, z = ps.variables("x y z")
a, b, k = ps.parameters("a b k")


@pytest.fixture(autouse=True)
def _cache(monkeypatch):
    monkeypatch.setenv("PYSCIML_CACHE_DIR", "")


LOTKA = ps.Problem(
    ps.System([ps.Eq(D(x), a * x - b * x * y), ps.Eq(D(y), -3 * y + x * y)], observed={"total": a * x + y}),
    {x: 1.0, y: 1.0},
    (0, 3),
    {a: 1.5, b: 1.0},
)
#: Van der Pol with mu = 1000: the fast direction decays with a rate of three thousand.
STIFF = ps.Problem(
    ps.System([ps.Eq(D(x), y), ps.Eq(D(y), k * ((1 - x**2) * y - a * x))]),
    {x: 2.0, y: 0.0},
    (0, 1),
    {k: 1000.0, a: 1.0},
)


def test_an_exact_gradient_over_time():
    decay = ps.Problem(ps.System([ps.Eq(D(x), -k * x)]), {x: 2.0}, (0, 2), {k: 0.7})
    times = np.array([0.0, 0.5, 2.0])
    for method in ("forward", "adjoint"):
        found = ps.gradient(decay, x, [x, k], saveat=times, method=method, rtol=1e-10, atol=1e-12)
        assert list(found.data_vars) == ["value", "x_initial", "k"]
        np.testing.assert_allclose(found.value, 2 * np.exp(-0.7 * times), rtol=1e-8)
        np.testing.assert_allclose(found.k, -2 * times * np.exp(-0.7 * times), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(found.x_initial, np.exp(-0.7 * times), rtol=1e-8)
        assert found.attrs["method"] == method


@pytest.mark.parametrize(
    ("problem", "alg", "wrt"), [(LOTKA, "Tsit5", [a, b, x]), (STIFF, "KenCarp4", [k, a, x])], ids=["plain", "stiff"]
)
def test_the_methods_the_native_engine_and_finite_differences_agree(problem, alg, wrt):
    """To 1e-6, relatively; each method solves other equations."""
    times = np.linspace(0, problem.tspan[1], 4)
    options = {"saveat": times, "rtol": 1e-10, "atol": 1e-12}

    def loss(sol):
        return jnp.sum(sol.x**2) + sol["y"][-1] * jnp.sin(sol.t[1])

    found = {
        method: ps.gradient(problem, loss, wrt, alg, method=method, **options)
        for method in ("forward", "checkpointed", "adjoint")
    }
    forward = found["forward"]
    names = list(forward.data_vars)
    for other in ("checkpointed", "adjoint"):
        np.testing.assert_allclose(found[other].to_array(), forward.to_array(), rtol=1e-6)

    model = problem.system.model
    native = registry()["native"].sensitivities(
        model, problem.u0, problem.p, problem.tspan, None, SolveOptions(rtol=1e-11, atol=1e-13, saveat=times)
    )
    by_u = np.zeros((2, 4))
    by_u[0], by_u[1, -1] = 2 * native.solution.u[0], np.sin(times[1])
    for name in names[1:]:
        part, which = (native.by_u0, [0]) if name == "x_initial" else (native.by_p, [model.parameters.index(name)])
        assert float(forward[name]) == pytest.approx(float((by_u * part[:, :, which[0]]).sum()), rel=1e-6)

    def value(changed):
        sol = ps.solve(changed, alg, engine="jax", saveat=times, rtol=1e-12, atol=1e-13)
        return float((sol.x**2).sum() + sol.y[-1] * np.sin(times[1]))

    key = model.parameters[0]
    step = 1e-3 * float(problem.p[0])
    at = {s: value(problem.remake(p={key: problem.p[0] + s * step})) for s in (-2, -1, 1, 2)}
    difference = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)  # of fourth order
    assert float(forward[key]) == pytest.approx(difference, rel=1e-6)


@pytest.mark.julia
@pytest.mark.usefixtures("julia_engine")
@pytest.mark.parametrize(
    ("problem", "alg", "julia"), [(LOTKA, "Tsit5", "Vern9"), (STIFF, "KenCarp4", "Rodas5P")], ids=["plain", "stiff"]
)
def test_finite_differences_of_julias_solutions_agree(problem, alg, julia):
    times = np.linspace(0, problem.tspan[1], 4)
    key = problem.system.model.parameters[0]
    exact = ps.gradient(
        problem, lambda sol: jnp.sum(sol.x**2), [key], alg, method="forward", saveat=times, rtol=1e-10, atol=1e-12
    )

    def value(changed):
        return float((ps.solve(changed, julia, engine="julia", saveat=times, rtol=1e-12, atol=1e-13).x ** 2).sum())

    step = 1e-3 * float(problem.p[0])
    at = {s: value(problem.remake(p={key: problem.p[0] + s * step})) for s in (-2, -1, 1, 2)}
    difference = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)
    assert float(exact[key]) == pytest.approx(difference, rel=1e-6)


BALL = ps.Problem(
    ps.System(
        [ps.Eq(D(x), y), ps.Eq(D(y), -a)], parameters=[a, b], events=[ps.Event(x, {y: -b * y}, direction="down")]
    ),
    {x: 1.0, y: 0.0},
    (0, 1.2),
    {a: 9.81, b: 0.8},
)


@pytest.mark.parametrize("method", ["forward", "checkpointed"])
def test_gradients_go_through_events_whose_times_move(method):
    """A ball dropped from h = 1 bounces at t1 = sqrt(2 h / g), and its height then is w (t - t1) - g/2 (t - t1)^2."""
    g, e, h = 9.81, 0.8, 1.0
    times = np.array([0.2, 0.7, 1.1])
    found = ps.gradient(BALL, x, [a, b, x], method=method, saveat=times)
    t1 = np.sqrt(2 * h / g)
    s, w = times[1:] - t1, e * g * t1
    by_t1 = e * g * s - (w - g * s)
    by_g = e * t1 * s - s**2 / 2 + by_t1 * (-t1 / (2 * g))
    np.testing.assert_allclose(found.value[1:], w * s - g / 2 * s**2, rtol=1e-8)
    np.testing.assert_allclose(found.a, [-(0.2**2) / 2, *by_g], rtol=1e-6)
    np.testing.assert_allclose(found.b, [0, *(g * t1 * s)], rtol=1e-6)
    np.testing.assert_allclose(found.x_initial, [1, *(by_t1 * t1 / (2 * h))], rtol=1e-6)


def test_the_time_of_a_terminal_event_has_a_gradient():
    system = ps.System([ps.Eq(D(x), y), ps.Eq(D(y), -a)], events=[ps.Event(x, {}, direction="down", terminal=True)])
    fall = ps.Problem(system, {x: 1.0, y: 0.0}, (0, 2), {a: 9.81})
    found = ps.gradient(fall, lambda sol: sol.t[-1] + 0 * sol.x[-1], [a, x])
    assert float(found.value) == pytest.approx(np.sqrt(2 / 9.81), rel=1e-9)
    assert float(found.a) == pytest.approx(-np.sqrt(2) / 2 * 9.81**-1.5, rel=1e-8)
    assert float(found.x_initial) == pytest.approx(1 / np.sqrt(2 * 9.81), rel=1e-8)
    with pytest.raises(ps.SolverError, match=r"terminal event ends the solve at t = 0\.45"):
        ps.gradient(fall, x, [a], saveat=[0.1, 1.0])


def test_a_derivative_that_is_not_finite_is_an_error():
    with pytest.raises(ps.SolverError, match="derivative is not finite"):
        ps.gradient(LOTKA, lambda sol: jnp.sqrt(0 * sol.x[-1]), [a])


NOISY = ps.Problem(
    ps.System([ps.Eq(D(x), a * x + b * x * ps.brownian("W"))], name="gbm"), {x: 1.0}, (0, 1), {a: 0.1, b: 0.2}
)


def test_gradients_of_a_path_are_those_of_the_scheme_on_that_path():
    options = {"dt": 1 / 64, "seed": 3, "saveat": [0.303, 1.0]}
    forward, reverse = (
        ps.gradient(NOISY, x, [a, b, x], "EM", method=method, **options) for method in ("forward", "checkpointed")
    )
    np.testing.assert_allclose(forward.to_array(), reverse.to_array(), rtol=1e-12)
    path = {s: ps.solve(NOISY.remake(p={b: 0.2 + s}), "EM", engine="jax", **options).x for s in (-1e-4, 0, 1e-4)}
    np.testing.assert_allclose(forward.value, path[0], rtol=1e-14)
    np.testing.assert_allclose(forward.b, (path[1e-4] - path[-1e-4]) / 2e-4, rtol=1e-7)
    assert forward.attrs["seed"] == 3


def test_gradients_of_a_path_converge_to_the_exact_ones():
    """X = exp((a - b^2/2) t + b W): dX/da = t X, dX/db = (W - b t) X, on the same path."""
    errors = []
    for n in (16, 256):
        found = ps.gradient(NOISY, x, [a, b], "Milstein", dt=1 / n, seed=5)
        w = (np.log(ps.solve(NOISY, "Milstein", engine="jax", dt=1 / 4096, seed=5).x.values[-1]) - 0.1 + 0.02) / 0.2
        exact = np.exp(0.1 - 0.02 + 0.2 * w) * np.array([1.0, w - 0.2])
        errors.append(np.abs(np.array([found.a[0], found.b[0]]) - exact).max())
    assert errors[1] < errors[0] / 8
    assert errors[1] < 1e-3


def test_gradients_of_adaptive_paths_go_back_through_the_steps():
    ou = ps.Problem(ps.System([ps.Eq(D(x), -a * x + b * ps.brownian("W"))]), {x: 1.0}, (0, 1), {a: 1.0, b: 0.2})
    found = ps.gradient(ou, x, [b, x], seed=3, rtol=1e-5, atol=1e-5)
    assert found.attrs["algorithm"] == "SRA1"
    assert found.attrs["method"] == "checkpointed"
    assert float(found.x_initial[0]) == pytest.approx(np.exp(-1), rel=1e-4)
    path = {s: ps.solve(ou.remake(p={b: s}), engine="jax", seed=3, rtol=1e-5, atol=1e-5).x[-1] for s in (0.1, 0.3)}
    assert float(found.b[0]) == pytest.approx(float(path[0.3] - path[0.1]) / 0.2, rel=1e-4)  # the equation is linear


def test_methods_that_do_not_fit_are_refused():
    with pytest.raises(ps.UnsupportedError, match=r"'adjoint' is for ordinary .*, not for stochastic"):
        ps.gradient(NOISY, x, [a], method="adjoint", dt=0.1)
    with pytest.raises(ps.UnsupportedError, match=r"'adjoint' is for ordinary .*, not for equations with events"):
        ps.gradient(BALL, x, [a], method="adjoint")
    with pytest.raises(ps.UnsupportedError, match="'forward' does not go through SlowRK"):
        ps.gradient(NOISY, x, [a], "SlowRK", method="forward", dt=0.1)


def test_observed_quantities_depend_on_parameters_directly_too():
    at_start = ps.gradient(LOTKA, "total", [a, x], saveat=[0.0, 1.0])
    assert float(at_start.a[0]) == pytest.approx(1.0)  # total = a x + y and x(0) = 1
    assert float(at_start.x_initial[0]) == pytest.approx(1.5)
    end = ps.gradient(LOTKA, lambda sol: sol.total[-1], [a, x], saveat=[0.0, 1.0])
    assert float(end.a) == pytest.approx(float(at_start.a[1]), rel=1e-12)


def test_sensitivities_of_all_inputs_have_their_shapes_and_go_through_events():
    options = SolveOptions(rtol=1e-9, atol=1e-11, saveat=np.array([0.2, 1.2]))
    found = registry()["jax"].sensitivities(BALL.system.model, BALL.u0, BALL.p, BALL.tspan, None, options)
    single = ps.gradient(BALL, x, [a, x], saveat=[0.2, 1.2])
    assert found.by_p.shape == found.by_u0.shape == (2, 2, 2)
    np.testing.assert_allclose(found.by_p[0, :, 0], single.a, rtol=1e-6)
    np.testing.assert_allclose(found.by_u0[0, :, 0], single.x_initial, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "c"}, "neither a state nor observed"),
        ({"of": x, "wrt": ["c"]}, "wrt: c is neither"),
        ({"of": x, "method": "magic"}, "method must be"),
        ({"of": lambda sol: sol.x, "saveat": [1.0, 2.0]}, "one number, not an array of shape"),
        ({"of": lambda sol: sol.q[0], "saveat": [1.0, 2.0]}, "the solution has no 'q'; it has x, y, total, t"),
    ],
)
def test_bad_requests_are_refused_by_name(options, message):
    with pytest.raises(ps.ProblemError, match=message):
        ps.gradient(LOTKA, **options)
