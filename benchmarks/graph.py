"""How long a large system takes from SymPy equations to the checked model. `python -m benchmarks.graph`"""

from __future__ import annotations

import statistics
import time
from typing import Any


def equations(n: int) -> tuple[list[Any], dict[Any, float], dict[Any, float]]:
    """A ring of ``n`` coupled FitzHugh-Nagumo-like cells: equations, initial values, parameters."""
    import pysciml as ps

    y = ps.variables(f"y1:{n + 1}")
    a, b, k = ps.parameters("a b k")
    right = [a * y[i] - y[i] ** 3 / 3 + b + k * (y[i - 1] - 2 * y[i] + y[(i + 1) % n]) for i in range(n)]
    return (
        [ps.Eq(ps.D(yi), fi) for yi, fi in zip(y, right, strict=True)],
        dict.fromkeys(y, 0.1),
        {a: 1.0, b: 0.1, k: 0.5},
    )


def measure(sizes: tuple[int, ...] = (1_000, 10_000), repeats: int = 3) -> list[dict[str, float]]:
    """Median seconds of SymPy's own work, of building the system with its graph, and of the Jacobian's graph."""
    import pysciml as ps

    rows = []
    for n in sizes:
        start = time.perf_counter()
        given, _, _ = equations(n)
        writing = time.perf_counter() - start
        building, deriving = [], []
        for _ in range(repeats):
            start = time.perf_counter()
            graph = ps.System(given, name="ring").graph
            built = time.perf_counter()
            graph.jacobian("rhs", "states")
            done = time.perf_counter()
            building.append(built - start)
            deriving.append(done - built)
        rows.append(
            {
                "equations": n,
                "sympy_seconds": writing,
                "build_seconds": statistics.median(building),
                "jacobian_seconds": statistics.median(deriving),
            }
        )
    return rows


if __name__ == "__main__":
    for row in measure():
        print(
            f"{row['equations']:6,} equations: SymPy {row['sympy_seconds']:.2f} s, "
            f"system and graph {row['build_seconds']:.2f} s, Jacobian {row['jacobian_seconds']:.2f} s"
        )
