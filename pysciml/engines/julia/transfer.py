"""Sending models to Julia as arrays, and keeping what was compiled there."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pysciml.engines.base import SolveOptions
from pysciml.engines.julia.algorithms import AGGREGATORS, SEMILINEAR, SPLIT_ALONE
from pysciml.engines.julia.bridge import julia
from pysciml.engines.julia.fields import (
    has_diagonal_part,
    has_linear_part,
    has_moving_boundary,
    send_fields,
    send_fields_modes,
    send_fields_split,
)
from pysciml.engines.julia.halves import PARTITIONED, halves
from pysciml.engines.julia.jumps import is_pure, with_intensity
from pysciml.engines.julia.tapes import address, floats
from pysciml.errors import UnsupportedError
from pysciml.graph import Graph, Model
from pysciml.graph.networks import expand

#: This many models stay compiled, the least recently used go first.
CACHE_SIZE: Final = 64
#: More entries a full Jacobian does not have.
_MOST_ENTRIES: Final = 2**22


def tolerances(model: Model, options: SolveOptions) -> npt.NDArray[np.float64] | None:
    """The absolute tolerance of each state, as Julia has them; None where all have the same."""
    if options.atols is None:
        return None
    # The random thresholds of jumps are one state more there.
    return floats(np.append(options.atols, options.atol) if model.jumps else options.atols)


@dataclass
class Compiled:
    """A model on the Julia side.

    Attributes
    ----------
    handle : Julia value
        ``PySciML.Model``.
    lock : lock
        Compiled functions have buffers, so one solve at a time.
    implicit : dict of str to bool
        Algorithm -> whether it uses a Jacobian.
    forms : dict of str to str
        Algorithm -> how it takes the right-hand side: ``"whole"``, ``"halves"``, ``"split"``, ``"modes"``.
    sent : set of str
        Those of the forms that are there.
    """

    handle: Any
    lock: threading.RLock = field(default_factory=threading.RLock)
    implicit: dict[str, bool] = field(default_factory=dict[str, bool])
    forms: dict[str, str] = field(default_factory=dict[str, str])
    has_jacobian: bool = False
    sent: set[str] = field(default_factory=set[str])


_cache: OrderedDict[str, Compiled] = OrderedDict()
_lock = threading.RLock()


def compiled(model: Model, algorithm: str, device: str = "cpu") -> tuple[Compiled, float]:
    """The compiled model, ready for an algorithm (``""``: the default) on a device, and the seconds it took."""
    begin = time.perf_counter()
    with _lock:
        found = _cache.get(model.hash)
        if found is None:
            found = _cache[model.hash] = Compiled(_compile(model))
            if len(_cache) > CACHE_SIZE:
                _cache.popitem(last=False)
        _cache.move_to_end(model.hash)
        if device == "cpu":  # a GPU has the right-hand side alone
            _prepare(model, found, algorithm)
    return found, time.perf_counter() - begin


def _prepare(model: Model, found: Compiled, algorithm: str) -> None:
    """Send what an algorithm needs beside the right-hand side."""
    form = _form(model, found, algorithm)
    if form in _SENDERS:
        if form not in found.sent:
            with found.lock:
                _SENDERS[form](model, found, algorithm)
            found.sent.add(form)
    elif not found.has_jacobian and _wants_jacobian(model, found, algorithm):
        with found.lock:
            _send_jacobian(model, found)


def scalar_graph(model: Model) -> Graph:
    """The model's graph with its networks written out, which Julia then differentiates and compiles as it does all."""
    return expand(model.graph) if model.graph.networks else model.graph


def sent_graph(model: Model) -> Graph:
    """The graph Julia gets: with jumps, one state more than the model has."""
    graph = scalar_graph(model)
    return with_intensity(graph, model) if model.jumps else graph


def integers(array: npt.ArrayLike) -> Any:
    """Integers as a Julia array."""
    plain = np.ascontiguousarray(array, dtype=np.int64)
    return julia().integers(address(plain), plain.size)


def send(graph: Graph) -> Any:
    """A graph as a Julia value."""
    op, args, index = (np.ascontiguousarray(a, dtype=np.int64) for a in (graph.op, graph.args, graph.index))
    const = floats(graph.const)
    return julia().graph_at(
        address(op), address(args), address(const), address(index), len(graph), graph.n_states, graph.n_params
    )


