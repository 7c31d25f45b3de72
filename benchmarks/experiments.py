"""The experiments of `benchmarks.regularization`: models, data, losses, and the coefficients of the regularizers.

Sizes are chosen for two cores; architectures and tolerances of ODEs are those of Pal et al. (2021, 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import pysciml as ps
from pysciml.neural import LatentODE, NeuralODE, NeuralSDE

#: Sixteen digits are not enough for less: the papers' tolerance.
TIGHT = 1.4e-8


@dataclass(frozen=True)
class Experiment:
    """One experiment; nothing in it depends on the seed, so that every seed runs the same compiled code.

    Attributes
    ----------
    title, metric : str
        What it is, and what is measured on the test set.
    better : {"higher", "lower"}
        Which values of the metric are good.
    methods : dict
        Name -> regularizers.
    model : callable
        ``model(regularizers, key)``: untrained.
    data : callable
        ``data(seed) -> (training arrays over samples, test arrays)``.
    loss : callable
        ``loss(model, batch, progress, key) -> (loss, evaluations)``.
    predict : callable
        ``predict(model, test, key) -> (what `score` takes, evaluations)``: what is timed.
    score : callable
        ``score(model, test, predicted, key) -> test metric``.
    epochs, batch : int
    optimizer : optax optimizer
    """

    title: str
    metric: str
    better: str
    methods: dict[str, Any]
    model: Callable[..., Any]
    data: Callable[..., Any]
    loss: Callable[..., Any]
    predict: Callable[..., Any]
    score: Callable[..., Any]
    epochs: int
    batch: int
    optimizer: Any


class Dynamics(eqx.Module):
    """Two layers, each of which sees the time (Kelly et al. 2020)."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __init__(self, size: int, width: int, key: Any) -> None:
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(size + 1, width, key=one)
        self.second = eqx.nn.Linear(width + 1, size, key=two)

    def __call__(self, t: Any, y: Any) -> Any:
        hidden = jnp.tanh(self.first(jnp.append(y, t)))
        return self.second(jnp.append(hidden, t))


class Still(eqx.Module):
    """A module of the state alone."""

    inner: Any

    def __call__(self, t: Any, y: Any) -> Any:
        return self.inner(y)


class Cubed(eqx.Module):
    """A network of the cubes."""

    net: eqx.nn.MLP

    def __call__(self, t: Any, y: Any) -> Any:
        return self.net(y**3)


# -- image classification -----------------------------------------------------------------------------


def load_images(path: str | None) -> tuple[np.ndarray, ...]:
    """Training and test images (flat, from 0 to 1) and their labels."""
    if path is not None:
        with np.load(path) as file:
            x, y, x_test, y_test = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
        return x.reshape(len(x), -1) / 255.0, y, x_test.reshape(len(x_test), -1) / 255.0, y_test
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order] / 16.0, y[order]
    return x[:1400], y[:1400], x[1400:], y[1400:]


def _logits(model: Any, x: Any, key: Any, progress: Any, train: bool) -> Any:
    start = jax.vmap(model["in"])(x) if "in" in model else x
    out = model["layer"](start, key=key, progress=progress, train=train)
    return jax.vmap(model["out"])(out.y), out


def _classify(model: Any, batch: Any, progress: Any, key: Any) -> Any:
    found, out = _logits(model, batch[0], key, progress, True)
    entropy = optax.softmax_cross_entropy_with_integer_labels(found, batch[1]).mean()
    return entropy + out.regularization, out.evaluations


def _predict_labels(model: Any, test: Any, key: Any) -> Any:
    found, out = _logits(model, test[0], key, 1.0, False)
    return jnp.argmax(found, axis=1), out.evaluations


def _accuracy(model: Any, test: Any, predicted: Any, key: Any) -> Any:
    return 100 * jnp.mean(predicted == test[1])


def images_ode(images: str | None) -> Experiment:
    """(a): an ODE layer between the pixels and a linear classifier."""
    x, y, x_test, y_test = load_images(images)
    size = x.shape[1]

    def model(regularize: Any, key: Any) -> Any:
        one, two = jax.random.split(key)
        layer = NeuralODE(Dynamics(size, 100, one), regularize=regularize, rtol=TIGHT, atol=TIGHT, max_steps=96)
        return {"layer": layer, "out": eqx.nn.Linear(size, 10, key=two)}

    return Experiment(
        title="(a) images, ODE layer",
        metric="test accuracy, %",
        better="higher",
        methods={
            "vanilla": None,
            "STEER": ps.RandomEndTime(0.5),
            "TayNODE": ps.TaylorDerivative(3, weight=0.01),
            "error": ps.ErrorEstimate(0.3, final=0.02),
            "stiffness": ps.StiffnessEstimate(0.1, aggregate="max"),
            "local unbiased": ps.LocalErrorEstimate(2.5, final=0.25, sampling="unbiased"),
            "local biased": ps.LocalErrorEstimate(2.5, final=0.25, sampling="biased"),
        },
        model=model,
        data=lambda seed: ((x, y), (x_test, y_test)),
        loss=_classify,
        predict=_predict_labels,
        score=_accuracy,
        epochs=6,
        batch=50 if images is None else 512,
        optimizer=optax.adam(5e-3),
    )


