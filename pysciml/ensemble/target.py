"""Where a store lies: a local folder or any file system that fsspec knows. Files are written whole or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pysciml.errors import EngineUnavailableError, ProblemError

#: How zarr and this module call files that are not complete yet.
_PARTIAL = ".partial"


@dataclass(frozen=True)
class LocalTarget:
    """A folder of this machine, or of one that all machines see under the same path.

    Attributes
    ----------
    root : str
        Its absolute path.
    name : str
        What the user calls it.
    """

    root: str
    name: str

    def __str__(self) -> str:
        return self.name

    def zarr(self, *, read_only: bool = False) -> Any:
        """It, as zarr wants it."""
        from zarr.storage import LocalStore

        return LocalStore(self.root, read_only=read_only)

    def read(self, name: str) -> bytes | None:
        """The content of a file, None where there is none."""
        try:
            return Path(self.root, name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file; a reader finds what was there before or all of the new content."""
        path = Path(self.root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_PARTIAL}")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def names(self, folder: str) -> list[str]:
        """The files in a folder."""
        try:
            return sorted(p.name for p in Path(self.root, folder).iterdir() if not p.name.endswith(_PARTIAL))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        Path(self.root, name).unlink(missing_ok=True)

    def occupied(self) -> bool:
        """Whether there is anything."""
        path = Path(self.root)
        return path.is_file() or bool(self.names("."))

    def sweep_up(self) -> None:
        """Remove what killed processes have left half written."""
        for path in Path(self.root).rglob(f"*{_PARTIAL}"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class RemoteTarget:
    """A place in an fsspec file system. Object stores write an object whole or not at all."""

    fs: Any
    root: str

    def __str__(self) -> str:
        return str(self.fs.unstrip_protocol(self.root))

    def zarr(self, *, read_only: bool = False) -> Any:
        """It, as zarr wants it."""
        import fsspec
        from zarr.storage import FsspecStore

        return FsspecStore.from_mapper(fsspec.FSMap(self.root, self.fs), read_only=read_only)

    def _path(self, name: str) -> str:
        return self.root if name == "." else f"{self.root}/{name}"

    def read(self, name: str) -> bytes | None:
        """See `LocalTarget.read`."""
        try:
            return bytes(self.fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """See `LocalTarget.write`."""
        self.fs.pipe_file(self._path(name), content)

    def names(self, folder: str) -> list[str]:
        """See `LocalTarget.names`."""
        self.fs.invalidate_cache()
        try:
            return sorted(str(path).rstrip("/").split("/")[-1] for path in self.fs.ls(self._path(folder), detail=False))
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        """See `LocalTarget.delete`."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(self._path(name))

    def occupied(self) -> bool:
        """See `LocalTarget.occupied`."""
        return bool(self.names("."))

    def sweep_up(self) -> None:
        """Object stores keep nothing that is half written."""


Target = LocalTarget | RemoteTarget


def read_target(store: Any) -> Target:
    """What ``store=`` means: a path, an address such as ``s3://bucket/sweep.zarr``, or an fsspec mapping.

    Raises
    ------
    ProblemError
    EngineUnavailableError
        If zarr or the library behind an address is not installed.
    """
    if find_spec("zarr") is None:
        raise EngineUnavailableError('store= needs zarr: run `pip install "pysciml[dask]"`')
    if isinstance(store, (str, os.PathLike)):
        text = os.fspath(store)
        if isinstance(text, str) and text and "://" not in text:
            return LocalTarget(str(Path(text).expanduser().absolute()), text)
        if isinstance(text, str) and text:
            import fsspec

            try:
                fs, root = fsspec.url_to_fs(text)
            except (ValueError, ImportError) as error:
                raise ProblemError(f"store: {error}", symbol="store") from error
            return _remote(fs, root)
    elif hasattr(store, "fs") and hasattr(store, "root"):
        return _remote(store.fs, str(store.root))
    raise ProblemError(
        "store must be a path, an address that fsspec knows (such as 's3://bucket/sweep.zarr'), or what "
        f"fsspec.get_mapper(...) gives, not {store!r}",
        symbol="store",
    )


def _remote(fs: Any, root: str) -> Target:
    from fsspec.implementations.local import LocalFileSystem

    return LocalTarget(str(Path(root).absolute()), root) if isinstance(fs, LocalFileSystem) else RemoteTarget(fs, root)
