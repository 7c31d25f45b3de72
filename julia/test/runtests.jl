using LinearAlgebra
using PySciML
using PySciML: Graph, Model, SciMLBase
using SparseArrays
using Test

include("graphs.jl")

"du/dt = p*u"
decay() = build([(:state, 1), (:param, 1), (:mul, 1, 2)], 1, 1)

@testset "graph" begin
    @test length(decay()) == 3
    bad(nodes) = try
        build(nodes, 1, 1)
        ""
    catch error
        sprint(showerror, error)
    end
    @test occursin("bad index", bad([(:state, 2)]))
    @test occursin("bad operands", bad([(:state, 1), (:add, 1, 2)]))
    @test occursin("bad operands", bad([(:state, 1), (:sin,)]))
    @test_throws ArgumentError Graph(UInt8[200], fill(-1, 1, 3), [0.0], [-1], 1, 1)
    @test_throws ArgumentError Graph(UInt8[0], fill(-1, 2, 3), [0.0], [-1], 1, 1)
    graph = build([(:state, 1), (:param, 1), (:time,), (:add, 1, 2)], 1, 1)
    @test PySciML.reachable(graph, [4]) == [true, true, false, true]
    @test !PySciML.depends_on(graph, [4], PySciML.TIME)
end

@testset "operations" begin
    one_of(name, arity, values) = begin
        nodes = Any[(:state, k) for k in 1:arity]
        push!(nodes, (name, 1:arity...))
        PySciML.evaluate(build(nodes, arity, 0), [arity], collect(Float64, values), Float64[], 0.0)[1]
    end
    unary = [
        :neg => -, :sqrt => sqrt, :exp => exp, :log => log, :sin => sin, :cos => cos, :tan => tan,
        :asin => asin, :acos => acos, :atan => atan, :sinh => sinh, :cosh => cosh, :tanh => tanh,
        :asinh => asinh, :abs => abs, :sign => sign, :floor => floor, :ceil => ceil,
    ]
    for (name, f) in unary
        @test one_of(name, 1, [0.3]) ≈ f(0.3)
    end
    @test one_of(:acosh, 1, [1.3]) ≈ acosh(1.3)
    @test one_of(:heaviside, 1, [-1]) == 0 && one_of(:heaviside, 1, [0]) == 0.5 && one_of(:heaviside, 1, [2]) == 1
    @test one_of(:mod, 2, [-7, 3]) == 2 && one_of(:mod, 2, [7, -3]) == -2
    @test one_of(:pow, 2, [2, -1.5]) ≈ 2^-1.5
    @test one_of(:min, 2, [2, -1]) == -1 && one_of(:max, 2, [2, -1]) == 2
    @test one_of(:atan2, 2, [1, -1]) ≈ 3π / 4
    @test one_of(:gamma, 1, [5]) ≈ 24
    @test one_of(:erf, 1, [0.5]) ≈ 0.5204998778130465
    @test one_of(:besselj, 2, [0, 2.0]) ≈ 0.22389077914123567
    @test one_of(:polygamma, 2, [0, 1.0]) ≈ -0.5772156649015329
    # Outside of its domain a function is NaN and does not throw.
    for (name, value) in [:sqrt => -1, :log => -1, :asin => 2, :acosh => 0, :loggamma => -0.5, :gamma => -1]
        @test isnan(one_of(name, 1, [value]))
    end
    @test isnan(one_of(:pow, 2, [-1, 0.5]))
    # Conditions are numbers where a number is wanted, and numbers hold where they are not zero.
    graph = build([(:state, 1), (:state, 2), (:lt, 1, 2), (:const, 3.0), (:mul, 3, 4), (:and, 3, 1), (:not, 6)], 2, 0)
    @test PySciML.evaluate(graph, [4, 5, 6], [1.0, 2.0], Float64[], 0.0) == [3.0, 1.0, 0.0]
    @test PySciML.evaluate(graph, [4, 5, 6], [0.0, 2.0], Float64[], 0.0) == [3.0, 0.0, 1.0]
    # The branch not taken may be anything.
    graph = build([(:state, 1), (:const, 0.0), (:gt, 1, 2), (:log, 1), (:select, 3, 4, 2)], 1, 0)
    @test PySciML.evaluate(graph, [4], [-1.0], Float64[], 0.0) == [0.0]
end

@testset "shared subexpressions are computed once" begin
    # 60 doublings of one product: written out as a tree this has 2^60 terms.
    nodes = Any[(:state, 1), (:sin, 1)]
    for k in 1:60
        push!(nodes, (:add, length(nodes), length(nodes)), (:sin, length(nodes) + 1))
    end
    graph = build(nodes, 1, 0)
    expected = foldl((x, _) -> sin(2x), 1:60; init = sin(0.7))
    @test PySciML.evaluate(graph, [length(graph) - 1], [0.7], Float64[], 0.0)[1] ≈ expected
end

