"""The options of a solve: read once, checked, and passed to the engine as they are."""

from __future__ import annotations

import fractions

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import pysciml as ps
from pysciml.options import read_options, read_saveat
from tests.fake_engine import FakeEngine, only

x = ps.variables("x")
problem = ps.Problem(ps.System([ps.Eq(ps.D(x), -x)]), {x: 1}, (0, 1))


def test_the_engine_gets_the_options_as_given(monkeypatch):
    engine = FakeEngine()
    with only(monkeypatch, engine):
        ps.solve(problem, "Fake", rtol=1e-3, atol=1e-5, saveat=[0.25, 1], dt=0.01, max_steps=7, seed=3)
        ps.solve(problem)
    given, default = (options for _, options in engine.calls)
    assert (given.rtol, given.atol, given.dt, given.max_steps, given.seed, given.progress) == (
        1e-3, 1e-5, 0.01, 7, 3, False,
    )  # fmt: skip
    assert given.saveat.tolist() == [0.25, 1.0]
    assert (default.rtol, default.atol, default.dt, default.max_steps, default.seed) == (1e-6, 1e-9, None, 10**6, None)
    assert default.saveat is None


@pytest.mark.parametrize(
    ("saveat", "tspan", "expected"),
    [
        (0.25, (0.0, 1.0), [0, 0.25, 0.5, 0.75, 1]),
        (0.25, (1.0, 0.0), [1, 0.75, 0.5, 0.25, 0]),
        (0.4, (0.0, 1.0), [0, 0.4, 0.8, 1.0]),
        (5, (0.0, 1.0), [0, 1]),
        (1, (0.0, 3.0), [0, 1, 2, 3]),
        (fractions.Fraction(1, 2), (0.0, 1.0), [0, 0.5, 1]),
        (np.float32(0.5), (-1.0, 0.0), [-1, -0.5, 0]),
        ([0.5], (0.0, 1.0), [0.5]),
        ((0, 1), (0.0, 1.0), [0, 1]),
        (range(3), (0.0, 2.0), [0, 1, 2]),
        (np.array([1, 0.5]), (1.0, 0.0), [1, 0.5]),
        ([fractions.Fraction(1, 4), 1], (0.0, 1.0), [0.25, 1]),
    ],
)
def test_output_times(saveat, tspan, expected):
    times = read_saveat(saveat, tspan)
    assert times.dtype == np.float64
    np.testing.assert_allclose(times, expected, rtol=1e-15, atol=1e-15)


def test_no_rounding_leaves_a_time_next_to_the_end():
    times = read_saveat(0.1, (0.0, 20.0))
    assert len(times) == 201
    assert times[-1] == 20.0
    assert len(read_saveat(1e-3, (1e6, 1e6 + 10.0))) == 10_001
    assert len(read_saveat(0.1, (0.0, 100_000.0))) == 1_000_001


finite = st.floats(-1e6, 1e6)


@given(finite, finite, st.floats(1e-4, 1e4))
def test_a_spacing_goes_from_the_start_to_the_end(start, end, spacing):
    assume(1e-3 < abs(end - start) / spacing < 2000)
    times = read_saveat(spacing, (start, end))
    assert times[0] == start
    assert times[-1] == end
    steps = np.diff(times) * np.sign(end - start)
    assert (steps > 0).all()
    rounding = 4 * np.finfo(float).eps * max(abs(start), abs(end))
    np.testing.assert_allclose(steps[:-1], spacing, rtol=1e-12, atol=rounding)
    assert steps[-1] <= spacing * (1 + 1e-6) + rounding


def test_the_given_array_is_copied():
    times = np.array([0.0, 1.0])
    read = read_saveat(times, (0.0, 1.0))
    times[1] = 7.0
    assert read.tolist() == [0.0, 1.0]


def test_a_spacing_finer_than_the_times_is_refused():
    with pytest.raises(ps.ProblemError, match="saveat=1 is finer"):
        read_saveat(1.0, (1e17, 1e17 + 1000.0))


@pytest.mark.parametrize("tolerances", [(0, 1e-6), (1e-6, 0), (np.float64(1e-6), np.float32(1e-6)), (0.5, 10)])
def test_either_tolerance_may_be_zero(tolerances):
    rtol, atol = tolerances
    options = read_options(
        (0.0, 1.0), rtol=rtol, atol=atol, saveat=None, dt=1, max_steps=np.int64(5), seed=np.uint8(4), progress=True
    )
    assert (options.rtol, options.atol) == (float(rtol), float(atol))
    assert (options.dt, options.max_steps, options.seed, options.progress) == (1.0, 5, 4, True)
    assert type(options.max_steps) is int
