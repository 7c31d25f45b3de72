"""Index reduction: which equations are differentiated, and what is said where that is no way out."""

from __future__ import annotations

import re

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import pysciml as ps
from pysciml.errors import ModelError, ProblemError, UnsupportedError
from pysciml.graph.manifold import on_manifold, projected

D, Eq, t = ps.D, ps.Eq, ps.t
x, y, z, w, u, v, tension = ps.variables("x y z w u v tension")
g, length = ps.parameters("g length")

PENDULUM = [Eq(D(x, 2), -tension * x), Eq(D(y, 2), -tension * y - g), Eq(x**2 + y**2, length**2)]


def pendulum(**more) -> ps.System:
    return ps.System(PENDULUM, name="pendulum", **more)


SYSTEMS = {
    "an ordinary equation": ([Eq(D(x), -x)], 0, {}),
    "only algebraic equations": ([Eq(x + y, 3), Eq(x - y, t)], 1, {}),
    "an algebraic equation": ([Eq(D(x), -y), Eq(y, x**2)], 1, {}),
    "an implicit equation": ([Eq(D(x) ** 2 + D(x), x)], 0, {}),
    "a differentiator": ([Eq(D(x), y), Eq(x, sp.sin(t))], 2, {"x = sin(t)": 1}),
    "differentiators in a row": ([Eq(D(x), y), Eq(D(y), z), Eq(x, sp.sin(t))], 3, {"x = sin(t)": 2}),
    "a Hessenberg system": ([Eq(D(x), -x + z), Eq(D(y), x * z), Eq(x**2 + y, 1)], 2, {"x**2 + y = 1": 1}),
    "the pendulum": (PENDULUM, 3, {"x**2 + y**2 = length**2": 2}),
    "a path that is prescribed": (
        [Eq(D(x), y), Eq(D(y), z - x**3), Eq(D(z), w - z), Eq(x, sp.cos(t))],
        4,
        {"x = cos(t)": 3},
    ),
    # x' = z and y' = z + w need z', although z alone is algebraic where they are written
    "an unknown that has to be differentiated": (
        [Eq(D(x), z), Eq(D(y), z + w), Eq(D(w), v), Eq(x, sp.sin(t)), Eq(y, sp.cos(t))],
        3,
        {"x = sin(t)": 2, "y = cos(t)": 2},
    ),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_index_and_what_is_differentiated(name: str) -> None:
    equations, index, differentiated = SYSTEMS[name]
    system = ps.System(equations)
    assert system.index == index
    counts = {line: sum(line in phrase for phrase in system.constraints) for line in differentiated}
    assert counts == differentiated
    assert len(system.constraints) == sum(differentiated.values())


def test_constraints_and_their_derivatives_are_exact() -> None:
    system = pendulum()
    assert system.states == (x, D(x), y, D(y), tension)
    assert list(system.constraints.values()) == [
        x**2 + y**2 - length**2,
        2 * x * D(x) + 2 * y * D(y),
    ]
    second = 2 * D(x) ** 2 + 2 * D(y) ** 2 - 2 * tension * x**2 - 2 * (g + tension * y) * y
    assert sp.expand(system.rhs[-1] - second) == 0


def test_terms_that_cancel_are_seen_through() -> None:
    """Both constraints give x' = z + w, and it is their difference that has to be differentiated again."""
    system = ps.System(
        [Eq(D(x), z + w), Eq(D(y), z + w + u), Eq(D(u), w), Eq(x, sp.sin(t)), Eq(y, sp.cos(t))], name="cancelling"
    )
    assert system.index == 3
    assert len(system.constraints) == 3
    problem = ps.Problem(system, {}, (0, 3))
    solution = ps.solve(problem, saveat=0.5, rtol=1e-9, atol=1e-11)
    times = solution.t.values
    exact = {"x": np.sin(times), "y": np.cos(times), "u": -np.sin(times) - np.cos(times)}
    exact["w"] = -np.cos(times) + np.sin(times)
    exact["z"] = np.cos(times) - exact["w"]
    for name, values in exact.items():
        np.testing.assert_allclose(solution[name], values, atol=1e-9, err_msg=name)


REFUSED = {
    "constraints that contradict each other": (
        [Eq(D(x), z + w), Eq(D(y), z + w), Eq(x, 1), Eq(y, 2)],
        ModelError,
        [r"equation \d, .* = [12] \(with equation \d\)", "contradicts"],
    ),
    "algebraic equations twice": ([Eq(x + z, 1), Eq(2 * x + 2 * z, 2)], ModelError, ["equation 1", "follows from"]),
    "a constraint that always holds": (
        [Eq(D(x), -y + z - z), Eq(D(y), x), Eq(D(w), v), Eq(x**2 + y**2 + (v - v), 1)],
        ModelError,
        ["no equation determines", "x"],
    ),
    "an invariant for a constraint": (
        [Eq(D(x), y * z), Eq(D(y), -x * z), Eq(x**2 + y**2, 1)],
        ModelError,
        [r"equation 3, x\*\*2 \+ y\*\*2 = 1", "determines nothing"],
    ),
    "a constraint with a step": (
        [Eq(D(x), z), Eq(sp.sign(x) + x, 2)],
        UnsupportedError,
        ["equation 2, .*sign", "step"],
    ),
    "a constraint with a step in time": (
        [Eq(D(x), z), Eq(x, sp.Heaviside(t - 1))],
        UnsupportedError,
        ["equation 2, x = Heaviside", "step"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_differentiation_mends_is_refused_by_name(name: str) -> None:
    equations, kind, words = REFUSED[name]
    with pytest.raises(kind) as caught:
        ps.System(equations)
    for word in words:
        assert re.search(word, str(caught.value)), str(caught.value)


def test_values_that_are_left_out_follow_from_the_constraints() -> None:
    problem = ps.Problem(pendulum(), {x: 0.6, D(x): 0.8}, (0, 1), {g: 9.81, length: 1})
    np.testing.assert_allclose(problem.u0[:4], [0.6, 0.8, 0.8, -0.6], rtol=1e-12)
    longer = problem.remake(p={length: 2})
    np.testing.assert_allclose(longer.u0[2], np.sqrt(4 - 0.36), rtol=1e-12)
    moved = problem.remake(u0={x: -0.8})
    np.testing.assert_allclose(moved.u0[:4], [-0.8, 0.8, 0.6, 0.8 * 0.8 / 0.6], rtol=1e-12)
    # What was solved for and is handed back is a guess still.
    again = problem.remake(u0=dict(zip(problem.system.model.states, problem.u0.tolist(), strict=True)), p={length: 2})
    np.testing.assert_allclose(again.u0[:4], longer.u0[:4], rtol=1e-12)


WRONG = {
    "a constraint": ({x: 0.6, y: -0.9, D(x): 0.8, D(y): 0.6}, [r"x\*\*2 \+ y\*\*2", r"0\.17 ", "x = 0.6, y = -0.9"]),
    "a hidden one": (
        {x: 0.6, y: -0.8, D(x): 0.8, D(y): -0.6},
        ["hidden constraint", r"the derivative in time of x\*\*2 \+ y\*\*2", r"1\.92 "],
    ),
    "nothing fits": ({x: 1.6, D(x): 0}, [r"x\*\*2 \+ y\*\*2", "no value of y"]),
    "not enough": ({x: 0.6, y: -0.8}, ["no value for x_t, y_t"]),
    "nearly enough": ({x: 0.6}, ["no value for x_t, y_t"]),
    "a singular point": ({x: 0, y: 0, D(x): 0, D(y): 0}, ["singular"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_inconsistent_initial_values_are_an_error_that_names_the_constraint(name: str) -> None:
    u0, words = WRONG[name]
    with pytest.raises(ProblemError) as caught:
        ps.Problem(pendulum(), u0, (0, 1), {g: 9.81, length: 1})
    for word in words:
        assert re.search(word, str(caught.value)), str(caught.value)


def test_rounded_initial_values_are_taken() -> None:
    problem = ps.Problem(pendulum(), {x: 0.707107, y: -0.707107, D(x): 0, D(y): 0}, (0, 1), {g: 9.81, length: 1})
    solution = ps.solve(problem)
    assert float(np.abs(solution.x**2 + solution.y**2 - 1).max()) < 1e-14


def test_a_model_file_keeps_constraints(tmp_path) -> None:
    system = pendulum(observed={"energy": (D(x) ** 2 + D(y) ** 2) / 2 + g * y})
    system.save(tmp_path / "pendulum.json")
    loaded = ps.load(tmp_path / "pendulum.json")
    assert loaded.index == 3
    assert list(loaded.constraints) == list(system.constraints)
    u0, p = {"x": 0.6, "x_t": 0.8}, {"g": 9.81, "length": 1}
    ours, theirs = (ps.solve(ps.Problem(s, u0, (0, 2), p), saveat=0.1) for s in (system, loaded))
    np.testing.assert_array_equal(ours.x, theirs.x)
    np.testing.assert_array_equal(ours.energy, theirs.energy)


def test_the_form_that_is_solved_has_the_same_derivative_on_the_constraints() -> None:
    """Where the offset is zero, the right-hand side around the constraints is that of the states."""
    system = pendulum()
    inner = on_manifold(system.model)
    assert inner.kind == "ode"
    p = np.array([9.81, 1.3])
    position = 1.3 * np.array([np.sin(0.7), -np.cos(0.7)])
    velocity = 2.1 * np.array([np.cos(0.7), np.sin(0.7)])
    on = np.array([position[0], velocity[0], position[1], velocity[1]])
    pull = (velocity @ velocity - 9.81 * position[1]) / 1.3**2
    expected = [velocity[0], -pull * position[0], velocity[1], -pull * position[1] - 9.81]
    np.testing.assert_allclose(inner.graph.evaluate("rhs", on, p, 0.0), expected, rtol=1e-13)
    near = on + 1e-3 * np.array([1.0, -2.0, 0.5, 1.5])
    shown = projected(system.model, near[:, None], p, np.zeros(1))[:, 0]
    np.testing.assert_allclose(system.graph.evaluate("constraints", shown, p, 0.0), 0.0, atol=1e-14)
    assert np.abs(shown[:4] - near).max() < 5e-3


@settings(max_examples=25)
@given(
    blocks=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    n_ordinary=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
def test_linear_systems_of_known_index_have_their_exact_solution(blocks: list[int], n_ordinary: int, seed: int) -> None:
    """A Kronecker form, ``y' = -J y + f`` and ``N z' = z + f`` with nilpotent N, mixed by integer matrices.

    The solution of a nilpotent block is ``z = -sum N^k f^(k)``; the index is the size of the largest.
    """
    rng = np.random.default_rng(seed)
    n = n_ordinary + sum(blocks)
    names = ps.variables(f"q:{n}")
    E, A = sp.zeros(n, n), sp.zeros(n, n)
    force = sp.Matrix([sp.sin((k % 3 + 1) * t) + k for k in range(n)])
    exact: list[sp.Expr] = []
    for k in range(n_ordinary):
        E[k, k], A[k, k] = 1, -(k + 1)
        force[k] = sp.Integer(0)
        exact.append((k + 2) * sp.exp(-(k + 1) * t))
    at = n_ordinary
    for size in blocks:
        for i in range(size):
            A[at + i, at + i] = 1
            if i + 1 < size:
                E[at + i, at + i + 1] = 1
        exact += [-sum((sp.diff(force[at + i + k], t, k) for k in range(size - i)), sp.Integer(0)) for i in range(size)]
        at += size

    def mix() -> sp.Matrix:
        """A unimodular integer matrix with some zeros."""
        matrix = sp.eye(n)
        for _ in range(n):
            i, j = rng.integers(0, n, 2)
            if i != j:
                matrix[int(i), :] = matrix[int(i), :] + int(rng.integers(-1, 2)) * matrix[int(j), :]
        return matrix

    left, right = mix(), mix()
    original = sp.Matrix(exact)
    values = right.inv() * original  # q with original = right * q
    q = sp.Matrix(names)
    sides = left * (E * right * q.diff(t)), left * (A * right * q + force)
    system = ps.System([Eq(a, b) for a, b in zip(*sides, strict=True)], name="kronecker")
    assert system.index >= max(blocks)  # it may be higher: structure does not see everything (Reissig et al. 2000)
    derivatives = [sp.lambdify(t, values.diff(t, k) if k else values, "numpy") for k in range(6)]
    model, inner = system.model, on_manifold(system.model)
    place = {str(name.func): k for k, name in enumerate(names)}
    for time in (0.0, 0.3, 1.7):
        known = [np.asarray(f(time), dtype=np.float64).ravel() for f in derivatives]
        now, size = known[0], max(np.abs(row).max() for row in known)

        def exactly(state: str, more: int, known: list[np.ndarray] = known) -> float:
            """The derivative of a state such as ``q2_tt``."""
            base, _, dots = state.partition("_")
            return float(known[len(dots) + more][place[base]])

        on = np.array([exactly(state, 0) for state in inner.states])
        moves = inner.graph.evaluate("rhs", on, np.zeros(0), time)
        expected = [exactly(s, 1) if d else 0.0 for s, d in zip(inner.states, inner.differential, strict=True)]
        np.testing.assert_allclose(moves, expected, atol=1e-10 * size)
        if not model.constraints:
            continue
        shown = projected(model, on[:, None], np.zeros(0), np.full(1, time))[:, 0]
        found = dict(zip(model.states, shown, strict=True))
        for name, k in place.items():
            assert abs(found[name] - now[k]) <= 1e-10 * size
        if not n_ordinary:  # the constraints determine everything, wherever one is
            away = projected(model, on[:, None] + 1.0, np.zeros(0), np.full(1, time))[:, 0]
            np.testing.assert_allclose(away, shown, atol=1e-10 * size)
