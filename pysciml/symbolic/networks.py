"""Neural networks as terms: ``u, v = MLP("nn", inputs=2, outputs=2)(x, y)`` are SymPy expressions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt
import sympy as sp

from pysciml.errors import EngineUnavailableError, ModelError
from pysciml.graph import networks as graph_networks
from pysciml.hints import did_you_mean, named_options
from pysciml.symbolic.variables import scalar

if TYPE_CHECKING:
    from pysciml.graph.model import Model

#: More weights than this are a slip (a vector of them is kept for every optimizer state).
_MOST_WEIGHTS: Final = 50_000_000


class NetworkHead(sp.Atom):
    """Which output of which network an expression is, and by which inputs it is differentiated."""

    __slots__ = ("network", "output", "wrt")

    network: graph_networks.Network
    output: int
    wrt: tuple[int, ...]

    def __new__(cls, network: graph_networks.Network, output: int, wrt: tuple[int, ...] = ()) -> Self:
        """Make one; equal content is equal."""
        head: Any = super().__new__(cls)
        head.network, head.output, head.wrt = network, output, tuple(sorted(wrt))
        return head

    def _hashable_content(self) -> tuple[Any, ...]:
        # SymPy orders by this, too, so that it is made of what has an order.
        network = self.network
        return network.name, network.content, network.seed, self.output, self.wrt

    def __getnewargs__(self) -> Any:
        return self.network, self.output, self.wrt

    def sort_key(self, order: Any = None) -> Any:
        """SymPy's order of atoms."""
        return self.class_key(), (1, (str(self),)), sp.S.One.sort_key(), sp.S.One

    def __str__(self) -> str:
        name = self.network.name + (f"_{self.output + 1}" if self.network.outputs > 1 else "")
        return (f"D[{','.join(str(i + 1) for i in self.wrt)}]" if self.wrt else "") + name

    __repr__ = __str__

    def _sympystr(self, printer: Any) -> str:
        return str(self)

    def _latex(self, printer: Any) -> str:
        name = printer.doprint(sp.Symbol(self.network.name))
        parts = "".join(rf"\partial_{{{i + 1}}}" for i in self.wrt)
        index = f"_{{{self.output + 1}}}" if self.network.outputs > 1 else ""
        return rf"{parts}\mathrm{{{name}}}{index}"


class NetworkTerm(sp.Expr):
    """One output of a network at some inputs: ``args`` are the `NetworkHead` and the inputs."""

    is_commutative = True

    @property
    def head(self) -> NetworkHead:
        """Which output."""
        head: Any = self.args[0]
        return head

    @property
    def inputs(self) -> tuple[sp.Expr, ...]:
        """Where it is evaluated."""
        inputs: Any = self.args[1:]
        return inputs

    def _eval_is_extended_real(self) -> bool:
        return True

    def _eval_derivative(self, s: Any) -> sp.Expr:
        """The chain rule, through every input."""
        total: Any = sp.Integer(0)
        for i, argument in enumerate(self.inputs):
            slope: Any = argument.diff(s)
            if slope != 0:
                total += self.partial(i) * slope
        return total

    def partial(self, i: int) -> NetworkTerm:
        """The derivative by input number ``i``."""
        head = self.head
        term: Any = NetworkTerm(NetworkHead(head.network, head.output, (*head.wrt, i)), *self.inputs)
        return term

    def _sympystr(self, printer: Any) -> str:
        return f"{self.head}({', '.join(printer._print(a) for a in self.inputs)})"

    def _latex(self, printer: Any, exp: Any = None) -> str:
        arguments = ", ".join(printer._print(a) for a in self.inputs)
        text = rf"{self.head._latex(printer)}\left({arguments}\right)"
        return text if exp is None else rf"{text}^{{{exp}}}"


