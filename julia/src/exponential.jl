# Exponential methods: the linear part of a right-hand side exactly, by functions of its matrix, the rest explicitly.

"""
Whether a method takes a linear part and the rest, as the exponential Runge-Kutta methods do; those that take their matrix from
the Jacobian in each step (`Exprb32`, `EPIRK4s3A`) solve for the whole.
"""
is_semilinear(algorithm) = package_of(algorithm) === :OrdinaryDiffEqExponentialRK && hasproperty(algorithm, :krylov)

"Whether such a method works with the matrix by its products alone, in Krylov subspaces."
takes_products(algorithm) = algorithm.krylov

"Whether solving a model with the algorithm of that name takes no more than products with the matrix of the linear part."
wants_products(model, name) = takes_products(choice(String(name), model.kind).algorithm)

"Whether a method steps the Fourier modes of a model, whose linear part is then a number for each."
steps_modes(model, algorithm) = model.modes !== nothing && !takes_products(algorithm)

"""
Functions of matrices of at most this many states are computed, once for a solve, as full matrices; those of larger ones are applied
in Krylov subspaces. See `benchmarks/julia_exponential.py`.
"""
const FULL_STATES = 1_000

"The name of a method with the way it takes a large matrix, unless it says which."
function for_size(name::String, algorithm, model)
    (steps_modes(model, algorithm) || n_states(model) <= FULL_STATES || occursin("krylov", name)) && return name
    name_of(algorithm) == "HochOst4" &&
        throw(ArgumentError("HochOst4 takes at most $FULL_STATES states, as it loses its order in Krylov subspaces: take ETDRK4"))
    return with_option(name, "krylov=true")
end

"""
Refuse a step in which a Krylov subspace of `m` dimensions does not resolve what the matrix does to the rates at the start: methods
of fixed steps do not look at that error themselves. (Saad, SIAM J. Numer. Anal. 29 (1992), equation 34.)
"""
function check_subspace(algorithm, A, rates::Vec, size_of_states::Float64, h::Float64, options)
    utilities = parentmodule(typeof(algorithm)).ExponentialUtilities
    m = min(algorithm.m, length(rates))
    _, estimate = Base.invokelatest(utilities.phiv, h, A, rates, 1; m, iop = algorithm.iop, errest = true)
    allowed = minimum(options.abstol) + options.reltol * size_of_states
    abs(h) * estimate <= allowed || throw(ArgumentError(
        "a step of $(name_of(algorithm)) is off by some $(round(abs(h) * estimate; sigdigits = 1)) in a Krylov subspace of m = $m " *
        "dimensions: take smaller steps or more dimensions, or KenCarp4 or FBDF",
    ))
    return nothing
end

"How far a time may be from the grid of steps, in steps."
const OFF_GRID = 1e-6

"""
    step_grid(name, t0, t1, dt, times) -> (h, stops, times)

The steps of a method whose matrix functions are those of one step size: all of size `h`, which is `dt` but for rounding, to the
`stops`; the output `times` among them.
"""
function step_grid(name::String, t0::Float64, t1::Float64, dt::Float64, times)
    n = max(1, round(Int, abs(t1 - t0) / dt))
    h = (t1 - t0) / n
    abs(abs(h) - dt) <= OFF_GRID * dt ||
        throw(ArgumentError("$name has steps of one size: dt = $dt does not divide the span $(abs(t1 - t0)) into whole ones"))
    at(k) = t0 + k * h
    stops = at.(1:n)
    times === nothing && return h, stops, nothing
    numbers = round.(Int, (times .- t0) ./ h)
    off = findfirst(k -> abs(times[k] - at(numbers[k])) > OFF_GRID * dt, eachindex(times))
    off === nothing ||
        throw(ArgumentError("$name has steps of one size: saveat has $(times[off]), no whole number of steps dt = $dt away"))
    return h, stops, at.(numbers)
end

"""
The problem of a linear part and the rest, in Fourier modes where the model has those.
"""
function semilinear_problem(model::Model, algorithm, u0::Vec, p::Vec, t0::Float64, options)
    span = (t0, last(options.tstops))
    if steps_modes(model, algorithm)
        modes = model.modes
        f = semilinear_function(Diagonal(symbols(modes, p)), InModes(modes.rest))
        return SciMLBase.SplitODEProblem{true}(f, to_modes(modes.spectrum, u0), span, p)
    end
    A = linear_matrix(model.split, algorithm, u0, p, t0)
    takes_products(algorithm) && check_subspace(algorithm, A, evaluate(model, u0, p, t0), norm(u0, Inf), options.dt, options)
    f = semilinear_function(A, rest(model, p, t0))
    return SciMLBase.SplitODEProblem{true}(f, u0, span, p)
end

function semilinear_function(matrix, rest!)
    linear = ODEFunction{true, SciMLBase.FullSpecialize}(SciMLOperators.MatrixOperator(matrix))
    return SciMLBase.SplitFunction{true, SciMLBase.FullSpecialize}(linear, ODEFunction{true, SciMLBase.FullSpecialize}(rest!))
end

"The matrix of the implicit part, which does not depend on states and time: sparse only where products are all that is wanted."
function linear_matrix(split::Split, algorithm, u0::Vec, p::Vec, t0::Float64)
    A = copy(split.jacobian.prototype)
    split.jacobian.evaluate!(A, u0, p, t0)
    return takes_products(algorithm) ? A : Matrix(A)
end

"The right-hand side without the product of matrix and states: the explicit part, and what the implicit one is without states."
function rest(model::Model, p::Vec, t0::Float64)
    implicit!, explicit! = model.split.implicit!, model.split.explicit!
    none, constant = zeros(n_states(model)), zeros(n_states(model))
    implicit!(constant, none, p, t0)
    autonomous(model) && iszero(constant) && return explicit!
    moving = !autonomous(model)
    return InPlace() do du, u, p, t
        explicit!(du, u, p, t)
        moving && implicit!(constant, none, p, t)
        du .+= constant
        nothing
    end
end

"""
Let an integrator meet its grid of steps, whose distances differ by rounding: taken for steps of another size, what is left of
them would add up, and the last one go beyond the end.
"""
meet_grid!(integrator) = (integrator.dtchangeable = true; integrator)
