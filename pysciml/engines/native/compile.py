"""Compiling models, and keeping what was compiled."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import Array
from pysciml.engines.native.emit import count_operations, emit
from pysciml.engines.native.library import Compiled
from pysciml.engines.native.lower import lower
from pysciml.graph import Graph, Model

#: This many models stay compiled, the least recently used go first.
CACHE_SIZE: Final = 64

#: From this many states on, and with at most this share of the Jacobian filled, linear algebra
#: is sparse (measured by benchmarks/native_rules.py).
SPARSE_STATES: Final = 40
SPARSE_SHARE: Final = 0.25


@dataclass
class Prepared:
    """A model in all the forms this engine needs, each made when first asked for.

    Attributes
    ----------
    model : Model
    backward : bool
        Integrate towards earlier times: the compiled model's time is minus the model's.
    history : dict
        What earlier solves have taught; see `pysciml.engines.native.stepping`.
    """

    model: Model
    backward: bool
    history: dict[Any, Any] = field(default_factory=dict[Any, Any])
    lock: threading.RLock = field(default_factory=threading.RLock)
    _compiled: Compiled | None = None

    @property
    def sign(self) -> float:
        """The model's time is this times the compiled model's."""
        return -1.0 if self.backward else 1.0

    @cached_property
    def lowered(self) -> Graph:
        """The right-hand side in DiffSL's operations."""
        return lower(self.model.graph, ["rhs"], backward=self.backward)

    @cached_property
    def operations(self) -> int:
        """How many operations one evaluation of the right-hand side takes."""
        return count_operations(self.lowered)

    @cached_property
    def sparse(self) -> bool:
        """Whether linear algebra is sparse."""
        n = self.lowered.n_states
        if n < SPARSE_STATES:
            return False
        rows, _ = self.lowered.sparsity("rhs")
        return len(rows) + n <= SPARSE_SHARE * n * n

    @property
    def elimination(self) -> float:
        """Seconds per state that sparse linear algebra takes in a step, roughly, from above."""
        return 1.0e-6

    @cached_property
    def _jacobian(self) -> tuple[Graph, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        return self.model.graph.jacobian("rhs")

    def jacobian(self, u: Array, p: Array, t: float) -> tuple[Array, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """The Jacobian of the right-hand side at the model's time, as values, rows, columns."""
        graph, rows, cols = self._jacobian
        return graph.evaluate("jacobian", u, p, t), rows, cols

    def rhs(self, u: Array, p: Array, t: float) -> Array:
        """The right-hand side at the model's time."""
        return self.model.graph.evaluate("rhs", u, p, t)

    def inputs(self, p: Array, origin: float) -> Array:
        """The inputs of the compiled model that come before the initial values."""
        return np.append(p, origin)

    @property
    def compiled(self) -> Compiled:
        """The compiled model; compiled when first asked for, and again if the library broke it."""
        with self.lock:
            if self._compiled is None or self._compiled.broken:
                self._compiled = self._compile()
            return self._compiled

    def _compile(self) -> Compiled:
        import pydiffsol

        start = time.perf_counter()
        written = emit(self.lowered, self.model.differential, backward=self.backward)
        ode = pydiffsol.Ode(
            written.text,
            matrix_type=pydiffsol.faer_sparse if self.sparse else pydiffsol.nalgebra_dense,
            linear_solver=pydiffsol.lu,
        )
        n, m = self.lowered.n_states, self.lowered.n_params
        return Compiled(ode, n, m, time.perf_counter() - start, written.order)


_cache: OrderedDict[tuple[str, bool], Prepared] = OrderedDict()
_cache_lock = threading.Lock()


def prepare(model: Model, *, backward: bool = False) -> Prepared:
    """Look a model up in the cache, or add it; nothing is compiled yet."""
    key = model.hash, backward
    with _cache_lock:
        found = _cache.get(key)
        if found is None:
            found = _cache[key] = Prepared(model, backward)
            if len(_cache) > CACHE_SIZE:
                _cache.popitem(last=False)
        _cache.move_to_end(key)
        return found
