"""Model files: JSON that holds the graph and the names, data and never code.

Nothing in a file is evaluated. The arrays are checked node by node (`Graph.from_arrays`), the
names by the rules `System` applies, before anything is made of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import sympy as sp

from pysciml.errors import ModelError, ProblemError, UnsupportedError
from pysciml.files import writing
from pysciml.graph import EventSpec, Graph, JumpSpec, Model, Network, ops
from pysciml.graph.networks import Call
from pysciml.graph.written import written_network
from pysciml.symbolic.events import Event, Jump
from pysciml.symbolic.from_graph import to_sympy
from pysciml.symbolic.lowering import Lowered, StateInfo
from pysciml.symbolic.marks import implicit
from pysciml.symbolic.networks import MLP, NetworkFunction
from pysciml.symbolic.reading import RESERVED
from pysciml.symbolic.system import System
from pysciml.symbolic.variables import BrownianMotion, equation, parameters, variables

if TYPE_CHECKING:
    from pysciml.pde import DiscreteSystem, PDESystem

_FORMAT: Final = "pysciml-model"
_VERSION: Final = 1


def save(system: System, path: str | Path, weights: Mapping[Any, Any] | None = None) -> None:
    """See `System.save`."""
    model, graph = system.model, system.graph
    document: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "name": model.name,
        "kind": model.kind,
        "time": system.time.name,
        "states": [
            {"name": s.name, "function": s.function.func.__name__, "order": s.order} for s in system._lowered.states
        ],
        "parameters": list(model.parameters),
        "observed": list(model.observed),
        "attrs": system.attrs,
        "differential": model.differential.tolist(),
        "events": [
            {"targets": list(e.targets), "direction": e.direction, "terminal": e.terminal, "when": e.when}
            for e in model.events
        ],
        "jumps": [{"targets": list(jump.targets)} for jump in model.jumps],
        "noise": list(model.noise),
        "noise_type": model.noise_type,
        "diffusion_rows": model.diffusion_rows.tolist(),
        "diffusion_cols": model.diffusion_cols.tolist(),
        "graph": _arrays_of(graph),
        "hash": model.hash,
    }
    if model.constraints:
        document |= {"constraints": list(model.constraints), "guessed": np.asarray(model.guessed).tolist()}
    if not model.differential.all():
        document["index"] = model.index
    if graph.networks:
        document["graph"]["networks"] = network_entries(
            system.networks, system._weights, {} if weights is None else weights
        )
        document["graph"]["calls"] = [[call.network, call.output, list(call.wrt)] for call in graph.calls]
    elif weights:
        raise ProblemError(f"weights has {next(iter(weights))}, and the system {system.name!r} has no networks")
    with writing(path) as temporary:
        temporary.write_text(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _arrays_of(graph: Graph) -> dict[str, Any]:
    return {
        "op": graph.op.tolist(),
        "args": graph.args.tolist(),
        # repr-exact and valid JSON: constants are finite by construction
        "const": graph.const.tolist(),
        "index": graph.index.tolist(),
        "outputs": {name: nodes.tolist() for name, nodes in graph.outputs.items()},
    }


def network_entries(
    networks: Mapping[str, Network], known: Mapping[str, Any], weights: Mapping[Any, Any]
) -> list[dict[str, Any]]:
    """Networks as data.

    Parameters
    ----------
    networks : mapping of name to Network
    known : mapping of name to array
        Weights that came with a file.
    weights : mapping
        Network or its name -> weights, which take their place.

    Raises
    ------
    ProblemError
        If ``weights`` do not fit.
    UnsupportedError
        For another library's module that cannot be written out.
    """
    given: dict[str, Any] = dict(known)
    for key, values in weights.items():
        name: Any = key.name if isinstance(key, NetworkFunction) else key
        network = networks.get(name) if isinstance(name, str) else None
        if network is None or (isinstance(key, NetworkFunction) and key.network != network):
            raise ProblemError(f"weights has {name}, which is not a network of the system", symbol=str(name))
        given[name] = weight_array(values, name, network.size)
    entries: list[dict[str, Any]] = []
    for network in networks.values():
        entry: dict[str, Any] = {
            "name": network.name,
            "inputs": network.inputs,
            "outputs": network.outputs,
            "seed": network.seed,
        }
        if network.foreign is None:
            entry |= {
                "hidden": list(network.hidden),
                "activation": network.activation,
                "output_activation": network.final,
            }
        elif network.foreign.graph is None:
            raise UnsupportedError(f"a model file holds data, never code: {network.foreign.reason}")
        else:
            entry |= {"library": network.foreign.library, "written": _arrays_of(network.foreign.graph)}
        if network.name in given:
            entry["weights"] = given[network.name].tolist()
        elif network.start is not None:
            entry["weights"] = list(network.start)
        entries.append(entry)
    return entries


def weight_array(values: Any, name: str, size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The weights of a network as one flat array; `ProblemError` says what does not fit."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"the weights of {name} must be an array of {size} numbers", symbol=name) from error
    if array.shape != (size,):
        raise ProblemError(
            f"the weights of {name} must be one flat array of {size} numbers, not of shape {array.shape}", symbol=name
        )
    if not np.isfinite(array).all():
        raise ProblemError(f"the weights of {name} are not all finite", symbol=name)
    return array


def load(path: str | Path) -> System | PDESystem | DiscreteSystem:
    """Read a model that `System.save`, `PDESystem.save` or `DiscreteSystem.save` wrote.

    The equations of a `System` are then the first-order form, rebuilt from the graph; those of
    fields are as they were written.

    Raises
    ------
    ModelError
        If the file is truncated, damaged or not a model file; the message says where.
    OSError
        If it cannot be read.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ModelError(f"a model file is given by its path, not {path!r}")
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # JSON's and Unicode's errors are ValueErrors
        raise ModelError(f"{path} is not a model file: {error}") from error
    try:
        if isinstance(document, dict) and cast("dict[str, Any]", document).get("format") == "pysciml-pde":
            from pysciml.pde.files import read

            return read(cast("dict[str, Any]", document))
        return _system(_Checked(document, ""))
    except (ModelError, ProblemError, ValueError) as error:
        raise ModelError(f"{path} is not a valid model file: {error}") from error


