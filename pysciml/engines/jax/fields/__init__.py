"""Partial differential equations on the JAX engine: array operations, and stiff methods that use the grid."""
