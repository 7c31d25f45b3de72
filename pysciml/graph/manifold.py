r"""Staying on constraints: the form of a system of reduced index that engines solve.

After index reduction the equations have index 1, :math:`x' = f(x, z, t)` with what determines :math:`z`, and the
constraints :math:`h(x, t) = 0` hold along their solutions. Solved as they stand they drift: the errors of the steps
add up, in the position of a pendulum quadratically in time. A choice of independent states (dummy derivatives)
does not drift, but fails where the choice does: the Cartesian coordinates of a pendulum that goes full circle.

So the states are integrated in coordinates around the constraints: a point :math:`y` near them is a point :math:`x` on
them and an offset :math:`s` along their normals, to which one Newton step is enough,

.. math:: x = \pi(y) = y - N^T s, \qquad N N^T s = \operatorname{diag}(|h_x|)^{-1} h, \qquad
          N = \operatorname{diag}(|h_x|)^{-1} h_x,

all at :math:`y`. It exists wherever :math:`h_x` has full rank; no choice is made. That :math:`x` obeys its equation and
the offset decays, but not faster than the normals turn, reads

.. math:: y' = f(x, z, t) + \dot N^T s - \gamma N^T s, \qquad \gamma = 4 \lVert \dot N \rVert,

up to terms of the order of :math:`s^2`. Errors along the normals go into the offset, which the right-hand side does not
see; those along the constraints are the usual ones of the method, and what is shown is projected. (Projecting after
every step, as in Hairer, Lubich & Wanner, *Geometric Numerical Integration*, IV.4, has the same effect; here no step
has to be interrupted, so that every solver can be used, with its dense output.) Where :math:`z` enters linearly, and it
mostly does, it is solved for, and what is left is an ordinary differential equation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pysciml.graph import ops
from pysciml.graph.builder import GraphBuilder
from pysciml.graph.derivative import tangents
from pysciml.graph.elimination import solve_blocks, solve_gram
from pysciml.graph.graph import Graph
from pysciml.graph.model import EventSpec, Model

Array = npt.NDArray[np.float64]

#: How fast offsets decay, in units of how fast the normals turn.
_DECAY = 4.0
#: Newton steps onto the constraints after an event, which may leave them.
_AFTER_EVENTS = 4
#: Keeps the root of zero differentiable.
_TINY = 1e-60


@lru_cache(maxsize=64)
def on_manifold(model: Model) -> Model:
    """The model that engines solve in place of one with constraints.

    Returns
    -------
    Model
        Its states are the differential states of ``model``, near the constraints, and those algebraic
        ones that are not solved for. Its output ``"projected"`` gives the states of ``model``, a Newton step
        nearer to the constraints. Without constraints the model itself.
    """
    return _Builder(model).build() if model.constraints else model


class _Builder:
    def __init__(self, model: Model) -> None:
        self.model = model
        graph, n = model.graph, len(model.states)
        self.b = b = GraphBuilder(n, graph.n_params)
        moved = b.copy_nodes(graph)
        self.outputs = {name: [moved[node] for node in nodes.tolist()] for name, nodes in graph.outputs.items()}
        self.differential = np.flatnonzero(model.differential).tolist()
        self.algebraic = np.flatnonzero(~model.differential).tolist()

    def build(self) -> Model:
        b, model = self.b, self.model
        rhs = self.outputs["rhs"]
        solved = solve_blocks(b, [rhs[k] for k in self.algebraic], [b.state(k) for k in self.algebraic])
        normals, offsets, on = self._projection()

        def there(nodes: Sequence[int]) -> list[int]:
            return b.substitute_all(b.substitute_all(nodes, solved), on)

        flow = there(rhs)
        along: dict[int, dict[int, int]] = {b.state(k): {0: flow[k]} for k in self.differential}
        along[b.time()] = {0: b.one}
        places = [(i, k) for i, row in enumerate(normals) for k in row]
        turning = [t.get(0, b.zero) for t in tangents(b, [normals[i][k] for i, k in places], along)]
        square = b.sum([b.mul(turn, turn) for turn in turning if turn != b.zero])
        rate = b.zero
        if square != b.zero:
            rate = b.mul(b.constant(_DECAY), b.call(ops.SQRT, b.add(square, b.constant(_TINY))))
        moves: dict[int, list[int]] = {}
        for (i, k), turn in zip(places, turning, strict=True):
            slope = b.sub(turn, b.mul(rate, normals[i][k]))
            if slope != b.zero:
                moves.setdefault(k, []).append(b.mul(slope, offsets[i]))
        for k, parts in moves.items():
            flow[k] = b.add(flow[k], b.sum(parts))
        left = [k for k in self.algebraic if b.state(k) not in solved]
        kept = [*self.differential, *left]
        states = [on.get(b.state(k), b.state(k)) for k in range(len(model.states))]
        projected = [
            there([b.state(k)])[0] if b.state(k) in solved else node for k, node in enumerate(states)
        ]
        outputs = {"rhs": [flow[k] for k in kept]}
        outputs |= {n: there(nodes) for n, nodes in self.outputs.items() if n not in ("rhs", "constraints")}
        events = tuple(self._event(event, outputs, on) for event in model.events)
        outputs["projected"] = projected
        return replace(
            model,
            graph=self._renumbered(outputs, kept),
            kind="dae" if left else "ode",
            states=tuple(model.states[k] for k in kept),
            differential=model.differential[kept],
            events=events,
            constraints=(),
            guessed=None,
        )

    def _projection(self) -> tuple[list[dict[int, int]], list[int], dict[int, int]]:
        """The normals of the constraints, the offsets along them, and the states on the constraints."""
        b = self.b
        constraints = self.outputs["constraints"]
        rows = tangents(b, constraints, {b.state(k): {k: b.one} for k in self.differential})
        lengths = [b.call(ops.SQRT, b.sum([b.mul(slope, slope) for slope in row.values()])) for row in rows]
        normals = [
            {k: b.div(slope, length) for k, slope in row.items()} for row, length in zip(rows, lengths, strict=True)
        ]
        heights = [b.div(node, length) for node, length in zip(constraints, lengths, strict=True)]
        offsets = solve_gram(b, normals, heights)
        shares: dict[int, list[int]] = {}
        for row, offset in zip(normals, offsets, strict=True):
            for k, normal in row.items():
                shares.setdefault(k, []).append(b.mul(normal, offset))
        return normals, offsets, {b.state(k): b.sub(b.state(k), b.sum(parts)) for k, parts in shares.items()}

    def _event(self, event: EventSpec, outputs: dict[str, list[int]], on: dict[int, int]) -> EventSpec:
        """An event that leaves the states on the constraints, whatever it sets."""
        b = self.b
        if not event.targets:
            return event
        after = {b.state(k): on.get(b.state(k), b.state(k)) for k in self.differential}
        for target, value in zip(event.targets, outputs[event.values], strict=True):
            after[b.state(target)] = value
        for _ in range(_AFTER_EVENTS):
            nearer = b.substitute_all([on.get(leaf, leaf) for leaf in after], after)
            after = dict(zip(after, nearer, strict=True))
        targets = [k for k in self.differential if b.state(k) in on or k in event.targets]
        outputs[event.values] = [after[b.state(k)] for k in targets]
        return replace(event, targets=tuple(targets))

    def _renumbered(self, outputs: dict[str, list[int]], kept: list[int]) -> Graph:
        """The graph over the states that are left."""
        b = self.b
        graph = b.build(outputs)
        place = {k: i for i, k in enumerate(kept)}
        index = graph.index.copy()
        here = graph.op == ops.STATE
        index[here] = [place[k] for k in graph.index[here].tolist()]
        renamed = Graph(
            graph.op, graph.args, graph.const, index, len(kept), graph.n_params, graph.outputs, graph.networks, graph.calls
        )
        builder, moved = GraphBuilder.extend(renamed)
        return builder.build({name: [moved[n] for n in nodes.tolist()] for name, nodes in renamed.outputs.items()})


def start_on(model: Model, u0: Array) -> Array:
    """Initial values of `on_manifold` from those of the model, shape (..., n_states)."""
    inner = on_manifold(model)
    place = {name: k for k, name in enumerate(model.states)}
    return np.ascontiguousarray(u0[..., [place[name] for name in inner.states]])


def projected(model: Model, u: Array, p: Array, t: Array, steps: int = 8) -> Array:
    """The states of the model, on the constraints, from those of `on_manifold`, shape (n_states of that, n_t).

    Returns
    -------
    array, shape (n_states, n_t)
    """
    inner = on_manifold(model)
    shape = len(model.states), u.shape[1]
    found = np.broadcast_to(inner.graph.evaluate("projected", u, p[:, None], t), shape)
    with np.errstate(all="ignore"):
        for _ in range(steps):
            last = found
            found = np.broadcast_to(inner.graph.evaluate("projected", start_on(model, last.T).T, p[:, None], t), shape)
            if not np.any(np.abs(found - last) > 4e-16 * np.abs(found)):
                break
    return np.ascontiguousarray(found)
