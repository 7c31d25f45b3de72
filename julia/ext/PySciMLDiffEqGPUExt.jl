module PySciMLDiffEqGPUExt

using Adapt: adapt
using DiffEqGPU: DiffEqGPU
using KernelAbstractions: KernelAbstractions
using Logging: NullLogger, with_logger
using PySciML: PySciML, Static
using SciMLBase: CallbackSet, ODEFunction, ODEProblem, terminate!
using StaticArrays: SVector

const METHODS = Dict(
    :Tsit5 => DiffEqGPU.GPUTsit5(),
    :Vern7 => DiffEqGPU.GPUVern7(),
    :Vern9 => DiffEqGPU.GPUVern9(),
    :Rosenbrock23 => DiffEqGPU.GPURosenbrock23(),
    :Rodas4 => DiffEqGPU.GPURodas4(),
    :Rodas5P => DiffEqGPU.GPURodas5P(),
    :Kvaerno5 => DiffEqGPU.GPUKvaerno5(),
)

# A kernel whose step falls below 1e-14 throws, and all its trajectories are lost: one that comes near ends by itself before.
const SMALLEST_STEP = 1e-13

"A step far smaller than what is left of the time."
stuck(u, t, integrator) = integrator.dtnew < 100 * SMALLEST_STEP && integrator.dtnew < (integrator.tf - t) / 2
const ENDING = CallbackSet((), (DiffEqGPU.GPUDiscreteCallback(stuck, terminate!),))

function PySciML.solve_kernels(
        backend, f::ODEFunction{false}, method::Symbol, u0::Matrix{T}, p::Matrix{T}, t0::T, t1::T, rtol::T, atol::T,
        saveat::Vector{T}, dt::T,
    ) where {T}
    problems = problems_of(f, f.f, Val(size(p, 1)), u0, p, (t0, t1))
    first_step = dt > 0 ? dt : (t1 - t0) / 1000
    times, states = with_logger(NullLogger()) do # it warns of backends that are CPUs
        DiffEqGPU.vectorized_asolve(
            adapt(backend, DiffEqGPU.make_prob_compatible.(problems)), first(problems), METHODS[method];
            dt = first_step, saveat, reltol = rtol, abstol = atol, callback = ENDING,
        )
    end
    KernelAbstractions.synchronize(backend)
    return Array(times), Array(states)
end

function problems_of(f, ::Static{N}, ::Val{M}, u0::Matrix{T}, p::Matrix{T}, tspan) where {N, M, T}
    return map(axes(u0, 2)) do k
        ODEProblem(f, SVector{N}(view(u0, :, k)), tspan, SVector{M}(view(p, :, k)))
    end
end

end
