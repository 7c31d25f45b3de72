# Explicit Runge-Kutta pairs whose last stage is the first of the next step: the methods training solves with.

"""
    ExplicitMethod

Stage `i + 1` is at `t + c[i] * h`, with the slopes weighted by `a[i, :]`; the solution is the last stage, its error
`h * sum(b_error .* slopes)`, and within the step, at `t + θ * h`, the weights are `interpolant * [θ, θ^2, θ^3, θ^4]`.
`stability` is half the length of the real stability interval.
"""
struct ExplicitMethod
    name::Symbol
    a::Matrix{Float64}
    c::Vector{Float64}
    b::Vector{Float64}
    b_error::Vector{Float64}
    order::Float64
    stability::Float64
    interpolant::Matrix{Float64}
end

n_stages(method::ExplicitMethod) = length(method.b)

"Where in a step a stage is, as a share of its size."
stage_time(method::ExplicitMethod, stage::Int) = stage == 1 ? 0.0 : method.c[stage - 1]

"Coefficients of polynomials in the powers from zero on."
function multiplied(factors::Vector{Float64}...)
    product = [1.0]
    for factor in factors
        next = zeros(length(product) + length(factor) - 1)
        for i in eachindex(product), j in eachindex(factor)
            next[i + j - 1] += product[i] * factor[j]
        end
        product = next
    end
    return product
end

"The cubic Hermite polynomial between the ends of the step, of which both slopes are known."
function hermite(b::Vector{Float64})
    weights = b * [0.0 3.0 -2.0 0.0]
    weights[1, :] += [1.0, -2.0, 1.0, 0.0]
    weights[end, :] += [0.0, -1.0, 1.0, 0.0]
    return weights
end

"Ch. Tsitouras, Computers & Mathematics with Applications 62 (2011) 770-775, with its interpolant."
function tsit5()
    a = zeros(6, 6)
    a[1, 1] = 161 / 1000
    a[2, 1:2] = [-0.008480655492356988544426874250230774675, 0.3354806554923569885444268742502307746751]
    a[3, 1:3] = [2.897153057105493432130432594192938764925, -6.359448489975074843148159912383825625953, 4.362295432869581411017727318190886861028]
    a[4, 1:4] = [5.325864828439256604428877920840511317836, -11.74888356406282787774717033978577296188, 7.495539342889836208304604784564358155659, -0.09249506636175524925650207933207191611350]
    a[5, 1:5] = [5.861455442946420028659251486982647890394, -12.92096931784710929170611868178335939541, 8.159367898576158643180400794539253485182, -0.07158497328140099722453054252582973869127, -0.02826905039406838290900305721271224146718]
    b = [0.09646076681806522951816731316512876333712, 1 / 100, 0.4798896504144995747752495322905965199130, 1.379008574103741893192274821856872770756, -3.290069515436080679901047585711363850116, 2.324710524099773982415355918398765796109, 0.0]
    a[6, :] = b[1:6]
    embedded = [0.09468075576583945807478876255758922856118, 0.009183565540343253096776363936645313759814, 0.4877705284247615707855642599631228241516, 1.234297566930478985655109673884237654036, -2.707712349983525454881109975059321670689, 1.866628418170587035753719399566211498666, 1 / 66]
    factors = [
        -1.0530884977290216 * multiplied([-1.3299890189751412, 1.0], [0.7139816917074209, -1.4364028541716351, 1.0]),
        0.1017 * multiplied([0.0, 1.0], [1.2949852507374631, -2.1966568338249754, 1.0]),
        2.490627285651252793 * multiplied([0.0, 1.0], [1.57803468208092486, -2.38535645472061657, 1.0]),
        -16.54810288924490272 * multiplied([0.0, 1.0], [-1.21712927295533244, 1.0], [-0.61620406037800089, 1.0]),
        47.37952196281928122 * multiplied([0.0, 1.0], [-1.203071208372362603, 1.0], [-0.658047292653547382, 1.0]),
        -34.87065786149660974 * multiplied([0.0, 1.0], [-1.2, 1.0], [-0.666666666666666667, 1.0]),
        2.5 * multiplied([0.0, 1.0], [-1.0, 1.0], [-0.6, 1.0]),
    ]
    c = [161 / 1000, 327 / 1000, 9 / 10, 0.9800255409045096857298102862870245954942, 1.0, 1.0]
    return ExplicitMethod(:Tsit5, a, c, b, b - embedded, 5.0, 3.5068, permutedims(reduce(hcat, factors)))
end

"J. R. Dormand and P. J. Prince, Journal of Computational and Applied Mathematics 6 (1980) 19-26."
function dp5()
    a = zeros(6, 6)
    a[1, 1] = 1 / 5
    a[2, 1:2] = [3 / 40, 9 / 40]
    a[3, 1:3] = [44 / 45, -56 / 15, 32 / 9]
    a[4, 1:4] = [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729]
    a[5, 1:5] = [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656]
    b = [35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0]
    a[6, :] = b[1:6]
    embedded = [1951 / 21600, 0.0, 22642 / 50085, 451 / 720, -12231 / 42400, 649 / 6300, 1 / 60]
    return ExplicitMethod(:DP5, a, [1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0], b, b - embedded, 5.0, 3.3066, hermite(b))
end

"P. Bogacki and L. F. Shampine, Applied Mathematics Letters 2 (1989) 321-325."
function bs3()
    b = [2 / 9, 1 / 3, 4 / 9, 0.0]
    a = [1 / 2 0.0 0.0; 0.0 3 / 4 0.0; 2 / 9 1 / 3 4 / 9]
    return ExplicitMethod(:BS3, a, [1 / 2, 3 / 4, 1.0], b, b - [7 / 24, 1 / 4, 1 / 3, 1 / 8], 3.0, 2.5127, hermite(b))
end

const EXPLICIT_METHODS = Dict(method.name => method for method in (tsit5(), dp5(), bs3()))

"The method of that name; throws an `ArgumentError` for any other."
function explicit_method(name)
    found = get(EXPLICIT_METHODS, Symbol(name), nothing)
    found === nothing && throw(ArgumentError("training solves with $(join(sort!(collect(keys(EXPLICIT_METHODS))), ", ")), not with $name"))
    return found
end

"The weights of the slopes at `θ` (with `derivative = 1`: their derivatives by `θ`)."
function interpolate!(weights::Vector{Float64}, method::ExplicitMethod, θ::Float64, derivative::Int = 0)
    P = method.interpolant
    for j in eachindex(weights)
        weights[j] = derivative == 0 ? θ * (P[j, 1] + θ * (P[j, 2] + θ * (P[j, 3] + θ * P[j, 4]))) :
            P[j, 1] + θ * (2 * P[j, 2] + θ * (3 * P[j, 3] + θ * 4 * P[j, 4]))
    end
    return weights
end
