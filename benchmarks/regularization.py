"""The papers' experiments in small: what regularization does to the cost of learned differential equations.

    python -m benchmarks.regularization digits-ode --seeds 3

Names: ``digits-ode`` (image classification with an ODE layer), ``digits-sde`` (the same with an SDE layer), ``spirals``
(a latent ODE of irregularly sampled spirals), ``spiral-sde`` (the cubic spiral, fitted through its moments). Images
are scikit-learn's digits; ``--images FILE.npz`` takes MNIST's ``x_train y_train x_test y_test`` instead.

Methods run interleaved, seed by seed, in one process; compare the ratios. Training time is that of all epochs without
compilation, prediction time the best of several solves of the test set.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import pysciml as ps
from pysciml.neural import LatentODE, NeuralODE, NeuralSDE

RESULTS = Path(__file__).with_name("results")

#: What the abstracts of the papers report (Pal et al. 2021, global; 2023, local), over all their experiments.
PAPERS = {
    "error, stiffness": "prediction time halved, training time reduced (2021)",
    "local": "evaluations 0.556 to 0.733, predictions 1.3 to 2 times faster (2023)",
}


@dataclass
class Task:
    """One experiment with one seed.

    Attributes
    ----------
    model : pytree
        Untrained.
    loss : callable
        ``loss(model, batch, progress, key) -> (loss, evaluations)``.
    batches : callable
        ``batches(rng) -> list of batches`` of one epoch.
    metric : callable
        ``metric(model, key) -> (test metric, evaluations)``.
    """

    model: Any
    loss: Callable[..., Any]
    batches: Callable[..., Any]
    metric: Callable[..., Any]
    rate: float
    name: str


@dataclass
class Row:
    metric: list[float] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)
    prediction: list[float] = field(default_factory=list)
    training: list[float] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)


class Dynamics(eqx.Module):
    """Two layers, each of which sees the time, as in the papers."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __init__(self, size: int, width: int, key: Any) -> None:
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(size + 1, width, key=one)
        self.second = eqx.nn.Linear(width + 1, size, key=two)

    def __call__(self, t: Any, y: Any) -> Any:
        hidden = jnp.tanh(self.first(jnp.append(y, t)))
        return self.second(jnp.append(hidden, t))


def load_images(path: str | None) -> tuple[np.ndarray, ...]:
    if path is not None:
        with np.load(path) as file:
            x, y, x_test, y_test = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
        return x.reshape(len(x), -1) / 255.0, y, x_test.reshape(len(x_test), -1) / 255.0, y_test
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order] / 16.0, y[order]
    return x[:1400], y[:1400], x[1400:], y[1400:]


def methods_for(name: str) -> dict[str, Any]:
    """The papers' coefficients where the scales agree: errors are relative to the tolerance in both."""
    local = {"unbiased": (0.5, 0.1), "biased": (0.5, 0.1)}
    chosen: dict[str, Any] = {
        "vanilla": None,
        "STEER": ps.RandomEndTime(0.5),
        "TayNODE": ps.TaylorDerivative(3, weight=0.01),
        "error": ps.ErrorEstimate(0.3, final=0.03),
        "stiffness": ps.StiffnessEstimate(0.03, aggregate="mean"),
        "local unbiased": ps.LocalErrorEstimate(*local["unbiased"], sampling="unbiased"),
        "local biased": ps.LocalErrorEstimate(*local["biased"], sampling="biased"),
    }
    if name.endswith("sde"):
        del chosen["TayNODE"], chosen["STEER"]
        chosen["error"] = ps.ErrorEstimate(1.0, final=0.1)
        chosen["stiffness"] = ps.StiffnessEstimate(0.1, aggregate="mean")
        for sampling in local:
            chosen[f"local {sampling}"] = ps.LocalErrorEstimate(1.0, final=0.1, sampling=sampling)
    if name == "spirals":
        chosen["STEER"] = ps.RandomEndTime(0.05)
        chosen["error"] = ps.ErrorEstimate(3.0, final=0.3)
    return chosen


