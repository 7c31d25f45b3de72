"What a solve is, apart from its model and its numbers."
struct Job{T <: Tuple, A}
    method::Union{Nothing, ExplicitMethod}
    adjoint::A
    rtol::Float64
    atol::Float64
    max_steps::Int
    with_time::Bool
    t0::Float64
    t1::Float64
    times::Union{Nothing, Vector{Float64}}
    terms::T
end

kinetic(job::Job) = sum(term -> term.regularizer isa PySciML.KineticEnergy ? term.coefficient : 0.0, job.terms; init = 0.0)

n_stages(job::Job) = job.method === nothing ? PySciML.NOISY_STAGES : PySciML.n_stages(job.method)

"A model as the field of a job."
field_of(job::Job, model, y0, ps, st, config) = NetworkField(model, ps, st, y0, n_stages(job), job.with_time, config)

"Zeros for the solution at the times of a job."
along_times(job::Job, y0) = zeros_like(y0, Float64, size(y0)..., job.times === nothing ? 0 : length(job.times))

"The solution of a job, as `(y, regularization, evaluations, steps, rejected, success)`."
solution(job::Job, models, y0, ps, st, draws) = first(solved(job, models, y0, ps, st, draws, nothing))

"The models of a job: one, or drift and diffusion. Returns the solution, and the solve to go back through."
function solved(job::Job, models::Tuple{Any}, y0::AbstractMatrix{T}, ps, st, draws, config) where {T}
    make() = field_of(job, models[1], y0, ps[1], st[1], config)
    integrand = integrand_of(job, make, n_stages(job))
    s = AdaptiveSolve(
        make(), job.method, size(y0), job.rtol, job.atol, job.max_steps; kinetic = kinetic(job), integrand,
        dense = job.adjoint !== nothing && config !== nothing,
    )
    ys = along_times(job, y0)
    PySciML.solve!(ys, s, Float64[], Float64.(y0), Float64[], Float64[], job.t0, job.t1, something(job.times, Float64[]))
    return outcome(job, s, ys, T, s.n_rhs, s.n_steps, s.n_rejected)
end

"What the terms of a job integrate along a solve with the model that `make` gives a field of its own."
function integrand_of(job::Job, make, stages)
    terms = [Integrated(term) for term in job.terms if term.regularizer isa Union{PySciML.TaylorDerivative, PySciML.JacobianNorm}]
    return isempty(terms) ? nothing : NetworkIntegrand(make(), terms, stages)
end

function solved(job::Job, models::Tuple{Any, Any}, y0::AbstractMatrix{T}, ps, st, draws, config) where {T}
    make(k) = field_of(job, models[k], y0, ps[k], st[k], config)
    s = NoisySolve(
        make(1), make(2), size(y0), job.rtol, job.atol, job.max_steps; kinetic = kinetic(job),
        integrand = integrand_of(job, () -> make(1), 1),
    )
    ys = along_times(job, y0)
    numbers = sent(y0, draws(0))
    while true
        PySciML.solve!(ys, s, Float64[], Float64.(y0), job.t0, job.t1, something(job.times, Float64[]), numbers)
        s.wants_draws || break
        numbers = cat(numbers, sent(y0, draws(size(numbers, 4))); dims = 4)
    end
    return outcome(job, s, ys, T, PySciML.NOISY_STAGES * s.attempts, s.count, s.attempts - s.count)
end

function outcome(job::Job, s, ys, ::Type{T}, evaluations, steps, rejected) where {T}
    y1 = copy(PySciML.final_state(s)) # local terms take steps of their own
    y = T.(job.times === nothing ? y1 : ys)
    s.success || fill!(y, T(NaN))
    total = T(PySciML.regularization(job.terms, s, y1))
    return (y, total, evaluations, steps, rejected, s.success), s, y1
end

"The derivatives by the parameters of all models of a solve."
function parameter_bars(s::AdaptiveSolve)
    p_bar = zero(s.field.ps_bar)
    PySciML.parameter_bars!(p_bar, s)
    return (p_bar,)
end
function parameter_bars(s::NoisySolve)
    drift, diffusion = copy(s.drift.ps_bar), copy(s.diffusion.ps_bar)
    s.integrand === nothing || PySciML.parameter_bars!(drift, s.integrand.field)
    return drift, diffusion
end

"Go back from the solution and its integral, by the adjoint of the job; returns the derivatives by the parameters."
function pull_by_adjoint!(y0_bar, job::Job, s::AdaptiveSolve, ys_bar, y1_bar, y1, weight)
    p_bar = zeros(PySciML.n_params(s.field))
    if s.success
        PySciML.pull_by_adjoint!(y0_bar, p_bar, s, job.adjoint, ys_bar, y1_bar, weight)
    else
        fill!(y0_bar, NaN)
        fill!(p_bar, NaN)
    end
    PySciML.pull_local!(job.terms, s, y1, weight)
    PySciML.parameter_bars!(p_bar, s)
    return (p_bar,)
end

"The same through the steps that were taken."
function pull_by_steps!(y0_bar, job::Job, s, ys_bar, y1_bar, y1, weight)
    error_bar, stiffness_bar = zeros(s.count), zeros(s.count)
    PySciML.estimate_bars!(error_bar, stiffness_bar, job.terms, s, weight)
    if s isa AdaptiveSolve
        PySciML.pull!(y0_bar, s, ys_bar, y1_bar, error_bar, stiffness_bar, zeros(s.count), weight)
    else
        PySciML.pull!(y0_bar, s, ys_bar, y1_bar, error_bar, stiffness_bar, weight)
    end
    PySciML.pull_local!(job.terms, s, y1, weight)
    return parameter_bars(s)
end

function ChainRulesCore.rrule(
        config::RuleConfig{>:HasReverseMode}, ::typeof(solution), job::Job, models, y0::AbstractMatrix{T}, ps, st, draws,
    ) where {T}
    found, s, y1 = solved(job, models, y0, ps, st, draws, config)
    function back(given)
        bars = unthunk(given)
        bars isa AbstractZero && return ntuple(_ -> NoTangent(), 7)
        y_bar, total_bar = unthunk(bars[1]), unthunk(bars[2])
        ys_bar, y1_bar, y0_bar = along_times(job, y0), zeros_like(y0, Float64, size(y0)), zeros_like(y0, Float64, size(y0))
        y_bar isa AbstractZero || ((job.times === nothing ? y1_bar : ys_bar) .= y_bar)
        weight = total_bar isa AbstractZero ? 0.0 : Float64(total_bar)
        pull! = job.adjoint === nothing ? pull_by_steps! : pull_by_adjoint!
        p_bars = pull!(y0_bar, job, s, ys_bar, y1_bar, y1, weight)
        ps_bar = Tangent{typeof(ps)}(map(tangent, p_bars, ps)...)
        return NoTangent(), NoTangent(), NoTangent(), T.(y0_bar), ps_bar, NoTangent(), NoTangent()
    end
    return found, back
end
