# Functions for the kernels of a GPU, and ensembles there: each trajectory is one thread of a kernel of DiffEqGPU.jl, which an
# extension starts (PySciMLDiffEqGPUExt).
# What a kernel needs comes from the graph: the right-hand side out of place on static vectors, without pointers to the heap.

"Kernels keep states in registers: they are for models of few of them. Where the bound should be was not measured."
const DEVICE_STATES = 20

"A kernel is one function, with the right-hand side in it once for every stage of the method."
const DEVICE_OPERATIONS = 2_000

"""
The methods that DiffEqGPU.jl has kernels of, by their names on a CPU. That of Kvaerno3 is left out: version 3.17 was wrong by
2e-4 where 1e-9 was asked for (run on a CPU).
"""
const DEVICE_METHODS = (:Tsit5, :Vern7, :Vern9, :Rosenbrock23, :Rodas4, :Rodas5P, :Kvaerno5)

"""
Where CUDA.jl replaces a function of Base by one of the device, that one is taken: it is not a number outside of its domain, as
NaNMath's are, which call the C library.
"""
const DEVICE_FUNCTIONS = Dict(
    :sqrt => sqrt, :log => log, :sin => sin, :cos => cos, :tan => tan, :asin => asin, :acos => acos, :acosh => acosh,
    :atanh => atanh,
)

"Operations that call SpecialFunctions.jl, which has no functions for devices."
const NOT_ON_DEVICES = (:erf, :erfc, :gamma, :loggamma, :polygamma, :besselj, :bessely, :besseli, :besselk)

device_power(x, y) = x^y
# Multiplied out: the device's own function for whole exponents is a loop.
device_power(x, y::Integer) = y == 1 ? x : y == 2 ? x * x : y == 3 ? x * x * x : power(x, y)

"The table of operations with the device's own functions, which a GPU needs and a CPU must not have: there they throw."
function device_operations()
    table = copy(OPERATIONS)
    for (code, operation) in OPERATIONS
        if haskey(DEVICE_FUNCTIONS, operation.name)
            table[code] = plain(operation.name, operation.arity, number(DEVICE_FUNCTIONS[operation.name]))
        elseif operation.name === :pow
            table[code] = plain(:pow, 2, (x, y) -> symbolic_power(x, y; by = device_power))
        end
    end
    return table
end

"""
    device_rhs(graph, outputs, T, replaced) -> Static

As [`static_rhs`](@ref) for a kernel: nothing in it lives on the heap, its constants are of type `T`, as everything else there, and
functions are `replaced` by those of the device.
"""
function device_rhs(graph::Graph, outputs::Vector{Int}, ::Type{T}, replaced::Bool) where {T}
    code = out_of_place(graph, outputs, Val{true}, replaced ? device_operations() : OPERATIONS)
    return Static{length(outputs)}(device_code(T, code))
end

"As [`generate_scalar`](@ref) for a kernel; see [`device_rhs`](@ref)."
function device_scalar(graph::Graph, node::Int, ::Type{T}, replaced::Bool) where {T}
    table = replaced ? device_operations() : OPERATIONS
    return device_code(T, generate_scalar(graph, node; expression = Val{true}, table))
end

device_code(::Type{T}, code::Expr) where {T} =
    drop_expr(RuntimeGeneratedFunction(@__MODULE__, @__MODULE__, with_constants(T, code)))

# Converted in the code and by it: generated functions whose code is the same but for the types of equal numbers are taken for one.
with_constants(::Type{T}, code::Expr) where {T} = Expr(code.head, (with_constants(T, part) for part in code.args)...)
with_constants(::Type{T}, number::AbstractFloat) where {T} = Expr(:call, T, number)
with_constants(::Type, other) = other

"""
    backend(Val(device))

The backend of KernelAbstractions.jl for a device, `:cuda`: a method of the extension of that device's package.
"""
function backend end

"""
    solve_kernels(backend, f, method, u0, p, t0, t1, rtol, atol, saveat, dt) -> (times, states)

Start a kernel for the columns of `u0` and `p` and wait for it: states of shape `(n_t, count)`, as static vectors, and the times to
which they belong, which are not those of `saveat` where a trajectory did not get there. A method of PySciMLDiffEqGPUExt.
"""
function solve_kernels end

