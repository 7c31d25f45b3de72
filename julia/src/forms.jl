# Large models repeat themselves: on a grid, in a network of equal nodes, most equations are the same expression of other
# states. Each such expression is compiled once and called for all of them, where compiling them one after the other takes
# minutes for some thousand equations.

"Functions of at least this many outputs are looked at for outputs of the same form."
const REPEATING = 256
"A form has at least so many outputs, at most so many operations, and takes at most so many states and so many numbers."
const FORM_OUTPUTS, FORM_OPERATIONS, FORM_STATES, FORM_NUMBERS = 8, 200, 32, 16
"Outputs that share operations repeat them, together at most so many times as many."
const REPEATED = 3

"""
    Form(f, outputs, states, params, constants)

Outputs of one form: `out[outputs[k]] = f(states, numbers, t)` for the states `u[states[:, k]]` and the numbers
`p[params[:, k]]` and `constants[:, k]`.
"""
struct Form
    f::Any
    outputs::Vector{Int}
    states::Matrix{Int}
    params::Matrix{Int}
    constants::Matrix{Float64}
end

const Scattered = FunctionWrapper{Nothing, Tuple{SubArray{Float64, 1, Vec, Tuple{Vector{Int}}, false}, Vec, Vec, Float64}}

"""
A long function by the forms of its outputs. `functions[k]` writes those outputs of no form that are `places[k]`, and the
outputs `copies[k]` are the values of others.
"""
struct Forms
    forms::Vector{Form}
    wrapped_forms::Vector{InPlace}
    places::Vector{Vector{Int}}
    functions::Vector{Any}
    wrapped::Vector{Scattered}
    copies::Vector{Pair{Int, Int}}
end

function (forms::Forms)(out::Vec, u::Vec, p::Vec, t::Float64)
    for form! in forms.wrapped_forms
        form!(out, u, p, t)
    end
    for (places, f!) in zip(forms.places, forms.wrapped)
        f!(view(out, places), u, p, t)
    end
    for (to, from) in forms.copies
        out[to] = out[from]
    end
    return nothing
end

function (forms::Forms)(out, u, p, t)
    for form in forms.forms
        form(out, u, p, t)
    end
    for (places, f!) in zip(forms.places, forms.functions)
        f!(view(out, places), u, p, t)
    end
    for (to, from) in forms.copies
        out[to] = out[from]
    end
    return nothing
end

(form::Form)(out, u, p, t) = each!(
    form.f, out, form.outputs, form.states, form.params, form.constants, u, p, t,
    Val(size(form.states, 1)), Val(size(form.params, 1)), Val(size(form.constants, 1)),
)

function each!(f::F, out, outputs, states, params, constants, u, p, t, ::Val{s}, ::Val{q}, ::Val{c}) where {F, s, q, c}
    for k in eachindex(outputs)
        of_u = ntuple(m -> u[states[m, k]], Val(s))
        numbers = (ntuple(m -> p[params[m, k]], Val(q))..., ntuple(m -> constants[m, k], Val(c))...)
        out[outputs[k]] = f(of_u, numbers, t)
    end
    return nothing
end

"A wrapper around a form, whose types are known where it is made."
wrapped(form::Form) = wrapped_form(
    form.f, form.outputs, form.states, form.params, form.constants,
    Val(size(form.states, 1)), Val(size(form.params, 1)), Val(size(form.constants, 1)),
)

wrapped_form(f::F, outputs, states, params, constants, s, q, c) where {F} =
    InPlace((out, u, p, t) -> each!(f, out, outputs, states, params, constants, u, p, t, s, q, c))

"One expression taken apart: its operations in order, and what fills the places of its leaves."
struct Walk
    graph::Graph
    prints::Vector{UInt64}
    key::Vector{UInt64}
    states::Vector{Int}
    params::Vector{Int}
    constants::Vector{Float64}
    numbers::Dict{Int, Int}
    op::Vector{UInt8}
    args::Vector{NTuple{3, Int}}
    "Which of its kind of leaf it is; 0 for a constant that belongs to the form."
    place::Vector{Int}
    value::Vector{Float64}
end

Walk(graph::Graph, prints) =
    Walk(graph, prints, UInt64[], Int[], Int[], Float64[], Dict{Int, Int}(), UInt8[], NTuple{3, Int}[], Int[], Float64[])

const COMMUTATIVE = (0x0a, 0x0c, 0x2d, 0x2e, 0x40, 0x41, 0x42, 0x43)
const POWER = 0x0e
"Functions whose first operand is an order."
const ORDERED = 0x36:0x3a
const AGAIN, EXACTLY = UInt64(0x1000), UInt64(0x2000)

"What a node is, leaves being all alike: operands that may be exchanged are put in the order of these numbers."
function fingerprints(graph::Graph)
    prints = zeros(UInt64, length(graph))
    for node in 1:length(graph)
        code = graph.op[node]
        parts = [prints[graph.args[k, node]] for k in 1:OPERATIONS[code].arity]
        code in COMMUTATIVE && sort!(parts)
        prints[node] = hash(parts, hash(code))
    end
    return prints
end

