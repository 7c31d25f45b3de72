"""The manifest of a store: the file that says what the arrays beside it hold, a sweep or a single solution."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from pysciml.ensemble import arrays
from pysciml.ensemble.target import Target
from pysciml.errors import ProblemError

MANIFEST: Final = f"{arrays.BOOKS}/manifest.json"

_Made = TypeVar("_Made")


def read_manifest(
    target: Target, what: str, kind: str, other: Callable[[Any], str], make: Callable[[dict[str, Any]], _Made]
) -> _Made | None:
    """Read that of a store; None where there is nothing.

    Parameters
    ----------
    target : Target
    what : str
        What the store should be, with its article.
    kind : str
        The format that can be read.
    other : callable
        What is said of a store with another format.
    make : callable
        Makes of the content, without its format, what is returned.

    Raises
    ------
    ProblemError
        If there is something else, or a manifest that cannot be read.
    """
    text = target.read(MANIFEST)
    if text is None:
        if target.occupied():
            raise ProblemError(
                f"store: {target} exists and is not {what} of pysciml; nothing is ever overwritten: "
                "name another place, or remove it yourself",
                symbol="store",
            )
        return None
    try:
        content: dict[str, Any] = json.loads(text)
        found = content["format"]
        if found != kind:
            raise ProblemError(f"store: {target} {other(found)}", symbol="store")
        return make({name: value for name, value in content.items() if name != "format"})
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ProblemError(f"store: the manifest of {target} cannot be read: {error!r}", symbol="store") from error


def manifest_text(kind: str, content: Mapping[str, Any]) -> bytes:
    """A manifest as it is written."""
    return json.dumps({"format": kind, **content}).encode()
