module PySciMLCUDAExt

using CUDA: CUDA
using PySciML: PySciML

PySciML.backend(::Val{:cuda}) = CUDA.CUDABackend()
PySciML.find_device(::Val{:cuda}) = CUDA.functional() ? "" : "CUDA.jl finds no NVIDIA GPU with a driver that works"

end
