"""The command line: ``pysciml demo``, ``pysciml doctor``, ``pysciml julia``, ``pysciml solve``."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NoReturn

from pysciml._version import __version__
from pysciml.errors import ProblemError, PySciMLError, SolverError

#: Exit codes, documented in the help.
OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

_EXIT_CODES: Final = """\
exit codes:
  0    it worked
  1    something in the model, the numbers or the files is wrong, or a solve failed; the message says what
  2    the command line could not be read
  130  interrupted by Ctrl-C
"""

_MAIN: Final = """\
Differential equations written in SymPy, solved by compiled engines, back as labelled arrays.

start here:
  pysciml demo                     a real data set fitted and drawn, in seconds
  pysciml doctor                   what is installed, whether it works, what to do next
  pysciml julia setup              Julia and its packages, for the engine that solves everything
  pysciml solve MODEL.json ...     solve a saved model; `pysciml solve --help` shows how to save one
"""

_DEMO: Final = """\
Fit the Lotka-Volterra equations to the lynx and hare pelts of the Hudson's Bay Company, 1900 to 1920.
Prints the estimates with their 95 % intervals and writes lynx_hare.nc (all results, an xarray Dataset in
NetCDF form) and lynx_hare.png (data, fit and its uncertainty).
"""

_DEMO_EXAMPLES: Final = """\
examples:
  pysciml demo                     writes into the current folder
  pysciml demo --out results       writes into results/, which is made if needed

and then, in Python:
  import xarray
  xarray.open_dataset("lynx_hare.nc").hare.plot()
"""

_DOCTOR: Final = """\
Show versions, which engines can run and why the others cannot, and solve a small problem with a known
solution on every engine that can. Paste its output into a bug report.
"""

_JULIA: Final = """\
The engine 'julia' runs Symbolics.jl and DifferentialEquations.jl inside this process. `setup` installs Julia
(unless PYTHON_JULIAPKG_EXE names one, or it is on the PATH) and the packages into a folder of their own
(PYSCIML_JULIA_HOME names another), and compiles them: some 20 minutes on two cores, once. It can be interrupted
and repeated. `setup --sysimage` then also makes a system image, with which new processes start sooner; it is made for
one state of pysciml, Julia and the packages, and not used with another. `status` only looks: code 0 when the engine is
ready, 1 when something is missing.
"""

_SOLVE: Final = """\
Solve a model that System.save wrote. A model file holds equations, not numbers: give initial values,
parameters and the time span here, or in a JSON file.
"""

_SOLVE_EXAMPLES: Final = """\
save a model, in Python:
  import pysciml as ps
  x, y = ps.variables("x y")
  a, b = ps.parameters("a b")
  ps.System([ps.Eq(ps.D(x), a*x - x*y), ps.Eq(ps.D(y), x*y - b*y)], name="lotka").save("lotka.json")

and solve it:
  pysciml solve lotka.json --u0 x=1 y=1 -p a=1.5 b=3 --tspan 0 10 --out lotka.nc --plot lotka.png
  pysciml solve lotka.json --problem numbers.json -p a=2 --saveat 0.1

numbers.json (what is given on the command line wins):
  {"u0": {"x": 1.0, "y": 1.0}, "p": {"a": 1.5, "b": 3.0}, "tspan": [0, 10]}

