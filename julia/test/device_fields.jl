using KernelAbstractions: KernelAbstractions

include("field_checks.jl")

"The backends of this environment whose kernels run on the CPU: arrays of JLArrays forbid what a GPU cannot do."
function backends_on_cpu()
    found = Any[KernelAbstractions.CPU()]
    if Base.find_package("JLArrays") === nothing
        println("JLArrays is not in this environment: kernels are tested on plain arrays alone")
    else
        @eval using JLArrays: JLArrays
        push!(found, Base.invokelatest(() -> JLArrays.JLBackend()))
    end
    return found
end

@testset "fields in kernels on $(nameof(typeof(backend)))" for backend in backends_on_cpu()
    test_fields_on(backend)
end

@testset "what a stencil reads is not put together" begin
    model = ring(16)
    apart = PySciML.joins(model.rhs!)
    @test collect(keys(apart)) == [3]
    rates = PySciML.device_rates(model, KernelAbstractions.CPU(), Float64).f
    @test length(PySciML.launches(rates, Float64)) == 3
    # Left of each cell is the last one, then the first fifteen.
    place(buffer, first) = PySciML.Place(buffer, first, (1, 0, 0))
    @test PySciML.parts_read(apart, place(3, 1), (16, 1, 1)) == (1, [(1, place(1, 16)), (16, place(1, 0))])
    @test PySciML.parts_read(apart, place(3, 2), (16, 1, 1)) == (1, [(16, place(1, 1))])
    # What a copy reads as well is put together.
    PySciML.add_copy!(model.rhs!, (1, 1, 1), box(4, 0, 1, 0, 0), box(2, 0, 1, 0, 0))
    @test isempty(PySciML.joins(model.rhs!))
end

@testset "one loop writes several fields" begin
    u, v = [1.0, 2.0, 3.0], [0.5, -1.0, 4.0]
    model = pair(3)
    @test PySciML.evaluate(model, [u; v], [2.0], 0.0) == [2 .* u .* v; -2 .* u .* v]
    du = zeros(6)
    model.rhs!(du, [u; v], [2.0], 0.0)
    @test (@allocated model.rhs!(du, [u; v], [2.0], 0.0)) < 1024
    reason = try
        PySciML.add_kernel!(model.rhs!, build([(:state, 1)], 1, 0), [0], (3, 1, 1), zeros(Int, 10), zeros(Int, 5))
    catch error
        sprint(showerror, error)
    end
    @test occursin("2 targets for 1 values", reason)
end

@testset "functions for the kernels of fields hold no pointers, and none of the host's" begin
    step = last(ring(8).rhs!.steps)
    for (T, replaced) in ((Float64, false), (Float64, true), (Float32, true))
        f = PySciML.device_scalar(step.graph, only(step.nodes), T, replaced)
        @test isbits(f)
        value = f(T.((1, 2, 4, 8, 0)), T[2.0, 0.5], T(0.5))
        @test value isa T
        @test value ≈ 2 + 0.5 + sin(0.5) rtol = 4 * eps(T)
    end
end

@testset "what a GPU cannot solve is refused by name" begin
    refused(model, name; dt = 0.0, u0 = ones(8)) = try
        device_solve(model, KernelAbstractions.CPU(), u0, [1.0, 1.0], (0.0, 1.0), name; dt)
        ""
    catch error
        sprint(showerror, error)
    end
    @test occursin("name an algorithm: ROCK2", refused(ring(8), ""))
    @test occursin("FBDF factorizes the Jacobian", refused(ring(8), "FBDF"))
    @test occursin("dt must be given", refused(ring(8), "SSPRK22"))
    @test occursin("partial differential equations", refused(pendulum(), "Tsit5"; u0 = ones(2)))
    @test_throws "takes products" PySciML.choice("FBDF(linsolve=KrylovJL_GMRES)", :ode)
end