class NetworkFunction:
    """A network as a function of SymPy expressions.

    Attributes
    ----------
    network : pysciml.graph.Network
        Its description.
    name : str
    size : int
        How many weights it has.
    """

    def __init__(self, network: graph_networks.Network) -> None:
        self.network = network

    @property
    def name(self) -> str:
        """How it is called in problems, fits and results."""
        return self.network.name

    @property
    def size(self) -> int:
        """How many weights it has."""
        return self.network.size

    def initial(self, seed: int | None = None) -> npt.NDArray[np.float64]:
        """Initial weights as one flat array, shape (size,), the same on every engine and machine.

        Each layer has its matrix row by row, (n_out, n_in), then its bias. Matrices are uniform in
        ``±sqrt(6/(n_in + n_out))`` (Glorot & Bengio, AISTATS 2010), biases are 0.

        Parameters
        ----------
        seed : int, optional
            By default the network's own.
        """
        return self.network.initial(seed)

    def __call__(self, *inputs: Any) -> Any:
        """The outputs at some inputs: a tuple of expressions; for a single output, one expression.

        Raises
        ------
        ModelError
            For a wrong number of inputs, or one that is no scalar expression.
        """
        if len(inputs) == 1 and isinstance(inputs[0], (tuple, list)):
            inputs = tuple(inputs[0])
        network = self.network
        if len(inputs) != network.inputs:
            raise ModelError(
                f"the network {network.name} has {network.inputs} input{'s' if network.inputs > 1 else ''}, "
                f"and is called with {len(inputs)}",
                symbol=network.name,
            )
        arguments: list[sp.Expr] = []
        for i, value in enumerate(inputs):
            expression = scalar(value)
            if expression is None:
                raise ModelError(
                    f"input {i + 1} of the network {network.name} is no scalar expression: {value!r}",
                    symbol=network.name,
                )
            arguments.append(expression)
        terms: tuple[Any, ...] = tuple(NetworkTerm(NetworkHead(network, k), *arguments) for k in range(network.outputs))
        return terms if network.outputs > 1 else terms[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NetworkFunction) and self.network == other.network

    def __hash__(self) -> int:
        return hash(self.network)


class WithNetworks:
    """What systems know of the networks among their terms."""

    model: Model
    _weights: dict[str, npt.NDArray[np.float64]]

    @property
    def networks(self) -> dict[str, graph_networks.Network]:
        """The neural networks among the terms, by name."""
        return {network.name: network for network in self.model.graph.networks}

    def initial_weights(self, name: str) -> npt.NDArray[np.float64]:
        """What a `Problem` starts a network with: its initial weights, or those of the model file."""
        if name in self._weights:
            return self._weights[name].copy()
        return self.networks[name].initial()

    def network_block(self, key: Any) -> tuple[str, slice] | None:
        """A network, given as such or by name: its name, and where its weights are in ``p``."""
        name: Any = key.name if isinstance(key, NetworkFunction) else key
        if not isinstance(name, str) or name not in self.model.blocks:
            return None
        if isinstance(key, NetworkFunction) and key.network != self.networks[name]:
            return None
        return name, self.model.blocks[name]


class MLP(NetworkFunction):
    """A fully connected network, as a term of equations.

    Its weights are one flat block of a `Problem`'s parameters: ``problem.weights["nn"]``, set by
    ``problem.remake(p={"nn": array})``, trained by ``fit(..., trainable=["nn"])``.

    Parameters
    ----------
    name : str
    inputs, outputs : int
    hidden : sequence of int
        Widths of the hidden layers; ``()`` makes a linear map.
    activation : {"tanh", "swish", "softplus", "sigmoid", "gelu", "sin", "relu", "identity"}
        Of the hidden layers. Solvers of high order want a smooth one.
    output_activation : str, default "identity"
        Of the last layer; ``"softplus"`` keeps a diffusion positive.
    seed : int, default 0
        Of the initial weights; see `initial`.

    Raises
    ------
    ModelError
        Naming the argument that makes no sense.

    Examples
    --------
    >>> nn = MLP("nn", inputs=2, outputs=2, hidden=(32,))
    >>> u, v = nn(x, y)
    >>> hybrid = System([Eq(D(x), a * x + u), Eq(D(y), -c * y + v)])
    """

    @named_options(ModelError)
    def __init__(
        self,
        name: str,
        inputs: int,
        outputs: int,
        hidden: Iterable[int] = (32,),
        activation: str = "tanh",
        output_activation: str = "identity",
        seed: int = 0,
    ) -> None:
        widths = (hidden,) if isinstance(hidden, int) else tuple(hidden) if isinstance(hidden, Iterable) else None
        if widths is None or isinstance(hidden, str):
            raise ModelError(f"hidden must be the widths of the hidden layers, such as (32, 32), not {hidden!r}")
        network = graph_networks.Network(
            _name(name),
            _count("inputs", inputs, name),
            _count("outputs", outputs, name),
            tuple(_count("hidden", width, name) for width in widths),
            _activation("activation", activation, name),
            _activation("output_activation", output_activation, name),
            _count("seed", seed, name, 0),
        )
        if network.size > _MOST_WEIGHTS:
            raise ModelError(f"the network {name} would have {network.size:.3g} weights", symbol=name)
        super().__init__(network)

    def __repr__(self) -> str:
        n = self.network
        widths = " -> ".join(str(w) for w in (n.inputs, *n.hidden, n.outputs))
        return f"MLP {n.name}: {widths}, {n.activation}, {n.size} weights"


