# What training solves with: tapes, networks, adaptive solves and their adjoints. Nothing here needs a solver package.

using LinearAlgebra
using PySciML: Dense, Tape
using Random: Xoshiro
using Test

isdefined(@__MODULE__, :tape) || include("tapes.jl")

"Values of the outputs for every member, and the derivatives of `sum(bars .* values)` by states, times and parameters."
function evaluate_and_pull(tape, p, u, t, bars)
    parameters, columns = PySciML.Parameters{Float64}(tape), PySciML.Columns{Float64}(tape, size(u, 1))
    adjoints = PySciML.Bars{Float64}(tape, size(u, 1))
    PySciML.set!(parameters, tape, p)
    PySciML.spread!(columns, tape, parameters)
    PySciML.evaluate!(columns, tape, parameters, u, t, 1)
    PySciML.clear!(adjoints)
    PySciML.begin_pull!(adjoints, tape)
    for (j, column) in enumerate(tape.outputs)
        adjoints.values[:, column] .+= bars[:, j]
    end
    PySciML.pull!(adjoints, columns, tape, parameters)
    u_bar, t_bar, p_bar = zero(u), zero(t), zero(p)
    for (column, index) in tape.states
        u_bar[:, index] .+= adjoints.values[:, column]
    end
    for column in tape.times
        t_bar .+= adjoints.values[:, column]
    end
    PySciML.parameter_bars!(p_bar, parameters, tape, (adjoints,))
    return columns.values[:, tape.outputs], u_bar, t_bar, p_bar
end

"Central differences of `f` by the entries `which` of an array."
function differences(f, x, which = eachindex(x); step = 1e-6)
    return map(which) do k
        up, down = copy(x), copy(x)
        up[k] += step
        down[k] -= step
        (f(up) - f(down)) / 2step
    end
end

@testset "operations on columns have their derivatives" begin
    # Operands where every function is smooth: within (0, 1), but for acosh.
    rng = Xoshiro(1)
    known = isdefined(Main, :PLAIN) ? setdiff(first.(PySciML.POINTWISE), 0x34:0x3a) : collect(first.(PySciML.POINTWISE))
    for code in known
        arity = PySciML.pointwise_arity(code)
        u = 0.2 .+ 0.6 .* rand(rng, 5, 3)
        code == 0x21 && (u .+= 1)
        code in 0x36:0x3a && (u[:, 1] .= 2) # an order
        one = tape(Any[(:state, 1), (:state, 2), (:state, 3), (code, (1:arity)...)], 3, 0, [4])
        bars = randn(rng, 5, 1)
        value(v) = sum(bars .* evaluate_and_pull(one, Float64[], v, zeros(5), bars)[1])
        _, u_bar, _ = evaluate_and_pull(one, Float64[], u, zeros(5), bars)
        places = code in 0x36:0x3a ? (6:15) : eachindex(u)
        @test vec(u_bar)[places] ≈ differences(value, u, places) rtol = 1e-7 atol = 1e-8
    end
    # The branch not taken has an infinite derivative: 0 * Inf must not appear.
    branch = tape(Any[(:state, 1), (:const, 0.0), (0x3e, 1, 2), (0x14, 1), (0x45, 3, 4, 1)], 1, 0, [5])
    values, u_bar, _ = evaluate_and_pull(branch, Float64[], reshape([0.0, 4.0], 2, 1), zeros(2), ones(2, 1))
    @test values == reshape([0.0, 2.0], 2, 1) && u_bar == reshape([1.0, 0.25], 2, 1)
end

