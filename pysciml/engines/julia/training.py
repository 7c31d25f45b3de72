"""Solves of a batch that can be differentiated, on the Julia side: see ``julia/src/adaptive.jl``.

Arrays are states by members of the batch, so that Julia has them column by column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.julia import bridge, environment
from pysciml.engines.julia.tapes import OPERATIONS, address, floats, send_tape, whole
from pysciml.errors import EngineUnavailableError, UnsupportedError
from pysciml.graph import Graph, Model, ops
from pysciml.graph.networks import check_written, without_foreign

#: Operations that have no functions on a GPU: gamma and Bessel functions, by their codes.
_NOT_ON_DEVICES: Final = frozenset(range(52, 59))


def check(model: Model) -> None:
    """Refuse, by name, what cannot be trained on Julia."""
    check_written(model.graph.networks, "julia")
    check_operations(without_foreign(model.graph))


def check_operations(graph: Graph) -> None:
    """Refuse, by name, operations that are not known on Julia while it trains."""
    missing = sorted(graph.used_ops() - OPERATIONS)
    if missing:
        names = ", ".join(ops.OPS[code].name for code in missing)
        raise UnsupportedError(f"training with engine='julia' does not know {names}; engine='jax' may", engine="julia")


def check_device(model: Model, device: str, precision: str) -> None:
    """Refuse, by name, places where Julia does not train, and what it cannot train on a GPU."""
    if device == "cpu" and precision == "float64":
        return
    if device != "cuda":
        what = f"precision={precision!r} is for device='cuda'" if device == "cpu" else f"there is no device={device!r}"
        raise UnsupportedError(
            f"training with engine='julia': {what}; it runs on device='cpu', and in both precisions on device='cuda'",
            engine="julia",
        )
    parts = ("rhs", "diffusion") if model.kind == "sde" else ("rhs",)
    missing = sorted(model.graph.used_ops(parts) & _NOT_ON_DEVICES)
    if missing:
        names = ", ".join(ops.OPS[code].name for code in missing)
        raise UnsupportedError(
            f"device='cuda': a GPU has no function {names} for engine='julia'; device='cpu' has", engine="julia"
        )
    reason = environment.lacks("CUDA", "cuda") or str(bridge.julia().load_training_device(device))
    if reason:
        raise EngineUnavailableError(f"device={device!r}: {reason}", engine="julia")


def check_adjoint() -> None:
    """Refuse where the package that has the adjoints is not there, with what installs it."""
    missing = environment.lacks("SciMLSensitivity", "sensitivity")
    if missing:
        raise EngineUnavailableError(f"adjoint=: {missing}; without it the steps are differentiated", engine="julia")


@dataclass(frozen=True)
class Outcome:
    """What a solve gives; see `pysciml.neural.adaptive.Outcome`.

    Attributes
    ----------
    ys : array, shape (n_save, n_states, n_members)
    y1 : array, shape (n_states, n_members)
    error, stiffness, h : arrays, shape (n_records,)
    """

    ys: Array
    y1: Array
    error: Array
    stiffness: Array
    h: Array
    integral: float
    n_steps: int
    n_rejected: int
    n_rhs: int
    n_records: int
    success: bool


class _Solve:
    """What both kinds of solves have."""

    def __init__(self, handle: Any) -> None:
        self._module, self._handle = bridge.julia(), handle
        self._count = self._n_save = 0

    def _estimates(self, count: int, n_save: int) -> Array:
        """Of every record the error, the stiffness estimate and the step size, shape (3, n_records)."""
        self._count, self._n_save = count, n_save
        found = np.empty((3, count))
        self._module.write_estimates_b(self._handle, address(found))
        return found

    def _set_integrand(self, weights: Array, noise: Array | None, y0: Array) -> None:
        given = floats(weights), floats(np.zeros_like(y0) if noise is None else noise)
        assert given[1].shape == y0.shape
        self._module.set_integrand_at_b(self._handle, *map(address, given))

    def add_by_parameters(self, p_bar: Array) -> None:
        """Add to ``p_bar`` the derivatives by parameters, after ``pull`` and ``local``."""
        self._module.pull_parameters_at_b._jl_call_nogil(self._handle, address(p_bar))


class BatchSolve(_Solve):
    """Solves of a batch of one size; the derivatives are those of the last one.

    Parameters
    ----------
    model : Model
    algorithm : str
        One of `pysciml.neural.steps.METHODS`.
    members : int
        How many solutions make the state, which has one step size.
    rtol, atol : float
    max_steps : int
    through_steps : bool
        See `pysciml.neural.steps.Setting`.
    integrand : Graph, optional
        What to integrate along; see `pysciml.neural.integrands.integrand`.
    dense : bool
        Whether the solution is kept between the steps, too.
    device, precision : str
        Elsewhere than on the CPU neither ``integrand`` nor ``dense``; see `check_device`.
    """

    def __init__(
        self,
        model: Model,
        algorithm: str,
        members: int,
        rtol: float,
        atol: float,
        max_steps: int,
        through_steps: bool = False,
        integrand: Graph | None = None,
        *,
        dense: bool = False,
        device: str = "cpu",
        precision: str = "float64",
    ) -> None:
        how = send_tape(model.graph, ("rhs",)), algorithm, members, float(rtol), float(atol), int(max_steps)
        if device == "cpu":
            along = None if integrand is None else send_tape(integrand, ("integrand",))
            handle = bridge.julia().adaptive_solve(*how, through_steps, along, dense)
        else:
            assert integrand is None
            assert not dense
            handle = bridge.julia().device_solve(*how, through_steps, device, precision)
        super().__init__(handle)
        self._n, self._members = len(model.states), members

    def solve(
        self,
        p: Array,
        y0: Array,
        start: Array,
        length: Array,
        end: float = 1.0,
        times: Array | None = None,
        kinetic: float = 0.0,
        weights: Array | None = None,
        noise: Array | None = None,
    ) -> Outcome:
        """Solve over the relative time 0..end.

        Parameters
        ----------
        p : array, shape (n_params,)
        y0 : array, shape (n_states, members)
        start, length : arrays, shape (members,)
            Each member's time is ``start + length * tau``.
        times : array, shape (n_save,), optional
            Relative times at which to return the solution, ascending.
        kinetic : float
            What the mean square of the derivative is multiplied by, to be integrated along.
        weights : array, shape (n_outputs,), optional
            What the square of each output of the integrand is multiplied by; by default it counts for nothing.
        noise : array, shape (n_states, members), optional
            The integrand's random numbers.
        """
        if weights is not None:
            self._set_integrand(weights, noise, y0)
        times = floats(np.zeros(0) if times is None else times)
        ys, y1 = np.empty((times.size, self._n, self._members)), np.empty((self._n, self._members))
        arrays = floats(p), floats(y0), floats(start), floats(length)
        assert arrays[1].shape == y1.shape
        assert arrays[2].shape == arrays[3].shape == (self._members,)
        success, count, n_steps, n_rejected, n_rhs, integral = self._module.solve_at_b._jl_call_nogil(
            self._handle, *map(address, arrays), 0.0, float(end), address(times), times.size, address(ys), address(y1),
            float(kinetic),
        )  # fmt: skip
        error, stiffness, h = self._estimates(int(count), times.size)
        return Outcome(
            ys,
            y1,
            error,
            stiffness,
            h,
            float(integral),
            int(n_steps),
            int(n_rejected),
            int(n_rhs),
            int(count),
            bool(success),
        )

    def pull(
        self, ys_bar: Array, y1_bar: Array, error_bar: Array, stiffness_bar: Array, h_bar: Array, integral_bar: float
    ) -> Array:
        """From derivatives by the results of the last solve to those by its initial states, (n_states, members)."""
        y0_bar = np.empty((self._n, self._members))
        estimates = floats([error_bar, stiffness_bar, h_bar])
        arrays = floats(ys_bar), floats(y1_bar), estimates
        assert arrays[0].shape == (self._n_save, *y0_bar.shape)
        assert arrays[1].shape == y0_bar.shape
        assert estimates.shape == (3, self._count)
        self._module.pull_at_b._jl_call_nogil(self._handle, address(y0_bar), *map(address, arrays), float(integral_bar))
        return y0_bar

    def local(self, uniform: bool, where: float, error_bar: float, stiffness_bar: float) -> tuple[float, float]:
        """Error times step size, and stiffness, of one step; see ``local_estimate!``. After `pull`.

        Their derivatives, times the two given numbers, are added to those by parameters.
        """
        error, stiffness = self._module.local_estimate_b._jl_call_nogil(
            self._handle, uniform, float(where), float(error_bar), float(stiffness_bar)
        )
        return float(error), float(stiffness)


class AdjointBatchSolve(BatchSolve):
    """As `BatchSolve`, but `pull` is by an adjoint of SciMLSensitivity.jl; see ``julia/src/sensitivities.jl``.

    Parameters
    ----------
    adjoint : str
        Such as ``"GaussAdjoint"``.

    Raises
    ------
    EngineUnavailableError
        If SciMLSensitivity.jl is not installed.
    """

    def __init__(
        self,
        adjoint: str,
        model: Model,
        algorithm: str,
        members: int,
        rtol: float,
        atol: float,
        max_steps: int,
        integrand: Graph | None = None,
    ) -> None:
        super().__init__(model, algorithm, members, rtol, atol, max_steps, False, integrand, dense=True)
        check_adjoint()
        self._module.load_package("SciMLSensitivity")
        self._adjoint = self._module.adjoint(adjoint, algorithm)
        self._by_parameters = np.zeros(model.n_params)

    def pull(
        self, ys_bar: Array, y1_bar: Array, error_bar: Array, stiffness_bar: Array, h_bar: Array, integral_bar: float
    ) -> Array:
        """See `BatchSolve.pull`; the solution has no derivatives by its steps, whose adjoints are not read."""
        y0_bar = np.empty((self._n, self._members))
        arrays = floats(ys_bar), floats(y1_bar)
        assert arrays[0].shape == (self._n_save, *y0_bar.shape)
        assert arrays[1].shape == y0_bar.shape
        self._module.pull_by_adjoint_at_b._jl_call_nogil(
            self._handle, self._adjoint, address(y0_bar), address(self._by_parameters), *map(address, arrays),
            float(integral_bar),
        )  # fmt: skip
        return y0_bar

    def add_by_parameters(self, p_bar: Array) -> None:
        """See `BatchSolve.add_by_parameters`."""
        p_bar += self._by_parameters
        super().add_by_parameters(p_bar)


class Observer:
    """The observed quantities of a model along the solution of a batch, and their derivatives."""

    def __init__(self, model: Model, members: int) -> None:
        self._module, self._members = bridge.julia(), members
        self._handle = self._module.Observer(send_tape(model.graph, ("observed",)), members)
        self._count = len(model.observed)

    def observe(self, p: Array, ys: Array, start: Array, length: Array, times: Array) -> Array:
        """Values, shape (n_save, n_observed, members), along ``ys`` of shape (n_save, n_states, members)."""
        out = np.empty((len(times), self._count, self._members))
        arrays = floats(p), floats(ys), floats(start), floats(length), floats(times)
        self._module.observe_at_b._jl_call_nogil(self._handle, address(out), *map(address, arrays), len(times))
        return out

    def pull(
        self,
        ys_bar: Array,
        p_bar: Array,
        out_bar: Array,
        p: Array,
        ys: Array,
        start: Array,
        length: Array,
        times: Array,
    ) -> None:
        """Add to ``ys_bar`` and ``p_bar`` what the derivatives by the values come to."""
        arrays = floats(out_bar), floats(p), floats(ys), floats(start), floats(length), floats(times)
        self._module.pull_observed_at_b._jl_call_nogil(
            self._handle, address(ys_bar), address(p_bar), *map(address, arrays), len(times)
        )


class NoisyBatchSolve(_Solve):
    """Stochastic solves of a batch of paths; see ``julia/src/noisy.jl`` and `BatchSolve`.

    Parameters
    ----------
    model : Model
        Its noise is diagonal.
    paths : int
    rtol, atol : float
    max_steps : int
    integrand : Graph, optional
        What to integrate along, on the CPU; see `pysciml.neural.integrands.integrand`.
    device, precision : str
        See `check_device`. Random numbers are given in double precision, and are the same everywhere.
    """

    def __init__(
        self,
        model: Model,
        paths: int,
        rtol: float,
        atol: float,
        max_steps: int,
        integrand: Graph | None = None,
        *,
        device: str = "cpu",
        precision: str = "float64",
    ) -> None:
        targets = whole(model.diffusion_rows)
        tapes = send_tape(model.graph, ("rhs",)), send_tape(model.graph, ("diffusion",))
        how = *tapes, address(targets), paths, float(rtol), float(atol), int(max_steps)
        julia = bridge.julia()
        if device == "cpu":
            handle = julia.noisy_solve(*how, None if integrand is None else send_tape(integrand, ("integrand",)))
        else:
            assert integrand is None
            handle = julia.device_solve(*how, device, precision)
        super().__init__(handle)
        self._n, self._paths = len(model.states), paths

    def solve(
        self,
        p: Array,
        y0: Array,
        span: tuple[float, float],
        times: Array,
        draws: Array,
        kinetic: float = 0.0,
        weights: Array | None = None,
        noise: Array | None = None,
    ) -> Outcome | None:
        """Solve over ``span``; steps end at ``times``.

        Parameters
        ----------
        y0 : array, shape (n_states, paths)
        times : array, shape (n_save,), ascending
        draws : array, shape (n, 2, n_states, paths)
            Independent normal random numbers, two matrices for each attempted step.
        weights, noise : arrays, optional
            See `BatchSolve.solve`.

        Returns
        -------
        Outcome or None
            None where there are too few ``draws``.
        """
        if weights is not None:
            self._set_integrand(weights, noise, y0)
        ys, y1 = np.empty((len(times), self._n, self._paths)), np.empty((self._n, self._paths))
        arrays = floats(p), floats(y0), floats(times), floats(draws)
        assert arrays[1].shape == y1.shape
        assert arrays[3].shape[1:] == (2, *y1.shape)
        p_at, y0_at, times_at, draws_at = map(address, arrays)
        success, count, attempts, n_rhs, integral, wants = self._module.solve_noisy_at_b._jl_call_nogil(
            self._handle, p_at, y0_at, float(span[0]), float(span[1]), times_at, len(times), draws_at, len(draws),
            address(ys), address(y1), float(kinetic),
        )  # fmt: skip
        if wants:
            return None
        error, stiffness, h = self._estimates(int(count), len(times))
        rejected = int(attempts) - int(count)
        return Outcome(
            ys, y1, error, stiffness, h, float(integral), int(count), rejected, int(n_rhs), int(count), bool(success)
        )

    def pull(self, ys_bar: Array, y1_bar: Array, error_bar: Array, stiffness_bar: Array, integral_bar: float) -> Array:
        """See `BatchSolve.pull`; steps are taken as they were."""
        y0_bar = np.empty((self._n, self._paths))
        arrays = floats(ys_bar), floats(y1_bar), floats([error_bar, stiffness_bar])
        assert arrays[0].shape == (self._n_save, *y0_bar.shape)
        assert arrays[1].shape == y0_bar.shape
        assert arrays[2].shape == (2, self._count)
        self._module.pull_noisy_at_b._jl_call_nogil(
            self._handle, address(y0_bar), *map(address, arrays), float(integral_bar)
        )
        return y0_bar

    def local(
        self, uniform: bool, where: float, y1: Array, draw: Array, error_bar: float, stiffness_bar: float
    ) -> tuple[float, float]:
        """See `BatchSolve.local`; ``draw``, shape (2, n_states, paths), are normal random numbers for new noise."""
        arrays = floats(y1), floats(draw)
        error, stiffness = self._module.local_noisy_at_b._jl_call_nogil(
            self._handle, uniform, float(where), *map(address, arrays), float(error_bar), float(stiffness_bar)
        )
        return float(error), float(stiffness)
