# The steps of `Fields` as kernels.

"So many threads work together."
const GROUP = 256

"""
Threads of a group along each axis: neighbours in memory first, which are read at once, but no more of them than these where there
is another axis, whose neighbours a stencil reads as well.
"""
const NEIGHBOURS = 32

function group(extent::NTuple{N, Int}) where {N}
    sizes, left = ones(Int, N), GROUP
    for axis in findall(>(1), extent)
        most = left == GROUP && count(>(1), extent) > 1 ? NEIGHBOURS : left
        sizes[axis] = min(extent[axis], most)
        left ÷= sizes[axis]
    end
    return Tuple(sizes)
end

# -- element by element

"""
    Leaf{axis, which}(ends, firsts, strides)

Where a leaf is read: up to each of some indices of an axis from another place, in the arrays of the numbers `which`.
"""
struct Leaf{axis, which, Q, N}
    ends::NTuple{Q, Int}
    firsts::NTuple{Q, Int}
    strides::NTuple{Q, NTuple{N, Int}}
end

function Leaf(axis::Int, ends::NTuple{Q, Int}, spots, arrays) where {Q}
    which = map(spot -> findfirst(array -> array === spot.source, arrays), spots)
    return Leaf{axis, which, Q, 3}(ends, map(spot -> spot.first, spots), map(spot -> spot.strides, spots))
end

"The values of leaves at an index, unrolled: the arrays may be of several types."
@generated function values_at(data::Tuple, leaves::Tuple, index)
    values = (value_at(leaves.parameters[m], m) for m in eachindex(leaves.parameters))
    return Expr(:block, Expr(:meta, :inline), Expr(:tuple, values...))
end

function value_at(::Type{<:Leaf{axis, which}}, m::Int) where {axis, which}
    read(q) = :(@inbounds data[$(which[q])][at(leaves[$m].firsts[$q], leaves[$m].strides[$q], index)])
    value = read(length(which))
    for q in (length(which) - 1):-1:1
        value = :(index[$axis] <= leaves[$m].ends[$q] ? $(read(q)) : $value)
    end
    return value
end

# Inlined, as a tuple that is handed on may go through memory.
@inline applied(f, data, leaves, index, p, t) = @inline f(values_at(data, leaves, index), p, t)

@kernel function elementwise!(f, out, to, by, data, leaves, p, t)
    index = @index(Global, NTuple)
    @inbounds out[at(to, by, index)] = applied(f, data, leaves, index, p, t)
end

function PySciML.launch(rates::DeviceFields{T}, step::KernelStep, spot, joins, ::Type) where {T}
    read = [PySciML.parts_read(joins, leaf, step.extent) for leaf in step.leaves]
    spots = [Tuple(spot(place) for (_, place) in parts) for (_, parts) in read]
    sources = unique(objectid, [spot.source for leaf in spots for spot in leaf])
    leaves = Tuple(Leaf(axis, Tuple(first.(parts)), found, sources) for ((axis, parts), found) in zip(read, spots))
    # Of fixed extent: indices of three axes are found by divisions, which by known numbers are multiplications.
    kernel! = elementwise!(rates.backend, group(step.extent), step.extent)
    each = map(step.nodes, step.targets) do node, target
        f = PySciML.device_scalar(step.graph, node, T, PySciML.on_gpu(rates.backend))
        elementwise(kernel!, f, spot(target), Tuple(sources), leaves)
    end
    return length(each) == 1 ? only(each) : (du, u, p, t) -> foreach(launch! -> launch!(du, u, p, t), each)
end

function elementwise(kernel!, f, target::Spot, sources::Tuple, leaves::Tuple)
    return function (du, u, p, t)
        data = map(source -> array_of(source, du, u), sources)
        kernel!(f, array_of(target.source, du, u), target.first, target.strides, data, leaves, p, t)
    end
end

# -- copies

@kernel function copy_box!(out, to, by, data, first, strides)
    index = @index(Global, NTuple)
    @inbounds out[at(to, by, index)] = data[at(first, strides, index)]
end

PySciML.launch(rates::DeviceFields, step::CopyStep, spot, _, ::Type) =
    copying(rates.backend, step.extent, spot(step.target), spot(step.source))

function copying(backend, extent, target::Spot, source::Spot)
    kernel! = copy_box!(backend, group(extent))
    return function (du, u, p, t)
        out, data = array_of(target.source, du, u), array_of(source.source, du, u)
        kernel!(out, target.first, target.strides, data, source.first, source.strides; ndrange = extent)
    end
end

# -- sums and largest values: a group for each line, or for each part of a long one

"Of these elements a part of a line has at least so many."
const PART = 4096

"From here on there are groups enough without dividing lines."
const GROUPS = 1024

