"""
    Halves(graph, velocities, accelerations, positions, rates, reads_velocities)

States in two halves, as symplectic and Nyström methods move them: `accelerate!(out, u, p, t)` writes the
rates of the states `velocities`, `move!` those of the states `positions`.
"""
struct Halves
    velocities::Vector{Int}
    positions::Vector{Int}
    accelerate!::InPlace
    move!::InPlace
    "Whether accelerations depend on velocities."
    reads_velocities::Bool
    autonomous::Bool
end

"Give the model its halves, as zero-based numbers of states that together are all of them."
function set_halves!(model, velocities, positions, reads_velocities)
    first, second = Vector{Int}(velocities) .+ 1, Vector{Int}(positions) .+ 1
    sort!([first; second]) == 1:n_states(model) || throw(ArgumentError("velocities and positions are not all states, once each"))
    part(states) = wrapped(generate(model.graph, model.rhs_nodes[states]))
    model.halves = Halves(first, second, part(first), part(second), Bool(reads_velocities), autonomous(model))
    empty!(model.copies)
    return nothing
end

"""
    Half(rates!, own, others, n, first, reads_own, clock)

The rates of one half of the states as a partitioned method calls them, with the values of its first and of
its second half. Where only the other half is read, the own one may be anything: Nyström methods pass
something that is no array to find out.

With a clock, time is one more state in each half, the last one, and moves with it: then a method has its
order also where the rates depend on time, whatever time it passes.
"""
struct Half
    rates!::InPlace
    own::Vector{Int}
    others::Vector{Int}
    u::Vec
    out::Vec
    "Whether this is the half that comes first."
    first::Bool
    reads_own::Bool
    clock::Bool
end

function Half(rates!::InPlace, own, others, n::Int, first::Bool, reads_own::Bool, clock::Bool)
    return Half(rates!, own, others, zeros(n), zeros(length(own)), first, reads_own, clock)
end

function (half::Half)(out, first, second, p, t)
    own, other = half.first ? (first, second) : (second, first)
    u = half.u
    scatter!(u, other, half.others)
    half.reads_own && scatter!(u, own, half.own)
    if half.clock
        half.rates!(half.out, u, p, other[end])
        copyto!(out, half.out)
        out[end] = 1
    else
        half.rates!(out, u, p, t)
    end
    return nothing
end

function scatter!(u::Vec, part, where_to::Vector{Int})
    for (k, state) in enumerate(where_to)
        u[state] = part[k]
    end
    return nothing
end

"""
Methods whose coefficients have their order where the half that comes first moves the other one linearly: positions come
first there. In all others velocities do.
"""
const POSITIONS_FIRST = (:McAte4, :CalvoSanz4, :McAte5)

"Methods that pass the time of the half that is read; other symplectic ones do not."
const KEEP_TIME = (:SymplecticEuler, :VelocityVerlet, :VerletLeapfrog, :LeapfrogDriftKickDrift)

package_of(algorithm) = nameof(parentmodule(typeof(algorithm)))

"Whether a method is one for states in two halves."
is_partitioned(algorithm) = package_of(algorithm) in (:OrdinaryDiffEqSymplecticRK, :OrdinaryDiffEqRKN)

"How a method wants the halves: the states of the first and of the second, and whether each has a clock."
function arrangement(halves::Halves, algorithm)
    name = nameof(typeof(algorithm))
    clock = !halves.autonomous && package_of(algorithm) === :OrdinaryDiffEqSymplecticRK && !(name in KEEP_TIME)
    first, second = halves.velocities, halves.positions
    return name in POSITIONS_FIRST ? (second, first, clock) : (first, second, clock)
end

function partitioned_problem(model, algorithm, u0::Vec, p::Vec, t0::Float64, t1::Float64)
    halves = model.halves
    first, second, clock = arrangement(halves, algorithm)
    n = n_states(model)
    accelerate! = Half(halves.accelerate!, halves.velocities, halves.positions, n, first === halves.velocities, halves.reads_velocities, clock)
    move! = Half(halves.move!, halves.positions, halves.velocities, n, first === halves.positions, false, clock)
    f1, f2 = first === halves.velocities ? (accelerate!, move!) : (move!, accelerate!)
    start(states) = clock ? [u0[states]; t0] : u0[states]
    return SciMLBase.DynamicalODEProblem{true}(f1, f2, start(first), start(second), (t0, t1), p)
end

"States in two halves as one vector, in the order of the model."
function joined(u, halves::Tuple{Vector{Int}, Vector{Int}})
    out = Vec(undef, sum(length, halves))
    foreach((part, states) -> scatter!(out, part, states), u.x, halves)
    return out
end
