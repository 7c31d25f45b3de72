# Continuous adjoints of SciMLSensitivity in solves of graphs, against the discrete one.

using PySciML
using PySciML: AdaptiveSolve, Tape, explicit_method
using SciMLSensitivity
using Test

const CONTINUOUS = (
    BacksolveAdjoint(), GaussAdjoint(), GaussKronrodAdjoint(), InterpolatingAdjoint(), InterpolatingAdjoint(; checkpointing = true),
    QuadratureAdjoint(; abstol = 1.0e-8, reltol = 1.0e-8),
)

"The van der Pol oscillator, with the parameter of its damping."
function oscillator()
    codes = Dict(operation.name => code for (code, operation) in PySciML.OPERATIONS)
    # u1, u2, p, u1^2, 1, 1 - u1^2, p (1 - u1^2), p (1 - u1^2) u2, p (1 - u1^2) u2 - u1
    names = (:state, :state, :param, :mul, :const, :sub, :mul, :mul, :sub)
    operands = ((), (), (), (0, 0), (), (4, 3), (2, 5), (6, 1), (7, 0))
    args = fill(-1, length(names), 3)
    for (row, pair) in enumerate(operands)
        args[row, 1:length(pair)] .= pair
    end
    index, constant = fill(-1, length(names)), zeros(length(names))
    index[1:3], constant[5] = [0, 1, 0], 1.0
    return Tape([codes[name] for name in names], args, constant, index, 2, 1, [1, 8], Vector{PySciML.Dense}[], Vector{Int}[])
end

"The derivatives by the initial state and the parameter of a loss of two members of a batch, by an adjoint or by the steps."
function pulled(given, tolerance; p = 1.5, t1 = 3.0, kinetic = 0.2, times = [0.0, 0.7, 2.0, t1])
    s = AdaptiveSolve(oscillator(), explicit_method("Tsit5"), 2, tolerance, tolerance, 100_000; kinetic, dense = true)
    y0, ys = [1.0 0.3; -0.5 1.2], zeros(2, 2, length(times))
    PySciML.solve!(ys, s, [p], y0, zeros(2), ones(2), 0.0, t1, times)
    y0_bar, p_bar, y1_bar = zeros(2, 2), zeros(1), [0.5 0.1; -0.2 0.4]
    ys_bar = 2 .* ys
    if given === nothing
        PySciML.pull!(y0_bar, s, ys_bar, y1_bar, zeros(s.count), zeros(s.count), zeros(s.count), 1.0)
    else
        PySciML.pull_by_adjoint!(y0_bar, p_bar, s, PySciML.adjoint(given, "Tsit5"), ys_bar, y1_bar, 1.0)
    end
    PySciML.parameter_bars!(p_bar, s)
    return [vec(y0_bar); p_bar]
end

@testset "adjoints come to the derivative of the steps" begin
    for given in CONTINUOUS
        far, near = (maximum(abs, pulled(given, tol) .- pulled(nothing, tol)) for tol in (1.0e-4, 1.0e-10))
        @test far < 1.0e-1
        @test near < 1.0e-3 * far
    end
end

@testset "an adjoint is named, or given" begin
    for given in CONTINUOUS[1:4]
        @test pulled(string(nameof(typeof(given))), 1.0e-6) == pulled(given, 1.0e-6)
    end
    @test pulled("InterpolatingAdjoint(checkpointing = true)", 1.0e-6) == pulled(CONTINUOUS[5], 1.0e-6)
    @test_throws "is no adjoint: BacksolveAdjoint, Gauss" PySciML.adjoint("ForwardMode", "Tsit5")
    @test_throws "is no adjoint: BacksolveAdjoint, Gauss" PySciML.adjoint(ForwardDiffSensitivity(), "Tsit5")
    @test_throws "needs a dense solve" PySciML.pull_by_adjoint!(
        zeros(2, 2), zeros(1), AdaptiveSolve(oscillator(), explicit_method("Tsit5"), 2, 1.0e-6, 1.0e-6, 10),
        PySciML.adjoint("GaussAdjoint", "Tsit5"), zeros(2, 2, 0), zeros(2, 2), 0.0,
    )
end

@testset "an adjoint that can't be solved has no derivative" begin
    # Backward in time the states leave the attractor, faster than any step can follow.
    unstable = BacksolveAdjoint(; checkpointing = false)
    @test all(isnan, pulled(unstable, 1.0e-6; p = 20.0, t1 = 40.0))
    @test all(isfinite, pulled(InterpolatingAdjoint(), 1.0e-6; p = 20.0, t1 = 40.0))
end
