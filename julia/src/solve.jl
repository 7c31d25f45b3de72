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
    outcome::Tuple{Vec, Matrix{Float64}, Vec, Vector{Int}}
end

Run(integrator, algorithm, saveat, log, finished, retcode, message, seconds) =
    Run(integrator, algorithm, saveat, log, finished, retcode, message, seconds, (Vec(), zeros(0, 0), Vec(), Int[]))

"""
    start(model, u0, p, t0, t1, algorithm, rtol, atol, saveat, dt, max_steps, seed) -> Run

Prepare a solve. `algorithm` is a name or empty, `saveat` empty for the solver's own steps, `dt` 0
where it is not given.
"""
function start(model::Model, u0, p, t0, t1, name, rtol, atol, saveat, dt, max_steps, seed)
    wanted, chosen, times, options = read_options(model, t0, t1, name, rtol, atol, saveat, dt, max_steps)
    # The algorithm's package may have been loaded by this very call.
    span = (Float64(t0), Float64(t1))
    return Base.invokelatest(prepare, model, Vec(u0), Vec(p), span..., wanted, chosen, times, options, UInt64(seed))
end

"The algorithm's name, the algorithm, the output times, and the options every solver knows."
function read_options(model::Model, t0, t1, name, rtol, atol, saveat, dt, max_steps)
    wanted = isempty(name) && model.kind === :sde ? default_stochastic(model.noise) : String(name)
    chosen = algorithm(wanted, model.kind)
    options = Dict{Symbol, Any}(
        :reltol => Float64(rtol),
        :abstol => Float64(atol),
        :maxiters => Int(max_steps),
        :dense => false,
    )
    # The delayed values are interpolated, whatever is output.
    model.kind === :dde && (options[:calck] = true)
    dt > 0 && (options[:dt] = copysign(Float64(dt), t1 - t0))
    chosen !== nothing && dt == 0 && !Base.invokelatest(SciMLBase.isadaptive, chosen) &&
        throw(ArgumentError("$wanted has fixed steps: dt must be given"))
    model.kind === :sde && Base.invokelatest(check_noise, model.noise, chosen, wanted)
    return wanted, chosen, saveat === nothing ? nothing : Vec(saveat), options
end

function prepare(model::Model, u::Vec, p::Vec, t0::Float64, t1::Float64, wanted, chosen, times, options, seed)
    begun = time_ns()
    log = EventLog()
    if !consistent!(model, u, p, t0)
        message = "no consistent initial values were found: the algebraic equations have no solution near the given ones"
        return Run(nothing, wanted, times, log, true, :InitialFailure, message, 1e-9 * (time_ns() - begun))
    end
    with_jacobian = has_jacobian(model) && uses_jacobian(chosen)
    problem = make_problem(model, u, p, t0, t1, with_jacobian, seed)
    if times === nothing
        options[:save_everystep] = true
        options[:save_end] = true
    else
        options[:saveat] = times
        options[:save_everystep] = false
        options[:save_start] = first(times) == t0
        options[:save_end] = last(times) == t1
    end
    made = callbacks(model, log, times === nothing)
    made === nothing || (options[:callback] = made)
    all(model.differential) || (options[:initializealg] = SciMLBase.NoInit())
    integrator = with_logger(NullLogger()) do
        chosen === nothing ? init(problem; options...) : init(problem, chosen; options...)
    end
    return Run(integrator, wanted, times, log, false, :Default, "", 1e-9 * (time_ns() - begun))
end

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
            Base.invokelatest(work!, run.integrator, begun + round(UInt64, 1e9 * seconds))
        end
        run.finished && Base.invokelatest(finish!, run)
    catch error
        run.finished = true
        run.retcode, run.message = describe(error)
    end
    run.seconds += 1e-9 * (time_ns() - begun)
    return run.finished
end

function work!(integrator, deadline::UInt64)
    steps = 0
    next = iterate(integrator)
    while next !== nothing
        steps += 1
        steps & 7 == 0 && time_ns() > deadline && return false
        next = iterate(integrator, next[2])
    end
    return true
end

function finish!(run::Run)
    code = run.integrator.sol.retcode
    if code in (ReturnCode.Default, ReturnCode.Success)
        run.retcode = :Success
    else
        # An integrator that ended by itself has not tidied up its solution yet.
        code == ReturnCode.Terminated && SciMLBase.postamble!(run.integrator)
        run.retcode = Symbol(code)
    end
    return nothing
end

"An error of a solver as a return code and a sentence; anything else is a mistake here and is thrown."
function describe(error)
    if error isa InterruptException
        return :Interrupted, "interrupted"
    elseif nameof(typeof(error)) in (:SingularException, :ZeroPivotException)
        return :Singular, "a matrix of the implicit method is singular"
    end
    return :Failure, sprint(showerror, error)
end

"How far a run has got: the time and the number of accepted steps."
progress(run::Run) = (Float64(run.integrator.t), Int(run.integrator.stats.naccept))
