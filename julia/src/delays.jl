"""
    Delays(graph, nodes)

The right-hand side of a delay equation. `values` are its delayed values in an order in which each
one's time depends on earlier ones only; `times[k](u, h, p, t)` is when value `k` is taken.
"""
struct Delays
    values::Vector{Int}
    states::Vector{Int}
    times::Vector{Any}
    lags::Vector{Any}
    constant::BitVector
    rhs!::Any
end

function Delays(graph::Graph, nodes::Vector{Int})
    values = filter(node -> graph.op[node] == HISTORY, findall(reachable(graph, nodes)))
    time_nodes = [graph.args[1, node] for node in values]
    times = Any[generate(graph, [node]; history = values) for node in time_nodes]
    constant = BitVector(!any(code -> depends_on(graph, [node], code), (STATE, HISTORY)) for node in time_nodes)
    lags = Any[
        depends_on(graph, [node], HISTORY) ? nothing : generate(graph, [node]) for node in time_nodes
    ]
    rhs! = generate(graph, nodes; history = values)
    return Delays(values, graph.index[values], times, lags, constant, rhs!)
end

"`f!(du, u, h, p, t)` as DelayDiffEq calls it."
struct DelayedRHS{F}
    delays::Delays
    rhs!::F
    times::Vector{Any}
    values::Vec
    one::Vec
end

function (f::DelayedRHS)(du, u, h, p, t)
    for (k, time!) in enumerate(f.times)
        time!(f.one, u, f.values, p, t)
        f.values[k] = h(p, f.one[1]; idxs = f.delays.states[k])
    end
    f.rhs!(du, u, f.values, p, t)
    return nothing
end

const Delayed = FunctionWrapper{Nothing, Tuple{Vec, Vec, Vec, Vec, Float64}}

"The constant history before the start."
struct ConstantHistory
    u0::Vec
end

(h::ConstantHistory)(p, t; idxs = nothing) = idxs === nothing ? copy(h.u0) : h.u0[idxs]
(h::ConstantHistory)(out, p, t; idxs = nothing) = idxs === nothing ? copyto!(out, h.u0) : copyto!(out, h.u0[idxs])

function delay_problem(model, u0::Vec, p::Vec, t0::Float64, t1::Float64)
    delays = model.delays
    t1 > t0 || throw(ArgumentError("delay equations are solved forward in time"))
    wrapped_rhs = Delayed(Quiet(delays.rhs!))
    times = Any[Delayed(Quiet(time!)) for time! in delays.times]
    f = DelayedRHS(delays, wrapped_rhs, times, zeros(length(delays.values)), zeros(1))
    constant_lags = Float64[]
    dependent_lags = []
    for (k, lag!) in enumerate(delays.lags)
        lag! === nothing && continue
        one = zeros(1)
        lag(u, p, t) = (lag!(one, u, p, t); t - one[1])
        seen = [lag(u0, p, t) for t in range(t0, t1; length = 7)]
        if delays.constant[k] && all(isapprox(first(seen); rtol = 1e-9), seen)
            first(seen) > 0 && push!(constant_lags, first(seen))
        else
            push!(dependent_lags, lag)
        end
    end
    problem_function = SciMLBase.DDEFunction{true, SciMLBase.FullSpecialize}(f)
    return SciMLBase.DDEProblem(
        problem_function, u0, ConstantHistory(copy(u0)), (t0, t1), p;
        constant_lags = unique(constant_lags), dependent_lags = Tuple(dependent_lags),
    )
end
