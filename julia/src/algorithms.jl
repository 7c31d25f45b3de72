"""
Where algorithms live: packages that are searched for a name, in this order. One is loaded when a name
it exports is asked for.
"""
const SOLVER_PACKAGES = [
    "OrdinaryDiffEqTsit5" => "b1df2697-797e-41e3-8120-5422d3b24e4a",
    "OrdinaryDiffEqVerner" => "79d7bb75-1356-48c1-b8c0-6832512096c2",
    "OrdinaryDiffEqRosenbrock" => "43230ef6-c299-4910-a778-202eb28ce4ce",
    "OrdinaryDiffEqBDF" => "6ad6398a-0878-4a85-9266-38940aa047c8",
    "OrdinaryDiffEqSDIRK" => "2d112036-d095-4a1e-ab9a-08536f3ecdbf",
    "OrdinaryDiffEqDefault" => "50262376-6c5a-4cf5-baba-aaf4f84d72d7",
    "OrdinaryDiffEqLowOrderRK" => "1344f307-1e59-4825-a18e-ace9aa3fa4c6",
    "OrdinaryDiffEqHighOrderRK" => "d28bc4f8-55e1-4f49-af69-84c1a99f0f58",
    "OrdinaryDiffEqFIRK" => "5960d6e9-dd7a-4743-88e7-cf307b64f125",
    "OrdinaryDiffEqSSPRK" => "669c94d9-1f4b-4b64-b377-1aa079aa2388",
    "OrdinaryDiffEqStabilizedRK" => "358294b1-0aab-51c3-aafe-ad5ab194a2ad",
    "OrdinaryDiffEqLowStorageRK" => "b0944070-b475-4768-8dec-fb6eb410534d",
    "OrdinaryDiffEqAdamsBashforthMoulton" => "89bda076-bce5-4f1c-845f-551c83cdda9a",
    "OrdinaryDiffEqExtrapolation" => "becaefa8-8ca2-5cf9-886d-c06f3d2bd2c4",
    "OrdinaryDiffEqFeagin" => "101fe9f7-ebb6-4678-b671-3a81e7194747",
    "OrdinaryDiffEqNordsieck" => "c9986a66-5c92-4813-8696-a7ec84c806c8",
    "OrdinaryDiffEqPDIRK" => "5dd0a6cf-3d4b-4314-aa06-06d4e299bc89",
    "OrdinaryDiffEqQPRK" => "04162be5-8125-4266-98ed-640baecc6514",
    "OrdinaryDiffEqSymplecticRK" => "fa646aed-7ef9-47eb-84c4-9443fc8cbfa8",
    "OrdinaryDiffEqRKN" => "af6ede74-add8-4cfd-b1df-9a4dbb109d7a",
    "OrdinaryDiffEqIMEXMultistep" => "9f002381-b378-40b7-97a6-27a27c83f129",
    "OrdinaryDiffEqExponentialRK" => "e0540318-69ee-4070-8777-9e2de6de23de",
    "StochasticDiffEq" => "789caeaf-c7a9-5a7d-9973-96adeb23e2a0",
    "StochasticDiffEqLowOrder" => "d15fe365-ce7f-450a-828a-7985bd5b681b",
    "StochasticDiffEqHighOrder" => "0520c28c-50fd-4d16-9c96-902fc80b3bab",
    "StochasticDiffEqImplicit" => "5080b986-4c76-4669-b5dc-373a41579d5b",
    "StochasticDiffEqMilstein" => "8c95a807-c8e7-4581-8419-890d001af53e",
    "StochasticDiffEqROCK" => "db241ea8-0e6b-4abc-8f2d-1adff2294fd9",
    "StochasticDiffEqWeak" => "af2a2fcd-1c36-4cbe-a6d0-5afda784a085",
    "DelayDiffEq" => "bcd4f6db-9728-5f36-b5f7-82caef46ccdb",
    "JumpProcesses" => "ccbc3e58-028d-4f4c-8cd5-9ae44345cda5",
]

"Packages that are loaded where a model needs them, beside those with algorithms."
const OTHER_PACKAGES = [
    "FFTW" => "7a1cc6ca-52ef-59f5-83cd-3a7055c09341",
    "ModelingToolkit" => "961ee093-0014-501f-94e3-6117800e7a78",
    "Optimisers" => "3bd65402-5787-11e9-1adc-39752487f4e2",
    "SciMLSensitivity" => "1ed8b502-d754-442c-8d5d-10ac956f44a1",
]

function package_id(name)
    for (package, uuid) in Iterators.flatten((SOLVER_PACKAGES, OTHER_PACKAGES, DEVICE_PACKAGES))
        package == name && return Base.PkgId(Base.UUID(uuid), name)
    end
    throw(ArgumentError("no package $name is known"))
