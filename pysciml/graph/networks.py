"""Neural networks in a graph: what they are, their values in NumPy, and their expansion into operations.

A network is one operation, ``NETWORK``, on the vector of its inputs (joined by ``JOIN``); each node is one output, or a
derivative of one by inputs, or a coefficient of its Taylor series where the inputs are series, which is again such a
node: differentiating a network writes out no neurons. The weights of all networks are blocks at the end of the
parameter vector, in the order of ``Graph.networks``.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pysciml.errors import UnsupportedError
from pysciml.graph import ops

if TYPE_CHECKING:
    from pysciml.graph.builder import GraphBuilder
    from pysciml.graph.graph import Graph

Array = npt.NDArray[np.float64]


class Layer(NamedTuple):
    """Where a dense layer's numbers are in the network's flat weights: the matrix row by row, then the bias."""

    matrix: slice
    bias: slice
    shape: tuple[int, int]
    activation: str


@dataclass(frozen=True)
class Foreign:
    """A network that is a module of another library, not layers this package knows.

    Attributes
    ----------
    fingerprint : str
        Of its content, for hashes.
    size : int
        How many weights it has.
    library : str
        Whose module it is.
    function : callable
        ``function(weights, x) -> y`` in JAX's arrays, x of shape (inputs,).
    graph : Graph, optional
        The same, written out over states (inputs) and parameters (weights), with the output ``out``.
    reason : str
        Without a graph, why: a sentence.
    """

    fingerprint: str
    size: int
    library: str = field(compare=False)
    function: Callable[[Any, Any], Any] = field(compare=False, repr=False)
    graph: Graph | None = field(default=None, compare=False, repr=False)
    reason: str = field(default="", compare=False, repr=False)

    def written(self) -> Graph:
        """Its graph; `UnsupportedError` says why it has none."""
        if self.graph is None:
            raise UnsupportedError(self.reason)
        return self.graph


@dataclass(frozen=True)
class Network:
    """A fully connected network (or a foreign one), without its weights.

    Attributes
    ----------
    name : str
    inputs, outputs : int
    hidden : tuple of int
        Widths of the hidden layers.
    activation, final : str
        Of the hidden layers and of the last one, names of `ACTIVATIONS`.
    seed : int
        Of the initial weights.
    foreign : Foreign, optional
    start : tuple of float, optional
        The weights it came with; ``seed`` tells those of one network from those of another.
    """

    name: str
    inputs: int
    outputs: int
    hidden: tuple[int, ...] = (32,)
    activation: str = "tanh"
    final: str = "identity"
    seed: int = 0
    foreign: Foreign | None = None
    start: tuple[float, ...] | None = field(default=None, compare=False, repr=False)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The dense layers, in order."""
        if self.foreign is not None:
            raise UnsupportedError(f"the network {self.name} is {self.foreign.library} code: its layers are not known")
        widths = (self.inputs, *self.hidden, self.outputs)
        layers: list[Layer] = []
        start = 0
        for n_in, n_out in itertools.pairwise(widths):
            middle, end = start + n_in * n_out, start + n_in * n_out + n_out
            last = len(layers) == len(self.hidden)
            layers.append(
                Layer(slice(start, middle), slice(middle, end), (n_out, n_in), self.final if last else self.activation)
            )
            start = end
        return tuple(layers)

    @property
    def size(self) -> int:
        """How many weights there are."""
        return self.foreign.size if self.foreign is not None else self.layers[-1].bias.stop

    @property
    def content(self) -> str:
        """What its function depends on, as text, for hashes: neither its name nor its initial weights."""
        if self.foreign is not None:
            return f"module {self.foreign.fingerprint} {self.inputs} {self.outputs}"
        return f"mlp {self.inputs} {self.outputs} {self.hidden} {self.activation} {self.final}"

    def initial(self, seed: int | None = None) -> Array:
        """Initial weights, the same on every engine and machine.

        Matrices are drawn uniformly from ``±sqrt(6/(n_in + n_out))`` (Glorot & Bengio, AISTATS 2010), biases are 0; a
        network that came with weights starts from those.

        Parameters
        ----------
        seed : int, optional
            By default the network's own.
        """
        if self.start is not None:
            if seed is not None:
                raise UnsupportedError(f"the network {self.name} comes with its weights: give it others, not a seed")
            return np.array(self.start)
        # The name takes part, so that two networks of a model do not start equal.
        words = [self.seed if seed is None else seed, *self.name.encode()]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
        weights = np.zeros(self.size)
        for layer in self.layers:
            limit = math.sqrt(6.0 / sum(layer.shape))
            weights[layer.matrix] = rng.uniform(-limit, limit, layer.shape[0] * layer.shape[1])
        return weights


def seed_of(start: Sequence[float]) -> int:
    """What tells networks of one shape that start from these weights from others, as seeds do."""
    digest = hashlib.blake2b(np.array(start, dtype=np.float64).tobytes(), digest_size=6)
    return int.from_bytes(digest.digest(), "little")


