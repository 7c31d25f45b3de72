# The discrete adjoint of an adaptive solve: each step is computed once more from its record, and differentiated.

"""
    pull_step!(s, t, h, error, stiffness, error_bar, stiffness_bar, integral_bar)

Go back through the step that `take_step!` has just taken, with values kept. Adjoints of slopes and inner states are in
`s.slope_bars` and `s.inner_bars`, of which the first ones become those of the step's beginning. Returns the adjoints of `t` and
`h`.
"""
function pull_step!(
        s::AdaptiveSolve, t::Float64, h::Float64, error::Float64, stiffness::Float64, error_bar::Float64, stiffness_bar::Float64,
        integral_bar::Float64,
    )
    m, inner, slopes, last = s.method, s.inner, s.slopes, n_stages(s.method)
    z_bars, k_bars = s.inner_bars, s.slope_bars
    n = length(s.work)
    t_bar = h_bar = 0.0
    if error_bar != 0 && error > 0
        pull_scaled!(s.work, z_bars[1], z_bars[last], error_bar / (n * error), s.relative, inner[1], inner[last], s.rtol, s.atol)
        for j in 1:last
            m.b_error[j] == 0 || add!(k_bars[j], h * m.b_error[j], s.work)
        end
        s.through_steps && (h_bar += inner_product(s.work, s.error) / h)
    end
    stiffness_bar == 0 || pull_stiffness!(s, m.stability, stiffness, stiffness_bar)
    if integral_bar != 0 && s.kinetic != 0
        for j in 1:last
            m.b[j] == 0 && continue
            add!(k_bars[j], integral_bar * h * s.kinetic * m.b[j] * 2 / n, slopes[j])
            s.through_steps && (h_bar += integral_bar * s.kinetic * m.b[j] * root_mean_square(slopes[j])^2)
        end
    end
    g = s.integrand
    if integral_bar != 0 && g !== nothing
        for j in 1:last
            m.b[j] == 0 && continue
            by_time = pull_integrand!(z_bars[j], g, j, integral_bar * h * m.b[j])
            t_bar += by_time
            h_bar += stage_time(m, j) * by_time + integral_bar * m.b[j] * integrand(g, j)
        end
    end
    for i in last:-1:1
        before, later = 1:(i - 1), (i + 1):last # the stages that lead to this one, and that this one leads to
        i == last || add_combination!(k_bars[i], h, view(m.a, later .- 1, i), view(z_bars, later))
        i == 1 && break
        by_time = pull_slope!(z_bars[i], s.field, i, k_bars[i])
        t_bar += by_time
        h_bar += m.c[i - 1] * by_time
        s.through_steps && (h_bar += weighted_product(z_bars[i], view(m.a, i - 1, before), view(slopes, before)))
    end
    add_sum!(z_bars[1], view(z_bars, 2:last))
    return t_bar, h_bar
end

"Add the adjoints of the last two stages, of which a stiffness estimate is made."
function pull_stiffness!(s::BatchSolve, stability::Float64, stiffness::Float64, stiffness_bar::Float64)
    z, k, z_bars, k_bars, n = s.inner, s.slopes, s.inner_bars, s.slope_bars, length(s.work)
    apart, spread = distances(s)
    by_spread = ratio(ratio(stiffness_bar / stability, apart), n * spread)
    by_apart = -ratio(stiffness_bar * stiffness, n * apart^2)
    add_difference!(k_bars[end], k_bars[end - 1], by_spread, k[end], k[end - 1])
    add_difference!(z_bars[end], z_bars[end - 1], by_apart, z[end], z[end - 1])
    return nothing
end

function clear_step!(s::AdaptiveSolve)
    foreach(bar -> fill!(bar, 0.0), s.inner_bars)
    foreach(bar -> fill!(bar, 0.0), s.slope_bars)
    return nothing
end