"""


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=100)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"pysciml: {message}\nSee: {self.prog} --help\n")


def _assignment(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=value, such as x=1.0")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: {value!r} is not a number") from None


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    shared = _Parser(add_help=False)
    # SUPPRESS: a subcommand must not reset what was given before it.
    shared.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    parser = _Parser(prog="pysciml", description=_MAIN, epilog=_EXIT_CODES, formatter_class=_Help, parents=[shared])
    parser.add_argument("--version", action="version", version=f"pysciml {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")

    def add(name: str, what: str, description: str, epilog: str, run: Callable[[Any], int]) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=what, description=description, epilog=epilog, formatter_class=_Help, parents=[shared]
        )
        command.set_defaults(run=run)
        return command

    demo = add("demo", "fit lynx and hare pelts, draw the result", _DEMO, f"{_DEMO_EXAMPLES}\n{_EXIT_CODES}", _run_demo)
    demo.add_argument("--out", metavar="DIR", default=".", help="folder for the results (default: here)")
    demo.add_argument("--engine", default="auto", help="engine to use (default: auto)")

    add("doctor", "what is installed and whether it works", _DOCTOR, _EXIT_CODES, _run_doctor)

    julia = add("julia", "set up Julia for engine='julia', or show its state", _JULIA, _EXIT_CODES, _run_julia)
    julia.add_argument("what", choices=("setup", "status"), help="install what is missing, or only look")
    julia.add_argument("--cuda", action="store_true", help="also for an NVIDIA GPU")
    julia.add_argument("--sensitivity", action="store_true", help="also SciMLSensitivity's adjoints, for training")
    julia.add_argument("--modelingtoolkit", action="store_true", help="also ModelingToolkit, for reduce_index")
    julia.add_argument(
        "--sysimage", action="store_true", help="also a system image, for a faster start; needs a C compiler"
    )

    run = add("solve", "solve a saved model", _SOLVE, _SOLVE_EXAMPLES + _EXIT_CODES, _run_solve)
    run.add_argument("model", metavar="MODEL.json", help="a model file, as System.save writes")
    numbers = run.add_argument_group("numbers")
    numbers.add_argument(
        "--u0", nargs="+", type=_assignment, action="extend", default=[], metavar="x=1", help="initial values"
    )
    numbers.add_argument(
        "-p", nargs="+", type=_assignment, action="extend", default=[], metavar="a=1.5", help="parameter values"
    )
    numbers.add_argument("--tspan", nargs=2, type=float, metavar=("START", "END"), help="from when to when")
    numbers.add_argument("--problem", metavar="FILE.json", help='JSON file with "u0", "p" and "tspan"')
    solver = run.add_argument_group("solver")
    solver.add_argument("--alg", help="algorithm, by its SciML name (default: the engine chooses)")
    solver.add_argument("--engine", default="auto", help="engine to use (default: auto)")
    solver.add_argument("--rtol", type=float, default=1e-6, help="relative tolerance (default: 1e-6)")
    solver.add_argument("--atol", type=float, default=1e-9, help="absolute tolerance (default: 1e-9)")
    solver.add_argument(
        "--saveat",
        type=float,
        nargs="+",
        metavar="T",
        help="spacing of the output times (one number) or the times (several); default: the solver's steps",
    )
    solver.add_argument("--max-steps", type=int, default=1_000_000, help="most steps (default: 1000000)")
    output = run.add_argument_group("output")
    output.add_argument("--out", metavar="R.nc", help="write the solution as NetCDF (default: MODEL.nc)")
    output.add_argument("--plot", metavar="P.png", help="also draw it (.png, .svg or .pdf)")
    output.add_argument(
        "--progress", action="store_true", help="show progress even where standard error is not a terminal"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        By default those of the process.

    Returns
    -------
    int
        The exit code; the process ends with 2 for a command line that cannot be read.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = make_parser()
    options = parser.parse_args(given)
    debug = getattr(options, "debug", False)
    if options.command is None:
        parser.print_help()
        return OK
    try:
        return options.run(options)
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; what is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (PySciMLError, OSError) as error:
        if debug:
            traceback.print_exc()
        else:
            _complain(_words(error))
        return FAILED
    except Exception as error:
        # Not a user's mistake: a bug, of ours or of a library's. It must still be possible to report it.
        if debug:
            traceback.print_exc()
        else:
            _complain(f"an error inside pysciml: {type(error).__name__}: {error}")
            _complain("this is a bug; `--debug` shows where, `pysciml doctor` what a report should contain")
        return FAILED


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _complain(text: str) -> None:
    print(f"pysciml: {text}", file=sys.stderr)


# ---- demo ----


def _run_demo(options: Any) -> int:
    from pysciml import demo

    demo.run(options.out, engine=options.engine)
    return OK


# ---- doctor ----


def _run_doctor(options: Any) -> int:
    from pysciml import engines

    print(f"pysciml {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    for name in ("numpy", "sympy", "scipy", "xarray", "matplotlib", "h5netcdf"):
        print(f"  {name} {_version(name)}")
    print("\nengines")
    working: list[str] = []
    broken: list[str] = []
    for info in engines():
        if not info.available:
            print(f"  {info.name}: not available: {info.why_not}")
            continue
        print(f"  {info.name} {info.version}".rstrip() + f": {' '.join(info.kinds)}; {', '.join(info.algorithms)}")
        verdict, good = _self_test(info.name)
        print(f"    self-test: {verdict}")
        (working if good else broken).append(info.name)
    if unused := _unused_image():
        print(f"\n{unused}")
    chosen = os.environ.get("PYSCIML_ENGINE")
    if chosen:
        print(f"\nPYSCIML_ENGINE is set: engine='auto' means {chosen!r}")
    print("\nnext")
    if broken:
        print(f"  {', '.join(broken)} failed the self-test: reinstall it (`make clean setup`), or report this output")
    if working:
        print("  everything needed is here: `pysciml demo` shows it at work")
    elif not broken:
        print("  no engine can run: follow one of the hints above")
    return FAILED if broken or not working else OK


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _self_test(engine: str) -> tuple[str, bool]:
    """Solve the harmonic oscillator, x'' = -x, and compare with the cosine."""
    import numpy as np

    from pysciml import D, Eq, Problem, System, solve, variables

    x = variables("x")
    problem = Problem(System([Eq(D(x, 2), -x)], name="self_test"), u0={x: 1.0, D(x): 0.0}, tspan=(0, 10))
    try:
        sol = solve(problem, engine=engine, rtol=1e-8, atol=1e-10, saveat=0.5)
    except KeyboardInterrupt:
        raise
    except Exception as error:  # whatever goes wrong in an engine is what the doctor is for
        return f"FAILED: {type(error).__name__}: {error}", False
    worst = float(np.max(np.abs(sol["x"].values - np.cos(sol["t"].values))))
    good = worst < 1e-5
    seconds = sol.attrs["compile_seconds"] + sol.attrs["solve_seconds"]
    took = f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
    return (
        f"{'ok' if good else 'FAILED'}: error {worst:.1e} at a tolerance of 1e-8, {sol.attrs['algorithm']}, "
        f"{took} with compilation",
        good,
    )


# ---- julia ----


def _unused_image() -> str:
    from pysciml.engines.julia import sysimage

    return sysimage.state()


def _run_julia(options: Any) -> int:
    from pysciml.engines.julia.setup import setup, status

    if options.what == "setup":
        if isinstance(sys.stdout, io.TextIOWrapper):  # also in a log: each line when it happens, juliapkg's too
            sys.stdout.reconfigure(line_buffering=True)
        setup(
            cuda=options.cuda,
            sysimage=options.sysimage,
            sensitivity=options.sensitivity,
            modelingtoolkit=options.modelingtoolkit,
        )
        return OK
    found = status()
    for name in ("executable", "julia", "project", "package", "sysimage"):
        print(f"  {name:10} {getattr(found, name) or '(none)'}")
    print("ready" if found.ready else found.missing)
    return OK if found.ready else FAILED


# ---- solve ----


def _run_solve(options: Any) -> int:
    from pysciml import Problem, System, load, solve

    out = Path(options.out) if options.out else Path(options.model).with_suffix(".nc").name
    out = Path(out)
    _check_outputs(options, out)
    system = load(options.model)
    u0, p, tspan = _numbers(options)
    if tspan is None:
        raise ProblemError("the time span is missing: give --tspan START END, or tspan in --problem")
    problem = Problem(system, u0=u0, tspan=tspan, p=p) if isinstance(system, System) else _on_grid(system, u0, tspan, p)
    saveat = options.saveat[0] if options.saveat is not None and len(options.saveat) == 1 else options.saveat
    try:
        sol = solve(
            problem,
            options.alg,
            engine=options.engine,
            rtol=options.rtol,
            atol=options.atol,
            saveat=saveat,
            max_steps=options.max_steps,
            progress=options.progress or sys.stderr.isatty(),
        )
    except SolverError as error:
        if error.partial is not None and error.partial.sizes.get("t", 0):
            _write(error.partial, out, options.plot)
            _complain(f"the partial result is in {out}")
        raise
    _write(sol, out, options.plot)
    attrs = sol.attrs
    print(
        f"{system.name}: {attrs['retcode']}, {attrs['engine']} engine, {attrs['algorithm']}, "
        f"{sol.sizes['t']} times in {1e3 * attrs['solve_seconds']:.3g} ms"
        + (f", {attrs['n_steps']} steps" if attrs["n_steps"] >= 0 else "")
    )
    last = sol.isel(t=-1)
    shown = [f"{name} {_said(last[name])}" for name in list(sol.data_vars)[:8]]
    print(f"  at t = {float(last['t']):g}: {', '.join(shown)}{', ...' if len(sol.data_vars) > 8 else ''}")
    print(f"wrote {out}" + (f" and {options.plot}" if options.plot else ""))
    return OK


def _on_grid(system: Any, u0: dict[str, Any], tspan: Any, p: dict[str, Any]) -> Any:
    """The problem of a partial differential equation."""
    if not hasattr(system, "problem"):
        raise ProblemError(
            f"the model {system.name} has no grid: save system.discretize({{...}}), which knows how finely to look"
        )
    return system.problem(tspan, p, u0)


def _said(last: Any) -> str:
    """A last value in words; of a field its range."""
    return f"= {float(last):.6g}" if last.ndim == 0 else f"from {float(last.min()):.6g} to {float(last.max()):.6g}"


def _check_outputs(options: Any, out: Path) -> None:
    """Find out before the work whether its results can be written."""
    for path in (out, *([Path(options.plot)] if options.plot else [])):
        if not path.parent.is_dir():
            raise ProblemError(f"{path}: the folder {path.parent} does not exist")
        if path.is_dir():
            raise ProblemError(f"{path} is a folder: name a file")
    if options.plot and Path(options.plot).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ProblemError(f"--plot {options.plot}: the name must end in .png, .svg or .pdf")
    if out.resolve() == Path(options.model).resolve():
        raise ProblemError(f"--out {out} would overwrite the model")


def _numbers(options: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Initial values, parameters and time span: the file's, then the command line's."""
    u0: dict[str, Any] = {}
    p: dict[str, Any] = {}
    tspan = None
    if options.problem:
        try:
            document = json.loads(Path(options.problem).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProblemError(f"{options.problem} is not a JSON file: {error}") from error
        if not isinstance(document, dict) or not set(document) <= {"u0", "p", "tspan"}:
            raise ProblemError(f'{options.problem} must be an object with "u0", "p" and "tspan", and nothing else')
        for key, into in (("u0", u0), ("p", p)):
            given = document.get(key, {})
            if not isinstance(given, dict):
                raise ProblemError(f"{options.problem}: {key} must map names to numbers, not {given!r}", symbol=key)
            into.update(given)
        tspan = document.get("tspan")
    for key, pairs, into in (("--u0", options.u0, u0), ("-p", options.p, p)):
        names = [name for name, _ in pairs]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ProblemError(f"{key} has {double} twice", symbol=double)
        into.update(pairs)
    return u0, p, tspan if options.tspan is None else tuple(options.tspan)


def _write(sol: Any, out: Path, picture: str | None) -> None:
    from pysciml.files import writing

    with writing(out) as path:
        sol.to_netcdf(path, engine="h5netcdf")
    if picture:
        from matplotlib.figure import Figure

        from pysciml import plot

        with plot.style():
            if any(variable.ndim > 1 for variable in sol.data_vars.values()):
                panel: Any = plot.snapshots(sol).flat[0]
                figure: Any = panel.figure
            else:
                figure = Figure(figsize=(7.2, 4.0), layout="constrained")
                plot.solution(sol, ax=figure.add_subplot())
            with writing(picture) as path:
                figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
