"""The native engine."""

from __future__ import annotations

import importlib.util
import time
from importlib import metadata
from typing import ClassVar, Final

import numpy as np

from pysciml.engines.base import Array, Engine, RawSolution, SolveOptions
from pysciml.engines.native import auto
from pysciml.engines.native.compile import prepare
from pysciml.engines.native.lower import SUPPORTED
from pysciml.engines.native.stepping import Task, march
from pysciml.errors import UnsupportedError
from pysciml.graph import Model, ops

_ALGORITHMS: Final = {
    "Tsit5": "explicit Runge-Kutta, order 5(4), for non-stiff problems (Tsitouras 2011)",
    "QNDF": "implicit multistep NDF, order 1 to 5, for stiff problems (Shampine & Reichelt 1997)",
    "TRBDF2": "implicit one-step, order 2, for stiff problems at loose tolerances (Bank et al. 1985)",
    "ESDIRK34": "implicit Runge-Kutta, order 4(3), for stiff problems (Kvaerno 2004)",
}


class NativeEngine(Engine):
    """Ordinary and semi-explicit differential-algebraic equations, compiled by LLVM.

    The graph becomes a DiffSL text, which pydiffsol compiles and solves. Parameters and initial
    values are inputs of the compiled model: it is compiled once, whatever values follow.
    """

    name: ClassVar[str] = "native"
    kinds: ClassVar[tuple[str, ...]] = ("ode", "dae")

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("pydiffsol") is None:
            return "pydiffsol is not installed: python -m pip install pydiffsol"
        return None

    def version(self) -> str:
        try:
            return metadata.version("pydiffsol")
        except metadata.PackageNotFoundError:
            return ""

    def algorithms(self) -> dict[str, str]:
        return dict(_ALGORITHMS)

    def check(self, model: Model, algorithm: str | None) -> None:
        if model.kind not in self.kinds:
            raise UnsupportedError(
                f"the native engine solves {' and '.join(self.kinds)}, and {model.name!r} is {model.kind}",
                engine=self.name,
                algorithm=algorithm,
            )
        self.check_algorithm(algorithm)
        used = model.graph.used_ops(["rhs", *(event.condition for event in model.events)])
        missing = sorted(ops.OPS[code].name for code in used - SUPPORTED)
        if missing:
            raise UnsupportedError(
                f"the native engine cannot evaluate {', '.join(missing)}; the jax and julia engines can",
                engine=self.name,
                algorithm=algorithm,
            )
        if algorithm == "Tsit5" and not model.differential.all():
            raise UnsupportedError(
                "Tsit5 is explicit and cannot solve algebraic equations: use QNDF, TRBDF2 or ESDIRK34",
                engine=self.name,
                algorithm=algorithm,
            )

    def solve(
        self,
        model: Model,
        u0: Array,
        p: Array,
        tspan: tuple[float, float],
        algorithm: str | None,
        options: SolveOptions,
    ) -> RawSolution:
        begin = time.perf_counter()
        backward = tspan[1] < tspan[0]
        prepared = prepare(model, backward=backward)
        compiled = prepared.compiled
        ready = time.perf_counter()
        sign = prepared.sign
        task = Task(
            prepared,
            algorithm or auto.IMPLICIT,
            sign * tspan[0],
            sign * tspan[1],
            np.ascontiguousarray(u0, dtype=np.float64),
            np.ascontiguousarray(p, dtype=np.float64),
            options.rtol,
            options.atol,
            None if options.saveat is None else sign * options.saveat,
            options.max_steps,
            options.progress,
        )
        if algorithm is None:
            result, decision = auto.solve(task)
            algorithm = decision.name
        else:
            result = march(task)
        return RawSolution(
            sign * result.t if backward else result.t,
            result.u,
            algorithm,
            result.retcode,
            result.message,
            n_steps=result.n_steps,
            solve_seconds=time.perf_counter() - ready,
            compile_seconds=compiled.seconds if ready - begin > 0.5 * compiled.seconds else 0.0,
        )
