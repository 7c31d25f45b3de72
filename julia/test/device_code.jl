# What runs on a device is compiled for an NVIDIA GPU, where there is none: every kernel that the reference arrays of GPUArrays.jl were
# given in trainings and in solves of fields, to PTX, by GPUCompiler.jl. It refuses what no GPU can do: calls that are resolved when the
# code runs, memory from the heap, functions of the C library; and kernels of single precision are refused that compute in double. Needs
# GPUCompiler and JLArrays beside PySciML, and, for layers, Lux and Zygote.

using PySciML
using Test

"Kernels for an NVIDIA GPU, without CUDA.jl, which would bring the driver's libraries."
module DeviceCode

using GPUCompiler: GPUCompiler, CompilerConfig, CompilerJob, JuliaContext, LLVM, PTXCompilerTarget
using JLArrays: JLArrays, JLBackend
using PySciML: PySciML

using .JLArrays.GPUArrays: AbstractDeviceArray
using .LLVM.Interop: LLVMPtr, call_function, create_function

const KA = JLArrays.KernelAbstractions

# -- arrays in the memory of a GPU: `A` is 1 for all of it, and 3 for what a group of threads shares

struct DeviceArray{T, N, A} <: AbstractDeviceArray{T, N}
    data::LLVMPtr{T, A}
    size::NTuple{N, Int}
end

Base.size(a::DeviceArray) = a.size
Base.IndexStyle(::Type{<:DeviceArray}) = IndexLinear()
@inline function Base.getindex(a::DeviceArray{T}, i::Int) where {T}
    @boundscheck checkbounds(a, i)
    return unsafe_load(a.data, i, Val(Base.datatype_alignment(T)))
end
@inline function Base.setindex!(a::DeviceArray{T}, value, i::Int) where {T}
    @boundscheck checkbounds(a, i)
    unsafe_store!(a.data, convert(T, value), i, Val(Base.datatype_alignment(T)))
    return a
end

"Memory that a group of threads shares."
@generated function shared(::Type{T}, ::Val{size}, ::Val{id}) where {T, size, id}
    return JuliaContext() do _
        pointer, n = convert(LLVM.LLVMType, LLVMPtr{T, 3}), prod(size)
        made, _ = create_function(pointer)
        kind = LLVM.ArrayType(convert(LLVM.LLVMType, T), n)
        memory = LLVM.GlobalVariable(LLVM.parent(made), kind, "shared_$id", 3)
        LLVM.linkage!(memory, LLVM.API.LLVMInternalLinkage)
        LLVM.initializer!(memory, LLVM.UndefValue(kind))
        LLVM.@dispose builder = LLVM.IRBuilder() begin
            LLVM.position!(builder, LLVM.BasicBlock(made, "entry"))
            first = LLVM.gep!(builder, kind, memory, [LLVM.ConstantInt(0), LLVM.ConstantInt(0)])
            LLVM.ret!(builder, LLVM.bitcast!(builder, first, pointer))
        end
        :(DeviceArray{$T, $(length(size)), 3}($(call_function(made, LLVMPtr{T, 3})), $size))
    end
end

# -- what is replaced by the device's own, as CUDA.jl does

struct Parameters <: GPUCompiler.AbstractCompilerParams end
const Job = CompilerJob{PTXCompilerTarget, Parameters}

module Runtime
    signal_exception() = nothing
    malloc(_) = C_NULL
    report_oom(_) = nothing
    report_exception(_) = nothing
    report_exception_name(_) = nothing
    report_exception_frame(_, _, _, _) = nothing
end

Base.Experimental.@MethodTable(table)
GPUCompiler.runtime_module(::Job) = Runtime
GPUCompiler.method_table(::Job) = table
"The device's mathematical functions, which NVIDIA's library has, are only declared."
GPUCompiler.isintrinsic(@nospecialize(job::Job), name::String) =
    startswith(name, "__nv_") || invoke(GPUCompiler.isintrinsic, Tuple{CompilerJob{PTXCompilerTarget}, String}, job, name)

macro device(definition)
    return esc(:(Base.Experimental.@overlay table $definition))
end

