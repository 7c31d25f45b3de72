"""Ensembles on a GPU against those on its machine's cores: `python -m benchmarks.ensemble_cuda [--write]`.

Lorenz trajectories to t = 10 with their own `rho`, Tsit5, values at eleven times, in double and in single precision:
the kernels of the Julia engine (one thread a trajectory), its threads, and JAX on both devices. Seconds of the fastest
warm call of `pysciml.solve_ensemble`, with everything it does; what the machine lacks is left out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import pysciml as ps
from benchmarks.ensemble import LORENZ
from benchmarks.machine import machine

RESULTS = Path(__file__).with_name("results") / "ensemble_cuda.json"
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
#: Seconds after which a way is not given ten times as many trajectories.
ENOUGH = 15.0
#: Relative tolerance for each precision: single precision has no more.
TOLERANCES = {"float64": 1e-6, "float32": 1e-4}


def ways() -> dict[str, dict[str, Any]]:
    """Options of `solve_ensemble` by the name of what they choose."""
    return {
        f"{engine} {device} {precision}": {"engine": engine, "device": device, "precision": precision}
        for precision in TOLERANCES
        for engine in ("julia", "jax")
        for device in ("cuda", "cpu")
        if (engine, device, precision) != ("julia", "cpu", "float32")
    }


def seconds(run: Callable[[], Any], repeats: int = 3) -> float:
    """Of the fastest of some calls after one that compiles."""
    run()
    times = []
    while len(times) < repeats and sum(times) < ENOUGH:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def measured(name: str, options: dict[str, Any], counts: tuple[int, ...]) -> dict[int, float]:
    """Seconds by the number of trajectories, as far as it can be solved so."""
    found: dict[int, float] = {}
    tolerance = TOLERANCES[options["precision"]]
    for count in counts:
        rho = np.linspace(0, 21, count)

        def run(rho: np.ndarray = rho) -> None:
            sweep = ps.solve_ensemble(
                LORENZ, "Tsit5", over={"rho": rho}, saveat=1.0, rtol=tolerance, atol=tolerance, **options
            )
            assert sweep.attrs["n_failed"] == 0

        try:
            found[count] = seconds(run)
        except ps.PySciMLError as error:
            print(f"{name}: {error}")
            break
        if found[count] > ENOUGH:
            break
    return found


def gpu() -> str:
    """The name of the GPU, as JAX tells it."""
    try:
        import jax

        return str(jax.devices("cuda")[0].device_kind)
    except (ImportError, RuntimeError):
        return "no GPU that JAX finds"


def main() -> None:
    """Print the table, and keep it if wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the numbers under results/")
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="the largest number of trajectories")
    arguments = parser.parse_args()
    counts = tuple(count for count in COUNTS if count <= arguments.most)
    table = pd.DataFrame({name: measured(name, options, counts) for name, options in ways().items()}).T
    where = f"{gpu()}; {machine()}"
    print(where, table.to_string(float_format="{:.4g}".format), sep="\n")
    if arguments.write:
        text = json.dumps({"where": where, "seconds": table.T.to_dict()}, indent=1)
        RESULTS.write_text(text.replace("NaN", "null") + "\n")


if __name__ == "__main__":
    main()
