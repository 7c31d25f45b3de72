# An adaptive Runge-Kutta solve of a batch that keeps its error and stiffness estimates, and its discrete adjoint.

#: The step size controller: Hairer's defaults.
const SAFETY, SMALLEST_FACTOR, LARGEST_FACTOR = 0.9, 0.2, 10.0

"""
A solve of a batch, which is one state with one step size: states are matrices `M` of members by states, and where those are decides
which arithmetic is used, that of states.jl or of device_states.jl.
"""
abstract type BatchSolve{M} end

"A solve with states, stages and adjoints in main memory."
const HostSolve = BatchSolve{Matrix{Float64}}

"Where every step (every attempt, if step sizes are differentiated) began, and what came of it."
struct Record{M}
    t::Vector{Float64}
    h::Vector{Float64}
    saved::Vector{Int}
    kept::Vector{Bool}
    y::Vector{M}
    slope::Vector{M}
    error::Vector{Float64}
    stiffness::Vector{Float64}
    taken::Vector{Float64}
    slopes::Vector{Vector{M}}
end

Record{M}() where {M} =
    Record{M}(Float64[], Float64[], Int[], Bool[], M[], M[], Float64[], Float64[], Float64[], Vector{M}[])

"""
    AdaptiveSolve(
        tape, method, rows, rtol, atol, max_steps; kinetic = 0.0, through_steps = false, integrand = nothing, dense = false,
    )

A solve of `rows` members of a batch, which are one state with one step size, and buffers for it: after the first time, neither
`solve!` nor `pull!` allocates (unless pieces of the batch go to several threads).

The first outputs of the tape are the derivatives of the states. Member `i` runs over the time `start[i] + length[i] * τ`.
`kinetic` is what the mean square of the derivative is multiplied by in the integral that is kept; `integrand`, the tape of an
[`Integrand`](@ref), adds to it. `through_steps` says whether step sizes are differentiated, rejected attempts included; else the
derivative is that of the steps that were taken. `dense` keeps the slopes of all stages, for [`solution_at!`](@ref).

Regularization by the estimates of a solver is that of Pal, Ma, Shah & Rackauckas, *Opening the Blackbox* (ICML 2021).
"""
mutable struct AdaptiveSolve{F, G, M} <: BatchSolve{M}
    field::F
    method::ExplicitMethod
    rtol::Float64
    atol::Float64
    max_steps::Int
    through_steps::Bool
    dense::Bool
    kinetic::Float64
    integrand::G
    # One step: the states and slopes of its stages, its error and that relative to the tolerance.
    inner::Vector{M}
    slopes::Vector{M}
    error::M
    relative::M
    weights::Vector{Float64}
    inner_bars::Vector{M}
    slope_bars::Vector{M}
    work::M
    y0::M
    y_bar::M
    slope_bar::M
    times::Vector{Float64}
    record::Record{M}
    t0::Float64
    t1::Float64
    guessed::Bool
    count::Int
    n_steps::Int
    n_rejected::Int
    n_rhs::Int
    integral::Float64
    success::Bool
end

AdaptiveSolve(
    tape::Tape, method::ExplicitMethod, rows::Integer, rtol, atol, max_steps; kinetic = 0.0, through_steps = false,
    threaded = nothing, integrand = nothing, dense = false,
) = AdaptiveSolve(
    BatchField(tape, rows, 1:tape.n_states, n_stages(method); threaded), method, (rows, tape.n_states), rtol, atol, max_steps;
    kinetic, through_steps, dense,
    integrand = integrand === nothing ? nothing : Integrand(integrand, rows, tape.n_states, n_stages(method)),
)

"""
    AdaptiveSolve(
        field, method, shape, rtol, atol, max_steps; kinetic = 0.0, through_steps = false, integrand = nothing, dense = false,
    )

A solve of states of that shape with any `field` that has `prepare!`, `slope!`, `pull_slope!`, `clear!`, `n_params` and
`parameter_bars!` as a [`BatchField`](@ref) has, and any `integrand` that has `prepare!`, `integrand!`, `integrand` and
`pull_integrand!` as an [`Integrand`](@ref) has, and a field of its own. States are matrices of [`blank`](@ref).
"""
function AdaptiveSolve(
        field::F, method::ExplicitMethod, shape::NTuple{2, Int}, rtol, atol, max_steps; kinetic = 0.0, through_steps = false,
        integrand::I = nothing, dense = false,
    ) where {F, I}
    G = I <: Union{Nothing, Integrand} ? Union{Nothing, Integrand} : I # solves of graphs are compiled once
    stages = n_stages(method)
    one() = blank(field, shape)
    many() = [one() for _ in 1:stages]
    M = typeof(one())
    return AdaptiveSolve{F, G, M}(
        field, method, rtol, atol, max_steps, through_steps, dense, kinetic, integrand, many(), many(), one(), one(),
        zeros(stages), many(), many(), one(), one(), one(), one(), Float64[], Record{M}(), 0.0, 1.0, true, 0, 0, 0, 0, 0.0, false,
    )
