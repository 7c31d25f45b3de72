"""Pictures of comparisons and ensembles; part of `pysciml.plot`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pysciml.errors import ProblemError
from pysciml.hints import named_options

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vP*X"
_WORK = {"seconds": "time of one solve (s)", "n_rhs": "evaluations of the right-hand side", "n_steps": "steps"}


@named_options()
def work_precision(table: xr.Dataset, ax: Axes | None = None, *, work: str = "seconds") -> Axes:
    """Draw a work-precision diagram: what accuracy costs, one curve for each solver.

    Parameters
    ----------
    table : xarray.Dataset
        From `pysciml.compare`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    work : {"seconds", "n_rhs", "n_steps"}
        What is drawn upward. Counts that a library does not report are left out.

    Returns
    -------
    matplotlib.axes.Axes
        Points further left are more accurate, further down cheaper.

    Raises
    ------
    ProblemError
        If the table does not come from `pysciml.compare`.
    """
    if not isinstance(table, xr.Dataset) or "error" not in table or work not in table:
        raise ProblemError(f"work_precision draws the table of pysciml.compare (with error and {work})", symbol="table")
    from pysciml.plot import style

    with style():
        axes = _axes(ax)
        for i, solver in enumerate(table["solver"].values):
            row = table.isel(solver=i)
            error, effort = row["error"].values, row[work].values.astype(float)
            usable = (error > 0) & (effort > 0)
            if usable.any():
                axes.loglog(error[usable], effort[usable], marker=_MARKERS[i % len(_MARKERS)], label=str(solver))
        axes.set_xlabel("error (relative)")
        axes.set_ylabel(
            {"seconds": "time of one solve (s)", "n_rhs": "evaluations of the right-hand side"}.get(work, work)
        )
        axes.set_title(str(table.attrs.get("model", "")).replace("_", " "))
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    return axes


@named_options()
def ensemble(
    paths: xr.DataArray,
    ax: Axes | None = None,
    *,
    dim: str | Sequence[str] | None = None,
    quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
    samples: int = 0,
) -> Axes:
    """Draw the quantiles of an ensemble over time as bands.

    Parameters
    ----------
    paths : xarray.DataArray
        One variable of `pysciml.solve_ensemble`, such as ``paths.x``; failed trajectories are left
        out.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    dim : str or list of str, optional
        Over which dimensions; by default all but ``t``.
    quantiles : list of float
        Bands go from the first to the last, the second to the last but one, and so on; a single
        one in the middle is a line.
    samples : int
        How many single trajectories are drawn as thin lines.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ProblemError
        If there is nothing to draw over time, or a quantile is not between 0 and 1.
    """
    if not isinstance(paths, xr.DataArray) or "t" not in paths.dims or paths.sizes["t"] < 2 or paths.ndim < 2:
        raise ProblemError("ensemble draws one variable over t and at least one other dimension", symbol="paths")
    levels = sorted(float(q) for q in quantiles)
    if not levels or levels[0] < 0 or levels[-1] > 1:
        raise ProblemError(f"quantiles must be between 0 and 1, not {quantiles!r}", symbol="quantiles")
    over = [d for d in paths.dims if d != "t"] if dim is None else [dim] if isinstance(dim, str) else list(dim)
    if set(over) | {"t"} != set(paths.dims):
        left = sorted(map(str, set(paths.dims) - set(over) - {"t"}))
        raise ProblemError(f"ensemble: select one value of {', '.join(left)}, or name it in dim", symbol="dim")
    from pysciml.plot import COLORS, label, style

    with style():
        axes = _axes(ax)
        t = paths["t"].values
        flat = paths.transpose(*over, "t").values.reshape(-1, len(t))
        bands = np.nanquantile(flat, levels, axis=0)
        pairs = len(levels) // 2
        for k in range(pairs):
            low, high = levels[k], levels[-1 - k]
            name = f"{100 * low:g} to {100 * high:g} %"
            axes.fill_between(
                t, bands[k], bands[-1 - k], color=COLORS[0], alpha=0.18 + 0.2 * k / pairs, linewidth=0, label=name
            )
        if len(levels) % 2:
            middle = levels[pairs]
            name = "median" if middle == 0.5 else f"{100 * middle:g} %"
            axes.plot(t, bands[pairs], color=COLORS[0], label=name)
        for row in flat[: max(0, samples)]:
            axes.plot(t, row, color=COLORS[1], linewidth=0.7, alpha=0.7)
        axes.set_xlabel(label(paths["t"]))
        axes.set_ylabel(label(paths))
        axes.set_xlim(t.min(), t.max())
        axes.legend()
    return axes


def _axes(ax: Any) -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots()[1] if ax is None else ax
