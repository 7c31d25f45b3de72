# Fields on a GPU: every step of `Fields` is a kernel over arrays of the device, started by KernelAbstractions.jl (an extension,
# PySciMLKernelAbstractionsExt). The state, the parameters, the rates and all between them stay there.

"""
    DeviceFields(fields, backend, T)

The rates of `fields` as kernels of a `backend`, in the arithmetic of `T`, called as `rates(du, u, p, t)` with arrays of the device.
Fields are read where they stand in `u` and rates written where they stand in `du`; what is between has buffers of its own, made once
for each number type of the rates: dual numbers have others.
"""
struct DeviceFields{T, B}
    fields::Fields
    backend::B
    launches::Dict{DataType, Vector{Any}}
end

DeviceFields(fields::Fields, backend::B, ::Type{T}) where {T, B} =
    DeviceFields{T, B}(fields, backend, Dict{DataType, Vector{Any}}())

function (rates::DeviceFields)(du, u, p, t)
    for launch! in get!(() -> launches(rates, eltype(du)), rates.launches, eltype(du))
        launch!(du, u, p, t)
    end
    return nothing
end

# Stand for the state and the rates among the buffers: which arrays these are, each call says.
struct OfState end
struct OfRates end

"The array that a call means by a source."
array_of(::OfState, du, u) = u
array_of(::OfRates, du, u) = du
array_of(kept, du, u) = kept

"A box of an array that each call finds by its `source`: the element at `(i, j, k)`, from one, as [`at`](@ref) has it."
struct Spot{S, N}
    source::S
    first::Int
    strides::NTuple{N, Int}
end

"Where in its array the element at an index from one is."
at(first::Int, strides::NTuple{N, Int}, index::NTuple{N, Int}) where {N} =
    +(first, map((stride, i) -> stride * (i - 1), strides, index)...)

"The steps as functions of `(du, u, p, t)` that start a kernel, for rates of type `R`."
function launches(rates::DeviceFields{T}, ::Type{R}) where {T, R}
    fields = rates.fields
    buffers, apart = Dict{Int, Any}(), joins(fields)
    find(place) = spot(rates, buffers, place, R)
    left_out(step) = step isa CopyStep && haskey(apart, step.target.buffer)
    return Any[launch(rates, step, find, apart, R) for step in fields.steps if !left_out(step)]
end

"Where a place is; what is neither in the state nor in the rates is on the device once the first asks for it."
function spot(rates::DeviceFields{T}, buffers, place::Place, ::Type{R}) where {T, R}
    fields, k = rates.fields, place.buffer
    before = fields.n_fields + n_tables(fields)
    in_order(first) = place.first + sum(fields.sizes[first:(k - 1)]; init = 0)
    k <= fields.n_fields && return Spot(OfState(), in_order(1), place.strides)
    before < k <= before + fields.n_outputs && return Spot(OfRates(), in_order(before + 1), place.strides)
    kept = get!(buffers, k) do
        on_device(rates.backend, haskey(fields.tables, k) ? Vector{T}(fields.tables[k]) : zeros(R, fields.sizes[k]))
    end
    return Spot(kept, place.first, place.strides)
end

"""
    launch(rates, step, spot, joins, R)

A step as a function of `(du, u, p, t)` that starts its kernel; `spot` finds a place, `joins` are not put together, `R` is the number
type of the rates. Methods of PySciMLKernelAbstractionsExt.
"""
function launch end

"A copy of an array of the host on a backend: a method of PySciMLKernelAbstractionsExt."
function on_device end

"""
What a solve on a device is asked for, kept in the host's memory: states are copied there one by one, and the device holds one of
them at most, `between`, that is interpolated.
"""
struct Kept{T, A}
    wanted::Union{Nothing, Vector{T}}
    saveat::Union{Nothing, Vec}
    times::Vec
    states::Vector{Vector{T}}
    between::A
end

Kept(::Type{T}, saveat, between) where {T} =
    Kept(saveat === nothing ? nothing : Vector{T}(saveat), saveat, Vec(), Vector{T}[], between)

"Copy the state, if every step is wanted, or those at wanted times up to where the integrator is."
function keep!(record::Kept, integrator)
    if record.wanted === nothing # a step that failed has reached nothing
        isempty(record.times) || integrator.t != last(record.times) || return nothing
        return copy_state!(record, integrator.t, integrator.u)
    end
    while length(record.times) < length(record.wanted)
        k = length(record.times) + 1
        t = record.wanted[k]
        integrator.tdir * t <= integrator.tdir * integrator.t || break
        t == integrator.t || integrator(record.between, t)
        copy_state!(record, record.saveat[k], t == integrator.t ? integrator.u : record.between)
    end
    return nothing
end

