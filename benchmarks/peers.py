"""The solvers compared, each behind one function: given a problem and a tolerance, a call to time and a way to
read its values.

What can be prepared once is prepared before the clock starts (compiled right-hand sides, integrator objects),
as it is for pysciml.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.problems import GRID, TestProblem

#: pysciml with the engine that is not embedded; left out where Julia is not set up.
ON_JULIA = "pysciml on Julia"
#: pysciml with the Julia engine, which is not embedded: left out, with the reason, where Julia is not set up.
ON_JULIA = "pysciml (Julia)"
#: Stiff problems on which explicit methods, too, end within a second or so.
MILD = {"hires", "brusselator"}


@dataclass(frozen=True)
class Run:
    """One solver on one problem at one tolerance.

    ``call()`` is what is timed, ``values(call())`` is the solution, ``(n, n_times)``.
    """

    call: Callable[[], Any]
    values: Callable[[Any], np.ndarray]


@dataclass(frozen=True)
class Solver:
    """A library and one of its methods; ``prepare`` raises `Unfit` where the method is no candidate."""

    library: str
    method: str
    prepare: Callable[[TestProblem, float, float], Run]

    @property
    def label(self) -> str:
        """Library and method."""
        return f"{self.library} {self.method}"


class Unfit(Exception):
    """Why a solver is not run on a problem."""


def load(name: str) -> ModuleType:
    """Import a peer, or say that it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unfit(f"{name} is not installed") from error


def explicit_only_where_sensible(problem: TestProblem) -> None:
    """Raise for an explicit method on a problem that is too stiff for it."""
    if problem.stiff and problem.name not in MILD:
        raise Unfit("explicit method, stiff problem")


# --- pysciml ------------------------------------------------------------------------------------------------


@functools.cache
def pysciml_problem(name: str) -> Any:
    """Build the problem once: models are compiled per problem, not per call."""
    from benchmarks.problems import by_name

    return by_name(name).pysciml()


def pysciml(
    algorithm: str | None, explicit: bool = False, engine: str = "native", large: bool = True
) -> Callable[[TestProblem, float, float], Run]:
    """Time the whole public call, from the `Problem` to the Dataset."""

    def prepare(problem: TestProblem, rtol: float, atol: float) -> Run:
        import pysciml as ps

        info = ps.engines()[engine]
        if not info.available:
            raise Unfit(info.why_not)
        if explicit:
            explicit_only_where_sensible(problem)
        if problem.n > 500 and not large:
            raise Unfit("left to the methods for large systems")
        built = pysciml_problem(problem.name)
        times = np.array([problem.tspan[0], *problem.times])
        names = problem.states

        def call() -> Any:
            return ps.solve(built, algorithm, engine=engine, rtol=rtol, atol=atol, saveat=times)

        return Run(call, lambda sol: np.array([sol[name].values[1:] for name in names]))

    return prepare


# --- SciPy --------------------------------------------------------------------------------------------------


def plain_rhs(problem: TestProblem) -> Callable[[float, np.ndarray], Any]:
    """Write the right-hand side as a SciPy user would: Python floats when small, whole arrays when large."""
    p, formula, vector = dict(problem.p), problem.rhs, problem.vector_rhs
    if vector is not None:
        return lambda t, y: vector(t, y, p, np)
    return lambda t, y: formula(t, y.tolist(), p, math)


def python_source(problem: TestProblem, what: str) -> Callable[..., Any]:
    """Generate ``rhs(t, y, out)`` or ``jacobian(t, y)`` as straight-line Python, common subexpressions shared.

    The text comes from this package's own formulas only.
    """
    import sympy as sp

    t, y = sp.Symbol("t"), sp.symbols(f"y0:{problem.n}")
    right = sp.Matrix(list(problem.rhs(t, y, problem.p, sp)))
    wanted = list(right) if what == "rhs" else list(right.jacobian(sp.Matrix(y)))
    shared, results = sp.cse(wanted, symbols=sp.numbered_symbols("c"))
    lines = [f"{symbol} = y[{i}]" for i, symbol in enumerate(y)]
    lines += [f"{symbol} = {sp.pycode(value)}" for symbol, value in shared]
    lines += [f"out[{i}] = {sp.pycode(value)}" for i, value in enumerate(results)]
    source = f"def {what}(t, y, out):\n    " + "\n    ".join(lines)
    namespace: dict[str, Any] = {"math": math}
    exec(compile(source, f"<{what} of {problem.name}>", "exec"), namespace)  # noqa: S102
    return namespace[what]


