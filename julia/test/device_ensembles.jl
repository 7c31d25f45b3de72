"A driven chain of `n` states: the first follows the time, every other one the one before it, at the speed of the parameter."
function chain(n)
    nodes = Any[(:param, 1), (:time,), (:cos, 2)]
    rates = Int[]
    before = 3
    for k in 1:n
        here = length(nodes) + 1
        push!(nodes, (:state, k), (:sub, before, here), (:mul, 1, here + 1))
        push!(rates, here + 1) # counted from zero
        before = here
    end
    return Model("ode", build(nodes, n, 1), rates, trues(n))
end

"Trajectories with initial values and parameters in columns, solved together: states of shape `(n_states, n_t, count)`."
function together(model, backend, starts, parameters, tspan, name; times, rtol = 1e-8, atol = 1e-8, dt = 0.0, max_steps = 10^5, T = Float64)
    rows(x) = permutedims(x)
    run = PySciML.start_together(model, backend, rows(starts), rows(parameters), tspan..., name, rtol, atol, times, dt, max_steps, T)
    while !PySciML.advance!(run, 1.0)
    end
    t, u, label, code = PySciML.result(run)
    return permutedims(reshape(u, length(t), size(starts, 2), size(starts, 1)), (3, 1, 2)), code
end

"What holds on any backend."
function test_ensembles_on(backend)
    times = [0.0, 0.7, 2.0]
    model, n = chain(30), 30
    starts, parameters = [sin(i * k) for i in 1:n, k in 1:4], [0.5 1.0 2.0 4.0]
    alone = [solve(model, starts[:, k], parameters[:, k], (0.0, 2.0), "Vern9"; rtol = 1e-12, atol = 1e-12, saveat = times)[2]' for k in 1:4]
    @testset "each trajectory is that of a solve of its own, $name" for (name, error, options) in (
            ("Tsit5", 1e-7, (;)), ("BS3", 1e-6, (;)), ("RK4", 1e-6, (; dt = 0.02)),
            ("QNDF(linsolve=KrylovJL_GMRES)", 1e-5, (;)),
        )
        u, code = together(model, backend, starts, parameters, (0.0, 2.0), name; times, options...)
        @test code == "Success"
        @test all(maximum(abs, u[:, :, k] - alone[k]) < error for k in 1:4)
    end
    @testset "in single precision, and backward" begin
        u, _ = together(model, backend, starts, parameters, (0.0, 2.0), "Tsit5"; times, rtol = 1e-5, atol = 1e-6, T = Float32)
        @test all(maximum(abs, u[:, :, k] - alone[k]) < 1e-4 for k in 1:4)
        u, _ = together(model, backend, [a[i, 3] for i in 1:n, a in alone], parameters, (2.0, 0.0), "Vern7"; times = [0.0], rtol = 1e-10, atol = 1e-10)
        @test maximum(abs, u[1, 1, :] - starts[1, :]) < 1e-6
    end
    @testset "an accuracy is that of the worst of many" begin
        # One that moves among a thousand that rest: the root mean square of all would let its error grow thirtyfold.
        many = repeat(fill(cos(0.0), n, 1), 1, 1000)
        many[:, 500] .= 5.0
        speeds = fill(1e-9, 1, 1000)
        speeds[500] = 4.0
        exact = solve(model, many[:, 500], [4.0], (0.0, 2.0), "Vern9"; rtol = 1e-12, atol = 1e-12, saveat = times)[2]'
        apart(options...) = maximum(abs, together(model, backend, many, speeds, (0.0, 2.0), "Tsit5"; times, options...)[1][:, :, 500] - exact)
        single = maximum(abs, together(model, backend, many[:, 500:500], speeds[:, 500:500], (0.0, 2.0), "Tsit5"; times)[1][:, :, 1] - exact)
        @test apart() < 2 * single
    end
    @testset "one that comes to an end stops all, with what was reached" begin
        square = Model("ode", build([(:state, 1), (:mul, 1, 1)], 1, 0), [1], [true])
        u, code = together(square, backend, [1.0 0.1], zeros(0, 2), (0.0, 2.0), "BS3"; times = [0.5, 2.0])
        @test code != "Success"
        @test u[1, :, :] ≈ [2.0 0.1 / 0.95] rtol = 1e-6
    end
    return nothing
end

@testset "ensembles as one system on $(nameof(typeof(backend)))" for backend in backends_on_cpu()
    test_ensembles_on(backend)
end

@testset "what is not solved together is refused by name" begin
    reason(model, name) = try
        together(model, KernelAbstractions.CPU(), ones(PySciML.n_states(model), 1), ones(model.graph.n_params, 1), (0.0, 1.0), name; times = [1.0])
        ""
    catch error
        sprint(showerror, error)
    end
    @test occursin("FBDF factorizes the Jacobian", reason(chain(3), "FBDF"))
    @test occursin("dt must be given", reason(chain(3), "Euler"))
    @test occursin("name an algorithm", reason(chain(3), ""))
    special = Model("ode", build([(:state, 1), (:erf, 1)], 1, 0), [1], [true])
    @test occursin("erf", reason(special, "BS3"))
    with_event = chain(1)
    PySciML.add_event!(with_event, "crossing", [0], [], [], "both", true)
    @test occursin("without events", reason(with_event, "BS3"))
    @test occursin("operations", reason(chain(700), "Tsit5"))
end
