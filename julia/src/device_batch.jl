# A batch on a device: what batch.jl has for a CPU, by kernels over all members and products of whole matrices.

"""
    device_zeros(backend, T, size...)

An array of zeros of a backend of KernelAbstractions.jl. As the next three, a method of PySciMLKernelAbstractionsExt.
"""
function device_zeros end

"""
    run_level!(values, steps, rules)

Evaluate the operations `steps` of a [`Layout`](@ref)'s level for all members.
"""
function run_level! end

"""
    gather!(out, gather, rules, bars, values, k_bar, length, adding)

Write to the columns of `out` that a [`Gather`](@ref) names what their uses pass back, or (`adding`) add it to them.
"""
function gather! end

"`k[:, targets[j]] = length .* values[:, columns[j]]`"
function take_outputs! end

"Numbers from another place, in the precision of this array."
receive!(out::AbstractArray{T}, numbers::AbstractArray{T}) where {T} = out === numbers ? out : copyto!(out, numbers)
receive!(out::AbstractArray{T}, numbers::AbstractArray) where {T} = copyto!(out, T.(numbers))

"A [`Gather`](@ref) on the device."
struct DeviceGather{I, J}
    columns::I
    first::I
    uses::J
end

DeviceGather(backend, g::Gather) = DeviceGather(on_device(backend, g.columns), on_device(backend, g.first), on_device(backend, g.uses))

"A layer's numbers within the parameter vector, and the adjoints of these."
struct DeviceLayer{W, B, V}
    layer::Dense
    matrix::W
    bias::B
    matrix_bar::W
    bias_bar::V
end

function DeviceLayer(layer::Dense, p, p_bar)
    matrix, bias = layer.matrix .+ (1:(layer.n_in * layer.n_out)), layer.bias .+ (1:layer.n_out)
    shaped(v) = reshape(view(v, matrix), layer.n_in, layer.n_out)
    return DeviceLayer(layer, shaped(p), reshape(view(p, bias), 1, layer.n_out), shaped(p_bar), view(p_bar, bias))
end

"The columns of one network in the values of a stage, or in the adjoints."
struct Pass{V}
    outer::Vector{V}
    inner::Vector{V}
end

"The values of a stage of all members; `states`, `times` and `fixed` are columns of them."
struct DeviceStage{M, V}
    values::M
    states::V
    times::V
    fixed::V
    passes::Vector{Pass{V}}
end

function DeviceStage(values::AbstractMatrix, layout::Layout)
    columns(range) = view(values, :, range)
    passes = [Pass(columns.(placed.outer), columns.(placed.inner)) for placed in layout.networks]
    return DeviceStage(values, columns(layout.states), columns(layout.times), columns(1:layout.n_fixed), passes)
end

"""
    DeviceField(tape, rows, targets, stages, backend, T; with_time_bars = false)

As a [`BatchField`](@ref), with the states, stages and adjoints in arrays of type `T` of a `backend` of
KernelAbstractions.jl. What follows from parameters alone is computed on the CPU, once for a solve; all else stays on the
device. Weights are parts of one vector of parameters, and so are their adjoints. `pull_slope!` computes the adjoint of the time
where `with_time_bars`: the CPU waits for it.

Throws an `ArgumentError` for operations that devices have not.
"""
struct DeviceField{T, A, D, M, L, W, I, J}
    tape::Tape
    layout::Layout
    backend::A
    rows::Int
    rules::Tuple # one method for all models: only kernels are compiled for their operations
    start::D
    length::D
    ones::D
    p::D
    p_bar::D
    host::Matrix{Float64}
    fixed::M
    fixed_bars::M
    stages::Vector{DeviceStage{M, L}}
    bars::M
    passes::Vector{Pass{L}}
    layers::Vector{Vector{W}}
    levels::Vector{J}
    pulled::Vector{DeviceGather{I, J}}
    by_states::DeviceGather{I, J}
    by_fixed::DeviceGather{I, J}
    by_time::Union{Nothing, DeviceGather{I, J}}
    time_bars::M
    outputs::I
    targets::I
end

function DeviceField(
        tape::Tape, rows::Int, targets::AbstractVector{Int}, stages::Int, backend, ::Type{T}; with_time_bars::Bool = false,
    ) where {T <: Union{Float32, Float64}}
    check_targets(tape, targets)
    check_kernels(tape)
    layout, replaced = Layout(tape, targets), on_gpu(backend)
    rules = Tuple(Rule{code, replaced}() for code in sort!(unique(step.code for step in tape.moving if step.code != NETWORK)))
    blank(size...) = device_zeros(backend, T, size...)
    indices(numbers) = on_device(backend, Vector{Int32}(numbers))
    p, p_bar, bars = blank(tape.n_params), blank(tape.n_params), blank(rows, layout.n_bars)
    columns(range) = view(bars, :, range)
    layers = [[DeviceLayer(layer, p, p_bar) for layer in placed.network] for placed in layout.networks]
    outputs, by_fixed = indices(layout.outputs), DeviceGather(backend, layout.by_fixed)
    by_time = with_time_bars && !isempty(layout.by_time.uses) ? DeviceGather(backend, layout.by_time) : nothing
    types = map(typeof, (backend, p, bars, columns(1:0)))..., eltype(eltype(layers)), map(typeof, (outputs, by_fixed.uses))...
    return DeviceField{T, types...}(
        tape, layout, backend, rows, rules, blank(rows), fill!(blank(rows), 1), fill!(blank(rows), 1), p, p_bar,
        zeros(1, layout.n_fixed), blank(1, layout.n_fixed), blank(rows, layout.n_fixed),
        [DeviceStage(blank(rows, layout.n_values), layout) for _ in 1:stages], bars,
        [Pass([columns(range) for range in placed.bars], types[4][]) for placed in layout.networks], layers,
        [on_device(backend, steps) for steps in layout.levels], [DeviceGather(backend, g) for g in layout.pulled],
        DeviceGather(backend, layout.by_states), by_fixed, by_time, blank(rows, 1), outputs, indices(targets),
    )
