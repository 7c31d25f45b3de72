"""
    Event

One event of a compiled model. `values!` writes the new values of the states `targets`; `up` and
`down` say which zero crossings of `condition` count.
"""
struct Event
    condition::Scalar
    values!::InPlace
    targets::Vector{Int}
    up::Bool
    down::Bool
    terminal::Bool
end

"""
    Model(kind, graph, rhs, differential)

A compiled model: made once, solved as often as wanted. What only some solves need (Jacobian,
diffusion, delays) is added when the first of them asks.
"""
mutable struct Model
    kind::Symbol
    graph::Graph
    rhs_nodes::Vector{Int}
    differential::BitVector
    rhs!::Any
    rhs::InPlace
    events::Vector{Event}
    jacobian::Union{Nothing, Jacobian}
    time_gradient::Union{Nothing, InPlace}
    noise::Any
    delays::Any
    functions::Dict{Any, Any}
    copies::Vector{Model}
end

const KINDS = ("ode", "dae", "sde", "dde")

function Model(kind, graph::Graph, rhs, differential)
    kind in KINDS || throw(ArgumentError("there is no kind of system $kind"))
    nodes = node_numbers(graph, rhs)
    length(nodes) == graph.n_states == length(differential) ||
        throw(ArgumentError("rhs and differential need one entry for each of the $(graph.n_states) states"))
    delays = depends_on(graph, nodes, HISTORY) ? Delays(graph, nodes) : nothing
    f! = delays === nothing ? generate(graph, nodes) : delays.rhs!
    rhs_wrapped = delays === nothing ? wrapped(f!) : InPlace((du, u, p, t) -> error("the model has delays"))
    return Model(
        Symbol(kind),
        graph,
        nodes,
        BitVector(differential),
        f!,
        rhs_wrapped,
        Event[],
        nothing,
        nothing,
        nothing,
        delays,
        Dict{Any, Any}(),
        Model[],
    )
end

n_states(model::Model) = model.graph.n_states

"The same model with buffers of its own: one model is solved by one thread at a time."
function Base.copy(model::Model)
    jacobian = model.jacobian === nothing ? nothing : copy(model.jacobian)
    return Model(
        model.kind,
        model.graph,
        model.rhs_nodes,
        model.differential,
        model.rhs!,
        model.rhs,
        model.events,
        jacobian,
        model.time_gradient === nothing ? nothing : time_gradient(model.rhs!, n_states(model), autonomous(model)),
        model.noise,
        model.delays,
        Dict{Any, Any}(),
        Model[],
    )
end

autonomous(model::Model) = !depends_on(model.graph, model.rhs_nodes, TIME)

"Give the model its noise; entry `k` of `nodes` multiplies Brownian motion `cols[k]` in row `rows[k]`."
function set_noise!(model::Model, nodes, rows, cols, n_noise, type)
    model.noise = Noise(model.graph, node_numbers(model.graph, nodes), rows, cols, Int(n_noise), String(type))
    return nothing
end

"Give the model its Jacobian, as the graph of the exact derivative."
function set_jacobian!(model::Model, graph::Graph, nodes, rows, cols)
    model.jacobian = Jacobian(model.rhs!, graph, nodes, rows, cols)
    model.time_gradient = time_gradient(model.rhs!, n_states(model), autonomous(model))
    empty!(model.functions)
    empty!(model.copies)
    return nothing
end

has_jacobian(model::Model) = model.jacobian !== nothing

"Add an event; `condition`, `values` and `targets` are zero-based, `direction` is up, down or both."
function add_event!(model::Model, condition, values, targets, direction, terminal)
    node = only(node_numbers(model.graph, [condition]))
    outputs = node_numbers(model.graph, values)
    where_to = Vector{Int}(targets) .+ 1
    length(outputs) == length(where_to) || throw(ArgumentError("an event needs one value for each target"))
    all(in(1:n_states(model)), where_to) || throw(ArgumentError("an event sets a state that does not exist"))
    direction in ("up", "down", "both") || throw(ArgumentError("there is no direction $direction"))
    push!(
        model.events,
        Event(
            Scalar(generate_scalar(model.graph, node)),
            isempty(outputs) ? InPlace((out, u, p, t) -> nothing) : wrapped(generate(model.graph, outputs)),
            where_to,
            direction != "down",
            direction != "up",
            Bool(terminal),
        ),
    )
    empty!(model.copies)
    return nothing
end

"Evaluate nodes once: the way tests compare generated code with the graph."
function evaluate(graph::Graph, nodes, u, p, t)
    outputs = node_numbers(graph, nodes)
    out = zeros(length(outputs))
    isempty(outputs) || generate(graph, outputs)(out, Vec(u), Vec(p), Float64(t))
    return out
end