@testset "a long function is several" begin
    # u_k' = p*u_k*u_(k+1), in a ring
    n = 3 * PySciML.OUTPUTS_AT_ONCE + 5
    nodes = Any[(:param, 1)]
    append!(nodes, [(:state, k) for k in 1:n])
    for k in 1:n
        push!(nodes, (:mul, 1, 1 + k), (:mul, length(nodes) + 1, 1 + mod1(k + 1, n)))
    end
    outputs = [1 + n + 2k for k in 1:n]
    graph = build(nodes, n, 1)
    f! = PySciML.generate(graph, outputs)
    @test f! isa PySciML.Parts
    u, out = collect(range(0.5, 2; length = n)), zeros(n)
    expected = 3 .* u .* circshift(u, -1)
    f!(out, u, [3.0], 0.0)
    @test out ≈ expected
    single = zeros(Float32, n)
    f!(single, Float32.(u), Float32[3], 0.0f0)
    @test single ≈ expected rtol = 1e-5
    allocated(f, du, u, p) = (f(du, u, p, 0.0); @allocated f(du, u, p, 0.0))
    @test allocated(PySciML.wrapped(f!), out, u, [3.0]) == 0
    S = PySciML.sparsity_pattern(vcat([(k, k) for k in 1:n], [(k, mod1(k + 1, n)) for k in 1:n]), n)
    PySciML.coloured(f!, copy(S)).evaluate!(S, u, [3.0], 0.0)
    @test S[1, 1] ≈ 3u[2] && S[1, 2] ≈ 3u[1] && S[n, 1] ≈ 3u[n]
end

@testset "equations that repeat each other are compiled once" begin
    # u_k' = k/7 u_k^3/(1 + u_(k+1)) + p_k t, with operands in either order; some equal ones, and some of another form.
    n = 2 * PySciML.REPEATING
    nodes = Any[(:time,), (:const, 1.0), (:const, 3.0)]
    append!(nodes, [(:state, k) for k in 1:n])
    append!(nodes, [(:param, k) for k in 1:n])
    put(node...) = (push!(nodes, node); length(nodes))
    outputs = map(1:n) do k
        here, next, param = 3 + k, 3 + mod1(k + 1, n), 3 + n + k
        k <= 10 && return put(:mul, param, put((:sin, :cos, :exp, :tanh, :atan)[mod1(k, 5)], here))
        quotient = put(:div, put(:pow, here, 3), put(:add, (k % 2 == 0 ? (2, next) : (next, 2))...))
        scaled, timed = put(:mul, put(:const, k / 7), quotient), put(:mul, param, 1)
        put(:add, (k % 3 == 0 ? (scaled, timed) : (timed, scaled))...)
    end
    outputs[20:25] .= outputs[19]
    graph = build(nodes, n, n)
    forms = PySciML.generate(graph, outputs)
    @test forms isa PySciML.Forms && length(forms.forms) == 1 && length(forms.copies) == 6
    u, p, out = collect(range(0.2, 1.5; length = n)), collect(range(-1, 2; length = n)), zeros(n)
    forms(out, u, p, 0.7)
    for few in (1:40, (n - 40):n)
        some = zeros(length(few))
        PySciML.generate(graph, outputs[few])(some, u, p, 0.7)
        @test out[few] ≈ some rtol = 1e-14
    end
    @test out[26:n] ≈ [k / 7 * u[k]^3 / (1 + u[mod1(k + 1, n)]) + p[k] * 0.7 for k in 26:n]
    @test all(==(out[19]), out[20:25])
    single = zeros(Float32, n)
    forms(single, Float32.(u), Float32.(p), 0.7f0)
    @test single ≈ out rtol = 1e-5
    derivative = PySciML.ForwardDiff.derivative(t -> (v = zeros(typeof(t), n); forms(v, u, p, t); v), 0.7)
    @test derivative[26:n] ≈ p[26:n]
    allocated(f, du, u, p) = (f(du, u, p, 0.0); @allocated f(du, u, p, 0.0))
    @test allocated(PySciML.wrapped(forms), out, u, p) == 0
    # What all equations share is not computed again in each.
    nodes = Any[(:state, k) for k in 1:n]
    total = foldl((total, k) -> put(:add, total, k), 2:n; init = 1)
    shared = [put(:mul, total, k) for k in 1:n]
    @test PySciML.generate(build(nodes, n, 0), shared) isa PySciML.Parts
end

@testset "the way back from Symbolics" begin
    nodes = [
        (:state, 1), (:param, 1), (:time,), (:sin, 1), (:cos, 1), (:mul, 4, 4), (:mul, 5, 5), (:add, 6, 7), (:add, 8, 2), (:const, 0.3),
        (:lt, 1, 2), (:select, 11, 9, 10), (:log, 1), (:pow, 1, 10), (:atan2, 1, 3), (:max, 14, 15), (:div, 16, 13), (:neg, 17),
    ]
    graph = build(nodes, 1, 1)
    outputs = [8, 11, 17, 2]
    for simplifies in (false, true)
        op, args, constant, index, places = PySciML.rewritten(graph, outputs, simplifies, false)
        back = Graph(op, permutedims(reshape(args, 3, :)), constant, index, 1, 1)
        for u in (0.4, 1.7)
            expected = PySciML.evaluate(graph, outputs, [u], [0.9], 0.5)
            @test PySciML.evaluate(back, places, [u], [0.9], 0.5) ≈ expected rtol = 1e-13
        end
        # sin^2 + cos^2 is 1.
        @test simplifies != any(in((0x17, 0x18)), back.op[PySciML.reachable(back, places[1:1] .+ 1)])
    end
