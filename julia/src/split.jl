"""
    Split(implicit!, explicit!, jacobian, moving = false)

A right-hand side in two parts, for methods that solve for one of them alone, and the Jacobian of that one. `moving` says
that values at the boundaries of fields, which are in the implicit part, change in time.
"""
struct Split
    implicit!::InPlace
    explicit!::InPlace
    jacobian::Jacobian
    moving::Bool
end

Split(implicit!, explicit!, jacobian) = Split(implicit!, explicit!, jacobian, false)

Base.copy(split::Split) = Split(split.implicit!, split.explicit!, copy(split.jacobian), split.moving)

"""
Whether a method is given the two parts, and not the whole to solve for.

Between values at a boundary that move and what is explicit beside it, additive Runge-Kutta methods lose so much of their
order that the error was a thousand times the tolerance, which their estimate does not see. They solve the whole then;
methods of fixed steps, which can not, keep their order.
"""
splits(chosen, split) = split !== nothing && chosen.splits && !(split.moving && chosen.adaptive)

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

"""
The name of an algorithm with its estimate of the error as it is, unless the name says something else.

An estimate that is smoothed by the implicit part does not see what the explicit part leaves in a stiff state, where the
order of additive methods falls: the error of the KenCarp methods was ten thousand times the tolerance. The estimate of ARS343
is left: as it is, it took half a million steps where smoothed ones hold the tolerance.
"""
function unsmoothed(name::String, algorithm)
    startswith(name_of(algorithm), "KenCarp") && !occursin("smooth_est", name) || return name
    return with_option(name, "smooth_est=false")
end

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
