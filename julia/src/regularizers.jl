# What is added to a training loss so that the learned equation is cheap to solve, for layers in Julia.

"""
A term of a training loss made of a solver's own estimates, times a weight; with `final` the weight decays exponentially from
`weight` at the beginning of the training to `final` at its end. See [`ErrorEstimate`](@ref), [`StiffnessEstimate`](@ref),
[`LocalErrorEstimate`](@ref), [`LocalStiffnessEstimate`](@ref), [`TaylorDerivative`](@ref), [`KineticEnergy`](@ref),
[`JacobianNorm`](@ref), [`RandomEndTime`](@ref).
"""
abstract type Regularizer end

const AGGREGATES = (:sum, :mean, :max)
const SAMPLINGS = (:unbiased, :biased)

function check_weights(owner, weight, final)
    isfinite(weight) && isfinite(final) && weight >= 0 && final >= 0 ||
        throw(ArgumentError("$owner: weight and final must be 0 or more, not $weight and $final"))
    weight == final || weight > 0 && final > 0 ||
        throw(ArgumentError("$owner: weight and final must be positive, to decay exponentially"))
    return nothing
end

check_one_of(owner, name, value, allowed) =
    value in allowed || throw(ArgumentError("$owner: $name must be one of $(join(allowed, ", ")), not $value"))

"""
    ErrorEstimate(weight = 1.0; final = weight, aggregate = :sum)

The solver's error estimates, relative to the tolerance, times the step sizes: their `:sum`, `:mean` or `:max` over the steps (Pal,
Ma, Shah & Rackauckas, *Opening the Blackbox*, ICML 2021). Step sizes are not differentiated.
"""
struct ErrorEstimate <: Regularizer
    weight::Float64
    final::Float64
    aggregate::Symbol
    function ErrorEstimate(weight = 1.0; final = weight, aggregate = :sum)
        check_weights("ErrorEstimate", weight, final)
        check_one_of("ErrorEstimate", "aggregate", aggregate, AGGREGATES)
        return new(weight, final, aggregate)
    end
end

"""
    StiffnessEstimate(weight = 0.1; final = weight, aggregate = :sum)

The solver's stiffness estimates (Shampine, ACM Transactions on Mathematical Software 3, 1977); see [`ErrorEstimate`](@ref).
"""
struct StiffnessEstimate <: Regularizer
    weight::Float64
    final::Float64
    aggregate::Symbol
    function StiffnessEstimate(weight = 0.1; final = weight, aggregate = :sum)
        check_weights("StiffnessEstimate", weight, final)
        check_one_of("StiffnessEstimate", "aggregate", aggregate, AGGREGATES)
        return new(weight, final, aggregate)
    end
end

"""
    LocalErrorEstimate(weight = 2.5; final = weight, sampling = :unbiased)

The error estimate times the size of one step, from a time that is uniform in the span (`:unbiased`) or one of those the solver
stopped at (`:biased`); the state there is taken as given (Pal, Edelman & Rackauckas, *Locally Regularized Neural Differential
Equations*, ICML 2023).
"""
struct LocalErrorEstimate <: Regularizer
    weight::Float64
    final::Float64
    sampling::Symbol
    function LocalErrorEstimate(weight = 2.5; final = weight, sampling = :unbiased)
        check_weights("LocalErrorEstimate", weight, final)
        check_one_of("LocalErrorEstimate", "sampling", sampling, SAMPLINGS)
        return new(weight, final, sampling)
    end
end

"""
    LocalStiffnessEstimate(weight = 0.1; final = weight, sampling = :unbiased)

The stiffness estimate of one step; see [`LocalErrorEstimate`](@ref).
"""
struct LocalStiffnessEstimate <: Regularizer
    weight::Float64
    final::Float64
    sampling::Symbol
    function LocalStiffnessEstimate(weight = 0.1; final = weight, sampling = :unbiased)
        check_weights("LocalStiffnessEstimate", weight, final)
        check_one_of("LocalStiffnessEstimate", "sampling", sampling, SAMPLINGS)
        return new(weight, final, sampling)
    end
end

"""
    TaylorDerivative(order = 2, weight = 0.01; final = weight)

The integral of the mean square of the solution's derivative of that order, from 1 to 4, by time (Kelly, Bettencourt, Johnson &
Duvenaud, *Learning Differential Equations that are Easy to Solve*, NeurIPS 2020, TayNODE): solvers of order `p` are cheap where
derivatives of order `p + 1` are small. It is computed with dual numbers in dual numbers, each order with twice as many parts.
"""
struct TaylorDerivative <: Regularizer
    order::Int
    weight::Float64
    final::Float64
    function TaylorDerivative(order = 2, weight = 0.01; final = weight)
        check_weights("TaylorDerivative", weight, final)
        order isa Integer && 1 <= order <= 4 ||
            throw(ArgumentError("TaylorDerivative: order must be an integer from 1 to 4, not $order"))
        return new(order, weight, final)
    end
end

"""
    JacobianNorm(weight = 0.01; final = weight)

The integral of an unbiased estimate of the squared Frobenius norm of the model's Jacobian ``J``, divided by the number of states
(Finlay, Jacobsen, Nurbekyan & Oberman, *How to Train Your Neural ODE*, ICML 2020, RNODE, eq. 9). The estimate is ``|J ε|^2`` with
one random normal vector ``ε`` for each solve. It has the distribution of the paper's ``|ε^T J|^2``, as a square matrix and its
transpose have the same singular values, and needs derivatives forward alone.
"""
struct JacobianNorm <: Regularizer
    weight::Float64
    final::Float64
    function JacobianNorm(weight = 0.01; final = weight)
        check_weights("JacobianNorm", weight, final)
        return new(weight, final)
    end
