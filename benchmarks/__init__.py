"""Measurements of pysciml against other solvers. `python -m benchmarks` (or `make bench`) runs them all."""
