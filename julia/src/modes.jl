# Fields on a periodic domain by the modes of their real Fourier series, one field after the other.

const Modes = Vector{ComplexF64}
"`f!(out, modes, p, t)`: solvers that step modes are compiled once for all models."
const InModes = FunctionWrapper{Nothing, Tuple{Modes, Modes, Vec, Float64}}

"""
    Spectrum(shape, n_fields)

The modes of `n_fields` fields on a grid of that shape, fastest axis first: half of them along the first axis, as the fields are
real.
"""
struct Spectrum{N}
    grid::Array{Float64, N}
    modes::Array{ComplexF64, N}
    there!::Any
    back!::Any
    n_fields::Int
end

function Spectrum(shape::NTuple{N, Int}, n_fields::Int) where {N}
    load_package("FFTW") === nothing &&
        throw(ArgumentError("stepping Fourier modes needs the Julia package FFTW, which is not installed"))
    grid, modes = zeros(shape), zeros(ComplexF64, shape[1] ÷ 2 + 1, Base.tail(shape)...)
    there!, back! = Base.invokelatest(transforms_of_grid, grid, modes)
    return Spectrum{N}(grid, modes, there!, back!, n_fields)
end

"As [`transforms`](@ref), of a whole grid along all of its axes."
function transforms_of_grid end

n_modes(spectrum::Spectrum) = length(spectrum.modes)
"Which of all modes are those of a field."
block(spectrum::Spectrum, field::Int) = ((field - 1) * n_modes(spectrum) + 1):(field * n_modes(spectrum))
"Which of all cells are those of a field."
cells(spectrum::Spectrum, field::Int) = ((field - 1) * length(spectrum.grid) + 1):(field * length(spectrum.grid))

"The modes of fields that are given at the points."
function to_modes(spectrum::Spectrum, u::Vec)
    out = Modes(undef, spectrum.n_fields * n_modes(spectrum))
    for field in 1:spectrum.n_fields
        copyto!(spectrum.grid, view(u, cells(spectrum, field)))
        spectrum.there!(spectrum.modes, spectrum.grid)
        copyto!(view(out, block(spectrum, field)), spectrum.modes)
    end
    return out
end

"Fields at the points from their modes."
function to_points(spectrum::Spectrum, modes::Modes)
    out = Vec(undef, spectrum.n_fields * length(spectrum.grid))
    for field in 1:spectrum.n_fields
        copyto!(spectrum.modes, view(modes, block(spectrum, field)))
        spectrum.back!(spectrum.grid, spectrum.modes)
        copyto!(view(out, cells(spectrum, field)), spectrum.grid)
    end
    return out
end

n_values(u, spectrum::Spectrum) = spectrum.n_fields * length(spectrum.grid)
saved_states(saved, count::Int, spectrum::Spectrum) = Vec[to_points(spectrum, saved[k]) for k in 1:count]

"What derivatives of the given orders along the axes of a grid, for periods of 2π, multiply its modes with."
function multiplier(shape::NTuple{N, Int}, orders) where {N}
    factors = map(1:N) do axis
        n = shape[axis]
        waves = axis == 1 ? (0:(n ÷ 2)) : [0:((n - 1) ÷ 2); (-(n ÷ 2)):-1]
        along = [(im * complex(Float64(k)))^orders[axis] for k in waves]
        # The highest mode of an even number of points has no odd derivative.
        iseven(n) && isodd(orders[axis]) && (along[n ÷ 2 + 1] = 0)
        reshape(along, ntuple(k -> k == axis ? length(along) : 1, N))
    end
    return reduce((a, b) -> a .* b, factors)
end

"One of the arrays that a function of modes reads or writes: a derivative of a field."
struct Derivative{N}
    field::Int
    multiplier::Union{Nothing, Array{ComplexF64, N}}

    Derivative{N}(field, multiplier) where {N} = new{N}(field, multiplier)
end

function Derivative(shape::NTuple{N, Int}, field::Int, orders) where {N}
    return Derivative{N}(field, all(iszero, orders) ? nothing : multiplier(shape, orders))
end

"""
    Modal(spectrum, fields, inputs, outputs)

A function of modes with values that are modes: `fields` computes at the points, from `inputs`, what counts in the places
`outputs`.
"""
struct Modal{N, T, B}
    spectrum::Spectrum{N}
    there!::T
    back!::B
    fields::Fields
    inputs::Vector{Derivative{N}}
    outputs::Vector{Derivative{N}}
    u::Vec
    values::Vec