end

@testset "an ordinary equation" begin
    model = Model("ode", decay(), [2], [true])
    t, u, algorithm, retcode, message, n_steps, n_rejected, n_rhs, seconds, _, _ = solve(model, [1.0], [-1.5], (0.0, 2.0), "Tsit5")
    @test retcode == "Success" && t[1] == 0 && t[end] == 2 && size(u) == (length(t), 1)
    @test u[:, 1] ≈ exp.(-1.5 .* t) rtol = 1e-6
    @test n_steps == length(t) - 1 && n_rhs > 6 * n_steps && seconds > 0
    for saveat in ([0.5, 1.0], [0.0, 1.0, 2.0])
        t, u, _ = solve(model, [1.0], [-1.5], (0.0, 2.0), "Vern9"; saveat)
        @test t == saveat
        @test u[:, 1] ≈ exp.(-1.5 .* t) rtol = 1e-6
    end
    t, u, _ = solve(model, [1.0], [-1.5], (2.0, 0.0), "Tsit5"; saveat = [2.0, 1.0, 0.0])
    @test t == [2, 1, 0]
    @test u[:, 1] ≈ exp.(-1.5 .* (t .- 2)) rtol = 1e-6
    @test solve(model, [1.0], [-1.5], (0.0, 2.0), "Tsit5"; max_steps = 3)[4] == "MaxIters"
    allocated(f, du, u, p) = (f(du, u, p, 0.0); @allocated f(du, u, p, 0.0))
    @test allocated(model.rhs, [0.0], [1.0], [1.0]) == 0
end

@testset "algorithms by name" begin
    model = Model("ode", decay(), [2], [true])
    @test PySciML.algorithm("Tsit5", :ode) isa PySciML.find_algorithm(:Tsit5)
    for name in ("NoSuchThing", "solve", "ODEProblem", "run", "Base", "Tsit5(1)", "Tsit5();exit()")
        @test_throws ArgumentError PySciML.algorithm(name, :ode)
    end
    @test !PySciML.wants_jacobian(model, "Tsit5")
    @test PySciML.wants_jacobian(model, "Rodas5P") && PySciML.wants_jacobian(model, "")
    @test "FBDF" in PySciML.algorithm_names(:ode)
    # Options are read, checked, and never evaluated.
    made(text) = PySciML.algorithm(text, :ode)
    @test made("FBDF(max_order = 2)") == made("FBDF(max_order=2)") != made("FBDF")
    @test made("ImplicitEuler(linsolve = LUFactorization)").linsolve isa SciMLBase.AbstractLinearAlgorithm
    for (text, reason) in (
            "FBDF(order = 2)" => "no option order: it has", "FBDF(max_order)" => "no option of the form",
            "FBDF(max_order = exit())" => "form name = value", "FBDF(linsolve = exit)" => "no linear solver",
            "FBDF(autodiff = foo)" => "numbers", "Tsit5;" => "does not name", "AutoTsit5(x = 1)" => "no options",
        )
        @test_throws reason made(text)
    end
end

"Van der Pol, and its derivative: y'' = mu*((1 - y^2)*y' - y)."
function van_der_pol()
    graph = build(
        [
            (:state, 1), (:state, 2), (:param, 1), (:const, 1.0), (:mul, 1, 1), (:sub, 4, 5), (:mul, 6, 2),
            (:sub, 7, 1), (:mul, 3, 8), # 9: the second equation
            (:const, -2.0), (:mul, 10, 1), (:mul, 11, 2), (:sub, 12, 4), (:mul, 3, 13), (:mul, 3, 6),
        ],
        2,
        1,
    )
    return graph, [1, 8], [3, 13, 14], [0, 1, 1], [1, 0, 1]
end

@testset "Jacobians" begin
    graph, rhs, entries, rows, cols = van_der_pol()
    f! = PySciML.generate(graph, rhs .+ 1)
    u, p = [1.2, -0.7], [5.0]
    exact = [0 1; p[1] * (-2 * u[1] * u[2] - 1) p[1] * (1 - u[1]^2)]
    J = zeros(2, 2)
    PySciML.Jacobian(f!, graph, entries, rows, cols).evaluate!(J, u, p, 0.0)
    @test J ≈ exact
    pattern = PySciML.sparsity_pattern(collect(zip(rows .+ 1, cols .+ 1)), 2)
    S = copy(pattern)
    PySciML.coloured(f!, pattern).evaluate!(S, u, p, 0.0)
    @test Matrix(S) ≈ exact
    fill!(J, 0)
    PySciML.coloured_dense(f!, pattern).evaluate!(J, u, p, 0.0)
    @test J ≈ exact
    values! = PySciML.wrapped(PySciML.generate(graph, entries .+ 1))
    sparse_one = PySciML.generated_sparse(values!, collect(zip(rows .+ 1, cols .+ 1)), 2)
    S = copy(sparse_one.prototype)
    sparse_one.evaluate!(S, u, p, 0.0)
    @test Matrix(S) ≈ exact
    model = Model("ode", graph, rhs, [true, true])
    PySciML.set_jacobian!(model, graph, entries, rows, cols)
    reference = solve(model, [2.0, 0.0], [100.0], (0.0, 2.0), "Rodas5P"; rtol = 1e-11, atol = 1e-11)[2][end, :]
    # Written by hand for the same algorithm: the same errors, which are larger than the difference.
    by_hand!(du, u, p, t) = (du[1] = u[2]; du[2] = p[1] * ((1 - u[1]^2) * u[2] - u[1]); nothing)
    problem = SciMLBase.ODEProblem(by_hand!, [2.0, 0.0], (0.0, 2.0), [100.0])
    for name in ("FBDF", "Rosenbrock23", "TRBDF2", "")
        t, u, algorithm, retcode, _ = solve(model, [2.0, 0.0], [100.0], (0.0, 2.0), name; rtol = 1e-6, atol = 1e-8)
        @test retcode == "Success"
        @test u[end, 1] ≈ reference[1] rtol = 1e-3
        chosen = PySciML.algorithm(name, :ode)
        options = (; reltol = 1e-6, abstol = 1e-8)
        theirs = chosen === nothing ? SciMLBase.solve(problem; options...) : SciMLBase.solve(problem, chosen; options...)
        @test u[end, :] ≈ theirs.u[end] rtol = 1e-6
    end
