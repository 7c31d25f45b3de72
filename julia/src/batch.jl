# A batch: the outputs of a tape for all members, in pieces that threads share out, with derivatives.

#: Pieces of a batch have at most so many members: their arrays stay in the cache, and threads share them out.
const PIECE_ROWS = 64
#: Work below so many nanoseconds is not worth another thread.
const THREAD_WORK = 50_000

"A part of a batch: the values of each stage of a step, and adjoints."
struct Piece
    rows::UnitRange{Int}
    stages::Vector{Columns{Float64}}
    bars::Bars{Float64}
end

"""
    BatchField(tape, rows, targets, stages)

The outputs of a tape for `rows` members of a batch, as columns `targets` of a matrix of states, with the values of that many
stages kept for going back. Member `i` runs over the time `start[i] + length[i] * τ`, and outputs are rates of it.
"""
struct BatchField
    tape::Tape
    rows::Int
    targets::Vector{Int}
    start::Vector{Float64}
    length::Vector{Float64}
    now::Vector{Float64}
    parameters::Parameters{Float64}
    pieces::Vector{Piece}
    bars::Vector{Bars{Float64}}
    threaded::Bool
    time_bars::Vector{Float64}
end

function BatchField(
        tape::Tape, rows::Int, targets::AbstractVector{Int}, stages::Int; threaded::Union{Nothing, Bool} = nothing,
    )
    check_targets(tape, targets)
    n_pieces = cld(rows, PIECE_ROWS)
    ends = [div(k * rows, n_pieces) for k in 0:n_pieces]
    pieces = map(1:n_pieces) do k
        range = (ends[k] + 1):ends[k + 1]
        Piece(range, [Columns{Float64}(tape, length(range)) for _ in 1:stages], Bars{Float64}(tape, length(range)))
    end
    worth = Threads.nthreads() > 1 && work(tape) * cld(rows, n_pieces) > THREAD_WORK
    return BatchField(
        tape, rows, targets, zeros(rows), ones(rows), zeros(rows), Parameters{Float64}(tape), pieces, [piece.bars for piece in pieces],
        n_pieces > 1 && something(threaded, worth), zeros(n_pieces),
    )
end

check_targets(tape::Tape, targets) = length(tape.outputs) == length(targets) ||
    throw(ArgumentError("a tape has $(length(tape.outputs)) outputs for $(length(targets)) states"))

"About how many nanoseconds one evaluation takes for a member of the batch."
work(tape::Tape) =
    3 * length(tape.moving) +
    sum(10 * layer.n_out + layer.n_out * layer.n_in ÷ 3 for a in tape.applications for layer in tape.networks[a.network]; init = 0)

"Call `f(piece, number)` for all pieces, on several threads where that is worth it."
function each_piece(f::F, field::BatchField) where {F}
    field.threaded && return spawn_pieces(f, field.pieces)
    for number in eachindex(field.pieces)
        f(field.pieces[number], number)
    end
    return nothing
end

@noinline function spawn_pieces(f::F, pieces::Vector{Piece}) where {F}
    @sync for number in eachindex(pieces)
        Threads.@spawn f(pieces[number], number)
    end
    return nothing
end

"The slope at the relative time `τ`, whose values are kept as those of a stage."
function slope!(k::Matrix{Float64}, field::BatchField, stage::Int, τ::Float64, y::Matrix{Float64})
    @. field.now = field.start + field.length * τ
    each_piece((piece, _) -> slope_of_piece!(k, field, piece, stage, y), field)
    return nothing
end

function slope_of_piece!(k::Matrix{Float64}, field::BatchField, piece::Piece, stage::Int, y::Matrix{Float64})
    columns = piece.stages[stage]
    evaluate!(columns, field.tape, field.parameters, y, field.now, first(piece.rows))
    shift = first(piece.rows) - 1
    for (target, column) in zip(field.targets, field.tape.outputs)
        @inbounds @simd ivdep for i in axes(columns.values, 1)
            k[i + shift, target] = field.length[i + shift] * columns.values[i, column]
        end
    end
    return nothing
end

"Add to `y_bar` what the adjoint of a stage's slope comes to; returns the adjoint of the relative time."
function pull_slope!(y_bar::Matrix{Float64}, field::BatchField, stage::Int, k_bar::Matrix{Float64})
    each_piece((piece, number) -> pull_piece!(y_bar, field, piece, number, stage, k_bar), field)
    return sum(field.time_bars)
end

function pull_piece!(
        y_bar::Matrix{Float64}, field::BatchField, piece::Piece, number::Int, stage::Int, k_bar::Matrix{Float64},
    )
    bars, shift = piece.bars.values, first(piece.rows) - 1
    begin_pull!(piece.bars, field.tape)
    for (target, column) in zip(field.targets, field.tape.outputs)
        @inbounds @simd ivdep for i in axes(bars, 1)
            bars[i, column] += field.length[i + shift] * k_bar[i + shift, target]
        end
    end
    pull!(piece.bars, piece.stages[stage], field.tape, field.parameters)
    for (column, index) in field.tape.states
        @inbounds @simd ivdep for i in axes(bars, 1)
            y_bar[i + shift, index] += bars[i, column]
        end
    end
    total = 0.0
    for column in field.tape.times
        @inbounds for i in axes(bars, 1)
            total += field.length[i + shift] * bars[i, column]
        end
    end
    field.time_bars[number] = total
    return nothing
end

"Take these parameters, and these times of the members."
function prepare!(f::BatchField, p::AbstractVector, start::AbstractVector, length::AbstractVector)
    copyto!(f.start, start)
    copyto!(f.length, length)
    set!(f.parameters, f.tape, p)
    for piece in f.pieces, columns in piece.stages
        spread!(columns, f.tape, f.parameters)
    end
    return nothing
end

"Take these parameters; all members of a batch have the same time."
function prepare!(f, p::AbstractVector)
    fill!(f.start, 0.0)
    fill!(f.length, 1.0)
    return prepare!(f, p, f.start, f.length)
end

"Forget the adjoints of all parameters."
clear!(f::BatchField) = foreach(clear!, f.bars)

n_params(f::BatchField) = f.tape.n_params

"Add to `p_bar` the derivatives by the parameters."
parameter_bars!(p_bar::AbstractVector, f::BatchField) = parameter_bars!(p_bar, f.parameters, f.tape, f.bars)
