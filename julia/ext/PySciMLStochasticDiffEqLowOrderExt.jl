module PySciMLStochasticDiffEqLowOrderExt

using StochasticDiffEqLowOrder: StochasticDiffEqLowOrder
using PrecompileTools: @compile_workload
using PySciML: PySciML

@compile_workload PySciML.workload("sde", "EM")

end
