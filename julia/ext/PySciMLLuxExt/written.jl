# Lux models as terms of equations.

PySciML.is_network(::Lux.AbstractLuxLayer) = true

PySciML.set_up_network(model::Lux.AbstractLuxLayer) = Lux.setup(PySciML.Random.Xoshiro(0), model)

"Activations by the names of `PySciML.ACTIVATIONS`."
const NAMES = IdDict{Any, Symbol}(
    identity => :identity, tanh => :tanh, Lux.NNlib.tanh_fast => :tanh, Lux.sigmoid => :sigmoid, Lux.NNlib.sigmoid_fast => :sigmoid,
    Lux.relu => :relu, Lux.softplus => :softplus, Lux.swish => :swish, Lux.NNlib.gelu_erf => :gelu, sin => :sin,
)

function PySciML.dense_network(model::Lux.AbstractLuxLayer, ps)
    layers = dense_layers(model, ps)
    layers === nothing && return nothing
    widths = [size(first(layers).second.weight, 2); [size(part.weight, 1) for (_, part) in layers]]
    numbers = reduce(vcat, [[vec(permutedims(part.weight)); part.bias] for (_, part) in layers])
    return widths, [String(NAMES[layer.activation]) for (layer, _) in layers], Float64.(numbers)
end

"The layers with their parameters, one after the other; `nothing` where one is something else than dense."
dense_layers(model, ps) = nothing
dense_layers(model::Dense, ps) = haskey(NAMES, model.activation) && haskey(ps, :bias) ? [model => ps] : nothing
function dense_layers(model::Chain, ps)
    parts = [dense_layers(layer, getproperty(ps, name)) for (name, layer) in pairs(model.layers)]
    return any(isnothing, parts) ? nothing : reduce(vcat, parts)
end

function PySciML.written_network(model::Lux.AbstractLuxLayer, ps, st, n_inputs)
    symbols = PySciML.Symbols(n_inputs, n_numbers(ps))
    outputs = apply(model, reshape(symbols.states, :, 1), filled(ps, symbols.params), Lux.testmode(st))
    outputs isa AbstractMatrix || throw(ArgumentError("it returns a $(nameof(typeof(outputs))), not a matrix"))
    return numbers_of(ps), PySciML.written(vec(outputs), symbols)...
end

"All numbers, one after the other."
numbers_of(ps) = add_numbers!(zeros(n_numbers(ps)), ps)

function add_numbers!(out::Vector{Float64}, ps)
    add_numbers!(out, 0, ps, ps, Float64)
    return out
end

"The parameters with these numbers in their places."
function filled(ps, numbers::AbstractVector, done = Ref(0))
    ps isa Union{NamedTuple, Tuple} && return map(part -> filled(part, numbers, done), ps)
    ps isa AbstractArray{<:Number} || return ps
    done[] += length(ps)
    return reshape(numbers[(done[] - length(ps) + 1):done[]], size(ps))
end