thread() = Int(ccall("llvm.nvvm.read.ptx.sreg.tid.x", llvmcall, Int32, ())) + 1
group() = Int(ccall("llvm.nvvm.read.ptx.sreg.ctaid.x", llvmcall, Int32, ())) + 1
here(context) = @inbounds KA.expand(KA.__iterspace(context), group(), thread())

@device KA.__index_Local_Linear(_) = thread()
@device KA.__index_Group_Linear(_) = group()
@device KA.__index_Global_Linear(context) = @inbounds LinearIndices(KA.__ndrange(context))[here(context)]
@device KA.__index_Local_Cartesian(context) = @inbounds KA.workitems(KA.__iterspace(context))[thread()]
@device KA.__index_Group_Cartesian(context) = @inbounds KA.blocks(KA.__iterspace(context))[group()]
@device KA.__index_Global_Cartesian(context) = here(context)
@device KA.__validindex(context) = KA.__dynamic_checkbounds(context) ? here(context) in KA.__ndrange(context) : true
@device KA.SharedMemory(::Type{T}, size::Val, id::Val) where {T} = shared(T, size, id)
@device KA.__synchronize() = ccall("llvm.nvvm.barrier0", llvmcall, Cvoid, ())
@device Base.throw_boundserror(_, _) = throw(nothing)
@device Core.throw_inexacterror(::Symbol, ::Type, _) = throw(nothing)

for (T, letter) in ((Float64, ""), (Float32, "f"))
    for name in (
            :exp, :log, :log1p, :expm1, :sqrt, :cbrt, :sin, :cos, :tan, :asin, :acos, :atan, :sinh, :cosh, :tanh, :asinh, :acosh,
            :atanh,
        )
        @eval @device Base.$name(x::$T) = ccall($("extern __nv_$name$letter"), llvmcall, $T, ($T,), x)
    end
    @eval @device Base.:^(x::$T, y::$T) = ccall($("extern __nv_pow$letter"), llvmcall, $T, ($T, $T), x, y)
    @eval @device Base.:^(x::$T, y::Int) = x^$T(y)
    @eval @device PySciML.SpecialFunctions.erfc(x::$T) = ccall($("extern __nv_erfc$letter"), llvmcall, $T, ($T,), x)
end

# -- kernels that ran

"Each kernel, with the types of its context and of its arguments."
const LAUNCHED = Set{Any}()

function (kernel::KA.Kernel{JLBackend})(arguments...; ndrange = nothing, workgroupsize = nothing)
    range, size, space, _ = KA.launch_config(kernel, ndrange, workgroupsize)
    given = map(JLArrays.jlconvert, arguments)
    context = KA.CompilerMetadata{KA.ndrange(kernel), KA.DynamicCheck}(range, space)
    push!(LAUNCHED, (kernel.f, typeof(context), map(typeof, given)))
    return JLArrays.convert_to_cpu(kernel)(given...; ndrange = range, workgroupsize = size)
end

# Kernels take the functions of a GPU, which on the CPU are as good.
PySciML.on_gpu(::JLBackend) = true

"What CUDA.jl hands over in place of a type that is broadcast: types are not made of bits."
struct Made{T} end
(::Made{T})(x) where {T} = T(x)

"A type with arrays of a GPU in place of those that stand in for them."
on_device(other) = other
on_device(::Type{JLArrays.JLDeviceArray{T, N}}) where {T, N} = DeviceArray{T, N, 1}
function on_device(whole::DataType)
    isempty(whole.parameters) && return whole
    parts = map(on_device, collect(whole.parameters))
    whole <: Tuple && return Tuple{parts...}
    if whole <: Broadcast.Broadcasted && whole.parameters[3] <: Type
        parts[3] = Made{only(whole.parameters[3].parameters)}
    end
    return whole.name.wrapper{parts...}
end

"The type of a kernel's function for GPUs, of which KernelAbstractions.jl makes two, one after the other."
function for_gpus(cpu)
    kind = typeof(cpu)
    stem, number = match(r"^#cpu_(.*?)(?:#(\d+))?$", string(nameof(kind)))
    names_of = names(parentmodule(cpu); all = true)
    distance(name) = number === nothing ? 0 : abs(parse(Int, match(r"#(\d+)$", string(name))[1]) - parse(Int, number))
    pattern = number === nothing ? Regex("^#gpu_\\Q$stem\\E\$") : Regex("^#gpu_\\Q$stem\\E#\\d+\$")
    found = argmin(distance, filter(name -> occursin(pattern, string(name)), names_of))
    gpu = getfield(parentmodule(cpu), found)
    return gpu isa UnionAll ? gpu{kind.parameters...} : gpu
