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

"`out += sum(xs)`"
function add_sum!(out::Matrix{Float64}, xs)
    for x in xs
        add!(out, 1.0, x)
    end
    return out
end

"`out += factor * sum(weights .* xs)`"
function add_combination!(out::Matrix{Float64}, factor::Float64, weights, xs)
    for (weight, x) in zip(weights, xs)
        weight == 0 || add!(out, factor * weight, x)
    end
    return out
end

"`out += factors .* sum(weights .* xs)`"
function add_products!(out::Matrix{Float64}, factors::Matrix{Float64}, weights, xs)
    for (weight, x) in zip(weights, xs)
        weight == 0 && continue
        @inbounds @simd ivdep for k in eachindex(out, factors, x)
            out[k] += weight * factors[k] * x[k]
        end
    end
    return out
end

"`out = start + factor * sum(weights .* xs)`"
function weighted_sum!(out::Matrix{Float64}, start::Matrix{Float64}, factor::Float64, weights, xs)
    fill!(out, 0.0)
    add_combination!(out, 1.0, weights, xs)
    @inbounds @simd ivdep for k in eachindex(out, start)
        out[k] = start[k] + factor * out[k]
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
