"""What is said of a place that holds something else than what is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pysciml.ensemble import store as sweeps
from pysciml.ensemble.target import read_target
from pysciml.errors import ProblemError
from pysciml.streaming import Manifest as Solution

OPENED = {"a sweep": sweeps.Manifest, "a solution": Solution}


@pytest.mark.parametrize("what", OPENED)
@pytest.mark.parametrize("text", ["5", "[]", "null", "{", '"text"', "{}", '{"format": "KIND"}'])
def test_a_manifest_that_cannot_be_read(what: str, text: str, tmp_path: Path) -> None:
    text = text.replace("KIND", "pysciml-sweep-1" if what == "a sweep" else "pysciml-solution-1")
    (tmp_path / "pysciml").mkdir()
    (tmp_path / "pysciml" / "manifest.json").write_text(text)
    with pytest.raises(ProblemError, match=r"store: the manifest of .* cannot be read"):
        OPENED[what].read(read_target(tmp_path))


@pytest.mark.parametrize("what", OPENED)
def test_another_store_and_other_files(what: str, tmp_path: Path) -> None:
    assert OPENED[what].read(read_target(tmp_path)) is None
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ProblemError, match=f"exists and is not {what} of pysciml; nothing is ever overwritten"):
        OPENED[what].read(read_target(tmp_path))
    other = "pysciml-solution-1" if what == "a sweep" else "pysciml-sweep-1"
    (tmp_path / "pysciml").mkdir()
    (tmp_path / "pysciml" / "manifest.json").write_text(json.dumps({"format": other}))
    said = "has the format 'pysciml-solution-1'" if what == "a sweep" else "something else than a single solution"
    with pytest.raises(ProblemError, match=said):
        OPENED[what].read(read_target(tmp_path))
