"""Ensembles and the JAX engine against their peers: ``python -m benchmarks.ensemble [--quick]``.

Ratios in one run on the same cores; compilation is not counted, except where it is what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

import pysciml as ps

x, y, z = ps.variables("x y z")
a, b, c, d, rho, sigma, beta, noise = ps.parameters("a b c d rho sigma beta noise")
W, V = ps.brownian("W V")

LORENZ = ps.Problem(
    ps.System(
        [ps.Eq(ps.D(x), sigma * (y - x)), ps.Eq(ps.D(y), x * (rho - z) - y), ps.Eq(ps.D(z), x * y - beta * z)],
        name="lorenz",
    ),
    {x: 1.0, y: 0.0, z: 0.0},
    (0, 10),
    {sigma: 10.0, rho: 28.0, beta: 8 / 3},
)
LOTKA = ps.Problem(
    ps.System(
        [ps.Eq(ps.D(x), a * x - b * x * y + noise * x * W), ps.Eq(ps.D(y), -c * y + d * x * y + noise * y * V)],
        name="stochastic_lotka_volterra",
    ),
    {x: 1.0, y: 1.0},
    (0, 10),
    {a: 1.5, b: 1.0, c: 3.0, d: 1.0, noise: 0.1},
)


def best(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of some runs, after one that compiles."""
    run()
    times: list[float] = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def lorenz(count: int, repeats: int) -> dict[str, float]:
    """Seconds for ``count`` trajectories, end values, rtol = atol = 1e-6."""
    import diffrax
    import jax
    import jax.numpy as jnp
    from scipy.integrate import solve_ivp

    values = np.linspace(0, 21, count)
    over = {rho: xr.DataArray(values, dims="rho")}
    times: dict[str, float] = {}
    for engine, alg in (("jax", "Tsit5"), ("native", "Tsit5"), ("auto", None)):
        label = f"pysciml {engine}"
        times[label] = best(
            lambda engine=engine, alg=alg: ps.solve_ensemble(
                LORENZ, alg, over=over, engine=engine, rtol=1e-6, atol=1e-6
            ),
            repeats,
        )

    def field(t: Any, u: Any, r: Any) -> Any:
        return jnp.stack([10 * (u[1] - u[0]), u[0] * (r - u[2]) - u[1], u[0] * u[1] - 8 / 3 * u[2]])

    def one(r: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            0.0,
            10.0,
            None,
            jnp.array([1.0, 0.0, 0.0]),
            args=r,
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6),
            saveat=diffrax.SaveAt(t1=True),
            max_steps=None,
        ).ys[0]

    with jax.enable_x64(True):
        batch = jax.jit(jax.vmap(one))
        times["diffrax vmap"] = best(lambda: jax.block_until_ready(batch(jnp.asarray(values))), repeats)

    def rhs(t: float, u: Any, r: float) -> list[float]:
        p, q, s = u
        return [10 * (q - p), p * (r - s) - q, p * q - 8 / 3 * s]

    part = values[:: max(1, count // 50)]
    for method in ("RK45", "DOP853", "LSODA"):
        begin = time.perf_counter()
        for r in part:
            solve_ivp(rhs, (0, 10), [1.0, 0.0, 0.0], method, args=(r,), rtol=1e-6, atol=1e-6, t_eval=[10.0])
        times[f"SciPy {method} (from {len(part)})"] = (time.perf_counter() - begin) * count / len(part)
    return times


def paths(count: int, repeats: int) -> dict[str, float]:
    """Seconds for ``count`` paths of 1,000 steps of stochastic Lotka-Volterra, end values."""
    import diffrax
    import jax
    import jax.numpy as jnp

    times: dict[str, float] = {
        "pysciml EM": best(lambda: ps.solve_ensemble(LOTKA, "EM", trajectories=count, dt=0.01, seed=1), repeats)
    }

    def drift(t: Any, u: Any, _: Any) -> Any:
        return jnp.stack([1.5 * u[0] - u[0] * u[1], -3.0 * u[1] + u[0] * u[1]])

    def diffusion(t: Any, u: Any, _: Any) -> Any:
        return jnp.diag(0.1 * u)

    def one(brownian: Callable[[Any], Any], key: Any) -> Any:
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, brownian(key)))
        start = jnp.array([1.0, 1.0])
        save = diffrax.SaveAt(t1=True)
        return diffrax.diffeqsolve(
            terms, diffrax.Euler(), 0.0, 10.0, 0.01, start, saveat=save, max_steps=2000, adjoint=diffrax.DirectAdjoint()
        ).ys[0]

    motions = {
        "diffrax Euler, virtual tree": lambda key: diffrax.VirtualBrownianTree(0.0, 10.0, 0.005, (2,), key),
        "diffrax Euler, unsafe path": lambda key: diffrax.UnsafeBrownianPath((2,), key),
    }
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), count)
        for name, motion in motions.items():
            batch = jax.jit(jax.vmap(lambda key, motion=motion: one(motion, key)))
            times[name] = best(lambda batch=batch: jax.block_until_ready(batch(keys)), repeats)
    return times


def overhead(repeats: int) -> dict[str, float]:
    """Seconds of one Lorenz solve with 101 output times, by the front and by bare diffrax, compiled."""
    import diffrax
    import jax
    import jax.numpy as jnp

    saveat = np.linspace(0, 10, 101)

    def field(t: Any, u: Any, p: Any) -> Any:
        return jnp.stack([p[0] * (u[1] - u[0]), u[0] * (p[1] - u[2]) - u[1], u[0] * u[1] - p[2] * u[2]])

    def solve(u0: Any, p: Any, ts: Any) -> Any:
        control = diffrax.PIDController(rtol=1e-6, atol=1e-9)
        save = diffrax.SaveAt(ts=ts)
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Tsit5(), 0.0, 10.0, None, u0, p, saveat=save, stepsize_controller=control
        ).ys

    with jax.enable_x64(True):
        bare = jax.jit(solve)
        u0, p = np.array([1.0, 0.0, 0.0]), np.array([10.0, 28.0, 8 / 3])
        seconds = best(lambda: np.asarray(bare(u0, p, saveat)), repeats)
    return {
        "pysciml jax Tsit5": best(lambda: ps.solve(LORENZ, "Tsit5", engine="jax", saveat=saveat), repeats),
        "bare diffrax Tsit5": seconds,
    }


_COLD = """
import numpy as np, time, pysciml as ps
from benchmarks.ensemble import LORENZ
print(ps.solve(LORENZ, "Tsit5", engine="jax", saveat=0.1).attrs["compile_seconds"])
"""


def cold() -> dict[str, float]:
    """Seconds to compile in a first process and in a second one, which finds the cache."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYSCIML_CACHE_DIR": folder}
        found = [
            float(
                subprocess.run([sys.executable, "-c", _COLD], env=environment, capture_output=True, check=True).stdout
            )
            for _ in range(2)
        ]
    return {"first process": found[0], "second process": found[1]}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the trajectories")
    parser.add_argument("--only", choices=["lorenz", "paths", "overhead", "cold"])
    options = parser.parse_args()
    count, repeats = (1_000, 2) if options.quick else (10_000, 3)
    tables = {
        "lorenz": lambda: lorenz(count, repeats),
        "paths": lambda: paths(count, repeats),
        "overhead": lambda: overhead(200),
        "cold": cold,
    }
    for name, measure in tables.items():
        if options.only in (None, name):
            print(json.dumps({name: {key: round(value, 6) for key, value in measure().items()}}, indent=1))


if __name__ == "__main__":
    main()
