# On a real GPU, where CUDA.jl finds one: `julia --project=ENVIRONMENT julia/test/runtests.jl`.
using CUDA: CUDA

if CUDA.functional()
    @testset "fields in kernels on $(CUDA.name(CUDA.device()))" begin
        CUDA.allowscalar(false)
        backend = PySciML.backend(Val(:cuda))
        test_fields_on(backend)
        test_ensembles_on(backend)
        @testset "Fourier transforms are the GPU's" begin
            lines = 2 .+ sin.(range(0, 6; length = 12) .* (1:3)')
            there = PySciML.on_device(backend, lines)
            modes = PySciML.on_device(backend, zeros(ComplexF64, 7, 3))
            forward!, back! = PySciML.transforms(there, modes)
            forward!(modes, there)
            @test Array(modes)[1, :] ≈ vec(sum(lines; dims = 1)) rtol = 1e-12
            fill!(there, 0)
            back!(there, modes)
            @test Array(there) ≈ lines rtol = 1e-12
        end
    end
else
    println("CUDA.jl finds no GPU that works: kernels are not tested on one")
end
