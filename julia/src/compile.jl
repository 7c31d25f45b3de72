const Vec = Vector{Float64}

"`f!(out, u, p, t)`, whatever the model: solvers are compiled once for all models."
const InPlace = FunctionWrapper{Nothing, Tuple{Vec, Vec, Vec, Float64}}
"`f(u, p, t)`: one number."
const Scalar = FunctionWrapper{Float64, Tuple{Vec, Vec, Float64}}
"`f!(part of out, u, p, t)`"
const Part = FunctionWrapper{Nothing, Tuple{SubArray{Float64, 1, Vec, Tuple{UnitRange{Int}}, true}, Vec, Vec, Float64}}

"""
Functions of at most this many outputs are one piece of generated code. The time to generate and
compile a function grows faster than its length, so larger ones are several, and what these have in
common is computed in each.
"""
const OUTPUTS_AT_ONCE = 64

"""
    generate(graph, outputs; history = Int[])

A function `f!(out, u, p, t)` of any number type (`f!(out, u, h, p, t)` with delayed values `h`) for
the nodes `outputs`: through Symbolics, with common subexpressions computed once.
"""
function generate(graph::Graph, outputs::Vector{Int}; history::Vector{Int} = Int[])
    if isempty(history) && length(outputs) >= REPEATING
        forms = in_forms(graph, outputs)
        forms === nothing || return forms
    end
    symbols = Symbols(graph, length(history))
    expressions = trace(graph, outputs, symbols; history)
    delayed = isempty(history) ? () : (symbols.history,)
    length(expressions) <= OUTPUTS_AT_ONCE && return build(expressions, symbols, delayed)
    ranges = [low:min(low + OUTPUTS_AT_ONCE - 1, length(expressions)) for low in 1:OUTPUTS_AT_ONCE:length(expressions)]
    functions = Any[build(expressions[range], symbols, delayed) for range in ranges]
    return Parts(ranges, functions, isempty(history) ? [Part(Quiet(f!)) for f! in functions] : Part[])
end

"Symbolics to a function in place."
function build(expressions::AbstractArray{Num}, symbols::Symbols, delayed = ())
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

"A long function as several: `functions[k]` writes `out[ranges[k]]`."
struct Parts
    ranges::Vector{UnitRange{Int}}
    functions::Vector{Any}
    wrapped::Vector{Part}
end

function (parts::Parts)(out::Vec, u::Vec, p::Vec, t::Float64)
    for (range, f!) in zip(parts.ranges, parts.wrapped)
        f!(view(out, range), u, p, t)
    end
    return nothing
end

function (parts::Parts)(out, args...)
    for (range, f!) in zip(parts.ranges, parts.functions)
        f!(view(out, range), args...)
    end
    return nothing
end

"""
A function `f(u, p, t)` of one node, or its code if `expression` is `Val{true}`; `table` is what the operations are.
"""
function generate_scalar(graph::Graph, node::Int; expression = Val{false}, table = OPERATIONS)
    symbols = Symbols(graph)
    value = only(trace(graph, [node], symbols; table))
    return Symbolics.build_function(value, symbols.states, symbols.params, symbols.time; expression, cse = true)
end
