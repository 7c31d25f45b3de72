module PySciMLLuxExt

using ChainRulesCore: ChainRulesCore, AbstractZero, HasReverseMode, NoTangent, RuleConfig, Tangent, ignore_derivatives, rrule_via_ad,
    unthunk
using Lux: Lux, Chain, Dense, GRUCell
using PySciML: PySciML, AdaptiveSolve, ExplicitMethod, NoisySolve, Term
using PySciML.ForwardDiff: Dual, Tag, partials, value

include("parameters.jl")
include("network_field.jl")
include("curves.jl")
include("integrands.jl")
include("solves.jl")
include("layers.jl")
include("latent.jl")
include("written.jl")

end