class _Checked:
    """A JSON object whose entries are fetched by name and type."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ModelError(f"{where or 'the document'} is not an object")
        self._value = cast("dict[str, Any]", value)
        self._where = where

    def get(self, key: str, kind: type | tuple[type, ...]) -> Any:
        if key not in self._value:
            raise ModelError(f"{self._where}{key} is missing")
        value = self._value[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise ModelError(f"{self._where}{key} has the wrong type")
        return value

    def has(self, key: str) -> bool:
        return key in self._value

    def names(self, key: str) -> list[str]:
        values = self.get(key, list)
        for value in values:
            _name(value)
        return values

    def objects(self, key: str) -> list[_Checked]:
        return [_Checked(v, f"{self._where}{key}[{i}].") for i, v in enumerate(self.get(key, list))]

    def object(self, key: str) -> _Checked:
        return _Checked(self.get(key, dict), f"{self._where}{key}.")


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.isidentifier() or len(value) > 200:
        shown = repr(value)
        raise ModelError(f"{shown if len(shown) < 60 else shown[:57] + '...'} is no valid name")
    return value


def _integers(document: _Checked, key: str, below: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    values = document.get(key, list)
    if not all(type(v) is int and 0 <= v < below for v in values):
        raise ModelError(f"{key} is not a list of indices below {below}")
    return np.array(values, dtype=np.int32)


def _system(document: _Checked) -> System:
    if document.get("format", str) != _FORMAT:
        raise ModelError(f"its format is not {_FORMAT!r}")
    if document.get("version", int) != _VERSION:
        raise ModelError(f"its version is {document.get('version', int)}; this pysciml reads version {_VERSION}")
    attrs = _attrs(document)
    time = sp.Symbol(_name(document.get("time", str)))
    states = _states(document, time, attrs)
    symbols = tuple(parameters(n, **attrs.get(n, {})) for n in document.names("parameters"))
    observed = document.names("observed")
    noise = document.names("noise")
    networks, weights = read_networks(document.object("graph"))
    every = [s.name for s in states] + [s.name for s in symbols] + observed + noise + [n.name for n in networks]
    if len(set(every)) < len(every):
        raise ModelError("two names are equal")
    taken = {time.name, *RESERVED} & set(every)
    if taken:
        raise ModelError(f"{taken.pop()!r} is no name for a state, a parameter or an observed quantity")
    model = _model(document, states, symbols, observed, noise, networks)
    if document.get("hash", str) != model.hash:
        raise ModelError("the hash does not match the content: the file was changed or damaged")
    system = rebuild(model, time, states, symbols, tuple(parameters(n, **attrs.get(n, {})) for n in observed))
    system._weights = weights
    return system


def read_networks(document: _Checked) -> tuple[list[Network], dict[str, Any]]:
    """The networks of a file, checked as a user's own are, and the weights that come with them."""
    if not document.has("networks"):
        return [], {}
    networks: list[Network] = []
    weights: dict[str, Any] = {}
    for entry in document.objects("networks"):
        network = _written(entry) if entry.has("written") else _layers(entry)
        networks.append(network)
        if entry.has("weights"):
            weights[network.name] = weight_array(entry.get("weights", list), network.name, network.size)
    return networks, weights


