# NumPy arrays cross as the address of their memory and a length: for each type of wrapper around Python's arrays Julia
# would compile every function they meet again. The caller keeps an array alive, and contiguous, for as long as the call.

"A copy of `n` numbers at an address."
floats(address::Int, n::Int) = copy(unsafe_wrap(Array, Ptr{Float64}(address), n))
integers(address::Int, n::Int) = copy(unsafe_wrap(Array, Ptr{Int64}(address), n))
"An address of 0 stands for no array."
maybe_floats(address::Int, n::Int) = address == 0 ? nothing : floats(address, n)
"The absolute tolerance: of all states, or of each where there is an address."
absolute(atol::Float64, address::Int, n::Int) = address == 0 ? atol : floats(address, n)

"A graph of `n` nodes; `args` is row by row."
function graph_at(op::Int, args::Int, constant::Int, index::Int, n::Int, n_states::Int, n_params::Int)
    operands = permutedims(reshape(integers(args, 3n), 3, n))
    return Graph(integers(op, n), operands, floats(constant, n), integers(index, n), n_states, n_params)
end

"""
See [`start`](@ref); works for at most `seconds` and returns the run, followed by what it came to if it is finished, else by
nothing.
"""
function start_at(
        model::Model, u0::Int, p::Int, t0::Float64, t1::Float64, name::String, rtol::Float64, atol::Float64, atols::Int,
        saveat::Int, n_saveat::Int, dt::Float64, max_steps::Int, seed::Int, seconds::Float64,
    )
    starts, parameters = floats(u0, n_states(model)), floats(p, model.graph.n_params)
    times = maybe_floats(saveat, n_saveat)
    tolerance = absolute(atol, atols, n_states(model))
    run = start(model, starts, parameters, t0, t1, name, rtol, tolerance, times, dt, max_steps, seed)
    return run, advance!(run, seconds) ? outcome(run) : nothing
end

"As `start_at` for [`start_on_device`](@ref), on a `device` in a `precision` of Python's names; there is no seed."
function start_on_device_at(
        model::Model, u0::Int, p::Int, t0::Float64, t1::Float64, name::String, rtol::Float64, atol::Float64, atols::Int,
        saveat::Int, n_saveat::Int, dt::Float64, max_steps::Int, seconds::Float64, device::String, precision::String,
    )
    starts, parameters = floats(u0, n_states(model)), floats(p, model.graph.n_params)
    times = maybe_floats(saveat, n_saveat)
    tolerance = absolute(atol, atols, n_states(model))
    place = Base.invokelatest(backend, Val(Symbol(device)))
    run = start_on_device(
        model, place, starts, parameters, t0, t1, name, rtol, tolerance, times, dt, max_steps, number_type(precision),
    )
    return run, advance!(run, seconds) ? outcome(run) : nothing
end

"As `start_on_device_at` for [`start_together`](@ref): `count` trajectories, states and parameters of each in a column."
function start_together_at(
        model::Model, u0::Int, p::Int, count::Int, t0::Float64, t1::Float64, name::String, rtol::Float64, atol::Float64,
        saveat::Int, n_saveat::Int, dt::Float64, max_steps::Int, device::String, precision::String,
    )
    in_rows(address, n) = permutedims(reshape(floats(address, n * count), n, count))
    starts, parameters = in_rows(u0, n_states(model)), in_rows(p, model.graph.n_params)
    place = Base.invokelatest(backend, Val(Symbol(device)))
    return start_together(
        model, place, starts, parameters, t0, t1, name, rtol, atol, floats(saveat, n_saveat), dt, max_steps,
        number_type(precision),
    )
end

"The numbers of a precision of Python's name."
number_type(precision::String) = precision == "float32" ? Float32 : Float64

"What a run came to, but for its arrays, which `write_outcome` copies: their lengths come first."
function outcome(run::Run)
    t, u, algorithm, retcode, message, n_steps, n_rejected, n_rhs, _, times, numbers = result(run)
    run.outcome = (t, u, times, numbers)
    return length(t), length(times), algorithm, retcode, message, n_steps, n_rejected, n_rhs, run.log.jumps
