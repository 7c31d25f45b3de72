# Solving models with networks that are too large to be written out neuron by neuron: their right-hand side is a tape.

"""
    Taped(tape)

The right-hand side of a model as a tape, called as `f!(du, u, p, t)`, and its derivatives, by going back from all outputs at
once. It has buffers: one call at a time.
"""
struct Taped
    tape::Tape
    parameters::Parameters{Float64}
    one::Columns{Float64}
    many::Columns{Float64}
    bars::Bars{Float64}
    state::Matrix{Float64}
    states::Matrix{Float64}
    now::Vec
end

function Taped(tape::Tape)
    n = tape.n_states
    length(tape.outputs) == n || throw(ArgumentError("a right-hand side has one output for each of the $n states"))
    return Taped(
        tape, Parameters{Float64}(tape), Columns{Float64}(tape, 1), Columns{Float64}(tape, n), Bars{Float64}(tape, n),
        zeros(1, n), zeros(n, n), zeros(n),
    )
end

Base.copy(f::Taped) = Taped(f.tape)

function (f::Taped)(du::AbstractVector, u::AbstractVector, p::AbstractVector, t::Float64)
    set!(f.parameters, f.tape, p)
    spread!(f.one, f.tape, f.parameters)
    copyto!(f.state, u)
    fill!(f.now, t)
    evaluate!(f.one, f.tape, f.parameters, f.state, f.now, 1)
    for (k, column) in enumerate(f.tape.outputs)
        du[k] = f.one.values[1, column]
    end
    return nothing
end

"Row `i` of the batch goes back from output `i`."
function pull_outputs!(f::Taped, u::AbstractVector, p::AbstractVector, t::Float64)
    set!(f.parameters, f.tape, p)
    spread!(f.many, f.tape, f.parameters)
    for i in axes(f.states, 1)
        f.states[i, :] .= u
    end
    fill!(f.now, t)
    evaluate!(f.many, f.tape, f.parameters, f.states, f.now, 1)
    begin_pull!(f.bars, f.tape)
    for (k, column) in enumerate(f.tape.outputs)
        f.bars.values[k, column] += 1.0
    end
    pull!(f.bars, f.many, f.tape, f.parameters)
    return nothing
end

function jacobian_of!(J::Matrix{Float64}, f::Taped, u::AbstractVector, p::AbstractVector, t::Float64)
    pull_outputs!(f, u, p, t)
    fill!(J, 0.0)
    for (column, index) in f.tape.states, i in axes(J, 1)
        J[i, index] += f.bars.values[i, column]
    end
    return nothing
end

function time_gradient_of!(dT::AbstractVector, f::Taped, u::AbstractVector, p::AbstractVector, t::Float64)
    pull_outputs!(f, u, p, t)
    fill!(dT, 0.0)
    for column in f.tape.times, i in eachindex(dT)
        dT[i] += f.bars.values[i, column]
    end
    return nothing
end

"A model of ordinary differential equations whose right-hand side is a tape."
function taped_model(tape::Tape)
    f = Taped(tape)
    n, nodes = tape.n_states, isempty(tape.times) ? 0 : 1
    graph = Graph(fill(TIME, nodes), fill(-1, nodes, 3), zeros(nodes), fill(-1, nodes), n, tape.n_params)
    model = Model(
        :ode, graph, collect(1:nodes), trues(n), f, wrapped(f), Event[], Jump[], false, nothing, nothing, nothing, nothing,
        Dict{Any, Any}(), Model[],
    )
    model.jacobian = Jacobian(zeros(n, n), DenseFunction((J, u, p, t) -> jacobian_of!(J, f, u, p, t)), nothing)
    model.time_gradient = InPlace((dT, u, p, t) -> time_gradient_of!(dT, f, u, p, t))
    return model
end