function copy_state!(record::Kept, t, u)
    push!(record.times, t)
    push!(record.states, vec(Array(u)))
    return nothing
end

"As for an integrator that keeps its states: times, and states of shape `(n_t, n_states)`, up to the first that is not finite."
function arrays(record::Kept)
    count = something(findfirst(state -> !all(isfinite, state), record.states), length(record.states) + 1) - 1
    u = zeros(count, length(record.between))
    for k in 1:count
        u[k, :] = record.states[k]
    end
    return record.times[1:count], u
end

"What a method for a device needs, in words that name some."
const DEVICE_ADVICE = "ROCK2 and ROCK4 where diffusion limits the step, Tsit5 and SSPRK43 elsewhere, or " *
    "QNDF(linsolve=KrylovJL_GMRES), which takes products with the Jacobian"

"Throw for fields that no kernels step."
function check_fields(model::Model)
    refuse(what) = throw(ArgumentError("on a GPU: $what"))
    model.rhs! isa Fields && model.kind === :ode && isempty(model.events) ||
        refuse("partial differential equations without noise and events")
    for step in model.rhs!.steps, code in (step isa KernelStep ? unique(step.graph.op) : UInt8[])
        OPERATIONS[code].name in NOT_ON_DEVICES && refuse("there is no function $(OPERATIONS[code].name)")
    end
    return nothing
end

"The algorithm of a name for arrays of a device; throws for one that does not work on them."
function device_method(name::String, dt::Real)
    refuse(what) = throw(ArgumentError("on a GPU: $what"))
    isempty(name) && refuse("name an algorithm: $DEVICE_ADVICE")
    method = algorithm(name, :ode, true)
    is_partitioned(method) && refuse("$name steps positions and velocities; name another: $DEVICE_ADVICE")
    is_semilinear(method) && refuse("$name takes functions of a matrix; name another: $DEVICE_ADVICE")
    uses_jacobian(method) && !is_matrix_free(method) && refuse("$name factorizes the Jacobian; name another: $DEVICE_ADVICE")
    Base.invokelatest(SciMLBase.isadaptive, method) || dt > 0 || throw(ArgumentError("$name has fixed steps: dt must be given"))
    return method
end

"The function object of a model of fields on a backend, made once for each type of number."
device_rates(model::Model, backend, ::Type{T}) where {T} = get!(model.functions, (:device, T, backend)) do
    ODEFunction{true, SciMLBase.FullSpecialize}(DeviceFields(model.rhs!, backend, T))
end

"""
    start_on_device(model, backend, u0, p, t0, t1, algorithm, rtol, atol, saveat, dt, max_steps, T) -> Run

As [`start`](@ref) for a model of fields on a backend, in the arithmetic of `T`, time included.
"""
function start_on_device(model::Model, backend, u0, p, t0, t1, name, rtol, atol, saveat, dt, max_steps, ::Type{T}) where {T}
    check_fields(model)
    method = device_method(String(name), dt)
    rates = device_rates(model, backend, T)
    times = saveat === nothing ? nothing : Vec(saveat)
    span = Float64(t0), Float64(t1)
    return Base.invokelatest(prepare_on_device, rates, backend, method, u0, p, span, name, rtol, atol, times, dt, max_steps, T)
end

"A run over arrays of a backend; `options` are more of the integrator's."
function prepare_on_device(
        rates, backend, method, u0, p, tspan, name, rtol, atol, saveat, dt, max_steps, ::Type{T}; options...,
    ) where {T}
    begun = time_ns()
    there(numbers) = on_device(backend, Array{T}(numbers))
    problem = ODEProblem{true, SciMLBase.FullSpecialize}(rates, there(u0), T.(tspan), there(p))
    steps = dt > 0 ? (; dt = copysign(T(dt), tspan[2] - tspan[1])) : (;)
    integrator = with_logger(NullLogger()) do
        init(
            problem, method; reltol = T(rtol), abstol = atol isa Number ? T(atol) : there(atol), maxiters = Int(max_steps),
            dense = false, save_everystep = false, save_start = false, save_end = false, calck = saveat !== nothing, steps...,
            options...,
        )
    end
    record = Kept(T, saveat, similar(integrator.u))
    keep!(record, integrator)
    return Run(integrator, name, saveat, EventLog(), false, :Default, "", 1e-9 * (time_ns() - begun), nothing, record)
end

"Evaluate the rates once on a backend: the way tests compare kernels with loops."
function evaluate(model::Model, backend, u, p, t, ::Type{T}) where {T}
    rates = device_rates(model, backend, T).f
    there(numbers) = on_device(backend, Vector{T}(numbers))
    du = there(fill(NaN, n_states(model)))
    rates(du, there(u), there(p), T(t))
    return Vec(Array(du))
end
