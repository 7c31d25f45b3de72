"""The model language: SymPy in, graph out."""

from pysciml.symbolic.events import Event, Jump
from pysciml.symbolic.files import load
from pysciml.symbolic.marks import implicit
from pysciml.symbolic.networks import MLP, Network
from pysciml.symbolic.system import System
from pysciml.symbolic.variables import D, Eq, brownian, parameters, t, variables

__all__ = [
    "MLP",
    "D",
    "Eq",
    "Event",
    "Jump",
    "Network",
    "System",
    "brownian",
    "implicit",
    "load",
    "parameters",
    "t",
    "variables",
]
