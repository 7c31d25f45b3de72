# What tests of Lux layers share; on a device, for which arrays of JLArrays stand in, layers give what they give in main memory.

using Lux: Lux
using PySciML
using Random: Xoshiro
using Test
using Zygote: Zygote

"Parameters and states of a layer as `setup` makes them, in double precision."
double(layer, seed = 1) = Lux.f64(Lux.setup(Xoshiro(seed), layer))

flat(ps) = reduce(vcat, [vec(leaf) for leaf in leaves(ps)])
leaves(x::AbstractArray) = Any[x]
leaves(::Nothing) = Any[]
leaves(x) = isempty(x) ? Any[] : reduce(vcat, [leaves(part) for part in values(x)])

network(n = 2) = Lux.Chain(Lux.Dense(n => 8, tanh), Lux.Dense(8 => 2))

"Arrays, however nested, on the device."
on_device(x::AbstractArray) = JLArray(x)
on_device(x::Union{NamedTuple, Tuple}) = map(on_device, x)
on_device(x) = x

single(layer) = Lux.setup(Xoshiro(1), layer)

"What a layer gives, and the derivatives of a sum over it by its parameters and states; `place` is where the arrays are."
function results_of(layer, ps, st, y0, times, place)
    loss(q, y) = (out = layer((y, times), q, st)[1]; sum(abs2, out.y) + out.regularization)
    q, y = place(ps), place(y0)
    out, next = layer((y, times), q, st)
    by_ps, by_y0 = Zygote.gradient(loss, q, y)
    counts = (out.evaluations, out.steps, out.rejected, out.success)
    numbers = (; out.y, regularization = [out.regularization], by_ps = reduce(vcat, vec.(Array.(leaves(by_ps)))), by_y0)
    return map(Array, numbers), counts, (out.y, by_y0), rand(copy(next.rng))
end

"A layer gives on a device what it gives in main memory, in as many steps, and leaves results there."
function same_on_device(layer, y0, times; rtol = 1.0e-9, setup = double)
    ps, st = setup(layer)
    wanted, counts, _, draw = results_of(layer, ps, st, y0, times, identity)
    found, other_counts, arrays, other_draw = results_of(layer, ps, st, y0, times, on_device)
    @test counts == other_counts && last(counts) && draw == other_draw
    @test all(array -> array isa JLArray, arrays)
    for name in keys(wanted)
        @test isapprox(found[name], wanted[name]; rtol, atol = rtol)
    end
    return nothing
end
