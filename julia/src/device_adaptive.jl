# Adaptive solves of a batch on a device: the steps of adaptive.jl and adjoint.jl with few kernels, and one wait for each attempt.

"A solve with states, stages and adjoints on a device."
const DeviceSolve = AdaptiveSolve{<:DeviceField}

"""
    device_solve(tape, method, rows, rtol, atol, max_steps, backend, T)

An [`AdaptiveSolve`](@ref) in the precision `T` on a `backend` of KernelAbstractions.jl. It takes and gives arrays of that backend;
parameters, and derivatives by them, may also be on the CPU. Step sizes are not differentiated, and nothing but the squared
speed is integrated along.
"""
device_solve(tape::Tape, method::ExplicitMethod, rows::Int, rtol, atol, max_steps, backend, ::Type{T}) where {T} = AdaptiveSolve(
    DeviceField(tape, rows, n_stages(method), backend, T), method, (rows, tape.n_states), rtol, atol, max_steps,
)

# -- arithmetic on states; sums are in double precision whatever the states are

square(x) = Float64(x)^2

root_mean_square(x::AbstractMatrix) = sqrt(mapreduce(square, +, x) / length(x))

all_finite(x::AbstractMatrix) = mapreduce(isfinite, &, x)

function add!(out::AbstractMatrix{T}, factor::Float64, x::AbstractMatrix) where {T}
    by = T(factor)
    return @. out += by * x
end

function from_start!(out::AbstractMatrix{T}, y::AbstractMatrix, h::Float64) where {T}
    by = T(h)
    return @. out = y + by * out
end

combine!(out::AbstractMatrix, weights::AbstractVector{Float64}, slopes::Vector{<:AbstractMatrix}, count::Int) =
    weighted_sum!(out, zero(eltype(out)), view(weights, 1:count), view(slopes, 1:count))

"Of one element of a sum of arrays: `start + sum(weights .* xs)`."
struct WeightedSum{W <: Tuple}
    weights::W
end

@inline (s::WeightedSum)(start, xs::Vararg{Any, N}) where {N} = start + sum(map(*, s.weights, xs))

"`out = start + sum(weights .* xs)`, in one kernel."
function weighted_sum!(out::AbstractMatrix{T}, start, weights::AbstractVector, xs::AbstractVector) where {T}
    return broadcast!(WeightedSum(Tuple(T.(weights))), out, start, xs...)
end

"Of one element of a sum of squares, `sum(weights .* xs.^2)`."
struct WeightedSquares{W <: Tuple}
    weights::W
end

@inline (s::WeightedSquares)(xs::Vararg{Any, N}) where {N} = sum(map((w, x) -> w * x * x, s.weights, xs))

# -- forward

"The states and slopes of all stages, and the error, of a step from `s.inner[1]`, where the slope is `s.slopes[1]`."
function take_stages!(s::DeviceSolve, t::Float64, h::Float64, keep::Bool)
    m, y, last = s.method, s.inner[1], n_stages(s.method)
    for i in 2:last
        weighted_sum!(s.inner[i], y, h * view(m.a, i - 1, 1:(i - 1)), view(s.slopes, 1:(i - 1)))
        slope!(s.slopes[i], s.field, keep ? i : 1, t + m.c[i - 1] * h, s.inner[i])
    end
    weighted_sum!(s.error, zero(eltype(y)), h * m.b_error, s.slopes)
    rtol, atol, new = eltype(y)(s.rtol), eltype(y)(s.atol), s.inner[last]
    @. s.relative = s.error / (atol + rtol * max(abs(y), abs(new)))
    return nothing
end

"The squares that a step's estimates are made of, the last of which is not finite where its end is not."
step_squares(relative, new, before, slope, slope_before, speed) =
    square(relative), square(new - before), square(slope - slope_before), Float64(speed), new - new

add_each(a::Tuple, b::Tuple) = map(+, a, b)

function take_step!(s::DeviceSolve, t::Float64, h::Float64, keep::Bool)
    take_stages!(s, t, h, keep)
    m, last = s.method, n_stages(s.method)
    speed = s.relative
    if s.kinetic != 0
        speed = broadcast!(WeightedSquares(Tuple(eltype(s.work).(m.b))), s.work, s.slopes...)
    end
    none = 0.0, 0.0, 0.0, 0.0, zero(eltype(s.work))
    squares = mapreduce(
        step_squares, add_each, s.relative, s.inner[last], s.inner[last - 1], s.slopes[last], s.slopes[last - 1], speed;
        init = none,
    )
    error, apart, spread, kinetic = squares[1:4] ./ length(s.work)
    isfinite(squares[5]) || (error = NaN)
    return sqrt(error), ratio(sqrt(spread), sqrt(apart)) / m.stability, s.kinetic == 0 ? 0.0 : h * s.kinetic * kinetic
end

# The sums say so: another wait for the device is spared.
is_finite(::DeviceSolve, error::Float64) = isfinite(error)

# -- backward

