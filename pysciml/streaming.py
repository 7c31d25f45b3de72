"""A solution on disk: solved in pieces of output times, each written before the next one is computed.

The store is a Zarr group that anybody can read meanwhile; what is not computed yet is NaN there. Beside the arrays
lies ``pysciml/manifest.json``: what is solved, and how far it is written. A piece is written array by array, then the
manifest is replaced: from then on it is done, whatever happens. Every piece starts from the state that the one before
ended with, read from the store or not, so that a solve that goes on after a kill computes what it would have computed.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import xarray as xr

from pysciml.engines.base import Array, Engine, RawSolution, SolveOptions
from pysciml.ensemble import arrays
from pysciml.ensemble.identity import compare, fingerprint, versions_of
from pysciml.ensemble.manifest import MANIFEST, manifest_text, read_manifest
from pysciml.ensemble.target import Target, read_target
from pysciml.errors import ProblemError, UnsupportedError
from pysciml.problem import Problem
from pysciml.results import attributes, to_dataset

_FORMAT: Final = "pysciml-solution-1"
#: Bytes of states that are solved for before they are written.
_BYTES: Final = 2**25
_KINDS: Final = ("ode", "dae", "sde")
#: The attribute ``retcode`` of a store that is not complete.
_UNFINISHED: Final = "Unfinished"

#: Chooses the engine by its name, checked to support the problem.
Choose = Callable[[str], Engine]
#: What there is to raise for a solve that did not reach its end.
Failure = Callable[[Problem, RawSolution, str, xr.Dataset], Exception]


@dataclass
class Manifest:
    """What a store says about itself.

    Attributes
    ----------
    identity : dict
        All that the numbers depend on, by name.
    rows : int
        Output times of a piece.
    versions : str
        What it was begun with.
    names : list of str
        The variables.
    done : int
        Output times in the pieces that are written.
    counts : dict
        Of the pieces that are written: steps, evaluations, seconds.
    algorithms : list of str
    extra : dict
        Attributes that the engine added.
    """

    identity: dict[str, Any]
    rows: int
    versions: str
    names: list[str]
    done: int = 0
    counts: dict[str, float] = field(default_factory=dict[str, float])
    algorithms: list[str] = field(default_factory=list[str])
    extra: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def read(cls, target: Target) -> Manifest | None:
        """That of a store; None where there is nothing.

        Raises
        ------
        ProblemError
            If there is something, but not a solution.
        """
        return read_manifest(
            target,
            "a solution",
            _FORMAT,
            lambda _: (
                "holds something else than a single solution; nothing is ever overwritten: "
                "name another place, or remove it yourself"
            ),
            lambda content: cls(**content),
        )

    def write(self, target: Target) -> None:
        """Replace that of the store."""
        target.write(MANIFEST, manifest_text(_FORMAT, asdict(self)))

    def add(self, raw: RawSolution) -> None:
        """Count a piece."""
        for name in ("n_steps", "n_rejected", "n_rhs", "solve_seconds", "compile_seconds"):
            new, old = getattr(raw, name), self.counts.get(name, 0)
            self.counts[name] = -1 if min(new, old) < 0 else old + new
        self.algorithms += [name for name in raw.algorithm.split("+") if name not in self.algorithms]
        self.extra.update(raw.extra)

    def whole(self, t: Array, retcode: str) -> RawSolution:
        """All pieces as one solution, without its states."""
        return RawSolution(
            t,
            np.zeros((0, t.size)),
            "+".join(self.algorithms),
            retcode,
            n_steps=int(self.counts.get("n_steps", 0)),
            n_rejected=int(self.counts.get("n_rejected", 0)),
            n_rhs=int(self.counts.get("n_rhs", 0)),
            solve_seconds=self.counts.get("solve_seconds", 0.0),
            compile_seconds=self.counts.get("compile_seconds", 0.0),
            extra=dict(self.extra),
        )


def stream(
    problem: Problem,
    alg: str | None,
    engine: str,
    options: SolveOptions,
    store: Any,
    choose: Choose,
    failure: Failure,
) -> xr.Dataset:
    """Solve into a store; see `pysciml.solve`.

    Returns
    -------
    xarray.Dataset
        Read from the store when it is used.
    """
    times = _check(problem, options)
    target = read_target(store)
    manifest = Manifest.read(target)
    if manifest is not None:
        # What was left to chance or to this machine is taken from the store.
        if options.seed is None:
            options = replace(options, seed=manifest.identity.get("seed"))
        if engine == "auto":
            engine = manifest.identity.get("engine", engine)
    elif options.seed is None and problem.system.kind == "sde":
        options = replace(options, seed=int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> np.uint64(1)))
    chosen = choose(engine)
    identity = _identify(problem, chosen.name, alg, options)
    if manifest is None:
        manifest = Manifest(identity, _rows(problem, times, options), versions_of(chosen.name), [])
    else:
        compare(target, manifest.identity, identity, manifest.versions, versions_of(chosen.name))
    return _Stream(problem, chosen, alg, options, target, manifest, times, failure).run()


def _check(problem: Problem, options: SolveOptions) -> Array:
    """The output times of what can be solved in pieces."""
    kind, name = problem.system.kind, problem.system.name
    if kind not in _KINDS:
        raise UnsupportedError(
            f"store= solves in pieces, each from where the one before ended, and {name!r} ({kind}) needs more than "
            "the states there; without store= it is solved at once"
        )
    if problem.system.model.events:
        raise UnsupportedError(f"store= solves in pieces, without events, and {name!r} has some")
    if options.saveat is None:
        raise ProblemError(
            f"store= needs saveat=, the spacing of the output times or the times, such as "
            f"saveat={abs(problem.tspan[1] - problem.tspan[0]) / 100:g}",
            symbol="saveat",
        )
    if kind == "sde" and options.dt is None:
        raise ProblemError(
            f"store= needs dt= where there is noise, as in {name!r}: the same in all pieces", symbol="dt"
        )
    return options.saveat


def _rows(problem: Problem, times: Array, options: SolveOptions) -> int:
    """Output times of a piece: as many as fit, and over no less than a step of fixed size."""
    rows = max(2, _BYTES // (np.dtype(options.precision).itemsize * max(1, problem.u0.size)))
    while (
        options.dt is not None
        and rows < times.size
        and np.abs(np.diff(times[rows - 1 :: rows])).min(initial=np.inf) < options.dt * (1 - 1e-6)
    ):
        rows *= 2
    return int(min(rows, times.size))


def _identify(problem: Problem, engine: str, alg: str | None, options: SolveOptions) -> dict[str, Any]:
    """All that the numbers depend on, by name, as JSON has it."""
    model = problem.system.model
    coords = getattr(problem.system, "coords", {})
    return {
        "model": model.hash,
        "variables": [*model.states, *model.observed],
        "parameters": list(model.parameters),
        "grid": {name: fingerprint(values) for name, values in coords.items()},
        "u0": fingerprint(problem.u0),
        "p": fingerprint(problem.p),
        "tspan": list(problem.tspan),
        "saveat": fingerprint(options.saveat),
        "engine": engine,
        "alg": alg,
        "rtol": options.rtol,
        "atol": np.asarray(options.absolute).tolist(),
        "dt": options.dt,
        "seed": options.seed,
        "device": options.device,
        "precision": options.precision,
    }


class _Stream:
    """One solve into one store."""

    def __init__(
        self,
        problem: Problem,
        engine: Engine,
        alg: str | None,
        options: SolveOptions,
        target: Target,
        manifest: Manifest,
        times: Array,
        failure: Failure,
    ) -> None:
        self._problem, self._engine, self._alg, self._options = problem, engine, alg, options
        self._target, self._manifest, self._times, self._failure = target, manifest, times, failure
        self._group: Any = None  # opened once it is there

    def run(self) -> xr.Dataset:
        """Solve what is missing, piece by piece."""
        manifest, count = self._manifest, self._times.size
        if manifest.names and arrays.is_complete(self._target):
            self._target.sweep_up()
            self._open()
        else:  # new, or killed while it was made
            manifest.done = 0
        state = self._resumed()
        if self._group is not None and manifest.done < count:
            self._describe(_UNFINISHED)
        while manifest.done < count:
            state = self._piece(state)
        self._describe("Success")
        return self.dataset()

    def _piece(self, state: Array) -> Array:
        """Solve the next piece and write it; the state at its end."""
        problem, manifest, times = self._problem, self._manifest, self._times
        low = manifest.done
        high = min(low + manifest.rows, times.size)
        start = times[low - 1] if low else problem.tspan[0]
        end = problem.tspan[1] if high == times.size else times[high - 1]
        options = replace(
            self._options, saveat=times[low:high], progress=False, whole=problem.tspan, max_steps=self._steps_left()
        )
        if problem.system.kind == "sde":  # paths of different pieces are independent
            drawn = np.random.SeedSequence([options.seed or 0, low]).generate_state(1, np.uint64)[0]
            options = replace(options, seed=int(drawn >> np.uint64(1)))
        raw = self._engine.solve(problem.system.model, state, problem.p, (float(start), float(end)), self._alg, options)
        if problem.system.kind == "sde":
            raw.extra["seed"] = self._options.seed or 0
        if not raw.successful:
            if raw.retcode == "MaxIters":  # of all pieces
                raw.message = f"max_steps={self._options.max_steps} steps were not enough"
            raise self._failed(raw, low)
        self._write(to_dataset(problem, raw, self._engine.name), low)
        manifest.add(raw)
        manifest.done = high
        manifest.write(self._target)
        if self._options.progress:
            end_of_line = "\n" if high == times.size else ""
            sys.stderr.write(f"\r{problem.system.name}: {100 * high / times.size:.1f} %{end_of_line}")
            sys.stderr.flush()
        return np.array(raw.u[:, -1], dtype=np.float64)

    def _steps_left(self) -> int:
        taken = self._manifest.counts.get("n_steps", 0) + max(0, self._manifest.counts.get("n_rejected", 0))
        return max(1, self._options.max_steps - int(max(0, taken)))

    def _failed(self, raw: RawSolution, low: int) -> Exception:
        """What to raise; the rows before the failure are written, too, and will be computed again."""
        piece = to_dataset(self._problem, raw, self._engine.name)
        if low == 0:  # nothing is there yet, and nothing is made
            return self._failure(self._problem, raw, self._engine.name, piece)
        counted = copy.deepcopy(self._manifest)
        counted.add(raw)
        self._write(piece, low)
        self._describe(raw.retcode)
        reached = np.concatenate([self._times[:low], raw.t])
        whole = replace(counted.whole(reached, raw.retcode), message=raw.message)
        partial = (
            self.dataset()
            .isel(t=slice(0, low + raw.t.size))
            .assign_attrs(attributes(self._problem, whole, self._engine.name))
        )
        return self._failure(self._problem, whole, self._engine.name, partial)

    # -- the store ------------------------------------------------------------------------------

    def _resumed(self) -> Array:
        """The state to go on from: the last one that can be read."""
        manifest, states = self._manifest, self._problem.system.model.states
        while manifest.done:
            try:
                parts = [np.ravel(self._group[name][manifest.done - 1]) for name in states]
            except Exception:  # whatever a codec says of damaged bytes
                parts = [np.array([np.nan])]
            state = np.concatenate(parts).astype(np.float64)
            if np.isfinite(state).all():
                return state
            manifest.done = (manifest.done - 1) // manifest.rows * manifest.rows
        return self._problem.u0

    def _write(self, piece: xr.Dataset, low: int) -> None:
        group = self._create(piece) if self._group is None else self._group
        for name in self._manifest.names:
            values = piece[name].values
            group[name][low : low + values.shape[0]] = values

    def _create(self, piece: xr.Dataset) -> Any:
        """Make the arrays of the variables of a piece, empty and of full length."""
        import zarr
        from zarr.storage import MemoryStore

        manifest = self._manifest
        manifest.names = [str(name) for name in piece.data_vars]
        made: dict[str, Any] = {}
        draft = MemoryStore(made)
        time = xr.Variable("t", self._times, piece.t.attrs)
        coordinates = piece.drop_vars(manifest.names).isel(t=slice(0, 0)).drop_vars("t").assign_coords(t=time)
        attrs = attributes(self._problem, manifest.whole(self._times, _UNFINISHED), self._engine.name)
        arrays.quietly(
            lambda: coordinates.assign_attrs(attrs).to_zarr(draft, mode="w", zarr_format=3, consolidated=False)
        )
        group = zarr.open_group(draft, mode="r+", zarr_format=3)
        group.create_group(arrays.BOOKS)
        for name, variable in piece.data_vars.items():
            block = (manifest.rows, *variable.shape[1:])
            chunks = arrays.inner_chunks(block, variable.dtype.itemsize)
            group.create_array(
                str(name),
                shape=(self._times.size, *variable.shape[1:]),
                chunks=chunks,
                shards=None if chunks == block else block,
                dtype=str(variable.dtype),
                fill_value=np.nan,
                compressors=arrays.compressors(),
                dimension_names=[str(dim) for dim in variable.dims],
                attributes=dict(variable.attrs),
            )
        arrays.consolidate(draft)
        manifest.write(self._target)  # first, so that nothing half made is anonymous
        # The root comes last: whoever looks before finds nothing, and then everything.
        for name in sorted(made, key=lambda name: name == "zarr.json"):
            self._target.write(name, made[name].to_bytes())
        return self._open()

    def _open(self) -> Any:
        """The arrays, open for writing."""
        import zarr

        self._group = zarr.open_group(self._target.zarr(), mode="r+", zarr_format=3, use_consolidated=False)
        return self._group

    def _describe(self, retcode: str) -> None:
        """Bring the attributes up to date."""
        attrs = attributes(self._problem, self._manifest.whole(self._times, retcode), self._engine.name)
        attrs["pieces"] = -(-self._manifest.done // self._manifest.rows)
        if dict(self._group.attrs) != attrs:
            self._group.attrs.put(attrs)
            arrays.consolidate(self._target.zarr())

    def dataset(self) -> xr.Dataset:
        """What there is."""
        chunks = {} if find_spec("dask") is not None else None
        return xr.open_zarr(self._target.zarr(read_only=True), chunks=chunks)[self._manifest.names]
