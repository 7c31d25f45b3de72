# A graph evaluated for a whole batch at once, and differentiated in reverse: what training needs.

const JOIN, NETWORK = 0x50, 0x51

"One operation on columns; `code` is `NETWORK` for the application number `a`."
struct Instruction
    code::UInt8
    out::Int
    a::Int
    b::Int
    c::Int
end

"""
A network applied to columns; `outputs` says which of its outputs are wanted, and in which columns. Where those are Taylor
coefficients, `inputs` are coefficients of the same order, and `lower` the numbers of the applications to those of the orders below.
"""
struct Application
    network::Int
    inputs::Vector{Int}
    outputs::Vector{Pair{Int, Int}}
    lower::Vector{Int}
end

"""
    Tape(op, args, constant, index, n_states, n_params, outputs, networks, calls)

The part of a graph that the nodes `outputs` need, as instructions on the columns of a matrix, the rows of which are the members
of a batch. Arguments are the zero-based arrays of Python; entry `k` of `calls` is the network, the output and the order of the
Taylor coefficient (of the output, along inputs that are series) that a `NETWORK` node with index `k` is.

What depends on parameters alone has the first columns, `fixed`, and is evaluated once for a set of parameters; `moving` is what
depends on states and time.

Throws an `ArgumentError` for arrays that are not a graph.
"""
struct Tape
    n_states::Int
    n_params::Int
    n_columns::Int
    n_fixed::Int
    constants::Vector{Pair{Int, Float64}}
    params::Vector{Pair{Int, Int}}
    states::Vector{Pair{Int, Int}}
    times::Vector{Int}
    fixed::Vector{Instruction}
    moving::Vector{Instruction}
    outputs::Vector{Int}
    networks::Vector{Network}
    applications::Vector{Application}
end

"How many operands a node takes."
function operands_of(code::UInt8)
    code in (CONST, TIME, STATE, PARAM) && return 0
    code == JOIN && return 2
    code == NETWORK && return 1
    return pointwise_arity(code)
end

function Tape(op, args, constant, index, n_states, n_params, outputs, networks::Vector{Network}, calls)
    check_tape(op, args, constant, index, n_states, n_params, outputs, networks, calls)
    needed = falses(length(op))
    needed[outputs .+ 1] .= true
    for node in length(op):-1:1, k in 1:3
        needed[node] && args[node, k] >= 0 && (needed[args[node, k] + 1] = true)
    end
    nodes = [node for node in findall(needed) if op[node] != JOIN]
    operands(node) = [args[node, k] + 1 for k in 1:operands_of(op[node])]
    moves = falses(length(op))
    for node in findall(needed)
        moves[node] = op[node] in (TIME, STATE, NETWORK) || any(a -> moves[a], operands(node))
    end
    column = zeros(Int, length(op))
    ordered = [filter(node -> !moves[node], nodes); filter(node -> moves[node], nodes)]
    column[ordered] = 1:length(ordered)
    constants, params, states = Pair{Int, Float64}[], Pair{Int, Int}[], Pair{Int, Int}[]
    times, fixed, moving, applications = Int[], Instruction[], Instruction[], Application[]
    applied = Dict{Tuple{Int, Vector{Int}}, Int}()
    for node in nodes
        code, here = op[node], column[node]
        if code == CONST
            push!(constants, here => constant[node])
        elseif code == TIME
            push!(times, here)
        elseif code == STATE
            push!(states, here => index[node] + 1)
        elseif code == PARAM
            push!(params, here => index[node] + 1)
        elseif code == NETWORK
            network, output = calls[index[node] + 1][1:2] .+ 1
            inputs = column[joined(op, args, args[node, 1] + 1)]
            wanted = first(networks[network]).n_in * (calls[index[node] + 1][3] + 1)
            length(inputs) == wanted || throw(ArgumentError("a network has $(length(inputs)) inputs and takes $wanted"))
            push!(applications[apply_to!(applied, applications, moving, network, inputs, networks)].outputs, output => here)
        else
            a, b, c = [column[operands(node)]; zeros(Int, 3)]
            push!(moves[node] ? moving : fixed, Instruction(code, here, a, b, c))
        end
    end
    return Tape(
        n_states, n_params, length(nodes), count(node -> !moves[node], nodes), constants, params, states, times, fixed, moving,
        column[outputs .+ 1], networks, applications,
    )