#: Paths for each test image, over which the classifier's outputs are averaged.
PATHS = 3


def _predict_over_paths(model: Any, test: Any, key: Any) -> Any:
    found, out = _logits(model, jnp.tile(test[0], (PATHS, 1)), key, 1.0, False)
    return jnp.argmax(found.reshape(PATHS, len(test[0]), -1).mean(axis=0), axis=1), out.evaluations


def images_sde(images: str | None) -> Experiment:
    """(b): an SDE layer of 32 states between two linear maps."""
    x, y, x_test, y_test = load_images(images)
    size = x.shape[1]

    def model(regularize: Any, key: Any) -> Any:
        keys = jax.random.split(key, 4)
        drift = Still(eqx.nn.MLP(32, 32, 64, 1, activation=jnp.tanh, key=keys[0]))
        diffusion = Still(eqx.nn.Linear(32, 32, key=keys[1]))
        layer = NeuralSDE(drift, diffusion, regularize=regularize, rtol=2e-3, atol=2e-3, max_steps=256)
        return {
            "in": eqx.nn.Linear(size, 32, key=keys[2]),
            "layer": layer,
            "out": eqx.nn.Linear(32, 10, key=keys[3]),
        }

    return Experiment(
        title="(b) images, SDE layer",
        metric="test accuracy, %",
        better="higher",
        methods={
            "vanilla": None,
            "error": ps.ErrorEstimate(1.0, final=0.1),
            "stiffness": ps.StiffnessEstimate(0.1, aggregate="mean"),
            "local unbiased": ps.LocalErrorEstimate(30.0, final=3.0, sampling="unbiased"),
            "local biased": ps.LocalErrorEstimate(30.0, final=3.0, sampling="biased"),
        },
        model=model,
        data=lambda seed: ((x, y), (x_test, y_test)),
        loss=_classify,
        predict=_predict_over_paths,
        score=_accuracy,
        epochs=5,
        batch=100 if images is None else 512,
        optimizer=optax.adam(1e-2),
    )


# -- a latent ODE ------------------------------------------------------------------------------------

TIMES = np.linspace(0.0, 1.0, 50)


