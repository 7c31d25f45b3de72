"""What an engine sees of a system: the graph, and what its outputs mean."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from pysciml.graph.graph import Graph

Kind = Literal["ode", "dae", "sde", "dde", "jump"]
NoiseType = Literal["additive", "diagonal", "scalar", "general"]
Direction = Literal["up", "down", "both"]
When = Literal["crossing", "step", "times"]


@dataclass(frozen=True)
class EventSpec:
    """One event: where it fires and what it sets.

    Attributes
    ----------
    condition : str
        Graph output: one value, and the event fires where it crosses zero; one condition, and it
        fires after each step that ends where it holds; or the times, in terms of parameters.
    values : str
        Graph output of the new values, evaluated just before the event.
    targets : tuple of int
        The states that are set, in the order of ``values``.
    direction : {"up", "down", "both"}
        Which crossings count.
    terminal : bool
        Whether the solve ends there.
    when : {"crossing", "step", "times"}
        What ``condition`` is.
    """

    condition: str
    values: str
    targets: tuple[int, ...]
    direction: Direction
    terminal: bool
    when: When = "crossing"


@dataclass(frozen=True)
class JumpSpec:
    """Something that happens at random times.

    Attributes
    ----------
    rate : str
        Graph output of one value: how often it happens, per unit of time.
    values : str
        Graph output of the new values, evaluated just before.
    targets : tuple of int
        The states that are set, in the order of ``values``.
    """

    rate: str
    values: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class FieldLayout:
    """A field among the states of a partial differential equation on a grid.

    Attributes
    ----------
    name : str
    dims : tuple of str
        The names of its coordinates.
    shape : tuple of int
        The number of cells along each.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]


def _no_ints() -> npt.NDArray[np.int32]:
    return np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, eq=False)
class Model:
    """A system of first-order equations, in numbers and indices.

    Row ``i`` of the graph's output ``"rhs"`` is ``du_i/dt`` where ``differential[i]``, else the
    residual that is zero. The output ``"observed"`` holds the observed quantities. For stochastic
    systems entry ``k`` of the output ``"diffusion"`` multiplies the increment of Brownian motion
    ``diffusion_cols[k]`` in row ``diffusion_rows[k]``.

    Where the index was reduced, the output ``"constraints"`` holds what is zero along every solution by
    these equations if it is zero at the start. `pysciml.graph.manifold` makes the model that an engine solves.

    Where terms of ordinary equations are marked as implicit there are outputs ``"implicit"`` and
    ``"explicit"``, too: two parts of the right-hand side, whose sum is ``"rhs"``.
    """

    graph: Graph
    kind: Kind
    name: str
    states: tuple[str, ...]
    parameters: tuple[str, ...]
    observed: tuple[str, ...]
    differential: npt.NDArray[np.bool_]
    events: tuple[EventSpec, ...] = ()
    noise: tuple[str, ...] = ()
    diffusion_rows: npt.NDArray[np.int32] = field(default_factory=_no_ints)
    diffusion_cols: npt.NDArray[np.int32] = field(default_factory=_no_ints)
    noise_type: NoiseType | None = None
    #: Of noise over space: how many processes there are on the grid (`noise` names what they belong to).
    noise_cells: int = 0
    #: Of a partial differential equation; then `states` names fields and `graph` is a `FieldGraph`.
    fields: tuple[FieldLayout, ...] = ()
    #: Where fields were eliminated: the same with these among the unknowns, after which its observed quantities begin.
    whole: Model | None = None
    jumps: tuple[JumpSpec, ...] = ()
    #: What the output ``"constraints"`` says, in words.
    constraints: tuple[str, ...] = ()
    #: With constraints: whose initial values are guesses. Without: those of algebraic states.
    guessed: npt.NDArray[np.bool_] | None = None
    #: The structural index of the equations as they were written.
    index: int = 0

    @property
    def n_noise(self) -> int:
        """How many Brownian motions there are."""
        return self.noise_cells or len(self.noise)

    @property
    def n_params(self) -> int:
        """How long the parameter vector is: the parameters by name, then the weights of networks."""
        return self.graph.n_params

    @property
    def blocks(self) -> dict[str, slice]:
        """Network -> where its weights are in the parameter vector."""
        return {network.name: block for network, block in zip(self.graph.networks, self.graph.blocks, strict=True)}

    @cached_property
    def hash(self) -> str:
        """Content hash of all that a compiled model depends on (names are not part of it)."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self.graph.hash.encode())
        digest.update(np.packbits(self.differential).tobytes())
        digest.update(repr((self.kind, self.n_noise, self.noise_type)).encode())
        for event in self.events:
            digest.update(repr((event.targets, event.direction, event.terminal)).encode())
            if event.when != "crossing":
                digest.update(event.when.encode())
        for jump in self.jumps:
            digest.update(repr((jump.rate, jump.targets)).encode())
        digest.update(self.diffusion_rows.astype("<i4").tobytes())
        digest.update(self.diffusion_cols.astype("<i4").tobytes())
        return digest.hexdigest()
