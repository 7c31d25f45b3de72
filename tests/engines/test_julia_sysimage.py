"""The system image of `pysciml julia setup --sysimage`: when it is made and used, and what is said where not."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from pysciml import cli
from pysciml.engines.julia import environment, setup, sysimage
from pysciml.engines.julia.environment import Environment
from pysciml.engines.julia.sysimage import Image
from pysciml.errors import EngineUnavailableError


def mark(home: Path) -> None:
    """Write down that the environment is set up."""
    setup._write_marker(home / environment.MARKER, Environment(sys.executable, str(home / "environment"), "1.10.8"))


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment that was set up, and a user who has named nothing."""
    for name in [name for name in os.environ if name.startswith(("PYTHON_JULIA", "JULIA_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("PYSCIML_JULIA_HOME", str(home))
    project = home / "environment"
    project.mkdir(parents=True)
    (project / "Project.toml").write_text("")
    (project / "Manifest.toml").write_text("[[deps.PySciML]]\n")
    (home / "libjulia.so").write_text("library")
    mark(home)
    return home


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A Julia package that a test may change."""
    folder = tmp_path / "package"
    (folder / "src").mkdir(parents=True)
    for name in ("Project.toml", "exercise.jl", "packages.jl", "setup.jl", "src/PySciML.jl"):
        (folder / name).write_text("one")
    monkeypatch.setattr(environment, "package_folder", lambda: folder)
    mark(environment.home())
    return folder


class Julia:
    """In the place of `subprocess.run`: Julia and the processes that try an image, as they should be or failing."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, library: Path, *, trace: int = 0, create: int = 0, trial: int = 0
    ) -> None:
        self.library, self.trace, self.create, self.trial = library, trace, create, trial
        self.tried: list[dict[str, str]] = []
        self.compiled_with: list[str] = []
        self.created = 0
        monkeypatch.setattr(sysimage.subprocess, "run", self.run)
        monkeypatch.setattr(sysimage, "call", lambda command, variables: self.run(command, variables).returncode)
        monkeypatch.setattr(setup, "_find_julia", lambda folder, progress: (sys.executable, "1.10.8"))
        monkeypatch.setattr(setup, "_call", lambda command: 0)
        monkeypatch.setattr(sysimage.shutil, "which", lambda name: name)

    def run(self, command: list[str], env: dict[str, str] | None = None, **options: object) -> SimpleNamespace:
        code, said = 0, ""
        if str(environment.package_folder() / "sysimage.jl") in command:
            assert Path(command[-2]).read_text() == "precompile(Tuple{})"
            Path(command[-1]).write_text("half" if self.create else "image")
            self.created, code = self.created + 1, self.create
        elif command[1:] == ["-m", "pysciml.engines.julia.trial"]:
            assert env is not None
            if "PYTHON_JULIACALL_SYSIMAGE" in env:
                self.tried.append(env)
                code, said = self.trial, "no such instruction"
            else:
                Path(env["PYTHON_JULIACALL_TRACE_COMPILE"]).write_text("precompile(Tuple{})")
                code, said = self.trace, "no Tsit5"
        elif command[-1].endswith("Pkg.precompile()"):
            self.compiled_with.append(command[1])
        elif "libjulia" in command[-1]:
            return SimpleNamespace(returncode=0, stdout=f"{self.library}\0/bin", stderr="")
        return SimpleNamespace(returncode=code, stdout="", stderr=said)


def found() -> Environment:
    now = environment.find()
    assert not isinstance(now, str)
    return now


def make_image(home: Path) -> Image:
    """An image, and the record of it."""
    path, library, project = home / "sysimage-0.so", home / "libjulia.so", str(home / "environment")
    path.write_text("image")
    made_for = sysimage.fingerprint(project, str(library))
    image = Image(str(path), 5, str(library), "/bin", sys.executable, project, made_for)
    (home / sysimage.RECORD).write_text(json.dumps(asdict(image)))
    return image


def test_without_an_image_nothing_is_said_and_nothing_set() -> None:
    assert sysimage.look(found()) == ""
    assert sysimage.settings(found()) == {}
    assert sysimage.state() == ""


def test_an_image_that_fits_is_used(home: Path) -> None:
    image = make_image(home)
    assert sysimage.look(found()) == image
    assert sysimage.settings(found()) == {
        "PYTHON_JULIACALL_SYSIMAGE": image.path,
        "PYTHON_JULIACALL_LIB": image.libjulia,
        "PYTHON_JULIACALL_BINDIR": "/bin",
    }


@pytest.mark.parametrize("name", ["src/PySciML.jl", "src/new.jl", "Project.toml", "ext/NewExt/part.jl"])
def test_an_image_of_other_sources_is_not_used(home: Path, package: Path, name: str) -> None:
    image = make_image(home)
    assert sysimage.look(found()) == image
    (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / name).write_text("another")
    mark(home)  # as if the setup had been run again
    assert "`pysciml julia setup --sysimage`" in sysimage.state()
    assert sysimage.settings(found()) == {}


@pytest.mark.parametrize("name", ["environment/Manifest.toml", "environment/LocalPreferences.toml", "libjulia.so"])
def test_an_image_of_another_environment_or_julia_is_not_used(home: Path, name: str) -> None:
    make_image(home)
    (home / name).write_text("another version")
    assert "another state of pysciml, Julia or its packages" in sysimage.state()
    assert sysimage.settings(found()) == {}


def test_an_image_is_for_one_processor_and_one_depot(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(home)
    with monkeypatch.context() as other:
        other.setattr(sysimage, "_processor", lambda: "another")
        assert "not used" in sysimage.state()
    with monkeypatch.context() as other:
        other.setenv("JULIA_DEPOT_PATH", "/another")
        assert "not used" in sysimage.state()
    assert sysimage.look(found()) == image


def test_a_damaged_image_is_not_used(home: Path) -> None:
    image = make_image(home)
    Path(image.path).write_text("ima")
    assert "is not whole" in sysimage.state()
    Path(image.path).unlink()
    assert f"{image.path} is gone" in sysimage.state()
    for text in ("{", "[]", '{"path": "a"}', json.dumps(asdict(image) | {"path": None})):
        (home / sysimage.RECORD).write_text(text)
        assert "cannot be read" in sysimage.state()
    assert sysimage.settings(found()) == {}


@pytest.mark.parametrize("name", ["SYSIMAGE", "LIB", "BINDIR", "EXE", "PROJECT"])
def test_what_the_user_names_is_not_mixed_with_the_image(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make_image(home)
    monkeypatch.setenv(f"PYTHON_JULIACALL_{name}", "another")
    assert sysimage.settings(found()) == {}


def test_the_image_is_for_the_same_environment_under_other_names(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = make_image(home)
    (tmp_path / "link").symlink_to(home / "environment")
    monkeypatch.setenv("PYTHON_JULIACALL_EXE", sys.executable)
    monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", str(tmp_path / "link"))
    assert sysimage.look(found()) == image
    assert sysimage.settings(found()) == image.settings
    other = tmp_path / "other"
    other.mkdir()
    (other / "Manifest.toml").write_text("[[deps.PySciML]]\n")
    monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", str(other))
    assert sysimage.look(found()) == ""
    assert sysimage.settings(found()) == {}


def test_setup_makes_an_image_tries_it_and_does_it_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    julia = Julia(monkeypatch, home / "libjulia.so")
    (home / "sysimage-0.so").write_text("an old one")
    assert cli.main(["julia", "setup", "--sysimage"]) == 0
    image = sysimage.look(found())
    assert isinstance(image, Image)
    assert Path(image.path).read_text() == "image"
    assert image.bytes == 5
    assert [path.name for path in home.glob("sysimage-*.*")] == [Path(image.path).name]
    assert julia.tried[0]["PYTHON_JULIACALL_SYSIMAGE"].endswith(f"partial{Path(image.path).suffix}")
    assert julia.compiled_with == [f"--sysimage={julia.tried[0]['PYTHON_JULIACALL_SYSIMAGE']}"]
    assert julia.tried[0]["PYTHON_JULIACALL_PROJECT"] == str(home / "environment")
    assert cli.main(["julia", "setup", "--sysimage"]) == 0
    assert julia.created == 1
    assert cli.main(["julia", "setup"]) == 0
    assert sysimage.look(found()) == image


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ({"trace": 1}, r"run `pysciml julia setup` again\. no Tsit5"),
        ({"create": 1}, "could not be made"),
        ({"trial": 1}, r"image is not used: Julia is ready without it\. no such instruction"),
    ],
)
def test_where_no_image_can_be_made_julia_is_ready_without(
    home: Path, monkeypatch: pytest.MonkeyPatch, fails: dict[str, int], says: str
) -> None:
    Julia(monkeypatch, home / "libjulia.so", **fails)
    with pytest.raises(EngineUnavailableError, match=says):
        setup.setup(sysimage=True, progress=lambda line: None)
    assert setup.status().ready
    assert sysimage.look(found()) == ""
    assert not list(home.glob("sysimage-*.*"))


def test_an_image_needs_a_compiler(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysimage.sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(EngineUnavailableError, match="needs a C compiler: install gcc or clang"):
        setup.setup(sysimage=True, progress=lambda line: None)
    assert setup.status().ready
    monkeypatch.setenv("JULIA_CC", "gcc -g")
    sysimage.check()


@pytest.mark.parametrize(
    ("version", "enough"), [("0.9.34", False), ("0.9.35", True), ("0.10.0", True), ("1.0.0", True)]
)
def test_an_image_needs_a_juliacall_that_can_start_it(
    monkeypatch: pytest.MonkeyPatch, version: str, enough: bool
) -> None:
    monkeypatch.setenv("JULIA_CC", "gcc")
    monkeypatch.setattr(sysimage.metadata, "version", lambda name: version)
    if enough:
        sysimage.check()
    else:
        with pytest.raises(EngineUnavailableError, match=r"needs juliacall 0\.9\.35 or newer, and this is 0\.9\.34"):
            sysimage.check()


def test_the_command_line_shows_the_image(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = make_image(home)
    assert cli.main(["julia", "status"]) == 0
    assert f"sysimage   {image.path} (0 MiB)" in capsys.readouterr().out
    (home / "environment" / "Manifest.toml").write_text("another")
    assert cli.main(["julia", "status"]) == 0
    assert "not used: run `pysciml julia setup --sysimage`" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for Julia is a shell script")
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_compilers_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    """Julia is a script here, whose child goes on for a minute unless it is killed, and which is itself interrupted."""
    compiling = tmp_path / "compiling"
    script = tmp_path / "julia"
    script.write_text(
        "#!/bin/sh\n"
        f"mkdir {home}/packages_1; touch $TMPDIR/depot\n"
        f"sleep 60 &\nsleep 0.5\necho $! > {compiling}.half; mv {compiling}.half {compiling}\nwait\n"
    )
    script.chmod(0o755)
    image = Environment(str(script), str(home / "environment"), "")
    (home / "packages_0").mkdir()

    def interrupt() -> None:
        while not compiling.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sysimage._create(image, home / "compiler", home / "statements.jl", home / "image.so")
    thread.join()
    child = int(compiling.read_text())
    for _ in range(500):
        if not _runs(child):
            break
        time.sleep(0.01)
    assert not _runs(child)
    assert sorted(path.name for path in home.glob("packages_*")) == ["packages_0"]
    assert not (home / "compiler" / "work").exists()
    gc.collect()  # a process that was not waited for warns when it is forgotten


def _runs(pid: int) -> bool:
    """Whether a process does anything: one that has ended may wait for its parent to ask."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
    except (ProcessLookupError, FileNotFoundError):
        return False
