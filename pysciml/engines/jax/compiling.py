"""Compiling ahead of time: precision and device by a context, and a cache that outlives the process."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import jax

from pysciml.errors import EngineUnavailableError

#: How many compiled functions are kept in the process.
_KEPT: Final = 256

_compiled: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()
_lock = threading.RLock()


def double_precision() -> Any:
    """A context in which JAX computes in float64; the process's own setting is untouched."""
    return arithmetic("float64", "cpu")


def arithmetic(precision: str, device: str) -> Any:
    """A context in which JAX computes in that precision on that device."""
    width = jax.enable_x64(precision == "float64")
    if device == "cpu" and _default_device() == "cpu":
        return width
    both = ExitStack()
    both.enter_context(width)
    both.enter_context(jax.default_device(find_device(device)))
    return both


@cache
def _default_device() -> str:
    return jax.default_backend()


@cache
def find_device(name: str) -> Any:
    """The first device of that name.

    Raises
    ------
    EngineUnavailableError
        If JAX finds none.
    """
    try:
        return jax.devices(name)[0]
    except RuntimeError as error:
        found = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise EngineUnavailableError(
            f"device={name!r}: JAX finds no such device, only {found}. With an NVIDIA GPU and its driver, run "
            '`pip install "pysciml[cuda]"`',
            engine="jax",
        ) from error


def compiled(
    key: Hashable,
    make: Callable[[], Callable[..., Any]],
    *args: Any,
    precision: str = "float64",
    device: str = "cpu",
) -> tuple[Callable[..., Any], float]:
    """The compiled function of that key, and the seconds it took to compile now (0 if it was there).

    Parameters
    ----------
    key : hashable
        Stands for everything ``make`` depends on, and for the shapes of the arguments.
    make : callable
        Returns the function to compile.
    *args : arrays
        Of the shapes and types it will be called with, inside `arithmetic` of these two:
    precision, device : str
    """
    key = (key, precision, device)
    with _lock:
        found = _compiled.get(key)
        if found is not None:
            _compiled.move_to_end(key)
            return found, 0.0
        begin = time.perf_counter()
        with arithmetic(precision, device):
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
