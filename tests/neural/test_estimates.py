"""Solves that keep their estimates: order, agreement with diffrax, exact derivatives, regularizers' values."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pysciml as ps
from pysciml.neural import terms
from pysciml.neural.adaptive import solve
from pysciml.neural.steps import METHODS, Setting, method, one_step
from pysciml.neural.stochastic import NoisySetting, noisy_step, solve_noisy


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def lotka(t, y, p):
    return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], -p[2] * y[1] + p[3] * y[0] * y[1]])


P = np.array([1.5, 1.0, 3.0, 1.0])
Y0 = np.array([1.0, 1.0])


def test_the_solution_is_diffrax_s_and_so_are_the_steps():
    import diffrax

    times = jnp.linspace(0.0, 5.0, 11)
    how = Setting(method("Tsit5"), 1e-6, 1e-8, 128)
    out = jax.jit(lambda p: solve(how, lotka, p, jnp.asarray(Y0), 0.0, 5.0, times))(P)
    other = diffrax.diffeqsolve(
        diffrax.ODETerm(lotka),
        diffrax.Tsit5(),
        0.0,
        5.0,
        None,
        jnp.asarray(Y0),
        args=P,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-8),
    )
    assert np.asarray(out.ys) == pytest.approx(np.asarray(other.ys), abs=2e-5)
    assert bool(out.success)
    assert abs(int(out.n_steps) - int(other.stats["num_accepted_steps"])) <= 2
    assert int(out.n_rhs) == 2 + 6 * int(out.n_steps + out.n_rejected)
    assert np.asarray(out.h).sum() == pytest.approx(5.0, abs=1e-12)
    assert np.all(np.asarray(out.error)[: int(out.n_records)] <= 1.0)


def test_too_few_steps_are_said_to_be():
    out = solve(Setting(method("Tsit5"), 1e-8, 1e-8, 4), lotka, P, jnp.asarray(Y0), 0.0, 5.0)
    assert not bool(out.success)
    assert int(out.n_records) == 4


@pytest.mark.parametrize("name", METHODS)
def test_the_interpolant_has_its_order(name):
    how = Setting(method(name), 1e-6, 1e-6)

    def error(h):
        y, slope = jnp.asarray(Y0), (lotka(0.0, jnp.asarray(Y0), P), None)
        done = one_step(how, lotka, jnp.asarray(0.0), jnp.asarray(h), y, slope, P)
        half = y + h * jnp.tensordot(how.method.weights(jnp.asarray(0.5)), jnp.stack(done.slopes), axes=1)
        fine = Setting(method("Tsit5"), 1e-13, 1e-13)
        exact = solve(fine, lotka, P, y, 0.0, h / 2).y1
        return float(jnp.abs(half - exact).max())

    order = math.log2(error(0.1) / error(0.05))
    assert order > {"Tsit5": 4.7, "DP5": 3.7, "BS3": 3.6}[name]


def whole_loss(how):
    times = jnp.linspace(0.0, 3.0, 7)

    def loss(p, y0):
        out = solve(how, lotka, p, y0, 0.0, 3.0, times, dt=0.05)
        return jnp.sum(jnp.sin(out.ys)) + jnp.sum(out.y1) + 3 * jnp.sum(out.error * out.h) + jnp.sum(out.stiffness)

    return loss


def test_through_the_steps_the_derivative_is_that_of_the_adaptive_solve():
    """Regularized loss against finite differences: step sizes and rejections move with the parameters."""
    how = Setting(method("BS3"), 1e-3, 1e-5, 128, through_steps=True)
    loss = jax.jit(whole_loss(how))
    by_p, by_y0 = jax.jit(jax.grad(whole_loss(how), argnums=(0, 1)))(jnp.asarray(P), jnp.asarray(Y0))
    out = solve(how, lotka, P, jnp.asarray(Y0), 0.0, 3.0, dt=0.05)
    assert int(out.n_rejected) > 0
    eps = 1e-6
    for k, e in enumerate(np.eye(4)):
        slope = (loss(P + eps * e, Y0) - loss(P - eps * e, Y0)) / (2 * eps)
        assert float(by_p[k]) == pytest.approx(float(slope), rel=1e-5)
    for k, e in enumerate(np.eye(2)):
        slope = (loss(P, Y0 + eps * e) - loss(P, Y0 - eps * e)) / (2 * eps)
        assert float(by_y0[k]) == pytest.approx(float(slope), rel=1e-5)


def test_by_default_the_derivative_is_that_of_the_steps_taken():
    """The same steps, written out and differentiated by JAX alone."""
    how = Setting(method("Tsit5"), 1e-4, 1e-5, 64)
    loss = whole_loss(how)
    out = solve(how, lotka, P, jnp.asarray(Y0), 0.0, 3.0, dt=0.05)
    count = int(out.n_records)
    starts, sizes = np.asarray(out.record.t)[:count], np.asarray(out.h)[:count]
    times = np.linspace(0.0, 3.0, 7)

    def replay(p):
        y, total, slope = jnp.asarray(Y0), jnp.sum(jnp.sin(jnp.asarray(Y0))), lotka(0.0, jnp.asarray(Y0), p)
        for t, h in zip(starts, sizes, strict=True):
            done = one_step(how, lotka, t, h, y, (slope, None), p)
            for s in times[(times > t) & (times <= t + h + 1e-12)]:
                weights = how.method.weights(jnp.asarray((s - t) / h))
                total += jnp.sum(jnp.sin(y + h * jnp.tensordot(weights, jnp.stack(done.slopes), axes=1)))
            total += 3 * done.error * h + done.stiffness
            y, slope = done.y, done.slopes[-1]
        return total + jnp.sum(y)

    expected, by_hand = jax.value_and_grad(replay)(jnp.asarray(P))
    value, found = jax.value_and_grad(loss)(jnp.asarray(P), jnp.asarray(Y0))
    assert float(value) == pytest.approx(float(expected), rel=1e-10)
    assert np.asarray(found) == pytest.approx(np.asarray(by_hand), rel=1e-8)
    eps = 1e-6
    slope = [(replay(P + eps * e) - replay(P - eps * e)) / (2 * eps) for e in np.eye(4)]
    assert np.asarray(found) == pytest.approx(np.array(slope), rel=1e-5)


def test_the_stiffness_estimate_is_the_slope_of_a_linear_equation():
    how = Setting(method("Tsit5"), 1e-6, 1e-6)
    y = jnp.asarray([1.0])
    done = one_step(how, lambda t, z, p: -p * z, 0.0, jnp.asarray(0.01), y, (-50.0 * y, None), 50.0)
    assert float(done.stiffness) == pytest.approx(50.0 / 3.5068, rel=1e-10)


def test_taylor_derivatives_are_those_of_the_solution():
    def field(t, y):  # y = exp(sin t) has y' = cos(t) y
        return jnp.cos(t) * y

    t, y = jnp.asarray(0.3), jnp.asarray([math.exp(math.sin(0.3))])
    solution = lambda s: jnp.exp(jnp.sin(s))  # noqa: E731
    for order in (1, 2, 3, 4):
        solution = jax.grad(solution)
        found = terms.taylor(field, order, t, y, field(t, y))
        assert float(found[0]) == pytest.approx(float(solution(0.3)), rel=1e-10)


INTEGRALS = {
    "kinetic": (ps.KineticEnergy(2.0), lambda a: 2.0 * a**2 * (1 - math.exp(-2 * a)) / (2 * a)),
    "taylor": (ps.TaylorDerivative(2, weight=2.0), lambda a: 2.0 * a**4 * (1 - math.exp(-2 * a)) / (2 * a)),
}


@pytest.mark.parametrize("name", INTEGRALS)
def test_integrated_regularizers_have_their_values_and_derivatives(name):
    """dy/dt = -a y: everything is known."""
    regularizer, exact = INTEGRALS[name]
    how = terms.setting_for(Setting(method("Tsit5"), 1e-9, 1e-9), (regularizer,))
    field = terms.field_for(lambda t, y, a: -a * y, (regularizer,))

    def value(a):
        given = (a, jnp.asarray([regularizer.weight]), jnp.ones(1))
        out = solve(how, field, given, jnp.ones(1), 0.0, 1.0)
        return terms.values(how, field, (regularizer,), out, 1.0, given, jax.random.key(0))

    found, slope = jax.value_and_grad(value)(jnp.asarray(1.3))
    assert float(found) == pytest.approx(exact(1.3), rel=1e-6)
    assert float(slope) == pytest.approx((exact(1.3 + 1e-6) - exact(1.3 - 1e-6)) / 2e-6, rel=1e-5)


def test_the_jacobian_norm_is_estimated_without_bias():
    matrix = np.array([[0.0, 1.0], [-2.0, -0.5]])
    regularizer = ps.JacobianNorm(1.0)
    field = terms.field_for(lambda t, y, a: y @ jnp.asarray(matrix).T, (regularizer,))
    draws = jax.random.normal(jax.random.key(0), (20_000, 2))
    values = jax.vmap(lambda e: field(0.0, jnp.ones(2), (None, jnp.ones(1), e))[1])(draws)
    assert float(values.mean()) == pytest.approx((matrix**2).sum() / 2, rel=0.03)


@pytest.mark.parametrize("sampling", ["unbiased", "biased"])
def test_local_estimates_are_those_of_the_steps(sampling):
    """Uniform times estimate the global regularizer: each step is met in proportion to its size."""
    regularizer = ps.LocalErrorEstimate(1.0, sampling=sampling)
    how = Setting(method("Tsit5"), 1e-5, 1e-6, 64)
    field = terms.field_for(lotka, (regularizer,))
    given = (jnp.asarray(P), jnp.ones(1), None)
    out = solve(how, field, given, jnp.asarray(Y0), 0.0, 3.0)
    keys = jax.random.split(jax.random.key(1), 400)
    draw = jax.jit(jax.vmap(lambda k: terms.local(how, field, out, 3.0, given, k, sampling == "unbiased")))
    values = np.asarray(draw(keys)[0])
    error, h = (np.asarray(v)[: int(out.n_records)] for v in (out.error, out.h))
    if sampling == "biased":
        assert np.abs(values[:, None] - (error * h)[None]).min(axis=1).max() < 1e-8
    else:
        assert values.mean() == pytest.approx((error * h * h).sum() / 3.0, rel=0.5)


def test_a_local_estimate_passes_over_rejected_attempts():
    """Through the steps these are recorded, too: the step at a time is the same one."""
    found = []
    for through_steps in (False, True):
        how = Setting(method("BS3"), 1e-3, 1e-5, 128, through_steps=through_steps)
        field = terms.field_for(lotka, ())
        given = (jnp.asarray(P), jnp.ones(0), None)
        out = jax.jit(lambda y, how=how, field=field, given=given: solve(how, field, given, y, 0.0, 3.0, dt=0.05))(Y0)
        assert int(out.n_rejected) > 0
        draw = jax.vmap(lambda k, a=(how, field, out, 3.0, given): terms.local(*a, k, uniform=True)[0])
        found.append(np.asarray(jax.jit(draw)(jax.random.split(jax.random.key(3), 20))))
    assert found[1] == pytest.approx(found[0], rel=1e-9)


def test_sosri_has_strong_order_three_halves():
    a, b, fine, paths = 1.0, 0.8, 512, 2000
    rng = np.random.default_rng(0)
    dw, dz = rng.normal(size=(2, fine, paths)) * math.sqrt(1 / fine)
    step = 1 / fine
    iterated = step / 2 * (dw + dz / math.sqrt(3))  # the integral of W over each fine step, from its start
    exact = np.exp(a - b * b / 2 + b * dw.sum(0))
    how = NoisySetting(1e-3, 1e-3)
    errors = []
    for n in (8, 64):
        k, h, y = fine // n, 1 / n, jnp.ones(paths)
        for s in range(n):
            w = dw[s * k : (s + 1) * k]
            inner = iterated[s * k : (s + 1) * k] + step * np.vstack([np.zeros(paths), np.cumsum(w, 0)[:-1]])
            total = w.sum(0)
            z = math.sqrt(3) * (2 * inner.sum(0) / h - total)
            y = noisy_step(how, lambda t, u, p: (a * u, b * u), s * h, h, y, total, z, None)[0]
        errors.append(float(np.abs(y - exact).mean()))
    assert 1.3 < math.log2(errors[0] / errors[1]) / 3 < 1.8


def test_an_adaptive_stochastic_solve_has_the_right_distribution_and_derivative():
    a, b = 0.5, 0.6
    out = solve_noisy(
        NoisySetting(1e-3, 1e-3, 512), lambda t, y, p: (a * y, b * y), None, jnp.ones(20_000), 0.0, 1.0,
        jax.random.key(1), jnp.asarray([0.0, 0.3, 1.0]), dt=0.9,
    )  # fmt: skip
    assert int(out.n_rejected) > 0  # so that increments were split
    for k, t in enumerate((0.0, 0.3, 1.0)):
        x = np.asarray(out.ys)[k]
        spread = math.sqrt((math.exp(b * b * t) - 1) * math.exp(2 * a * t))
        assert x.mean() == pytest.approx(math.exp(a * t), abs=4 * spread / math.sqrt(20_000) + 1e-9)
        assert np.log(x).std() == pytest.approx(b * math.sqrt(t), rel=0.03, abs=1e-12)

    def field(t, y, p):
        return jnp.tanh(p[0] * y) - y, p[1] * jnp.cos(y) + 0.2

    how = NoisySetting(1e-3, 1e-3, 128)

    def loss(p):
        out = solve_noisy(how, field, p, jnp.ones(5), 0.0, 1.0, jax.random.key(1), jnp.asarray([0.0, 0.3, 1.0]))
        return jnp.sum(out.ys**2) + jnp.sum(out.error * out.h) + jnp.sum(out.stiffness), out

    found, out = jax.grad(loss, has_aux=True)(jnp.asarray([1.0, 0.4]))

    def replay(p):
        y, total = jnp.ones(5), 5.0
        for i in range(int(out.n_steps)):
            r = out.record
            y, error, stiffness, _ = noisy_step(how, field, r.t[i], r.h[i], y, r.dw[i], r.dz[i], p)
            total += error * r.h[i] + stiffness + (jnp.sum(y**2) if int(r.saves[i]) >= 0 else 0.0)
        return total

    p, eps = np.array([1.0, 0.4]), 1e-6
    slope = [(replay(p + eps * e) - replay(p - eps * e)) / (2 * eps) for e in np.eye(2)]
    assert np.asarray(found) == pytest.approx(np.array(slope), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ps.ErrorEstimate(-1.0), "weight must be 0 or more"),
        (lambda: ps.ErrorEstimate(1.0, final=0.0), "final must be positive"),
        (lambda: ps.ErrorEstimate(aggregate="median"), "aggregate must be 'sum' or 'mean' or 'max'"),
        (lambda: ps.LocalErrorEstimate(sampling="random"), "sampling must be 'unbiased' or 'biased'"),
        (lambda: ps.TaylorDerivative(0), "order must be an integer from 1 to 10"),
        (lambda: ps.RandomEndTime(0.0), "b must be positive"),
    ],
)
def test_bad_regularizers_are_refused(make, message):
    with pytest.raises(ps.ProblemError, match=message):
        make()


def test_coefficients_decay_exponentially_and_regularizers_add_up():
    annealed = ps.ErrorEstimate(100.0, final=10.0)
    assert [annealed.coefficient(s) for s in (0.0, 0.5, 1.0)] == pytest.approx([100.0, math.sqrt(1000.0), 10.0])
    both = annealed + ps.StiffnessEstimate(0.1) + ps.KineticEnergy(0.2)
    assert [type(r).__name__ for r in both] == ["ErrorEstimate", "StiffnessEstimate", "KineticEnergy"]
    with pytest.raises(ps.ProblemError, match="ErrorEstimate twice"):
        annealed + ps.ErrorEstimate()  # pyright: ignore[reportUnusedExpression]
