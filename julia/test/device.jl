using DiffEqGPU: DiffEqGPU
using PySciML: SVector

const CPU = DiffEqGPU.KernelAbstractions.CPU

"Ensembles in kernels that run on the CPU, with the options that these tests have in common."
function in_kernels(model, starts, parameters, tspan, name; times = [tspan[2]], rtol = 1e-8, atol = 1e-10, T = Float64)
    u = zeros(PySciML.n_states(model), length(times), size(starts, 2))
    codes = PySciML.solve_on_device!(u, model, CPU(), starts, parameters, tspan..., name, rtol, atol, times, 0.0, T)
    return u, codes
end

@testset "a function for kernels has the values of the graph and no pointers" begin
    nodes = [(:state, 1), (:param, 1), (:const, 1.5), (:pow, 1, 3), (:sqrt, 4), (:mul, 2, 5), (:time,), (:sin, 7), (:add, 6, 8)]
    graph = build(nodes, 1, 1)
    model = Model("ode", graph, [8], [true])
    exact = PySciML.evaluate(graph, [8], [2.0], [0.3], 0.7)[1]
    for replaced in (false, true)
        f = PySciML.device_function(model, Float64, replaced)
        @test isbits(f.f)
        @test f(SVector(2.0), SVector(0.3), 0.7)[1] ≈ exact rtol = 1e-14
    end
    single = PySciML.device_function(model, Float32, false).f
    @test single.f(SVector(2.0f0), SVector(0.3f0), 0.7f0) isa SVector{1, Float32}
end

@testset "ensembles in kernels are those of single solves" begin
    model = pendulum()
    starts, parameters, times = [1.0 2.0 0.5; 1.0 0.3 2.0], [1.1 0.9 1.3; 0.4 0.6 0.5], [0.0, 1.0, 3.0]
    alone = map(1:3) do k
        solve(model, starts[:, k], parameters[:, k], (0.0, 3.0), "Tsit5"; rtol = 1e-11, atol = 1e-12, saveat = times)[2]
    end
    for name in string.(PySciML.DEVICE_METHODS)
        u, codes = in_kernels(model, starts, parameters, (0.0, 3.0), name; times, rtol = 1e-9)
        @test codes == fill(:Success, 3)
        @test maximum(maximum(abs, u[:, :, k]' - alone[k]) for k in 1:3) < 1e-6
        single, codes = in_kernels(model, starts, parameters, (0.0, 3.0), name; times, rtol = 1e-5, atol = 1e-6, T = Float32)
        @test codes == fill(:Success, 3)
        @test all(isapprox(single[:, :, k]', alone[k]; rtol = 1e-3) for k in 1:3)
        @test first(in_kernels(model, starts, parameters, (0.0, 3.0), name; times, rtol = 1e-9)) == u
    end
end

@testset "one that fails in a kernel leaves the others alone" begin
    square = Model("ode", build([(:state, 1), (:mul, 1, 1)], 1, 0), [1], [true])
    for name in ("Tsit5", "Rodas5P")
        u, codes = in_kernels(square, [1.0 0.1 NaN 0.2], zeros(0, 4), (0.0, 2.0), name; times = [1.0, 2.0])
        @test codes[[2, 4]] == [:Success, :Success]
        @test !(:Success in codes[[1, 3]]) && all(isnan, u[:, :, [1, 3]])
        @test u[1, :, 2] ≈ [0.1 / 0.9, 0.1 / 0.8] rtol = 1e-6
    end
end

@testset "what kernels cannot solve is refused by name" begin
    reason(model, name, tspan = (0.0, 1.0)) = try
        in_kernels(model, ones(PySciML.n_states(model), 1), ones(model.graph.n_params, 1), tspan, name)
        ""
    catch error
        sprint(showerror, error)
    end
    @test occursin("no kernel of FBDF, but of Tsit5", reason(pendulum(), "FBDF"))
    @test occursin("name an algorithm", reason(pendulum(), ""))
    @test occursin("time goes forward", reason(pendulum(), "Tsit5", (1.0, 0.0)))
    @test occursin("20 states", reason(decaying(21), "Tsit5"))
    special = Model("ode", build([(:state, 1), (:erf, 1)], 1, 0), [1], [true])
    @test occursin("erf", reason(special, "Tsit5"))
    with_event = decaying(1)
    PySciML.add_event!(with_event, "crossing", [0], [], [], "both", true)
    @test occursin("without events", reason(with_event, "Tsit5"))
end
