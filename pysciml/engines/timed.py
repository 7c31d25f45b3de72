"""Events at given times, for engines that do not step to them: a solve from each to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from pysciml.engines.base import Array, RawSolution, SolveOptions
from pysciml.errors import UnsupportedError
from pysciml.graph import Model

#: ``solve(model, u0, p, tspan, algorithm, options)`` of an engine, for models without such events.
Solve = Callable[[Model, Array, Array, tuple[float, float], "str | None", SolveOptions], RawSolution]


def has_times(model: Model) -> bool:
    """Whether there are events at given times."""
    return any(event.when == "times" for event in model.events)


@lru_cache(maxsize=64)
def crossings_only(model: Model) -> Model:
    """The model without its events at given times."""
    if not has_times(model):
        return model
    return replace(model, events=tuple(event for event in model.events if event.when != "times"))


def refuse_steps(model: Model, engine: str) -> None:
    """Raise for events that look at each step, which adaptive steps make a matter of tolerances."""
    if any(event.when == "step" for event in model.events):
        raise UnsupportedError(
            f"the {engine} engine has no conditions that are looked at after each step, as an event of {model.name!r} "
            "does: write an expression that crosses zero, or engine='julia' has them",
            engine=engine,
        )


def happening_at(model: Model, u0: Array, p: Array, tspan: tuple[float, float]) -> list[tuple[float, list[int]]]:
    """The times inside of ``tspan`` at which events happen, in the order they are reached, and which."""
    low, high = min(tspan), max(tspan)
    found: dict[float, list[int]] = {}
    for number, event in enumerate(model.events):
        if event.when == "times":
            for t in sorted(set(model.graph.evaluate(event.condition, u0, p, tspan[0]).tolist())):
                if low <= t <= high:
                    found.setdefault(t, []).append(number)
    return sorted(found.items(), reverse=tspan[1] < tspan[0])


def solve_between(
    solve: Solve,
    model: Model,
    u0: Array,
    p: Array,
    tspan: tuple[float, float],
    algorithm: str | None,
    options: SolveOptions,
) -> RawSolution:
    """Solve up to each event, change the states, and go on.

    Where output is asked for at the time of an event, it has the values after it; the solver's own
    steps have both.
    """
    plain = crossings_only(model)
    numbers = [number for number, event in enumerate(model.events) if event.when != "times"]
    stops = happening_at(model, u0, p, tspan)
    _check_end(model, stops, tspan)
    if stops and stops[0][0] == tspan[0] and any(model.events[number].terminal for number in stops[0][1]):
        number = next(number for number in stops[0][1] if model.events[number].terminal)
        message = f"event {number + 1} ends the solve where it starts"
        return RawSolution(np.array([tspan[0]]), np.array(u0)[:, None], algorithm or "", "Failure", message)
    saveat = options.saveat
    forward = 1.0 if tspan[1] > tspan[0] else -1.0
    u, now, left = np.array(u0, dtype=np.float64), tspan[0], options.max_steps
    fired: list[tuple[float, int]] = []
    parts: list[RawSolution] = []
    for stop, events in [*stops, (tspan[1], list[int]())]:
        if stop != now:
            wanted = None
            if saveat is not None:
                inside = (forward * (saveat - now) >= 0) & (forward * (saveat - stop) < 0)
                wanted = np.append(saveat[inside], stop)
            part = solve(plain, u, p, (now, stop), algorithm, replace(options, saveat=wanted, max_steps=left))
            parts.append(part)
            fired += [(t, numbers[k]) for t, k in part.event_times]
            if part.retcode != "Success":
                return _joined(parts, fired)
            left = max(1, left - max(part.n_steps, 0))
            u, now = part.u[:, -1].copy(), stop
            if saveat is not None and (events or saveat[-1] != stop):
                part.t, part.u = part.t[:-1], part.u[:, :-1]  # the values after the events are what counts there
        for number in events:
            fired.append((now, number))
            u[list(model.events[number].targets)] = model.graph.evaluate(model.events[number].values, u, p, now)
        ended = any(model.events[number].terminal for number in events)
        if ended or (events and now == tspan[1]):
            shown = ended or saveat is None or saveat[-1] == now
            last = RawSolution(np.full(int(shown), now), u[:, None][:, : int(shown)], algorithm or "", n_steps=0)
            last.algorithm = parts[-1].algorithm if parts else last.algorithm
            last.n_rejected = last.n_rhs = 0
            last.retcode = "Terminated" if ended else "Success"
            parts.append(last)
            break
    return _joined(parts, fired)


def _check_end(model: Model, stops: list[tuple[float, list[int]]], tspan: tuple[float, float]) -> None:
    """Refuse to show algebraic states just after an event where nothing solves for them any more."""
    for t, events in stops:
        ends = t == tspan[1] or any(model.events[number].terminal for number in events)
        if ends and not model.differential.all() and any(model.events[number].targets for number in events):
            raise UnsupportedError(
                f"event {events[0] + 1} sets states at t = {t:g}, where the solve ends: with algebraic equations "
                "engine='julia' does this; here let tspan end a little before or after it"
            )


def _joined(parts: list[RawSolution], fired: list[tuple[float, int]]) -> RawSolution:
    """The parts as one solution."""
    whole = parts[-1]
    whole.t = np.concatenate([part.t for part in parts])
    whole.u = np.concatenate([part.u for part in parts], axis=1)
    whole.algorithm = "+".join(dict.fromkeys(name for part in parts for name in part.algorithm.split("+")))
    for count in ("n_steps", "n_rejected", "n_rhs"):
        values = [getattr(part, count) for part in parts]
        setattr(whole, count, -1 if min(values) < 0 else sum(values))
    whole.solve_seconds = sum(part.solve_seconds for part in parts)
    whole.compile_seconds = sum(part.compile_seconds for part in parts)
    whole.event_times = fired
    return whole
