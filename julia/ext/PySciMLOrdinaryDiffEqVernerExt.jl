module PySciMLOrdinaryDiffEqVernerExt

using OrdinaryDiffEqVerner: OrdinaryDiffEqVerner
using PrecompileTools: @compile_workload
using PySciML: PySciML

@compile_workload PySciML.workload("ode", "Vern7", "Vern9")

end
