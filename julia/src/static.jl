"""
Ensembles of models of at most this many states may be solved on static vectors. Measured with Tsit5, BS3, DP5 and
Verner's methods (`benchmarks/julia_static.py`): up to six states a trajectory takes 0.4 to 0.8 of the time it takes in
place, from seven on 0.9 and more.
"""
const STATIC_STATES = 6

"A right-hand side of more operations than this hides what static vectors save, and takes longer to compile again."
const STATIC_OPERATIONS = 500

"""
Explicit methods that are used on static vectors. Implicit ones were measured, too: with an exact static Jacobian they
are faster up to three states and slower from eight on, and compile for four to twelve seconds a model.
"""
const STATIC_METHODS = (:BS3, :DP5, :Tsit5, :Vern6, :Vern7, :Vern8, :Vern9)

"""
    Static{N}(f)

A right-hand side `f(u, p, t)` out of place that returns the `N` derivatives as an `SVector` of the number type of its arguments,
whatever that of constants in it.
"""
struct Static{N, F}
    f::F
    Static{N}(f::F) where {N, F} = new{N, F}(f)
end

(rhs::Static{N})(u, p, t) where {N} = SVector{N, promote_type(eltype(u), eltype(p), typeof(t))}(rhs.f(u, p, t))

"""
    static_rhs(graph, outputs) -> Static

The nodes `outputs` as a function of a static vector of states, through Symbolics, with common subexpressions computed once.
"""
static_rhs(graph::Graph, outputs::Vector{Int}) = Static{length(outputs)}(out_of_place(graph, outputs, Val{false}, OPERATIONS))

"The function itself, or its code if `expression` is `Val{true}`; `table` is what the operations are."
function out_of_place(graph::Graph, outputs::Vector{Int}, expression, table)
    symbols = Symbols(graph)
    expressions = trace(graph, outputs, symbols; table)
    leaves = (symbols.states, symbols.params, symbols.time)
    return first(Symbolics.build_function(expressions, leaves...; expression, cse = true))
end

"The function object of a model on static vectors, made once."
static_function(model::Model) = get!(model.functions, :static) do
    ODEFunction{false, SciMLBase.FullSpecialize}(static_rhs(model.graph, model.rhs_nodes))
end

"Whether a plan can be carried out on static vectors."
fits_static(model::Model, plan::Plan) =
    is_plain(model, plan) && !(model.rhs! isa Fields) && model.delays === nothing && all(model.differential) &&
    n_states(model) <= STATIC_STATES && nameof(typeof(plan.algorithm)) in STATIC_METHODS &&
    count(reachable(model.graph, model.rhs_nodes)) <= STATIC_OPERATIONS

"""
Whether one trajectory takes at least so many evaluations of the right-hand side; it is followed no further, and one that
cannot be solved does not.
"""
function takes_evaluations(model::Model, plan::Plan, u0::Vec, p::Vec, t0::Float64, t1::Float64, n::Real)
    f = ode_function(model, false)
    return try
        integrator = ode_integrator(f, model, plan, u0, p, t0, t1, UInt64(0), EventLog())
        with_logger(() -> any(_ -> integrator.stats.nf >= n, integrator), NullLogger())
    catch
        false
    end
end

"""
    prepare_static(model, u0, p, t0, t1, algorithm, rtol, atol, saveat, dt, max_steps, evaluations) -> Bool

Whether trajectories like that of `u0` and `p` are solved on static vectors: if the model and the algorithm allow it, and
if one takes so many evaluations of the right-hand side that the ensemble is worth the compilation, which then is done here.

This is a function of its arguments alone: what was compiled before does not decide, so that an ensemble is the same, to the
last bit, whenever it is solved. On static vectors sums are rounded in another order than in place, and a trajectory agrees
with the one [`start`](@ref) gives to the tolerances, not to the last bit.
"""
function prepare_static(model::Model, u0, p, t0, t1, name, rtol, atol, saveat, dt, max_steps, evaluations)
    plan = make_plan(model, Float64(t0), Float64(t1), String(name), rtol, atol, saveat, dt, max_steps)
    fits_static(model, plan) || return false
    start, parameters, span = Vec(u0), Vec(p), (Float64(t0), Float64(t1))
    Base.invokelatest(takes_evaluations, model, plan, start, parameters, span..., evaluations) || return false
    once = (reshape(start, :, 1), reshape(parameters, :, 1))
    solve_many(model, once..., span..., name, rtol, atol, saveat, dt, max_steps, [0], 1, true)
    return true
end
