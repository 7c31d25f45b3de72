"""Expressions to Symbolics.jl and back: the same functions, and simpler ones where it knows how."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.errors import EngineUnavailableError, ProblemError, UnsupportedError

D = ps.D
t = ps.t
x, y = ps.variables("x y")
a, b = ps.parameters("a b")


def test_what_cannot_be_simplified_is_refused() -> None:
    system = ps.System([ps.Eq(D(x), -x)])
    with pytest.raises(ProblemError, match=r"takes a pysciml.System, not Mul"):
        ps.simplify(-x)
    with pytest.raises(UnsupportedError, match="native engine simplifies no expressions"):
        ps.simplify(system, engine="native")
    with pytest.raises(UnsupportedError, match="no engine 'matlab'"):
        ps.simplify(system, engine="matlab")


def test_without_julia_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for owner in ("JULIACALL", "JULIAPKG"):
        for what in ("EXE", "PROJECT"):
            monkeypatch.delenv(f"PYTHON_{owner}_{what}", raising=False)
    monkeypatch.setenv("PYSCIML_JULIA_HOME", str(tmp_path / "home"))
    with pytest.raises(EngineUnavailableError, match="pysciml julia setup"):
        ps.simplify(ps.System([ps.Eq(D(x), -x)]))


def on_julia(test):
    return pytest.mark.julia(pytest.mark.usefixtures("julia_engine")(test))


LEAVES = st.sampled_from([x, y, a, b, t, sp.Integer(2), sp.Rational(1, 3), sp.Float(0.7), sp.Integer(-1)])
UNARY = st.sampled_from(
    [sp.sin, sp.cos, sp.exp, sp.tanh, sp.Abs, sp.atan, sp.sign, sp.floor, sp.erf, sp.cosh, sp.asinh]
)


def combine(inner):
    pair = st.tuples(inner, inner)
    return st.one_of(
        st.builds(lambda f, e: f(e), UNARY, inner),
        pair.map(lambda e: e[0] + e[1]),
        pair.map(lambda e: e[0] - e[1]),
        pair.map(lambda e: e[0] * e[1]),
        pair.map(lambda e: e[0] / (1 + e[1] ** 2)),
        pair.map(lambda e: sp.Max(e[0], e[1])),
        pair.map(lambda e: sp.atan2(e[0], 1 + e[1] ** 2)),
        st.tuples(inner, st.sampled_from([2, 3, -2, 11])).map(lambda e: (1 + e[0] ** 2) ** e[1]),
        inner.map(lambda e: sp.sqrt(1 + e**2) + sp.log(2 + sp.Abs(e))),
        st.tuples(inner, inner, inner).map(lambda e: sp.Piecewise((e[0], e[1] > e[2]), (e[1], True))),
    )


EXPRESSIONS = st.recursive(LEAVES, combine, max_leaves=12)


def values(graph) -> np.ndarray:
    rng = np.random.default_rng(5)
    u, p = rng.uniform(-1.5, 1.5, (2, 7)), rng.uniform(0.2, 1.5, (2, 7))
    return graph.evaluate("rhs", u, p, rng.uniform(0, 2, 7))


def system_of(*rates) -> ps.System | None:
    try:
        return ps.System([ps.Eq(D(x), rates[0]), ps.Eq(D(y), rates[-1])], [a, b])
    except ps.ModelError:  # an expression that is no finite number
        return None


@on_julia
@hypothesis.given(EXPRESSIONS, EXPRESSIONS)
def test_an_expression_that_went_there_and_back_is_the_same_function(first, second) -> None:
    from pysciml.engines.julia.simplifying import there_and_back

    system = system_of(first + x, second * y)
    if system is None:
        return
    back = there_and_back(system.graph)
    np.testing.assert_allclose(values(back), values(system.graph), rtol=1e-9, atol=1e-12)


@on_julia
@hypothesis.settings(max_examples=40)
@hypothesis.given(EXPRESSIONS, EXPRESSIONS)
def test_a_simplified_expression_is_the_same_function(first, second) -> None:
    system = system_of(first + x, second * y)
    if system is None:
        return
    simple = ps.simplify(system)
    np.testing.assert_allclose(values(simple.graph), values(system.graph), rtol=1e-8, atol=1e-9)


@on_julia
def test_what_symbolics_knows_becomes_simpler() -> None:
    system = ps.System(
        [ps.Eq(D(x), sp.sin(x * y) ** 2 + sp.cos(x * y) ** 2 - x), ps.Eq(D(y), sp.exp(x) * sp.exp(-x) * a * y)],
        observed={"sum": (x**2 - 1) / (x - 1)},
        events=[ps.Event(x - 2, {x: x + sp.sin(y) ** 2 + sp.cos(y) ** 2})],
        name="wordy",
    )
    simple = ps.simplify(system)
    assert (simple.name, simple.kind, simple.model.states) == ("wordy", "ode", ("x", "y"))
    assert sp.expand(simple.rhs[0] - (1 - x)) == 0
    assert sp.expand(simple.rhs[1] - a * y) == 0
    assert sp.expand(simple.observed[sp.Symbol("sum")] - (x + 1)) == 0
    assert sp.expand(simple.events[0].affect[x] - (x + 1)) == 0
    assert len(simple.graph) < len(system.graph)
    problems = [ps.Problem(s, {x: 3, y: 0.5}, (0, 1), {a: -1}) for s in (system, simple)]
    ends = [ps.solve(p, "Tsit5", engine="native", rtol=1e-9, atol=1e-9, saveat=[1.0]) for p in problems]
    assert ends[0].x.item() == pytest.approx(ends[1].x.item(), rel=1e-8)


@on_julia
def test_delays_noise_and_attributes_survive() -> None:
    height = ps.variables("h", units="m")
    w = ps.brownian("w")
    delayed = ps.simplify(ps.System([ps.Eq(D(x), -x.subs(t, t - 2 * a / 2) * (sp.sin(x) ** 2 + sp.cos(x) ** 2))]))
    assert delayed.kind == "dde"
    assert sp.expand(delayed.rhs[0] + x.subs(t, t - a)) == 0
    noisy = ps.simplify(ps.System([ps.Eq(D(height), -height + a * (sp.cos(height) ** 2 + sp.sin(height) ** 2) * w)]))
    assert (noisy.kind, noisy.noise_type, noisy.attrs) == ("sde", "additive", {"h": {"units": "m"}})
    network = ps.MLP("nn", inputs=1, outputs=1, hidden=(2,), activation="tanh")
    with pytest.raises(UnsupportedError, match=r"networks \(nn\)"):
        ps.simplify(ps.System([ps.Eq(D(x), network(x))]))
