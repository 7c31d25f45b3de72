# Small problems, solved while Julia writes down what it compiles for a system image: the workloads of the package, with which it is
# installed otherwise.

include("packages.jl")

for name in ["PySciML"; "PythonCall"; SOLVERS; MORE]
    @eval import $(Symbol(name))
end

PySciML.example_arrays()
PySciML.exercise("ode", "", "Tsit5", "Vern7", "Vern9", "Rodas5P", "FBDF", "KenCarp4")
PySciML.exercise("dae", "Rodas5P")
PySciML.exercise("sde", "EM", "SOSRI")
PySciML.exercise("dde", "")
PySciML.exercise("jump", "")
PySciML.exercise("integrated", "Tsit5") # an ordinary equation with jumps
PySciML.example_training()
