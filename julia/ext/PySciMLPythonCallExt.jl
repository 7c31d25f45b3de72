module PySciMLPythonCallExt

# Methods of PythonCall make Julia compile again much of what turning a model into code uses: beforehand, here. And what it takes
# to call a function from Python is compiled for each function, with the conversions of what is given.
using PrecompileTools: @compile_workload
using PySciML: PySciML
using PythonCall: Py, PythonCall, pydict, pystr, pytuple
using PythonCall.JlWrap: pyjlany_call, pyjlany_call_nogil, pyjlany_getattr

"What a solve calls."
const CALLED = (
    PySciML.load_kind, PySciML.load_package, PySciML.graph_at, PySciML.integers, PySciML.Model, PySciML.set_jacobian!,
    PySciML.set_noise!, PySciML.wants_jacobian, PySciML.resting_at, PySciML.outcome, PySciML.write_outcome, PySciML.progress,
)
const CALLED_WITHOUT_LOCK = (PySciML.start_at, PySciML.advance!)

@compile_workload if PySciML.workload_enabled(PySciML)
    PySciML.example_model("ode")
    pyjlany_call(tuple, pytuple((1, 2.0, "three", true, nothing, Py(PySciML))), pydict())
    pyjlany_getattr(PySciML, pystr("integers"))
    for f in CALLED
        precompile(pyjlany_call, (typeof(f), Py, Py))
    end
    for f in CALLED_WITHOUT_LOCK
        precompile(pyjlany_call_nogil, (typeof(f), Py, Py))
    end
    precompile(PySciML.start_at, (
        PySciML.Model, Int, Int, Float64, Float64, String, Float64, Float64, Int, Int, Int, Float64, Int, Int, Float64,
    ))
    precompile(Py, (Tuple{PySciML.Run, Tuple{Int, Int, String, String, String, Int, Int, Int, Int}},))
end

end