"""
    pull!(y0_bar, s, ys_bar, y1_bar, error_bar, stiffness_bar, h_bar, integral_bar)

From derivatives by the results of the last `solve!` (the solution at its times, its end, and of every record: error, stiffness
estimate, step size) to those by the initial state; those by parameters wait for `parameter_bars!`.
"""
function pull!(
        y0_bar::AbstractMatrix, s::AdaptiveSolve, ys_bar::AbstractArray{<:Real, 3}, y1_bar::AbstractMatrix,
        error_bar::AbstractVector, stiffness_bar::AbstractVector, h_bar::AbstractVector, integral_bar::Float64,
    )
    r, last = s.record, n_stages(s.method)
    y_bar, slope_bar, z_bars, k_bars = s.y_bar, s.slope_bar, s.inner_bars, s.slope_bars
    clear!(s.field)
    g = s.integrand
    g === nothing || clear!(g.field)
    # What the next attempt passes back: the adjoints of its state, slope, time and size.
    copyto!(y_bar, y1_bar)
    fill!(slope_bar, 0.0)
    next_t = next_h = 0.0
    for i in s.count:-1:1
        t, h, keep = r.t[i], r.h[i], r.kept[i]
        used = used_step(t, h, s.t1)
        copyto!(s.inner[1], r.y[i])
        copyto!(s.slopes[1], r.slope[i])
        error, stiffness = retake_step!(s, i, t, used)
        clear_step!(s)
        own_t, used_bar = pull_saved!(s, i, t, used, ys_bar)
        own_h = by_error = 0.0
        if s.through_steps
            own_h, by_used, by_error = pull_controller(s, keep, h, used, error, next_h)
            own_t += next_t
            used_bar += by_used
        end
        if keep
            used_bar += h_bar[i] + next_t
            add!(z_bars[last], 1.0, y_bar)
            add!(k_bars[last], 1.0, slope_bar)
            by_t, by_h = pull_step!(s, t, used, error, stiffness, by_error + error_bar[i], stiffness_bar[i], integral_bar)
            copyto!(y_bar, z_bars[1])
            copyto!(slope_bar, k_bars[1])
        elseif by_error == 0
            by_t = by_h = 0.0
        else
            by_t, by_h = pull_step!(s, t, used, error, stiffness, by_error, 0.0, 0.0)
            add!(y_bar, 1.0, z_bars[1])
            add!(slope_bar, 1.0, k_bars[1])
        end
        if s.through_steps
            used_bar += by_h
            to_end = t + 1.000001 * h >= s.t1
            next_t = own_t + by_t - (to_end ? used_bar : 0.0)
            next_h = own_h + (to_end ? 0.0 : used_bar)
        end
    end
    copyto!(s.inner[1], s.y0)
    slope!(s.slopes[1], s.field, 1, s.t0, s.inner[1])
    clear_step!(s)
    copyto!(k_bars[1], slope_bar)
    s.through_steps && s.guessed && pull_first_step!(s, next_h)
    pull_slope!(z_bars[1], s.field, 1, k_bars[1])
    add!(y_bar, 1.0, z_bars[1])
    for j in 1:(s.count == 0 ? length(s.times) : r.saved[1]) # at the very start
        copyto!(s.work, view(ys_bar, :, :, j))
        add!(y_bar, 1.0, s.work)
    end
    copyto!(y0_bar, y_bar)
    return nothing
end

"""
Take the step of record `i` once more, with its values kept; returns its error and stiffness, which of a step that was accepted are
in the record: nothing is read from a device.
"""
function retake_step!(s::AdaptiveSolve, i::Int, t::Float64, used::Float64)
    r = s.record
    r.kept[i] || return take_step!(s, t, used, true)[1:2]
    take_stages!(s, t, used, true)
    integrate_along!(s, t, used, true)
    return r.error[i], r.stiffness[i]
end

"What the solution saved within record `i` passes on; returns the adjoints of the step's beginning and size."
function pull_saved!(s::AdaptiveSolve, i::Int, t::Float64, used::Float64, ys_bar::AbstractArray{<:Real, 3})
    r, method = s.record, s.method
    t_bar = used_bar = 0.0
    for j in (r.saved[i] + 1):(i < s.count ? r.saved[i + 1] : length(s.times))
        θ = (s.times[j] - t) / used
        copyto!(s.work, view(ys_bar, :, :, j))
        add!(s.inner_bars[1], 1.0, s.work)
        interpolate!(s.weights, method, θ)
        for q in 1:n_stages(method)
            add!(s.slope_bars[q], used * s.weights[q], s.work)
        end
        s.through_steps || continue
        used_bar += weighted_product(s.work, s.weights, s.slopes)
        interpolate!(s.weights, method, θ, 1)
        by_start = weighted_product(s.work, s.weights, s.slopes)
        t_bar -= by_start
        used_bar -= θ * by_start
    end
    return t_bar, used_bar
end

"From the adjoint of the next size to those of the proposed size, the size that was used, and the error."
function pull_controller(s::AdaptiveSolve, keep::Bool, h::Float64, used::Float64, error::Float64, next_h::Float64)
    factor = step_factor(s, error)
    keep || (factor = min(factor, 1.0))
    shrunk_bar, own_h = next_h, 0.0
    if keep && used < h
        part = factor * used > h ? 1.0 : factor * used == h ? 0.5 : 0.0
        shrunk_bar, own_h = part * next_h, (1 - part) * next_h
    end
    free = SMALLEST_FACTOR < factor < LARGEST_FACTOR && isfinite(error) && error > 1e-12
    by_error = free ? -shrunk_bar * used * factor / (s.method.order * error) : 0.0
    return own_h, shrunk_bar * factor, by_error