end

@testset "algebraic equations" begin
    # x' = -y, 0 = y - x: y is found from a wrong guess.
    graph = build([(:state, 1), (:state, 2), (:neg, 2), (:sub, 2, 1), (:const, 1.0), (:const, -1.0)], 2, 0)
    model = Model("dae", graph, [2, 3], [true, false])
    PySciML.set_jacobian!(model, graph, [5, 5, 4], [0, 1, 1], [1, 0, 1])
    for name in ("Rodas5P", "FBDF", "")
        t, u, algorithm, retcode, _ = solve(model, [1.0, 7.0], Float64[], (0.0, 1.0), name)
        @test retcode == "Success" && u[1, :] ≈ [1, 1]
        @test u[end, :] ≈ [exp(-1), exp(-1)] rtol = 1e-5
    end
    # 0 = y^2 + 1 has no solution.
    graph = build([(:state, 1), (:state, 2), (:mul, 2, 2), (:const, 1.0), (:add, 3, 4), (:const, 2.0), (:mul, 6, 2)], 2, 0)
    model = Model("dae", graph, [0, 4], [true, false])
    PySciML.set_jacobian!(model, graph, [3, 6], [0, 1], [0, 1])
    @test solve(model, [1.0, 1.0], Float64[], (0.0, 1.0), "Rodas5P")[4] == "InitialFailure"
end

@testset "events" begin
    # A ball under gravity 1 from height 1/2 hits the floor after 1 second with speed 1.
    graph = build([(:state, 1), (:state, 2), (:const, -1.0), (:const, -0.5), (:mul, 4, 2)], 2, 0)
    model = Model("ode", graph, [1, 2], [true, true])
    PySciML.add_event!(model, "crossing", [0], [4], [1], "down", false)
    t, u, algorithm, retcode, _, _, _, _, _, times, numbers = solve(model, [0.5, 0.0], Float64[], (0.0, 2.5), "Tsit5")
    @test retcode == "Success" && times ≈ [1.0, 2.0] && numbers == [0, 0]
    k = findfirst(==(times[1]), t)
    @test u[k, 2] ≈ -1 && u[k + 1, 2] ≈ 0.5
    stopping = Model("ode", graph, [1, 2], [true, true])
    PySciML.add_event!(stopping, "crossing", [0], Int[], Int[], "down", true)
    for saveat in (nothing, [0.0, 0.5, 2.0])
        t, u, algorithm, retcode, _ = solve(stopping, [0.5, 0.0], Float64[], (0.0, 2.5), "Tsit5"; saveat)
        @test retcode == "Terminated" && t[end] ≈ 1 && abs(u[end, 1]) < 1e-9
    end
    upward = Model("ode", graph, [1, 2], [true, true])
    PySciML.add_event!(upward, "crossing", [0], Int[], Int[], "up", true)
    @test solve(upward, [0.5, 0.0], Float64[], (0.0, 2.5), "Tsit5")[4] == "Success"
    @test_throws "no direction" PySciML.add_event!(upward, "crossing", [0], Int[], Int[], "left", true)
    @test_throws "do not fire by" PySciML.add_event!(upward, "chance", [0], Int[], Int[], "both", true)
    @test_throws "one condition" PySciML.add_event!(upward, "crossing", [0, 1], Int[], Int[], "both", true)
end

