"""
    NetworkField{T}(model, ps, st, shape, stages, with_time, config)

The slope that a Lux model gives states of that shape, for the solves of PySciML. What a stage was computed from is kept, and its
derivative is that of `config`, the rules of the automatic differentiation that asks for it (`nothing` where none does).
"""
mutable struct NetworkField{T, M, P, S, C}
    model::M
    ps::P
    st::S
    config::C
    with_time::Bool
    times::Vector{Float64}
    inputs::Vector{Matrix{Float64}}
    ps_bar::Any
end

function NetworkField{T}(model::M, ps::P, st::S, shape, stages, with_time, config::C) where {T, M, P, S, C}
    inputs = [zeros(shape) for _ in 1:stages]
    return NetworkField{T, M, P, S, C}(model, ps, st, config, with_time, zeros(stages), inputs, ZeroTangent())
end

apply(model, x, ps, st) = first(Lux.apply(model, x, ps, st))

"What goes into the model at a stage, in its precision."
function input(field::NetworkField{T}, stage::Int) where {T}
    y = T.(field.inputs[stage])
    return field.with_time ? vcat(y, fill(T(field.times[stage]), 1, size(y, 2))) : y
end

PySciML.prepare!(::NetworkField, p) = nothing
PySciML.prepare!(::NetworkField, p, start, length) = nothing

function PySciML.clear!(field::NetworkField)
    field.ps_bar = ZeroTangent()
    return nothing
end

function PySciML.slope!(k::Matrix{Float64}, field::NetworkField, stage::Int, t::Float64, y::Matrix{Float64})
    copyto!(field.inputs[stage], y)
    field.times[stage] = t
    slope = apply(field.model, input(field, stage), field.ps, field.st)
    size(slope) == size(k) || throw(
        DimensionMismatch("the model of a differential equation turns states of size $(size(k)) into $(size(slope))")
    )
    copyto!(k, slope)
    return nothing
end

"Step sizes are not differentiated, so neither are times."
function PySciML.pull_slope!(y_bar::Matrix{Float64}, field::NetworkField{T}, stage::Int, k_bar::Matrix{Float64}) where {T}
    all(iszero, k_bar) && return 0.0
    _, back = rrule_via_ad(field.config, apply, field.model, input(field, stage), field.ps, field.st)
    _, _, x_bar, ps_bar, _ = back(T.(k_bar))
    x_bar = unthunk(x_bar)
    x_bar isa AbstractZero || (y_bar .+= view(x_bar, axes(y_bar)...))
    field.ps_bar = field.ps_bar + unthunk(ps_bar)
    return 0.0
end
