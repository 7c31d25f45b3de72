module PySciMLLuxExt

using ChainRulesCore: ChainRulesCore, AbstractZero, HasReverseMode, NoTangent, RuleConfig, ZeroTangent, ignore_derivatives, rrule_via_ad, unthunk
using Lux: Lux, Chain, Dense, GRUCell
using PySciML: PySciML, AdaptiveSolve, ExplicitMethod, NoisySolve, Term

include("network_field.jl")
include("solves.jl")
include("layers.jl")
include("latent.jl")

end