@testset "events at given times, and conditions looked at after each step" begin
    # u' = 0, doubled at 1 and at the parameter's value.
    graph = build([(:state, 1), (:const, 0.0), (:const, 1.0), (:param, 1), (:const, 2.0), (:mul, 1, 5), (:const, 7.0), (:gt, 1, 7)], 1, 1)
    model = Model("ode", graph, [1], [true])
    PySciML.add_event!(model, "times", [2, 3], [5], [0], "both", false)
    times = [0.0, 0.5, 1.0, 1.5, 2.0]
    for name in ("Tsit5", "Rodas5P", ""), (second, doubled) in ((1.5, [1, 1, 2, 4, 4]), (0.0, [2, 2, 4, 4, 4]), (9.0, [1, 1, 2, 2, 2]))
        name == "Rodas5P" && PySciML.set_jacobian!(model, build([(:const, 0.0)], 1, 1), Int[], Int[], Int[])
        t, u, _, retcode, _ = solve(model, [1.0], [second], (0.0, 2.0), name; saveat = times)
        @test retcode == "Success" && t == times && u[:, 1] == doubled
    end
    PySciML.add_event!(model, "step", [7], Int[], Int[], "both", true)
    t, u, _, retcode, _ = solve(model, [2.0], [1.5], (0.0, 2.0), "Tsit5")
    @test retcode == "Terminated" && t[end] == 1.5 && u[end, 1] == 8
end

@testset "jumps" begin
    # n grows by one with rate p and shrinks by one with rate n: in the end it has Poisson's distribution with mean p.
    nodes = [(:state, 1), (:const, 0.0), (:param, 1), (:const, 1.0), (:add, 1, 4), (:sub, 1, 4)]
    births(n_states, more, rhs) = begin
        model = Model("ode", build([nodes; more], n_states, 1), rhs, trues(n_states))
        PySciML.add_jump!(model, 2, [4], [0])
        PySciML.add_jump!(model, 0, [5], [0])
        model
    end
    pure = births(1, [], [1])
    PySciML.set_pure!(pure)
    # The last state is the integral of both rates.
    integrated = births(2, [(:add, 1, 3)], [1, 6])
    PySciML.load_kind("jump")
    @test PySciML.dependencies(pure.jumps) == [[1, 2], [2]] # births happen as often, whatever else happens
    for (model, names) in ((pure, ("", "FRM", "SortingDirect", "NRM")), (integrated, ("Tsit5",))), name in names
        u0 = zeros(PySciML.n_states(model))
        ends = [solve(model, u0, [3.0], (0.0, 8.0), name; rtol = 1e-4, atol = 1e-4, saveat = [8.0], seed)[2][1, 1] for seed in 1:400]
        @test all(isinteger, ends)
        @test abs(sum(ends) / 400 - 3) < 4 * sqrt(3 / 400)
        @test abs(sum(abs2, ends .- 3) / 400 - 3) < 4 * sqrt((3 + 2 * 3^2) / 400)
        @test solve(model, u0, [3.0], (0.0, 8.0), name; seed = 5)[2] == solve(model, u0, [3.0], (0.0, 8.0), name; seed = 5)[2]
        t, u, _ = solve(model, u0, [3.0], (0.0, 8.0), name; saveat = [0.0, 1.0, 8.0])
        @test t == [0, 1, 8] && u[1, 1] == 0
        name == "Tsit5" && continue
        _, _, _, retcode, message, _ = solve(model, u0, [-1.0], (0.0, 8.0), name)
        @test retcode == "Failure" && occursin("rate of jump 1 is -1.0", message)
    end
    @test solve(pure, [0.0], [3.0], (0.0, 1e6), ""; max_steps = 100)[4] == "MaxIters"
end

"Orders of convergence of errors whose step is halved from one to the next."
orders(errors) = log2.(errors[1:(end - 1)] ./ errors[2:end])

"The integrator at the end of a solve with fixed steps."
function fixed_steps(model, u0, p, tspan, name, dt; seed = 1)
    plan = PySciML.make_plan(model, tspan..., name, 1e-3, 1e-3, [tspan[2]], dt, 10^6)
    options = merge(plan.options, (; adaptive = false))
    fixed = PySciML.Plan(plan.name, plan.algorithm, plan.times, plan.with_jacobian, plan.form, plan.max_steps, options)
    run = Base.invokelatest(PySciML.prepare, model, fixed, copy(u0), p, tspan..., UInt64(seed))
    while !PySciML.advance!(run, 1.0)
    end
    @assert run.retcode == :Success run.message
    return run.integrator
end

@testset "a run that was written holds nothing any more" begin
    # Python holds runs until the collector finds that it does not.
    run = PySciML.start(PySciML.example_model("ode"), [1.0, 0.5], [2.0], 0.0, 1.0, "Tsit5", 1e-6, 1e-6, nothing, 0.0, 1000, 0)
    @test PySciML.advance!(run, 1e3)
    expected = PySciML.result(run)
    n, fired = PySciML.outcome(run)
    t, u, times, numbers = zeros(n), zeros(n, 2), zeros(fired), zeros(Int, fired)
    GC.@preserve t u times numbers PySciML.write_outcome(run, (Int(pointer(array)) for array in (t, u, times, numbers))...)
    @test t == expected[1]
    @test u == expected[2]
    @test Base.summarysize(run) < 2000
end

@testset "orders of convergence" begin
    # x' = p*x*cos(t)
    graph = build([(:state, 1), (:param, 1), (:time,), (:cos, 3), (:mul, 1, 2), (:mul, 5, 4)], 1, 1)
    model = Model("ode", graph, [5], [true])
    PySciML.set_jacobian!(model, build([(:param, 1), (:time,), (:cos, 2), (:mul, 1, 3)], 1, 1), [3], [0], [0])
    methods = ("Midpoint", 2, 0.1), ("BS3", 3, 0.2), ("RK4", 4, 0.2), ("Tsit5", 5, 0.2), ("TRBDF2", 2, 0.2), ("Rodas4", 4, 0.05)
    for (name, order, first_step) in methods
        steps = first_step .* (1, 1 / 2, 1 / 4)
        errors = [abs(fixed_steps(model, [1.0], [1.0], (0.0, 2.0), name, dt).u[1] - exp(sin(2))) for dt in steps]
        @test all(>(order - 0.4), orders(errors))
    end
