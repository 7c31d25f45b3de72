# The Lux layers, against finite differences and against the solver of graphs: needs Lux and Zygote beside PySciML.

using Lux
using PySciML: AdaptiveSolve, Tape, explicit_method
using Random: Random

include("layer_checks.jl")

"The parameters with one number changed."
changed(x::AbstractArray, k::Ref{Int}, by) = (y = copy(x); 1 <= k[] <= length(y) && (y[k[]] += by); k[] -= length(y); y)
changed(x::NamedTuple, k::Ref{Int}, by) = map(part -> changed(part, k, by), x)
changed(x, k::Int, by) = changed(x, Ref(k), by)

function agrees(loss, ps; rtol = 1.0e-5, step = 1.0e-6, numbers = 12)
    found = flat(Zygote.gradient(loss, ps)[1])
    @test length(found) == length(flat(ps))
    scale = maximum(abs, found)
    for k in round.(Int, range(1, length(found), length = numbers))
        difference = (loss(changed(ps, k, step)) - loss(changed(ps, k, -step))) / 2step
        @test isapprox(found[k], difference; rtol, atol = rtol * scale)
    end
    return nothing
end

"The parameters after a step along a gradient."
moved(x::AbstractArray, by, step) = x .+ step .* by
moved(x::NamedTuple, by, step) = by === nothing ? x : NamedTuple(name => moved(x[name], by[name], step) for name in keys(x))

@testset "gradients of a neural ODE" begin
    y0 = randn(Xoshiro(2), 2, 5)
    target = randn(Xoshiro(3), 2, 5, 3)
    for regularize in (
            (), ErrorEstimate(0.3), ErrorEstimate(0.3; aggregate = :max), KineticEnergy(0.2), JacobianNorm(0.2),
            TaylorDerivative(2, 0.2), (TaylorDerivative(4, 0.01), KineticEnergy(0.1)),
        )
        # Differences move the steps, derivatives do not: they are compared where steps grow by the most that is allowed.
        layer = NeuralODE(network(); t1 = 2.0, rtol = 1.0e7, atol = 1.0e7, regularize)
        ps, st = double(layer)
        agrees(ps) do q
            out, _ = layer((y0, [0.5, 1.5, 2.0]), q, st)
            scale = regularize isa ErrorEstimate ? 1.0e8 : 1.0 # errors are relative to the tolerance
            sum(abs2, out.y .- target) + scale * out.regularization
        end
        out, _ = layer(y0, ps, st)
        @test out.success && size(out.y) == size(y0) && out.evaluations == 2 + 6 * (out.steps + out.rejected)
        @test (out.regularization > 0) == (regularize != ())
    end
end

@testset "the derivatives along a solution are those of the equation" begin
    extension = Base.get_extension(PySciML, :PySciMLLuxExt)
    model = Chain(Dense(3 => 6, tanh), Dense(6 => 2))
    ps, st = double(model)
    y0 = randn(Xoshiro(2), 2, 3)
    field = extension.NetworkField(model, ps, st, y0, 1, true, nothing)
    slope(y, t) = first(model(vcat(y, fill(t, 1, size(y, 2))), ps, st))
    "By its definition: the derivative along (dy, dt) = (slope, 1) of that of one order less."
    along(order, y, t) = order == 1 ? slope(y, t) :
        PySciML.ForwardDiff.derivative(s -> along(order - 1, y .+ s .* slope(y, t), t + s), 0.0)
    for order in 1:4
        term = extension.Integrated(order, 1.0, 1.0, nothing)
        @test last(extension.derivatives!(Matrix{Float64}[], term, field, 0.3, y0)) ≈ along(order, y0, 0.3) rtol = 1.0e-12
    end
end

