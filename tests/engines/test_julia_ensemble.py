"""Ensembles and stochastic equations on Julia's threads: `make test-julia`."""

from __future__ import annotations

import math
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import pysciml as ps
from pysciml.engines.julia import many as on_threads

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("julia_engine")]

D = ps.D
x, y = ps.variables("x y")
a, b, c = ps.parameters("a b c")
w, v = ps.brownian("w v")


def lotka() -> ps.Problem:
    system = ps.System([ps.Eq(D(x), a * x - x * y), ps.Eq(D(y), x * y - b * y)], observed={"total": x + y})
    return ps.Problem(system, {x: 1, y: 1}, (0, 2), {a: 1.5, b: 3})


@pytest.mark.parametrize("alg", ["Tsit5", "Rodas5P", None])
def test_a_sweep_is_what_single_solves_give(alg: str | None) -> None:
    problem = lotka()
    over = {a: xr.DataArray(np.linspace(1, 2, 7), dims="a"), x: xr.DataArray([0.5, 1.0, 2.0], dims="start")}
    sweep = ps.solve_ensemble(problem, alg, over=over, engine="julia", saveat=0.5)
    assert sweep.attrs["engine"] == "julia"
    assert set(np.unique(sweep.retcode)) == {"Success"}
    for i, j in ((0, 0), (6, 2), (3, 1)):
        numbers = problem.remake(u0={x: [0.5, 1.0, 2.0][j]}, p={a: np.linspace(1, 2, 7)[i]})
        alone = ps.solve(numbers, alg, engine="julia", saveat=0.5)
        for name in ("x", "y", "total"):
            np.testing.assert_array_equal(sweep[name].isel(a=i, start=j), alone[name])


def test_one_that_fails_leaves_the_others_alone() -> None:
    problem = ps.Problem(ps.System([ps.Eq(D(x), x**2)]), {x: 1}, (0, 2))
    ends = ps.solve_ensemble(problem, "Tsit5", over={x: [0.1, 1.0, 0.2]}, engine="julia")
    np.testing.assert_allclose(ends.x.isel(t=-1)[[0, 2]], [0.1 / 0.8, 0.2 / 0.6], rtol=1e-5)
    assert np.isnan(ends.x.isel(t=-1)[1])
    assert (ends.retcode == "Success").values.tolist() == [True, False, True]


