"""An update of a neural ODE of a big batch on Julia, CPU and GPU, and on JAX on the same GPU.

    python -m benchmarks.training_cuda            # all cases
    python -m benchmarks.training_cuda --quick    # the smallest

The equation is a network of one hidden layer, the loss the mean square of the states at the end, an update a solve and
its derivative by all weights. All take the same steps with the same weights, which is checked; printed are seconds and
their ratios within this run. Rows of a device that is not there are missing.
"""

from __future__ import annotations

import argparse
import sys
import timeit
from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

import pysciml as ps
from pysciml.engines.jax.compiling import arithmetic, find_device
from pysciml.engines.julia import bridge, environment
from pysciml.engines.julia.training import BatchSolve
from pysciml.errors import EngineUnavailableError
from pysciml.neural.adjoints import solve
from pysciml.neural.steps import Setting, method

#: States, hidden neurons, members of the batch: the shapes of scikit-learn's digits and of MNIST.
CASES: Final = ((64, 100, 512), (64, 100, 4096), (784, 512, 512), (784, 512, 4096))
TOLERANCE: Final = 1e-4
STEPS: Final = 64

#: ``() -> (mean square at the end, derivative by the weights)``
Update = Callable[[], tuple[float, np.ndarray]]


def weights(n: int, hidden: int) -> list[np.ndarray]:
    """Matrices, in by out, and biases of both layers."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=s) / np.sqrt(s[0]) for s in ((n, hidden), (hidden,), (hidden, n), (n,))]


def on_julia(n: int, hidden: int, batch: int, device: str, precision: str) -> Update:
    states = ps.variables(" ".join(f"x{k}" for k in range(n)))
    nn = ps.MLP("nn", inputs=n, outputs=n, hidden=(hidden,))
    model = ps.System([ps.Eq(ps.D(x), out) for x, out in zip(states, nn(*states), strict=True)]).model
    solver = BatchSolve(model, "Tsit5", batch, TOLERANCE, TOLERANCE, STEPS, device=device, precision=precision)
    p = np.concatenate([w.T.ravel() for w in weights(n, hidden)])
    y0 = np.random.default_rng(1).normal(size=(batch, n)).T
    start, length = np.zeros(batch), np.ones(batch)

    def update() -> tuple[float, np.ndarray]:
        out = solver.solve(p, y0, start, length)
        assert out.success
        none, p_bar = np.zeros(out.n_records), np.zeros_like(p)
        solver.pull(out.ys, 2 * out.y1 / out.y1.size, none, none, none, 0.0)
        solver.add_by_parameters(p_bar)
        return float(np.mean(out.y1**2)), p_bar

    return update


def on_jax(n: int, hidden: int, batch: int, device: str, precision: str) -> Update:
    how = Setting(method("Tsit5"), TOLERANCE, TOLERANCE, STEPS)
    with arithmetic(precision, device):
        given = [jnp.asarray(w) for w in weights(n, hidden)]
        y0 = jnp.asarray(np.random.default_rng(1).normal(size=(batch, n)))

        def field(_: Any, y: Any, w: Any) -> Any:
            return jnp.tanh(y @ w[0] + w[1]) @ w[2] + w[3]

        def loss(w: Any) -> Any:
            return jnp.mean(solve(how, field, w, y0, 0.0, jnp.ones(()), jnp.zeros(0)).y1 ** 2)

        both = jax.jit(jax.value_and_grad(loss))

    def update() -> tuple[float, np.ndarray]:
        with arithmetic(precision, device):
            value, slope = both(given)
            return float(value), np.concatenate([np.asarray(part).T.ravel() for part in slope])

    return update


def missing(engine: str) -> str:
    """Why an engine finds no GPU here; empty where it does."""
    if engine == "julia":
        return environment.lacks("CUDA", "cuda") or str(bridge.julia().load_training_device("cuda"))
    try:
        find_device("cuda")
    except EngineUnavailableError as error:
        return str(error)
    return ""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest case alone")
    cases = CASES[:1] if parser.parse_args().quick else CASES
    places = [("julia", "cpu", "float64")]
    for engine in ("julia", "jax"):
        if reason := missing(engine):
            print(f"no cuda for {engine}: {reason}", file=sys.stderr)
        else:
            places += [(engine, "cuda", precision) for precision in ("float64", "float32")]
    print(f"{'states':>6} {'hidden':>6} {'batch':>6}  {'where':<19} {'s/update':>9} {'ratio':>7}")
    for n, hidden, batch in cases:
        base = expected = None
        for engine, device, precision in places:
            update = (on_julia if engine == "julia" else on_jax)(n, hidden, batch, device, precision)
            value, slope = update()
            expected = expected or (value, slope)
            digits = 1e-6 if precision == "float64" else 1e-2
            assert abs(value - expected[0]) < digits * expected[0]
            assert np.abs(slope - expected[1]).max() < digits * np.abs(expected[1]).max()
            taken = min(timeit.repeat(update, number=1, repeat=3))
            base = base or taken
            where = f"{engine} {device} {precision}"
            print(f"{n:6} {hidden:6} {batch:6}  {where:<19} {taken:9.4f} {base / taken:7.2f}", flush=True)


if __name__ == "__main__":
    main()