end

"""
From the adjoint of the guessed step size to those of the first state and slope, for which `s.inner[1]` and `s.slopes[1]` are
there.
"""
function pull_first_step!(s::AdaptiveSolve, h_bar::Float64)
    _, g = first_step(s)
    T = eltype(s.work)
    y, k, y_bar, k_bar, n = s.inner[1], s.slopes[1], s.inner_bars[1], s.slope_bars[1], length(s.y0)
    part = 100 * g.h < g.better ? 1.0 : 100 * g.h == g.better ? 0.5 : 0.0
    trial_bar, better_bar = 100 * part * h_bar, (1 - part) * h_bar
    speed_bar = bend_bar = 0.0
    if g.flat
        1e-3 * g.h > 1e-6 && (trial_bar += 1e-3 * better_bar)
    else
        largest_bar = -better_bar * g.better / ((s.method.order + 1) * g.largest)
        part = g.speed > g.bend ? 1.0 : g.speed == g.bend ? 0.5 : 0.0
        speed_bar, bend_bar = part * largest_bar, (1 - part) * largest_bar
    end
    trial_bar -= bend_bar * g.bend / g.h
    # The scale is in `s.work`, and how far the slopes are apart, relative to it, in `s.relative`.
    scale, apart, moved_bar, z_bar, rtol = s.work, s.relative, s.slope_bars[2], s.inner_bars[2], T(s.rtol)
    factor = T(ratio(bend_bar / g.h, n * g.apart))
    @. moved_bar = factor * apart / scale
    @. k_bar -= moved_bar
    @. y_bar -= moved_bar * apart * rtol * sign(y)
    trial_bar += pull_slope!(z_bar, s.field, 2, moved_bar)
    add!(y_bar, 1.0, z_bar)
    add!(k_bar, g.h, z_bar)
    trial_bar += inner_product(z_bar, k)
    trial_bar *= g.trial < s.t1 - s.t0 ? 1.0 : g.trial == s.t1 - s.t0 ? 0.5 : 0.0
    size_bar = 0.0
    if !g.small
        size_bar = trial_bar * 0.01 / g.speed
        speed_bar -= trial_bar * 0.01 * g.size / g.speed^2
    end
    by_size, by_speed = T(ratio(size_bar, n * g.size)), T(ratio(speed_bar, n * g.speed))
    @. y_bar += by_size * y / scale^2 - (by_size * (y / scale)^2 + by_speed * (k / scale)^2) / scale * rtol * sign(y)
    @. k_bar += by_speed * k / scale^2
    return nothing
end

"Add to `p_bar` the derivatives by the parameters, after `pull!`."
function parameter_bars!(p_bar::AbstractVector, s::AdaptiveSolve)
    g = s.integrand
    g === nothing || parameter_bars!(p_bar, g.field)
    return parameter_bars!(p_bar, s.field)
end

# -- one step at a random time

"""
    local_estimate!(s, uniform, where, error_bar, stiffness_bar)

The error times the step size, and the stiffness, of one step from the state at a time as given (Pal, Edelman & Rackauckas,
*Locally Regularized Neural Differential Equations*, ICML 2023). `where` is that time if `uniform`, else the zero-based record
where the step begins; its size is what the solver tried there. The state is not differentiated; what the adjoints of the two
results come to is added to those of the parameters, so `pull!` goes first.
"""
function local_estimate!(s::AdaptiveSolve, uniform::Bool, where::Float64, error_bar::Float64, stiffness_bar::Float64)
    r = s.record
    i, time = 1, where
    if uniform
        for k in 1:s.count
            r.kept[k] && r.t[k] <= time && (i = k)
        end
    else
        i = Int(where) + 1
        time = r.t[i]
    end
    copyto!(s.inner[1], r.y[i])
    if uniform # the step that contains the time, cut off there, leads to the state
        copyto!(s.slopes[1], r.slope[i])
        take_step!(s, r.t[i], max(time - r.t[i], 0.0), false)
        copyto!(s.inner[1], s.inner[end])
    end
    size = min(r.h[i], s.t1 - time)
    slope!(s.slopes[1], s.field, 1, time, s.inner[1])
    error, stiffness, _ = take_step!(s, time, size, true)
    error_bar == stiffness_bar == 0 && return error * size, stiffness
    clear_step!(s)
    pull_step!(s, time, size, error, stiffness, error_bar * size, stiffness_bar, 0.0)
    pull_slope!(s.inner_bars[1], s.field, 1, s.slope_bars[1])
    return error * size, stiffness
end
