using KernelAbstractions: KernelAbstractions
using PySciML: Fields

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

box(buffer, first, strides...) = [buffer, first, strides...]

"""
On a ring of `n` cells `du/dt = p[1] (left - 2 u + right) + p[2] sum(u) / n + sin(t)`; `largest` subtracts the largest value, too.
"""
function ring(n; largest = false)
    fields = Fields([n, n, n + 2, 1, 1], 1, 1)
    line = (n, 1, 1)
    PySciML.add_copy!(fields, (1, 1, 1), box(2, 0, 1, 0, 0), box(0, n - 1, 1, 0, 0))
    PySciML.add_copy!(fields, line, box(2, 1, 1, 0, 0), box(0, 0, 1, 0, 0))
    PySciML.add_copy!(fields, (1, 1, 1), box(2, n + 1, 1, 0, 0), box(0, 0, 1, 0, 0))
    PySciML.add_reduction!(fields, false, (1, 1, 1), n, 1, box(3, 0, 1, 0, 0), box(0, 0, 1, 0, 0))
    PySciML.add_reduction!(fields, true, (1, 1, 1), n, 1, box(4, 0, 1, 0, 0), box(0, 0, 1, 0, 0))
    nodes = [
        (:state, 1), (:state, 2), (:state, 3), (:state, 4), (:state, 5), (:param, 1), (:param, 2), (:time,), (:add, 1, 3),
        (:const, 2.0), (:mul, 10, 2), (:sub, 9, 11), (:mul, 6, 12), (:const, Float64(n)), (:div, 4, 14), (:mul, 7, 15),
        (:add, 13, 16), (:sin, 8), (:add, 17, 18), (:sub, 19, 5),
    ]
    leaves = [box(2, 0, 1, 0, 0); box(2, 1, 1, 0, 0); box(2, 2, 1, 0, 0); box(3, 0, 0, 0, 0); box(4, 0, 0, 0, 0)]
    PySciML.add_kernel!(fields, build(nodes, 5, 2), [largest ? 19 : 18], line, box(1, 0, 1, 0, 0), leaves)
    return PySciML.fields_model("ode", fields, 2, false)
end

"Two fields that a single loop writes: what leaves one, the product of both, enters the other."
function pair(n)
    fields = Fields([n, n, n, n], 2, 2)
    nodes = [(:state, 1), (:state, 2), (:param, 1), (:mul, 1, 2), (:mul, 3, 4), (:neg, 5)]
    leaves = [box(0, 0, 1, 0, 0); box(1, 0, 1, 0, 0)]
    targets = [box(2, 0, 1, 0, 0); box(3, 0, 1, 0, 0)]
    PySciML.add_kernel!(fields, build(nodes, 2, 1), [4, 5], (n, 1, 1), targets, leaves)
    return PySciML.fields_model("ode", fields, 1, true)
end

"A matrix of `m` columns times both axes of a field of `m` times `n` values, one after the other, as a derivative of it."
function through_matrices(m, n)
    fields = Fields([m * n, m * m, n * n, m * n, m * n], 1, 1)
    for (size, seed) in ((m, 1.0), (n, 2.0))
        table = [cos(seed * i) for i in 1:(size^2)]
        GC.@preserve table PySciML.add_table!(fields, Int(pointer(table)), size^2)
    end
    PySciML.add_product!(fields, 1, m, m, (1, n, 1), (1, 1), box(4, 0, 1, m, 0), box(0, 0, 1, m, 0))
    PySciML.add_product!(fields, 2, n, n, (m, 1, 1), (m, m), box(3, 0, 1, m, 0), box(4, 0, 1, m, 0))
    return PySciML.fields_model("ode", fields, 0, true)
end

function device_solve(
        model, backend, u0, p, tspan, name; saveat = nothing, dt = 0.0, rtol = 1e-8, atol = 1e-8, T = Float64, max_steps = 10^6,
    )
    run = PySciML.start_on_device(model, backend, u0, p, tspan..., name, rtol, atol, saveat, dt, max_steps, T)
    while !PySciML.advance!(run, 1.0)
    end
    return PySciML.result(run)
end

"What holds on any backend."
function test_fields_on(backend)
    @testset "kernels compute what loops do" begin
        for model in (ring(7), ring(40_000; largest = true), through_matrices(5, 9), through_matrices(24, 17), pair(9))
            n, p = PySciML.n_states(model), [2.0, 0.3][1:model.graph.n_params]
            u = [1.5 + sin(3.0 * k) for k in 1:n]
            expected = PySciML.evaluate(model, u, p, 0.7)
            @test PySciML.evaluate(model, backend, u, p, 0.7, Float64) ≈ expected rtol = 1e-12
            @test PySciML.evaluate(model, backend, u, p, 0.7, Float32) ≈ expected rtol = 1e-4
        end
    end

    # A GPU rounds a product and a sum once: error estimates, which are small differences, are others in some digits, and with
    # them the steps.
    alike = PySciML.on_gpu(backend) ? 1e-5 : 1e-12
    @testset "a solve takes the steps that it takes on the CPU" begin
        model, u0, p = ring(16), [sin(2π * k / 16) for k in 1:16], [2.0, 0.3]
        for (saveat, tspan) in (([0.25, 1.0], (0.0, 1.0)), (nothing, (0.0, 1.0)), ([1.0, 0.5, 0.0], (1.0, 0.0)))
            host = solve(model, u0, p, tspan, "Tsit5"; saveat)
            there = device_solve(model, backend, u0, p, tspan, "Tsit5"; saveat)
            @test there[1] ≈ host[1] rtol = (saveat === nothing ? alike : 0)
            @test there[2] ≈ host[2] rtol = alike
            @test there[3:8] == host[3:8]
        end
        t, u = device_solve(model, backend, u0, p, (0.0, 1.0), "Tsit5"; saveat = [0.1, 1.0], rtol = 1e-5, T = Float32)
        @test t == [0.1, 1.0]
        @test u ≈ solve(model, u0, p, (0.0, 1.0), "Tsit5"; saveat = [0.1, 1.0])[2] rtol = 1e-4
        run = PySciML.start_on_device(model, backend, u0, p, 0.0, 1.0, "Tsit5", 1e-6, 1e-6, 0:0.01:1, 0.0, 10^6, Float64)
        @test PySciML.advance!(run, 1e3)
        @test isempty(run.integrator.sol.u) && length(run.record.states) == 101
        @test all(state -> state isa Vector{Float64}, run.record.states)
        few = device_solve(model, backend, u0, p, (0.0, 1.0), "Tsit5"; max_steps = 5)
        host = solve(model, u0, p, (0.0, 1.0), "Tsit5"; max_steps = 5)
        @test few[4] == host[4] == "MaxIters"
        @test length(few[1]) == length(host[1]) > 1
        @test few[1] ≈ host[1] rtol = alike
    end
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
