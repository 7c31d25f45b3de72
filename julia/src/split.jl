"""
    Split(implicit!, explicit!, jacobian)

A right-hand side in two parts, for methods that solve for one of them alone, and the Jacobian of that one.
"""
struct Split
    implicit!::InPlace
    explicit!::InPlace
    jacobian::Jacobian
end

Base.copy(split::Split) = Split(split.implicit!, split.explicit!, copy(split.jacobian))

"""
Give the model the two parts of its right-hand side: the nodes of each, and the graph, nodes and places of the
derivative of the implicit one, as in [`set_jacobian!`](@ref).
"""
function set_split!(model, implicit, explicit, graph::Graph, nodes, rows, cols)
    parts = node_numbers(model.graph, implicit), node_numbers(model.graph, explicit)
    all(part -> length(part) == n_states(model), parts) || throw(ArgumentError("each part needs one entry for each state"))
    f!, g! = generate(model.graph, parts[1]), generate(model.graph, parts[2])
    model.split = Split(wrapped(f!), wrapped(g!), Jacobian(f!, graph, nodes, rows, cols))
    empty!(model.copies)
    return nothing
end

"Whether a method treats one part of a right-hand side implicitly and the other explicitly."
function takes_parts(algorithm)
    core = get(Base.loaded_modules, Base.PkgId(Base.UUID("bbf590c4-e513-4bbe-9b18-05decba2e5d8"), "OrdinaryDiffEqCore"), nothing)
    return core !== nothing && algorithm isa SciMLBase.AbstractODEAlgorithm && Base.invokelatest(core.issplit, algorithm)
end

"Whether solving a model with the algorithm of that name takes its right-hand side in two parts."
takes_parts(model, name) = choice(String(name), model.kind).splits

function split_function(model)
    return get!(model.functions, :split) do
        parts = model.split
        jac, jac_prototype = parts.jacobian.evaluate!, parts.jacobian.prototype
        implicit = ODEFunction{true, SciMLBase.FullSpecialize}(parts.implicit!; jac, jac_prototype)
        explicit = ODEFunction{true, SciMLBase.FullSpecialize}(parts.explicit!)
        SciMLBase.SplitFunction{true, SciMLBase.FullSpecialize}(implicit, explicit; jac, jac_prototype)
    end
end

split_problem(model, u0::Vec, p::Vec, t0::Float64, t1::Float64) =
    SciMLBase.SplitODEProblem{true}(split_function(model), u0, (t0, t1), p)