@testset "what is integrated along a solution that is known" begin
    # dy/dt = -1.5 y and dy/dt = t: the latter's second derivative is 1.
    layer(model; options...) = NeuralODE(model; rtol = 1.0e-10, atol = 1.0e-10, options...)
    decay, ps = Dense(1 => 1; use_bias = false), (; model = (; weight = fill(-1.5, 1, 1)))
    regularization(l, y0, ps) = l(y0, ps, Lux.setup(Xoshiro(1), l)[2])[1].regularization
    square = 4 * (1 - exp(-3)) / 3 # the integral of y^2 from y = 2
    for order in 1:4
        found = regularization(layer(decay; regularize = TaylorDerivative(order, 0.3)), [2.0;;], ps)
        @test found ≈ 0.3 * 1.5^(2 * order) * square rtol = 1.0e-8
    end
    both = layer(decay; regularize = (TaylorDerivative(2, 0.3), KineticEnergy(0.2)))
    @test regularization(both, [2.0;;], ps) ≈ (0.3 * 1.5^4 + 0.2 * 1.5^2) * square rtol = 1.0e-8
    time = layer(WrappedFunction(u -> u[2:2, :]); with_time = true, regularize = TaylorDerivative(2, 1.0))
    @test regularization(time, [2.0;;], (; model = (;))) ≈ 1 rtol = 1.0e-8
    # A number of samples stand for the expectation, the squared Frobenius norm.
    A = randn(Xoshiro(3), 2, 2)
    linear = layer(Dense(2 => 2; use_bias = false); t1 = 0.1, regularize = JacobianNorm(0.5))
    found = regularization(linear, zeros(2, 40_000), (; model = (; weight = A)))
    @test found ≈ 0.1 * 0.5 * sum(abs2, A) / 2 rtol = 0.02
end

@testset "gradients of estimates, in a solve of one step" begin
    y0 = randn(Xoshiro(2), 2, 5)
    fast() = Chain(network(), WrappedFunction(u -> 1.0e4 .* u))
    one_step(regularize) = NeuralODE(fast(); t1 = 1.0e-4, rtol = 1.0e12, atol = 1.0e12, regularize)
    # A local estimate takes the state as given, and here it is: that of the only step's beginning.
    for (regularize, other) in (
            (ErrorEstimate(), LocalErrorEstimate(1.0; sampling = :biased)),
            (StiffnessEstimate(1.0), LocalStiffnessEstimate(1.0; sampling = :biased)),
        )
        layer, twin = one_step(regularize), one_step(other)
        ps, st = double(layer)
        scale = 1 / layer(y0, ps, st)[1].regularization
        @test layer(y0, ps, st)[1].steps == 1
        agrees(q -> scale * layer(y0, q, st)[1].regularization, ps)
        by_layer, by_twin = (flat(Zygote.gradient(q -> scale * l(y0, q, st)[1].regularization, ps)[1]) for l in (layer, twin))
        @test twin(y0, ps, st)[1].regularization * scale ≈ 1
        @test by_twin ≈ by_layer
    end
end

@testset "a local estimate is part of the loss" begin
    y0 = randn(Xoshiro(2), 2, 5)
    for regularize in (LocalErrorEstimate(0.5), LocalStiffnessEstimate(0.5), LocalErrorEstimate(0.5; sampling = :biased))
        layer = NeuralODE(network(); regularize)
        ps, st = double(layer)
        regularization(q) = layer(y0, q, st)[1].regularization
        slope = Zygote.gradient(regularization, ps)[1]
        @test regularization(ps) > 0 && regularization(moved(ps, slope, -1.0e-3 / maximum(abs, flat(slope)))) < regularization(ps)
        regularize.sampling === :biased && continue # of few steps the next may be the same
        @test layer(y0, ps, layer(y0, ps, st)[2])[1].regularization != regularization(ps) # at another time
    end
end

@testset "by the initial state, and with time" begin
    layer = NeuralODE(Chain(Dense(3 => 8, tanh), Dense(8 => 2)); rtol = 1.0e-10, atol = 1.0e-10, with_time = true)
    ps, st = double(layer)
    y0 = randn(Xoshiro(4), 2, 3)
    loss(y) = sum(abs2, layer(y, ps, st)[1].y)
    found = Zygote.gradient(loss, y0)[1]
    for k in eachindex(y0)
        up, down = copy(y0), copy(y0)
        up[k] += 1.0e-5
        down[k] -= 1.0e-5
        @test found[k] ≈ (loss(up) - loss(down)) / 2.0e-5 rtol = 1.0e-5
    end
    @test layer(vec(y0[:, 1]), ps, st)[1].y ≈ layer(y0[:, 1:1], ps, st)[1].y[:, 1]
    @test size(layer((y0[:, 1], [0.5, 1.0]), ps, st)[1].y) == (2, 2)
end

@testset "the solution is that of the equation" begin
    layer = NeuralODE(Dense(1 => 1; use_bias = false); rtol = 1.0e-10, atol = 1.0e-10)
    ps, st = (; model = (; weight = fill(-1.5, 1, 1))), Lux.setup(Xoshiro(1), layer)[2]
    out, _ = layer(([1.0 2.0], [0.0, 0.25, 1.0]), ps, st)
    @test out.y[1, :, :] ≈ [1.0, 2.0] .* exp.(-1.5 .* [0.0, 0.25, 1.0])' rtol = 1.0e-8
