# Differential equations as layers of larger models; the layers themselves come with Lux.jl, as an extension.

"""
    NeuralODE(model; t0 = 0.0, t1 = 1.0, regularize = (), rtol = 1e-6, atol = 1e-6, algorithm = "Tsit5", max_steps = 256,
              with_time = false, adjoint = nothing)

A Lux layer `y(t0) -> y(t1)` of the equation `dy/dt = model(y)`, or `model([y; t])` if `with_time`. Needs `using Lux`.

    out, st = layer(y0, ps, st)        # y0 of shape (n, batch) or (n,)
    out, st = layer((y0, ts), ps, st)  # the solution at the times ts, of shape (n, batch, n_ts)

`out` has `y`, `regularization` (to add to the loss), `evaluations`, `steps`, `rejected` and `success`; where the end was not
reached, `y` is NaN. A batch is one state with one step size (Pal et al., ICML 2021 and 2023), and derivatives are those of the
steps that were taken: a discrete adjoint, each step computed once more on the way back. They go through ChainRules.jl, so with
Zygote.jl.

Regularizers ([`Regularizer`](@ref)) are in effect where the state is in training mode (`Lux.testmode(st)` leaves them out);
`Lux.update_state(st, :progress, 0.3)` says how far an annealed training is. The solver computes in double precision, the model in
that of `y0`.

States, parameters and observations may be arrays of a GPU, all of them: then the whole solve and its derivatives are there, with the
numbers of main memory to rounding. Times are in main memory; [`TaylorDerivative`](@ref), [`JacobianNorm`](@ref) and `adjoint` need
states there.

`algorithm` is `"Tsit5"`, `"DP5"` or `"BS3"`. `adjoint` differentiates the layer by a continuous adjoint in place of the discrete one,
with `using SciMLSensitivity`: `GaussAdjoint()`, `InterpolatingAdjoint()`, `BacksolveAdjoint()` (Chen, Rubanova, Bettencourt & Duvenaud,
NeurIPS 2018) or another of its, or the name of one, as in `ps.fit`. It is solved with the same method and tolerances, and its products
with Jacobians come from the rules that differentiate the model, whatever its `autojacvec`. Local regularizers go with any (Pal et al.
2023), [`ErrorEstimate`](@ref) and [`StiffnessEstimate`](@ref) with none. Where its equations can't be solved, derivatives are NaN.
"""
function NeuralODE end

"""
    NeuralSDE(drift, diffusion; t0 = 0.0, t1 = 1.0, regularize = (), rtol = 0.1, atol = 0.1, max_steps = 256, with_time = false)

A Lux layer of the Itô equation `dy = drift(y) dt + diffusion(y) dW`, in which every entry of every sample has its own Brownian
motion: SOSRI with adaptive steps and rejection sampling with memory. Random numbers come from the layer's state. It is
differentiated through its steps, and has no [`TaylorDerivative`](@ref), as paths have no derivatives; [`JacobianNorm`](@ref) is
that of the drift. See [`NeuralODE`](@ref).
"""
function NeuralSDE end

"""
    LatentODE(layer, n_observed, n_hidden; width = 32)

A variational autoencoder of irregular time series (Rubanova, Chen & Duvenaud, NeurIPS 2019, with a GRU encoder) as a Lux layer:
the encoder reads the observations backward in time, each with its mask and the time to the next; the hidden state follows
`layer`, a [`NeuralODE`](@ref), and is decoded at all times.

    out, st = model((x, mask, times), ps, st)  # x and mask of shape (n_observed, n_t, batch), times ascending from t0

The mask is 1 where there is an observation, and 0 where not; there `x` may be NaN.

`out` has `x`, of the shape of the observations, `kl`, the Kullback-Leibler divergence of every series' hidden state from the
standard normal, and `solved`, what the layer returned.
"""
function LatentODE end
