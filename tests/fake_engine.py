"""An engine for tests of the front: classical Runge-Kutta on the reference interpreter, and a record of its calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from pysciml.engines import base
from pysciml.engines.base import Engine, RawSolution, SolveOptions
from pysciml.errors import UnsupportedError
from pysciml.graph import Model


class FakeEngine(Engine):
    """Solves with fifty equal steps between output times, by Kutta's method of order four."""

    name = "fake"
    kinds = ("ode",)

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.calls: list[tuple[Model, SolveOptions]] = []
        self.reason: str | None = None
        self.ending: tuple[str, str] = ("Success", "")
        self.keep: int | None = None
        self.events: list[tuple[float, int]] = []

    def unavailable(self) -> str | None:
        return self.reason

    def version(self) -> str:
        return "4.0"

    def algorithms(self) -> dict[str, str]:
        return {"RK4": "Kutta's method of order 4", "Fake": "the same under another name"}

    def check(self, model: Model, algorithm: str | None) -> None:
        self.check_algorithm(algorithm)
        if model.kind not in self.kinds:
            raise UnsupportedError(f"the {self.name} engine solves no {model.kind}", engine=self.name)

    def solve(self, model, u0, p, tspan, algorithm, options):
        self.calls.append((model, options))
        times = np.linspace(*tspan, 11) if options.saveat is None else options.saveat
        u, now, rows = u0.copy(), tspan[0], []
        for time in times:
            h = (time - now) / 50
            for _ in range(50 if h else 0):
                k1 = model.graph.evaluate("rhs", u, p, now)
                k2 = model.graph.evaluate("rhs", u + h / 2 * k1, p, now + h / 2)
                k3 = model.graph.evaluate("rhs", u + h / 2 * k2, p, now + h / 2)
                k4 = model.graph.evaluate("rhs", u + h * k3, p, now + h)
                u, now = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), now + h
            now = time
            rows.append(u)
        retcode, message = self.ending
        return RawSolution(
            t=np.asarray(times)[: self.keep],
            u=np.array(rows).T[:, : self.keep],
            algorithm=algorithm or "RK4",
            retcode=retcode,
            message=message,
            n_steps=50 * len(times),
            n_rhs=200 * len(times),
            solve_seconds=0.25,
            compile_seconds=0.5,
            event_times=self.events,
        )


@contextmanager
def only(monkeypatch, *engines: Engine) -> Iterator[None]:
    """Let these be all the engines there are."""
    found = {engine.name: engine for engine in engines}
    with monkeypatch.context() as patch:
        patch.setattr(base, "registry", lambda: found)
        patch.delenv("PYSCIML_ENGINE", raising=False)
        yield