@testset "a tape of states, time, parameters and a network" begin
    # p1 * sin(p2) * t + nn(u1, u2)[2] * u1, and nn(u1, u2)[1]
    network = layers([2, 5, 3, 2], :tanh, 2; final = :softplus)
    nodes = Any[
        (:param, 1), (:param, 2), (:sin, 2), (:mul, 1, 3), (:time,), (:mul, 4, 5), (:state, 1), (:state, 2), (:join, 7, 8),
        (:network, 2, 9), (:mul, 10, 7), (:add, 6, 11), (:network, 1, 9),
    ]
    both = tape(nodes, 2, 2 + size_of(network), [12, 13]; networks = [network], calls = [(1, 1), (1, 2)])
    @test length(both.applications) == 1
    @test both.n_fixed == 4
    rng = Xoshiro(2)
    p, u, t, bars = randn(rng, both.n_params), randn(rng, 4, 2), randn(rng, 4), randn(rng, 4, 2)
    by_hand(p, u, t) = begin
        x = u'
        for layer in network
            W = reshape(p[layer.matrix .+ (1:(layer.n_in * layer.n_out))], layer.n_in, layer.n_out)'
            x = W * x .+ p[layer.bias .+ (1:layer.n_out)]
            x = layer.activation === :tanh ? tanh.(x) : log1p.(exp.(x))
        end
        hcat(p[1] * sin(p[2]) .* t .+ x[2, :] .* u[:, 1], x[1, :])
    end
    values, u_bar, t_bar, p_bar = evaluate_and_pull(both, p, u, t, bars)
    @test values ≈ by_hand(p, u, t) rtol = 1e-13
    @test p_bar ≈ differences(p -> sum(bars .* by_hand(p, u, t)), p) rtol = 1e-8
    @test vec(u_bar) ≈ differences(u -> sum(bars .* by_hand(p, u, t)), u) rtol = 1e-8
    @test t_bar ≈ differences(t -> sum(bars .* by_hand(p, u, t)), t) rtol = 1e-8
end

@testset "the hyperbolic tangent without branches" begin
    for x in [exp10.(range(-300, 3; length = 1000)); range(0, 25; length = 5000)], signed in (x, -x)
        @test PySciML.straight_tanh(signed) ≈ tanh(signed) rtol = 4eps()
    end
    @test PySciML.straight_tanh.([Inf, -Inf, 0.0]) == [1.0, -1.0, 0.0] && isnan(PySciML.straight_tanh(NaN))
end

@testset "every activation has its derivative" begin
    rng = Xoshiro(3)
    for activation in PySciML.ACTIVATIONS
        network = layers([1, 4, 1], activation, 0)
        one = tape(Any[(:state, 1), (:network, 1, 1)], 1, size_of(network), [2]; networks = [network], calls = [(1, 1)])
        p, u, bars = randn(rng, one.n_params), randn(rng, 6, 1), randn(rng, 6, 1)
        value(p, u) = sum(bars .* evaluate_and_pull(one, p, u, zeros(6), bars)[1])
        _, u_bar, _, p_bar = evaluate_and_pull(one, p, u, zeros(6), bars)
        @test p_bar ≈ differences(p -> value(p, u), p) rtol = 1e-7
        @test vec(u_bar) ≈ differences(u -> value(p, u), u) rtol = 1e-7
    end
end

@testset "arrays that are no tape are refused" begin
    network = layers([1, 2, 1], :tanh, 0)
    for (reason, make) in (
            "bad index" => () -> tape(Any[(:state, 2)], 1, 0, [1]),
            "bad operands" => () -> tape(Any[(:state, 1), (:add, 1, 2)], 1, 0, [2]),
            "does not know" => () -> tape(Any[(0xc8,)], 1, 0, [1]),
            "only networks do" => () -> tape(Any[(:state, 1), (:join, 1, 1), (:sin, 2)], 1, 0, [3]),
            "or a vector" => () -> tape(Any[(:state, 1), (:join, 1, 1)], 1, 0, [2]),
            "takes 1" => () -> tape(Any[(:state, 1), (:join, 1, 1), (:network, 1, 2)], 1, 7, [3]; networks = [network], calls = [(1, 1)]),
            "does not fit" => () -> tape(Any[(:state, 1), (:network, 1, 1)], 1, 6, [2]; networks = [network], calls = [(1, 1)]),
            "no output" => () -> tape(Any[(:state, 1), (:network, 1, 1)], 1, 7, [2]; networks = [network], calls = [(1, 2)]),
        )
        @test_throws reason make()
    end
    @test_throws "not with Vern9" PySciML.explicit_method("Vern9")
end

