"""
    Run

One solve under way: it is advanced in bounded slices of time, so that whoever asked for it can look
after interrupts and progress in between, and has a partial solution at any time.
"""
mutable struct Run
    integrator::Any
    algorithm::String
    saveat::Union{Nothing, Vec}
    log::EventLog
    finished::Bool
    retcode::Symbol
    message::String
    seconds::Float64
    "Which states the first and the second half of the integrator's are, where it has halves; whose modes, where it has those."
    halves::Any
    "The states so far of a solve on a device, which the integrator does not keep."
    record::Any
    outcome::Tuple{Vec, Matrix{Float64}, Vec, Vector{Int}}
end

Run(integrator, algorithm, saveat, log, finished, retcode, message, seconds, halves = nothing, record = nothing) = Run(
    integrator, algorithm, saveat, log, finished, retcode, message, seconds, halves, record, (Vec(), zeros(0, 0), Vec(), Int[]),
)

"An algorithm by its name, and what decides how it is used; looking it up takes longer than a short solve."
struct Choice{A}
    name::String
    algorithm::A
    adaptive::Bool
    implicit::Bool
    splits::Bool
end

const CHOICES = Dict{Tuple{String, Symbol}, Choice}()
const CHOOSING = ReentrantLock()

function choice(name::String, kind::Symbol)
    return lock(CHOOSING) do
        get!(CHOICES, (name, kind)) do
            chosen = algorithm(name, kind)
            # The algorithm's package may have been loaded by this very call.
            adaptive = chosen === nothing || Base.invokelatest(SciMLBase.isadaptive, chosen)
            Choice(name, chosen, adaptive, uses_jacobian(chosen), takes_parts(chosen))
        end
    end
end

"How to solve a model: what all solves with the same algorithm and options have in common."
struct Plan{A, O <: NamedTuple}
    name::String
    algorithm::A
    times::Union{Nothing, Vec}
    with_jacobian::Bool
    """
    The right-hand side whole, in the `halves` of the states, `split` into an implicit and an explicit part, or `semilinear`, in a
    linear part and the rest.
    """
    form::Symbol
    max_steps::Int
    options::O
end

"""
    start(model, u0, p, t0, t1, algorithm, rtol, atol, saveat, dt, max_steps, seed) -> Run

Prepare a solve. `algorithm` is a name or empty, `atol` a number or one for each state, `saveat` `nothing`
for the solver's own steps, `dt` 0 where it is not given.
"""
function start(model::Model, u0, p, t0, t1, name, rtol, atol, saveat, dt, max_steps, seed)
    plan = make_plan(model, Float64(t0), Float64(t1), String(name), rtol, atol, saveat, dt, max_steps)
    return Base.invokelatest(prepare, model, plan, Vec(u0), Vec(p), Float64(t0), Float64(t1), UInt64(seed))
end

