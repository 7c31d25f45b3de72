"""Pictures of solutions and fits, with labels from the names and units of the model.

Nothing is shown and no global setting of Matplotlib is changed: every function draws, and returns
the axes, to be changed, shown or saved by the caller.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, overload

import numpy as np
import numpy.typing as npt
import sympy as sp
import xarray as xr
from sympy.core.function import AppliedUndef

from pysciml.errors import ProblemError
from pysciml.hints import did_you_mean, named_options
from pysciml.plot_compare import ensemble as ensemble
from pysciml.plot_compare import work_precision as work_precision
from pysciml.plot_fields import animate as animate
from pysciml.plot_fields import snapshots as snapshots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pysciml.fitting import FitResult

#: Colours that people with any kind of colour vision tell apart (Okabe and Ito, 2008).
COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")

_STYLE: Final[dict[str, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.labelcolor": "#222222",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 96,
    "font.size": 10.0,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "savefig.dpi": 160,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}
#: With more curves than this a legend hides more than it tells.
_MOST_LEGEND: Final = 16


@contextmanager
def style() -> Generator[None]:
    """The look of these pictures, as a context for your own (``with pysciml.plot.style(): ...``).

    Only the settings that make the look are changed and put back. ``matplotlib.rc_context`` would
    put back all of them, and with them the interactive mode that notebooks switch on when the
    first figure is made: no later figure would be shown.
    """
    import matplotlib as mpl
    from cycler import cycler

    settings: Any = mpl.rcParams
    look = _STYLE | {"axes.prop_cycle": cycler(color=COLORS)}
    before = {key: settings[key] for key in look}
    try:
        settings.update(look)
        yield
    finally:
        settings.update(before)


def label(variable: xr.DataArray) -> str:
    """How an axis is labelled: ``long_name`` or name, and the units if there are any.

    Parameters
    ----------
    variable : xarray.DataArray
    """
    text = str(variable.attrs.get("long_name", variable.name))
    units = variable.attrs.get("units")
    return f"{text} ({units})" if units else text


@overload
def solution(
    sol: xr.Dataset, variables: Iterable[Any] | None = None, *, subplots: Literal[False] = False, ax: Axes | None = None
) -> Axes: ...
@overload
def solution(
    sol: xr.Dataset, variables: Iterable[Any] | None = None, *, subplots: Literal[True], ax: None = None
) -> npt.NDArray[np.object_]: ...
@named_options()
def solution(
    sol: xr.Dataset, variables: Iterable[Any] | None = None, *, subplots: bool = False, ax: Axes | None = None
) -> Axes | npt.NDArray[np.object_]:
    """Draw a solution over time.

    Parameters
    ----------
    sol : xarray.Dataset
        As `pysciml.solve` returns.
    variables : list of names or symbols, optional
        All by default.
    subplots : bool, default False
        One panel for each variable, above one another; else all in one.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes, or with ``subplots`` an array of them

    Raises
    ------
    ProblemError
        If a variable does not exist, or has other dimensions than ``t``.

    Examples
    --------
    >>> ax = ps.plot.solution(sol)
    >>> ax.figure.savefig("solution.png")
    """
    chosen = _choose(sol, variables)
    if subplots and ax is not None:
        raise ProblemError("subplots=True makes its own axes: leave out ax", symbol="ax")
    with style():
        if subplots:
            import matplotlib.pyplot as plt

            height = max(1.7 * len(chosen), 2.8)
            _, grid = plt.subplots(len(chosen), 1, sharex=True, squeeze=False, figsize=(6.4, height))
            for k, (panel, variable) in enumerate(zip(grid[:, 0], chosen, strict=True)):
                _line(panel, variable, color=COLORS[k % len(COLORS)])
                panel.set_ylabel(label(variable).replace(" (", "\n("))
            grid[-1, 0].set_xlabel(label(chosen[0]["t"]))
            return grid[:, 0]
        panel = _axes(ax)
        _overlay(panel, chosen)
        panel.set_xlabel(label(chosen[0]["t"]))
        return panel


@named_options()
def phase(sol: xr.Dataset, x: Any, y: Any, *, ax: Axes | None = None) -> Axes:
    """Draw one variable against another; a dot marks the start, arrows the direction of time.

    Parameters
    ----------
    sol : xarray.Dataset
        As `pysciml.solve` returns; with ``saveat`` fine enough for a smooth curve.
    x, y : names or symbols
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ProblemError
        If a variable does not exist, or has other dimensions than ``t``.

    Examples
    --------
    >>> ps.plot.phase(sol, "x", "y")
    """
    from matplotlib.colors import to_hex

    across, up = _choose(sol, [x, y])
    with style():
        panel = _axes(ax, size=(4.8, 4.4))
        (line,) = panel.plot(across.values, up.values, linewidth=1.3)
        panel.plot(across.values[:1], up.values[:1], "o", color=line.get_color(), markersize=6)
        _arrows(panel, across.values, up.values, to_hex(line.get_color()))
        panel.set_xlabel(label(across))
        panel.set_ylabel(label(up))
        return panel


@named_options()
def fit(result: FitResult, variables: Iterable[Any] | None = None) -> npt.NDArray[np.object_]:
    """Draw a fit: data and curves above, residuals (data minus model) below.

    Variables of the same units share a column.

    Parameters
    ----------
    result : FitResult
        As `pysciml.fit` returns.
    variables : list of names or symbols, optional
        Those of the data by default.

    Returns
    -------
    array of matplotlib.axes.Axes, shape (2, n_columns)

    Raises
    ------
    ProblemError
        If a variable is not among the data.

    Examples
    --------
    >>> axes = ps.plot.fit(result)
    """
    import matplotlib.pyplot as plt

    chosen = _choose(result.residuals, variables)
    curves, data = result.solution, result.data
    columns: dict[str, list[str]] = {}
    for variable in chosen:
        name = str(variable.name)
        columns.setdefault(_attrs(curves[name], data[name]).get("units", ""), []).append(name)
    n = len(columns)
    with style():
        _, axes = plt.subplots(
            2,
            n,
            sharex=True,
            squeeze=False,
            figsize=(max(6.4, 4.6 * n), 4.8),
            height_ratios=(3, 1),
        )
        for column, names in enumerate(columns.values()):
            above, below = axes[:, column]
            for k, name in enumerate(names):
                color = COLORS[k % len(COLORS)]
                _line(above, curves[name], color=color, label=_short(curves[name], data[name]))
                above.plot(data["t"], data[name], "o", color=color, markersize=4.5, markeredgecolor="white", alpha=0.9)
                residual = result.residuals[name]
                below.vlines(residual["t"], 0, residual, color=color, linewidth=1)
                below.plot(residual["t"], residual, "o", color=color, markersize=3)
            below.axhline(0, color="#444444", linewidth=0.8)
            above.set_ylabel(
                _shared_label([curves[name].assign_attrs(_attrs(curves[name], data[name])) for name in names])
            )
            below.set_ylabel("residual")
            below.set_xlabel(label(data["t"]))
            if len(names) > 1:
                _legend(above, len(names))
        above = axes[0, 0]
        above.set_title(f"{result.problem.system.name}: data and fit")
        axes[0, 0].figure.align_ylabels()
        return axes


# ---- what they share ----


def _choose(sol: Any, variables: Any) -> list[xr.DataArray]:
    """The variables asked for, each over ``t`` alone."""
    if not isinstance(sol, xr.Dataset):
        raise ProblemError(f"plots are drawn from an xarray.Dataset, as solve returns, not {type(sol).__name__}")
    known = [str(name) for name in sol.data_vars]
    if variables is None:
        keys: list[Any] = [name for name in known if sol[name].dims == ("t",)] or list(known)
    elif isinstance(variables, (str, sp.Basic)):
        keys = [variables]
    else:
        keys = list(variables)
    if not keys:
        raise ProblemError("there is no variable to draw")
    chosen: list[xr.DataArray] = []
    for key in keys:
        name = _name(key)
        if name not in known:
            hint = did_you_mean(name, known)
            raise ProblemError(f"the solution has no variable {name}: it has {', '.join(known)}{hint}", symbol=name)
        variable = sol[name]
        if variable.dims != ("t",):
            dims = ", ".join(map(str, variable.dims))
            raise ProblemError(
                f"{name} has the dimensions ({dims}), not (t): choose by .isel or .sel, or reduce by .mean",
                symbol=name,
            )
        chosen.append(variable)
    return chosen


def _name(key: Any) -> str:
    """The name that a symbol has in a solution."""
    if isinstance(key, sp.Derivative):
        return f"{_name(key.expr)}_{'t' * len(key.variables)}"
    if isinstance(key, AppliedUndef):
        return key.func.__name__
    return key.name if isinstance(key, sp.Symbol) else str(key)


def _axes(ax: Axes | None, size: tuple[float, float] = (6.4, 3.6)) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    figure: Figure = plt.figure(figsize=size)
    return figure.add_subplot()


def _line(ax: Axes, variable: xr.DataArray, **options: Any) -> None:
    ax.plot(variable["t"].values, variable.values, **options)


def _overlay(ax: Axes, chosen: Sequence[xr.DataArray]) -> None:
    """All curves in one panel; units on the axis where all share them, else in the legend."""
    same = len({variable.attrs.get("units") for variable in chosen}) == 1
    for k, variable in enumerate(chosen):
        _line(ax, variable, color=COLORS[k % len(COLORS)], label=_short(variable) if same else label(variable))
    if same:
        ax.set_ylabel(_shared_label(chosen))
    if len(chosen) > 1:
        _legend(ax, len(chosen))


def _legend(ax: Axes, n: int) -> None:
    if n <= _MOST_LEGEND:
        # Above the panel, where it covers no curve.
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=min(n, 4), borderaxespad=0.2, handlelength=1.4)


def _attrs(*variables: xr.DataArray) -> dict[str, Any]:
    """The attributes of a variable, the first one to have them."""
    merged: dict[str, Any] = {}
    for variable in reversed(variables):
        merged |= variable.attrs
    return merged


def _short(*variables: xr.DataArray) -> str:
    return str(_attrs(*variables).get("long_name", variables[0].name))


def _shared_label(chosen: Sequence[xr.DataArray]) -> str:
    if len(chosen) == 1:
        return label(chosen[0])
    units = chosen[0].attrs.get("units")
    return str(units) if units else ""


def _arrows(ax: Axes, x: npt.NDArray[Any], y: npt.NDArray[Any], color: str) -> None:
    """Three arrowheads, a quarter of the curve's drawn length apart."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    width, height = np.ptp(x) or 1.0, np.ptp(y) or 1.0
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x) / width, np.diff(y) / height))])
    if len(length) < 3 or length[-1] == 0:
        return
    # A closed orbit is drawn many times over: arrows on its first round tell enough.
    for fraction in (0.15, 0.4, 0.65):
        i = int(np.searchsorted(length, fraction * min(length[-1], 3.0)))
        if 0 < i < len(x):
            ax.annotate(
                "",
                xy=(x[i], y[i]),
                xytext=(x[i - 1], y[i - 1]),
                arrowprops={"arrowstyle": "-|>", "color": color, "lw": 0, "mutation_scale": 14},
            )
