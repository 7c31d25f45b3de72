module PySciMLFFTWExt

using FFTW: FFTW
using LinearAlgebra: mul!
using PySciML: PySciML

function PySciML.transforms(lines::Matrix{Float64}, modes::Matrix{ComplexF64})
    there = FFTW.plan_rfft(lines, 1; flags = FFTW.MEASURE)
    back = FFTW.plan_irfft(modes, size(lines, 1), 1; flags = FFTW.MEASURE)
    return (out, in) -> mul!(out, there, in), (out, in) -> mul!(out, back, in)
end

function PySciML.transforms_of_grid(grid::Array{Float64}, modes::Array{ComplexF64})
    there = FFTW.plan_rfft(grid; flags = FFTW.MEASURE)
    back = FFTW.plan_irfft(modes, size(grid, 1); flags = FFTW.MEASURE)
    return (out, in) -> mul!(out, there, in), (out, in) -> mul!(out, back, in)
end

end