"A solve with the usual arguments; returns the solution at the times."
function solved(s, p, y0, t1, times; start = zeros(s.field.rows), length = ones(s.field.rows), dt = nothing)
    ys = zeros(s.field.rows, s.field.tape.n_states, Base.length(times))
    PySciML.solve!(ys, s, p, y0, start, length, 0.0, t1, times; dt)
    return ys
end

@testset "explicit methods have their orders, and so have their interpolants" begin
    y0 = [1.0 1.0]
    exact(t) = solved(PySciML.AdaptiveSolve(lotka_volterra(), PySciML.explicit_method("Tsit5"), 1, 1e-13, 1e-13, 10_000), LOTKA, y0, t, [t])[1, :, 1]
    for (name, order, within) in (("Tsit5", 5, 4.7), ("DP5", 5, 3.7), ("BS3", 3, 3.6))
        s = PySciML.AdaptiveSolve(lotka_volterra(), PySciML.explicit_method(name), 1, 1e-6, 1e-6, 100)
        errors = map((0.1, 0.05)) do h
            PySciML.prepare!(s.field, LOTKA, zeros(1), ones(1))
            copyto!(s.inner[1], y0)
            PySciML.slope!(s.slopes[1], s.field, 1, 0.0, s.inner[1])
            PySciML.take_step!(s, 0.0, h, false)
            PySciML.within!(s, 0.0, h, h / 2)
            norm(vec(s.inner[end]) - exact(h)), norm(vec(s.work) - exact(h / 2))
        end
        @test log2(errors[1][1] / errors[2][1]) > order + 0.6 # of one step: one more
        @test log2(errors[1][2] / errors[2][2]) > within
    end
end

@testset "the stiffness estimate is the slope of a linear equation" begin
    decay = tape(Any[(:state, 1), (:const, -50.0), (:mul, 1, 2)], 1, 0, [3])
    s = PySciML.AdaptiveSolve(decay, PySciML.explicit_method("Tsit5"), 1, 1e-6, 1e-6, 100)
    solved(s, Float64[], ones(1, 1), 0.1, Float64[])
    @test all(≈(50 / 3.5068; rtol = 1e-6), s.record.stiffness[1:s.count])
end

const TIMES = [0.0, 0.3, 0.31, 0.9, 1.6, 2.0]

"A loss of everything a solve gives, and its derivatives by parameters and initial states."
function loss_and_derivatives(s, p, y0, start, length, dt = nothing)
    ys = solved(s, p, y0, 2.0, TIMES; start, length, dt)
    r, n = s.record, s.count
    error, stiffness, h = copy(r.error[1:n]), copy(r.stiffness[1:n]), copy(r.taken[1:n])
    value = sum(sin, ys) + sum(PySciML.final_state(s)) + 3 * dot(error, h) + sum(stiffness) + 0.5 * s.integral
    y0_bar, p_bar = zero(y0), zero(p)
    PySciML.pull!(y0_bar, s, cos.(ys), ones(size(y0)), 3 .* h, ones(n), 3 .* error, 0.5)
    PySciML.parameter_bars!(p_bar, s)
    return value, p_bar, y0_bar
end

"The same loss along the steps of the last solve, whatever the parameters."
function replayed(s, steps, p, y0, start, length)
    PySciML.prepare!(s.field, p, start, length)
    copyto!(s.inner[1], y0)
    PySciML.slope!(s.slopes[1], s.field, 1, 0.0, s.inner[1])
    value = TIMES[1] == 0 ? sum(sin, y0) : 0.0
    for (t, h) in steps
        error, stiffness, integral = PySciML.take_step!(s, t, h, false)
        for time in TIMES
            t < time <= t + h + 1e-12 && (value += sum(sin, PySciML.within!(s, t, h, time)))
        end
        value += 3 * error * h + stiffness + 0.5 * integral
        copyto!(s.inner[1], s.inner[end])
        copyto!(s.slopes[1], s.slopes[end])
    end
    return value + sum(s.inner[1])
end

