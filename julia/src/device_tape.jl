# A tape laid out for a device: its operations in levels, each of which is one kernel for all members of a batch.

"An operation in a kernel; `replaced` says whether functions of Base stand in for those of NaNMath, as on a GPU they must."
struct Rule{code, replaced} end

code_of(::Rule{code}) where {code} = code

#: Operations whose functions devices have not: they come from the C library or are defined for a CPU alone.
const NOT_IN_KERNELS = (0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a)

#: What is no operation: a column that is copied to the inputs of a network, and an output.
const COPY, OUTPUT = 0x00, 0x01

"Code with the device's functions in place of NaNMath's."
with_device_functions(code) = code
function with_device_functions(code::Expr)
    code.head === :. && first(code.args) === :NaNMath || return Expr(code.head, map(with_device_functions, code.args)...)
    name = code.args[2].value
    return name === :pow ? :device_power : name
end

for (code, rule) in POINTWISE, replaced in (false, true)
    code in NOT_IN_KERNELS && continue
    with = replaced ? with_device_functions : identity
    operands = reads(length(rule) - 1)
    @eval Base.@propagate_inbounds function apply_rule(::Rule{$code, $replaced}, values, i, i1, i2, i3)
        $(operands...)
        return oftype(values[i, i1], $(with(first(rule))))
    end
    partials = [:(position == $k && return oftype(y, $(with(partial)))) for (k, partial) in enumerate(rule[2:end])]
    @eval Base.@propagate_inbounds function rule_partial(::Rule{$code, $replaced}, position, values, i, y, i1, i2, i3)
        $(operands...)
        $(partials...)
        return zero(y)
    end
end

"The value of the operation `code`, one of `rules` or `COPY`, for member `i`; operands are given by their columns."
Base.@propagate_inbounds apply_one(rules::Tuple, code, values, i, i1, i2, i3) =
    code == code_of(first(rules)) ? apply_rule(first(rules), values, i, i1, i2, i3) :
    apply_one(Base.tail(rules), code, values, i, i1, i2, i3)
Base.@propagate_inbounds apply_one(::Tuple{}, code, values, i, i1, i2, i3) = values[i, i1]

"As `apply_one`: the derivative by the operand at a position, where `y` is the value."
Base.@propagate_inbounds one_partial(rules::Tuple, code, position, values, i, y, i1, i2, i3) =
    code == code_of(first(rules)) ? rule_partial(first(rules), position, values, i, y, i1, i2, i3) :
    one_partial(Base.tail(rules), code, position, values, i, y, i1, i2, i3)
Base.@propagate_inbounds one_partial(::Tuple{}, code, position, values, i, y, i1, i2, i3) = one(y)

"""
    adjoint_share(rules, use, k, bars, values, k_bar, length, i)

What the use in column `k` of `use` passes back, for member `i`, to the column that is used.
"""
Base.@propagate_inbounds function adjoint_share(rules, use, k, bars, values, k_bar, length, i)
    code, position, out = use[1, k], use[2, k], use[3, k]
    code == OUTPUT && return length[i] * k_bar[i, out]
    bar = bars[i, out]
    code == COPY && return bar
    return share(bar, one_partial(rules, code, position, values, i, values[i, out], use[4, k], use[5, k], use[6, k]))
end

"""
A network that is applied, and where its numbers are: `outer` are the columns of its inputs and of the outputs of each layer,
`inner` those of what goes into the activation, where its derivative needs that, and `bars` the columns of the adjoints of `outer`.
"""
struct Placed
    network::Network
    level::Int
    outer::Vector{UnitRange{Int}}
    inner::Vector{UnitRange{Int}}
    bars::Vector{UnitRange{Int}}
end

"Columns, with what uses them: uses `first[k]` to `first[k + 1] - 1` are those of column `columns[k]`."
struct Gather
    columns::Vector{Int32}
    first::Vector{Int32}
    uses::Matrix{Int32}
end

"""
    Layout(tape, targets)

Where a tape has its values: what parameters fix, all states, the time, and what networks and operations compute. Each
column is written once, in an order of levels: the instructions in `levels[l]` (columns of code, result and operands) need
results of the levels before alone, as the networks of that level do.

Adjoints are gathered: `pulled[l]` has the columns of a level and their uses, `by_states` and `by_fixed` those of the states
(numbered by themselves) and of what parameters fix, `by_time` all uses of the time as those of one column. So no two threads add
to one number, and sums are the same from run to run.
"""
struct Layout
    n_fixed::Int
    states::UnitRange{Int}
    times::UnitRange{Int}
    n_values::Int
    n_bars::Int
    outputs::Vector{Int32}
    networks::Vector{Placed}
    levels::Vector{Matrix{Int32}}
    pulled::Vector{Gather}
    by_states::Gather
    by_fixed::Gather
    by_time::Gather
end

needs_inner(layer::Dense) = layer.activation in (:softplus, :swish, :gelu, :sin)