@kernel function reduce_lines!(combine, out, to, by, data, first, strides, extent, stride, n, parts)
    thread = @index(Local, Linear)
    number = @index(Group, Linear)
    partial = @localmem eltype(out) (GROUP,)
    low, high = part_of(n, parts, number)
    begin_at = at(first, strides, line_of(extent, parts, number))
    if low + thread - 1 < high
        @inbounds value = data[begin_at + (low + thread - 1) * stride]
        for m in (low + thread - 1 + GROUP):GROUP:(high - 1)
            @inbounds value = combine(value, data[begin_at + m * stride])
        end
        @inbounds partial[thread] = value
    end
    @synchronize
    if thread == 1
        low, high = part_of(n, parts, number)
        @inbounds whole = partial[1]
        for m in 2:min(GROUP, high - low)
            @inbounds whole = combine(whole, partial[m])
        end
        @inbounds out[at(to, by, line_of(extent, parts, number)) + (number - 1) % parts] = whole
    end
end

"The elements of a line, from zero, that a group has: from the first up to before the second."
function part_of(n, parts, number)
    each = cld(n, parts)
    low = each * ((number - 1) % parts)
    return low, min(n, low + each)
end

function line_of(extent, parts, number)
    line, i = divrem((number - 1) ÷ parts, extent[1])
    k, j = divrem(line, extent[2])
    return (i + 1, j + 1, k + 1)
end

function PySciML.launch(rates::DeviceFields, step::ReductionStep, spot, _, ::Type{R}) where {R}
    combine = step.largest ? max : +
    lines = prod(step.extent)
    parts = clamp(min(step.n ÷ PART, GROUPS ÷ lines), 1, GROUPS)
    target, source = spot(step.target), spot(step.source)
    parts == 1 && return reducing(rates.backend, combine, step.extent, target, source, step.stride, step.n, 1)
    strides = (parts, parts * step.extent[1], parts * step.extent[1] * step.extent[2])
    between = Spot(PySciML.on_device(rates.backend, zeros(R, parts * lines)), 1, strides)
    first! = reducing(rates.backend, combine, step.extent, between, source, step.stride, step.n, parts)
    second! = reducing(rates.backend, combine, step.extent, target, between, 1, parts, 1)
    return (du, u, p, t) -> (first!(du, u, p, t); second!(du, u, p, t))
end

function reducing(backend, combine, extent, target::Spot, source::Spot, stride, n, parts)
    kernel! = reduce_lines!(backend, (GROUP,))
    ndrange = (GROUP * parts * prod(extent),)
    return function (du, u, p, t)
        out, data = array_of(target.source, du, u), array_of(source.source, du, u)
        kernel!(
            combine, out, target.first, target.strides, data, source.first, source.strides, extent, stride, n, parts; ndrange,
        )
    end
end

# -- matrices times lines

@kernel function multiply_lines!(out, to, by, @Const(matrix), data, first, strides, step, n)
    index = @index(Global, NTuple)
    begin_at = at(first, strides, index)
    value = zero(eltype(out))
    for m in 0:(n - 1)
        @inbounds value += matrix[(index[2] - 1) * n + m + 1] * data[begin_at + m * step]
    end
    @inbounds out[at(to, by, index)] = value
end

function PySciML.launch(rates::DeviceFields, step::ProductStep, spot, _, ::Type)
    matrix = spot(PySciML.Place(step.matrix, 1, (0, 0, 0))).source
    i, j, k = step.extent
    target, source = with_axis(spot(step.target), 2, step.steps[1]), with_axis(spot(step.source), 2, 0)
    extent = (i, step.rows, j, k)
    kernel! = multiply_lines!(rates.backend, group(extent))
    return function (du, u, p, t)
        out, data = array_of(target.source, du, u), array_of(source.source, du, u)
        kernel!(
            out, target.first, target.strides, matrix, data, source.first, source.strides, step.steps[2], step.n;
            ndrange = extent,
        )
    end
end

"The same place with one more axis."
function with_axis(spot::Spot, axis::Int, stride::Int)
    strides = (spot.strides[1:(axis - 1)]..., stride, spot.strides[axis:end]...)
    return Spot(spot.source, spot.first, strides)
end

# -- derivatives by Fourier series

function PySciML.launch(rates::DeviceFields, step::TransformStep, spot, _, ::Type{R}) where {R}
    R <: AbstractFloat ||
        throw(ArgumentError("on a GPU: implicit methods have no spectral derivatives; name an explicit method"))
    extent = (step.n, step.extent...)
    lines = PySciML.on_device(rates.backend, zeros(R, step.n, prod(step.extent)))
    modes = PySciML.on_device(rates.backend, zeros(Complex{R}, step.n ÷ 2 + 1, size(lines, 2)))
    there!, back! = PySciML.transforms(lines, modes)
    multiplier = PySciML.on_device(rates.backend, Vector{Complex{R}}(step.multiplier))
    packed = Spot(lines, 1, (1, cumprod(extent[1:3])...))
    gather! = copying(rates.backend, extent, packed, with_axis(spot(step.source), 1, step.steps[2]))
    scatter! = copying(rates.backend, extent, with_axis(spot(step.target), 1, step.steps[1]), packed)
    return function (du, u, p, t)
        gather!(du, u, p, t)
        there!(modes, lines)
        modes .*= multiplier
        back!(lines, modes)
        scatter!(du, u, p, t)
    end
end
