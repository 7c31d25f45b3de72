"""From a model and an algorithm to the loop's plan; the arguments of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal

import diffrax
import jax.numpy as jnp
import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.jax import brownian
from pysciml.engines.jax.algorithms import ALGORITHMS, Algorithm
from pysciml.engines.jax.implicit import ImplicitStepper
from pysciml.engines.jax.lower import Function, lower
from pysciml.engines.jax.noise import stratonovich
from pysciml.engines.jax.rossler import TABLEAUS, RosslerStepper
from pysciml.engines.jax.state import Arguments, EventFunctions, Plan
from pysciml.engines.jax.steppers import EulerStepper, ExplicitStepper, RolledStepper, SSPStepper, Stepper
from pysciml.engines.jax.stochastic import IncrementStepper, LevyStepper, Noise
from pysciml.engines.timed import has_times
from pysciml.errors import ProblemError, UnsupportedError
from pysciml.graph import Model

#: Right-hand sides with more graph nodes than this are not repeated for every stage.
_WRITE_OUT_LIMIT: Final = 2_000
#: Steps of fixed size that are still distinct in single precision.
_MOST_SINGLE: Final = 2**18

Save = Literal["times", "steps", "end"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a compiled loop depends on besides the shapes of its arguments; hashable.

    Attributes
    ----------
    algorithm : str
    save : {"times", "steps", "end"}
    buffer : int
    adaptive, given_dt, forward, batched : bool
    depth : int
        Of the Brownian tree; 0 for ordinary equations.
    """

    algorithm: str
    save: Save
    buffer: int
    adaptive: bool
    given_dt: bool
    forward: bool
    batched: bool
    depth: int


def setting(
    model: Model,
    name: str,
    tspan: tuple[float, float],
    dt: float | None,
    save: Save,
    *,
    batched: bool,
    buffer: int = 0,
    single: bool = False,
) -> Setting:
    """Decide how to step; ``single``: in single precision.

    Raises
    ------
    ProblemError
        If the method needs a step size and has none, or time runs backward with noise.
    """
    algorithm = ALGORITHMS[name]
    forward = tspan[1] > tspan[0]
    adaptive = algorithm.adaptive
    depth = 0
    if model.kind == "sde":
        if not forward:
            raise ProblemError("a stochastic equation cannot be solved backward in time", symbol="tspan")
        # A given step is the step: the path and its error are then the same for every trajectory.
        adaptive = adaptive and dt is None
        steps = 2.0**24 if dt is None else (tspan[1] - tspan[0]) / dt
        depth = brownian.DEPTH if steps <= 2**brownian.DEPTH / 4 else brownian.FINE_DEPTH
    if not adaptive and dt is None:
        flexible = [n for n, a in ALGORITHMS.items() if a.kind == model.kind and a.adaptive]
        raise ProblemError(
            f"{name} steps with a fixed step size: pass dt=, such as dt={(max(tspan) - min(tspan)) / 1000:g} "
            f"(methods that choose their own: {', '.join(flexible)})",
            symbol="dt",
        )
    if single:
        _check_single(model, name, tspan, None if adaptive else dt)
        depth = min(depth, brownian.DEPTH)
    return Setting(name, save, buffer, adaptive, dt is not None, forward, batched, depth)


def _check_single(model: Model, name: str, tspan: tuple[float, float], dt: float | None) -> None:
    """Raise for what times in single precision cannot tell apart."""
    most = 2**brownian.DEPTH // 4 if model.kind == "sde" else _MOST_SINGLE
    if model.kind == "sde" and dt is None:
        raise UnsupportedError(
            f"{name} with steps of its own needs precision='float64': pass dt= for float32",
            engine="jax",
            algorithm=name,
        )
    if dt is not None and abs(tspan[1] - tspan[0]) / dt > most:
        raise ProblemError(
            f"dt={dt:g} makes more steps than times in float32 can tell apart ({most:,}): use precision='float64'",
            symbol="dt",
        )


