# Fields on a GPU are read where they stand: a stencil's array, in which a field has values of its boundaries beside it, is not
# copied together there. Each thread finds the part that it reads.

"""
    Join(axis, strides, first, sizes, parts)

A buffer that is put together along an `axis`, of the given strides and sizes: `parts` are where each of its parts begins along that
axis, from zero, how long it is, and where its elements stand, copied from there or written here.
"""
struct Join
    axis::Int
    strides::NTuple{3, Int}
    first::Int
    sizes::NTuple{3, Int}
    parts::Vector{Tuple{Int, Int, Place}}
end

"""
    joins(fields) -> Dict{Int, Join}

The buffers that need not be put together, as elementwise loops alone read them and can read their parts.
"""
function joins(fields::Fields)
    writers, others = Dict{Int, Vector{Step}}(), Set{Int}(1:(fields.n_fields + n_tables(fields) + fields.n_outputs))
    for step in fields.steps
        for place in targets(step)
            push!(get!(() -> Step[], writers, place.buffer), step)
        end
        step isa KernelStep || push!(others, step.source.buffer)
    end
    found = Dict{Int, Join}()
    for (buffer, steps) in writers
        (buffer in others || !any(step -> step isa CopyStep, steps)) && continue
        join = join_of(steps)
        join === nothing || (found[buffer] = join)
    end
    for step in fields.steps, leaf in (step isa KernelStep ? step.leaves : Place[])
        join = get(found, leaf.buffer, nothing)
        join === nothing || reads(join, leaf) || delete!(found, leaf.buffer)
    end
    return found
end

"Where a step writes."
targets(step::KernelStep) = step.targets
targets(step::Step) = (step.target,)

"The join of what some steps write, one box each, if these are side by side along one axis."
function join_of(steps::Vector{Step})
    all(step -> step isa Union{CopyStep, KernelStep} && length(targets(step)) == 1, steps) || return nothing
    steps = sort(steps; by = step -> only(targets(step)).first)
    strides, origin = only(targets(first(steps))).strides, only(targets(first(steps))).first
    all(step -> only(targets(step)).strides == strides, steps) || return nothing
    for axis in 1:3
        strides[axis] > 0 || continue
        starts = cumsum([0; [step.extent[axis] for step in steps]])
        side_by_side = all(eachindex(steps)) do k
            across = ntuple(a -> a == axis || steps[k].extent[a] == steps[1].extent[a], 3)
            all(across) && only(targets(steps[k])).first == origin + starts[k] * strides[axis]
        end
        side_by_side || continue
        sizes = ntuple(a -> a == axis ? starts[end] : steps[1].extent[a], 3)
        parts = [(starts[k], steps[k].extent[axis], step_place(steps[k])) for k in eachindex(steps)]
        return Join(axis, strides, origin, sizes, parts)
    end
    return nothing
end

"Where the elements that a step writes can be read."
step_place(step::CopyStep) = step.source
step_place(step::KernelStep) = only(step.targets)

"Whether a loop's view of the join goes along its axes, or stands still."
reads(join::Join, leaf::Place) = all(axis -> leaf.strides[axis] in (0, join.strides[axis]), 1:3)

"""
    parts_read(joins, leaf, extent) -> (axis, parts)

What a loop over an extent reads by a leaf: up to which index of an axis, from one, it reads from which place.
"""
function parts_read(joins::Dict{Int, Join}, leaf::Place, extent::NTuple{3, Int})
    join = get(joins, leaf.buffer, nothing)
    join === nothing && return 1, [(extent[1], leaf)]
    corner = corner_of(join, leaf.first - join.first)
    axis = join.axis
    parts = Tuple{Int, Place}[]
    for (start, length, place) in join.parts
        moves = leaf.strides[axis] != 0
        low, high = start - corner[axis] + 1, start + length - corner[axis]
        (moves ? low <= extent[axis] && high >= 1 : low <= 1 <= high) || continue
        begins = ntuple(a -> corner[a] - (a == axis) * start, 3)
        strides = ntuple(a -> leaf.strides[a] == 0 ? 0 : place.strides[a], 3)
        there = Place(place.buffer, place.first + sum(begins .* place.strides), strides)
        push!(parts, (moves ? min(high, extent[axis]) : extent[axis], there))
    end
    return axis, parts
end

"The indices, from zero, of an element of a join so many elements after its first."
function corner_of(join::Join, distance::Int)
    corner = zeros(Int, 3)
    for axis in sort(findall(>(1), collect(join.sizes)); by = axis -> -join.strides[axis])
        corner[axis], distance = divrem(distance, join.strides[axis])
    end
    return Tuple(corner)
end
