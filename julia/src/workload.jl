# What is compiled while the package is installed, so that a first solve does not wait for it. The part for a solver is
# an extension, which is compiled (and loaded) only where that solver is.

"Van der Pol's equation and its derivative, which stops where the position crosses zero the second time."
function example_model(kind::AbstractString)
    codes = Dict(operation.name => code for (code, operation) in OPERATIONS)
    nodes = [
        (:state, 0), (:state, 1), (:param, 0), (:const,), (:mul, 0, 0), (:sub, 3, 4), (:mul, 5, 1), (:sub, 6, 0), (:mul, 2, 7),
        (:const,), (:mul, 9, 0), (:mul, 10, 1), (:sub, 11, 3), (:mul, 2, 12), (:mul, 2, 5), (:time,), (:sub, 15, 2), (:history, 16, 0),
    ]
    op = UInt8[codes[first(node)] for node in nodes]
    args = fill(-1, length(nodes), 3)
    index = fill(-1, length(nodes))
    for (k, (name, operands...)) in enumerate(nodes)
        name in (:state, :param) && (index[k] = operands[1]; continue)
        name === :history && (index[k] = operands[2])
        for i in 1:OPERATIONS[op[k]].arity
            args[k, i] = operands[i]
        end
    end
    constant = [0, 0, 0, 1.0, 0, 0, 0, 0, 0, -2.0, 0, 0, 0, 0, 0, 0, 0, 0]
    graph = Graph(op, args, constant, index, 2, 1)
    jumping = kind in ("jump", "integrated")
    model = Model(jumping ? "ode" : kind, graph, kind == "dde" ? [1, 17] : [1, 8], [true, kind != "dae"])
    jumping && add_jump!(model, 0, [3], [0]) # the first state becomes one, as often as its value says
    kind == "jump" && set_pure!(model)
    kind == "sde" && set_noise!(model, [0, 1], [0, 1], [0, 1], 2, "diagonal")
    kind in ("ode", "dae") && set_jacobian!(model, graph, [3, 13, 14], [0, 1, 1], [1, 0, 1])
    return model
end

"A graph that crosses as Python's arrays do."
function example_arrays()
    op, args, constant, index = [0, 2], fill(-1, 6), [1.0, 0.0], [-1, 0]
    address(array) = Int(pointer(array))
    GC.@preserve op args constant index begin
        graph_at(address(op), address(args), address(constant), address(index), 2, 1, 0)
        maybe_floats(address(constant), 2)
    end
    return nothing
end

"Solve small problems of a kind with some algorithms, in the ways a caller does."
function workload(kind::AbstractString, algorithms::AbstractString...)
    workload_enabled(@__MODULE__) || return nothing
    u0, p, times = [2.0, 0.0], [1.0], [0.0, 0.1]
    dt = kind == "sde" ? 0.05 : 0.0
    GC.@preserve u0 p times for name in algorithms
        model = example_model(kind)
        isempty(model.jumps) && wants_jacobian(model, name)
        for n in (0, 2)
            at, start_here = n == 0 ? 0 : Int(pointer(times)), (Int(pointer(u0)), Int(pointer(p)))
            run, _ = start_at(model, start_here..., 0.0, 0.1, String(name), 1e-4, 1e-6, at, n, dt, 1000, 1, 0.0)
            while !advance!(run, 1.0)
            end
            progress(run)
            outcome(run)
        end
    end
    return nothing
end