class Network(NetworkFunction):
    """A network from a user's Equinox module or Lux model, as a term of equations, on every engine.

    A module that is dense layers with the activations of `MLP` alone (``equinox.nn.MLP``, ``Linear``, ``Sequential``;
    Lux's ``Dense`` and ``Chain``) is taken as those layers, in the layout of weights of `MLP.initial`. What another
    module computes is, for engines that are not its own, written out operation by operation, with the same weights;
    solving and training it there takes the longer the larger it is.

    Parameters
    ----------
    name : str
    module : equinox.Module, callable pytree, or Lux model
        Takes an array of shape (inputs,) and returns one of shape (outputs,), written with
        ``jax.numpy``. Its floating-point arrays are the weights, which it starts from, in the order of
        ``jax.flatten_util.ravel_pytree``. Or a value of juliacall: a Lux layer that takes a matrix
        of one column, or the tuple ``(model, parameters, state)``; the weights are in the order of the nested
        parameters.
    inputs, outputs : int

    Raises
    ------
    ModelError
        If the module does not do that.
    EngineUnavailableError
        Without JAX and Equinox, or without the Julia package for a Lux model.
    UnsupportedError
        When it is to run on another engine than JAX and has an operation that cannot be written out, such as sorting.

    Examples
    --------
    >>> module = equinox.nn.MLP(2, 2, 16, 2, key=jax.random.key(0))
    >>> u, v = Network("nn", module, inputs=2, outputs=2)(x, y)
    >>> model = juliacall.Main.seval("using Lux; Chain(Dense(2 => 16, tanh), Dense(16 => 2))")
    >>> u, v = Network("nn", model, inputs=2, outputs=2)(x, y)
    """

    def __init__(self, name: str, module: Any, inputs: int, outputs: int) -> None:
        checked = _name(name)
        n_in, n_out = _count("inputs", inputs, name), _count("outputs", outputs, name)
        if _is_julia(module):
            from pysciml.engines.julia.modules import from_lux

            super().__init__(from_lux(checked, module, n_in, n_out))
            return
        if not callable(module):
            raise ModelError(f"the network {name}: {type(module).__name__} is no callable module", symbol=name)
        try:
            from pysciml.engines.jax.foreign import from_equinox
        except ImportError as error:
            raise EngineUnavailableError(
                'networks of your own modules need JAX and Equinox: run `pip install "pysciml[jax]"`', engine="jax"
            ) from error
        super().__init__(from_equinox(checked, module, n_in, n_out))

    def __repr__(self) -> str:
        n = self.network
        return f"Network {n.name}: {n.inputs} -> {n.outputs}, {n.size} weights"


def _is_julia(value: Any) -> bool:
    """Whether a value, or the first of several, is one of Julia's."""
    first: Any = value[0] if isinstance(value, tuple) and value else value
    return type(first).__module__.partition(".")[0] == "juliacall"


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise ModelError(f"a network's name must be a word of letters, digits and underscores, not {name!r}")
    return name


def _count(what: str, value: Any, name: str, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ModelError(
            f"the network {name}: {what} must be an integer, {least} or more, not {value!r}", symbol=str(name)
        )
    return int(value)


def _activation(what: str, value: Any, name: str) -> str:
    known = graph_networks.ACTIVATIONS
    if not isinstance(value, str) or value not in known:
        hint = did_you_mean(str(value), known, quote="'")
        raise ModelError(
            f"the network {name}: {what} must be one of {', '.join(known)}, not {value!r}{hint}", symbol=str(name)
        )
    return value
