# An adaptive stochastic solve of a batch, for diagonal noise, that keeps its estimates, and its discrete adjoint.

"""
SOSRI, of strong order 3/2 (Rackauckas & Nie, *Stability-optimized high order methods and stiffness detection for pathwise stiff
SDEs*, IEEE HPEC 2020, table 1), of Rößler's class (SIAM J. Numer. Anal. 48, 2010).
"""
const SOSRI = (
    A0 = [
        0.0 0.0 0.0
        -0.04199224421316468 0.0 0.0
        2.842612915017106 -2.0527723684000727 0.0
        4.338237071435815 -2.8895936137439793 2.3017575594644466
    ],
    A1 = [
        0.0 0.0 0.0
        0.26204282091330466 0.0 0.0
        0.20903646383505375 -0.1502377115150361 0.0
        0.05836595312746999 0.6149440396332373 0.08535117634046772
    ],
    B0 = [
        0.0 0.0 0.0
        -0.21641093549612528 0.0 0.0
        1.5336352863679572 0.26066223492647056 0.0
        -1.0536037558179159 1.7015284721089472 -0.20725685784180017
    ],
    B1 = [
        0.0 0.0 0.0
        -0.5119011827621657 0.0 0.0
        2.67767339866713 -4.9395031322250995 0.0
        0.15580956238299215 3.2361551006624674 -1.4223118283355949
    ],
    α = [1.140099274172029, -0.6401334255743456, 0.4736296532772559, 0.026404498125060714],
    c0 = [0.0, -0.04199224421316468, 0.7898405466170333, 3.7504010171562823],
    c1 = [0.0, 0.26204282091330466, 0.05879875232001766, 0.758661169101175],
    β1 = [-1.8453464565104432, 2.688764531100726, -0.2523866501071323, 0.40896857551684956],
    β2 = [0.4969658141589478, -0.5771202869753592, -0.12919702470322217, 0.2093514975196336],
    β3 = [2.8453464565104425, -2.688764531100725, 0.2523866501071322, -0.40896857551684945],
    β4 = [0.11522663875443433, -0.57877086147738, 0.2857851028163886, 0.17775911990655704],
    # Of the error of a step without noise: it alternates, so that a constant drift has none; and how much it counts.
    smooth = [1.0, -1.0, 1.0, -1.0],
    δ = 1 / 6,
    # The size of the stability region (that of SOSRI2, in SciML).
    stability = 10.6,
    order = 1.5,
)

"Evaluations of drift, and of diffusion, in a step."
const NOISY_STAGES = 4
"Increments that can wait; each rejection in a row adds one."
const WAITING = 24

"Every accepted step: where it began, its noise, and what came of it; `saves` is the output it ends at, or 0."
struct NoisyRecord
    t::Vector{Float64}
    h::Vector{Float64}
    saves::Vector{Int}
    y::Vector{Matrix{Float64}}
    dw::Vector{Matrix{Float64}}
    dz::Vector{Matrix{Float64}}
    error::Vector{Float64}
    stiffness::Vector{Float64}
end

NoisyRecord() =
    NoisyRecord(Float64[], Float64[], Int[], Matrix{Float64}[], Matrix{Float64}[], Matrix{Float64}[], Float64[], Float64[])

"""
    NoisySolve(drift, diffusion, targets, rows, rtol, atol, max_steps; kinetic = 0.0)

A solve of `rows` paths, which are one state with one step size, and buffers for it. Output `k` of the tape `diffusion` is what the
Brownian motion of state `targets[k]` is multiplied by. A rejected step does not throw its increment away: it is split by a
Brownian bridge, and the rest waits (Rackauckas & Nie, *Adaptive methods for SDEs via natural embeddings and rejection sampling
with memory*, DCDS-B 22, 2017). See [`AdaptiveSolve`](@ref) for the rest; the derivative is that of the steps that were taken.
"""
mutable struct NoisySolve{F, G}
    drift::F
    diffusion::G
    rtol::Float64
    atol::Float64
    max_steps::Int
    kinetic::Float64
    inner::Vector{Matrix{Float64}}
    slopes::Vector{Matrix{Float64}}
    noises::Vector{Matrix{Float64}}
    also::Matrix{Float64}
    new::Matrix{Float64}
    noise::Matrix{Float64}
    relative::Matrix{Float64}
    dw::Matrix{Float64}
    dz::Matrix{Float64}
    chi1::Matrix{Float64}
    chi2::Matrix{Float64}
    chi3::Matrix{Float64}
    inner_bars::Vector{Matrix{Float64}}
    slope_bars::Vector{Matrix{Float64}}
    noise_bars::Vector{Matrix{Float64}}
    new_bar::Matrix{Float64}
    work::Matrix{Float64}
    y_bar::Matrix{Float64}
    y0::Matrix{Float64}
    lengths::Vector{Float64}
    stack::Vector{NTuple{2, Matrix{Float64}}}
    n_times::Int
    at_start::Int
    record::NoisyRecord
    t0::Float64
    t1::Float64
    count::Int
    attempts::Int
    integral::Float64
    success::Bool
    "Whether there were too few random numbers to go on."
    wants_draws::Bool
