"""Solutions written to a store as they are computed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp
import xarray as xr

import pysciml as ps
from pysciml import streaming
from pysciml.engines.native import NativeEngine

X, Y = ps.coordinates("X Y")
k = ps.parameters("k")


def heat(n: int = 12, end: float = 1.0, conductivity: float = 0.05) -> Any:
    """Decays as exp(-2 k pi^2 t) in the limit of fine grids; its total is observed."""
    u = ps.fields("u", X, Y)
    system = ps.PDESystem(
        [ps.Eq(ps.D(u), k * ps.laplacian(u))],
        domain={X: (0, 1), Y: (0, 1)},
        boundary={X: ps.Dirichlet(0), Y: ps.Dirichlet(0)},
        initial={u: sp.sin(sp.pi * X) * sp.sin(sp.pi * Y)},
        observed={"total": sp.Integral(u, X, Y)},
    )
    return system.discretize({X: n, Y: n}).problem((0, end), {k: conductivity})


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of some five output times of `heat`."""
    monkeypatch.setattr(streaming, "_BYTES", 5 * 12 * 12 * 8)


def decay(t: Any) -> Any:
    """How the solution decays on a fine grid."""
    return np.exp(-2 * 0.05 * np.pi**2 * np.asarray(t))


@pytest.mark.parametrize(
    ("engine", "alg"), [("native", "QNDF"), ("native", "DP5"), ("jax", "QNDF"), ("jax", "Tsit5"), ("jax", "KenCarp4")]
)
def test_a_streamed_solution_is_the_solution(tmp_path: Path, engine: str, alg: str) -> None:
    problem = heat()
    options: dict[str, Any] = {"engine": engine, "rtol": 1e-8, "atol": 1e-10, "saveat": 0.05}
    there = ps.solve(problem, alg, store=tmp_path / "run.zarr", **options)
    here = ps.solve(problem, alg, **options)
    assert there.attrs["pieces"] == 5
    assert there.attrs["retcode"] == "Success"
    assert there.u.dims == ("t", "X", "Y")
    assert there.u.chunks is not None
    assert there.u.chunks[0][0] == 5
    assert list(there.data_vars) == list(here.data_vars)
    xr.testing.assert_allclose(there.compute(), here, rtol=1e-5, atol=1e-8)
    xr.testing.assert_identical(there.t.variable.to_base_variable(), here.t.variable.to_base_variable())
    peak = there.u.max(["X", "Y"]).compute()
    assert np.abs(peak / peak[0] - decay(there.t)).max() < 0.01
    read = xr.open_zarr(tmp_path / "run.zarr")
    assert read.attrs["algorithm"] == here.attrs["algorithm"]
    assert read.attrs["n_steps"] > here.attrs["n_steps"] / 2


def test_the_method_is_chosen_for_the_whole_span(tmp_path: Path) -> None:
    problem = heat(24, 500.0)
    whole = ps.solve(problem, engine="native", rtol=1e-3, saveat=100.0)
    pieces = ps.solve(problem, engine="native", rtol=1e-3, saveat=5.0, store=tmp_path / "s.zarr")
    assert pieces.attrs["pieces"] > 20
    assert pieces.attrs["algorithm"] == whole.attrs["algorithm"] == "QNDF"


def test_ordinary_equations_and_backward_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_BYTES", 20 * 8)
    x, v = ps.variables("x v")
    system = ps.System([ps.Eq(ps.D(x), v), ps.Eq(ps.D(v), -x)], observed={"energy": x**2 + v**2})
    problem = ps.Problem(system, {x: 0, v: 1}, (3, -1))
    sol = ps.solve(problem, engine="native", rtol=1e-10, atol=1e-12, saveat=0.125, store=tmp_path / "s.zarr")
    assert sol.attrs["pieces"] == 4
    assert np.abs(sol.x - np.sin(sol.t - 3)).max() < 1e-7
    assert np.abs(sol.energy - 1).max() < 1e-7


_KILLED = """
import os, sys
sys.path.insert(0, os.path.join(os.getcwd(), "tests", "pde"))
import pysciml as ps
from pysciml import streaming
from pysciml.engines.native import NativeEngine
import test_streaming as t
streaming._BYTES = 5 * 12 * 12 * 8
write, pieces = streaming.Manifest.write, []
def count(self, target):
    if len(pieces) == int(sys.argv[2]):
        os._exit(9)
    pieces.append(self.done)
    write(self, target)
streaming.Manifest.write = count
ps.solve(t.heat(), engine="native", rtol=1e-6, saveat=0.05, store=sys.argv[1])
"""


