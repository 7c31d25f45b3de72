# An adaptive stochastic solve of a batch, for diagonal noise, that keeps its estimates; noisy_adjoint.jl goes back through it.

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
struct NoisyRecord{M}
    t::Vector{Float64}
    h::Vector{Float64}
    saves::Vector{Int}
    y::Vector{M}
    dw::Vector{M}
    dz::Vector{M}
    error::Vector{Float64}
    stiffness::Vector{Float64}
end

NoisyRecord{M}() where {M} = NoisyRecord{M}(Float64[], Float64[], Int[], M[], M[], M[], Float64[], Float64[])

"""
    NoisySolve(drift, diffusion, targets, rows, rtol, atol, max_steps; kinetic = 0.0, integrand = nothing)

A solve of `rows` paths, which are one state with one step size, and buffers for it. Output `k` of the tape `diffusion` is what the
Brownian motion of state `targets[k]` is multiplied by. A rejected step does not throw its increment away: it is split by a
Brownian bridge, and the rest waits (Rackauckas & Nie, *Adaptive methods for SDEs via natural embeddings and rejection sampling
with memory*, DCDS-B 22, 2017). See [`AdaptiveSolve`](@ref) for the rest; the derivative is that of the steps that were taken.
"""
mutable struct NoisySolve{F, G, I, M} <: BatchSolve{M}
    drift::F
    diffusion::G
    rtol::Float64
    atol::Float64
    max_steps::Int
    kinetic::Float64
    integrand::I
    # One step: where drift and diffusion are evaluated, what they are there, the part of the error that is noise, the error relative
    # to the tolerance, the step's end, and its increments with what follows from them.
    inner::Vector{M}
    also::M
    slopes::Vector{M}
    noises::Vector{M}
    noise::M
    relative::M
    new::M
    dw::M
    dz::M
    chi1::M
    chi2::M
    chi3::M
    inner_bars::Vector{M}
    also_bars::Vector{M}
    slope_bars::Vector{M}
    noise_bars::Vector{M}
    new_bar::M
    work::M
    y0::M
    lengths::Vector{Float64}
    stack::Vector{NTuple{2, M}}
    n_times::Int
    at_start::Int
    record::NoisyRecord{M}
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
        threaded = nothing, integrand = nothing,
    )
    check_pair(drift, diffusion, targets)
    return NoisySolve(
        BatchField(drift, rows, 1:drift.n_states, NOISY_STAGES; threaded),
        BatchField(diffusion, rows, targets, NOISY_STAGES; threaded), (rows, drift.n_states), rtol, atol, max_steps; kinetic,
        integrand = integrand === nothing ? nothing : Integrand(integrand, rows, drift.n_states, 1),
    )
end

check_pair(drift::Tape, diffusion::Tape, targets) =
    drift.n_states == diffusion.n_states && drift.n_params == diffusion.n_params && allunique(targets) &&
    all(in(1:drift.n_states), targets) || throw(ArgumentError("drift and diffusion do not fit each other"))

"""
    NoisySolve(drift, diffusion, shape, rtol, atol, max_steps; kinetic = 0.0, integrand = nothing)

A solve of states of that shape with any two fields, and any integrand; see [`AdaptiveSolve`](@ref).
"""
function NoisySolve(
        drift::F, diffusion::G, shape::NTuple{2, Int}, rtol, atol, max_steps; kinetic = 0.0, integrand::I = nothing,
    ) where {F, G, I}
    one() = blank(drift, shape)
    many() = [one() for _ in 1:NOISY_STAGES]
    M = typeof(one())
    return NoisySolve{F, G, I, M}(
        drift, diffusion, rtol, atol, max_steps, kinetic, integrand, many(), one(), many(), many(), one(), one(), one(), one(), one(), one(),
        one(), one(), many(), many(), many(), many(), one(), one(), one(), zeros(WAITING), [(one(), one()) for _ in 1:WAITING], 0, 0,
        NoisyRecord{M}(), 0.0, 1.0, 0, 0, 0.0, false, false,
    )
end

"""
    take_step!(s, t, h, keep)

One step from `s.inner[1]` with the increments `s.dw` and `s.dz` to `s.new`. Returns the error relative to the tolerance, the
stiffness estimate and the integral.
"""
function take_step!(s::NoisySolve, t::Float64, h::Float64, keep::Bool)
    take_stages!(s, t, h, keep)
    error, apart, spread, speed = step_norms(s)
    g, along = s.integrand, s.kinetic * speed
    g === nothing || (along += integrand!(g, 1, t, s.inner[1]))
    return error, ratio(spread, apart) / SOSRI.stability, h * along
