# Solves of a batch on a device against those of the CPU, for tests on any backend of KernelAbstractions.jl.

using PySciML
using PySciML: AdaptiveSolve, DeviceField, explicit_method
using Random: Xoshiro
using Test

isdefined(@__MODULE__, :tape) || include("tapes.jl")

"Close, in the norm, or both nothing."
near(a, b, rtol) = isapprox(Array(a), Array(b); rtol, atol = rtol)

"An array of a backend in the precision `T`."
on(backend, ::Type{T}, numbers) where {T} = PySciML.on_device(backend, T.(numbers))

"All that a field gives, slopes and the adjoints of two evaluations, those by time too, is that of a CPU's."
function field_agrees(one, p, y, start, length, backend, ::Type{T}; rtol) where {T}
    rows, n = size(y)
    k_bar = randn(Xoshiro(7), rows, n)
    here, there = PySciML.BatchField(one, rows, 1:n, 2), DeviceField(one, rows, 1:n, 2, backend, T; with_time_bars = true)
    results = map(((here, identity), (there, x -> on(backend, T, x)))) do (field, place)
        k, y_bar, p_bar = place(zeros(rows, n)), place(ones(rows, n)), zeros(one.n_params)
        PySciML.prepare!(field, p, start, length)
        PySciML.clear!(field)
        by_time = map(1:2) do stage
            PySciML.slope!(k, field, stage, 0.3 * stage, place(y))
            PySciML.pull_slope!(y_bar, field, stage, place(k_bar))
        end
        PySciML.parameter_bars!(p_bar, field)
        (k, y_bar, p_bar, by_time)
    end
    return all(near(found, wanted, rtol) for (wanted, found) in zip(results...))
end

"What a solve gives, and the derivatives of a sum over it; `place` is where the arrays are."
function results_of(s, p, y0, start, length, place, dt; times = [0.0, 0.3, 0.31, 0.9, 1.6, 2.0])
    ys = place(zeros(size(y0)..., Base.length(times)))
    PySciML.solve!(ys, s, p, place(y0), start, length, 0.0, 2.0, times; dt)
    r, n = s.record, s.count
    error, stiffness, h, ends = r.error[1:n], r.stiffness[1:n], r.taken[1:n], Array(PySciML.final_state(s))
    weights = randn(Xoshiro(8), size(ys))
    y0_bar, p_bar = place(zero(y0)), zero(p)
    PySciML.pull!(y0_bar, s, place(weights), place(ones(size(y0))), 3 .* h, ones(n), 3 .* error, 0.5)
    found = PySciML.local_estimate!(s, true, 0.77, 2.0, 0.7)
    PySciML.parameter_bars!(p_bar, s)
    return (; ys, ends, error, stiffness, h, integral = [s.integral], y0_bar, p_bar, estimates = collect(found)), s.n_rhs
end

"""
Solutions, estimates and gradients are those of a CPU's solve in as many steps. With a first step `dt` that is not tiny: estimates
are small differences of large numbers, and those of the tiny step that a solve begins with are rounding.
"""
function solve_agrees(
        one, p, y0, start, length, name, backend, ::Type{T}; rtol, dt = 0.3, names = nothing, through_steps = false,
    ) where {T}
    rows, method = size(y0, 1), explicit_method(name)
    here = AdaptiveSolve(one, method, rows, 1e-2, 1e-3, 200; through_steps)
    there = PySciML.device_solve(one, method, rows, 1e-2, 1e-3, 200, backend, T; through_steps)
    here.kinetic = there.kinetic = 0.3
    wanted, n_rhs = results_of(here, p, y0, start, length, identity, dt)
    found, there_n_rhs = results_of(there, p, y0, start, length, x -> on(backend, T, x), dt)
    return there.success && n_rhs == there_n_rhs && all_near(found, wanted, something(names, keys(wanted)), rtol, name)
end

"Whether results are those that are wanted, and which are not."
function all_near(found, wanted, names, rtol, what)
    wrong = [q for q in names if !near(found[q], wanted[q], rtol)]
    apart(q) = maximum(abs, Array(found[q]) - wanted[q]) / maximum(abs, wanted[q])
    isempty(wrong) || @info "not those of the CPU" what [q => apart(q) for q in wrong]
    return isempty(wrong)
end

"What a stochastic solve gives, and the derivatives of a sum over it, with a first step that is rejected."
function noisy_results(s, p, y0, draws, place)
    ys = place(zeros(size(y0)..., 3))
    PySciML.solve!(ys, s, p, place(y0), 0.0, 1.0, [0.0, 0.3, 1.0], place(draws); dt = 0.9)
    r, n = s.record, s.count
    error, stiffness, h, ends = r.error[1:n], r.stiffness[1:n], r.h[1:n], copy(PySciML.final_state(s))
    noise = reduce(vcat, Array.(r.dw[1:n]))
    weights, y0_bar, p_bar = randn(Xoshiro(8), size(ys)), place(zero(y0)), zero(p)
    PySciML.pull!(y0_bar, s, place(weights), place(ones(size(y0))), 3 .* h, ones(n), 0.5)
    estimates = map(((true, 0.61), (false, 1.0))) do (uniform, where)
        collect(PySciML.local_estimate!(s, uniform, where, ends, place(draws[:, :, :, end]), 2.0, 0.7))
    end
    PySciML.parameter_bars!(p_bar, s)
    found = (; ys, ends, noise, error, stiffness, h, integral = [s.integral], y0_bar, p_bar, estimates = reduce(vcat, estimates))
    return found, s.attempts
