"""
    Symbols(graph, n_history = 0)

The symbols that stand for a graph's leaves: `states`, `params`, `time`, and one for every delayed
value.
"""
struct Symbols
    states::Vector{Num}
    params::Vector{Num}
    time::Num
    history::Vector{Num}
end

Symbols(graph::Graph, n_history::Integer = 0) = Symbols(graph.n_states, graph.n_params, n_history)

function Symbols(n_states::Integer, n_params::Integer, n_history::Integer = 0)
    many(name, n) = Num[Symbolics.variable(name, i) for i in 1:n]
    return Symbols(many(:u, n_states), many(:p, n_params), Symbolics.variable(:t), many(:h, n_history))
end

"""
    trace(graph, outputs, symbols; history = Int[], table = OPERATIONS) -> Vector{Num}

Write the nodes `outputs` as Symbolics expressions, in one pass over the graph: every node becomes one
expression, which all its users share. `history[k]` is the node whose value `symbols.history[k]` is, `table` what the
operations are.
"""
function trace(graph::Graph, outputs::Vector{Int}, symbols::Symbols; history::Vector{Int} = Int[], table = OPERATIONS)
    needed = reachable(graph, outputs)
    place = Dict(node => k for (k, node) in enumerate(history))
    values = Vector{Num}(undef, length(graph))
    for node in 1:length(graph)
        needed[node] && (values[node] = expression(graph, node, values, symbols, place, table))
    end
    return Num[as_number(graph, values, node) for node in outputs]
end

function expression(graph::Graph, node::Int, values::Vector{Num}, symbols::Symbols, place::Dict{Int, Int}, table)
    code = graph.op[node]
    code == CONST && return table[code].apply(graph.constant[node])
    code == TIME && return symbols.time
    code == STATE && return symbols.states[graph.index[node]]
    code == PARAM && return symbols.params[graph.index[node]]
    code == HISTORY && return symbols.history[place[node]]
    operation = table[code]
    operands = [graph.args[k, node] for k in 1:operation.arity]
    logical = operation.name in (:and, :or, :not)
    args = map(enumerate(operands)) do (k, operand)
        wants_condition = logical || (code == SELECT && k == 1)
        return wants_condition ? as_condition(graph, values, operand) : as_number(graph, values, operand)
    end
    return operation.apply(args...)
end

is_condition(graph::Graph, node::Int) = OPERATIONS[graph.op[node]].boolean

"Conditions are the numbers 1 and 0 where a number is wanted."
as_number(graph::Graph, values::Vector{Num}, node::Int) =
    is_condition(graph, node) ? opaque(select, Real, values[node], 1.0, 0.0) : values[node]

"Numbers hold where they are not zero."
as_condition(graph::Graph, values::Vector{Num}, node::Int) =
    is_condition(graph, node) ? values[node] : opaque(!=, Bool, values[node], 0.0)
