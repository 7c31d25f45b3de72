# The Lux layers with states and parameters on a device, where there is none: on the reference arrays of GPUArrays.jl, which refuse
# what a GPU could not do. A part of layers.jl.

using JLArrays: JLArray

@testset "on a device a neural ODE is that of main memory" begin
    y0 = randn(Xoshiro(2), 2, 5)
    for regularize in (
            (), ErrorEstimate(0.3), StiffnessEstimate(0.1; aggregate = :max), KineticEnergy(0.2), LocalErrorEstimate(0.5),
            (LocalStiffnessEstimate(0.5; sampling = :biased), RandomEndTime(0.3)),
        ), times in (nothing, [0.5, 1.5, 2.0])
        same_on_device(NeuralODE(network(); t1 = 2.0, rtol = 1.0e-3, atol = 1.0e-3, regularize), y0, times)
    end
    with_time = Chain(Dense(3 => 8, tanh), Dense(8 => 2))
    same_on_device(NeuralODE(with_time; rtol = 1.0e-3, atol = 1.0e-3, with_time = true, algorithm = "BS3"), y0, nothing)
    same_on_device(NeuralODE(network(); rtol = 1.0e-3, atol = 1.0e-3), Float32.(y0), nothing; rtol = 1.0e-4, setup = single)
    ps, st = double(NeuralODE(network()))
    layer = NeuralODE(network())
    @test Array(layer(JLArray(y0[:, 1]), on_device(ps), st)[1].y) ≈ layer(y0[:, 1], ps, st)[1].y
end

@testset "on a device a neural SDE has the paths of main memory" begin
    y0 = randn(Xoshiro(6), 2, 4)
    diffusion = Chain(Dense(2 => 4, tanh), Dense(4 => 2, sigmoid))
    for regularize in ((), (ErrorEstimate(0.3), KineticEnergy(0.1)), StiffnessEstimate(0.2), LocalErrorEstimate(0.5))
        same_on_device(NeuralSDE(network(), diffusion; rtol = 1.0e-2, atol = 1.0e-2, regularize), y0, [0.4, 1.0])
    end
    # More attempts than there are random numbers at first.
    tight = NeuralSDE(network(), diffusion; rtol = 1.0e-4, atol = 1.0e-4)
    ps, st = double(tight)
    @test tight(y0, ps, st)[1].evaluations > 4 * 32
    same_on_device(tight, y0, nothing)
end

@testset "on a device a latent ODE is that of main memory" begin
    times = collect(range(0.0, 1.0, length = 6))
    layer = NeuralODE(Chain(Dense(3 => 8, tanh), Dense(8 => 3)); rtol = 1.0e-4, atol = 1.0e-4, regularize = ErrorEstimate(0.01))
    model = LatentODE(layer, 2, 3; width = 8)
    ps, st = double(model)
    x = [sin(3 * t + s + c) for c in 1:2, t in times, s in range(0, 2, length = 7)]
    mask = Float64.(rand(Xoshiro(8), size(x)...) .< 0.7)
    x = ifelse.(mask .> 0, x, NaN)
    results = map((identity, on_device)) do place
        given = place(x), place(mask), times
        loss(q) = (o = model(given, q, st)[1]; sum(abs2, ifelse.(given[2] .> 0, o.x .- given[1], 0.0)) + sum(o.kl) / 10 + o.solved.regularization)
        out, _ = model(given, place(ps), st)
        slope = only(Zygote.gradient(loss, place(ps)))
        map(Array, (out.x, out.kl, reduce(vcat, vec.(Array.(leaves(slope))))))
    end
    @test all(isapprox(found, wanted; rtol = 1.0e-9) for (wanted, found) in zip(results...))
end

@testset "what layers do not have on a device is said" begin
    y0 = JLArray(randn(Xoshiro(2), 2, 5))
    for (regularize, named) in ((TaylorDerivative(2, 0.1), "TaylorDerivative"), (JacobianNorm(0.1), "JacobianNorm"))
        layer = NeuralODE(network(); regularize)
        ps, st = double(layer)
        @test_throws "NeuralODE: $named is not for states in JLArray: regularize by" layer(y0, on_device(ps), st)
    end
    noisy = NeuralSDE(network(), network(); regularize = JacobianNorm(0.1))
    ps, st = double(noisy)
    @test_throws "NeuralSDE: JacobianNorm is not for states in JLArray" noisy(y0, on_device(ps), st)
    layer = NeuralODE(network())
    ps, st = double(layer)
    @test_throws "states are in JLArray and parameters in Array" layer(y0, ps, st)
    @test_throws "states are in Array and parameters in JLArray" layer(Array(y0), on_device(ps), st)
end
