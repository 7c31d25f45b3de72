"""
    Graph(op, args, constant, index, n_states, n_params)

A hash-consed expression graph in topological order, from the zero-based arrays of Python.

# Fields
- `op`: operation codes (see [`OPERATIONS`](@ref)).
- `args`: `(3, n)`, one-based operand nodes, 0 where an operation takes fewer.
- `constant`: the values of constant nodes.
- `index`: one-based: which state or parameter a leaf is.

Throws an `ArgumentError` for arrays that are not a graph.
"""
struct Graph
    op::Vector{UInt8}
    args::Matrix{Int}
    constant::Vector{Float64}
    index::Vector{Int}
    n_states::Int
    n_params::Int

    function Graph(op, args, constant, index, n_states::Integer, n_params::Integer)
        graph = new(
            Vector{UInt8}(op),
            Matrix{Int}(permutedims(args)) .+ 1,
            Vector{Float64}(constant),
            Vector{Int}(index) .+ 1,
            Int(n_states),
            Int(n_params),
        )
        check(graph)
        return graph
    end
end

Base.length(graph::Graph) = length(graph.op)

function check(graph::Graph)
    n = length(graph)
    size(graph.args) == (3, n) && length(graph.constant) == n && length(graph.index) == n ||
        throw(ArgumentError("op has $n nodes, and args, constant and index do not match it"))
    for node in 1:n
        code = graph.op[node]
        haskey(OPERATIONS, code) || throw(ArgumentError("node $node has the unknown operation code $code"))
        operation = OPERATIONS[code]
        for k in 1:3
            operand = graph.args[k, node]
            right = k <= operation.arity ? 1 <= operand < node : operand == 0
            right || throw(ArgumentError("node $node ($(operation.name)) has bad operands"))
        end
        if operation.indexes !== :nothing
            limit = operation.indexes === :params ? graph.n_params : graph.n_states
            1 <= graph.index[node] <= limit ||
                throw(ArgumentError("node $node ($(operation.name)) has a bad index"))
        end
    end
    return nothing
end

"Turn zero-based node numbers of Python into checked one-based ones."
function node_numbers(graph::Graph, nodes)
    numbers = Vector{Int}(nodes) .+ 1
    all(in(1:length(graph)), numbers) || throw(ArgumentError("an output names nodes that do not exist"))
    return numbers
end

"Mark every node that `nodes` depend on, themselves included."
function reachable(graph::Graph, nodes::Vector{Int})
    needed = falses(length(graph))
    needed[nodes] .= true
    for node in length(graph):-1:1
        needed[node] || continue
        for k in 1:3
            operand = graph.args[k, node]
            operand == 0 || (needed[operand] = true)
        end
    end
    return needed
end

"Whether `nodes` depend on a leaf with this operation code."
depends_on(graph::Graph, nodes::Vector{Int}, code::UInt8) =
    any(node -> graph.op[node] == code, findall(reachable(graph, nodes)))
