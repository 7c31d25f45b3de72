"""`DiscreteSystem`: a system on a grid, and the problems made of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from pysciml.errors import ModelError, ProblemError, UnsupportedError
from pysciml.graph import field_elimination, ops
from pysciml.graph.field_builder import FieldBuilder
from pysciml.graph.field_elimination import Elimination
from pysciml.graph.fields import FieldGraph
from pysciml.graph.model import FieldLayout, Kind, Model
from pysciml.hints import named_options
from pysciml.pde.constraints import check, consistent
from pysciml.pde.grid import Array, Axis
from pysciml.pde.lowering import Lowering
from pysciml.pde.noise import Noise
from pysciml.pde.system import PDESystem
from pysciml.problem import Problem, _read_tspan, fill
from pysciml.symbolic.networks import WithNetworks
from pysciml.symbolic.reading import dependence_order, name_of

if TYPE_CHECKING:
    import xarray as xr

SCHEMES: Final = ("central", "upwind", "weno", "spectral")
_ORDERS: Final = {"central": (2, 4, 6), "upwind": (1, 2, 3), "weno": (2, 5), "spectral": ()}
#: Initial and boundary values further apart than this, relative to the field, are reported.
_INCOMPATIBLE: Final = 1e-3
#: More cells than this in all, or along one coordinate, are a slip of the keyboard.
_MOST_CELLS: Final = 2**30
_MOST_ALONG: Final = 2**24


class DiscreteSystem(WithNetworks):
    """A `PDESystem` on a grid: ordinary differential equations for the cells.

    Attributes
    ----------
    system : PDESystem
    axes : tuple of Axis
    coords : dict of str to array
        Where the values are.
    model : Model
        What the engines solve; its graph has array nodes, and no more of them on a finer grid.
    states : tuple of FieldInfo
        The unknowns.
    elimination : Elimination or None
        How fields without a time derivative were solved for within the right-hand side, if they were.
    """

    def __init__(
        self,
        system: PDESystem,
        axes: Iterable[Axis],
        order: int,
        scheme: str,
        positive: Iterable[Any] = (),
        eliminate: bool = True,
    ) -> None:
        self.system = system
        self.axes = tuple(axes)
        self.order, self.scheme = order, scheme
        self.positive = tuple(positive)
        self.name = system.name
        self.time = system.time
        self.parameters = system.parameters
        self.observed = system.observed
        self.events = ()
        self.coords: dict[str, Array] = {axis.name: axis.centers for axis in self.axes}
        self.attrs = system.attrs
        low = Lowering(system, self.axes, order, scheme, self.positive)
        rhs = [self._rate(low, i) for i in range(len(system.states))]
        names, observed = self._observed(low)
        low.b.fields = (low.shape,) * len(system.states)
        outputs = {"rhs": rhs, "observed": observed}
        noise = Noise(low) if system.noise else None
        if noise is not None:
            outputs["diffusion"] = noise.nodes
        dims = tuple(axis.name for axis in self.axes)
        #: With all fields among the unknowns.
        self._whole = Model(
            graph=low.b.build(outputs),
            kind="sde" if noise is not None else "dae" if system.constrained else "ode",
            name=system.name,
            states=tuple(s.name for s in system.states),
            parameters=tuple(p.name for p in system.parameters),
            observed=tuple(names),
            differential=np.repeat(
                [s.function not in system.constrained for s in system.states], int(np.prod(low.shape))
            ),
            fields=tuple(FieldLayout(s.name, dims, low.shape) for s in system.states),
            **({} if noise is None else noise.entries),
        )
        self.model, self.states = self._whole, system.states
        self._weights = system._weights
        self.elimination: Elimination | None = None
        self._means: dict[int, float] = {}
        if system.constrained and eliminate:
            given = [low(system.initial.get((f, 0), sp.Integer(0))) for f in system.constrained]
            self._eliminate(low.b.build({**outputs, "initial": given}))
        if noise is not None and system.constrained and self.elimination is None:
            raise UnsupportedError(
                f"{system.constrained[0].func.__name__} has no time derivative and {system.noise[0]} is noise: both "
                "are solved where its equation is linear with constant coefficients (and eliminate=True)"
            )

    def _eliminate(self, graph: FieldGraph) -> None:
        """Solve the equations without time derivatives within the right-hand side, if that is direct."""
        gone = self.system.constrained
        numbers = [i for i, s in enumerate(self.system.states) if s.function in gone]
        found = field_elimination.eliminate(graph, numbers, self._means)
        if found is None:
            return
        self.elimination, self._to_eliminate = found, graph
        kept = [i for i, s in enumerate(self.system.states) if s.function not in gone]
        self.states = tuple(self.system.states[i] for i in kept)
        whole = self._whole
        self.model = replace(
            whole,
            graph=found.graph,
            kind="ode" if whole.kind == "dae" else whole.kind,
            states=tuple(s.name for s in self.states),
            observed=(*(f.func.__name__ for f in gone), *whole.observed),
            differential=whole.differential[whole.differential],
            fields=tuple(whole.fields[i] for i in kept),
            whole=whole,
            diffusion_rows=(np.cumsum(whole.differential) - 1)[whole.diffusion_rows].astype(np.int32),
        )

    def with_means(self, means: Mapping[int, float]) -> DiscreteSystem:
        """The same with other means of eliminated fields of which a constant is open; by their numbers in `system`."""
        new = copy(self)
        new._means = self._means | dict(means)
        new._eliminate(self._to_eliminate)
        return new

    def _rate(self, low: Lowering, i: int) -> int:
        info = self.system.states[i]
        where = f"the equation of {info.function.func.__name__}"
        try:
            if info.order + 1 < self.system.orders[info.function]:
                node = low.b.field(low.state[info.function, info.order + 1])
            else:
                node = low.rate(i, self.system.rates[info.function])
        except (ModelError, UnsupportedError) as error:
            raise type(error)(f"{where}: {error}") from error
        shape = np.broadcast_shapes(low.b.shape(node), low.shape)
        if shape != low.shape:
            raise ModelError(f"{where} does not fit the grid: {shape} and {low.shape}")
        return node

    def _observed(self, low: Lowering) -> tuple[list[str], list[int]]:
        names, nodes = [], []
        for symbol in dependence_order(self.time, self.observed):
            try:
                node = low.output(self.observed[symbol], self.observed)
            except (ModelError, UnsupportedError) as error:
                raise type(error)(f"observed quantity {name_of(symbol)}: {error}") from error
            names.append(name_of(symbol))
            nodes.append(node)
        return names, nodes

    @property
    def graph(self) -> FieldGraph:
        """The graph of fields every engine lowers."""
        graph = self.model.graph
        assert isinstance(graph, FieldGraph)
        return graph

    @property
    def kind(self) -> Kind:
        """``"ode"``, ``"sde"`` where there is noise, ``"dae"`` where a field has no time derivative."""
        return self.model.kind

    def state_index(self, key: Any) -> int | None:
        """The number of a field given as function, as derivative or by name; None if it is none."""
        if isinstance(key, sp.Derivative):
            key = key.expr, len(key.variables)
        for i, info in enumerate(self.states):
            if key in (info.name, (info.function, info.order)) or (key == info.function and not info.order):
                return i
        return None

    def parameter_index(self, key: Any) -> int | None:
        """The position of a parameter given as symbol or by name; None if it is none."""
        return self._parameter_keys.get(key)

    @cached_property
    def _parameter_keys(self) -> dict[Any, int]:
        return {key: i for i, symbol in enumerate(self.parameters) for key in (symbol, symbol.name)}

    @cached_property
    def start(self) -> tuple[FieldGraph, tuple[int, ...]]:
        """The initial values on the grid, as outputs ``"values"`` of a graph, and which fields have them."""
        low = Lowering(self.system, self.axes, self.order, self.scheme)
        nodes: list[int] = []
        where: list[int] = []
        for i, info in enumerate(self.states):
            expr = self.system.initial.get((info.function, info.order))
            if expr is None and info.order:
                expr = sp.Integer(0)
            if expr is not None:
                where.append(i)
                nodes.append(low(expr))
        return low.b.build({"values": nodes}), tuple(where)

    def initial(self, p: Array) -> list[Array | None]:
        """The initial values of all fields on the grid, by the system's expressions; None where there are none."""
        graph, where = self.start
        found: list[Array | None] = [None] * len(self.states)
        shape = tuple(axis.n for axis in self.axes)
        for i, value in zip(where, graph.arrays("values", np.zeros(graph.n_states), p, 0.0), strict=True):
            found[i] = np.ascontiguousarray(np.broadcast_to(value, shape))
        return found

    @named_options()
    def problem(
        self,
        tspan: Iterable[float] | None = None,
        p: Mapping[Any, Any] | None = None,
        u0: Mapping[Any, Any] | None = None,
    ) -> FieldProblem:
        """Add the numbers.

        Fields without a time derivative are solved for. What is given for them is where the search begins; of
        those that are eliminated only the mean is used, where a constant is open.

        Parameters
        ----------
        tspan : pair of float
            Required; equations without a time derivative are solved by `steady` instead.
        p : mapping, optional
            Parameter -> value, for every parameter.
        u0 : mapping, optional
            Field -> number, array of the grid's shape, or `xarray.DataArray` over its coordinates, in
            place of ``initial``.

        Raises
        ------
        ProblemError
            Naming the field or parameter that is missing, unknown or not finite, or the field for which
            its equation has no solution at the start.

        Warns
        -----
        UserWarning
            Where initial and boundary values disagree, with the place and by how much.
        """
        return FieldProblem(self, u0, tspan, p)

    @named_options()
    def steady(
        self, p: Mapping[Any, Any] | None = None, u0: Mapping[Any, Any] | None = None, *, rtol: float = 1e-10
    ) -> xr.Dataset:
        """Solve for where nothing changes: Newton's method with sparse linear algebra.

        Parameters
        ----------
        p, u0 : mappings, optional
            As for `problem`; ``u0`` and ``initial`` are where the search begins (by default zero).
        rtol : float
            Size of the last correction, relative to the solution.

        Returns
        -------
        xarray.Dataset
            Over the coordinates.

        Raises
        ------
        SolverError
            If no solution is found.
        """
        from pysciml.pde.steady import steady

        return steady(self, p, u0, rtol)

    def save(self, path: str | Path, weights: Mapping[Any, Any] | None = None) -> None:
        """Write the system and its grid as JSON; see `PDESystem.save`. `pysciml.load` reads it.

        Raises
        ------
        OSError, ProblemError, UnsupportedError
            As `PDESystem.save`.
        """
        from pysciml.pde.files import save

        save(self.system, path, self, weights)

    def __repr__(self) -> str:
        grid = ", ".join(f"{axis.name}: {axis.n}" for axis in self.axes)
        what = f"{self.scheme}" + (f", order {self.order}" if self.scheme in ("central", "upwind") else "")
        what += f", {', '.join(f.func.__name__ for f in self.positive)} kept positive" if self.positive else ""
        return f"DiscreteSystem {self.name} on {grid} ({what}); {self.graph.n_states} states in {len(self.graph)} nodes"


