# Tapes on a batch: values and adjoints of their columns.

# Threads of a group have neighbouring members of the batch, which are neighbours in memory, and one operation.
const MEMBERS = (128, 1)

@kernel function level_kernel!(values, @Const(steps), rules)
    i, j = @index(Global, NTuple)
    @inbounds values[i, steps[2, j]] = apply_one(rules, steps[1, j], values, i, steps[3, j], steps[4, j], steps[5, j])
end

function PySciML.run_level!(values, steps, rules)
    level_kernel!(get_backend(values), MEMBERS)(values, steps, rules; ndrange = (size(values, 1), size(steps, 2)))
    return nothing
end

@kernel function gather_kernel!(
        out, @Const(columns), @Const(starts), @Const(uses), rules, bars, @Const(values), @Const(k_bar), @Const(span), adding,
    )
    i, j = @index(Global, NTuple)
    @inbounds begin
        total = adding ? out[i, columns[j]] : zero(eltype(out))
        for k in starts[j]:(starts[j + 1] - one(eltype(starts)))
            total += adjoint_share(rules, uses, k, bars, values, k_bar, span, i)
        end
        out[i, columns[j]] = total
    end
end

function PySciML.gather!(out, gather::DeviceGather, rules, bars, values, k_bar, length, adding)
    gather_kernel!(get_backend(values), MEMBERS)(
        out, gather.columns, gather.first, gather.uses, rules, bars, values, k_bar, length, adding;
        ndrange = (size(values, 1), size(gather.columns, 1)),
    )
    return nothing
end

@kernel function outputs_kernel!(k, @Const(targets), @Const(values), @Const(columns), @Const(span))
    i, j = @index(Global, NTuple)
    @inbounds k[i, targets[j]] = span[i] * values[i, columns[j]]
end

function PySciML.take_outputs!(k, targets, values, columns, length)
    isempty(targets) && return nothing
    outputs_kernel!(get_backend(values), MEMBERS)(k, targets, values, columns, length; ndrange = (size(k, 1), size(targets, 1)))
    return nothing
end
