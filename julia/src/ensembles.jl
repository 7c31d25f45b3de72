"""
    solve_many(model, u0, p, t0, t1, algorithm, rtol, atol, saveat, dt, max_steps, seeds, threads, static = false)

Solve for every column of `u0` and `p`, with its own seed, on that many threads; on static vectors if `static`, which is
what [`prepare_static`](@ref) said.

Returns `(u, codes, names, algorithm)`: `u` of shape `(n_states, n_t, count)`, not a number where a
trajectory has no value, and return code `names[codes[k]]` (zero-based) of trajectory `k`. The rest
as for [`start`](@ref).
"""
function solve_many(model::Model, u0, p, t0, t1, name, rtol, atol, saveat, dt, max_steps, seeds, threads, static = false)
    u = zeros(n_states(model), length(saveat), size(u0, 2))
    return u, solve_many!(u, model, u0, p, t0, t1, name, rtol, atol, saveat, dt, max_steps, seeds, threads, static)...
end

"As [`solve_many`](@ref), into the array `u`."
function solve_many!(u, model::Model, u0, p, t0, t1, name, rtol, atol, saveat, dt, max_steps, seeds, threads, static = false)
    starts, parameters = Matrix{Float64}(u0), Matrix{Float64}(p)
    count = size(starts, 2)
    plan = make_plan(model, Float64(t0), Float64(t1), String(name), rtol, atol, saveat, dt, max_steps)
    share = Share(starts, parameters, Float64(t0), Float64(t1), plan, Vector{UInt64}(seeds))
    n_threads = clamp(threads, 1, min(count, Threads.nthreads()))
    while length(model.copies) < n_threads
        push!(model.copies, copy(model))
    end
    fill!(u, NaN)
    retcodes = fill(:Default, count)
    algorithms = fill(plan.name, n_threads)
    next = Threads.Atomic{Int}(1)
    on_static = static ? static_function(model) : nothing # no buffers: all threads share it
    solve_some(number) = begin
        mine = model.copies[number]
        f = static ? on_static : is_plain(mine, plan) ? ode_function(mine, plan.with_jacobian) : nothing
        # The algorithm's package may have been loaded by this very call.
        algorithms[number] = Base.invokelatest(solve_share!, f, u, retcodes, mine, share, next)
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
struct Share{P <: Plan}
    u0::Matrix{Float64}
    p::Matrix{Float64}
    t0::Float64
    t1::Float64
    plan::P
    seeds::Vector{UInt64}
end

"Whether a solve is that of ordinary differential equations and nothing else."
is_plain(model::Model, plan::Plan) =
    model.kind === :ode && isempty(model.events) && isempty(model.jumps) && plan.form === :whole && !(plan.algorithm isa Aggregator)

"Solve trajectories until none is left; returns the name of the algorithm. `f` is the function of a plain model."
function solve_share!(f::F, u, retcodes::Vector{Symbol}, model::Model, share::Share, next) where {F}
    name = share.plan.name
    count = size(share.u0, 2)
    with_logger(NullLogger()) do
        while true
            k = Threads.atomic_add!(next, 1)
            k > count && break
            code, used = solve_one!(f, view(u, :, :, k), model, share, k)
            retcodes[k] = code
            isempty(used) || (name = used)
        end
    end
    return name
end

function solve_one!(f::F, out, ::Model, share::Share, k::Int) where {F}
    plan = share.plan
    problem = trajectory(f, share, k)
    try
        integrator = integrator_with(problem, plan.algorithm, plan.options)
        SciMLBase.solve!(integrator)
        saved = integrator.sol
        saved.retcode == ReturnCode.Success || return Symbol(saved.retcode), plan.name
        copy_saved!(out, plan.times, saved.t, saved.u)
        return :Success, isempty(plan.name) ? name_of_default(integrator) : plan.name
    catch error
        return first(describe(error)), plan.name
    end
end

"The problem of one trajectory, in place or, on a static vector of states, out of place."
trajectory(f::ODEFunction{true}, share::Share, k::Int) =
    ODEProblem{true, SciMLBase.FullSpecialize}(f, share.u0[:, k], (share.t0, share.t1), share.p[:, k])
trajectory(f::ODEFunction{false}, share::Share, k::Int) =
    ODEProblem{false, SciMLBase.FullSpecialize}(f, static_start(f.f, share.u0, k), (share.t0, share.t1), share.p[:, k])

static_start(::Static{N}, u0::Matrix{Float64}, k::Int) where {N} = SVector{N}(view(u0, :, k))

function solve_one!(::Nothing, out, model::Model, share::Share, k::Int)
    run = prepare(model, share.plan, share.u0[:, k], share.p[:, k], share.t0, share.t1, share.seeds[k])
    while !advance!(run, 1e6)
    end
    if run.retcode in (:Success, :Terminated)
        saved = run.integrator.sol
        copy_saved!(out, share.plan.times, saved.t, saved_states(saved.u, length(saved.t), run.halves))
    end
    return run.retcode, isempty(run.algorithm) && run.integrator !== nothing ? name_of_default(run.integrator) : run.algorithm
end

"A terminal event ends a trajectory early, at a time of its own that is left out."
function copy_saved!(out, times::Vec, t::Vec, u::Vector{<:AbstractVector{Float64}})
    for j in 1:min(length(times), length(t), length(u))
        t[j] == times[j] && (out[:, j] = u[j])
    end
    return nothing
end
