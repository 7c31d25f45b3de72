"""Many trajectories of one model, labelled: sweeps and sampled paths."""

from pysciml.ensemble.front import solve_ensemble

__all__ = ["solve_ensemble"]
