"""What the engine has for partial differential equations, known without JAX."""

from __future__ import annotations

from typing import Final

from pysciml.engines.jax.algorithms import ALGORITHMS, ALIASES
from pysciml.errors import UnsupportedError
from pysciml.graph import Model, ops
from pysciml.graph import array_ops as ao

#: Methods that only partial differential equations are solved with.
FIELD_METHODS: Final = {
    "QNDF": "stiff, partial differential equations only: NDF, order 1 to 5, with a preconditioned Krylov method "
    "(Shampine & Reichelt 1997)",
    "ETDRK4": "partial differential equations on periodic domains only: exponential Runge-Kutta, order 4, fixed "
    "step dt (Cox & Matthews 2002, Kassam & Trefethen 2005)",
}
#: Stiff methods whose linear part alone is implicit here.
IMEX: Final = ("KenCarp3", "KenCarp4", "KenCarp5")
#: Stochastic methods for noise that is one process in each place.
SEPARATE: Final = ("RKMil", "SRIW1", "SOSRI", "SOSRA")
#: Methods that are stepped from the host.
FROM_HOST: Final = frozenset({*FIELD_METHODS, *IMEX})
_LACKING: Final = frozenset({ops.BESSELJ, ops.BESSELY, ops.BESSELI, ops.BESSELK, ops.HISTORY})


def check_fields(model: Model, algorithm: str | None) -> None:
    """Raise `UnsupportedError` for what the engine cannot do with a partial differential equation."""
    lacking = sorted(ao.describe(code).name for code in model.graph.used_ops() & _LACKING)
    if lacking:
        raise UnsupportedError(
            f"the jax engine cannot evaluate {', '.join(lacking)} (in the equations of {model.name!r})",
            engine="jax",
            algorithm=algorithm,
        )
    if model.kind == "sde":
        _check_noise(model, algorithm)
        return
    if algorithm is None or algorithm in FROM_HOST:
        return
    row = ALGORITHMS[ALIASES.get(algorithm, algorithm)]
    if row.kind != "ode" or row.family == "implicit":
        what = "factorizes a full matrix" if row.kind == "ode" else "is for stochastic equations"
        explicit = [n for n, a in ALGORITHMS.items() if a.kind == "ode" and a.family != "implicit"]
        raise UnsupportedError(
            f"{algorithm} {what}: for partial differential equations the jax engine has {', '.join(FIELD_METHODS)}, "
            f"{', '.join(IMEX)}, {', '.join(explicit)}",
            engine="jax",
            algorithm=algorithm,
        )


def _check_noise(model: Model, algorithm: str | None) -> None:
    """Raise for a method that is not for the noise of a stochastic partial differential equation."""
    name = ALIASES.get(algorithm or "EM", algorithm or "EM")
    if name == "EM":
        return
    if name not in SEPARATE:
        why = "is no method for stochastic partial differential equations here"
    elif name == "SOSRA" and model.noise_type != "additive":
        why = f"needs additive noise, and that of {model.name!r} depends on the fields"
    else:
        from pysciml.engines.jax.rossler import separate

        if separate(model):
            return
        why = "needs a noise of its own in each place"
    raise UnsupportedError(
        f"{name} {why}: the jax engine has EM for any, and {', '.join(SEPARATE)} where each place has its own",
        engine="jax",
        algorithm=algorithm,
    )
