"""Checkpoints of a training: one file that is always whole, and from which training goes on bit for bit."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array
from pysciml.errors import ProblemError
from pysciml.files import writing

_FORMAT: Final = "pysciml-training-1"
#: What is recorded for every epoch.
COLUMNS: Final = ("loss", "regularization", "validation", "n_rhs", "seconds")


@dataclass
class State:
    """Where a training stands after some epochs: all that the next one depends on.

    Attributes
    ----------
    theta : array
        What is trained.
    optimizer : list of arrays
        The leaves of the optimizer's state.
    epoch : int
        How many are done.
    best : array
        The best so far, by validation.
    best_validation : float
    waited : int
        Epochs since then.
    history : dict of list
    capacity : int
        Steps a solve may take before it is compiled for more.
    """

    theta: Array
    optimizer: list[npt.NDArray[Any]]
    best: Array
    epoch: int = 0
    best_validation: float = np.inf
    waited: int = 0
    capacity: int = 64
    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in COLUMNS})


def fingerprint(*parts: Any) -> str:
    """A hash of arrays, texts and numbers: which training a checkpoint is of."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode())
        digest.update(b"|")
    return digest.hexdigest()


def store(path: Path, state: State, mark: str) -> None:
    """Write the state; an existing file is replaced by a whole new one."""
    arrays: dict[str, Any] = {f"optimizer{i}": leaf for i, leaf in enumerate(state.optimizer)}
    arrays |= {f"history_{name}": np.array(values, dtype=np.float64) for name, values in state.history.items()}
    numbers = np.array([state.epoch, state.waited, state.capacity, len(state.optimizer)], dtype=np.int64)
    with writing(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            format=np.array([_FORMAT, mark]),
            numbers=numbers,
            theta=state.theta,
            best=state.best,
            best_validation=np.array(state.best_validation),
            **arrays,
        )


def restore(path: Path, mark: str, like: State) -> State | None:
    """Read the state; None where there is no file yet.

    Raises
    ------
    ProblemError
        If the file is no checkpoint, or one of another training.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            kind, found = file["format"].tolist()
            if kind != _FORMAT:
                raise ProblemError(f"{path} is a checkpoint of another version ({kind})", symbol="checkpoint")
            if found != mark:
                raise ProblemError(
                    f"{path} is the checkpoint of another fit (other equations, data, start or options): name another "
                    "file, or delete this one",
                    symbol="checkpoint",
                )
            epoch, waited, capacity, leaves = file["numbers"].tolist()
            state = State(
                theta=file["theta"],
                optimizer=[file[f"optimizer{i}"] for i in range(leaves)],
                best=file["best"],
                epoch=epoch,
                best_validation=float(file["best_validation"]),
                waited=waited,
                capacity=capacity,
                history={name: file[f"history_{name}"].tolist() for name in COLUMNS},
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ProblemError(f"{path} is not a checkpoint of a fit: {error}", symbol="checkpoint") from error
    same = [a.shape for a in state.optimizer] == [np.shape(a) for a in like.optimizer]
    if not same or state.theta.shape != like.theta.shape:
        raise ProblemError(f"{path} does not fit this training", symbol="checkpoint")
    return state
