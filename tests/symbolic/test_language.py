"""What the equations say is what the graph computes: kinds, orders, solving for derivatives, names, noise, delays."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml import D, Eq, Event, System

x, y, z = ps.variables("x y z")
a, b, c, d = ps.parameters("a b c d")
t = ps.t
w, v = ps.brownian("w v")


def same(left, right):
    """Equal as expressions: their difference simplifies to zero."""
    return sp.simplify(sp.Matrix(left) - sp.Matrix(right)).is_zero_matrix


# -- the snippets of the contract, as they stand


def test_the_first_model():
    x, y = ps.variables("x y")
    a, b, c, d = ps.parameters("a b c d")
    D = ps.D
    lotka = ps.System([ps.Eq(D(x), a * x - b * x * y), ps.Eq(D(y), -c * y + d * x * y)], name="lotka_volterra")
    assert lotka.kind == "ode"
    assert lotka.states == (x, y)
    assert set(lotka.parameters) == {a, b, c, d}
    assert lotka.equations == (ps.Eq(D(x), a * x - b * x * y), ps.Eq(D(y), -c * y + d * x * y))
    assert lotka.observed == {}
    assert lotka.noise_type is None
    assert repr(lotka) == (
        "System lotka_volterra (ode): 2 states x, y; 4 parameters a, b, c, d\n"
        "  D(x) = a*x - b*x*y\n"
        "  D(y) = -c*y + d*x*y"
    )
    problem = ps.Problem(lotka, u0={x: 1.0, y: 1.0}, tspan=(0, 10), p={a: 1.5, b: 1, c: 3, d: 1})
    remade = problem.remake(p={"a": 2.0})
    by_name = dict(zip(lotka.model.parameters, remade.p, strict=True))
    assert by_name == {"a": 2.0, "b": 1.0, "c": 3.0, "d": 1.0}


def test_the_words_are_plain_sympy():
    assert x == sp.Function("x")(sp.Symbol("t"))
    assert a == sp.Symbol("a")
    assert D(x) == sp.Derivative(x, t)
    assert D(x, 2) == D(x, sp.Integer(2)) == D(x, np.int64(2)) == sp.Derivative(x, t, t)
    assert Eq(D(x), x) == sp.Eq(x.diff(t), x)
    assert isinstance(w, sp.Symbol)


def test_names_are_read_as_sympy_does():
    assert ps.variables("x") == sp.Function("x")(t)
    assert ps.variables("x,") == (x,)
    assert ps.variables("x, y") == (x, y) == ps.variables("x y")
    assert [q.func.__name__ for q in ps.variables("q:8")] == [f"q{i}" for i in range(8)]
    assert ps.parameters("k1:4") == tuple(sp.symbols("k1:4"))
    assert ps.brownian("w,")[0] == w
    assert w != sp.Symbol("w")


# -- kinds


def plain(name):
    return sp.Function(name)(t)


KINDS = {
    "first order": ([Eq(D(x), -x)], "ode"),
    "second order": ([Eq(D(x, 2), -x)], "ode"),
    "a derivative on the right": ([Eq(-x, D(x))], "ode"),
    "an expression that is zero": ([D(x) + x], "ode"),
    "scaled and mixed derivatives": ([Eq(2 * D(x) + D(y), x), Eq(D(x) - D(y), y)], "ode"),
    "an algebraic equation": ([Eq(D(x), -y), Eq(y, x**2)], "dae"),
    "only algebraic equations": ([Eq(x + y, 3), Eq(x - y, 1)], "dae"),
    "a squared derivative": ([Eq(D(x) ** 2, x)], "dae"),
    "a derivative in a function": ([Eq(sp.sin(D(x)) + D(x), x)], "dae"),
    "a derivative in a sign": ([Eq(D(x) + sp.sign(D(x)), x)], "dae"),
    "a derivative in a condition": ([Eq(2 * D(x), sp.Piecewise((x, D(x) > 0), (2 * x, True)))], "dae"),
    "a singular mass matrix": ([Eq(D(x) + D(y), -x), Eq(2 * D(x) + 2 * D(y), y)], "dae"),
    "noise": ([Eq(D(x), -x + w)], "sde"),
    "noise in one equation of two": ([Eq(D(x), y), Eq(D(y), -x + b * w)], "sde"),
    "a delay": ([Eq(D(x), -x.subs(t, t - 1))], "dde"),
    "a delay that is a parameter": ([Eq(D(x), -x.subs(t, t - a))], "dde"),
    "a delay that depends on the state": ([Eq(D(x), -x.subs(t, t - 1 / (1 + x**2)))], "dde"),
}


@pytest.mark.parametrize("case", KINDS)
def test_the_kind_follows_from_the_equations(case):
    equations, kind = KINDS[case]
    assert System(equations).kind == kind


def test_one_equation_needs_no_list():
    assert System(Eq(D(x), -x)).model.hash == System([Eq(D(x), -x)]).model.hash


@pytest.mark.parametrize("name", ["s", "tau", "θ"])
def test_any_symbol_is_time(name):
    time = sp.Symbol(name)
    u = sp.Function("u")(time)
    system = System([sp.Eq(u.diff(time), -u * sp.cos(time))])
    assert system.time == time
    np.testing.assert_allclose(system.graph.evaluate("rhs", [2.0], [], 0.5), [-2 * np.cos(0.5)])
    assert repr(system).splitlines()[1] == f"  D(u) = -u*cos({name})"


def test_what_dsolve_accepts_is_accepted():
    f = sp.Function("f")
    s = sp.Symbol("s")
    equation = sp.Eq(f(s).diff(s, s) + 9 * f(s), 0)
    system = System(equation)
    assert system.states == (f(s), f(s).diff(s))
    assert system.rhs == (f(s).diff(s), -9 * f(s))
    assert sp.dsolve(equation).lhs == f(s)


# -- lowering and solving


def test_a_higher_order_becomes_first_order():
    system = System([Eq(D(x, 3), -a * D(x, 2) - x * D(y)), Eq(D(y), x)])
    assert system.model.states == ("x", "x_t", "x_tt", "y")
    assert system.states == (x, D(x), D(x, 2), y)
    assert same(system.rhs, [D(x), D(x, 2), -a * D(x, 2) - x**2, x])
    assert system.model.differential.all()


def test_a_derivative_that_appears_alone_brings_the_lower_ones():
    system = System([Eq(D(x, 2), -1)])
    assert system.states == (x, D(x))
    assert system.rhs == (D(x), -1)


LINEAR = {
    "on the right": [Eq(a * x, D(x))],
    "scaled": [Eq(a * D(x), x)],
    "scaled by a state": [Eq((2 + x**2) * D(x), y), Eq(3 * D(y), t)],
    "moved": [Eq(D(x) - x, y * 2), Eq(0, D(y) + x)],
    "mixed": [Eq(2 * D(x) + D(y), a * x), Eq(D(x) - b * D(y), y)],
    "mixed on both sides": [Eq(D(x) + x, D(y) + a), Eq(D(x) + D(y), -x)],
    "three of them": [
        Eq(D(x) + 2 * D(y) + D(z), x * y),
        Eq(a * D(x) - D(y), sp.sin(t)),
        Eq(D(z) - b * D(x), z),
    ],
    "explicit and used elsewhere": [Eq(D(x), a * y), Eq(D(y) + D(x) * x, -y), Eq(z * D(z) + D(y), D(x))],
    "of second order": [Eq(2 * D(x, 2) + D(y, 2), -x), Eq(D(x, 2) - D(y, 2), a * D(x) - y)],
    "of mixed order": [Eq(D(x, 2) + D(y), -x), Eq(D(y) * 2 - D(x, 2), D(x))],
    "a mass matrix of states": [
        Eq((a + b) * D(x, 2) + b * sp.cos(x - y) * D(y, 2), -sp.sin(x)),
        Eq(sp.cos(x - y) * D(x, 2) + D(y, 2), -c * sp.sin(y)),
    ],
}


@pytest.mark.parametrize("case", LINEAR)
def test_linear_equations_are_solved_as_sympy_solves_them(case):
    equations = LINEAR[case]
    system = System(equations)
    assert system.kind == "ode"
    derivatives = {part for equation in equations for part in equation.atoms(sp.Derivative)}
    highest = {}
    for derivative in derivatives:
        order = derivative.derivative_count
        highest[derivative.expr] = max(order, highest.get(derivative.expr, 0))
    unknowns = [D(function, order) for function, order in highest.items()]
    dummies = {derivative: sp.Dummy() for derivative in unknowns}
    (solution,) = sp.solve([eq.lhs.xreplace(dummies) - eq.rhs.xreplace(dummies) for eq in equations],
                           list(dummies.values()), dict=True)  # fmt: skip
    for state, ours in zip(system.states, system.rhs, strict=True):
        function, order = (state.expr, state.derivative_count) if isinstance(state, sp.Derivative) else (state, 0)
        if order + 1 == highest[function]:
            assert sp.simplify(ours - solution[dummies[D(function, order + 1)]]) == 0
        else:
            assert ours == D(function, order + 1)


def residual(system, state_values, parameters=(), time=0.0):
    return system.graph.evaluate("rhs", state_values, parameters, time)


def test_nonlinear_in_the_derivative_keeps_the_right_residual():
    system = System([Eq(D(x) ** 2 + x, 3)])
    assert system.model.states == ("x", "x_t")
    assert system.model.differential.tolist() == [True, False]
    first, second = residual(system, [2.0, 5.0])
    assert first == 5.0  # dx/dt is the second state
    assert abs(second) == 24.0  # 5**2 + 2 - 3 is zero on the solution


def test_a_derivative_in_a_condition_is_not_dropped():
    system = System([Eq(2 * D(x), sp.Piecewise((x, D(x) > 0), (-x, True)))])
    for velocity, expected in ((1.0, 2.0 - 3.0), (-1.0, -2.0 + 3.0)):
        assert abs(residual(system, [3.0, velocity])[1]) == abs(expected)
    assert System([Eq(D(x) + sp.sign(D(x)), x)]).kind == "dae"


def test_a_singular_mass_matrix_leaves_an_algebraic_equation():
    system = System([Eq(D(x) + D(y), -x), Eq(2 * D(x) + 2 * D(y), y)])
    assert system.kind == "dae"
    assert int(system.model.differential.sum()) == 2
    # on the constraint -2*x = y, whatever the free derivative is; its own derivative determines that one
    for free in (0.0, 1.7):
        u = np.array([1.0, -2.0, free])
        np.testing.assert_allclose(system.graph.evaluate("constraints", u, [], 0.0), 0.0, atol=1e-15)
    assert system.graph.evaluate("constraints", [1.0, 1.0, 0.0], [], 0.0)[0] != 0.0
    algebraic = ~system.model.differential
    slopes = residual(system, np.array([1.0, -2.0, 2.0]))
    assert slopes[algebraic][0] == slopes[1] + 2 * slopes[0] == 0.0 or slopes[algebraic][0] != 0.0


def test_coefficients_that_only_look_nonzero_are_found_out():
    zero = sp.sin(x) ** 2 + sp.cos(x) ** 2 - 1
    system = System([Eq(zero * D(x) + D(y), x), Eq(D(x), -y)])
    assert system.kind == "ode"
    np.testing.assert_allclose(residual(system, [2.0, 3.0]), [-3.0, 2.0], atol=1e-12)
    assert System([Eq(zero * D(x), x - 1)]).kind == "dae"


def test_algebraic_unknowns_come_last():
    system = System([Eq(y, x**2), Eq(D(x), -y), Eq(z + y, 1), Eq(D(b * x) + 0, b * D(x) + D(ps.variables("q")))])
    assert system.model.differential.tolist() == [True, True, False, False]
    assert set(system.model.states[2:]) == {"y", "z"}


def test_the_derivative_of_an_expression_is_carried_out():
    system = System([Eq(D(x * sp.cos(y)), a), Eq(D(y), x)])
    expected = (a + x**2 * sp.sin(y)) / sp.cos(y)
    assert sp.simplify(system.rhs[system.state_index(x)] - expected) == 0
    twice = System([Eq(D(x**2, 2), 0)])
    assert sp.simplify(twice.rhs[1] + D(x) ** 2 / x) == 0
    with_time = System([Eq(D(t * x), x)])
    assert sp.simplify(with_time.rhs[0]) == 0


def test_sums_and_integrals_with_a_closed_form_are_carried_out():
    i = sp.Symbol("i")
    system = System([Eq(D(x), sp.Sum(i * x**i, (i, 1, 3)) + sp.Integral(i**2, (i, 0, a)))])
    np.testing.assert_allclose(system.graph.evaluate("rhs", [2.0], [3.0], 0.0), [2 + 8 + 24 + 9])


FUNCTIONS = [
    sp.exp(-x),
    sp.log(x),
    sp.sqrt(x),
    sp.cbrt(x),
    x**a,
    2**x,
    sp.sin(x),
    sp.cos(x),
    sp.tan(x),
    sp.cot(x),
    sp.sec(x),
    sp.csc(x),
    sp.sinc(x),
    sp.asin(x / 9),
    sp.acos(x / 9),
    sp.atan(x),
    sp.acot(x),
    sp.asec(x + 1),
    sp.acsc(x + 1),
    sp.atan2(x, a),
    sp.sinh(x),
    sp.cosh(x),
    sp.tanh(x),
    sp.coth(x),
    sp.sech(x),
    sp.csch(x),
    sp.asinh(x),
    sp.acosh(x + 1),
    sp.atanh(x / 9),
    sp.acoth(x + 1),
    sp.asech(x / 9),
    sp.acsch(x),
    sp.Abs(x - 2),
    sp.sign(x - 2),
    sp.floor(x),
    sp.ceiling(x),
    sp.frac(x),
    sp.Heaviside(x - 2),
    sp.Heaviside(x - 1.25, 0),
    sp.Min(x, a, 1),
    sp.Max(x, a, 1),
    sp.Mod(x, a),
    sp.erf(x),
    sp.erfc(x),
    sp.gamma(x),
    sp.factorial(x),
    sp.beta(x, a),
    sp.loggamma(x),
    sp.digamma(x),
    sp.polygamma(2, x),
    sp.besselj(0, x),
    sp.bessely(1, x),
    sp.besseli(2, x),
    sp.besselk(sp.Rational(1, 2), x),
    sp.Piecewise((x, x < 1), (x**2, x < a), (3, True)),
    sp.Piecewise((1, sp.And(x > 1, x < 2)), (0, True)),
    sp.Piecewise((1, sp.Or(x > 5, sp.Not(a > x))), (0, True)),
    sp.Piecewise((1, sp.Ne(x, a)), (0, True)),
    sp.Piecewise((1, sp.Xor(x > 1, a > 1)), (2, True)),
    sp.pi * x + sp.E,
    x / 3 - sp.Rational(2, 7) * x**3 / a,
]


def test_conditions_that_integrals_leave_behind():
    # SymPy adds that a is neither infinity, which a number never is
    system = System([Eq(D(x), sp.Integral(sp.exp(-a * t), (t, 0, 1)) + sp.Piecewise((1, x < sp.oo), (x, True)))])
    for value in (-0.5, 0.0, 2.0):
        exact = 1.0 if value == 0 else (1 - np.exp(-value)) / value
        np.testing.assert_allclose(float(system.rhs[0].subs({a: value, x: 3.0})), exact + 1, rtol=1e-14)


@pytest.mark.parametrize(
    "write",
    [
        lambda u, A: [Eq(D(u), A * u)],
        lambda u, A: [sp.Eq(D(u), sp.MatMul(A, u, evaluate=False))],
        lambda u, A: [Eq(sp.MatMul(A, u, evaluate=False), D(u))],
        lambda u, A: Eq(D(u), A * u),
        lambda u, A: D(u) - A * u,
        lambda u, A: [D(u) - A * u],
    ],
)
def test_an_equation_of_matrices_is_one_of_each_entry(write):
    A = sp.Matrix([[0, a], [-1, b]])
    system = System(write(sp.Matrix([x, y]), A))
    assert system.states == (x, y)
    assert same(system.rhs, [a * y, b * y - x])
    assert same(system.jacobian(), A)


def test_higher_derivatives_of_matrices():
    u = sp.Matrix([[x, y]])
    assert D(u, 2) == sp.Matrix([[D(x, 2), D(y, 2)]])
    assert System([Eq(D(u, 2), -u)]).equations == (Eq(D(x, 2), -x), Eq(D(y, 2), -y))


@pytest.mark.parametrize("expression", FUNCTIONS, ids=str)
def test_every_function_is_computed_as_sympy_computes_it(expression):
    system = System([Eq(D(x), expression)], parameters=[a])
    for value, parameter in ((1.25, 0.7), (0.4, 2.3), (2.6, 1.1)):
        point = {x: sp.Rational(value), a: sp.Rational(parameter)}
        expected = float(expression.subs(point).evalf(30))
        np.testing.assert_allclose(system.graph.evaluate("rhs", [value], [parameter], 0.0), [expected], rtol=2e-13)


# -- observed


def test_observed_quantities():
    total = sp.Symbol("total")
    system = System(
        [Eq(D(x), -a * x), Eq(D(y), a * x)],
        observed={"half": total / 2, total: x + y, z: total * t, "speed": D(x), "rate": b * x, "one": 1},
    )
    assert system.model.observed == ("half", "total", "z", "speed", "rate", "one")
    assert [p.name for p in system.parameters] == sorted(["a", "b"], key=[p.name for p in system.parameters].index)
    p = [{"a": 2.0, "b": 7.0}[name] for name in system.model.parameters]
    values = system.graph.evaluate("observed", [1.0, 3.0], p, 0.5)
    np.testing.assert_allclose(values, [2.0, 4.0, 2.0, -2.0, 7.0, 1.0])


def test_observed_quantities_may_stand_in_equations():
    force = sp.Symbol("force")
    system = System([Eq(D(x, 2), force), Eq(D(y), z)], observed={force: -a * x, z: force**2})
    assert system.model.parameters == ("a",)
    assert system.model.states == ("x", "x_t", "y")
    assert same(system.rhs, [D(x), -a * x, a**2 * x**2])


def test_observed_as_equations():
    system = System([Eq(D(x), -x)], observed=[Eq(y, 2 * x)])
    assert system.model.observed == ("y",)
    assert system.observed == {y: 2 * x}


# -- noise

NOISE = {
    "a constant": ([Eq(D(x), -x + a * w)], "additive"),
    "a function of time": ([Eq(D(x), -x + sp.sin(t) * w)], "additive"),
    "each its own constant": ([Eq(D(x), w), Eq(D(y), b * v)], "additive"),
    "each its own": ([Eq(D(x), x * w), Eq(D(y), b * y * v)], "diagonal"),
    "one for one of two": ([Eq(D(x), x * w), Eq(D(y), x)], "diagonal"),
    "one for both": ([Eq(D(x), x * w), Eq(D(y), b * y * w)], "scalar"),
    "two for both": ([Eq(D(x), x * w + y * v), Eq(D(y), b * y * w)], "general"),
    "two in one": ([Eq(D(x), x * w + v)], "general"),
    "a step of the state": ([Eq(D(x), sp.Heaviside(x) * w), Eq(D(y), w)], "scalar"),
    "a switch": ([Eq(D(x), sp.Piecewise((1, x > 0), (2, True)) * w)], "diagonal"),
}


@pytest.mark.parametrize("case", NOISE)
def test_noise_types(case):
    equations, kind = NOISE[case]
    system = System(equations)
    assert system.kind == "sde"
    assert system.noise_type == kind


def test_drift_and_diffusion():
    system = System([Eq(D(x) - w * x * a, -x), Eq(2 * D(y), b * (v + w) + y * (1 + v))])
    model = system.model
    assert model.noise == ("w", "v")
    p = [{"a": 3.0, "b": 5.0}[name] for name in model.parameters]
    u = [2.0, 7.0]
    np.testing.assert_allclose(system.graph.evaluate("rhs", u, p, 0.0), [-2.0, 3.5])
    matrix = np.zeros((2, 2))
    matrix[model.diffusion_rows, model.diffusion_cols] = system.graph.evaluate("diffusion", u, p, 0.0)
    np.testing.assert_allclose(matrix, [[6.0, 0.0], [2.5, 6.0]])


def test_noise_in_an_equation_of_second_order_moves_the_velocity():
    model = System([Eq(D(x, 2), -x + b * w)]).model
    assert model.states == ("x", "x_t")
    assert (model.diffusion_rows.tolist(), model.diffusion_cols.tolist()) == ([1], [0])


# -- delays


def test_delays():
    system = System([Eq(D(x), -a * x.subs(t, t - 1) + y.subs(t, t - b)), Eq(D(y), x)])
    assert system.model.states == ("x", "y")
    asked = []

    def history(state, time):
        asked.append((state, float(time)))
        return 10.0 + state

    p = [{"a": 2.0, "b": 0.25}[name] for name in system.model.parameters]
    value = system.graph.evaluate("rhs", [1.0, 0.0], p, 5.0, history)
    assert sorted(asked) == [(0, 4.0), (1, 4.75)]
    np.testing.assert_allclose(value, [-2.0 * 10.0 + 11.0, 1.0])


# -- events


def test_events():
    g, e = ps.parameters("g e")
    ball = System(
        [Eq(D(x, 2), -g)],
        events=[
            Event(x, {D(x): -e * D(x), x: 0}, direction="down"),
            Event(t - 3, {D(x): np.float64(2.5)}),
            Event(D(x, 2) + x - 1, terminal=True),
        ],
    )
    first, second, third = ball.model.events
    assert (first.direction, first.terminal, first.targets) == ("down", False, (1, 0))
    assert (second.direction, second.targets) == ("both", (1,))
    assert (third.terminal, third.targets) == (True, ())
    p = [{"g": 9.81, "e": 0.5}[name] for name in ball.model.parameters]
    u = [4.0, -6.0]
    np.testing.assert_allclose(ball.graph.evaluate(first.values, u, p, 0.0), [3.0, 0.0])
    np.testing.assert_allclose(ball.graph.evaluate(second.condition, u, p, 5.0), [2.0])
    np.testing.assert_allclose(ball.graph.evaluate(second.values, u, p, 5.0), [2.5])
    np.testing.assert_allclose(ball.graph.evaluate(third.condition, u, p, 0.0), [-9.81 + 3.0])
    assert repr(ball).startswith("System model (ode): 2 states x, x_t; 2 parameters g, e; 3 events\n")


def test_one_event_needs_no_list():
    assert len(System([Eq(D(x), 1)], events=Event(x - 1, terminal=True)).model.events) == 1


# -- derivatives of the model


JACOBIANS = {
    "lotka": [Eq(D(x), a * x - b * x * y), Eq(D(y), -c * y + d * x * y)],
    "robertson": [Eq(D(x), -a * x + b * y * z), Eq(D(y), a * x - b * y * z - c * y**2), Eq(D(z), c * y**2)],
    "pendulum": [Eq(D(x, 2), -sp.sin(x) - a * D(x) * sp.exp(-(x**2)))],
    "fractions": [Eq(D(x), x / (1 + y**2)), Eq(D(y), sp.sqrt(x + 4) * sp.log(y + 2) ** 3)],
    "algebraic": [Eq(D(x), -y * z), Eq(y**2, x + z), Eq(z, sp.cosh(x) * t)],
    "solved": [Eq((1 + x**2) * D(x) + D(y), a), Eq(D(y) - x * D(x), y)],
}


@pytest.mark.parametrize("case", JACOBIANS)
def test_the_jacobian_is_sympys(case):
    system = System(JACOBIANS[case])
    dummies = {state: sp.Dummy() for state in system.states}
    # highest derivatives first: SymPy would replace inside them
    ordered = dict(sorted(dummies.items(), key=lambda item: -getattr(item[0], "derivative_count", 0)))
    rhs = sp.Matrix([e.xreplace(ordered) for e in system.rhs])
    expected = rhs.jacobian(list(dummies.values()))
    ours = system.jacobian().xreplace(ordered)
    assert ours.shape == (len(system.states),) * 2
    assert sp.simplify(ours - expected).is_zero_matrix
    nonzero = {(i, j) for i, j in np.ndindex(*expected.shape) if sp.simplify(expected[i, j]) != 0}
    pattern = system.sparsity()
    assert pattern.dtype == bool
    assert nonzero <= set(zip(*(k.tolist() for k in pattern.nonzero()), strict=True))


def test_the_sparsity_of_a_chain_is_tridiagonal():
    q = ps.variables("q:6")
    chain = System([Eq(D(q[i]), q[max(i - 1, 0)] - 2 * q[i] + q[min(i + 1, 5)]) for i in range(6)])
    expected = np.tri(6, k=1, dtype=bool) & ~np.tri(6, k=-2, dtype=bool)
    assert (chain.sparsity().toarray() == expected).all()


# -- how it reads


def test_repr():
    system = System(
        [Eq(D(x, 2), -a * x + w), Eq(2 * D(y), x)],
        observed={"energy": D(x) ** 2 / 2 + a * x**2 / 2},
        name="oscillator",
    )
    assert repr(system) == (
        "System oscillator (sde): 3 states x, x_t, y; 1 parameter a; additive noise w; observed energy\n"
        "  D(x, 2) = w - a*x\n"
        "  2*D(y) = x\n"
        "  energy = a*x**2/2 + D(x)**2/2"
    )


def test_a_long_system_is_cut():
    q = ps.variables("q:30")
    lines = repr(System([Eq(D(s), -s) for s in q])).splitlines()
    assert lines[0] == "System model (ode): 30 states q0, q1, q2, q3, q4, q5, q6, q7, q8, q9, ..., q29"
    assert len(lines) == 22
    assert lines[-1] == "  ... and 10 more"


def test_latex():
    alpha, x_1 = sp.Symbol("alpha"), ps.variables("x_1")
    latex = System([Eq(D(x_1), -alpha * x_1**2)])._repr_latex_()
    assert latex == (r"$\displaystyle \begin{aligned}\frac{d}{d t} x_{1} &= - \alpha x_{1}^{2}\end{aligned}$")


@pytest.mark.parametrize("name", ["α", "x_1", "alpha_0", "Δp", "λ", "lambda", "k__a", "E", "S"])
def test_greek_letters_and_subscripts(name):
    state = ps.variables(name)
    rate = ps.parameters("κ")
    system = System([Eq(D(state), -rate * state)])
    assert system.model.states == (name,)
    assert system.model.parameters == ("κ",)
    problem = ps.Problem(system, {name: 1}, (0, 1), {"κ": 2})
    assert problem.u0.tolist() == [1.0]


def test_attributes():
    height = ps.variables("h", units="m", long_name="height")
    gravity = ps.parameters("g", units="m/s^2")
    energy = ps.parameters("energy", units="J", long_name="energy per mass")
    system = System([Eq(D(height, 2), -gravity)], observed={energy: gravity * height})
    assert system.attrs == {
        "h": {"units": "m", "long_name": "height"},
        "h_t": {"long_name": "time derivative of height"},
        "g": {"units": "m/s^2"},
        "energy": {"units": "J", "long_name": "energy per mass"},
    }


def test_declared_parameters_keep_their_order_and_may_be_unused():
    system = System([Eq(D(x), -a * x)], parameters=[c, a])
    assert system.parameters == (c, a)
    assert System([Eq(D(x), -a * x)], parameters=a).parameters == (a,)
    assert System([Eq(D(x), -x)], parameters=[]).parameters == ()


def test_states_come_in_the_order_of_the_equations_for_their_derivatives():
    x, y, z = ps.variables("x y z")
    system = System([Eq(D(y), x + z), Eq(D(z), x), Eq(z * y, 2 * D(x, 2))])
    assert [str(s) for s in system.model.states] == ["y", "z", "x", "x_t"]


def test_parameters_come_in_the_order_they_appear():
    assert System([Eq(D(x), d * x), Eq(D(y), a * y + d)]).parameters == (d, a)


def test_rhs_rebuilds_the_equations():
    system = System([Eq(D(x), a * x - b * x * y), Eq(D(y), sp.sin(t) / y + sp.Rational(1, 3))])
    assert same(system.rhs, [a * x - b * x * y, sp.sin(t) / y + sp.Rational(1, 3)])


def test_states_and_parameters_are_found_by_symbol_or_name():
    system = System([Eq(D(x, 2), -a * x)])
    assert [system.state_index(key) for key in (x, "x", D(x), "x_t", D(x, 2), y, "nope", a)] == [
        0, 0, 1, 1, None, None, None, None,
    ]  # fmt: skip
    assert [system.parameter_index(key) for key in (a, "a", x, "x", sp.Symbol("a", positive=True))] == [
        0, 0, None, None, None,
    ]  # fmt: skip


def test_messages_and_repr_of_shared_expressions_are_short():
    """Written out, sixty levels of doubling would fill the memory."""
    shared = x
    for _ in range(60):
        shared = sp.Add(sp.sin(shared, evaluate=False), sp.cos(shared, evaluate=False), evaluate=False)
    system = System([Eq(D(x), shared)], observed={"o": shared}, events=[Event(shared, terminal=True)])
    assert "D(x) = (an expression of " in repr(system)
    assert len(repr(system)) < 300
    assert len(system._repr_latex_()) < 300
    with pytest.raises(ps.ModelError, match=r"equation 1, D\(x\) = \(an expression of .* imaginary unit") as caught:
        System([Eq(D(x), shared + sp.I)])
    assert len(caught.value.equation) < 100


def test_a_coefficient_that_vanishes_for_positive_states_only_is_kept():
    system = System([Eq((x - sp.Abs(x) + y - sp.Abs(y)) * D(x), -2 * y), Eq(D(y), x)])
    assert system.kind == "ode"
    np.testing.assert_allclose(system.graph.evaluate("rhs", [-1.0, -1.0], [], 0.0), [-0.5, -1.0])