end

@testset "the steps are those of the solver of graphs" begin
    # tanh(0.8 * u1 - u2) and -u1 as a graph, and as a model.
    codes = Dict(operation.name => code for (code, operation) in PySciML.OPERATIONS)
    op = UInt8[codes[:state], codes[:state], codes[:const], codes[:mul], codes[:sub], codes[:tanh], codes[:neg]]
    args = fill(-1, 7, 3)
    args[4, 1:2], args[5, 1:2], args[6, 1], args[7, 1] = [2, 0], [3, 1], 4, 0
    tape = Tape(op, args, [0, 0, 0.8, 0, 0, 0, 0.0], [0, 1, -1, -1, -1, -1, -1], 2, 0, [5, 6], Vector{PySciML.Dense}[], Vector{Int}[])
    y0 = randn(Xoshiro(5), 2, 4)
    solver = AdaptiveSolve(tape, explicit_method("Tsit5"), 4, 1.0e-6, 1.0e-6, 1000)
    PySciML.solve!(zeros(4, 2, 0), solver, Float64[], permutedims(y0), zeros(4), ones(4), 0.0, 3.0, Float64[])
    model = WrappedFunction(u -> vcat(tanh.(0.8 .* u[1:1, :] .- u[2:2, :]), .-u[1:1, :]))
    layer = NeuralODE(model; t1 = 3.0, rtol = 1.0e-6, atol = 1.0e-6, regularize = ErrorEstimate(1.0))
    ps, st = double(layer)
    out, _ = layer(y0, ps, st)
    @test out.y ≈ permutedims(PySciML.final_state(solver)) rtol = 1.0e-13
    @test (out.steps, out.rejected, out.evaluations) == (solver.n_steps, solver.n_rejected, solver.n_rhs)
    @test out.regularization ≈ sum(solver.record.error[1:solver.count] .* solver.record.taken[1:solver.count]) rtol = 1.0e-9
end

@testset "gradients of a neural SDE" begin
    y0 = randn(Xoshiro(6), 2, 4)
    for regularize in ((), ErrorEstimate(0.3), StiffnessEstimate(0.2), KineticEnergy(0.2), JacobianNorm(0.2))
        layer = NeuralSDE(
            network(), Chain(Dense(2 => 4, tanh), Dense(4 => 2, sigmoid)); rtol = 1.0e3, atol = 1.0e3, regularize
        )
        ps, st = double(layer)
        agrees(ps) do q
            out, _ = layer((y0, [0.4, 1.0]), q, st)
            sum(abs2, out.y) + 1.0e3 * out.regularization
        end
    end
end

@testset "gradients of local estimates of a neural SDE" begin
    y0 = randn(Xoshiro(6), 2, 4)
    field(last...) = Chain(Dense(3 => 4, tanh), Dense(4 => 2, last...))
    # An estimate takes the state as given: differences are taken where drift and diffusion depend on the time alone.
    for estimate in (LocalErrorEstimate, LocalStiffnessEstimate), sampling in (:unbiased, :biased)
        regularize = estimate(1.0; sampling)
        layer = NeuralSDE(field(), field(sigmoid); rtol = 1.0e-12, atol = 1.0e3, with_time = true, regularize)
        ps, st = double(layer)
        foreach(part -> part.layer_1.weight[:, 1:2] .= 0, (ps.drift, ps.diffusion))
        scale = 1 / layer(y0, ps, st)[1].regularization
        agrees(q -> scale * layer(y0, q, st)[1].regularization, ps)
    end
end

@testset "noise comes from the state of the layer" begin
    layer = NeuralSDE(Dense(1 => 1), Dense(1 => 1); rtol = 1.0e-2, atol = 1.0e-2, max_steps = 10_000)
    # dy = -y dt + 0.5 dW: the variance goes to 0.125.
    ps = (; drift = (; weight = fill(-1.0, 1, 1), bias = [0.0]), diffusion = (; weight = zeros(1, 1), bias = [0.5]))
    st = Lux.setup(Xoshiro(1), layer)[2]
    y0 = zeros(1, 4000)
    out, next = layer(y0, ps, st)
    exact = 0.125 * (1 - exp(-2))
    @test sum(abs2, out.y) / 4000 ≈ exact atol = 5 * exact * sqrt(2 / 4000)
    @test layer(y0, ps, st)[1].y == out.y != layer(y0, ps, next)[1].y
end

