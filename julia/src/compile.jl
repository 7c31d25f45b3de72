const Vec = Vector{Float64}

"`f!(out, u, p, t)`, whatever the model: solvers are compiled once for all models."
const InPlace = FunctionWrapper{Nothing, Tuple{Vec, Vec, Vec, Float64}}
"`f(u, p, t)`: one number."
const Scalar = FunctionWrapper{Float64, Tuple{Vec, Vec, Float64}}

"""
    generate(graph, outputs; history = Int[])

A function `f!(out, u, p, t)` of any number type (`f!(out, u, h, p, t)` with delayed values `h`) for
the nodes `outputs`: through Symbolics, with common subexpressions computed once.
"""
function generate(graph::Graph, outputs::Vector{Int}; history::Vector{Int} = Int[])
    symbols = Symbols(graph, length(history))
    expressions = trace(graph, outputs, symbols; history)
    delayed = isempty(history) ? () : (symbols.history,)
    _, in_place = Symbolics.build_function(
        expressions,
        symbols.states,
        delayed...,
        symbols.params,
        symbols.time;
        expression = Val{false},
        cse = true,
        iip_config = (false, true),
    )
    return in_place
end

"Drops a generated function's result, so that a wrapper can promise to return nothing."
struct Quiet{F}
    f!::F
end

function (quiet::Quiet)(args...)
    quiet.f!(args...)
    return nothing
end

wrapped(f!) = InPlace(Quiet(f!))

"A function `f(u, p, t)` of one node."
function generate_scalar(graph::Graph, node::Int)
    symbols = Symbols(graph)
    expression = only(trace(graph, [node], symbols))
    return Symbolics.build_function(
        expression,
        symbols.states,
        symbols.params,
        symbols.time;
        expression = Val{false},
        cse = true,
    )
end
