"""
    consistent!(model, u, p, t) -> Bool

Solve the algebraic equations for the algebraic unknowns, the others fixed, by damped Newton steps
from the values in `u`; whether that worked. (Brown, Hindmarsh & Petzold, SIAM J. Sci. Comput. 19
(1998), the case of given differential variables.) Fields come with values that fulfil their equations already.
"""
function consistent!(model::Model, u::Vec, p::Vec, t::Float64)
    unknown = findall(!, model.differential)
    (isempty(unknown) || model.rhs! isa Fields) && return true
    du = similar(u)
    J = copy(model.jacobian.prototype)
    residual!(at) = (model.rhs(du, at, p, t); du[unknown])
    now = residual!(u)
    trial = copy(u)
    for _ in 1:100
        size_now = norm(now, Inf)
        size_now == 0 && return true
        isfinite(size_now) || return false
        model.jacobian.evaluate!(J, u, p, t)
        block = lu(Matrix(J[unknown, unknown]); check = false)
        issuccess_lu(block) || return false
        step = block \ now
        all(isfinite, step) || return false
        scale = maximum(abs.(step) ./ (1e-12 .+ abs.(u[unknown])))
        damping = 1.0
        while true
            trial .= u
            trial[unknown] .-= damping .* step
            next = residual!(trial)
            if norm(next, Inf) < size_now
                copyto!(u, trial)
                now = next
                break
            end
            scale < 1e-8 && return true
            damping /= 2
            damping < 1e-6 && return false
        end
        damping == 1 && scale < 4 * eps() && return true
    end
    return false
end

issuccess_lu(factors) = factors.info == 0

"The function object of a model; made once for each choice of derivative."
function ode_function(model::Model, with_jacobian::Bool)
    made = get(model.functions, with_jacobian, nothing)
    made === nothing || return made
    return model.functions[with_jacobian] = begin
        derivative = with_jacobian ?
            (;
                jac = model.jacobian.evaluate!,
                jac_prototype = model.jacobian.prototype,
                tgrad = model.time_gradient,
            ) : (;)
        ODEFunction{true, SciMLBase.FullSpecialize}(model.rhs; mass_matrix = mass_matrix(model), derivative...)
    end
end

mass_matrix(model::Model) = all(model.differential) ? I : Diagonal(Float64.(model.differential))

function make_problem(model::Model, u0::Vec, p::Vec, t0::Float64, t1::Float64, with_jacobian::Bool, seed::UInt64)
    model.kind === :sde && return stochastic_problem(model, u0, p, t0, t1, with_jacobian, seed)
    model.kind === :dde && return delay_problem(model, u0, p, t0, t1)
    return ODEProblem(ode_function(model, with_jacobian), u0, (t0, t1), p)
end
