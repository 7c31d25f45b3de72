"""Events that happen at round times, where a trial can meet the crossing to the last digit."""

from __future__ import annotations

import numpy as np
import pytest

import pysciml as ps


@pytest.mark.parametrize("rtol", [1e-6, 1e-7, 1e-9])
@pytest.mark.parametrize("alg", [None, "Tsit5", "QNDF"])
def test_a_clock_strikes_on_time(alg: str | None, rtol: float) -> None:
    gut, clock = ps.variables("gut clock")
    every = ps.parameters("every")
    system = ps.System(
        [ps.Eq(ps.D(gut), -0.9 * gut), ps.Eq(ps.D(clock), 1)],
        events=[ps.Event(clock - every, {gut: gut + 100, clock: 0}, direction="up")],
    )
    problem = ps.Problem(system, {gut: 100, clock: 0}, (0, 75), {every: 8})
    sol = ps.solve(problem, alg, engine="native", rtol=rtol, atol=1e-9)
    np.testing.assert_allclose(sol.attrs["event_times"], 8.0 * np.arange(1, 10), rtol=0, atol=1e-10)
