"""The host's side of a solve of fields: which method, compiling, slices, output."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from pysciml.engines.base import Array, RawSolution, SolveOptions
from pysciml.engines.jax.compiling import arithmetic, compiled
from pysciml.engines.jax.fields import qndf
from pysciml.engines.jax.fields.lower import lower_fields
from pysciml.engines.jax.fields.precondition import collect, make_modes, matrices, measure, probes
from pysciml.engines.jax.lower import Function
from pysciml.graph import Model
from pysciml.graph.fields import FieldGraph

#: Explicit steps, times evaluations in each, beyond which the implicit method is taken.
_STIFF: Final = 10_000
#: Half-width of Tsit5's stability region on the negative axis.
_STABILITY: Final = 3.3
#: Bytes of the buffer for steps.
_BUFFER: Final = 2**26
#: Cells times steps between two looks at the keyboard.
_SLICE: Final = 40_000_000
_MESSAGES: Final = {
    "MaxIters": "max_steps={max_steps} steps were not enough",
    "DtLessThanMin": "the step size became too small: the solution may blow up or not be smooth there",
    "Unstable": "the right-hand side is not finite at the initial values",
    "Interrupted": "interrupted by the user",
}
_CODES: Final = {qndf.DT_TOO_SMALL: "DtLessThanMin", qndf.UNSTABLE: "Unstable"}


def directed(rhs: Function, forward: bool) -> Function:
    """The right-hand side of a time that runs forward."""
    return rhs if forward else (lambda t, y, p: -rhs(-t, y, p))


class Preparation:
    """What is measured before the first step, and decided from it.

    Attributes
    ----------
    first : qndf.Carry
    modes : Modes
    shared : bool
    stiff : bool
        Whether an explicit method would be held back by stability.
    """

    def __init__(
        self, model: Model, u0: Array, p: Array, tspan: tuple[float, float], options: SolveOptions, rows: int
    ) -> None:
        graph = model.graph
        assert isinstance(graph, FieldGraph)
        forward = tspan[1] > tspan[0]
        sign = 1.0 if forward else -1.0
        every = [probes(graph, axis) for axis in range(len(graph.fields[0]))]
        rhs = directed(lower_fields(graph, "rhs"), forward)

        def function(t: Any, y: Any, p: Any, end: Any, rtol: Any, atol: Any, dt: Any) -> Any:
            f, push = jax.linearize(lambda u: rhs(t, u, p), y)
            return qndf.start(f, t, y, end, rtol, atol, dt, rows), measure(graph, every, push, y.dtype)

        scalar = np.dtype(options.precision).type
        args = (
            scalar(sign * tspan[0]),
            np.asarray(u0, dtype=options.precision),
            np.asarray(p, dtype=options.precision),
            scalar(sign * tspan[1]),
            *(scalar(v) for v in (options.rtol, options.atol, options.dt or 0.0)),
        )
        where = {"precision": options.precision, "device": options.device}
        call, self.compile_seconds = compiled((model.hash, "fields", forward, rows), lambda: function, *args, **where)
        with arithmetic(options.precision, options.device):
            self.first, found = call(*args)
        self.modes, self.shared = make_modes(graph, matrices(graph, every, collect(graph, every, found)))
        fastest = max(float(np.max(-np.real(values), initial=0.0)) for values in self.modes.eigenvalues)
        self.stiff = 6 * fastest * abs(tspan[1] - tspan[0]) / _STABILITY > _STIFF


def solve(
    model: Model, u0: Array, p: Array, tspan: tuple[float, float], algorithm: str | None, options: SolveOptions
) -> RawSolution:
    """Solve; see `pysciml.engines.base.Engine.solve`.

    Without an algorithm it is QNDF where diffusion would hold an explicit method back, Tsit5 elsewhere.
    """
    if algorithm in (None, "QNDF"):
        begin = time.perf_counter()
        steps = options.saveat is None
        rows = max(4, min(1024, _BUFFER // (8 * len(u0)))) if steps else _count(options, tspan)
        ready = Preparation(model, u0, p, tspan, options, rows)
        prepared = time.perf_counter() - begin - ready.compile_seconds
        if algorithm == "QNDF" or ready.stiff:
            run = _Run(model, u0, p, tspan, options, ready)
            solution = run.solve()
            solution.solve_seconds += prepared
            return solution
    if algorithm == "ETDRK4":
        from pysciml.engines.jax.fields.etd import solve as exponential

        return exponential(model, u0, p, tspan, options)
    from pysciml.engines.jax.single import solve as explicit

    return explicit(model, u0, p, tspan, algorithm or "Tsit5", options)


def _count(options: SolveOptions, tspan: tuple[float, float]) -> int:
    """How many output times there are after the start."""
    times = options.saveat
    assert times is not None
    return len(times) - int(times.size > 0 and times[0] == tspan[0])


class _Run:
    def __init__(
        self,
        model: Model,
        u0: Array,
        p: Array,
        tspan: tuple[float, float],
        options: SolveOptions,
        ready: Preparation,
    ) -> None:
        graph = model.graph
        assert isinstance(graph, FieldGraph)
        self._model, self._graph, self._u0, self._tspan, self._options = model, graph, u0, tspan, options
        self._forward = tspan[1] > tspan[0]
        self._sign = 1.0 if self._forward else -1.0
        self._steps = options.saveat is None
        times = np.zeros(0) if options.saveat is None else self._sign * options.saveat
        self._with_start = self._steps or bool(times.size and times[0] == self._sign * tspan[0])
        self._times = times[1:] if self._with_start and not self._steps else times
        self._ready = ready
        self._slice = int(max(20, min(5000, _SLICE // (8 * len(u0)))))
        scalar = np.dtype(options.precision).type
        self._inputs = qndf.Inputs(
            p=np.asarray(p, dtype=options.precision),
            end=scalar(self._sign * tspan[1]),
            times=self._times.astype(options.precision),
            rtol=scalar(options.rtol),
            atol=scalar(options.atol),
            stop_at=np.int64(self._slice) if options.precision == "float64" else np.int32(self._slice),
            modes=jax.tree.map(lambda a: _cast(a, options.precision), ready.modes),
        )
        self.compile_seconds = ready.compile_seconds

    def _advance(self) -> Any:
        graph, shared, steps = self._graph, self._ready.shared, self._steps
        rhs = directed(lower_fields(graph, "rhs"), self._forward)
        return lambda carry, inputs: qndf.advance(graph, rhs, shared, steps, carry, inputs)

    def solve(self) -> RawSolution:
        """Run slice after slice."""
        options, carry, inputs = self._options, self._ready.first, self._inputs
        shape = jax.tree.structure(inputs.modes)
        key = (self._model.hash, "qndf", self._forward, self._ready.shared, self._steps, carry.ys.shape, shape)
        where = {"precision": options.precision, "device": options.device}
        call, seconds = compiled(key, self._advance, carry, inputs, **where)
        self.compile_seconds += seconds
        begin = time.perf_counter()
        chunks: list[tuple[Array, Array]] = []
        retcode = ""
        end = float(inputs.end)
        try:
            with arithmetic(options.precision, options.device):
                while True:
                    least = min(int(carry.n_steps) + self._slice, options.max_steps)
                    inputs = inputs._replace(stop_at=type(inputs.stop_at)(least))
                    carry = call(carry, inputs)
                    t, code, n = float(carry.t), int(carry.code), int(carry.n_steps)
                    if self._steps:
                        saved = int(carry.saved)
                        chunks.append((np.asarray(carry.ts)[:saved], np.asarray(carry.ys)[:saved]))
                    self._progress(t)
                    if code != qndf.RUNNING:
                        retcode = _CODES[code]
                        break
                    if t >= end:
                        break
                    if n >= options.max_steps:
                        retcode = "MaxIters"
                        break
        except KeyboardInterrupt:
            retcode = "Interrupted"
        if options.progress:
            sys.stderr.write("\n")
        return self._solution(carry, chunks, retcode or "Success", time.perf_counter() - begin)

    def _progress(self, t: float) -> None:
        if self._options.progress:
            start, end = self._sign * self._tspan[0], self._sign * self._tspan[1]
            sys.stderr.write(f"\r{self._model.name}: {100 * (t - start) / (end - start):.1f} %")
            sys.stderr.flush()

    def _solution(
        self, carry: qndf.Carry, chunks: list[tuple[Array, Array]], retcode: str, seconds: float
    ) -> RawSolution:
        if self._steps:
            ts = np.concatenate([np.zeros(0), *(ts for ts, _ in chunks)])
            ys = np.concatenate([np.zeros((0, len(self._u0))), *(ys for _, ys in chunks)])
        else:
            saved = int(carry.saved)
            ts, ys = self._times[:saved], np.asarray(carry.ys)[:saved]
        if self._with_start:
            ts = np.concatenate([[self._sign * self._tspan[0]], ts])
            ys = np.concatenate([self._u0[None], ys])
        n, rejected = int(carry.n_steps), int(carry.n_rejected)
        return RawSolution(
            t=self._sign * ts,
            u=np.asarray(ys, dtype=np.float64).T,
            algorithm="QNDF",
            retcode=retcode,
            message=_MESSAGES.get(retcode, "").format(max_steps=self._options.max_steps),
            n_steps=n - rejected,
            n_rejected=rejected,
            n_rhs=int(carry.n_rhs),
            solve_seconds=seconds,
            compile_seconds=self.compile_seconds,
        )


def _cast(array: Any, precision: str) -> Any:
    wide = np.asarray(array)
    if np.iscomplexobj(wide):
        return jnp.asarray(wide, dtype="complex128" if precision == "float64" else "complex64")
    return wide.astype(precision)
