"What the layers have in common, checked."
struct Setting{R <: Tuple}
    t0::Float64
    t1::Float64
    rtol::Float64
    atol::Float64
    max_steps::Int
    with_time::Bool
    regularize::R
end

function Setting(owner; t0, t1, rtol, atol, max_steps, with_time, regularize)
    isfinite(t0) && isfinite(t1) && t1 > t0 || throw(ArgumentError("$owner: t1 must be after t0, not $t0 to $t1"))
    rtol >= 0 && atol >= 0 && rtol + atol > 0 || throw(ArgumentError("$owner: rtol and atol must be 0 or more, and not both 0"))
    max_steps >= 1 || throw(ArgumentError("$owner: max_steps must be positive, not $max_steps"))
    regularizers = PySciML.read_regularizers(regularize)
    PySciML.end_shift(regularizers) < t1 - t0 || throw(ArgumentError("$owner: b of RandomEndTime must be less than t1 - t0"))
    return Setting(Float64(t0), Float64(t1), Float64(rtol), Float64(atol), Int(max_steps), Bool(with_time), regularizers)
end

struct NeuralODELayer{M, A, S <: Setting} <: Lux.AbstractLuxContainerLayer{(:model,)}
    model::M
    method::ExplicitMethod
    adjoint::A
    setting::S
end

function PySciML.NeuralODE(
        model; t0 = 0.0, t1 = 1.0, regularize = (), rtol = 1.0e-6, atol = 1.0e-6, algorithm = "Tsit5", max_steps = 256,
        with_time = false, adjoint = nothing,
    )
    method = PySciML.explicit_method(algorithm)
    setting = Setting("NeuralODE"; t0, t1, rtol, atol, max_steps, with_time, regularize)
    read = PySciML.read_adjoint("NeuralODE", adjoint, algorithm, setting.regularize)
    return NeuralODELayer(model, method, read, setting)
end

struct NeuralSDELayer{F, G, S <: Setting} <: Lux.AbstractLuxContainerLayer{(:drift, :diffusion)}
    drift::F
    diffusion::G
    setting::S
end

function PySciML.NeuralSDE(
        drift, diffusion; t0 = 0.0, t1 = 1.0, regularize = (), rtol = 0.1, atol = 0.1, max_steps = 256, with_time = false,
        adjoint = nothing,
    )
    adjoint === nothing || throw(
        ArgumentError(
            "NeuralSDE: an adjoint is for ordinary differential equations; a stochastic one is differentiated through the steps of \
            its paths: leave adjoint out",
        )
    )
    setting = Setting("NeuralSDE"; t0, t1, rtol, atol, max_steps, with_time, regularize)
    for r in setting.regularize
        r isa PySciML.TaylorDerivative &&
            throw(ArgumentError("TaylorDerivative: the paths of a stochastic equation have no derivatives"))
    end
    return NeuralSDELayer(drift, diffusion, setting)
end

const Layer = Union{NeuralODELayer, NeuralSDELayer}

models(layer::NeuralODELayer) = (layer.model,)
models(layer::NeuralSDELayer) = (layer.drift, layer.diffusion)
method(layer::NeuralODELayer) = layer.method
method(::NeuralSDELayer) = nothing
adjoint(layer::NeuralODELayer) = layer.adjoint
adjoint(::NeuralSDELayer) = nothing
name(::NeuralODELayer) = "NeuralODE"
name(::NeuralSDELayer) = "NeuralSDE"
parts(layer::NeuralODELayer, given) = (given.model,)
parts(layer::NeuralSDELayer, given) = (given.drift, given.diffusion)

training_state(rng) = (; rng = Lux.replicate(rng), training = Val(true), progress = 1.0)

Lux.initialstates(rng::PySciML.Random.AbstractRNG, layer::NeuralODELayer) =
    (; model = Lux.initialstates(rng, layer.model), training_state(rng)...)
Lux.initialstates(rng::PySciML.Random.AbstractRNG, layer::NeuralSDELayer) = (;
    drift = Lux.initialstates(rng, layer.drift), diffusion = Lux.initialstates(rng, layer.diffusion), training_state(rng)...,
)

