# Index reduction by ModelingToolkit: what comes back is solved, and compared.

using ModelingToolkit: ModelingToolkit
using PySciML
using PySciML: Graph, Model
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
    reduced = PySciML.index_reduced(pendulum(), [10, 13, 17], OWNERS, ORDERS)
    op, args, constant, index, owners, orders, n_differential, rhs, gone, gone_orders, eliminated = reduced
    @test n_differential == 2
    @test length(owners) == length(orders) == length(rhs)
    @test orders[1:2] == [0, 1] && owners[1] == owners[2] # a position and its velocity
    # Nothing is lost: every unknown is a state or was eliminated.
    places = [collect(zip(owners, orders)); collect(zip(gone, gone_orders))]
    @test issubset([(0, 0), (1, 0), (2, 0)], places) && allunique(places)

    graph = Graph(op, permutedims(reshape(args, 3, :)), constant, index, length(owners), 1)
    differential = [k <= n_differential for k in eachindex(owners)]
    model = Model("dae", graph, rhs, differential)
    # At rest, half a radian from the lowest point; the tension is then g cos(1/2).
    at = Dict(
        (0, 0) => sin(0.5), (0, 1) => 0.0, (1, 0) => -cos(0.5), (1, 1) => 0.0, (2, 0) => 9.81 * cos(0.5),
        (0, 2) => -9.81 * cos(0.5) * sin(0.5), (1, 2) => 9.81 * (cos(0.5)^2 - 1),
    )
    start = [at[place] for place in zip(owners, orders)]
    _, u = solve(model, start, [9.81], (0.0, 2.0), "Rodas5P"; saveat = [0.0, 1.0, 2.0])
    # Against the equation of the angle.
    swing = build([(:state, 1), (:state, 2), (:param, 1), (:sin, 1), (:mul, 3, 4), (:neg, 5)], 2, 1)
    _, angle = solve(Model("ode", swing, [1, 5], [true, true]), [0.5, 0.0], [9.81], (0.0, 2.0), "Vern9"; saveat = [0.0, 1.0, 2.0])
    for (column, place) in enumerate(zip(owners, orders))
        place == (0, 0) && @test u[:, column] ≈ sin.(angle[:, 1]) atol = 1e-6
        place == (1, 0) && @test u[:, column] ≈ -cos.(angle[:, 1]) atol = 1e-6
    end

    message(f) = try
        f()
        ""
    catch error
        sprint(showerror, error)
    end
    @test occursin("owners and orders", message(() -> PySciML.index_reduced(pendulum(), [10, 13, 17], OWNERS[1:3], ORDERS)))
    @test occursin("nodes that do not exist", message(() -> PySciML.index_reduced(pendulum(), [10, 13, 99], OWNERS, ORDERS)))
end
