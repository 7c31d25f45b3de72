"""`gradient`: how a quantity computed from a solution depends on parameters and initial values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from pysciml._version import __version__
from pysciml.engines.base import get
from pysciml.engines.manifold import refuse_constraints
from pysciml.errors import ProblemError
from pysciml.hints import named_options
from pysciml.options import read_options
from pysciml.problem import Problem, require_problem

#: Up to this many inputs the forward equations are solved by default.
_FEW = 8
_METHODS = ("auto", "forward", "checkpointed", "adjoint")


class SolutionView:
    """What a function under differentiation gets: the solution's arrays by name, over time.

    ``view.x`` and ``view["x"]`` are the state or observed quantity x as a JAX array of shape
    (n_t,); ``view.t`` is the time.
    """

    def __init__(self, arrays: dict[str, Any]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: Any) -> Any:
        key = str(name) if str(name) in self._arrays else getattr(getattr(name, "func", None), "__name__", str(name))
        if key not in self._arrays:
            raise ProblemError(f"of: the solution has no {key!r}; it has {', '.join(self._arrays)}", symbol=str(name))
        return self._arrays[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]


@named_options()
def gradient(
    problem: Problem,
    of: Callable[[Any], Any] | Any,
    wrt: Iterable[Any] | None = None,
    alg: str | None = None,
    *,
    method: Literal["auto", "forward", "checkpointed", "adjoint"] = "auto",
    saveat: float | npt.ArrayLike | None = None,
    rtol: float = 1e-8,
    atol: float = 1e-10,
    dt: float | None = None,
    max_steps: int = 1_000_000,
    seed: int | None = None,
) -> xr.Dataset:
    """Differentiate a quantity computed from the solution.

    Parameters
    ----------
    problem : Problem
        Of ordinary equations, also with events, whose times move with what they depend on; or of
        stochastic equations, whose path is held fixed; or of partial differential equations, by
        ``"forward"`` for parameters and by ``"checkpointed"`` for initial fields, too.
    of : symbol, name, or callable
        A state or observed quantity, differentiated at every output time; or a function of the
        solution that returns one number, written with ``jax.numpy``: ``lambda sol:
        ((sol.x - data)**2).sum()``.
    wrt : list, optional
        Parameters and states (their initial values), symbols or names; by default all parameters.
    alg : str, optional
        An algorithm of the JAX engine; by default Tsit5. Stiff problems need Kvaerno5 or KenCarp4.
    method : {"auto", "forward", "checkpointed", "adjoint"}
        ``"forward"`` solves the variational equations along with the states (cost: the number of
        inputs); with events or noise it differentiates the numerical solution instead.
        ``"checkpointed"`` goes back through the numerical solution, recomputing from checkpoints
        (cost: independent of the number of inputs; memory: bounded). ``"adjoint"`` solves the
        continuous adjoint equation backward over the stored solution (cost: independent of the
        number of inputs; memory: the number of steps; ordinary equations without events).
        ``"auto"`` takes the first for names and for up to 8 inputs, the second else.
    saveat : float or array of float, optional
        Output times as for `solve`; by default the end alone, which is the event where a terminal
        one ends the solve (``sol.t[-1]`` is its time, and can be differentiated).
    rtol, atol, dt, max_steps
        As for `solve`; tighter by default.
    seed : int, optional
        Of the path of a stochastic equation, as for `solve`.

    Returns
    -------
    xarray.Dataset
        ``value``, and its derivative by each input: under the parameter's name, or the state's with
        the suffix ``_initial``. Over ``t`` (and the coordinates of a field) where ``of`` is a
        quantity, single numbers where it is a function; the derivative by an initial field is a field.

    Raises
    ------
    ProblemError
        Naming what is not a quantity or an input of the system.
    UnsupportedError, EngineUnavailableError, SolverError
        As `solve`.

    Examples
    --------
    >>> gradient(problem, of=x, wrt=[a, b]).a  # d x(t_end) / d a
    >>> loss = gradient(problem, of=lambda sol: ((sol.x - data) ** 2).sum(), wrt=["a", "x"], saveat=times)
    """
    require_problem(problem, "gradient")
    if method not in _METHODS:
        known = ", ".join(map(repr, _METHODS))
        raise ProblemError(f"method must be one of {known}, not {method!r}", symbol="method")
    options = read_options(
        problem.tspan,
        rtol=rtol,
        atol=atol,
        saveat=saveat,
        dt=dt,
        max_steps=max_steps,
        seed=seed,
        progress=False,
    )
    if problem.system.model.fields:
        from pysciml.pde.gradient import gradient as of_fields

        return of_fields(cast("Any", problem), of, wrt, alg, method, options)
    inputs = _read_inputs(problem, wrt)
    model = problem.system.model
    names = (*model.states, *model.observed)
    function: Callable[[Any], Any] | None = of if callable(of) and not hasattr(of, "free_symbols") else None
    quantity = _read_quantity(problem, of) if function is None else None
    engine = get("jax")
    engine.check(model, alg)
    refuse_constraints(model, "jax")

    from pysciml.engines.jax.engine import choose, with_step
    from pysciml.engines.jax.gradient import goes_forward
    from pysciml.engines.jax.gradient import gradient as differentiate

    def evaluate(u: Any, observed: Any, t: Any) -> Any:
        view = SolutionView({**dict(zip(names, [*u, *observed], strict=True)), "t": t})
        if function is None:
            return view[quantity]
        return one_number(function(view))

    name = choose(model, alg)
    options = with_step(model, alg, problem.tspan, options)
    few = (quantity is not None or len(inputs) <= _FEW) and goes_forward(name)
    chosen = ("forward" if few else "checkpointed") if method == "auto" else method
    by_p, by_u0 = (
        np.array([index for _, is_state, index in inputs if is_state is kind], dtype=np.intp) for kind in (False, True)
    )
    value, slopes, t, path = differentiate(
        model,
        problem.u0,
        problem.p,
        problem.tspan,
        name,
        options,
        evaluate,
        chosen,
        function or quantity,
        by_p,
        by_u0,
    )
    dims = () if quantity is None else ("t",)
    variables: dict[str, Any] = {"value": (dims, value)}
    # Parameters come first, then initial values, each in the order asked for.
    ordered = sorted(inputs, key=lambda entry: entry[1])
    columns = {label: (dims, slopes[..., k]) for k, (label, _, _) in enumerate(ordered)}
    variables |= {label: columns[label] for label, _, _ in inputs}
    coords = {} if quantity is None else {"t": t}
    attrs: dict[str, Any] = {
        "of": quantity or "function",
        "method": chosen,
        "engine": "jax",
        "algorithm": name,
        "model": problem.system.name,
        "pysciml_version": __version__,
    }
    if model.kind == "sde":
        attrs["seed"] = path
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def one_number(value: Any) -> Any:
    """What a function of the solution returned, if it is one real number."""
    dtype = np.dtype(float) if isinstance(value, float) else getattr(value, "dtype", None)
    if dtype is None or not np.issubdtype(dtype, np.floating):
        raise ProblemError(
            f"of must return a real number computed from the solution by jax.numpy, not {value!r}", symbol="of"
        )
    if np.shape(value) != ():
        raise ProblemError(
            f"of must return one number, not an array of shape {np.shape(value)}; sum over it", symbol="of"
        )
    return value


def _read_inputs(problem: Problem, wrt: Iterable[Any] | None) -> list[tuple[str, bool, int]]:
    """(label, whether it is an initial value, position) of each input."""
    system = problem.system
    if wrt is None:
        return [(name, False, i) for i, name in enumerate(system.model.parameters)]
    if isinstance(wrt, str) or not isinstance(wrt, Iterable):
        wrt = [wrt]
    found: list[tuple[str, bool, int]] = []
    for key in wrt:
        index = system.parameter_index(key)
        if index is not None:
            found.append((system.model.parameters[index], False, index))
            continue
        index = system.state_index(key)
        if index is None:
            known = ", ".join((*system.model.parameters, *system.model.states))
            raise ProblemError(f"wrt: {key} is neither a parameter nor a state ({known})", symbol=str(key))
        found.append((f"{system.model.states[index]}_initial", True, index))
    if not found:
        raise ProblemError("wrt is empty: name at least one parameter or state", symbol="wrt")
    return found


def _read_quantity(problem: Problem, of: Any) -> str:
    """The name of a state or observed quantity."""
    system = problem.system
    index = system.state_index(of)
    if index is not None:
        return system.model.states[index]
    name = getattr(of, "name", None) or str(of)
    if name in system.model.observed:
        return name
    known = ", ".join((*system.model.states, *system.model.observed))
    raise ProblemError(f"of: {of} is neither a state nor observed ({known}), nor a function", symbol=str(of))