class Call(NamedTuple):
    """What a ``NETWORK`` node is: an output of a network, differentiated by the inputs in ``wrt``.

    Or its Taylor coefficient of an ``order``: the inputs are then the coefficients 0 of all inputs, their coefficients
    1, and so on to those of that order. Such calls come up along a solution, and are not differentiated by inputs.
    """

    network: int
    output: int
    wrt: tuple[int, ...] = ()
    order: int = 0


def _sigmoid_node(b: GraphBuilder, x: int) -> int:
    half = b.constant(0.5)
    return b.mul(half, b.add(b.one, b.call(ops.TANH, b.mul(half, x))))


def _softplus_node(b: GraphBuilder, x: int) -> int:
    bell = b.call(ops.EXP, b.neg(b.call(ops.ABS, x)))
    return b.add(b.call(ops.MAX, x, b.zero), b.call(ops.LOG, b.add(b.one, bell)))


def _gelu_node(b: GraphBuilder, x: int) -> int:
    inner = b.call(ops.ERF, b.mul(b.constant(math.sqrt(0.5)), x))
    return b.mul(b.mul(b.constant(0.5), x), b.add(b.one, inner))


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _gelu(x: Array) -> Array:
    from scipy.special import erf

    return 0.5 * x * (1.0 + erf(math.sqrt(0.5) * x))


#: Activation -> its NumPy function, and its expansion into operations.
ACTIVATIONS: Final[dict[str, tuple[Callable[[Array], Array], Callable[[GraphBuilder, int], int]]]] = {
    "identity": (lambda x: x, lambda b, x: x),
    "tanh": (np.tanh, lambda b, x: b.call(ops.TANH, x)),
    "sigmoid": (_sigmoid, _sigmoid_node),
    "relu": (lambda x: np.maximum(x, 0.0), lambda b, x: b.call(ops.MAX, x, b.zero)),
    "softplus": (lambda x: np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))), _softplus_node),
    "swish": (lambda x: x * _sigmoid(x), lambda b, x: b.mul(x, _sigmoid_node(b, x))),
    "gelu": (_gelu, _gelu_node),
    "sin": (np.sin, lambda b, x: b.call(ops.SIN, x)),
}


def evaluate(network: Network, weights: Array, x: Array) -> Array:
    """Values in NumPy.

    Parameters
    ----------
    weights : array, shape (size, ...)
    x : array, shape (inputs, ...)
        The trailing dimensions of both broadcast.

    Returns
    -------
    array, shape (outputs, ...)
    """
    if network.foreign is not None:
        return _evaluate_foreign(network, weights, x)
    one = math.prod(weights.shape[1:]) == 1
    y = x
    for layer in network.layers:
        if one:
            matrix, bias = weights[layer.matrix].reshape(layer.shape), weights[layer.bias].reshape(-1)
            flat = matrix @ y.reshape(y.shape[0], -1) + bias[:, None]
            y = flat.reshape(layer.shape[0], *y.shape[1:])
        else:
            matrix = weights[layer.matrix].reshape(*layer.shape, *weights.shape[1:])
            y = np.sum(matrix * y, axis=1) + weights[layer.bias]
        y = ACTIVATIONS[layer.activation][0](y)
    return y


def _evaluate_foreign(network: Network, weights: Array, x: Array) -> Array:
    assert network.foreign is not None
    if network.foreign.graph is not None:
        return network.foreign.graph.evaluate("out", x, weights, 0.0)
    from pysciml.engines.jax.network import evaluate_foreign

    return evaluate_foreign(network, weights, x)


@lru_cache(maxsize=256)
def derivative_graph(network: Network, wrt: tuple[int, ...]) -> Graph:
    """All outputs of a network, differentiated by some inputs, written out over states (inputs) and parameters."""
    from pysciml.graph.builder import GraphBuilder
    from pysciml.graph.derivative import tangents

    b = GraphBuilder(network.inputs, network.size)
    nodes = write_out(b, network, [b.state(i) for i in range(network.inputs)], 0)
    for i in wrt:
        nodes = [found.get(0, b.zero) for found in tangents(b, nodes, {b.state(i): {0: b.one}})]
    return b.build({"out": nodes})


def derivative(network: Network, wrt: tuple[int, ...], weights: Array, x: Array) -> Array:
    """As `evaluate`, differentiated by the inputs in ``wrt``."""
    if not wrt:
        return evaluate(network, weights, x)
    if network.foreign is not None and network.foreign.graph is None:
        from pysciml.engines.jax.network import evaluate_foreign

        return evaluate_foreign(network, weights, x, wrt)
    return derivative_graph(network, wrt).evaluate("out", x, weights, 0.0)


@lru_cache(maxsize=64)
def _series_graph(network: Network, order: int) -> Graph:
    """All outputs of a network as Taylor coefficients of an order, written out as `derivative_graph` does."""
    from pysciml.graph.builder import GraphBuilder

    b = GraphBuilder(network.inputs * (order + 1), network.size)
    leaves = [b.state(i) for i in range(b.n_states)]
    nodes = _coefficients(b, network, write_out(b, network, leaves[: network.inputs], 0), leaves, order)
    return b.build({"out": nodes})


