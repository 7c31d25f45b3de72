"When which event fired (one-based numbers)."
struct EventLog
    times::Vec
    numbers::Vector{Int}
end

EventLog() = EventLog(Float64[], Int[])

# Callbacks are objects of one type for all models, so that solvers are compiled once.

struct Condition
    f::Scalar
end

(condition::Condition)(u, t, integrator) = condition.f(u, integrator.p, t)

struct Affect
    event::Event
    number::Int
    log::EventLog
    buffer::Vec
    model::Model
end

function (affect::Affect)(integrator)
    push!(affect.log.times, integrator.t)
    push!(affect.log.numbers, affect.number)
    if !isempty(affect.event.targets)
        affect.event.values!(affect.buffer, integrator.u, integrator.p, integrator.t)
        for (k, state) in enumerate(affect.event.targets)
            integrator.u[state] = affect.buffer[k]
        end
        consistent!(affect.model, integrator.u, integrator.p, integrator.t) || terminate!(integrator, ReturnCode.InitialFailure)
    end
    affect.event.terminal && terminate!(integrator)
    return nothing
end

"The callbacks of a model; with `saves`, the states just before and after an event are output."
function callbacks(model::Model, log::EventLog, saves::Bool)
    isempty(model.events) && return nothing
    made = map(enumerate(model.events)) do (number, event)
        affect! = Affect(event, number, log, zeros(length(event.targets)), model)
        ContinuousCallback(
            Condition(event.condition),
            event.up ? affect! : nothing,
            event.down ? affect! : nothing;
            save_positions = (saves, saves),
        )
    end
    return CallbackSet(made...)
end