def _layers(entry: _Checked) -> Network:
    return MLP(
        _name(entry.get("name", str)),
        entry.get("inputs", int),
        entry.get("outputs", int),
        entry.get("hidden", list),
        entry.get("activation", str),
        entry.get("output_activation", str),
        entry.get("seed", int),
    ).network


def _written(entry: _Checked) -> Network:
    """A module that was written out: its graph, checked as that of a model, and the weights, which it comes with."""
    name, n_in, n_out = _name(entry.get("name", str)), entry.get("inputs", int), entry.get("outputs", int)
    library, seed, weights = entry.get("library", str), entry.get("seed", int), entry.get("weights", list)
    if library not in ("equinox", "lux") or n_in < 1 or seed < 0:
        raise ModelError(f"the network {name} is no module that was written out")
    arrays = entry.object("written")
    outputs = arrays.get("outputs", dict)
    graph = _graph(arrays, n_in, len(weights), outputs)
    if {key: len(nodes) for key, nodes in graph.outputs.items()} != {"out": n_out}:
        raise ModelError(f"the network {name} has other outputs than one vector of {n_out}")
    strange = graph.used_ops(["out"]) & ({ops.TIME, ops.HISTORY} | ops.VECTORS)
    if strange:
        raise ModelError(f"the network {name} has the operation {ops.OPS[min(strange)].name}")
    return written_network(name, graph, weight_array(weights, name, len(weights)).tolist(), library, seed)


def _calls(document: _Checked) -> list[Call]:
    if not document.has("calls"):
        return []
    calls: list[Call] = []
    for entry in document.get("calls", list):
        numbers = entry[:2] + entry[2] if isinstance(entry, list) and len(entry) == 3 else None
        if numbers is None or not isinstance(entry[2], list) or not all(type(v) is int for v in numbers):
            raise ModelError("graph.calls has an entry that is not [network, output, [inputs]]")
        calls.append(Call(entry[0], entry[1], tuple(entry[2])))
    return calls


def _attrs(document: _Checked) -> dict[str, dict[str, str]]:
    attrs = document.get("attrs", dict)
    for given in attrs.values():
        if not isinstance(given, dict) or not all(
            k in ("units", "long_name") and isinstance(v, str) for k, v in given.items()
        ):
            raise ModelError("attrs may only hold units and long_name")
    return attrs