"Error and stiffness are those of the record: nothing is read from the device."
function retake_step!(s::DeviceSolve, i::Int, t::Float64, used::Float64)
    take_stages!(s, t, used, true)
    return s.record.error[i], s.record.stiffness[i]
end

function pull_step!(
        s::DeviceSolve, t::Float64, h::Float64, error::Float64, stiffness::Float64, error_bar::Float64, stiffness_bar::Float64,
        integral_bar::Float64,
    )
    m, inner, slopes, last = s.method, s.inner, s.slopes, n_stages(s.method)
    z_bars, k_bars, n = s.inner_bars, s.slope_bars, length(s.work)
    if error_bar != 0 && error > 0
        pull_scaled!(s.work, z_bars[1], z_bars[last], error_bar / (n * error), s.relative, inner[1], inner[last], s.rtol, s.atol)
        for j in 1:last
            m.b_error[j] == 0 || add!(k_bars[j], h * m.b_error[j], s.work)
        end
    end
    if stiffness_bar != 0
        apart, spread = distances(s)
        by_spread = ratio(ratio(stiffness_bar / m.stability, apart), n * spread)
        by_apart = -ratio(stiffness_bar * stiffness, n * apart^2)
        add_difference!(k_bars[last], k_bars[last - 1], by_spread, slopes[last], slopes[last - 1])
        add_difference!(z_bars[last], z_bars[last - 1], by_apart, inner[last], inner[last - 1])
    end
    if integral_bar != 0 && s.kinetic != 0
        for j in 1:last
            m.b[j] == 0 || add!(k_bars[j], integral_bar * h * s.kinetic * m.b[j] * 2 / n, slopes[j])
        end
    end
    for i in last:-1:1
        later = (i + 1):last # the stages that this one's slope leads to
        i == last || weighted_sum!(k_bars[i], k_bars[i], h * view(m.a, later .- 1, i), view(z_bars, later))
        i == 1 || pull_slope!(z_bars[i], s.field, i, k_bars[i])
    end
    weighted_sum!(z_bars[1], z_bars[1], ones(last - 1), view(z_bars, 2:last))
    return 0.0, 0.0
end

"How far the last two stages of a step are apart: states and slopes, as root mean squares."
function distances(s::DeviceSolve)
    squares = mapreduce(
        (x, y, k, l) -> (square(x - y), square(k - l)), add_each, s.inner[end], s.inner[end - 1], s.slopes[end], s.slopes[end - 1];
        init = (0.0, 0.0),
    )
    return sqrt.(squares ./ length(s.work))
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

# -- what Python's training calls, for a device: numbers go there and back once for each solve

"""
    load_training_device(device) -> String

Load what trainings on a device need; what is missing, or nothing.
"""
function load_training_device(device::AbstractString)
    device == "cuda" || return "there is no device $device"
    load_package("CUDA") === nothing && return "the Julia package CUDA is not installed"
    return Base.invokelatest(find_device, Val(Symbol(device)))
end

"As `adaptive_solve`, on a `device` in a `precision` of Python's names."
function device_solve(
        tape::Tape, method::String, rows::Int, rtol::Float64, atol::Float64, max_steps::Int, device::String, precision::String,
    )
    T = precision == "float32" ? Float32 : Float64
    return device_solve(tape, explicit_method(method), rows, rtol, atol, max_steps, backend(Val(Symbol(device))), T)
end

"An array of a solve's device, in its precision, with these numbers."
sent(s::DeviceSolve, numbers::Array) = on_device(s.field.backend, eltype(s.work).(numbers))

function solve_at!(
        s::DeviceSolve, p::Int, y0::Int, start::Int, span::Int, t0::Float64, t1::Float64, times::Int, n_times::Int, ys::Int,
        y1::Int, kinetic::Float64,
    )
    rows, n = size(s.work)
    s.kinetic = kinetic
    solution = blank(s.field, (rows, n, n_times))
    solve!(
        solution, s, array_at(p, n_params(s.field)), sent(s, array_at(y0, rows, n)), array_at(start, rows), array_at(span, rows),
        t0, t1, array_at(times, n_times),
    )
    copyto!(array_at(ys, rows, n, n_times), Array(solution))
    copyto!(array_at(y1, rows, n), Array(final_state(s)))
    return s.success, s.count, s.n_steps, s.n_rejected, s.n_rhs, s.integral
end

function pull_at!(s::DeviceSolve, y0_bar::Int, ys_bar::Int, y1_bar::Int, estimates_bar::Int, integral_bar::Float64)
    (rows, n), estimates = size(s.work), array_at(estimates_bar, s.count, 3)
    pulled = blank(s.field, (rows, n))
    pull!(
        pulled, s, sent(s, array_at(ys_bar, rows, n, length(s.times))), sent(s, array_at(y1_bar, rows, n)), view(estimates, :, 1),
        view(estimates, :, 2), view(estimates, :, 3), integral_bar,
    )
    copyto!(array_at(y0_bar, rows, n), Array(pulled))
    return nothing
end