def classification(name: str, regularizer: Any, seed: int, images: str | None) -> Task:
    x, y, x_test, y_test = (jnp.asarray(part) for part in load_images(images))
    size, keys = x.shape[1], jax.random.split(jax.random.key(seed), 4)
    if name == "digits-ode":
        layer: Any = NeuralODE(
            Dynamics(size, 100, keys[0]), regularize=regularizer, rtol=1.4e-8, atol=1.4e-8, max_steps=64
        )
        model: Any = {"layer": layer, "out": eqx.nn.Linear(size, 10, key=keys[1])}
    else:
        drift = Dynamics(32, 64, keys[0])
        diffusion = eqx.nn.Linear(32, 32, key=keys[2])
        layer = NeuralSDE(drift, Noise(diffusion), regularize=regularizer, rtol=1e-2, atol=1e-2, max_steps=128)
        model = {"in": eqx.nn.Linear(size, 32, key=keys[3]), "layer": layer, "out": eqx.nn.Linear(32, 10, key=keys[1])}

    def logits(model: Any, x: Any, key: Any, progress: Any, train: bool) -> Any:
        start = jax.vmap(model["in"])(x) if "in" in model else x
        out = model["layer"](start, key=key, progress=progress, train=train)
        return jax.vmap(model["out"])(out.y), out

    def loss(model: Any, batch: Any, progress: Any, key: Any) -> Any:
        found, out = logits(model, batch[0], key, progress, True)
        entropy = optax.softmax_cross_entropy_with_integer_labels(found, batch[1]).mean()
        return entropy + out.regularization, out.evaluations

    def metric(model: Any, key: Any) -> Any:
        found, out = logits(model, x_test, key, 1.0, False)
        return 100 * jnp.mean(jnp.argmax(found, axis=1) == y_test), out.evaluations

    def batches(rng: np.random.Generator) -> list[Any]:
        count = 200 if images is None else 512
        order = rng.permutation(len(x))[: len(x) // count * count].reshape(-1, count)
        return [(x[rows], y[rows]) for rows in order]

    return Task(model, loss, batches, metric, 3e-3, "test accuracy, %")


class Noise(eqx.Module):
    """A diffusion that ignores the time."""

    layer: eqx.nn.Linear

    def __call__(self, t: Any, y: Any) -> Any:
        return self.layer(y)


def make_spirals(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy pieces of two spirals, each seen at random times: series, masks, times."""
    times = np.linspace(0.0, 1.0, 50)
    x = np.empty((n, 50, 2))
    for k in range(n):
        angle = rng.uniform(1.0, 4.0) + 5.0 * times
        radius = 0.2 + 0.12 * angle
        turn = 1.0 if rng.random() < 0.5 else -1.0
        x[k] = np.stack([radius * np.cos(angle), turn * radius * np.sin(angle)], axis=1)
    mask = (rng.random((n, 50, 1)) < 0.4) | (np.arange(50)[None, :, None] == 0)
    return x, np.broadcast_to(mask, x.shape).astype(float), times


def spirals(regularizer: Any, seed: int) -> Task:
    rng = np.random.default_rng(seed)
    x, mask, times = make_spirals(300, rng)
    noisy = x + 0.03 * rng.normal(size=x.shape)
    keys = jax.random.split(jax.random.key(seed), 2)
    layer = NeuralODE(Dynamics(6, 40, keys[0]), regularize=regularizer, rtol=1e-6, atol=1e-6, max_steps=128)
    model = LatentODE(layer, n_observed=2, n_hidden=6, width=32, key=keys[1])
    train, test = slice(0, 200), slice(200, 300)

    def loss(model: Any, batch: Any, progress: Any, key: Any) -> Any:
        series, seen = batch
        out = model(series, seen, times, key=key, progress=progress)
        miss = jnp.sum(seen * (out.x - series) ** 2, axis=(1, 2)) / (2 * 0.1**2)
        weight = jnp.minimum(1.0, 2.0 * progress)
        return jnp.mean(miss + weight * out.kl) / 50 + out.solved.regularization, out.solved.evaluations

    def metric(model: Any, key: Any) -> Any:
        out = model(noisy[test], mask[test], times, key=key, train=False)
        return 100 * jnp.mean((out.x - x[test]) ** 2), out.solved.evaluations

    def batches(rng: np.random.Generator) -> list[Any]:
        order = rng.permutation(200).reshape(-1, 50)
        return [(jnp.asarray(noisy[train][rows]), jnp.asarray(mask[train][rows])) for rows in order]

    return Task(model, loss, batches, metric, 1e-2, "test error x 100")


def spiral_sde(regularizer: Any, seed: int) -> Task:
    """dx = A x³ dt + 0.2 x dW, through the mean and the variance of its paths at 30 times."""
    times = jnp.linspace(0.0, 1.0, 30)
    matrix = jnp.asarray([[-0.1, 2.0], [-2.0, -0.1]])
    exact = NeuralSDE(lambda t, y: matrix @ y**3, lambda t, y: 0.2 * y, rtol=1e-3, atol=1e-3, max_steps=1024)
    many = eqx.filter_jit(exact)(jnp.tile(jnp.asarray([2.0, 0.0]), (4000, 1)), times, key=jax.random.key(123)).y
    mean, variance = many.mean(axis=1), many.var(axis=1)
    keys = jax.random.split(jax.random.key(seed), 2)
    drift = Cubed(eqx.nn.MLP(2, 2, 50, 1, activation=jnp.tanh, key=keys[0]))
    model = NeuralSDE(drift, Noise(eqx.nn.Linear(2, 2, key=keys[1])), regularize=regularizer, rtol=1e-2, atol=1e-2)
    start = jnp.tile(jnp.asarray([2.0, 0.0]), (100, 1))

    def compare(out: Any) -> Any:
        return jnp.mean((out.y.mean(axis=1) - mean) ** 2) + jnp.mean((out.y.var(axis=1) - variance) ** 2)

    def loss(model: Any, batch: Any, progress: Any, key: Any) -> Any:
        out = model(start, times, key=key, progress=progress)
        return compare(out) + out.regularization, out.evaluations

    def metric(model: Any, key: Any) -> Any:
        out = model(start, key=key, train=False)
        full = model(start, times, key=key, train=False)
        return compare(full), out.evaluations

    return Task(model, loss, lambda rng: [jnp.zeros(1)], metric, 1e-2, "moment loss")


class Cubed(eqx.Module):
    """A network of the cubes."""

    net: eqx.nn.MLP

    def __call__(self, t: Any, y: Any) -> Any:
        return self.net(y**3)


EPOCHS = {"digits-ode": 30, "digits-sde": 30, "spirals": 60, "spiral-sde": 250}


def make_task(name: str, regularizer: Any, seed: int, images: str | None) -> Task:
    if name.startswith("digits"):
        return classification(name, regularizer, seed, images)
    return spirals(regularizer, seed) if name == "spirals" else spiral_sde(regularizer, seed)


def train(task: Task, epochs: int, seed: int, row: Row) -> Any:
    optimizer = optax.adam(task.rate)
    model = task.model
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model: Any, state: Any, batch: Any, progress: Any, key: Any) -> Any:
        (_, count), slope = eqx.filter_value_and_grad(task.loss, has_aux=True)(model, batch, progress, key)
        change, state = optimizer.update(slope, state)
        return eqx.apply_updates(model, change), state, count

    rng, key = np.random.default_rng(seed), jax.random.key(1000 + seed)
    jax.block_until_ready(step(model, state, task.batches(rng)[0], jnp.asarray(0.0), key)[2])  # compile
    curve, seconds = [], 0.0
    for epoch in range(epochs):
        batches = task.batches(rng)
        begin = time.perf_counter()
        for number, batch in enumerate(batches):
            k = jax.random.fold_in(jax.random.fold_in(key, epoch), number)
            model, state, count = step(model, state, batch, jnp.asarray(epoch / max(epochs - 1, 1)), k)
        jax.block_until_ready(count)
        seconds += time.perf_counter() - begin
        curve.append(float(count))
    row.training.append(seconds)
    row.curve.append(curve)
    return model


def predict(task: Task, model: Any, seed: int, row: Row) -> None:
    run = eqx.filter_jit(task.metric)
    key = jax.random.key(seed)
    value, count = run(model, key)
    best = np.inf
    for _ in range(7):
        begin = time.perf_counter()
        jax.block_until_ready(run(model, key))
        best = min(best, time.perf_counter() - begin)
    row.metric.append(float(value))
    row.evaluations.append(float(count))
    row.prediction.append(best)


def table(rows: dict[str, Row], metric: str) -> str:
    head = ["method", metric, "evaluations", "prediction, ms", "training, s", "ratios to vanilla"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    base = rows["vanilla"]
    for name, row in rows.items():
        columns = (row.metric, row.evaluations, 1e3 * np.array(row.prediction), row.training)
        shown = [f"{np.mean(c):.3g} ± {np.std(c):.2g}" for c in columns]
        pairs = [
            (row.evaluations, base.evaluations),
            (row.prediction, base.prediction),
            (row.training, base.training),
        ]
        ratios = ", ".join(f"{np.mean(a) / np.mean(b):.2f}" for a, b in pairs)
        lines.append(f"| {name} | " + " | ".join(shown) + f" | {ratios} |")
    return "\n".join(lines) + "\n"


def draw(rows: dict[str, Row], metric: str, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    colours = dict(
        zip(rows, ("#444444", "#56B4E9", "#CC79A7", "#D55E00", "#009E73", "#0072B2", "#8C6D1F"), strict=False)
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, row in rows.items():
        left.plot(np.mean(row.curve, axis=0), color=colours[name], label=name, lw=1.8)
        right.scatter(row.evaluations, row.metric, color=colours[name], label=name, s=36)
    left.set(xlabel="epoch", ylabel="evaluations of a training solve", ylim=(0, None))
    right.set(xlabel="evaluations of a prediction", ylabel=metric, xlim=(0, None))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#DDDDDD", lw=0.6)
    right.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regularization", description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=sorted(EPOCHS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help=f"by default {EPOCHS}")
    parser.add_argument("--methods", nargs="+", help="some of the methods; vanilla is always one")
    parser.add_argument("--images", help="an .npz file with MNIST's arrays")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    methods = methods_for(given.name)
    if given.methods:
        methods = {name: methods[name] for name in dict.fromkeys(["vanilla", *given.methods])}
    rows = {name: Row() for name in methods}
    epochs = given.epochs or EPOCHS[given.name]
    metric = ""
    for seed in range(given.seeds):
        for name, regularizer in methods.items():
            task = make_task(given.name, regularizer, seed, given.images)
            metric = task.name
            predict(task, train(task, epochs, seed, rows[name]), seed, rows[name])
            r = rows[name]
            print(
                f"seed {seed} {name}: {metric} {r.metric[-1]:.4g}, {r.evaluations[-1]:.0f} evaluations, "
                f"prediction {1e3 * r.prediction[-1]:.3g} ms, training {r.training[-1]:.3g} s",
                flush=True,
            )
    written = table(rows, metric)
    print(written)
    note = "; ".join(f"{name}: {text}" for name, text in PAPERS.items())
    given.out.mkdir(parents=True, exist_ok=True)
    stem = given.out / f"regularization_{given.name}"
    draw(rows, metric, stem.with_suffix(".png"))
    about = (
        f"{given.seeds} seeds, {epochs} epochs, {platform.machine()}, Python {platform.python_version()}, "
        f"jax {jax.__version__}. Ratios: evaluations, prediction time, training time.\n\nThe papers report: {note}.\n"
    )
    stem.with_suffix(".md").write_text(f"# Regularization: {given.name}\n\n{about}\n{written}", encoding="utf-8")
    stem.with_suffix(".json").write_text(json.dumps({n: vars(r) for n, r in rows.items()}), encoding="utf-8")


if __name__ == "__main__":
    main()
