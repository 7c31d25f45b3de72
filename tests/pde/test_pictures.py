"""Pictures of fields: uneven grids, solutions on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import pysciml as ps


def uneven() -> xr.Dataset:
    values = np.arange(24.0).reshape(4, 3, 2)
    coords = {"t": np.arange(4.0), "X": [0.1, 0.3, 0.8], "Y": [0.5, 1.5]}
    return xr.Dataset({"u": (("t", "X", "Y"), values)}, coords=coords)


def test_on_an_uneven_grid_cells_are_drawn_where_they_are(tmp_path: Path) -> None:
    sol = uneven()
    panel = ps.plot.snapshots(sol, "u", [2])[0, 0]
    (mesh,) = panel.collections
    corners = mesh.get_coordinates()
    assert np.allclose(corners[0, :, 0], [0, 0.2, 0.55, 1.05])
    assert np.allclose(corners[:, 0, 1], [0, 1, 2])
    assert np.array_equal(np.ravel(mesh.get_array()), sol.u.values[2].T.ravel())
    film = ps.plot.animate(sol, "u")
    (mesh,) = film._fig.axes[0].collections
    film._func(3)
    assert np.array_equal(np.ravel(mesh.get_array()), sol.u.values[3].T.ravel())
    film.save(tmp_path / "u.gif", writer="pillow")


def test_on_an_even_grid_a_film_shows_each_frame(tmp_path: Path) -> None:
    sol = uneven().assign_coords(X=[0.0, 1.0, 2.0])
    film = ps.plot.animate(sol, "u")
    (image,) = film._fig.axes[0].images
    film._func(3)
    assert np.array_equal(np.asarray(image.get_array()), sol.u.values[3].T)
    film.save(tmp_path / "u.gif", writer="pillow")


@pytest.mark.parametrize("dims", [("t", "X"), ("t", "X", "Y")])
def test_a_film_of_a_solution_on_disk_reads_a_frame_at_a_time(tmp_path: Path, dims: tuple[str, ...]) -> None:
    import dask.array as da

    read: list[Any] = []

    def values(block_id: tuple[int, ...]) -> Any:
        read.append(block_id)
        return np.full((1, 4, 3)[: len(dims)], float(block_id[0]))

    count, shape = 30, (4, 3)[: len(dims) - 1]
    lazy = da.map_blocks(
        values, chunks=((1,) * count, *((n,) for n in shape)), dtype=float, meta=np.zeros((0,) * len(dims))
    )
    sol = xr.Dataset({"u": (dims, lazy)}, coords={"t": np.arange(count), "X": np.arange(4)})
    film = ps.plot.animate(sol if "Y" not in dims else sol.assign_coords(Y=np.arange(3)), "u")
    film.save(tmp_path / "u.gif", writer="pillow")
    assert len(read) < 6 * count


def test_no_time_is_drawn_twice() -> None:
    sol = uneven().assign_coords(t=[0.0, 1.0, 5.0, 10.0])
    titles = [panel.get_title("left") for panel in ps.plot.snapshots(sol, "u").ravel()]
    assert titles == ["t = 0", "t = 1", "t = 5", "t = 10"]
    titles = [panel.get_title("left") for panel in ps.plot.snapshots(sol, "u", 3).ravel()]
    assert titles == ["t = 0", "t = 5", "t = 10"]


def test_every_column_of_snapshots_has_its_axis_named() -> None:
    sol = uneven()
    assert ps.plot.snapshots(sol, "u", 4).shape == (2, 2)
    panels = ps.plot.snapshots(xr.concat([sol, sol.assign_coords(t=sol.t + 4)], "t"), "u", 5)
    assert panels.shape == (2, 3)
    assert [panel.get_xlabel() for panel in panels.ravel()] == ["", "", "X", "X", "X", ""]
    assert panels[0, 2].xaxis.get_tick_params()["labelbottom"]


def test_one_field_is_drawn_as_the_solution_it_is_of():
    t, x = np.linspace(0, 1, 3), np.linspace(0, 1, 8)
    sol = xr.Dataset({"u": (("t", "X"), np.outer(t, x))}, coords={"t": t, "X": x})
    (whole,), (alone,) = (np.ravel(ps.plot.snapshots(drawn, times=2)) for drawn in (sol, sol.u))
    assert alone.get_ylabel() == whole.get_ylabel() == "u"
    for line, other in zip(alone.get_lines(), whole.get_lines(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), other.get_ydata())
    with pytest.raises(ps.ProblemError, match=r"an xarray\.Dataset, not list"):
        ps.plot.snapshots([1.0])
