"""The Julia engine where there is no Julia: what it says, and that it starts nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import pysciml as ps
from pysciml import cli
from pysciml.engines.julia import JuliaEngine, bridge, environment, setup
from pysciml.engines.julia.engine import OPERATIONS
from pysciml.engines.julia.many import path_seeds
from pysciml.errors import EngineUnavailableError, UnsupportedError
from pysciml.graph import ops
from tests.pde.test_solving import brusselator

D = ps.D


@pytest.fixture
def no_julia(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty home for the environment, and nothing named by the user."""
    for what in ("EXE", "PROJECT"):
        monkeypatch.delenv(f"PYTHON_JULIACALL_{what}", raising=False)
        monkeypatch.delenv(f"PYTHON_JULIAPKG_{what}", raising=False)
    monkeypatch.delenv("PYSCIML_ENGINE", raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("PYSCIML_JULIA_HOME", str(home))
    return home


def decay() -> ps.Problem:
    (x,) = ps.variables("x,")
    return ps.Problem(ps.System([ps.Eq(D(x), -x)]), {x: 1.0}, (0, 1))


def make_environment(home: Path, **changes: str) -> None:
    project = home / "environment"
    project.mkdir(parents=True)
    (project / "Project.toml").write_text("")
    marker = {
        "executable": sys.executable,
        "project": str(project),
        "julia": "1.10.8",
        "fingerprint": environment.fingerprint(),
    }
    (home / environment.MARKER).write_text(json.dumps(marker | changes))


def test_without_setup_the_one_command_is_named(no_julia: Path) -> None:
    reason = JuliaEngine().unavailable()
    assert reason == "Julia is not set up: run `pysciml julia setup`"
    with pytest.raises(EngineUnavailableError, match="pysciml julia setup"):
        ps.solve(decay(), engine="julia")
    assert ps.engines()["julia"].why_not == reason


def test_auto_passes_over_a_julia_that_is_not_set_up(no_julia: Path) -> None:
    assert ps.solve(decay()).attrs["engine"] == "native"


def test_looking_for_julia_starts_nothing(no_julia: Path) -> None:
    code = (
        "import sys; from pysciml.engines.julia import JuliaEngine; e = JuliaEngine(); e.unavailable(); e.version(); "
        "e.algorithms(); print(sorted({'juliacall', 'juliapkg'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_environment_that_was_set_up_is_found(no_julia: Path) -> None:
    make_environment(no_julia)
    assert environment.find() == environment.Environment(sys.executable, str(no_julia / "environment"), "1.10.8")
    assert JuliaEngine().unavailable() is None
    assert JuliaEngine().version() == "Julia 1.10.8"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"executable": "no-such-julia"}, "Julia is not at no-such-julia any more"),
        ({"project": "no-such-folder"}, "no-such-folder is gone"),
        ({"fingerprint": "another"}, "needs other Julia packages"),
    ],
)
def test_what_became_wrong_with_an_environment_is_said(no_julia: Path, changes: dict[str, str], says: str) -> None:
    make_environment(no_julia, **changes)
    reason = JuliaEngine().unavailable()
    assert reason is not None
    assert says in reason
    assert "pysciml julia setup" in reason


def test_an_unfinished_setup_is_said(no_julia: Path) -> None:
    no_julia.mkdir()
    assert "not finished" in str(JuliaEngine().unavailable())
    (no_julia / environment.MARKER).write_text("{")
    assert "cannot be read" in str(JuliaEngine().unavailable())


