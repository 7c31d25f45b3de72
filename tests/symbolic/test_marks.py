"""Terms marked as implicit: two sums that are the whole, and nothing else changes."""

from __future__ import annotations

import pickle

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml import D, Eq, Event, System, implicit
from pysciml.engines.julia import JuliaEngine
from pysciml.errors import ModelError, UnsupportedError

x, y, z = ps.variables("x y z")
a, b = ps.parameters("a b")
t = ps.t

TERMS = [x, -a * x, x * y, a * sp.sin(x * t), y / (1 + x**2), -sp.exp(-x) * b, sp.Max(x, y), sp.Integer(3), a + t]


def plain(equations):
    return [Eq(e.lhs, e.rhs.replace(implicit, lambda term: term)) for e in equations]


def values(system, output):
    rng = np.random.default_rng(1)
    u, p = rng.uniform(-1, 1, (len(system.states), 5)), rng.uniform(0.5, 2, (len(system.parameters), 1))
    return system.graph.evaluate(output, u, p, 0.7)


@hypothesis.given(st.lists(st.tuples(st.sampled_from(TERMS), st.sampled_from([-2, 1, y]), st.booleans()), min_size=2))
def test_the_parts_are_the_sums_of_the_marked_and_of_the_other_terms(terms):
    def total(chosen):
        return sp.Add(*(factor * term for term, factor, _ in chosen))

    written = sp.Add(*(factor * (implicit(term) if marked else term) for term, factor, marked in terms))
    system = System([Eq(D(x), written), Eq(D(y), x + a * b)], [a, b])
    whole = System([Eq(D(x), total(terms)), Eq(D(y), x + a * b)], [a, b])
    np.testing.assert_allclose(values(system, "rhs"), values(whole, "rhs"), rtol=1e-12, atol=1e-12)
    marked = total([term for term in terms if term[2] and term[0] != 3])  # a number needs no mark
    if "implicit" not in system.graph.outputs:
        assert sp.simplify(marked) == 0
        return
    reference = System([Eq(D(x), marked), Eq(D(y), x + a * b)], [a, b])
    np.testing.assert_allclose(values(system, "implicit")[0], values(reference, "rhs")[0], rtol=1e-12, atol=1e-12)
    assert not values(system, "implicit")[1].any()
    both = values(system, "implicit") + values(system, "explicit")
    np.testing.assert_allclose(both, values(system, "rhs"), rtol=1e-12, atol=1e-12)


def test_marks_survive_solving_for_derivatives_and_orders():
    coupled = System([Eq(2 * D(x) + D(y), implicit(-a * x)), Eq(D(x) - D(y), y), Eq(D(z, 2), implicit(-b * z) - D(z))])
    assert coupled.model.states == ("x", "y", "z", "z_t")
    u, p = np.array([0.3, 0.5, 0.7, 1.1]), np.array([2.0, 3.0])
    by_name = dict(zip(coupled.model.parameters, p, strict=True))
    marked = np.array([-by_name["a"] * 0.3 / 3, -by_name["a"] * 0.3 / 3, 0, -by_name["b"] * 0.7])
    np.testing.assert_allclose(coupled.graph.evaluate("implicit", u, p, 0.0), marked, rtol=1e-14)
    rest = np.array([0.5 / 3, -2 * 0.5 / 3, 1.1, -1.1])
    np.testing.assert_allclose(coupled.graph.evaluate("explicit", u, p, 0.0), rest, rtol=1e-14)


def test_elsewhere_a_marked_term_has_its_value():
    marked = System(
        [Eq(D(x), implicit(-a * x) + y), Eq(D(y), sp.Symbol("rate"))],
        observed={"rate": implicit(x) * y - 1},
        events=[Event(implicit(x) - 1, {x: implicit(2 * x)})],
    )
    bare = System(
        [Eq(D(x), -a * x + y), Eq(D(y), x * y - 1)], observed={"rate": x * y - 1}, events=[Event(x - 1, {x: 2 * x})]
    )
    for output in bare.graph.outputs:
        np.testing.assert_allclose(values(marked, output), values(bare, output), rtol=1e-14)
    assert values(marked, "implicit")[1].any()  # through what is observed


def test_marks_without_effect_leave_no_trace():
    bare = System([Eq(D(x), -a * x)])
    assert System([Eq(D(x), -a * x + implicit(x) - implicit(x))]).model.hash == bare.model.hash
    assert System([Eq(D(x), -a * x)], events=[Event(implicit(x) - 1, terminal=True)]).graph.outputs.keys() == {
        *bare.graph.outputs,
        "event0",
        "event0_values",
    }


