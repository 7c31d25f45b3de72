# The discrete adjoint of an adaptive stochastic solve, along the steps and the noise that were taken.

"""
    pull_step!(s, h, error, stiffness, error_bar, stiffness_bar, integral_bar)

Go back through the step whose stages were just taken with values kept, and what is integrated along it where `integral_bar` is not
zero, from the adjoint `s.new_bar`; that of the step's beginning is then in `s.inner_bars[1]`.
"""
function pull_step!(
        s::NoisySolve, h::Float64, error::Float64, stiffness::Float64, error_bar::Float64, stiffness_bar::Float64,
        integral_bar::Float64,
    )
    m, y_bar, z_bars, also_bars, f_bars, g_bars = SOSRI, s.inner_bars[1], s.inner_bars, s.also_bars, s.slope_bars, s.noise_bars
    n, new_bar, noise_bar = length(s.new), s.new_bar, s.work
    for bars in (z_bars, also_bars, f_bars, g_bars), bar in bars
        fill!(bar, 0.0)
    end
    fill!(noise_bar, 0.0)
    if error_bar != 0 && error > 0
        pull_scaled!(noise_bar, y_bar, new_bar, error_bar / (n * error), s.relative, s.inner[1], s.new, s.rtol, s.atol)
        for j in 1:NOISY_STAGES
            add!(f_bars[j], h * m.δ * m.smooth[j], noise_bar)
        end
    end
    add!(noise_bar, 1.0, new_bar)
    add!(y_bar, 1.0, new_bar)
    for j in 1:NOISY_STAGES
        add!(f_bars[j], h * m.α[j], new_bar)
        add_products!(g_bars[j], new_bar, (m.β1[j], m.β2[j]), (s.dw, s.chi1))
        add_products!(g_bars[j], noise_bar, (m.β3[j], m.β4[j]), (s.chi2, s.chi3))
    end
    stiffness_bar == 0 || pull_stiffness!(s, m.stability, stiffness, stiffness_bar)
    integral_bar == 0 || s.kinetic == 0 || add!(f_bars[1], integral_bar * h * s.kinetic * 2 / n, s.slopes[1])
    integral_bar == 0 || s.integrand === nothing || pull_integrand!(y_bar, s.integrand, 1, integral_bar * h)
    for i in NOISY_STAGES:-1:1
        if i < NOISY_STAGES
            later = (i + 1):NOISY_STAGES # the stages that this one leads to
            add_combination!(f_bars[i], h, view(m.A0, later, i), view(z_bars, later))
            add_combination!(f_bars[i], h, view(m.A1, later, i), view(also_bars, later))
            add_combination!(g_bars[i], sqrt(h), view(m.B1, later, i), view(also_bars, later))
            add_products!(g_bars[i], s.chi2, view(m.B0, later, i), view(z_bars, later))
        end
        pull_slope!(z_bars[i], s.drift, i, f_bars[i])
        pull_slope!(also_bars[i], s.diffusion, i, g_bars[i])
    end
    add_sum!(y_bar, view(z_bars, 2:NOISY_STAGES))
    add_sum!(y_bar, also_bars)
    return nothing
end

"""
    pull!(y0_bar, s, ys_bar, y1_bar, error_bar, stiffness_bar, integral_bar)

From derivatives by the results of the last `solve!` to those by the initial state; those by parameters wait for
`parameter_bars!`.
"""
function pull!(
        y0_bar::AbstractMatrix, s::NoisySolve, ys_bar::AbstractArray{<:Real, 3}, y1_bar::AbstractMatrix,
        error_bar::AbstractVector, stiffness_bar::AbstractVector, integral_bar::Float64,
    )
    r, g = s.record, s.integrand
    clear!(s.drift)
    clear!(s.diffusion)
    g === nothing || clear!(g.field)
    copyto!(s.new_bar, y1_bar)
    for i in s.count:-1:1
        if r.saves[i] > 0
            copyto!(s.work, view(ys_bar, :, :, r.saves[i]))
            add!(s.new_bar, 1.0, s.work)
        end
        copyto!(s.inner[1], r.y[i])
        copyto!(s.dw, r.dw[i])
        copyto!(s.dz, r.dz[i])
        take_stages!(s, r.t[i], r.h[i], true)
        g === nothing || integrand!(g, 1, r.t[i], s.inner[1])
        pull_step!(s, r.h[i], r.error[i], r.stiffness[i], error_bar[i], stiffness_bar[i], integral_bar)
        copyto!(s.new_bar, s.inner_bars[1])
    end
    for j in 1:s.at_start
        copyto!(s.work, view(ys_bar, :, :, j))
        add!(s.new_bar, 1.0, s.work)
    end
    copyto!(y0_bar, s.new_bar)
    return nothing
end

function parameter_bars!(p_bar::AbstractVector, s::NoisySolve)
    parameter_bars!(p_bar, s.drift)
    s.integrand === nothing || parameter_bars!(p_bar, s.integrand.field)
    return parameter_bars!(p_bar, s.diffusion)
end

"""
    local_estimate!(s, uniform, where, y1, draw, error_bar, stiffness_bar)

As for an [`AdaptiveSolve`](@ref), with new noise: `draw`, of shape `(rows, n_states, 2)`, are normal random numbers. `y1` is where
the solve ended; between the steps the state is interpolated.
"""
function local_estimate!(
        s::NoisySolve, uniform::Bool, where::Float64, y1::AbstractMatrix, draw::AbstractArray{<:Real, 3}, error_bar::Float64,
        stiffness_bar::Float64,
    )
    r, T = s.record, eltype(s.y0)
    i, time = 1, where
    if uniform
        for k in 1:s.count
            r.t[k] <= time && (i = k)
        end
        after = i < s.count ? r.y[i + 1] : y1
        part = T((time - r.t[i]) / (r.h[i] > 0 ? r.h[i] : 1.0))
        @. s.inner[1] = r.y[i] + part * (after - r.y[i])
    else
        i = Int(where) + 1
        time = r.t[i]
        copyto!(s.inner[1], r.y[i])
    end
    size = max(min(r.h[i], s.t1 - time), 1e-3 * (s.t1 - s.t0))
    s.dw .= T(sqrt(size)) .* view(draw, :, :, 1)
    s.dz .= T(sqrt(size)) .* view(draw, :, :, 2)
    error, stiffness, _ = take_step!(s, time, size, true)
    error_bar == stiffness_bar == 0 && return error * size, stiffness
    fill!(s.new_bar, 0.0)
    pull_step!(s, size, error, stiffness, error_bar * size, stiffness_bar, 0.0)
    return error * size, stiffness
end
