# Training on an NVIDIA GPU, where CUDA.jl finds one: `julia --project=ENVIRONMENT julia/test/cuda_training.jl`.

using CUDA: CUDA
using PySciML
using Test

include("device_checks.jl")

if CUDA.functional()
    @testset "on a GPU solves and gradients are those of the CPU" begin
        check_device_training(CUDA.CUDABackend(), Float64; rtol = 1e-9)
    end

    @testset "in single precision they are so to its digits" begin
        for (one, p, y0, start, length) in (driven(), entangled())
            @test field_agrees(one, p, y0, start, length, CUDA.CUDABackend(), Float32; rtol = 1e-5)
            @test solve_agrees(one, p, y0, start, length, "BS3", CUDA.CUDABackend(), Float32; rtol = 1e-3)
        end
        @test noisy_agrees(noisy_tapes(), CUDA.CUDABackend(), Float32; rtol = 1e-3)
    end

    @testset "a wide network on a big batch" begin
        one, p = wide(64, 100)
        y0 = randn(Xoshiro(5), 512, 64)
        for (T, rtol) in (Float64 => 1e-9, Float32 => 1e-3)
            @test solve_agrees(one, p, y0, zeros(512), ones(512), "Tsit5", CUDA.CUDABackend(), T; rtol)
        end
    end
else
    @info "skipped: CUDA.jl finds no NVIDIA GPU with a driver that works"
end
