# Index reduction and tearing by ModelingToolkit.jl, for whoever wants its choice of states.

"""
    index_reduced(graph, residuals, owners, orders, preferred)

The equations `0 = residual` (nodes of the graph), reduced to index 1 and simplified by ModelingToolkit.jl's `mtkcompile`: its
Pantelides algorithm and dummy derivatives, alias elimination and tearing. State `k` of the graph stands for derivative
`orders[k]` of the unknown `owners[k]` (zero-based); those `preferred` become differential states where there is a choice.

Returns, zero-based and with three operands a node one after the other,
`(op, args, constant, index, owners, orders, n_differential, rhs, observed_owners, observed_orders, observed)`: the states that are
left, differential ones first, say of which unknown they are which derivative; `rhs` has their derivatives and, for algebraic ones,
what is zero; `observed` are the values of unknowns and derivatives that were eliminated.

Needs ModelingToolkit.jl.
"""
function index_reduced end
