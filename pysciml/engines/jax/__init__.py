"""The JAX engine: the graph as a JAX function, stepped with diffrax's methods."""

from pysciml.engines.jax.engine import JaxEngine

__all__ = ["JaxEngine"]
