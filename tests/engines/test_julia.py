"""The Julia engine on a real Julia: `make test-julia`."""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import pysciml as ps
from pysciml.engines.julia import bridge, environment, sysimage
from pysciml.engines.julia.engine import OPERATIONS
from pysciml.errors import EngineUnavailableError, SolverError, UnsupportedError
from pysciml.graph import GraphBuilder, ops

pytestmark = [pytest.mark.julia, pytest.mark.usefixtures("julia_engine")]

D = ps.D
t = ps.t


def solve(problem: ps.Problem, alg: str | None = None, **options):
    return ps.solve(problem, alg, engine="julia", **options)


def lorenz() -> ps.Problem:
    x, y, z = ps.variables("x y z")
    s, r, b = ps.parameters("sigma rho beta")
    system = ps.System([ps.Eq(D(x), s * (y - x)), ps.Eq(D(y), x * (r - z) - y), ps.Eq(D(z), x * y - b * z)])
    return ps.Problem(system, {x: 1, y: 0, z: 0}, (0, 2), {s: 10, r: 28, b: sp.Rational(8, 3)})


def robertson(conserved: bool) -> ps.Problem:
    """Robertson's kinetics, as three rates or as two and the conservation of mass."""
    a, b, c = ps.variables("a b c")
    last = ps.Eq(0, a + b + c - 1) if conserved else ps.Eq(D(c), 3e7 * b**2)
    rates = [ps.Eq(D(a), -0.04 * a + 1e4 * b * c), ps.Eq(D(b), 0.04 * a - 1e4 * b * c - 3e7 * b**2), last]
    start = {a: 1, b: 0} if conserved else {a: 1, b: 0, c: 0}
    return ps.Problem(ps.System(rates, name="robertson"), start, (0, 40))


