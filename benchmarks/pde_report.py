"""What `benchmarks.pde` found, kept: ``results/pde.json``, and ``results/pde.md`` made from it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from benchmarks.machine import machine

RESULTS = Path(__file__).with_name("results")

_HEAD = """# Partial differential equations

Written by `python -m benchmarks.pde --write`. Ratios are of times taken in one run, in turns; compare them, and not the
times with another machine's. A dash: not judged, since what it is compared with is not installed.

| promise | measured | holds |
|---|---|---|
"""


class Judged(Protocol):
    """A promise, what was measured, and whether it holds; None where it cannot be told."""

    @property
    def promise(self) -> str: ...
    @property
    def measured(self) -> str: ...
    @property
    def holds(self) -> bool | None: ...


def versions() -> dict[str, str]:
    """The libraries that were compared, as far as they are installed."""
    found: dict[str, str] = {"Python": platform.python_version()}
    for name in ("pysciml", "numpy", "scipy", "jax", "diffrax", "pydiffsol", "py-pde", "numba", "exponax"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def keep(part: str, verdicts: Sequence[Judged], seconds: float, order: Sequence[str], folder: Path = RESULTS) -> None:
    """Replace what is kept of one part, and write the table again.

    Parameters
    ----------
    part : str
        The name of the measuring function.
    verdicts : sequence of Judged
    seconds : float
        How long measuring took.
    order : sequence of str
        Of the parts in the table; parts that are not among them are dropped.
    folder : path, optional
    """
    file = folder / "pde.json"
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known[part] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "seconds": round(seconds),
        "versions": versions(),
        "promises": [{"promise": v.promise, "measured": v.measured, "holds": v.holds} for v in verdicts],
    }
    known = {name: known[name] for name in order if name in known}
    folder.mkdir(exist_ok=True)
    file.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "pde.md").write_text(table(known), encoding="utf-8")


def table(known: Mapping[str, Any]) -> str:
    """As Markdown: the promises of all parts, and when and where they were measured."""
    marks = {True: "yes", False: "**no**", None: "–"}
    lines = [
        f"| {found['promise']} | {found['measured']} | {marks[found['holds']]} |"
        for part in known.values()
        for found in part["promises"]
    ]
    places: dict[tuple[str, ...], list[str]] = {}
    for name, part in known.items():
        libraries = ", ".join(f"{library} {version}" for library, version in part["versions"].items())
        key = part["date"], part["machine"], f"{part['load']:g}", libraries
        places.setdefault(key, []).append(name)
    notes = [
        f"{', '.join(names)}: {date}, {place}, load average {load} at the end; {libraries}."
        for (date, place, load, libraries), names in places.items()
    ]
    return _HEAD + "\n".join(lines) + "\n\n" + "\n\n".join(notes) + "\n"