end

"The number of a network's application to these columns, which may be new, and then those of lower orders come first."
function apply_to!(applied, applications, moving, network, inputs, networks)
    return get!(applied, (network, inputs)) do
        lower, below, n = Int[], length(inputs), first(networks[network]).n_in
        while below > n
            below -= n
            pushfirst!(lower, apply_to!(applied, applications, moving, network, inputs[1:below], networks))
        end
        push!(applications, Application(network, inputs[(end - n + 1):end], Pair{Int, Int}[], lower))
        push!(moving, Instruction(NETWORK, 0, length(applications), 0, 0))
        length(applications)
    end
end

"The nodes a vector is made of."
joined(op, args, node::Int) =
    op[node] == JOIN ? [joined(op, args, args[node, 1] + 1); joined(op, args, args[node, 2] + 1)] : [node]

function check_tape(op, args, constant, index, n_states, n_params, outputs, networks, calls)
    n = length(op)
    size(args) == (n, 3) && length(constant) == n && length(index) == n ||
        throw(ArgumentError("op has $n nodes, and args, constant and index do not match it"))
    limits = Dict(STATE => n_states, PARAM => n_params, NETWORK => length(calls))
    for node in 1:n
        code = op[node]
        arity = operands_of(code)
        arity === nothing && throw(ArgumentError("node $node has the operation code $code, which a tape does not know"))
        for k in 1:3
            right = k <= arity ? 0 <= args[node, k] < node - 1 : args[node, k] == -1
            right || throw(ArgumentError("node $node has bad operands"))
            k <= arity && op[args[node, k] + 1] == JOIN && !(code in (JOIN, NETWORK)) &&
                throw(ArgumentError("node $node takes a vector, which only networks do"))
        end
        haskey(limits, code) && !(0 <= index[node] < limits[code]) && throw(ArgumentError("node $node has a bad index"))
    end
    all(node -> 0 <= node < n && op[node + 1] != JOIN, outputs) ||
        throw(ArgumentError("an output names nodes that do not exist, or a vector"))
    for network in networks
        isempty(network) && throw(ArgumentError("a network has no layers"))
        for (k, layer) in enumerate(network)
            layer.activation in ACTIVATIONS && layer.n_in > 0 && layer.n_out > 0 && layer.matrix >= 0 && layer.bias >= 0 &&
                layer.matrix + layer.n_in * layer.n_out <= n_params && layer.bias + layer.n_out <= n_params &&
                (k == 1 || layer.n_in == network[k - 1].n_out) ||
                throw(ArgumentError("layer $k of a network does not fit"))
        end
    end
    for (network, output, order) in calls
        0 <= network < length(networks) && 0 <= output < last(networks[network + 1]).n_out && order >= 0 ||
            throw(ArgumentError("a call is of no output of a network"))
    end
    return nothing
end

"""
    Parameters{T}(tape)

A set of parameters, with what follows from them alone (one row of columns), and the derivatives by all of these.
"""
struct Parameters{T}
    columns::Matrix{T}
    weights::Vector{Weights{T}}
    bars::Matrix{T}
    weight_bars::Vector{Weights{T}}
end

Parameters{T}(tape::Tape) where {T} = Parameters{T}(
    zeros(T, 1, tape.n_fixed), Weights{T}.(tape.networks), zeros(T, 1, tape.n_fixed), Weights{T}.(tape.networks),
)

