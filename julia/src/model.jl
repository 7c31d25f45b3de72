"""
    Event

One event of a compiled model. It fires where `condition` crosses zero (`when` is `:crossing`; `up` and `down`
say which crossings count), after steps where `condition` is not zero (`:step`), or at the `n_times` times that
`times!` writes (`:times`). `values!` writes the new values of the states `targets`.
"""
struct Event
    when::Symbol
    condition::Scalar
    times!::InPlace
    n_times::Int
    values!::InPlace
    targets::Vector{Int}
    up::Bool
    down::Bool
    terminal::Bool
end

"One kind of jump: how often it happens, and the values it gives the states `targets`."
struct Jump
    rate::Scalar
    values!::InPlace
    targets::Vector{Int}
    "The states its rate depends on."
    reads::Vector{Int}
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
    jumps::Vector{Jump}
    "Whether jumps alone change the states."
    pure::Bool
    jacobian::Union{Nothing, Jacobian}
    time_gradient::Union{Nothing, InPlace}
    noise::Any
    delays::Any
    functions::Dict{Any, Any}
    copies::Vector{Model}
    "Positions and velocities, for symplectic and Nyström methods."
    halves::Union{Nothing, Halves}
    "An implicit and an explicit part, for methods that want the right-hand side so."
    split::Union{Nothing, Split}
    "The same by Fourier modes, for methods that take a linear part: a `ModalSplit`."
    modes::Any

    Model(
        kind::Symbol, graph, rhs_nodes, differential, rhs!, rhs, events, jumps, pure, jacobian, time_gradient, noise, delays,
        functions, copies,
    ) = new(
        kind, graph, rhs_nodes, differential, rhs!, rhs, events, jumps, pure, jacobian, time_gradient, noise, delays, functions,
        copies, nothing, nothing, nothing,
    )
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
        Jump[],
        false,
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
    model.rhs! isa Fields && return copy_fields(model)
    jacobian = model.jacobian === nothing ? nothing : copy(model.jacobian)
    made = Model(
        model.kind,
        model.graph,
        model.rhs_nodes,
        model.differential,
        model.rhs!,
        model.rhs,
        model.events,
        model.jumps,
        model.pure,
        jacobian,
        model.time_gradient === nothing ? nothing : time_gradient(model.rhs!, n_states(model), autonomous(model)),
        model.noise,
        model.delays,
        Dict{Any, Any}(),
        Model[],
    )
    made.halves = model.halves
    made.split = model.split === nothing ? nothing : copy(model.split)
    return made
end

autonomous(model::Model) = !depends_on(model.graph, model.rhs_nodes, TIME)

"Give the model its noise; entry `k` of `nodes` multiplies Brownian motion `cols[k]` in row `rows[k]`."
function set_noise!(model::Model, nodes, rows, cols, n_noise, type)
    entries! = generate(model.graph, node_numbers(model.graph, nodes))
    model.noise = Noise(entries!, n_states(model), rows, cols, Int(n_noise), String(type))
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

"""
Add an event: `when` it fires (crossing, step or times), by `conditions` (one, or the times); `conditions`, `values` and
`targets` are zero-based, `direction` is up, down or both.
"""
function add_event!(model::Model, when, conditions, values, targets, direction, terminal)
    nodes = node_numbers(model.graph, conditions)
    outputs = node_numbers(model.graph, values)
    where_to = Vector{Int}(targets) .+ 1
    length(outputs) == length(where_to) || throw(ArgumentError("an event needs one value for each target"))
    all(in(1:n_states(model)), where_to) || throw(ArgumentError("an event sets a state that does not exist"))
    direction in ("up", "down", "both") || throw(ArgumentError("there is no direction $direction"))
    when in ("crossing", "step", "times") || throw(ArgumentError("events do not fire by $when"))
    at_times = when == "times"
    length(nodes) == 1 || at_times && !isempty(nodes) || throw(ArgumentError("an event needs one condition"))
    push!(
        model.events,
        Event(
            Symbol(when),
            at_times ? Scalar((u, p, t) -> 0.0) : Scalar(generate_scalar(model.graph, only(nodes))),
            at_times ? wrapped(generate(model.graph, nodes)) : InPlace((out, u, p, t) -> nothing),
            at_times ? length(nodes) : 0,
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
