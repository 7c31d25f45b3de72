"""Reading what a user gives `fit` for a training; every error names the option."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from pysciml.engines.base import Array
from pysciml.engines.julia.optimizers import is_rule
from pysciml.errors import ProblemError, UnsupportedError
from pysciml.fitting.inputs import Observations, read_data
from pysciml.hints import did_you_mean
from pysciml.neural.adjoint_option import Adjoint, engine_of, read_adjoint
from pysciml.neural.regularizers import RandomEndTime, Regularizer, TaylorDerivative, read_regularizers
from pysciml.neural.steps import METHODS
from pysciml.options import check_place
from pysciml.problem import Problem, number

#: What a training can run on; the first one is taken where the user names none.
ENGINES: Final = ("jax", "julia")
#: What stochastic problems are solved with while they are trained.
STOCHASTIC_METHODS: Final = ("SOSRI",)
#: Optimizers by name, as optax has them.
OPTIMIZERS: Final = (
    "adabelief",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "amsgrad",
    "lion",
    "nadam",
    "radam",
    "rmsprop",
    "sgd",
    "yogi",
)


@dataclass(frozen=True)
class TrainingOptions:
    """The options of a training, checked.

    Attributes
    ----------
    optimizer, optimizer_name : object, str
        One of them is given: the other is None or empty.
    by_rule : bool
        Whether the optimizer is a rule of Optimisers.jl, which Julia knows.
    adjoint : Adjoint or None
        None: the discrete adjoint of the engine's own steps.
    """

    regularizers: tuple[Regularizer, ...]
    optimizer: Any
    optimizer_name: str
    by_rule: bool
    learning_rate: Any
    epochs: int
    seed: int
    segments: tuple[int, ...] | None
    batch_size: int | None
    continuity: float
    patience: int | None
    checkpoint: Path | None
    checkpoint_every: int
    algorithm: str
    rtol: float
    atol: float
    max_steps: int
    progress: bool
    trajectories: int
    engine: str
    adjoint: Adjoint | None
    device: str
    precision: str


def integer(name: str, value: Any, least: int = 1) -> int:
    """An integer option."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ProblemError(f"{name} must be an integer, {least} or more, not {value!r}", symbol=name)
    return int(value)


def positive(name: str, value: Any) -> float:
    """A positive option."""
    result = number(value, name, name)
    if result <= 0:
        raise ProblemError(f"{name} must be positive, not {value!r}", symbol=name)
    return result


