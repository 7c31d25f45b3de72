module PySciMLSciMLSensitivityExt

using Logging: Logging, AbstractLogger, with_logger
using PySciML: PySciML, AdaptiveSolve, clear!, integrand!, n_params, parameter_bars!, pull_integrand!, pull_slope!, slope!,
    stage_time, weighted_sum!
using SciMLBase: SciMLBase, ODEFunction, ODEProblem, ReturnCode
using SciMLSensitivity: BacksolveAdjoint, GaussAdjoint, GaussKronrodAdjoint, InterpolatingAdjoint, QuadratureAdjoint, ZygoteVJP,
    adjoint_sensitivities

const ADJOINTS = Dict(
    :BacksolveAdjoint => BacksolveAdjoint, :GaussAdjoint => GaussAdjoint, :GaussKronrodAdjoint => GaussKronrodAdjoint,
    :InterpolatingAdjoint => InterpolatingAdjoint, :QuadratureAdjoint => QuadratureAdjoint,
)

"An adjoint, and the algorithm that solves its equations."
struct Adjoint{S, A}
    sensealg::S
    algorithm::A
end

function PySciML.adjoint(text::String, method::String)
    name, options = PySciML.read_algorithm(text)
    haskey(ADJOINTS, name) || throw(ArgumentError("$name is no adjoint: $(join(sort!(collect(keys(ADJOINTS))), ", ")) are"))
    return made(ADJOINTS[name], method; options...)
end

PySciML.adjoint(given::Union{BacksolveAdjoint, GaussAdjoint, GaussKronrodAdjoint, InterpolatingAdjoint}, method::String) =
    made(ADJOINTS[nameof(typeof(given))], method; given.checkpointing)
PySciML.adjoint(given::QuadratureAdjoint, method::String) = made(QuadratureAdjoint, method; given.abstol, given.reltol)
PySciML.adjoint(given, ::String) =
    throw(ArgumentError("$given is no adjoint: $(join(sort!(collect(keys(ADJOINTS))), ", ")) are, or their names"))

"Products with the Jacobians are those of the field (`vjp`, `vjp_p`); the package would probe for a way to get them otherwise."
made(sensealg, method; options...) = Adjoint(sensealg(; autojacvec = ZygoteVJP(), options...), PySciML.algorithm(method, :ode))

# -- the solution as SciML knows one

"A solve's right-hand side with the products of its Jacobians with a vector, on vectors of all states."
struct Products{F}
    field::F
    y::Matrix{Float64}
    slope::Matrix{Float64}
    y_bar::Matrix{Float64}
    slope_bar::Matrix{Float64}
end

Products(s::AdaptiveSolve) = Products(s.field, (similar(s.y0) for _ in 1:4)...)

"Parameters are those of the last solve, whose numbers the field has taken."
function right_hand_side!(du, u, f::Products, t)
    copyto!(f.y, u)
    slope!(f.slope, f.field, 1, Float64(t), f.y)
    copyto!(du, f.slope)
    return nothing
end

"Go back from the adjoint of a slope; those of parameters are added to what the field has."
function pull_back!(f::Products, slope_bar, u, t)
    copyto!(f.y, u)
    slope!(f.slope, f.field, 1, Float64(t), f.y)
    copyto!(f.slope_bar, slope_bar)
    fill!(f.y_bar, 0.0)
    pull_slope!(f.y_bar, f.field, 1, f.slope_bar)
    return nothing
end

function by_state!(out, v, f::Products, u, t)
    pull_back!(f, v, u, t)
    copyto!(out, f.y_bar)
    return nothing
end

function by_parameters!(out, v, f::Products, u, t)
    clear!(f.field)
    pull_back!(f, v, u, t)
    fill!(out, 0.0)
    parameter_bars!(out, f.field)
    return nothing
end

"A solve between its steps, by the interpolant of its method."
struct StepInterpolation{S <: AdaptiveSolve} <: SciMLBase.AbstractDiffEqInterpolation
    solve::S
end

(f::StepInterpolation)(out, t::Number, ::Nothing, ::Type{Val{0}}, p, continuity) =
    PySciML.solution_at!(out, f.solve, Float64(t))
(f::StepInterpolation)(t::Number, idxs::Nothing, deriv::Type{Val{0}}, p, continuity) =
    f(zeros(length(f.solve.y0)), t, idxs, deriv, p, continuity)

