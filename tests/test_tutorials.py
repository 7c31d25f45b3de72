"""Every tutorial runs from top to bottom in a fresh kernel, and is kept with its pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def test_there_are_tutorials() -> None:
    numbers = [int(path.name[:2]) for path in NOTEBOOKS]
    assert len(numbers) >= 3
    assert numbers == sorted(set(numbers))


#: Those whose engine is not installed with the package run where the tests of that engine do.
RUN = [pytest.param(path, marks=pytest.mark.julia if "julia" in path.stem else ()) for path in NOTEBOOKS]


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN, ids=[path.stem for path in NOTEBOOKS])
@pytest.mark.filterwarnings("default")  # of the kernel's own libraries
def test_it_runs_in_a_fresh_kernel(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel chooses the one that puts pictures into the notebook
    notebook = read(path)
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.output_type == "error"] == []
    # a warning would be the reader's first question
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    kept = sum("image/png" in output.get("data", {}) for cell in read(path).cells for output in cell.get("outputs", []))
    assert sum("image/png" in output.get("data", {}) for output in outputs) == kept


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_executed_in_order_and_small(path: Path) -> None:
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert path.stat().st_size < 300_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_names_nobody_s_machine(path: Path) -> None:
    text = json.dumps(read(path))
    assert [word for word in ("/home/", "/root/", "/Users/", "\\\\Users") if word in text] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert [link for link in links if "://" not in link and not (FOLDER / link).exists()] == []
