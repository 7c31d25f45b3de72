module PySciMLModelingToolkitExt

using ModelingToolkit: D_nounits, System, VariableStatePriority, equations, mtkcompile, observed, t_nounits, toparam, unknowns
using PrecompileTools: @compile_workload
using PySciML: PySciML, CONST, Graph, PARAM, STATE, SYMBOLIC, Symbols, TIME, Writer, add!, node_numbers, trace, write!
using SymbolicUtils: FnType, arguments, iscall, operation, setmetadata
using Symbolics: Symbolics, Differential, Equation, Num, unwrap

"Among equals, unknowns of this priority become differential states; that of the others is 0."
const PREFERRED = 10

function PySciML.index_reduced(graph::Graph, residuals, owners, orders, preferred)
    owners, orders = Vector{Int}(owners) .+ 1, Vector{Int}(orders)
    length(owners) == length(orders) == graph.n_states && all(>=(1), owners) && all(>=(0), orders) ||
        throw(ArgumentError("owners and orders do not say what the states of the graph are"))
    functions = Num[unknown(k, k - 1 in preferred) for k in 1:maximum(owners)]
    leaves = Num[derivative(functions[owner], order) for (owner, order) in zip(owners, orders)]
    params = Num[toparam(Symbolics.variable(:p, k)) for k in 1:graph.n_params]
    nodes = node_numbers(graph, residuals)
    sides = trace(graph, nodes, Symbols(leaves, params, t_nounits, Num[]); table = SYMBOLIC)
    system = System(Equation.(Num(0), sides), t_nounits, functions, params; name = :system)
    return written(mtkcompile(system), functions, params, maximum(orders))
end

function unknown(k, preferred)
    x = unwrap(Symbolics.variable(:u, k; T = FnType{Tuple, Real, Nothing})(t_nounits))
    return Num(preferred ? setmetadata(x, VariableStatePriority, PREFERRED) : x)
end

derivative(x, order) = order == 0 ? x : (D_nounits^order)(x)

is_differential(equation) = iscall(equation.lhs) && operation(equation.lhs) isa Differential

"A reduced system as arrays; see `PySciML.index_reduced`."
function written(reduced, functions, params, highest)
    differential = filter(is_differential, equations(reduced))
    algebraic = filter(!is_differential, equations(reduced))
    moving = Any[only(arguments(equation.lhs)) for equation in differential]
    states = [moving; setdiff(unknowns(reduced), moving)]
    length(states) == length(differential) + length(algebraic) ||
        throw(ArgumentError("ModelingToolkit: $(length(equations(reduced))) equations are left for $(length(states)) unknowns"))
    eliminated = Any[equation.lhs for equation in observed(reduced)]
    places = places_of([states; eliminated], functions, highest)

    writer = Writer()
    writer.numbers[unwrap(t_nounits)] = add!(writer, TIME)
    for (code, group) in ((STATE, states), (PARAM, params)), (index, symbol) in enumerate(group)
        writer.numbers[unwrap(symbol)] = add!(writer, code; index)
    end
    # They are in the order in which they need each other.
    values = map(observed(reduced)) do equation
        writer.numbers[unwrap(equation.lhs)] = write!(writer, equation.rhs)
    end
    rates = Int[write!(writer, equation.rhs) for equation in differential]
    zeros = Int[write!(writer, equation.rhs - equation.lhs) for equation in algebraic]
    args = Int[operand - 1 for row in writer.args for operand in row]
    at(symbols, part) = Int[places[symbol][part] for symbol in symbols]
    return writer.op, args, writer.constant, writer.index .- 1, at(states, 1) .- 1, at(states, 2), length(differential),
        [rates; zeros] .- 1, at(eliminated, 1) .- 1, at(eliminated, 2), values .- 1
end

"""
Which derivative of which of the `functions` each symbol stands for, by the names that ModelingToolkit gives to derivatives which
became unknowns. Differentiating raises the `highest` order at most once for each unknown.
"""
function places_of(symbols, functions, highest)
    places, wanted = Dict{Any, NTuple{2, Int}}(), Set{Any}(symbols)
    for order in 0:(highest + length(functions))
        length(places) == length(symbols) && break
        for (owner, x) in enumerate(functions)
            symbol = Symbolics.diff2term(unwrap(derivative(x, order)))
            symbol in wanted && (places[symbol] = (owner, order))
        end
    end
    for symbol in symbols
        haskey(places, symbol) || throw(ArgumentError("ModelingToolkit made an unknown $symbol, which is no derivative"))
    end
    return places
end

"A system of index 2: `x' = z`, `y' = p - z` and `x^2 + y = 1`."
function reduce_example()
    op = [fill(STATE, 5); PARAM; CONST; 0x0b; 0x0a; 0x0b; 0x0c; 0x0a; 0x0b]
    operands = [fill((-1, -1), 7); (1, 4); (3, 4); (8, 5); (0, 0); (10, 2); (11, 6)]
    args = [k < 3 ? pair[k] : -1 for pair in operands, k in 1:3]
    constant, index = zeros(length(op)), fill(-1, length(op))
    constant[7], index[1:6] = 1.0, [0:4; 0]
    return PySciML.index_reduced(Graph(op, args, constant, index, 5, 1), [7, 9, 12], [0, 0, 1, 1, 2], [0, 1, 0, 1, 0], Int[])
end

@compile_workload if PySciML.workload_enabled(PySciML)
    reduce_example()
end

end
