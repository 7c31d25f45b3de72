"""The demonstration: Lotka-Volterra equations fitted to 21 years of lynx and hare pelts."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sympy as sp
import xarray as xr

from pysciml.errors import SolverError
from pysciml.files import writing
from pysciml.problem import Problem
from pysciml.solve import solve
from pysciml.symbolic import D, Eq, System, parameters, variables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pysciml.fitting import FitResult

SOURCE: Final = (
    'C. Elton and M. Nicholson, "The ten-year cycle in numbers of the lynx in Canada", '
    "Journal of Animal Ecology 11 (1942) 215-244"
)
#: How many possible curves the band is made of.
_DRAWS: Final = 400


def load_lynx_hare() -> xr.Dataset:
    """Pelts of snowshoe hare and Canada lynx the Hudson's Bay Company collected, 1900 to 1920.

    Returns
    -------
    xarray.Dataset
        ``hare`` and ``lynx``, in thousands of pelts, over ``t``, in years (Elton and Nicholson,
        J. Anim. Ecol. 11, 1942).
    """
    text = resources.files("pysciml").joinpath("data/lynx_hare.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    column: dict[str, Any] = {name: np.array([float(row[name]) for row in rows]) for name in ("year", "hare", "lynx")}
    return xr.Dataset(
        {
            "hare": ("t", column["hare"], {"units": "thousand pelts", "long_name": "snowshoe hare"}),
            "lynx": ("t", column["lynx"], {"units": "thousand pelts", "long_name": "Canada lynx"}),
        },
        coords={"t": ("t", column["year"], {"long_name": "year"})},
        attrs={"source": SOURCE},
    )


def make_problem(data: xr.Dataset) -> Problem:
    """The model, with numbers to start from that can be read off the data.

    Parameters
    ----------
    data : xarray.Dataset
        As `load_lynx_hare` returns.
    """
    hare = variables("hare", units="thousand pelts", long_name="snowshoe hare")
    lynx = variables("lynx", units="thousand pelts", long_name="Canada lynx")
    alpha = parameters("alpha", units="1/year", long_name="growth of the hares")
    beta = parameters("beta", units="1/(year thousand lynx)", long_name="hares lost to the lynx")
    gamma = parameters("gamma", units="1/year", long_name="death of the lynx")
    delta = parameters("delta", units="1/(year thousand hares)", long_name="lynx fed by the hares")
    system = System(
        [Eq(D(hare), alpha * hare - beta * hare * lynx), Eq(D(lynx), -gamma * lynx + delta * hare * lynx)],
        observed={"log_hare": sp.log(hare), "log_lynx": sp.log(lynx)},
        name="lynx and hare",
    )
    # Two peaks of the hare are ten years apart; near its equilibrium, which is where the means
    # are, the model has the period 2 pi / sqrt(alpha gamma) (Volterra 1926).
    rate = 2 * math.pi / 10
    return Problem(
        system,
        u0={hare: float(data["hare"][0]), lynx: float(data["lynx"][0])},
        tspan=(float(data["t"][0]), float(data["t"][-1])),
        p={
            alpha: rate,
            beta: rate / float(data["lynx"].mean()),
            gamma: rate,
            delta: rate / float(data["hare"].mean()),
        },
    )


def fit_lynx_hare(data: xr.Dataset | None = None, *, engine: str = "auto") -> FitResult:
    """Fit rates and initial values to the logarithms of the pelts.

    Counts of pelts err by a share of their size, not by so many pelts: a trapping season that is
    a quarter off is as likely in a rich year as in a poor one. Least squares on the logarithms is
    the maximum-likelihood estimate for such log-normal errors, and keeps the few rich years from
    deciding everything (B. Carpenter, Predator-Prey Population Dynamics, Stan case study, 2018,
    takes the same errors).

    Parameters
    ----------
    data : xarray.Dataset, optional
        As `load_lynx_hare` returns.
    engine : str

    Returns
    -------
    FitResult
    """
    from pysciml.fitting import fit

    data = load_lynx_hare() if data is None else data
    logs = xr.Dataset({f"log_{name}": np.log(data[name]) for name in ("hare", "lynx")})
    names = ["alpha", "beta", "gamma", "delta", "hare", "lynx"]
    return fit(make_problem(data), logs, names, log=True, engine=engine)


def band(result: FitResult, level: float = 0.95) -> xr.Dataset:
    """Where the curves lie that the estimates allow.

    Parameters
    ----------
    result : FitResult
    level : float

    Returns
    -------
    xarray.Dataset
        ``hare_low hare_high lynx_low lynx_high`` over ``t``: quantiles of the solutions for
        numbers drawn from the joint (log-normal) distribution of the estimates.
    """
    times = result.solution["t"].values
    values = result.estimates["estimate"].values
    relative = result.covariance.values / np.outer(values, values)
    draws = np.random.default_rng(1900).multivariate_normal(np.log(values), relative, size=_DRAWS)
    names = result.estimates["parameter"].values
    curves: list[Any] = []
    for draw in np.exp(draws):
        numbers = dict(zip(names.tolist(), draw.tolist(), strict=True))
        u0 = {name: numbers.pop(name) for name in ("hare", "lynx")}
        try:
            sol = solve(result.problem.remake(u0=u0, p=numbers), saveat=times, **result.options)
        except SolverError:  # an extreme draw, far from the data
            continue
        curves.append(np.stack([sol["hare"].values, sol["lynx"].values]))
    low, high = np.quantile(np.stack(curves), [(1 - level) / 2, (1 + level) / 2], axis=0)
    attrs = {"units": "thousand pelts"}
    return xr.Dataset(
        {
            f"{name}_{end}": ("t", edge[i], attrs)
            for i, name in enumerate(("hare", "lynx"))
            for end, edge in (("low", low), ("high", high))
        },
        coords={"t": times},
    )


def picture(result: FitResult, data: xr.Dataset, edges: xr.Dataset) -> Figure:
    """Data, fitted curves and their band.

    Parameters
    ----------
    result : FitResult
    data, edges : xarray.Dataset
        As `load_lynx_hare` and `band` return.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from pysciml import plot

    sol = result.solution
    with plot.style():
        figure = Figure(figsize=(8.0, 4.2), layout="constrained")
        ax = figure.add_subplot()
        for name, color in (("hare", plot.COLORS[0]), ("lynx", plot.COLORS[1])):
            low, high = edges[f"{name}_low"], edges[f"{name}_high"]
            ax.fill_between(edges["t"].values, low.values, high.values, color=color, alpha=0.15, linewidth=0)
            ax.plot(sol["t"].values, sol[name].values, color=color)
            ax.plot(
                data["t"].values, data[name].values, "o", color=color, markersize=6, markeredgecolor="white", zorder=3
            )
        for name, text, at, where in (
            ("hare", "snowshoe hare", 1902.6, (1903.5, 85.0)),
            ("lynx", "Canada lynx", 1904.1, (1905.2, 60.0)),
        ):
            color = plot.COLORS[0] if name == "hare" else plot.COLORS[1]
            near = float(sol[name].sel(t=at, method="nearest"))
            ax.annotate(
                text,
                xy=(at, near),
                xytext=where,
                color=color,
                weight="bold",
                va="center",
                arrowprops={"arrowstyle": "-", "color": color, "lw": 0.8, "shrinkB": 3},
            )
        ax.set_title("Lotka–Volterra equations fitted to the pelts of the Hudson's Bay Company")
        ax.set_ylabel("thousand pelts")
        ax.set_xlabel("year")
        ax.set_ylim(bottom=0)
        ax.set_xlim(1899.5, 1920.5)
        ax.set_xticks(range(1900, 1921, 2))
        grey = "#666666"
        marks = [
            Line2D([], [], color=grey, marker="o", linestyle="none", markersize=6, label="data"),
            Line2D([], [], color=grey, label="fit"),
            Patch(facecolor=grey, alpha=0.2, label="95 % band of the fit"),
        ]
        figure.legend(handles=marks, loc="outside lower right", ncols=3)
    return figure


