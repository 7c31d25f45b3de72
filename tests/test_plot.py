"""Pictures: the right curves, labelled, without touching anybody's settings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import pysciml as ps
from pysciml import plot
from pysciml.fitting import FitResult

x = ps.variables("x", units="mol", long_name="substrate")
y = ps.variables("y", units="mol")
z = ps.variables("z", units="K", long_name="temperature")
k = ps.parameters("k")
system = ps.System([ps.Eq(ps.D(x), -k * x), ps.Eq(ps.D(y), k * x), ps.Eq(ps.D(z), x - z)], name="reaction")
problem = ps.Problem(system, {x: 1, y: 0, z: 0}, (0, 5), {k: 1})


@pytest.fixture(scope="module")
def sol() -> xr.Dataset:
    return ps.solve(problem, saveat=0.05)


@pytest.fixture(scope="module")
def fitted() -> FitResult:
    data = ps.solve(problem, saveat=0.5)[["x", "z"]]
    rng = np.random.default_rng(0)
    data = data + 0.02 * xr.Dataset({name: ("t", rng.normal(size=data.sizes["t"])) for name in ("x", "z")})
    data["x"].attrs = {}
    return ps.fit(problem.remake(p={k: 0.8}), data, [k])


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def drawn(figure: Any) -> None:
    """Draw for real: layout and text errors only show up then."""
    figure.canvas.draw()


def test_a_solution_shows_every_variable_over_time(sol: xr.Dataset) -> None:
    ax = plot.solution(sol)
    drawn(ax.figure)
    assert len(ax.lines) == 3
    for line, name in zip(ax.lines, ("x", "y", "z"), strict=True):
        assert np.array_equal(line.get_xdata(), sol["t"])
        assert np.array_equal(line.get_ydata(), sol[name])
    assert ax.get_xlabel() == "t"
    legend = ax.get_legend()
    assert legend is not None
    # different units: each curve says its own
    assert [text.get_text() for text in legend.get_texts()] == ["substrate (mol)", "y (mol)", "temperature (K)"]
    assert ax.get_ylabel() == ""


def test_shared_units_are_on_the_axis(sol: xr.Dataset) -> None:
    ax = plot.solution(sol, [x, "y"])
    assert ax.get_ylabel() == "mol"
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["substrate", "y"]


def test_one_variable_needs_no_legend(sol: xr.Dataset) -> None:
    ax = plot.solution(sol, "z")
    assert ax.get_legend() is None
    assert ax.get_ylabel() == "temperature (K)"


def test_the_time_axis_says_its_units(sol: xr.Dataset) -> None:
    timed = sol.assign_coords(t=sol["t"].assign_attrs(units="s", long_name="time"))
    assert plot.solution(timed).get_xlabel() == "time (s)"


def test_panels_one_for_each_variable(sol: xr.Dataset) -> None:
    axes = plot.solution(sol, subplots=True)
    drawn(axes[0].figure)
    assert axes.shape == (3,)
    assert [ax.get_ylabel() for ax in axes] == ["substrate\n(mol)", "y\n(mol)", "temperature\n(K)"]
    assert axes[-1].get_xlabel() == "t"


def test_a_phase_portrait_marks_its_start(sol: xr.Dataset) -> None:
    ax = plot.phase(sol, x, "z")
    drawn(ax.figure)
    curve, start = ax.lines
    assert np.array_equal(curve.get_xdata(), sol.x)
    assert np.array_equal(curve.get_ydata(), sol.z)
    assert np.asarray(start.get_xdata()).tolist() == [1.0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("substrate (mol)", "temperature (K)")
    assert len(ax.texts) == 3  # arrows


@pytest.mark.parametrize("n", [1, 2])
def test_a_phase_portrait_of_hardly_any_points(sol: xr.Dataset, n: int) -> None:
    ax = plot.phase(sol.isel(t=slice(n)), x, z)
    drawn(ax.figure)
    assert len(np.asarray(ax.lines[0].get_xdata())) == n


def test_a_fit_shows_data_curve_and_residuals(fitted: FitResult) -> None:
    axes = plot.fit(fitted)
    drawn(axes[0, 0].figure)
    assert axes.shape == (2, 2)  # two units, two columns
    curve, points = axes[0, 0].lines
    np.testing.assert_array_equal(points.get_ydata(), fitted.data["x"])
    np.testing.assert_array_equal(curve.get_ydata(), fitted.solution["x"])
    np.testing.assert_array_equal(axes[1, 0].lines[0].get_ydata(), fitted.residuals["x"])
    # the data came without attributes: the model's are taken
    assert [ax.get_ylabel() for ax in axes[0]] == ["substrate (mol)", "temperature (K)"]
    assert "reaction" in axes[0, 0].get_title(loc="left")


def test_variables_of_the_same_units_share_a_column(fitted: FitResult) -> None:
    data = ps.solve(problem, saveat=0.5)[["x", "y"]]
    axes = plot.fit(ps.fit(problem.remake(p={k: 0.9}), data, [k]))
    assert axes.shape == (2, 1)
    assert axes[0, 0].get_legend() is not None


def test_some_variables_of_a_fit(fitted: FitResult) -> None:
    assert plot.fit(fitted, ["z"]).shape == (2, 1)


def test_axes_of_the_caller_are_used(sol: xr.Dataset) -> None:
    ax = Figure().add_subplot()
    assert plot.solution(sol, ax=ax) is ax
    assert plot.phase(sol, x, y, ax=ax) is ax
    assert plt.get_fignums() == []


def test_nothing_is_set_globally_and_nothing_shown(
    sol: xr.Dataset, fitted: FitResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("show was called"))
    before = dict(mpl.rcParams)
    plot.solution(sol)
    plot.phase(sol, x, y)
    plot.fit(fitted)
    assert dict(mpl.rcParams) == before


def test_matplotlib_is_loaded_by_the_first_picture() -> None:
    code = "import sys, pysciml.plot; print('matplotlib' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "False"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda sol: plot.solution(sol, ["xx"]), "no variable xx: it has x, y, z; did you mean x"),
        (lambda sol: plot.solution([1, 2]), "drawn from an xarray.Dataset.*not list"),
        (lambda sol: plot.solution(sol.expand_dims(a=2)), r"x has the dimensions \(a, t\), not \(t\)"),
        (lambda sol: plot.solution(sol.drop_vars(["x", "y", "z"])), "no variable to draw"),
        (lambda sol: plot.solution(sol, []), "no variable to draw"),
        (lambda sol: plot.solution(sol, subplots=True, ax=Figure().add_subplot()), "leave out ax"),
        (lambda sol: plot.phase(sol, "x", ps.variables("w")), "no variable w"),
    ],
)
def test_mistakes_are_named(sol: xr.Dataset, draw: Any, message: str) -> None:
    with pytest.raises(ps.ProblemError, match=message):
        draw(sol)


def test_derivatives_are_found_by_symbol() -> None:
    q = ps.variables("q")
    swing = ps.Problem(ps.System([ps.Eq(ps.D(q, 2), -q)]), {q: 1, ps.D(q): 0}, (0, 6))
    ax = plot.phase(ps.solve(swing, saveat=0.1), q, ps.D(q))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("q", "q_t")
