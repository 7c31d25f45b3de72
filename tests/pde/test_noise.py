"""Stochastic partial differential equations: space-time white noise on grids, additive and multiplicative, Itô."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp

import pysciml as ps

D, t = ps.D, ps.t
x, X, Y = ps.coordinates("x X Y")
w = ps.fields("w", x)
u, v = ps.fields("u v", X, Y)
s, a, k = ps.parameters("s a k")
white = ps.brownian("white", x)


def line(rate: Any, boundary: Any = None, initial: Any = 0, span: Any = (0, 2)) -> ps.PDESystem:
    return ps.PDESystem([ps.Eq(D(w), rate)], {x: span}, {x: boundary or ps.Periodic()}, {w: initial})


def test_the_modes_of_the_stochastic_heat_equation_have_their_stationary_variance() -> None:
    """Each Fourier mode is an Ornstein-Uhlenbeck process; Euler-Maruyama's own stationary law is known exactly."""
    n, length, paths, dt = 16, 2.0, 300, 0.02
    numbers = {k: 0.02, a: 1.0, s: 0.3}
    heat = line(k * D(w, x, 2) - a * w + s * white)
    assert heat.noise == (white,)
    problem = heat.discretize({x: n}).problem((0, 10), numbers)
    sol = ps.solve_ensemble(problem, "EM", trajectories=paths, seed=1, dt=dt, saveat=[4.0, 6.0, 8.0, 10.0])
    modes = np.fft.rfft(sol.w.values, axis=-1) / n
    found = (np.abs(modes) ** 2).mean(axis=(0, 1))
    waves = np.arange(n // 2 + 1)
    rate = numbers[a] + numbers[k] * (2 * n / length * np.sin(np.pi * waves / n)) ** 2
    wanted = numbers[s] ** 2 / length / (2 * rate - rate**2 * dt)
    real = np.isin(waves, [0, n // 2])
    spread = np.where(real, np.sqrt(2.0), 1.0) / np.sqrt(4 * paths)
    assert (np.abs(found / wanted - 1) < 4.5 * spread).all()
    # and the grid's law is that of the equation where waves are long
    continuous = numbers[s] ** 2 / (2 * length * (numbers[a] + numbers[k] * (2 * np.pi * waves / length) ** 2))
    np.testing.assert_allclose(wanted[:3], continuous[:3], rtol=0.05)


def test_the_noise_of_a_cell_is_divided_by_the_root_of_its_size() -> None:
    both, only = ps.brownian("both", X, Y), ps.brownian("only", Y)
    shared = ps.brownian("shared")
    system = ps.PDESystem(
        [ps.Eq(D(u), ps.laplacian(u) + s * both), ps.Eq(D(v, 2), s * v * only + X * shared)],
        {X: (0, 2), Y: (0, 1)},
        {X: ps.Neumann(0), Y: ps.Neumann(0)},
        {u: 0, v: 0},
    )
    edges = np.array([0, 0.1, 0.3, 0.6, 1.0, 2.0])
    grid = system.discretize({X: edges, Y: 4}, order=2)
    model = grid.model
    assert (model.kind, model.noise, model.n_noise) == ("sde", ("both", "only", "shared"), 20 + 4 + 1)
    state = np.arange(60.0)
    found = grid.graph.evaluate("diffusion", state, [2.0], 0.0).reshape(3, 5, 4)
    widths = np.diff(edges)[:, None]
    np.testing.assert_allclose(found[0], np.broadcast_to(2 / np.sqrt(widths / 4), (5, 4)))
    np.testing.assert_allclose(found[1], 2 * state[20:40].reshape(5, 4) / np.sqrt(1 / 4))
    np.testing.assert_allclose(found[2], np.broadcast_to(grid.coords["X"][:, None], (5, 4)))
    rows, cols = model.diffusion_rows.reshape(3, 20), model.diffusion_cols.reshape(3, 20)
    np.testing.assert_array_equal(rows, np.arange(20) + np.array([[0], [40], [40]]))  # the second one drives v's rate
    np.testing.assert_array_equal(cols, [np.arange(20), 20 + np.arange(20) % 4, [24] * 20])


@pytest.mark.parametrize("alg", ["EM", "RKMil"])
def test_multiplicative_noise_is_ito(alg: str) -> None:
    """Without diffusion each cell is a geometric Brownian motion: in the mean nothing changes."""
    n = 16
    problem = line(s * w * white, initial=1).discretize({x: n}).problem((0, 1), {s: 0.2})
    sol = ps.solve_ensemble(problem, alg, trajectories=500, seed=3, dt=0.005, saveat=[1.0])
    cells = sol.w.values.ravel()
    variance = np.expm1(0.2**2 / (2 / n))  # Stratonovich's mean would be exp(0.16)
    assert cells.mean() == pytest.approx(1, abs=4 * np.sqrt(variance / cells.size))
    assert cells.var() == pytest.approx(variance, rel=0.1)
    correlation = np.corrcoef(sol.w.values[:, 0, :2].T)[0, 1]
    assert abs(correlation) < 4 / np.sqrt(500)


def test_noise_in_time_alone_moves_all_places_together() -> None:
    shared = ps.brownian("shared")
    problem = line(D(w, x, 2) / 50 + s * shared).discretize({x: 12}).problem((0, 1), {s: 0.5})
    sol = ps.solve_ensemble(problem, trajectories=400, seed=5, dt=0.01, saveat=[1.0])
    ends = sol.w.values[:, 0]
    assert float(np.ptp(ends, axis=1).max()) < 1e-12
    assert ends[:, 0].var() == pytest.approx(0.25, rel=0.3)
    alone = ps.solve(problem, seed=5, dt=0.01, saveat=[1.0])
    np.testing.assert_allclose(alone.w[-1], ends[0], rtol=1e-12)
    assert (alone.attrs["algorithm"], alone.attrs["calculus"], alone.attrs["seed"]) == ("EM", "Ito", 5)


def test_without_a_step_size_one_is_taken_that_diffusion_allows() -> None:
    problem = line(k * D(w, x, 2) + s * white).discretize({x: 16}).problem((0, 20), {k: 0.5, s: 0.1})
    sol = ps.solve(problem, seed=0, saveat=[10.0, 20.0])
    assert sol.attrs["dt"] <= 2 / (4 * 0.5 * 8**2)
    assert np.isfinite(sol.w).all()


def test_noise_survives_a_file(tmp_path: Path) -> None:
    system = line(D(w, x, 2) + s * white)
    system.save(tmp_path / "m.json")
    loaded: Any = ps.load(tmp_path / "m.json")
    assert loaded.equations == system.equations
    assert loaded.noise == system.noise
    assert loaded.discretize({x: 8}).model.hash == system.discretize({x: 8}).model.hash


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (s * white**2, "not linear in the noise"),
        (D(white * w, x), "under a derivative"),
        (s * ps.brownian("q", X), "noise over X, which is no coordinate"),
    ],
)
def test_noise_that_makes_no_sense_is_refused_by_name(rate: Any, message: str) -> None:
    with pytest.raises(ps.ModelError, match=message):
        line(rate + D(w, x, 2))


def test_what_cannot_solve_it_says_so() -> None:
    problem = line(D(w, x, 2) + s * w * white, ps.Neumann(0)).discretize({x: 8}).problem((0, 1), {s: 1})
    with pytest.raises(ps.UnsupportedError, match="sde"):
        ps.solve(problem, engine="native")
    with pytest.raises(ps.UnsupportedError, match="take scheme='central'"):
        line(D(w, x, 2) + s * white, ps.Neumann(0)).discretize({x: 8}, scheme="spectral")
    with pytest.raises(ps.ModelError, match="which is for a PDESystem"):
        ps.System([ps.Eq(D(ps.variables("z")), ps.brownian("q", x))])
    with pytest.raises(ps.ModelError, match="has noise"):
        ps.testing.manufactured(line(D(w, x, 2) + s * white), {w: sp.sin(x)})
    with pytest.raises(ps.ModelError, match="no time derivative"):
        ps.PDESystem([ps.Eq(0, D(w, x, 2) + white)], {x: (0, 1)}, {x: ps.Dirichlet(0)})


@pytest.mark.parametrize("alg", ["Tsit5", "QNDF", "SRA1", "Milstein", "SOSRA"])
def test_methods_that_do_not_fit_are_named(alg: str) -> None:
    problem = line(D(w, x, 2) + s * w * white).discretize({x: 8}).problem((0, 1), {s: 1})
    with pytest.raises(ps.UnsupportedError, match=f"{alg} .*EM"):
        ps.solve(problem, alg, engine="jax", dt=0.001)