end

function NoisySolve(
        drift::Tape, diffusion::Tape, targets::AbstractVector{Int}, rows::Integer, rtol, atol, max_steps; kinetic = 0.0,
        threaded = nothing,
    )
    drift.n_states == diffusion.n_states && drift.n_params == diffusion.n_params && allunique(targets) &&
        all(in(1:drift.n_states), targets) || throw(ArgumentError("drift and diffusion do not fit each other"))
    return NoisySolve(
        BatchField(drift, rows, 1:drift.n_states, NOISY_STAGES; threaded),
        BatchField(diffusion, rows, targets, NOISY_STAGES; threaded), (rows, drift.n_states), rtol, atol, max_steps; kinetic,
    )
end

"""
    NoisySolve(drift, diffusion, shape, rtol, atol, max_steps; kinetic = 0.0)

A solve of states of that shape with any two fields; see [`AdaptiveSolve`](@ref).
"""
function NoisySolve(drift, diffusion, shape::NTuple{2, Int}, rtol, atol, max_steps; kinetic = 0.0)
    one() = zeros(shape)
    many() = [one() for _ in 1:NOISY_STAGES]
    return NoisySolve(
        drift, diffusion, rtol, atol, max_steps, kinetic, many(), many(), many(), one(), one(), one(), one(), one(), one(), one(),
        one(), one(), many(), many(), many(), one(), one(), one(), one(), zeros(WAITING), [(one(), one()) for _ in 1:WAITING], 0, 0,
        NoisyRecord(), 0.0, 1.0, 0, 0, 0.0, false, false,
    )
end

"`out += sum(weights .* values)`, of the first `count`"
function add_combination!(
        out::Matrix{Float64}, factor::Float64, weights::AbstractVector{Float64}, values::Vector{Matrix{Float64}}, count::Int,
    )
    for j in 1:count
        weights[j] == 0 || add!(out, factor * weights[j], values[j])
    end
    return out
end

"`out += weight * factors .* x`"
function add_product!(out::Matrix{Float64}, weight::Float64, factors::Matrix{Float64}, x::Matrix{Float64})
    @inbounds @simd ivdep for k in eachindex(out, factors, x)
        out[k] += weight * factors[k] * x[k]
    end
    return out
end