def _evaluate(builder: FieldBuilder, nodes: list[int], p: Array, t: float) -> list[Array]:
    graph = builder.build({"values": nodes})
    return graph.arrays("values", np.zeros(graph.n_states), p, t)


class FieldProblem(Problem):
    """A `DiscreteSystem` with a time span, parameters and initial values.

    Made by `DiscreteSystem.problem`. ``u0`` is the state: all cells of all fields, one field after
    the other, each in C order.
    """

    def __init__(self, system: DiscreteSystem, u0: Any, tspan: Any, p: Any) -> None:
        self.system: Any = system
        model = system.model
        if system.system.steady:
            raise ProblemError(f"{system.name} has no time derivative: solve it with .steady(p)")
        if tspan is None:
            raise ProblemError("problem needs a tspan, such as .problem((0, 10), p)", symbol="tspan")
        self.tspan = _read_tspan(tspan)
        self.p = self._read_parameters(p)
        found = system.initial(self.p)
        given = self._read_fields(u0)
        arrays: list[Array] = []
        for i, (layout, value) in enumerate(zip(model.fields, found, strict=True)):
            chosen = given.get(i, value)
            if chosen is None and system.states[i].function in system.system.constrained:
                chosen = np.zeros(layout.shape)
            if chosen is None:
                raise ProblemError(f"neither initial= nor u0 has a value for {layout.name}", symbol=layout.name)
            bad = ~np.isfinite(chosen)
            if bad.any():
                place = tuple(int(k[0]) for k in np.nonzero(bad))
                at = ", ".join(
                    f"{name} = {coords[k]:.6g}" for (name, coords), k in zip(system.coords.items(), place, strict=True)
                )
                raise ProblemError(f"the initial value of {layout.name} is not finite at {at}", symbol=layout.name)
            arrays.append(chosen)
        self._set(np.concatenate([a.ravel() for a in arrays]))
        self.initial_given = set(given)
        self._warn_incompatible(arrays)

    def _set(self, u0: Array) -> None:
        self.u0 = u0
        if self.system.elimination is not None:
            check(self.system, u0, self.p, self.tspan[0])
        elif self.system.system.constrained:
            self.u0 = consistent(self.system, u0, self.p, self.tspan[0])
        self._freeze()

    def _read_fields(self, given: Any) -> dict[int, Array]:
        """The fields among the unknowns; of others the mean is used, where a constant is open."""
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            raise ProblemError(f"u0 maps fields to numbers or arrays, not {given!r}", symbol="u0")
        found = self.system.elimination
        if found is not None:
            system: PDESystem = self.system.system
            names = {key: f for f in system.constrained for key in (f, f.func.__name__)}
            numbers = {s.function: i for i, s in enumerate(system.states)}
            layout = self.system.model.fields[0]
            means: dict[int, float] = {}
            rest: dict[Any, Any] = {}
            for key, value in given.items():
                f = names.get(key)
                if f is None:
                    rest[key] = value
                    continue
                array = self._on_grid(value, replace(layout, name=f.func.__name__))
                if not np.isfinite(array).all():
                    raise ProblemError(f"the initial value of {f.func.__name__} is not finite", symbol=f.func.__name__)
                if numbers[f] in found.floating:
                    means[numbers[f]] = float(array.mean())
            if means:
                self.system = self.system.with_means(means)
            given = rest
        return self._read_unknown(given)

    def _read_unknown(self, given: Mapping[Any, Any]) -> dict[int, Array]:
        result: dict[int, Array] = {}
        for key, value in given.items():
            try:
                i = self.system.state_index(key)
            except TypeError:
                i = None
            if i is None:
                names = [*self.system.model.states]
                if self.system.elimination is not None:
                    names += map(name_of, self.system.system.constrained)
                raise ProblemError(f"u0 has a value for {key}, which is no field ({', '.join(names)})", symbol=str(key))
            result[i] = self._on_grid(value, self.system.model.fields[i])
        return result

    @staticmethod
    def _on_grid(value: Any, layout: FieldLayout) -> Array:
        """What is given for a field, on the grid."""
        import xarray as xr

        if isinstance(value, xr.DataArray):
            if set(value.dims) - set(layout.dims):
                raise ProblemError(
                    f"u0 of {layout.name} has the dimensions {value.dims}, and the grid {layout.dims}",
                    symbol=layout.name,
                )
            value = value.transpose(*[d for d in layout.dims if d in value.dims])
            value = value.values.reshape([value.sizes.get(d, 1) for d in layout.dims])
        try:
            array = np.asarray(value, dtype=np.float64)
            return np.ascontiguousarray(np.broadcast_to(array, layout.shape))
        except (TypeError, ValueError) as error:
            raise ProblemError(
                f"u0 of {layout.name} has the shape {np.shape(value)}, and the grid is {layout.shape}",
                symbol=layout.name,
            ) from error

    def remake(
        self,
        u0: Mapping[Any, Any] | None = None,
        tspan: Iterable[float] | None = None,
        p: Mapping[Any, Any] | None = None,
    ) -> FieldProblem:
        """Change some numbers; what is not given stays, and nothing is compiled again.

        Initial values that were given by expressions follow the parameters.
        """
        new = object.__new__(FieldProblem)
        new.system = self.system
        new.tspan = self.tspan if tspan is None else _read_tspan(tspan)
        new.p = self.p if p is None else self._fill_parameters(self.p.copy(), p)
        given = new._read_fields(u0)
        arrays = [a.copy() for a in self.system.graph.split(self.u0)]
        if p is not None and self.following:
            found = self.system.initial(new.p)
            for i in self.following:
                value = found[i]
                assert value is not None
                arrays[i] = value
        for i, value in given.items():
            arrays[i] = value
        new.initial_given = self.initial_given | set(given)
        new._set(np.concatenate([a.ravel() for a in arrays]))
        return new

    @property
    def following(self) -> tuple[int, ...]:
        """The fields whose initial values follow the parameters: entries of `DiscreteSystem.start`."""
        graph, where = self.system.start
        if not graph.used_ops(["values"]) & {ops.PARAM, ops.NETWORK}:
            return ()
        return tuple(i for i in where if i not in self.initial_given)

    def _read_parameters(self, p: Any) -> Array:
        """All parameters from what a user gives."""
        system, model = self.system, self.system.model
        start = np.full(model.n_params, np.nan)
        for name, block in model.blocks.items():
            start[block] = system.initial_weights(name)
        found = self._fill_parameters(start, {} if p is None else p)
        missing = [name for name, value in zip(model.parameters, found, strict=False) if np.isnan(value)]
        if missing:
            raise ProblemError(
                f"p has no value for {', '.join(missing)} (every symbol is a parameter that is no coordinate of the "
                f"domain: {', '.join(system.coords)})",
                symbol=missing[0],
            )
        return found

    def _fill_parameters(self, start: Array, p: Any) -> Array:
        if isinstance(p, Mapping) and self.system.model.blocks:
            p = self._fill_weights(start, p)
        return fill(start, p, "p", "parameter", self.system.parameter_index, self.system.model.parameters)

    def _warn_incompatible(self, arrays: list[Array]) -> None:
        """Say where initial values break a Dirichlet condition or do not close around a period."""
        system: PDESystem = self.system.system
        for i, (info, array) in enumerate(zip(self.system.states, arrays, strict=True)):
            expr = system.initial.get((info.function, info.order))
            solved = info.function in system.constrained
            if expr is None or i in self.initial_given or info.order or solved:
                continue
            scale = float(np.abs(array).max()) or 1.0
            for axis, x in zip(self.system.axes, system.coordinates, strict=True):
                ends = [expr.subs(x, end) for end in (axis.low, axis.high)]
                sides = system.boundary[info.function, x]
                if sides is None:
                    pairs = [(ends[0], ends[1], f"is not periodic in {x}: between the ends it jumps")]
                else:
                    pairs = [
                        (end, side.value / side.a, f"does not meet its boundary condition at {x} = {at:g}: it is off")
                        for end, conditions, at in zip(ends, sides, (axis.low, axis.high), strict=True)
                        for side in conditions
                        if side.b == 0 and not (side.value / side.a).atoms(AppliedUndef)
                    ]
                for have, want, what in pairs:
                    gap = self._largest_gap(have, want, self.tspan[0])
                    if gap > _INCOMPATIBLE * scale:
                        warnings.warn(
                            f"{system.name}: the initial value of {info.name} {what} by up to {gap:.3g}", stacklevel=4
                        )

    def _largest_gap(self, have: Any, want: Any, t: float) -> float:
        system = self.system
        low = Lowering(system.system, system.axes, system.order, system.scheme)
        try:
            values = _evaluate(low.b, [low(have - want)], self.p, t)
        except ModelError:  # not finite at the very end
            return 0.0
        gap = float(np.abs(values[0]).max())
        return gap if np.isfinite(gap) else 0.0

    def __repr__(self) -> str:
        from pysciml.problem import _pairs

        model = self.system.model
        lines = [
            f"Problem of {model.name} on {' × '.join(map(str, model.fields[0].shape))} cells, "
            f"t from {self.tspan[0]:g} to {self.tspan[1]:g}",
            f"  fields: {', '.join(model.states)}",
        ]
        if self.system.elimination is not None:
            lines.append(f"  solved for at every instant: {', '.join(map(name_of, self.system.system.constrained))}")
        if model.parameters:
            lines.append(f"  p: {_pairs(model.parameters, self.p)}")
        lines += [f"  {name}: {values.size} weights" for name, values in self.weights.items()]
        return "\n".join(lines)


