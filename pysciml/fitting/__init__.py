"""Fitting a model's numbers to data. The function is ``pysciml.fit``."""

from pysciml.fitting.front import fit
from pysciml.fitting.result import FitResult, FitWarning
from pysciml.fitting.trained import TrainingResult

__all__ = ["FitResult", "FitWarning", "TrainingResult", "fit"]
