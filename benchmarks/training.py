"""A training epoch of a vanilla neural ODE: pysciml, bare diffrax and torchdiffeq, which do the same.

    python -m benchmarks.training            # to benchmarks/results/training.json
    python -m benchmarks.training --quick    # a look that writes nothing

One model, with one set of weights: scikit-learn's digits, an ODE layer of two time-dependent linear maps (64 to 100 and
back), a linear classifier, batches of 200, Adam, Dormand and Prince's method of order 5, double precision, the papers'
tolerance of 1.4e-8. The three train side by side, an epoch each in turn, in shuffled order, on one core; what is
compared is the ratio of the epochs' processor times (which other work on the machine hardly touches), and the losses,
which must agree, since all three do the same. ``pysciml, julia`` is the same model solved and differentiated by
``engine="julia"``, where that has been set up. torchdiffeq differentiates the solve itself (``odeint``) or by the
continuous adjoint (``odeint_adjoint``): both are measured, the faster counts. torch and torchdiffeq come by
``pip install torch torchdiffeq`` (torch brings some gigabytes of GPU libraries, so that they are in no extra of this
package); without them their rows are missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.experiments import TIGHT, Dynamics, load_images
from pysciml.engines.base import registry
from pysciml.neural import NeuralODE

RESULTS = Path(__file__).with_name("results") / "training.json"
BATCH, RATE, STEPS = 200, 3e-3, 96

#: Takes the batches of an epoch; returns their mean loss and, where known, the evaluations of the last solve.
Epoch = Callable[[list[tuple[np.ndarray, np.ndarray]]], tuple[float, float]]


def start() -> dict[str, Any]:
    """The untrained model."""
    one, two = jax.random.split(jax.random.key(0))
    return {"field": Dynamics(64, 100, one), "out": eqx.nn.Linear(64, 10, key=two)}


def in_jax(layer: Callable[[Any, Any], tuple[Any, Any]]) -> Epoch:
    """Training with ``layer(field, images) -> (solution at the end, evaluations)``."""
    optimizer = optax.adam(RATE)
    model = start()
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    def loss(model: Any, x: Any, y: Any) -> Any:
        end, count = layer(model["field"], x)
        logits = jax.vmap(model["out"])(end)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), count

    @eqx.filter_jit
    def step(model: Any, state: Any, x: Any, y: Any) -> Any:
        (value, count), slope = eqx.filter_value_and_grad(loss, has_aux=True)(model, x, y)
        change, state = optimizer.update(slope, state)
        return eqx.apply_updates(model, change), state, value, count

    def epoch(batches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
        nonlocal model, state
        losses, count = [], jnp.zeros(())
        for x, y in batches:
            model, state, value, count = step(model, state, x, y)
            losses.append(value)
        return float(np.mean(losses)), float(count)

    x, y, *_ = load_images(None)
    jax.block_until_ready(step(model, state, x[:BATCH], y[:BATCH])[2])  # compile
    return epoch


def by_pysciml(field: Any, x: Any) -> tuple[Any, Any]:
    out = NeuralODE(field, rtol=TIGHT, atol=TIGHT, algorithm="DP5", max_steps=STEPS)(x)
    return out.y, out.evaluations


def by_diffrax(field: Any, x: Any) -> tuple[Any, Any]:
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: jax.vmap(args, in_axes=(None, 0))(t, y)),
        diffrax.Dopri5(),
        0.0,
        1.0,
        None,
        x,
        args=field,
        stepsize_controller=diffrax.PIDController(rtol=TIGHT, atol=TIGHT),
        saveat=diffrax.SaveAt(t1=True),
        max_steps=STEPS,
    )
    assert solution.ys is not None
    return solution.ys[0], 1 + 6 * solution.stats["num_steps"]


def in_julia() -> Epoch:
    """Training with the solves of ``engine="julia"``; the rest in JAX."""
    from pysciml.engines.julia.training import BatchSolve
    from pysciml.graph import GraphBuilder, Model
    from pysciml.graph.networks import Network

    model = start()
    first = Network("first", 65, 100, hidden=(), final="tanh")
    second = Network("second", 101, 64, hidden=())
    b = GraphBuilder(64, first.size + second.size)
    inputs = [*(b.state(i) for i in range(64)), b.time()]
    hidden = [b.network(first, k, inputs) for k in range(100)]
    outputs = [b.network(second, k, [*hidden, b.time()]) for k in range(64)]
    names = tuple(f"x{i}" for i in range(64))
    equation = Model(b.build({"rhs": outputs}), "ode", "digits", names, (), (), np.ones(64, dtype=np.bool_))
    solver = BatchSolve(equation, "DP5", BATCH, TIGHT, TIGHT, STEPS)
    layers = model["field"].first, model["field"].second
    p = np.concatenate([np.asarray(part).ravel() for layer in layers for part in (layer.weight, layer.bias)])
    optimizer = optax.adam(RATE)
    state = optimizer.init((p, model["out"]))
    zeros, ones = np.zeros(BATCH), np.ones(BATCH)

    @jax.jit
    def classify(out: Any, end: Any, y: Any) -> Any:
        def loss(out: Any, end: Any) -> Any:
            logits = jax.vmap(out, in_axes=1)(end)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        return jax.value_and_grad(loss, argnums=(0, 1))(out, end)

    @jax.jit
    def update(theta: Any, state: Any, slope: Any) -> Any:
        change, state = optimizer.update(slope, state)
        return optax.apply_updates(theta, change), state

    theta = (p, model["out"])

    def epoch(batches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
        nonlocal theta, state
        losses, count = [], 0
        for x, y in batches:
            found = solver.solve(np.asarray(theta[0]), x.T, zeros, ones)
            value, (by_out, by_end) = classify(theta[1], found.y1, y)
            none = np.zeros(found.n_records)
            solver.pull(found.ys, np.asarray(by_end), none, none, none, 0.0)
            by_p = np.zeros(p.size)
            solver.add_by_parameters(by_p)
            theta, state = update(theta, state, (by_p, by_out))
            losses.append(float(value))
            count = found.n_rhs
        return float(np.mean(losses)), float(count)

    x, y, *_ = load_images(None)
    fresh = theta, state
    epoch([(x[:BATCH], y[:BATCH])])  # compile
    theta, state = fresh
    return epoch


def in_torch(adjoint: bool) -> Epoch:
    """Training with torchdiffeq."""
    import torch
    from torchdiffeq import odeint, odeint_adjoint

    model = start()

    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = copy(model["field"].first), copy(model["field"].second)
            self.count = 0

        def forward(self, t: Any, y: Any) -> Any:
            self.count += 1
            time = t.expand(len(y), 1)
            hidden = torch.tanh(self.first(torch.cat([y, time], dim=1)))
            return self.second(torch.cat([hidden, time], dim=1))

    def copy(linear: Any) -> Any:
        made = torch.nn.Linear(linear.in_features, linear.out_features, dtype=torch.float64)
        with torch.no_grad():
            made.weight.copy_(torch.tensor(np.asarray(linear.weight)))
            made.bias.copy_(torch.tensor(np.asarray(linear.bias)))
        return made

    torch.set_num_threads(1)
    field, out = Field(), copy(model["out"])
    optimizer = torch.optim.Adam([*field.parameters(), *out.parameters()], lr=RATE)
    solve = odeint_adjoint if adjoint else odeint
    span = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def epoch(batches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
        losses = []
        for x, y in batches:
            field.count = 0
            end = solve(field, torch.from_numpy(x), span, rtol=TIGHT, atol=TIGHT, method="dopri5")[-1]
            count = field.count
            value = torch.nn.functional.cross_entropy(out(end), torch.from_numpy(y))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(float(value.detach()))
        return float(np.mean(losses)), float(count)

    return epoch


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="three epochs, and nothing written")
    given = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    jax.config.update("jax_enable_x64", True)
    for name in ("PYTHON_JULIACALL_THREADS", "OPENBLAS_NUM_THREADS"):  # one core, and so one thread
        os.environ[name] = "1"
    peers: dict[str, Epoch] = {"pysciml": in_jax(by_pysciml), "diffrax": in_jax(by_diffrax)}
    missing = registry()["julia"].unavailable()
    if missing is None:
        peers["pysciml, julia"] = in_julia()
    else:
        print(f"pysciml on Julia is not measured: {missing}")
    if all(importlib.util.find_spec(name) for name in ("torch", "torchdiffeq")):
        peers |= {"torchdiffeq": in_torch(adjoint=False), "torchdiffeq, adjoint": in_torch(adjoint=True)}
    else:
        print("torchdiffeq is not measured: pip install torch torchdiffeq")
    x, y, *_ = load_images(None)
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    last: dict[str, tuple[float, float]] = {}
    for number in range(3 if given.quick else given.epochs):
        order = rng.permutation(len(x)).reshape(-1, BATCH)
        batches = [(x[rows], y[rows]) for rows in order]
        for name in rng.permutation(list(peers)):
            begin = time.process_time()
            last[name] = peers[name](batches)
            seconds[name].append(time.process_time() - begin)
        print(f"epoch {number + 1}: " + ", ".join(f"{name} {s[-1]:.3g} s" for name, s in seconds.items()), flush=True)
    base = float(np.median(seconds["pysciml"]))
    print("\n| | median epoch, s | over pysciml's | evaluations of the last solve | loss of the last epoch |")
    print("|---|---|---|---|---|")
    for name, each in seconds.items():
        median = float(np.median(each))
        print(f"| {name} | {median:.3g} | {median / base:.2f} | {last[name][1]:.0f} | {last[name][0]:.6g} |")
    if not given.quick:
        kept = {
            "machine": f"{platform.machine()}, Python {platform.python_version()}, jax {jax.__version__}",
            "seconds": seconds,
            "loss": {name: value for name, (value, _) in last.items()},
            "evaluations": {name: count for name, (_, count) in last.items()},
        }
        RESULTS.write_text(json.dumps(kept, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