def discretize(
    system: PDESystem, points: Any, order: Any, scheme: Any, positive: Any = (), eliminate: bool = True
) -> DiscreteSystem:
    """See `PDESystem.discretize`."""
    if scheme not in SCHEMES:
        raise ProblemError(f"scheme is one of {', '.join(SCHEMES)}, not {scheme!r}", symbol="scheme")
    allowed = _ORDERS[scheme]
    if allowed and (isinstance(order, bool) or order not in allowed):
        raise ProblemError(
            f"order is one of {', '.join(map(str, allowed))} with scheme={scheme!r}, not {order!r}", symbol="order"
        )
    if not isinstance(points, Mapping):
        raise ProblemError(f"points maps coordinates to numbers of cells, such as {{X: 64}}, not {points!r}")
    for x in points:
        if x not in system.coordinates:
            raise ProblemError(f"points has {x}, which is no coordinate of {system.name}", symbol=str(x))
    axes: list[Axis] = []
    for k, x in enumerate(system.coordinates):
        if x not in points:
            raise ProblemError(f"points has no number of cells for {x}", symbol=str(x))
        axes.append(_axis(system, x, k, points[x], order, scheme))
    total = float(np.prod([float(axis.n) for axis in axes]))
    if total > _MOST_CELLS:
        raise ProblemError(f"points asks for {total:.3g} cells", symbol="points")
    return DiscreteSystem(system, axes, order, scheme, _read_positive(system, positive, scheme), eliminate)