"Add a node to a walk; returns its number there, 0 where the expression is too long to be a form."
function walk!(walk::Walk, node::Int, exactly::Bool)
    graph, code = walk.graph, walk.graph.op[node]
    if code == CONST && exactly
        push!(walk.key, EXACTLY, reinterpret(UInt64, graph.constant[node]))
        return add!(walk, code, (0, 0, 0), 0, graph.constant[node])
    end
    known = get(walk.numbers, node, 0)
    if known > 0
        push!(walk.key, AGAIN + known)
        return known
    end
    push!(walk.key, code)
    arity = OPERATIONS[code].arity
    operands = ntuple(k -> k <= arity ? graph.args[k, node] : 0, 3)
    if code in COMMUTATIVE && walk.prints[operands[1]] > walk.prints[operands[2]]
        operands = (operands[2], operands[1], 0)
    end
    args = (0, 0, 0)
    for k in 1:arity
        number = walk!(walk, operands[k], (code == POWER && k == 2) || (code in ORDERED && k == 1))
        number == 0 && return 0
        args = Base.setindex(args, number, k)
    end
    length(walk.op) >= FORM_OPERATIONS && return 0
    place = code == STATE ? length(push!(walk.states, graph.index[node])) :
        code == PARAM ? length(push!(walk.params, graph.index[node])) :
        code == CONST ? length(push!(walk.constants, graph.constant[node])) : 0
    return walk.numbers[node] = add!(walk, code, args, place, graph.constant[node])
end

function add!(walk::Walk, code::UInt8, args::NTuple{3, Int}, place::Int, value::Float64)
    push!(walk.op, code)
    push!(walk.args, args)
    push!(walk.place, place)
    push!(walk.value, value)
    return length(walk.op)
end

"""
The expression of a walk as a graph of its own, whose states and parameters are its leaves. Constants that are not
`common` to the form are parameters, too, after the others.
"""
function graph_of(walk::Walk, common::BitVector)
    n = length(walk.op)
    op, args, index = copy(walk.op), fill(-1, n, 3), fill(-1, n)
    n_params = length(walk.params)
    number = n_params .+ cumsum(.!common)
    for k in 1:n
        code, place = op[k], walk.place[k]
        if code == CONST && place > 0 && !common[place]
            op[k] = PARAM
            index[k] = number[place] - 1
        elseif code in (STATE, PARAM)
            index[k] = place - 1
        end
        for i in 1:OPERATIONS[code].arity
            args[k, i] = walk.args[k][i] - 1
        end
    end
    constant = [op[k] == CONST ? walk.value[k] : 0.0 for k in 1:n]
    return Graph(op, args, constant, index, length(walk.states), n_params + count(.!common))
end

"""
    in_forms(graph, outputs)

The function of many outputs by their forms, or nothing where too few have one.
"""
function in_forms(graph::Graph, outputs::Vector{Int})
    prints = fingerprints(graph)
    first_of = Dict{Int, Int}()
    copies = Pair{Int, Int}[]
    alike = Dict{Vector{UInt64}, Vector{Tuple{Int, Walk}}}()
    rest = Int[]
    for (k, node) in enumerate(outputs)
        if haskey(first_of, node)
            push!(copies, k => first_of[node])
            continue
        end
        first_of[node] = k
        walk = Walk(graph, prints)
        fits = walk!(walk, node, false) > 0 && length(walk.states) <= FORM_STATES
        fits ? push!(get!(Vector{Tuple{Int, Walk}}, alike, walk.key), (k, walk)) : push!(rest, k)
    end
    forms = Form[]
    for members in sort!(collect(values(alike)); by = first ∘ first)
        common = common_constants(members)
        enough = length(members) >= FORM_OUTPUTS && length(last(members[1]).params) + count(.!common) <= FORM_NUMBERS
        if enough && repeated(members) <= REPEATED
            push!(forms, Form(members, common))
        else
            append!(rest, first.(members))
        end
    end
    isempty(forms) && return nothing
    sort!(rest)
    places = Vector{Int}[collect(part) for part in Iterators.partition(rest, OUTPUTS_AT_ONCE)]
    symbols = Symbols(graph)
    functions = Any[build(trace(graph, outputs[some], symbols), symbols) for some in places]
    return Forms(forms, wrapped.(forms), places, functions, Scattered[Scattered(Quiet(f!)) for f! in functions], copies)
end

function Form(members::Vector{Tuple{Int, Walk}}, common::BitVector)
    walks = last.(members)
    graph = graph_of(first(walks), common)
    states = columns([walk.states for walk in walks])
    params = columns([walk.params for walk in walks])
    constants = columns([walk.constants[.!common] for walk in walks])
    return Form(generate_scalar(graph, length(graph)), first.(members), states, params, constants)
end

function columns(parts::Vector{Vector{T}}) where {T}
    matrix = Matrix{T}(undef, length(first(parts)), length(parts))
    for (k, part) in enumerate(parts)
        matrix[:, k] = part
    end
    return matrix
end

"Which constants are the same in all members."
function common_constants(members::Vector{Tuple{Int, Walk}})
    ours = last(first(members)).constants
    return BitVector(all(((_, walk),) -> walk.constants[k] === ours[k], members) for k in eachindex(ours))
end

"How often operations are repeated because members share them."
function repeated(members::Vector{Tuple{Int, Walk}})
    nodes = Set{Int}()
    total = 0
    for (_, walk) in members
        for node in keys(walk.numbers)
            OPERATIONS[walk.graph.op[node]].arity == 0 && continue
            total += 1
            push!(nodes, node)
        end
    end
    return total / max(1, length(nodes))
end
