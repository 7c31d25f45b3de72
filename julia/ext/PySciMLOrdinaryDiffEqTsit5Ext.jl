module PySciMLOrdinaryDiffEqTsit5Ext

using OrdinaryDiffEqTsit5: OrdinaryDiffEqTsit5
using PrecompileTools: @compile_workload
using PySciML: PySciML

@compile_workload begin
    PySciML.workload("ode", "Tsit5")
    PySciML.workload("integrated", "Tsit5") # jumps
end

end
