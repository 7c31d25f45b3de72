# The Lux layers by continuous adjoints: needs Lux, SciMLSensitivity and Zygote beside PySciML.

using Lux
using PySciML
using Random: Xoshiro
using SciMLSensitivity
using Test
using Zygote: Zygote

network() = Lux.Chain(Lux.Dense(3 => 8, tanh), Lux.Dense(8 => 2))

flat(x::AbstractArray) = vec(x)
flat(x::Union{NamedTuple, Tuple}) = reduce(vcat, map(flat, values(x)); init = Float64[])
flat(::Nothing) = Float64[]

"The derivatives by the parameters and the initial state of a loss of a layer."
function slopes(adjoint, tolerance, regularize)
    layer = NeuralODE(network(); rtol = tolerance, atol = tolerance, with_time = true, regularize, adjoint, max_steps = 10_000)
    ps, st = Lux.f64(Lux.setup(Xoshiro(1), layer))
    y0 = randn(Xoshiro(2), 2, 5)
    by_ps, by_y0 = Zygote.gradient(ps, y0) do ps, y0
        out, _ = layer((y0, [0.0, 0.4, 1.0]), ps, st)
        sum(abs2, out.y) + out.regularization
    end
    return [flat(by_ps); vec(by_y0)]
end

const REGULARIZED = (
    (), (LocalErrorEstimate(0.5), LocalStiffnessEstimate(0.1; sampling = :biased), RandomEndTime(0.2)),
    (KineticEnergy(0.2), TaylorDerivative(2, 0.1), JacobianNorm(0.1)),
)

@testset "adjoints of a layer come to the derivative of its steps" begin
    for (adjoint, regularize) in (
            ((GaussAdjoint(), each) for each in REGULARIZED)..., (BacksolveAdjoint(), REGULARIZED[2]),
            (InterpolatingAdjoint(; checkpointing = true), REGULARIZED[3]), ("QuadratureAdjoint", ()), ("GaussKronrodAdjoint", ()),
        )
        far, near = (maximum(abs, slopes(adjoint, tol, regularize) .- slopes(nothing, tol, regularize)) for tol in (1.0e-3, 1.0e-9))
        @test far < 1.0e-1
        @test near < 1.0e-3 * far
    end
end

@testset "a latent ODE learns by an adjoint" begin
    times = collect(range(0.0, 1.0, length = 4))
    series = [sin(3 * t + s + c) for c in 1:2, t in times, s in range(0, 2, length = 3)]
    found = map((nothing, "GaussAdjoint")) do adjoint
        layer = NeuralODE(Lux.Chain(Lux.Dense(3 => 8, tanh), Lux.Dense(8 => 3)); rtol = 1.0e-9, atol = 1.0e-9, adjoint)
        model = LatentODE(layer, 2, 3; width = 8)
        ps, st = Lux.f64(Lux.setup(Xoshiro(1), model))
        flat(Zygote.gradient(q -> sum(abs2, model((series, one.(series), times), q, st)[1].x .- series), ps)[1])
    end
    @test found[1] != found[2]
    @test found[1] ≈ found[2] rtol = 1.0e-6
end

@testset "where a layer's adjoint can't be solved, there is no derivative" begin
    # dy/dt = -300 (y - cos t), whose way back explodes.
    model = Lux.WrappedFunction(u -> -300.0 .* (u[1:1, :] .- cos.(u[2:2, :])))
    function gradient(adjoint; options...)
        layer = NeuralODE(model; with_time = true, t1 = 4.0, max_steps = 10_000, adjoint, options...)
        ps, st = Lux.setup(Xoshiro(1), layer)
        return Zygote.gradient(y0 -> sum(layer(y0, ps, st)[1].y), [0.5;;])
    end
    @test all(isnan, gradient(BacksolveAdjoint(; checkpointing = false))[1])
    @test all(isfinite, gradient(InterpolatingAdjoint())[1])
    @test all(isnan, gradient(InterpolatingAdjoint(); max_steps = 3)[1]) # nor where the solution can't
end

@testset "what is no adjoint of a layer" begin
    @test_throws "is no adjoint: BacksolveAdjoint" NeuralODE(network(); adjoint = "Backsolve")
    @test_throws "is no adjoint: BacksolveAdjoint" NeuralODE(network(); adjoint = 3)
end
