"""Ensembles and the JAX engine against their peers: ``python -m benchmarks.ensemble [--quick] [--only PART]``.

``--write`` keeps the numbers. Ratios in one run on the same cores; compilation is not counted, except where it is
what is measured. Peers that are not installed are left out: numbalsoda, heyoka and numba come with the extra
``[bench]`` or ``make bench``, torchsde by ``pip install torch torchsde`` (with torch's GPU libraries, some gigabytes,
even where there is none).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import pysciml as ps
from pysciml.engines.base import SolveOptions, registry

RESULTS = Path(__file__).with_name("results") / "ensemble.json"

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


def best(run: Callable[[], Any], repeats: int, most: float = 25.0) -> float:
    """Seconds of the fastest of some runs, after one that compiles; no more of them than ``most`` seconds hold."""
    run()
    times: list[float] = []
    while len(times) < repeats and sum(times) < most:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def there(*modules: str) -> bool:
    """Whether a peer is installed."""
    return all(importlib.util.find_spec(name) is not None for name in modules)


# --- the Lorenz equations, as each peer wants them ----------------------------------------------------------


def lorenz_diffrax(values: np.ndarray) -> Callable[[], np.ndarray]:
    import diffrax
    import jax
    import jax.numpy as jnp

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

    batch = jax.jit(jax.vmap(one))

    def run() -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(batch(jnp.asarray(values)))

    return run


def lorenz_numbalsoda(values: np.ndarray, method: str) -> Callable[[], np.ndarray]:
    """The loop over threads of numbalsoda's manual: ``prange``."""
    import numba
    import numbalsoda

    @numba.cfunc(numbalsoda.lsoda_sig)
    def rhs(t: float, u: Any, du: Any, p: Any) -> None:
        du[0] = 10.0 * (u[1] - u[0])
        du[1] = u[0] * (p[0] - u[2]) - u[1]
        du[2] = u[0] * u[1] - 8.0 / 3.0 * u[2]

    address, solver = rhs.address, getattr(numbalsoda, method)

    @numba.njit(parallel=True)
    def run(values: Any) -> Any:
        out = np.empty((len(values), 3))
        times = np.array([0.0, 10.0])
        for i in numba.prange(len(values)):
            found, _ = solver(address, np.array([1.0, 0.0, 0.0]), times, np.array([values[i]]), rtol=1e-6, atol=1e-6)
            out[i] = found[1]
        return out

    return lambda: run(values)


def lorenz_heyoka(values: np.ndarray) -> Callable[[], np.ndarray]:
    """heyoka's ensemble of integrators that carry several trajectories in one vector register."""
    import heyoka as hy

    u, v, w = hy.make_vars("u", "v", "w")
    system = [(u, 10.0 * (v - u)), (v, u * (hy.par[0] - w) - v), (w, u * v - 8.0 / 3.0 * w)]
    size = hy.recommended_simd_size()
    start = np.repeat(np.array([[1.0], [0.0], [0.0]]), size, axis=1)
    integrator = hy.taylor_adaptive_batch(system, start, tol=1e-6, pars=np.full((1, size), 28.0))
    padded = np.concatenate([values, np.repeat(values[-1:], -len(values) % size)]).reshape(-1, size)

    def setup(one: Any, i: int) -> Any:
        one.set_time(0.0)
        one.state[:] = start
        one.pars[0] = padded[i]
        return one

    def run() -> np.ndarray:
        done = hy.ensemble_propagate_until_batch(integrator, 10.0, len(padded), setup)
        return np.concatenate([outcome[0].state.T for outcome in done])[: len(values)]

    return run


DIFFSL = """
in { r = 28 }
u_i { x = 1, y = 0, z = 0 }
F_i { 10 * (y - x), x * (r - z) - y, x * y - (8 / 3) * z }
"""
_worker: dict[str, Any] = {}


def pydiffsol_start() -> None:
    """Compile in the worker."""
    import pydiffsol

    ode = pydiffsol.Ode(DIFFSL, matrix_type=pydiffsol.nalgebra_dense, linear_solver=pydiffsol.lu)
    ode.ode_solver, ode.rtol, ode.atol = pydiffsol.tsit45, 1e-6, 1e-6
    _worker["ode"] = ode


def pydiffsol_part(values: np.ndarray) -> np.ndarray:
    ode, out = _worker["ode"], np.empty((len(values), 3))
    for i, value in enumerate(values):
        out[i] = ode.solve(np.array([value]), 10.0).ys[:, -1]
    return out


def lorenz_scipy(values: np.ndarray, method: str) -> Callable[[], np.ndarray]:
    from scipy.integrate import solve_ivp

    def rhs(t: float, u: Any, r: float) -> list[float]:
        p, q, s = u
        return [10 * (q - p), p * (r - s) - q, p * q - 8 / 3 * s]

    def run() -> np.ndarray:
        return np.array(
            [
                solve_ivp(rhs, (0, 10), [1.0, 0.0, 0.0], method, args=(r,), rtol=1e-6, atol=1e-6, t_eval=[10.0]).y[:, 0]
                for r in values
            ]
        )

    return run


