"""Compiling ahead of time: double precision by a context, and a cache that outlives the process."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import jax

#: How many compiled functions are kept in the process.
_KEPT: Final = 256

_compiled: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()
_lock = threading.RLock()


def double_precision() -> Any:
    """A context in which JAX computes in float64; the process's own setting is untouched."""
    return jax.enable_x64(True)


def compiled(key: Hashable, make: Callable[[], Callable[..., Any]], *args: Any) -> tuple[Callable[..., Any], float]:
    """The compiled function of that key, and the seconds it took to compile now (0 if it was there).

    Parameters
    ----------
    key : hashable
        Stands for everything ``make`` depends on, and for the shapes of the arguments.
    make : callable
        Returns the function to compile.
    *args : arrays
        Of the shapes and types it will be called with, inside `double_precision`.
    """
    with _lock:
        found = _compiled.get(key)
        if found is not None:
            _compiled.move_to_end(key)
            return found, 0.0
        begin = time.perf_counter()
        with double_precision():
            lowered = jax.jit(make()).lower(*args)
            with _persistent_cache():
                found = lowered.compile()
        _compiled[key] = found
        while len(_compiled) > _KEPT:
            _compiled.popitem(last=False)
        return found, time.perf_counter() - begin


@contextmanager
def _persistent_cache() -> Generator[None]:
    """JAX's compilation cache in the user's cache folder, for this compilation alone.

    A cache the user has set up is used as it is. ``PYSCIML_CACHE_DIR=""`` turns it off.
    """
    folder = cache_folder()
    if jax.config.jax_compilation_cache_dir is not None or folder is None:  # pyright: ignore[reportAttributeAccessIssue]
        yield
        return
    from jax.experimental.compilation_cache import compilation_cache

    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    try:
        for name, value in zip(names, (str(folder), 0.1, 0), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def cache_folder() -> Path | None:
    """Where compiled code is kept: ``$PYSCIML_CACHE_DIR``, else the platform's cache folder."""
    chosen = os.environ.get("PYSCIML_CACHE_DIR")
    if chosen is not None:
        return Path(chosen) / "jax" if chosen else None
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "pysciml" / "jax"