@pytest.mark.parametrize("written", [0, 1, 3])
def test_after_a_kill_the_same_call_goes_on_to_the_same_numbers(tmp_path: Path, written: int) -> None:
    store, options = tmp_path / "run.zarr", {"engine": "native", "rtol": 1e-6, "saveat": 0.05}
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(store), str(written)], cwd=Path(__file__).parents[2], check=False
    )
    assert killed.returncode == 9
    if written == 3:
        left = xr.open_zarr(store)
        assert left.attrs["retcode"] == "Unfinished"
        assert np.isfinite(left.u[:10]).all()
        assert np.isnan(left.u[15:]).all()
        before = {path: path.stat().st_mtime_ns for path in (store / "u" / "c" / "0").rglob("*") if path.is_file()}
        assert before
    resumed = ps.solve(heat(), store=store, **options)
    undisturbed = ps.solve(heat(), store=tmp_path / "other.zarr", **options)
    xr.testing.assert_equal(resumed.compute(), undisturbed.compute())
    for name in ("retcode", "algorithm", "n_steps", "n_rhs", "pieces"):
        assert resumed.attrs[name] == undisturbed.attrs[name]
    if written == 3:
        assert before == {path: path.stat().st_mtime_ns for path in before}  # what was done is not done again


def test_a_solve_that_fails_leaves_what_it_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_BYTES", 10 * 8)
    x = ps.variables("x")
    problem = ps.Problem(ps.System([ps.Eq(ps.D(x), x**2)]), {x: 1}, (0, 2))  # 1 / (1 - t)
    for _ in range(2):  # the second time goes on, and fails as the first one did
        with pytest.raises(ps.SolverError, match=r"reached t = (0\.96|1) of 2") as caught:
            ps.solve(problem, "Tsit5", engine="jax", saveat=0.04, store=tmp_path / "s.zarr")
        partial = caught.value.partial
        assert partial.attrs["retcode"] == caught.value.retcode != "Success"
        assert 25 <= partial.sizes["t"] <= 26
        before = partial.sel(t=slice(0, 0.97))
        assert np.abs(before.x * (1 - before.t) - 1).max() < 1e-3
        assert xr.open_zarr(tmp_path / "s.zarr").attrs["retcode"] == caught.value.retcode


def test_max_steps_counts_the_steps_of_all_pieces(tmp_path: Path) -> None:
    whole = ps.solve(heat(), engine="native", saveat=0.05, store=tmp_path / "whole.zarr")
    most = whole.attrs["n_steps"] // 2
    with pytest.raises(ps.SolverError, match=f"max_steps={most} steps were not enough") as caught:
        ps.solve(heat(), engine="native", saveat=0.05, max_steps=most, store=tmp_path / "s.zarr")
    assert 5 < caught.value.partial.sizes["t"] < 21
    more = ps.solve(heat(), engine="native", saveat=0.05, store=tmp_path / "s.zarr")  # may be raised
    assert more.u.equals(whole.u)


def test_a_failure_in_the_first_piece_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(ps.SolverError, match="max_steps"):
        ps.solve(heat(), engine="native", saveat=0.05, max_steps=2, store=tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_a_complete_store_is_only_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"engine": "native", "saveat": 0.1, "store": tmp_path / "s.zarr"}
    first = ps.solve(heat(), **options)
    monkeypatch.setattr(NativeEngine, "solve", None)
    again = ps.solve(heat(), **options)
    xr.testing.assert_identical(first.compute(), again.compute())


def test_a_damaged_piece_is_computed_again(tmp_path: Path) -> None:
    store, options = tmp_path / "s.zarr", {"engine": "native", "saveat": 0.05}
    good = ps.solve(heat(), store=store, **options).compute()
    manifest = json.loads((store / "pysciml" / "manifest.json").read_text())
    (store / "pysciml" / "manifest.json").write_text(json.dumps(manifest | {"done": 15}))
    chunk = sorted(path for path in (store / "u" / "c" / "2").rglob("*") if path.is_file())[0]
    chunk.write_bytes(chunk.read_bytes()[:-7] + b"damaged")
    xr.testing.assert_equal(ps.solve(heat(), store=store, **options).compute(), good)