@testset "the adjoint is that of the steps taken" begin
    one, p, y0, start, length = driven()
    # The last two stages of DP5 are so near each other that small differences of the stiffness estimate are rounding.
    for (name, step) in (("Tsit5", 1e-6), ("DP5", 1e-4), ("BS3", 1e-6))
        s = PySciML.AdaptiveSolve(one, PySciML.explicit_method(name), 3, 1e-4, 1e-5, 200; kinetic = 0.3)
        value, p_bar, y0_bar = loss_and_derivatives(s, p, y0, start, length)
        steps = collect(zip(s.record.t[1:s.count], s.record.taken[1:s.count]))
        @test s.success
        @test value ≈ replayed(s, steps, p, y0, start, length) rtol = 1e-12
        @test p_bar ≈ differences(p -> replayed(s, steps, p, y0, start, length), p; step) rtol = 1e-5
        @test vec(y0_bar) ≈ differences(y0 -> replayed(s, steps, p, y0, start, length), y0; step) rtol = 1e-5
    end
end

@testset "through the steps it is that of the adaptive solve" begin
    one, p, y0, start, length = driven()
    for (name, dt) in (("Tsit5", nothing), ("BS3", nothing), ("BS3", 1.5))
        s = PySciML.AdaptiveSolve(one, PySciML.explicit_method(name), 3, 1e-3, 1e-4, 200; kinetic = 0.3, through_steps = true)
        value, p_bar, y0_bar = loss_and_derivatives(s, p, y0, start, length, dt)
        dt === nothing || @test s.n_rejected > 0
        loss(p, y0) = loss_and_derivatives(s, p, y0, start, length, dt)[1]
        @test p_bar ≈ differences(p -> loss(p, y0), p) rtol = 1e-5
        @test vec(y0_bar) ≈ differences(y0 -> loss(p, y0), y0) rtol = 1e-5
    end
end

"Outputs of the states of `driven`, a random number for each, the length and the time; its parameters are those of `driven`."
along(n_params) = tape(
    Any[
        (:state, 1), (:state, 2), (:state, 3), (:state, 4), (:state, 5), (:time,), (:param, 1), (:sin, 1), (:mul, 8, 3),
        (:mul, 9, 7), (:mul, 2, 4), (:mul, 11, 5), (:cos, 6), (:add, 12, 13), (:const, 0.5),
    ], 5, n_params, [10, 14, 15],
)

@testset "what is integrated along is differentiated with the steps" begin
    one, p, y0, start, length = driven()
    weights, noise = [0.3, 0.2, 0.1], randn(Xoshiro(1), 3, 2)
    for (name, dt) in (("Tsit5", nothing), ("BS3", 1.5))
        options = (; kinetic = 0.1, through_steps = true, integrand = along(one.n_params))
        s = PySciML.AdaptiveSolve(one, PySciML.explicit_method(name), 3, 1e-3, 1e-4, 200; options...)
        PySciML.set!(s.integrand, weights, noise)
        value, p_bar, y0_bar = loss_and_derivatives(s, p, y0, start, length, dt)
        loss(p, y0) = loss_and_derivatives(s, p, y0, start, length, dt)[1]
        @test p_bar ≈ differences(p -> loss(p, y0), p) rtol = 1e-5
        @test vec(y0_bar) ≈ differences(y0 -> loss(p, y0), y0) rtol = 1e-5
    end
end

@testset "an integrand is the mean square of what its tape says" begin
    # Of the derivative itself it is the kinetic energy; the random numbers and the length are not used.
    nodes = Any[(:state, 1), (:state, 2), (:param, 1), (:mul, 3, 2), (:mul, 1, 2)]
    rates, squared = tape(nodes, 2, 1, [4, 5]), tape(nodes, 5, 1, [4, 5])
    tsit5, y0, start, length = PySciML.explicit_method("Tsit5"), [0.5 -0.4; 0.2 0.3], [0.0, 0.0], [1.0, -0.7]
    kinetic = PySciML.AdaptiveSolve(rates, tsit5, 2, 1e-8, 1e-8, 200; kinetic = 0.3)
    other = PySciML.AdaptiveSolve(rates, tsit5, 2, 1e-8, 1e-8, 200; integrand = squared)
    PySciML.set!(other.integrand, [0.3, 0.3], zeros(2, 2))
    for s in (kinetic, other)
        solved(s, [1.3], y0, 1.0, Float64[]; start, length)
    end
    @test other.integral ≈ kinetic.integral rtol = 1e-13
    @test_throws "no integrand" PySciML.AdaptiveSolve(rates, tsit5, 2, 1e-8, 1e-8, 200; integrand = rates)