@functools.cache
def brusselator_sparsity() -> Any:
    """Pattern of the Brusselator's Jacobian."""
    import scipy.sparse as ss

    size = GRID * GRID
    ring = ss.diags([1, 1, 1, 1, 1], [0, 1, -1, GRID - 1, 1 - GRID], shape=(GRID, GRID))
    one = ss.eye(GRID)
    lattice = ss.kron(ring, one) + ss.kron(one, ring)
    return ss.csc_matrix(ss.bmat([[lattice, ss.eye(size)], [ss.eye(size), lattice]]) != 0)


def plain_jacobian(problem: TestProblem) -> dict[str, Any]:
    """Options that give SciPy's implicit methods what helps them most."""
    if problem.name == "brusselator":
        return {"jac_sparsity": brusselator_sparsity()}
    if problem.n > 12:
        return {}
    function, n = python_source(problem, "jacobian"), problem.n

    def jacobian(t: float, y: np.ndarray) -> np.ndarray:
        out = [0.0] * (n * n)
        function(t, y.tolist(), out)
        return np.array(out).reshape(n, n)

    return {"jac": jacobian}


def scipy_solve_ivp(method: str, implicit: bool, compiled: bool = False) -> Callable[[TestProblem, float, float], Run]:
    """`scipy.integrate.solve_ivp`; ``compiled`` takes the right-hand side that numba made."""

    def prepare(problem: TestProblem, rtol: float, atol: float) -> Run:
        import scipy.integrate

        if not implicit:
            explicit_only_where_sensible(problem)
        if rtol < 1e-13:
            raise Unfit("SciPy raises such tolerances")
        rhs = numba_rhs_for_scipy(problem.name) if compiled else plain_rhs(problem)
        options = plain_jacobian(problem) if implicit else {}
        if method == "LSODA" and "jac_sparsity" in options:
            raise Unfit("no sparse Jacobians")
        u0, times = np.array(problem.u0), np.array(problem.times)

        def call() -> Any:
            return scipy.integrate.solve_ivp(
                rhs, problem.tspan, u0, method=method, t_eval=times, rtol=rtol, atol=atol, **options
            )

        return Run(call, lambda sol: sol.y)

    return prepare


def scipy_odeint(compiled: bool = False) -> Callable[[TestProblem, float, float], Run]:
    """`scipy.integrate.odeint`: LSODA with the stepping, too, in compiled code."""

    def prepare(problem: TestProblem, rtol: float, atol: float) -> Run:
        import scipy.integrate

        rhs = numba_rhs_for_scipy(problem.name) if compiled else plain_rhs(problem)
        if problem.n > 500:
            raise Unfit("no sparse Jacobians")
        options: dict[str, Any] = {}
        jacobian = plain_jacobian(problem).get("jac") if problem.stiff else None
        if jacobian is not None:
            options["Dfun"] = jacobian
        u0, times = np.array(problem.u0), np.array([problem.tspan[0], *problem.times])

        def call() -> Any:
            return scipy.integrate.odeint(
                rhs, u0, times, rtol=rtol, atol=atol, mxstep=10**6, tfirst=True, printmessg=False, **options
            )

        return Run(call, lambda y: y[1:].T)

    return prepare


# --- numba and numbalsoda -----------------------------------------------------------------------------------


@functools.cache
def numba_rhs(name: str) -> Any:
    """Compile ``rhs(t, y, out)`` with numba."""
    from benchmarks.problems import by_name

    numba = load("numba")
    problem = by_name(name)
    if problem.name != "brusselator":
        return numba.njit(error_model="numpy", fastmath=False)(python_source(problem, "rhs"))
    a, b, stiffness = problem.p["a"], problem.p["b"], problem.p["alpha"] * GRID**2
    n, size = GRID, GRID * GRID

    def rhs(t: float, y: Any, out: Any) -> None:
        for i in range(n):
            above, below = ((i + 1) % n) * n, ((i - 1) % n) * n
            for j in range(n):
                right, left, here = (j + 1) % n, (j - 1) % n, i * n + j
                u, v = y[here], y[size + here]
                spread_u = y[above + j] + y[below + j] + y[i * n + right] + y[i * n + left] - 4 * u
                spread_v = (
                    y[size + above + j] + y[size + below + j] + y[size + i * n + right] + y[size + i * n + left] - 4 * v
                )
                reaction = u * u * v
                out[here] = b + reaction - (a + 1) * u + stiffness * spread_u
                out[size + here] = a * u - reaction + stiffness * spread_v

    return numba.njit(error_model="numpy")(rhs)


