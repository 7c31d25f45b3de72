# Networks of other packages as terms of equations, taken apart for Python; methods come with the packages.

"Whether a value is a network that `written_network` knows."
is_network(model) = false

"The parameters and the state that a network begins with."
function set_up_network end

"""
    dense_network(model, ps)

Of a network that is dense layers alone: their widths, from the inputs on, the names of their activations, and their numbers, layer by
layer the matrix row by row and then the bias. Else `nothing`.
"""
function dense_network end

"""
    written_network(model, ps, st, n_inputs)

What a network computes for one column of inputs, traced with Symbolics, as [`rewritten`](@ref) returns it: inputs are states, and
the numbers in `ps` parameters. These numbers come first. Throws an `ArgumentError` for what no operation of a graph is.
"""
function written_network end