function Layout(tape::Tape, targets::AbstractVector{Int})
    place, level = zeros(Int, tape.n_columns), Int[]
    "New columns of a level."
    function columns!(count, at = 0)
        append!(level, fill(at, count))
        return (length(level) - count + 1):length(level)
    end
    place[1:tape.n_fixed] = columns!(tape.n_fixed)
    states = columns!(tape.n_states)
    for (column, index) in tape.states
        place[column] = states[index]
    end
    times = columns!(length(tape.times))
    place[tape.times] = times
    instructions, applied = NTuple{5, Int}[], Tuple{Application, UnitRange{Int}, UnitRange{Int}}[]
    for step in tape.moving
        if step.code == NETWORK
            application = tape.applications[step.a]
            isempty(application.lower) || throw(ArgumentError("Taylor series of networks are for the CPU"))
            network, sources = tape.networks[application.network], place[application.inputs]
            inputs, at = first(sources):last(sources), maximum(level[sources])
            if sources != inputs
                at += 1
                inputs = columns!(length(sources), at)
                append!(instructions, [(Int(COPY), out, source, source, source) for (out, source) in zip(inputs, sources)])
            end
            outputs = columns!(last(network).n_out, at + 1)
            for (output, column) in application.outputs
                place[column] = outputs[output]
            end
            push!(applied, (application, inputs, outputs))
        else
            operands = [place[a] for a in (step.a, step.b, step.c) if a > 0]
            place[step.out] = only(columns!(1, 1 + maximum(level[operands])))
            a, b, c = [operands; fill(first(operands), 3 - length(operands))]
            push!(instructions, (Int(step.code), place[step.out], a, b, c))
        end
    end
    n_used = length(level)
    found = map(applied) do (application, inputs, outputs)
        network = tape.networks[application.network]
        between = [columns!(layer.n_out) for layer in network[1:(end - 1)]]
        inner = [columns!(needs_inner(layer) ? layer.n_out : 0) for layer in network]
        return Placed(network, level[first(outputs)], [[inputs]; between; [outputs]], inner, [[1:0]; between; [outputs]])
    end
    n_values = length(level)
    for (placed, (_, inputs, _)) in zip(found, applied)
        placed.bars[1] = columns!(length(inputs)) # the inputs may be columns that others use, too
    end
    uses = uses_of(tape, targets, place, instructions, found, n_used)
    n_levels = maximum(level; init = 0)
    of_level(l) = [column for column in 1:n_used if level[column] == l]
    copied = Set(out for (code, out) in instructions if code == COPY)
    moved = by_parameters(tape)
    return Layout(
        tape.n_fixed, states, times, n_values, length(level), place[tape.outputs], found,
        [columns_of([step for step in instructions if level[step[2]] == l], 5) for l in 1:n_levels],
        [gather_uses(filter(!in(copied), of_level(l)), uses) for l in 1:n_levels],
        gather_uses(states, uses, 1:tape.n_states), gather_uses(filter(column -> moved[column], 1:tape.n_fixed), uses),
        gather_uses([1], [reduce(vcat, uses[times]; init = NTuple{6, Int}[])]),
    )
end

"Whether what is fixed depends on parameters: constants have no adjoints."
function by_parameters(tape::Tape)
    moved = falses(tape.n_fixed)
    for (column, _) in tape.params
        moved[column] = true
    end
    for step in tape.fixed
        moved[step.out] = any(a -> a > 0 && moved[a], (step.a, step.b, step.c))
    end
    return moved
end

"Of each column its uses, as `(code, position, out, operands...)`; output `k` is the slope of state `targets[k]`."
function uses_of(tape::Tape, targets, place, instructions, networks::Vector{Placed}, n::Int)
    uses = [NTuple{6, Int}[] for _ in 1:n]
    rules = Dict(POINTWISE)
    for (code, out, operands...) in instructions
        code == COPY && continue # a network's
        rule = rules[UInt8(code)]
        for position in 1:(length(rule) - 1)
            rule[1 + position] == 0 || push!(uses[operands[position]], (code, position, out, operands...))
        end
    end
    sources = [place[application.inputs] for application in applications_in_order(tape)]
    for (placed, inputs) in zip(networks, sources), (k, column) in enumerate(inputs)
        push!(uses[column], (Int(COPY), 1, placed.bars[1][k], 1, 1, 1))
    end
    for (target, column) in zip(targets, tape.outputs)
        push!(uses[place[column]], (Int(OUTPUT), 1, target, 1, 1, 1))
    end
    return uses
end

applications_in_order(tape::Tape) = [tape.applications[step.a] for step in tape.moving if step.code == NETWORK]

columns_of(steps, height::Int) = Matrix{Int32}(reduce(hcat, collect.(steps); init = zeros(Int32, height, 0)))

function gather_uses(columns, uses, targets = columns)
    own = uses[columns]
    return Gather(collect(Int32, targets), cumsum([1; length.(own)]), columns_of(reduce(vcat, own; init = NTuple{6, Int}[]), 6))
end

"Refuse, by name, operations that kernels cannot have."
function check_kernels(tape::Tape)
    for step in tape.moving
        step.code in NOT_IN_KERNELS || continue
        name = only(operation.name for (code, operation) in OPERATIONS if code == step.code)
        throw(ArgumentError("on a GPU: there is no function $name"))
    end
    return nothing
end