function set!(parameters::Parameters, tape::Tape, p::AbstractVector)
    set_fixed!(parameters.columns, tape, p)
    for (network, weights) in zip(tape.networks, parameters.weights)
        read_weights!(weights, network, p)
    end
    return nothing
end

"The one row of what follows from parameters alone."
function set_fixed!(columns::Matrix, tape::Tape, p::AbstractVector)
    for (column, value) in tape.constants
        columns[1, column] = value
    end
    for (column, index) in tape.params
        columns[1, column] = p[index]
    end
    for step in tape.fixed
        evaluate_pointwise!(columns, step.code, step.out, step.a, step.b, step.c)
    end
    return nothing
end

"""
    Columns{T}(tape, rows)

The values of a tape for a batch of `rows` members.
"""
struct Columns{T}
    values::Matrix{T}
    neurons::Vector{Neurons{T}}
    "The layers of each application to Taylor coefficients, else none."
    towers::Vector{Vector{Tower{T}}}
end

function Columns{T}(tape::Tape, rows::Int) where {T}
    neurons = [Neurons{T}(tape.networks[a.network], rows) for a in tape.applications]
    towers = Vector{Tower{T}}[]
    for (top, application) in zip(neurons, tape.applications)
        order = length(application.lower)
        order == 0 && (push!(towers, Tower{T}[]); continue)
        below = neurons[last(application.lower)]
        lower = order == 1 ? Tower.(below.inner, below.outer[2:end]) : towers[last(application.lower)]
        push!(towers, raised.(lower, top.inner, top.outer[2:end]))
    end
    return Columns{T}(zeros(T, rows, tape.n_columns), neurons, towers)
end

"Derivatives by the values of a tape; those by parameters add up from one evaluation to the next."
struct Bars{T}
    values::Matrix{T}
    neurons::Vector{Vector{Matrix{T}}}
    weights::Vector{Weights{T}}
    "What goes into the activations of each application that others carry on to higher orders, else none."
    inner::Vector{Vector{Matrix{T}}}
end

Bars{T}(tape::Tape, rows::Int) where {T} = Bars{T}(
    zeros(T, rows, tape.n_columns),
    [Neurons{T}(tape.networks[a.network], rows).outer for a in tape.applications],
    Weights{T}.(tape.networks),
    [
        any(other -> number in other.lower, tape.applications) ? Neurons{T}(tape.networks[a.network], rows).inner : Matrix{T}[]
            for (number, a) in enumerate(tape.applications)
    ],
)

function clear!(bars::Bars{T}) where {T}
    fill!(bars.values, zero(T))
    foreach(clear!, bars.weights)
    return nothing
end

"Give the fixed columns their values, after `set!`."
function spread!(columns::Columns, tape::Tape, parameters::Parameters)
    for column in 1:tape.n_fixed
        value = parameters.columns[1, column]
        @inbounds for i in axes(columns.values, 1)
            columns.values[i, column] = value
        end
    end
    return nothing
end

"""
    evaluate!(columns, tape, parameters, u, t, first)

Evaluate for the rows `first, first + 1, ...` of `u` (members, states) at the times `t`.
"""
function evaluate!(columns::Columns, tape::Tape, parameters::Parameters, u::AbstractMatrix, t::AbstractVector, first::Int)
    values = columns.values
    shift = first - 1
    for (column, index) in tape.states
        @inbounds @simd ivdep for i in axes(values, 1)
            values[i, column] = u[i + shift, index]
        end
    end
    for column in tape.times
        @inbounds @simd ivdep for i in axes(values, 1)
            values[i, column] = t[i + shift]
        end
    end
    for step in tape.moving
        if step.code == NETWORK
            apply!(columns, tape.applications[step.a], step.a, tape, parameters)
        else
            evaluate_pointwise!(values, step.code, step.out, step.a, step.b, step.c)
        end
    end
    return nothing
end

