# Adaptive solves of a batch on a device: those of adaptive.jl and noisy.jl, where fields and states are there. Of each attempted step
# all that is known is summed up in one kernel, for which the CPU waits once; on the way back it does not wait.

"""
    device_solve(tape, method, rows, rtol, atol, max_steps, backend, T; through_steps = false)

An [`AdaptiveSolve`](@ref) in the precision `T` on a `backend` of KernelAbstractions.jl. It takes and gives arrays of that backend;
parameters, and derivatives by them, may also be on the CPU. Nothing but the squared speed is integrated along. `through_steps`
makes the CPU wait for the derivatives by step sizes, too, stage by stage.
"""
device_solve(
    tape::Tape, method::ExplicitMethod, rows::Int, rtol, atol, max_steps, backend, ::Type{T}; through_steps::Bool = false,
) where {T} = AdaptiveSolve(
    DeviceField(tape, rows, 1:tape.n_states, n_stages(method), backend, T; with_time_bars = through_steps), method,
    (rows, tape.n_states), rtol, atol, max_steps; through_steps,
)

"""
    device_solve(drift, diffusion, targets, rows, rtol, atol, max_steps, backend, T)

A [`NoisySolve`](@ref) on a device. With the numbers of a CPU's solve, `draws` included, its steps and paths are those.
"""
function device_solve(
        drift::Tape, diffusion::Tape, targets::AbstractVector{Int}, rows::Int, rtol, atol, max_steps, backend, ::Type{T},
    ) where {T}
    check_pair(drift, diffusion, targets)
    return NoisySolve(
        DeviceField(drift, rows, 1:drift.n_states, NOISY_STAGES, backend, T),
        DeviceField(diffusion, rows, targets, NOISY_STAGES, backend, T), (rows, drift.n_states), rtol, atol, max_steps,
    )
end

"The squares that a step's estimates are made of, the last of which is not finite where its end is not."
step_squares(relative, state, state_before, slope, slope_before, speed, new) =
    square(relative), square(state - state_before), square(slope - slope_before), Float64(speed), new - new

add_each(a::Tuple, b::Tuple) = map(+, a, b)

"An error that is not a number says that the step's end is not finite."
function step_norms(s::BatchSolve)
    speed = s.relative
    if s.kinetic != 0
        slopes, weights = speeds(s)
        speed = broadcast!(WeightedSquares(weights_for(s.work, 1.0, weights)), s.work, slopes...)
    end
    z, k, none = s.inner, s.slopes, zero(eltype(s.work))
    squares = mapreduce(
        step_squares, add_each, s.relative, z[end], z[end - 1], k[end], k[end - 1], speed, step_end(s);
        init = (0.0, 0.0, 0.0, 0.0, none),
    )
    error, apart, spread, kinetic = squares[1:4] ./ length(s.work)
    isfinite(squares[5]) || (error = NaN)
    return sqrt(error), sqrt(apart), sqrt(spread), s.kinetic == 0 ? 0.0 : kinetic
end

# The error says so: another wait for the device is spared.
is_finite(::BatchSolve, error::Float64) = isfinite(error)

function distances(s::BatchSolve)
    z, k = s.inner, s.slopes
    squares = mapreduce(
        (a, b, c, d) -> (square(a - b), square(c - d)), add_each, z[end], z[end - 1], k[end], k[end - 1]; init = (0.0, 0.0),
    )
    return sqrt.(squares ./ length(s.work))
end

# -- what Python's training calls, for a device: numbers go there and back once for each solve

"""
    load_training_device(device) -> String

Load what trainings on a device need; what is missing, or nothing.
"""
function load_training_device(device::AbstractString)
    device == "cuda" || return "there is no device $device"
    load_package("CUDA") === nothing && return "the Julia package CUDA is not installed"
    return Base.invokelatest(find_device, Val(Symbol(device)))
end

"A backend and a type of numbers, from Python's names of them."
place(device::String, precision::String) = backend(Val(Symbol(device))), precision == "float32" ? Float32 : Float64

"As `adaptive_solve`, on a `device` in a `precision` of Python's names."
device_solve(
    tape::Tape, method::String, rows::Int, rtol::Float64, atol::Float64, max_steps::Int, through_steps::Bool, device::String,
    precision::String,
) = device_solve(tape, explicit_method(method), rows, rtol, atol, max_steps, place(device, precision)...; through_steps)

"As `noisy_solve`, on a `device` in a `precision` of Python's names."
device_solve(
    drift::Tape, diffusion::Tape, targets::Int, rows::Int, rtol::Float64, atol::Float64, max_steps::Int, device::String,
    precision::String,
) = device_solve(drift, diffusion, read_targets(diffusion, targets), rows, rtol, atol, max_steps, place(device, precision)...)

sent(s::BatchSolve, numbers::Array) = copyto!(similar(s.y0, size(numbers)), eltype(s.y0).(numbers))

found_in(s::BatchSolve, host::Array) = similar(s.y0, size(host))

fetched!(host::Array, found) = copyto!(host, Array(found))
