"""Where Julia and its packages are: found by looking at files, never by starting anything.

Two ways lead to an environment. `pysciml julia setup` makes one in the folder `home` and writes down
in a marker file how to start it. Or the user names one, in the variables that juliacall reads
(``PYTHON_JULIACALL_EXE`` and ``PYTHON_JULIACALL_PROJECT``) or juliapkg (``PYTHON_JULIAPKG_EXE`` and
``PYTHON_JULIAPKG_PROJECT``); it must have the Julia package PySciML.

No ``juliapkg.json`` is shipped on purpose: juliapkg reads those of all installed packages, so with
one every ``import juliacall`` of any program would install Julia and our packages.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pysciml

SETUP: Final = "pysciml julia setup"
MARKER: Final = "pysciml-julia.json"


@dataclass(frozen=True)
class Environment:
    """A Julia environment that can be started.

    Attributes
    ----------
    executable : str
    project : str
        The folder with its ``Project.toml`` and ``Manifest.toml``.
    julia : str
        Julia's version, as far as it is known without starting it.
    """

    executable: str
    project: str
    julia: str = ""


def package_folder() -> Path:
    """The Julia package ``PySciML``: beside the Python package in a checkout, inside it in a wheel."""
    here = Path(pysciml.__file__).resolve().parent
    checkout = here.parent / "julia"
    return checkout if (checkout / "Project.toml").is_file() else here / "julia_package"


def fingerprint() -> str:
    """Changes when the Julia package needs other packages than before, or the setup installs others beside it."""
    folder = package_folder()
    digest = hashlib.blake2b(digest_size=8)
    for name in ("Project.toml", "packages.jl", "setup.jl"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def offline() -> bool:
    """Whether the user wants nothing to be downloaded; juliapkg's variable and its words."""
    return os.environ.get("PYTHON_JULIAPKG_OFFLINE", "").lower() in ("yes", "true", "1")


def variables() -> dict[str, str]:
    """What Julia's package manager is run with: no Python from conda, and no network where `offline`."""
    changed = {"JULIA_PKG_OFFLINE": "true"} if offline() else {}
    return {"JULIA_CONDAPKG_BACKEND": "Null", "JULIA_PYTHONCALL_EXE": sys.executable} | os.environ | changed


def home() -> Path:
    """The folder of the environment that `pysciml julia setup` makes (``$PYSCIML_JULIA_HOME``)."""
    return Path(os.environ.get("PYSCIML_JULIA_HOME") or f"{sys.prefix}/share/pysciml/julia")


def lacking(project: str, packages: tuple[str, ...]) -> list[str]:
    """Those of some packages that a project does not have."""
    manifests = [path.read_text(encoding="utf-8") for path in sorted(Path(project).glob("Manifest*.toml"))]
    return [name for name in packages if not any(f"[[deps.{name}]]" in text for text in manifests)]


def lacks(package: str, option: str) -> str:
    """A sentence that the environment has no such package, and how to add it; empty where it has.

    Parameters
    ----------
    option : str
        Of `pysciml julia setup`, which installs the package.
    """
    found = find()
    if isinstance(found, str):
        return found
    if not lacking(found.project, (package,)):
        return ""
    command = f"{SETUP} --{option}"
    if named("EXE")[1] and named("PROJECT")[1]:
        command = f"{found.executable} --project={found.project} -e 'using Pkg; Pkg.add(\"{package}\")'"
    return f"the Julia package {package} is not installed: run `{command}`"


_NAMES: Final = (
    "PYSCIML_JULIA_HOME",
    *(f"PYTHON_{owner}_{what}" for owner in ("JULIACALL", "JULIAPKG") for what in ("EXE", "PROJECT")),
)


def named_by() -> tuple[str | None, ...]:
    """The variables that decide what is found."""
    return tuple(map(os.environ.get, _NAMES))


def find() -> Environment | str:
    """The environment to start, or one sentence that says what is missing and what mends it."""
    if not _has_juliacall():
        return "juliacall is not installed: python -m pip install juliacall"
    executable, project = named("EXE"), named("PROJECT")
    if executable[1] and project[1]:
        return _given(executable, project)
    return _set_up()


_FOUND: Final[set[str]] = set()


def _has_juliacall() -> bool:
    """Whether juliacall is installed; looked for until found, since every automatic choice of engine asks."""
    if "juliacall" in _FOUND:
        return True
    if "juliacall" in sys.modules or importlib.util.find_spec("juliacall") is not None:
        _FOUND.add("juliacall")
        return True
    return False


def named(what: str) -> tuple[str, str]:
    """The variable in which the user names Julia (``"EXE"``) or a project, and its value, maybe empty."""
    for variable in (f"PYTHON_JULIACALL_{what}", f"PYTHON_JULIAPKG_{what}"):
        if value := os.environ.get(variable, ""):
            return variable, value
    return "", ""


def _given(named_executable: tuple[str, str], named_project: tuple[str, str]) -> Environment | str:
    (variable, executable), (project_variable, project) = named_executable, named_project
    if shutil.which(executable) is None:
        return f"{variable} names {executable}, which cannot be run: correct or unset it"
    if lacking(project, ("PySciML",)):
        return (
            f"the Julia project {project} ({project_variable}) has no package PySciML: add the folder "
            f"{package_folder()} to it with Julia's Pkg.develop, or unset the variable and run `{SETUP}`"
        )
    return Environment(executable, project)


def _set_up() -> Environment | str:
    folder = home()
    path = folder / MARKER
    try:
        marker: Any = json.loads(path.read_text(encoding="utf-8"))
        found = Environment(str(marker["executable"]), str(marker["project"]), str(marker["julia"]))
        made_for = str(marker["fingerprint"])
    except FileNotFoundError:
        if folder.is_dir():
            return f"the setup of Julia was not finished: run `{SETUP}` again, it goes on where it stopped"
        return f"Julia is not set up: run `{SETUP}`"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path} cannot be read: run `{SETUP}` again"
    if shutil.which(found.executable) is None:
        return f"Julia is not at {found.executable} any more: run `{SETUP}` again"
    if not (Path(found.project) / "Project.toml").is_file():
        return f"the Julia environment {found.project} is gone: run `{SETUP}` again"
    if made_for != fingerprint():
        return f"pysciml was updated and needs other Julia packages: run `{SETUP}` again"
    return found
