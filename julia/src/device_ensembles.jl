# Ensembles on a GPU as one system of equations: a kernel computes the rates of all trajectories, a thread for each, and a method for
# arrays of the device steps them together. For what the kernels of a whole solve (device.jl) are too small for, and other methods.

"""
    DeviceTrajectories(f!, backend)

The rates of many trajectories of a model, called as `rates(du, u, p, t)` with matrices of a device whose rows are the trajectories:
neighbouring threads read neighbours in memory. `f!` are the rates of one, in place.
"""
struct DeviceTrajectories{F, B}
    f!::F
    backend::B
end

function (rates::DeviceTrajectories)(du, u, p, t)
    each_trajectory!(rates.backend, rates.f!, du, u, p, t)
    return nothing
end

"Start a kernel that calls `f!` with each row of `du`, `u` and `p`: a method of PySciMLKernelAbstractionsExt."
function each_trajectory! end

"As [`generate`](@ref) for a kernel; see [`device_rhs`](@ref)."
function device_in_place(graph::Graph, outputs::Vector{Int}, ::Type{T}, replaced::Bool) where {T}
    symbols = Symbols(graph)
    expressions = trace(graph, outputs, symbols; table = replaced ? device_operations() : OPERATIONS)
    leaves = (symbols.states, symbols.params, symbols.time)
    _, in_place = Symbolics.build_function(expressions, leaves...; expression = Val{true}, cse = true, iip_config = (false, true))
    return device_code(T, in_place)
end

"The function object of a model's trajectories on a backend, made once for each type of number."
device_trajectories(model::Model, backend, ::Type{T}) where {T} = get!(model.functions, (:trajectories, T, backend)) do
    f! = device_in_place(model.graph, model.rhs_nodes, T, Base.invokelatest(on_gpu, backend))
    ODEFunction{true, SciMLBase.FullSpecialize}(DeviceTrajectories(f!, backend))
end

"""
    worst_trajectory(u, t)

The largest of the root mean squares of rows: with it as the norm of the error, every trajectory keeps the tolerance that it has in a
solve of its own.
"""
worst_trajectory(u::AbstractMatrix, t) = sqrt(maximum(sum(abs2, u; dims = 2)) / size(u, 2))
worst_trajectory(u::AbstractArray, t) = sqrt(sum(abs2, u) / length(u))
worst_trajectory(u::Number, t) = abs(u)

"Whether an ensemble is solved by the kernels of whole solves, or as one system of equations."
in_kernels(model::Model, name::AbstractString) = Symbol(name) in DEVICE_METHODS && n_states(model) <= DEVICE_STATES

"""
    start_together(model, backend, u0, p, t0, t1, algorithm, rtol, atol, saveat, dt, max_steps, T) -> Run

Trajectories of initial values `u0` and parameters `p`, each in a row, as one system of equations on a backend, in the arithmetic of
`T`. They have the same steps: the smallest that any of them needs, and one that comes to an end stops all.
"""
function start_together(model::Model, backend, u0, p, t0, t1, name, rtol, atol, saveat, dt, max_steps, ::Type{T}) where {T}
    check_trajectories(model)
    method = device_method(String(name), dt)
    rates = device_trajectories(model, backend, T)
    return Base.invokelatest(
        prepare_on_device, rates, backend, method, u0, p, (Float64(t0), Float64(t1)), name, rtol, atol, saveat, dt, max_steps, T;
        internalnorm = worst_trajectory,
    )
end
