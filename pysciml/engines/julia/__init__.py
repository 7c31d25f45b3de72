"""The Julia engine: the graph becomes Symbolics.jl, DifferentialEquations.jl solves it."""

from pysciml.engines.julia.engine import JuliaEngine

__all__ = ["JuliaEngine"]
