# Arithmetic on the states of a batch on a device, as states.jl has it: each function is one kernel, and sums, which are numbers that
# the CPU waits for, are in double precision whatever the states are.

square(x) = Float64(x)^2

product(x, y) = Float64(x) * Float64(y)

root_mean_square(x::AbstractMatrix) = sqrt(mapreduce(square, +, x) / length(x))

inner_product(x::AbstractArray, y::AbstractArray) = mapreduce(product, +, x, y)

all_finite(x::AbstractMatrix) = mapreduce(isfinite, &, x)

"Of one element of a sum of arrays: `start + sum(weights .* xs)`."
struct WeightedSum{W <: Tuple}
    weights::W
end

@inline (s::WeightedSum)(start, xs::Vararg{Any, N}) where {N} = start + sum(map(*, s.weights, xs))

"Of one element of products with a sum of arrays: `start + factor * sum(weights .* xs)`."
struct WeightedProducts{W <: Tuple}
    weights::W
end

@inline (s::WeightedProducts)(start, factor, xs::Vararg{Any, N}) where {N} = start + factor * sum(map(*, s.weights, xs))

"Of one element of an inner product with a sum of arrays, `x * sum(weights .* xs)`."
struct WeightedProduct{W <: Tuple}
    weights::W
end

@inline (s::WeightedProduct)(x, xs::Vararg{Any, N}) where {N} = product(x, sum(map(*, s.weights, xs)))

"Of one element of a sum of squares, `sum(weights .* xs.^2)`."
struct WeightedSquares{W <: Tuple}
    weights::W
end

@inline (s::WeightedSquares)(xs::Vararg{Any, N}) where {N} = sum(map((w, x) -> w * x * x, s.weights, xs))

"Weights in the precision of an array, times a number, for a kernel."
weights_for(::AbstractArray{T}, factor::Float64, weights) where {T} = Tuple(T(factor * weight) for weight in weights)

weighted_product(x::AbstractMatrix, weights, xs) = mapreduce(WeightedProduct(weights_for(x, 1.0, weights)), +, x, xs...)

function add!(out::AbstractMatrix{T}, factor::Float64, x::AbstractMatrix) where {T}
    by = T(factor)
    return @. out += by * x
end

add_sum!(out::AbstractMatrix, xs) = add_combination!(out, 1.0, ones(length(xs)), xs)

add_combination!(out::AbstractMatrix, factor::Float64, weights, xs) = weighted_sum!(out, out, factor, weights, xs)

function add_products!(out::AbstractMatrix, factors::AbstractMatrix, weights, xs)
    isempty(xs) && return out
    return broadcast!(WeightedProducts(weights_for(out, 1.0, weights)), out, out, factors, xs...)
end

function weighted_sum!(out::AbstractMatrix, start::AbstractMatrix, factor::Float64, weights, xs)
    isempty(xs) && return out === start ? out : copyto!(out, start)
    return broadcast!(WeightedSum(weights_for(out, factor, weights)), out, start, xs...)
end

function relative_to!(
        out::AbstractMatrix{T}, error::AbstractMatrix, y::AbstractMatrix, new::AbstractMatrix, rtol::Float64, atol::Float64,
    ) where {T}
    r, a = T(rtol), T(atol)
    return @. out = error / (a + r * max(abs(y), abs(new)))
end

function pull_scaled!(
        error_bar::AbstractMatrix{T}, y_bar::AbstractMatrix, new_bar::AbstractMatrix, factor::Float64, relative::AbstractMatrix,
        y::AbstractMatrix, new::AbstractMatrix, rtol::Float64, atol::Float64,
    ) where {T}
    by, r, a = T(factor), T(rtol), T(atol)
    @. error_bar = by * relative / (a + r * max(abs(y), abs(new)))
    @. y_bar -= r * error_bar * relative * scale_share(y, new)
    @. new_bar -= r * error_bar * relative * scale_share(new, y)
    return nothing
end

"The derivative of `max(abs(x), abs(other))` by `x`."
scale_share(x, other) = abs(x) > abs(other) ? sign(x) : abs(x) == abs(other) ? sign(x) / 2 : zero(x)

function add_difference!(
        x_bar::AbstractMatrix{T}, y_bar::AbstractMatrix, factor::Float64, x::AbstractMatrix, y::AbstractMatrix,
    ) where {T}
    by = T(factor)
    @. x_bar += by * (x - y)
    @. y_bar -= by * (x - y)
    return nothing
end
