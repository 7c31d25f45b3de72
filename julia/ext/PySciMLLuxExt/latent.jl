struct LatentODELayer{L, C, I, D} <: Lux.AbstractLuxContainerLayer{(:layer, :cell, :infer, :decode)}
    layer::L
    cell::C
    infer::I
    decode::D
    n_observed::Int
    n_hidden::Int
    width::Int
end

function PySciML.LatentODE(layer, n_observed, n_hidden; width = 32)
    layer isa NeuralODELayer || throw(ArgumentError("LatentODE: layer must be a NeuralODE, not $(typeof(layer))"))
    return LatentODELayer(
        layer, GRUCell(2 * n_observed + 1 => width), Dense(width => 2 * n_hidden),
        Chain(Dense(n_hidden => width, tanh), Dense(width => n_observed)), Int(n_observed), Int(n_hidden), Int(width),
    )
end

Lux.initialstates(rng::PySciML.Random.AbstractRNG, m::LatentODELayer) = (;
    layer = Lux.initialstates(rng, m.layer), cell = Lux.initialstates(rng, m.cell), infer = Lux.initialstates(rng, m.infer),
    decode = Lux.initialstates(rng, m.decode), rng = Lux.replicate(rng), training = Val(true),
)

"Mean and logarithm of the variance of the first hidden state of every series."
function encode(m::LatentODELayer, x, mask, times, ps, st)
    T, n_t = eltype(x), length(times)
    gaps = ignore_derivatives(() -> T[diff(Array(times)); 0])
    hidden = ignore_derivatives(() -> zeros_like(x, T, m.width, size(x, 3)))
    for k in n_t:-1:1
        here = mask[:, k, :]
        known = ifelse.(here .> 0, x[:, k, :], zero(T)) # where nothing was observed there may be NaN
        row = vcat(known .* here, here, ignore_derivatives(() -> fill!(similar(x, T, 1, size(x, 3)), gaps[k])))
        (next, _), _ = m.cell((row, (hidden,)), ps.cell, st.cell)
        seen = ignore_derivatives(() -> T.(any(>(0), mask[:, k, :]; dims = 1)))
        hidden = seen .* next .+ (1 .- seen) .* hidden
    end
    both, _ = m.infer(hidden, ps.infer, st.infer)
    return both[1:m.n_hidden, :], both[(m.n_hidden + 1):end, :]
end

function (m::LatentODELayer)((x, mask, times)::Tuple, ps, st::NamedTuple)
    ignore_derivatives(() -> check_series(m, x, mask, times))
    mean, log_variance = encode(m, x, mask, times, ps, st)
    rng, draw = ignore_derivatives() do
        generator = Lux.replicate(st.rng)
        generator, sent(x, randn(generator, eltype(x), size(mean)))
    end
    z = st.training isa Val{true} ? mean .+ exp.(log_variance ./ 2) .* draw : mean
    solved, layer = m.layer((z, times), ps.layer, st.layer)
    n, batch, n_t = size(solved.y)
    decoded, _ = m.decode(reshape(solved.y, n, batch * n_t), ps.decode, st.decode)
    series = permutedims(reshape(decoded, m.n_observed, batch, n_t), (1, 3, 2))
    kl = vec(sum(exp.(log_variance) .+ mean .^ 2 .- 1 .- log_variance; dims = 1)) ./ 2
    return (; x = series, kl, solved), (; st..., layer, rng)
end

function check_series(m::LatentODELayer, x, mask, times)
    size(x) == size(mask) || throw(DimensionMismatch("observations have the size $(size(x)), and their mask $(size(mask))"))
    ndims(x) == 3 && size(x, 1) == m.n_observed && size(x, 2) == length(times) || throw(
        DimensionMismatch(
            "observations must have the size ($(m.n_observed), $(length(times)), batch), not $(size(x)): values, times, series",
        )
    )
    return nothing
end