def read_options(given: Mapping[str, Any], stochastic: bool) -> TrainingOptions:
    """Check all options but those about data and what is trainable."""
    optimizer, name = _read_optimizer(given["optimizer"])
    by_rule = is_rule(given["optimizer"])
    rate = given["learning_rate"]
    if rate is None:
        rate = 1e-2
    if name and not callable(rate):
        rate = positive("learning_rate", rate)
    if not name and given["learning_rate"] is not None and not (by_rule and callable(rate)):
        raise ProblemError("learning_rate is part of an optimizer that is given as an object", symbol="learning_rate")
    segments = _read_segments(given["segments"])
    batch = None if given["batch_size"] is None else integer("batch_size", given["batch_size"])
    if batch is not None and (segments is None or batch > max(segments)):
        raise ProblemError(f"batch_size={batch} needs segments={batch} or more to choose from", symbol="batch_size")
    methods = STOCHASTIC_METHODS if stochastic else METHODS
    alg = given["alg"] or methods[0]
    if alg not in methods:
        raise UnsupportedError(
            f"training solves with {', '.join(methods)} (explicit methods, whose steps are differentiated), not with "
            f"{alg!r}",
            engine="jax",
            algorithm=str(alg),
        )
    regularizers = read_regularizers(given["regularize"])
    _check_kind(given, regularizers, stochastic)
    if given["engine"] not in ("auto", *ENGINES):
        raise UnsupportedError(
            f"training runs on engine={' or engine='.join(map(repr, ENGINES))}, not on {given['engine']!r}",
            engine=given["engine"],
        )
    if by_rule and given["engine"] == "jax":
        raise UnsupportedError(
            f"optimizer={name or given['optimizer']!r} is a rule of Optimisers.jl: give engine='julia', or for "
            "engine='jax' a name without a dot, or an optax optimizer",
            engine="jax",
        )
    engine = given["engine"]
    if engine == "auto":
        engine = "julia" if by_rule else engine_of(given["adjoint"]) or ENGINES[0]
    patience = given["patience"]
    path = given["checkpoint"]
    if path is not None and not isinstance(path, (str, Path)):
        raise ProblemError(f"checkpoint must be the path of a file, not {path!r}", symbol="checkpoint")
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise ProblemError(f"checkpoint: the folder of {path} does not exist", symbol="checkpoint")
    usual = 1e-2 if stochastic else 1e-6
    rtol = number(usual if given["rtol"] is None else given["rtol"], "rtol", "rtol")
    atol = number(usual if given["atol"] is None else given["atol"], "atol", "atol")
    if rtol < 0 or atol < 0 or rtol + atol == 0:
        raise ProblemError("rtol and atol must be 0 or more, and not both 0", symbol="rtol")
    check_place(given["device"], given["precision"], rtol)
    if not isinstance(given["progress"], bool):
        raise ProblemError(f"progress must be True or False, not {given['progress']!r}", symbol="progress")
    return TrainingOptions(
        regularizers=regularizers,
        optimizer=optimizer,
        optimizer_name=name,
        by_rule=by_rule,
        learning_rate=rate,
        epochs=integer("epochs", 100 if given["epochs"] is None else given["epochs"]),
        seed=0 if given["seed"] is None else integer("seed", given["seed"], 0),
        segments=segments,
        batch_size=batch,
        continuity=positive("continuity", given["continuity"]),
        patience=None if patience is None else integer("patience", patience),
        checkpoint=None if path is None else Path(path),
        checkpoint_every=integer("checkpoint_every", given["checkpoint_every"]),
        algorithm=alg,
        rtol=rtol,
        atol=atol,
        max_steps=integer("max_steps", given["max_steps"]),
        progress=given["progress"],
        trajectories=100 if given["trajectories"] is None else integer("trajectories", given["trajectories"], 2),
        engine=engine,
        adjoint=read_adjoint(given["adjoint"], engine, regularizers, stochastic, by_rule),
        device=given["device"],
        precision=given["precision"],
    )


def _check_kind(given: Mapping[str, Any], regularizers: tuple[Regularizer, ...], stochastic: bool) -> None:
    """Options that are for the other kind of problem."""
    if not stochastic:
        if given["trajectories"] is not None:
            raise ProblemError("trajectories= is for stochastic problems; this one has no noise", symbol="trajectories")
        return
    if given["segments"] not in (None, 1):
        raise UnsupportedError(
            "segments= cuts a path into pieces; a stochastic problem is trained on moments, which have none"
        )
    for regularizer in regularizers:
        if isinstance(regularizer, (RandomEndTime, TaylorDerivative)) or getattr(regularizer, "through_steps", False):
            raise UnsupportedError(
                f"{type(regularizer).__name__}(...) is not for fits of stochastic problems as it is given; "
                "ErrorEstimate, StiffnessEstimate, their local variants, KineticEnergy and JacobianNorm are"
            )


def _read_segments(given: Any) -> tuple[int, ...] | None:
    if given is None:
        return None
    stages = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    if not stages:
        raise ProblemError("segments is empty: give a number of windows, or one for each stage", symbol="segments")
    counts = tuple(integer("segments", n) for n in stages)
    if any(before % after for before, after in itertools.pairwise(counts)):
        raise ProblemError(
            f"segments={given!r}: each stage must join windows of the one before, as in (16, 4, 1)", symbol="segments"
        )
    return counts


def _read_optimizer(given: Any) -> tuple[Any, str]:
    """The optimizer as an object or None, and its name or ``""``."""
    if given is None:
        return None, "adam"
    if is_rule(given):
        return (None, given) if isinstance(given, str) else (given, "")
    if isinstance(given, str):
        if given not in OPTIMIZERS:
            hint = did_you_mean(given, OPTIMIZERS, quote="'")
            what = "trains no networks; " if given == "least_squares" else ""
            raise ProblemError(
                f"optimizer {given!r} {what}is none of {', '.join(OPTIMIZERS)} (or an optax optimizer, or a rule of "
                f"Optimisers.jl, such as 'Optimisers.Adam'){hint}",
                symbol="optimizer",
            )
        return None, given
    if callable(getattr(given, "init", None)) and callable(getattr(given, "update", None)):
        return given, ""
    raise ProblemError(
        f"optimizer must be a name, an optax optimizer or a rule of Optimisers.jl, not {given!r}", symbol="optimizer"
    )


