"""The contract between the front and an engine, and the registry of engines."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from pysciml.errors import EngineUnavailableError, UnsupportedError
from pysciml.graph import Graph, Model
from pysciml.graph.reduction import Reduced, Unreduced
from pysciml.hints import did_you_mean

Array = npt.NDArray[np.float64]

#: The order in which ``engine="auto"`` asks the embedded engines.
EMBEDDED: Final = ("native", "jax")


@dataclass(frozen=True)
class SolveOptions:
    """The options of one solve, checked by the front.

    Attributes
    ----------
    rtol, atol : float
    atols : array, shape (n_states,), or None
        The absolute tolerance of each state, where they differ; ``atol`` is then the smallest.
    saveat : array, shape (n_t,), or None
        Output times, ordered in the direction of integration and inside ``tspan``; None asks for
        the solver's own steps.
    dt : float or None
        Step size of a fixed-step method, first step size of an adaptive one.
    max_steps : int
    seed : int or None
    progress : bool
    device : str
        ``"cpu"``, or one of the engine's `Engine.devices`.
    precision : str
        ``"float64"``, or one of the engine's `Engine.precisions`.
    whole : (float, float) or None
        The span of the solve that this one is a piece of, by which a method is chosen.
    """

    rtol: float = 1e-6
    atol: float = 1e-9
    saveat: Array | None = None
    dt: float | None = None
    max_steps: int = 1_000_000
    seed: int | None = None
    progress: bool = False
    device: str = "cpu"
    precision: str = "float64"
    whole: tuple[float, float] | None = None
    atols: Array | None = None

    @property
    def absolute(self) -> float | Array:
        """The absolute tolerance: of all states, or of each."""
        return self.atol if self.atols is None else self.atols

    @property
    def place(self) -> dict[str, str | int | float]:
        """The attributes that say where and how exactly it is computed, where that is not the default."""
        asked = {"device": (self.device, "cpu"), "precision": (self.precision, "float64")}
        return {name: chosen for name, (chosen, default) in asked.items() if chosen != default}


@dataclass
class RawSolution:
    """What an engine computed, as plain arrays.

    Attributes
    ----------
    t : array, shape (n_t,)
    u : array, shape (n_states, n_t)
    algorithm : str
        What ran, by its SciML name.
    retcode : str
        SciML's return code; ``"Success"`` and ``"Terminated"`` are the successful ones.
    message : str
        What went wrong, as a sentence.
    observed : array, shape (n_observed, n_t), or None
        None lets the front evaluate them on the graph.
    n_steps, n_rejected, n_rhs : int
        -1 where the library does not report it.
    solve_seconds, compile_seconds : float
    event_times : list of (time, event number)
    extra : dict
        Further attributes for the user's Dataset (text, integers, floats), such as the seed.
    """

    t: Array
    u: Array
    algorithm: str
    retcode: str = "Success"
    message: str = ""
    observed: Array | None = None
    n_steps: int = -1
    n_rejected: int = -1
    n_rhs: int = -1
    solve_seconds: float = 0.0
    compile_seconds: float = 0.0
    event_times: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    extra: dict[str, str | int | float] = field(default_factory=dict[str, str | int | float])

    @property
    def successful(self) -> bool:
        """Whether the end of ``tspan`` or a terminal event was reached."""
        return self.retcode in ("Success", "Terminated")


@dataclass(frozen=True)
class Sensitivities:
    """A solution and its derivatives.

    Attributes
    ----------
    solution : RawSolution
    by_p : array, shape (n_states, n_t, n_params)
        The derivative of every state by every parameter.
    by_u0 : array, shape (n_states, n_t, n_states)
        The derivative of every state by every initial value.
    """

    solution: RawSolution
    by_p: Array
    by_u0: Array


class Engine(abc.ABC):
    """One way of solving models.

    An engine is found through the entry point group ``pysciml.engines``. Making one must cost
    nothing: its libraries are imported by the first call that needs them.
    """

    name: ClassVar[str]
    #: Kinds of system it solves.
    kinds: ClassVar[tuple[str, ...]]
    #: Whether it solves partial differential equations, whose graphs have array nodes (`graph.fields`).
    solves_fields: ClassVar[bool] = False
    #: Whether its solutions stay on constraints, which systems of reduced index have (`pysciml.engines.manifold`).
    keeps_constraints: ClassVar[bool] = False
    #: What its derivatives of solutions are called in a result.
    derivatives: ClassVar[str] = "sensitivities"
    #: Where it can compute, and in what arithmetic; the first is the default.
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    precisions: ClassVar[tuple[str, ...]] = ("float64",)
    #: Whether `SolveOptions.atols` is used.
    tolerance_of_each: ClassVar[bool] = False

    @abc.abstractmethod
    def unavailable(self) -> str | None:
        """Why the engine cannot run here and the command that mends it; None when it can.

        It must not import the engine's libraries.
        """

    @abc.abstractmethod
    def version(self) -> str:
        """The version of the library behind it (``""`` where it is not installed)."""

    @abc.abstractmethod
    def algorithms(self) -> dict[str, str]:
        """SciML name -> one line on the method, its order and its source."""

    @abc.abstractmethod
    def check(self, model: Model, algorithm: str | None) -> None:
        """Raise `UnsupportedError` for what it cannot do, before anything is compiled."""

    @abc.abstractmethod
    def solve(
        self,
        model: Model,
        u0: Array,
        p: Array,
        tspan: tuple[float, float],
        algorithm: str | None,
        options: SolveOptions,
    ) -> RawSolution:
        """Compile (cached by ``model.hash``) and solve.

        A solve that fails comes back with its ``retcode``, a message and what was computed.
        """

    def sensitivities(
        self,
        model: Model,
        u0: Array,
        p: Array,
        tspan: tuple[float, float],
        algorithm: str | None,
        options: SolveOptions,
    ) -> Sensitivities:
        """Derivatives of the solution at ``options.saveat`` by parameters and initial values."""
        raise UnsupportedError(f"the {self.name} engine has no sensitivities", engine=self.name, algorithm=algorithm)

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
        """Derivatives by some parameters and, after them, some initial values.

        Returns
        -------
        solution : RawSolution
        slopes : array, shape (n_states, n_t, n_by_p + n_by_u0)

        Notes
        -----
        This takes them from all of them; an engine that can solve for fewer overrides it.
        """
        found = self.sensitivities(model, u0, p, tspan, algorithm, options)
        return found.solution, np.concatenate([found.by_p[:, :, by_p], found.by_u0[:, :, by_u0]], axis=2)

    def simplified(self, graph: Graph, expand: bool) -> Graph:
        """The same outputs of a graph with simpler expressions; ``expand`` multiplies out sums before."""
        raise UnsupportedError(f"the {self.name} engine simplifies no expressions", engine=self.name)

    def index_reduced(self, unreduced: Unreduced, preferred: tuple[int, ...]) -> Reduced:
        """The same equations with index 1, ``preferred`` unknowns as states if possible; see `pysciml.reduce_index`."""
        raise UnsupportedError(f"the {self.name} engine reduces no index", engine=self.name)

    def devices_for(self, model: Model, *, ensemble: bool = False) -> tuple[str, ...]:
        """The devices that the engine has for a model, or for an ``ensemble`` of it."""
        return self.devices

    def check_place(self, model: Model, device: str, precision: str, *, ensemble: bool = False) -> None:
        """Raise for a device or a precision the engine lacks for a model, naming those it has and who has it.

        An engine that has other devices extends this to raise `EngineUnavailableError` where there is none here.
        """

        def having(engine: Engine, what: str) -> tuple[str, ...]:
            return engine.devices_for(model, ensemble=ensemble) if what == "device" else engine.precisions

        for what, asked in (("device", device), ("precision", precision)):
            mine = having(self, what)
            if asked in mine:
                continue
            others = [repr(name) for name, engine in registry().items() if asked in having(engine, what)]
            elsewhere = f"engine={' or engine='.join(others)} has it" if others else "no registered engine has it"
            raise UnsupportedError(
                f"the {self.name} engine has no {what} {asked!r}, only {', '.join(map(repr, mine))}; {elsewhere}",
                engine=self.name,
            )

    def check_tolerances(self, each: bool) -> None:
        """Raise for a tolerance of ``each`` state where the engine has one for all, naming who has it."""
        if each and not self.tolerance_of_each:
            others = [f"engine={name!r}" for name, engine in registry().items() if engine.tolerance_of_each]
            raise UnsupportedError(
                f"the {self.name} engine has one atol for all states; {' or '.join(others)} takes one for each",
                engine=self.name,
            )

    def check_fields(self, model: Model) -> None:
        """Raise for a partial differential equation where the engine solves none."""
        if model.fields and not self.solves_fields:
            others = [name for name, engine in registry().items() if engine.solves_fields]
            raise UnsupportedError(
                f"the {self.name} engine does not solve partial differential equations ({model.name!r} is one): "
                f"{' and '.join(others)} can",
                engine=self.name,
            )

    def compiles_fields(self, model: Model, algorithm: str | None) -> bool:
        """Whether it turns this partial differential equation into machine code within a second or so.

        Or needs none: it has a direct method for it. Such an engine is asked first.
        """
        return False

    def check_constraints(self, model: Model) -> None:
        """Raise for a system of reduced index where the engine would let its solution drift from the constraints."""
        if model.constraints and not self.keeps_constraints:
            others = [name for name, engine in registry().items() if engine.keeps_constraints]
            raise UnsupportedError(
                f"the {self.name} engine does not keep solutions on constraints, and the index of {model.name!r} was "
                f"reduced: {' and '.join(others)} can",
                engine=self.name,
            )

    def check_algorithm(self, algorithm: str | None) -> None:
        """Raise for an algorithm the engine lacks, naming those it has and who has it."""
        known = self.algorithms()
        if algorithm is None or algorithm in known:
            return
        others = [name for name, engine in registry().items() if name != self.name and algorithm in engine.algorithms()]
        elsewhere = (
            f"{algorithm} is available with engine={' or engine='.join(map(repr, others))}"
            if others
            else f"no registered engine has it{_meant(algorithm, known)}"
        )
        raise UnsupportedError(
            f"the {self.name} engine has no algorithm {algorithm!r}: it has {', '.join(known)}; {elsewhere}",
            engine=self.name,
            algorithm=algorithm,
        )


#: The names that SciPy, MATLAB and torchdiffeq have for a method, and SciML's name for the same one.
_SAME_METHOD: Final = {
    **dict.fromkeys(("rk45", "ode45", "dopri5"), "DP5"),
    **dict.fromkeys(("rk23", "ode23", "bosh3"), "BS3"),
    **dict.fromkeys(("dop853", "ode853"), "DP8"),
    **dict.fromkeys(("radau", "radau5"), "RadauIIA5"),
    **dict.fromkeys(("ode23s",), "Rosenbrock23"),
    **dict.fromkeys(("ode23tb",), "TRBDF2"),
    **dict.fromkeys(("ode15s",), "QNDF"),
    **dict.fromkeys(("bdf", "cvode", "lsoda", "vode"), "QNDF"),
    **dict.fromkeys(("eulermaruyama", "euler_maruyama"), "EM"),
}


def _meant(name: str, known: Iterable[str]) -> str:
    """What a name that is not known was meant to be, as the end of a message."""
    names = list(known)
    same = _SAME_METHOD.get(name.lower())
    return f"; did you mean {same!r}?" if same in names else did_you_mean(name, names, quote="'")


class _Broken(Engine):
    """Stands for a registered engine that cannot be loaded, so that the others still work."""

    kinds = ()

    def __init__(self, name: str, reason: str) -> None:
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]
        self._reason = reason

    def unavailable(self) -> str | None:
        return self._reason

    def version(self) -> str:
        return ""

    def algorithms(self) -> dict[str, str]:
        return {}

    def check(self, model: Model, algorithm: str | None) -> None:
        raise EngineUnavailableError(self._reason, engine=self.name)

    def solve(
        self,
        model: Model,
        u0: Array,
        p: Array,
        tspan: tuple[float, float],
        algorithm: str | None,
        options: SolveOptions,
    ) -> RawSolution:
        raise EngineUnavailableError(self._reason, engine=self.name)


@cache
def registry() -> dict[str, Engine]:
    """All registered engines by name; none of their libraries is imported by this."""
    found: dict[str, Engine] = {}
    for entry in sorted(metadata.entry_points(group="pysciml.engines"), key=lambda e: e.name):
        try:
            found[entry.name] = entry.load()()
        except Exception as error:  # whatever another package's code raises
            reason = f"the engine {entry.name!r} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}"
            found[entry.name] = _Broken(entry.name, reason)
    return found


def automatic_order() -> list[str]:
    """The engines ``engine="auto"`` tries, in order: Julia where set up, the embedded ones, others."""
    names = registry()
    julia = ["julia"] if "julia" in names and names["julia"].unavailable() is None else []
    order = [*julia, *EMBEDDED, *sorted(set(names) - {"julia", *EMBEDDED})]
    return [name for name in order if name in names]


def get(name: str) -> Engine:
    """The engine of that name, ready to use.

    Raises
    ------
    UnsupportedError
        If no engine has that name.
    EngineUnavailableError
        If it cannot run here.
    """
    engine = registry().get(name)
    if engine is None:
        raise UnsupportedError(
            f"there is no engine {name!r}: choose from 'auto', "
            + ", ".join(map(repr, sorted(registry())))
            + _meant(name, [*registry(), "auto"]),
            engine=name,
        )
    reason = engine.unavailable()
    if reason is not None:
        raise EngineUnavailableError(reason, engine=name)
    return engine