(layer::Layer)(y0::AbstractArray, ps, st::NamedTuple) = layer((y0, nothing), ps, st)

function (layer::Layer)(given::Tuple{AbstractVector, Any}, ps, st::NamedTuple)
    out, st = layer((reshape(given[1], :, 1), given[2]), ps, st)
    y = given[2] === nothing ? vec(out.y) : reshape(out.y, size(out.y, 1), :)
    return (; out..., y), st
end

function (layer::Layer)(given::Tuple{AbstractMatrix, Any}, ps, st::NamedTuple)
    y0, ts = given
    job, draws, rng = ignore_derivatives(() -> prepared(layer, y0, ts, ps, st))
    y, regularization, evaluations, steps, rejected, success =
        solution(job, models(layer), y0, parts(layer, ps), parts(layer, st), draws)
    return (; y, regularization, evaluations, steps, rejected, success), (; st..., rng)
end

"A solve's job, its random numbers, and the generator after them."
function prepared(layer::Layer, y0, ts, ps, st)
    check_place(name(layer), y0, parts(layer, ps))
    kind(y0) === Array || check_device(layer, kind(y0))
    s, rng = layer.setting, Lux.replicate(st.rng)
    regularizers = st.training isa Val{true} ? s.regularize : ()
    terms = map(r -> Term(r, PySciML.coefficient(r, st.progress), rand(rng), noise(layer, r, rng, y0)), regularizers)
    shift = PySciML.end_shift(regularizers)
    t1 = s.t1 + (shift == 0 ? 0.0 : shift * (2 * rand(rng) - 1))
    times = ts === nothing ? nothing : moved(Float64.(Array(ts)), s, t1)
    job = Job(method(layer), adjoint(layer), s.rtol, s.atol, s.max_steps, s.with_time, s.t0, t1, times, terms)
    return job, Draws(size(y0), rand(rng, UInt64)), rng
end

"The normal random numbers of a regularizer: a new path's, or a direction."
noise(::NeuralSDELayer, regularizer, rng, y0) = sent(y0, randn(rng, size(y0)..., 2))
noise(::NeuralSDELayer, ::PySciML.JacobianNorm, rng, y0) = randn(rng, size(y0)...)
noise(::NeuralODELayer, ::PySciML.JacobianNorm, rng, y0) = randn(rng, size(y0)...)
noise(::NeuralODELayer, regularizer, rng, y0) = nothing

"Throw for what layers have in main memory alone: dual numbers along a solution, and the equations of adjoints."
function check_device(layer::Layer, where)
    refuse(what, instead) = throw(ArgumentError("$(name(layer)): $what is not for states in $where: $instead"))
    adjoint(layer) === nothing || refuse("an adjoint", "leave adjoint out, and the steps are differentiated")
    for r in layer.setting.regularize
        r isa Union{PySciML.TaylorDerivative, PySciML.JacobianNorm} &&
            refuse(nameof(typeof(r)), "regularize by KineticEnergy or ErrorEstimate, or keep states in main memory")
    end
    return nothing
end

"Output times, of which the end moves with the end, checked."
function moved(times::Vector{Float64}, s::Setting, t1::Float64)
    isempty(times) && throw(ArgumentError("there are no times to solve for"))
    issorted(times) && s.t0 <= first(times) && last(times) <= s.t1 ||
        throw(ArgumentError("times must ascend from $(s.t0) to $(s.t1) at most, not from $(first(times)) to $(last(times))"))
    return t1 == s.t1 ? times : map(t -> t >= s.t1 ? t1 : min(t, t1), times)
end

"""
    Draws(shape, seed)

Called with how many attempts had their random numbers, it gives those of the next: always the same ones, whoever asks.
"""
struct Draws
    shape::NTuple{2, Int}
    seed::UInt64
end

const DRAWS_AT_ONCE = 32

(draws::Draws)(known::Int) = randn(PySciML.Xoshiro(draws.seed + UInt64(known)), draws.shape..., 2, DRAWS_AT_ONCE)
