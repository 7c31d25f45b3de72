"""The native engine."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from importlib import metadata
from typing import ClassVar, Final

import numpy as np

from pysciml.engines.base import Array, Engine, RawSolution, Sensitivities, SolveOptions, registry
from pysciml.engines.manifold import solve_on_manifold
from pysciml.engines.native import auto, events, fields, line
from pysciml.engines.native.compile import prepare
from pysciml.engines.native.initial import InconsistentError, consistent, structurally_singular
from pysciml.engines.native.lower import SUPPORTED
from pysciml.engines.native.sensitivity import forward
from pysciml.engines.native.stepping import March, Task, march
from pysciml.engines.timed import has_times, refuse_steps, solve_between
from pysciml.errors import UnsupportedError
from pysciml.graph import Model, ops
from pysciml.graph.manifold import on_manifold, start_on
from pysciml.graph.networks import check_written, expand

_ALGORITHMS: Final = {
    "Tsit5": "explicit Runge-Kutta, order 5(4), for non-stiff problems (Tsitouras 2011)",
    "QNDF": "implicit multistep NDF, order 1 to 5, for stiff problems (Shampine & Reichelt 1997)",
    "TRBDF2": "implicit Runge-Kutta, order 2, for stiff problems at loose tolerances (Hosea & Shampine 1996)",
    "ESDIRK34": "implicit Runge-Kutta, order 3(4), for stiff problems (Jørgensen, Kristensen & Thomsen 2018)",
}


class NativeEngine(Engine):
    """Ordinary and semi-explicit differential-algebraic equations, compiled by LLVM.

    The graph becomes a DiffSL text, which pydiffsol compiles and solves. Parameters and initial
    values are inputs of the compiled model: it is compiled once, whatever values follow.
    """

    name: ClassVar[str] = "native"
    kinds: ClassVar[tuple[str, ...]] = ("ode", "dae")
    solves_fields: ClassVar[bool] = True
    keeps_constraints: ClassVar[bool] = True

    def unavailable(self) -> str | None:
        """Why pydiffsol cannot be used; None when it can."""
        if importlib.util.find_spec("pydiffsol") is None:
            return "pydiffsol is not installed: python -m pip install pydiffsol"
        return None

    def version(self) -> str:
        """The version of pydiffsol."""
        try:
            return metadata.version("pydiffsol")
        except metadata.PackageNotFoundError:
            return ""

    def algorithms(self) -> dict[str, str]:
        """The algorithms of diffsol, by their SciML names."""
        return _ALGORITHMS | fields.ALGORITHMS

    def check(self, model: Model, algorithm: str | None) -> None:
        """Raise `UnsupportedError` for a kind, an operation, an index or an algorithm it lacks."""
        if model.kind not in self.kinds:
            raise UnsupportedError(
                f"the native engine solves {' and '.join(self.kinds)}, and {model.name!r} is {model.kind}"
                + (f"; {self._able(model)}" if model.kind == "jump" else ""),
                engine=self.name,
                algorithm=algorithm,
            )
        if model.fields:
            fields.check(self, model, algorithm)
            return
        model = on_manifold(model)
        refuse_steps(model, self.name)
        if algorithm in fields.ALGORITHMS:
            raise UnsupportedError(
                f"{algorithm} is for partial differential equations in the native engine: take Tsit5",
                engine=self.name,
                algorithm=algorithm,
            )
        self.check_algorithm(algorithm)
        used = model.graph.used_ops(["rhs"])
        if ops.NETWORK in used:
            used = self._written_out(model)
        missing = sorted(ops.OPS[code].name for code in used - SUPPORTED)
        if missing:
            raise UnsupportedError(
                f"the native engine cannot evaluate {', '.join(missing)}; {self._able(model)}",
                engine=self.name,
                algorithm=algorithm,
            )
        if not model.differential.all() and structurally_singular(model):
            raise UnsupportedError(
                f"the algebraic equations of {model.name!r} do not determine its algebraic states: its index is higher "
                "than 1, and the native engine solves index 1: replace constraints by their derivatives in time",
                engine=self.name,
                algorithm=algorithm,
            )
        if algorithm == "Tsit5" and not model.differential.all():
            raise UnsupportedError(
                "Tsit5 is explicit and cannot solve algebraic equations: use QNDF, TRBDF2 or ESDIRK34",
                engine=self.name,
                algorithm=algorithm,
            )

    def compiles_fields(self, model: Model, algorithm: str | None) -> bool:
        """Whether it is one on a line, compiled or with a sparse factorization."""
        return fields.factorizes(model, algorithm) or fields.compiles(model, algorithm, SolveOptions(), backward=False)

    def _able(self, model: Model) -> str:
        """Which other engines solve a model, installed or not."""
        able: list[str] = []
        for name, engine in registry().items():
            if name != self.name:
                with contextlib.suppress(UnsupportedError):
                    engine.check(model, None)
                    able.append(f"engine={name!r}")
        return f"{' or '.join(able)} can" if able else "no registered engine can"

    def solve(
        self,
        model: Model,
        u0: Array,
        p: Array,
        tspan: tuple[float, float],
        algorithm: str | None,
        options: SolveOptions,
    ) -> RawSolution:
        """Compile and solve; see `pysciml.engines.native.stepping` for how calls are bounded."""
        if model.fields and not fields.compiles(model, algorithm, options, backward=tspan[1] < tspan[0]):
            return fields.solve(model, u0, p, tspan, algorithm, options)
        if model.constraints:
            return solve_on_manifold(self.solve, model, u0, p, tspan, algorithm, options)
        if has_times(model):
            return solve_between(self.solve, model, u0, p, tspan, algorithm, options)
        if options.dt is not None:
            raise UnsupportedError(
                "the native engine chooses its first step itself and takes no dt",
                engine=self.name,
                algorithm=algorithm,
            )
        begin = time.perf_counter()
        backward = tspan[1] < tspan[0]
        prepared = line.prepare(model, backward=backward) if model.fields else prepare(model, backward=backward)
        compiled = prepared.compiled
        ready = time.perf_counter()
        sign = prepared.sign
        task = Task(
            prepared,
            algorithm or auto.IMPLICIT,
            0.0,
            abs(tspan[1] - tspan[0]),
            np.ascontiguousarray(u0, dtype=np.float64),
            np.ascontiguousarray(p, dtype=np.float64),
            float(tspan[0]),
            options.rtol,
            options.atol,
            None if options.saveat is None else sign * (options.saveat - tspan[0]),
            options.max_steps,
            options.progress,
        )
        fired: list[events.Fired] = []
        if not model.differential.all():
            try:
                task.u0 = consistent(prepared, task.u0, task.p, tspan[0], options.rtol, options.atol)
            except InconsistentError as error:
                if error.singular:
                    raise UnsupportedError(
                        f"{model.name}: {error}; the native engine solves index 1: replace constraints by their "
                        "derivatives in time",
                        engine=self.name,
                        algorithm=algorithm,
                    ) from error
                return self._failed(task, algorithm or auto.IMPLICIT, str(error))
        if model.events:
            result, algorithm, fired = events.solve(task, choose=algorithm is None)
        elif algorithm is None:
            result, decision = auto.solve(task, calibrate=not model.fields)
            algorithm = decision.name
        else:
            result = march(task)
        if result.retcode != "Success" and not np.isfinite(prepared.rhs(task.u0, task.p, tspan[0])).all():
            message = "the right-hand side is not finite at the initial values"
            return self._failed(task, algorithm, message, "Unstable")
        return RawSolution(
            _model_times(task, tspan, options, result),
            result.u,
            algorithm,
            result.retcode,
            result.message,
            n_steps=result.n_steps,
            event_times=[(when.t, event) for when in fired for event in when.events],
            solve_seconds=time.perf_counter() - ready,
            compile_seconds=compiled.seconds if ready - begin > 0.5 * compiled.seconds else 0.0,
        )

    def _written_out(self, model: Model) -> frozenset[int]:
        """The operations the right-hand side needs with its networks written out."""
        check_written(model.graph.networks, self.name)
        return expand(model.graph).used_ops(["rhs"])

    def solve_repeatably(
        self,
        model: Model,
        u0: Array,
        p: Array,
        near: tuple[Array, Array],
        tspan: tuple[float, float],
        algorithm: str | None,
        options: SolveOptions,
    ) -> RawSolution:
        """See `pysciml.engines.batch.RepeatableEngine`."""
        from pysciml.engines.native import repeatable

        if model.constraints:

            def inner(
                model: Model,
                u0: Array,
                p: Array,
                tspan: tuple[float, float],
                algorithm: str | None,
                options: SolveOptions,
            ) -> RawSolution:
                return repeatable.solve(self, model, u0, p, around, tspan, algorithm, options)

            around = start_on(model, near[0]), near[1]
            return solve_on_manifold(inner, model, u0, p, tspan, algorithm, options)
        return repeatable.solve(self, model, u0, p, near, tspan, algorithm, options)

    def sensitivities(
        self,
        model: Model,
        u0: Array,
        p: Array,
        tspan: tuple[float, float],
        algorithm: str | None,
        options: SolveOptions,
    ) -> Sensitivities:
        """Derivatives by the forward sensitivity equations, solved with the states.

        Raises
        ------
        UnsupportedError
            For systems with algebraic equations or events.
        """
        if not model.differential.all() or model.events:
            raise UnsupportedError(
                "the native engine has sensitivities of ordinary differential equations without events only",
                engine=self.name,
                algorithm=algorithm,
            )
        return forward(self.solve, model, u0, p, tspan, algorithm, options)

    def _failed(self, task: Task, algorithm: str, message: str, retcode: str = "InitialFailure") -> RawSolution:
        return RawSolution(np.array([task.origin]), task.u0[:, None], algorithm, retcode, message)


def _model_times(task: Task, tspan: tuple[float, float], options: SolveOptions, result: March) -> Array:
    """The times of a result in the model's time, exactly those asked for where they were."""
    if options.saveat is not None and task.saveat is not None:
        return options.saveat[np.searchsorted(task.saveat, result.t)]
    times = np.asarray(task.model_time(result.t))
    if result.retcode == "Success" and times.size:
        times[-1] = tspan[1]
    return times
