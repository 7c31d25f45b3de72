module PySciMLDelayDiffEqExt

using DelayDiffEq: DelayDiffEq
using PrecompileTools: @compile_workload
using PySciML: PySciML

@compile_workload PySciML.workload("dde", "")

end