def test_the_julia_package_passes_its_own_tests() -> None:
    found = environment.find()
    assert not isinstance(found, str)
    script = environment.package_folder() / "test" / "runtests.jl"
    command = [found.executable, "--startup-file=no", "--threads=2", f"--project={found.project}", str(script)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_packages_of_a_system_image_are_those_of_the_environment() -> None:
    found = environment.find()
    assert not isinstance(found, str)
    text = (environment.package_folder() / "packages.jl").read_text(encoding="utf-8")
    names = re.findall(r'"(\w+)"', text.split("const GPU")[0])
    assert "OrdinaryDiffEq" in names
    assert environment.lacking(found.project, ("PySciML", "PythonCall", *names)) == []


def test_julia_starts_with_the_system_image_that_fits() -> None:
    found = environment.find()
    assert not isinstance(found, str)
    bridge.julia()
    import juliacall

    running = Path(str(juliacall.Base.unsafe_string(juliacall.Base.JLOptions().image_file)))
    without = str(running.with_name("sys" + running.suffix))
    name = "PYTHON_JULIACALL_SYSIMAGE"
    wanted = os.environ.get(name) or sysimage.settings(found).get(name, without)
    assert running.resolve() == Path(wanted).resolve()


@pytest.mark.parametrize(
    ("script", "needed"),
    [
        ("layers.jl", ("Lux", "Zygote")),
        ("layers_by_adjoint.jl", ("Lux", "SciMLSensitivity", "Zygote")),
        ("device_code.jl", ("GPUCompiler", "JLArrays")),
    ],
)
def test_what_needs_further_packages_passes_its_own_tests(script: str, needed: tuple[str, ...]) -> None:
    found = environment.find()
    assert not isinstance(found, str)
    command = [found.executable, "--startup-file=no", f"--project={found.project}"]
    names = ", ".join(f'"{name}"' for name in needed)
    wanted = f"exit(all(name -> Base.find_package(name) !== nothing, ({names})) ? 0 : 3)"
    if subprocess.run([*command, "-e", wanted], check=False).returncode == 3:
        pytest.skip(f"{', '.join(needed)} are not all in this Julia environment: Pkg.add them to it for {script}")
    path = environment.package_folder() / "test" / script
    run = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_operation_means_in_julia_what_it_means_in_numpy() -> None:
    from pysciml.engines.julia.bridge import julia
    from pysciml.engines.julia.transfer import send

    builder = GraphBuilder(3, 1)
    leaves = [builder.state(0), builder.state(1), builder.state(2)]
    nodes = []
    for code in sorted(OPERATIONS):
        op = ops.OPS[code]
        if op.arity == 0 or code == ops.HISTORY:
            continue
        args = leaves[: op.arity]
        if code in (ops.POLYGAMMA, ops.BESSELJ, ops.BESSELY, ops.BESSELI, ops.BESSELK):
            args = [builder.constant(2.0), leaves[0]]
        nodes.append(builder.call(code, *args))
    nodes += [builder.call(ops.POW, leaves[0], builder.constant(e)) for e in (-3.0, 0.5, 9.0, -1.5, 20.0)]
    graph = builder.build({"all": nodes})
    module = julia()
    sent = send(graph)
    for u in ([0.3, 0.7, -1.2], [1.7, 0.4, 2.5], [-0.6, 1.1, 0.0], [2.0, 2.0, 1.0]):
        ours = graph.evaluate("all", np.array(u), np.zeros(1), 0.5)
        julias = np.asarray(module.evaluate(sent, graph.outputs["all"], np.array(u), np.zeros(1), 0.5))
        np.testing.assert_allclose(julias, ours, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("alg", [None, "Tsit5", "Vern9", "DP5", "BS3", "Rodas5P", "FBDF", "TRBDF2", "AutoTsit5"])
def test_lorenz_agrees_with_the_native_engine(alg: str | None) -> None:
    problem = lorenz()
    reference = ps.solve(problem, "Tsit5", engine="native", rtol=1e-12, atol=1e-12, saveat=0.5)
    sol = solve(problem, alg, rtol=1e-9, atol=1e-9, saveat=0.5)
    assert sol.attrs["engine"] == "julia"
    np.testing.assert_array_equal(sol.t, reference.t)
    loose = 2e-3 if alg in ("TRBDF2", "FBDF") else 2e-5
    for name in "xyz":
        np.testing.assert_allclose(sol[name], reference[name], rtol=loose, atol=loose)
    assert sol.attrs["n_steps"] > 10
    assert sol.attrs["n_rhs"] > sol.attrs["n_steps"]


@pytest.mark.parametrize("alg", [None, "Rodas5P", "FBDF", "QNDF", "Rodas4P"])
@pytest.mark.parametrize("conserved", [False, True])
def test_robertson_has_its_published_values(alg: str | None, conserved: bool) -> None:
    """Values at t = 40: A. C. Hindmarsh, LSODE (1980)."""
    sol = solve(robertson(conserved), alg, rtol=1e-8, atol=1e-12, saveat=[40.0])
    assert sol.a.item() == pytest.approx(0.7158270688, rel=1e-5)
    assert sol.b.item() == pytest.approx(0.9185534765e-5, rel=1e-5)
    assert sol.c.item() == pytest.approx(0.2841637457, rel=1e-5)


def test_a_large_sparse_system_has_the_solution_of_the_native_engine() -> None:
    n = 120
    u = ps.variables(f"u:{n}")
    k = ps.parameters("k")
    rates = [k * (u[i - 1] - 2 * u[i] + u[(i + 1) % n]) + u[i] * (1 - u[i]) for i in range(n)]
    system = ps.System([ps.Eq(D(v), rate) for v, rate in zip(u, rates, strict=True)])
    start = {v: 0.5 + 0.4 * math.sin(2 * math.pi * i / n) for i, v in enumerate(u)}
    problem = ps.Problem(system, start, (0, 1), {k: 400.0})
    ours = solve(problem, "FBDF", rtol=1e-8, atol=1e-8, saveat=[1.0])
    theirs = ps.solve(problem, "QNDF", engine="native", rtol=1e-10, atol=1e-10, saveat=[1.0])
    for v in (0, 37, 119):
        assert ours[f"u{v}"].item() == pytest.approx(theirs[f"u{v}"].item(), rel=1e-5)


def test_fixed_steps_have_their_order() -> None:
    """The error of a method of order q falls by 2**q when the step is halved."""
    (x,) = ps.variables("x,")
    problem = ps.Problem(ps.System([ps.Eq(D(x), x * sp.cos(t))]), {x: 1}, (0, 2))
    exact = math.exp(math.sin(2))
    for alg, order in (("Euler", 1), ("SSPRK22", 2)):
        errors = [abs(solve(problem, alg, dt=dt).x[-1].item() - exact) for dt in (0.1, 0.05, 0.025)]
        orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
        assert orders == pytest.approx([order, order], abs=0.25)


def test_backward_in_time() -> None:
    (x,) = ps.variables("x,")
    problem = ps.Problem(ps.System([ps.Eq(D(x), -x)]), {x: math.exp(-1)}, (1, 0))
    sol = solve(problem, rtol=1e-9, saveat=0.25)
    np.testing.assert_array_equal(sol.t, [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(sol.x, np.exp(-sol.t), rtol=1e-7)


def test_a_bouncing_ball() -> None:
    h, v = ps.variables("h v")
    system = ps.System([ps.Eq(D(h), v), ps.Eq(D(v), -9.81)], events=[ps.Event(h, {v: -0.8 * v}, direction="down")])
    sol = solve(ps.Problem(system, {h: 1, v: 0}, (0, 1.3)), "Tsit5", rtol=1e-9, atol=1e-9)
    first = math.sqrt(2 / 9.81)
    np.testing.assert_allclose(sol.attrs["event_times"], [first, first * 2.6], rtol=1e-8)
    assert sol.attrs["event_numbers"].tolist() == [0, 0]
    ended = ps.System([ps.Eq(D(h), v), ps.Eq(D(v), -9.81)], events=[ps.Event(h, terminal=True)])
    sol = solve(ps.Problem(ended, {h: 1, v: 0}, (0, 9)), saveat=0.1)
    assert sol.attrs["retcode"] == "Terminated"
    assert sol.t[-1].item() == pytest.approx(first, rel=1e-8)


def test_a_singularity_ends_with_what_was_computed() -> None:
    (x,) = ps.variables("x,")
    problem = ps.Problem(ps.System([ps.Eq(D(x), x**2)]), {x: 1}, (0, 2))
    with pytest.raises(SolverError) as caught:
        solve(problem, "Tsit5")
    assert caught.value.retcode in ("DtLessThanMin", "Unstable", "MaxIters")
    partial = caught.value.partial
    assert partial.t[-1].item() == pytest.approx(1, abs=1e-3)
    assert np.isfinite(partial.x).all()


def test_max_steps_is_kept() -> None:
    with pytest.raises(SolverError, match="max_steps = 10") as caught:
        solve(lorenz(), "Tsit5", max_steps=10)
    assert caught.value.retcode == "MaxIters"
    assert caught.value.partial.sizes["t"] <= 11


def test_an_impossible_algebraic_equation_is_an_initial_failure() -> None:
    x, y = ps.variables("x y")
    problem = ps.Problem(ps.System([ps.Eq(D(x), y), ps.Eq(0, y**2 + 1 + x**2)]), {x: 1}, (0, 1))
    with pytest.raises(SolverError) as caught:
        solve(problem)
    assert caught.value.retcode == "InitialFailure"


def test_julia_judges_the_algorithms_that_are_not_listed() -> None:
    assert solve(lorenz(), "Rodas4P").attrs["algorithm"] == "Rodas4P"
    for name in ("NoSuchThing", "run", "ODEProblem", "EM"):
        with pytest.raises(UnsupportedError, match=name):
            solve(lorenz(), name)
    with pytest.raises(ps.PySciMLError, match="dt"):
        solve(lorenz(), "Euler")


def test_options_of_an_algorithm_are_written_as_in_julia() -> None:
    low = solve(lorenz(), "FBDF(max_order=2)", rtol=1e-5, atol=1e-5)
    high = solve(lorenz(), "FBDF", rtol=1e-5, atol=1e-5)
    assert low.attrs["algorithm"] == "FBDF(max_order=2)"
    assert low.attrs["n_steps"] > 1.5 * high.attrs["n_steps"]
    with pytest.raises(UnsupportedError, match="no option order: it has"):
        solve(lorenz(), "FBDF(order=3)")


def test_a_network_is_a_term_like_any_other() -> None:
    (x,) = ps.variables("x,")
    network = ps.MLP("nn", inputs=1, outputs=1, hidden=(4,), activation="tanh")
    term = network(x)
    problem = ps.Problem(ps.System([ps.Eq(D(x), -x + term)]), {x: 1}, (0, 1))
    ours, theirs = (ps.solve(problem, engine=e, rtol=1e-9, atol=1e-9, saveat=[1.0]) for e in ("julia", "native"))
    assert ours.x.item() == pytest.approx(theirs.x.item(), rel=1e-7)


def test_parameters_and_initial_values_do_not_compile_again() -> None:
    problem = lorenz()
    solve(problem, "Tsit5")
    again = solve(problem.remake(u0={"x": 2.0}, p={"rho": 20.0}), "Tsit5")
    assert again.attrs["compile_seconds"] < 0.1
    assert again.x[0].item() == 2.0


def long_problem() -> ps.Problem:
    return lorenz().remake(tspan=(0, 1e5))


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_stops_a_solve_and_nothing_else() -> None:
    solve(lorenz(), "Tsit5")
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        solve(long_problem(), "Tsit5", max_steps=10**9)
    timer.join()
    assert caught.value.retcode == "Interrupted"
    assert 0 < caught.value.partial.t[-1].item() < 1e5
    assert solve(lorenz(), "Tsit5").attrs["retcode"] == "Success"


def test_python_goes_on_while_julia_solves() -> None:
    solve(lorenz(), "Tsit5")
    done = threading.Event()
    ended: list[BaseException | None] = []

    def work() -> None:
        try:
            solve(long_problem(), "Tsit5", max_steps=3_000_000, saveat=[1e5])
            ended.append(None)
        except Exception as error:
            ended.append(error)
        finally:
            done.set()

    threading.Thread(target=work, daemon=True).start()
    counted = 0
    deadline = time.monotonic() + 300
    while not done.is_set() and time.monotonic() < deadline:
        counted += 1
    assert done.is_set(), "the solve did not come back from its thread"
    assert isinstance(ended[0], SolverError), ended
    assert counted > 1000


def _in_a_fork(queue) -> None:
    try:
        solve(lorenz(), "Tsit5")
    except EngineUnavailableError as error:
        queue.put(str(error))


@pytest.mark.skipif(sys.platform != "linux", reason="fork is Linux's way")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX's, where an earlier test has loaded it
def test_after_a_fork_it_says_so() -> None:
    solve(lorenz(), "Tsit5")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_in_a_fork, args=(queue,))
    process.start()
    assert "fork" in queue.get(timeout=30)
    process.terminate()
    process.join()


def test_solves_failures_and_refusals_in_a_row_leave_the_memory_alone() -> None:
    import resource

    (x,) = ps.variables("x,")
    singular = ps.Problem(ps.System([ps.Eq(D(x), x**2)]), {x: 1}, (0, 2))
    problem = lorenz()

    def some(n: int) -> None:
        for i in range(n):
            solve(problem.remake(p={"rho": 20 + i % 7}), "Tsit5", saveat=0.01)
            if i % 10 == 0:
                with pytest.raises(SolverError):
                    solve(singular, "Tsit5")
                with pytest.raises(UnsupportedError):
                    solve(problem, "NoSuchThing")

    some(200)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    some(800)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 60_000  # KiB: 800 solutions of 3 * 201 numbers are 4 MB
    # The heap may have been large before: what is alive tells. It was 250 MB more when finished solves were held.
    import juliacall

    julia = juliacall.Main  # pyright: ignore[reportAttributeAccessIssue]
    alive = julia.seval("Base.gc_live_bytes")
    julia.GC.gc()
    julia.GC.gc()
    before = alive()
    some(800)
    julia.GC.gc()  # once: what only finalizers let go of is still there
    assert alive() - before < 30e6


def test_a_delay_equation_has_its_exact_solution() -> None:
    """x' = -x(t - 1), x = 1 before 0: polynomials between whole numbers (method of steps)."""
    (x,) = ps.variables("x,")
    (tau,) = ps.parameters("tau,")
    problem = ps.Problem(ps.System([ps.Eq(D(x), -x.subs(t, t - tau))]), {x: 1}, (0, 2), {tau: 1})
    sol = solve(problem, rtol=1e-9, atol=1e-9, saveat=0.25)
    times = sol.t.values
    exact = np.where(times <= 1, 1 - times, 1 - times + (times - 1) ** 2 / 2)
    np.testing.assert_allclose(sol.x, exact, atol=1e-7)


def test_the_pantograph_equation_has_its_exact_solution() -> None:
    """y' = -y(t/2): sum of (-t)**k / (k! 2**(k(k - 1)/2)); the delay grows from 0."""
    (y,) = ps.variables("y,")
    problem = ps.Problem(ps.System([ps.Eq(D(y), -y.subs(t, t / 2))]), {y: 1}, (0, 2))
    sol = solve(problem, rtol=1e-9, atol=1e-9, saveat=[2.0])
    exact = sum((-2.0) ** k / (math.factorial(k) * 2 ** (k * (k - 1) / 2)) for k in range(40))
    assert sol.y.item() == pytest.approx(exact, abs=1e-6)


def test_a_delay_that_depends_on_the_state_has_its_exact_solution() -> None:
    """y' = y*y(log(y))/t, y = 1 before 1: t, then exp(t/e) from e on (K. W. Neves, ACM TOMS 1 (1975) 357)."""
    (y,) = ps.variables("y,")
    problem = ps.Problem(ps.System([ps.Eq(D(y), y * y.subs(t, sp.log(y)) / t)]), {y: 1}, (1, math.e**2))
    times = np.array([1.5, 2.5, math.e, 4.0, 6.0, math.e**2])
    sol = solve(problem, rtol=1e-9, atol=1e-9, saveat=times)
    np.testing.assert_allclose(sol.y, np.where(times <= math.e, times, np.exp(times / math.e)), rtol=1e-6)


def test_stochastic_equations_have_their_moments_and_repeat_with_their_seed() -> None:
    (x,) = ps.variables("x,")
    a, b = ps.parameters("a b")
    w = ps.brownian("w")
    problem = ps.Problem(ps.System([ps.Eq(D(x), a * x + b * x * w)]), {x: 1}, (0, 1), {a: 0.5, b: 0.2})
    ends = np.array([solve(problem, "SOSRI", seed=k, rtol=1e-3, atol=1e-3, saveat=[1.0]).x.item() for k in range(400)])
    error = ends.std() / math.sqrt(len(ends))
    assert ends.mean() == pytest.approx(math.exp(0.5), abs=4 * error)
    assert np.log(ends).std() == pytest.approx(0.2, rel=0.15)
    again = solve(problem, "SOSRI", seed=7, rtol=1e-3, atol=1e-3, saveat=[1.0])
    assert again.x.item() == ends[7]
    assert again.attrs["seed"] == 7


def test_the_source_for_julia_computes_the_same_right_hand_side(tmp_path: Path) -> None:
    x, y = ps.variables("x y")
    a, b = ps.parameters("a b")
    system = ps.System(
        [
            ps.Eq(D(x, 2), -sp.sin(x) * a / 3 + sp.Piecewise((sp.sqrt(y), y > 0), (x**3 * sp.exp(x * y), True))),
            ps.Eq(D(y), b * sp.erf(x) - sp.Heaviside(t - 1) + sp.Max(x, y) ** sp.Rational(5, 2)),
        ],
        observed={"energy": x**2 / 2 + (x - (y - a))},
        name="a model",
    )
    (tmp_path / "model.jl").write_text(system.to_julia())
    (tmp_path / "run.jl").write_text(
        'include("model.jl")\ndu = zeros(3); out = zeros(1); u = [0.3, 0.2, -0.4]; p = [2.0, 0.7]\n'
        "rhs!(du, u, p, 1.5); observed!(out, u, p, 1.5); println(join([du; out], ' '))\n"
        "println(string(solve(problem(u, (0.0, 0.1), p), Tsit5()).retcode))\n"
    )
    found = environment.find()
    assert not isinstance(found, str)
    run = [found.executable, "--startup-file=no", f"--project={found.project}", str(tmp_path / "run.jl")]
    numbers, retcode = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split("\n")[:2]
    order = [system.parameter_index(q) for q in (a, b)]
    p = np.array([2.0, 0.7])
    assert sorted(order) == [0, 1]
    u = np.array([0.3, 0.2, -0.4])
    expected = np.concatenate([system.graph.evaluate(name, u, p, 1.5) for name in ("rhs", "observed")])
    np.testing.assert_allclose([float(number) for number in numbers.split()], expected, rtol=1e-14)
    assert retcode == "Success"


@pytest.mark.parametrize("algorithm", [None, "KenCarp4", "TRBDF2", "FBDF", "Rodas5P"])
def test_algebraic_unknowns_are_as_good_between_steps(algorithm: str | None) -> None:
    x, z = ps.variables("x z")
    decay = ps.System([ps.Eq(ps.D(x), -x), ps.Eq(z, x**2)])
    times = np.linspace(0, 2, 41)
    solution = ps.solve(
        ps.Problem(decay, {x: 1}, (0, 2)), algorithm, engine="julia", rtol=1e-7, atol=1e-9, saveat=times
    )
    np.testing.assert_allclose(solution.x, np.exp(-times), atol=1e-6)
    np.testing.assert_allclose(solution.z, np.exp(-2 * times), atol=1e-6)