"Whether the backend is that of a GPU, whose functions replace those of Base."
function on_gpu end

"Packages for a GPU, which are loaded where one is asked for; the first is for ensembles."
const DEVICE_PACKAGES = [
    "DiffEqGPU" => "071ae1c0-96b5-11e9-1965-c90190d839ea",
    "CUDA" => "052768ef-5323-5732-b1bb-66c8b64840ba",
]

"""
    load_device(device, ensemble) -> String

Load what a device needs, for an `ensemble` or fields; what is missing, or nothing.
"""
function load_device(device::AbstractString, ensemble::Bool)
    device == "cuda" || return "there is no device $device"
    for (name, _) in DEVICE_PACKAGES[(ensemble ? 1 : 2):end]
        load_package(name) === nothing && return "the Julia package $name is not installed"
    end
    return Base.invokelatest(find_device, Val(Symbol(device)))
end

"What keeps a device from working here, or nothing: a method of the extension of its package."
find_device(::Val) = "its package does not load"

"Throw for what the kernels of whole solves cannot solve."
function check_device(model::Model, name::AbstractString, forward::Bool)
    refuse(what) = throw(ArgumentError("on a GPU: $what"))
    methods = join(DEVICE_METHODS, ", ")
    isempty(name) && refuse("name an algorithm, one of $methods")
    Symbol(name) in DEVICE_METHODS || refuse("there is no kernel of $name, but of $methods")
    check_trajectories(model)
    n_states(model) <= DEVICE_STATES || refuse("at most $DEVICE_STATES states, and there are $(n_states(model))")
    forward || refuse("time goes forward")
    return nothing
end

"Throw for ensembles whose rates no kernel computes."
function check_trajectories(model::Model)
    refuse(what) = throw(ArgumentError("on a GPU: $what"))
    plain = model.kind === :ode && isempty(model.events) && isempty(model.jumps) && all(model.differential)
    plain && model.delays === nothing && !(model.rhs! isa Fields) || refuse("ordinary differential equations without events")
    used = reachable(model.graph, model.rhs_nodes)
    count(used) <= DEVICE_OPERATIONS || refuse("at most $DEVICE_OPERATIONS operations, and there are $(count(used))")
    for code in unique(model.graph.op[used])
        OPERATIONS[code].name in NOT_ON_DEVICES && refuse("there is no function $(OPERATIONS[code].name)")
    end
    return nothing
end

"The function object of a model for a kernel, made once for each type of number."
device_function(model::Model, ::Type{T}, replaced::Bool) where {T} = get!(model.functions, (:device, T, replaced)) do
    ODEFunction{false, SciMLBase.FullSpecialize}(device_rhs(model.graph, model.rhs_nodes, T, replaced))
end

"""
    solve_on_device!(u, model, backend, u0, p, t0, t1, algorithm, rtol, atol, saveat, dt, T) -> codes

As [`solve_many!`](@ref) on a backend, in the arithmetic of `T`. A trajectory that did not reach the end (`:Failure`) or is
not finite there (`:Unstable`) is not a number. Kernels count no steps.
"""
function solve_on_device!(u, model::Model, backend, u0, p, t0, t1, name, rtol, atol, saveat, dt, ::Type{T}) where {T}
    check_device(model, name, t1 > t0)
    f = device_function(model, T, Base.invokelatest(on_gpu, backend))
    wanted = Vector{T}(saveat)
    times, states = Base.invokelatest(
        solve_kernels, backend, f, Symbol(name), Matrix{T}(u0), Matrix{T}(p), T(t0), T(t1), T(rtol), T(atol), wanted, T(dt),
    )
    return copy_reached!(u, wanted, times, states)
end

"Copy the trajectories that have a finite state at every time; the return code of each."
function copy_reached!(u, wanted::Vector, times::Matrix, states::Matrix)
    fill!(u, NaN)
    return map(axes(states, 2)) do k
        view(times, :, k) == wanted || return :Failure
        all(state -> all(isfinite, state), view(states, :, k)) || return :Unstable
        for j in eachindex(wanted)
            u[:, j, k] = states[j, k]
        end
        return :Success
    end
end