end

"A matrix of zeros where a field has its states."
blank(field, shape) = zeros(shape)

# -- forward

"""
    take_step!(s, t, h, keep)

One step from `s.inner[1]`, where the slope is `s.slopes[1]`, to `s.inner[end]`. Returns the error relative to the tolerance,
Shampine's stiffness estimate (ACM Transactions on Mathematical Software 3, 1977) and the integral. With `keep` the values of
every stage are kept, for `pull_step!`.
"""
function take_step!(s::AdaptiveSolve, t::Float64, h::Float64, keep::Bool)
    take_stages!(s, t, h, keep)
    error, apart, spread, speed = step_norms(s)
    integral = s.kinetic * speed + integrate_along!(s, t, h, keep)
    return error, ratio(spread, apart) / s.method.stability, h * integral
end

"The states and slopes of all stages of a step, and its error."
function take_stages!(s::AdaptiveSolve, t::Float64, h::Float64, keep::Bool)
    m, y, slopes, last = s.method, s.inner[1], s.slopes, n_stages(s.method)
    for i in 2:last
        before = 1:(i - 1)
        inner = weighted_sum!(s.inner[i], y, h, view(m.a, i - 1, before), view(slopes, before))
        slope!(slopes[i], s.field, keep ? i : 1, t + m.c[i - 1] * h, inner)
    end
    fill!(s.error, 0.0)
    add_combination!(s.error, h, m.b_error, slopes)
    relative_to!(s.relative, s.error, y, s.inner[last], s.rtol, s.atol)
    return nothing
end

"What is integrated along a step beside the squared speed, divided by the step's size."
function integrate_along!(s::AdaptiveSolve, t::Float64, h::Float64, keep::Bool)
    m, g, integral = s.method, s.integrand, 0.0
    g === nothing && return integral
    for j in 1:n_stages(m)
        m.b[j] == 0 || (integral += m.b[j] * integrand!(g, keep ? j : 1, t + stage_time(m, j) * h, s.inner[j]))
    end
    return integral
end

"Where a step came to."
step_end(s::AdaptiveSolve) = s.inner[end]

"The slopes whose squares are integrated for the kinetic energy, and their weights."
speeds(s::AdaptiveSolve) = s.slopes, s.method.b

"""
    step_norms(s)

Of a step that was taken, as root mean squares: its error relative to the tolerance, and how far its last two stages are apart, states
and slopes; and the mean square of the derivative along it, 0 where that does not count.
"""
function step_norms(s::HostSolve)
    speed = 0.0
    if s.kinetic != 0
        for (slope, weight) in zip(speeds(s)...)
            weight == 0 || (speed += weight * root_mean_square(slope)^2)
        end
    end
    return root_mean_square(s.relative), distances(s)..., speed
end

"How far the last two stages of a step are apart: states and slopes, as root mean squares."
distances(s::HostSolve) =
    root_mean_square_apart(s.inner[end], s.inner[end - 1]), root_mean_square_apart(s.slopes[end], s.slopes[end - 1])

"A guess of the first step size (Hairer, Nørsett & Wanner, *Solving ODEs I*, II.4)."
function first_step(s::AdaptiveSolve)
    y, k = s.inner[1], s.slopes[1]
    @. s.work = s.atol + s.rtol * abs(y)
    @. s.relative = y / s.work
    size = root_mean_square(s.relative)
    @. s.relative = k / s.work
    speed = root_mean_square(s.relative)
    small = size < 1e-5 || speed < 1e-5
    trial = small ? 1e-6 : 0.01 * size / speed
    h = min(trial, s.t1 - s.t0)
    weighted_sum!(s.inner[2], y, h, (1.0,), (k,))
    slope!(s.slopes[2], s.field, 2, s.t0 + h, s.inner[2])
    @. s.relative = (s.slopes[2] - k) / s.work
    apart = root_mean_square(s.relative)
    bend = apart / h
    largest = max(speed, bend)
    flat = largest <= 1e-15
    better = flat ? max(1e-6, h * 1e-3) : (0.01 / largest)^(1 / (s.method.order + 1))
    return min(100 * h, better), (; size, speed, small, trial, h, apart, bend, largest, flat, better)
end

"By what the step size changes after an error."
function step_factor(s::AdaptiveSolve, error::Float64)
    isfinite(error) || return SMALLEST_FACTOR
    wanted = error > 1e-12 ? SAFETY * error^(-1 / s.method.order) : LARGEST_FACTOR
    return clamp(wanted, SMALLEST_FACTOR, LARGEST_FACTOR)
end

"The step to the end, where one of length `h` would leave less than a sliver."
used_step(t::Float64, h::Float64, t1::Float64) = t + 1.000001 * h >= t1 ? t1 - t : h

