# Arithmetic on the states of a batch: loops on a CPU, which SIMD and the cache like; device_states.jl has what goes in kernels.

"The root of the mean square."
function root_mean_square(x::Matrix{Float64})
    total = 0.0
    @inbounds @simd for k in eachindex(x)
        total += x[k] * x[k]
    end
    return sqrt(total / length(x))
end

function root_mean_square_apart(x::Matrix{Float64}, y::Matrix{Float64})
    total = 0.0
    @inbounds @simd for k in eachindex(x, y)
        total += (x[k] - y[k])^2
    end
    return sqrt(total / length(x))
end

function inner_product(x::Matrix{Float64}, y::Matrix{Float64})
    total = 0.0
    @inbounds @simd for k in eachindex(x, y)
        total += x[k] * y[k]
    end
    return total
end

"The inner product of `x` with `sum(weights .* xs)`."
function weighted_product(x::Matrix{Float64}, weights, xs)
    total = 0.0
    for (weight, other) in zip(weights, xs)
        weight == 0 || (total += weight * inner_product(x, other))
    end
    return total
end

"`out += factor * x`"
function add!(out::Matrix{Float64}, factor::Float64, x::Matrix{Float64})
    @inbounds @simd ivdep for k in eachindex(out, x)
        out[k] += factor * x[k]
    end
    return out
end

const ONES = ones(16)

"`out += sum(xs)`"
add_sum!(out::Matrix{Float64}, xs) = weighted_sum!(out, out, 1.0, ONES, xs)

"`out += factor * sum(weights .* xs)`"
add_combination!(out::Matrix{Float64}, factor::Float64, weights, xs) = weighted_sum!(out, out, factor, weights, xs)

"`out = start + factor * sum(weights .* xs)`; several of `xs` are added in one pass through memory."
function weighted_sum!(out::Matrix{Float64}, start::Matrix{Float64}, factor::Float64, weights, xs)
    from, n, k = start, length(xs), 1
    n == 0 && out !== start && copyto!(out, start)
    while k <= n
        w(i) = factor * weights[i]
        if k + 3 <= n
            add_pass!(out, from, (w(k), w(k + 1), w(k + 2), w(k + 3)), (xs[k], xs[k + 1], xs[k + 2], xs[k + 3]))
            k += 4
        elseif k + 1 <= n
            add_pass!(out, from, (w(k), w(k + 1)), (xs[k], xs[k + 1]))
            k += 2
        else
            add_pass!(out, from, (w(k),), (xs[k],))
            k += 1
        end
        from = out
    end
    return out
end

function add_pass!(out::Matrix{Float64}, from::Matrix{Float64}, weights::NTuple{N}, xs::NTuple{N, Matrix{Float64}}) where {N}
    @inbounds @simd ivdep for k in eachindex(out, from, xs...)
        out[k] = from[k] + weighted(weights, xs, k)
    end
    return out
end

"`sum(weights .* xs)` of one element."
Base.@propagate_inbounds weighted(weights::Tuple, xs::Tuple, k) =
    weights[1] * xs[1][k] + weighted(Base.tail(weights), Base.tail(xs), k)
Base.@propagate_inbounds weighted(weights::Tuple{Float64}, xs::Tuple{Matrix{Float64}}, k) = weights[1] * xs[1][k]

"`out += factors .* sum(weights .* xs)`"
function add_products!(out::Matrix{Float64}, factors::Matrix{Float64}, weights, xs)
    k, n = 1, length(xs)
    while k <= n
        if k < n
            add_products_pass!(out, factors, (weights[k], weights[k + 1]), (xs[k], xs[k + 1]))
            k += 2
        else
            add_products_pass!(out, factors, (weights[k],), (xs[k],))
            k += 1
        end
    end
    return out
end

function add_products_pass!(
        out::Matrix{Float64}, factors::Matrix{Float64}, weights::NTuple{N}, xs::NTuple{N, Matrix{Float64}},
    ) where {N}
    @inbounds @simd ivdep for k in eachindex(out, factors, xs...)
        out[k] += factors[k] * weighted(weights, xs, k)
    end
    return out
end

"The error of a step relative to the tolerance, `error ./ (atol .+ rtol .* max.(abs.(y), abs.(new)))`; `out` may be `error`."
function relative_to!(
        out::Matrix{Float64}, error::Matrix{Float64}, y::Matrix{Float64}, new::Matrix{Float64}, rtol::Float64, atol::Float64,
    )
    @inbounds @simd ivdep for k in eachindex(out, error, y, new)
        out[k] = error[k] / (atol + rtol * max(abs(y[k]), abs(new[k])))
    end
    return out
end

"""
The adjoint of an error, in `error_bar`, and what its scale passes on to the states before and after, which is added; `factor` times
the relative error is the adjoint of the latter.
"""
function pull_scaled!(
        error_bar::Matrix{Float64}, y_bar::Matrix{Float64}, new_bar::Matrix{Float64}, factor::Float64,
        relative::Matrix{Float64}, y::Matrix{Float64}, new::Matrix{Float64}, rtol::Float64, atol::Float64,
    )
    @inbounds for k in eachindex(y)
        before, after = abs(y[k]), abs(new[k])
        scale = atol + rtol * max(before, after)
        bar = factor * relative[k]
        error_bar[k] = bar / scale
        by_scale = -rtol * bar * relative[k] / scale
        part = before == after ? 0.5 : 1.0
        before >= after && (y_bar[k] += part * by_scale * sign(y[k]))
        before <= after && (new_bar[k] += part * by_scale * sign(new[k]))
    end
    return nothing
end

"`x_bar += factor * (x - y)`, and the opposite to `y_bar`."
function add_difference!(
        x_bar::Matrix{Float64}, y_bar::Matrix{Float64}, factor::Float64, x::Matrix{Float64}, y::Matrix{Float64},
    )
    @inbounds @simd ivdep for k in eachindex(x_bar, y_bar, x, y)
        change = factor * (x[k] - y[k])
        x_bar[k] += change
        y_bar[k] -= change
    end
    return nothing
end

all_finite(x::Matrix{Float64}) = all(isfinite, x)

"Zero for an adjoint that has no direction: the norm of nothing."
ratio(a::Float64, b::Float64) = b > 0 ? a / b : 0.0
