"""
    NetworkField(model, ps, st, y0, stages, with_time, config)

The slope that a Lux model gives states of the shape of `y0`, for the solves of PySciML, in the precision of `y0` and where that is.
What a stage was computed from is kept, and its derivative is that of `config`, the rules of the automatic differentiation that
asks for it (`nothing` where none does); those by parameters add up in `ps_bar`.
"""
struct NetworkField{T, A <: AbstractMatrix{T}, V <: AbstractVector{Float64}, M, P, S, C}
    model::M
    ps::P
    st::S
    config::C
    with_time::Bool
    times::Vector{Float64}
    inputs::Vector{A}
    ps_bar::V
end

function NetworkField(model::M, ps::P, st::S, y0::AbstractMatrix{T}, stages, with_time, config::C) where {T, M, P, S, C}
    inputs = [zeros_like(y0, T, size(y0)) for _ in 1:stages]
    ps_bar = zeros_like(y0, Float64, n_numbers(ps))
    return NetworkField{T, eltype(inputs), typeof(ps_bar), M, P, S, C}(
        model, ps, st, config, with_time, zeros(stages), inputs, ps_bar,
    )
end

# The solver computes in double precision, on a device as well.
PySciML.blank(field::NetworkField, shape) = zeros_like(first(field.inputs), Float64, shape)

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

function PySciML.slope!(k::AbstractMatrix{Float64}, field::NetworkField, stage::Int, t::Float64, y::AbstractMatrix{Float64})
    field.inputs[stage] .= y
    field.times[stage] = t
    slope = along(field, t, 1.0, field.inputs[stage:stage])
    size(slope) == size(k) || throw(
        DimensionMismatch("the model of a differential equation turns states of size $(size(k)) into $(size(slope))")
    )
    k .= slope
    return nothing
end

"Step sizes are not differentiated, so neither are times."
function PySciML.pull_slope!(
        y_bar::AbstractMatrix{Float64}, field::NetworkField, stage::Int, k_bar::AbstractMatrix{Float64},
    )
    pull_along!((y_bar,), field, field.times[stage], 1.0, field.inputs[stage:stage], k_bar)
    return 0.0
end