end

@testset "local estimates are those of the steps, and are differentiated" begin
    one, p, y0, start, length = driven()
    s = PySciML.AdaptiveSolve(one, PySciML.explicit_method("Tsit5"), 3, 1e-5, 1e-6, 200)
    _, before, _ = loss_and_derivatives(s, p, y0, start, length)
    r = s.record
    error, stiffness = PySciML.local_estimate!(s, false, 1.0, 2.0, 0.7)
    @test error ≈ r.error[2] * r.taken[2] rtol = 1e-9
    @test stiffness ≈ r.stiffness[2] rtol = 1e-9
    # At a time where a step began it is that step, too.
    @test all(PySciML.local_estimate!(s, true, r.t[3], 0.0, 0.0) .≈ (r.error[3] * r.h[3], r.stiffness[3]))
    for (uniform, where) in ((false, 1.0), (true, 0.77))
        _, before, _ = loss_and_derivatives(s, p, y0, start, length)
        value() = collect(PySciML.local_estimate!(s, uniform, where, 0.0, 0.0))
        base = value()
        after = zero(p)
        PySciML.local_estimate!(s, uniform, where, 2.0, 0.7)
        PySciML.parameter_bars!(after, s)
        # The state is as given: of the uniform variant it is that of the parameters before.
        i = uniform ? findlast(<=(where), r.t[1:s.count]) : 2
        state, time = copy(r.y[i]), uniform ? where : r.t[2]
        if uniform
            copyto!(s.inner[1], r.y[i])
            copyto!(s.slopes[1], r.slope[i])
            PySciML.take_step!(s, r.t[i], where - r.t[i], false)
            state = copy(s.inner[end])
        end
        size = min(r.h[i], 2.0 - time)
        one_step(p) = begin
            PySciML.prepare!(s.field, p, start, length)
            copyto!(s.inner[1], state)
            PySciML.slope!(s.slopes[1], s.field, 1, time, s.inner[1])
            found = PySciML.take_step!(s, time, size, false)
            2.0 * found[1] * size + 0.7 * found[2]
        end
        @test one_step(p) ≈ 2.0 * base[1] + 0.7 * base[2] rtol = 1e-12
        @test after - before ≈ differences(one_step, p) rtol = 1e-5
    end
end

@testset "a batch in pieces is one state" begin
    one, p, y0, start, length = driven()
    alone = PySciML.AdaptiveSolve(one, PySciML.explicit_method("Tsit5"), 1, 1e-5, 1e-6, 200)
    value, p_bar, y0_bar = loss_and_derivatives(alone, p, y0[2:2, :], start[2:2], length[2:2])
    rows = 2 * PySciML.PIECE_ROWS + 3
    many = PySciML.AdaptiveSolve(one, PySciML.explicit_method("Tsit5"), rows, 1e-5, 1e-6, 200)
    threaded = PySciML.AdaptiveSolve(one, PySciML.explicit_method("Tsit5"), rows, 1e-5, 1e-6, 200; threaded = true)
    same(x) = repeat(x[2:2, :], rows)
    for s in (many, threaded)
        ys = solved(s, p, same(y0), 2.0, TIMES; start = fill(start[2], rows), length = fill(length[2], rows))
        @test Base.length(s.field.pieces) == 3 && s.count == alone.count
        @test ys[1, :, :] == ys[rows, :, :]
        y_bar, total = zeros(rows, 2), zero(p)
        none = zeros(s.count)
        PySciML.pull!(y_bar, s, cos.(ys), ones(rows, 2), none, none, none, 0.0)
        PySciML.parameter_bars!(total, s)
        single, once = zeros(1, 2), zero(p)
        ys = solved(alone, p, y0[2:2, :], 2.0, TIMES; start = start[2:2], length = length[2:2])
        PySciML.pull!(single, alone, cos.(ys), ones(1, 2), zeros(alone.count), zeros(alone.count), zeros(alone.count), 0.0)
        PySciML.parameter_bars!(once, alone)
        @test total ≈ rows * once rtol = 1e-9
        @test y_bar[rows:rows, :] ≈ single rtol = 1e-9
    end
