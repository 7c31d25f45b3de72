"""
    PySciML

The Julia side of pysciml: a model arrives as flat arrays (the expression graph), becomes Symbolics.jl
expressions, is compiled, and is solved by DifferentialEquations.jl. Nothing calls back into Python.

The way through the files: `graph.jl` (arrays, checked), `operations.jl` (the closed table of
operations), `symbolic.jl` (graph to Symbolics), `compile.jl` (Symbolics to functions), `forms.jl` (equations that
repeat each other), `jacobian.jl`, `noise.jl` and `delays.jl` (what stochastic and delayed models have), `halves.jl` and
`split.jl` (positions and velocities, implicit and explicit parts, for the methods that want them), `model.jl` (all of these
together), `algorithms.jl` (names to algorithms), `events.jl`, `jumps.jl`, `problems.jl` (models to SciML problems),
`solve.jl` (bounded slices of work), `results.jl` (solutions to arrays), `ensembles.jl` (many trajectories on threads),
`static.jl` (small models out of place, on static vectors), `device.jl` (the same on a GPU),
`memory.jl` (arrays from and to Python), `simplify.jl` (the way back from Symbolics), `reduction.jl` (index reduction by
ModelingToolkit.jl), `modules.jl` (networks of other packages, taken apart), `fields.jl` (partial differential equations as
loops), `joins.jl` and `device_fields.jl` (those on a GPU), `device_ensembles.jl` (ensembles there as one system), `modes.jl`
(fields by their Fourier modes), `exponential.jl` (a linear part and the rest, for exponential methods), `workload.jl` (what
is compiled beforehand).

Training has a way of its own, which needs no solver package: `pointwise.jl` (operations on a batch, with derivatives),
`networks.jl`, `series.jl` (Taylor series through them), `tape.jl` (graphs of all), `batch.jl` (their pieces on threads), `states.jl`
(arithmetic on what is solved for), `explicit_methods.jl`, `adaptive.jl` and `adjoint.jl` (solves that keep their error and stiffness
estimates, differentiated), `integrand.jl` (what is integrated along with them), `noisy.jl` and `noisy_adjoint.jl` (the same with
noise), `training.jl` (what Python calls), `device_tape.jl`, `device_batch.jl`, `device_states.jl` and `device_adaptive.jl` (the same
solves with all arrays on a GPU), `optimizers.jl` (rules of Optimisers.jl), `sensitivities.jl` (adjoints of SciMLSensitivity.jl),
`regularizers.jl` and `layers.jl` (the same solves as Lux layers, for models written in Julia).
"""
module PySciML

export ErrorEstimate, JacobianNorm, KineticEnergy, LatentODE, LocalErrorEstimate, LocalStiffnessEstimate, NeuralODE, NeuralSDE,
    RandomEndTime, StiffnessEstimate, TaylorDerivative

using ADTypes: AutoFiniteDiff, AutoForwardDiff, AutoSparse, KnownJacobianSparsityDetector
using DifferentiationInterface: Constant, jacobian!, prepare_jacobian
using ForwardDiff: ForwardDiff
using FunctionWrappers: FunctionWrapper
using LinearAlgebra: BLAS, Diagonal, I, lu, mul!, norm
using Logging: NullLogger, with_logger
using NaNMath: NaNMath
using PrecompileTools: @compile_workload, workload_enabled
using Random: Random, Xoshiro, randexp
using RuntimeGeneratedFunctions: RuntimeGeneratedFunctions, RuntimeGeneratedFunction, drop_expr
using SciMLBase: SciMLBase, CallbackSet, ContinuousCallback, DiscreteCallback, ODEFunction, ODEProblem, ReturnCode, init, step!, terminate!
using SciMLOperators: SciMLOperators
using SparseArrays: SparseArrays, SparseMatrixCSC, findnz, nnz, nonzeros, sparse
using SparseMatrixColorings: GreedyColoringAlgorithm
using SpecialFunctions: SpecialFunctions
using StaticArrays: SVector
using SymbolicUtils: SymbolicUtils
using Symbolics: Symbolics, Num

RuntimeGeneratedFunctions.init(@__MODULE__)

include("graph.jl")
include("operations.jl")
include("symbolic.jl")
include("compile.jl")
include("forms.jl")
include("jacobian.jl")
include("noise.jl")
include("delays.jl")
include("halves.jl")
include("split.jl")
include("model.jl")
include("algorithms.jl")
include("events.jl")
include("jumps.jl")
include("problems.jl")
include("solve.jl")
include("results.jl")
include("static.jl")
include("ensembles.jl")
include("device.jl")
include("memory.jl")
include("simplify.jl")
include("reduction.jl")
include("fields.jl")
include("joins.jl")
include("device_fields.jl")
include("device_ensembles.jl")
include("modes.jl")
include("exponential.jl")
include("pointwise.jl")
include("networks.jl")
include("series.jl")
include("tape.jl")
include("batch.jl")
include("states.jl")
include("explicit_methods.jl")
include("integrand.jl")
include("adaptive.jl")
include("adjoint.jl")
include("noisy.jl")
include("noisy_adjoint.jl")
include("training.jl")
include("device_tape.jl")
include("device_batch.jl")
include("device_states.jl")
include("device_adaptive.jl")
include("optimizers.jl")
include("sensitivities.jl")
include("regularizers.jl")
include("layers.jl")
include("modules.jl")
include("workload.jl")

@compile_workload begin
    example_model("ode")
    example_arrays()
    example_training()
end

end
