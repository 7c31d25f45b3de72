"""Neural differential equations as layers of larger models, and what makes them cheap to solve.

The layers are Equinox modules and need JAX; the regularizers are descriptions and need nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pysciml.neural.regularizers import (
    ErrorEstimate,
    JacobianNorm,
    KineticEnergy,
    LocalErrorEstimate,
    LocalStiffnessEstimate,
    RandomEndTime,
    Regularizer,
    StiffnessEstimate,
    TaylorDerivative,
)

if TYPE_CHECKING:
    from pysciml.neural.latent import LatentODE
    from pysciml.neural.layers import NeuralODE, NeuralSDE, Solved

_LAZY = {
    "LatentODE": "pysciml.neural.latent",
    "NeuralODE": "pysciml.neural.layers",
    "NeuralSDE": "pysciml.neural.layers",
    "Solved": "pysciml.neural.layers",
}

__all__ = [
    "ErrorEstimate",
    "JacobianNorm",
    "KineticEnergy",
    "LatentODE",
    "LocalErrorEstimate",
    "LocalStiffnessEstimate",
    "NeuralODE",
    "NeuralSDE",
    "RandomEndTime",
    "Regularizer",
    "Solved",
    "StiffnessEstimate",
    "TaylorDerivative",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'pysciml.neural' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    except ImportError as error:
        from pysciml.errors import EngineUnavailableError

        raise EngineUnavailableError(
            f'pysciml.neural.{name} needs JAX and Equinox: run `pip install "pysciml[jax]"` ({error})', engine="jax"
        ) from error
    globals()[name] = value
    return value
