# Fully connected networks on a batch: rows are its members, columns the neurons, so that a layer is one matrix product.

"""
    Dense(n_in, n_out, activation, matrix, bias)

A layer of a network. `matrix` and `bias` say after how many entries of the parameter vector its numbers begin: the weights
row by row, then the biases.
"""
struct Dense
    n_in::Int
    n_out::Int
    activation::Symbol
    matrix::Int
    bias::Int
end

const Network = Vector{Dense}

#: The order is that in which Python counts them.
const ACTIVATIONS = (:identity, :tanh, :sigmoid, :relu, :softplus, :swish, :gelu, :sin)

"""
    straight_tanh(x)

The hyperbolic tangent without a branch, to some units in the last place, so that loops compute several at once: with
`e = exp(2|x|) - 1` it is `e / (e + 2)`, and `exp(z) - 1` is `2^n * (exp(r) - 1) + (2^n - 1)` for `z = n * log(2) + r`.
"""
@inline function straight_tanh(x::Float64)
    z = 2 * abs(x)
    z = ifelse(z > 45.0, 45.0, z) # from there on it is 1
    # Added to this number, another is rounded to a whole one, which is then in the last bits.
    magic = 6755399441055744.0
    shifted = muladd(z, 1.4426950408889634, magic)
    n = shifted - magic
    r = muladd(n, -1.9082149292705877e-10, muladd(n, -0.6931471803691238, z))
    power = reinterpret(Float64, (reinterpret(UInt64, shifted) << 52) + reinterpret(UInt64, 1.0))
    e = muladd(power, r * evalpoly(r, INVERSE_FACTORIALS), power - 1.0)
    return copysign(e / (e + 2.0), x)
end

straight_tanh(x) = tanh(x)

const INVERSE_FACTORIALS = ntuple(k -> 1 / factorial(k), 13)

logistic(x) = (1 + straight_tanh(x / 2)) / 2
relu(x) = max(x, zero(x))
softplus(x) = max(x, zero(x)) + log1p(exp(-abs(x)))
swish(x) = x * logistic(x)
gelu(x) = x * (1 + SpecialFunctions.erf(x / sqrt(oftype(x, 2)))) / 2

# The derivatives, by what went in and what came out.
identity_slope(x, y) = one(x)
tanh_slope(x, y) = 1 - y * y
logistic_slope(x, y) = y * (1 - y)
relu_slope(x, y) = x > 0 ? one(x) : zero(x)
softplus_slope(x, y) = logistic(x)
swish_slope(x, y) = (s = logistic(x); s + y * (1 - s))
gelu_slope(x, y) = (1 + SpecialFunctions.erf(x / sqrt(oftype(x, 2)))) / 2 + x * exp(-x * x / 2) / sqrt(2 * oftype(x, π))
sin_slope(x, y) = cos(x)

"""
    Weights{T}(network)

The numbers of a network, a matrix `(n_in, n_out)` and a vector for each layer; or derivatives by them.
"""
struct Weights{T}
    matrices::Vector{Matrix{T}}
    biases::Vector{Vector{T}}
end

Weights{T}(network::Network) where {T} =
    Weights{T}([zeros(T, layer.n_in, layer.n_out) for layer in network], [zeros(T, layer.n_out) for layer in network])

function read_weights!(weights::Weights, network::Network, p::AbstractVector)
    for (layer, matrix, bias) in zip(network, weights.matrices, weights.biases)
        copyto!(matrix, 1, p, layer.matrix + 1, length(matrix))
        copyto!(bias, 1, p, layer.bias + 1, length(bias))
    end
    return nothing
end

"Add derivatives by weights to those by the parameter vector."
function add_weights!(p_bar::AbstractVector, network::Network, bars::Weights)
    for (layer, matrix, bias) in zip(network, bars.matrices, bars.biases)
        @inbounds for k in eachindex(matrix)
            p_bar[layer.matrix + k] += matrix[k]
        end
        @inbounds for k in eachindex(bias)
            p_bar[layer.bias + k] += bias[k]
        end
    end
    return nothing
end

function clear!(weights::Weights{T}) where {T}
    foreach(matrix -> fill!(matrix, zero(T)), weights.matrices)
    foreach(bias -> fill!(bias, zero(T)), weights.biases)
    return nothing
end

"""
    Neurons{T}(network, rows)

What a network computes for a batch: `inner[k]` goes into the activation of layer `k`, `outer[k + 1]` comes out of it;
`outer[1]` is the input.
"""
struct Neurons{T}
    inner::Vector{Matrix{T}}
    outer::Vector{Matrix{T}}