NOT_A_SUM = {
    "in a function": Eq(D(x), sp.sin(implicit(x))),
    "in a denominator": Eq(D(x), y / implicit(x)),
    "in a mark": Eq(D(x), implicit(x + implicit(y))),
    "a product of two": Eq(D(x), implicit(x) * implicit(y)),
    "in a step": Eq(D(x), sp.floor(implicit(y))),
    "in a condition": Eq(D(x), sp.Piecewise((x, implicit(x) > y), (y, True))),
    "on a derivative": Eq(implicit(D(x)), y),
}


@pytest.mark.parametrize("where", NOT_A_SUM)
def test_a_mark_that_makes_no_sum_is_refused(where):
    with pytest.raises(ModelError, match=r"equation for x: implicit\(\) stands where") as caught:
        System([NOT_A_SUM[where], Eq(D(y), -y)])
    assert caught.value.symbol == "x"


@pytest.mark.parametrize("bad", ["x", None, sp.Matrix([1]), sp.true])
def test_only_expressions_can_be_marked(bad):
    with pytest.raises(ModelError, match="not an expression"):
        implicit(bad)


def test_a_mark_is_a_function_of_sympy():
    assert implicit(implicit(x)) == implicit(x)
    assert implicit(2) == 2
    assert sp.diff(implicit(x**2), x) == 2 * x
    assert implicit(sp.pi).evalf() == sp.pi.evalf()
    assert implicit(a * x).subs(a, 3) == implicit(3 * x)
    assert pickle.loads(pickle.dumps(implicit(x))) == implicit(x)  # noqa: S301


def test_a_mark_is_seen_in_print(tmp_path):
    system = System([Eq(D(x), implicit(-a * x) + y), Eq(D(y), x)])
    assert "D(x) = y + implicit(-a*x)" in repr(system)
    assert r"\underbrace{- a x}_{\text{implicit}}" in system._repr_latex_()
    system.save(tmp_path / "model.json")
    assert "implicit(-a*x)" in repr(ps.load(tmp_path / "model.json"))


STIFF = [Eq(D(x), implicit(-50 * (x - sp.cos(t))) + y), Eq(D(y), -x * y + implicit(-y))]


@pytest.mark.parametrize(("engine", "alg"), [("native", None), ("native", "TRBDF2"), ("jax", "Kvaerno5")])
def test_other_methods_solve_the_whole(engine, alg):
    ends = [
        ps.solve(ps.Problem(System(equations), {x: 1, y: 0.5}, (0, 1)), alg, engine=engine, rtol=1e-9, atol=1e-9)
        for equations in (STIFF, plain(STIFF))
    ]
    for name in ("x", "y"):
        assert ends[0][name][-1].item() == pytest.approx(ends[1][name][-1].item(), rel=1e-8)


def test_a_partial_differential_equation_is_solved_whole():
    (X,) = ps.coordinates("X,")
    (u,) = ps.fields("u,", X)

    def end(mark):
        diffusion = mark(ps.laplacian(u) / 50)
        system = ps.PDESystem(
            [Eq(D(u), diffusion + u * (1 - u))],
            domain={X: (0, 1)},
            boundary={X: ps.Periodic()},
            initial={u: sp.sin(sp.pi * X) ** 2},
        )
        return ps.solve(system.discretize({X: 16}).problem((0, 0.2)), rtol=1e-8, atol=1e-8).u.values[-1]

    np.testing.assert_allclose(end(implicit), end(lambda term: term), rtol=1e-7)


def test_methods_that_need_two_parts_say_so_before_julia_starts():
    engine = JuliaEngine()
    marked, bare = (System(equations, name="stiff").model for equations in (STIFF, plain(STIFF)))
    for alg in ("SBDF2", "CNAB2", "IMEXEuler"):
        engine.check(marked, alg)
        with pytest.raises(UnsupportedError, match=rf"{alg} solves .* in two parts.*'stiff' with pysciml.implicit"):
            engine.check(bare, alg)
    engine.check(bare, "KenCarp4")
    algebraic = System([Eq(D(x), implicit(-x) + y), Eq(0, y - x**3)]).model
    assert "implicit" not in algebraic.graph.outputs
    with pytest.raises(UnsupportedError, match="two parts"):
        engine.check(algebraic, "SBDF2")
