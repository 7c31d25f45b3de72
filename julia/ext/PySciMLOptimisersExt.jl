module PySciMLOptimisersExt

using Optimisers: Optimisers, AbstractRule, Leaf, adjust, adjust!, setup, update!
using PySciML: PySciML, array_at, count_numbers, store_numbers!, take_numbers

"A type that is exported, of rules that can be made of nothing and have a learning rate."
function is_named(name::Symbol)
    type = getproperty(Optimisers, name)
    return type isa Type && type <: AbstractRule && hasmethod(type, Tuple{}) && :eta in fieldnames(type)
end

PySciML.rule_names() = [string(name) for name in names(Optimisers) if is_named(name)]
PySciML.named_rule(name::String) = getproperty(Optimisers, Symbol(name))()
PySciML.with_rate(rule::AbstractRule, rate::Float64) = adjust(rule, rate)

PySciML.is_rule(::AbstractRule) = true
PySciML.rule_text(rule::AbstractRule) = sprint(show, rule; context = :module => Optimisers)
# Rules are immutable, and those without a learning rate adjust to themselves.
PySciML.has_rate(rule::AbstractRule) = adjust(rule, 0.25) !== adjust(rule, 0.75)

PySciML.rule_state(rule::AbstractRule, theta::Int, n::Int) = setup(rule, copy(array_at(theta, n)))

PySciML.state_length(leaf::Leaf) = count_numbers(leaf.state)

function PySciML.write_state!(leaf::Leaf, numbers::Int)
    store_numbers!(array_at(numbers, count_numbers(leaf.state)), leaf.state, 0)
    return nothing
end

function PySciML.update_at!(leaf::Leaf, theta::Int, n::Int, slope::Int, numbers::Int, rate::Float64)
    isnan(rate) || adjust!(leaf, rate)
    leaf.state, _ = take_numbers(array_at(numbers, count_numbers(leaf.state)), leaf.state, 0)
    update!(leaf, array_at(theta, n), array_at(slope, n))
    return PySciML.write_state!(leaf, numbers)
end

end
