"""The model language: SymPy in, graph out."""

from pysciml.symbolic.events import Event
from pysciml.symbolic.files import load
from pysciml.symbolic.system import System
from pysciml.symbolic.variables import D, Eq, brownian, parameters, t, variables

__all__ = ["D", "Eq", "Event", "System", "brownian", "load", "parameters", "t", "variables"]
