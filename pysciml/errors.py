"""The exceptions pysciml raises: one base class, five kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr


class PySciMLError(Exception):
    """Base of every error pysciml raises on purpose."""


class ModelError(PySciMLError):
    """The equations are wrong.

    Attributes
    ----------
    equation : str or None
        The equation at fault, as text.
    symbol : str or None
        The symbol at fault, by name.
    """

    def __init__(self, message: str, *, equation: str | None = None, symbol: str | None = None) -> None:
        super().__init__(message)
        self.equation = equation
        self.symbol = symbol


class ProblemError(PySciMLError):
    """The numbers are wrong: initial values, parameters, time span, options, data.

    Attributes
    ----------
    symbol : str or None
        The state, parameter or option at fault, by name.
    """

    def __init__(self, message: str, *, symbol: str | None = None) -> None:
        super().__init__(message)
        self.symbol = symbol


class UnsupportedError(PySciMLError):
    """The engine or the algorithm cannot do what was asked; the message says which can.

    Attributes
    ----------
    engine, algorithm : str or None
    """

    def __init__(self, message: str, *, engine: str | None = None, algorithm: str | None = None) -> None:
        super().__init__(message)
        self.engine = engine
        self.algorithm = algorithm


class EngineUnavailableError(PySciMLError):
    """The engine is not installed; the message names the one command that mends it.

    Attributes
    ----------
    engine : str or None
    """

    def __init__(self, message: str, *, engine: str | None = None) -> None:
        super().__init__(message)
        self.engine = engine


class SolverError(PySciMLError):
    """The solve did not reach the end of ``tspan``.

    Attributes
    ----------
    partial : xarray.Dataset or None
        What was computed until then, in the form ``solve`` returns.
    retcode : str
        SciML's return code, e.g. ``"MaxIters"`` or ``"Unstable"``.
    """

    def __init__(self, message: str, *, partial: xr.Dataset | None = None, retcode: str = "Failure") -> None:
        super().__init__(message)
        self.partial = partial
        self.retcode = retcode
