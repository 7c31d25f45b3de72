# Where nothing changes between jumps, JumpProcesses.jl samples them exactly (an extension, loaded when first needed).
# Otherwise the last state is the integral of all rates: the next jump is where it reaches zero.

"Add a jump; `rate`, `values` and `targets` are zero-based."
function add_jump!(model, rate, values, targets)
    node = only(node_numbers(model.graph, [rate]))
    outputs = node_numbers(model.graph, values)
    where_to = Vector{Int}(targets) .+ 1
    length(outputs) == length(where_to) > 0 || throw(ArgumentError("a jump needs one value for each target"))
    all(in(1:n_states(model)), where_to) || throw(ArgumentError("a jump sets a state that does not exist"))
    needed = findall(reachable(model.graph, [node]))
    reads = [model.graph.index[k] for k in needed if model.graph.op[k] == STATE]
    jump = Jump(Scalar(generate_scalar(model.graph, node)), wrapped(generate(model.graph, outputs)), where_to, reads)
    push!(model.jumps, jump)
    empty!(model.copies)
    return nothing
end

"Say that jumps alone change the states of a model."
set_pure!(model) = (model.pure = true; nothing)

"The rate of a jump now. Throws an `ErrorException` where that is no rate."
rate_of(jump::Jump, number::Int, u, p, t) = checked(jump.rate(u, p, t), number, t)

function checked(rate::Float64, number::Int, t)
    rate >= 0 && isfinite(rate) || error("the rate of jump $number is $rate at t = $t: it must not be negative")
    return rate
end

"A solver's way to sample jumps between which nothing changes."
struct Aggregator
    name::Symbol
end

const AGGREGATORS = (:Direct, :FRM, :SortingDirect, :NRM)

"Which rates each jump changes: those that depend on a state it sets."
dependencies(jumps::Vector{Jump}) =
    [[k for (k, other) in enumerate(jumps) if k == number || !isdisjoint(other.reads, jump.targets)] for
     (number, jump) in enumerate(jumps)]

"The integrator of a model whose jumps alone change it; a method of the extension for JumpProcesses.jl."
function pure_integrator end

struct Exhausted end
(::Exhausted)(u, t, integrator) = u[end]

"What happens where the integral of the rates reaches zero: one of the jumps, and the next one is drawn."
struct NextJump
    jumps::Vector{Jump}
    rng::Xoshiro
    rates::Vec
    buffers::Vector{Vec}
    log::EventLog
end

function (next::NextJump)(integrator)
    u, p, t = integrator.u, integrator.p, integrator.t
    jumps = next.jumps
    for (k, jump) in enumerate(jumps)
        next.rates[k] = jump.rate(u, p, t)
    end
    # A state that tends to zero may be a little below it.
    slack = 1.0e-6 * sum(rate -> max(rate, 0.0), next.rates)
    for (k, rate) in enumerate(next.rates)
        next.rates[k] = rate < 0 && rate >= -slack ? 0.0 : checked(rate, k, t)
    end
    total = sum(next.rates)
    if total > 0
        threshold = rand(next.rng) * total
        k, passed = 1, next.rates[1]
        while passed <= threshold && k < length(jumps)
            k += 1
            passed += next.rates[k]
        end
        set_states!(u, jumps[k], next.buffers[k], p, t)
        next.log.jumps += 1
    end
    u[end] = -randexp(next.rng)
    return nothing
end

"The callback that makes jumps happen, whose random numbers come from the seed; `u` gets the first threshold."
function jump_callback!(u::Vec, model, seed::UInt64, log::EventLog, saves::Bool)
    rng = Xoshiro(seed)
    u[end] = -randexp(rng)
    buffers = [zeros(length(jump.targets)) for jump in model.jumps]
    affect! = NextJump(model.jumps, rng, zeros(length(model.jumps)), buffers, log)
    return ContinuousCallback(Exhausted(), affect!, nothing; save_positions = (saves, saves))
end
