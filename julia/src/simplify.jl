# The way back: expressions that Symbolics has simplified, as arrays.

"A whole number as an integer, with which Symbolics computes exactly; larger ones might overflow."
number_of(x::Float64) = Num(isinteger(x) && abs(x) <= 1000 ? Int(x) : x)

"""
The operations by their names in mathematics, which the rules of Symbolics are about. They are for rewriting and never
evaluated: outside of their domains some throw.
"""
const SYMBOLIC = merge(
    OPERATIONS,
    Dict{UInt8, Operation}(
        CONST => Operation(:const, 0, :nothing, number_of, false),
        14 => plain(:pow, 2, ^),
        20 => plain(:sqrt, 1, number(sqrt)),
        22 => plain(:log, 1, number(log)),
        23 => plain(:sin, 1, number(sin)),
        24 => plain(:cos, 1, number(cos)),
        25 => plain(:tan, 1, number(tan)),
        26 => plain(:asin, 1, number(asin)),
        27 => plain(:acos, 1, number(acos)),
        33 => plain(:acosh, 1, number(acosh)),
        34 => plain(:atanh, 1, number(atanh)),
    ),
)

"The codes of functions by what Symbolics calls."
const CODES = Dict{Any, UInt8}(
    (-) => 11, (/) => 13, (^) => 14, sqrt => 20, exp => 21, log => 22, sin => 23, cos => 24, tan => 25, asin => 26, acos => 27,
    sinh => 29, cosh => 30, tanh => 31, asinh => 32, acosh => 33, atanh => 34, abs => 40, sign => 41, floor => 42, ceil => 43,
    heaviside => 44, min => 45, max => 46, modulo => 47, SpecialFunctions.erf => 50, SpecialFunctions.erfc => 51, gamma => 52,
    loggamma => 53, polygamma => 54, besselj => 55, bessely => 56, besseli => 57, besselk => 58, (<) => 60, (<=) => 61,
    (>) => 62, (>=) => 63, (==) => 64, (!=) => 65, both => 66, either => 67, (!) => 68, select => SELECT, ifelse => SELECT,
)

"Functions by what they are made of, where their exactness near zero does not count."
const COMPOSED = Dict{Any, Any}(
    log1p => x -> log(1 + x), expm1 => x -> exp(x) - 1, exp2 => x -> exp(log(2) * x), cbrt => x -> sign(x) * abs(x)^(1 / 3),
    abs2 => x -> x * x, inv => x -> 1 / x,
)

"Writes expressions as nodes, each after those it is made of; equal ones are one node."
struct Writer
    op::Vector{Int}
    args::Vector{NTuple{3, Int}}
    constant::Vector{Float64}
    index::Vector{Int}
    numbers::Dict{Any, Int}
end

function add!(writer::Writer, code, args = (); constant = 0.0, index = 0)
    push!(writer.op, code)
    push!(writer.args, ntuple(k -> k <= length(args) ? args[k] : 0, 3))
    push!(writer.constant, constant)
    push!(writer.index, index)
    return length(writer.op)
end

Writer() = Writer(Int[], NTuple{3, Int}[], Float64[], Int[], Dict{Any, Int}())

function Writer(symbols::Symbols)
    writer = Writer()
    writer.numbers[Symbolics.unwrap(symbols.time)] = add!(writer, TIME)
    for (code, group) in ((STATE, symbols.states), (PARAM, symbols.params)), (index, symbol) in enumerate(group)
        writer.numbers[Symbolics.unwrap(symbol)] = add!(writer, code; index)
    end
    return writer
end

"Write an expression; returns its node. Throws an `ArgumentError` for what no operation of the table is."
function write!(writer::Writer, expression)
    x = Symbolics.unwrap(expression)
    x isa SymbolicUtils.BasicSymbolic && SymbolicUtils.isconst(x) && (x = SymbolicUtils.unwrap_const(x))
    return get!(() -> write_new!(writer, x), writer.numbers, x)
end

function write_new!(writer::Writer, x::Real)
    isfinite(x) || throw(ArgumentError("an expression became $x"))
    return add!(writer, CONST; constant = Float64(x))
end

function write_new!(writer::Writer, x)
    x isa SymbolicUtils.BasicSymbolic && SymbolicUtils.iscall(x) || throw(ArgumentError("an expression became $x"))
    f = SymbolicUtils.operation(x)
    haskey(COMPOSED, f) && return write!(writer, COMPOSED[f](Num(only(SymbolicUtils.arguments(x)))))
    args = Int[write!(writer, argument) for argument in SymbolicUtils.arguments(x)]
    if f === (+) || f === (*)
        return foldl((a, b) -> add!(writer, f === (+) ? 10 : 12, (a, b)), args)
    end
    code = f === atan ? (length(args) == 1 ? 0x1c : 0x23) : f === (-) && length(args) == 1 ? 0x0f : get(CODES, f, nothing)
    code !== nothing && OPERATIONS[code].arity == length(args) || throw(ArgumentError("there is no operation for $f"))
    return add!(writer, code, args)
end

"""
    rewritten(graph, outputs, simplifies, expands)

The nodes `outputs` as Symbolics writes them, simplified or as they are: `(op, args, constant, index, outputs)`, zero-based
and with three operands a node, one after the other.
"""
function rewritten(graph::Graph, outputs, simplifies, expands)
    nodes = node_numbers(graph, outputs)
    history = filter(node -> graph.op[node] == HISTORY, findall(reachable(graph, nodes)))
    symbols = Symbols(graph, length(history))
    change(expression) = simplifies ? SymbolicUtils.simplify(Symbolics.unwrap(expression); expand = Bool(expands)) : expression
    writer = Writer(symbols)
    # A delayed value is written after its time, and before what depends on it.
    for (k, node) in enumerate(history)
        time = only(trace(graph, [graph.args[1, node]], symbols; history, table = SYMBOLIC))
        argument = write!(writer, change(time))
        writer.numbers[Symbolics.unwrap(symbols.history[k])] = add!(writer, HISTORY, (argument,); index = graph.index[node])
    end
    return written!(writer, map(change, trace(graph, nodes, symbols; history, table = SYMBOLIC)))
end

"Expressions of such symbols as nodes, in the arrays of [`rewritten`](@ref)."
written(expressions, symbols::Symbols) = written!(Writer(symbols), expressions)

function written!(writer::Writer, expressions)
    outputs = [write!(writer, expression) for expression in expressions]
    args = Int[operand - 1 for row in writer.args for operand in row]
    return writer.op, args, writer.constant, writer.index .- 1, outputs .- 1
end
