"""Exponential methods: which models have what they need.

The exponential Runge-Kutta methods take a linear part with constant coefficients exactly, by functions of its matrix,
and the rest explicitly. Others take the Jacobian of each step for the matrix.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

import numpy as np

from pysciml.engines.julia.algorithms import SEMILINEAR
from pysciml.engines.julia.fields import has_diagonal_part, has_linear_part
from pysciml.engines.julia.halves import Refuse
from pysciml.errors import UnsupportedError
from pysciml.graph import Model, ops

#: The methods of OrdinaryDiffEqExponentialRK whose matrix is the Jacobian: those of them that have their order only
#: where time is not in the equations, as they leave the derivative by time out.
LINEARIZING: Final = frozenset(
    {"Exp4", "EPIRK4s3A", "EPIRK4s3B", "EXPRB53s3", "EPIRK5P1", "EPIRK5P2", "Exprb32", "Exprb43"}
)


def check_exponential(model: Model, algorithm: str, engine: str) -> None:
    """Check that a model has what an exponential method needs.

    Raises
    ------
    UnsupportedError
        Naming the equation that does not fit.
    """
    name = algorithm.partition("(")[0]

    def refuse(why: str) -> NoReturn:
        raise UnsupportedError(f"{name} {why}", engine=engine, algorithm=algorithm)

    if name == "HochOst4" and re.search(r"krylov\s*=\s*true", algorithm):
        refuse("has order 1 in Krylov subspaces in OrdinaryDiffEqExponentialRK: ETDRK4 keeps its order there")
    if model.kind != "ode":
        refuse(f"solves ordinary equations, and {model.name!r} is {model.kind}: KenCarp4 and FBDF solve more")
    if name in LINEARIZING:
        if ops.TIME in model.graph.op[model.graph.reachable(model.graph.outputs["rhs"])]:
            refuse(
                f"leaves the derivative by time out, and loses its order where, as in {model.name!r}, time is in the "
                "equations: ETDRK4, KenCarp4 and Rodas5P have theirs"
            )
        return
    if model.events:
        refuse(f"has steps of one size, and events of {model.name!r} would end them early: KenCarp4 follows events")
    if model.fields:
        if not has_diagonal_part(model) and not has_linear_part(model):
            refuse(
                "solves equations with a part that is linear in the fields, with coefficients that do not change in "
                f"time, and {model.name!r} has none: KenCarp4 and FBDF do without"
            )
        return
    if "implicit" not in model.graph.outputs:
        refuse(
            f"solves a linear part exactly and the rest explicitly: mark the linear terms of {model.name!r} with "
            "pysciml.implicit(); KenCarp4 and FBDF do without"
        )
    _check_linear(model, refuse)


def _check_linear(model: Model, refuse: Refuse) -> None:
    """Whether the marked terms are linear in the states, with coefficients that do not depend on time."""
    graph, rows, _ = model.graph.jacobian("implicit")
    for row, entry in zip(rows.tolist(), graph.outputs["jacobian"].tolist(), strict=True):
        codes = graph.op[graph.reachable(np.array([entry], dtype=np.int32))]
        for code, what in ((ops.STATE, "linear in the states"), (ops.TIME, "free of time")):
            if code in codes:
                refuse(
                    "needs marked terms that are linear, with constant coefficients, and those in the equation for "
                    f"{model.states[row]} of {model.name!r} are not {what}: KenCarp4 takes any"
                )


def is_exponential(algorithm: str) -> bool:
    """Whether an algorithm is one of these methods."""
    name = algorithm.partition("(")[0]
    return name in SEMILINEAR or name in LINEARIZING