@functools.cache
def numba_rhs_for_scipy(name: str) -> Any:
    """Wrap the compiled right-hand side as SciPy calls it: a fresh array out."""
    numba = load("numba")
    inner = numba_rhs(name)

    @numba.njit
    def rhs(t: float, y: Any) -> Any:
        out = np.empty_like(y)
        inner(t, y, out)
        return out

    return rhs


@functools.cache
def numbalsoda_address(name: str) -> Any:
    """Compile to a C function of numbalsoda's signature; the returned object holds its address."""
    from benchmarks.problems import by_name

    numba, numbalsoda = load("numba"), load("numbalsoda")
    inner, n = numba_rhs(name), by_name(name).n

    @numba.cfunc(numbalsoda.lsoda_sig)
    def rhs(t: float, u: Any, du: Any, p: Any) -> None:
        inner(t, numba.carray(u, (n,)), numba.carray(du, (n,)))

    return rhs


def numbalsoda(method: str) -> Callable[[TestProblem, float, float], Run]:
    """numbalsoda's ``lsoda`` or ``dop853``."""

    def prepare(problem: TestProblem, rtol: float, atol: float) -> Run:
        library = load("numbalsoda")
        if method == "dop853":
            explicit_only_where_sensible(problem)
        elif problem.n > 500:
            raise Unfit("its LSODA has dense Jacobians only")
        solve, address = getattr(library, method), numbalsoda_address(problem.name).address
        u0, times = np.array(problem.u0), np.array([problem.tspan[0], *problem.times])

        def call() -> Any:
            return solve(address, u0, times, rtol=rtol, atol=atol)

        def values(outcome: Any) -> np.ndarray:
            return outcome[0][1:].T if outcome[1] else np.full((problem.n, len(problem.times)), np.nan)

        return Run(call, values)

    return prepare


# --- CasADi -------------------------------------------------------------------------------------------------


def casadi(method: str) -> Callable[[TestProblem, float, float], Run]:
    """CasADi's interface to CVODES, with the sparse exact Jacobian it derives."""

    def prepare(problem: TestProblem, rtol: float, atol: float) -> Run:
        ca = load("casadi")
        if method == "adams" and problem.stiff:
            raise Unfit("Adams method with functional iteration, stiff problem")
        y, t = ca.SX.sym("y", problem.n), ca.SX.sym("t")
        parts = ca.vertsplit(y)
        p = ca.SX.sym("p", len(problem.p))
        right = problem.rhs(t, parts, dict(zip(problem.p, ca.vertsplit(p), strict=True)), ca)
        options = {
            "reltol": rtol,
            "abstol": atol,
            "max_num_steps": 10**6,
            "linear_multistep_method": method,
            "nonlinear_solver_iteration": "functional" if method == "adams" else "newton",
        }
        dae = {"x": y, "t": t, "p": p, "ode": ca.vertcat(*right)}
        integrator = ca.integrator("peer", "cvodes", dae, problem.tspan[0], list(problem.times), options)
        u0, parameters = np.array(problem.u0), np.array(list(problem.p.values()))

        def call() -> Any:
            return integrator(x0=u0, p=parameters)["xf"]

        return Run(call, lambda xf: np.array(xf))

    return prepare


# --- diffrax ------------------------------------------------------------------------------------------------


def diffrax(method: str, implicit: bool) -> Callable[[TestProblem, float, float], Run]:
    """diffrax, jitted, in double precision."""

    def prepare(problem: TestProblem, rtol: float, atol: float) -> Run:
        library, jax = load("diffrax"), load("jax")
        if not implicit:
            explicit_only_where_sensible(problem)
        elif problem.n > 500:
            raise Unfit("dense Jacobians only")
        call, u0, parameters = diffrax_function(problem.name, method)
        tolerances = (jax.numpy.float64(rtol), jax.numpy.float64(atol))
        assert library is not None
        return Run(
            lambda: jax.block_until_ready(call(u0, parameters, *tolerances)),
            lambda y: np.asarray(y).T,
        )

    return prepare