"""
    take_step!(s, t, h, keep)

One step from `s.inner[1]` with the increments `s.dw` and `s.dz` to `s.new`. Returns the error relative to the tolerance, the
stiffness estimate and the integral.
"""
function take_step!(s::NoisySolve, t::Float64, h::Float64, keep::Bool)
    y, f, g, m = s.inner[1], s.slopes, s.noises, SOSRI
    root = sqrt(h)
    @inbounds @simd ivdep for k in eachindex(y)
        w = s.dw[k]
        s.chi1[k] = (w^2 - h) / (2 * root)
        s.chi2[k] = 0.5 * (w + s.dz[k] / sqrt(3.0))
        s.chi3[k] = (w^3 - 3 * w * h) / (6 * h)
    end
    slope!(f[1], s.drift, 1, t, y)
    slope!(g[1], s.diffusion, 1, t, y)
    for i in 2:NOISY_STAGES
        at = copyto!(s.inner[i], y)
        add_combination!(at, h, view(m.A0, i, :), f, i - 1)
        also = copyto!(s.also, y)
        add_combination!(also, h, view(m.A1, i, :), f, i - 1)
        add_combination!(also, root, view(m.B1, i, :), g, i - 1)
        for j in 1:(i - 1)
            add_product!(at, m.B0[i, j], s.chi2, g[j])
        end
        stage = keep ? i : 1
        slope!(f[i], s.drift, stage, t + m.c0[i] * h, at)
        slope!(g[i], s.diffusion, stage, t + m.c1[i] * h, also)
    end
    fill!(s.noise, 0.0)
    for j in 1:NOISY_STAGES
        add_product!(s.noise, m.β3[j], s.chi2, g[j])
        add_product!(s.noise, m.β4[j], s.chi3, g[j])
    end
    new = copyto!(s.new, y)
    add_combination!(new, h, m.α, f, NOISY_STAGES)
    add!(new, 1.0, s.noise)
    for j in 1:NOISY_STAGES
        add_product!(new, m.β1[j], s.dw, g[j])
        add_product!(new, m.β2[j], s.chi1, g[j])
    end
    fill!(s.relative, 0.0)
    add_combination!(s.relative, h * m.δ, m.smooth, f, NOISY_STAGES)
    @inbounds @simd ivdep for k in eachindex(y)
        s.relative[k] = (s.relative[k] + s.noise[k]) / (s.atol + s.rtol * max(abs(y[k]), abs(new[k])))
    end
    apart, spread = root_mean_square_apart(s.inner[4], s.inner[3]), root_mean_square_apart(f[4], f[3])
    integral = s.kinetic == 0 ? 0.0 : h * s.kinetic * root_mean_square(f[1])^2
    return root_mean_square(s.relative), ratio(spread, apart) / m.stability, integral
end

"""
    solve!(ys, s, p, y0, t0, t1, times, draws; dt = 0.1 * (t1 - t0))

Solve from `t0` to `t1 > t0`; steps end at the ascending `times`, where the solution is written to `ys`. `draws`, of shape
`(rows, n_states, 2, n)`, are independent normal random numbers, a pair of matrices for each attempted step; if there are too few,
`s.wants_draws` says so.
"""
function solve!(
        ys::AbstractArray{Float64, 3}, s::NoisySolve, p::AbstractVector, y0::AbstractMatrix, t0::Float64, t1::Float64,
        times::AbstractVector, draws::AbstractArray{Float64, 4}; dt::Float64 = 0.1 * (t1 - t0),
    )
    prepare!(s.drift, p)
    prepare!(s.diffusion, p)
    foreach(noise -> fill!(noise, 0.0), s.noises)
    s.t0, s.t1, s.n_times = t0, t1, length(times)
    copyto!(s.y0, y0)
    copyto!(s.inner[1], y0)
    saved = 0
    while saved < s.n_times && times[saved + 1] <= t0
        saved += 1
        copyto!(view(ys, :, :, saved), y0)
    end
    s.at_start = saved
    s.count = s.attempts = waiting = 0
    s.integral = 0.0
    s.wants_draws = failed = false
    t, wanted = t0, dt
    while t < t1 && s.count < s.max_steps && !failed
        s.wants_draws = s.attempts >= size(draws, 4)
        s.wants_draws && break
        due = saved < s.n_times ? times[saved + 1] : t1
        stop = min(due, t1)
        asked = t + 1.0001 * wanted >= stop ? stop - t : wanted
        h, waiting = take_increment!(s, asked, waiting, draws)
        error, stiffness, integral = take_step!(s, t, h, false)
        finite = isfinite(error) && all_finite(s.new)
        finite || (error = Inf)
        keep = error <= 1
        factor = !finite ? 0.2 : error > 1e-12 ? SAFETY * error^(-1 / SOSRI.order) : 5.0
        factor = clamp(factor, 0.2, keep ? 5.0 : 0.9)
        following = factor * h
        if keep
            reached = h >= stop - t - 1e-6 * (t1 - t0) ? stop : t + h
            hit = saved < s.n_times && reached >= due
            saved += hit
            write!(s, t, h, hit ? saved : 0, error, stiffness)
            hit && copyto!(view(ys, :, :, saved), s.new)
            t = reached
            s.integral += integral
            copyto!(s.inner[1], s.new)
        else
            waiting += 1
            s.lengths[waiting] = h
            copyto!(s.stack[waiting][1], s.dw)
            copyto!(s.stack[waiting][2], s.dz)
            failed = waiting >= WAITING
        end
        wanted = keep && h < wanted ? max(following, wanted) : following
        s.attempts += 1
    end
    s.success = t >= t1 && all_finite(s.inner[1])
    return s
