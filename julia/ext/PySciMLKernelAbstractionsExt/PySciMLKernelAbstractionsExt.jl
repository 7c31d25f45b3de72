module PySciMLKernelAbstractionsExt

using KernelAbstractions: KernelAbstractions, @Const, @index, @kernel, @localmem, @synchronize, get_backend
using PySciML: PySciML, CopyStep, DeviceFields, DeviceGather, KernelStep, ProductStep, ReductionStep, Spot, TransformStep
using PySciML: adjoint_share, apply_one, array_of, at

PySciML.on_gpu(backend) = KernelAbstractions.isgpu(backend)

function PySciML.on_device(backend, host::Array)
    made = KernelAbstractions.allocate(backend, eltype(host), size(host)...)
    return copyto!(made, host)
end

PySciML.device_zeros(backend, ::Type{T}, size::Int...) where {T} = KernelAbstractions.zeros(backend, T, size...)

include("trajectories.jl")
include("fields.jl")
include("tapes.jl")

end
