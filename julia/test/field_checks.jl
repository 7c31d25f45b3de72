# Fields in kernels against those in loops, for tests on any backend of KernelAbstractions.jl. Needs graphs.jl.

using PySciML: Fields, PySciML
using Test

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