end

"What the second time allocates: solve, adjoint, local estimate and derivatives by the parameters."
function second_time(s, p, y0, start, length, ys, ys_bar, y0_bar, p_bar, none)
    found = 0
    for _ in 1:2
        found = @allocated begin
            PySciML.solve!(ys, s, p, y0, start, length, 0.0, 2.0, TIMES)
            PySciML.pull!(y0_bar, s, ys_bar, y0_bar, none, none, none, 1.0)
            PySciML.local_estimate!(s, true, 0.4, 1.0, 1.0)
            PySciML.parameter_bars!(p_bar, s)
        end
    end
    return found
end

@testset "nothing is allocated the second time" begin
    one, p, y0, start, length = driven()
    tsit5, options = PySciML.explicit_method("Tsit5"), (; kinetic = 0.1, through_steps = true, integrand = along(one.n_params))
    s = PySciML.AdaptiveSolve(one, tsit5, 3, 1e-5, 1e-6, 200; options...)
    PySciML.set!(s.integrand, ones(3), ones(3, 2))
    ys = zeros(3, 2, Base.length(TIMES))
    @test second_time(s, p, y0, start, length, ys, ones(size(ys)), ones(3, 2), zero(p), ones(100)) == 0
end

@testset "a solve that cannot go on says so" begin
    square = tape(Any[(:state, 1), (:mul, 1, 1)], 1, 0, [2])
    s = PySciML.AdaptiveSolve(square, PySciML.explicit_method("Tsit5"), 1, 1e-6, 1e-6, 10_000)
    solved(s, Float64[], ones(1, 1), 2.0, [2.0]) # its solution has a pole at 1
    @test !s.success
    s = PySciML.AdaptiveSolve(lotka_volterra(), PySciML.explicit_method("Tsit5"), 1, 1e-8, 1e-8, 4)
    solved(s, LOTKA, ones(1, 2), 5.0, Float64[])
    @test !s.success && s.count == 4
end

"A solve of the paths of `noisy_tapes`."
function noisy(; kinetic = 0.0)
    drift, diffusion, targets, p, y0, draws = noisy_tapes()
    s = PySciML.NoisySolve(drift, diffusion, targets, size(y0, 1), 1e-3, 1e-3, 200; kinetic)
    return s, p, y0, draws
end

@testset "a stochastic solve: rejections keep the path, and its adjoint is that of the steps taken" begin
    s, p, y0, draws = noisy(; kinetic = 0.3)
    times = [0.0, 0.3, 1.0]
    ys = zeros(5, 2, 3)
    # With a first step that is too large, so that increments are split.
    PySciML.solve!(ys, s, p, y0, 0.0, 1.0, times, draws; dt = 0.9)
    r, n = s.record, s.count
    @test s.success && s.attempts > n && !s.wants_draws
    @test sum(r.h[1:n]) ≈ 1
    @test r.saves[1:n][r.saves[1:n] .> 0] == [2, 3]
    t, h = r.t[1:n], r.h[1:n]
    replay(p, y0) = begin
        for field in (s.drift, s.diffusion)
            PySciML.prepare!(field, p, zeros(5), ones(5))
        end
        value, y = sum(abs2, y0), copy(y0)
        for i in 1:n
            copyto!(s.inner[1], y)
            copyto!(s.dw, r.dw[i])
            copyto!(s.dz, r.dz[i])
            error, stiffness, integral = PySciML.take_step!(s, t[i], h[i], false)
            y = copy(s.new)
            value += 3 * error * h[i] + stiffness + 0.5 * integral + (r.saves[i] > 0 ? sum(abs2, y) : 0.0)
        end
        value + sum(y)
    end
    value = sum(abs2, ys) + sum(PySciML.final_state(s)) + 3 * dot(r.error[1:n], h) + sum(r.stiffness[1:n]) + 0.5 * s.integral
    @test value ≈ replay(p, y0) rtol = 1e-12
    y0_bar, p_bar = zero(y0), zero(p)
    PySciML.prepare!(s.drift, p, zeros(5), ones(5))
    PySciML.pull!(y0_bar, s, 2 .* ys, ones(5, 2), 3 .* h, ones(n), 0.5)
    PySciML.parameter_bars!(p_bar, s)
    @test p_bar ≈ differences(p -> replay(p, y0), p) rtol = 1e-6
    @test vec(y0_bar) ≈ differences(y0 -> replay(p, y0), y0) rtol = 1e-6
    PySciML.solve!(ys, s, p, y0, 0.0, 1.0, times, draws[:, :, :, 1:2]; dt = 0.9)
    @test s.wants_draws && !s.success
