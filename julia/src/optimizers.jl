# Rules of Optimisers.jl for the vector that is trained. Python keeps the numbers of a rule's state between updates, as it keeps
# the vector itself: a checkpoint is numbers alone, and an update that comes to nothing is undone by forgetting it.

"""
    rule_names()

The names of the rules that have a learning rate, and can be made without other arguments. Needs Optimisers.jl, as what
follows does.
"""
function rule_names end

"The rule of one of these names, as it is by itself."
function named_rule end

"A rule with another learning rate, in double precision."
function with_rate end

"Whether a value is a rule, such as `Optimisers.Adam(1e-3)`."
is_rule(::Any) = false

"A rule as it is written, with all its numbers, wherever it is asked for."
function rule_text end

"Whether a rule has a learning rate."
function has_rate end

"""
    rule_state(rule, theta, n)

The rule with its state before the first update of the `n` numbers at the address `theta`.
"""
function rule_state end

"How many numbers a state has."
function state_length end

"Write the numbers of a state to an address."
function write_state! end

"""
    update_at!(state, theta, n, slope, numbers, rate)

Update the `n` numbers at the address `theta` by their derivative at `slope`. The state is that of the `numbers`, which are
moved on, too. A `rate` that is not NaN becomes the learning rate.
"""
function update_at! end

# -- the state of a rule as numbers: arrays, numbers and nothing, in tuples, that double precision holds exactly

const Exact = Union{Bool, Int8, Int16, Int32, Int64, Float16, Float32, Float64}

count_numbers(::Nothing) = 0
count_numbers(::Exact) = 1
count_numbers(x::AbstractArray{<:Exact}) = length(x)
count_numbers(x::Union{Tuple, NamedTuple}) = sum(count_numbers, x; init = 0)
count_numbers(x) = throw(
    ArgumentError("its state has a $(typeof(x)): what can be stored is real numbers, arrays of them, and tuples of these"),
)

"Write the numbers of `x` to `out` after the first `at`; returns how many there are then."
store_numbers!(out::Vector{Float64}, ::Nothing, at::Int) = at

function store_numbers!(out::Vector{Float64}, x::Exact, at::Int)
    out[at + 1] = x
    return at + 1
end

function store_numbers!(out::Vector{Float64}, x::AbstractArray{<:Exact}, at::Int)
    copyto!(out, at + 1, x, firstindex(x), length(x))
    return at + length(x)
end

function store_numbers!(out::Vector{Float64}, x::Union{Tuple, NamedTuple}, at::Int)
    for part in x
        at = store_numbers!(out, part, at)
    end
    return at
end

"What is like `x` but has the numbers of `from` after the first `at`; and how many there are then."
take_numbers(from::Vector{Float64}, ::Nothing, at::Int) = nothing, at
take_numbers(from::Vector{Float64}, x::Exact, at::Int) = oftype(x, from[at + 1]), at + 1

function take_numbers(from::Vector{Float64}, x::AbstractArray{<:Exact}, at::Int)
    out = similar(x)
    copyto!(out, firstindex(out), from, at + 1, length(out))
    return out, at + length(out)
end

function take_numbers(from::Vector{Float64}, x::T, at::Int) where {T <: Union{Tuple, NamedTuple}}
    parts = Any[]
    for part in x
        taken, at = take_numbers(from, part, at)
        push!(parts, taken)
    end
    return x isa Tuple ? Tuple(parts) : T(Tuple(parts)), at
end
