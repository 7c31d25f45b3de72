"""`System`: a list of SymPy equations, checked and lowered to the graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import sympy as sp
from sympy.core.function import AppliedUndef

from pysciml.errors import ModelError
from pysciml.graph import Graph, Model
from pysciml.graph.model import Kind, NoiseType
from pysciml.hints import named_options
from pysciml.symbolic import printing
from pysciml.symbolic.events import Event, Jump
from pysciml.symbolic.from_graph import to_sympy
from pysciml.symbolic.lowering import Lowered, lower
from pysciml.symbolic.networks import WithNetworks
from pysciml.symbolic.reading import normalize
from pysciml.symbolic.variables import BrownianMotion, attributes, equation, scalar

if TYPE_CHECKING:
    import scipy.sparse


class System(WithNetworks):
    """Differential equations in SymPy.

    What kind of system it is follows from the equations: `kind` is ``"ode"``, ``"dae"`` (an
    equation without a derivative, or not solvable for one), ``"sde"`` (a Brownian motion as a
    factor), ``"dde"`` (an unknown at an earlier time) or ``"jump"`` (with jumps, and maybe with noise).

    Parameters
    ----------
    equations : list of sympy.Eq or expressions
        An expression stands for ``expression = 0``, an equation of matrices for those of its entries, row by row
        (``.equations`` has them one by one). Derivatives may be of any order, on either
        side, scaled and mixed; they are solved for where they enter linearly. Algebraic equations that
        determine no unknown are differentiated in time until they do; see `index`.
    parameters : list of symbols, optional
        By default every symbol that is not the time. Given, any other symbol is an error.
    observed : mapping or list of sympy.Eq, optional
        Quantities computed from the solution: symbol or name -> expression.
    events : list of Event
    jumps : list of Jump
        What happens at random times. A state that only jumps change needs no equation.
    name : str

    Attributes
    ----------
    states : tuple of SymPy expressions
        The first-order states, unknowns and their lower derivatives, in the order of the equations
        that give their derivatives; algebraic ones come last.
    parameters : tuple of symbols
    equations : tuple of sympy.Eq
        As given.
    observed : dict of SymPy symbol to expression
    time : sympy.Symbol

    Raises
    ------
    ModelError
        If the equations are not a system; the message names the equation and the symbol.
    UnsupportedError
        For combinations nothing solves, such as delays with noise.

    Examples
    --------
    >>> x, = variables("x,")
    >>> System([Eq(D(x), -parameters("k")*x)], name="decay")
    System decay (ode): 1 state x; 1 parameter k
      D(x) = -k*x
    """

    @named_options(ModelError)
    def __init__(
        self,
        equations: Any,
        parameters: Iterable[sp.Symbol] | None = None,
        observed: Mapping[Any, Any] | Sequence[sp.Eq] | None = None,
        events: Iterable[Event] | Event = (),
        jumps: Iterable[Jump] | Jump = (),
        name: str = "model",
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ModelError(f"name must be a non-empty text, not {name!r}")
        self.name = name
        self.events: tuple[Event, ...] = _read_happenings(events, "event", Event)
        self.jumps: tuple[Jump, ...] = _read_happenings(jumps, "jump", Jump)
        given = normalize(equations, may_be_empty=bool(self.jumps))
        self.equations: tuple[sp.Eq, ...] = given + _constant_between(self.jumps, given)
        self.observed: dict[Any, sp.Expr] = _read_observed(observed)
        symbols = _read_parameters(parameters)
        lowered = lower(self.equations, symbols, self.observed, self.events, self.jumps, name)
        self._set(lowered)

    def _set(self, lowered: Lowered) -> None:
        self._lowered = lowered
        self._weights: dict[str, npt.NDArray[np.float64]] = {}
        self.model: Model = lowered.model
        self.time = lowered.time
        self.parameters: tuple[sp.Symbol, ...] = lowered.parameters
        self.states: tuple[sp.Expr, ...] = tuple(
            s.function if s.order == 0 else sp.Derivative(s.function, (lowered.time, s.order)) for s in lowered.states
        )

    @property
    def kind(self) -> Kind:
        """``"ode"``, ``"dae"``, ``"sde"``, ``"dde"`` or ``"jump"``."""
        return self.model.kind

    @property
    def index(self) -> int:
        """The structural index of the equations as they were written: how often some had to be differentiated.

        0 for ordinary differential equations, 1 where the algebraic equations determine the algebraic unknowns.
        Where it is higher, equations are differentiated until they do (`pysciml.symbolic.index`); `equations` stay
        as they were written, and solutions stay on what was differentiated, `constraints`. It is never lower than
        the differentiation index, and for some systems higher (Reissig, Martinson & Barton, SIAM J. Sci. Comput. 21
        (2000) 1987). `pysciml.reduce_index` reduces it in another way, to a system of index 1 with fewer states.
        """
        return self.model.index

    @property
    def constraints(self) -> dict[str, sp.Expr]:
        """What index reduction leaves as constraints on the states: in words -> the expression that is zero."""
        if not self.model.constraints:
            return {}
        expressions = to_sympy(self.graph, "constraints", self.states, self.parameters, self.time)
        return dict(zip(self.model.constraints, expressions, strict=True))

    @property
    def noise_type(self) -> NoiseType | None:
        """``"additive"``, ``"diagonal"``, ``"scalar"`` or ``"general"``; None without noise."""
        return self.model.noise_type

    @property
    def graph(self) -> Graph:
        """The expression graph every engine lowers."""
        return self.model.graph

    @cached_property
    def rhs(self) -> tuple[sp.Expr, ...]:
        """The right-hand sides of the first-order form, one per state (0 = rhs where algebraic)."""
        return tuple(to_sympy(self.graph, "rhs", self.states, self.parameters, self.time))

    def jacobian(self) -> sp.Matrix:
        """The derivative of `rhs` by `states`, as a SymPy matrix of shape (n_states, n_states).

        It comes from exact differentiation on the graph, not from SymPy's ``diff``.
        """
        graph, rows, cols = self.graph.jacobian()
        entries = to_sympy(graph, "jacobian", self.states, self.parameters, self.time)
        n = len(self.states)
        matrix = sp.zeros(n, n)
        for row, col, entry in zip(rows.tolist(), cols.tolist(), entries, strict=True):
            matrix[row, col] = entry
        return matrix

    def sparsity(self) -> scipy.sparse.csr_array[Any]:
        """Where the Jacobian can be non-zero: boolean ``scipy.sparse.csr_array``, (n_states, n_states)."""
        from scipy.sparse import csr_array

        rows, cols = self.graph.sparsity()
        n = len(self.states)
        return csr_array((np.ones(len(rows), dtype=bool), (rows, cols)), shape=(n, n))

    def state_index(self, key: Any) -> int | None:
        """The position of a state given as symbol, as derivative or by name; None if it is none."""
        return self._state_keys.get(_unwrap(key, self.time))

    def parameter_index(self, key: Any) -> int | None:
        """The position of a parameter given as symbol or by name; None if it is none."""
        return self._parameter_keys.get(key)

    @cached_property
    def _state_keys(self) -> dict[Any, int]:
        keys: dict[Any, int] = {}
        for i, info in enumerate(self._lowered.states):
            keys[info.name] = i
            keys[info.function, info.order] = i
        return keys

    @cached_property
    def _parameter_keys(self) -> dict[Any, int]:
        return {key: i for i, symbol in enumerate(self.parameters) for key in (symbol, symbol.name)}

    @cached_property
    def attrs(self) -> dict[str, dict[str, str]]:
        """``units`` and ``long_name`` by name, for states, observed quantities and parameters."""
        found: dict[str, dict[str, str]] = {}
        for info in self._lowered.states:
            given = attributes(info.function)
            if given and info.order:
                dots = "" if info.order == 1 else f" (order {info.order})"
                label = given.get("long_name", info.function.func.__name__)
                given = {"long_name": f"time derivative{dots} of {label}"}
            found[info.name] = given
        for name, symbol in zip(self.model.observed, self._lowered.observed, strict=True):
            found[name] = attributes(symbol)
        for symbol in self.parameters:
            found[symbol.name] = attributes(symbol)
        return {name: given for name, given in found.items() if given}

    def save(self, path: str | Path, weights: Mapping[Any, npt.ArrayLike] | None = None) -> None:
        """Write the model as JSON: the graph and the names, data and never code.

        Parameters
        ----------
        path : path
        weights : mapping, optional
            Network -> its weights, such as ``fit.problem.weights``: what a `Problem` of the loaded
            model starts with. Other networks start with their initial weights, as they do here.

        Raises
        ------
        OSError
            If the file cannot be written; an existing file is replaced only by a whole new one.
        ProblemError
            If weights do not fit.
        UnsupportedError
            If a network is another library's module with operations that cannot be written out as data.
        """
        from pysciml.symbolic.files import save

        save(self, path, weights)

    def to_julia(self) -> str:
        """The model as readable Julia source, to go on with in Julia.

        Returns
        -------
        str
            Functions with the names of the equations, and ``problem(u0, tspan, p)``, which makes
            the ``ODEProblem`` (``SDEProblem``, ``DDEProblem``). Save it as ``model.jl`` and
            ``include("model.jl")``. States and parameters are in the order of `states` and
            `parameters`. Where the index was reduced, it is the form that stays on the constraints
            (`pysciml.graph.manifold`), and ``projected!`` gives all states.

        Raises
        ------
        UnsupportedError
            For systems with networks.

        Examples
        --------
        >>> Path("lotka.jl").write_text(lotka.to_julia())
        """
        from pysciml.symbolic.julia_source import julia_source

        return julia_source(self.model)

    def __repr__(self) -> str:
        model = self.model
        parts = [_count("state", model.states)]
        if model.parameters:
            parts.append(_count("parameter", model.parameters))
        parts += [f"network {network.name} ({network.size} weights)" for network in model.graph.networks]
        if model.noise:
            parts.append(f"{model.noise_type} noise {', '.join(model.noise)}")
        if model.observed:
            parts.append(f"observed {_shorten(model.observed)}")
        if model.events:
            parts.append(f"{len(model.events)} event{'s' if len(model.events) > 1 else ''}")
        if model.jumps:
            parts.append(f"{len(model.jumps)} jump{'s' if len(model.jumps) > 1 else ''}")
        lines = [f"System {self.name} ({self.kind}): " + "; ".join(parts)]
        shown = self.equations[:20]
        lines += [f"  {printing.text(eq, self.time)}" for eq in shown]
        if len(self.equations) > len(shown):
            lines.append(f"  ... and {len(self.equations) - len(shown)} more")
        lines += [
            f"  {name} = {printing.text(expr, self.time)}"
            for name, expr in zip(model.observed, self.observed.values(), strict=True)
        ]
        return "\n".join(lines)

    def _repr_latex_(self) -> str:
        return printing.latex(self.equations[:50], self.time)


def _count(what: str, names: tuple[str, ...]) -> str:
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} {_shorten(names)}"


def _shorten(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 12 else ", ".join((*names[:10], "...", names[-1]))


def _unwrap(key: Any, time: sp.Symbol) -> Any:
    if isinstance(key, AppliedUndef):
        return key, 0
    if isinstance(key, sp.Derivative):
        by: Any = key.variable_count
        return (key.expr, sum(count for _, count in by)) if all(v == time for v, _ in by) else key
    return key


def _read_parameters(parameters: Any) -> tuple[sp.Symbol, ...] | None:
    if parameters is None:
        return None
    if isinstance(parameters, sp.Symbol):
        parameters = (parameters,)
    if isinstance(parameters, str) or not isinstance(parameters, Iterable):
        raise ModelError(f"parameters must be a list of symbols, not {parameters!r}")
    result = tuple(parameters)
    for symbol in result:
        if not isinstance(symbol, sp.Symbol):
            raise ModelError(f"parameters: {symbol!r} is not a symbol", symbol=str(symbol))
        if isinstance(symbol, BrownianMotion):
            raise ModelError(f"parameters: {symbol} is a Brownian motion and has no value", symbol=str(symbol))
    if len(set(result)) < len(result):
        double = next(s for i, s in enumerate(result) if s in result[:i])
        raise ModelError(f"parameters: {double} is given twice", symbol=str(double))
    return result


def _read_observed(observed: Any) -> dict[Any, sp.Expr]:
    if observed is None:
        return {}
    pairs: list[tuple[Any, Any]]
    if isinstance(observed, Mapping):
        pairs = list(observed.items())
    elif isinstance(observed, Sequence) and all(isinstance(eq, sp.Eq) for eq in observed):
        pairs = [(eq.lhs, eq.rhs) for eq in observed]
    else:
        raise ModelError(f"observed must map names to expressions, such as {{'total': x + y}}, not {observed!r}")
    result: dict[Any, sp.Expr] = {}
    for key, value in pairs:
        symbol = sp.Symbol(key) if isinstance(key, str) else key
        if not isinstance(symbol, (sp.Symbol, AppliedUndef)):
            raise ModelError(f"observed: {key!r} is neither a name nor a symbol", symbol=str(key))
        expression = scalar(value)
        if expression is None:
            raise ModelError(f"observed quantity {symbol}: {value!r} is not a scalar expression", symbol=str(symbol))
        if symbol in result:
            raise ModelError(f"observed quantity {symbol} is given twice", symbol=str(symbol))
        result[symbol] = expression
    return result


def _read_happenings(given: Any, what: str, kind: type) -> tuple[Any, ...]:
    """Events or jumps as a tuple."""
    if isinstance(given, kind):
        given = (given,)
    if not isinstance(given, Iterable):
        raise ModelError(f"{what}s must be a list of pysciml.{kind.__name__}, not {given!r}")
    result = tuple(given)
    for i, one in enumerate(result):
        if not isinstance(one, kind):
            raise ModelError(f"{what} {i + 1} is not a pysciml.{kind.__name__} but {type(one).__name__}: {one!r}")
    return result


def _constant_between(jumps: tuple[Jump, ...], equations: tuple[sp.Eq, ...]) -> tuple[sp.Eq, ...]:
    """``D(x) = 0`` for every x that jumps set and whose derivative is in no equation."""
    if not jumps:
        return ()
    derived = {derivative.expr for eq in equations for derivative in eq.atoms(sp.Derivative)}
    set_by_jumps = dict.fromkeys(symbol for jump in jumps for symbol in jump.affect)
    return tuple(
        equation(sp.Derivative(symbol, symbol.args[0]), sp.Integer(0))
        for symbol in set_by_jumps
        if isinstance(symbol, AppliedUndef) and symbol not in derived and symbol.args[0].is_Symbol
    )
