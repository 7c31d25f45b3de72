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
    for method in ("forward", "checkpointed"):
        found = ps.gradient(decay, x, [k, x], saveat=times, method=method, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found.value, 2 * np.exp(-0.7 * times), rtol=1e-8)
        np.testing.assert_allclose(found.k, -2 * times * np.exp(-0.7 * times), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(found.x_initial, np.exp(-0.7 * times), rtol=1e-8)
        assert found.attrs["method"] == method


@pytest.mark.parametrize(
    ("problem", "alg", "wrt"), [(LOTKA, "Tsit5", [a, b, x]), (STIFF, "KenCarp4", [k, a, x])], ids=["plain", "stiff"]
)
def test_the_methods_and_finite_differences_agree(problem, alg, wrt):
    times = np.linspace(0, problem.tspan[1], 4)
    options = {"saveat": times, "rtol": 1e-10, "atol": 1e-12}

    def loss(sol):
        return jnp.sum(sol.x**2) + sol["y"][-1] * jnp.sin(sol.t[1])

    forward = ps.gradient(problem, loss, wrt, alg, method="forward", **options)
    reverse = ps.gradient(problem, loss, wrt, alg, method="checkpointed", **options)
    for name in forward.data_vars:
        assert float(forward[name]) == pytest.approx(float(reverse[name]), rel=1e-6)

    def value(changed):
        sol = ps.solve(changed, alg, engine="jax", saveat=times, rtol=1e-12, atol=1e-13)
        return float((sol.x**2).sum() + sol.y[-1] * np.sin(times[1]))

    step = 1e-4 * float(problem.p[0])
    key = problem.system.model.parameters[0]
    higher, lower = (value(problem.remake(p={key: problem.p[0] + s})) for s in (step, -step))
    assert float(forward[key]) == pytest.approx((higher - lower) / (2 * step), rel=1e-5)


def test_observed_quantities_depend_on_parameters_directly_too():
    at_start = ps.gradient(LOTKA, "total", [a, x], saveat=[0.0, 1.0])
    assert float(at_start.a[0]) == pytest.approx(1.0)  # total = a x + y and x(0) = 1
    assert float(at_start.x_initial[0]) == pytest.approx(1.5)
    end = ps.gradient(LOTKA, lambda sol: sol.total[-1], [a, x], saveat=[0.0, 1.0])
    assert float(end.a) == pytest.approx(float(at_start.a[1]), rel=1e-12)


def test_the_native_engine_has_the_same_sensitivities():
    model = LOTKA.system.model
    options = SolveOptions(rtol=1e-10, atol=1e-12, saveat=np.array([1.0, 3.0]))
    found = [
        registry()[engine].sensitivities(model, LOTKA.u0, LOTKA.p, LOTKA.tspan, None, options)
        for engine in ("jax", "native")
    ]
    np.testing.assert_allclose(found[0].by_p, found[1].by_p, rtol=1e-6)
    np.testing.assert_allclose(found[0].by_u0, found[1].by_u0, rtol=1e-6)
    assert found[0].by_p.shape == (2, 2, 2)


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


def test_stochastic_equations_are_refused():
    noisy = ps.Problem(ps.System([ps.Eq(D(x), x * ps.brownian("W"))]), {x: 1.0}, (0, 1))
    with pytest.raises(ps.UnsupportedError, match="ordinary equations"):
        ps.gradient(noisy, x, [x])