def test_a_project_of_the_user_must_have_the_package(
    no_julia: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHON_JULIACALL_EXE", sys.executable)
    monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", str(tmp_path))
    assert "has no package PySciML" in str(JuliaEngine().unavailable())
    (tmp_path / "Manifest.toml").write_text('[[deps.PySciML]]\npath = "julia"\n')
    assert JuliaEngine().unavailable() is None
    monkeypatch.setenv("PYTHON_JULIACALL_EXE", "no-such-julia")
    assert "cannot be run" in str(JuliaEngine().unavailable())
    for what in ("EXE", "PROJECT"):  # juliapkg's variables mean the same
        monkeypatch.delenv(f"PYTHON_JULIACALL_{what}")
    monkeypatch.setenv("PYTHON_JULIAPKG_EXE", sys.executable)
    assert "not set up" in str(JuliaEngine().unavailable())
    monkeypatch.setenv("PYTHON_JULIAPKG_PROJECT", str(tmp_path))
    assert JuliaEngine().unavailable() is None


def test_after_a_fork_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_started", (-1, object()))
    with pytest.raises(EngineUnavailableError, match="fork"):
        bridge.julia()


def test_what_the_engine_lacks_is_refused_before_julia_starts(no_julia: Path) -> None:
    engine = JuliaEngine()
    model = decay().system.model
    engine.check(model, "Tsit5")
    with pytest.raises(UnsupportedError, match="EM is not for ode problems, but Tsit5"):
        engine.check(model, "EM")
    for name in ("Tsit5();exit()", "run(exit())", "run(`ls`)x", "a b", ""):
        with pytest.raises(UnsupportedError, match="has no algorithm"):
            engine.check(model, name)
    assert not bridge.running()


def test_status_says_what_is_missing(no_julia: Path) -> None:
    found = setup.status()
    assert not found.ready
    assert "pysciml julia setup" in found.missing
    assert (Path(found.package) / "Project.toml").is_file()
    make_environment(no_julia)
    assert setup.status().ready


def test_setup_says_when_its_folder_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYSCIML_JULIA_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(EngineUnavailableError, match="PYSCIML_JULIA_HOME"):
        setup.setup(progress=lambda line: None)


def test_setup_offline_installs_nothing(no_julia: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(no_julia))
    monkeypatch.setenv("PYTHON_JULIAPKG_OFFLINE", "yes")
    with pytest.raises(EngineUnavailableError, match="OFFLINE forbids installing it"):
        setup.setup(progress=lambda line: None)


def test_setup_says_when_the_julia_package_is_missing(
    no_julia: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environment, "package_folder", lambda: tmp_path)
    with pytest.raises(EngineUnavailableError, match="has no Julia package"):
        setup.setup(progress=lambda line: None)
    assert not no_julia.exists()


def test_the_command_line_shows_the_state(no_julia: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["julia", "status"]) == 1
    assert "run `pysciml julia setup`" in capsys.readouterr().out
    make_environment(no_julia)
    assert cli.main(["julia", "status"]) == 0
    assert "1.10.8" in capsys.readouterr().out


@pytest.mark.parametrize("asked", [(), ("cuda",), ("modelingtoolkit",), ("cuda", "sensitivity")])
def test_packages_for_some_purposes_are_installed_where_they_are_asked_for(
    no_julia: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...]
) -> None:
    ran: list[list[str]] = []

    monkeypatch.setattr(setup, "_find_julia", lambda folder, progress: (sys.executable, "1.10.8"))
    monkeypatch.setattr(setup, "_call", lambda command: ran.append(command) or 0)
    assert cli.main(["julia", "setup", *(f"--{name}" for name in asked)]) == 0
    assert tuple(name for name in ("cuda", "sensitivity", "modelingtoolkit") if name in ran[0]) == asked


def test_an_adjoint_needs_its_package(no_julia: Path) -> None:
    make_environment(no_julia)
    assert environment.lacks("SciMLSensitivity", "sensitivity") == (
        "the Julia package SciMLSensitivity is not installed: run `pysciml julia setup --sensitivity`"
    )
    (no_julia / "environment" / "Manifest.toml").write_text("[[deps.SciMLSensitivity]]\n")
    assert environment.lacks("SciMLSensitivity", "sensitivity") == ""


def test_a_gpu_needs_its_packages(no_julia: Path) -> None:
    options = {"over": {"x": [1.0, 2.0]}, "engine": "julia", "device": "cuda"}
    make_environment(no_julia)
    manifest = no_julia / "environment" / "Manifest.toml"
    manifest.write_text("[[deps.DiffEqGPU]]\n")
    with pytest.raises(EngineUnavailableError, match=r"has no CUDA\. .*`pysciml julia setup --cuda`"):
        ps.solve_ensemble(decay(), "Tsit5", **options)
    manifest.write_text("")
    with pytest.raises(EngineUnavailableError, match="has no CUDA and no DiffEqGPU"):
        ps.solve_ensemble(decay(), "Tsit5", **options)
    assert not bridge.running()


def test_a_gpu_is_for_fields_and_ensembles_and_so_is_single_precision(no_julia: Path) -> None:
    make_environment(no_julia)
    with pytest.raises(UnsupportedError, match=r"for partial differential equations .* for ensembles of ordinary"):
        ps.solve(decay(), "Tsit5", engine="julia", device="cuda")
    with pytest.raises(EngineUnavailableError, match=r"has no CUDA\. .*`pysciml julia setup --cuda`"):
        ps.solve(brusselator(4), "Tsit5", engine="julia", device="cuda")
    with pytest.raises(UnsupportedError, match="for ensembles of ordinary"):
        ps.solve_ensemble(brusselator(4), "Tsit5", over={"A": [3.0, 3.4]}, engine="julia", device="cuda")
    with pytest.raises(UnsupportedError, match=r"no precision 'float32'.*engine='jax' has it"):
        ps.solve_ensemble(decay(), "Tsit5", over={"x": [1.0]}, engine="julia", precision="float32")


