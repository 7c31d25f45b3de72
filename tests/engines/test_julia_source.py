"""Julia source of a model: how it reads, that it parses, and that Julia computes the same with it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
import tree_sitter_julia
from tree_sitter import Language, Parser

import pysciml as ps
from pysciml.symbolic.julia_source import identifiers, julia_source

D = ps.D
t = ps.t

LOTKA = """\
# lotka_volterra: written by pysciml {version}
# u[1] is x
# u[2] is y
# p[1] is a
# p[2] is b
# p[3] is c
# p[4] is d

using OrdinaryDiffEq

function rhs!(du, u, p, t)
    x, y = u
    a, b, c, d = p
    du[1] = a*x - b*x*y
    du[2] = d*x*y - c*y
    return nothing
end

problem(u0, tspan, p) = ODEProblem(rhs!, u0, tspan, p)
"""


def systems() -> dict[str, ps.System]:
    x, y, beta, exp, end, u = ps.variables("x y beta exp end u")
    a, b, c, d, tau, p, du = ps.parameters("a b c d tau p du")
    v, w = ps.brownian("v w")
    rest = sp.Max(y, a) ** sp.Rational(5, 2) - x**2 - 2 * x * y + sp.Abs(y)
    piecewise = sp.Piecewise((sp.sqrt(y), y > 0), (x**3 * sp.exp(x * y), True))
    conditions = sp.Piecewise(
        (1, sp.And(x > y, sp.Or(y > sp.Rational(1, 10), sp.Not(sp.Eq(x, 0))))),
        (-2, sp.Or(x < -1, sp.Ne(y, x))),
        (y, True),
    )
    delayed = x.subs(t, t - tau)
    return {
        "algebraic": ps.System(
            [
                ps.Eq(D(x, 2), -sp.sin(x) * a / 3 + piecewise + sp.Heaviside(t - 1)),
                ps.Eq(0, rest - sp.sign(x) * sp.floor(7 * y) + sp.Mod(x, sp.Rational(1, 3))),
            ],
            observed={
                "energy": x**2 / 2 + y * (x - y) - (x - (y - a)),
                "signs": x - (-(y + 1)) - (x + y) * 3 - (a - (x - y)),
                "quotients": x / (y / a) + (x / y) / a + x**-2 + 2**x,
                "functions": sp.atan2(y, x) + sp.Min(x, y, a) + sp.ceiling(x) + sp.acos(x / 5) + sp.tanh(x),
                "numbers": 1e-300 * x + 1e22 * y + sp.pi * x + x / 7,
            },
            events=[ps.Event(x - 0.5, {x: -0.8 * x}, direction="down"), ps.Event(x + y, terminal=True)],
        ),
        "words of Julia\nas names": ps.System(
            [
                ps.Eq(D(beta), exp * end + p * du),
                ps.Eq(D(exp), sp.exp(u) - end),
                ps.Eq(D(end), beta - 2),
                ps.Eq(D(u), -t * u + du),
            ],
            name="words of Julia\nas names",
        ),
        "general noise": ps.System([ps.Eq(D(x), -a * x + b * v * x + c * w), ps.Eq(D(y), x - y + d * w * y)]),
        "diagonal noise": ps.System([ps.Eq(D(x), -a * x + b * v * x), ps.Eq(D(y), x - y + d * w * y)]),
        "delays": ps.System(
            [ps.Eq(D(x), -a * delayed / (1 + delayed**10) - c * x + y.subs(t, t - x * tau)), ps.Eq(D(y), x - y)]
        ),
        "marked terms": ps.System(
            [ps.Eq(D(x), ps.implicit(-a * (x - sp.cos(t)) + x * y) + y / b), ps.Eq(D(y), x - y * sp.tanh(x * y))]
        ),
        "conditions": ps.System([ps.Eq(D(x), conditions), ps.Eq(D(y), -y + x**11 + x**-3)]),
    }


def test_it_reads_as_if_written_by_hand() -> None:
    x, y = ps.variables("x y")
    a, b, c, d = ps.parameters("a b c d")
    system = ps.System([ps.Eq(D(x), a * x - b * x * y), ps.Eq(D(y), -c * y + d * x * y)], name="lotka_volterra")
    assert system.to_julia() == LOTKA.format(version=ps.__version__)


@pytest.mark.parametrize("name", systems())
def test_it_parses(name: str) -> None:
    parser = Parser(Language(tree_sitter_julia.language()))
    source = systems()[name].to_julia()
    assert not parser.parse(source.encode()).root_node.has_error


def test_shared_subexpressions_are_written_once() -> None:
    x, y = ps.variables("x y")
    shared = sp.sin(x * y + 1)
    source = ps.System([ps.Eq(D(x), shared**2 + y), ps.Eq(D(y), shared * x)]).to_julia()
    assert source.count("sin(") == 1
    assert "du[2] = s" in source


def test_marked_terms_are_written_as_a_part_of_their_own() -> None:
    x, y = ps.variables("x y")
    k = ps.parameters("k")
    marked = ps.System([ps.Eq(D(x), ps.implicit(-k * x) + y), ps.Eq(D(y), -x * y)])
    plain = ps.System([ps.Eq(D(x), -k * x + y), ps.Eq(D(y), -x * y)])
    whole, _, parts = marked.to_julia().partition("\n# The same in two parts")
    assert whole.strip() == plain.to_julia().strip()
    implicit, explicit = parts.split("function explicit!")
    assert "du[1] = -k*x" in implicit
    assert "du[2] = 0" in implicit
    assert "du[1] = y" in explicit
    assert "du[2] = -x*y" in explicit
    last = explicit.strip().splitlines()[-1]
    assert last == "split_problem(u0, tspan, p) = SplitODEProblem(implicit!, explicit!, u0, tspan, p)"


def test_a_name_cannot_leave_its_comment_or_become_code() -> None:
    x, y = ps.variables("x y")
    model = ps.System([ps.Eq(D(x), -y), ps.Eq(D(y), x)]).model
    hostile = dataclasses.replace(model, name="a\nexit()", states=("x\nrun(`ls`)#", 'y";exit()#'))
    code = [line for line in julia_source(hostile).splitlines() if not line.startswith("#")]
    assert len(code) > 5
    assert not any(word in line for line in code for word in ("`", "exit()", ";", '"'))


def test_identifiers_are_valid_different_and_like_the_names() -> None:
    names = ["x", "x_t", "α", "exp", "du", "end", "a b", "a-b", "1st", "_", "x'"]
    assert identifiers(names) == ["x", "x_t", "α", "exp_", "du_", "end_", "a_b", "a_b_", "v_1st", "v__", "x_"]


STUBS = """
module NaNMath
sqrt(x) = x < 0 ? NaN : Base.sqrt(x)
acos(x) = abs(x) > 1 ? NaN : Base.acos(x)
pow(x, y) = x < 0 && !isinteger(y) ? NaN : x^y
end
same(a, b) = all((isnan.(a) .& isnan.(b)) .| isapprox.(a, b; rtol = 1e-13))
"""
MODULE = """
module M{number}
import ..NaNMath
terminate!(integrator) = nothing
ContinuousCallback(args...) = args
CallbackSet(args...) = args
Diagonal(x) = x
{source}
end
"""


def numbers(values: object) -> str:
    return "Float64[" + ", ".join(repr(float(value)) for value in np.ravel(values)) + "]"


def checks(number: int, system: ps.System, rng: np.random.Generator) -> list[str]:
    """Julia lines that print whether the source computes what the graph does, at one random place."""
    model, graph = system.model, system.graph
    n = len(model.states)
    u, p, time = rng.normal(size=n), rng.normal(size=len(model.parameters)) ** 2, float(rng.normal())
    expected = graph.evaluate("rhs", u, p, time, history=lambda state, when: np.cos(when) + state)
    history = "(p, t; idxs) -> cos(t) + idxs - 1, " if model.kind == "dde" else ""
    lines = [f"u, p, t, du = {numbers(u)}, {numbers(p)}, {time!r}, zeros({n})"]
    lines.append(f"M{number}.rhs!(du, u, {history}p, t); println(same(du, {numbers(expected)}))")
    for part in {"implicit", "explicit"} & graph.outputs.keys():
        expected = graph.evaluate(part, u, p, time)
        lines.append(f"M{number}.{part}!(du, u, p, t); println(same(du, {numbers(expected)}))")
    if model.observed:
        expected = graph.evaluate("observed", u, p, time)
        lines.append(f"out = zeros({len(expected)}); M{number}.observed!(out, u, p, t)")
        lines.append(f"println(same(out, {numbers(expected)}))")
    for k, event in enumerate(model.events, start=1):
        height = graph.evaluate(event.condition, u, p, time)
        lines.append(f"integrator = (; u = copy(u), p, t); M{number}.affect{k}!(integrator)")
        lines.append(f"println(same(M{number}.condition{k}(u, t, integrator), {numbers(height)}))")
        after = u.copy()
        if event.targets:
            after[list(event.targets)] = graph.evaluate(event.values, u, p, time)
        lines.append(f"println(same(integrator.u, {numbers(after)}))")
    if model.kind == "sde":
        matrix = np.zeros((n, len(model.noise)))
        matrix[model.diffusion_rows, model.diffusion_cols] = graph.evaluate("diffusion", u, p, time)
        diagonal = model.noise_type == "diagonal"
        shape, expected = (f"{n}", np.diag(matrix)) if diagonal else (f"{n}, {len(model.noise)}", matrix.T)
        lines.append(f"g = ones({shape}); M{number}.diffusion!(g, u, p, t)")
        lines.append(f"println(same(vec(g), {numbers(expected)}))")
    return lines


@pytest.mark.julia
def test_julia_computes_what_the_graph_does(tmp_path: Path) -> None:
    """With Julia alone: the solver packages are not needed for the functions."""
    julia = os.environ.get("PYTHON_JULIACALL_EXE") or os.environ.get("PYTHON_JULIAPKG_EXE") or shutil.which("julia")
    if julia is None:
        pytest.skip("no julia on the PATH and none named in PYTHON_JULIACALL_EXE")
    rng = np.random.default_rng(1)
    script = [STUBS]
    for number, system in enumerate(systems().values()):
        source = "\n".join(line for line in system.to_julia().splitlines() if not line.startswith("using "))
        script.append(MODULE.format(number=number, source=source))
        for _ in range(3):
            script += checks(number, system, rng)
    path = tmp_path / "script.jl"
    path.write_text("\n".join(script))
    run = subprocess.run([julia, "--startup-file=no", str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    answers = run.stdout.split()
    assert len(answers) == 3 * 16
    assert set(answers) == {"true"}
