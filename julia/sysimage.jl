# julia --project=COMPILER sysimage.jl ENVIRONMENT STATEMENTS IMAGE
#
# Makes the system image of `pysciml julia setup --sysimage`: Julia with the packages of ENVIRONMENT loaded, and compiled what
# `exercise.jl` and the lines of the file STATEMENTS (of `--trace-compile`) name. Packages for GPUs and adjoints stay outside: they
# are large, and not everybody's. PackageCompiler.jl gets the environment COMPILER for itself, so that what it needs decides no
# solver's version.

using Pkg
using TOML

include("packages.jl")
include("ending.jl")

haskey(Pkg.project().dependencies, "PackageCompiler") || Pkg.add("PackageCompiler")

using PackageCompiler: PackageCompiler, create_sysimage

const PRECOMPILE_TOOLS = "aea7be01-6a6a-4083-8856-8a6e6704d82a"

read_toml(path) = isfile(path) ? TOML.parsefile(path) : Dict{String, Any}()
write_toml(path, content) = open(io -> TOML.print(io, content), path, "w")

"""
The environment again, beside itself (a manifest may have relative paths), but without the workloads of its packages.

PackageCompiler.jl compiles all packages once more, without native code. What their workloads would compile then is thrown away
and takes most of the time: what is wanted in the image is named instead.
"""
function without_workloads(environment)
    folder = mktempdir(dirname(environment); prefix = "packages_")
    for path in readdir(environment; join = true)
        endswith(path, ".toml") && cp(path, joinpath(folder, basename(path)))
    end
    project_file, preferences_file = joinpath.(folder, ("Project.toml", "LocalPreferences.toml"))
    project, preferences = read_toml.((project_file, preferences_file))
    haskey(project["deps"], "PrecompileTools") ||
        (get!(Dict{String, Any}, project, "extras")["PrecompileTools"] = PRECOMPILE_TOOLS)
    get!(Dict{String, Any}, preferences, "PrecompileTools")["precompile_workloads"] = false
    write_toml(project_file, project)
    write_toml(preferences_file, preferences)
    return folder
end

function main(environment, statements, image)
    delete!(ENV, "JULIA_PROJECT") # PackageCompiler.jl names the project to its processes by their load path
    # What is compiled on the way is of no use later.
    ENV["JULIA_DEPOT_PATH"] = join([mktempdir(); DEPOT_PATH], Sys.iswindows() ? ';' : ':')
    # Names in Main are the caller's, but up to 2.4.0 packages are loaded by importing them there, or with all they could ever
    # load, which is not wanted: a package that is in the image for its name alone would be initialized at every start.
    import_into_main = !isdefined(PackageCompiler, :package_ids_for_sysimage)
    create_sysimage(
        ["PySciML"; "PythonCall"; SOLVERS; MORE];
        project = without_workloads(rstrip(abspath(environment), '/')), sysimage_path = image,
        precompile_execution_file = joinpath(@__DIR__, "exercise.jl"), precompile_statements_file = statements,
        import_into_main, include_transitive_dependencies = false,
    )
    return nothing
end

main(ARGS...)
