"""What a store holds, and whether a call goes on with it."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np

from pysciml._version import __version__
from pysciml.ensemble.target import Target
from pysciml.errors import ProblemError

logger = logging.getLogger("pysciml.ensemble")


def fingerprint(*arrays: Any) -> str:
    """What tells arrays from others."""
    found = hashlib.blake2b(digest_size=8)
    for array in arrays:
        found.update(repr((np.shape(array), str(np.asarray(array).dtype))).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def versions_of(engine: str) -> str:
    """What the numbers were computed with."""
    from pysciml.engines.base import registry

    return (
        f"pysciml {__version__}, {engine} {registry()[engine].version()}, numpy {np.__version__}, "
        f"python {platform.python_version()}"
    )


def compare(
    target: Target, there: Mapping[str, Any], identity: Mapping[str, Any], begun_with: Any, versions: str
) -> None:
    """Refuse to go on with another problem; warn where the versions are others.

    Parameters
    ----------
    target : Target
    there, identity : mapping
        All that the numbers depend on, by name: in the store, and of this call.
    begun_with, versions : str

    Raises
    ------
    ProblemError
        Naming what differs.
    """
    here = json.loads(json.dumps(identity))
    different = [
        f"{name} ({there.get(name)!r} there, {value!r} here)" if isinstance(value, (int, float, str)) else name
        for name, value in here.items()
        if there.get(name) != value
    ]
    if different:
        raise ProblemError(
            f"store: {target} holds another problem: it differs in {', '.join(different)}; "
            "name another place, or make the calls the same",
            symbol="store",
        )
    if begun_with != versions:
        logger.warning(
            "%s was begun with %s, and goes on with %s: last digits may differ", target, begun_with, versions
        )