def lorenz(count: int, repeats: int) -> dict[str, Any]:
    """Seconds for ``count`` trajectories, end values, rtol = atol = 1e-6, and the median error of each solver."""
    from scipy.integrate import solve_ivp

    values = np.linspace(0, 21, count)
    over = {rho: xr.DataArray(values, dims="rho")}
    seconds: dict[str, float] = {}
    errors: dict[str, float] = {}
    part = slice(None, None, max(1, count // 50))

    def field(t: float, u: Any, r: float) -> list[float]:
        return [10 * (u[1] - u[0]), u[0] * (r - u[2]) - u[1], u[0] * u[1] - 8 / 3 * u[2]]

    exact = np.array(
        [
            solve_ivp(field, (0, 10), [1.0, 0.0, 0.0], "DOP853", args=(r,), rtol=1e-12, atol=1e-13).y[:, -1]
            for r in values[part]
        ]
    )

    def note(name: str, run: Callable[[], np.ndarray], scale: float = 1.0, few: bool = False) -> None:
        found: list[np.ndarray] = []
        seconds[name] = scale * best(lambda: found.append(run()), 1 if few else repeats)
        ends = found[-1] if few else found[-1][part]
        errors[name] = float(np.median(np.abs(ends - exact).max(axis=1)))

    def ensemble(engine: str, alg: str | None) -> np.ndarray:
        sweep = ps.solve_ensemble(LORENZ, alg, over=over, engine=engine, rtol=1e-6, atol=1e-6)
        chosen[engine] = sweep.attrs["engine"]
        return np.stack([sweep[name].values[:, 0] for name in "xyz"], axis=1)

    chosen: dict[str, str] = {}
    for engine, alg in (("jax", "Tsit5"), ("native", "Tsit5"), ("auto", None)):
        note(f"pysciml {engine}", lambda engine=engine, alg=alg: ensemble(engine, alg))
    note("diffrax vmap", lorenz_diffrax(values))
    if there("numba", "numbalsoda"):
        for method in ("lsoda", "dop853"):
            note(f"numbalsoda {method}, prange", lorenz_numbalsoda(values, method))
    if there("heyoka"):
        note("heyoka ensemble", lorenz_heyoka(values))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=pydiffsol_start) as pool:
        parts = np.array_split(values, 4 * cores)
        note("pydiffsol in worker processes", lambda: np.concatenate(list(pool.map(pydiffsol_part, parts))))
    for method in ("RK45", "DOP853", "LSODA"):
        few = values[part]
        note(f"SciPy {method} (from {len(few)})", lorenz_scipy(few, method), count / len(few), few=True)
    ours = seconds["pysciml auto"]
    return {
        "seconds": seconds,
        "median error": errors,
        "auto took": chosen["auto"],
        "auto is the fastest engine": seconds[f"pysciml {chosen['auto']}"]
        <= min(seconds["pysciml jax"], seconds["pysciml native"]),
        "times faster than": {name: value / ours for name, value in seconds.items() if not name.startswith("pysciml")},
    }


def paths(count: int, repeats: int) -> dict[str, Any]:
    """Seconds for ``count`` paths of 1,000 steps of stochastic Lotka-Volterra, end values."""
    import diffrax
    import jax
    import jax.numpy as jnp

    seconds: dict[str, float] = {
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
            seconds[name] = best(lambda batch=batch: jax.block_until_ready(batch(keys)), repeats)
    if there("torch", "torchsde"):
        for dtype in ("float64", "float32"):
            seconds[f"torchsde Euler, {dtype}"] = best(lambda dtype=dtype: lotka_torchsde(count, dtype), repeats)
    ours = seconds["pysciml EM"]
    return {"seconds": seconds, "times faster than": {n: v / ours for n, v in seconds.items() if n != "pysciml EM"}}


def lotka_torchsde(count: int, dtype: str) -> Any:
    import torch
    import torchsde

    class Lotka(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t: Any, u: Any) -> Any:
            prey, predator = u[:, 0], u[:, 1]
            return torch.stack([1.5 * prey - prey * predator, -3.0 * predator + prey * predator], dim=1)

        def g(self, t: Any, u: Any) -> Any:
            return 0.1 * u

    with torch.no_grad():
        start = torch.ones(count, 2, dtype=getattr(torch, dtype))
        times = torch.tensor([0.0, 10.0], dtype=start.dtype)
        return torchsde.sdeint(Lotka(), start, times, dt=0.01, method="euler")


def overhead(repeats: int) -> dict[str, Any]:
    """Milliseconds of one Lorenz solve with 101 output times, by the front and by bare diffrax, compiled, in turns."""
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

    bare = jax.jit(solve)
    u0, p = np.array([1.0, 0.0, 0.0]), np.array([10.0, 28.0, 8 / 3])

    def run_bare() -> None:
        with jax.enable_x64(True):
            np.asarray(bare(u0, p, saveat))

    def run_front() -> None:
        ps.solve(LORENZ, "Tsit5", engine="jax", saveat=saveat)

    times: dict[str, list[float]] = {"pysciml jax Tsit5": [], "bare diffrax Tsit5": []}
    for turn in range(repeats + 10):
        for run, found in zip((run_front, run_bare), times.values(), strict=True):
            begin = time.perf_counter()
            run()
            if turn >= 10:
                found.append(1e3 * (time.perf_counter() - begin))
    fastest = {name: min(found) for name, found in times.items()}
    median = {name: statistics.median(found) for name, found in times.items()}
    ours, theirs = times
    return {
        "fastest": fastest,
        "median": median,
        "front adds": {"fastest": fastest[ours] - fastest[theirs], "median": median[ours] - median[theirs]},
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
    return {"first process": found[0], "second process": found[1], "share": found[1] / found[0]}


_LARGE = """
import resource, time, numpy as np, xarray as xr, pysciml as ps
from benchmarks.ensemble import LORENZ
side = {side}
over = {{"rho": xr.DataArray(np.linspace(0, 21, side), dims="rho"),
         "sigma": xr.DataArray(np.linspace(8, 12, side), dims="sigma")}}
begin = time.perf_counter()
sweep = ps.solve_ensemble(LORENZ.remake(tspan=(0, 1)), "Tsit5", over=over, engine="jax", rtol=1e-6, atol=1e-6)
assert (sweep.retcode == "Success").all()
print(sweep.x.size, time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def memory(side: int) -> dict[str, float]:
    """Gigabytes that a process takes at most for ``side`` squared Lorenz trajectories, to t = 1."""
    command = [sys.executable, "-c", _LARGE.format(side=side)]
    size, seconds, peak = map(float, subprocess.run(command, capture_output=True, check=True).stdout.split())
    return {"trajectories": size, "seconds": seconds, "peak in GiB": peak}


def gradients() -> dict[str, Any]:
    """The largest relative difference between any two ways to a gradient."""
    import jax.numpy as jnp

    stiff = ps.Problem(
        ps.System([ps.Eq(ps.D(x), y), ps.Eq(ps.D(y), a * ((1 - x**2) * y - b * x))]),
        {x: 2.0, y: 0.0},
        (0, 1),
        {a: 1000.0, b: 1.0},
    )
    plain = ps.Problem(
        ps.System([ps.Eq(ps.D(x), a * x - b * x * y), ps.Eq(ps.D(y), -3 * y + x * y)]),
        {x: 1.0, y: 1.0},
        (0, 3),
        {a: 1.5, b: 1.0},
    )
    table: dict[str, Any] = {}
    for name, problem, alg in (("Lotka-Volterra", plain, "Tsit5"), ("Van der Pol, mu = 1000", stiff, "KenCarp4")):
        times = np.linspace(0, problem.tspan[1], 4)
        found = {}
        for method in ("forward", "checkpointed", "adjoint"):
            options = {"saveat": times, "rtol": 1e-10, "atol": 1e-12}
            result = ps.gradient(problem, lambda sol: jnp.sum(sol.x**2), [a, b, x], alg, method=method, **options)
            found[method] = np.array([float(result[key]) for key in ("a", "b", "x_initial")])
        native = registry()["native"].sensitivities(
            problem.system.model, problem.u0, problem.p, problem.tspan, None, SolveOptions(1e-11, 1e-13, times)
        )
        u = native.solution.u[0][:, None]
        by = np.concatenate([(2 * u * native.by_p[0]).sum(axis=0), (2 * u * native.by_u0[0]).sum(axis=0)[:1]])
        found["native"] = by[[*map(problem.system.model.parameters.index, "ab"), 2]]
        table[name] = {method: np.abs(value / found["forward"] - 1).max() for method, value in found.items()}
    return table


def shown(value: Any) -> Any:
    """Numbers with four digits."""
    if isinstance(value, dict):
        return {key: shown(part) for key, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the trajectories")
    parts = ["lorenz", "paths", "overhead", "cold", "memory", "gradients"]
    parser.add_argument("--only", choices=parts)
    parser.add_argument("--write", action="store_true", help="keep the numbers in benchmarks/results/ensemble.json")
    options = parser.parse_args()
    count, repeats = (1_000, 2) if options.quick else (10_000, 3)
    tables: dict[str, Callable[[], Any]] = {
        "lorenz": lambda: lorenz(count, repeats),
        "paths": lambda: paths(count, repeats),
        "overhead": lambda: overhead(500),
        "cold": cold,
        "memory": lambda: memory(100 if options.quick else 1000),
        "gradients": gradients,
    }
    for name in parts:
        if options.only in (None, name):
            found = shown(tables[name]())
            print(json.dumps({name: found}, indent=1), flush=True)
            if options.write:
                kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
                RESULTS.write_text(json.dumps({**kept, name: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