def results(result: FitResult, data: xr.Dataset, edges: xr.Dataset) -> xr.Dataset:
    """Everything in one Dataset: curves, band, data, estimates and their covariance.

    Parameters
    ----------
    result : FitResult
    data, edges : xarray.Dataset
        As `load_lynx_hare` and `band` return.
    """
    observed = data.rename(t="year", hare="hare_data", lynx="lynx_data").drop_attrs(deep=False)
    merged = xr.merge([result.solution, edges, observed, result.estimates, result.covariance], combine_attrs="drop")
    return merged.assign_attrs(
        result.solution.attrs | {"source": data.attrs["source"], "jacobian": result.jacobian, "loss": result.loss}
    )


def run(out: str | Path = ".", *, engine: str = "auto", say: Callable[[str], Any] = print) -> FitResult:
    """Fit, print the estimates, write ``lynx_hare.nc`` and ``lynx_hare.png``.

    Parameters
    ----------
    out : path
        The folder to write to; made if it does not exist.
    engine : str
    say : callable
        Gets each line of the report.

    Returns
    -------
    FitResult

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    data = load_lynx_hare()
    result = fit_lynx_hare(data, engine=engine)
    spread = math.sqrt(result.loss / result.dof)
    say("Lotka-Volterra equations fitted to lynx and hare pelts, 1900 to 1920")
    say(f"({SOURCE})")
    say("")
    say(str(result))
    say("")
    say("  rates per year, initial values in thousands of pelts; least squares on logarithms:")
    say(f"  the pelts of a year differ from the curve by {100 * math.expm1(spread):.0f} % (one standard deviation)")
    edges = band(result)
    say("")
    with writing(folder / "lynx_hare.nc") as path:
        results(result, data, edges).to_netcdf(path, engine="h5netcdf")
    with writing(folder / "lynx_hare.png") as path:
        picture(result, data, edges).savefig(path, format="png", dpi=150)
    for name, what in (
        ("lynx_hare.nc", "curves, band, data, estimates: xarray.open_dataset"),
        ("lynx_hare.png", "the picture"),
    ):
        say(f"wrote {folder / name}  ({what})")
    return result
