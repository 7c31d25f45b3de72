"""The command line: it teaches, works, and fails with a sentence and the right code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import pysciml as ps
from pysciml import cli, files

x, v = ps.variables("x v")
k, c = ps.parameters("k c")
oscillator = ps.System([ps.Eq(ps.D(x), v), ps.Eq(ps.D(v), -k * x - c * v)], name="oscillator")
NUMBERS = ["--u0", "x=1", "v=0", "-p", "k=4", "c=0.1", "--tspan", "0", "5"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    oscillator.save("oscillator.json")
    return "oscillator.json"


def run(*arguments: str) -> int:
    """The exit code, also where argparse ends the process."""
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def listing() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def exact() -> ps.Problem:
    return ps.Problem(oscillator, {x: 1, v: 0}, (0, 5), {k: 4, c: 0.1})


# ---- help ----


def test_without_a_command_it_tells_where_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    text = capsys.readouterr().out
    for word in ("pysciml demo", "pysciml doctor", "pysciml solve", "exit codes", "130"):
        assert word in text


@pytest.mark.parametrize("command", ["demo", "doctor", "solve"])
def test_every_command_has_help_with_its_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    text = capsys.readouterr().out
    assert "exit codes" in text
    assert "--debug" in text
    assert max(map(len, text.splitlines())) <= 110


def test_the_example_of_the_help_works_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("solve", "--help") == 0
    text = capsys.readouterr().out
    code = re.search(r"save a model, in Python:\n(.*?)\n\n", text, re.DOTALL)
    assert code is not None
    exec(re.sub(r"^  ", "", code[1], flags=re.MULTILINE), {})
    numbers = re.search(r"numbers.json .*?:\n(.*)\n", text)
    assert numbers is not None
    Path("numbers.json").write_text(numbers[1])
    commands = re.findall(r"^  pysciml (solve .*)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert run(*command.split()) == 0
    assert Path("lotka.png").read_bytes().startswith(b"\x89PNG")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"pysciml {ps.__version__}"


# ---- solve ----


def test_solve_writes_what_solve_returns(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("solve", model, *NUMBERS, "--saveat", "0.5", "--out", "r.nc", "--plot", "r.png") == 0
    expected = ps.solve(exact(), saveat=0.5)
    with xr.open_dataset("r.nc", engine="h5netcdf") as got:
        xr.testing.assert_allclose(got.load(), expected, rtol=1e-12)
        assert got.attrs["engine"] == expected.attrs["engine"]
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")
    captured = capsys.readouterr()
    assert "wrote r.nc and r.png" in captured.out
    assert "Success" in captured.out
    assert captured.err == ""


def test_the_output_is_named_after_the_model_and_lies_here(model: str) -> None:
    Path("models").mkdir()
    Path(model).rename(f"models/{model}")
    assert run("solve", f"models/{model}", *NUMBERS) == 0
    assert Path("oscillator.nc").is_file()


def test_several_output_times(model: str) -> None:
    assert run("solve", model, *NUMBERS, "--saveat", "0", "1", "2.5") == 0
    with xr.open_dataset("oscillator.nc", engine="h5netcdf") as got:
        assert got["t"].values.tolist() == [0, 1, 2.5]


def test_numbers_from_a_file_give_way_to_the_command_line(model: str) -> None:
    Path("n.json").write_text(json.dumps({"u0": {"x": 1, "v": 0}, "p": {"k": 9, "c": 0.1}, "tspan": [0, 2]}))
    assert run("solve", model, "--problem", "n.json", "-p", "k=4", "--tspan", "0", "5", "--saveat", "5") == 0
    expected = ps.solve(exact(), saveat=5.0)
    with xr.open_dataset("oscillator.nc", engine="h5netcdf") as got:
        np.testing.assert_allclose(got.x, expected.x, rtol=1e-9)


def test_algorithm_engine_and_tolerances_are_passed_on(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--alg", "TRBDF2", "--engine", "native", "--rtol", "1e-4", "--atol", "1e-6")
    assert run("solve", model, *NUMBERS, *arguments) == 0
    assert "native engine, TRBDF2" in capsys.readouterr().out


def test_progress_does_not_enter_standard_output(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("solve", model, *NUMBERS, "--progress") == 0
    assert "\r" not in capsys.readouterr().out


# ---- mistakes ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.json"], "nothing.json: No such file or directory"),
        (["broken.json"], "broken.json is not a model file"),
        (["oscillator.json"], "the time span is missing"),
        (["oscillator.json", "--tspan", "0", "1"], "u0 has no value for x, v"),
        (["oscillator.json", "--tspan", "0", "0", *NUMBERS[:-3]], "tspan has zero length"),
        (["oscillator.json", *NUMBERS, "--u0", "y=1"], "u0 has a value for y, which is not a state"),
        (["oscillator.json", *NUMBERS, "-p", "k=5"], "-p has k twice"),
        (["oscillator.json", *NUMBERS, "-p", "x=5"], "x is a state"),
        (["oscillator.json", *NUMBERS, "--u0", "x=nan"], "--u0 has x twice"),
        (["oscillator.json", *NUMBERS, "--alg", "Magic5"], "no algorithm 'Magic5'"),
        (["oscillator.json", *NUMBERS, "--engine", "magic"], "no engine 'magic'"),
        (["oscillator.json", *NUMBERS, "--rtol", "-1"], "rtol must be"),
        (["oscillator.json", *NUMBERS, "--saveat", "7", "8"], "saveat has 7, outside tspan"),
        (["oscillator.json", *NUMBERS, "--out", "no/r.nc"], "the folder no does not exist"),
        (["oscillator.json", *NUMBERS, "--out", "."], "is a folder"),
        (["oscillator.json", *NUMBERS, "--plot", "r.txt"], "must end in .png"),
        (["oscillator.json", *NUMBERS, "--out", "oscillator.json"], "would overwrite the model"),
        (["oscillator.json", "--problem", "nothing.json"], "nothing.json: No such file"),
        (["oscillator.json", "--problem", "broken.json"], "broken.json is not a JSON file"),
        (["oscillator.json", "--problem", "list.json"], "list.json must be an object"),
        (["oscillator.json", "--problem", "odd.json"], "u0 must map names to numbers"),
        (["oscillator.json", "--problem", "text.json"], "u0: the value of x must be a number, not 'one'"),
    ],
)
def test_a_mistake_is_a_sentence_on_standard_error(
    model: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.json").write_text("{")
    Path("list.json").write_text("[1, 2]")
    Path("odd.json").write_text('{"u0": 3, "tspan": [0, 1]}')
    Path("text.json").write_text('{"u0": {"x": "one", "v": 0}, "tspan": [0, 1]}')
    before = listing()
    assert run("solve", *arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("pysciml: ")
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert listing() == before  # and nothing half-written is left


def test_debug_shows_the_traceback(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--debug", "solve", model), ("solve", model, "--debug")):
        assert run(*arguments) == 1
        captured = capsys.readouterr()
        assert "Traceback (most recent call last)" in captured.err
        assert "the time span is missing" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dance"], "invalid choice: 'dance'"),
        (["solve"], "MODEL.json"),
        (["solve", "m.json", "--u0", "x"], "'x' is not of the form name=value"),
        (["solve", "m.json", "--u0", "x=one"], "'one' is not a number"),
        (["solve", "m.json", "--tspan", "0"], "expected 2 arguments"),
        (["solve", "m.json", "--quick"], "--quick"),
        (["julia", "dance"], "invalid choice: 'dance'"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_a_failed_solve_leaves_its_partial_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ps.System([ps.Eq(ps.D(x), x**2)], name="explosion").save("explosion.json")  # x = 1 / (1 - t)
    assert run("solve", "explosion.json", "--u0", "x=1", "--tspan", "0", "2", "--out", "e.nc", "--plot", "e.png") == 1
    captured = capsys.readouterr()
    assert "the partial result is in e.nc" in captured.err
    assert "retcode" in captured.err
    assert captured.out == ""
    with xr.open_dataset("e.nc", engine="h5netcdf") as got:
        assert 0.9 < float(got["t"][-1]) < 1.001  # to the tolerance, where the solution ends
        early = got.sel(t=got["t"][got["t"] < 0.9])
        np.testing.assert_allclose(early.x, 1 / (1 - early["t"]), rtol=1e-4)
    assert Path("e.png").stat().st_size > 0


def test_an_existing_result_survives_a_failure(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("r.nc").write_text("precious")

    def broken(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", broken)
    assert run("solve", model, *NUMBERS, "--out", "r.nc") == 1
    assert Path("r.nc").read_text() == "precious"
    assert listing() == ["oscillator.json", "r.nc"]


def test_a_bug_is_called_one(model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise AssertionError("impossible")

    monkeypatch.setattr(ps, "load", broken)
    assert run("solve", model, *NUMBERS) == 1
    captured = capsys.readouterr().err
    assert "this is a bug" in captured
    assert "Traceback" not in captured


def test_an_interrupt_is_code_130(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ps, "solve", interrupted)
    assert run("solve", model, *NUMBERS) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_a_long_solve_of_a_real_process(model: str) -> None:
    # A process started in the background ignores Ctrl-C; this one must not inherit that.
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += "from pysciml.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "solve", model, *NUMBERS[:-1], "1e12", "--max-steps", "1000000000"]
    command += ["--saveat", "1e11", "--progress"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            process.stderr.read(1)  # the first sign of progress
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert out == ""


# ---- doctor ----


def test_the_doctor_tests_every_engine_that_can_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    text = capsys.readouterr().out
    for info in ps.engines():
        assert f"  {info.name}" in text
    available = [info.name for info in ps.engines() if info.available]
    assert text.count("self-test: ok") == len(available) > 0
    assert f"pysciml {ps.__version__}" in text
    assert "numpy" in text


def test_the_doctor_reports_an_engine_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("no LLVM today")

    monkeypatch.setattr(ps, "solve", broken)
    assert run("doctor") == 1
    text = capsys.readouterr().out
    assert "FAILED: RuntimeError: no LLVM today" in text
    assert "failed the self-test" in text


# ---- whole files ----


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with files.writing(target) as path:
        path.write_text("first")

    def fail() -> None:
        with files.writing(target) as path:
            path.write_text("half")
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    assert target.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits of that kind")
def test_a_written_file_is_as_readable_as_any_new_one(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    with files.writing(tmp_path / "written") as path:
        path.write_text("x")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode
