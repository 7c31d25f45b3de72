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

"What an extension runs while it is installed, unless a preference says that it should not."
workload(kind::AbstractString, algorithms::AbstractString...) =
    workload_enabled(@__MODULE__) ? exercise(kind, algorithms...) : nothing

"Solve small problems of a kind with some algorithms, in the ways a caller does."
function exercise(kind::AbstractString, algorithms::AbstractString...)
    u0, p, times = [2.0, 0.0], [1.0], [0.0, 0.1]
    dt = kind == "sde" ? 0.05 : 0.0
    GC.@preserve u0 p times for name in algorithms
        model = example_model(kind)
        isempty(model.jumps) && wants_jacobian(model, name)
        for n in (0, 2)
            at, start_here = n == 0 ? 0 : Int(pointer(times)), (Int(pointer(u0)), Int(pointer(p)))
            run, _ = start_at(model, start_here..., 0.0, 0.1, String(name), 1e-4, 1e-6, 0, at, n, dt, 1000, 1, 0.0)
            while !advance!(run, 1.0)
            end
            progress(run)
            outcome(run)
        end
    end
    return nothing
end

"Train one step: two states and a network of both, without and with noise."
function example_training()
    op, index = [STATE, STATE, JOIN, NETWORK, NETWORK, 0x0b], [0, 1, -1, 0, 1, -1]
    args = [-1 -1 -1; -1 -1 -1; 0 1 -1; 2 -1 -1; 2 -1 -1; 3 0 -1]
    layers = [0, 2, 3, 1, 0, 6, 0, 3, 2, 0, 9, 15]
    graph = Any[Int.(op), vec(permutedims(args)), zeros(6), index, [5, 4], layers, [0, 0, 0, 0, 1, 0]]
    p, p_bar, y, y_bar, ones_of = fill(0.1, 17), zeros(17), fill(0.5, 3, 2), ones(3, 2), ones(3)
    times, ys, estimates, draws = [0.5, 1.0], zeros(3, 2, 2), zeros(30, 3), fill(0.1, 3, 2, 2, 64)
    address(array) = Int(pointer(array))
    GC.@preserve graph p p_bar y y_bar ones_of times ys estimates draws begin
        parts = address.(graph)
        tape = tape_at(parts[1:4]..., 6, 2, 17, parts[5], 2, parts[6], 2, parts[7], 2)
        numbers, states, moments, along = address(p), address(y), address(times), address(ys)
        span, ends, found = (address(ones_of), address(ones_of)), address(y_bar), address(estimates)
        for through_steps in (false, true)
            s = adaptive_solve(tape, "Tsit5", 3, 1e-3, 1e-3, 30, through_steps)
            solve_at!(s, numbers, states, span..., 0.0, 1.0, moments, 2, along, ends, 0.1)
            write_estimates!(s, found)
            pull_at!(s, ends, along, states, found, 1.0)
            local_estimate!(s, true, 0.3, 1.0, 1.0)
            pull_parameters_at!(s, address(p_bar))
        end
        o = Observer(tape, 3)
        observe_at!(o, along, numbers, along, span..., moments, 2)
        pull_observed_at!(o, along, address(p_bar), along, numbers, along, span..., moments, 2)
        # The first two numbers of `index` are those of the states.
        noisy = noisy_solve(tape, tape, parts[4], 3, 1e-2, 1e-2, 30)
        solve_noisy_at!(noisy, numbers, states, 0.0, 1.0, moments, 2, address(draws), 64, along, ends, 0.1)
        write_estimates!(noisy, found)
        pull_noisy_at!(noisy, ends, along, states, found, 1.0)
        local_noisy_at!(noisy, true, 0.3, states, address(draws), 1.0, 1.0)
        pull_parameters_at!(noisy, address(p_bar))
    end
    return p_bar
end