def _compile(model: Model) -> Any:
    if model.fields:
        return send_fields(model)
    module = julia()
    graph = sent_graph(model)
    kind = model.kind if model.kind != "jump" else "sde" if model.noise else "ode"
    module.load_kind(kind)
    differential = np.ones(graph.n_states, dtype=np.int64)
    differential[: len(model.states)] = model.differential
    handle = module.Model(kind, send(graph), integers(graph.outputs["rhs"]), integers(differential))
    if model.noise_type is not None:
        module.set_noise_b(
            handle,
            integers(graph.outputs["diffusion"]),
            integers(model.diffusion_rows),
            integers(model.diffusion_cols),
            len(model.noise),
            model.noise_type,
        )
    for event in model.events:
        values = graph.outputs[event.values] if event.targets else ()
        module.add_event_b(
            handle,
            event.when,
            integers(graph.outputs[event.condition]),
            integers(values),
            integers(event.targets),
            event.direction,
            event.terminal,
        )
    if model.jumps:
        if is_pure(model):
            module.load_kind("jump")
            module.set_pure_b(handle)
        for jump in model.jumps:
            nodes = integers(graph.outputs[jump.values])
            module.add_jump_b(handle, int(graph.outputs[jump.rate][0]), nodes, integers(jump.targets))
    return handle


def _wants_jacobian(model: Model, found: Compiled, algorithm: str) -> bool:
    if not model.differential.all():
        return True
    if model.kind == "dde" or algorithm in AGGREGATORS or (model.jumps and not algorithm):
        return False
    wants = found.implicit.get(algorithm)
    if wants is None:
        wants = found.implicit[algorithm] = bool(julia().wants_jacobian(found.handle, algorithm))
    return wants


def fills_jacobian(model: Model) -> bool:
    """Whether fields that were eliminated make a large Jacobian full, which is then none for implicit methods."""
    return model.kind == "ode" and "far" in model.graph.outputs and model.graph.n_states**2 > _MOST_ENTRIES


def default(model: Model, device: str) -> str:
    """The algorithm where none is named; empty for DifferentialEquations.jl's own choice, which may want a Jacobian."""
    if device != "cpu" or not fills_jacobian(model):
        return ""
    return "KenCarp4" if has_parts(model) else "Tsit5"


def _send_jacobian(model: Model, found: Compiled) -> None:
    if fills_jacobian(model):
        raise UnsupportedError(
            f"the Jacobian of {model.name!r} is full, with {model.graph.n_states**2:.1g} entries, since fields without "
            "a time derivative were eliminated: take an explicit method (Tsit5), one that takes the linear part alone "
            "implicitly (KenCarp4), or discretize(..., eliminate=False)",
            engine="julia",
        )
    if model.fields:
        rows, cols = model.graph.sparsity("rhs")
        julia().set_fields_jacobian_b(found.handle, integers(rows), integers(cols))
        found.has_jacobian = True
        return
    graph, rows, cols = sent_graph(model).jacobian("rhs")
    julia().set_jacobian_b(
        found.handle, send(graph), integers(graph.outputs["jacobian"]), integers(rows), integers(cols)
    )
    found.has_jacobian = True


def _form(model: Model, found: Compiled, algorithm: str) -> str:
    """How an algorithm takes the right-hand side; see `Compiled`."""
    if algorithm in PARTITIONED:
        return "halves"
    if not algorithm or not model.differential.all() or not (model.fields or has_parts(model)):
        return "whole"
    form = found.forms.get(algorithm)
    if form is None:
        form = found.forms[algorithm] = _form_of(model, found, algorithm)
    return form


def _form_of(model: Model, found: Compiled, algorithm: str) -> str:
    name = algorithm.partition("(")[0]
    if name in SEMILINEAR:
        products = bool(julia().wants_products(found.handle, algorithm))
        return "split" if products or not has_diagonal_part(model) else "modes"
    if not has_parts(model) or not bool(julia().takes_parts(found.handle, algorithm)):
        return "whole"
    # See `splits` in julia/src/split.jl.
    return "whole" if model.fields and name not in SPLIT_ALONE and has_moving_boundary(model) else "split"


def has_parts(model: Model) -> bool:
    """Whether some of the right-hand side is for implicit methods: marked terms, or of fields what is linear."""
    if model.kind != "ode":
        return False
    return has_linear_part(model) if model.fields else "implicit" in model.graph.outputs


def _send_halves(model: Model, found: Compiled, algorithm: str) -> None:
    parts = halves(model, algorithm, "julia")
    julia().set_halves_b(found.handle, integers(parts.velocities), integers(parts.positions), parts.reads_velocities)


def _send_split(model: Model, found: Compiled, algorithm: str) -> None:
    if model.fields:
        send_fields_split(model, found.handle)
        return
    whole = sent_graph(model)
    graph, rows, cols = whole.jacobian("implicit")
    parts = (integers(whole.outputs[name]) for name in ("implicit", "explicit"))
    entries = integers(graph.outputs["jacobian"])
    julia().set_split_b(found.handle, *parts, send(graph), entries, integers(rows), integers(cols))


def _send_modes(model: Model, found: Compiled, algorithm: str) -> None:
    send_fields_modes(model, found.handle)


_SENDERS: Final = {"halves": _send_halves, "split": _send_split, "modes": _send_modes}
