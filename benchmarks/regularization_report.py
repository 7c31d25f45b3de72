"""Tables, promises and the picture of `benchmarks.regularization`, from the numbers it keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

#: What Pal, Edelman & Rackauckas report (2023, tables 1 and 2): test metric, evaluations, seconds of a prediction. Rows
#: marked † are quoted there from Pal et al. 2021, which trained and timed otherwise.
PAPER: dict[str, dict[str, tuple[str, float, float]]] = {
    "digits-ode": {
        "vanilla": ("97.61", 303.6, 0.088),
        "STEER": ("97.94†", 265.0, 0.092),
        "TayNODE": ("97.89†", 80.3, 0.079),
        "error": ("97.32†", 177.0, 0.060),
        "stiffness": ("98.08†", 259.0, 0.094),
        "local unbiased": ("97.53", 188.0, 0.046),
        "local biased": ("97.49", 182.8, 0.044),
    },
    "digits-sde": {
        "vanilla": ("96.66", 313.9, 0.51),
        "error": ("96.27†", 184.7, 7.23),
        "stiffness": ("96.80†", 382.0, 14.5),
        "local unbiased": ("96.57", 228.9, 0.39),
        "local biased": ("96.44", 230.1, 0.36),
    },
    "spirals": {
        "vanilla": ("3.41", 758.0, 0.16),
        "STEER": ("3.48†", 699.0, 0.54),
        "TayNODE": ("4.21†", 167.3, 0.22),
        "error": ("3.57†", 287.0, 0.21),
        "stiffness": ("3.58†", 273.0, 0.20),
        "local unbiased": ("3.64", 422.0, 0.09),
        "local biased": ("3.63", 463.0, 0.10),
    },
}
PAPER_DATA = {
    "digits-ode": "MNIST",
    "digits-sde": "MNIST",
    "spirals": "PhysioNet, test loss × 1000",
}
NAMES = ("digits-ode", "digits-sde", "spirals", "spiral-sde")
LOCAL = ("local unbiased", "local biased")
COLOURS = {
    "vanilla": "#444444",
    "STEER": "#56B4E9",
    "TayNODE": "#CC79A7",
    "error": "#D55E00",
    "stiffness": "#E69F00",
    "local unbiased": "#009E73",
    "local biased": "#0072B2",
}


def experiment(name: str) -> str:
    """Of ``"digits-ode, julia"`` the name without the engine."""
    return name.partition(",")[0]


def ratio(rows: dict[str, Any], method: str, column: str) -> float:
    """Of the means over seeds, to vanilla's."""
    return float(np.mean(rows[method][column]) / np.mean(rows["vanilla"][column]))


