# Networks of Taylor series: an application of order `k` has the coefficients number `k` of its inputs, and gives those of its
# outputs; what it needs of the lower ones the applications of the orders below have kept. So each order is one matrix product a
# layer.
#
# With `y = σ(x)` and `d = σ'(x)`, all of them series, `y' = d x'` says `k y_k = Σ j x_j d_{k-j}` (j = 1, ..., k), and `∂y_k/∂x_j` is
# `d_{k-j}`: going back needs nothing else. How `d` follows is what activations differ in (A. Griewank & A. Walther, Evaluating
# Derivatives, 2nd edition, SIAM 2008, chapter 13).

"""
    Tower{T}(layer, rows)

Coefficients of a layer from order 0 on, one matrix each: what goes into the activation, what comes out, its derivative, and two
series that some activations need besides.
"""
struct Tower{T}
    x::Vector{Matrix{T}}
    y::Vector{Matrix{T}}
    d::Vector{Matrix{T}}
    a::Vector{Matrix{T}}
    b::Vector{Matrix{T}}
end

Tower(x::Matrix{T}, y::Matrix{T}) where {T} = Tower{T}([x], [y], [zero(y)], [zero(y)], [zero(y)])

"The tower of a layer with another order on top, which the given matrices belong to."
raised(t::Tower, x::Matrix, y::Matrix) =
    Tower([t.x; [x]], [t.y; [y]], [t.d; [zero(y)]], [t.a; [zero(y)]], [t.b; [zero(y)]])

"`out += factor * Σ a_i b_{k-i}`, `i = 0, ..., k`: coefficient `k` of a product."
function add_product!(out::Matrix, a::Vector, b::Vector, k::Int, factor = 1.0)
    for i in 0:k
        left, right = a[i + 1], b[k - i + 1]
        @inbounds @simd ivdep for n in eachindex(out, left, right)
            out[n] += factor * left[n] * right[n]
        end
    end
    return out
end

"`out = factor * Σ j x_j b_{k-j} / k`, `j = 1, ..., k`: coefficient `k` of what has the derivative `b x'`."
function integral!(out::Matrix, x::Vector, b::Vector, k::Int, factor = 1.0)
    fill!(out, 0)
    for j in 1:k
        left, right, weight = x[j + 1], b[k - j + 1], factor * j / k
        @inbounds @simd ivdep for n in eachindex(out, left, right)
            out[n] += weight * left[n] * right[n]
        end
    end
    return out
end

"Coefficient 0 of the derivative of an activation and of its other series."
function begin_tower!(t::Tower, activation::Symbol)
    x, y, d, a, b = t.x[1], t.y[1], t.d[1], t.a[1], t.b[1]
    fill!(d, 1)
    deactivate!(d, x, y, activation)
    if activation === :softplus # a = d (1 - d)
        a .= d .* (1 .- d)
    elseif activation === :swish # a the logistic function, b = a (1 - a)
        a .= logistic.(x)
        b .= a .* (1 .- a)
    elseif activation === :gelu # a the normal density, b = x a
        a .= exp.(x .* x ./ -2) ./ sqrt(2π)
        b .= x .* a
    end
    return nothing
end

"From coefficient `k` of what goes into the activation of a layer to that of what comes out."
function raise!(t::Tower, k::Int, activation::Symbol)
    top = k + 1
    y, d = integral!(t.y[top], t.x, t.d, k), t.d[top]
    if activation === :tanh # d = 1 - y^2
        fill!(d, 0)
        add_product!(d, t.y, t.y, k, -1.0)
    elseif activation === :sigmoid # d = y (1 - y)
        copyto!(d, y)
        add_product!(d, t.y, t.y, k, -1.0)
    elseif activation === :sin # d' = -y x'
        integral!(d, t.x, t.y, k, -1.0)
    elseif activation === :softplus # d' = a x'
        copyto!(t.a[top], integral!(d, t.x, t.a, k))
        add_product!(t.a[top], t.d, t.d, k, -1.0)
    elseif activation === :swish # a' = b x', d = a + x b
        copyto!(t.b[top], integral!(t.a[top], t.x, t.b, k))
        add_product!(t.b[top], t.a, t.a, k, -1.0)
        add_product!(copyto!(d, t.a[top]), t.x, t.b, k)
    elseif activation === :gelu # a' = -b x', d' = a x' + b'
        integral!(t.a[top], t.x, t.b, k, -1.0)
        fill!(t.b[top], 0)
        add_product!(t.b[top], t.x, t.a, k)
        integral!(d, t.x, t.a, k)
        d .+= t.b[top]
    else # one without a curve
        fill!(d, 0)
    end
    return nothing
end

"""
    evaluate!(neurons, towers, k, network, weights)

Coefficient `k` of a network: from `neurons.outer[1]` to `neurons.outer[end]`, which are the tops of the towers.
"""
function evaluate!(neurons::Neurons, towers::Vector{<:Tower}, k::Int, network::Network, weights::Weights)
    for (number, layer) in enumerate(network)
        k == 1 && begin_tower!(towers[number], layer.activation)
        product!(neurons.inner[number], neurons.outer[number], weights.matrices[number])
        raise!(towers[number], k, layer.activation)
    end
    return nothing
end

"""
    pull!(bars, neurons, towers, all_inner_bars, lower, inner_bars, network, weights, outer_bars)

From derivatives by coefficients `k` of a network's outputs to those by coefficients `k` of its inputs; those by what goes into the
activations at the lower orders are added to the entries `lower` of `all_inner_bars`, and those at this one, `inner_bars`, are used
up.
"""
function pull!(
        bars::Weights, neurons::Neurons, towers::Vector{<:Tower}, all_inner_bars::Vector{<:Vector}, lower::Vector{Int},
        inner_bars::Vector{<:Matrix}, network::Network, weights::Weights, outer_bars::Vector{<:Matrix},
    )
    k = length(lower)
    for number in length(network):-1:1
        bar, d = outer_bars[number + 1], towers[number].d
        for j in 0:(k - 1)
            add_product!(all_inner_bars[lower[j + 1]][number], bar, d[k - j + 1])
        end
        bar .*= d[1]
        take_bar!(bar, inner_bars, number)
        add_transposed_product!(bars.matrices[number], neurons.outer[number], bar)
        product_transposed!(outer_bars[number], bar, weights.matrices[number])
    end
    return nothing
end

function add_product!(out::Matrix, a::Matrix, b::Matrix)
    @inbounds @simd ivdep for n in eachindex(out, a, b)
        out[n] += a[n] * b[n]
    end
    return out
end

"Add what the orders above have left for a layer, and forget it."
function take_bar!(bar::Matrix, inner_bars::Vector{<:Matrix}, number::Int)
    isempty(inner_bars) && return nothing
    left = inner_bars[number]
    @inbounds @simd ivdep for n in eachindex(bar, left)
        bar[n] += left[n]
        left[n] = 0
    end
    return nothing
end