function apply!(columns::Columns, application::Application, number::Int, tape::Tape, parameters::Parameters)
    values, neurons = columns.values, columns.neurons[number]
    inputs, outputs = neurons.outer[1], neurons.outer[end]
    for (k, column) in enumerate(application.inputs)
        @inbounds @simd ivdep for i in axes(values, 1)
            inputs[i, k] = values[i, column]
        end
    end
    network, weights, order = tape.networks[application.network], parameters.weights[application.network], length(application.lower)
    if order == 0
        evaluate!(neurons, network, weights)
    else
        evaluate!(neurons, columns.towers[number], order, network, weights)
    end
    for (k, column) in application.outputs
        @inbounds @simd ivdep for i in axes(values, 1)
            values[i, column] = outputs[i, k]
        end
    end
    return nothing
end

"Forget the adjoints of what moves; those of parameters stay."
function begin_pull!(bars::Bars{T}, tape::Tape) where {T}
    @inbounds for k in (tape.n_fixed * size(bars.values, 1) + 1):length(bars.values)
        bars.values[k] = zero(T)
    end
    return nothing
end

"""
    pull!(bars, columns, tape, parameters)

Go back from the adjoints of the outputs, which are in their columns of `bars`, to those of states, times and parameters.
"""
function pull!(bars::Bars, columns::Columns, tape::Tape, parameters::Parameters)
    for k in length(tape.moving):-1:1
        step = tape.moving[k]
        if step.code == NETWORK
            pull!(bars, columns, tape.applications[step.a], step.a, tape, parameters)
        else
            pull_pointwise!(bars.values, columns.values, step.code, step.out, step.a, step.b, step.c)
        end
    end
    return nothing
end

function pull!(bars::Bars{T}, columns::Columns, application::Application, number::Int, tape::Tape, parameters::Parameters) where {T}
    values, outer = bars.values, bars.neurons[number]
    outputs, inputs = outer[end], outer[1]
    fill!(outputs, zero(T))
    for (k, column) in application.outputs
        @inbounds @simd ivdep for i in axes(values, 1)
            outputs[i, k] += values[i, column]
        end
    end
    network, order = application.network, length(application.lower)
    layers, weights, left = tape.networks[network], parameters.weights[network], bars.inner[number]
    if order == 0
        pull!(bars.weights[network], columns.neurons[number], layers, weights, outer, left)
    else
        pull!(
            bars.weights[network], columns.neurons[number], columns.towers[number], bars.inner, application.lower, left, layers,
            weights, outer,
        )
    end
    for (k, column) in enumerate(application.inputs)
        @inbounds @simd ivdep for i in axes(values, 1)
            values[i, column] += inputs[i, k]
        end
    end
    return nothing
end

"""
    parameter_bars!(p_bar, parameters, tape, all_bars)

Add to `p_bar` what the adjoints of all pieces of a batch come to.
"""
function parameter_bars!(p_bar::AbstractVector, parameters::Parameters{T}, tape::Tape, all_bars) where {T}
    sums = parameters.bars
    fill!(sums, zero(T))
    for bars in all_bars
        for column in 1:tape.n_fixed
            total = zero(T)
            @inbounds @simd for i in axes(bars.values, 1)
                total += bars.values[i, column]
            end
            sums[1, column] += total
        end
        for (network, weights) in zip(tape.networks, bars.weights)
            add_weights!(p_bar, network, weights)
        end
    end
    return pull_fixed!(p_bar, sums, parameters.columns, tape)
end

"From the adjoints of the row of `set_fixed!`, which are used up, to those of parameters, to which they are added."
function pull_fixed!(p_bar::AbstractVector, sums::Matrix, columns::Matrix, tape::Tape)
    for k in length(tape.fixed):-1:1
        step = tape.fixed[k]
        pull_pointwise!(sums, columns, step.code, step.out, step.a, step.b, step.c)
    end
    for (column, index) in tape.params
        p_bar[index] += sums[1, column]
    end
    return nothing
end
