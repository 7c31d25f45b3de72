# What Python's training calls: numbers cross as addresses, as in memory.jl.

"The array of that shape at an address, not a copy: it must not outlive the call."
array_at(address::Int, shape::Int...) = unsafe_wrap(Array, Ptr{Float64}(address), shape)

"""
A tape of `n` nodes. `layers` has for each layer of all networks: the number of its network, how many go in and out, its
activation, and where its matrix and its biases are; `calls` has for each call a network, an output, and the order of the output's
Taylor coefficient. All count from zero.
"""
function tape_at(
        op::Int, args::Int, constant::Int, index::Int, n::Int, n_states::Int, n_params::Int, outputs::Int, n_outputs::Int,
        layers::Int, n_layers::Int, calls::Int, n_calls::Int,
    )
    rows = reshape(integers(layers, 6n_layers), 6, n_layers)
    networks = Network[]
    for (number, n_in, n_out, activation, matrix, bias) in eachcol(rows)
        number == length(networks) && push!(networks, Dense[])
        0 <= number < length(networks) && 0 <= activation < length(ACTIVATIONS) || throw(ArgumentError("layers are not in order"))
        push!(networks[number + 1], Dense(n_in, n_out, ACTIVATIONS[activation + 1], matrix, bias))
    end
    rows_of_calls = reshape(integers(calls, 3n_calls), 3, n_calls)
    operands = permutedims(reshape(integers(args, 3n), 3, n))
    return Tape(
        Vector{UInt8}(integers(op, n)), operands, floats(constant, n), integers(index, n), n_states, n_params,
        integers(outputs, n_outputs), networks, [rows_of_calls[:, k] for k in 1:n_calls],
    )
end

adaptive_solve(
    tape::Tape, method::String, rows::Int, rtol::Float64, atol::Float64, max_steps::Int, through_steps::Bool,
    integrand::Union{Nothing, Tape} = nothing, dense::Bool = false,
) = AdaptiveSolve(tape, explicit_method(method), rows, rtol, atol, max_steps; through_steps, integrand, dense)

"See [`set!`](@ref)."
function set_integrand_at!(s::BatchSolve, weights::Int, noise::Int)
    g = s.integrand
    g === nothing && throw(ArgumentError("this solve integrates nothing along"))
    return set!(g, array_at(weights, length(g.weights)), array_at(noise, size(s.y0)...))
end

# Arrays of Python are where a solve on a CPU has its own; one on a device has copies of them, in its precision.

"Numbers of Python for a solve."
sent(::HostSolve, numbers::Array) = numbers

"An array that a solve writes, for the numbers of `host`."
found_in(::HostSolve, host::Array) = host

"Write what a solve has found to an array of Python."
fetched!(host::Array{Float64, N}, found::Array{Float64, N}) where {N} = found === host ? host : copyto!(host, found)

"See [`solve!`](@ref); returns what there is to know but for arrays. `y1` is written, too."
function solve_at!(
        s::AdaptiveSolve, p::Int, y0::Int, start::Int, span::Int, t0::Float64, t1::Float64, times::Int, n_times::Int, ys::Int,
        y1::Int, kinetic::Float64,
    )
    rows, n = size(s.y0)
    along = array_at(ys, rows, n, n_times)
    s.kinetic = kinetic
    found = found_in(s, along)
    solve!(
        found, s, array_at(p, n_params(s)), sent(s, array_at(y0, rows, n)), array_at(start, rows), array_at(span, rows), t0, t1,
        array_at(times, n_times),
    )
    fetched!(along, found)
    fetched!(array_at(y1, rows, n), final_state(s))
    return s.success, s.count, s.n_steps, s.n_rejected, s.n_rhs, s.integral
end

"Of every record the error, the stiffness estimate and the step size, to an array of shape `(count, 3)`."
function write_estimates!(s::AdaptiveSolve, address::Int)
    out = array_at(address, s.count, 3)
    for (k, values) in enumerate((s.record.error, s.record.stiffness, s.record.taken))
        copyto!(view(out, :, k), view(values, 1:s.count))
    end
    return nothing
end

"See [`pull!`](@ref); `estimates_bar` has the shape of `write_estimates!`."
function pull_at!(s::AdaptiveSolve, y0_bar::Int, ys_bar::Int, y1_bar::Int, estimates_bar::Int, integral_bar::Float64)
    (rows, n), estimates = size(s.y0), array_at(estimates_bar, s.count, 3)
    by_start = array_at(y0_bar, rows, n)
    found = found_in(s, by_start)
    pull!(
        found, s, sent(s, array_at(ys_bar, rows, n, length(s.times))), sent(s, array_at(y1_bar, rows, n)), view(estimates, :, 1),
        view(estimates, :, 2), view(estimates, :, 3), integral_bar,
    )
    fetched!(by_start, found)
    return nothing
end

n_params(s::AdaptiveSolve) = n_params(s.field)
n_params(s::NoisySolve) = n_params(s.drift)

"Add the derivatives by the parameters to `p_bar`."
function pull_parameters_at!(s::BatchSolve, p_bar::Int)
    parameter_bars!(array_at(p_bar, n_params(s)), s)
    return nothing
end

"""
    Observer(tape, rows)

The outputs of a tape along a solution; member `i` of the batch is at the time `start[i] + length[i] * τ`.
"""
struct Observer
    tape::Tape
    rows::Int
    parameters::Parameters{Float64}
    columns::Columns{Float64}
    bars::Bars{Float64}
    now::Vector{Float64}
end

