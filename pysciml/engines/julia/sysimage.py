"""The system image of `pysciml julia setup --sysimage`: Julia with the engine's packages loaded already.

An image holds the code of the packages, PySciML's too, as it was when the image was made, and Julia does not look
whether it still is. So the image lies beside a record of what it was made for: the sources of the Julia package, the
environment (its manifest and preferences), the Julia, the processor, the depot. Where these are no longer the same, the
image is not used. All of this is found by looking at files; an image that cannot be loaded would end the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from pysciml.engines.julia import environment
from pysciml.engines.julia.environment import SETUP, Environment
from pysciml.engines.julia.running import call
from pysciml.errors import EngineUnavailableError
from pysciml.files import writing

RECORD: Final = "sysimage.json"
COMMAND: Final = f"{SETUP} --sysimage"

#: juliacall starts images with PythonCall in them since then.
_JULIACALL: Final = (0, 9, 35)

#: What solves with an image before it is used, and shows Julia beforehand what to compile into it.
_TRIAL: Final = (sys.executable, "-m", "pysciml.engines.julia.trial")


@dataclass(frozen=True)
class Image:
    """A system image, and the Julia that it belongs to.

    Attributes
    ----------
    path : str
    bytes : int
        The size of the file.
    libjulia, bindir : str
        Julia's library and the folder of its executable. Naming both saves juliacall a start of Julia to ask for them.
    executable, project : str
        The environment it was made for.
    made_for : str
        The state of that, see `fingerprint`.
    """

    path: str
    bytes: int
    libjulia: str
    bindir: str
    executable: str
    project: str
    made_for: str

    @property
    def settings(self) -> dict[str, str]:
        """The variables by which juliacall starts it."""
        return {
            "PYTHON_JULIACALL_SYSIMAGE": self.path,
            "PYTHON_JULIACALL_LIB": self.libjulia,
            "PYTHON_JULIACALL_BINDIR": self.bindir,
        }


def fingerprint(project: str, libjulia: str) -> str:
    """Changes when an image made before would not be the same any more, or could not be loaded.

    Raises
    ------
    OSError
        If Julia's library or a source cannot be read.
    """
    package = environment.package_folder()
    sources = [
        package / "Project.toml",
        package / "exercise.jl",
        *(path for part in ("src", "ext") for path in (package / part).rglob("*.jl")),
    ]
    digest = hashlib.blake2b(digest_size=8)
    for path in (*sorted(sources), *sorted(Path(project).glob("*.toml"))):
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    library = Path(libjulia).stat()
    for text in (
        f"{libjulia} {library.st_size} {library.st_mtime_ns}",
        metadata.version("juliacall"),
        _processor(),
        os.environ.get("JULIA_DEPOT_PATH", ""),
    ):
        digest.update(f"{len(text)} {text}".encode())
    return digest.hexdigest()


def _processor() -> str:
    """The model of the processor: an image is compiled for the one it is made on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "CPU part"))}))


def look(found: Environment) -> Image | str:
    """The image with which an environment starts, or a sentence on one that cannot be used; empty where none is."""
    folder = environment.home()
    try:
        record: Any = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        image = Image(**record)
        if not (_same(image.executable, found.executable) and _same(image.project, found.project)):
            return ""
        if Path(image.path).stat().st_size != image.bytes:
            return f"the system image {image.path} is not whole, and not used: run `{COMMAND}`"
        fits = fingerprint(image.project, image.libjulia) == image.made_for
    except FileNotFoundError as error:
        if error.filename == str(folder / RECORD):
            return ""
        return f"{error.filename} is gone, and the system image not used: run `{COMMAND}`"
    except (OSError, ValueError, TypeError):
        return f"{folder / RECORD} cannot be read, and the system image is not used: run `{COMMAND}`"
    if not fits:
        return f"the system image is of another state of pysciml, Julia or its packages, and not used: run `{COMMAND}`"
    return image


def _same(one: str, other: str) -> bool:
    return one == other or os.path.realpath(shutil.which(one) or one) == os.path.realpath(shutil.which(other) or other)


def settings(found: Environment) -> dict[str, str]:
    """The variables by which juliacall starts an environment with its image; none where it starts without.

    It does where there is none that fits, and where the user has named an image, another Julia or another project.
    """
    ours = {"PYTHON_JULIACALL_EXE": found.executable, "PYTHON_JULIACALL_PROJECT": found.project}
    if any(not _same(os.environ.get(name) or value, value) for name, value in ours.items()):
        return {}
    image = look(found)
    if isinstance(image, str) or any(name in os.environ for name in image.settings):
        return {}
    return image.settings


def state() -> str:
    """One sentence on an image that is there and not used, and the command that mends it; else empty."""
    found = environment.find()
    seen = "" if isinstance(found, str) else look(found)
    return seen if isinstance(seen, str) else ""


