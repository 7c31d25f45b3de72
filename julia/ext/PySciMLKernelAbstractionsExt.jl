module PySciMLKernelAbstractionsExt

using KernelAbstractions: KernelAbstractions, @Const, @index, @kernel, @localmem, @synchronize
using LinearAlgebra: mul!
using PySciML: PySciML, CopyStep, DeviceFields, KernelStep, ProductStep, ReductionStep, Spot, TransformStep, array_of, at

PySciML.on_gpu(backend) = KernelAbstractions.isgpu(backend)

function PySciML.on_device(backend, host::Array)
    made = KernelAbstractions.allocate(backend, eltype(host), size(host)...)
    return copyto!(made, host)
end

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

"The leaves of a kernel at an index, unrolled: their arrays may be of several types."
@generated function values_at(data::Tuple, first, strides, index)
    return Expr(:tuple, (:(@inbounds data[$m][at(first[$m], strides[$m], index)]) for m in 1:fieldcount(data))...)
end

@kernel function elementwise!(f, out, to, by, data, first, strides, p, t)
    index = @index(Global, NTuple)
    @inbounds out[at(to, by, index)] = f(values_at(data, first, strides, index), p, t)
end

function PySciML.launch(rates::DeviceFields{T}, step::KernelStep, spot, ::Type) where {T}
    f = PySciML.device_scalar(step.graph, step.node, T, PySciML.on_gpu(rates.backend))
    # Of fixed extent: indices of three axes are found by divisions, which by known numbers are multiplications.
    kernel! = elementwise!(rates.backend, group(step.extent), step.extent)
    return elementwise(kernel!, f, spot(step.target), Tuple(map(spot, step.leaves)))
end

function elementwise(kernel!, f, target::Spot, leaves::Tuple)
    first, strides = map(leaf -> leaf.first, leaves), map(leaf -> leaf.strides, leaves)
    return function (du, u, p, t)
        data = map(leaf -> array_of(leaf.source, du, u), leaves)
        kernel!(f, array_of(target.source, du, u), target.first, target.strides, data, first, strides, p, t)
    end
end

# -- copies

@kernel function copy_box!(out, to, by, data, first, strides)
    index = @index(Global, NTuple)
    @inbounds out[at(to, by, index)] = data[at(first, strides, index)]
end

PySciML.launch(rates::DeviceFields, step::CopyStep, spot, ::Type) =
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

function PySciML.launch(rates::DeviceFields, step::ReductionStep, spot, ::Type{R}) where {R}
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

function PySciML.launch(rates::DeviceFields, step::ProductStep, spot, ::Type)
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

function PySciML.launch(rates::DeviceFields, step::TransformStep, spot, ::Type{R}) where {R}
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

end