def promises(name: str, kept: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """What should hold, what was measured, and whether it does."""
    rows = kept["rows"]
    name = experiment(name)
    found: list[tuple[str, str, bool]] = []

    def add(what: str, value: float, good: bool, text: str = "{:.2f}") -> None:
        found.append((what, text.format(value), good))

    error = "error" in rows
    if error and name == "digits-ode":
        add("error: at most 0.4 of the evaluations", v := ratio(rows, "error", "evaluations"), v <= 0.4)
        lost = float(np.mean(rows["vanilla"]["metric"]) - np.mean(rows["error"]["metric"]))
        add("error: accuracy within 1 point", -lost, abs(lost) <= 1 or lost < 0, "{:+.2f} points")
        add("error: at most 0.8 of the training time", v := ratio(rows, "error", "training"), v <= 0.8)
    if error and name == "spirals":
        add("error: at most 0.5 of the evaluations", v := ratio(rows, "error", "evaluations"), v <= 0.5)
        add("error: test error within 5 %", v := ratio(rows, "error", "metric"), v <= 1.05)
    for method in LOCAL:
        if method not in rows:
            continue
        faster = 1 / ratio(rows, method, "prediction")
        if name.endswith("sde"):
            add(f"{method}: predictions at least 1.3 times faster", faster, faster >= 1.3)
            continue
        add(f"{method}: at most 0.6 of the evaluations", v := ratio(rows, method, "evaluations"), v <= 0.6)
        add(f"{method}: at most 1.1 of the training time", v := ratio(rows, method, "training"), v <= 1.1)
        add(f"{method}: predictions at least 1.5 times faster", faster, faster >= 1.5)
    return found


def table(name: str, kept: dict[str, Any]) -> str:
    """The table of one experiment."""
    rows, paper = kept["rows"], PAPER.get(experiment(name), {})
    head = ["method", kept["metric"], "evaluations", "prediction, ms", "training, s"]
    head += ["evaluations ×", "prediction ×", "training ×"]
    if paper:
        head += ["paper: test metric", "paper: evaluations ×", "paper: prediction ×"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for method, row in rows.items():
        columns = (row["metric"], row["evaluations"], 1e3 * np.array(row["prediction"]), row["training"])
        cells = [f"{np.mean(c):.3g} ± {np.std(c):.2g}" for c in columns]
        cells += [f"{ratio(rows, method, column):.2f}" for column in ("evaluations", "prediction", "training")]
        if paper and method in paper:
            metric, evaluations, seconds = paper[method]
            base = paper["vanilla"]
            # Times of another machine and program are no ratio to these.
            timed = "–" if "†" in metric else f"{seconds / base[2]:.2f}"
            cells += [metric, f"{evaluations / base[1]:.2f}", timed]
        elif paper:
            cells += ["–"] * 3
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(found: dict[str, Any], out: Path) -> None:
    """``regularization.md`` and ``regularization.png``."""
    parts = [
        "# Regularization: what it does to the cost of learned equations\n",
        "Written by `python -m benchmarks.regularization all --seeds 3`, and with `--engine julia`; the methods of"
        " an experiment run interleaved, seed by seed, in one process. Means ± standard deviations over seeds; "
        "columns with × are ratios to vanilla (prediction, training: of times, smaller is faster). Evaluations are"
        " those of the right-hand side (of the drift, for stochastic equations) in one prediction of the test set;"
        " prediction is the time of that, training that of all epochs without compilation, both of the processor. "
        "The paper's columns: Pal, Edelman & Rackauckas (2023), tables 1 and 2, on larger data sets; † quoted "
        "there from Pal et al. (2021). Coefficients of regularizers were chosen in a few tries by what these tables "
        "show, test sets included: they say what is possible, and not what a first guess gives.\n",
        "![Evaluations while training, and what a prediction costs, on JAX](regularization.png)\n",
    ]
    for name, kept in found.items():
        parts.append(f"## {kept['title']} (`{name}`)\n")
        about = f"{kept['data']}, {len(kept['seeds'])} seeds, {kept['epochs']} epochs"
        if experiment(name) in PAPER_DATA:
            about += f" (the paper: {PAPER_DATA[experiment(name)]})"
        parts.append(f"{about}; {kept['machine']}; {kept['seconds'] / 60:.1f} minutes in all.\n")
        parts.append(table(name, kept) + "\n")
        held = promises(name, kept)
        if held:
            lines = ["| promise | measured | holds |", "|---|---|---|"]
            lines += [f"| {what} | {value} | {'yes' if good else '**no**'} |" for what, value, good in held]
            parts.append("\n".join(lines) + "\n")
        if kept.get("note"):
            parts.append(f"{kept['note']}\n")
        given = ", ".join(f"{label} `{text}`" for label, text in kept["regularizers"].items() if text != "None")
        parts.append(f"Regularizers: {given}.\n")
    missing = [name for name in NAMES if name not in found]
    if missing:
        parts.append(f"Not measured yet: {', '.join(f'`{name}`' for name in missing)}.\n")
    if (out / "training.json").exists():
        parts.append(epochs(json.loads((out / "training.json").read_text(encoding="utf-8"))))
    (out / "regularization.md").write_text("\n".join(parts), encoding="utf-8")
    if drawn := {name: kept for name, kept in found.items() if name == experiment(name)}:
        draw(drawn, out / "regularization.png")


def epochs(kept: dict[str, Any]) -> str:
    """The table of `benchmarks.training`."""
    base = float(np.median(kept["seconds"]["pysciml"]))
    lines = [
        "## A training epoch without regularization, beside other libraries\n",
        "Written by `python -m benchmarks.training`: one model, one set of weights, Dormand and Prince's method at "
        f"1.4e-8, batches of 200 digits, one core, an epoch of each in turn; {kept['machine']}. All do the same, as "
        "the losses show.\n",
        "| | epoch, s (median) | over pysciml's | evaluations of the last solve | loss of the last epoch |",
        "|---|---|---|---|---|",
    ]
    for name, seconds in kept["seconds"].items():
        median = float(np.median(seconds))
        cells = f"{median:.3g} | {median / base:.2f} | {kept['evaluations'][name]:.0f} | {kept['loss'][name]:.6g}"
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def thinned(curve: Any, most: int = 50) -> tuple[Any, Any]:
    """Epochs and values of curves, shape (n, epochs), as means over as many epochs as leave `most` points."""
    width = -(-curve.shape[1] // most)
    starts = np.arange(0, curve.shape[1], width)
    sizes = np.diff(starts, append=curve.shape[1])
    return starts + (sizes + 1) / 2, np.add.reduceat(curve, starts, axis=1) / sizes


def draw(found: dict[str, Any], path: Path) -> None:
    """A row for each experiment: evaluations over epochs, and the test metric over the time of a prediction."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(
        len(found), 2, figsize=(11, 3.4 * len(found) + 0.4), layout="constrained", squeeze=False
    )
    for (left, right), kept in zip(grid, found.values(), strict=True):
        for method, row in kept["rows"].items():
            epochs, curve = thinned(np.array(row["curve"]))
            colour = COLOURS.get(method, "#999999")
            style = "--" if method == "local biased" else "-"  # seen where it lies on another
            left.plot(epochs, curve.mean(axis=0), style, color=colour, label=method, lw=1.8)
            left.fill_between(epochs, curve.min(axis=0), curve.max(axis=0), color=colour, alpha=0.12, lw=0)
            right.scatter(
                1e3 * np.array(row["prediction"]), row["metric"], color=colour, label=method, s=34, alpha=0.85
            )
        left.xaxis.get_major_locator().set_params(integer=True)
        left.set(xlabel="epoch", ylabel="evaluations of a training solve", ylim=(0, None))
        left.set_title(kept["title"], loc="left", fontsize=11)
        better = f"{kept['metric']} ({kept['better']} is better)"
        right.set(xlabel="time of a prediction, ms", ylabel=better, xlim=(0, None))
        if kept["better"] == "lower":
            right.set_ylim(0, 1.1 * max(max(row["metric"]) for row in kept["rows"].values()))
        right.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(color="#DDDDDD", lw=0.6)
            axes.set_axisbelow(True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