"The last solve."
function solution(s::AdaptiveSolve, f::Products, algorithm)
    rhs = ODEFunction{true, SciMLBase.FullSpecialize}(
        (du, u, p, t) -> right_hand_side!(du, u, f, t); vjp = (out, v, u, p, t) -> by_state!(out, v, f, u, t),
        vjp_p = (out, v, u, p, t) -> by_parameters!(out, v, f, u, t),
    )
    # As many parameters as there are: their values are not read.
    problem = ODEProblem(rhs, vec(s.y0), (s.t0, s.t1), zeros(n_params(s.field)))
    times = push!(s.record.t[1:s.count], s.t1)
    states = push!([vec(y) for y in view(s.record.y, 1:s.count)], vec(PySciML.final_state(s)))
    return SciMLBase.build_solution(
        problem, algorithm, times, states; dense = true, interp = StepInterpolation(s), retcode = ReturnCode.Success,
    )
end

# -- what is differentiated

"What is integrated along, differentiated: the mean square of the slope, and a solve's integrand."
struct Running{S <: AdaptiveSolve, P <: Products}
    solve::S
    products::P
end

"Go back from the adjoint `bar` of the integrand."
function pull_back!(r::Running, bar, u, t)
    s, f = r.solve, r.products
    right_hand_side!(f.slope, u, f, t)
    pull_back!(f, (2 * bar * s.kinetic / length(f.slope)) .* f.slope, u, t)
    g = s.integrand
    g === nothing && return nothing
    integrand!(g, 1, Float64(t), f.y)
    pull_integrand!(f.y_bar, g, 1, bar)
    return nothing
end

"""
Add what parameters do to an integral along a solution that is held fixed. It needs no adjoint: it is a sum over the stages of all
steps, as the integral itself.
"""
function add_explicit!(p_bar, r::Running, integral_bar)
    s, m, record = r.solve, r.solve.method, r.solve.record
    forget!(s)
    for i in 1:s.count, j in eachindex(m.b)
        m.b[j] == 0 && continue
        h = record.taken[i]
        before = 1:(j - 1)
        weighted_sum!(s.work, record.y[i], h, view(m.a, max(j - 1, 1), before), view(record.slopes[i], before))
        pull_back!(r, integral_bar * h * m.b[j], s.work, record.t[i] + stage_time(m, j) * h)
    end
    parameter_bars!(p_bar, s)
    return nothing
end

"Forget the adjoints of parameters."
function forget!(s::AdaptiveSolve)
    clear!(s.field)
    s.integrand === nothing || clear!(s.integrand.field)
    return nothing
end

"Whether a solver has warned: one that ends early returns what it has, and says so in the log alone."
mutable struct Warned <: AbstractLogger
    yes::Bool
end

Logging.min_enabled_level(::Warned) = Logging.Warn
Logging.shouldlog(::Warned, args...) = true
Logging.handle_message(logger::Warned, args...; kwargs...) = (logger.yes = true; nothing)

function PySciML.pull_by_adjoint!(
        y0_bar::AbstractMatrix, p_bar::AbstractVector, s::AdaptiveSolve, adjoint::Adjoint,
        ys_bar::AbstractArray{Float64, 3}, y1_bar::AbstractMatrix, integral_bar::Float64,
    )
    s.dense || throw(ArgumentError("an adjoint needs a dense solve"))
    at_start = count(<=(s.t0), s.times)
    times = s.times[(at_start + 1):end]
    (isempty(times) || last(times) < s.t1) && push!(times, s.t1)
    products = Products(s)
    function by_saved!(out, u, p, t, i)
        at_start + i <= length(s.times) ? copyto!(out, view(ys_bar, :, :, at_start + i)) : fill!(out, 0.0)
        i == length(times) && (out .+= vec(y1_bar))
        return nothing
    end
    running = Running(s, products)
    function by_running!(out, u, p, t)
        pull_back!(running, integral_bar, u, t)
        copyto!(out, products.y_bar)
        return nothing
    end
    integrates = integral_bar != 0 && (s.kinetic != 0 || s.integrand !== nothing)
    along = integrates ? (; dgdu_continuous = by_running!) : (;)
    logger = Warned(false)
    by_start, by_parameters = with_logger(logger) do
        Base.invokelatest( # the algorithm's package may just have been loaded
            adjoint_sensitivities, solution(s, products, adjoint.algorithm), adjoint.algorithm; adjoint.sensealg, t = times, dgdu_discrete = by_saved!,
            along..., abstol = s.atol, reltol = s.rtol,
        )
    end
    copyto!(y0_bar, by_start)
    for j in 1:at_start
        y0_bar .+= view(ys_bar, :, :, j)
    end
    copyto!(p_bar, by_parameters)
    integrates && add_explicit!(p_bar, running, integral_bar)
    logger.yes && (fill!(y0_bar, NaN); fill!(p_bar, NaN))
    forget!(s) # what there will be from here on are the derivatives of local estimates
    return nothing
end

end