end

"Arithmetic in double precision, at which many GPUs are slow: kernels of single precision must have none."
const DOUBLE = r"\b(add|sub|mul|fma|div|sqrt)\.(\w+\.)?f64"

"What keeps a kernel from running on a GPU as it should, or nothing."
function refused((f, context, arguments))
    types = Tuple{context, map(on_device, arguments)...}
    for type in types.parameters
        isbitstype(type) || return "it is given a $type, which is not made of bits"
    end
    source = GPUCompiler.methodinstance(for_gpus(f), types, Base.get_world_counter())
    job = CompilerJob(source, CompilerConfig(PTXCompilerTarget(; cap = v"7.0"), Parameters(); kernel = true))
    return try
        code = first(JuliaContext(_ -> GPUCompiler.compile(:asm, job)))
        single = !any(contains("DeviceArray{Float64"), map(string, types.parameters))
        !occursin(".entry", code) ? "no kernel in its code" : single && occursin(DOUBLE, code) ? "it computes in double precision" : ""
    catch error
        error isa GPUCompiler.InvalidIRError || rethrow()
        first(sprint(showerror, error), 2000)
    end
end

"All kernels that were launched since the last time compile."
function compile_all()
    launched = collect(LAUNCHED)
    empty!(LAUNCHED)
    reasons = map(refused, launched)
    for (kernel, reason) in zip(launched, reasons)
        isempty(reason) || @info "no code for a GPU" kernel reason
    end
    return length(launched), count(!isempty, reasons)
end

end

include("graphs.jl")
include("device_checks.jl")
include("field_checks.jl")

function compiles(run)
    run()
    launched, refused = Base.invokelatest(DeviceCode.compile_all) # packages may have been loaded
    @test launched > 0
    @test refused == 0
    return nothing
end

@testset "what a GPU cannot do, or not well, is refused" begin
    wide, narrow = map(DeviceCode.JLArrays.JLArray, ([1.5, 2.5], Float32[1.5, 2.5]))
    host = [1.0]
    for (numbers, f, reason) in (
            (wide, PySciML.SpecialFunctions.besselj0, "literal pointer"),
            (wide, x -> (x + Base.inferencebarrier(1.0))::Float64, "dynamic function"),
            (wide, x -> x + host[1], "not made of bits"), (narrow, x -> Float32(0.1 * x), "double precision"),
        )
        f.(numbers)
        kernel = only(DeviceCode.LAUNCHED)
        empty!(DeviceCode.LAUNCHED)
        @test occursin(reason, DeviceCode.refused(kernel))
    end
end

@testset "what trainings launch compiles for a GPU" begin
    compiles(() -> check_device_training(DeviceCode.JLBackend(), Float64; rtol = 1.0e-9))
    compiles() do
        one, p, y0, start, length = entangled()
        @test solve_agrees(one, p, y0, start, length, "BS3", DeviceCode.JLBackend(), Float32; rtol = 1.0e-3)
        @test noisy_agrees(noisy_tapes(), DeviceCode.JLBackend(), Float32; rtol = 1.0e-3)
    end
end

@testset "what fields launch compiles for a GPU" begin
    compiles(() -> test_fields_on(DeviceCode.JLBackend()))
end

if Base.find_package("Lux") !== nothing && Base.find_package("Zygote") !== nothing
    using JLArrays: JLArray
    include("layer_checks.jl")

    @testset "what layers launch compiles for a GPU" begin
        y0, times = randn(Xoshiro(2), 2, 5), [0.4, 1.0]
        common = (; rtol = 1.0e-2, atol = 1.0e-2, regularize = (ErrorEstimate(0.3), KineticEnergy(0.1)))
        compiles() do
            same_on_device(NeuralODE(network(); common...), y0, times)
            same_on_device(NeuralSDE(network(), network(); common...), y0, times)
            same_on_device(NeuralODE(network()), Float32.(y0), nothing; rtol = 1.0e-3, setup = single)
        end
    end
else
    println("Lux and Zygote are not both in this environment: kernels of layers are not compiled for a GPU")
end