def _states(document: _Checked, time: sp.Symbol, attrs: dict[str, dict[str, str]]) -> tuple[StateInfo, ...]:
    states: list[StateInfo] = []
    for entry in document.objects("states"):
        name = _name(entry.get("name", str))
        base = _name(entry.get("function", str))
        order = entry.get("order", int)
        if not 0 <= order < 100 or name != (base if order == 0 else f"{base}_{'t' * order}"):
            raise ModelError(f"state {name} is not derivative {order} of {base}")
        function = variables(base, **attrs.get(base, {})).func(time)
        states.append(StateInfo(name, function, order))
    if not states:
        raise ModelError("it has no states")
    return tuple(states)


def _model(
    document: _Checked,
    states: tuple[StateInfo, ...],
    symbols: tuple[sp.Symbol, ...],
    observed: list[str],
    noise: list[str],
    networks: list[Network],
) -> Model:
    arrays = document.object("graph")
    outputs = arrays.get("outputs", dict)
    n = len(states)
    n_params = len(symbols) + sum(network.size for network in networks)
    graph = _graph(arrays, n, n_params, outputs, networks, _calls(arrays))
    events = tuple(_event(entry, i, n) for i, entry in enumerate(document.objects("events")))
    jumps = tuple(
        _jump(entry, i, n) for i, entry in enumerate(document.objects("jumps") if document.has("jumps") else ())
    )
    rows = _integers(document, "diffusion_rows", n)
    cols = _integers(document, "diffusion_cols", len(noise))
    expected = {"rhs": n, "observed": len(observed)}
    if "implicit" in outputs:
        expected |= {"implicit": n, "explicit": n}
    if noise:
        expected["diffusion"] = len(rows)
    for event in events:
        n_times = len(outputs.get(event.condition, ())) if event.when == "times" else 1
        expected |= {event.condition: max(1, n_times), event.values: len(event.targets)}
    for jump in jumps:
        expected |= {jump.rate: 1, jump.values: len(jump.targets)}
    constraints, guessed, index = _index(document, n)
    if constraints:
        expected["constraints"] = len(constraints)
    found = {name: len(nodes) for name, nodes in graph.outputs.items()}
    if found != expected or len(rows) != len(cols):
        raise ModelError(f"graph.outputs are {found}, and should be {expected}")
    differential = document.get("differential", list)
    if len(differential) != n or not all(isinstance(d, bool) for d in differential):
        raise ModelError("differential is not one true or false per state")
    if sorted(differential, reverse=True) != differential:
        raise ModelError("differential has an algebraic state before a differential one")
    for happening, number in [(e, e.condition) for e in events] + [(j, j.rate) for j in jumps]:
        targets = happening.targets
        if len(set(targets)) < len(targets) or not all(differential[i] for i in targets):
            raise ModelError(f"{number} sets a state twice, or an algebraic one")
    for event in events:
        if event.when == "times" and graph.used_ops([event.condition]) & {ops.STATE, ops.TIME, ops.HISTORY}:
            raise ModelError(f"the times of {event.condition} change in time")
    kind = document.get("kind", str)
    if kind not in ("ode", "dae", "sde", "dde", "jump") or (kind == "jump") != bool(jumps):
        raise ModelError(f"kind is {kind!r}")
    noise_type = document.get("noise_type", (str, type(None)))
    if noise_type not in (None, "additive", "diagonal", "scalar", "general"):
        raise ModelError(f"noise_type is {noise_type!r}")
    return Model(
        graph=graph,
        kind=cast("Any", kind),
        name=document.get("name", str),
        states=tuple(s.name for s in states),
        parameters=tuple(s.name for s in symbols),
        observed=tuple(observed),
        differential=np.array(differential, dtype=np.bool_),
        events=events,
        noise=tuple(noise),
        diffusion_rows=rows,
        diffusion_cols=cols,
        noise_type=cast("Any", noise_type),
        jumps=jumps,
        constraints=constraints,
        guessed=guessed,
        index=int(not all(differential)) if index is None else index,
    )


def _graph(
    arrays: _Checked,
    n_states: int,
    n_params: int,
    outputs: dict[str, Any],
    networks: Sequence[Network] = (),
    calls: Sequence[Call] = (),
) -> Graph:
    op, args, const, index = (arrays.get(key, list) for key in ("op", "args", "const", "index"))
    try:
        return Graph.from_arrays(op, args, const, index, n_states, n_params, outputs, networks, calls)
    except (TypeError, OverflowError) as error:
        raise ModelError(f"graph: {error}") from error


