"""The faulty engine, installed for every process."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from pysciml.engines import base
from tests.ensemble.sweeps import Faults, until

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """A folder with the faulty engine as an installed package would have it; gone again for other tests."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copy(HERE / "faulty.py", folder / "faulty_engine.py")
    about = folder / "faulty_engine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-engine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[pysciml.engines]\nfaulty = faulty_engine:FaultyEngine\n")
    sys.path.insert(0, str(folder))
    base.registry.cache_clear()
    yield folder
    sys.path.remove(str(folder))
    base.registry.cache_clear()


@pytest.fixture(scope="module")
def faults_root(tmp_path_factory):
    """The folder through which processes talk; the name is fixed before workers start."""
    folder = tmp_path_factory.mktemp("faults")
    before = os.environ.get("PYSCIML_FAULTS")
    os.environ["PYSCIML_FAULTS"] = str(folder)
    yield folder
    if before is None:
        del os.environ["PYSCIML_FAULTS"]


@pytest.fixture
def faults(faults_root, plugin):
    """That folder, empty; whatever waits goes on afterwards, so that a test that fails disturbs no other."""
    for path in faults_root.iterdir():
        path.unlink()
    found = Faults(faults_root, plugin)
    yield found
    found.go()
    until(lambda: not any(map(alive, found.waiting())), "processes that waited have gone on")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