end

Neurons{T}(network::Network, rows::Int) where {T} = Neurons{T}(
    [zeros(T, rows, layer.n_out) for layer in network],
    [zeros(T, rows, first(network).n_in), (zeros(T, rows, layer.n_out) for layer in network)...],
)

product!(C::Matrix{Float64}, A::Matrix{Float64}, B::Matrix{Float64}) = BLAS.gemm!('N', 'N', 1.0, A, B, 0.0, C)
product!(C::Matrix, A::Matrix, B::Matrix) = mul!(C, A, B)
"`C += A' * B`"
add_transposed_product!(C::Matrix{Float64}, A::Matrix{Float64}, B::Matrix{Float64}) = BLAS.gemm!('T', 'N', 1.0, A, B, 1.0, C)
"`C = A * B'`"
product_transposed!(C::Matrix{Float64}, A::Matrix{Float64}, B::Matrix{Float64}) = BLAS.gemm!('N', 'T', 1.0, A, B, 0.0, C)

"From `neurons.outer[1]` to `neurons.outer[end]`."
function evaluate!(neurons::Neurons, network::Network, weights::Weights)
    for (k, layer) in enumerate(network)
        product!(neurons.inner[k], neurons.outer[k], weights.matrices[k])
        activate!(neurons.outer[k + 1], neurons.inner[k], weights.biases[k], layer.activation)
    end
    return nothing
end

function activate!(out::Matrix, inner::Matrix, bias::Vector, activation::Symbol)
    activation === :tanh && return activate_by!(straight_tanh, out, inner, bias)
    activation === :identity && return activate_by!(identity, out, inner, bias)
    activation === :sigmoid && return activate_by!(logistic, out, inner, bias)
    activation === :relu && return activate_by!(relu, out, inner, bias)
    activation === :softplus && return activate_by!(softplus, out, inner, bias)
    activation === :swish && return activate_by!(swish, out, inner, bias)
    activation === :gelu && return activate_by!(gelu, out, inner, bias)
    return activate_by!(sin, out, inner, bias)
end

function activate_by!(f::F, out::Matrix, inner::Matrix, bias::Vector) where {F}
    @inbounds for j in axes(out, 2)
        add = bias[j]
        @simd ivdep for i in axes(out, 1)
            x = inner[i, j] + add
            inner[i, j] = x
            out[i, j] = f(x)
        end
    end
    return nothing
end

"""
    pull!(bars, neurons, network, weights, outer_bars, inner_bars = [])

From derivatives by a network's outputs (`outer_bars[end]`) to those by its inputs (`outer_bars[1]`); those by its weights are
added to `bars`. What there is of `inner_bars`, by what goes into the activations, is added, and used up.
"""
function pull!(
        bars::Weights, neurons::Neurons, network::Network, weights::Weights, outer_bars::Vector{Matrix{T}},
        inner_bars::Vector{Matrix{T}} = Matrix{T}[],
    ) where {T}
    for k in length(network):-1:1
        bar = outer_bars[k + 1]
        deactivate!(bar, neurons.inner[k], neurons.outer[k + 1], network[k].activation)
        take_bar!(bar, inner_bars, k)
        add_transposed_product!(bars.matrices[k], neurons.outer[k], bar)
        sums = bars.biases[k]
        @inbounds for j in axes(bar, 2)
            total = zero(eltype(bar))
            @simd for i in axes(bar, 1)
                total += bar[i, j]
            end
            sums[j] += total
        end
        product_transposed!(outer_bars[k], bar, weights.matrices[k])
    end
    return nothing
end

function deactivate!(bar::Matrix, inner::Matrix, outer::Matrix, activation::Symbol)
    activation === :tanh && return deactivate_by!(tanh_slope, bar, inner, outer)
    activation === :identity && return nothing
    activation === :sigmoid && return deactivate_by!(logistic_slope, bar, inner, outer)
    activation === :relu && return deactivate_by!(relu_slope, bar, inner, outer)
    activation === :softplus && return deactivate_by!(softplus_slope, bar, inner, outer)
    activation === :swish && return deactivate_by!(swish_slope, bar, inner, outer)
    activation === :gelu && return deactivate_by!(gelu_slope, bar, inner, outer)
    return deactivate_by!(sin_slope, bar, inner, outer)
end

function deactivate_by!(slope::F, bar::Matrix, inner::Matrix, outer::Matrix) where {F}
    @inbounds @simd ivdep for k in eachindex(bar, inner, outer)
        bar[k] *= slope(inner[k], outer[k])
    end
    return nothing
end
