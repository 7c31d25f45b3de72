module PySciMLOrdinaryDiffEqDefaultExt

using OrdinaryDiffEqDefault: OrdinaryDiffEqDefault
using PrecompileTools: @compile_workload
using PySciML: PySciML

@compile_workload PySciML.workload("ode", "")

end
