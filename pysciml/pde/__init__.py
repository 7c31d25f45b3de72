"""Partial differential equations: the language, boundaries, and their discretization."""

from pysciml.pde.boundary import Dirichlet, Neumann, Periodic, Robin
from pysciml.pde.discrete import DiscreteSystem, FieldProblem
from pysciml.pde.system import PDESystem
from pysciml.pde.words import coordinates, curl, div, fields, grad, integral, laplacian

__all__ = [
    "Dirichlet",
    "DiscreteSystem",
    "FieldProblem",
    "Neumann",
    "PDESystem",
    "Periodic",
    "Robin",
    "coordinates",
    "curl",
    "div",
    "fields",
    "grad",
    "integral",
    "laplacian",
]