end

"""
    KineticEnergy(weight = 0.01; final = weight)

The integral of the mean square of the derivative (Finlay, Jacobsen, Nurbekyan & Oberman, ICML 2020, eq. 8).
"""
struct KineticEnergy <: Regularizer
    weight::Float64
    final::Float64
    function KineticEnergy(weight = 0.01; final = weight)
        check_weights("KineticEnergy", weight, final)
        return new(weight, final)
    end
end

"""
    RandomEndTime(b = 0.5)

Solve to a random end, uniform within `b` around it (Ghosh, Behl, Dupont, Torr & Namboodiri, *STEER*, NeurIPS 2020).
"""
struct RandomEndTime <: Regularizer
    b::Float64
    function RandomEndTime(b = 0.5)
        isfinite(b) && b > 0 || throw(ArgumentError("RandomEndTime: b must be positive, not $b"))
        return new(b)
    end
end

"The weight at `progress`, from 0 at the beginning of a training to 1 at its end."
coefficient(r::Regularizer, progress) = r.weight == r.final ? r.weight : r.weight * (r.final / r.weight)^progress
coefficient(::RandomEndTime, progress) = 0.0

"One regularizer, several or none, as a tuple."
read_regularizers(::Nothing) = ()
read_regularizers(r::Regularizer) = (r,)
function read_regularizers(given)
    found = Tuple(given)
    all(r -> r isa Regularizer, found) || throw(ArgumentError("regularize must be regularizers, such as ErrorEstimate(0.1)"))
    allunique(map(typeof, found)) || throw(ArgumentError("regularize has one kind of regularizer twice"))
    return found
end

end_shift(regularizers) = maximum(r -> r isa RandomEndTime ? r.b : 0.0, regularizers; init = 0.0)

"""
    Term(regularizer, coefficient, draw, noise)

A regularizer for one solve: with its coefficient, and with random numbers where it samples: `draw` between 0 and 1 for the time,
and normal ones for new noise in a stochastic solve.
"""
struct Term{R <: Regularizer, N}
    regularizer::R
    coefficient::Float64
    draw::Float64
    noise::N
end

step_sizes(s::AdaptiveSolve) = view(s.record.taken, 1:s.count)
step_sizes(s::NoisySolve) = view(s.record.h, 1:s.count)

"The estimates that a global regularizer is made of, step by step."
estimates(::ErrorEstimate, s) = view(s.record.error, 1:s.count) .* step_sizes(s)
estimates(::StiffnessEstimate, s) = s.record.stiffness[1:s.count]

"The share of every step in an aggregate: what the aggregate's derivatives by them are."
function shares(each::Vector{Float64}, aggregate::Symbol)
    bars = zeros(length(each))
    isempty(each) && return bars
    aggregate === :max ? (bars[argmax(each)] = 1.0) : fill!(bars, aggregate === :mean ? 1 / length(each) : 1.0)
    return bars
end

"""
    regularization(terms, s, y1)

What the terms of a solve that is done, and ended at `y1`, add to the loss.
"""
regularization(terms::Tuple, s, y1) = sum(term -> value(term.regularizer, term, s, y1), terms; init = s.integral)

function value(r::Union{ErrorEstimate, StiffnessEstimate}, term::Term, s, y1)
    each = estimates(r, s)
    return term.coefficient * sum(each .* shares(each, r.aggregate))
end

function value(r::Union{LocalErrorEstimate, LocalStiffnessEstimate}, term::Term, s, y1)
    error, stiffness = local_step!(term, s, y1, 0.0, 0.0)
    return term.coefficient * (r isa LocalErrorEstimate ? error : stiffness)
end

"What is integrated is in the integral, times its coefficient."
value(::Union{TaylorDerivative, KineticEnergy, JacobianNorm, RandomEndTime}, term::Term, s, y1) = 0.0

"Add the derivatives of the terms by errors and stiffness estimates of all steps, times `bar`."
function estimate_bars!(error_bar::Vector{Float64}, stiffness_bar::Vector{Float64}, terms::Tuple, s, bar::Float64)
    for term in terms
        r = term.regularizer
        r isa Union{ErrorEstimate, StiffnessEstimate} || continue
        by_step = bar * term.coefficient .* shares(estimates(r, s), r.aggregate)
        r isa ErrorEstimate ? (error_bar .+= by_step .* step_sizes(s)) : (stiffness_bar .+= by_step)
    end
    return nothing
end

"Go back through the steps of local terms; after `pull!`."
function pull_local!(terms::Tuple, s, y1, bar::Float64)
    for term in terms
        weight = bar * term.coefficient
        term.regularizer isa LocalErrorEstimate && local_step!(term, s, y1, weight, 0.0)
        term.regularizer isa LocalStiffnessEstimate && local_step!(term, s, y1, 0.0, weight)
    end
    return nothing
end

function local_step!(term::Term, s, y1, error_bar, stiffness_bar)
    uniform = term.regularizer.sampling === :unbiased
    at = uniform ? s.t0 + term.draw * (s.t1 - s.t0) : floor(term.draw * s.count)
    return local_at!(s, uniform, at, y1, term.noise, error_bar, stiffness_bar)
end

local_at!(s::AdaptiveSolve, uniform, at, y1, noise, error_bar, stiffness_bar) =
    local_estimate!(s, uniform, at, error_bar, stiffness_bar)
local_at!(s::NoisySolve, uniform, at, y1, noise, error_bar, stiffness_bar) =
    local_estimate!(s, uniform, at, y1, noise, error_bar, stiffness_bar)