Observer(tape::Tape, rows::Int) = Observer(
    tape, rows, Parameters{Float64}(tape), Columns{Float64}(tape, rows), Bars{Float64}(tape, rows), zeros(rows),
)

function prepare!(o::Observer, p::AbstractVector)
    set!(o.parameters, o.tape, p)
    spread!(o.columns, o.tape, o.parameters)
    return nothing
end

function evaluate!(o::Observer, u::AbstractMatrix, start::Vector{Float64}, span::Vector{Float64}, τ::Float64)
    @. o.now = start + span * τ
    return evaluate!(o.columns, o.tape, o.parameters, u, o.now, 1)
end

"Write the outputs, shape `(rows, n_outputs, n_times)`, of a solution of shape `(rows, n_states, n_times)`."
function observe_at!(o::Observer, out::Int, p::Int, ys::Int, start::Int, span::Int, times::Int, n_times::Int)
    values, states = array_at(out, o.rows, length(o.tape.outputs), n_times), array_at(ys, o.rows, o.tape.n_states, n_times)
    starts, spans, moments = array_at(start, o.rows), array_at(span, o.rows), array_at(times, n_times)
    prepare!(o, array_at(p, o.tape.n_params))
    for k in 1:n_times
        evaluate!(o, view(states, :, :, k), starts, spans, moments[k])
        for (j, column) in enumerate(o.tape.outputs), i in 1:o.rows
            values[i, j, k] = o.columns.values[i, column]
        end
    end
    return nothing
end

"From the adjoints of the outputs to those of the solution and of the parameters, to which they are added."
function pull_observed_at!(
        o::Observer, ys_bar::Int, p_bar::Int, out_bar::Int, p::Int, ys::Int, start::Int, span::Int, times::Int, n_times::Int,
    )
    adjoints, states = array_at(out_bar, o.rows, length(o.tape.outputs), n_times), array_at(ys, o.rows, o.tape.n_states, n_times)
    states_bar, moments = array_at(ys_bar, o.rows, o.tape.n_states, n_times), array_at(times, n_times)
    starts, spans = array_at(start, o.rows), array_at(span, o.rows)
    prepare!(o, array_at(p, o.tape.n_params))
    clear!(o.bars)
    for k in 1:n_times
        evaluate!(o, view(states, :, :, k), starts, spans, moments[k])
        begin_pull!(o.bars, o.tape)
        for (j, column) in enumerate(o.tape.outputs), i in 1:o.rows
            o.bars.values[i, column] += adjoints[i, j, k]
        end
        pull!(o.bars, o.columns, o.tape, o.parameters)
        for (column, index) in o.tape.states, i in 1:o.rows
            states_bar[i, index, k] += o.bars.values[i, column]
        end
    end
    parameter_bars!(array_at(p_bar, o.tape.n_params), o.parameters, o.tape, (o.bars,))
    return nothing
end

read_targets(diffusion::Tape, targets::Int) = integers(targets, length(diffusion.outputs)) .+ 1

"`targets` are the zero-based states that noise moves, in the order of the outputs of `diffusion`."
noisy_solve(
    drift::Tape, diffusion::Tape, targets::Int, rows::Int, rtol::Float64, atol::Float64, max_steps::Int,
    integrand::Union{Nothing, Tape} = nothing,
) = NoisySolve(drift, diffusion, read_targets(diffusion, targets), rows, rtol, atol, max_steps; integrand)

"See [`solve!`](@ref); returns what there is to know but for arrays, last of all whether there were too few random numbers."
function solve_noisy_at!(
        s::NoisySolve, p::Int, y0::Int, t0::Float64, t1::Float64, times::Int, n_times::Int, draws::Int, n_draws::Int, ys::Int,
        y1::Int, kinetic::Float64,
    )
    rows, n = size(s.y0)
    along = array_at(ys, rows, n, n_times)
    s.kinetic = kinetic
    found = found_in(s, along)
    solve!(
        found, s, array_at(p, n_params(s)), sent(s, array_at(y0, rows, n)), t0, t1, array_at(times, n_times),
        sent(s, array_at(draws, rows, n, 2, n_draws)),
    )
    fetched!(along, found)
    fetched!(array_at(y1, rows, n), final_state(s))
    return s.success, s.count, s.attempts, NOISY_STAGES * s.attempts, s.integral, s.wants_draws
end

function write_estimates!(s::NoisySolve, address::Int)
    out = array_at(address, s.count, 3)
    for (k, values) in enumerate((s.record.error, s.record.stiffness, s.record.h))
        copyto!(view(out, :, k), view(values, 1:s.count))
    end
    return nothing
end

function pull_noisy_at!(s::NoisySolve, y0_bar::Int, ys_bar::Int, y1_bar::Int, estimates_bar::Int, integral_bar::Float64)
    (rows, n), estimates = size(s.y0), array_at(estimates_bar, s.count, 2)
    by_start = array_at(y0_bar, rows, n)
    found = found_in(s, by_start)
    pull!(
        found, s, sent(s, array_at(ys_bar, rows, n, s.n_times)), sent(s, array_at(y1_bar, rows, n)), view(estimates, :, 1),
        view(estimates, :, 2), integral_bar,
    )
    fetched!(by_start, found)
    return nothing
end

function local_noisy_at!(
        s::NoisySolve, uniform::Bool, where::Float64, y1::Int, draw::Int, error_bar::Float64, stiffness_bar::Float64,
    )
    rows, n = size(s.y0)
    end_state, numbers = sent(s, array_at(y1, rows, n)), sent(s, array_at(draw, rows, n, 2))
    return local_estimate!(s, uniform, where, end_state, numbers, error_bar, stiffness_bar)
end
