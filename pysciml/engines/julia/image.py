"""A system image: Julia with the packages of the engine already loaded, for a faster start.

`pysciml julia setup --sysimage` makes one with PackageCompiler.jl and writes down, beside it, which
packages it was made of. Packages in an image are used as they were then, whatever the files say now: so
an image is taken only where a digest of the environment and of the Julia package is still the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from pysciml.engines.julia import environment
from pysciml.engines.julia.environment import SETUP, Environment
from pysciml.errors import EngineUnavailableError

COMMAND: Final = f"{SETUP} --sysimage"
RECORD: Final = "sysimage.json"
_NAME: Final = {"darwin": "sysimage.dylib", "win32": "sysimage.dll"}.get(sys.platform, "sysimage.so")


def digest(found: Environment) -> str:
    """What an image depends on: Julia's version, those of all packages, and the text of PySciML's own."""
    summary = hashlib.blake2b(found.julia.encode(), digest_size=16)
    package = environment.package_folder()
    files = [
        *sorted(Path(found.project).glob("Manifest*.toml")),
        package / "Project.toml",
        *sorted(path for folder in ("src", "ext") for path in (package / folder).rglob("*.jl")),
    ]
    for path in files:
        summary.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return summary.hexdigest()


def find(found: Environment) -> str:
    """The image to start the environment with, or an empty text where none was made of what is there now."""
    folder = environment.home()
    if Path(found.project).parent != folder:
        return ""  # an environment of the user's own
    try:
        record: Any = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        same = record["digest"] == digest(found)
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    path = folder / _NAME
    return str(path) if same and path.is_file() else ""


def state(found: Environment) -> str:
    """One line about the image for `pysciml julia status`."""
    path = find(found)
    if path:
        return path
    if Path(found.project).parent == environment.home() and (environment.home() / RECORD).is_file():
        return f"of other packages, not used: run `{COMMAND}` again"
    return ""


def check() -> None:
    """Refuse, before minutes of compiling, where nothing links an image.

    Raises
    ------
    EngineUnavailableError
    """
    if sys.platform == "win32" or os.environ.get("JULIA_CC"):
        return  # PackageCompiler.jl brings one there; or the user names one
    if not any(map(shutil.which, ("gcc", "clang"))):
        raise EngineUnavailableError(
            f"a system image is linked by a C compiler, and there is neither gcc nor clang: install one, or name one "
            f"in JULIA_CC, or run `{SETUP}` without --sysimage",
            engine="julia",
        )


def make(found: Environment) -> None:
    """Make the image of an environment; the one before stays until the new one is complete.

    Raises
    ------
    EngineUnavailableError
        If it cannot be made. The environment works without.
    """
    folder = environment.home()
    mark = digest(found)
    partial = folder / f"partial-{_NAME}"
    command = [
        found.executable,
        "--startup-file=no",
        f"--project={folder / 'sysimage-tools'}",
        str(environment.package_folder() / "sysimage.jl"),
        found.project,
        str(partial),
    ]
    variables = dict(os.environ)
    variables.setdefault("JULIA_CONDAPKG_BACKEND", "Null")
    code = subprocess.run(command, env=variables, check=False).returncode
    if code != 0 or not partial.is_file():
        raise EngineUnavailableError(
            f"the system image could not be made (exit code {code}, Julia's message is above): the engine works "
            f"without; run `{COMMAND}` to try again",
            engine="julia",
        )
    (folder / RECORD).unlink(missing_ok=True)  # so that no record speaks of another image
    partial.replace(folder / _NAME)
    note = folder / f"{RECORD}.partial"
    note.write_text(json.dumps({"digest": mark, "julia": found.julia}, indent=2) + "\n", encoding="utf-8")
    note.replace(folder / RECORD)
