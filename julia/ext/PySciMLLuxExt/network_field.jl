"""
    NetworkField{T}(model, ps, st, shape, stages, with_time, config)

The slope that a Lux model gives states of that shape, for the solves of PySciML. What a stage was computed from is kept, and its
derivative is that of `config`, the rules of the automatic differentiation that asks for it (`nothing` where none does); those by
parameters add up in `ps_bar`.
"""
struct NetworkField{T, M, P, S, C}
    model::M
    ps::P
    st::S
    config::C
    with_time::Bool
    times::Vector{Float64}
    inputs::Vector{Matrix{T}}
    ps_bar::Vector{Float64}
end

function NetworkField{T}(model::M, ps::P, st::S, shape, stages, with_time, config::C) where {T, M, P, S, C}
    inputs = [zeros(T, shape) for _ in 1:stages]
    return NetworkField{T, M, P, S, C}(model, ps, st, config, with_time, zeros(stages), inputs, zeros(n_numbers(ps)))
end

apply(model, x, ps, st) = first(Lux.apply(model, x, ps, st))

PySciML.prepare!(::NetworkField, p::AbstractVector) = nothing
PySciML.prepare!(::NetworkField, p, start, length) = nothing
PySciML.n_params(field::NetworkField) = length(field.ps_bar)

function PySciML.clear!(field::NetworkField)
    fill!(field.ps_bar, 0.0)
    return nothing
end

function PySciML.parameter_bars!(p_bar::AbstractVector, field::NetworkField)
    p_bar .+= field.ps_bar
    return nothing
end

function PySciML.slope!(k::Matrix{Float64}, field::NetworkField, stage::Int, t::Float64, y::Matrix{Float64})
    copyto!(field.inputs[stage], y)
    field.times[stage] = t
    slope = along(field, t, 1.0, field.inputs[stage:stage])
    size(slope) == size(k) || throw(
        DimensionMismatch("the model of a differential equation turns states of size $(size(k)) into $(size(slope))")
    )
    copyto!(k, slope)
    return nothing
end

"Step sizes are not differentiated, so neither are times."
function PySciML.pull_slope!(y_bar::Matrix{Float64}, field::NetworkField, stage::Int, k_bar::Matrix{Float64})
    pull_along!((y_bar,), field, field.times[stage], 1.0, field.inputs[stage:stage], k_bar)
    return 0.0
end
