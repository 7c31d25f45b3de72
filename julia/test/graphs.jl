# Graphs written down for tests, and their solutions.

using PySciML: Graph, PySciML

"A graph written down node by node: `(code, operands...)`, constants as `(:const, value)`, leaves as `(:state, i)`."
function build(nodes, n_states, n_params)
    codes = Dict(operation.name => code for (code, operation) in PySciML.OPERATIONS)
    n = length(nodes)
    op = zeros(UInt8, n)
    args = fill(Int32(-1), n, 3)
    constant = zeros(n)
    index = fill(Int32(-1), n)
    for (i, (name, operands...)) in enumerate(nodes)
        op[i] = codes[name]
        if name === :const
            constant[i] = operands[1]
        elseif name in (:state, :param)
            index[i] = operands[1] - 1
        else
            name === :history && (index[i] = 0)
            for (k, operand) in enumerate(operands)
                args[i, k] = operand - 1
            end
        end
    end
    return Graph(op, args, constant, index, n_states, n_params)
end

function solve(model, u0, p, tspan, name; rtol = 1e-8, atol = 1e-8, saveat = nothing, dt = 0.0, max_steps = 10^6, seed = 1)
    run = PySciML.start(model, u0, p, tspan..., name, rtol, atol, saveat, dt, max_steps, seed)
    while !PySciML.advance!(run, 1.0)
    end
    return PySciML.result(run)
end
