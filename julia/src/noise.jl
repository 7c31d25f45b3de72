"`g!(G, u, p, t)` for noise that is a matrix."
const InPlaceMatrix{M} = FunctionWrapper{Nothing, Tuple{M, Vec, Vec, Float64}}

"""
    Noise(entries!, n_states, rows, cols, n_noise, type)

The diffusion of a stochastic model (Itô): as a vector where every state has its own Brownian motion or
all share one, else as a matrix of shape `(n_states, n_noise)`, sparse where it is large. `entries!(out, u, p, t)` writes
its entries, those at the zero-based `rows` and `cols`.
"""
struct Noise
    entries!::Any
    rows::Vector{Int}
    cols::Vector{Int}
    prototype::Union{Nothing, Matrix{Float64}, SparseMatrixCSC{Float64, Int}}
    scalar::Bool
    additive::Bool
end

"From this many entries on a matrix of noise is sparse."
const SPARSE_NOISE = 10_000

function Noise(entries!, n::Int, rows, cols, n_noise::Int, type::String)
    type in ("additive", "diagonal", "scalar", "general") ||
        throw(ArgumentError("there is no type of noise $type"))
    at_row, at_col = Vector{Int}(rows) .+ 1, Vector{Int}(cols) .+ 1
    own = at_row == at_col && allunique(at_row) && n_noise <= n
    scalar = n_noise == 1 && n > 1 && !own
    prototype = own || scalar ? nothing :
        n * n_noise < SPARSE_NOISE ? zeros(n, n_noise) : sparse(at_row, at_col, ones(length(at_row)), n, n_noise)
    return Noise(entries!, at_row, at_col, prototype, scalar, type == "additive")
end

"The same noise for a thread of its own."
function Base.copy(noise::Noise)
    entries! = noise.entries! isa Fields ? copy(noise.entries!) : noise.entries!
    return Noise(entries!, noise.rows, noise.cols, noise.prototype, noise.scalar, noise.additive)
end

"`g!(out, u, p, t)` with a buffer of its own, so one for each thread; entry `k` is element `places[k]` of what is stored."
struct Diffusion{F}
    entries!::F
    places::Vector{Int}
    buffer::Vec
    pattern::Union{Nothing, SparseMatrixCSC{Float64, Int}}
end

(g::Diffusion)(out::Union{Vector{Float64}, Matrix{Float64}}, u, p, t) = write_entries!(g, out, u, p, t)

function (g::Diffusion)(out::SparseMatrixCSC, u, p, t)
    # `zero` of a sparse matrix, by which solvers make their own, has lost the pattern.
    length(nonzeros(out)) == length(g.places) || copyto!(out, g.pattern)
    return write_entries!(g, nonzeros(out), u, p, t)
end

function write_entries!(g::Diffusion, out, u, p, t)
    g.entries!(g.buffer, u, p, t)
    fill!(out, 0.0)
    for (k, place) in enumerate(g.places)
        @inbounds out[place] = g.buffer[k]
    end
    return nothing
end

function diffusion(noise::Noise)
    buffer = zeros(length(noise.rows))
    prototype = noise.prototype
    prototype === nothing && return InPlace(Diffusion(noise.entries!, noise.rows, buffer, nothing))
    n = size(prototype, 1)
    places = noise.rows .+ n .* (noise.cols .- 1)
    pattern = prototype isa SparseMatrixCSC ? prototype : nothing
    pattern === nothing || (places = invperm(sortperm(places))) # stored column by column
    return InPlaceMatrix{typeof(prototype)}(Diffusion(noise.entries!, places, buffer, pattern))
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