end

"Paths, estimates and gradients of a stochastic solve are those of a CPU's, from the same random numbers in as many attempts."
function noisy_agrees(model, backend, ::Type{T}; rtol) where {T}
    drift, diffusion, targets, p, y0, draws = model
    rows = size(y0, 1)
    here = PySciML.NoisySolve(drift, diffusion, targets, rows, 1e-3, 1e-3, 200)
    there = PySciML.device_solve(drift, diffusion, targets, rows, 1e-3, 1e-3, 200, backend, T)
    here.kinetic = there.kinetic = 0.3
    wanted, attempts = noisy_results(here, p, y0, draws, identity)
    found, there_attempts = noisy_results(there, p, y0, draws, x -> on(backend, T, x))
    rejected = attempts - here.count
    return there.success && rejected > 0 && attempts == there_attempts &&
        all_near(found, wanted, keys(wanted), rtol, "with noise")
end

"Every operation that devices have, in a few tapes: each of an operation's results is the slope of one state."
function check_operations(backend, ::Type{T}; rtol) where {T}
    known = [code => Base.length(rule) - 1 for (code, rule) in PySciML.POINTWISE if !(code in PySciML.NOT_IN_KERNELS)]
    for some in Iterators.partition(known, 14)
        n = Base.length(some)
        nodes = Any[[(:state, k) for k in 1:n]; (:const, 1.0); (:add, 1, n + 1)]
        for (code, arity) in some
            push!(nodes, (code, (code == 0x21 ? (n + 2,) : 1:arity)...)) # acosh is of numbers above 1
        end
        one = tape(nodes, n, 0, n + 2 .+ (1:n))
        @test field_agrees(one, Float64[], 0.2 .+ 0.6 .* rand(Xoshiro(1), 5, n), zeros(5), ones(5), backend, T; rtol)
    end
    return nothing
end

"Three networks of all activations: inputs out of order and twice, outputs that nothing takes, one after the other."
function entangled()
    first_one = [layers([3, 6, 5, 4], :softplus, 2; final = :gelu); layers([4, 3], :swish, 2 + 86; final = :swish)]
    second = layers([2, 4, 2], :sin, 200; final = :sigmoid)
    third = layers([2, 3, 2], :relu, 300; final = :tanh)
    nodes = Any[
        (:state, 1), (:state, 2), (:state, 3), (:param, 1), (:param, 2), (:mul, 4, 5), (:const, 0.5), (:add, 6, 7), # 8 is fixed
        (:join, 3, 1), (:join, 9, 3), (:network, 1, 10), (:network, 2, 10), (:mul, 11, 8), (:join, 13, 2), (:network, 3, 14),
        (:time,), (:mul, 15, 16), (:join, 1, 2), (:network, 4, 18), (:add, 19, 17), (:mul, 4, 3),
    ]
    one = tape(nodes, 3, 340, [20, 12, 21]; networks = [first_one, second, third], calls = [(1, 1), (1, 3), (2, 2), (3, 1)])
    rng = Xoshiro(9)
    return one, 0.4 .* randn(rng, one.n_params), randn(rng, 7, 3), randn(rng, 7), 1 .+ 0.2 .* randn(rng, 7)
end

"Slopes of constants, parameters, states and the time, as they are."
bare() = tape(Any[(:state, 1), (:state, 2), (:param, 1), (:time,), (:const, 2.0)], 5, 1, [2, 3, 4, 5, 2])

function check_device_training(backend, ::Type{T}; rtol) where {T}
    check_operations(backend, T; rtol)
    models = (driven(), entangled(), (lotka_volterra(), LOTKA, [1.0 1.0; 2.0 0.5], zeros(2), ones(2)))
    @testset "model $k" for (k, (one, p, y0, start, length)) in enumerate(models)
        @test field_agrees(one, p, y0, start, length, backend, T; rtol)
        for name in ("Tsit5", "DP5", "BS3")
            @test solve_agrees(one, p, y0, start, length, name, backend, T; rtol)
            @test solve_agrees(one, p, y0, start, length, name, backend, T; rtol, through_steps = true)
        end
        @test solve_agrees(one, p, y0, start, length, "Tsit5", backend, T; rtol, dt = nothing, names = (:ys, :ends, :integral))
    end
    # A first step that is rejected, and one that is guessed, whose estimates are not rounding.
    one, p, y0, start, length = driven()
    for (name, dt) in (("BS3", 1.5), ("BS3", nothing))
        @test solve_agrees(one, p, y0, start, length, name, backend, T; rtol = 1e3 * rtol, dt, through_steps = true)
    end
    @test noisy_agrees(noisy_tapes(), backend, T; rtol)
    @test noisy_agrees(plain_noise(), backend, T; rtol)
    one, p = wide(12, 20)
    @test solve_agrees(one, p, randn(Xoshiro(5), 30, 12), zeros(30), ones(30), "Tsit5", backend, T; rtol)
    @test field_agrees(bare(), [0.7], randn(Xoshiro(3), 4, 5), zeros(4), ones(4), backend, T; rtol)
    return nothing
end
