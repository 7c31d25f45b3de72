"""Slips of the keyboard, and the words of other libraries: the message says what was meant."""

from __future__ import annotations

import inspect

import pytest
import sympy as sp

import pysciml as ps
from pysciml.hints import did_you_mean, named_options

x, y = ps.variables("x y")
a = ps.parameters("a")
X = ps.coordinates("X")
h = ps.fields("h", X)
decay = ps.System([ps.Eq(ps.D(x), -a * x)], name="decay")
problem = ps.Problem(decay, {x: 1}, (0, 1), {a: 2})
heat = ps.PDESystem(
    [ps.Eq(ps.D(h), ps.laplacian(h))],
    domain={X: (0, 1)},
    boundary={X: ps.Dirichlet(0)},
    initial={h: sp.sin(sp.pi * X)},
)
grid = heat.discretize({X: 8})

#: A call with an option that does not exist; which, and what was meant ("" where nothing is near).
UNKNOWN = {
    "solve": (lambda **o: ps.solve(problem, **o), {"savat": "saveat", "t_eval": "saveat", "method": "alg", "qqq": ""}),
    "remake": (lambda **o: problem.remake(**o), {"u": "u0", "params": "p", "t_span": "tspan"}),
    "Problem": (lambda **o: ps.Problem(decay, **o), {"y0": "u0", "args": "p"}),
    "solve_ensemble": (
        lambda **o: ps.solve_ensemble(problem, **o),
        {"n": "trajectories", "num_trajectories": "trajectories", "sweep": "over", "trajectory": "trajectories"},
    ),
    "fit": (lambda **o: ps.fit(problem, None, [a], **o), {"lr": "learning_rate", "regularizer": "regularize"}),
    "compare": (lambda **o: ps.compare(problem, **o), {"solver": "solvers", "tols": "tolerances"}),
    "gradient": (lambda **o: ps.gradient(problem, x, **o), {"abstol": "atol"}),
    "steady_state": (lambda **o: ps.steady_state(problem, **o), {"reltol": "rtol"}),
    "simplify": (lambda **o: ps.simplify(decay, **o), {"backend": "engine"}),
    "reduce_index": (lambda **o: ps.reduce_index(decay, **o), {"backend": "engine"}),
    "assert_solvers_agree": (lambda **o: ps.testing.assert_solvers_agree(problem, **o), {"tol": "rtol"}),
    "discretize": (lambda **o: heat.discretize(**o), {"n": "points", "method": "scheme"}),
    "problem": (lambda **o: grid.problem((0, 1), **o), {"initial": "u0"}),
    "ErrorEstimate": (lambda **o: ps.ErrorEstimate(**o), {"weigth": "weight", "coeff": "weight"}),
    "RandomEndTime": (lambda **o: ps.RandomEndTime(**o), {"size": ""}),
}
UNKNOWN_IN_MODELS = {
    "System": (lambda **o: ps.System([], **o), {"obs": "observed", "params": "parameters", "event": "events"}),
    "PDESystem": (lambda **o: ps.PDESystem([], **o), {"bcs": "boundary", "ic": "initial"}),
    "Event": (lambda **o: ps.Event(x, **o), {"dir": "direction"}),
    "Jump": (lambda **o: ps.Jump(x, **o), {"afect": "affect"}),
    "MLP": (lambda **o: ps.MLP("nn", **o), {"layers": "hidden", "act": "activation", "in_size": "inputs"}),
    "Dirichlet": (lambda **o: ps.Dirichlet(**o), {"left": "lower"}),
    "Robin": (lambda **o: ps.Robin(1, 1, **o), {"right": "upper"}),
}
CASES = [
    pytest.param(call, name, option, meant, error, id=f"{name}-{option}")
    for table, error in ((UNKNOWN, ps.ProblemError), (UNKNOWN_IN_MODELS, ps.ModelError))
    for name, (call, options) in table.items()
    for option, meant in options.items()
]


@pytest.mark.parametrize(("call", "name", "option", "meant", "error"), CASES)
def test_an_option_that_does_not_exist(call, name, option, meant, error):
    with pytest.raises(error, match=f"^{name} has no option {option}: it has ") as caught:
        call(**{option: 1})
    hint = str(caught.value).partition("; ")[2]
    assert hint == (f"did you mean {meant}?" if meant else "")


def test_the_signature_stays():
    assert list(inspect.signature(ps.solve).parameters)[:4] == ["problem", "alg", "engine", "rtol"]
    assert list(inspect.signature(ps.Problem).parameters) == ["system", "u0", "tspan", "p"]
    assert (ps.solve.__doc__ or "").startswith("Solve")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'tspan'"):
        ps.Problem(decay, {x: 1})  # pyright: ignore[reportCallIssue]


def test_positional_only_and_keyword_only():
    @named_options()
    def f(one, /, two, *, three=3):
        return one, two, three

    assert f(1, two=2) == (1, 2, 3)
    with pytest.raises(ps.ProblemError, match=r"f has no option one: it has two, three$"):
        f(1, 2, one=1)


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        ("tsit5", ["Vern9", "Tsit5"], "; did you mean 'Tsit5'?"),
        ("x", ["alpha", "beta"], ""),
        ("alpah", ["alpha", "beta"], "; did you mean 'alpha'?"),
        ("alpha", [], ""),
    ],
)
def test_what_a_misspelt_name_was_meant_to_be(text, known, expected):
    assert did_you_mean(text, known, quote="'") == expected


@pytest.mark.parametrize(
    ("given", "meant"), [("RK45", "DP5"), ("ode45", "DP5"), ("LSODA", "QNDF"), ("ode23tb", "TRBDF2")]
)
def test_the_names_other_libraries_have_for_a_method(given, meant):
    with pytest.raises(ps.UnsupportedError, match=f"did you mean '{meant}'"):
        ps.solve(problem, given, engine="native")


@pytest.mark.parametrize(
    ("given", "how"),
    [
        (decay, r"Problem\(system, u0, tspan, p\)"),
        (heat, r"system\.discretize\(\{X: 64\}\)\.problem\(tspan, p\)"),
        (grid, r"\.problem\(tspan, p\)"),
    ],
)
def test_what_a_problem_is_made_of(given, how):
    with pytest.raises(ps.ProblemError, match=f"^solve takes a pysciml.Problem, not {type(given).__name__}: .*{how}$"):
        ps.solve(given)


def test_an_algorithm_alone_is_no_solver_to_compare():
    with pytest.raises(ps.ProblemError, match=r"'TRBDF2' is an algorithm: write \('native', 'TRBDF2'\)"):
        ps.compare(problem, solvers=["TRBDF2"])


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder.*absent'$"):
        decay.save(tmp_path / "absent" / "model.json")


def test_a_misspelt_function():
    with pytest.raises(AttributeError, match="no attribute 'slove'") as caught:
        ps.slove  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    assert (caught.value.name, caught.value.obj) == ("slove", ps)  # what Python's own suggestion is made from


def test_a_gradient_of_what_is_no_number_of_the_solution():
    for wrong in (lambda sol: 1, lambda sol: "x", lambda sol: None, lambda sol: sol.x > 0):
        with pytest.raises(ps.ProblemError, match="of must return a real number"):
            ps.gradient(problem, wrong)
