# The problems of benchmarks/julia.py as somebody at home in Julia writes them.
module ByHand

using OrdinaryDiffEq
using OrdinaryDiffEq: SciMLBase
using SparseArrays

# A dependency of OrdinaryDiffEq, not of the environment itself.
const SVector = Base.require(Base.PkgId(Base.UUID("90137ffa-7385-5640-81b9-e52037218182"), "StaticArrays")).SVector
const EnsembleThreads = SciMLBase.EnsembleThreads

function lorenz!(du, u, p, t)
    du[1] = p[1] * (u[2] - u[1])
    du[2] = u[1] * (p[2] - u[3]) - u[2]
    du[3] = u[1] * u[2] - p[3] * u[3]
    return nothing
end

function robertson!(du, u, p, t)
    y1, y2, y3 = u
    k1, k2, k3 = p
    du[1] = -k1 * y1 + k3 * y2 * y3
    du[2] = k1 * y1 - k2 * y2^2 - k3 * y2 * y3
    du[3] = k2 * y2^2
    return nothing
end

const N = 32

function brusselator!(du, u, p, t)
    A, B, alpha = p
    a = alpha * N^2
    u1, u2 = reshape(view(u, 1:(N * N)), N, N), reshape(view(u, (N * N + 1):(2 * N * N)), N, N)
    d1, d2 = reshape(view(du, 1:(N * N)), N, N), reshape(view(du, (N * N + 1):(2 * N * N)), N, N)
    @inbounds for j in 1:N, i in 1:N
        left, right, below, above = mod1(i - 1, N), mod1(i + 1, N), mod1(j - 1, N), mod1(j + 1, N)
        x, y = u1[i, j], u2[i, j]
        d1[i, j] = a * (u1[left, j] + u1[right, j] + u1[i, below] + u1[i, above] - 4x) + B + x^2 * y - (A + 1) * x
        d2[i, j] = a * (u2[left, j] + u2[right, j] + u2[i, below] + u2[i, above] - 4y) + A * x - x^2 * y
    end
    return nothing
end

function pattern()
    rows, cols = Int[], Int[]
    at(i, j, k) = (k - 1) * N^2 + (mod1(j, N) - 1) * N + mod1(i, N)
    for k in 1:2, j in 1:N, i in 1:N
        for other in ((i, j), (i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1))
            push!(rows, at(i, j, k))
            push!(cols, at(other..., k))
        end
        push!(rows, at(i, j, k))
        push!(cols, at(i, j, 3 - k))
    end
    return sparse(rows, cols, ones(length(rows)))
end

"Seconds of the fastest of `n` solves after a first one."
function seconds(name, u0, p, tspan, algorithm, rtol, atol, saveat, n)
    f = name == "lorenz" ? lorenz! : name == "robertson" ? robertson! :
        ODEFunction(brusselator!; jac_prototype = pattern())
    alg = algorithm == "Tsit5" ? Tsit5() : algorithm == "Vern9" ? Vern9() :
        algorithm == "Rodas5P" ? Rodas5P() : FBDF()
    problem = ODEProblem(f, Vector{Float64}(u0), Tuple(tspan), Vector{Float64}(p))
    times = Vector{Float64}(saveat)
    run() = solve(problem, alg; reltol = rtol, abstol = atol, saveat = times)
    run()
    return minimum(@elapsed(run()) for _ in 1:n)
end

"The right-hand side of the Lorenz equations out of place, for small static vectors."
lorenz(u, p, t) = SVector(p[1] * (u[2] - u[1]), u[1] * (p[2] - u[3]) - u[2], u[1] * u[2] - p[3] * u[3])

"Seconds of the fastest of `n` ensembles over the second parameter, after a first one."
function ensemble_seconds(static, rhos, tspan, rtol, atol, saveat, n)
    u0, p, span = [1.0, 0.0, 0.0], [10.0, 28.0, 8 / 3], (Float64(tspan[1]), Float64(tspan[2]))
    values, times = Vector{Float64}(rhos), Vector{Float64}(saveat)
    problem = static ? ODEProblem(lorenz, SVector{3}(u0), span, SVector{3}(p)) : ODEProblem(lorenz!, u0, span, p)
    change(problem, context) = begin
        rho = values[context.sim_id]
        remake(problem; p = static ? SVector(10.0, rho, 8 / 3) : [10.0, rho, 8 / 3])
    end
    many = EnsembleProblem(problem; prob_func = change, safetycopy = false)
    run(count) = solve(many, Tsit5(), EnsembleThreads(); trajectories = count, reltol = rtol, abstol = atol, saveat = times)
    run(10)
    return minimum(@elapsed(run(length(values))) for _ in 1:n)
end

"The Lorenz equations with a right-hand side in Python."
python_problem(f, u0, p, tspan) =
    ODEProblem((du, u, p, t) -> (f(du, u, p, t); nothing), Vector{Float64}(u0), Tuple(tspan), Vector{Float64}(p))

"Seconds of the fastest of `n` solves of the Lorenz equations whose right-hand side is a Python function."
function python_seconds(f, u0, p, tspan, rtol, atol, n)
    problem = python_problem(f, u0, p, tspan)
    run() = solve(problem, Tsit5(); reltol = rtol, abstol = atol)
    run()
    return minimum(@elapsed(run()) for _ in 1:n)
end

const MODELINGTOOLKIT = Base.PkgId(Base.UUID("961ee093-0014-501f-94e3-6117800e7a78"), "ModelingToolkit")

"""
The same, traced by ModelingToolkit first, as `jit` of diffeqpy does: seconds of tracing and the first solve, and of the fastest
of `n` further ones; nothing where ModelingToolkit is not installed.
"""
function traced_seconds(f, u0, p, tspan, rtol, atol, n)
    Base.locate_package(MODELINGTOOLKIT) === nothing && return nothing
    toolkit = Base.require(MODELINGTOOLKIT)
    return Base.invokelatest(traced_seconds, toolkit, f, u0, p, tspan, rtol, atol, n)
end

function traced_seconds(toolkit::Module, f, u0, p, tspan, rtol, atol, n)
    problem = nothing
    run() = solve(problem, Tsit5(); reltol = rtol, abstol = atol)
    first = @elapsed begin
        system = toolkit.complete(toolkit.modelingtoolkitize(python_problem(f, u0, p, tspan)); split = false)
        problem = ODEProblem(system, [], Tuple(tspan))
        run()
    end
    return first, minimum(@elapsed(run()) for _ in 1:n)
end

end
