"""Optimizers of a training: optax's, and the rules of Optimisers.jl. Their states are lists of arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import numpy as np
import optax

from pysciml.engines.base import Array
from pysciml.engines.julia.optimizers import Rule
from pysciml.fitting.training_options import TrainingOptions


class OptaxOptimizer:
    """An optax optimizer of vectors, with the methods of `pysciml.engines.julia.optimizers.Rule`.

    Attributes
    ----------
    text : str
        Empty: functions cannot be told from one another.
    """

    text = ""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def start(self, theta: Array) -> list[Any]:
        """The state before the first update of a vector like this."""
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self._optimizer.init(jax.numpy.asarray(theta)))]

    def update(self, theta: Any, state: list[Any], slope: Any) -> tuple[Any, list[Any]]:
        """The vector and the state after an update by this derivative."""
        return self._compiled(theta, state, slope)

    @cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.change)

    def change(self, theta: Any, state: list[Any], slope: Any) -> tuple[Any, list[Any]]:
        """As `update`, to be part of what JAX compiles."""
        structure = jax.tree.structure(jax.eval_shape(self._optimizer.init, theta))
        change, new = self._optimizer.update(slope, jax.tree.unflatten(structure, state), theta)
        return optax.apply_updates(theta, change), jax.tree.leaves(new)


def make_optimizer(options: TrainingOptions) -> OptaxOptimizer | Rule:
    """The optimizer that is asked for; a rule of Optimisers.jl starts Julia."""
    given = options.optimizer_name if options.optimizer is None else options.optimizer
    if options.by_rule:
        return Rule(given, options.learning_rate)
    if options.optimizer is not None:
        return OptaxOptimizer(options.optimizer)
    make: Callable[[Any], Any] = getattr(optax, options.optimizer_name)
    return OptaxOptimizer(make(options.learning_rate))