@functools.cache
def diffrax_function(name: str, method: str) -> Any:
    """Compile once per problem and method; tolerances are arguments."""
    from benchmarks.problems import by_name

    library, jax = load("diffrax"), load("jax")
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    problem = by_name(name)
    formula, vector = problem.rhs, problem.vector_rhs

    def field(t: Any, y: Any, p: Any) -> Any:
        if vector is not None:
            return vector(t, y, p, jnp)
        return jnp.stack(list(formula(t, list(y), p, jnp)))

    times = jnp.array(problem.times)

    @jax.jit
    def call(u0: Any, p: Any, rtol: Any, atol: Any) -> Any:
        return library.diffeqsolve(
            library.ODETerm(field),
            getattr(library, method)(),
            problem.tspan[0],
            problem.tspan[1],
            None,
            u0,
            p,
            saveat=library.SaveAt(ts=times),
            stepsize_controller=library.PIDController(rtol=rtol, atol=atol),
            max_steps=10**5,
            throw=False,
        ).ys

    return call, jnp.array(problem.u0), {k: jnp.float64(v) for k, v in problem.p.items()}


SOLVERS: tuple[Solver, ...] = (
    Solver("pysciml", "auto", pysciml(None)),
    Solver("pysciml", "Tsit5", pysciml("Tsit5", explicit=True)),
    Solver("pysciml", "TRBDF2", pysciml("TRBDF2")),
    Solver("pysciml", "ESDIRK34", pysciml("ESDIRK34")),
    Solver("pysciml", "QNDF", pysciml("QNDF")),
    Solver(ON_JULIA, "auto", pysciml(None, engine="julia")),
    Solver(ON_JULIA, "Tsit5", pysciml("Tsit5", explicit=True, engine="julia")),
    Solver(ON_JULIA, "Vern9", pysciml("Vern9", explicit=True, engine="julia")),
    Solver(ON_JULIA, "Rodas5P", pysciml("Rodas5P", engine="julia", large=False)),
    Solver(ON_JULIA, "FBDF", pysciml("FBDF", engine="julia")),
    Solver("SciPy", "RK45", scipy_solve_ivp("RK45", implicit=False)),
    Solver("SciPy", "DOP853", scipy_solve_ivp("DOP853", implicit=False)),
    Solver("SciPy", "LSODA", scipy_solve_ivp("LSODA", implicit=True)),
    Solver("SciPy", "BDF", scipy_solve_ivp("BDF", implicit=True)),
    Solver("SciPy", "Radau", scipy_solve_ivp("Radau", implicit=True)),
    Solver("SciPy", "odeint", scipy_odeint()),
    Solver("SciPy + numba", "DOP853", scipy_solve_ivp("DOP853", implicit=False, compiled=True)),
    Solver("SciPy + numba", "odeint", scipy_odeint(compiled=True)),
    Solver("numbalsoda", "lsoda", numbalsoda("lsoda")),
    Solver("numbalsoda", "dop853", numbalsoda("dop853")),
    Solver("CasADi", "CVODES BDF", casadi("bdf")),
    Solver("CasADi", "CVODES Adams", casadi("adams")),
    Solver("diffrax", "Tsit5", diffrax("Tsit5", implicit=False)),
    Solver("diffrax", "Dopri8", diffrax("Dopri8", implicit=False)),
    Solver("diffrax", "Kvaerno5", diffrax("Kvaerno5", implicit=True)),
)

LIBRARIES: tuple[str, ...] = tuple(dict.fromkeys(solver.library for solver in SOLVERS))
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "pysciml": ("pysciml", "pydiffsol"),
    ON_JULIA: ("juliacall",),
    "SciPy": ("scipy",),
    "SciPy + numba": ("scipy", "numba"),
    "numbalsoda": ("numbalsoda", "numba"),
    "CasADi": ("casadi",),
    "diffrax": ("diffrax", "jax"),
}


def versions() -> dict[str, str]:
    """What is installed of each library; ``not installed`` where it is not."""
    found = {}
    for library, names in DISTRIBUTIONS.items():
        try:
            found[library] = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
        except importlib.metadata.PackageNotFoundError as error:
            found[library] = f"not installed ({error})"
    import pysciml as ps

    julia = ps.engines()["julia"]
    found[ON_JULIA] = f"{julia.version}, {found[ON_JULIA]}" if julia.available else f"left out ({julia.why_not})"
    return found
