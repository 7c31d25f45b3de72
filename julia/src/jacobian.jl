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
Jacobians of graphs with at most this many operations are generated code. Beyond, the compiler takes
too long over one function (it grows faster than linearly), and coloured forward differentiation of
the right-hand side gives the same numbers.
"""
const GENERATED_OPERATIONS = 2_000

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
    symbols = Symbols(graph)
    expressions = trace(graph, entries, symbols)
    return is_sparse ? generated_sparse(expressions, at, n, symbols) : generated_dense(expressions, at, n, symbols)
end

function generated_dense(expressions::Vector{Num}, at, n::Int, symbols::Symbols)
    matrix = fill(Num(0.0), n, n)
    for ((row, col), entry) in zip(at, expressions)
        matrix[row, col] = entry
    end
    f! = build(matrix, symbols)
    return Jacobian(zeros(n, n), DenseFunction(Quiet(f!)), nothing)
end

function generated_sparse(expressions::Vector{Num}, at, n::Int, symbols::Symbols)
    pattern = sparsity_pattern(at, n)
    entry_at = Dict(zip(at, expressions))
    rows, cols, _ = findnz(pattern)
    f! = build(Num[get(entry_at, place, Num(0.0)) for place in zip(rows, cols)], symbols)
    return Jacobian(pattern, SparseFunction((J, u, p, t) -> (f!(nonzeros(J), u, p, t); nothing)), nothing)
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
