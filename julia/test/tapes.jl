# Tapes that tests of training solve, written down node by node.

using PySciML: Dense, Tape
using Random: Xoshiro

const CODES = Dict(
    :const => 0x00, :time => 0x01, :state => 0x02, :param => 0x03, :add => 0x0a, :sub => 0x0b, :mul => 0x0c, :div => 0x0d,
    :sin => 0x17, :cos => 0x18, :tanh => 0x1f, :join => 0x50, :network => 0x51,
)

"""
A tape written down node by node: `(operation, operands...)`, leaves with their number or value, networks with the call. A call is
of a network, an output, and maybe the order of a Taylor coefficient.
"""
function tape(nodes, n_states, n_params, outputs; networks = Vector{Dense}[], calls = [])
    n = length(nodes)
    op, args, constant, index = zeros(UInt8, n), fill(-1, n, 3), zeros(n), fill(-1, n)
    for (k, (name, rest...)) in enumerate(nodes)
        op[k] = name isa Symbol ? CODES[name] : name
        if name === :const
            constant[k] = rest[1]
        elseif name in (:state, :param)
            index[k] = rest[1] - 1
        elseif name === :network
            index[k], args[k, 1] = rest .- 1
        else
            args[k, 1:length(rest)] = collect(Int, rest) .- 1
        end
    end
    triples = [(network - 1, output - 1, get(order, 1, 0)) for (network, output, order...) in calls]
    return Tape(op, args, constant, index, n_states, n_params, outputs .- 1, networks, triples)
end

"Layers of those widths, whose numbers begin after `offset` parameters."
function layers(widths, activation, offset; final = :identity)
    found = Dense[]
    for k in 2:length(widths)
        n_in, n_out = widths[k - 1], widths[k]
        push!(found, Dense(n_in, n_out, k == length(widths) ? final : activation, offset, offset + n_in * n_out))
        offset += n_in * n_out + n_out
    end
    return found
end

size_of(network) = sum(layer.n_in * layer.n_out + layer.n_out for layer in network)

"Lotka and Volterra's equations."
lotka_volterra() = tape(
    Any[
        (:state, 1), (:state, 2), (:mul, 1, 2), (:param, 1), (:param, 2), (:param, 3), (:param, 4), (:mul, 4, 1), (:mul, 5, 3),
        (:sub, 8, 9), (:mul, 7, 3), (:mul, 6, 2), (:sub, 11, 12),
    ], 2, 4, [10, 13],
)

const LOTKA = [1.5, 1.0, 3.0, 1.0]

"A network in the equations, time in them too, members that run over times of their own."
function driven()
    network = layers([3, 8, 2], :tanh, 1)
    nodes = Any[
        (:state, 1), (:state, 2), (:time,), (:join, 1, 2), (:join, 4, 3), (:network, 1, 5), (:network, 2, 5), (:param, 1),
        (:mul, 8, 1), (:sub, 6, 9), (:cos, 3), (:add, 7, 11),
    ]
    one = tape(nodes, 2, 1 + size_of(network), [10, 12]; networks = [network], calls = [(1, 1), (1, 2)])
    rng = Xoshiro(4)
    return one, 0.7 .* randn(rng, one.n_params), randn(rng, 3, 2), [0.0, 0.5, 1.5], [1.0, 1.2, -0.8]
end

"An equation for `n` states that is a network with one hidden layer, and weights for it."
function wide(n, hidden)
    network = layers([n, hidden, n], :tanh, 0)
    nodes = Any[[(:state, k) for k in 1:n]; (:join, 1, 2); [(:join, n + k, k + 2) for k in 1:(n - 2)]]
    inputs = length(nodes)
    append!(nodes, [(:network, k, inputs) for k in 1:n])
    one = tape(nodes, n, size_of(network), inputs .+ (1:n); networks = [network], calls = [(1, k) for k in 1:n])
    return one, randn(Xoshiro(6), one.n_params) ./ sqrt(n)
end

"Drift and diffusion of a batch of paths (a network, time in both), the states that have noise, and numbers for all of these."
function noisy_tapes()
    network = layers([2, 6, 2], :tanh, 2)
    drift = tape(
        Any[
            (:state, 1), (:state, 2), (:join, 1, 2), (:network, 1, 3), (:network, 2, 3), (:time,), (:cos, 6), (:add, 5, 7),
            (:sub, 4, 1),
        ], 2, 2 + size_of(network), [9, 8]; networks = [network], calls = [(1, 1), (1, 2)],
    )
    # The first state alone has noise: p1 * cos(u1) + p2 * t
    diffusion = tape(
        Any[(:state, 1), (:cos, 1), (:param, 1), (:mul, 3, 2), (:param, 2), (:time,), (:mul, 5, 6), (:add, 4, 7)], 2,
        2 + size_of(network), [8],
    )
    rng = Xoshiro(7)
    p = [0.4; 0.2; 0.6 .* randn(rng, size_of(network))]
    return drift, diffusion, [1], p, randn(rng, 5, 2), randn(rng, 5, 2, 2, 128)
end

"Noise of all states, in another order: of one it is a constant, of one a parameter; a third of the states moves by itself."
function plain_noise()
    drift = tape(Any[(:state, 1), (:state, 2), (:param, 1), (:mul, 3, 1), (:sub, 2, 4)], 3, 2, [4, 5, 2])
    diffusion = tape(Any[(:const, 0.3), (:param, 2), (:state, 3), (:mul, 2, 3)], 3, 2, [1, 2, 4])
    rng = Xoshiro(11)
    return drift, diffusion, [3, 1, 2], [-0.7, 0.4], randn(rng, 6, 3), randn(rng, 6, 3, 2, 128)
end