end

"Copy the arrays of an outcome to where they are wanted, after which the run is empty."
function write_outcome(run::Run, t::Int, u::Int, times::Int, numbers::Int)
    for (array, address) in zip(run.outcome, (t, u, times, numbers))
        GC.@preserve array unsafe_copyto!(Ptr{eltype(array)}(address), pointer(array), length(array))
    end
    empty!(run)
    return nothing
end

"""
Let go of all that a run holds. What Python was given is kept until the collector has told Python, which it does when it
sees fit: it knows nothing of how much hangs on that.
"""
function Base.empty!(run::Run)
    run.integrator = run.record = run.halves = run.saveat = nothing
    run.log = EventLog()
    run.outcome = (Vec(), zeros(0, 0), Vec(), Int[])
    return run
end

"See [`solve_many`](@ref); the solutions are written to `out`, and the number of each return code to `codes`."
function solve_many_at(
        model::Model, out::Int, codes::Int, u0::Int, p::Int, count::Int, t0::Float64, t1::Float64, name::String, rtol::Float64,
        atol::Float64, saveat::Int, n_saveat::Int, dt::Float64, max_steps::Int, seeds::Int, threads::Int, static::Bool,
        atols::Int,
    )
    n, n_params = n_states(model), model.graph.n_params
    starts, parameters = reshape(floats(u0, n * count), n, count), reshape(floats(p, n_params * count), n_params, count)
    u = unsafe_wrap(Array, Ptr{Float64}(out), (n, n_saveat, count))
    own = reinterpret(UInt64, integers(seeds, count))
    numbers, names, algorithm = solve_many!(
        u, model, starts, parameters, t0, t1, name, rtol, absolute(atol, atols, n), floats(saveat, n_saveat), dt, max_steps, own,
        threads, static,
    )
    copyto!(unsafe_wrap(Array, Ptr{Int64}(codes), count), numbers)
    return join(names, ' '), algorithm
end

"As `solve_many_at` for [`solve_on_device!`](@ref), on a `device` in a `precision` of Python's names."
function solve_on_device_at(
        model::Model, out::Int, codes::Int, u0::Int, p::Int, count::Int, t0::Float64, t1::Float64, name::String, rtol::Float64,
        atol::Float64, saveat::Int, n_saveat::Int, dt::Float64, device::String, precision::String,
    )
    n, n_params = n_states(model), model.graph.n_params
    starts, parameters = reshape(floats(u0, n * count), n, count), reshape(floats(p, n_params * count), n_params, count)
    u = unsafe_wrap(Array, Ptr{Float64}(out), (n, n_saveat, count))
    place, T = Base.invokelatest(backend, Val(Symbol(device))), number_type(precision)
    retcodes = solve_on_device!(u, model, place, starts, parameters, t0, t1, name, rtol, atol, floats(saveat, n_saveat), dt, T)
    names = unique(retcodes)
    copyto!(unsafe_wrap(Array, Ptr{Int64}(codes), count), [findfirst(==(code), names) - 1 for code in retcodes])
    return join(names, ' '), "GPU" * name
end

"See [`prepare_static`](@ref)."
function prepare_static_at(
        model::Model, u0::Int, p::Int, t0::Float64, t1::Float64, name::String, rtol::Float64, atol::Float64,
        saveat::Int, n_saveat::Int, dt::Float64, max_steps::Int, evaluations::Float64,
    )
    start, parameters = floats(u0, n_states(model)), floats(p, model.graph.n_params)
    return prepare_static(
        model, start, parameters, t0, t1, name, rtol, atol, floats(saveat, n_saveat), dt, max_steps, evaluations,
    )
end

"""
Where Julia's runtime keeps the functions by which a thread tells the garbage collector that it will not touch Julia's memory
for a while, and that it does again; zeros where it has none.
"""
function resting_at()
    return try
        Int(cglobal(:jl_gc_safe_enter)), Int(cglobal(:jl_gc_safe_leave))
    catch
        0, 0
    end
end