@pytest.fixture
def always_static(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can be solved on static vectors is, however small the ensemble."""
    monkeypatch.setattr(on_threads, "_STATIC_EVALUATIONS", 1.0)


@pytest.mark.usefixtures("always_static")
def test_static_vectors_give_what_single_solves_give_to_the_tolerances(tmp_path: Path) -> None:
    problem = lotka()
    over = {a: xr.DataArray(np.linspace(1, 2, 7), dims="a"), x: xr.DataArray([0.5, 1.0, 2.0], dims="start")}
    options = {"over": over, "engine": "julia", "saveat": 0.5, "rtol": 1e-9}
    sweep = ps.solve_ensemble(problem, "Tsit5", **options)
    assert sweep.attrs["vectors"] == "static"
    assert sweep.attrs["algorithm"] == "Tsit5"
    assert set(np.unique(sweep.retcode)) == {"Success"}
    for i, j in ((0, 0), (6, 2), (3, 1)):
        numbers = problem.remake(u0={x: [0.5, 1.0, 2.0][j]}, p={a: np.linspace(1, 2, 7)[i]})
        alone = ps.solve(numbers, "Tsit5", engine="julia", saveat=0.5, rtol=1e-9)
        for name in ("x", "y", "total"):
            np.testing.assert_allclose(sweep[name].isel(a=i, start=j), alone[name], rtol=1e-8)
    again = ps.solve_ensemble(problem, "Tsit5", **options, workers=1)
    in_blocks = ps.solve_ensemble(problem, "Tsit5", **options, store=tmp_path / "sweep.zarr", block_size=4)
    for name in ("x", "y"):
        np.testing.assert_array_equal(again[name], sweep[name])
        np.testing.assert_array_equal(in_blocks[name], sweep[name])


@pytest.mark.usefixtures("always_static")
def test_one_that_fails_on_static_vectors_leaves_the_others_alone() -> None:
    problem = ps.Problem(ps.System([ps.Eq(D(x), x**2)]), {x: 0.1}, (0, 2))
    ends = ps.solve_ensemble(problem, "Tsit5", over={x: [0.1, 1.0, 0.2]}, engine="julia")
    assert ends.attrs["vectors"] == "static"
    np.testing.assert_allclose(ends.x.isel(t=-1)[[0, 2]], [0.1 / 0.8, 0.2 / 0.6], rtol=1e-5)
    assert np.isnan(ends.x.isel(t=-1)[1])
    assert (ends.retcode == "Success").values.tolist() == [True, False, True]


def test_blocks_decide_by_the_whole_ensemble(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A trajectory of these takes some hundred evaluations: twelve are worth it where four are not."""
    monkeypatch.setattr(on_threads, "_STATIC_EVALUATIONS", 12 * 50.0)
    options = {"engine": "julia", "saveat": [1.0, 2.0]}
    whole = ps.solve_ensemble(lotka(), "Tsit5", over={a: np.linspace(1, 2, 12)}, **options)
    blocks = ps.solve_ensemble(
        lotka(), "Tsit5", over={a: np.linspace(1, 2, 12)}, store=tmp_path / "s.zarr", block_size=4, **options
    )
    assert whole.attrs["vectors"] == blocks.attrs["vectors"] == "static"
    np.testing.assert_array_equal(blocks.x, whole.x)
    assert "vectors" not in ps.solve_ensemble(lotka(), "Tsit5", over={a: [1.0, 2.0]}, **options).attrs


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    done, path_seeds = threading.Event(), on_threads.path_seeds

    def seeds(seed: int, paths: np.ndarray) -> np.ndarray:
        if paths[0] > 0:  # of the second portion: the first is done
            done.set()
        return path_seeds(seed, paths)

    def interrupt() -> None:
        done.wait()
        os.kill(os.getpid(), signal.SIGINT)

    problem = lotka().remake(tspan=(0, 2000))
    ps.solve_ensemble(problem, "Tsit5", over={a: [1.0, 1.1]}, engine="julia")
    monkeypatch.setattr(on_threads, "path_seeds", seeds)
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        ps.solve_ensemble(problem, "Tsit5", over={a: np.linspace(1, 2, 1_000_000)}, engine="julia", rtol=1e-10)
    assert 0 < (caught.value.partial.retcode == "Success").sum() < 1_000_000
    assert ps.solve(lotka(), "Tsit5", engine="julia").attrs["retcode"] == "Success"


def test_path_zero_is_the_one_solve_gives_and_paths_do_not_depend_on_their_number() -> None:
    problem = ps.Problem(ps.System([ps.Eq(D(x), a * x + b * x * w)]), {x: 1}, (0, 1), {a: 0.5, b: 0.3})
    many = ps.solve_ensemble(problem, "EM", trajectories=50, seed=3, engine="julia", dt=0.01, saveat=0.5)
    few = ps.solve_ensemble(problem, "EM", trajectories=8, seed=3, engine="julia", dt=0.01, saveat=0.5, workers=1)
    np.testing.assert_array_equal(many.x[:8], few.x)
    alone = ps.solve(problem, "EM", seed=3, engine="julia", dt=0.01, saveat=0.5)
    np.testing.assert_array_equal(many.x[0], alone.x)
    assert len(np.unique(many.x.isel(t=-1))) == 50


def moments(system: ps.System, u0: dict, p: dict, alg: str | None, **options) -> tuple[np.ndarray, np.ndarray, int]:
    """Means and covariances of the states at the end, and of how many paths."""
    n = 2000
    problem = ps.Problem(system, u0, (0, 1), p)
    ends = ps.solve_ensemble(problem, alg, trajectories=n, seed=0, engine="julia", **options).isel(t=-1)
    assert (ends.retcode == "Success").all()
    values = np.array([ends[name] for name in system.model.states])
    return values.mean(axis=1), np.cov(values), n


def steps(alg: str | None, dt: float) -> dict[str, float]:
    """Strong errors well below the sampling errors of the moments."""
    return {"dt": dt} if alg == "EM" else {"rtol": 1e-3, "atol": 1e-3}


def close(found: float, exact: float, error: float) -> None:
    """Within four standard errors; the seed is fixed."""
    assert abs(found - exact) < 4 * error


@pytest.mark.parametrize("alg", ["EM", "SOSRI", None])
def test_diagonal_noise(alg: str | None) -> None:
    """Geometric Brownian motion: mean exp(a), variance exp(2 a) (exp(b**2) - 1)."""
    system = ps.System([ps.Eq(D(x), a * x + b * x * w), ps.Eq(D(y), -y + b * y * v)])
    assert system.noise_type == "diagonal"
    mean, covariance, n = moments(system, {x: 1, y: 1}, {a: 0.5, b: 0.3}, alg, **steps(alg, 0.01))
    variance = math.exp(1) * (math.exp(0.09) - 1)
    close(mean[0], math.exp(0.5), math.sqrt(variance / n))
    close(covariance[0, 0], variance, 3 * variance * math.sqrt(2 / n))
    close(covariance[0, 1], 0, math.sqrt(covariance[0, 0] * covariance[1, 1] / n))


@pytest.mark.parametrize("rtol", [1e-2, 1e-4])
def test_rejected_steps_leave_the_noise_a_brownian_motion(rtol: float) -> None:
    """The first step is far too long and rejected several times over; what is left is a geometric Brownian motion."""
    states, motions = ps.variables("u:4"), ps.brownian("m:4")
    system = ps.System([ps.Eq(D(u), a * u * m) for u, m in zip(states, motions, strict=True)])
    problem = ps.Problem(system, dict.fromkeys(states, 1), (0, 1), {a: 0.6})
    paths = ps.solve_ensemble(
        problem, "SOSRI", trajectories=1000, seed=5, engine="julia", rtol=rtol, atol=rtol, saveat=[0.01, 1.0]
    )
    assert set(np.unique(paths.retcode)) == {"Success"}
    logarithms = np.log([paths[f"u{k}"] for k in range(4)])
    for k, time in enumerate((0.01, 1.0)):
        motion = (logarithms[..., k] + 0.6**2 * time / 2) / (0.6 * math.sqrt(time))
        assert abs(motion.mean()) < 4 / math.sqrt(motion.size)
        assert motion.var() == pytest.approx(1, abs=4 * math.sqrt(2 / motion.size))
        assert np.abs(np.corrcoef(motion) - np.eye(4)).max() < 4.5 / math.sqrt(1000)


@pytest.mark.parametrize("alg", ["EM", "SOSRI", None])
def test_scalar_noise_is_one_motion_for_all(alg: str | None) -> None:
    """Both are functions of one Brownian motion: their logarithms are perfectly correlated."""
    system = ps.System([ps.Eq(D(x), b * x * w), ps.Eq(D(y), -y + c * y * w)])
    assert system.noise_type == "scalar"
    problem = ps.Problem(system, {x: 1, y: 1}, (0, 1), {b: 0.3, c: 0.6})
    options = {"dt": 0.001} if alg == "EM" else {"rtol": 1e-3, "atol": 1e-3}
    ends = ps.solve_ensemble(problem, alg, trajectories=200, seed=0, engine="julia", **options).isel(t=-1)
    motion = (np.log(ends.x) + 0.3**2 / 2) / 0.3
    other = (np.log(ends.y) + 1 + 0.6**2 / 2) / 0.6
    np.testing.assert_allclose(motion, other, atol=0.05)
    assert 0.85 < motion.std() < 1.15


@pytest.mark.parametrize("alg", ["EM", "SOSRA", "SRA1", None])
def test_additive_noise_in_two_directions(alg: str | None) -> None:
    """Ornstein-Uhlenbeck: the covariance at 1 is S S^T (1 - exp(-2))/2."""
    system = ps.System([ps.Eq(D(x), -x + a * w + b * v), ps.Eq(D(y), -y + c * w)])
    assert system.noise_type == "additive"
    mean, covariance, n = moments(system, {x: 1, y: 0}, {a: 0.3, b: 0.4, c: 0.5}, alg, **steps(alg, 0.01))
    exact = (1 - math.exp(-2)) / 2 * np.array([[0.25, 0.15], [0.15, 0.25]])
    close(mean[0], math.exp(-1), math.sqrt(exact[0, 0] / n) + (0.002 if alg == "EM" else 0))
    for i, j in ((0, 0), (0, 1), (1, 1)):
        close(covariance[i, j], exact[i, j], exact[0, 0] * math.sqrt(2 / n))


@pytest.mark.parametrize("alg", ["EM", "LambaEM", None])
def test_general_noise(alg: str | None) -> None:
    """Two motions multiply one state: together they are one of strength sqrt(b**2 + c**2)."""
    system = ps.System([ps.Eq(D(x), a * x + b * x * w + c * x * v), ps.Eq(D(y), b * y * v)])
    assert system.noise_type == "general"
    # LambaEM is of order 1/2: at 1e-3 it gives up on some paths, written by hand in Julia too.
    options = {"dt": 0.005} if alg == "EM" else {"rtol": 1e-2, "atol": 1e-3}
    mean, covariance, n = moments(system, {x: 1, y: 1}, {a: 0.2, b: 0.15, c: 0.2}, alg, **options)
    variance = math.exp(0.4) * (math.exp(0.0625) - 1)
    close(mean[0], math.exp(0.2), math.sqrt(variance / n))
    close(covariance[0, 0], variance, 3 * variance * math.sqrt(2 / n))
    exact = math.exp(0.2) * (math.exp(0.15 * 0.2) - 1)
    close(covariance[0, 1], exact, 2 * math.sqrt(covariance[0, 0] * covariance[1, 1] / n))


def test_algorithms_for_other_noise_are_refused() -> None:
    problem = ps.Problem(ps.System([ps.Eq(D(x), a * x + b * x * w)]), {x: 1}, (0, 1), {a: 0.5, b: 0.3})
    for alg, reason in (("SOSRA", "additive"), ("EulerHeun", "Stratonovich"), ("Tsit5", "not for sde")):
        with pytest.raises(ps.UnsupportedError, match=reason):
            ps.solve(problem, alg, engine="julia", dt=0.1)
    general = ps.System([ps.Eq(D(x), a * x + b * x * w + c * x * v), ps.Eq(D(y), b * y * v)])
    with pytest.raises(ps.UnsupportedError, match="noise"):
        ps.solve(ps.Problem(general, {x: 1, y: 1}, (0, 1), {a: 0.5, b: 0.3, c: 0.1}), "SOSRI", engine="julia")