def _coefficients(b: GraphBuilder, network: Network, outputs: list[int], leaves: list[int], order: int) -> list[int]:
    """From nodes of the first leaves to their Taylor coefficients, where all leaves are those of a network's inputs."""
    from pysciml.graph.derivative import tangents

    n = network.inputs
    for k in range(order):  # the coefficient after number m of a series is its derivative over m + 1
        seeds = {leaves[i]: {0: b.mul(b.constant(i // n + 1.0), leaves[i + n])} for i in range((k + 1) * n)}
        scale = b.constant(1.0 / (k + 1))
        outputs = [b.mul(scale, found.get(0, b.zero)) for found in tangents(b, outputs, seeds)]
    return outputs


def series(network: Network, order: int, weights: Array, x: Array) -> Array:
    """Taylor coefficients of the outputs, see `Call`.

    Parameters
    ----------
    weights : array, shape (size, ...)
    x : array, shape ((order + 1) * inputs, ...)

    Returns
    -------
    array, shape (outputs, ...)
    """
    return _series_graph(network, order).evaluate("out", x, weights, 0.0)


def write_out(b: GraphBuilder, network: Network, inputs: Sequence[int], offset: int) -> list[int]:
    """A network neuron by neuron: its outputs as nodes of ``b``, its weights the parameters from ``offset`` on."""
    if network.foreign is not None:
        return _copy(b, network.foreign.written(), inputs, offset)
    values = list(inputs)
    for layer in network.layers:
        n_out, n_in = layer.shape
        new: list[int] = []
        for row in range(n_out):
            first = offset + layer.matrix.start + row * n_in
            terms = [b.mul(b.param(first + k), value) for k, value in enumerate(values)]
            total = b.add(b.sum(terms), b.param(offset + layer.bias.start + row))
            new.append(ACTIVATIONS[layer.activation][1](b, total))
        values = new
    return values


def check_written(networks: Sequence[Network], engine: str) -> None:
    """Refuse, by name, networks that an engine cannot run because they cannot be written out."""
    for network in networks:
        if network.foreign is not None and network.foreign.graph is None:
            raise UnsupportedError(network.foreign.reason, engine=engine)


def without_foreign(graph: Graph) -> Graph:
    """The same graph, written out with `expand` if one of its networks is foreign."""
    return expand(graph) if any(network.foreign is not None for network in graph.networks) else graph


def _copy(b: GraphBuilder, graph: Graph, inputs: Sequence[int], offset: int) -> list[int]:
    """The output ``out`` of a graph whose states are the inputs, and its parameters those from ``offset`` on."""
    moved: list[int] = []
    for code, row, value, index in zip(
        graph.op.tolist(), graph.args.tolist(), graph.const.tolist(), graph.index.tolist(), strict=True
    ):
        if code == ops.STATE:
            moved.append(inputs[index])
        elif code == ops.PARAM:
            moved.append(b.param(offset + index))
        else:
            moved.append(b.again(code, tuple(moved[a] for a in row[: ops.OPS[code].arity]), value, index))
    return [moved[node] for node in graph.outputs["out"].tolist()]


def expand(graph: Graph) -> Graph:
    """The same graph without networks: every neuron written out in operations, the weights as parameters.

    Raises
    ------
    UnsupportedError
        For a foreign network with operations that a graph has not.
    """
    from pysciml.graph.builder import GraphBuilder
    from pysciml.graph.derivative import tangents
    from pysciml.graph.field_networks import expand_fields
    from pysciml.graph.fields import FieldGraph

    if not graph.networks:
        return graph
    if isinstance(graph, FieldGraph):
        return expand_fields(graph)
    b = GraphBuilder(graph.n_states, graph.n_params)
    moved: dict[int, int] = {}
    written: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for node, (code, row, index) in enumerate(
        zip(graph.op.tolist(), graph.args.tolist(), graph.index.tolist(), strict=True)
    ):
        if code == ops.JOIN:
            continue
        if code != ops.NETWORK:
            args = tuple(moved[a] for a in row[: ops.OPS[code].arity])
            moved[node] = b.again(code, args, float(graph.const[node]), index)
            continue
        call = graph.calls[index]
        network = graph.networks[call.network]
        inputs = tuple(moved[a] for a in graph.inputs_of(node))
        key = call.network, inputs
        if key not in written:
            written[key] = write_out(b, network, inputs[: network.inputs], graph.blocks[call.network].start)
        value = written[key][call.output]
        if call.wrt or call.order:  # differentiated by inputs as if they were independent, then put in their place
            leaves = [b.free(-2 - i) for i in range(len(inputs))]
            outputs = write_out(b, network, leaves[: network.inputs], graph.blocks[call.network].start)
            value = outputs[call.output]
            if call.order:
                (value,) = _coefficients(b, network, [value], leaves, call.order)
            for i in call.wrt:
                value = tangents(b, [value], {leaves[i]: {0: b.one}})[0].get(0, b.zero)
            value = b.substitute(value, dict(zip(leaves, inputs, strict=True)))
        moved[node] = value
    return b.build({name: [moved[n] for n in nodes.tolist()] for name, nodes in graph.outputs.items()})
