"""Jump processes and events at given times on Julia: `make test-julia`."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps
from pysciml.engines.julia import environment
from pysciml.errors import ProblemError, SolverError, UnsupportedError

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("julia_engine")]

D = ps.D
t = ps.t
n, x, y = ps.variables("n x y")
birth, death = ps.parameters("birth death")
EXACT = ("Direct", "FRM", "SortingDirect", "NRM")


def births_and_deaths(**options) -> ps.System:
    jumps = [ps.Jump(birth, {n: n + 1}), ps.Jump(death * n, {n: n - 1})]
    return ps.System([], parameters=[birth, death], jumps=jumps, **options)


def paths(problem: ps.Problem, alg: str | None = None, count: int = 2000, **options) -> xr.Dataset:
    return ps.solve_ensemble(problem, alg, trajectories=count, seed=1, engine="julia", **options)


def assert_moments(values: np.ndarray, mean: float, variance: float) -> None:
    """Sample moments within four standard errors; of the variance as for a normal distribution, or Poisson's."""
    count = values.size
    assert values.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / count))
    assert values.var() == pytest.approx(variance, abs=4 * math.sqrt((variance + 2 * variance**2) / count))


@pytest.mark.parametrize("alg", [None, *EXACT, "Tsit5"])
def test_births_and_deaths_have_their_moments(alg: str | None) -> None:
    """From 10: binomial survivors and Poisson newcomers (D. G. Kendall, Ann. Math. Statist. 19 (1948) 1)."""
    problem = ps.Problem(births_and_deaths(), {n: 10}, (0, 2), {birth: 5, death: 0.7})
    many = paths(problem, alg, 1000 if alg == "Tsit5" else 2000, saveat=[0.0, 0.5, 2.0])
    assert (many.n.isel(t=0) == 10).all()
    assert many.attrs["algorithm"] == (alg or "Direct")
    for time in (0.5, 2.0):
        alive = math.exp(-0.7 * time)
        new = 5 / 0.7 * (1 - alive)
        assert_moments(many.n.sel(t=time).values, 10 * alive + new, 10 * alive * (1 - alive) + new)


def test_a_path_repeats_with_its_seed_and_jumps_by_one() -> None:
    problem = ps.Problem(births_and_deaths(observed={"twice": 2 * n}), {n: 10}, (0, 5), {birth: 5, death: 0.7})
    path = ps.solve(problem, engine="julia", seed=3)
    assert set(np.abs(np.diff(path.n))) <= {0.0, 1.0}
    assert path.attrs["n_jumps"] == path.attrs["n_steps"] > 10
    assert path.attrs["seed"] == 3
    assert (np.diff(path.t) >= 0).all()
    assert path.t.values[[0, -1]].tolist() == [0, 5]
    np.testing.assert_array_equal(path.twice, 2 * path.n)
    again = ps.solve(problem, engine="julia", seed=3)
    np.testing.assert_array_equal(path.n, again.n)
    other = ps.solve(problem, engine="julia", seed=4)
    assert path.sizes != other.sizes or not np.array_equal(path.t, other.t)
    # Output at given times is of the same path.
    grid = ps.solve(problem, engine="julia", seed=3, saveat=0.5)
    np.testing.assert_array_equal(grid.n, path.n.values[np.searchsorted(path.t, grid.t, side="right") - 1])


def test_poissons_process_has_a_rate_that_changes_in_time() -> None:
    """The number of events is Poisson's with the integral of the rate."""
    system = ps.System([], jumps=[ps.Jump(4 * (1 + sp.sin(3 * t)), {n: n + 1})])
    many = paths(ps.Problem(system, {n: 0}, (1, 3)), rtol=1e-5, count=1000, saveat=[2.0, 3.0])
    for end in (2.0, 3.0):
        mean = 4 * (end - 1) + 4 / 3 * (math.cos(3) - math.cos(3 * end))
        assert_moments(many.n.sel(t=end).values, mean, mean)


def test_an_epidemic_ends_with_its_exact_distribution() -> None:
    """The final size of the SIR epidemic: P over the chain of its jumps, solved as a triangular system."""
    s, i = ps.variables("s i")
    jumps = [ps.Jump(s * i / 10, {s: s - 1, i: i + 1}), ps.Jump(i, {i: i - 1})]
    problem = ps.Problem(ps.System([], jumps=jumps), {s: 15, i: 1}, (0, 100))
    ends = paths(problem, count=4000, saveat=[100.0])
    assert (ends.i == 0).all()
    visits = np.zeros((16, 18))
    visits[15, 1] = 1.0
    for left in range(15, -1, -1):
        for sick in range(16 - left, 0, -1):
            infection = left / 10 / (left / 10 + 1)
            if left:
                visits[left - 1, sick + 1] += infection * visits[left, sick]
            visits[left, sick - 1] += (1 - infection) * visits[left, sick]
    exact = visits[:, 0]
    assert exact.sum() == pytest.approx(1)
    seen = np.bincount(ends.s.values.ravel().astype(int), minlength=16)
    expected = 4000 * exact
    large = expected > 5
    statistic = ((seen - expected)[large] ** 2 / expected[large]).sum()
    assert statistic < 40  # chi-squared of at most 15 degrees of freedom: more with a probability of 0.0005


