# Training on a device, where there is none: on the reference arrays of GPUArrays.jl, which refuse what a GPU could not do.

using JLArrays: JLBackend
using KernelAbstractions: CPU

include("device_checks.jl")

@testset "on reference arrays of a GPU solves and gradients are those of the CPU" begin
    check_device_training(JLBackend(), Float64; rtol = 1e-10)
end

@testset "in single precision they are so to its digits" begin
    one, p, y0, start, length = entangled()
    @test field_agrees(one, p, y0, start, length, JLBackend(), Float32; rtol = 1e-5)
    @test solve_agrees(one, p, y0, start, length, "BS3", JLBackend(), Float32; rtol = 1e-3)
    @test noisy_agrees(noisy_tapes(), JLBackend(), Float32; rtol = 1e-3)
end

@testset "an end that is not finite is seen in the error" begin
    one, p, y0, start, length = driven()
    s = PySciML.device_solve(one, explicit_method("Tsit5"), size(y0, 1), 1e-2, 1e-3, 200, JLBackend(), Float64)
    PySciML.prepare!(s.field, p, start, length)
    for (value, finite) in ((0.5, true), (Inf, false), (NaN, false))
        y = copy(y0)
        y[2, 1] = value
        copyto!(s.inner[1], y)
        PySciML.slope!(s.slopes[1], s.field, 1, 0.0, s.inner[1])
        @test PySciML.is_finite(s, first(PySciML.take_step!(s, 0.0, 0.3, false))) == finite
    end
end

@testset "functions that devices have not are refused by name" begin
    for code in PySciML.NOT_IN_KERNELS
        name = PySciML.OPERATIONS[code].name
        moving = tape(Any[(:state, 1), (code, (1 for _ in 1:PySciML.pointwise_arity(code))...)], 1, 0, [2])
        @test_throws "there is no function $name" DeviceField(moving, 2, 1:1, 1, CPU(), Float64)
    end
    # Of parameters alone they are computed on the CPU.
    fixed = tape(Any[(:state, 1), (:param, 1), (0x34, 2), (:mul, 1, 3)], 1, 1, [4])
    @test field_agrees(fixed, [2.5], randn(Xoshiro(3), 4, 1), zeros(4), ones(4), JLBackend(), Float64; rtol = 1e-12)
    @test PySciML.load_training_device("abacus") == "there is no device abacus"
end
