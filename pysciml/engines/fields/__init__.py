"""Methods for partial differential equations that the embedded engines share.

They step in NumPy and call an `Operator` for the right-hand side and its derivative: interpreted, so
that nothing needs to be compiled, or compiled by an engine.
"""