function make_plan(model::Model, t0::Float64, t1::Float64, name::String, rtol, atol, saveat, dt, max_steps)
    times = saveat === nothing ? nothing : Vec(saveat)
    if model.pure && (isempty(name) || Symbol(name) in AGGREGATORS)
        wanted = isempty(name) ? "Direct" : name
        return Plan(wanted, Aggregator(Symbol(wanted)), times, false, :whole, Int(max_steps), (;))
    end
    wanted = isempty(name) && model.kind === :sde ? default_stochastic(model.noise) :
        isempty(name) && !isempty(model.jumps) ? "Tsit5" : name
    chosen = choice(wanted, model.kind)
    chosen.adaptive || dt > 0 || throw(ArgumentError("$wanted has fixed steps: dt must be given"))
    model.kind === :sde && Base.invokelatest(check_noise, model.noise, chosen.algorithm, wanted)
    abstol = atol isa Number ? Float64(atol) : Vec(atol)
    tolerances = (; reltol = Float64(rtol), abstol, maxiters = Int(max_steps), dense = false)
    saving = times === nothing ? (; save_everystep = true, save_end = true) :
        (; saveat = times, save_everystep = false, save_start = first(times) == t0, save_end = last(times) == t1)
    # The delayed values are interpolated, whatever is output.
    history = model.kind === :dde ? (; calck = true) : (;)
    steps = dt > 0 ? (; dt = copysign(Float64(dt), t1 - t0)) : (;)
    initial = all(model.differential) ? (;) : (; initializealg = SciMLBase.NoInit())
    form = is_partitioned(chosen.algorithm) ? :halves : is_semilinear(chosen.algorithm) ? :semilinear :
        splits(chosen, model.split) ? :split : :whole
    form === :halves && atol isa AbstractVector && throw(ArgumentError("$wanted takes one atol for all states"))
    form === :halves && model.halves === nothing && throw(ArgumentError("$wanted needs a model of positions and velocities"))
    if form === :split
        wanted = unsmoothed(wanted, chosen.algorithm)
        chosen = choice(wanted, model.kind)
    end
    # These methods have long steps, and what lies between them is interpolated by cubics, if not by lines; that of a split
    # method has the whole derivative at its ends, in which the implicit part magnifies every error. A line between two points
    # of a random path is no part of the path: its variance is too small. What algebraic equations determine has no derivative
    # to interpolate with: most methods have lines for it.
    stepped = form !== :whole || model.kind === :sde || !interpolates(model, chosen.algorithm)
    stops = stepped && times !== nothing ? (; tstops = times) : (;)
    if form === :semilinear
        wanted = for_size(wanted, chosen.algorithm, model)
        chosen = choice(wanted, model.kind)
        h, grid, times = step_grid(wanted, t0, t1, Float64(dt), times)
        times === nothing || (saving = merge(saving, (; saveat = times)))
        steps, stops = (; dt = h), (; tstops = grid)
    end
    options = merge(tolerances, saving, history, steps, initial, stops)
    return Plan(wanted, chosen.algorithm, times, has_jacobian(model) && chosen.implicit, form, Int(max_steps), options)
end

"Methods that interpolate algebraic unknowns to their own order."
const INTERPOLATING = (
    :FBDF, :QNDF, :Rosenbrock23, :Rodas4, :Rodas42, :Rodas4P, :Rodas4P2, :Rodas5, :Rodas5P, :Rodas5Pe, :Rodas5Pr,
    :CompositeAlgorithm, # the default choices are among these
)

"Whether what lies between two steps of a method is as good as what lies at their ends."
interpolates(model::Model, algorithm) = all(model.differential) || nameof(typeof(algorithm)) in INTERPOLATING

function prepare(model::Model, plan::Plan, u::Vec, p::Vec, t0::Float64, t1::Float64, seed::UInt64)
    begun = time_ns()
    log = EventLog()
    refuse(code, message) =
        Run(nothing, plan.name, plan.times, log, true, code, message, 1e-9 * (time_ns() - begun))
    if !isempty(model.events)
        ending = start_events!(model, u, p, t0, t1, log)
        ending == 0 || return refuse(:Failure, "event $ending ends the solve where it starts")
    end
    consistent!(model, u, p, t0) || return refuse(
        :InitialFailure,
        "no consistent initial values were found: the algebraic equations have no solution near the given ones",
    )
    integrator = if plan.algorithm isa Aggregator
        made, stops = callbacks(model, u, p, t0, t1, log, plan.times === nothing)
        try
            pure_integrator(model, plan.algorithm, u, p, t0, t1, plan.times, plan.max_steps, seed, log, made, stops)
        catch error
            return refuse(describe(error)...)
        end
    elseif plan.form !== :whole
        problem = plan.form === :split ? split_problem(model, u, p, t0, t1) :
            plan.form === :semilinear ? semilinear_problem(model, plan.algorithm, u, p, t0, plan.options) :
            partitioned_problem(model, plan.algorithm, u, p, t0, t1)
        made = with_logger(() -> integrator_of(problem, model, plan, u, p, t0, t1, seed, log), NullLogger())
        plan.form === :semilinear ? meet_grid!(made) : made
    elseif model.kind in (:ode, :dae)
        ode_integrator(ode_function(model, plan.with_jacobian), model, plan, u, p, t0, t1, seed, log)
    else
        problem = make_problem(model, u, p, t0, t1, plan.with_jacobian, seed)
        with_logger(() -> integrator_of(problem, model, plan, u, p, t0, t1, seed, log), NullLogger())
    end
    halves = plan.form === :halves ? arrangement(model.halves, plan.algorithm)[1:2] :
        plan.form === :semilinear && steps_modes(model, plan.algorithm) ? model.modes.spectrum : nothing
    return Run(integrator, plan.name, plan.times, log, false, :Default, "", 1e-9 * (time_ns() - begun), halves)
