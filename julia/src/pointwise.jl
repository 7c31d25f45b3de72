# Operations on rows of numbers, with their derivatives: what a tape evaluates. The codes are those of operations.jl.

"""
Each operation's value in terms of its operands `a`, `b`, `c`, and its partial derivatives by them, in which `y` is the value.
A condition is 1 or 0; steps are flat. Where an operation takes one of its operands, so does the derivative.
"""
const POINTWISE = (
    0x0a => (:(a + b), 1, 1),
    0x0b => (:(a - b), 1, -1),
    0x0c => (:(a * b), :b, :a),
    0x0d => (:(a / b), :(1 / b), :(-y / b)),
    0x0e => (:(NaNMath.pow(a, b)), :(b * NaNMath.pow(a, b - 1)), :(a == 0 ? zero(y) : y * NaNMath.log(a))),
    0x0f => (:(-a), -1),
    0x14 => (:(NaNMath.sqrt(a)), :(1 / (2 * y))),
    0x15 => (:(exp(a)), :y),
    0x16 => (:(NaNMath.log(a)), :(1 / a)),
    0x17 => (:(NaNMath.sin(a)), :(NaNMath.cos(a))),
    0x18 => (:(NaNMath.cos(a)), :(-NaNMath.sin(a))),
    0x19 => (:(NaNMath.tan(a)), :(1 + y * y)),
    0x1a => (:(NaNMath.asin(a)), :(1 / NaNMath.sqrt(1 - a * a))),
    0x1b => (:(NaNMath.acos(a)), :(-1 / NaNMath.sqrt(1 - a * a))),
    0x1c => (:(atan(a)), :(1 / (1 + a * a))),
    0x1d => (:(sinh(a)), :(cosh(a))),
    0x1e => (:(cosh(a)), :(sinh(a))),
    0x1f => (:(tanh(a)), :(1 - y * y)),
    0x20 => (:(asinh(a)), :(1 / sqrt(a * a + 1))),
    0x21 => (:(NaNMath.acosh(a)), :(1 / NaNMath.sqrt(a * a - 1))),
    0x22 => (:(NaNMath.atanh(a)), :(1 / (1 - a * a))),
    0x23 => (:(atan(a, b)), :(b / (a * a + b * b)), :(-a / (a * a + b * b))),
    0x28 => (:(abs(a)), :(sign(a))),
    0x29 => (:(sign(a)), 0),
    0x2a => (:(floor(a)), 0),
    0x2b => (:(ceil(a)), 0),
    0x2c => (:(heaviside(a)), 0),
    0x2d => (:(min(a, b)), :(a <= b), :(!(a <= b))),
    0x2e => (:(max(a, b)), :(a >= b), :(!(a >= b))),
    0x2f => (:(modulo(a, b)), 1, :(-floor(a / b))),
    0x32 => (:(SpecialFunctions.erf(a)), :(2 / sqrt(oftype(y, π)) * exp(-a * a))),
    0x33 => (:(SpecialFunctions.erfc(a)), :(-2 / sqrt(oftype(y, π)) * exp(-a * a))),
    0x34 => (:(gamma(a)), :(y * polygamma(0, a))),
    0x35 => (:(loggamma(a)), :(polygamma(0, a))),
    0x36 => (:(polygamma(a, b)), 0, :(polygamma(a + 1, b))),
    0x37 => (:(besselj(a, b)), 0, :((besselj(a - 1, b) - besselj(a + 1, b)) / 2)),
    0x38 => (:(bessely(a, b)), 0, :((bessely(a - 1, b) - bessely(a + 1, b)) / 2)),
    0x39 => (:(besseli(a, b)), 0, :((besseli(a - 1, b) + besseli(a + 1, b)) / 2)),
    0x3a => (:(besselk(a, b)), 0, :(-(besselk(a - 1, b) + besselk(a + 1, b)) / 2)),
    0x3c => (:(a < b), 0, 0),
    0x3d => (:(a <= b), 0, 0),
    0x3e => (:(a > b), 0, 0),
    0x3f => (:(a >= b), 0, 0),
    0x40 => (:(a == b), 0, 0),
    0x41 => (:(a != b), 0, 0),
    0x42 => (:((a != 0) & (b != 0)), 0, 0),
    0x43 => (:((a != 0) | (b != 0)), 0, 0),
    0x44 => (:(a == 0), 0),
    0x45 => (:(a != 0 ? b : c), 0, :(a != 0), :(a == 0)),
)

"How many operands an operation of the table takes, nothing for any other code."
function pointwise_arity(code::UInt8)
    for (known, rule) in POINTWISE
        known == code && return length(rule) - 1
    end
    return nothing
end

"The operands of a rule, read from row `i` of `values`."
reads(arity::Int) = [:($name = values[i, $column]) for (name, column) in ((:a, :i1), (:b, :i2), (:c, :i3))[1:arity]]

# One loop over the rows for each operation: the branch on the code is taken once for all of them.
@eval function evaluate_pointwise!(values::Matrix{T}, code::UInt8, out::Int, i1::Int, i2::Int, i3::Int) where {T}
    $(
        map(POINTWISE) do (code, rule)
            quote
                if code == $code
                    @inbounds @simd ivdep for i in axes(values, 1)
                        $(reads(length(rule) - 1)...)
                        values[i, out] = $(first(rule))
                    end
                    return nothing
                end
            end
        end...
    )
    return nothing
end

"An adjoint of zero stays zero: the branch not taken may have an infinite derivative."
share(bar, partial) = ifelse(iszero(bar), zero(bar), bar * partial)

@eval function pull_pointwise!(
        bars::Matrix{T}, values::Matrix{T}, code::UInt8, out::Int, i1::Int, i2::Int, i3::Int,
    ) where {T}
    $(
        map(POINTWISE) do (code, rule)
            gives = [
                :(bars[i, $column] += share(bar, $partial)) for (column, partial) in zip((:i1, :i2, :i3), rule[2:end]) if
                    partial != 0
            ]
            isempty(gives) && return nothing
            quote
                if code == $code
                    @inbounds for i in axes(values, 1)
                        $(reads(length(rule) - 1)...)
                        y, bar = values[i, out], bars[i, out]
                        $(gives...)
                    end
                    return nothing
                end
            end
        end...
    )
    return nothing
end
