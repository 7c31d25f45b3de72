module PySciMLStochasticDiffEqHighOrderExt

using StochasticDiffEqHighOrder: StochasticDiffEqHighOrder
using PrecompileTools: @compile_workload
using PySciML: PySciML

@compile_workload PySciML.workload("sde", "SOSRI")

end
