# The parameters of a Lux model, nested as its layers are, as one vector of numbers.

n_numbers(ps::AbstractArray{<:Number}) = length(ps)
n_numbers(ps::Union{NamedTuple, Tuple}) = sum(n_numbers, ps; init = 0)
n_numbers(ps) = 0

"The parameters as numbers of another type."
converted(::Type{D}, ps::AbstractArray{<:Number}) where {D} = D.(ps)
converted(::Type{D}, ps::Union{NamedTuple, Tuple}) where {D} = map(part -> converted(D, part), ps)
converted(::Type, ps) = ps

"""
    add_numbers!(out, done, ps, bar, f)

Add `f` of the numbers of `bar`, a derivative by `ps`, to those of `out` after the first `done`. Returns how many are done then.
"""
function add_numbers!(out::AbstractVector{Float64}, done::Int, ps::AbstractArray{<:Number}, bar, f)
    bar isa AbstractZero || (view(out, (done + 1):(done + length(ps))) .+= f.(vec(bar)))
    return done + length(ps)
end
function add_numbers!(out::AbstractVector{Float64}, done::Int, ps::Union{NamedTuple, Tuple}, bar, f)
    for name in keys(ps)
        part = bar isa AbstractZero ? bar : unthunk(getproperty(bar, name))
        done = add_numbers!(out, done, ps[name], part, f)
    end
    return done
end
add_numbers!(out::AbstractVector{Float64}, done::Int, ps, bar, f) = done

"The derivative by `ps` that has these numbers, after the first `done`."
function tangent(numbers::AbstractVector{Float64}, ps, done = Ref(0))
    ps isa NamedTuple && return Tangent{typeof(ps)}(; map(part -> tangent(numbers, part, done), ps)...)
    ps isa Tuple && return Tangent{typeof(ps)}(map(part -> tangent(numbers, part, done), ps)...)
    ps isa AbstractArray{<:Number} || return NoTangent()
    done[] += length(ps)
    return similar(ps) .= reshape(view(numbers, (done[] - length(ps) + 1):done[]), size(ps))
end

# -- where arrays are: in main memory, or on a device

"The array that holds the numbers of one that may be a view of them."
holder(x::AbstractArray) = parent(x) === x ? x : holder(parent(x))

"A type such as `Array` or `CuArray`, whatever the numbers and dimensions."
kind(x::AbstractArray) = Base.typename(typeof(holder(x))).wrapper

"Throw where parameters are not where the states are; static ones are everywhere."
function check_place(owner, y0, ps::AbstractArray{<:Number})
    isbits(holder(ps)) || kind(ps) === kind(y0) || throw(
        ArgumentError(
            "$owner: states are in $(kind(y0)) and parameters in $(kind(ps)); have all of them in one place, as by `device((y0, ps, st))`"
        )
    )
    return nothing
end
check_place(owner, y0, ps::Union{NamedTuple, Tuple}) = foreach(part -> check_place(owner, y0, part), ps)
check_place(owner, y0, ps) = nothing

"An array of zeros where `x` is."
zeros_like(x::AbstractArray, ::Type{T}, shape...) where {T} = fill!(similar(x, T, shape...), 0)

"Numbers from main memory where `x` is."
sent(::Array, numbers::Array) = numbers
sent(x::AbstractArray, numbers::Array) = copyto!(similar(x, eltype(numbers), size(numbers)), numbers)
