"""Settings common to all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import hypothesis
import matplotlib as mpl
import pytest

JULIA_WANTED = os.environ.get("PYSCIML_TEST_JULIA") == "1"

# Not by $MPLBACKEND, which the kernels that run the tutorials would inherit: theirs show pictures inline.
mpl.use("agg")
if not JULIA_WANTED:
    # Whatever a test does, it must not make juliapkg fetch a Julia.
    os.environ.setdefault("PYTHON_JULIAPKG_OFFLINE", "yes")

# A test that fails today must fail tomorrow: the examples are fixed unless somebody explores on purpose.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("explore", derandomize=False, deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises `KeyboardInterrupt`, also where the tests were started with it ignored, as background jobs are."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def julia_engine() -> None:
    """Skips, with the engine's own words, where the Julia engine cannot run."""
    from pysciml.engines.julia import JuliaEngine

    reason = JuliaEngine().unavailable()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def jax_gpu() -> None:
    """Skips where JAX finds no NVIDIA GPU."""
    from pysciml.engines.jax.compiling import find_device
    from pysciml.errors import EngineUnavailableError

    try:
        find_device("cuda")
    except EngineUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def sensitivity(julia_engine: None) -> None:
    """Julia with SciMLSensitivity.jl; skips where that is not installed."""
    from pysciml.engines.julia import environment

    if missing := environment.lacks("SciMLSensitivity", "sensitivity"):
        pytest.skip(missing)


@pytest.fixture
def modelingtoolkit(julia_engine: None) -> None:
    """Julia with ModelingToolkit.jl; skips where that is not installed."""
    from pysciml.engines.julia import environment

    if missing := environment.lacks("ModelingToolkit", "modelingtoolkit"):
        pytest.skip(missing)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if JULIA_WANTED:
        return
    skip = pytest.mark.skip(reason="needs Julia: run `make test-julia`")
    for item in items:
        if "julia" in item.keywords:
            item.add_marker(skip)
