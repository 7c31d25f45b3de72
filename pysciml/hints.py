"""What a misspelt name was meant to be, and options that do not exist: sentences for slips of the keyboard."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Final, ParamSpec, TypeVar

from pysciml.errors import ProblemError, PySciMLError

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

#: What other libraries call it, and what it is called here: the first that the function has.
_ELSEWHERE: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("abstol", "abs_tol"), ("atol",)),
    **dict.fromkeys(("reltol", "rel_tol"), ("rtol",)),
    **dict.fromkeys(("t_eval", "save_at", "teval", "times"), ("saveat",)),
    **dict.fromkeys(("method", "algorithm", "solver"), ("alg", "solvers", "scheme")),
    **dict.fromkeys(("backend",), ("engine",)),
    **dict.fromkeys(("dt0", "step_size", "first_step", "h0"), ("dt",)),
    **dict.fromkeys(("maxiters", "max_iter", "maxiter", "max_iters"), ("max_steps", "epochs")),
    **dict.fromkeys(("random_state", "key", "rng"), ("seed",)),
    **dict.fromkeys(("args", "params", "parameters", "ps"), ("p", "parameters", "trainable", "over")),
    **dict.fromkeys(("y0", "x0", "initial", "u"), ("u0", "initial")),
    **dict.fromkeys(("t_span", "t", "span"), ("tspan",)),
    **dict.fromkeys(("eqs", "eqns"), ("equations",)),
    **dict.fromkeys(("obs", "outputs", "observables"), ("observed",)),
    **dict.fromkeys(("n", "n_trajectories", "num_trajectories", "n_paths", "samples"), ("trajectories", "points")),
    **dict.fromkeys(("sweep", "grid"), ("over", "points")),
    **dict.fromkeys(("lr", "eta", "step"), ("learning_rate",)),
    **dict.fromkeys(("n_epochs", "num_epochs", "iterations", "n_iter"), ("epochs",)),
    **dict.fromkeys(("reg", "regularizer", "regularizers", "regularization"), ("regularize",)),
    **dict.fromkeys(("sensealg", "sensitivity", "gradient"), ("adjoint",)),
    **dict.fromkeys(("tols", "tol", "rtols"), ("tolerances", "rtol")),
    **dict.fromkeys(("in_size", "in_features", "n_in"), ("inputs",)),
    **dict.fromkeys(("out_size", "out_features", "n_out"), ("outputs",)),
    **dict.fromkeys(("layers", "width", "widths", "hidden_sizes"), ("hidden",)),
    **dict.fromkeys(("act",), ("activation",)),
    **dict.fromkeys(("dir",), ("direction",)),
    **dict.fromkeys(("coefficient", "coeff", "lam"), ("weight",)),
    **dict.fromkeys(("bc", "bcs", "boundaries"), ("boundary",)),
    **dict.fromkeys(("ic", "ics"), ("initial", "u0")),
    **dict.fromkeys(("left", "bottom"), ("lower",)),
    **dict.fromkeys(("right", "top"), ("upper",)),
}


def did_you_mean(text: str, known: Iterable[str], quote: str = "") -> str:
    """The end of a message that a name is not known: ``"; did you mean x?"``, or nothing.

    Parameters
    ----------
    text : str
        What was given; upper and lower case are the same.
    known : iterable of str
    quote : str, default ""
        What to put around the name.
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(text.lower(), by_lower, n=1)
    return f"; did you mean {quote}{by_lower[close[0]]}{quote}?" if close else ""


def named_options(error: Callable[[str], PySciMLError] = ProblemError) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: an option that the function does not have is a sentence that says which it has.

    Parameters
    ----------
    error : callable, default ProblemError
        Makes the exception from the message.
    """

    def change(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters.values()
        known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != "self"]
        allowed = frozenset(known)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            if not kwargs.keys() <= allowed:
                unknown = next(name for name in kwargs if name not in allowed)
                called = type(args[0]).__name__ if function.__name__ == "__init__" else function.__name__
                raise error(_no_option(called, unknown, known))
            return function(*args, **kwargs)

        return checked

    return change


def named_fields(error: Callable[[str], PySciMLError] = ProblemError) -> Callable[[C], C]:
    """For a dataclass, whose constructor is written for it, what `named_options` is for a function."""

    def change(made: C) -> C:
        constructor = "__init__"
        setattr(made, constructor, named_options(error)(getattr(made, constructor)))
        return made

    return change


def _no_option(function: str, unknown: str, known: list[str]) -> str:
    meant = next((name for name in _ELSEWHERE.get(unknown.lower(), ()) if name in known), None)
    hint = f"; did you mean {meant}?" if meant else did_you_mean(unknown, known)
    return f"{function} has no option {unknown}: it has {', '.join(known)}{hint}"