def test_decay_between_jumps_is_shot_noise() -> None:
    """Campbell's theorem: x' = -k*x with jumps of size h has mean r*h/k and variance r*h**2/(2*k)."""
    system = ps.System([ps.Eq(D(x), -2 * x)], jumps=[ps.Jump(6, {x: x + 0.5})])
    assert system.kind == "jump"
    many = paths(ps.Problem(system, {x: 0}, (0, 5)), "Tsit5", 1000, rtol=1e-6, saveat=[5.0])
    values = many.x.values.ravel()
    assert values.mean() == pytest.approx(1.5, abs=4 * math.sqrt(0.375 / 1000))
    assert values.var() == pytest.approx(0.375, rel=0.25)
    stiff = ps.solve(ps.Problem(system, {x: 0}, (0, 5)), "Rodas5P", engine="julia", seed=1, rtol=1e-8)
    easy = ps.solve(ps.Problem(system, {x: 0}, (0, 5)), "Vern7", engine="julia", seed=1, rtol=1e-8)
    assert stiff.attrs["n_jumps"] == easy.attrs["n_jumps"] > 10
    assert stiff.x[-1].item() == pytest.approx(easy.x[-1].item(), rel=1e-5)


def test_jumps_with_noise_have_mertons_mean() -> None:
    """dX = m*X dt + s*X dW, and X*(1 + k) at rate r: the mean grows with m + r*k."""
    w = ps.brownian("w")
    system = ps.System([ps.Eq(D(x), 0.1 * x + 0.2 * x * w)], jumps=[ps.Jump(3, {x: 1.2 * x})])
    many = paths(ps.Problem(system, {x: 1}, (0, 1)), "EM", 2000, dt=0.01, saveat=[1.0])
    logs = np.log(many.x.values.ravel())
    mean = 0.1 - 0.02 + 3 * math.log(1.2)
    variance = 0.04 + 3 * math.log(1.2) ** 2
    assert logs.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / 2000) + 0.005)
    assert logs.var() == pytest.approx(variance, rel=0.15)


def test_events_go_together_with_jumps() -> None:
    jumps = [ps.Jump(birth, {n: n + 1}), ps.Jump(death * n, {n: n - 1})]
    reset = ps.System([], jumps=jumps, events=[ps.Event(at=[1.0], affect={n: 100}), ps.Event(n < 1, terminal=True)])
    sol = ps.solve(ps.Problem(reset, {n: 10}, (0, 1.001), {birth: 5, death: 0.7}), engine="julia", seed=0)
    assert sol.attrs["event_times"].tolist() == [1.0]
    assert sol.n[-1].item() == pytest.approx(100, abs=3)
    extinct = ps.solve(ps.Problem(reset, {n: 3}, (0, 0.9), {birth: 0, death: 50}), engine="julia", seed=0)
    assert extinct.attrs["retcode"] == "Terminated"
    assert extinct.n[-1].item() == 0
    assert extinct.attrs["n_jumps"] == 3
    crossing = ps.System([], jumps=jumps, events=[ps.Event(t - 0.5, {n: 0}, direction="up")])
    sol = ps.solve(
        ps.Problem(crossing, {n: 1000}, (0, 0.5001), {birth: 0, death: 0.1}), "Tsit5", engine="julia", seed=0
    )
    assert sol.attrs["event_times"] == pytest.approx([0.5])
    assert sol.n[-1].item() == 0


def test_what_jumps_cannot_do_is_said() -> None:
    problem = ps.Problem(births_and_deaths(), {n: 10}, (0, 2), {birth: 5, death: 0.7})
    with pytest.raises(ProblemError, match="forward in time"):
        ps.solve(problem.remake(tspan=(2, 0)), engine="julia")
    with pytest.raises(ProblemError, match="the rate of jump 1 is -5 at the start"):
        ps.solve(problem.remake(p={birth: -5}), engine="julia")
    with pytest.raises(UnsupportedError, match="EM is not for jump problems"):
        ps.solve(problem, "EM", engine="julia")
    falling = ps.System([], jumps=[ps.Jump(5, {n: n - 1}), ps.Jump(n, {n: n})])
    with pytest.raises(SolverError, match=r"the rate of jump 2 is -1\.0"):
        ps.solve(ps.Problem(falling, {n: 2}, (0, 100)), engine="julia")
    with pytest.raises(SolverError, match="max_steps = 50") as caught:
        ps.solve(problem.remake(tspan=(0, 1e6)), engine="julia", max_steps=50)
    assert caught.value.partial.n.size >= 50
    shot = ps.System([ps.Eq(D(x), -x)], jumps=[ps.Jump(1, {x: x + 1})])
    with pytest.raises(UnsupportedError, match="Direct is not for jumps with anything that changes between them"):
        ps.solve(ps.Problem(shot, {x: 1}, (0, 1)), "Direct", engine="julia")