@testset "a latent ODE learns" begin
    times = collect(range(0.0, 1.0, length = 6))
    layer = NeuralODE(Chain(Dense(3 => 8, tanh), Dense(8 => 3)); rtol = 1.0e-4, atol = 1.0e-4, regularize = ErrorEstimate(0.01))
    model = LatentODE(layer, 2, 3; width = 8)
    ps, st = double(model)
    x = [sin(3 * t + s + c) for c in 1:2, t in times, s in range(0, 2, length = 7)]
    mask = Float64.(rand(Xoshiro(8), size(x)...) .< 0.7)
    out, _ = model((x, mask, times), ps, st)
    @test size(out.x) == size(x) && length(out.kl) == 7 && all(>=(0), out.kl)
    # What is not observed is not read, and may be NaN.
    @test model((x .+ 100 .* (1 .- mask), mask, times), ps, st)[1].x ≈ out.x
    cost(y) = q -> (o = model((y, mask, times), q, st)[1]; sum(abs2, o.x) + sum(o.kl))
    gaps = ifelse.(mask .> 0, x, NaN)
    @test flat(Zygote.gradient(cost(gaps), ps)[1]) == flat(Zygote.gradient(cost(x), ps)[1])
    loss(q) = (o = model((x, mask, times), q, st)[1]; sum(abs2, mask .* (o.x .- x)) + sum(o.kl) / 10 + o.solved.regularization)
    first_loss = loss(ps)
    for _ in 1:60
        slope = Zygote.gradient(loss, ps)[1]
        ps = moved(ps, slope, -0.01)
    end
    @test loss(ps) < 0.6 * first_loss
end

@testset "single precision, testing, and what makes no sense" begin
    layer = NeuralODE(network(); regularize = (LocalErrorEstimate(), RandomEndTime(0.3)))
    ps, st = Lux.setup(Xoshiro(1), layer)
    y0 = randn(Xoshiro(2), Float32, 2, 5)
    out, next = layer(y0, ps, st)
    @test eltype(out.y) == Float32 && out.regularization isa Float32
    @test layer(y0, ps, next)[1].y != out.y # another end
    tested = Lux.testmode(st)
    @test layer(y0, ps, tested)[1].regularization == 0
    @test layer(y0, ps, tested)[1].y == NeuralODE(network())(y0, ps, Lux.testmode(Lux.setup(Xoshiro(9), NeuralODE(network()))[2]))[1].y
    annealed = NeuralODE(network(); regularize = ErrorEstimate(1.0; final = 0.01))
    ps, st = double(annealed)
    at(progress) = annealed(Float64.(y0), ps, Lux.update_state(st, :progress, progress))[1].regularization
    @test at(0.0) / at(0.5) ≈ 10 && at(0.0) / at(1.0) ≈ 100
    short = NeuralODE(network(); max_steps = 1, rtol = 1.0e-10, atol = 1.0e-10)
    ps, st = double(short)
    out, _ = short(Float64.(y0), ps, st)
    @test !out.success && all(isnan, out.y)
    @test_throws "t1 must be after t0" NeuralODE(network(); t1 = -1)
    @test_throws "training solves with" NeuralODE(network(); algorithm = "Rodas5")
    @test_throws "twice" NeuralODE(network(); regularize = (ErrorEstimate(), ErrorEstimate(2.0)))
    @test_throws "less than t1 - t0" NeuralODE(network(); regularize = RandomEndTime(2))
    @test_throws "must be positive" RandomEndTime(0)
    @test_throws "aggregate must be one of" ErrorEstimate(1; aggregate = :median)
    @test_throws "order must be an integer from 1 to 4, not 5" TaylorDerivative(5)
    @test_throws "have no derivatives" NeuralSDE(network(), network(); regularize = TaylorDerivative())
    @test_throws "is for ordinary differential equations" NeuralSDE(network(), network(); adjoint = "GaussAdjoint")
    @test_throws "does not see them: leave adjoint out, or regularize by LocalErrorEstimate" NeuralODE(
        network(); regularize = ErrorEstimate(), adjoint = "GaussAdjoint"
    )
    @test_throws "load it with `using SciMLSensitivity`" NeuralODE(network(); adjoint = "GaussAdjoint")
    @test_throws "times must ascend" short((Float64.(y0), [0.5, 0.1]), ps, st)
    @test_throws "turns states of size" NeuralODE(Dense(2 => 3))(Float64.(y0), double(NeuralODE(Dense(2 => 3)))...)
    @test_throws "layer must be a NeuralODE" LatentODE(network(), 2, 3)
end

Base.find_package("JLArrays") === nothing || include("device_layers.jl")
