"""`JuliaEngine`: what the front sees. Julia is started by the first solve."""

from __future__ import annotations

import re
import secrets
import sys
import time
from typing import Any, ClassVar, Final

import numpy as np

from pysciml.engines.base import Array, Engine, RawSolution, SolveOptions
from pysciml.engines.batch import Batch, BatchOptions, BatchReport
from pysciml.engines.julia import bridge, environment
from pysciml.engines.julia.algorithms import AGGREGATORS, ALGORITHMS, BROKEN, SEMILINEAR, SPLIT_ALONE
from pysciml.engines.julia.exponential import check_exponential, is_exponential
from pysciml.engines.julia.fields import OPERATIONS as FIELD_OPERATIONS
from pysciml.engines.julia.halves import PARTITIONED, halves
from pysciml.engines.julia.jumps import check_rates, is_pure
from pysciml.engines.julia.transfer import address, compiled, default, floats, has_parts, scalar_graph, tolerances
from pysciml.engines.manifold import batch_on_manifold, solve_on_manifold
from pysciml.engines.native.initial import structurally_singular
from pysciml.engines.steps import whole_steps
from pysciml.errors import EngineUnavailableError, ProblemError, UnsupportedError
from pysciml.graph import Graph, Model
from pysciml.graph.array_ops import describe
from pysciml.graph.manifold import on_manifold
from pysciml.graph.networks import check_written
from pysciml.graph.reduction import Reduced, Unreduced

#: A solve comes back from Julia this often, in seconds, for Ctrl-C and progress.
_SLICE: Final = 0.1

#: Models and algorithms that were checked: every solve asks.
_FITTING: Final[set[tuple[str, str | None]]] = set()
_REMEMBERED: Final = 10_000

#: Codes of the operations in the table of ``julia/src/operations.jl``.
OPERATIONS: Final = frozenset(
    (0, 1, 2, 3, 5, *range(10, 16), *range(20, 36), *range(40, 48), *range(50, 59), *range(60, 70))
)

_MESSAGES: Final = {
    "MaxIters": "max_steps = {max_steps} steps did not reach the end",
    "Unstable": "the solution is not finite any more",
    "DtLessThanMin": "the step size went to zero: a singularity, or a discontinuity",
    "DtNaN": "the step size is not a number: the right-hand side is not finite at the start",
    "ConvergenceFailure": "the implicit equations of a step could not be solved",
    "InitialFailure": "no consistent initial values were found",
}


