"""`pysciml julia setup`: Julia and its packages in a folder of their own.

Julia itself comes from (in this order) ``PYTHON_JULIACALL_EXE``, ``PYTHON_JULIAPKG_EXE``, an earlier
setup, juliaup, the ``PATH``, or is installed by juliapkg (unless ``PYTHON_JULIAPKG_OFFLINE=yes``). The
packages go into the environment `pysciml.engines.julia.environment.home`; Julia shares what it compiles
between environments.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from pysciml.engines.julia import environment
from pysciml.engines.julia import sysimage as images
from pysciml.engines.julia.environment import MARKER, SETUP, Environment
from pysciml.engines.julia.running import call
from pysciml.errors import EngineUnavailableError
from pysciml.files import writing

#: Versions of Julia that the package supports, in juliapkg's notation.
_JULIA: Final = "1.10.3 - 1"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Status:
    """What `pysciml julia status` shows.

    Attributes
    ----------
    ready : bool
    missing : str
        What is missing and the command that mends it; empty when ready.
    executable, project, julia : str
        As far as they are known.
    package : str
        The folder of the Julia package PySciML.
    sysimage : str
        The system image with its size, or why it is not used; empty where none was made.
    """

    ready: bool
    missing: str
    executable: str
    project: str
    julia: str
    package: str
    sysimage: str = ""


def status() -> Status:
    """Look at the Julia environment without starting anything."""
    found = environment.find()
    package = str(environment.package_folder())
    if isinstance(found, str):
        return Status(False, found, "", str(environment.home()), "", package)
    image = images.look(found)
    said = image if isinstance(image, str) else f"{image.path} ({image.bytes / 2**20:.0f} MiB)"
    return Status(True, "", found.executable, found.project, found.julia, package, said)


def setup(
    cuda: bool = False,
    sysimage: bool = False,
    progress: Progress = print,
    *,
    sensitivity: bool = False,
    modelingtoolkit: bool = False,
) -> Environment:
    """Install Julia where there is none, and the packages of the engine; compile them.

    It can be interrupted and repeated: what is there already is not done again. The output of
    Julia's package manager goes to standard error. On two cores compiling takes some 20 minutes.

    Parameters
    ----------
    cuda : bool
        Also what an NVIDIA GPU needs: CUDA.jl, and DiffEqGPU.jl for ensembles.
    sysimage : bool
        Also a system image, with which a new process solves sooner (`pysciml.engines.julia.sysimage`). Packages for
        GPUs, adjoints and index reduction stay outside. It needs a C compiler.
    progress : callable
        Called with one line for every step.
    sensitivity : bool
        Also SciMLSensitivity.jl, for the adjoints of `pysciml.fit`.
    modelingtoolkit : bool
        Also ModelingToolkit.jl, for `pysciml.reduce_index`.

    Returns
    -------
    Environment

    Raises
    ------
    EngineUnavailableError
        With what went wrong and what to do.
    """
    if sysimage:
        images.check()
    package = environment.package_folder()
    if not (package / "src" / "PySciML.jl").is_file():
        raise EngineUnavailableError(
            f"this copy of pysciml has no Julia package in {package}: install pysciml again", engine="julia"
        )
    folder = environment.home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineUnavailableError(
            f"the folder {folder} cannot be written ({error}): name another one in PYSCIML_JULIA_HOME", engine="julia"
        ) from error
    executable, version = _find_julia(folder, progress)
    progress(f"Julia {version} at {executable}")
    project = folder / "environment"
    project.mkdir(exist_ok=True)
    progress(f"installing and compiling packages into {project}")
    asked = {"cuda": cuda, "sensitivity": sensitivity, "modelingtoolkit": modelingtoolkit}
    more = [name for name, wanted in asked.items() if wanted]
    with _unmarked(folder / MARKER, project):
        _run(executable, project, package, more)
    found = Environment(executable, str(project), version)
    _write_marker(folder / MARKER, found)
    if sysimage:
        images.make(found, progress)
    elif isinstance(unused := images.look(found), str) and unused:
        progress(unused)
    progress("done: ps.solve(problem) now uses Julia")
    return found


def _find_julia(folder: Path, progress: Progress) -> tuple[str, str]:
    from juliapkg import find_julia
    from juliapkg.compat import Compat

    variable, given = environment.named("EXE")
    compat: Any = Compat.parse(_JULIA)
    try:
        if given:
            version = find_julia.julia_version(given)
            if version is None:
                raise EngineUnavailableError(f"{variable}={given} is no Julia", engine="julia")
            return given, str(version)
        progress("looking for Julia")
        executable, version = _look_or_install(folder, compat)
    except EngineUnavailableError:
        raise
    except Exception as error:  # juliapkg raises plain exceptions, also where there is no network
        reason = " ".join(str(error).split())
        if "SHA-256" in reason:
            reason = "the download is incomplete or not what was expected"
        what, mend = f"installed ({reason})", "check the network"
        if environment.offline():
            what, mend = "found, and PYTHON_JULIAPKG_OFFLINE forbids installing it", "unset that variable"
        raise EngineUnavailableError(
            f"Julia could not be {what}: {mend}, or install Julia 1.10 or newer yourself (julialang.org), and run "
            f"`{SETUP}` again",
            engine="julia",
        ) from error
    return str(executable), str(version)


def _look_or_install(folder: Path, compat: Any) -> tuple[Any, Any]:
    """Julia in the folder, of juliaup or on the PATH, else installed: it is whole in the folder or not there.

    juliapkg copies an installation file by file, and half of one tells its version as a whole one does.
    """
    from juliapkg import find_julia

    place, partial = folder / "julia", folder / "julia-partial"
    shutil.rmtree(partial, ignore_errors=True)
    with contextlib.suppress(Exception):  # juliapkg's way to say that there is none
        return find_julia.find_julia(compat=compat, prefix=str(place))
    executable, version = find_julia.find_julia(compat=compat, prefix=str(partial), install=not environment.offline())
    if partial not in Path(executable).parents:
        return executable, version
    shutil.rmtree(place, ignore_errors=True)
    partial.replace(place)
    return place / Path(executable).relative_to(partial), version


def _run(executable: str, project: Path, package: Path, more: list[str]) -> None:
    command = [
        executable,
        "--startup-file=no",
        f"--project={project}",
        str(package / "setup.jl"),
        str(package),
        metadata.version("juliacall"),
        *more,
    ]
    again = " ".join([SETUP, *(f"--{name}" for name in more)])
    code = _call(command)
    if code != 0:
        mend = "check the network, and"
        if environment.offline():
            mend = "PYTHON_JULIAPKG_OFFLINE forbids downloading what is missing: unset it, and"
        raise EngineUnavailableError(
            f"Julia's package manager failed (exit code {code}, its message is above): {mend} run `{again}` again, "
            "it goes on where it stopped",
            engine="julia",
        )


@contextlib.contextmanager
def _unmarked(marker: Path, project: Path) -> Generator[None]:
    """Without a marker while packages may be changing; where that fails before it changed any, all is as before."""
    said, before = marker.read_text(encoding="utf-8") if marker.is_file() else "", _versions(project)
    marker.unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        if said and _versions(project) == before:
            with writing(marker) as path:
                path.write_text(said, encoding="utf-8")
        raise


def _versions(project: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(project.glob("*.toml"))]


def _call(command: list[str]) -> int:
    return call(command, environment.variables())


def _write_marker(path: Path, found: Environment) -> None:
    text = json.dumps(
        {
            "executable": found.executable,
            "project": found.project,
            "julia": found.julia,
            "fingerprint": environment.fingerprint(),
        },
        indent=2,
    )
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
