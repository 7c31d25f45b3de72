"""`JaxEngine`: what the front sees. JAX itself is imported by the first solve."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata, util
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array, Engine, RawSolution, Sensitivities, SolveOptions, registry
from pysciml.engines.jax.algorithms import ALGORITHMS, ALIASES, Algorithm
from pysciml.engines.jax.fields.methods import FIELD_METHODS, check_fields
from pysciml.engines.manifold import batch_on_manifold, refuse_constraints, solve_on_manifold
from pysciml.engines.timed import has_times, refuse_steps, solve_between
from pysciml.errors import UnsupportedError
from pysciml.graph import Model, ops
from pysciml.graph.manifold import on_manifold

if TYPE_CHECKING:
    from pysciml.engines.batch import Batch, BatchOptions, BatchReport

_NEEDED: Final = ("jax", "diffrax", "equinox")
#: Checks that were passed, (model hash, algorithm): a solve of a small model takes no longer than a check.
_FITTING: Final[set[tuple[str, str | None]]] = set()
_REMEMBERED: Final = 10_000
#: Steps of a stochastic solve with a fixed step size that nobody gave.
_STEPS: Final = 1000
_NO_OPS: Final = frozenset({ops.BESSELJ, ops.BESSELY, ops.BESSELI, ops.BESSELK, ops.HISTORY})


class JaxEngine(Engine):
    """Ordinary and stochastic differential equations with diffrax, compiled by XLA.

    Arithmetic is in double precision unless asked otherwise, whatever the process has set. Compiled
    models are kept in the process (by the model's hash, the algorithm and the shape of the output)
    and, through JAX's compilation cache, in the user's cache folder.
    """

    name: ClassVar[str] = "jax"
    kinds: ClassVar[tuple[str, ...]] = ("ode", "sde")
    solves_fields: ClassVar[bool] = True
    keeps_constraints: ClassVar[bool] = True
    derivatives: ClassVar[str] = "sensitivities by JAX, forward mode"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    precisions: ClassVar[tuple[str, ...]] = ("float64", "float32")
    tolerance_of_each: ClassVar[bool] = True

    def unavailable(self) -> str | None:
        """See `Engine.unavailable`."""
        missing = [name for name in _NEEDED if util.find_spec(name) is None]
        if not missing:
            return None
        return f'the jax engine needs {", ".join(missing)}: run `pip install "pysciml[jax]"`'

    def version(self) -> str:
        """See `Engine.version`."""
        try:
            return f"diffrax {metadata.version('diffrax')}, jax {metadata.version('jax')}"
        except metadata.PackageNotFoundError:
            return ""

    def algorithms(self) -> dict[str, str]:
        """See `Engine.algorithms`."""
        listed = {name: algorithm.about for name, algorithm in ALGORITHMS.items()} | FIELD_METHODS
        return listed | {alias: f"another name of {name}" for alias, name in ALIASES.items()}

    def check(self, model: Model, algorithm: str | None) -> None:
        """See `Engine.check`."""
        model = on_manifold(model)
        if (model.hash, algorithm) in _FITTING:
            return
        if model.kind not in self.kinds:
            others = [e.name for e in registry().values() if model.kind in e.kinds and _solves(e, model)]
            who = f"engine={' or engine='.join(map(repr, others))} does" if others else "no registered engine does"
            what = {"dae": "differential-algebraic", "dde": "delay differential", "jump": "stochastic jump"}[model.kind]
            if model.fields:
                what = "for fields without a time derivative: it has no differential-algebraic"
            raise UnsupportedError(
                f"the jax engine does not solve {what} equations ({model.kind}); {who}",
                engine=self.name,
                algorithm=algorithm,
            )
        self.check_algorithm(algorithm)
        if model.fields:
            check_fields(model, algorithm)
            return
        refuse_steps(model, self.name)
        lacking = sorted(ops.OPS[code].name for code in model.graph.used_ops() & _NO_OPS)
        if lacking:
            raise UnsupportedError(
                f"the jax engine cannot evaluate {', '.join(lacking)} (in the equations of {model.name!r})",
                engine=self.name,
                algorithm=algorithm,
            )
        if model.kind == "sde" and model.events:
            raise UnsupportedError(
                "the jax engine has no events in stochastic equations", engine=self.name, algorithm=algorithm
            )
        if algorithm is not None:
            self._check_fit(model, algorithm)
        if len(_FITTING) > _REMEMBERED:
            _FITTING.clear()
        _FITTING.add((model.hash, algorithm))

    def check_place(self, model: Model, device: str, precision: str, *, ensemble: bool = False) -> None:
        """See `Engine.check_place`."""
        super().check_place(model, device, precision, ensemble=ensemble)
        if device != "cpu":
            from pysciml.engines.jax.compiling import find_device

            find_device(device)

    def _check_fit(self, model: Model, name: str) -> None:
        """Raise for a method that is not for this kind of equation or noise."""
        if name in FIELD_METHODS:
            raise UnsupportedError(
                f"{name} is a method for partial differential equations here, and {model.name!r} is "
                f"{_KINDS[model.kind]}: the native engine has QNDF for those",
                engine=self.name,
                algorithm=name,
            )
        algorithm = ALGORITHMS[ALIASES.get(name, name)]
        if algorithm.kind != model.kind:
            fitting = ", ".join(n for n, a in ALGORITHMS.items() if a.kind == model.kind)
            raise UnsupportedError(
                f"{name} is a method for {_KINDS[algorithm.kind]}, and {model.name!r} is "
                f"{_KINDS[model.kind]} ({model.kind}): the jax engine has {fitting} for those",
                engine=self.name,
                algorithm=name,
            )
        if algorithm.noise == "additive" and model.noise_type != "additive":
            raise UnsupportedError(
                f"{name} needs additive noise, and the noise of {model.name!r} is {model.noise_type} and depends on "
                "the state; EM, EulerHeun, GeneralShARK and SPaRK take any noise",
                engine=self.name,
                algorithm=name,
            )
        if algorithm.noise == "separate" or algorithm.family == "rossler":
            from pysciml.engines.jax.rossler import separate

            if not separate(model):
                raise UnsupportedError(
                    f"{name} needs scalar or diagonal noise: one noise for each state, depending on no state that "
                    f"another one drives; that of {model.name!r} is not. EM, EulerHeun, "
                    "GeneralShARK and SPaRK take any noise",
                    engine=self.name,
                    algorithm=name,
                )
        if algorithm.noise == "commutative" and not commutes(model):
            raise UnsupportedError(
                f"{name} needs commutative noise, and the noise of {model.name!r} does not commute; "
                "EM, EulerHeun, GeneralShARK and SPaRK take any noise",
                engine=self.name,
                algorithm=name,
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
        """See `Engine.solve`."""
        if model.fields:
            from pysciml.engines.jax.fields.run import solve as solve_fields

            return solve_fields(model, u0, p, tspan, ALIASES.get(algorithm or "", algorithm), options)
        from pysciml.engines.jax.single import solve

        if model.constraints:
            return solve_on_manifold(self.solve, model, u0, p, tspan, algorithm, options)
        if has_times(model):
            return solve_between(self.solve, model, u0, p, tspan, algorithm, options)
        return solve(model, u0, p, tspan, choose(model, algorithm), with_step(model, algorithm, tspan, options))

    def solve_many(self, model: Model, algorithm: str | None, batch: Batch, options: BatchOptions) -> BatchReport:
        """See `pysciml.engines.batch.BatchEngine`."""
        if model.fields:
            from pysciml.engines.jax.fields.many import solve_many as solve_many_fields

            return solve_many_fields(self, model, algorithm, batch, options)
        from pysciml.engines.jax.many import solve_many

        if model.constraints:
            batch = batch_on_manifold(model, batch, options)
            model = on_manifold(model, backward=batch.tspan[1] < batch.tspan[0])
        options = replace(options, solve=with_step(model, algorithm, batch.tspan, options.solve))
        return solve_many(model, choose(model, algorithm), batch, options)

    def sensitivities(
        self,
        model: Model,
        u0: Array,
        p: Array,
        tspan: tuple[float, float],
        algorithm: str | None,
        options: SolveOptions,
    ) -> Sensitivities:
        """See `Engine.sensitivities`."""
        from pysciml.engines.jax.sensitivity import sensitivities

        refuse_constraints(model, self.name)
        return sensitivities(model, u0, p, tspan, choose(model, algorithm), options)

    def sensitivities_by(
        self,
        model: Model,
        u0: Array,
        p: Array,
        tspan: tuple[float, float],
        algorithm: str | None,
        options: SolveOptions,
        by_p: npt.NDArray[np.intp],
        by_u0: npt.NDArray[np.intp],
    ) -> tuple[RawSolution, Array]:
        """See `Engine.sensitivities_by`."""
        from pysciml.engines.jax.sensitivity import sensitivities_by

        refuse_constraints(model, self.name)
        return sensitivities_by(model, u0, p, tspan, choose(model, algorithm), options, by_p, by_u0)


def with_step(model: Model, name: str | None, tspan: tuple[float, float], options: SolveOptions) -> SolveOptions:
    """The options with a step size, where the method that nobody named steps with a fixed one."""
    if name is not None or options.dt is not None or model.kind != "sde" or ALGORITHMS[choose(model, None)].adaptive:
        return options
    return replace(options, dt=abs(tspan[1] - tspan[0]) / _STEPS)


_KINDS: Final = {"ode": "an ordinary differential equation", "sde": "a stochastic differential equation"}


def commutes(model: Model) -> bool:
    """Whether the noise of a model commutes."""
    from pysciml.engines.jax.noise import is_commutative

    found = _COMMUTES.get(model.hash)
    if found is None:
        found = _COMMUTES[model.hash] = is_commutative(model)
    return found


_COMMUTES: Final[dict[str, bool]] = {}


def choose(model: Model, name: str | None) -> str:
    """The SciML name of the algorithm to use; the default is never stiff.

    ``"Tsit5"`` for ordinary equations; ``"SRA1"`` for additive noise, ``"EM"`` for any other and for fields, with a
    thousand steps unless ``dt`` says how long they are.
    """
    if name is not None:
        return ALIASES.get(name, name)
    if model.kind == "ode":
        return "Tsit5"
    return "SRA1" if model.noise_type == "additive" and not model.fields else "EM"


def describe(name: str) -> Algorithm:
    """The row of an algorithm."""
    return ALGORITHMS[name]


def _solves(engine: Engine, model: Model) -> bool:
    try:
        engine.check(model, None)
    except UnsupportedError:
        return False
    return True
