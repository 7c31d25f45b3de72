"""The work-precision picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import LIBRARIES, ON_JULIA
from benchmarks.problems import PROBLEMS
from benchmarks.solvers import Point, front

# Okabe and Ito's palette: told apart by every kind of colour vision. pysciml's two lines are those that stand out.
COLOURS = {
    "pysciml": "#D55E00",
    ON_JULIA: "#E69F00",
    "SciPy": "#0072B2",
    "SciPy + numba": "#56B4E9",
    "numbalsoda": "#009E73",
    "CasADi": "#CC79A7",
    "diffrax": "#8C6D1F",
}
MARKS = {
    "pysciml": "o",
    ON_JULIA: "o",
    "SciPy": "s",
    "SciPy + numba": "D",
    "numbalsoda": "^",
    "CasADi": "v",
    "diffrax": "P",
}


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw each library's front (its cheapest method at each error), a panel a problem."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = {
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#666666",
        "axes.linewidth": 0.8,
        "grid.color": "#DDDDDD",
        "grid.linewidth": 0.6,
        "legend.frameon": False,
    }
    shown = [problem for problem in PROBLEMS if any(point.problem == problem.name for point in points)]
    columns = 4
    rows = -(-(len(shown) + 1) // columns)
    with plt.rc_context(style):
        figure, axes = plt.subplots(
            rows, columns, figsize=(3.6 * columns, 3.25 * rows), layout="constrained", squeeze=False
        )
        panels = list(axes.ravel())
        for panel, problem in zip(panels, shown, strict=False):
            for library in LIBRARIES:
                here = [p for p in points if p.problem == problem.name and p.library == library]
                if library == "pysciml":
                    here = [p for p in here if p.method == "auto"]
                curve = front(here)
                if not curve:
                    continue
                ours = library in ("pysciml", ON_JULIA)
                panel.loglog(
                    [error for error, _, _ in curve],
                    [1e3 * seconds for _, seconds, _ in curve],
                    color=COLOURS[library],
                    marker=MARKS[library],
                    markersize=5.5 if ours else 3.8,
                    linewidth=2.4 if ours else 1.2,
                    markeredgecolor="white",
                    markeredgewidth=0.5,
                    zorder=5 if ours else 3,
                    label=library + (" (automatic)" if library == "pysciml" else ""),
                )
            panel.invert_xaxis()
            panel.grid(True, which="major")
            panel.set_title(f"{problem.title} ({problem.n:,} eqs)", loc="left")
            panel.minorticks_off()
        for row in range(rows):
            axes[row][0].set_ylabel("time [ms]")
        for panel in panels[: len(shown)]:
            panel.set_xlabel("achieved error (more accurate →)")
        for panel in panels[len(shown) :]:
            panel.axis("off")
        if len(panels) > len(shown):
            entries: dict[str, object] = {}
            for panel in panels[: len(shown)]:
                for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
                    entries.setdefault(label, handle)
            panels[len(shown)].legend(
                list(entries.values()),
                list(entries),
                loc="center left",
                fontsize=11,
                title="lower is faster",
                title_fontsize=11,
                alignment="left",
            )
        figure.savefig(path, dpi=130)
        plt.close(figure)
