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
function add_numbers!(out::Vector{Float64}, done::Int, ps::AbstractArray{<:Number}, bar, f)
    bar isa AbstractZero || (view(out, (done + 1):(done + length(ps))) .+= f.(vec(bar)))
    return done + length(ps)
end
function add_numbers!(out::Vector{Float64}, done::Int, ps::Union{NamedTuple, Tuple}, bar, f)
    for name in keys(ps)
        part = bar isa AbstractZero ? bar : unthunk(getproperty(bar, name))
        done = add_numbers!(out, done, ps[name], part, f)
    end
    return done
end
add_numbers!(out::Vector{Float64}, done::Int, ps, bar, f) = done

"The derivative by `ps` that has these numbers, after the first `done`."
function tangent(numbers::Vector{Float64}, ps, done = Ref(0))
    ps isa NamedTuple && return Tangent{typeof(ps)}(; map(part -> tangent(numbers, part, done), ps)...)
    ps isa Tuple && return Tangent{typeof(ps)}(map(part -> tangent(numbers, part, done), ps)...)
    ps isa AbstractArray{<:Number} || return NoTangent()
    done[] += length(ps)
    return copyto!(similar(ps), view(numbers, (done[] - length(ps) + 1):done[]))
end