def test_noise_of_different_pieces_is_independent_and_of_the_right_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_BYTES", 8 * 500)
    x, w = ps.variables("x"), ps.brownian("w")
    problem = ps.Problem(ps.System([ps.Eq(ps.D(x), w)]), {x: 0}, (0, 4000))
    options: dict[str, Any] = {"engine": "jax", "saveat": 1.0, "dt": 0.5}
    path = ps.solve(problem, "EM", seed=4, store=tmp_path / "s.zarr", **options)
    assert path.attrs["seed"] == 4
    assert path.attrs["pieces"] == 9
    steps = np.diff(path.x)
    assert abs(steps.mean()) < 4 / np.sqrt(4000)
    assert abs(steps.var() - 1) < 4 * np.sqrt(2 / 4000)
    pieces = steps[499:3999].reshape(7, 500)
    correlations = np.corrcoef(pieces)[np.triu_indices(7, 1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(500)
    again = ps.solve(problem, "EM", seed=4, store=tmp_path / "again.zarr", **options)
    xr.testing.assert_equal(path.compute(), again.compute())
    drawn = ps.solve(problem, "EM", store=tmp_path / "drawn.zarr", **options)
    assert drawn.attrs["seed"] != 4
    assert ps.solve(problem, "EM", store=tmp_path / "drawn.zarr", **options).equals(drawn)


def test_what_is_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    options: dict[str, Any] = {"engine": "native", "saveat": 0.1}
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ps.ProblemError, match="is not a solution of pysciml; nothing is ever overwritten"):
        ps.solve(heat(), store=tmp_path / "notes", **options)
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.txt"]
    ps.solve(heat(), store=tmp_path / "s.zarr", **options)
    for other, names in (
        ({"problem": heat(conductivity=0.06)}, r"p \(.*\)"),
        ({"saveat": 0.2}, r"saveat \(.*\)"),
        ({"rtol": 1e-4}, r"rtol \(1e-06 there, 0.0001 here\)"),
        ({"problem": heat(13)}, r"model \(.*\), grid, u0 \(.*\)"),
    ):
        with pytest.raises(ps.ProblemError, match=f"holds another problem: it differs in {names}; name another"):
            ps.solve(other.pop("problem", heat()), store=tmp_path / "s.zarr", **options | other)
    x = ps.variables("x")
    ordinary = ps.Problem(ps.System([ps.Eq(ps.D(x), -k * x)]), {x: 1}, (0, 1), {k: 1.0})
    ps.solve_ensemble(ordinary, over={k: [1.0, 2.0]}, saveat=0.5, store=tmp_path / "sweep.zarr", engine="native")
    with pytest.raises(ps.ProblemError, match="holds something else than a single solution"):
        ps.solve(heat(), store=tmp_path / "sweep.zarr", **options)


def test_what_cannot_be_streamed_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: Any) -> None:
    x, w, n = ps.variables("x"), ps.brownian("w"), ps.variables("n")
    store = tmp_path / "s.zarr"
    with pytest.raises(ps.ProblemError, match=r"store= needs saveat=.* such as saveat=0.01"):
        ps.solve(heat(), store=store)
    rain = ps.System([ps.Eq(ps.D(x), -x)], events=[ps.Event(x - sp.Rational(1, 2), {x: 1})])
    with pytest.raises(ps.UnsupportedError, match="without events"):
        ps.solve(ps.Problem(rain, {x: 1}, (0, 1)), saveat=0.1, store=store)
    noisy = ps.Problem(ps.System([ps.Eq(ps.D(x), -x + w)]), {x: 1}, (0, 1))
    with pytest.raises(ps.ProblemError, match="store= needs dt= where there is noise"):
        ps.solve(noisy, saveat=0.1, store=store)
    jumps = ps.Problem(ps.System([], jumps=[ps.Jump(n, {n: n - 1})]), {n: 9}, (0, 1))
    with pytest.raises(ps.UnsupportedError, match=r"\(jump\) needs more than the states"):
        ps.solve(jumps, saveat=0.1, store=store)
    with pytest.raises(ps.ProblemError, match="store must be a path"):
        ps.solve(heat(), saveat=0.1, store=3)
    monkeypatch.setattr("pysciml.ensemble.target.find_spec", lambda name: None)
    with pytest.raises(ps.EngineUnavailableError, match="pysciml\\[dask\\]"):
        ps.solve(heat(), saveat=0.1, store=store)
    assert not store.exists()


def test_single_precision_stays_single(tmp_path: Path) -> None:
    sol = ps.solve(
        heat(), "Tsit5", engine="jax", precision="float32", rtol=1e-4, saveat=0.05, store=tmp_path / "s.zarr"
    )
    assert sol.u.dtype == np.float32
    peak = sol.u.max(["X", "Y"]).compute()
    assert np.abs(peak / peak[0] - decay(sol.t)).max() < 0.01
