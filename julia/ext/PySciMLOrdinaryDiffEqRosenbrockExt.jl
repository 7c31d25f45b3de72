module PySciMLOrdinaryDiffEqRosenbrockExt

using OrdinaryDiffEqRosenbrock: OrdinaryDiffEqRosenbrock
using PrecompileTools: @compile_workload
using PySciML: PySciML

@compile_workload PySciML.workload("ode", "Rodas5P")

end