end

"Functions that combine a non-stiff method with a stiff one, and switch."
const SWITCHING = (:AutoTsit5, :AutoVern6, :AutoVern7, :AutoVern8, :AutoVern9, :AutoDP5)

"Functions that make a method of a family of one type."
const MAKERS = (:SBDF2, :IMEXEuler)

"""
    algorithm(text, kind, products = false)

The algorithm that `text` names: an exported type of a solver package, of a family that solves this
kind of problem, with options if wanted, such as `FBDF(max_order = 3)`. An empty text is
DifferentialEquations.jl's default. With `products` its linear solver may be one that takes products with the Jacobian alone.

Throws an `ArgumentError` that says what is wrong with the text.
"""
function algorithm(text::AbstractString, kind::Symbol, products::Bool = false)
    isempty(text) && return default_algorithm(kind)
    symbol, options = read_algorithm(text, products)
    found = find_algorithm(symbol)
    found === nothing && throw(ArgumentError("no solver package of this Julia environment exports $symbol"))
    if symbol in SWITCHING
        isempty(options) || throw(ArgumentError("$symbol takes no options here"))
        made = Base.invokelatest(found, Base.invokelatest(find_algorithm(:Rodas5P)))
    elseif symbol in MAKERS
        kind === :ode || throw(ArgumentError("$symbol is no algorithm for this kind of problem ($kind)"))
        isempty(options) || throw(ArgumentError("$symbol takes no options here"))
        made = Base.invokelatest(found)
    else
        family = family_of(kind)
        found isa Type && found <: family ||
            throw(ArgumentError("$symbol is no algorithm for this kind of problem ($kind)"))
        made = Base.invokelatest(make, found, symbol, options, kind) # its package may just have been loaded
    end
    return kind === :dde ? delayed(made) : made
end

"""
Delayed right-hand sides are compiled for `Float64`: implicit methods take finite differences of them. The
others get the exact Jacobian, and differentiate nothing themselves.
"""
function make(type::Type, symbol::Symbol, options::Dict{Symbol, Any}, kind::Symbol)
    known = option_names(type)
    for name in keys(options)
        name in known || throw(
            ArgumentError("$symbol has no option $name" * (isempty(known) ? "" : ": it has $(join(known, ", "))")),
        )
    end
    kind === :dde && :autodiff in known && (options[:autodiff] = AutoFiniteDiff())
    return try
        type(; options...)
    catch error
        error isa Union{MethodError, UndefKeywordError, TypeError, ArgumentError} || rethrow()
        isempty(options) && throw(ArgumentError("$symbol cannot be used by its name alone: it needs arguments"))
        given = join(("$name = $value" for (name, value) in options), ", ")
        throw(ArgumentError("$symbol refuses $given: $(sprint(showerror, error))"))
    end
end

"The keyword options of an algorithm that can be written as numbers or names."
function option_names(type::Type)
    found = Symbol[]
    for method in methods(type, Tuple{})
        union!(found, Base.kwarg_decl(method))
    end
    return sort!(filter!(name -> !endswith(string(name), "..."), found))
end

"`Name`, or `Name(option = value, ...)` with numbers, `true`, `false` or names of linear solvers: read, never evaluated."
function read_algorithm(text::AbstractString, products::Bool = false)
    whole = match(r"^\s*([A-Za-z]\w*)\s*(?:\((.*)\))?\s*$", text)
    whole === nothing && throw(ArgumentError("'$text' does not name an algorithm, as Tsit5 and FBDF(max_order = 3) do"))
    options = Dict{Symbol, Any}()
    for part in split(something(whole[2], ""), ','; keepempty = false)
        pair = match(r"^\s*([A-Za-z]\w*)\s*=\s*([\w.+-]+)\s*$", part)
        pair === nothing && throw(ArgumentError("'$(strip(part))' is no option of the form name = value"))
        name = Symbol(pair[1])
        options[name] = option_value(name, pair[2], products)
    end
    return Symbol(whole[1]), options
end

function option_value(name::Symbol, text::AbstractString, products::Bool)
    text in ("true", "false") && return text == "true"
    for type in (Int, Float64)
        value = tryparse(type, text)
        value === nothing || return name === :max_order && value isa Int ? Val(value) : value
    end
    name === :linsolve && return linear_solver(Symbol(text), products)
    throw(ArgumentError("$name = $text: options are numbers, true or false"))
end