end

"All stages of a step, where it comes to, and its error."
function take_stages!(s::NoisySolve, t::Float64, h::Float64, keep::Bool)
    y, f, g, m = s.inner[1], s.slopes, s.noises, SOSRI
    integrate_noise!(s, h)
    slope!(f[1], s.drift, 1, t, y)
    slope!(g[1], s.diffusion, 1, t, y)
    for i in 2:NOISY_STAGES
        before = 1:(i - 1)
        at = weighted_sum!(s.inner[i], y, h, view(m.A0, i, before), view(f, before))
        add_products!(at, s.chi2, view(m.B0, i, before), view(g, before))
        also = weighted_sum!(s.also, y, h, view(m.A1, i, before), view(f, before))
        add_combination!(also, sqrt(h), view(m.B1, i, before), view(g, before))
        stage = keep ? i : 1
        slope!(f[i], s.drift, stage, t + m.c0[i] * h, at)
        slope!(g[i], s.diffusion, stage, t + m.c1[i] * h, also)
    end
    fill!(s.noise, 0.0)
    add_products!(s.noise, s.chi2, m.β3, g)
    add_products!(s.noise, s.chi3, m.β4, g)
    new = weighted_sum!(s.new, y, h, m.α, f)
    add!(new, 1.0, s.noise)
    add_products!(new, s.dw, m.β1, g)
    add_products!(new, s.chi1, m.β2, g)
    error = weighted_sum!(s.relative, s.noise, h * m.δ, m.smooth, f)
    relative_to!(s.relative, error, y, new, s.rtol, s.atol)
    return nothing
end

"The iterated integrals of the Brownian motion over a step, divided by powers of its size."
function integrate_noise!(s::NoisySolve, h::Float64)
    T = eltype(s.dw)
    size, root, both = T(h), T(sqrt(h)), T(sqrt(3.0))
    @. s.chi1 = (s.dw^2 - size) / (2 * root)
    @. s.chi2 = (s.dw + s.dz / both) / 2
    @. s.chi3 = (s.dw^3 - 3 * s.dw * size) / (6 * size)
    return nothing
end

step_end(s::NoisySolve) = s.new

speeds(s::NoisySolve) = view(s.slopes, 1:1), (1.0,)

"""
    solve!(ys, s, p, y0, t0, t1, times, draws; dt = 0.1 * (t1 - t0))

Solve from `t0` to `t1 > t0`; steps end at the ascending `times`, where the solution is written to `ys`. `draws`, of shape
`(rows, n_states, 2, n)`, are independent normal random numbers, a pair of matrices for each attempted step; if there are too few,
`s.wants_draws` says so.
"""
function solve!(
        ys::AbstractArray{<:Real, 3}, s::NoisySolve, p::AbstractVector, y0::AbstractMatrix, t0::Float64, t1::Float64,
        times::AbstractVector, draws::AbstractArray{<:Real, 4}; dt::Float64 = 0.1 * (t1 - t0),
    )
    prepare!(s.drift, p)
    prepare!(s.diffusion, p)
    s.integrand === nothing || prepare!(s.integrand, p)
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
        finite = is_finite(s, error)
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
function take_increment!(s::NoisySolve, asked::Float64, waiting::Int, draws::AbstractArray{<:Real, 4})
    T, pair, number = eltype(s.dw), (s.dw, s.dz), s.attempts + 1
    if waiting == 0
        for (c, increment) in enumerate(pair)
            increment .= T(sqrt(asked)) .* view(draws, :, :, c, number)
        end
        return asked, 0
    end
    whole, pieces = s.lengths[waiting], s.stack[waiting]
    if asked >= whole * 0.9999
        copyto!(s.dw, pieces[1])
        copyto!(s.dz, pieces[2])
        return whole, waiting - 1
    end
    share = asked / whole
    part, spread = T(share), T(sqrt(max(share * (1 - share) * whole, 0.0)))
    for (c, increment) in enumerate(pair)
        increment .= part .* pieces[c] .+ spread .* view(draws, :, :, c, number)
        pieces[c] .-= increment
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