def make_plan(model: Model, how: Setting) -> Plan:
    """The plan of the loop: functions lowered, method chosen."""
    algorithm = ALGORITHMS[how.algorithm]
    if model.kind == "sde":
        itô = algorithm.calculus == "ito" and how.algorithm != "Milstein"
        graph = model.graph if itô else stratonovich(model)
        rhs = lower(graph, "rhs")
        noise = Noise(lower(model.graph, "diffusion"), model.diffusion_rows, model.diffusion_cols, model.n_noise)
        stepper: Callable[[Arguments], Stepper] = partial(_stochastic, rhs, noise, how, algorithm)
    else:
        rhs = directed(lower(model.graph, "rhs"), how.forward, derivative=True)
        implicit = algorithm.family == "implicit"
        small = int(np.count_nonzero(model.graph.reachable(model.graph.outputs["rhs"]))) <= _WRITE_OUT_LIMIT
        jacobian = directed(dense_jacobian(model), how.forward, derivative=True) if implicit else None
        stepper = partial(deterministic, rhs, jacobian, algorithm, small)
    if has_times(model):
        raise UnsupportedError(
            f"events at given times ({model.name!r} has one) are for single solves with the jax engine: not for "
            "ensembles and derivatives; engine='native' and engine='julia' have them in ensembles",
            engine="jax",
        )
    events = tuple(
        EventFunctions(
            condition=_first(directed(lower(model.graph, event.condition), how.forward)),
            values=directed(lower(model.graph, event.values), how.forward),
            targets=event.targets,
            direction=event.direction,
            terminal=event.terminal,
        )
        for event in model.events
    )
    return Plan(stepper, rhs, events, how.save, how.buffer, how.adaptive, how.given_dt, how.batched)


def dense_jacobian(model: Model) -> Function:
    """The derivative of the right-hand side by the states, exact, from the graph."""
    graph, rows, cols = model.graph.jacobian()
    entries = lower(graph, "jacobian")
    n = model.graph.n_states
    return lambda t, y, p: jnp.zeros((n, n), dtype=y.dtype).at[rows, cols].set(entries(t, y, p))


def deterministic(
    rhs: Function, jacobian: Function | None, algorithm: Algorithm, small: bool, args: Arguments
) -> Stepper:
    """The stepper of an ordinary equation; ``small``: the stages may be written out."""
    if algorithm.family in ("euler", "ssp"):
        return EulerStepper(rhs) if algorithm.family == "euler" else SSPStepper(rhs)
    make = getattr(diffrax, algorithm.solver)
    if jacobian is not None:
        return ImplicitStepper(rhs, jacobian, make(), args.rtol, args.atol, order=algorithm.order)
    return ExplicitStepper(rhs, make()) if small else RolledStepper(rhs, make())


def _stochastic(rhs: Function, noise: Noise, how: Setting, algorithm: Algorithm, args: Arguments) -> Stepper:
    key = brownian.trajectory_key(args.key, args.index)
    if algorithm.family == "rossler":
        return RosslerStepper(rhs, noise, TABLEAUS[how.algorithm], key, args.start, args.end, how.depth)
    if algorithm.family == "increment":
        return IncrementStepper(rhs, noise, how.algorithm, key, args.start, args.end, how.depth)
    return LevyStepper(rhs, noise, getattr(diffrax, algorithm.solver)(), key, args.start, args.end, how.depth)


def directed(function: Function, forward: bool, *, derivative: bool = False) -> Function:
    """The same function of a time that runs forward; derivatives change their sign with it."""
    if forward:
        return function
    if derivative:
        return lambda t, y, p: -function(-t, y, p)
    return lambda t, y, p: function(-t, y, p)


def _first(function: Function) -> Function:
    return lambda t, y, p: function(t, y, p)[0]


def key_of(seed: int | None) -> tuple[Any, int]:
    """The generator's key for a seed, and the seed (drawn here where none is given)."""
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> np.uint64(1))
    seed %= 2**64
    return np.array([seed >> 32, seed & 0xFFFFFFFF], dtype=np.uint32), seed


def pad_times(times: Array) -> Array:
    """Output times, padded to a power of two, so that their number rarely compiles anew."""
    size = max(8, 1 << max(0, len(times) - 1).bit_length())
    return np.concatenate([times, np.full(size - len(times), np.inf)])
