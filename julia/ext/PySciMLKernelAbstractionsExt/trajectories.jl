# The rates of many trajectories of a model: a thread for each.

@kernel function trajectory!(f!, du, u, p, t)
    k = @index(Global)
    @inbounds f!(view(du, k, :), view(u, k, :), view(p, k, :), t)
end

PySciML.each_trajectory!(backend, f!, du, u, p, t) = trajectory!(backend)(f!, du, u, p, t; ndrange = size(u, 1))
