"""`simplify`: a system with simpler expressions, through an engine that has a computer algebra system."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pysciml.engines import base
from pysciml.errors import ProblemError, UnsupportedError
from pysciml.graph import ops
from pysciml.hints import named_options
from pysciml.symbolic import System
from pysciml.symbolic.files import rebuild
from pysciml.symbolic.lowering import type_of_noise


@named_options()
def simplify(system: System, *, engine: str = "julia", expand: bool = False) -> System:
    """Simplify the expressions of a system; ``sympy.simplify`` does so for those of SymPy, more slowly.

    Parameters
    ----------
    system : System
    engine : str, default "julia"
        Who simplifies: the Julia engine has Symbolics.jl.
    expand : bool
        Multiply out sums before.

    Returns
    -------
    System
        With the same states, parameters, events and names; its equations are of first order. An
        expression is replaced where the new one has the same values at random places, and kept
        elsewhere: rules for simplification hold for complex numbers, or almost everywhere.

    Raises
    ------
    EngineUnavailableError
        If the engine is not set up.
    UnsupportedError
        If it cannot simplify, for partial differential equations, and for systems with networks.

    Examples
    --------
    >>> simplify(System([Eq(D(x), sympy.sin(x) ** 2 + sympy.cos(x) ** 2 - x)])).rhs
    (1 - x(t),)
    """
    given: Any = system
    if not isinstance(given, System):
        raise ProblemError(f"simplify takes a pysciml.System, not {type(given).__name__}")
    if system.model.fields:
        raise UnsupportedError(f"simplify takes equations of time alone, and {system.name!r} has fields")
    lowered = system._lowered
    graph = base.get(engine).simplified(system.graph, bool(expand))
    model = replace(system.model, graph=graph)
    if model.kind == "dde" and ops.HISTORY not in graph.used_ops():
        model = replace(model, kind="ode")
    if model.noise:
        noise = type_of_noise(graph, model.diffusion_rows, model.diffusion_cols, len(model.noise))
        model = replace(model, noise_type=noise)
    return rebuild(model, system.time, lowered.states, system.parameters, lowered.observed)
