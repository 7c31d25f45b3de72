# julia --project=ENVIRONMENT setup.jl PACKAGE_FOLDER PYTHONCALL_VERSION [cuda] [sensitivity] [modelingtoolkit]
#
# Fills the environment of `pysciml julia setup`. Running it again changes nothing that is right.

using Pkg

include("packages.jl")

function main(folder::AbstractString, pythoncall::AbstractString, more::AbstractString...)
    wanted = [SOLVERS; MORE]
    "cuda" in more && append!(wanted, GPU)
    "sensitivity" in more && append!(wanted, SENSITIVITY)
    "modelingtoolkit" in more && append!(wanted, REDUCTION)
    # PythonCall and juliacall are two halves of one program: their versions must be the same.
    Pkg.develop(PackageSpec(path = folder))
    Pkg.add([PackageSpec(name = "PythonCall", version = pythoncall); [PackageSpec(name = name) for name in wanted]])
    Pkg.precompile()
    return nothing
end

main(ARGS...)
