"""The system image of the Julia engine: made whole or not at all, and used only with the packages it was made of."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pysciml import cli
from pysciml.engines.julia import environment, image, setup
from pysciml.engines.julia.environment import Environment
from pysciml.errors import EngineUnavailableError

#: The setup's own script ends with a version, that of the image with the image.
WRITES = "if 'sysimage' in sys.argv[-1]: pathlib.Path(sys.argv[-1]).write_text('image')"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    """An environment as the setup makes it, with a program that stands for Julia and writes what it is asked to."""
    for owner in ("JULIACALL", "JULIAPKG"):
        for what in ("EXE", "PROJECT"):
            monkeypatch.delenv(f"PYTHON_{owner}_{what}", raising=False)
    home, package = tmp_path / "home", tmp_path / "package"
    monkeypatch.setenv("PYSCIML_JULIA_HOME", str(home))
    project = home / "environment"
    (package / "src").mkdir(parents=True)
    for name in ("Project.toml", "setup.jl", "sysimage.jl", "src/PySciML.jl"):
        (package / name).write_text(name)
    monkeypatch.setattr(environment, "package_folder", lambda: package)
    project.mkdir(parents=True)
    for name in ("Project.toml", "Manifest.toml"):
        (project / name).write_text(name)
    made = Environment(julia(tmp_path, WRITES), str(project), "1.10.8")
    setup._write_marker(home / environment.MARKER, made)
    return made


def julia(folder: Path, does: str) -> str:
    path = folder / "julia"
    path.write_text(f"#!{sys.executable}\nimport pathlib, sys\n{does}\n")
    path.chmod(0o755)
    return str(path)


def test_an_image_is_found_once_it_is_made(found: Environment) -> None:
    assert image.find(found) == image.state(found) == ""
    image.make(found)
    path = Path(image.find(found))
    assert path.read_text() == "image"
    assert path.parent == environment.home()
    assert setup.status().image == str(path)


@pytest.mark.parametrize("changed", ["environment/Manifest.toml", "../package/src/PySciML.jl", "../package/src/new.jl"])
def test_an_image_of_other_packages_is_not_used(found: Environment, changed: str) -> None:
    image.make(found)
    (environment.home() / changed).write_text("changed")
    assert image.find(found) == ""
    assert "run `pysciml julia setup --sysimage` again" in setup.status().image
    image.make(found)
    assert image.find(found)


def test_another_julia_does_not_use_it(found: Environment) -> None:
    image.make(found)
    assert image.find(Environment(found.executable, found.project, "1.11.0")) == ""


def test_an_environment_of_the_user_has_no_image(found: Environment, tmp_path: Path) -> None:
    image.make(found)
    theirs = Environment(found.executable, str(tmp_path), found.julia)
    assert image.find(theirs) == image.state(theirs) == ""


@pytest.mark.parametrize("record", ["", "{", "[]", "3", "{}", '{"digest": 1}'])
def test_a_damaged_record_is_no_record(found: Environment, record: str) -> None:
    image.make(found)
    (environment.home() / image.RECORD).write_text(record)
    assert image.find(found) == ""


def test_a_failure_leaves_the_image_that_was_there(found: Environment, tmp_path: Path) -> None:
    image.make(found)
    julia(tmp_path, "pathlib.Path(sys.argv[-1]).write_text('half'); sys.exit(3)")
    with pytest.raises(EngineUnavailableError, match=r"could not be made \(exit code 3.*works without"):
        image.make(found)
    assert Path(image.find(found)).read_text() == "image"


def test_without_a_compiler_nothing_is_begun(found: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JULIA_CC", raising=False)
    with pytest.raises(EngineUnavailableError, match=r"neither gcc nor clang.*without --sysimage"):
        setup.setup(sysimage=True, progress=lambda line: pytest.fail(line))
    monkeypatch.setenv("JULIA_CC", "cc")
    image.check()


def test_the_command_makes_it_and_shows_it(
    found: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JULIA_CC", "cc")
    monkeypatch.setattr(setup, "_find_julia", lambda folder, progress: (found.executable, found.julia))
    assert cli.main(["julia", "setup", "--sysimage"]) == 0
    assert "making a system image" in capsys.readouterr().out
    assert cli.main(["julia", "status"]) == 0
    assert image.find(found) in capsys.readouterr().out
    assert cli.main(["julia", "setup", "--sysimage"]) == 0  # there is one already
    assert "making" not in capsys.readouterr().out
    assert json.loads((environment.home() / image.RECORD).read_text())["julia"] == "1.10.8"