def _index(
    document: _Checked, n_states: int
) -> tuple[tuple[str, ...], np.ndarray[Any, np.dtype[np.bool_]] | None, int | None]:
    """What is known of the index: constraints in words, whose initial values are guesses, and the index itself."""
    index = document.get("index", int) if document.has("index") else None
    if not document.has("constraints"):
        return (), None, index
    phrases, guessed = document.get("constraints", list), document.get("guessed", list)
    if not phrases or not all(isinstance(phrase, str) for phrase in phrases):
        raise ModelError("constraints are not texts")
    if len(guessed) != n_states or not all(type(g) is bool for g in guessed):
        raise ModelError("guessed is not one true or false per state")
    return tuple(phrases), np.array(guessed, dtype=np.bool_), index


def _jump(entry: _Checked, number: int, n_states: int) -> JumpSpec:
    return JumpSpec(f"jump{number}", f"jump{number}_values", tuple(_integers(entry, "targets", n_states).tolist()))


def _event(entry: _Checked, number: int, n_states: int) -> EventSpec:
    direction = entry.get("direction", str)
    if direction not in ("up", "down", "both"):
        raise ModelError(f"events[{number}].direction is {direction!r}")
    targets = tuple(_integers(entry, "targets", n_states).tolist())
    terminal = entry.get("terminal", bool)
    when = entry.get("when", str) if entry.has("when") else "crossing"
    if when not in ("crossing", "step", "times"):
        raise ModelError(f"events[{number}].when is {when!r}")
    name = f"event{number}"
    return EventSpec(name, f"{name}_values", targets, cast("Any", direction), terminal, cast("Any", when))


def rebuild(
    model: Model,
    time: sp.Symbol,
    states: tuple[StateInfo, ...],
    symbols: tuple[sp.Symbol, ...],
    observed: tuple[sp.Basic, ...],
) -> System:
    """A `System` around a model that already exists."""
    system = System.__new__(System)
    system.name = model.name
    system._set(Lowered(model, time, states, symbols, observed))

    def read(output: str) -> list[sp.Expr]:
        return to_sympy(model.graph, output, system.states, symbols, time)

    noise = [BrownianMotion(n) for n in model.noise]
    rhs = read("rhs")
    if "implicit" in model.graph.outputs:
        rhs = [implicit(marked) + rest for marked, rest in zip(read("implicit"), read("explicit"), strict=True)]
    if noise:
        entries = zip(model.diffusion_rows.tolist(), model.diffusion_cols.tolist(), read("diffusion"), strict=True)
        for row, col, entry in entries:
            rhs[row] = rhs[row] + entry * noise[col]
    names = {(s.function, s.order) for s in states}
    equations: list[sp.Eq] = []
    for info, right, differential in zip(states, rhs, model.differential, strict=True):
        if not differential:
            equations.append(equation(sp.Integer(0), right))
        elif (info.function, info.order + 1) not in names:
            equations.append(equation(sp.Derivative(info.function, (time, info.order + 1)), right))
    system.equations = tuple(equations)
    system.observed = dict(zip(observed, read("observed"), strict=True))

    def affect(spec: EventSpec | JumpSpec) -> dict[sp.Expr, sp.Expr]:
        return dict(zip((system.states[i] for i in spec.targets), read(spec.values), strict=True))

    system.events = tuple(
        Event(at=read(e.condition), affect=affect(e), terminal=e.terminal)
        if e.when == "times"
        else Event(
            sp.Ne(read(e.condition)[0], 0) if e.when == "step" else read(e.condition)[0],
            affect(e),
            direction=e.direction,
            terminal=e.terminal,
        )
        for e in model.events
    )
    system.jumps = tuple(Jump(read(jump.rate)[0], affect(jump)) for jump in model.jumps)
    return system
