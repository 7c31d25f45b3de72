# julia --project=TOOLS sysimage.jl ENVIRONMENT IMAGE
#
# Makes a system image of all packages of an environment. PackageCompiler.jl is added to TOOLS, an
# environment of its own, since it is needed only here.

using Pkg, TOML

haskey(Pkg.project().dependencies, "PackageCompiler") || Pkg.add(PackageSpec(name = "PackageCompiler", version = "2"))

using PackageCompiler

function main(project::AbstractString, image::AbstractString)
    packages = sort!(collect(keys(TOML.parsefile(joinpath(project, "Project.toml"))["deps"])))
    create_sysimage(packages; project, sysimage_path = image)
    return nothing
end

main(ARGS...)