end

"""
The pendulum in states (v, x), driven and with another kinetic energy where wanted: v' = -sin(x) + p cos(2t), x' = v or
v / sqrt(1 + v^2).
"""
function pendulum(; driven = false, relativistic = false)
    graph = build(
        [
            (:state, 1), (:state, 2), (:sin, 2), (:neg, 3), (:time,), (:add, 5, 5), (:cos, 6), (:param, 1), (:mul, 8, 7),
            (:sub, 9, 3), (:mul, 1, 1), (:const, 1.0), (:add, 11, 12), (:sqrt, 13), (:div, 1, 14),
        ],
        2,
        1,
    )
    model = Model("ode", graph, [driven ? 9 : 3, relativistic ? 14 : 0], [true, true])
    PySciML.set_halves!(model, [0], [1], false)
    return model
end

"Orders of convergence at t = 2 of a model with halves, for steps that become half as long from one to the next."
function orders_with_halves(model, name, first_step, halvings)
    ends(name, dt) = fixed_steps(model, [0.5, 1.2], [0.7], (0.0, 2.0), name, dt)
    reference = ends("Vern9", 1 / 256).u
    errors = map(0:halvings) do k
        integrator = ends(name, first_step / 2^k)
        maximum(abs, PySciML.joined(integrator.u, PySciML.arrangement(model.halves, integrator.alg)[1:2]) - reference)
    end
    return orders(errors)
end

@testset "symplectic methods have their orders" begin
    # Also where the time is in the equations, and where the kinetic energy is not quadratic.
    any_energy = [
        ("SymplecticEuler", 1, 1 / 64), ("VerletLeapfrog", 2, 1 / 16), ("LeapfrogDriftKickDrift", 2, 1 / 16),
        ("PseudoVerletLeapfrog", 2, 1 / 16), ("McAte2", 2, 1 / 32), ("Ruth3", 3, 1 / 8), ("McAte3", 3, 1 / 8),
        ("CandyRoz4", 4, 1 / 8), ("Yoshida6", 6, 1 / 4), ("KahanLi6", 6, 1 / 4), ("McAte8", 8, 1 / 2), ("KahanLi8", 8, 1 / 2),
    ]
    quadratic = [("VelocityVerlet", 2, 1 / 16), ("McAte4", 4, 1 / 8), ("CalvoSanz4", 4, 1 / 8), ("McAte5", 5, 1 / 8)]
    for driven in (false, true)
        for (name, order, dt) in any_energy, relativistic in (false, true)
            found = orders_with_halves(pendulum(; driven, relativistic), name, dt, order < 8 ? 2 : 1)
            @test all(>(order - 0.35), found)
        end
        for (name, order, dt) in quadratic
            @test all(>(order - 0.35), orders_with_halves(pendulum(; driven), name, dt, 2))
        end
        @test only(orders_with_halves(pendulum(; driven), "SofSpa10", 1.0, 1)) > 9
    end
    plain = Model("ode", decay(), [2], [true])
    @test_throws "positions and velocities" PySciML.make_plan(plain, 0.0, 1.0, "KahanLi8", 1e-3, 1e-3, [1.0], 0.1, 10)
    @test_throws "not all states" PySciML.set_halves!(pendulum(), [0], [0], false)
end

@testset "Nyström methods have their orders" begin
    methods = [
        ("Nystrom4VelocityIndependent", 4, 1 / 4), ("Nystrom5VelocityIndependent", 5, 1 / 4), ("DPRKN4", 4, 1 / 4),
        ("DPRKN5", 5, 1 / 4), ("DPRKN6", 6, 1 / 4), ("DPRKN6FM", 6, 1 / 4), ("DPRKN8", 8, 1 / 2), ("ERKN4", 4, 1 / 4),
        ("ERKN5", 5, 1 / 4), ("ERKN7", 7, 1 / 2), ("IRKN3", 3, 1 / 8),
    ]
    for driven in (false, true), (name, order, dt) in methods
        # These two reach rounding before their steps are short enough to show all of their order.
        missing_order = name in ("DPRKN6", "DPRKN8") ? 1.3 : 0.5
        @test all(>(order - missing_order), orders_with_halves(pendulum(; driven), name, dt, order < 7 ? 2 : 1))
    end
    # Accelerations that depend on velocities: x'' = -sin(x) - p x'.
    graph = build([(:state, 1), (:state, 2), (:sin, 2), (:param, 1), (:mul, 4, 1), (:add, 3, 5), (:neg, 6)], 2, 1)
    model = Model("ode", graph, [6, 0], [true, true])
    PySciML.set_halves!(model, [0], [1], true)
    for (name, order) in (("Nystrom4", 4), ("FineRKN4", 4), ("FineRKN5", 5))
        @test all(>(order - 0.5), orders_with_halves(model, name, 1 / 4, 2))
    end
    # Output is stepped to, and errors are controlled.
    model = pendulum(; driven = true)
    times = [0.3, 1.1, 2.0]
    reference = solve(model, [0.5, 1.2], [0.7], (0.0, 2.0), "Vern9"; rtol = 1e-12, atol = 1e-12, saveat = times)[2]
    for name in ("DPRKN6", "DPRKN12", "FineRKN5", "ERKN7")
        t, u, algorithm, retcode, _ = solve(model, [0.5, 1.2], [0.7], (0.0, 2.0), name; rtol = 1e-9, atol = 1e-9, saveat = times)
        @test retcode == "Success" && algorithm == name && t == times
        @test u ≈ reference rtol = 1e-7
    end
