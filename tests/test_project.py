"""The project's own promises: what importing costs, what the tree may contain, one version everywhere."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def tracked_files() -> list[Path]:
    """Every file under version control, or, in an unpacked source archive, every file that looks like source."""
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        names = [name for name in listing.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        folders = ("pysciml", "tests", "benchmarks", "tutorials", "julia")
        names = [str(p.relative_to(ROOT)) for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file()]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize("module", ["pysciml", "pysciml.engines.base", "pysciml.cli"])
def test_importing_loads_no_engine(module: str) -> None:
    loaded = run_python(f"import sys, {module}; print('\\n'.join(sys.modules))").split()
    heavy = {"pydiffsol", "jax", "jaxlib", "juliacall", "juliapkg", "diffrax", "matplotlib", "scipy", "dask", "equinox"}
    # xarray itself probes for some of these; only what pysciml adds to its own foundations counts.
    foundations = set(run_python("import sys, numpy, sympy, xarray; print('\\n'.join(sys.modules))").split())
    assert "pysciml" in loaded
    assert heavy & (set(loaded) - foundations) == set()


def test_importing_sets_no_global_state() -> None:
    code = """
import os, warnings, numpy, sympy, xarray
before = (dict(os.environ), numpy.geterr(), list(warnings.filters), xarray.get_options())
import pysciml
print((dict(os.environ), numpy.geterr(), list(warnings.filters), xarray.get_options()) == before)
"""
    assert run_python(code).strip() == "True"


def test_the_version_is_the_same_everywhere() -> None:
    import pysciml

    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert citation is not None
    assert pysciml.__version__ == importlib.metadata.version("pysciml") == citation[1]


def test_constraints_are_plain_pins() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!]+", line)] == []
    names = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert len(set(names)) == len(names)


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    wanted = set()
    for requirement in importlib.metadata.requires("pysciml") or []:
        if "extra == 'cuda'" in requirement.replace('"', "'"):
            continue  # CUDA builds follow the machine's driver
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert match is not None
        wanted.add(re.sub(r"[-_.]+", "-", match[0]).lower())
    assert wanted - pinned - {"pysciml"} == set()


def test_engines_are_registered_as_entry_points() -> None:
    registered = {point.name: point.value for point in importlib.metadata.entry_points(group="pysciml.engines")}
    assert registered["native"] == "pysciml.engines.native:NativeEngine"
    assert registered["jax"] == "pysciml.engines.jax:JaxEngine"


def test_nothing_evaluates_text() -> None:
    """A model file is data. These calls turn text into code, so the package has none but of literals."""
    forbidden = {"eval", "exec", "compile", "sympify", "parse_expr", "parse_latex", "lambdify", "seval"}
    found = []
    for path in sorted((ROOT / "pysciml").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                call = node.func
                name = call.id if isinstance(call, ast.Name) else call.attr if isinstance(call, ast.Attribute) else ""
                is_re_compile = name == "compile" and isinstance(call, ast.Attribute)
                literal = all(isinstance(a, ast.Constant) for a in node.args) and not node.keywords
                if name in forbidden and not is_re_compile and not literal:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
            elif isinstance(node, ast.Import | ast.ImportFrom):
                modules = [a.name for a in node.names] + (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                )
                found += [
                    f"{path.relative_to(ROOT)}:{node.lineno} {m}" for m in modules if m in {"pickle", "marshal", "dill"}
                ]
    assert found == []


def test_julia_files_parse() -> None:
    import tree_sitter_julia
    from tree_sitter import Language, Parser

    parser = Parser(Language(tree_sitter_julia.language()))
    assert parser.parse(b"f(x) = x +").root_node.has_error  # the parser does see errors
    files = [path for path in tracked_files() if path.suffix == ".jl"]
    broken = [str(p.relative_to(ROOT)) for p in files if parser.parse(p.read_bytes()).root_node.has_error]
    assert broken == []


def test_no_address_of_a_package_registry_is_tracked() -> None:
    # Spelled in pieces, so that this file does not contain what it looks for.
    words = [
        "py" + "pi.org",
        "python" + "hosted",
        "index" + "-url",
        "find" + "-links",
        "registry" + ".npm",
        "crates" + ".io",
    ]
    pattern = re.compile("|".join(re.escape(word) for word in words))
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked_files()
        if (text := text_of(path)) is not None
        for match in pattern.finditer(text)
    ]
    assert found == []


def test_no_absolute_home_or_temporary_path_is_tracked() -> None:
    pattern = re.compile(r"(?<![\w./])/(?:home|root|srv|work|Users)/\w")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked_files()
        if path.suffix != ".svg" and path != Path(__file__).resolve() and (text := text_of(path)) is not None
        for match in pattern.finditer(text)
    ]
    assert found == []


def test_tracked_files_are_small() -> None:
    large = [str(p.relative_to(ROOT)) for p in tracked_files() if p.stat().st_size > 2_000_000]
    assert large == []


def test_modules_can_be_read_in_one_sitting() -> None:
    sources = [
        p for p in tracked_files() if p.suffix in {".py", ".jl"} and p.parts[len(ROOT.parts)] in {"pysciml", "julia"}
    ]
    long = [
        f"{p.relative_to(ROOT)}: {n}" for p in sources if (n := len(p.read_text(encoding="utf-8").splitlines())) > 700
    ]
    assert long == []
