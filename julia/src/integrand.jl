# What a regularizer integrates along a solve, beside the squared speed, which the solve has itself.

"""
    Integrand(tape, rows, n_states, stages)

The mean square over a batch of the outputs of a tape, each times a weight, with the values of that many stages kept for going
back. The tape's states are those of the solve, a random number for each of them, and the length of the member's time, by which
the outputs are multiplied, too.
"""
struct Integrand
    field::BatchField
    n_states::Int
    weights::Vector{Float64}
    inputs::Matrix{Float64}
    values::Vector{Matrix{Float64}}
    input_bar::Matrix{Float64}
    value_bar::Matrix{Float64}
end

function Integrand(tape::Tape, rows::Int, n_states::Int, stages::Int)
    n = length(tape.outputs)
    tape.n_states == 2n_states + 1 || throw(ArgumentError("a tape of $(tape.n_states) states is no integrand of $n_states"))
    return Integrand(
        BatchField(tape, rows, 1:n, stages), n_states, zeros(n), zeros(rows, tape.n_states), [zeros(rows, n) for _ in 1:stages],
        zeros(rows, tape.n_states), zeros(rows, n),
    )
end

"Take these weights of the outputs, and random numbers, of shape `(rows, n_states)`."
function set!(g::Integrand, weights::AbstractVector, noise::AbstractMatrix)
    copyto!(g.weights, weights)
    copyto!(g.inputs, length(noise) + 1, noise, 1, length(noise))
    return nothing
end

function prepare!(g::Integrand, p::AbstractVector, start::AbstractVector, length::AbstractVector)
    copyto!(view(g.inputs, :, size(g.inputs, 2)), length)
    return prepare!(g.field, p, start, length)
end

"Take these parameters; all members have the same time."
function prepare!(g::Integrand, p::AbstractVector)
    fill!(view(g.inputs, :, size(g.inputs, 2)), 1.0)
    return prepare!(g.field, p)
end

"The integrand at a stage of a step, whose values are kept as those of the stage `kept`."
function integrand!(g::Integrand, kept::Int, τ::Float64, y::Matrix{Float64})
    copyto!(g.inputs, 1, y, 1, length(y))
    slope!(g.values[kept], g.field, kept, τ, g.inputs)
    return integrand(g, kept)
end

"The integrand by the values that are kept of a stage."
function integrand(g::Integrand, kept::Int)
    values, total = g.values[kept], 0.0
    for j in axes(values, 2)
        square = 0.0
        @inbounds @simd for i in axes(values, 1)
            square += values[i, j]^2
        end
        total += g.weights[j] * square
    end
    return total / (size(values, 1) * g.n_states)
end

"Add to `y_bar` what the adjoint `bar` of a stage's integrand comes to; returns the adjoint of the relative time."
function pull_integrand!(y_bar::Matrix{Float64}, g::Integrand, stage::Int, bar::Float64)
    values = g.values[stage]
    for j in axes(values, 2)
        factor = 2 * bar * g.weights[j] / length(y_bar)
        @inbounds @simd ivdep for i in axes(values, 1)
            g.value_bar[i, j] = factor * values[i, j]
        end
    end
    fill!(g.input_bar, 0.0)
    by_time = pull_slope!(g.input_bar, g.field, stage, g.value_bar)
    @inbounds @simd ivdep for k in eachindex(y_bar)
        y_bar[k] += g.input_bar[k]
    end
    return by_time
end
