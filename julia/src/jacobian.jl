const DenseFunction = FunctionWrapper{Nothing, Tuple{Matrix{Float64}, Vec, Vec, Float64}}
const SparseFunction = FunctionWrapper{Nothing, Tuple{SparseMatrixCSC{Float64, Int}, Vec, Vec, Float64}}

"""
    Jacobian(prototype, evaluate!, remake)

`evaluate!(J, u, p, t)` for matrices `J` like `prototype`, which holds the pattern with the whole
diagonal in it. Where it has buffers, `remake()` makes another with buffers of its own.
"""
struct Jacobian{M, F}
    prototype::M
    evaluate!::F
    remake::Any
end

Base.copy(jacobian::Jacobian) = jacobian.remake === nothing ? jacobian : jacobian.remake()

"Systems of this size and larger, filled by at most this share, have a sparse Jacobian."
const SPARSE_STATES, SPARSE_SHARE = 50, 0.2

"""
Jacobians of graphs with at most this many operations are generated code, in parts. Differentiating the
right-hand side forward instead compiles it for dual numbers, which took minutes for 2,048 equations
where generated parts took seconds; beyond this size the memory of the code is what counts.
"""
const GENERATED_OPERATIONS = 200_000

"""
    Jacobian(f!, graph, nodes, rows, cols)

From the graph of the exact derivative: its entries are `nodes` at the zero-based `rows` and `cols`.
`f!(du, u, p, t)` is the right-hand side for any number type.
"""
function Jacobian(f!, graph::Graph, nodes, rows, cols)
    n = graph.n_states
    entries = node_numbers(graph, nodes)
    at = collect(zip(Vector{Int}(rows) .+ 1, Vector{Int}(cols) .+ 1))
    n_filled = length(union(at, [(i, i) for i in 1:n]))
    is_sparse = n >= SPARSE_STATES && n_filled <= SPARSE_SHARE * n^2
    if count(reachable(graph, entries)) > GENERATED_OPERATIONS
        pattern = sparsity_pattern(at, n)
        return is_sparse ? coloured(f!, pattern) : coloured_dense(f!, pattern)
    end
    values! = isempty(entries) ? InPlace((out, u, p, t) -> nothing) : wrapped(generate(graph, entries))
    return is_sparse ? generated_sparse(values!, at, n) : generated_dense(values!, at, n)
end

"`values!` writes the entries, which stand at the places `at`."
function generated_dense(values!::InPlace, at::Vector{Tuple{Int, Int}}, n::Int)
    buffer = zeros(length(at))
    evaluate!(J, u, p, t) = begin
        values!(buffer, u, p, t)
        fill!(J, 0.0)
        for (k, (row, col)) in enumerate(at)
            J[row, col] = buffer[k]
        end
        nothing
    end
    return Jacobian(zeros(n, n), DenseFunction(evaluate!), () -> generated_dense(values!, at, n))
end

function generated_sparse(values!::InPlace, at::Vector{Tuple{Int, Int}}, n::Int)
    pattern = sparsity_pattern(at, n)
    stored_rows, stored_cols, _ = findnz(pattern)
    number = Dict(place => k for (k, place) in enumerate(zip(stored_rows, stored_cols)))
    stored = [number[place] for place in at]
    buffer = zeros(length(at))
    evaluate!(J, u, p, t) = begin
        values!(buffer, u, p, t)
        entries = nonzeros(J)
        fill!(entries, 0.0)
        for (k, place) in enumerate(stored)
            entries[place] = buffer[k]
        end
        nothing
    end
    return Jacobian(pattern, SparseFunction(evaluate!), () -> generated_sparse(values!, at, n))
end

"The pattern of a Jacobian with ones in it, the diagonal included."
function sparsity_pattern(at, n::Int)
    rows = vcat(first.(at), 1:n)
    cols = vcat(last.(at), 1:n)
    return sparse(rows, cols, ones(length(rows)), n, n, max)
end

"Forward differentiation, as many columns at once as have no row in common."
function coloured(f!, pattern::SparseMatrixCSC{Float64, Int})
    n = size(pattern, 1)
    backend = AutoSparse(
        AutoForwardDiff();
        sparsity_detector = KnownJacobianSparsityDetector(SparseMatrixCSC{Bool, Int}(pattern)),
        coloring_algorithm = GreedyColoringAlgorithm(),
    )
    # Preparation depends on sizes and types alone; parameters come with every call.
    prepared = Ref{Any}(nothing)
    out = zeros(n)
    evaluate!(J, u, p, t) = begin
        if prepared[] === nothing
            prepared[] = prepare_jacobian(f!, out, backend, u, Constant(p), Constant(t))
        end
        jacobian!(f!, out, J, prepared[], backend, u, Constant(p), Constant(t))
        nothing
    end
    return Jacobian(pattern, SparseFunction(evaluate!), () -> coloured(f!, pattern))
end

function coloured_dense(f!, pattern::SparseMatrixCSC{Float64, Int})
    inner = coloured(f!, pattern)
    buffer = copy(pattern)
    evaluate!(J, u, p, t) = begin
        inner.evaluate!(buffer, u, p, t)
        copyto!(J, buffer)
        nothing
    end
    return Jacobian(zeros(size(pattern)), DenseFunction(evaluate!), () -> coloured_dense(f!, pattern))
end

"The partial derivative of `f!` by time: zero, or by forward differentiation."
function time_gradient(f!, n::Int, autonomous::Bool)
    autonomous && return InPlace((dT, u, p, t) -> (fill!(dT, 0.0); nothing))
    out = zeros(n)
    return InPlace() do dT, u, p, t
        ForwardDiff.derivative!(dT, (du, time) -> (f!(du, u, p, time); nothing), out, t)
        nothing
    end
end