end

"Stiff towards cos(t), with a slow second state: x' = -p (x - cos(t)) + y, y' = -x y; the first term is implicit."
function relaxation()
    graph = build(
        [
            (:state, 1), (:state, 2), (:param, 1), (:time,), (:cos, 4), (:sub, 1, 5), (:mul, 3, 6), (:neg, 7), (:sub, 2, 7),
            (:mul, 1, 2), (:neg, 10), (:const, 0.0),
        ],
        2,
        1,
    )
    model = Model("ode", graph, [8, 10], [true, true])
    PySciML.set_split!(model, [7, 11], [1, 10], build([(:param, 1), (:neg, 1)], 2, 1), [1], [0], [0])
    return model
end

@testset "implicit and explicit parts have their orders" begin
    methods = [
        ("IMEXEuler", 1, 1 / 64), ("SBDF2", 2, 1 / 32), ("CNAB2", 2, 1 / 32),
        ("CNLF2", 2, 1 / 32), ("KenCarp3", 3, 1 / 16), ("KenCarp4", 4, 1 / 8), ("KenCarp47", 4, 1 / 8), ("KenCarp5", 5, 1 / 8),
        ("KenCarp58", 5, 1 / 8), ("ARS343", 3, 1 / 16),
    ]
    model = relaxation()
    reference = fixed_steps(model, [0.5, 1.2], [1.5], (0.0, 2.0), "Vern9", 1 / 256).u
    for (name, order, dt) in methods
        ends = [fixed_steps(model, [0.5, 1.2], [1.5], (0.0, 2.0), name, dt / 2^k).u for k in 0:2]
        @test all(>(order - 0.4), orders([maximum(abs, u - reference) for u in ends]))
    end
    # The implicit part may be as stiff as it likes; a method for the whole takes the model as it is.
    PySciML.set_jacobian!(
        model, build([(:state, 1), (:state, 2), (:param, 1), (:neg, 3), (:neg, 2), (:neg, 1), (:const, 1.0)], 2, 1),
        [3, 6, 4, 5], [0, 0, 1, 1], [0, 1, 0, 1],
    )
    exact = solve(model, [1.0, 0.5], [1e6], (0.0, 1.0), "Rodas5P"; rtol = 1e-10, atol = 1e-10)[2][end, :]
    for name in ("KenCarp4", "FBDF", "", "ARS343")
        t, u, algorithm, retcode, _, n_steps, _ = solve(model, [1.0, 0.5], [1e6], (0.0, 1.0), name; rtol = 1e-8, atol = 1e-8)
        @test retcode == "Success"
        @test u[end, :] ≈ exact rtol = 1e-5
        # The error estimate of ARS343 is not smoothed by the implicit part, and asks for steps that accuracy does not need.
        name == "ARS343" || @test n_steps < 2000
    end
    @test PySciML.takes_parts(model, "KenCarp4") && PySciML.takes_parts(model, "SBDF2")
    @test !PySciML.takes_parts(model, "FBDF") && !PySciML.takes_parts(model, "")
end

@testset "stochastic equations have their strong orders" begin
    # dx = p1*x dt + p2*x dW; its exact solution along the path that was drawn.
    graph = build([(:state, 1), (:param, 1), (:param, 2), (:mul, 1, 2), (:mul, 1, 3)], 1, 2)
    model = Model("sde", graph, [3], [true])
    PySciML.set_noise!(model, [4], [0], [0], 1, "diagonal")
    p = [0.5, 0.8]
    strong(model, name, exact, dt) = sum(1:300) do seed
        integrator = fixed_steps(model, [1.0], p, (0.0, 1.0), name, dt; seed)
        abs(integrator.u[1] - exact(integrator))
    end / 300
    geometric(integrator) = exp(p[1] - p[2]^2 / 2 + p[2] * integrator.W.curW[1])
    for (name, order) in ("EM" => 0.5, "RKMil" => 1.0, "SRIW1" => 1.5, "SOSRI" => 1.5)
        errors = [strong(model, name, geometric, 2.0^-k) for k in (4, 6, 8)]
        @test all(abs.(orders(errors) ./ 2 .- order) .< 0.3)
    end
    @test_throws "Stratonovich" PySciML.make_plan(model, 0.0, 1.0, "EulerHeun", 1e-3, 1e-3, [1.0], 0.1, 10)
    @test_throws "additive" PySciML.make_plan(model, 0.0, 1.0, "SOSRA", 1e-3, 1e-3, [1.0], 0.1, 10)
