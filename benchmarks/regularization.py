"""The papers' experiments in small: what regularization does to the cost of learned differential equations.

    python -m benchmarks.regularization digits-ode --seeds 3
    python -m benchmarks.regularization all --seeds 3       # each of the four, one after the other
    python -m benchmarks.regularization report              # the tables and the picture again, from the numbers kept

Names: ``digits-ode`` (image classification with an ODE layer), ``digits-sde`` (the same with an SDE layer), ``spirals``
(a latent ODE of irregularly sampled spirals), ``spiral-sde`` (the cubic spiral, fitted through its moments). Images
are scikit-learn's digits, or MNIST: ``--images mnist`` downloads it, ``--images PATH`` takes the folder with its four
files, or an ``.npz`` with ``x_train y_train x_test y_test``. ``--data DIR`` takes the records of the PhysioNet
Challenge of 2012 (the folder into which its ``set-a`` was unpacked) instead of the spirals. ``--engine julia`` solves
and differentiates the layers with Julia, where that has been set up; the rest of each model stays in JAX.

Methods run interleaved, seed by seed, in one process; compare the ratios. Training time is that of all epochs without
compilation, prediction time the least of several solves of the test set; both are processor times, over all threads,
which mean the same where the machine does other things, too. Numbers, tables and a picture go to
``benchmarks/results/regularization.{json,md,png}``, a seed at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.experiments import EXPERIMENTS, Experiment
from benchmarks.regularization_report import write
from pysciml.engines.base import registry

RESULTS = Path(__file__).with_name("results")


@dataclass
class Row:
    """Of one method: a number for each seed; of evaluations while training, a curve over epochs."""

    metric: list[float] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)
    prediction: list[float] = field(default_factory=list)
    training: list[float] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)


class Method:
    """One method of an experiment, compiled once for all seeds."""

    def __init__(self, experiment: Experiment, regularize: Any) -> None:
        self.experiment, self.regularize = experiment, regularize

        def step(model: Any, state: Any, batch: Any, progress: Any, key: Any) -> Any:
            value = eqx.filter_value_and_grad(experiment.loss, has_aux=True)
            (_, count), slope = value(model, batch, progress, key)
            change, state = experiment.optimizer.update(slope, state)
            return eqx.apply_updates(model, change), state, count

        self.step = eqx.filter_jit(step)
        self.predict = eqx.filter_jit(experiment.predict)
        self.score = eqx.filter_jit(experiment.score)

    def train(self, seed: int, epochs: int, row: Row) -> Any:
        """A trained model; what its training cost goes into the row."""
        experiment = self.experiment
        rng, key = np.random.default_rng(seed), jax.random.key(1000 + seed)
        arrays, _ = experiment.data(seed)
        model = experiment.model(self.regularize, jax.random.key(seed))
        state = experiment.optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        count, size = len(arrays[0]), experiment.batch
        first = tuple(jnp.asarray(part[:size]) for part in arrays)
        jax.block_until_ready(self.step(model, state, first, jnp.asarray(0.0), key)[2])  # compile
        curve, seconds, evaluations = [], 0.0, jnp.zeros(())
        for epoch in range(epochs):
            order = rng.permutation(count)[: count // size * size].reshape(-1, size)
            batches = [tuple(jnp.asarray(part[rows]) for part in arrays) for rows in order]
            progress = jnp.asarray(epoch / max(epochs - 1, 1))
            begin = time.process_time()
            for number, batch in enumerate(batches):
                k = jax.random.fold_in(jax.random.fold_in(key, epoch), number)
                model, state, evaluations = self.step(model, state, batch, progress, k)
            jax.block_until_ready(evaluations)
            seconds += time.process_time() - begin
            curve.append(float(evaluations))
        row.training.append(seconds)
        row.curve.append(curve)
        return model

    def test(self, model: Any, seed: int, row: Row) -> None:
        """What it predicts on the test set, how well and how fast."""
        test = tuple(jnp.asarray(part) for part in self.experiment.data(seed)[1])
        key = jax.random.key(seed)
        predicted, count = self.predict(model, test, key)
        times: list[float] = []
        while len(times) < 3 or (len(times) < 25 and sum(times) < 2):
            begin = time.process_time()
            jax.block_until_ready(self.predict(model, test, key))
            times.append(time.process_time() - begin)
        row.metric.append(float(self.score(model, test, predicted, key)))
        row.evaluations.append(float(count))
        row.prediction.append(min(times))


def run(
    name: str,
    seeds: Sequence[int],
    epochs: int | None,
    only: Sequence[str],
    images: str | None,
    series: str | None,
    engine: str = "jax",
) -> Iterator[dict[str, Any]]:
    """One experiment: what is kept of it, after each seed."""
    begin = time.perf_counter()
    try:
        experiment = EXPERIMENTS[name](images, series)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if engine == "julia":
        experiment = moved_to_julia(experiment)
    chosen = experiment.methods
    if only:
        unknown = [method for method in only if method not in chosen]
        if unknown:
            raise SystemExit(f"{name} has no method {unknown[0]!r}; it has {', '.join(chosen)}")
        chosen = {method: chosen[method] for method in dict.fromkeys(["vanilla", *only])}
    methods = {method: Method(experiment, regularize) for method, regularize in chosen.items()}
    rows = {method: Row() for method in methods}
    epochs = epochs or experiment.epochs
    for seed in seeds:
        for label, method in methods.items():
            row = rows[label]
            method.test(method.train(seed, epochs, row), seed, row)
            print(
                f"{name}, seed {seed}, {label}: {experiment.metric} {row.metric[-1]:.4g}, "
                f"{row.evaluations[-1]:.0f} evaluations, prediction {1e3 * row.prediction[-1]:.3g} ms, "
                f"training {row.training[-1]:.3g} s",
                flush=True,
            )
        yield {
            "title": experiment.title,
            "metric": experiment.metric,
            "better": experiment.better,
            "seeds": list(seeds)[: len(rows["vanilla"].metric)],
            "epochs": epochs,
            "data": experiment.source,
            "note": experiment.note,
            "machine": f"{platform.machine()}, Python {platform.python_version()}, jax {jax.__version__}",
            "regularizers": {label: repr(regularize) for label, regularize in chosen.items()},
            "rows": {label: asdict(row) for label, row in rows.items()},
            "seconds": time.perf_counter() - begin,
        }


def moved_to_julia(experiment: Experiment) -> Experiment:
    """The same experiment, whose layers Julia solves and differentiates."""
    missing = registry()["julia"].unavailable()
    if missing is not None:
        raise SystemExit(missing)
    from benchmarks.on_julia import on_julia

    return replace(
        experiment,
        title=f"{experiment.title}, on Julia",
        model=lambda regularize, key: on_julia(experiment.model(regularize, key)),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regularization", description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=[*EXPERIMENTS, "all", "report"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="other than the experiment's own")
    parser.add_argument("--methods", nargs="+", default=(), help="some of the methods; vanilla is always one")
    parser.add_argument("--images", metavar="PATH", help="MNIST: its folder, an .npz, or the word mnist (downloads)")
    parser.add_argument("--data", metavar="DIR", help="the records of the PhysioNet Challenge of 2012")
    parser.add_argument("--engine", choices=["jax", "julia"], default="jax", help="what solves the layers")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    os.environ.setdefault("PYTHON_JULIACALL_THREADS", "1")  # processor times are compared, not those of waiting
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "regularization.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    names = {"all": list(EXPERIMENTS), "report": []}.get(given.name, [given.name])
    for name in names:
        label = name if given.engine == "jax" else f"{name}, julia"
        options = given.epochs, given.methods, given.images, given.data, given.engine
        for result in run(name, range(given.seeds), *options):
            found[label] = result
            kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    labels = [label for name in EXPERIMENTS for label in (name, f"{name}, julia")]
    write({label: found[label] for label in labels if label in found}, given.out)
    print((given.out / "regularization.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