def _read_positive(system: PDESystem, given: Any, scheme: str) -> tuple[Any, ...]:
    """The fields of ``positive=``, in the system's order."""
    keys: list[Any] = list(given) if isinstance(given, (list, tuple, set)) else [given]
    names = {key: f for f in system.fields for key in (f, f.func.__name__)}
    for key in keys:
        if key not in names:
            known = ", ".join(f.func.__name__ for f in system.fields)
            raise ProblemError(f"positive has {key}, which is no field of {system.name} ({known})", symbol=str(key))
        if system.orders[names[key]] != 1:
            raise ProblemError(f"positive: the equation of {key} is not of first order in time", symbol=str(key))
    if keys and scheme not in ("weno", "upwind"):
        raise ProblemError(
            f"positive= limits the fluxes of scheme='weno' and 'upwind', and scheme is {scheme!r}", symbol="positive"
        )
    return tuple(f for f in system.fields if f in {names[key] for key in keys})


def _axis(system: PDESystem, x: sp.Symbol, number: int, given: Any, order: int, scheme: str) -> Axis:
    low, high = system.domain[x]
    periodic = system.periodic(x)
    spectral = scheme == "spectral"
    least = {"central": 2 * order, "upwind": 4, "weno": 8, "spectral": 4}[scheme]
    highest = max(system.space_orders.get((f, x), 0) for f in system.fields)
    if highest > 2 and not periodic:
        if spectral:
            raise UnsupportedError(
                f"scheme='spectral': derivatives of order {highest} in {x} are solved where the domain is periodic, or "
                "with scheme='central'"
            )
        least += highest
    if np.ndim(given) == 0:
        if isinstance(given, bool) or not isinstance(given, (int, np.integer)):
            raise ProblemError(f"points: the number of cells in {x} must be an integer, not {given!r}", symbol=str(x))
        if given < least:
            raise ProblemError(
                f"points: {scheme} of order {order} needs {least} cells in {x}, not {given}", symbol=str(x)
            )
        if given > _MOST_ALONG:
            raise ProblemError(f"points asks for {given:.3g} cells in {x}", symbol=str(x))
        edges = low + (high - low) * np.arange(int(given) + 1) / int(given)
        edges[-1] = high
        return Axis(x.name, number, edges, periodic, spectral)
    edges = np.asarray(given, dtype=np.float64)
    if edges.ndim != 1 or len(edges) <= least or not np.isfinite(edges).all() or np.any(np.diff(edges) <= 0):
        raise ProblemError(f"points: the edges of the cells in {x} must be an increasing array, of {least + 1} or more")
    if abs(edges[0] - low) > 1e-9 * (high - low) or abs(edges[-1] - high) > 1e-9 * (high - low):
        raise ProblemError(
            f"points: the edges in {x} go from {edges[0]:g} to {edges[-1]:g}, and the domain from {low:g} to {high:g}",
            symbol=str(x),
        )
    edges = edges.copy()
    edges[0], edges[-1] = low, high
    axis = Axis(x.name, number, edges, periodic, spectral)
    if not axis.uniform and scheme != "central":
        raise UnsupportedError(f"scheme={scheme!r} needs cells of one width in {x}: pass their number")
    return axis
