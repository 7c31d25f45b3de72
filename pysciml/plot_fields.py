"""Pictures of fields: snapshots side by side, and films."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import xarray as xr
from sympy.core.function import AppliedUndef

from pysciml.errors import ProblemError
from pysciml.hints import named_options

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation

#: Perceptually uniform; the second for values of both signs.
_MAP: Final = "viridis"
_SIGNED: Final = "RdBu_r"
#: More frames than this are thinned out.
_MOST_FRAMES: Final = 200


@named_options()
def snapshots(
    sol: xr.Dataset | xr.DataArray, field: Any = None, times: Iterable[float] | int = 6, *, columns: int = 3
) -> npt.NDArray[np.object_]:
    """Draw a field at several times: panels of one colour scale in two dimensions, curves in one.

    Parameters
    ----------
    sol : xarray.Dataset or xarray.DataArray
        As `pysciml.solve` returns for a partial differential equation, or one field of it.
    field : name or SymPy function, optional
        The first field by default.
    times : list of float, or int
        When (the nearest times there are), or how many evenly spread over the solution, all of them where there are
        no more.
    columns : int

    Returns
    -------
    array of matplotlib.axes.Axes

    Raises
    ------
    ProblemError
        If the field does not exist or has three space dimensions.

    Examples
    --------
    >>> ps.plot.snapshots(sol, u, times=[0, 10, 100])
    """
    from matplotlib import pyplot as plt

    from pysciml.plot import label, style

    chosen = _field(sol, field)
    given: Any = times
    if isinstance(given, (int, np.integer)):
        even = np.linspace(float(chosen.t[0]), float(chosen.t[-1]), int(given))
        given = np.unique(np.abs(chosen.t.values[:, None] - even).argmin(axis=0))  # none twice, where there are few
        given = chosen.t.values[given].tolist()
    frames = [chosen.sel(t=when, method="nearest") for when in given]
    with style():
        if chosen.ndim == 2:
            figure, panel = plt.subplots(figsize=(6.4, 3.6))
            x = chosen[chosen.dims[1]]
            colors = plt.get_cmap(_MAP)(np.linspace(0, 0.9, len(frames)))
            for frame, color in zip(frames, colors, strict=True):
                panel.plot(x.values, frame.values, color=color, label=f"t = {float(frame.t):.4g}")
            panel.set_xlabel(label(x))
            panel.set_ylabel(label(chosen))
            figure.legend(loc="outside right upper")
            return np.array([panel], dtype=object)
        rows = math.ceil(len(frames) / columns)
        columns = math.ceil(len(frames) / rows)  # rows of one length, where that goes
        size = _panel_size(chosen)
        figure, panels = plt.subplots(
            rows, columns, figsize=(columns * size[0] + 0.9, rows * size[1]), squeeze=False, sharex=True, sharey=True
        )
        limits = _limits(xr.concat(frames, "t"))
        image: Any = None
        for panel, frame in zip(panels.ravel(), frames, strict=False):
            image = _image(panel, frame, limits)
            panel.set_title(f"t = {float(frame.t):.4g}")
        for panel in panels.ravel()[len(frames) :]:
            panel.set_visible(False)
        for column in range(columns):
            lowest = panels[(len(frames) - 1 - column) // columns, column]
            lowest.set_xlabel(label(chosen[chosen.dims[1]]))
            lowest.tick_params(labelbottom=True)
        for panel in panels[:, 0]:
            panel.set_ylabel(label(chosen[chosen.dims[2]]))
        figure.colorbar(image, ax=panels, label=label(chosen), shrink=0.9)
        return panels


@named_options()
def animate(
    sol: xr.Dataset | xr.DataArray,
    field: Any = None,
    path: str | Path | None = None,
    *,
    fps: int = 20,
    every: int | None = None,
) -> FuncAnimation:
    """Make a film of a field.

    Parameters
    ----------
    sol : xarray.Dataset or xarray.DataArray
        As `pysciml.solve` returns for a partial differential equation, or one field of it, with
        ``saveat`` for frames at equal times.
    field : name or SymPy function, optional
        The first field by default.
    path : path, optional
        Write it there, as ``.gif``, ``.html`` (a page with the pictures in it) or ``.mp4`` (where
        ffmpeg is installed).
    fps : int
        Frames a second.
    every : int, optional
        Take each so-manieth time; by default so that there are at most 200 frames.

    Returns
    -------
    matplotlib.animation.FuncAnimation
        In a notebook ``IPython.display.HTML(film.to_jshtml())`` shows it.

    Raises
    ------
    ProblemError
        If the field does not exist, has three space dimensions, or the file's kind is not known.

    Examples
    --------
    >>> ps.plot.animate(sol, u, "patterns.gif")
    """
    from matplotlib import pyplot as plt
    from matplotlib.animation import FuncAnimation

    from pysciml.plot import label, style

    chosen = _field(sol, field)
    suffix = "" if path is None else Path(path).suffix.lower()
    if path is not None and suffix not in (".gif", ".html", ".mp4"):
        raise ProblemError(f"animate writes .gif, .html and .mp4, not {str(path)!r}", symbol="path")
    if every is None:
        every = max(1, math.ceil(chosen.sizes["t"] / _MOST_FRAMES))
    frames = chosen.isel(t=slice(None, None, every))
    limits = _limits(frames)
    with style():
        figure, panel = plt.subplots(figsize=(6.4, 3.6) if chosen.ndim == 2 else _film_size(chosen))
        x = chosen[chosen.dims[1]]
        panel.set_xlabel(label(x))
        line: Any = None
        image: Any = None
        if chosen.ndim == 2:
            (line,) = panel.plot(x.values, frames.isel(t=0).values)
            room = 0.05 * (limits[1] - limits[0] or 1.0)
            panel.set_ylim(limits[0] - room, limits[1] + room)
            panel.set_ylabel(label(chosen))
        else:
            image = _image(panel, frames.isel(t=0), limits)
            panel.set_ylabel(label(chosen[chosen.dims[2]]))
            figure.colorbar(image, ax=panel, label=label(chosen))
        title = panel.set_title(f"t = {float(frames.t[0]):.4g}")
        figure.canvas.draw()
        figure.set_layout_engine("none")  # laid out once, not for every frame

        def draw(k: int) -> list[Any]:
            title.set_text(f"t = {float(frames.t[k]):.4g}")
            values = frames.isel(t=k).values  # of a solution on disk, no more than a frame is read
            if chosen.ndim == 2:
                line.set_ydata(values)
                return [line]
            image.set_array(values.T)
            return [image]

        film = FuncAnimation(figure, draw, frames=frames.sizes["t"], interval=1000 / fps, blit=False)
        if path is not None:
            _write(film, Path(path), suffix, fps)
            plt.close(figure)
    return film


def _write(film: FuncAnimation, path: Path, suffix: str, fps: int) -> None:
    if suffix == ".html":
        path.write_text(film.to_jshtml(fps=fps), encoding="utf-8")
        return
    writer = "pillow" if suffix == ".gif" else "ffmpeg"
    from matplotlib import animation

    if not animation.writers.is_available(writer):
        raise ProblemError(f"{suffix} needs {writer}, which is not installed: take .gif or .html", symbol="path")
    film.save(path, writer=writer, fps=fps, dpi=110)


def _field(sol: Any, field: Any) -> xr.DataArray:
    if isinstance(sol, xr.DataArray) and field is None:
        sol = sol.to_dataset(name=sol.name or "field")
    if not isinstance(sol, xr.Dataset):
        raise ProblemError(f"this draws a solution, an xarray.Dataset, not {type(sol).__name__}")
    fields = [str(name) for name, variable in sol.data_vars.items() if "t" in variable.dims and variable.ndim > 1]
    if not fields:
        raise ProblemError("the solution has no field over time and space")
    name = fields[0] if field is None else field.func.__name__ if isinstance(field, AppliedUndef) else str(field)
    if name not in fields:
        raise ProblemError(f"the solution has no field {name!r}: it has {', '.join(fields)}", symbol=name)
    chosen = sol[name].transpose("t", ...)
    if chosen.ndim > 3:
        raise ProblemError(f"{name} has {chosen.ndim - 1} space dimensions: select one value of one, sol.isel(Z=0)")
    return chosen


def _limits(values: xr.DataArray) -> tuple[float, float]:
    finite = values.where(np.isfinite(values))  # of a solution on disk, read part by part
    low, high = float(finite.min()), float(finite.max())
    if not np.isfinite(low):
        low, high = 0.0, 1.0
    if low < 0 < high and min(-low, high) > 0.3 * max(-low, high):
        high = max(-low, high)
        low = -high
    return low, high


def _image(panel: Any, frame: xr.DataArray, limits: tuple[float, float]) -> Any:
    x, y = (frame[dim].values for dim in frame.dims)
    edges = [_edges(v) for v in (x, y)]
    extent = (edges[0][0], edges[0][-1], edges[1][0], edges[1][-1])
    aspect = "equal" if 0.25 < (extent[3] - extent[2]) / (extent[1] - extent[0]) < 4 else "auto"
    colors = {"cmap": _SIGNED if limits[0] == -limits[1] else _MAP, "vmin": limits[0], "vmax": limits[1]}
    panel.grid(False)
    if all(np.ptp(np.diff(v)) <= 1e-6 * np.ptp(v) for v in edges):
        return panel.imshow(
            frame.values.T, origin="lower", extent=extent, aspect=aspect, interpolation="nearest", **colors
        )
    panel.set_aspect(aspect)
    return panel.pcolormesh(*edges, frame.values.T, **colors)


def _edges(centers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Where cells end that are known by their centers: halfway, and as far outside of the first as inside."""
    if centers.size == 1:
        return np.array([centers[0] - 0.5, centers[0] + 0.5])
    between = (centers[1:] + centers[:-1]) / 2
    return np.concatenate([[2 * centers[0] - between[0]], between, [2 * centers[-1] - between[-1]]])


def _ratio(field: xr.DataArray) -> float:
    x, y = (field[dim].values for dim in field.dims[1:])
    return float(np.clip((y[-1] - y[0]) / (x[-1] - x[0]), 0.4, 2.0))


def _panel_size(field: xr.DataArray) -> tuple[float, float]:
    return 2.3, 2.3 * _ratio(field) + 0.4


def _film_size(field: xr.DataArray) -> tuple[float, float]:
    return 5.4, 4.4 * _ratio(field) + 0.4
