"""
    solve_many(model, u0, p, t0, t1, algorithm, rtol, atol, saveat, dt, max_steps, seeds, threads)

Solve for every column of `u0` and `p`, with its own seed, on that many threads.

Returns `(u, codes, names, algorithm)`: `u` of shape `(n_states, n_t, count)`, not a number where a
trajectory has no value, and return code `names[codes[k]]` (zero-based) of trajectory `k`. The rest
as for [`start`](@ref).
"""
function solve_many(model::Model, u0, p, t0, t1, name, rtol, atol, saveat, dt, max_steps, seeds, threads)
    u = zeros(n_states(model), length(saveat), size(u0, 2))
    return u, solve_many!(u, model, u0, p, t0, t1, name, rtol, atol, saveat, dt, max_steps, seeds, threads)...
end

"As [`solve_many`](@ref), into the array `u`."
function solve_many!(u, model::Model, u0, p, t0, t1, name, rtol, atol, saveat, dt, max_steps, seeds, threads)
    starts, parameters = Matrix{Float64}(u0), Matrix{Float64}(p)
    count = size(starts, 2)
    wanted, chosen, times, options = read_options(model, t0, t1, name, rtol, atol, saveat, dt, max_steps)
    share = Share(starts, parameters, Float64(t0), Float64(t1), wanted, chosen, times, options, Vector{UInt64}(seeds))
    n_threads = clamp(threads, 1, min(count, Threads.nthreads()))
    while length(model.copies) < n_threads
        push!(model.copies, copy(model))
    end
    fill!(u, NaN)
    retcodes = fill(:Default, count)
    algorithms = fill(wanted, n_threads)
    next = Threads.Atomic{Int}(1)
    solve_some(number) = begin
        while true
            k = Threads.atomic_add!(next, 1)
            k > count && break
            retcodes[k], algorithms[number] = Base.invokelatest(solve_one!, view(u, :, :, k), model.copies[number], share, k)
        end
    end
    if n_threads == 1
        solve_some(1)
    else
        @sync for number in 1:n_threads
            Threads.@spawn solve_some(number)
        end
    end
    names = unique(retcodes)
    codes = [findfirst(==(code), names) - 1 for code in retcodes]
    return codes, String.(names), first(algorithms)
end

"How many threads Julia was started with."
thread_count() = Threads.nthreads()

"What trajectories have in common, and the numbers of each."
struct Share{A}
    u0::Matrix{Float64}
    p::Matrix{Float64}
    t0::Float64
    t1::Float64
    wanted::String
    chosen::A
    times::Vec
    options::Dict{Symbol, Any}
    seeds::Vector{UInt64}
end

function solve_one!(out, model::Model, share::Share, k::Int)
    run = prepare(
        model, share.u0[:, k], share.p[:, k], share.t0, share.t1,
        share.wanted, share.chosen, share.times, copy(share.options), share.seeds[k],
    )
    while !advance!(run, 1e6)
    end
    if run.retcode in (:Success, :Terminated)
        saved = run.integrator.sol
        copy_saved!(out, share.times, saved.t, saved.u)
    end
    return run.retcode, isempty(run.algorithm) && run.integrator !== nothing ? name_of_default(run.integrator) : run.algorithm
end

"A terminal event ends a trajectory early, at a time of its own that is left out."
function copy_saved!(out, times::Vec, t::Vec, u::Vector{Vec})
    for j in 1:min(length(times), length(t), length(u))
        t[j] == times[j] && (out[:, j] = u[j])
    end
    return nothing
end
