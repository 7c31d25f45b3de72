module PySciMLOrdinaryDiffEqTsit5Ext

using OrdinaryDiffEqTsit5: OrdinaryDiffEqTsit5
using PrecompileTools: @compile_workload
using PySciML: PySciML

@compile_workload PySciML.workload("ode", "Tsit5")

end
