r"""Staying on constraints: the form of a system of reduced index that engines solve.

After index reduction the equations have index 1, :math:`x' = f(x, z, t)` with what determines :math:`z`, and the
constraints :math:`h(x, t) = 0` hold along their solutions. Solved as they stand they drift: the errors of the steps
add up, in the position of a pendulum quadratically in time. A choice of independent states (dummy derivatives)
does not drift, but fails where the choice does: the Cartesian coordinates of a pendulum that goes full circle.

So the states are integrated in coordinates around the constraints: a point :math:`y` near them is a point :math:`x` on
them and an offset :math:`s` along their normals, to which one Newton step is enough,

.. math:: x = \pi(y) = y - N^T s, \qquad N N^T s = \operatorname{diag}(|h_x|)^{-1} h, \qquad
          N = \operatorname{diag}(|h_x|)^{-1} h_x,

all at :math:`y`. It exists wherever :math:`h_x` has full rank; no choice is made. The derivative of :math:`x` is used
for :math:`y`, and offsets decay about as fast as the normals turn,

.. math:: y' = f(x, z, t) - \gamma N^T s, \qquad \gamma^2 = 16 \sum_i |\dot h_{x,i}|^2 / |h_{x,i}|^2 .

Without the decay, errors along the normals would add up, and where normals turn an offset changes speeds by the share
that it is of their radius; with it an offset is of the size of the errors of some steps. Where they do not turn, as
with linear constraints, an offset changes nothing. The rate needs no units to be known, and is not stiff: a solver that
follows the solution follows the decay. What is shown is projected, to rounding. (Projecting after every step, as in
Hairer, Lubich & Wanner, *Geometric Numerical Integration*, IV.4, has the same effect; here no step has to be
interrupted, so that every solver can be used, with its dense output.) Where :math:`z` enters linearly, and it mostly
does, it is solved for, and what is left is an ordinary differential equation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

#: How fast offsets decay, in units of how fast the normals of constraints turn.
_DECAY = 4.0
#: Newton steps onto the constraints after an event, which may leave them.
_AFTER_EVENTS = 4
#: Keeps the root of zero differentiable.
_TINY = 1e-60


@lru_cache(maxsize=64)
def on_manifold(model: Model, *, backward: bool = False) -> Model:
    """The model that engines solve in place of one with constraints.

    Parameters
    ----------
    model : Model
    backward : bool
        Offsets decay towards earlier times: for solving backward.

    Returns
    -------
    Model
        Its states are the differential states of ``model``, near the constraints, and those algebraic
        ones that are not solved for. Its output ``"projected"`` gives the states of ``model``, a Newton step
        nearer to the constraints. Without constraints the model itself.
    """
    return _Builder(model, -_DECAY if backward else _DECAY).build() if model.constraints else model


class _Builder:
    def __init__(self, model: Model, decay: float) -> None:
        self.model = model
        self.decay = decay
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
        slopes, offsets = self._offsets()
        on = {b.state(k): b.sub(b.state(k), offset) for k, offset in offsets.items()}

        def there(nodes: Sequence[int]) -> list[int]:
            return b.substitute_all(b.substitute_all(nodes, solved), on)

        flow = there(rhs)
        along: dict[int, dict[int, int]] = {b.state(k): {0: flow[k]} for k in self.differential}
        along[b.time()] = {0: b.one}
        rate = self._rate(slopes, along)
        for k, offset in offsets.items():
            flow[k] = b.sub(flow[k], b.mul(rate, offset))
        left = [k for k in self.algebraic if b.state(k) not in solved]
        kept = [*self.differential, *left]
        states = [on.get(b.state(k), b.state(k)) for k in range(len(model.states))]
        projected = [there([b.state(k)])[0] if b.state(k) in solved else node for k, node in enumerate(states)]
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

    def _offsets(self) -> tuple[list[dict[int, int]], dict[int, int]]:
        """The derivatives of the constraints by the states, and the way of every state from the constraints."""
        b = self.b
        constraints = self.outputs["constraints"]
        slopes = tangents(b, constraints, {b.state(k): {k: b.one} for k in self.differential})
        lengths = [b.call(ops.SQRT, self._square(row.values())) for row in slopes]
        normals = [
            {k: b.div(slope, length) for k, slope in row.items()} for row, length in zip(slopes, lengths, strict=True)
        ]
        heights = [b.div(node, length) for node, length in zip(constraints, lengths, strict=True)]
        shares: dict[int, list[int]] = {}
        for row, offset in zip(normals, solve_gram(b, normals, heights), strict=True):
            for k, normal in row.items():
                shares.setdefault(k, []).append(b.mul(normal, offset))
        return slopes, {k: b.sum(parts) for k, parts in shares.items()}

    def _square(self, entries: Iterable[int]) -> int:
        return self.b.sum([self.b.mul(entry, entry) for entry in entries])

    def _rate(self, slopes: list[dict[int, int]], along: dict[int, dict[int, int]]) -> int:
        """How fast offsets decay."""
        b = self.b
        turns: list[int] = []
        for row in slopes:
            changes = tangents(b, list(row.values()), along)
            square = self._square([change[0] for change in changes if 0 in change])
            if square != b.zero:
                turns.append(b.div(square, self._square(row.values())))
        if not turns:
            return b.zero
        return b.mul(b.constant(self.decay), b.call(ops.SQRT, b.add(b.sum(turns), b.constant(_TINY))))

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
            graph.op,
            graph.args,
            graph.const,
            index,
            len(kept),
            graph.n_params,
            graph.outputs,
            graph.networks,
            graph.calls,
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
    return np.ascontiguousarray(found, dtype=u.dtype)