def check() -> None:
    """What can be known to be missing for making an image.

    Raises
    ------
    EngineUnavailableError
        Where there is no C compiler, or juliacall is too old.
    """
    version = metadata.version("juliacall")
    if tuple(int(part) for part in version.split(".")[:3]) < _JULIACALL:
        least = ".".join(map(str, _JULIACALL))
        raise EngineUnavailableError(
            f"a system image needs juliacall {least} or newer, and this is {version}: python -m pip install --upgrade "
            f"juliacall, then run `{COMMAND}` again",
            engine="julia",
        )
    # PackageCompiler brings a compiler of its own on Windows.
    if sys.platform != "win32" and not os.environ.get("JULIA_CC") and not any(map(shutil.which, ("gcc", "clang"))):
        raise EngineUnavailableError(
            "a system image needs a C compiler: install gcc or clang (`apt install gcc`, `xcode-select --install`) or "
            f"name one in JULIA_CC, and run `{COMMAND}` again; without --sysimage no compiler is needed",
            engine="julia",
        )


def make(found: Environment, progress: Callable[[str], None]) -> Image:
    """Make an image for an environment, unless it has one that fits.

    It is tried before it is used, and is whole or not there.

    Parameters
    ----------
    found : Environment
        With all its packages.
    progress : callable
        Called with one line for every step.

    Raises
    ------
    EngineUnavailableError
        With what went wrong; the environment is as good as before.
    """
    image = look(found)
    if isinstance(image, Image):
        progress(f"the system image {image.path} fits")
        return image
    folder = environment.home()
    ending = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    partial = folder / f"sysimage-partial{ending}"
    libjulia, bindir = _library(found.executable)
    made_for = fingerprint(found.project, libjulia)
    path = folder / f"sysimage-{made_for}{ending}"
    statements = folder / "sysimage-statements.jl"
    try:
        progress("solving small problems, for what to compile")
        _solve(found, {"PYTHON_JULIACALL_TRACE_COMPILE": str(statements)}, f"run `{SETUP}` again")
        progress("making a system image: some half an hour on two cores, and 8 GiB of memory")
        _create(found, folder / "compiler", statements, partial)
        made = Image(str(partial), partial.stat().st_size, libjulia, bindir, found.executable, found.project, made_for)
        progress("trying it")
        _try(made)
        partial.replace(path)
    finally:
        for left in (partial, statements):
            left.unlink(missing_ok=True)
    image = replace(made, path=str(path))
    with writing(folder / RECORD) as record:
        record.write_text(json.dumps(asdict(image), indent=2) + "\n", encoding="utf-8")
    for older in folder.glob(f"sysimage-*{ending}"):
        if older != path:
            with contextlib.suppress(OSError):  # Windows keeps what another process has loaded
                older.unlink()
    return image


def _library(executable: str) -> tuple[str, str]:
    """Julia's library and the folder of its executable, whatever starts it under that name."""
    code = 'using Libdl; print(abspath(dlpath("libjulia")), "\\0", Sys.BINDIR)'
    command = [executable, "--startup-file=no", "-O0", "--compile=min", "-e", code]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise EngineUnavailableError(f"Julia at {executable} does not run: {run.stderr[-500:]}", engine="julia")
    libjulia, bindir = run.stdout.split("\0")
    return libjulia, bindir


def _create(found: Environment, compiler: Path, statements: Path, path: Path) -> None:
    compiler.mkdir(exist_ok=True)
    script = environment.package_folder() / "sysimage.jl"
    command = [found.executable, "--startup-file=no", f"--project={compiler}", str(script)]
    beside, work = Path(found.project).parent, compiler / "work"
    before = set(beside.glob("packages_*"))
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        code = call(
            [*command, found.project, str(statements), str(path)],
            environment.variables() | dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(work)),
        )
    finally:  # what a Julia that was killed did not take away
        for left in (work, *set(beside.glob("packages_*")) - before):
            shutil.rmtree(left, ignore_errors=True)
    if code != 0:
        raise EngineUnavailableError(
            f"the system image could not be made (exit code {code}, the message is above; too little memory or disk "
            f"can be the cause): Julia is ready without it, and `{COMMAND}` tries again",
            engine="julia",
        )


def _try(image: Image) -> None:
    """Solve with an image, and compile with it the packages that are not in it: those compiled without do not fit."""
    _solve(
        Environment(image.executable, image.project, ""),
        image.settings,
        "the system image is not used: Julia is ready without it",
    )
    alone = [image.executable, f"--sysimage={image.path}", "--startup-file=no", f"--project={image.project}"]
    _run([*alone, "-e", "using Pkg; Pkg.precompile()"], environment.variables(), "the system image is not used")


def _solve(found: Environment, settings: dict[str, str], otherwise: str) -> None:
    named = {"PYTHON_JULIACALL_EXE": found.executable, "PYTHON_JULIACALL_PROJECT": found.project}
    _run(list(_TRIAL), os.environ | named | settings, otherwise)


def _run(command: list[str], variables: dict[str, str], otherwise: str) -> None:
    run = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        words = " ".join((run.stderr or run.stdout).split())
        raise EngineUnavailableError(
            f"Julia does not work (exit code {run.returncode}), and {otherwise}. {words[-1000:]}", engine="julia"
        )