"A linear solver that LinearSolve.jl exports, with its defaults."
function linear_solver(symbol::Symbol, products::Bool)
    id = Base.PkgId(Base.UUID("7ed4a6bd-45f5-4d41-b270-4a48e9bafcae"), "LinearSolve")
    package = Base.require(id)
    if Base.isexported(package, symbol) && isdefined(package, symbol)
        found = getproperty(package, symbol)
        if found isa Type && found <: SciMLBase.AbstractLinearAlgorithm || startswith(string(symbol), "KrylovJL_")
            solver = Base.invokelatest(found)
            (products || Base.invokelatest(package.needs_concrete_A, solver)) && return solver
            throw(ArgumentError("linsolve = $symbol takes products with the Jacobian; name a solver that takes the matrix"))
        end
    end
    throw(ArgumentError("linsolve = $symbol: LinearSolve.jl exports no linear solver of that name"))
end

family_of(kind::Symbol) =
    kind === :sde ? Union{SciMLBase.AbstractSDEAlgorithm, SciMLBase.AbstractRODEAlgorithm} :
    SciMLBase.AbstractODEAlgorithm

function default_algorithm(kind::Symbol)
    kind === :dde && return delayed(Base.invokelatest(find_algorithm(:Tsit5)))
    kind === :sde || load_package("OrdinaryDiffEqDefault") !== nothing ||
        throw(ArgumentError("the Julia package OrdinaryDiffEqDefault is not installed: name an algorithm"))
    return nothing
end

delayed(algorithm) = Base.invokelatest(find_algorithm(:MethodOfSteps), algorithm)

function find_algorithm(symbol::Symbol)
    for (name, _) in SOLVER_PACKAGES
        symbol in exports(name) || continue
        found = exported(load_package(name), symbol)
        found === nothing || return found
    end
    return nothing
end

const EXPORTS = Dict{String, Set{Symbol}}()

"What the package of that name exports by itself, read from its source: looking does not load it."
function exports(package::AbstractString)
    return get!(EXPORTS, package) do
        path = Base.locate_package(package_id(package))
        found = Set{Symbol}()
        path === nothing && return found
        for statement in eachmatch(r"^[ \t]*export ((?:[^\n]*,[ \t]*\n)*[^\n]*)"m, read(path, String))
            union!(found, Symbol.(strip.(split(statement[1], ','))))
        end
        return found
    end
end

"The package of that name, loaded; nothing where the environment has none."
function load_package(name::AbstractString)
    id = package_id(name)
    haskey(Base.loaded_modules, id) && return Base.loaded_modules[id]
    Base.locate_package(id) === nothing && return nothing
    return Base.require(id)
end

function exported(package::Module, symbol::Symbol)
    Base.isexported(package, symbol) && isdefined(package, symbol) || return nothing
    found = getproperty(package, symbol)
    is_algorithm = found isa Type && found <: SciMLBase.AbstractDEAlgorithm
    return is_algorithm || symbol in SWITCHING || symbol in MAKERS ? found : nothing
end

"All names `algorithm` accepts for a kind of problem, from the packages that are there."
function algorithm_names(kind::Symbol)
    family = family_of(kind)
    found = Symbol[]
    for (package, _) in SOLVER_PACKAGES
        loaded = load_package(package)
        loaded === nothing && continue
        for name in names(loaded)
            type = exported(loaded, name)
            type isa Type && type <: family && push!(found, name)
        end
    end
    return sort!(unique!(string.(found)))
end

"The package that a kind of problem needs beyond those of this one, loaded."
function load_kind(kind::AbstractString)
    needed = kind == "sde" ? "StochasticDiffEq" : kind == "dde" ? "DelayDiffEq" : kind == "jump" ? "JumpProcesses" : nothing
    needed === nothing || load_package(needed) !== nothing ||
        throw(ArgumentError("the Julia package $needed is not installed"))
    return nothing
end

"Whether an algorithm uses a Jacobian: implicit ones, and those that may switch to one."
uses_jacobian(::Nothing) = true
uses_jacobian(algorithm) =
    hasproperty(algorithm, :autodiff) || hasproperty(algorithm, :linsolve) || hasproperty(algorithm, :algs) ||
    (hasproperty(algorithm, :alg) && uses_jacobian(algorithm.alg))

"Whether an algorithm's linear solver takes products with the Jacobian, and no matrix."
function is_matrix_free(algorithm)
    hasproperty(algorithm, :linsolve) && algorithm.linsolve !== nothing || return false
    return !Base.invokelatest(parentmodule(typeof(algorithm.linsolve)).needs_concrete_A, algorithm.linsolve)
end

"The name of an algorithm as a user would write it."
name_of(algorithm) = string(nameof(typeof(algorithm)))

"The name of an algorithm with one more option."
with_option(name, option) = endswith(name, ')') ? "$(chop(name)), $option)" : "$name($option)"

"Whether solving a model with the algorithm of that name needs its Jacobian."
wants_jacobian(model, name) = choice(String(name), model.kind).implicit
