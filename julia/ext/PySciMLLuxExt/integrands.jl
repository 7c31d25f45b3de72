"""
    Integrated(order, rate, coefficient, noise)

A derivative of a model whose mean square is integrated, times a coefficient: that of the solution, of an order (`noise` is `nothing`
and the `rate` of time 1), or that of the model in the direction of `noise`, with time at rest.
"""
struct Integrated{N <: Union{Nothing, Matrix}}
    order::Int
    rate::Float64
    coefficient::Float64
    noise::N
end

Integrated(term::Term{PySciML.TaylorDerivative}) = Integrated(term.regularizer.order, 1.0, term.coefficient, nothing)
Integrated(term::Term{PySciML.JacobianNorm}) = Integrated(2, 0.0, term.coefficient, term.noise)

"""
    NetworkIntegrand(field, terms, stages)

What terms integrate along a solve with a model, beside the squared speed: [`TaylorDerivative`](@ref PySciML.TaylorDerivative) and
[`JacobianNorm`](@ref PySciML.JacobianNorm). The derivatives are kept for that many stages, for going back.
"""
struct NetworkIntegrand{F <: NetworkField, T}
    field::F
    terms::Vector{Integrated}
    times::Vector{Float64}
    kept::Vector{Vector{Vector{Matrix{T}}}}
end

NetworkIntegrand(field::NetworkField{T}, terms, stages) where {T} =
    NetworkIntegrand(field, Integrated[terms...], zeros(stages), [[Matrix{T}[] for _ in terms] for _ in 1:stages])

PySciML.prepare!(::NetworkIntegrand, p, start, length) = nothing
PySciML.prepare!(::NetworkIntegrand, p::AbstractVector) = nothing

"""
The derivatives a term is made of, the last one its own. Those of the solution follow one by one from those of the model along it
(Kelly et al. 2020, algorithm 1).
"""
function derivatives!(x::Vector{Matrix{T}}, term::Integrated, field::NetworkField{T}, t::Float64, y::Matrix{Float64}) where {T}
    empty!(x)
    push!(x, T.(y))
    term.noise === nothing || push!(x, T.(term.noise))
    while length(x) <= term.order
        push!(x, along(field, t, term.rate, x))
    end
    return x
end

function PySciML.integrand!(g::NetworkIntegrand, kept::Int, t::Float64, y::Matrix{Float64})
    g.times[kept] = t
    for (x, term) in zip(g.kept[kept], g.terms)
        derivatives!(x, term, g.field, t, y)
    end
    return PySciML.integrand(g, kept)
end

PySciML.integrand(g::NetworkIntegrand, kept::Int) =
    sum(term.coefficient * sum(abs2, last(x)) / length(last(x)) for (x, term) in zip(g.kept[kept], g.terms))

"Times are not differentiated, see `pull_slope!`."
function PySciML.pull_integrand!(y_bar::Matrix{Float64}, g::NetworkIntegrand, stage::Int, bar::Float64)
    for (x, term) in zip(g.kept[stage], g.terms)
        bars = [zeros(size(y_bar)) for _ in x]
        last(bars) .= (2 * bar * term.coefficient / length(y_bar)) .* last(x)
        for k in length(x):-1:(term.noise === nothing ? 2 : 3)
            pull_along!(view(bars, 1:(k - 1)), g.field, g.times[stage], term.rate, x[1:(k - 1)], bars[k])
        end
        y_bar .+= first(bars)
    end
    return 0.0
end
