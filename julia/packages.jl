# The packages of the environment that `pysciml julia setup` makes, besides PySciML and PythonCall.

const SOLVERS = [
    "DelayDiffEq",
    "JumpProcesses",
    "OrdinaryDiffEq",
    "OrdinaryDiffEqExponentialRK",
    "OrdinaryDiffEqFIRK",
    "OrdinaryDiffEqHighOrderRK",
    "OrdinaryDiffEqIMEXMultistep",
    "OrdinaryDiffEqLowOrderRK",
    "OrdinaryDiffEqRKN",
    "OrdinaryDiffEqSDIRK",
    "OrdinaryDiffEqSSPRK",
    "OrdinaryDiffEqStabilizedRK",
    "OrdinaryDiffEqSymplecticRK",
    "StochasticDiffEq",
]

# Spectral derivatives, rules to train by, and what `System.to_julia()` may use besides.
const MORE = ["DiffEqCallbacks", "FFTW", "NaNMath", "Optimisers", "SpecialFunctions"]

# NVIDIA GPUs; the second for ensembles.
const GPU = ["CUDA", "DiffEqGPU"]

# Adjoints to train by.
const SENSITIVITY = ["SciMLSensitivity"]

# Index reduction by its structural simplification.
const REDUCTION = ["ModelingToolkit"]
