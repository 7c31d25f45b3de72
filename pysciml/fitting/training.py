"""Training: gradient descent on problems with networks, with regularizers, checkpoints and validation."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np
import xarray as xr

from pysciml.engines.base import Array, get
from pysciml.errors import ProblemError, SolverError, UnsupportedError
from pysciml.fitting import fields, moments
from pysciml.fitting.checkpoints import COLUMNS, State, fingerprint, restore, store
from pysciml.fitting.inputs import Observations, read_data
from pysciml.fitting.result import FitWarning
from pysciml.fitting.trained import TrainingResult
from pysciml.fitting.training_options import (
    Trained,
    TrainingOptions,
    read_options,
    read_trainable,
    read_validation,
)
from pysciml.fitting.windows import Windows, cut, first_states, lay_out
from pysciml.neural.regularizers import RandomEndTime
from pysciml.pde.discrete import FieldProblem
from pysciml.problem import Problem

#: Observations that a window has at least, where the user does not say how many windows there are.
_LEAST_TIMES: Final = 5
#: Steps of a solve that are compiled for at first; more where they are needed.
_CAPACITY: Final = 64
#: Of fields, whose steps are short.
_CAPACITY_OF_FIELDS: Final = 512
_SHOWN_EVERY: Final = 0.2


def train(problem: Problem, data: xr.Dataset, trainable: list[Any], options: Mapping[str, Any]) -> TrainingResult:
    """See `pysciml.fitting.front.fit`."""
    stochastic = problem.system.model.kind == "sde"
    _check_problem(problem)
    chosen = read_options(options, stochastic)
    if isinstance(problem, FieldProblem):
        fields.check_training(problem, trainable, chosen)
    if chosen.engine == "julia":
        _check_julia(problem, chosen)
    else:
        _check_jax(problem, chosen)
    read = _reader(problem)
    observations = read(problem, data, options["sigma"], options["weights"])
    trained = read_trainable(problem, trainable, options["log"])
    until, held_out = read_validation(problem, options["validation"], observations, read)
    if chosen.patience is not None and held_out is None:
        raise ProblemError("patience needs validation: a share of the times, or a Dataset", symbol="patience")
    counts = chosen.segments or _stages(problem, observations, trained, chosen.epochs)
    edges = cut(observations, problem.tspan[0], counts[0], until)
    stages = [lay_out(observations, edges[:: counts[0] // n]) for n in counts]
    shift = next((r.b for r in chosen.regularizers if isinstance(r, RandomEndTime)), 0.0)
    allowed = min(windows.shift_allowed() for windows in stages)
    if shift >= allowed:
        raise ProblemError(
            f"RandomEndTime: b must be less than half the time between observations ({allowed:.4g}), not {shift:g}",
            symbol="b",
        )
    check = None
    if held_out is not None:
        check = lay_out(held_out, cut(held_out, problem.tspan[0], 1))
        if until is not None:  # the tail alone counts
            late = np.abs(check.length[0]) * check.times > np.abs(until - problem.tspan[0]) * (1 + 1e-12)
            kept = check.scale * late[None, :, None]
            check = replace(check, scale=kept, count=int(np.count_nonzero(kept)))
    if isinstance(problem, FieldProblem):
        starts = fields.first_fields(problem, cast("fields.FieldObservations", observations), edges)
    else:
        starts = first_states(observations, edges, problem.u0)
    return _Training(problem, data, starts, trained, stages, check, chosen).run()


def _reader(problem: Problem) -> Callable[..., Observations]:
    """What reads the data of a problem."""
    if isinstance(problem, FieldProblem):
        return fields.read_field_data
    return moments.read_moments if problem.system.model.kind == "sde" else read_data


def _stages(problem: Problem, data: Observations, trained: Trained, epochs: int) -> tuple[int, ...]:
    """Numbers of windows, stage by stage, where the user gives none.

    A network that starts at random sends a long solution anywhere, and the loss with it. Where all states are
    observed, it learns on short windows first, which are then joined four by four.
    """
    model = problem.system.model
    scalars = len(model.parameters)
    if model.fields:
        seen = {v.number for v in data.variables if data.present[v.rows].mean() > 0.9}
    else:
        seen = {row for row, mask in zip(data.rows.tolist(), data.present, strict=True) if mask.mean() > 0.9}
    if model.kind == "sde" or not (trained.by_p >= scalars).any() or not set(range(len(model.states))) <= seen:
        return (1,)
    later = data.times.size - int(data.times[0] == problem.tspan[0])
    counts = [4**k for k in range(4) if 4**k * _LEAST_TIMES <= later]
    return tuple(reversed(counts)) if epochs >= 10 * len(counts) and counts else (1,)


def _check_problem(problem: Problem) -> None:
    model = problem.system.model
    if model.kind == "sde":
        moments.check_problem(problem)
    elif model.kind != "ode" or model.events:
        what = "events" if model.events else f"{model.kind} systems"
        raise UnsupportedError(
            f"training is for ordinary and stochastic differential equations; {what} are not supported"
        )


def _check_julia(problem: Problem, options: TrainingOptions) -> None:
    from pysciml.engines.julia.training import check, check_adjoint, check_device
    from pysciml.fitting.on_julia import check_for_device, check_regularizers

    check(problem.system.model)
    if options.adjoint is not None:
        check_adjoint()
    check_regularizers(problem.system.model, options.regularizers)
    get("julia")
    if options.device != "cpu":
        check_for_device(options)
    check_device(problem.system.model, options.device, options.precision)


def _check_jax(problem: Problem, options: TrainingOptions) -> None:
    get("jax").check_place(problem.system.model, options.device, options.precision)


class _Training:
    """One training: its state, and the compiled functions that move it on."""

    def __init__(
        self,
        problem: Problem,
        data: xr.Dataset,
        starts: Array,
        trained: Trained,
        stages: list[Windows],
        check: Windows | None,
        options: TrainingOptions,
    ) -> None:
        from pysciml.fitting.objective import Layout
        from pysciml.fitting.optimizers import make_optimizer

        self.problem, self.data, self.options = problem, data, options
        self.stages, self.check = stages, check
        n_starts = stages[0].n - 1
        self.layout = Layout(trained.by_p, trained.by_u0, trained.log, n_starts)
        spread = np.ones(problem.u0.size)
        if n_starts:
            many = isinstance(problem, FieldProblem)
            spread = fields.spread_of(problem, starts) if many else np.ptp(starts, axis=0)
        self.stochastic = problem.system.model.kind == "sde"
        self.on_julia = options.engine == "julia"
        spread = np.where(spread > 0, spread, 1.0)
        self.objective = self._objective(problem.system.model, problem.u0, problem.p, spread)
        self.optimizer = make_optimizer(options)
        self.start = np.concatenate([trained.inner(), starts[1:].ravel()])
        annealed = any(r.final is not None for r in options.regularizers)
        self.mark = fingerprint(
            problem.system.model.hash,
            problem.u0,
            problem.p,
            self.start,
            trained.by_p,
            trained.by_u0,
            trained.log,
            *(getattr(part, name) for part in stages for name in ("start", "times", "values", "scale", "rows")),
            None if check is None else (check.times.tobytes(), check.values.tobytes(), check.scale.tobytes()),
            *fields.places(stages[0].variables, () if check is None else check.variables),
            options.regularizers,
            # More epochs may follow where nothing depends on how many there are.
            options.epochs if annealed or len(stages) > 1 else None,
            (options.optimizer_name, None if callable(options.learning_rate) else options.learning_rate),
            (options.seed, options.batch_size, options.continuity, options.algorithm, options.rtol, options.atol),
            options.trajectories,
            # What one engine began the other does not go on with: they round differently.
            *(("julia",) if self.on_julia else ()),
            *((self.optimizer.text,) if self.optimizer.text else ()),
            *(("adjoint", options.adjoint.text) if options.adjoint else ()),
            *((options.device, options.precision) if (options.device, options.precision) != ("cpu", "float64") else ()),
        )
        self.losses: dict[Any, Any] = {}
        # An optax optimizer, a schedule or an adjoint given as an object is not, or not all, part of the mark.
        given = options.optimizer is not None or callable(options.learning_rate)
        given = given or (options.adjoint is not None and options.adjoint.given)
        self.key = (self.mark, id(self) if given else 0)

    def _objective(self, model: Any, u0: Array, p: Array, spread: Array) -> Any:
        """What is minimized, for this kind of problem on this engine."""
        o = self.options
        shared = model, u0, p, self.layout, o.regularizers
        adjoint = None if o.adjoint is None else o.adjoint.value
        if self.stochastic:
            if self.on_julia:
                from pysciml.fitting import moments_on_julia

                return moments_on_julia.JuliaMomentObjective(
                    *shared, o.rtol, o.atol, o.trajectories, o.device, o.precision
                )
            return moments.MomentObjective(*shared, o.rtol, o.atol, o.trajectories)
        if self.on_julia:
            from pysciml.fitting import on_julia

            how = o.algorithm, o.rtol, o.atol, o.continuity, spread, adjoint, o.device, o.precision
            return on_julia.JuliaObjective(*shared, *how)
        numbers = *shared, o.algorithm, o.rtol, o.atol, o.continuity, spread, adjoint
        if isinstance(self.problem, FieldProblem):
            from pysciml.fitting.field_objective import FieldObjective

            return FieldObjective(*numbers, problem=self.problem)
        from pysciml.fitting.objective import Objective

        return Objective(*numbers)

    # -- compiled functions ------------------------------------------------------------------------

    def stage(self, epoch: int) -> int:
        """Which stage an epoch is in; the last one has twice the epochs of the others."""
        n = len(self.stages)
        return min(epoch * (n + 1) // self.options.epochs, n - 1)

    def _step(self, stage: int, capacity: int, *args: Any) -> Any:
        """An update, compiled: ``(theta, leaves, chosen, coefficients, key, numbers) -> (theta, leaves, value, fine)``.

        The random numbers of a batch are those of the key, folded with the numbers of its epoch and its own.
        """
        if self.on_julia:
            return self._step_on_julia(stage, capacity, *args)
        from pysciml.engines.jax.compiling import compiled

        def make() -> Callable[..., Any]:
            import jax
            import jax.numpy as jnp

            from pysciml.fitting.objective import value_and_slope
            from pysciml.fitting.optimizers import OptaxOptimizer

            optimizer, windows, adjoint = self.optimizer, self.stages[stage], self.options.adjoint
            assert isinstance(optimizer, OptaxOptimizer)
            loss = self.objective.make(windows, self.stages[0].n // windows.n, capacity, train=True)
            differentiated = value_and_slope(loss, adjoint is not None and adjoint.forward)

            def step(theta: Any, leaves: Any, chosen: Any, coefficients: Any, key: Any, numbers: Any) -> Any:
                random = jax.random.fold_in(jax.random.fold_in(key, numbers[0]), numbers[1])
                (total, value), slope = differentiated(theta, chosen, coefficients, random)
                fine = value.success & jnp.isfinite(total) & jnp.isfinite(slope).all()
                return *optimizer.change(theta, leaves, slope), value, fine

            return step

        key = "training", self.key, stage, capacity, len(args[2])
        return compiled(key, make, *args, precision=self.options.precision, device=self.options.device)[0](*args)

    def _step_on_julia(
        self,
        stage: int,
        capacity: int,
        theta: Array,
        leaves: Any,
        chosen: Any,
        coefficients: Array,
        key: Any,
        numbers: Array,
    ) -> Any:
        """As `_step`: Julia differentiates, an optimizer of either takes the derivative."""
        import jax

        random = jax.random.fold_in(jax.random.fold_in(key, numbers[0]), numbers[1])
        windows = self.stages[stage]
        loss = self._loss(stage, windows, self.stages[0].n // windows.n, capacity)
        total, value, slope = loss(np.asarray(theta), chosen, coefficients, random)
        if not (value.success and np.isfinite(total) and np.isfinite(slope).all()):
            return theta, leaves, value, False
        return *self.optimizer.update(theta, leaves, slope), value, True

    def _loss(self, stage: int | None, windows: Windows, fine: int, capacity: int) -> Any:
        """The loss on Julia of a stage, or (None) for validation: made once, as it has buffers."""
        if stage not in self.losses:
            self.losses[stage] = self.objective.make(windows, fine, capacity, train=stage is not None)
        return self.losses[stage]

    def _validate(self, theta: Array, capacity: int) -> float:
        import jax

        from pysciml.engines.jax.compiling import compiled

        check = self.check
        assert check is not None
        args = (theta, np.zeros(1, dtype=np.int64), np.zeros(0), jax.random.key(0))
        if self.on_julia:
            _, value, _ = self._loss(None, check, 1, capacity)(*args)
            return float(value.loss) if value.success else np.inf
        run, _ = compiled(
            ("validation", self.key, capacity),
            lambda: self.objective.make(check, 1, capacity, train=False),
            *args,
            precision=self.options.precision,
            device=self.options.device,
        )
        _, value = run(*args)
        if bool(value.full) and 2 * capacity <= self.options.max_steps:
            return self._validate(theta, 2 * capacity)
        return float(value.loss) if bool(value.success) else np.inf

    # -- the loop ----------------------------------------------------------------------------------

    def run(self) -> TrainingResult:
        """Train, or go on with a training."""
        import jax

        from pysciml.engines.jax.compiling import arithmetic

        # For Julia only random numbers and optimizers are JAX's, and stay where they are.
        place = ("float64", "cpu") if self.on_julia else (self.options.precision, self.options.device)
        with arithmetic(*place):
            # Julia compiles nothing for a number of steps.
            usual = _CAPACITY_OF_FIELDS if self.problem.system.model.fields else _CAPACITY
            capacity = self.options.max_steps if self.on_julia else min(usual, self.options.max_steps)
            state = State(self.start, self.optimizer.start(self.start), self.start.copy(), capacity=capacity)
            path = self.options.checkpoint
            if path is not None:
                state = restore(path, self.mark, state) or state
            key = jax.random.key(self.options.seed)
            begin = time.perf_counter() - (state.history["seconds"][-1] if state.epoch else 0.0)
            shown = 0.0
            message, success = f"all {self.options.epochs} epochs done", True
            try:
                while state.epoch < self.options.epochs:
                    failed = self._epoch(state, key, begin)
                    if failed:
                        message, success = failed, False
                        warnings.warn(f"the training stopped: {failed}", FitWarning, stacklevel=4)
                        break
                    if path is not None and state.epoch % self.options.checkpoint_every == 0:
                        store(path, state, self.mark)
                    if self.options.progress and time.perf_counter() - shown > _SHOWN_EVERY:
                        shown = time.perf_counter()
                        self._show(state)
                    if self.options.patience is not None and state.waited >= self.options.patience:
                        message = f"stopped early: validation has not improved for {state.waited} epochs"
                        break
            except KeyboardInterrupt:
                message, success = f"interrupted by the user after {state.epoch} epochs", False
            if path is not None and state.epoch:
                store(path, state, self.mark)
        if self.options.progress:
            self._show(state)
            sys.stderr.write("\n")
        return self._result(state, success, message)

    def _epoch(self, state: State, key: Any, begin: float) -> str:
        """One epoch; the state is changed only if all of it went well. Returns what went wrong."""
        import jax

        options = self.options
        done = state.epoch / max(options.epochs - 1, 1)
        coefficients = np.array([float(r.coefficient(done)) for r in options.regularizers], dtype=np.float64)
        stage = self.stage(state.epoch)
        n = self.stages[stage].n
        size = min(options.batch_size or n, n)
        order = np.arange(n)
        if size < n:
            order = np.random.default_rng([options.seed, state.epoch]).permutation(n)
        batches = np.array_split(order, -(-n // size))
        theta, leaves = state.theta, state.optimizer
        totals = np.zeros(3)
        for number, batch in enumerate(batches):
            numbers = np.array([state.epoch, number])
            while True:
                args = (theta, leaves, np.sort(batch), coefficients, key, numbers)
                new, moved, value, fine = self._step(stage, state.capacity, *args)
                value, fine = jax.device_get((value, fine))
                if not bool(value.full) or 2 * state.capacity > options.max_steps:
                    break
                state.capacity *= 2  # compiled again, for solves of more steps
            if not bool(fine):
                return self._what_failed(state, bool(value.full))
            theta, leaves = new, moved
            share = len(batch) / n
            totals += [share * float(value.loss), share * float(value.regularization), float(value.n_rhs)]
        before = state.theta  # the losses are those of the numbers the epoch began with
        validation = np.nan
        if self.check is not None:
            validation = self._validate(before, state.capacity)
            state.waited += 1
            if state.epoch and self.stage(state.epoch - 1) != stage:
                # Stages of shorter windows only lead up to the next one: their best do not count.
                state.best_validation, state.waited = np.inf, 0
            if validation < state.best_validation:
                state.best, state.best_validation, state.waited = np.asarray(before), validation, 0
        state.theta = np.asarray(theta)
        state.optimizer = [np.asarray(leaf) for leaf in leaves]
        state.epoch += 1
        row = (totals[0], totals[1], validation, totals[2], time.perf_counter() - begin)
        for name, entry in zip(COLUMNS, row, strict=True):
            state.history[name].append(float(entry))
        return ""

    def _what_failed(self, state: State, full: bool) -> str:
        why = (
            f"the solve takes more than max_steps={self.options.max_steps} steps"
            if full
            else "the solve or its gradient is not finite"
        )
        if state.epoch == 0:
            raise SolverError(
                f"{self.problem.system.name}: {why} with the starting numbers ({self.options.engine} engine, "
                f"{self.options.algorithm}); "
                "train on shorter pieces by segments=, or start from smaller weights",
                retcode="MaxIters" if full else "Unstable",
            )
        return f"{why} in epoch {state.epoch + 1}; the result holds the last good state"

    def _show(self, state: State) -> None:
        h = state.history
        if state.epoch:
            extra = f"  validation {h['validation'][-1]:.4g}" if self.check is not None else ""
            sys.stderr.write(
                f"\r{self.problem.system.name}: epoch {state.epoch}/{self.options.epochs}  loss {h['loss'][-1]:.4g}"
                f"{extra}  evaluations {h['n_rhs'][-1]:.0f}   "
            )
            sys.stderr.flush()

    def _result(self, state: State, success: bool, message: str) -> TrainingResult:
        best = self.check is not None and np.isfinite(state.best_validation)
        u0, p, _ = self.layout.unpack(state.best if best else state.theta, self.problem.u0, self.problem.p)
        model = self.problem.system.model
        numbers: dict[str, Any] = dict(zip(model.parameters, p.tolist(), strict=False))
        numbers |= {name: p[block] for name, block in model.blocks.items()}
        columns = [name for name in COLUMNS if name != "validation" or self.check is not None]
        history = xr.Dataset(
            {name: ("epoch", np.array(state.history[name])) for name in columns},
            coords={"epoch": np.arange(1, state.epoch + 1)},
        )
        history["seconds"].attrs["units"] = "s"
        # The initial values of fields are not trained: they follow the parameters, or stay.
        starts = None if model.fields else dict(zip(model.states, u0.tolist(), strict=True))
        return TrainingResult(
            problem=self.problem.remake(u0=starts, p=numbers),
            history=history,
            data=self.data if isinstance(self.data, xr.Dataset) else self.data.to_dataset(),
            success=success,
            message=message,
            options=(
                {"engine": self.options.engine, "trajectories": self.options.trajectories, "seed": self.options.seed}
                if self.stochastic  # with the method that suits the noise
                else {
                    "alg": self.options.algorithm,
                    "engine": self.options.engine,
                    "rtol": self.options.rtol,
                    "atol": self.options.atol,
                }
            ),
        )
