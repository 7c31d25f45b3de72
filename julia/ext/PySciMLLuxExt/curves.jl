# Derivatives of a model along a curve, of any order, by dual numbers in dual numbers; and the way back from them.
#
# A curve x(s) with the derivatives x_0, ..., x_d at s = 0 is a number for d infinitesimals, each with the square 0: its part that
# goes with m of them is x_m, whichever they are. A model turns it into f(x(s)) with the derivatives y_0, ..., y_d, in one evaluation.
#
# Back, y_d depends on x_m by binomial(d, m) times the derivative of order d - m of the Jacobian J(x(s)). A reverse pass through the
# model at the curve, from an adjoint v that is constant along it, gives v'J(x(s)) with all its derivatives, and so all adjoints
# (Griewank & Walther, Evaluating Derivatives, 2nd ed., SIAM 2008, section 13.4).

"""
    curve(x)

A number from its derivatives `x[1], ..., x[d + 1]` of orders 0 to `d`.
"""
curve(x::Tuple{Number}) = only(x)
function curve(x::Tuple)
    start, slope = curve(Base.front(x)), curve(Base.tail(x))
    return Dual{typeof(Tag(curve, typeof(start)))}(start, slope)
end

"The derivative of order `m` of a [`curve`](@ref), zero for a number that does not move."
derivative(x::Dual, m::Int) = m == 0 ? derivative(value(x), 0) : derivative(partials(x, 1), m - 1)
derivative(x::Number, m::Int) = m == 0 ? x : zero(x)

"What goes into the model, in its precision: a curve of states, and of time where it takes that, which goes with the `rate`."
function input(field::NetworkField{T}, t::Float64, rate::Float64, x::Vector{<:AbstractMatrix{T}}) where {T}
    y = broadcast((numbers...) -> curve(numbers), x...)
    field.with_time || return y
    time = curve(ntuple(k -> T(k == 1 ? t : k == 2 ? rate : 0), length(x)))
    return vcat(y, fill!(similar(y, 1, size(y, 2)), time))
end

"The derivative of order `length(x) - 1` of the model along the curve `x`, at `t`."
function along(field::NetworkField{T}, t::Float64, rate::Float64, x::Vector{<:AbstractMatrix{T}}) where {T}
    y = apply(field.model, input(field, t, rate, x), field.ps, field.st)
    return derivative.(y, length(x) - 1)
end

"""
    pull_along!(x_bars, field, t, rate, x, y_bar)

Go back from the adjoint of [`along`](@ref): add to those of the curve's derivatives, of the first `length(x_bars)` of them, and of the
parameters.
"""
function pull_along!(x_bars, field::NetworkField{T}, t::Float64, rate::Float64, x::Vector{<:AbstractMatrix{T}}, y_bar) where {T}
    y_bar isa Array && all(iszero, y_bar) && return nothing # for a device's answer the CPU would wait
    order, at = length(x) - 1, input(field, t, rate, x)
    ps = order == 0 ? field.ps : converted(eltype(at), field.ps) # rules may make derivatives of the type of what they are by
    _, back = rrule_via_ad(field.config, apply, field.model, at, ps, field.st)
    _, _, found, by_parameters, _ = back(eltype(at).(y_bar))
    add_numbers!(field.ps_bar, 0, field.ps, unthunk(by_parameters), number -> derivative(number, order))
    found = unthunk(found)
    found isa AbstractZero && return nothing
    for (k, x_bar) in enumerate(x_bars)
        m = k - 1
        x_bar .+= binomial(order, m) .* derivative.(view(found, axes(x_bar)...), order - m)
    end
    return nothing
end
