# Taylor series through networks, as the derivative of a solution along itself needs them.

using ForwardDiff: ForwardDiff
using LinearAlgebra
using PySciML: PySciML
using Random: Xoshiro
using SpecialFunctions: erf
using Test

isdefined(@__MODULE__, :evaluate_and_pull) || include("training.jl")

const CURVES = Dict{Symbol, Function}(
    :identity => identity, :tanh => tanh, :sigmoid => x -> 1 / (1 + exp(-x)), :relu => x -> max(x, zero(x)),
    :softplus => x -> log1p(exp(x)), :swish => x -> x / (1 + exp(-x)), :gelu => x -> x * (1 + erf(x / sqrt(2))) / 2, :sin => sin,
)

"Coefficients 0 to `order` of `f` at 0, by dual numbers in dual numbers."
function coefficients(f, order)
    derivatives = Function[f]
    for k in 1:order
        g = last(derivatives)
        push!(derivatives, t -> ForwardDiff.derivative(g, t))
    end
    return [derivatives[k + 1](0.0) / factorial(k) for k in 0:order]
end

@testset "Taylor coefficients of networks of $activation" for activation in PySciML.ACTIVATIONS
    network, order = layers([2, 4, 3, 2], activation, 1; final = activation), 3
    states = [(:state, k) for k in 1:(2 * (order + 1))]
    # Vectors of 2, 4, 6 and 8 states, and both outputs of each order. That of order 3 comes first: it brings those it needs.
    joins = [(:join, k == 2 ? 1 : length(states) + k - 2, k) for k in 2:length(states)]
    vectors = [length(states) + 2k + 1 for k in 0:order]
    calls = [(1, output, k) for k in order:-1:0 for output in 1:2]
    nodes = Any[states; joins; [(:network, c, vectors[calls[c][3] + 1]) for c in eachindex(calls)]]
    outputs = length(states) + length(joins) .+ eachindex(calls)
    one = tape(nodes, length(states), 1 + size_of(network), outputs; networks = [network], calls)
    @test length(one.applications) == order + 1

    rng = Xoshiro(7)
    p, u, bars = randn(rng, one.n_params), randn(rng, 3, length(states)), randn(rng, 3, length(calls))
    values, u_bar, _, p_bar = evaluate_and_pull(one, p, u, zeros(3), bars)
    for row in 1:3
        along(t) = begin
            x = [evalpoly(t, u[row, i:2:end]) for i in 1:2]
            for layer in network
                W = reshape(p[layer.matrix .+ (1:(layer.n_in * layer.n_out))], layer.n_in, layer.n_out)
                x = CURVES[activation].(W' * x .+ p[layer.bias .+ (1:layer.n_out)])
            end
            x
        end
        for output in 1:2
            wanted = coefficients(t -> along(t)[output], order)
            @test [values[row, findfirst(==((1, output, k)), calls)] for k in 0:order] ≈ wanted rtol = 1e-10
        end
    end
    value(p, u) = sum(bars .* evaluate_and_pull(one, p, u, zeros(3), bars)[1])
    @test vec(u_bar) ≈ differences(v -> value(p, v), u) rtol = 1e-6
    @test p_bar ≈ differences(q -> value(q, u), p) rtol = 1e-6
    again = evaluate_and_pull(one, p, u, zeros(3), bars)
    @test again[2] == u_bar && again[4] == p_bar
end

@testset "a coefficient whose lower ones nobody asked for" begin
    network = layers([1, 3, 1], :tanh, 0)
    nodes = Any[(:state, 1), (:state, 2), (:state, 3), (:join, 1, 2), (:join, 4, 3), (:network, 1, 5)]
    make(nodes, calls) = tape(nodes, 3, size_of(network), [length(nodes)]; networks = [network], calls)
    alone = make(nodes, [(1, 1, 2)])
    p, u, bars = randn(Xoshiro(3), alone.n_params), randn(Xoshiro(4), 2, 3), ones(2, 1)
    @test length(alone.applications) == 3
    values, u_bar, _ = evaluate_and_pull(alone, p, u, zeros(2), bars)
    f(x) = dot(p[7:9], tanh.(p[1:3] .* x .+ p[4:6])) + p[10]
    for row in 1:2
        @test values[row, 1] ≈ coefficients(t -> f(evalpoly(t, u[row, :])), 2)[3] rtol = 1e-10
    end
    value(v) = sum(evaluate_and_pull(alone, p, v, zeros(2), bars)[1])
    @test vec(u_bar) ≈ differences(value, u) rtol = 1e-6
    @test_throws "takes 3" make(Any[nodes[1:4]; [(:network, 1, 4)]], [(1, 1, 2)])
    parameters, columns = PySciML.Parameters{Float64}(alone), PySciML.Columns{Float64}(alone, 2)
    adjoints, times = PySciML.Bars{Float64}(alone, 2), zeros(2)
    run() = (PySciML.evaluate!(columns, alone, parameters, u, times, 1); PySciML.pull!(adjoints, columns, alone, parameters))
    run()
    @test (@allocated run()) == 0
end
