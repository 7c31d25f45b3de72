"""How a series is laid out for training: windows of time that are solved together, and what is compared where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array
from pysciml.errors import ProblemError
from pysciml.fitting.inputs import Observations

#: Relative times closer than this are one.
_SAME = 1e-9


@dataclass(frozen=True)
class Windows:
    """Windows of the time axis, each mapped to 0..1, so that one solve does all.

    Attributes
    ----------
    start, length : arrays, shape (n_windows,)
        In the model's time; lengths are negative where it runs backward.
    times : array, shape (n_save,)
        Relative times at which any window has data, ascending; the last is 1.
    values, scale : arrays, shape (n_variables, n_save, n_windows)
        The data and what a residual is multiplied by, 0 where there is none.
    rows : int array, shape (n_variables,)
        Which of states and observed quantities each variable is.
    count : int
        How many numbers there are to fit.
    variables : tuple of Variable
        See `Observations`.
    """

    start: Array
    length: Array
    times: Array
    values: Array
    scale: Array
    rows: npt.NDArray[np.intp]
    count: int
    variables: tuple[Any, ...] = ()

    @property
    def n(self) -> int:
        """How many windows there are."""
        return len(self.start)

    def shift_allowed(self) -> float:
        """Half the shortest time between two outputs, in the model's time: how far one may be moved."""
        return 0.5 * float(np.diff(self.times, prepend=0.0)[1:].min(initial=1.0)) * float(np.abs(self.length).min())


def cut(data: Observations, begin: float, n: int, until: float | None = None) -> Array:
    """The edges of ``n`` windows with about equally many times, from ``begin`` to the last observation.

    A window ends at an observation, where the next one starts.

    Parameters
    ----------
    until : float, optional
        Only observations up to there.

    Raises
    ------
    ProblemError
        If there are fewer times than windows.
    """
    sign = _sign(data, begin)
    later = data.times[sign * data.times > sign * begin]
    later = later if until is None else later[sign * later <= sign * until]
    if later.size < n:
        raise ProblemError(
            f"data has {later.size} times after the start, too few for segments={n}"
            if n > 1
            else "data has no times after the start: there is nothing to train on",
            symbol="segments",
        )
    return np.concatenate([[begin], [part[-1] for part in np.array_split(later, n)]])


def _sign(data: Observations, begin: float) -> float:
    return 1.0 if data.times[-1] >= begin and data.times[0] <= data.times[-1] else -1.0


def lay_out(data: Observations, edges: Array) -> Windows:
    """The data in windows with these edges; observations beyond the last one are left out."""
    sign = 1.0 if edges[-1] > edges[0] else -1.0
    n = edges.size - 1
    inside = sign * data.times <= sign * edges[-1]
    times, ends = data.times[inside], edges[1:]
    length = np.diff(edges)
    which = np.minimum(np.searchsorted(sign * ends, sign * times, side="left"), n - 1)
    relative = np.clip((times - edges[which]) / length[which], 0.0, 1.0)
    grid = _distinct(np.append(relative, 1.0))
    place = np.argmin(np.abs(grid[:, None] - relative[None]), axis=0)
    shape = (len(data.values), grid.size, n)
    values, scale = np.zeros(shape), np.zeros(shape)
    present = data.present[:, inside]
    for k in range(times.size):
        values[:, place[k], which[k]] = np.where(present[:, k], data.values[:, inside][:, k], 0.0)
        scale[:, place[k], which[k]] = np.where(present[:, k], data.scale[:, inside][:, k], 0.0)
    count = int(np.count_nonzero(present))
    return Windows(edges[:-1], length, grid, values, scale, data.rows, count, data.variables)


def _distinct(times: Array) -> Array:
    ordered = np.sort(times)
    keep = np.append(np.diff(ordered) > _SAME, True)
    return ordered[keep]


def first_states(data: Observations, edges: Array, u0: Array) -> Array:
    """Where windows start: observed states from the data (interpolated), others from ``u0``; (n_windows, n)."""
    starts = np.tile(u0, (edges.size - 1, 1))
    if len(starts) == 1:
        return starts
    order = np.argsort(data.times)
    for row, values, present in zip(data.rows.tolist(), data.values, data.present, strict=True):
        if row < u0.size:
            seen = order[present[order]]
            starts[1:, row] = np.interp(edges[1:-1], data.times[seen], values[seen])
    return starts