end

n_params(f::DeviceField) = f.tape.n_params
blank(f::DeviceField{T}, shape) where {T} = device_zeros(f.backend, T, shape...)

function prepare!(f::DeviceField, p::AbstractVector, start::AbstractVector, length::AbstractVector)
    receive!(f.start, start)
    receive!(f.length, length)
    receive!(f.p, p)
    f.layout.n_fixed == 0 && return nothing
    set_fixed!(f.host, f.tape, isempty(f.tape.params) ? Float64[] : Array(p))
    receive!(f.fixed, f.host)
    for stage in f.stages
        stage.fixed .= f.fixed
    end
    return nothing
end

function clear!(f::DeviceField)
    fill!(f.p_bar, 0)
    fill!(f.fixed_bars, 0)
    return nothing
end

function slope!(k::AbstractMatrix, f::DeviceField{T}, stage::Int, τ::Float64, y::AbstractMatrix) where {T}
    at, relative = f.stages[stage], T(τ)
    copyto!(at.states, y)
    isempty(f.layout.times) || (@. at.times = f.start + f.length * relative)
    for level in eachindex(f.levels)
        isempty(f.levels[level]) || run_level!(at.values, f.levels[level], f.rules)
        for (number, placed) in enumerate(f.layout.networks)
            placed.level == level && evaluate!(at.passes[number], f.layers[number])
        end
    end
    take_outputs!(k, f.targets, at.values, f.outputs, f.length)
    return nothing
end

function pull_slope!(y_bar::AbstractMatrix, f::DeviceField, stage::Int, k_bar::AbstractMatrix)
    at = f.stages[stage]
    pull(out, gather, adding) =
        isempty(gather.columns) || gather!(out, gather, f.rules, f.bars, at.values, k_bar, f.length, adding)
    for level in length(f.levels):-1:1
        pull(f.bars, f.pulled[level], false)
        for (number, placed) in enumerate(f.layout.networks)
            placed.level == level && pull!(f.passes[number], at.passes[number], f.layers[number], f.ones)
        end
    end
    pull(y_bar, f.by_states, true)
    pull(f.fixed_bars, f.by_fixed, true)
    f.by_time === nothing && return 0.0
    pull(f.time_bars, f.by_time, false)
    return inner_product(f.length, vec(f.time_bars))
end

function parameter_bars!(p_bar::AbstractVector, f::DeviceField)
    from_device(p_bar, f.p_bar)
    isempty(f.tape.params) && return nothing
    sums = zeros(1, f.layout.n_fixed)
    copyto!(sums, Array(sum(f.fixed_bars; dims = 1)))
    own = zeros(f.tape.n_params)
    pull_fixed!(own, sums, f.host, f.tape)
    p_bar .+= p_bar isa Array ? own : on_device(f.backend, eltype(p_bar).(own))
    return nothing
end

"Add numbers of a device to those of another place."
from_device(out::Array, numbers) = out .+= Array(numbers)
from_device(out, numbers) = out .+= numbers

# -- networks

"Broadcast over the activation of a layer: `f(function, derivative)`, functions of devices."
function with_activation(f::F, activation::Symbol) where {F}
    activation === :tanh && return f(tanh, tanh_slope)
    activation === :identity && return f(identity, identity_slope)
    activation === :sigmoid && return f(logistic, logistic_slope)
    activation === :relu && return f(relu, relu_slope)
    activation === :softplus && return f(softplus, softplus_slope)
    activation === :swish && return f(swish, swish_slope)
    activation === :gelu && return f(gelu, gelu_slope)
    return f(sin, sin_slope)
end

function evaluate!(pass::Pass, layers::Vector{<:DeviceLayer})
    for (k, at) in enumerate(layers)
        evaluate!(pass.outer[k + 1], pass.inner[k], pass.outer[k], at)
    end
    return nothing
end

function evaluate!(out::AbstractMatrix, inner::AbstractMatrix, x::AbstractMatrix, at::DeviceLayer)
    mul!(out, x, at.matrix)
    with_activation(at.layer.activation) do f, _
        if isempty(inner)
            @. out = f(out + at.bias)
        else
            @. inner = out + at.bias
            @. out = f(inner)
        end
    end
    return nothing
end

function pull!(bars::Pass, pass::Pass, layers::Vector{<:DeviceLayer}, ones::AbstractVector)
    for (k, at) in Iterators.reverse(enumerate(layers))
        pull!(bars.outer[k], bars.outer[k + 1], pass.inner[k], pass.outer[k], pass.outer[k + 1], at, ones)
    end
    return nothing
end

function pull!(x_bar, bar, inner, x, out, at::DeviceLayer, ones)
    at.layer.activation === :identity || with_activation(at.layer.activation) do _, slope
        isempty(inner) ? (@. bar *= slope(out, out)) : (@. bar *= slope(inner, out))
    end
    mul!(at.matrix_bar, transpose(x), bar, true, true)
    mul!(at.bias_bar, transpose(bar), ones, true, true)
    mul!(x_bar, bar, transpose(at.matrix))
    return nothing
end
