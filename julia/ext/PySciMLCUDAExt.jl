module PySciMLCUDAExt

using CUDA: CUDA
using LinearAlgebra: mul!
using PySciML: PySciML

# A module of version 5, a package of its own in version 6.
const cuFFT = isdefined(CUDA, :cuFFT) ? CUDA.cuFFT : CUDA.CUFFT

PySciML.backend(::Val{:cuda}) = CUDA.CUDABackend()
PySciML.find_device(::Val{:cuda}) = CUDA.functional() ? "" : "CUDA.jl finds no NVIDIA GPU with a driver that works"

function PySciML.transforms(lines::CUDA.CuMatrix{T}, modes::CUDA.CuMatrix{Complex{T}}) where {T}
    there = cuFFT.plan_rfft(lines, 1)
    back = cuFFT.plan_irfft(modes, size(lines, 1), 1)
    return (out, in) -> mul!(out, there, in), (out, in) -> mul!(out, back, in)
end

end
