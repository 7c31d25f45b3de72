"`g!(G, u, p, t)` for noise that is a matrix."
const InPlaceMatrix = FunctionWrapper{Nothing, Tuple{Matrix{Float64}, Vec, Vec, Float64}}

"""
    Noise(graph, nodes, rows, cols, n_noise, type)

The diffusion of a stochastic model (Itô): as a vector where every state has its own Brownian motion or
all share one, else as a matrix of shape `(n_states, n_noise)`.
"""
struct Noise
    entries!::Any
    rows::Vector{Int}
    cols::Vector{Int}
    prototype::Union{Nothing, Matrix{Float64}}
    scalar::Bool
    additive::Bool
end

function Noise(graph::Graph, nodes::Vector{Int}, rows, cols, n_noise::Int, type::String)
    n = graph.n_states
    type in ("additive", "diagonal", "scalar", "general") ||
        throw(ArgumentError("there is no type of noise $type"))
    entries! = generate(graph, nodes)
    at_row, at_col = Vector{Int}(rows) .+ 1, Vector{Int}(cols) .+ 1
    own = at_row == at_col && allunique(at_row) && n_noise <= n
    scalar = n_noise == 1 && n > 1 && !own
    prototype = own || scalar ? nothing : zeros(n, n_noise)
    return Noise(entries!, at_row, at_col, prototype, scalar, type == "additive")
end

"`g!(out, u, p, t)` with a buffer of its own, so one for each thread."
struct Diffusion{F}
    entries!::F
    rows::Vector{Int}
    cols::Vector{Int}
    buffer::Vec
end

function (g::Diffusion)(out::AbstractVector, u, p, t)
    g.entries!(g.buffer, u, p, t)
    fill!(out, 0.0)
    for (k, row) in enumerate(g.rows)
        out[row] = g.buffer[k]
    end
    return nothing
end

function (g::Diffusion)(out::AbstractMatrix, u, p, t)
    g.entries!(g.buffer, u, p, t)
    fill!(out, 0.0)
    for (k, row) in enumerate(g.rows)
        out[row, g.cols[k]] = g.buffer[k]
    end
    return nothing
end

function diffusion(noise::Noise)
    g = Diffusion(noise.entries!, noise.rows, noise.cols, zeros(length(noise.rows)))
    return noise.prototype === nothing ? InPlace(g) : InPlaceMatrix(g)
end

"DifferentialEquations.jl's own choice of an algorithm for noise of this kind."
default_stochastic(noise::Noise) =
    noise.additive ? "SOSRA" : noise.prototype === nothing ? "SOSRI" : "LambaEM"

"Algorithms for additive noise, which give wrong paths for any other without a word."
const ADDITIVE = (:SRA, :SRA1, :SRA2, :SRA3, :SOSRA, :SOSRA2, :SKenCarp)

"Throws an `ArgumentError` where an algorithm solves something else than this noise in Itô's sense."
function check_noise(noise::Noise, algorithm, name::AbstractString)
    SciMLBase.alg_interpretation(algorithm) == SciMLBase.AlgorithmInterpretation.Ito ||
        throw(ArgumentError("$name solves equations in Stratonovich's sense, and these are in Itô's"))
    nameof(typeof(algorithm)) in ADDITIVE && !noise.additive &&
        throw(ArgumentError("$name is for additive noise, and this noise depends on the states"))
    return nothing
end

function stochastic_problem(model, u0::Vec, p::Vec, t0::Float64, t1::Float64, with_jacobian::Bool, seed::UInt64)
    noise = model.noise
    derivative = with_jacobian ?
        (; jac = model.jacobian.evaluate!, jac_prototype = model.jacobian.prototype, tgrad = model.time_gradient) : (;)
    g! = diffusion(noise)
    f = SciMLBase.SDEFunction{true, SciMLBase.FullSpecialize}(model.rhs, g!; derivative...)
    options = noise.scalar ? (; noise = scalar_process(t0)) : (;)
    return SciMLBase.SDEProblem(
        f, g!, u0, (t0, t1), p; seed, noise_rate_prototype = noise.prototype, options...,
    )
end

"One Brownian motion for all states."
function scalar_process(t0::Float64)
    id = Base.PkgId(Base.UUID("77a26b50-5914-5dd7-bc55-306e6241c503"), "DiffEqNoiseProcess")
    return Base.require(id).WienerProcess(t0, 0.0, 0.0)
end