DOSES = ps.System([ps.Eq(D(x), -x)], events=[ps.Event(at=[0, 1, birth], affect={x: x + 1})])


@pytest.mark.parametrize("alg", [None, "Tsit5", "Rodas5P", "FBDF"])
def test_doses_at_given_times(alg: str | None) -> None:
    times = np.linspace(0, 3, 13)
    sol = ps.solve(ps.Problem(DOSES, {x: 0}, (0, 3), {birth: 2.5}), alg, engine="julia", rtol=1e-9, saveat=times)
    exact = sum(np.where(times >= at, np.exp(np.minimum(at - times, 0)), 0) for at in (0, 1, 2.5))
    np.testing.assert_allclose(sol.x, exact, rtol=1e-6)
    np.testing.assert_array_equal(sol.attrs["event_times"], [0, 1, 2.5])


def test_doses_backward_in_delays_in_noise_and_in_ensembles() -> None:
    problem = ps.Problem(DOSES, {x: 0}, (0, 3), {birth: 2.5})
    sweep = ps.solve_ensemble(problem, "Tsit5", over={birth: [0.5, 2.5, 7]}, engine="julia", rtol=1e-9, saveat=[3.0])
    both = math.exp(-3) + math.exp(-2)
    np.testing.assert_allclose(sweep.x.isel(t=-1), [both + math.exp(-2.5), both + math.exp(-0.5), both], rtol=1e-6)
    back = ps.solve(problem.remake(tspan=(3, 0.5), u0={x: 1}), "Tsit5", engine="julia", rtol=1e-9, saveat=[0.5])
    assert back.x.item() == pytest.approx(((math.exp(0.5) + 1) * math.exp(1.5) + 1) * math.exp(0.5), rel=1e-6)
    delayed = ps.System([ps.Eq(D(x), -x.subs(t, t - 1))], events=[ps.Event(at=0.5, affect={x: x + 1})])
    sol = ps.solve(ps.Problem(delayed, {x: 1}, (0, 1)), engine="julia", saveat=[0.25, 0.5, 1.0])
    np.testing.assert_allclose(sol.x, [0.75, 1.5, 1.0], rtol=1e-5)
    w = ps.brownian("w")
    noisy = ps.System([ps.Eq(D(x), 0.001 * w)], events=[ps.Event(at=[0.5], affect={x: x + 1})])
    sol = ps.solve(ps.Problem(noisy, {x: 0}, (0, 1)), "EM", engine="julia", dt=0.3, seed=0, saveat=[0.25, 0.5, 1.0])
    np.testing.assert_allclose(sol.x, [0, 1, 1], atol=0.01)


def test_algebraic_states_follow_an_event_at_a_given_time() -> None:
    system = ps.System([ps.Eq(D(x), -y), ps.Eq(y, 2 * x)], events=[ps.Event(at=1, affect={x: 5})])
    sol = ps.solve(ps.Problem(system, {x: 1}, (0, 1)), engine="julia", saveat=[0.5, 1.0], rtol=1e-8)
    np.testing.assert_allclose(sol.y, 2 * sol.x, rtol=1e-6)
    assert sol.x[-1].item() == 5


def test_a_condition_is_looked_at_after_each_step() -> None:
    system = ps.System([ps.Eq(D(x), 1)], events=[ps.Event(x > 0.55, {x: 0})])
    sol = ps.solve(ps.Problem(system, {x: 0}, (0, 1)), "Euler", engine="julia", dt=0.125)
    assert sol.attrs["event_times"].tolist() == [0.625]
    assert sol.x[-1].item() == 0.375


def test_the_source_for_julia_has_the_same_moments(tmp_path: Path) -> None:
    system = births_and_deaths(events=[ps.Event(at=1.0, affect={n: n + 7})])
    (tmp_path / "model.jl").write_text(system.to_julia())
    (tmp_path / "run.jl").write_text(
        'include("model.jl")\np = [5.0, 0.7]\nends = map(1:400) do _\n'
        "    problem = jump_problem([10.0], (0.0, 2.0), p)\n"
        "    solution = solve(problem, Tsit5(); callback = callback(p), save_everystep = false)\n"
        '    solution.u[end].u[1]\nend\nprintln(join(ends, " "))\n'
    )
    found = environment.find()
    assert not isinstance(found, str)
    run = [found.executable, "--startup-file=no", f"--project={found.project}", str(tmp_path / "run.jl")]
    ends = np.array(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split(), dtype=float)
    alive, later = math.exp(-1.4), math.exp(-0.7)
    new = 5 / 0.7 * (1 - alive)
    assert_moments(ends, 10 * alive + 7 * later + new, 10 * alive * (1 - alive) + 7 * later * (1 - later) + new)