def make_spirals(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of spirals that turn left or right, and masks: each is seen at two fifths of the times, at random."""
    x = np.empty((n, TIMES.size, 2))
    for k in range(n):
        angle = rng.uniform(1.0, 4.0) + 5.0 * TIMES
        radius = 0.2 + 0.12 * angle
        turn = 1.0 if rng.random() < 0.5 else -1.0
        x[k] = np.stack([radius * np.cos(angle), turn * radius * np.sin(angle)], axis=1)
    mask = (rng.random((n, TIMES.size, 1)) < 0.4) | (np.arange(TIMES.size)[None, :, None] == 0)
    return x, np.broadcast_to(mask, x.shape).astype(float)


def _spiral_data(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    x, mask = make_spirals(300, rng)
    noisy = x + 0.03 * rng.normal(size=x.shape)
    return (noisy[:200], mask[:200]), (noisy[200:], mask[200:], x[200:])


def _spiral_loss(model: Any, batch: Any, progress: Any, key: Any) -> Any:
    series, seen = batch
    out = model(series, seen, TIMES, key=key, progress=progress)
    miss = jnp.sum(seen * (out.x - series) ** 2, axis=(1, 2)) / (2 * 0.1**2)
    weight = jnp.minimum(1.0, 2.0 * progress)
    return jnp.mean(miss + weight * out.kl) / 50 + out.solved.regularization, out.solved.evaluations


def _predict_spirals(model: Any, test: Any, key: Any) -> Any:
    out = model(test[0], test[1], TIMES, key=key, train=False)
    return out.x, out.solved.evaluations


def _spiral_error(model: Any, test: Any, predicted: Any, key: Any) -> Any:
    return 100 * jnp.mean((predicted - test[2]) ** 2)


def spirals(images: str | None) -> Experiment:
    """(c): a latent ODE of irregularly sampled spirals."""

    def model(regularize: Any, key: Any) -> Any:
        one, two = jax.random.split(key)
        layer = NeuralODE(Dynamics(6, 40, one), regularize=regularize, rtol=TIGHT, atol=TIGHT, max_steps=128)
        return LatentODE(layer, n_observed=2, n_hidden=6, width=32, key=two)

    return Experiment(
        title="(c) latent ODE of spirals",
        metric="test error × 100",
        better="lower",
        methods={
            "vanilla": None,
            "STEER": ps.RandomEndTime(0.05),
            "TayNODE": ps.TaylorDerivative(3, weight=0.01),
            "error": ps.ErrorEstimate(1.0, final=0.01),
            "stiffness": ps.StiffnessEstimate(0.1, aggregate="max"),
            "local unbiased": ps.LocalErrorEstimate(10.0, final=0.1, sampling="unbiased"),
            "local biased": ps.LocalErrorEstimate(10.0, final=0.1, sampling="biased"),
        },
        model=model,
        data=_spiral_data,
        loss=_spiral_loss,
        predict=_predict_spirals,
        score=_spiral_error,
        epochs=200,
        batch=50,
        optimizer=optax.adamax(1e-2),
    )


# -- the cubic spiral SDE --------------------------------------------------------------------------

OUTPUTS = np.linspace(0.0, 1.0, 30)


def _exact_moments() -> tuple[Any, Any]:
    """Mean and variance of dx = A x³ dt + 0.2 x dW from (2, 0), over 2000 paths."""
    matrix = jnp.asarray([[-0.1, 2.0], [-2.0, -0.1]])
    exact = NeuralSDE(lambda t, y: matrix @ y**3, lambda t, y: 0.2 * y, rtol=3e-3, atol=3e-3, max_steps=2048)
    start = jnp.tile(jnp.asarray([2.0, 0.0]), (2000, 1))
    many = eqx.filter_jit(exact)(start, OUTPUTS, key=jax.random.key(123)).y
    return many.mean(axis=1), many.var(axis=1)


def _moment_loss(y: Any, mean: Any, variance: Any) -> Any:
    return jnp.mean((y.mean(axis=1) - mean) ** 2) + jnp.mean((y.var(axis=1) - variance) ** 2)


def _spiral_sde_loss(model: Any, batch: Any, progress: Any, key: Any) -> Any:
    start, mean, variance = batch[0], batch[1][0], batch[2][0]
    out = model(start, OUTPUTS, key=key, progress=progress)
    return _moment_loss(out.y, mean, variance) + out.regularization, out.evaluations


def _predict_end(model: Any, test: Any, key: Any) -> Any:
    out = model(test[0], key=key, train=False)
    return out.y, out.evaluations


def _moment_score(model: Any, test: Any, predicted: Any, key: Any) -> Any:
    return 100 * _moment_loss(model(test[0], OUTPUTS, key=key, train=False).y, test[1], test[2])


def spiral_sde(images: str | None) -> Experiment:
    """(d): the cubic spiral SDE, through the mean and the variance of a hundred paths at 30 times."""
    mean, variance = (np.asarray(part) for part in _exact_moments())
    start = np.tile([2.0, 0.0], (100, 1))

    def data(seed: int) -> Any:
        many = np.repeat(mean[None], 100, axis=0), np.repeat(variance[None], 100, axis=0)
        return (start, *many), (start, mean, variance)

    def model(regularize: Any, key: Any) -> Any:
        one, two = jax.random.split(key)
        drift = Cubed(eqx.nn.MLP(2, 2, 50, 1, activation=jnp.tanh, key=one))
        diffusion = Still(eqx.nn.Linear(2, 2, key=two))
        return NeuralSDE(drift, diffusion, regularize=regularize, rtol=1e-2, atol=1e-2, max_steps=512)

    return Experiment(
        title="(d) cubic spiral SDE",
        metric="moment loss × 100",
        better="lower",
        methods={
            "vanilla": None,
            "error": ps.ErrorEstimate(1.0, final=0.1),
            "stiffness": ps.StiffnessEstimate(0.1, aggregate="mean"),
            "local unbiased": ps.LocalErrorEstimate(1.0, final=0.1, sampling="unbiased"),
            "local biased": ps.LocalErrorEstimate(1.0, final=0.1, sampling="biased"),
        },
        model=model,
        data=data,
        loss=_spiral_sde_loss,
        predict=_predict_end,
        score=_moment_score,
        epochs=250,
        batch=100,
        optimizer=optax.adabelief(1e-2),
    )


EXPERIMENTS: dict[str, Callable[[str | None], Experiment]] = {
    "digits-ode": images_ode,
    "digits-sde": images_sde,
    "spirals": spirals,
    "spiral-sde": spiral_sde,
}
