"""Where and how the blocks of a sweep are solved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Where:
    """The options about where and how blocks are solved.

    Attributes
    ----------
    executor, store, chunks
        As the user gave them.
    block_seconds : float
    block_size : int or None
    retries : int
    """

    executor: Any
    store: Any
    chunks: Any
    block_seconds: float
    block_size: int | None
    retries: int