end

function Modal(spectrum::Spectrum, fields::Fields, inputs, outputs)
    n = length(spectrum.grid)
    n_states(fields) == n * length(inputs) && n_entries(fields) == n * length(outputs) ||
        throw(ArgumentError("the arrays of a function of modes are not those that its loops read and write"))
    u, values = zeros(n_states(fields)), zeros(n_entries(fields))
    return Modal(spectrum, spectrum.there!, spectrum.back!, fields, inputs, outputs, u, values)
end

function (modal::Modal)(out::Modes, modes::Modes, p::Vec, t::Float64)
    spectrum = modal.spectrum
    grid, scratch = spectrum.grid, spectrum.modes
    for (k, input) in enumerate(modal.inputs)
        copyto!(scratch, 1, modes, first(block(spectrum, input.field)), length(scratch))
        input.multiplier === nothing || (scratch .*= input.multiplier)
        modal.back!(grid, scratch)
        copyto!(modal.u, first(cells(spectrum, k)), grid, 1, length(grid))
    end
    modal.fields(modal.values, modal.u, p, t)
    fill!(out, 0)
    for (k, output) in enumerate(modal.outputs)
        copyto!(grid, 1, modal.values, first(cells(spectrum, k)), length(grid))
        modal.there!(scratch, grid)
        add_to!(out, first(block(spectrum, output.field)) - 1, scratch, output.multiplier)
    end
    return nothing
end

function add_to!(out::Modes, before::Int, values, ::Nothing)
    @inbounds @simd for k in eachindex(values)
        out[before + k] += values[k]
    end
    return nothing
end

function add_to!(out::Modes, before::Int, values, multiplier)
    @inbounds @simd for k in eachindex(values)
        out[before + k] += multiplier[k] * values[k]
    end
    return nothing
end

"""
    ModalSplit(linear, rest)

A right-hand side in two parts, both functions of modes; the linear one multiplies every mode of a field by a number.
"""
struct ModalSplit
    spectrum::Spectrum
    linear::Modal
    rest::Modal
end

"Buffers of its own for a thread of its own."
function Base.copy(split::ModalSplit)
    shape = size(split.spectrum.grid)
    spectrum = Spectrum(shape, split.spectrum.n_fields)
    again(modal) = Modal(spectrum, copy(modal.fields), modal.inputs, modal.outputs)
    return ModalSplit(spectrum, again(split.linear), again(split.rest))
end

"The numbers by which the linear part multiplies the modes: its answer to one in each mode of one field."
function symbols(split::ModalSplit, p::Vec)
    spectrum = split.spectrum
    n = n_modes(spectrum) * spectrum.n_fields
    found, modes, answer = Modes(undef, n), Modes(undef, n), Modes(undef, n)
    for field in 1:spectrum.n_fields
        own = block(spectrum, field)
        fill!(modes, 0)
        modes[own] .= 1
        split.linear(answer, modes, p, 0.0)
        found[own] = answer[own]
    end
    return found
end

"""
Give a model of fields the two parts of its right-hand side as functions of modes. `shape` is that of the grid, fastest axis
first; `inputs` and `outputs` of each part are, one after the other, the zero-based number of a field and the orders of its
derivative along each axis.
"""
function set_modes!(model::Model, shape, n_fields, linear::Fields, linear_places, rest::Fields, rest_places)
    grid = Tuple(Int.(shape))
    spectrum = Spectrum(grid, Int(n_fields))
    model.modes = ModalSplit(spectrum, modal(spectrum, linear, linear_places...), modal(spectrum, rest, rest_places...))
    n_states(model) == length(spectrum.grid) * spectrum.n_fields || throw(ArgumentError("the grids are not those of the states"))
    empty!(model.copies)
    return nothing
end

function modal(spectrum::Spectrum{N}, fields::Fields, inputs, outputs) where {N}
    shape = size(spectrum.grid)
    derivatives(numbers) = map(1:(N + 1):length(numbers)) do k
        0 <= numbers[k] < spectrum.n_fields || throw(ArgumentError("there is no field $(numbers[k])"))
        Derivative(shape, Int(numbers[k]) + 1, Tuple(numbers[(k + 1):(k + N)]))
    end
    return Modal(spectrum, fields, derivatives(inputs), derivatives(outputs))
end
