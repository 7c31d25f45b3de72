# julia --project=ENVIRONMENT setup.jl PACKAGE_FOLDER PYTHONCALL_VERSION [cuda] [sensitivity] [modelingtoolkit]
#
# Fills the environment of `pysciml julia setup`. Running it again changes nothing that is right.

using Pkg
using FileWatching.Pidfile: mkpidlock, trymkpidlock

include("packages.jl")
include("ending.jl")

# Once, by the last line.
ENV["JULIA_PKG_PRECOMPILE_AUTO"] = "0"

function main(folder::AbstractString, pythoncall::AbstractString, more::AbstractString...)
    # Two at once compile the same packages, and Pkg fails where it waits for the other.
    path = joinpath(dirname(Base.active_project()), "setup.pid")
    lock = trymkpidlock(path; stale_age = 20)
    if lock === false
        println(stderr, "waiting for another `pysciml julia setup`")
        lock = mkpidlock(path; stale_age = 20)
    end
    wanted = [SOLVERS; MORE]
    "cuda" in more && append!(wanted, GPU)
    "sensitivity" in more && append!(wanted, SENSITIVITY)
    "modelingtoolkit" in more && append!(wanted, REDUCTION)
    # PythonCall and juliacall are two halves of one program: their versions must be the same.
    Pkg.develop(PackageSpec(path = folder))
    Pkg.add([PackageSpec(name = "PythonCall", version = pythoncall); [PackageSpec(name = name) for name in wanted]])
    Pkg.precompile()
    close(lock)
    return nothing
end

# A file as standard error is written when it is full, or here.
Timer(_ -> flush(stderr), 1; interval = 1)

try
    main(ARGS...)
catch error
    error isa InterruptException && rethrow()
    # In one paragraph: the stack would be that of Pkg.
    printstyled(stderr, "ERROR: "; color = :red, bold = true)
    println(stderr, sprint(showerror, error))
    exit(1)
end
