"""By which adjoint a training or a layer is differentiated: reading the option, and what goes with which."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pysciml.errors import ProblemError, UnsupportedError
from pysciml.hints import did_you_mean
from pysciml.neural.regularizers import ErrorEstimate, Regularizer, StiffnessEstimate

#: diffrax's adjoints and the options they have as text.
DIFFRAX: Final[dict[str, tuple[str, ...]]] = {
    "BacksolveAdjoint": (),
    "DirectAdjoint": (),
    "ForwardMode": (),
    "RecursiveCheckpointAdjoint": ("checkpoints",),
}
#: SciMLSensitivity's, continuous ones.
SENSITIVITY: Final[dict[str, tuple[str, ...]]] = {
    "BacksolveAdjoint": ("checkpointing",),
    "GaussAdjoint": ("checkpointing",),
    "GaussKronrodAdjoint": ("checkpointing",),
    "InterpolatingAdjoint": ("checkpointing",),
    "QuadratureAdjoint": (),
}
_LIBRARY: Final = {"jax": ("diffrax", DIFFRAX), "julia": ("SciMLSensitivity", SENSITIVITY)}


@dataclass(frozen=True)
class Adjoint:
    """An adjoint, checked.

    Attributes
    ----------
    text : str
        As it would be written; tells trainings apart.
    value : object
        The diffrax adjoint; on Julia the text again.
    given : bool
        Whether it was given as an object, which its text may not tell from another one.
    """

    text: str
    value: Any
    given: bool = False

    @property
    def forward(self) -> bool:
        """Whether it differentiates forward."""
        return type(self.value).__name__ == "ForwardMode"


def engine_of(given: Any) -> str | None:
    """The one engine that has this adjoint; None where several may."""
    if not isinstance(given, str):
        return None if given is None else "jax"
    name = given.partition("(")[0].strip()
    having = [engine for engine, (_, names) in _LIBRARY.items() if name in names]
    return having[0] if len(having) == 1 else None


def read_adjoint(
    given: Any, engine: str, regularizers: Sequence[Regularizer], stochastic: bool, by_rule: bool = False
) -> Adjoint | None:
    """The adjoint for an engine; None is the discrete one of the engine's own steps.

    Raises
    ------
    ProblemError
        If there is none of that name, or without such an option.
    UnsupportedError
        If the engine, the problem or a regularizer does not go with it.
    """
    if given is None:
        return None
    library, known = _LIBRARY[engine]
    found = _read_text(given, engine) if isinstance(given, str) else _read_object(given)
    if not isinstance(given, str) and engine != "jax":
        why = "an optimizer of Optimisers.jl" if by_rule else f"engine={engine!r}"
        raise UnsupportedError(
            f"adjoint={found.text} is diffrax's, and {why} trains on Julia: name one of {library}'s, "
            f"{', '.join(known)}",
            engine=engine,
        )
    if stochastic:
        raise UnsupportedError(
            f"adjoint={found.text!r} is for ordinary differential equations; a stochastic one is differentiated "
            "through the steps of its paths: leave adjoint out",
            engine=engine,
        )
    for regularizer in regularizers:
        if isinstance(regularizer, (ErrorEstimate, StiffnessEstimate)):
            name = type(regularizer).__name__
            raise UnsupportedError(
                f"{name} sums over all steps of the solver, through which it is differentiated (Pal et al. 2021); "
                f"adjoint={found.text!r} does not see them: leave adjoint out, or regularize by Local{name}, which "
                "takes one step (Pal et al. 2023)",
                engine=engine,
            )
    return found


def read_layer_adjoint(
    given: Any, layer: str, regularizers: Sequence[Regularizer], stochastic: bool = False
) -> Adjoint | None:
    """The adjoint for a layer of that name, on JAX; see `read_adjoint`."""
    if engine_of(given) == "julia":
        raise UnsupportedError(
            f"{layer}: adjoint={given!r} is SciMLSensitivity's, which the Lux layers of Julia have: for this one name "
            f"one of diffrax's, {', '.join(DIFFRAX)}",
            engine="jax",
        )
    return read_adjoint(given, "jax", regularizers, stochastic)


def _read_text(text: str, engine: str) -> Adjoint:
    whole = re.fullmatch(r"\s*([A-Za-z]\w*)\s*(?:\((.*)\))?\s*", text)
    if whole is None:
        raise ProblemError(
            f"adjoint={text!r} does not name one, as 'BacksolveAdjoint' and 'RecursiveCheckpointAdjoint(checkpoints = "
            "16)' do",
            symbol="adjoint",
        )
    name = whole[1]
    library, known = _LIBRARY[engine]
    if name not in known:
        for other, (its, names) in _LIBRARY.items():
            if name in names:
                raise UnsupportedError(
                    f"adjoint={name!r} is {its}'s: give engine={other!r}, or for engine={engine!r} one of {library}'s, "
                    f"{', '.join(known)}",
                    engine=engine,
                )
        everything = sorted({one for _, names in _LIBRARY.values() for one in names})
        raise ProblemError(
            f"adjoint={name!r} is none of {library}'s that training has ({', '.join(known)})"
            f"{did_you_mean(name, everything, quote=chr(39))}",
            symbol="adjoint",
        )
    options = _options(name, known[name], whole[2] or "")
    written = ", ".join(f"{option} = {str(value).lower()}" for option, value in options.items())
    plain = f"{name}({written})" if written else name
    if engine == "julia":
        return Adjoint(plain, plain)
    import diffrax

    return Adjoint(plain, getattr(diffrax, name)(**options))


def _options(name: str, known: tuple[str, ...], text: str) -> dict[str, Any]:
    """The options between parentheses: whole numbers, true and false."""
    found: dict[str, Any] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        pair = re.fullmatch(r"(\w+)\s*=\s*(\w+)", part)
        if pair is None or pair[1] not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            what = pair[1] if pair is not None else part
            raise ProblemError(f"adjoint: {name} has no option {what}: {has}", symbol="adjoint")
        option, value = pair[1], pair[2]
        whole_number = option == "checkpoints"
        if whole_number and value.isdecimal() and int(value) > 0:
            found[option] = int(value)
        elif not whole_number and value.lower() in ("true", "false"):
            found[option] = value.lower() == "true"
        else:
            wanted = "a positive integer" if whole_number else "true or false"
            raise ProblemError(f"adjoint: {option} of {name} must be {wanted}, not {value}", symbol="adjoint")
    return found


def _read_object(given: Any) -> Adjoint:
    diffrax = sys.modules.get("diffrax")  # who has an adjoint of diffrax's has imported it
    if diffrax is None or not isinstance(given, diffrax.AbstractAdjoint):
        raise ProblemError(
            f"adjoint must be the name of an adjoint, such as 'RecursiveCheckpointAdjoint' or with engine='julia' "
            f"'GaussAdjoint', or one of diffrax's, not {given!r}",
            symbol="adjoint",
        )
    if isinstance(given, diffrax.ImplicitAdjoint):
        raise UnsupportedError(
            f"adjoint=ImplicitAdjoint() differentiates steady states, not solutions over time: {', '.join(DIFFRAX)} do",
            engine="jax",
        )
    return Adjoint(repr(given), given, given=True)