class JuliaEngine(Engine):
    """Symbolics.jl and DifferentialEquations.jl, in this process, through juliacall.

    A model crosses as arrays, is compiled there once, and is solved without any call back into
    Python; the interpreter lock is released meanwhile.
    """

    name: ClassVar[str] = "julia"
    kinds: ClassVar[tuple[str, ...]] = ("ode", "dae", "sde", "dde", "jump")
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    tolerance_of_each: ClassVar[bool] = True
    solves_fields: ClassVar[bool] = True
    keeps_constraints: ClassVar[bool] = True

    def unavailable(self) -> str | None:
        """See `Engine.unavailable`."""
        if bridge.found():  # every solve asks, and looking at files takes longer than a short one
            return None
        found = environment.find()
        return found if isinstance(found, str) else None

    def version(self) -> str:
        """Julia's version, where it is known without starting it."""
        if bridge.running():
            return f"Julia {bridge.julia().VERSION}"
        found = environment.find()
        return "" if isinstance(found, str) else f"Julia {found.julia}".strip()

    def algorithms(self) -> dict[str, str]:
        """See `Engine.algorithms`; any other exported by the solver packages can be used as well.

        Options are written as in Julia, ``"FBDF(max_order=3)"``: numbers, ``true``, ``false``, or for ``linsolve``
        the name of a linear solver of LinearSolve.jl. They are read and checked, never evaluated. Linear solvers that
        take products with the Jacobian (``KrylovJL_GMRES``) are for partial differential equations on a GPU.
        """
        return {name: about for name, (_, about) in ALGORITHMS.items()}

    def check(self, model: Model, algorithm: str | None) -> None:
        """See `Engine.check`."""
        model = on_manifold(model)
        if (model.hash, algorithm) in _FITTING:
            return
        if model.kind not in self.kinds:
            raise self._unsupported(
                f"the julia engine solves {', '.join(self.kinds)}, and {model.name!r} is {model.kind}", algorithm
            )
        check_written(model.graph.networks, self.name)
        known = OPERATIONS | (FIELD_OPERATIONS if model.fields else frozenset())
        missing = [describe(code).name for code in sorted(scalar_graph(model).used_ops() - known)]
        if missing:
            raise self._unsupported(f"the julia engine cannot evaluate {', '.join(missing)}", algorithm)
        if not (model.differential.all() or model.fields) and structurally_singular(model):
            raise self._unsupported(
                f"the algebraic equations of {model.name!r} do not determine its algebraic states: its index is higher "
                "than 1, and the julia engine solves index 1 in this version; differentiate the constraint",
                algorithm,
            )
        if algorithm is not None:
            self._check_algorithm(model, algorithm)
        if bridge.running():  # before that only Julia's own list of algorithms is not known
            if len(_FITTING) > _REMEMBERED:
                _FITTING.clear()
            _FITTING.add((model.hash, algorithm))

    def devices_for(self, model: Model, *, ensemble: bool = False) -> tuple[str, ...]:
        """See `Engine.devices_for`: fields, and ensembles of ordinary equations, run on a GPU."""
        return ("cpu",) if ensemble == bool(model.fields) else self.devices

    def check_place(self, model: Model, device: str, precision: str, *, ensemble: bool = False) -> None:
        """See `Engine.check_place`: a GPU has both precisions."""
        if device in self.devices and device not in self.devices_for(model, ensemble=ensemble):
            raise UnsupportedError(
                f"the julia engine has device={device!r} for partial differential equations (pysciml.solve) and for "
                "ensembles of ordinary ones (pysciml.solve_ensemble); engine='jax' has it for others",
                engine=self.name,
            )
        if device != "cpu" and model.fields and not model.differential.all():
            raise UnsupportedError(
                f"{model.name!r} has fields without a time derivative, which are solved for on the CPU alone",
                engine=self.name,
            )
        super().check_place(model, device, precision if device == "cpu" else "float64", ensemble=ensemble)
        if device == "cpu":
            return
        found = environment.find()
        if isinstance(found, str):
            raise EngineUnavailableError(found, engine=self.name)
        missing = environment.lacking(found.project, ("CUDA", "DiffEqGPU") if ensemble else ("CUDA",))
        reason = f"the Julia environment has no {' and no '.join(missing)}" if missing else ""
        if reason := reason or str(bridge.julia().load_device(device, ensemble)):
            raise EngineUnavailableError(
                f"device={device!r}: {reason}. With an NVIDIA GPU and its driver, run `{environment.SETUP} --cuda`",
                engine=self.name,
            )

    def _check_algorithm(self, model: Model, algorithm: str) -> None:
        name, _, given = algorithm.partition("(")
        if name in BROKEN:
            raise self._unsupported(f"{name} {BROKEN[name]}", algorithm)
        if name in PARTITIONED:
            halves(model, name, self.name)
        if is_exponential(name):
            check_exponential(model, algorithm, self.name)
        if name in SPLIT_ALONE and not has_parts(model):
            which = (
                f"{model.name!r} has no terms that are linear in the fields with coefficients that do not change"
                if model.fields
                else f"mark the stiff terms of {model.name!r} with pysciml.implicit()"
            )
            raise self._unsupported(
                f"{name} solves ordinary equations in two parts, one implicitly and one explicitly: {which}; "
                "KenCarp4 and FBDF do without",
                algorithm,
            )
        wanted = {"sde" if model.noise else "ode"}
        if model.jumps and is_pure(model):
            wanted.add("jump")
        if name in ALGORITHMS:
            if ALGORITHMS[name][0] not in wanted:
                fitting = ", ".join(name for name, (kind, _) in ALGORITHMS.items() if kind in wanted)
                what = f"{model.kind} problems"
                if name in AGGREGATORS and model.jumps:
                    what = "jumps with anything that changes between them"
                raise self._unsupported(f"{name} is not for {what}, but {fitting} are", algorithm)
            if not given or name in AGGREGATORS:
                if given:
                    raise self._unsupported(f"{name} takes no options", algorithm)
                return
        if re.fullmatch(r"[A-Za-z]\w*(\([^()]*\))?", algorithm, re.ASCII) is None:
            self.check_algorithm(algorithm)
        if self.unavailable() is None:  # rarer ones, and options, are known to Julia only
            module = bridge.julia()
            kind = "sde" if model.noise else "ode" if model.kind == "jump" else model.kind
            products = kind == "ode"  # which a GPU alone takes: on a CPU there is a matrix, and a solve there says so
            self._translated(lambda: module.algorithm(algorithm, module.Symbol(kind), products), algorithm)

    def solve(
        self,
        model: Model,
        u0: Array,
        p: Array,
        tspan: tuple[float, float],
        algorithm: str | None,
        options: SolveOptions,
    ) -> RawSolution:
        """See `Engine.solve`."""
        if model.constraints:
            return solve_on_manifold(self.solve, model, u0, p, tspan, algorithm, options)
        name = algorithm or default(model, options.device)
        on_grid = whole_steps(name, tspan, options)[1] if name.partition("(")[0] in SEMILINEAR else None
        calls, place = bridge.calls(), options.device
        ready, compile_seconds = self._translated(lambda: compiled(model, name, place), algorithm)
        seed = options.seed or 0
        if options.seed is None and (model.noise or model.jumps):
            seed = secrets.randbits(63)
        begin = time.perf_counter()
        start, parameters = floats(u0), floats(p)
        atols = tolerances(model, options)
        if model.jumps:
            check_rates(model, u0, p, tspan)
            start = np.append(start, 0.0)
        times = None if options.saveat is None else floats(options.saveat)
        with ready.lock:
            given = (
                ready.handle,
                address(start),
                address(parameters),
                float(tspan[0]),
                float(tspan[1]),
                name,
                float(options.rtol),
                float(options.atol),
                0 if atols is None else address(atols),
                0 if times is None else address(times),
                0 if times is None else times.size,
                float(options.dt or 0.0),
                int(options.max_steps),
            )
            seconds = 0.0 if options.progress else _SLICE
            run, outcome = self._translated(
                lambda: (
                    calls.start(*given, int(seed), seconds)
                    if place == "cpu"
                    else calls.start_on_device(*given, seconds, place, options.precision)
                ),
                algorithm,
            )
            interrupted = outcome is None and self._advance(calls, run, model, tspan, options)
            if outcome is None:
                outcome = calls.outcome(run)
            count, fired, label, retcode, message, accepted, rejected, evaluations, jumps = outcome
            t, u = np.empty(count), np.empty((start.size, count))
            when, which = np.empty(fired), np.empty(fired, dtype=np.int64)
            calls.write_outcome(run, address(t), address(u), address(when), address(which))
        if interrupted:
            retcode, message = "Interrupted", "interrupted"
        raw = RawSolution(
            t=t if on_grid is None else on_grid[:count],
            u=u[: len(u0)].astype(options.precision, copy=False),
            algorithm=label,
            retcode=retcode,
            message=message or _MESSAGES.get(retcode, "").format(max_steps=options.max_steps),
            n_steps=accepted,
            n_rejected=rejected,
            n_rhs=evaluations,
            solve_seconds=time.perf_counter() - begin,
            compile_seconds=compile_seconds,
        )
        raw.extra |= options.place
        if model.events:
            raw.event_times = list(zip(when.tolist(), which.tolist(), strict=True))
        if model.jumps:
            raw.extra["n_jumps"] = jumps
        if model.noise or model.jumps:
            raw.extra["seed"] = seed
        if model.noise:
            raw.extra["calculus"] = "Ito"  # methods for Stratonovich's integral are refused
        return raw

    def simplified(self, graph: Graph, expand: bool) -> Graph:
        """See `Engine.simplified`: by Symbolics.jl."""
        from pysciml.engines.julia.simplifying import simplified

        return simplified(graph, expand)

    def index_reduced(self, unreduced: Unreduced, preferred: tuple[int, ...]) -> Reduced:
        """See `Engine.index_reduced`: by ModelingToolkit.jl, where it is installed."""
        from pysciml.engines.julia.reducing import index_reduced

        return index_reduced(unreduced, preferred)

    def solve_many(self, model: Model, algorithm: str | None, batch: Batch, options: BatchOptions) -> BatchReport:
        """See `pysciml.engines.batch.BatchEngine`."""
        from pysciml.engines.julia.many import solve_many

        if model.constraints:
            batch = batch_on_manifold(model, batch, options)
            model = on_manifold(model, backward=batch.tspan[1] < batch.tspan[0])
        return solve_many(model, algorithm, batch, options, lambda call: self._translated(call, algorithm))

    def _advance(
        self, calls: bridge.Calls, run: Any, model: Model, tspan: tuple[float, float], options: SolveOptions
    ) -> bool:
        """Let Julia work until it is done; whether it was interrupted."""
        try:
            while not calls.advance(run, _SLICE):
                if options.progress:
                    t, steps = calls.progress(run)
                    share = (t - tspan[0]) / (tspan[1] - tspan[0])
                    sys.stderr.write(f"\r{model.name}: {100 * share:.1f} %, {steps} steps")
                    sys.stderr.flush()
        except KeyboardInterrupt:
            return True
        finally:
            if options.progress:
                sys.stderr.write("\n")
        return False

    def _translated(self, call: Any, algorithm: str | None) -> Any:
        """Call Julia; what it cannot do becomes `UnsupportedError` with its own message."""
        try:
            return call()
        except Exception as error:
            if type(error).__name__ != "JuliaError":
                raise
            message = bridge.message_of(error)
            if "dt must be given" in message:
                raise ProblemError(f"{algorithm} has fixed steps: give their size as dt=", symbol="dt") from error
            raise self._unsupported(f"the julia engine: {message}", algorithm) from error

    def _unsupported(self, message: str, algorithm: str | None) -> UnsupportedError:
        return UnsupportedError(message, engine=self.name, algorithm=algorithm)