end

# Its types are all known: the only call that is not resolved beforehand is the one to it.
function ode_integrator(f::F, model::Model, plan::Plan, u::Vec, p::Vec, t0::Float64, t1::Float64, seed, log) where {F}
    problem = ODEProblem{true, SciMLBase.FullSpecialize}(f, u, (t0, t1), p)
    return with_logger(() -> integrator_of(problem, model, plan, u, p, t0, t1, seed, log), NullLogger())
end

function integrator_of(problem, model::Model, plan::Plan, u::Vec, p::Vec, t0::Float64, t1::Float64, seed, log)
    if isempty(model.events) && isempty(model.jumps)
        return integrator_with(problem, plan.algorithm, plan.options)
    end
    saves = plan.times === nothing
    made, stops = callbacks(model, u, p, t0, t1, log, saves)
    isempty(model.jumps) || (made = [made; jump_callback!(problem.u0, model, seed, log, saves)])
    more = isempty(stops) ? (;) : (; tstops = [get(plan.options, :tstops, Float64[]); stops])
    return integrator_with(problem, plan.algorithm, merge(plan.options, (; callback = CallbackSet(made...)), more))
end

integrator_with(problem, ::Nothing, options::NamedTuple) = init(problem; options...)
integrator_with(problem, algorithm, options::NamedTuple) = init(problem, algorithm; options...)

"""
    advance!(run, seconds) -> Bool

Go on for about that long; whether the solve is finished.
"""
function advance!(run::Run, seconds::Real)
    run.finished && return true
    begun = time_ns()
    try
        run.finished = with_logger(NullLogger()) do
            # Solver packages may have been loaded after the caller was compiled.
            Base.invokelatest(work!, run.integrator, run.record, begun + round(UInt64, 1e9 * seconds))
        end
        run.finished && Base.invokelatest(finish!, run)
    catch error
        run.finished = true
        run.retcode, run.message = describe(error)
    end
    run.seconds += 1e-9 * (time_ns() - begun)
    return run.finished
end

function work!(integrator, record, deadline::UInt64)
    steps = 0
    next = iterate(integrator)
    while next !== nothing
        steps += 1
        keep!(record, integrator)
        steps & 7 == 0 && time_ns() > deadline && return false
        next = iterate(integrator, next[2])
    end
    return true
end

"Record what a step has reached: nothing, where the integrator saves it."
keep!(::Nothing, integrator) = nothing

function finish!(run::Run)
    code = run.integrator.sol.retcode
    if code in (ReturnCode.Default, ReturnCode.Success)
        run.retcode = :Success
    else
        # An integrator that ended by itself has not tidied up its solution yet.
        code == ReturnCode.Terminated && tidy!(run.integrator)
        run.retcode = Symbol(code)
    end
    return nothing
end

tidy!(integrator) = SciMLBase.postamble!(integrator)

"An error of a solver as a return code and a sentence; anything else is a mistake here and is thrown."
function describe(error)
    if error isa InterruptException
        return :Interrupted, "interrupted"
    elseif nameof(typeof(error)) in (:SingularException, :ZeroPivotException)
        return :Singular, "a matrix of the implicit method is singular"
    end
    return :Failure, sprint(showerror, error)
end

"Accepted steps, rejected ones, and evaluations of the right-hand side, or of what is not its linear part."
function counts(integrator, log::EventLog)
    stats = integrator.stats
    in_stages = is_semilinear(integrator.alg) ? stats.nf2 : 0
    return Int(stats.naccept), Int(stats.nreject), Int(stats.nf + in_stages)
end

"How far a run has got: the time and the number of accepted steps."
progress(run::Run) = (Float64(run.integrator.t), first(Base.invokelatest(counts, run.integrator, run.log)))