end

@testset "SOSRI has strong order 3/2" begin
    # dx = x dt + 0.8 x dW, along paths of 512 increments.
    drift = tape(Any[(:state, 1)], 1, 0, [1])
    diffusion = tape(Any[(:state, 1), (:const, 0.8), (:mul, 1, 2)], 1, 0, [3])
    fine, paths, rng = 512, 2000, Xoshiro(0)
    dw, dz = (sqrt(1 / fine) .* randn(rng, paths, fine) for _ in 1:2)
    # The integral of the path over each increment, from its start.
    iterated = (dw .+ dz ./ sqrt(3)) ./ 2fine
    exact = exp.(1 - 0.8^2 / 2 .+ 0.8 .* sum(dw; dims = 2))
    s = PySciML.NoisySolve(drift, diffusion, [1], paths, 1e-3, 1e-3, 10)
    errors = map((8, 64)) do n
        for field in (s.drift, s.diffusion)
            PySciML.prepare!(field, Float64[], zeros(paths), ones(paths))
        end
        k, h = fine ÷ n, 1 / n
        fill!(s.inner[1], 1.0)
        for step in 0:(n - 1)
            w, z = dw[:, step * k .+ (1:k)], iterated[:, step * k .+ (1:k)]
            before = hcat(zeros(paths), cumsum(w; dims = 2)[:, 1:(k - 1)])
            total = sum(w; dims = 2)
            copyto!(s.dw, total)
            copyto!(s.dz, sqrt(3) .* (2 .* sum(z .+ before ./ fine; dims = 2) ./ h .- total))
            PySciML.take_step!(s, step * h, h, false)
            copyto!(s.inner[1], s.new)
        end
        sum(abs, s.inner[1] .- exact) / paths
    end
    @test 1.3 < log2(errors[1] / errors[2]) / 3 < 1.8
end

@testset "local estimates of a stochastic solve" begin
    s, p, y0, draws = noisy()
    ys = zeros(5, 2, 0)
    PySciML.solve!(ys, s, p, y0, 0.0, 1.0, Float64[], draws)
    r, y1 = s.record, copy(PySciML.final_state(s))
    # The step that was taken, with its own noise.
    own = cat(r.dw[2], r.dz[2]; dims = 3) ./ sqrt(r.h[2])
    error, stiffness = PySciML.local_estimate!(s, false, 1.0, y1, own, 0.0, 0.0)
    @test error ≈ r.error[2] * r.h[2] rtol = 1e-9
    @test stiffness ≈ r.stiffness[2] rtol = 1e-9
    for (uniform, where) in ((false, 1.0), (true, 0.61))
        PySciML.clear!(s.drift)
        PySciML.clear!(s.diffusion)
        PySciML.local_estimate!(s, uniform, where, y1, own, 2.0, 0.7)
        p_bar = zero(p)
        PySciML.parameter_bars!(p_bar, s)
        value(p) = begin
            for field in (s.drift, s.diffusion)
                PySciML.prepare!(field, p, zeros(5), ones(5))
            end
            dot([2.0, 0.7], collect(PySciML.local_estimate!(s, uniform, where, y1, own, 0.0, 0.0)))
        end
        @test p_bar ≈ differences(value, p) rtol = 1e-5
    end
end
