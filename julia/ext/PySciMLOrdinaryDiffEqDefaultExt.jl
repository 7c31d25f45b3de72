module PySciMLOrdinaryDiffEqDefaultExt

using OrdinaryDiffEqDefault: OrdinaryDiffEqDefault
using PrecompileTools: @compile_workload
using PySciML: PySciML

const OrdinaryDiffEqCore = parentmodule(OrdinaryDiffEqDefault.AutoAlgSwitch)
const OrdinaryDiffEqBDF = parentmodule(OrdinaryDiffEqDefault.FBDF)

# The default switches to FBDF for more than 50 stiff equations. There OrdinaryDiffEqBDF 2.4 looks for the error of a step in the
# controller of FBDF alone, while it is in that of the switching algorithm: no step was ever rejected, and the error of a solution
# could be a thousand times the tolerance. For these integrators alone, the error is where every other controller looks for it.
if isdefined(OrdinaryDiffEqBDF, :BDFControllerCache)
    OrdinaryDiffEqCore.accept_step_controller(
        integrator::OrdinaryDiffEqCore.ODEIntegrator{<:OrdinaryDiffEqCore.CompositeAlgorithm},
        ::OrdinaryDiffEqBDF.BDFControllerCache, alg,
    ) = OrdinaryDiffEqCore.get_EEst(integrator) <= 1
end

@compile_workload PySciML.workload("ode", "")

end
