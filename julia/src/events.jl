"When which event fired (one-based numbers), and how many jumps there were."
mutable struct EventLog
    times::Vec
    numbers::Vector{Int}
    jumps::Int
end

EventLog() = EventLog(Float64[], Int[], 0)

# Callbacks are objects of one type for all models, so that solvers are compiled once.

struct Condition
    f::Scalar
end

(condition::Condition)(u, t, integrator) = condition.f(u, integrator.p, t)

"Whether a condition holds: generated code gives 1 or 0."
struct Holds
    f::Scalar
end

(holds::Holds)(u, t, integrator) = holds.f(u, integrator.p, t) != 0

"Whether the solver is at one of the times, which it steps to exactly."
struct AtTimes
    times::Vec
end

(at::AtTimes)(u, t, integrator) = insorted(t, at.times)

struct Affect
    event::Event
    number::Int
    log::EventLog
    buffer::Vec
    model::Model
    amends::Bool
end

function (affect::Affect)(integrator)
    push!(affect.log.times, integrator.t)
    push!(affect.log.numbers, affect.number)
    if !isempty(affect.event.targets)
        set_states!(integrator.u, affect.event, affect.buffer, integrator.p, integrator.t)
        states_changed!(integrator)
        consistent!(affect.model, integrator.u, integrator.p, integrator.t) || terminate!(integrator, ReturnCode.InitialFailure)
    end
    affect.amends && amend_saved!(integrator)
    affect.event.terminal && terminate!(integrator)
    return nothing
end

"Output at the time of an event that was saved before it gets the values after it."
function amend_saved!(integrator)
    saved, k = integrator.sol, n_saved(integrator)
    0 < k <= length(saved.u) && saved.t[k] == integrator.t && copyto!(saved.u[k], integrator.u)
    return nothing
end

"Write what an event or a jump sets, from the values just before it."
function set_states!(u, happening, buffer::Vec, p, t)
    happening.values!(buffer, u, p, t)
    for (k, state) in enumerate(happening.targets)
        u[state] = buffer[k]
    end
    return nothing
end

"Tell an integrator that has drawn the next jump already that its rate is another one now."
states_changed!(integrator) = nothing

"The times of an event that lie in the time span, ordered."
function times_within(event::Event, u::Vec, p::Vec, t0::Float64, t1::Float64)
    event.when === :times || return Vec()
    times = zeros(event.n_times)
    event.times!(times, u, p, t0)
    low, high = minmax(t0, t1)
    return sort!(unique!(filter!(t -> low <= t <= high, times)))
end

"""
Let the events at the start happen before it: `u` is changed. The number of one that ends the solve there, else 0.
"""
function start_events!(model::Model, u::Vec, p::Vec, t0::Float64, t1::Float64, log::EventLog)
    for (number, event) in enumerate(model.events)
        t0 in times_within(event, u, p, t0, t1) || continue
        event.terminal && return number
        push!(log.times, t0)
        push!(log.numbers, number)
        set_states!(u, event, zeros(length(event.targets)), p, t0)
    end
    return 0
end

"""
The callbacks of a model, and the times the solver must step to; with `saves`, the states just before and
after an event are output.
"""
function callbacks(model::Model, u::Vec, p::Vec, t0::Float64, t1::Float64, log::EventLog, saves::Bool)
    stops = Vec()
    made = map(enumerate(model.events)) do (number, event)
        affect! = Affect(event, number, log, zeros(length(event.targets)), model, !saves && event.when === :times)
        if event.when === :crossing
            return ContinuousCallback(
                Condition(event.condition),
                event.up ? affect! : nothing,
                event.down ? affect! : nothing;
                save_positions = (saves, saves),
            )
        end
        event.when === :step && return DiscreteCallback(Holds(event.condition), affect!; save_positions = (saves, saves))
        times = filter!(!=(t0), times_within(event, u, p, t0, t1))
        append!(stops, times)
        return DiscreteCallback(AtTimes(times), affect!; save_positions = (saves, saves))
    end
    return made, sort!(unique!(stops))
end
