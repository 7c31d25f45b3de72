module PySciMLPythonCallExt

# Methods of PythonCall make Julia compile again much of what turning a model into code uses: beforehand, here.
using PrecompileTools: @compile_workload
using PySciML: PySciML
using PythonCall: PythonCall

@compile_workload PySciML.workload_enabled(PySciML) && PySciML.example_model("ode")

end