end

@testset "delay equations have their orders" begin
    # x' = -x + x(t - p)/2, x = 1 before 0, p = 1: exponentials between whole numbers.
    graph = build([(:state, 1), (:param, 1), (:time,), (:sub, 3, 2), (:history, 4), (:const, 0.5), (:mul, 5, 6), (:sub, 7, 1)], 1, 1)
    model = Model("dde", graph, [7], [true])
    first_end = 0.5 + 0.5 * exp(-1)
    exact = (first_end - 0.25 + 0.25) * exp(-1) + 0.25
    for (name, order) in ("Midpoint" => 2, "BS3" => 3, "RK4" => 4)
        errors = [abs(fixed_steps(model, [1.0], [1.0], (0.0, 2.0), name, dt).u[1] - exact) for dt in (0.25, 0.125, 0.0625)]
        @test all(>(order - 0.4), orders(errors))
    end
    for name in ("", "Tsit5", "Rodas5P", "TRBDF2")
        t, u, _, retcode, _ = solve(model, [1.0], [1.0], (0.0, 2.0), name; rtol = 1e-8, atol = 1e-8)
        @test retcode == "Success"
        @test u[end, 1] ≈ exact rtol = (name == "TRBDF2" ? 1e-4 : 1e-6)
    end
end

@testset "many trajectories are those of single solves" begin
    graph, rhs, entries, rows, cols = van_der_pol()
    model = Model("ode", graph, rhs, [true, true])
    PySciML.set_jacobian!(model, graph, entries, rows, cols)
    starts, parameters = [2.0 1.5 1.0; 0.0 0.5 -1.0], [1.0 10.0 3.0]
    times = [0.0, 0.5, 1.0]
    for name in ("Tsit5", "Rodas5P", ""), threads in (1, 2)
        u, codes, names, _ = PySciML.solve_many(
            model, starts, parameters, 0.0, 1.0, name, 1e-6, 1e-8, times, 0.0, 10^5, [1, 2, 3], threads,
        )
        @test names[codes .+ 1] == fill("Success", 3)
        for k in 1:3
            alone = solve(model, starts[:, k], parameters[:, k], (0.0, 1.0), name; rtol = 1e-6, atol = 1e-8, saveat = times)
            @test u[:, :, k]' == alone[2]
        end
    end
    # One that cannot be solved leaves the others alone.
    square = build([(:state, 1), (:mul, 1, 1)], 1, 0)
    u, codes, names, _ = PySciML.solve_many(
        Model("ode", square, [1], [true]), [1.0 0.1], zeros(0, 2), 0.0, 2.0, "Tsit5", 1e-6, 1e-8, [2.0], 0.0, 10^4, [1, 2], 2,
    )
    @test names[codes[1] + 1] != "Success" && isnan(u[1, 1, 1])
    @test names[codes[2] + 1] == "Success"
    @test u[1, 1, 2] ≈ 0.1 / 0.8 rtol = 1e-5
end

include("static.jl")
Base.find_package("DiffEqGPU") === nothing || include("device.jl")
Base.find_package("KernelAbstractions") === nothing || include("device_fields.jl")
Base.find_package("KernelAbstractions") === nothing || include("device_ensembles.jl")
Base.find_package("CUDA") === nothing || include("cuda.jl")
include("training.jl")
include("series.jl")
Base.find_package("JLArrays") === nothing || include("device_training.jl")
Base.find_package("CUDA") === nothing || include("cuda_training.jl")

@testset "tapes know every operation" begin
    leaves = (PySciML.CONST, PySciML.TIME, PySciML.STATE, PySciML.PARAM, PySciML.HISTORY)
    @test Set(first.(PySciML.POINTWISE)) == setdiff(Set(keys(PySciML.OPERATIONS)), leaves)
end

Base.find_package("Optimisers") === nothing || include("optimizers.jl")
if Base.find_package("ModelingToolkit") === nothing
    println("ModelingToolkit is not in this environment: index reduction by it is not tested")
else
    include("reduction.jl")
end
if Base.find_package("SciMLSensitivity") === nothing
    println("SciMLSensitivity is not in this environment: its adjoints are not tested")
else
    include("sensitivities.jl")
end

if Base.find_package("Aqua") !== nothing
    # What the package loads by name where a solver asks for it is not among its dependencies.
    using Aqua: Aqua
    @testset "Aqua" Aqua.test_all(PySciML)
end

if Base.find_package("JET") !== nothing
    using JET: JET
    @testset "JET" begin
        JET.test_package(PySciML; target_modules = (PySciML,), toplevel_logger = nothing)
        # Nothing in a training solve is dispatched while it runs.
        S = PySciML.AdaptiveSolve{PySciML.BatchField, Union{Nothing, PySciML.Integrand}, Matrix{Float64}}
        V, M, A = Vector{Float64}, Matrix{Float64}, Array{Float64, 3}
        JET.test_opt(PySciML.solve!, (A, S, V, M, V, V, Float64, Float64, V); target_modules = (PySciML,))
        JET.test_opt(PySciML.pull!, (M, S, A, M, V, V, V, Float64); target_modules = (PySciML,))
    end
end
