module PySciMLOrdinaryDiffEqBDFExt

using OrdinaryDiffEqBDF: OrdinaryDiffEqBDF
using PrecompileTools: @compile_workload
using PySciML: PySciML

@compile_workload PySciML.workload("ode", "FBDF")

end
