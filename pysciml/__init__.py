"""pysciml: differential equations in SymPy, solved at compiled speed, back as labelled arrays."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from pysciml._version import __version__
from pysciml.engines.info import engines  # the function; the package keeps its modules
from pysciml.errors import (
    EngineUnavailableError,
    ModelError,
    ProblemError,
    PySciMLError,
    SolverError,
    UnsupportedError,
)
from pysciml.problem import Problem
from pysciml.solve import solve
from pysciml.symbolic import (
    MLP,
    D,
    Eq,
    Event,
    Jump,
    Network,
    System,
    brownian,
    implicit,
    load,
    parameters,
    t,
    variables,
)

if TYPE_CHECKING:
    from pysciml import neural, plot, testing
    from pysciml.comparing import compare
    from pysciml.ensemble import solve_ensemble
    from pysciml.fitting import fit
    from pysciml.gradients import gradient
    from pysciml.neural.regularizers import (
        ErrorEstimate,
        JacobianNorm,
        KineticEnergy,
        LocalErrorEstimate,
        LocalStiffnessEstimate,
        RandomEndTime,
        StiffnessEstimate,
        TaylorDerivative,
    )
    from pysciml.pde import (
        Dirichlet,
        Neumann,
        PDESystem,
        Periodic,
        Robin,
        coordinates,
        curl,
        div,
        fields,
        grad,
        integral,
        laplacian,
    )
    from pysciml.reduction import reduce_index
    from pysciml.simplification import simplify
    from pysciml.steady import steady_state

#: Loaded by first use, so that `import pysciml` stays light.
_LAZY = {
    "compare": ("pysciml.comparing", "compare"),
    "fit": ("pysciml.fitting", "fit"),
    "gradient": ("pysciml.gradients", "gradient"),
    "neural": ("pysciml.neural", None),
    "plot": ("pysciml.plot", None),
    "testing": ("pysciml.testing", None),
    **{
        name: ("pysciml.neural.regularizers", name)
        for name in (
            "ErrorEstimate",
            "JacobianNorm",
            "KineticEnergy",
            "LocalErrorEstimate",
            "LocalStiffnessEstimate",
            "RandomEndTime",
            "StiffnessEstimate",
            "TaylorDerivative",
        )
    },
    "solve_ensemble": ("pysciml.ensemble", "solve_ensemble"),
    "reduce_index": ("pysciml.reduction", "reduce_index"),
    "simplify": ("pysciml.simplification", "simplify"),
    "steady_state": ("pysciml.steady", "steady_state"),
    **{
        name: ("pysciml.pde", name)
        for name in (
            *("PDESystem", "Periodic", "Dirichlet", "Neumann", "Robin"),
            *("coordinates", "fields", "laplacian", "grad", "div", "curl", "integral"),
        )
    },
}

__all__ = [
    "MLP",
    "D",
    "Dirichlet",
    "EngineUnavailableError",
    "Eq",
    "ErrorEstimate",
    "Event",
    "JacobianNorm",
    "Jump",
    "KineticEnergy",
    "LocalErrorEstimate",
    "LocalStiffnessEstimate",
    "ModelError",
    "Network",
    "Neumann",
    "PDESystem",
    "Periodic",
    "Problem",
    "ProblemError",
    "PySciMLError",
    "RandomEndTime",
    "Robin",
    "SolverError",
    "StiffnessEstimate",
    "System",
    "TaylorDerivative",
    "UnsupportedError",
    "__version__",
    "brownian",
    "compare",
    "coordinates",
    "curl",
    "div",
    "engines",
    "fields",
    "fit",
    "grad",
    "gradient",
    "implicit",
    "integral",
    "laplacian",
    "load",
    "neural",
    "parameters",
    "plot",
    "reduce_index",
    "simplify",
    "solve",
    "solve_ensemble",
    "steady_state",
    "t",
    "testing",
    "variables",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        # With the module, Python adds what a misspelt name was meant to be.
        raise AttributeError(f"module 'pysciml' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    module, attribute = _LAZY[name]
    loaded = importlib.import_module(module)
    value = loaded if attribute is None else getattr(loaded, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
