# The derivative of a solve by an adjoint of SciMLSensitivity.jl, in place of that of the steps that were taken.

"""
    adjoint(given, method)

The adjoint that a text names, such as `GaussAdjoint` or `BacksolveAdjoint(checkpointing = false)`, or one of SciMLSensitivity.jl's
objects, whose own equations are solved with the method of that name. Needs SciMLSensitivity.jl, as what follows does.
"""
function adjoint end

"""
    read_adjoint(owner, given, method, regularizers)

The [`adjoint`](@ref) that the option of a layer named `owner` says, checked; `nothing` is the discrete one of the steps.
"""
function read_adjoint(owner, given, method, regularizers)
    given === nothing && return nothing
    for r in regularizers
        r isa Union{ErrorEstimate, StiffnessEstimate} || continue
        name = nameof(typeof(r))
        throw(
            ArgumentError(
                "$owner: $name sums over all steps of the solver, through which it is differentiated (Pal et al. 2021); \
                an adjoint of SciMLSensitivity.jl does not see them: leave adjoint out, or regularize by Local$name, which takes \
                one step (Pal et al. 2023)",
            )
        )
    end
    Base.get_extension(@__MODULE__, :PySciMLSciMLSensitivityExt) === nothing &&
        throw(ArgumentError("$owner: an adjoint is one of SciMLSensitivity.jl's: load it with `using SciMLSensitivity`"))
    return adjoint(given, method)
end

"""
    pull_by_adjoint!(y0_bar, p_bar, s, adjoint, ys_bar, y1_bar, integral_bar)

What [`pull!`](@ref) does, by an [`adjoint`](@ref): from derivatives by the results of the last `solve!`, which was `dense` (the
solution at its times, its end, and its integral), to those by the initial state and the parameters. Both are NaN where the
adjoint's equations could not be solved.

There is none by error and stiffness estimates: a continuous adjoint is that of the solution, and has no steps.
"""
function pull_by_adjoint! end

"See [`pull_by_adjoint!`](@ref)."
function pull_by_adjoint_at!(
        s::AdaptiveSolve, adjoint, y0_bar::Int, p_bar::Int, ys_bar::Int, y1_bar::Int, integral_bar::Float64,
    )
    rows, n = s.field.rows, s.field.tape.n_states
    pull_by_adjoint!(
        array_at(y0_bar, rows, n), array_at(p_bar, s.field.tape.n_params), s, adjoint, array_at(ys_bar, rows, n, length(s.times)),
        array_at(y1_bar, rows, n), integral_bar,
    )
    return nothing
end
