using PySciML: SVector

"A pendulum that is pushed harder and harder: parameters are its inverse inertia and its weight."
function pendulum()
    nodes = [
        (:state, 1), (:state, 2), (:param, 1), (:param, 2), (:time,), (:mul, 3, 2), (:sin, 1), (:mul, 4, 7), (:sub, 5, 8),
    ]
    return Model("ode", build(nodes, 2, 2), [5, 8], [true, true])
end

"States that decay by themselves."
function decaying(n)
    nodes = Any[(:state, k) for k in 1:n]
    append!(nodes, [(:neg, k) for k in 1:n])
    return Model("ode", build(nodes, n, 0), n:(2n - 1), trues(n))
end

"`solve_many` with the options that these tests have in common."
many(model, starts, parameters, tspan, name; times = [tspan[2]], dt = 0.0, max_steps = 10^5, threads = 2, static = true) =
    PySciML.solve_many(
        model, starts, parameters, tspan..., name, 1e-8, 1e-10, times, dt, max_steps, zeros(UInt64, size(starts, 2)), threads, static,
    )

@testset "a right-hand side on static vectors is that of the graph" begin
    model = pendulum()
    rhs = PySciML.static_rhs(model.graph, model.rhs_nodes)
    u, p = SVector(1.5, 0.5), [1.1, 0.4]
    @test rhs(u, p, 2.0) === SVector{2}(PySciML.evaluate(model.graph, [5, 8], Vector(u), p, 2.0))
    bytes(f::F, u, p) where {F} = @allocated sum(f(u, p, 2.0))
    bytes(rhs, u, p)
    @test bytes(rhs, u, p) == 0
    single = rhs(SVector(1.5f0, 0.5f0), Float32[1.1, 0.4], 2.0f0)
    @test single isa SVector{2, Float32} && single ≈ rhs(u, p, 2.0)
    # What Symbolics simplifies to a whole number is one of the states' type.
    still = PySciML.static_rhs(build([(:state, 1), (:sub, 1, 1)], 1, 0), [2])
    @test still(SVector(3.0), Float64[], 0.0) === SVector(0.0)
end

@testset "ensembles on static vectors are those of single solves" begin
    model = pendulum()
    starts, parameters = [1.0 2.0 0.5; 1.0 0.3 2.0], [1.1 0.9 1.3; 0.4 0.6 0.5]
    for (t0, t1) in ((0.0, 3.0), (3.0, 1.0))
        times = [t0, (t0 + t1) / 2, t1]
        alone = map(1:3) do k
            solve(model, starts[:, k], parameters[:, k], (t0, t1), "Tsit5"; rtol = 1e-11, atol = 1e-12, saveat = times)[2]
        end
        for name in string.(PySciML.STATIC_METHODS)
            PySciML.find_algorithm(Symbol(name)) === nothing && continue
            u, codes, names, algorithm = many(model, starts, parameters, (t0, t1), name; times)
            @test algorithm == name && names[codes .+ 1] == fill("Success", 3)
            @test all(isapprox(u[:, :, k]', alone[k]; rtol = 1e-6) for k in 1:3)
            @test u == first(many(model, starts, parameters, (t0, t1), name; times, threads = 1))
        end
    end
    fixed(static) = first(many(model, starts, parameters, (0.0, 3.0), "Tsit5"; dt = 0.01, static))
    @test fixed(true) ≈ fixed(false) rtol = 1e-7
end

@testset "what fails on static vectors fails as it does in place" begin
    square = Model("ode", build([(:state, 1), (:mul, 1, 1)], 1, 0), [1], [true])
    starts = [1.0 0.1 NaN]
    for options in ((;), (; max_steps = 5))
        u, codes, names, _ = many(square, starts, zeros(0, 3), (0.0, 2.0), "Tsit5"; options...)
        in_place, codes_there, names_there, _ = many(square, starts, zeros(0, 3), (0.0, 2.0), "Tsit5"; options..., static = false)
        @test names[codes .+ 1] == names_there[codes_there .+ 1]
        @test isnan.(u) == isnan.(in_place)
        @test isnan(u[1, 1, 1]) && isnan(u[1, 1, 3])
    end
    u, codes, names, _ = many(square, starts, zeros(0, 3), (0.0, 2.0), "Tsit5")
    @test names[codes[2] + 1] == "Success"
    @test u[1, 1, 2] ≈ 0.1 / 0.8 rtol = 1e-7
end

@testset "static vectors are for small models and large ensembles" begin
    prepare(model, name, evaluations; u0 = ones(PySciML.n_states(model)), p = ones(model.graph.n_params)) =
        PySciML.prepare_static(model, u0, p, 0.0, 1.0, name, 1e-6, 1e-8, [1.0], 0.0, 10^5, evaluations)
    @test prepare(pendulum(), "Tsit5", 10)
    @test !prepare(pendulum(), "Tsit5", 10^6)
    @test !prepare(pendulum(), "Tsit5", 10; u0 = [NaN, 1.0])
    @test !prepare(pendulum(), "Rodas5P", 10)
    @test !prepare(pendulum(), "", 10)
    @test prepare(decaying(PySciML.STATIC_STATES), "Tsit5", 10)
    @test !prepare(decaying(PySciML.STATIC_STATES + 1), "Tsit5", 10)
    with_event = decaying(1)
    PySciML.add_event!(with_event, "crossing", [0], [], [], "both", true)
    @test !prepare(with_event, "Tsit5", 10)
end
