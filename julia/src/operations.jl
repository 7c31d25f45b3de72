# The codes are those of pysciml.graph.ops: an operation keeps its code for ever.

"""
    Operation(name, arity, indexes, apply, boolean)

One row of the table. `apply` takes and returns Symbolics numbers; `nothing` for leaves. `indexes`
says what a leaf's index counts. `boolean` operations give conditions.
"""
struct Operation
    name::Symbol
    arity::Int
    indexes::Symbol
    apply::Any
    boolean::Bool
end

# -- numerical functions that never throw: outside of its domain a function is NaN, and the solver
#    takes a smaller step.

"`x^y` for any exponent."
power(x, y) = NaNMath.pow(x, y)
#: Integer exponents are data, not types: repeated squaring, exact for every number type.
power(x, y::Integer) = x^y

"`condition ? a : b` without a branch; both have one type, so that generated code is type-stable."
select(condition, a, b) = ifelse(condition, promote(a, b)...)

"0 below zero, 1 above, 1/2 at zero."
heaviside(x) = select(x < 0, zero(x), select(x > 0, one(x), oftype(x, 0.5)))

"The remainder with the divisor's sign."
modulo(a, b) = a - b * floor(a / b)

not_a_number(x) = oftype(float(x), NaN)

gamma(x) = x <= 0 && isinteger(x) ? not_a_number(x) : SpecialFunctions.gamma(x)
loggamma(x) = x > 0 ? SpecialFunctions.loggamma(x) : not_a_number(x)
polygamma(n, x) =
    x <= 0 && isinteger(x) ? not_a_number(x) :
    n == 0 ? SpecialFunctions.digamma(x) : SpecialFunctions.polygamma(Int(n), x)

for name in (:besselj, :besseli)
    @eval $name(order, x) =
        x < 0 && !isinteger(order) ? not_a_number(x) : SpecialFunctions.$name(whole(order), x)
end
for name in (:bessely, :besselk)
    @eval $name(order, x) = x < 0 ? not_a_number(x) : SpecialFunctions.$name(whole(order), x)
end

"An order as an integer where it is one: SpecialFunctions has derivatives and faster methods for those."
whole(order) = isinteger(order) ? Int(order) : order

# -- the same, applied to symbols

"An operation as an opaque Symbolics term: it is kept as it is, and code generation calls `f`."
function opaque(f, type::Type, args...)
    raw = map(Symbolics.unwrap, args)
    return Num(SymbolicUtils.term(f, raw...; type, shape = SymbolicUtils.ShapeVecT()))
end

number(f) = (args...) -> opaque(f, Real, args...)
condition(f) = (args...) -> opaque(f, Bool, args...)

"A power; whole exponents are integers, so that Symbolics simplifies and the code multiplies."
function symbolic_power(x, y; by = power)
    exponent = Symbolics.value(y)
    exponent isa SymbolicUtils.BasicSymbolic && SymbolicUtils.isconst(exponent) &&
        (exponent = SymbolicUtils.unwrap_const(exponent))
    if exponent isa Real && isinteger(exponent) && abs(exponent) <= 1024
        return opaque(by, Real, x, Int(exponent))
    end
    return opaque(by, Real, x, y)
end

both(a, b) = a & b
either(a, b) = a | b

leaf(name, indexes = :nothing) = Operation(name, 0, indexes, nothing, false)
plain(name, arity, apply) = Operation(name, arity, :nothing, apply, false)
test(name, arity, apply) = Operation(name, arity, :nothing, apply, true)

const CONST, TIME, STATE, PARAM, HISTORY = 0x00, 0x01, 0x02, 0x03, 0x05
const SELECT = 0x45

"""
The closed set of operations by code. A graph with any other code is refused; nothing is ever looked
up by a name that came from outside.
"""
const OPERATIONS = Dict{UInt8, Operation}(
    CONST => Operation(:const, 0, :nothing, Num, false),
    TIME => leaf(:time),
    STATE => leaf(:state, :states),
    PARAM => leaf(:param, :params),
    HISTORY => Operation(:history, 1, :states, nothing, false),
    10 => plain(:add, 2, +),
    11 => plain(:sub, 2, -),
    12 => plain(:mul, 2, *),
    13 => plain(:div, 2, /),
    14 => plain(:pow, 2, symbolic_power),
    15 => plain(:neg, 1, -),
    20 => plain(:sqrt, 1, number(NaNMath.sqrt)),
    21 => plain(:exp, 1, number(exp)),
    22 => plain(:log, 1, number(NaNMath.log)),
    23 => plain(:sin, 1, number(NaNMath.sin)),
    24 => plain(:cos, 1, number(NaNMath.cos)),
    25 => plain(:tan, 1, number(NaNMath.tan)),
    26 => plain(:asin, 1, number(NaNMath.asin)),
    27 => plain(:acos, 1, number(NaNMath.acos)),
    28 => plain(:atan, 1, number(atan)),
    29 => plain(:sinh, 1, number(sinh)),
    30 => plain(:cosh, 1, number(cosh)),
    31 => plain(:tanh, 1, number(tanh)),
    32 => plain(:asinh, 1, number(asinh)),
    33 => plain(:acosh, 1, number(NaNMath.acosh)),
    34 => plain(:atanh, 1, number(NaNMath.atanh)),
    35 => plain(:atan2, 2, number(atan)),
    40 => plain(:abs, 1, number(abs)),
    41 => plain(:sign, 1, number(sign)),
    42 => plain(:floor, 1, number(floor)),
    43 => plain(:ceil, 1, number(ceil)),
    44 => plain(:heaviside, 1, number(heaviside)),
    45 => plain(:min, 2, number(min)),
    46 => plain(:max, 2, number(max)),
    47 => plain(:mod, 2, number(modulo)),
    50 => plain(:erf, 1, number(SpecialFunctions.erf)),
    51 => plain(:erfc, 1, number(SpecialFunctions.erfc)),
    52 => plain(:gamma, 1, number(gamma)),
    53 => plain(:loggamma, 1, number(loggamma)),
    54 => plain(:polygamma, 2, number(polygamma)),
    55 => plain(:besselj, 2, number(besselj)),
    56 => plain(:bessely, 2, number(bessely)),
    57 => plain(:besseli, 2, number(besseli)),
    58 => plain(:besselk, 2, number(besselk)),
    60 => test(:lt, 2, condition(<)),
    61 => test(:le, 2, condition(<=)),
    62 => test(:gt, 2, condition(>)),
    63 => test(:ge, 2, condition(>=)),
    64 => test(:eq, 2, condition(==)),
    65 => test(:ne, 2, condition(!=)),
    66 => test(:and, 2, condition(both)),
    67 => test(:or, 2, condition(either)),
    68 => test(:not, 1, condition(!)),
    SELECT => plain(:select, 3, number(select)),
)
