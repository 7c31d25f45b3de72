"""Derivatives of solutions of fields by parameters, solved for together with the fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import sympy as sp

from pysciml.engines.base import Array, Engine, RawSolution, SolveOptions
from pysciml.errors import ModelError, UnsupportedError
from pysciml.graph.field_sensitivity import sensitivity_graph
from pysciml.graph.fields import FieldGraph
from pysciml.graph.model import FieldLayout
from pysciml.pde.lowering import Lowering

if TYPE_CHECKING:
    from pysciml.pde.discrete import DiscreteSystem, FieldProblem

#: What a result calls these derivatives.
METHOD: Final = "sensitivities, solved for with the fields"
#: Methods that treat each field's linear part by itself, where derivatives depend on the fields linearly.
_UNFIT: Final = ("ETDRK4",)
#: Relative step where an initial value has no derivative that can be written.
_STEP: Final = 1e-6


class Observed(NamedTuple):
    """The observed quantities at one time, and for each parameter their derivatives."""

    values: list[Array]
    slopes: list[list[Array]]


class FieldSensitivity:
    """A discretized system and the derivatives of its fields by some parameters.

    Parameters
    ----------
    system : DiscreteSystem
    by_p : sequence of int
        Which parameters.
    """

    def __init__(self, system: DiscreteSystem, by_p: Sequence[int]) -> None:
        model = system.model
        if model.kind != "ode":
            reason = (
                f"{system.system.constrained[0].func.__name__} has no time derivative: gradients are of fields that do"
                if model.kind == "dae"
                else "it is stochastic: its derivatives are those of one path alone"
            )
            raise UnsupportedError(f"{system.name}: {reason}")
        self._system, self._by_p = system, [int(k) for k in by_p]
        self._count = 1 + len(self._by_p)
        self.graph: FieldGraph = sensitivity_graph(system.graph, self._by_p)
        names = ["", *(f"_by_{model.parameters[k]}" for k in self._by_p)]
        self.model = replace(
            model,
            graph=self.graph,
            states=tuple(state + end for end in names for state in model.states),
            observed=tuple(name + end for end in names for name in model.observed),
            differential=np.ones(self.graph.n_states, dtype=np.bool_),
            fields=tuple(FieldLayout(f.name + end, f.dims, f.shape) for end in names for f in model.fields),
            whole=None,
        )

    def solve(
        self,
        engine: Engine,
        problem: FieldProblem,
        tspan: tuple[float, float],
        algorithm: str | None,
        options: SolveOptions,
    ) -> tuple[RawSolution, Array, list[Observed]]:
        """Solve for the fields and their derivatives.

        Returns
        -------
        solution : RawSolution
            Of the fields alone.
        slopes : array, shape (n_states, n_t, n_by_p)
        observed : list of Observed
            One for each time.

        Raises
        ------
        UnsupportedError
            If the method cannot take them along.
        """
        if algorithm in _UNFIT:
            raise UnsupportedError(f"{algorithm} solves for no derivatives", engine=engine.name, algorithm=algorithm)
        engine.check(self.model, algorithm)
        raw = engine.solve(self.model, self.start(problem), problem.p, tspan, algorithm, options)
        parts = raw.u.reshape(self._count, -1, raw.u.shape[1])
        observed = [self._observed(raw.u[:, j], problem.p, float(t)) for j, t in enumerate(raw.t)]
        raw.u = np.ascontiguousarray(parts[0])
        return raw, np.moveaxis(parts[1:], 0, 2), observed

    def _observed(self, state: Array, p: Array, t: float) -> Observed:
        graph = self._system.graph
        shapes = [graph.shapes[node] for node in graph.outputs["observed"].tolist()]
        found = self.graph.arrays("observed", state, p, t)
        n = len(shapes)
        rows = [
            [np.broadcast_to(a, shape) for a, shape in zip(found[k * n : (k + 1) * n], shapes, strict=True)]
            for k in range(self._count)
        ]
        return Observed(rows[0], rows[1:])

    def start(self, problem: FieldProblem) -> Array:
        """Initial values: of the fields, and of their derivatives where they depend on the parameters."""
        columns = [problem.u0, *(self._initial_slope(problem, k) for k in self._by_p)]
        return np.concatenate(columns)

    def _initial_slope(self, problem: FieldProblem, parameter: int) -> Array:
        system = self._system
        symbol = system.parameters[parameter]
        arrays: list[Array] = []
        for i, (info, layout) in enumerate(zip(system.states, system.model.fields, strict=True)):
            expr = system.system.initial.get((info.function, info.order))
            if expr is None or i in problem.initial_given or symbol not in expr.free_symbols:
                arrays.append(np.zeros(layout.shape))
                continue
            try:
                arrays.append(self._on_grid(sp.diff(expr, symbol), problem.p, layout.shape))
            except ModelError:  # such as the derivative of a step: as the step itself is sampled
                change = _STEP * max(abs(problem.p[parameter]), 1e-3)
                ends = [problem.p.copy(), problem.p.copy()]
                ends[0][parameter] -= change
                ends[1][parameter] += change
                low, high = (self._on_grid(expr, p, layout.shape) for p in ends)
                arrays.append((high - low) / (2 * change))
        return np.concatenate([a.ravel() for a in arrays])

    def _on_grid(self, expr: Any, p: Array, shape: tuple[int, ...]) -> Array:
        system = self._system
        low = Lowering(system.system, system.axes, system.order, system.scheme)
        graph = low.b.build({"values": [low(expr)]})
        return np.broadcast_to(graph.arrays("values", np.zeros(graph.n_states), p, 0.0)[0], shape)