end

final_state(s::NoisySolve) = s.inner[1]

"The increments of the next step, in `s.dw` and `s.dz`: what waits goes first, whole or split. Returns its size, and what waits."
function take_increment!(s::NoisySolve, asked::Float64, waiting::Int, draws::AbstractArray{Float64, 4})
    pair, number = (s.dw, s.dz), s.attempts + 1
    if waiting == 0
        for (c, increment) in enumerate(pair), k in axes(draws, 2), i in axes(draws, 1)
            increment[i, k] = sqrt(asked) * draws[i, k, c, number]
        end
        return asked, 0
    end
    whole, pieces = s.lengths[waiting], s.stack[waiting]
    if asked >= whole * 0.9999
        copyto!(s.dw, pieces[1])
        copyto!(s.dz, pieces[2])
        return whole, waiting - 1
    end
    q = asked / whole
    spread = sqrt(max(q * (1 - q) * whole, 0.0))
    for c in 1:2
        increment, piece = pair[c], pieces[c]
        for k in axes(draws, 2), i in axes(draws, 1)
            increment[i, k] = q * piece[i, k] + spread * draws[i, k, c, number]
            piece[i, k] -= increment[i, k]
        end
    end
    s.lengths[waiting] = whole - asked
    return asked, waiting
end

function write!(s::NoisySolve, t, h, saves, error, stiffness)
    r = s.record
    k = s.count += 1
    if k > length(r.t)
        for values in (r.t, r.h, r.error, r.stiffness)
            push!(values, 0.0)
        end
        push!(r.saves, 0)
        for values in (r.y, r.dw, r.dz)
            push!(values, similar(s.y0))
        end
    end
    r.t[k], r.h[k], r.saves[k], r.error[k], r.stiffness[k] = t, h, saves, error, stiffness
    copyto!(r.y[k], s.inner[1])
    copyto!(r.dw[k], s.dw)
    copyto!(r.dz[k], s.dz)
    return nothing
end

"""
    pull_step!(s, h, error, stiffness, error_bar, stiffness_bar, integral_bar)

Go back through the step that `take_step!` has just taken with values kept, from the adjoint `s.new_bar`; that of the step's beginning
is then in `s.inner_bars[1]`.
"""
function pull_step!(
        s::NoisySolve, h::Float64, error::Float64, stiffness::Float64, error_bar::Float64, stiffness_bar::Float64,
        integral_bar::Float64,
    )
    m, y, new, f, g, n = SOSRI, s.inner[1], s.new, s.slopes, s.noises, length(s.new)
    y_bar, z_bars, f_bars, g_bars, new_bar, noise_bar = s.inner_bars[1], s.inner_bars, s.slope_bars, s.noise_bars, s.new_bar, s.work
    for bars in (z_bars, f_bars, g_bars), bar in bars
        fill!(bar, 0.0)
    end
    fill!(noise_bar, 0.0)
    if error_bar != 0 && error > 0
        factor = error_bar / (n * error)
        pull_scaled!(noise_bar, y_bar, new_bar, factor, s.relative, y, new, s.rtol, s.atol)
        for j in 1:NOISY_STAGES
            add!(f_bars[j], h * m.δ * m.smooth[j], noise_bar)
        end
    end
    add!(noise_bar, 1.0, new_bar)
    add!(y_bar, 1.0, new_bar)
    for j in 1:NOISY_STAGES
        add!(f_bars[j], h * m.α[j], new_bar)
        add_product!(g_bars[j], m.β1[j], s.dw, new_bar)
        add_product!(g_bars[j], m.β2[j], s.chi1, new_bar)
        add_product!(g_bars[j], m.β3[j], s.chi2, noise_bar)
        add_product!(g_bars[j], m.β4[j], s.chi3, noise_bar)
    end
    if stiffness_bar != 0
        apart, spread = root_mean_square_apart(s.inner[4], s.inner[3]), root_mean_square_apart(f[4], f[3])
        add_difference!(f_bars[4], f_bars[3], ratio(ratio(stiffness_bar / m.stability, apart), n * spread), f[4], f[3])
        add_difference!(z_bars[4], z_bars[3], -ratio(stiffness_bar * stiffness, n * apart^2), s.inner[4], s.inner[3])
    end
    integral_bar == 0 || s.kinetic == 0 || add!(f_bars[1], integral_bar * h * s.kinetic * 2 / n, f[1])
    also_bar, root = s.also, sqrt(h)
    for i in NOISY_STAGES:-1:2
        fill!(also_bar, 0.0)
        pull_slope!(also_bar, s.diffusion, i, g_bars[i])
        pull_slope!(z_bars[i], s.drift, i, f_bars[i])
        add!(y_bar, 1.0, also_bar)
        add!(y_bar, 1.0, z_bars[i])
        for j in 1:(i - 1)
            add!(f_bars[j], h * m.A1[i, j], also_bar)
            add!(f_bars[j], h * m.A0[i, j], z_bars[i])
            add!(g_bars[j], root * m.B1[i, j], also_bar)
            add_product!(g_bars[j], m.B0[i, j], s.chi2, z_bars[i])
        end
    end
    pull_slope!(y_bar, s.drift, 1, f_bars[1])
    pull_slope!(y_bar, s.diffusion, 1, g_bars[1])
    return nothing
