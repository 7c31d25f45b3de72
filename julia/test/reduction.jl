# Index reduction by ModelingToolkit: what comes back holds along a motion that is known.

using LinearAlgebra: det
using ModelingToolkit: ModelingToolkit
using PySciML
using PySciML: Graph
using Test

"x'' + x T, y'' + y T + g and x^2 + y^2 - 1: the pendulum, whose states are x, x', x'', y, y', y'', T."
function pendulum()
    leaves = [(:state, k) for k in 1:7]
    return build(
        [
            leaves; (:param, 1); (:const, 1.0)
            (:mul, 1, 7); (:add, 3, 10)             # 11: x'' + x T
            (:mul, 4, 7); (:add, 6, 12); (:add, 13, 8) # 14: y'' + y T + g
            (:mul, 1, 1); (:mul, 4, 4); (:add, 15, 16); (:sub, 17, 9) # 18: x^2 + y^2 - 1
        ], 7, 1,
    )
end

const OWNERS, ORDERS = [0, 0, 0, 1, 1, 1, 2], [0, 1, 2, 0, 1, 2, 0]

@testset "index reduction" begin
    reduced = PySciML.index_reduced(pendulum(), [10, 13, 17], OWNERS, ORDERS, [0])
    op, args, constant, index, owners, orders, n_differential, rhs, gone, gone_orders, eliminated = reduced
    @test n_differential == 2
    @test length(owners) == length(orders) == length(rhs)
    @test collect(zip(owners, orders))[1:2] == [(0, 0), (0, 1)] # x and x', as was preferred
    other = PySciML.index_reduced(pendulum(), [10, 13, 17], OWNERS, ORDERS, [1])
    @test collect(zip(other[5], other[6]))[1:2] == [(1, 0), (1, 1)]
    # Nothing is lost: every unknown is a state or was eliminated.
    places = [collect(zip(owners, orders)); collect(zip(gone, gone_orders))]
    @test issubset([(0, 0), (1, 0), (2, 0)], places) && allunique(places)

    # At some point of a motion with the angle 1/2 and its rate 3/2 everything is known from the equation of the angle.
    a, rate, g = 0.5, 1.5, 9.81
    tension = rate^2 + g * cos(a)
    known = Dict(
        (0, 0) => sin(a), (0, 1) => rate * cos(a), (0, 2) => -tension * sin(a),
        (1, 0) => -cos(a), (1, 1) => rate * sin(a), (1, 2) => tension * cos(a) - g, (2, 0) => tension,
    )
    graph = Graph(op, permutedims(reshape(args, 3, :)), constant, index, length(owners), 1)
    values(nodes, state) = PySciML.evaluate(graph, nodes, state, [g], 0.0)
    state = [known[place] for place in zip(owners, orders)]
    @test values(rhs, state) ≈ [known[0, 1]; known[0, 2]; zeros(length(rhs) - 2)] atol = 1e-12
    @test values(eliminated, state) ≈ [known[place] for place in zip(gone, gone_orders)]
    # The algebraic equations determine their unknowns: what they give changes with each of these, in all directions.
    jacobian = stack(3:length(state)) do k
        there = copy(state)
        there[k] += 1e-6
        (values(rhs, there) - values(rhs, state))[3:end] ./ 1e-6
    end
    @test abs(det(jacobian)) > 0.1

    message(f) = try
        f()
        ""
    catch error
        sprint(showerror, error)
    end
    @test occursin("owners and orders", message(() -> PySciML.index_reduced(pendulum(), [10, 13, 17], OWNERS[1:3], ORDERS, Int[])))
    @test occursin("nodes that do not exist", message(() -> PySciML.index_reduced(pendulum(), [10, 13, 99], OWNERS, ORDERS, Int[])))
end