def test_the_doctor_names_the_command(no_julia: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    assert "julia: not available: Julia is not set up: run `pysciml julia setup`" in capsys.readouterr().out


def test_the_operations_are_those_of_the_julia_package() -> None:
    """The table in Julia has a row for every operation the engine claims, and the codes mean the same."""
    source = (environment.package_folder() / "src" / "operations.jl").read_text(encoding="utf-8")
    named = {int(code): name for code, name in re.findall(r"^    (\d+) => \w+\(:(\w+)", source, re.MULTILINE)}
    assert named == {code: ops.OPS[code].name for code in OPERATIONS if 10 <= code != ops.SELECT}
    assert f"SELECT = 0x{ops.SELECT:02x}" in source


def test_paths_have_seeds_of_their_own_and_the_first_is_the_given_one() -> None:
    seeds = path_seeds(7, np.arange(100_000, dtype=np.uint32))
    assert seeds[0] == 7
    assert len(np.unique(seeds)) == 100_000
    np.testing.assert_array_equal(path_seeds(7, np.array([5, 9], dtype=np.uint32)), seeds[[5, 9]])


def test_a_reduced_index_is_accepted(no_julia: Path) -> None:
    """The pendulum in Cartesian coordinates has index 3; what the engine is given is an ordinary equation."""
    x, y, tension = ps.variables("x y tension")
    length = ps.Eq(0, x**2 + y**2 - 1)
    pendulum = ps.System([ps.Eq(D(x, 2), -tension * x), ps.Eq(D(y, 2), -tension * y - 9.81), length], name="pendulum")
    JuliaEngine().check(pendulum.model, None)


def test_a_setup_that_fails_before_it_changed_anything_leaves_what_there_was(
    no_julia: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_environment(no_julia)
    monkeypatch.delenv("PYTHON_JULIAPKG_OFFLINE", raising=False)
    marker, project = no_julia / environment.MARKER, no_julia / "environment" / "Project.toml"
    before = marker.read_text()
    monkeypatch.setattr(setup, "_find_julia", lambda folder, progress: (sys.executable, "1.10.8"))
    monkeypatch.setattr(setup, "_call", lambda command: 1)
    with pytest.raises(EngineUnavailableError, match=r"run `pysciml julia setup --sensitivity` again"):
        setup.setup(sensitivity=True)
    assert marker.read_text() == before

    def half(command: list[str]) -> int:
        assert not marker.exists()
        project.write_text("[deps]\n")
        return 1

    monkeypatch.setattr(setup, "_call", half)
    with pytest.raises(EngineUnavailableError, match="check the network"):
        setup.setup()
    assert not marker.exists()


def test_a_julia_is_installed_whole_or_not_at_all(no_julia: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of one, as a kill leaves it, would tell its version as a whole one does."""
    find_julia = pytest.importorskip("juliapkg.find_julia", reason="needs juliapkg")
    tries: list[bool] = []

    def find(compat: object, prefix: str, install: bool = False) -> tuple[str, str]:
        executable = Path(prefix) / "bin" / "julia"
        if not install:
            if executable.exists():
                return str(executable), "1.10.8"
            raise RuntimeError("no Julia")
        tries.append(Path(prefix).exists())  # of an earlier try nothing is left
        executable.parent.mkdir(parents=True)
        executable.write_text("")
        if len(tries) == 1:
            raise KeyboardInterrupt
        return str(executable), "1.10.8"

    monkeypatch.setattr(find_julia, "find_julia", find)
    monkeypatch.delenv("PYTHON_JULIAPKG_OFFLINE", raising=False)
    no_julia.mkdir()
    with pytest.raises(KeyboardInterrupt):
        setup._look_or_install(no_julia, None)
    assert not (no_julia / "julia").exists()
    place = no_julia / "julia" / "bin" / "julia"
    assert setup._look_or_install(no_julia, None) == (place, "1.10.8")
    assert setup._look_or_install(no_julia, None) == (str(place), "1.10.8")
    assert tries == [False, False]
    assert place.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="groups of processes are POSIX's")
def test_an_interrupted_setup_leaves_no_process_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Julia compiles in processes of its own, which outlived it."""
    said = tmp_path / "pid"
    worker = f"import os, time; open({str(said)!r} + '~', 'w').write(str(os.getpid())); "
    worker += f"os.rename({str(said)!r} + '~', {str(said)!r}); time.sleep(600)"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"]
    wait = subprocess.Popen.wait

    def interrupted(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        monkeypatch.setattr(subprocess.Popen, "wait", wait)
        for _ in range(3000):
            if said.exists():
                raise KeyboardInterrupt
            time.sleep(0.01)
        raise AssertionError("the worker did not start")

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        setup._call(command)
    pid = int(said.read_text())
    for _ in range(1000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        status = Path(f"/proc/{pid}/status")
        if status.exists() and "Z (zombie)" in status.read_text():  # ended, and nobody asked how yet
            return
        time.sleep(0.01)
    raise AssertionError("the worker lives on")
