"""An epoch of training a network in a partial differential equation: pysciml and the same by hand in diffrax.

    python -m benchmarks.training_fields            # prints; a minute

Fisher's equation on 64 cells with a reaction that a network of 16 neurons is to learn, from a field at 8 times, by
Tsitouras' method at 1e-6 and Adam, in double precision, differentiated through the steps taken. By hand are the
differences, the solve (`diffrax.diffeqsolve`, its recursive checkpointed adjoint) and the update, in one compiled
function. Both train in turns, on one core; what is compared is the ratio of the processor times of an epoch, compiling
apart, and the losses, which agree.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sympy as sp

import pysciml as ps

CELLS, TIMES, RATE, SPREAD, LENGTH = 64, 8, 1e-2, 0.3, 10.0
TOLERANCE, EPOCHS = 1e-6, 60


def front(reaction: Callable[[Any], Any]) -> Any:
    """The problem, with a reaction."""
    (x,) = ps.coordinates("x,")
    w = ps.fields("w", x)
    start = 1 / (1 + sp.exp(3 * (x - 4)))
    system = ps.PDESystem(
        [ps.Eq(ps.D(w), SPREAD * ps.D(w, x, 2) + reaction(w))], {x: (0, LENGTH)}, {x: ps.Neumann(0)}, {w: start}
    )
    return system.discretize({x: CELLS}).problem((0, 2))


def by_pysciml(data: Any, network: ps.MLP) -> tuple[float, float]:
    """Seconds of an epoch, and the loss of the last one."""
    problem = front(network)
    how = {"segments": 1, "learning_rate": RATE, "rtol": TOLERANCE, "atol": TOLERANCE}
    ps.fit(problem, data, [network], epochs=2, **how)  # compile
    begin = time.process_time()
    fit = ps.fit(problem, data, [network], epochs=EPOCHS, **how)
    return (time.process_time() - begin) / EPOCHS, float(fit.loss)


def by_hand(data: Any, network: ps.MLP) -> Callable[[], tuple[float, float]]:
    """The same function for the same training, compiled."""
    width = LENGTH / CELLS
    at = (np.arange(CELLS) + 0.5) * width
    start = jnp.asarray(1 / (1 + np.exp(3 * (at - 4))))
    times, values = jnp.asarray(data.t.values), jnp.asarray(data.w.values)
    layers = network.network.layers
    optimizer = optax.adam(RATE)

    def reaction(weights: Any, y: Any) -> Any:
        z = y[:, None]
        for layer in layers:
            z = z @ weights[layer.matrix].reshape(layer.shape).T + weights[layer.bias]
            z = jnp.tanh(z) if layer.activation == "tanh" else z
        return z[:, 0]

    def rates(t: Any, y: Any, weights: Any) -> Any:
        wide = jnp.pad(y, 1, mode="edge")
        return SPREAD * (wide[2:] - 2 * y + wide[:-2]) / width**2 + reaction(weights, y)

    def loss(weights: Any) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(rates),
            diffrax.Tsit5(),
            0.0,
            2.0,
            None,
            start,
            args=weights,
            stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE),
            saveat=diffrax.SaveAt(ts=times),
            max_steps=512,
        )
        return jnp.mean((solution.ys - values) ** 2)

    @jax.jit
    def step(weights: Any, state: Any) -> Any:
        value, slope = jax.value_and_grad(loss)(weights)
        change, state = optimizer.update(slope, state)
        return optax.apply_updates(weights, change), state, value

    first = jnp.asarray(network.initial())
    jax.block_until_ready(step(first, optimizer.init(first)))

    def train() -> tuple[float, float]:
        weights, state, value = first, optimizer.init(first), jnp.zeros(())
        begin = time.process_time()
        for _ in range(EPOCHS):
            weights, state, value = step(weights, state)
            float(value)
        return (time.process_time() - begin) / EPOCHS, float(value)

    return train


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_fields", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    jax.config.update("jax_enable_x64", True)
    network = ps.MLP("reaction", 1, 1, (16,))
    data = ps.solve(front(lambda w: w * (1 - w)), saveat=np.linspace(0, 2, TIMES), rtol=1e-8)[["w"]]
    hand = by_hand(data, network)
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for _ in range(given.rounds):
        ours.append(by_pysciml(data, network))
        theirs.append(hand())
    base = float(np.median([seconds for seconds, _ in ours]))
    print("| | median epoch, s | over pysciml's | loss of the last epoch |\n|---|---|---|---|")
    for name, rows in (("pysciml", ours), ("diffrax, by hand", theirs)):
        median = float(np.median([seconds for seconds, _ in rows]))
        print(f"| {name} | {median:.3g} | {median / base:.2f} | {rows[-1][1]:.8g} |")


if __name__ == "__main__":
    main()