"""
    solve!(ys, s, p, y0, start, length, t0, t1, times; dt = nothing)

Solve from `t0` to `t1 > t0`, and write the solution at the ascending `times` to `ys`, of shape `(rows, n_states, n_times)`. What
else there is to know is in `s`: `success`, `count` records in `record`, `n_rhs`, `integral`, and the end in `final_state(s)`.
"""
function solve!(
        ys::AbstractArray{<:Real, 3}, s::AdaptiveSolve, p::AbstractVector, y0::AbstractMatrix, start::AbstractVector,
        length::AbstractVector, t0::Float64, t1::Float64, times::AbstractVector; dt::Union{Nothing, Float64} = nothing,
    )
    prepare!(s.field, p, start, length)
    g = s.integrand
    g === nothing || prepare!(g, p, start, length)
    s.t0, s.t1, s.guessed = t0, t1, dt === nothing
    resize!(s.times, Base.length(times))
    copyto!(s.times, times)
    copyto!(s.y0, y0)
    copyto!(s.inner[1], y0)
    slope!(s.slopes[1], s.field, 1, t0, s.inner[1])
    h = dt === nothing ? first(first_step(s)) : dt
    n_times, order = Base.length(times), n_stages(s.method)
    saved = 0
    while saved < n_times && times[saved + 1] <= t0
        saved += 1
        copyto!(view(ys, :, :, saved), y0)
    end
    t = t0
    s.count = s.n_steps = s.n_rejected = 0
    s.integral = 0.0
    failed = false
    while t < t1 && s.count < s.max_steps && !failed
        used = used_step(t, h, t1)
        error, stiffness, integral = take_step!(s, t, used, false)
        is_finite(s, error) || (error = Inf)
        keep = error <= 1
        (keep || s.through_steps) && write!(s, t, h, saved, keep, error, stiffness, used)
        factor = step_factor(s, error)
        shrunk = (keep ? factor : min(factor, 1.0)) * used
        if keep
            reached = t + used >= t1 ? t1 : t + used
            while saved < n_times && times[saved + 1] <= reached
                saved += 1
                within!(s, t, used, times[saved])
                copyto!(view(ys, :, :, saved), s.work)
            end
            # A step cut short by the end says nothing about the next one.
            h = used < h ? max(shrunk, h) : shrunk
            t = reached
            s.n_steps += 1
            s.integral += integral
            copyto!(s.inner[1], s.inner[order])
            copyto!(s.slopes[1], s.slopes[order])
        else
            s.n_rejected += 1
            h = shrunk
            failed = !(shrunk > 8 * eps() * max(abs(t), 1e-3 * (t1 - t0)))
        end
    end
    s.n_rhs = 1 + s.guessed + (order - 1) * (s.n_steps + s.n_rejected)
    s.success = t >= t1 && all_finite(s.inner[1])
    return s
end

"Whether what a step came to is finite: its error and its end."
is_finite(s::HostSolve, error::Float64) = isfinite(error) && all_finite(step_end(s))

"The state a solve reached."
final_state(s::AdaptiveSolve) = s.inner[1]

function write!(s::AdaptiveSolve, t, h, saved, keep, error, stiffness, used)
    r = s.record
    k = s.count += 1
    if k > length(r.t)
        for values in (r.t, r.h, r.error, r.stiffness, r.taken)
            push!(values, 0.0)
        end
        push!(r.saved, 0)
        push!(r.kept, false)
        push!(r.y, similar(s.y0))
        push!(r.slope, similar(s.y0))
        s.dense && push!(r.slopes, [similar(s.y0) for _ in s.slopes])
    end
    r.t[k], r.h[k], r.saved[k], r.kept[k] = t, h, saved, keep
    r.error[k], r.stiffness[k], r.taken[k] = keep ? (error, stiffness, used) : (0.0, 0.0, 0.0)
    copyto!(r.y[k], s.inner[1])
    copyto!(r.slope[k], s.slopes[1])
    s.dense && foreach(copyto!, r.slopes[k], s.slopes)
    return nothing
end

"The solution at a time within the step from `t`, in `s.work`."
function within!(s::AdaptiveSolve, t::Float64, h::Float64, time::Float64)
    interpolate!(s.weights, s.method, (time - t) / h)
    return weighted_sum!(s.work, s.inner[1], h, s.weights, s.slopes)
end

"""
    solution_at!(out, s, t)

The solution of the last `solve!`, which was `dense`, at any time of its span.
"""
function solution_at!(out::AbstractArray, s::AdaptiveSolve, t::Float64)
    r = s.record
    i = clamp(searchsortedlast(view(r.t, 1:s.count), t), 1, s.count)
    h = r.taken[i]
    interpolate!(s.weights, s.method, (t - r.t[i]) / h)
    return copyto!(out, weighted_sum!(s.work, r.y[i], h, s.weights, r.slopes[i]))
end