def read_validation(
    problem: Problem, given: Any, data: Observations, read: Callable[..., Observations] = read_data
) -> tuple[float | None, Observations | None]:
    """Until when to train, and other data to validate on.

    A fraction holds out the last part of the times.
    """
    if given is None:
        return None, None
    if isinstance(given, (xr.Dataset, xr.DataArray)):
        return None, read(problem, given, None, None)
    share = number(given, "validation", "validation")
    if not 0 < share < 1:
        raise ProblemError(
            f"validation must be a share of the times between 0 and 1, or a Dataset, not {given!r}", symbol="validation"
        )
    kept = int(np.ceil((1 - share) * data.times.size))
    if not 1 <= kept < data.times.size:
        raise ProblemError(f"validation={share:g} of {data.times.size} times leaves nothing", symbol="validation")
    return float(data.times[kept - 1]), data


@dataclass(frozen=True)
class Trained:
    """What is trained.

    Attributes
    ----------
    by_p, by_u0 : int arrays
        Places in ``p`` and in ``u0``.
    log : bool array
        Of these, whether the logarithm is trained.
    start : array
        Their values, on the natural scale.
    """

    by_p: Any
    by_u0: Any
    log: Any
    start: Array

    def inner(self) -> Array:
        """The start on the scale that is trained."""
        values = self.start.copy()
        values[self.log] = np.log(values[self.log])
        return values


def read_trainable(problem: Problem, trainable: list[Any], log: Any) -> Trained:
    """Networks, parameters, and states for their initial values."""
    system = problem.system
    by_p: list[int] = []
    by_u0: list[int] = []
    names: list[str] = []
    for key in trainable:
        found = system.network_block(key)
        if found is not None:
            names.append(found[0])
            by_p.extend(range(found[1].start, found[1].stop))
        elif (index := _find(system.parameter_index, key)) is not None:
            names.append(system.model.parameters[index])
            by_p.append(index)
        elif (index := _find(system.state_index, key)) is not None:
            names.append(system.model.states[index])
            by_u0.append(index)
        else:
            known = (*system.model.blocks, *system.model.parameters, *system.model.states)
            text = getattr(key, "name", None) or str(key)
            hint = did_you_mean(text, known)
            raise ProblemError(
                f"trainable has {text}, which is no network, parameter or state of {system.name} "
                f"({', '.join(known[:12])}){hint}",
                symbol=text,
            )
        if names.count(names[-1]) > 1:
            raise ProblemError(f"trainable has {names[-1]} twice", symbol=names[-1])
    places = np.array(by_p, dtype=np.intp), np.array(by_u0, dtype=np.intp)
    start = np.concatenate([problem.p[places[0]], problem.u0[places[1]]])
    return Trained(*places, _read_log(problem, log, *places, start), start)


def _find(index: Callable[[Any], int | None], key: Any) -> int | None:
    try:
        return index(key)
    except TypeError:  # an unhashable key
        return None


def _read_log(problem: Problem, log: Any, by_p: Any, by_u0: Any, start: Array) -> Any:
    model = problem.system.model
    scalars = len(model.parameters)
    named = [(by_p == i, model.parameters[i]) for i in by_p[by_p < scalars].tolist()]
    named += [(by_u0 == i, model.states[i]) for i in by_u0.tolist()]
    chosen = np.zeros(start.size, dtype=np.bool_)
    if isinstance(log, bool):
        keys = [name for _, name in named] if log else []
    else:
        keys = [log] if isinstance(log, str) or not hasattr(log, "__iter__") else list(log)
    for key in keys:
        parameter, state = _find(problem.system.parameter_index, key), _find(problem.system.state_index, key)
        if parameter is not None and parameter in by_p:
            place = int(np.flatnonzero(by_p == parameter)[0])
        elif state is not None and state in by_u0:
            place = by_p.size + int(np.flatnonzero(by_u0 == state)[0])
        else:
            raise ProblemError(f"log has {key}, which is not a trainable number", symbol=str(key))
        if start[place] <= 0:
            raise ProblemError(f"log: {key} starts at {start[place]:g}; only positive numbers have logarithms")
        chosen[place] = True
    return chosen
