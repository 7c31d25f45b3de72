"""What goes from process to process: JSON and arrays, never pickled objects.

A message is the length of a JSON header and of a body, the header, and the body: arrays as ``.npz``.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from typing import IO, Any, Final

import numpy as np

from pysciml.engines.base import SolveOptions
from pysciml.graph import EventSpec, Graph, JumpSpec, Model, Network
from pysciml.graph.networks import Call
from pysciml.graph.written import written_network

_LENGTH: Final = 16
#: The arrays of a graph and of a model.
_GRAPH: Final = ("op", "args", "const", "index")
_MODEL: Final = ("differential", "diffusion_rows", "diffusion_cols")


def send(stream: IO[bytes], header: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Write one message."""
    text = json.dumps(header).encode()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    body = buffer.getbuffer()
    stream.write(f"{len(text):>{_LENGTH}}{len(body):>{_LENGTH}}".encode())
    stream.write(text)
    stream.write(body)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Read one message; None where the other side is gone."""
    lengths = stream.read(2 * _LENGTH)
    if len(lengths) < 2 * _LENGTH:
        return None
    text = stream.read(int(lengths[:_LENGTH]))
    body = stream.read(int(lengths[_LENGTH:]))
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return json.loads(text), dict(arrays)


def pack_model(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model as a message.

    Raises
    ------
    UnsupportedError
        If it contains another library's module that cannot be written out as data.
    """
    graph = model.graph
    header = {
        "model": {
            "kind": model.kind,
            "name": model.name,
            "states": model.states,
            "parameters": model.parameters,
            "observed": model.observed,
            "events": [asdict(event) for event in model.events],
            "jumps": [asdict(jump) for jump in model.jumps],
            "noise": model.noise,
            "noise_type": model.noise_type,
            "constraints": model.constraints,
            "index": model.index,
        },
        "n_params": graph.n_params,
        "networks": [_fields(network) for network in graph.networks],
        "calls": [list(call) for call in graph.calls],
        "outputs": list(graph.outputs),
    }
    arrays: dict[str, Any] = {name: getattr(graph, name) for name in _GRAPH}
    for i, network in enumerate(graph.networks):
        if network.foreign is not None:
            written = network.foreign.written()
            arrays |= {f"network{i}_{name}": getattr(written, name) for name in _GRAPH}
            arrays[f"network{i}_out"] = written.outputs["out"]
    arrays |= {name: getattr(model, name) for name in _MODEL}
    if model.guessed is not None:
        arrays["guessed"] = model.guessed
    return header, arrays | {f"output{i}": nodes for i, nodes in enumerate(graph.outputs.values())}


def unpack_model(header: dict[str, Any], arrays: dict[str, Any]) -> Model:
    """The model of a message."""
    fields: dict[str, Any] = dict(header["model"])
    graph = Graph(
        *(arrays[name] for name in _GRAPH),
        n_states=len(fields["states"]),
        n_params=header["n_params"],
        outputs={name: arrays[f"output{i}"] for i, name in enumerate(header["outputs"])},
        networks=[_network(fields, f"network{i}_", arrays) for i, fields in enumerate(header["networks"])],
        calls=[Call(network, output, tuple(wrt), order) for network, output, wrt, order in header["calls"]],
    )
    events = tuple(EventSpec(**_with_targets(spec)) for spec in fields.pop("events"))
    jumps = tuple(JumpSpec(**_with_targets(spec)) for spec in fields.pop("jumps"))
    names = {key: tuple(fields.pop(key)) for key in ("states", "parameters", "observed", "noise", "constraints")}
    fields["guessed"] = arrays.get("guessed")
    return Model(graph=graph, events=events, jumps=jumps, **{name: arrays[name] for name in _MODEL}, **names, **fields)


def _with_targets(spec: dict[str, Any]) -> dict[str, Any]:
    return {**spec, "targets": tuple(spec["targets"])}


def _fields(network: Network) -> dict[str, Any]:
    """A network without its weights: those of a solve are among the parameters."""
    foreign = network.foreign
    fields = asdict(replace(network, start=None, foreign=None))
    return fields if foreign is None else {**fields, "foreign": [foreign.library, foreign.size]}


def _network(fields: dict[str, Any], prefix: str, arrays: dict[str, Any]) -> Network:
    given: dict[str, Any] = {**fields, "hidden": tuple(fields["hidden"])}
    if given["foreign"] is None:
        return Network(**given)
    library, size = given["foreign"]
    parts = [arrays[prefix + name] for name in _GRAPH]
    graph = Graph(*parts, n_states=given["inputs"], n_params=size, outputs={"out": arrays[prefix + "out"]})
    return written_network(given["name"], graph, (), library, given["seed"])


def read_options(options: dict[str, Any], arrays: dict[str, Any]) -> SolveOptions:
    """The options of a message."""
    fields: dict[str, Any] = {**options, "saveat": arrays.get("saveat"), "atols": arrays.get("atols")}
    return SolveOptions(**fields)