end

"""
    pull!(y0_bar, s, ys_bar, y1_bar, error_bar, stiffness_bar, integral_bar)

From derivatives by the results of the last `solve!` to those by the initial state; those by parameters wait for
`parameter_bars!`.
"""
function pull!(
        y0_bar::AbstractMatrix, s::NoisySolve, ys_bar::AbstractArray{Float64, 3}, y1_bar::AbstractMatrix,
        error_bar::AbstractVector, stiffness_bar::AbstractVector, integral_bar::Float64,
    )
    r = s.record
    clear!(s.drift)
    clear!(s.diffusion)
    copyto!(s.new_bar, y1_bar)
    for i in s.count:-1:1
        if r.saves[i] > 0
            copyto!(s.work, view(ys_bar, :, :, r.saves[i]))
            add!(s.new_bar, 1.0, s.work)
        end
        copyto!(s.inner[1], r.y[i])
        copyto!(s.dw, r.dw[i])
        copyto!(s.dz, r.dz[i])
        error, stiffness, _ = take_step!(s, r.t[i], r.h[i], true)
        pull_step!(s, r.h[i], error, stiffness, error_bar[i], stiffness_bar[i], integral_bar)
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
    return parameter_bars!(p_bar, s.diffusion)
end

"""
    local_estimate!(s, uniform, where, y1, draw, error_bar, stiffness_bar)

As for an [`AdaptiveSolve`](@ref), with new noise: `draw`, of shape `(rows, n_states, 2)`, are normal random numbers. `y1` is where
the solve ended; between the steps the state is interpolated.
"""
function local_estimate!(
        s::NoisySolve, uniform::Bool, where::Float64, y1::AbstractMatrix, draw::AbstractArray{Float64, 3}, error_bar::Float64,
        stiffness_bar::Float64,
    )
    r = s.record
    i, time = 1, where
    if uniform
        for k in 1:s.count
            r.t[k] <= time && (i = k)
        end
        after = i < s.count ? r.y[i + 1] : y1
        part = (time - r.t[i]) / (r.h[i] > 0 ? r.h[i] : 1.0)
        @. s.inner[1] = r.y[i] + part * (after - r.y[i])
    else
        i = Int(where) + 1
        time = r.t[i]
        copyto!(s.inner[1], r.y[i])
    end
    size = max(min(r.h[i], s.t1 - time), 1e-3 * (s.t1 - s.t0))
    @. s.dw = sqrt(size) * $view(draw, :, :, 1)
    @. s.dz = sqrt(size) * $view(draw, :, :, 2)
    error, stiffness, _ = take_step!(s, time, size, true)
    fill!(s.new_bar, 0.0)
    pull_step!(s, size, error, stiffness, error_bar * size, stiffness_bar, 0.0)
    return error * size, stiffness
end
