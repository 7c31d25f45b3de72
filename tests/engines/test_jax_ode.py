"""The JAX engine on ordinary equations: order, accuracy, events, failures, and what is never done twice."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines.base import registry
from pysciml.engines.jax import compiling
from pysciml.engines.jax.algorithms import ALGORITHMS
from pysciml.engines.jax.implicit import ImplicitStepper
from pysciml.engines.jax.steppers import EulerStepper, ExplicitStepper, SSPStepper

D = ps.D
x, y, z, v = ps.variables("x y z v")
k, g, e = ps.parameters("k g e")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PYSCIML_CACHE_DIR", "")


@pytest.fixture(scope="module")
def oscillator():
    """x'' = -k x."""
    return ps.System([ps.Eq(D(x), v), ps.Eq(D(v), -k * x)], name="oscillator")


@pytest.fixture(scope="module")
def problem(oscillator):
    return ps.Problem(oscillator, {x: 1.0, v: 0.0}, (0, 5), {k: 4.0})


def forced(t, u, p):
    return jnp.stack([u[1], jnp.sin(t) - u[0] ** 3])


#: At t = 2, by SciPy's DOP853 with rtol = 3e-14, atol = 1e-15.
REFERENCE = np.array([0.7742848774270322, 0.3401689881456148])


@pytest.mark.parametrize("name", [n for n, a in ALGORITHMS.items() if a.kind == "ode"])
def test_the_order_of_convergence_is_the_stated_one(name):
    """On a forced Duffing oscillator."""
    algorithm = ALGORITHMS[name]

    def stepper_of(chosen):
        if ALGORITHMS[chosen].family in ("euler", "ssp"):
            return {"euler": EulerStepper, "ssp": SSPStepper}[ALGORITHMS[chosen].family](forced)
        solver = getattr(diffrax, ALGORITHMS[chosen].solver)()
        if ALGORITHMS[chosen].family == "implicit":
            jacobian = jax.jacfwd(lambda t, u, p: forced(t, u, p), argnums=1)
            return ImplicitStepper(forced, jacobian, solver, 1e-13, 1e-13, order=ALGORITHMS[chosen].order)
        return ExplicitStepper(forced, solver)

    def end(chosen, n):
        stepper, h = stepper_of(chosen), 2.0 / n

        def body(i, carry):
            u, state = carry
            step = stepper.step(i * h, (i + 1) * h, u, None, state, False)
            return step.y, step.state

        u0 = jnp.array([1.0, 0.0])
        return jax.lax.fori_loop(0, n, body, (u0, stepper.init(0.0, h, u0, None)))[0]

    with jax.enable_x64(True):
        run = jax.jit(lambda n: end(name, n))
        counts = (8, 16) if algorithm.order == 8 else (40, 80)
        errors = [float(jnp.abs(run(n) - REFERENCE).max()) for n in counts]
    assert algorithm.order - 0.45 < np.log2(errors[0] / errors[1]) < algorithm.order + 0.7


@pytest.mark.parametrize("name", ["Tsit5", "Kvaerno5"])
def test_the_solution_is_right_at_the_output_times(problem, name):
    times = np.linspace(0, 5, 41)
    sol = ps.solve(problem, name, engine="jax", saveat=times, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sol.x, np.cos(2 * times), atol=2e-7)
    np.testing.assert_allclose(sol.v, -2 * np.sin(2 * times), atol=4e-7)
    assert sol.attrs["algorithm"] == name
    assert sol.attrs["n_steps"] > 20


def test_own_steps_start_and_end_with_tspan_and_grow_past_the_buffer(oscillator):
    sol = ps.solve(ps.Problem(oscillator, {x: 1.0, v: 0.0}, (0, 400), {k: 4.0}), "BS3", engine="jax", rtol=1e-6)
    assert sol.sizes["t"] > 5000  # more than the loop's buffer holds
    assert float(sol.t[0]) == 0
    assert float(sol.t[-1]) == 400
    assert np.all(np.diff(sol.t) > 0)
    assert sol.sizes["t"] == sol.attrs["n_steps"] + 1
    np.testing.assert_allclose(sol.x[:1000], np.cos(2 * sol.t[:1000]), atol=1e-3)


def test_time_runs_backward():
    system = ps.System([ps.Eq(D(x), -k * ps.t * x)])
    times = [2.0, 1.5, 0.5, 0.0]
    sol = ps.solve(ps.Problem(system, {x: np.exp(-2)}, (2, 0), {k: 1}), engine="jax", saveat=times, rtol=1e-9)
    np.testing.assert_allclose(sol.x, np.exp(-(np.array(times) ** 2) / 2), rtol=1e-7)


def test_the_right_hand_side_is_counted_exactly(problem):
    calls = []

    def counting(t, u, p):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.stack([u[1], -p[0] * u[0]])

    from pysciml.engines.jax.loop import advance, start
    from pysciml.engines.jax.program import make_plan, setting
    from pysciml.engines.jax.single import evaluations
    from pysciml.engines.jax.state import Arguments

    with jax.enable_x64(True):
        model = problem.system.model
        how = setting(model, "Tsit5", (0.0, 5.0), None, "times", batched=False)
        plan = make_plan(model, how)
        plan = type(plan)(
            lambda a: ExplicitStepper(counting, diffrax.Tsit5()), counting, (), *list(vars(plan).values())[3:]
        )
        args = Arguments(
            jnp.array([4.0]),
            0.0,
            5.0,
            jnp.array([5.0]),
            1e-6,
            1e-9,
            0.0,
            1000,
            1000,
            jnp.zeros(2, jnp.uint32),
            np.uint32(0),
        )
        final = jax.jit(lambda: advance(plan, start(plan, jnp.array([1.0, 0.0]), args), args))()
        jax.effects_barrier()
    assert len(calls) == evaluations(how, int(final.n_steps), False)


def test_a_bouncing_ball_bounces_when_it_should():
    system = ps.System(
        [ps.Eq(D(x), v), ps.Eq(D(v), -g)],
        parameters=[g, e],
        events=[ps.Event(x, {v: -e * v}, direction="down")],
    )
    problem = ps.Problem(system, {x: 1.0, v: 0.0}, (0, 1.6), {g: 9.81, e: 0.8})
    sol = ps.solve(problem, engine="jax", saveat=0.1, rtol=1e-9, atol=1e-9)
    first = np.sqrt(2 / 9.81)
    bounces = [first, 2.6 * first]
    np.testing.assert_allclose(sol.attrs["event_times"], bounces, rtol=1e-12)
    speed = 0.8 * 9.81 * first
    t = sol.t.values[sol.t.values > first][:7] - first
    np.testing.assert_allclose(sol.x.values[sol.t.values > first][:7], speed * t - 9.81 / 2 * t**2, atol=1e-8)
    own = ps.solve(problem, engine="jax")
    assert float(own.v.min()) == pytest.approx(-9.81 * first)
    jumps = np.flatnonzero(np.diff(own.t) == 0)
    np.testing.assert_allclose(own.v.values[jumps + 1], -0.8 * own.v.values[jumps])


def test_a_terminal_event_ends_the_solution_at_the_event():
    system = ps.System([ps.Eq(D(x), v), ps.Eq(D(v), -g)], events=[ps.Event(x - sp.Rational(1, 4), {}, terminal=True)])
    sol = ps.solve(ps.Problem(system, {x: 1.0, v: 0.0}, (0, 2), {g: 2.0}), engine="jax", saveat=0.25, rtol=1e-9)
    assert sol.attrs["retcode"] == "Terminated"
    np.testing.assert_allclose(sol.t, [0, 0.25, 0.5, 0.75, np.sqrt(0.75)], rtol=1e-12)
    assert float(sol.x[-1]) == pytest.approx(0.25, abs=1e-12)


def test_a_crossing_within_one_step_and_back_is_seen():
    """The condition is positive only for a short while, much shorter than a step."""
    system = ps.System(
        [ps.Eq(D(x), 1)], events=[ps.Event(x * (1 - x) - sp.Rational(1, 10), {}, direction="up", terminal=True)]
    )
    sol = ps.solve(ps.Problem(system, {x: 0.0}, (0, 3)), engine="jax", saveat=1.0)
    assert float(sol.t[-1]) == pytest.approx((1 - np.sqrt(0.6)) / 2, abs=1e-12)


@pytest.mark.parametrize(
    ("equation", "options", "retcode", "until"),
    [
        (x**2, {}, "DtLessThanMin", 1.0),
        (x**2, {"max_steps": 20}, "MaxIters", None),
        (x**2, {"alg": "Euler", "dt": 0.01, "saveat": 0.1}, "Unstable", None),
        (-sp.sqrt(x - 2), {}, "Unstable", 0.0),
    ],
)
def test_failures_keep_what_was_computed(equation, options, retcode, until):
    problem = ps.Problem(ps.System([ps.Eq(D(x), equation)], name="bad"), {x: 1.0}, (0, 3))
    with pytest.raises(ps.SolverError, match=retcode) as caught:
        ps.solve(problem, engine="jax", **options)
    partial = caught.value.partial
    assert caught.value.retcode == retcode
    assert np.isfinite(partial.x).all()
    if until is not None:
        assert float(partial.t[-1]) == pytest.approx(until, abs=1e-5)


def test_robertson_over_eleven_decades():
    """The published value is of Mazzia & Magherini's test set (problem ROBER), at t = 1e11."""
    system = ps.System(
        [
            ps.Eq(D(x), -0.04 * x + 1e4 * y * z),
            ps.Eq(D(y), 0.04 * x - 1e4 * y * z - 3e7 * y**2),
            ps.Eq(D(z), 3e7 * y**2),
        ]
    )
    problem = ps.Problem(system, {x: 1.0, y: 0.0, z: 0.0}, (0, 1e11))
    sol = ps.solve(problem, "KenCarp4", engine="jax", rtol=1e-8, atol=1e-14, saveat=[1e11])
    np.testing.assert_allclose(
        [sol.x[-1], sol.y[-1], sol.z[-1]],
        [0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050],
        rtol=1e-5,
    )
    with pytest.raises(ps.SolverError, match="stiff problem choose Kvaerno5"):
        ps.solve(problem, "Tsit5", engine="jax", max_steps=2000, saveat=[1e11])


