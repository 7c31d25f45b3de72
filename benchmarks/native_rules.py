"""The measurements behind the native engine's rules: `python -m benchmarks.native_rules`.

- equations or vectors: compile and solve time of a chain of oscillators, written both ways
  (``emit.SCALAR_OPERATIONS``);
- dense or sparse linear algebra on a diffusion line (``compile.SPARSE_STATES``);
- the error of each method in units of the tolerance (``auto.SHARE``);
- the cost of a step against the engine's model of it (``stepping.step_cost``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.detest import DETEST
from benchmarks.problems import PROBLEMS
from benchmarks.reference import reference
from pysciml.engines.base import SolveOptions
from pysciml.engines.native import NativeEngine
from pysciml.engines.native.compile import prepare
from pysciml.engines.native.emit import count_operations, emit
from pysciml.engines.native.lower import lower
from pysciml.engines.native.stepping import step_cost
from pysciml.graph import GraphBuilder, Model, ops


def seconds(work: Callable[[], Any], repeat: int = 5) -> float:
    """The fastest of some runs."""
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def line(n: int) -> Model:
    """Diffusion with a nonlinear source on a line of ``n`` points."""
    b = GraphBuilder(n, 1)
    x = [b.state(k) for k in range(n)]
    rows = [
        b.sum([x[k - 1], x[(k + 1) % n], b.mul(b.constant(-2.0), x[k]), b.mul(b.param(0), b.call(ops.SIN, x[k]))])
        for k in range(n)
    ]
    names = tuple(f"x{k}" for k in range(n))
    return Model(b.build({"rhs": rows}), "ode", "line", names, ("a",), (), np.ones(n, dtype=bool))


def writing() -> None:
    """Equations or vectors; dense or sparse."""
    import pydiffsol

    print("n  operations  written as   matrix          compile [s]  QNDF to t=10 [ms]")
    for n in (8, 16, 32, 64, 96):
        model = line(n)
        lowered = lower(model.graph, ["rhs"])
        inputs = np.concatenate([[1.0], [0.0], np.sin(np.arange(n))])
        for vectors in (False, True):
            if not vectors and n > 64:
                continue
            for matrix in ("nalgebra_dense", "faer_sparse"):
                text = emit(lowered, model.differential, vectors=vectors).text
                start = time.perf_counter()
                ode = pydiffsol.Ode(text, matrix_type=getattr(pydiffsol, matrix), linear_solver=pydiffsol.lu)
                compiled = time.perf_counter() - start
                took = seconds(lambda ode=ode, inputs=inputs: ode.solve(inputs, 10.0))
                form = "vectors" if vectors else "equations"
                print(
                    f"{n:<4}{count_operations(lowered):<11} {form:<12} {matrix:<15} {compiled:<12.2f} {1e3 * took:.2f}"
                )


def errors_and_costs() -> None:
    """Errors in tolerances, and microseconds per step, measured and modelled."""
    engine = NativeEngine()
    print("problem       method    error/tolerance at 1e-4, 1e-6, 1e-8    us per step: measured (model)")
    for problem in (*DETEST, *PROBLEMS):
        if problem.n > 100:
            continue
        asked = problem.pysciml()
        model, exact = asked.system.model, reference(problem.name)
        for algorithm in ("QNDF", "TRBDF2", "ESDIRK34") if problem.stiff else ("Tsit5", "QNDF"):
            found: list[float] = []
            per_step = float("nan")
            for rtol in (1e-4, 1e-6, 1e-8):
                options = SolveOptions(rtol, rtol * problem.atol_factor, np.array(problem.times))
                arguments = model, asked.u0, asked.p, problem.tspan, algorithm, options
                raw = engine.solve(*arguments)
                found.append(problem.error(raw.u, exact) / rtol)
                per_step = seconds(lambda arguments=arguments: engine.solve(*arguments), 3) / max(raw.n_steps, 1)
            model_cost = step_cost(prepare(model), algorithm)
            shown = "  ".join(f"{value:10.3g}" for value in found)
            print(f"{problem.name:<13} {algorithm:<9} {shown}    {1e6 * per_step:.2f} ({1e6 * model_cost:.2f})")


if __name__ == "__main__":
    writing()
    errors_and_costs()
