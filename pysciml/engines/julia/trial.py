"""``python -m pysciml.engines.julia.trial``: solve small problems of every kind with Julia.

This is how a system image is tried, and how Julia is told beforehand what to compile into it.
"""

from __future__ import annotations

import math

import numpy as np

import pysciml as ps

D = ps.D


def problems() -> list[tuple[ps.Problem, tuple[str | None, ...]]]:
    """Small problems and algorithms for each."""
    x, y = ps.variables("x y")
    a = ps.parameters("a")
    decay = ps.Problem(ps.System([ps.Eq(D(x), -a * x), ps.Eq(D(y), x - y)]), {x: 1.0, y: 0.0}, (0, 1), {a: 1.0})
    walk = ps.Problem(ps.System([ps.Eq(D(x), 0.1 * x + 0.2 * x * ps.brownian("B"))]), {x: 1.0}, (0, 1))
    delayed = ps.Problem(ps.System([ps.Eq(D(x), -x.subs(ps.t, ps.t - 1))]), {x: 1.0}, (0, 2))
    return [
        (decay, (None, "Tsit5", "Vern7", "Vern9", "Rodas5P", "FBDF", "KenCarp4")),
        (walk, (None, "SOSRI")),
        (delayed, (None,)),
    ]


def main() -> None:
    """Solve them.

    Raises
    ------
    AssertionError
        If a solution is wrong.
    """
    (decay, _), *_ = found = problems()
    for problem, algorithms in found:
        for algorithm in algorithms:
            for saveat in (None, np.linspace(*problem.tspan, 5)):
                sol = ps.solve(problem, algorithm, engine="julia", seed=1, saveat=saveat)
                end = float(sol["x"][-1])
                if problem is decay and not math.isclose(end, math.exp(-1), rel_tol=1e-2):
                    raise AssertionError(f"{algorithm}: {end} in the place of exp(-1)")
    ps.solve_ensemble(decay, over={"a": [1.0, 2.0]}, engine="julia")


if __name__ == "__main__":
    main()