def test_nothing_is_compiled_again_for_other_numbers(problem):
    ps.solve(problem, engine="jax", saveat=0.5)
    before = len(compiling._compiled)
    other = problem.remake(u0={x: 2.0}, p={k: 3.0}, tspan=(0, 4))
    again = ps.solve(other, engine="jax", saveat=0.4, rtol=1e-3, atol=1e-4, max_steps=500)
    assert again.attrs["compile_seconds"] == 0
    assert len(compiling._compiled) == before


def test_the_process_keeps_its_settings(problem):
    ps.solve(problem, engine="jax", saveat=0.5)
    assert jnp.asarray(1.0).dtype == jnp.float32
    assert jax.config.jax_compilation_cache_dir is None


def test_the_compiled_code_is_kept_in_the_cache_folder(problem, tmp_path, monkeypatch):
    monkeypatch.setenv("PYSCIML_CACHE_DIR", str(tmp_path))
    ps.solve(problem, "Heun", engine="jax", saveat=0.7)
    assert any((tmp_path / "jax").iterdir())
    assert jax.config.jax_compilation_cache_dir is None


def test_what_the_engine_cannot_do_is_said_with_who_can():
    jax_engine = registry()["jax"]
    pendulum = ps.System([ps.Eq(D(x), v), ps.Eq(0, x + v - 1)])
    with pytest.raises(ps.UnsupportedError, match=r"differential-algebraic .*engine='native'"):
        jax_engine.check(pendulum.model, None)
    decay = ps.System([ps.Eq(D(x), -x)])
    with pytest.raises(ps.UnsupportedError, match=r"has no algorithm 'Rodas5P'.*Tsit5"):
        jax_engine.check(decay.model, "Rodas5P")
    with pytest.raises(ps.UnsupportedError, match="EM is a method for a stochastic"):
        jax_engine.check(decay.model, "EM")
    with pytest.raises(ps.UnsupportedError, match="cannot evaluate besselj"):
        jax_engine.check(ps.System([ps.Eq(D(x), sp.besselj(0, x))]).model, None)
    with pytest.raises(ps.ProblemError, match="pass dt="):
        ps.solve(ps.Problem(decay, {x: 1.0}, (0, 1)), "Euler", engine="jax")
