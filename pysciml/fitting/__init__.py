"""Fitting a model's numbers to data. The function is ``pysciml.fit``."""

from pysciml.fitting.least_squares import fit
from pysciml.fitting.result import FitResult, FitWarning

__all__ = ["FitResult", "FitWarning", "fit"]
