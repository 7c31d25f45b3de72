"""
    result(run)

What was computed: `(t, u, algorithm, retcode, message, n_steps, n_rejected, n_rhs, seconds, event_times,
event_numbers)` with `u` of shape `(n_t, n_states)`, and zero-based event numbers. Values from the
first one on that is not finite are left out.
"""
function result(run::Run)
    if run.integrator === nothing
        return (Vec(), zeros(0, 0), run.algorithm, String(run.retcode), run.message, 0, 0, 0, run.seconds, Vec(), Int[])
    end
    t, u = run.record === nothing ? Base.invokelatest(arrays, run.integrator, run.saveat, run.retcode, run.halves) :
        arrays(run.record)
    accepted, rejected, evaluations = Base.invokelatest(counts, run.integrator, run.log)
    return (
        t,
        u,
        isempty(run.algorithm) ? Base.invokelatest(name_of_default, run.integrator) : run.algorithm,
        run.finished ? String(run.retcode) : "Interrupted",
        run.finished ? run.message : "interrupted",
        accepted,
        rejected,
        evaluations,
        run.seconds,
        run.log.times,
        run.log.numbers .- 1,
    )
end

"What the default algorithm chose, in the order of use."
function name_of_default(integrator)
    algorithm = integrator.alg
    hasproperty(algorithm, :algs) || return name_of(algorithm)
    choices = integrator.sol.alg_choice
    used = choices === nothing || isempty(choices) ? [integrator.cache.current] : unique(choices)
    return join([name_of(algorithm.algs[k]) for k in used], "+")
end

n_saved(integrator) = integrator.saveiter

function arrays(integrator, saveat::Union{Nothing, Vec}, retcode::Symbol, halves = nothing)
    saved = integrator.sol
    times::Vec = saved.t
    count = min(length(times), length(saved.u))
    # While a solve is under way the solution may have room for more than has been saved.
    retcode === :Default && (count = min(count, n_saved(integrator)))
    states = saved_states(saved.u, count, halves)
    finite = findfirst(k -> !all(isfinite, states[k]), 1:count)
    finite === nothing || (count = finite - 1)
    extra = retcode === :Terminated && (count == 0 || times[count] != integrator.t)
    n = n_values(integrator.u, halves)
    t = Vec(undef, count + extra)
    u = Matrix{Float64}(undef, count + extra, n)
    for k in 1:count
        t[k] = times[k]
        state = states[k]
        for i in 1:n
            u[k, i] = state[i]
        end
    end
    if extra # where a terminal event ended the solve is always part of the solution
        t[end] = integrator.t
        u[end, :] = integrator.u
    end
    return t, u
end

n_values(u, ::Nothing) = length(u)
n_values(u, halves::Tuple) = sum(length, halves)

"The first `count` states that were saved, in the order of the model."
saved_states(saved::Vector{Vec}, ::Int, ::Nothing) = saved
saved_states(saved, count::Int, halves::Tuple) = Vec[joined(saved[k], halves) for k in 1:count]
