"""`fit`: least squares for a few numbers, training for networks; one function, told apart by what it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from pysciml.engines.base import get
from pysciml.errors import ProblemError
from pysciml.fitting import least_squares
from pysciml.fitting.residuals import Rho
from pysciml.fitting.result import FitResult
from pysciml.fitting.trained import TrainingResult
from pysciml.hints import named_options
from pysciml.problem import Problem, require_problem

_LEAST_SQUARES = "least_squares"
#: Options of one of the two ways alone, with their defaults.
_FOR_LEAST_SQUARES: dict[str, Any] = {
    "bounds": None,
    "absolute_sigma": False,
    "loss": "linear",
    "loss_scale": 1.0,
    "confidence": 0.95,
    "max_evaluations": None,
    "tolerance": 1e-10,
}
_FOR_TRAINING: dict[str, Any] = {
    "regularize": None,
    "learning_rate": None,
    "epochs": None,
    "segments": None,
    "batch_size": None,
    "continuity": 1.0,
    "validation": None,
    "patience": None,
    "checkpoint": None,
    "checkpoint_every": 50,
    "trajectories": None,
    "adjoint": None,
    "device": "cpu",
    "precision": "float64",
}


@named_options()
def fit(
    problem: Problem,
    data: xr.Dataset,
    trainable: Iterable[Any],
    *,
    bounds: Mapping[Any, tuple[float | None, float | None]] | None = None,
    log: Iterable[Any] | bool = (),
    sigma: Mapping[Any, Any] | None = None,
    weights: Mapping[Any, Any] | None = None,
    absolute_sigma: bool = False,
    loss: str | Rho = "linear",
    loss_scale: float = 1.0,
    confidence: float = 0.95,
    optimizer: Any = None,
    regularize: Any = None,
    learning_rate: Any = None,
    epochs: int | None = None,
    seed: int | None = None,
    segments: int | Sequence[int] | None = None,
    batch_size: int | None = None,
    continuity: float = 1.0,
    validation: float | xr.Dataset | None = None,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
    trajectories: int | None = None,
    adjoint: Any = None,
    max_evaluations: int | None = None,
    tolerance: float = 1e-10,
    alg: str | None = None,
    engine: str = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int | None = None,
    device: str = "cpu",
    precision: str = "float64",
    progress: bool = False,
) -> Any:
    """Fit parameters, initial values and networks to data.

    Two ways. Parameters and initial values are found by **nonlinear least squares** (a trust-region
    method; Branch, Coleman and Li, SIAM J. Sci. Comput. 21, 1999; ``scipy.optimize.least_squares``),
    with standard errors; what it returns is never worse than where it started. **Training** is
    gradient descent on the JAX engine, or the Julia engine where ``engine="julia"`` (both take the
    same steps to the same weights); it is chosen where ``trainable`` has a network, or ``optimizer``
    or any option of it is given. It minimizes the mean of ``((model - data) /
    sigma)²`` plus the regularizers.

    A **stochastic** problem is trained on moments: means and variances of simulated paths against
    those of the data, which are paths, over ``(trajectory, t)``, or moments, over ``(moment, t)``
    with the coordinate ``["mean", "variance"]``. The loss is the sum of the mean squares of both
    differences, the means' divided by ``sigma`` and the variances' by ``sigma²``, by default the
    root of the variable's mean variance. Each update has its own noise.

    A **partial differential equation** is trained by the JAX engine. Windows of ``segments`` start from
    fields through the data, which are trained, too.

    Parameters
    ----------
    problem : Problem
    data : xarray.Dataset, over ``t`` (of a stochastic problem: see above)
        Any of the states and observed quantities, by name, at times inside ``tspan``. NaN marks
        missing values. Of a partial differential equation: fields and observed quantities over
        ``t`` and places, which are dimensions or coordinates named after the coordinates (as of
        sensors: dimensions ``("t", "sensor")``, coordinates ``X(sensor), Y(sensor)``); between the
        points of the grid a cubic polynomial is taken (a linear one with upwind and WENO schemes).
        For errors proportional to the values, fit a logarithm: give the system
        ``observed={"log_x": sympy.log(x)}`` and the data ``log_x``.
    trainable : list of symbols, networks or names
        Networks, parameters, and states for their initial values (not fields).
    log : list of symbols or names, or True for all numbers
        Searched on a logarithmic scale, so that they stay positive.
    sigma : mapping, optional
        Variable -> standard deviation of its errors, a number or a DataArray over ``t``, in the
        units of the data. By default 1 for all.
    weights : mapping, optional
        The same as ``1 / sigma²``; give one or the other.
    bounds : mapping, optional
        Least squares. Name -> (low, high); None leaves a side open.
    absolute_sigma : bool, default False
        Least squares. Whether ``sigma`` is known, or (default) only up to a common factor, which is
        then estimated from the residuals.
    loss : {"linear", "soft_l1", "huber", "cauchy", "arctan"} or callable
        Least squares. A loss other than linear makes outliers count less.
    loss_scale : float
        Least squares. The weighted residual from which one counts as an outlier.
    confidence : float, default 0.95
        Least squares. Of the intervals.
    optimizer : str, optax optimizer or rule of Optimisers.jl, optional
        ``"least_squares"``, or for training a name (``"adam"``, the default; ``"adamw"``,
        ``"adabelief"``, ``"sgd"``, ...) or any optax optimizer. With ``engine="julia"`` also
        ``"Optimisers.Adam"`` and the others of Optimisers.jl that have a learning rate, or any of
        its rules as a value of Julia's, such as ``jl.Optimisers.AdaBelief(1e-3)`` with ``jl =
        juliacall.Main``; ``engine="auto"`` is then Julia.
    regularize : regularizer or list of them, optional
        Training. What makes the learned equation cheap to solve: `ErrorEstimate`,
        `StiffnessEstimate`, `LocalErrorEstimate`, `LocalStiffnessEstimate`, `TaylorDerivative`,
        `KineticEnergy`, `JacobianNorm`, `RandomEndTime`.
    learning_rate : float or optax schedule, default 1e-2
        Training. A schedule is a function of the number of updates. An optimizer that is given as
        an object has its own; a schedule replaces that of a rule of Optimisers.jl.
    epochs : int, default 100
        Training. Passes over the data.
    seed : int, default 0
        Training. Of batches and of regularizers that sample.
    segments : int or sequence of int, optional
        Training. Multiple shooting: the series is cut into so many windows, each solved from a
        first state of its own, which is trained too (starting from the data). ``(16, 4, 1)`` trains
        on 16 windows first, then joins them four by four; the last stage has twice the epochs of
        the others. By default such stages where a network is trained and all states are observed,
        since one that starts at random sends long solutions anywhere; else 1.
    batch_size : int, optional
        Training. Windows for each update; by default all.
    continuity : float, default 1.0
        Training. How much the gaps between windows count, in units of the states' spread.
    validation : float or xarray.Dataset, optional
        Training. The last share of the times, held out, or other data of the same problem. The
        result is then the epoch of the last stage that does best on it.
    patience : int, optional
        Training. Stop after so many epochs without a better validation.
    checkpoint : path, optional
        Training. A file to which the training is written every ``checkpoint_every`` epochs. If it
        exists, the training goes on from it, bit for bit as if it had never stopped.
    trajectories : int, default 100
        Training of stochastic problems. How many paths are simulated for each update.
    adjoint : str or diffrax adjoint, optional
        Training of ordinary differential equations. By what the solution is differentiated. By
        default by the discrete adjoint: back through the steps that were taken, which are computed
        once more, so that gradients are those of the numerical solution to rounding. Otherwise, with
        ``engine="jax"``, by one of diffrax's, which take the same steps: ``"RecursiveCheckpointAdjoint"``
        (less memory on long solves), ``"DirectAdjoint"``, ``"ForwardMode"`` (for a few numbers),
        ``"BacksolveAdjoint"`` (continuous, inexact), or an object, such as
        ``diffrax.RecursiveCheckpointAdjoint(checkpoints=16)``. With ``engine="julia"``, by a
        continuous one of SciMLSensitivity's along the same solution: ``"InterpolatingAdjoint"``,
        ``"GaussAdjoint"``, ``"GaussKronrodAdjoint"``, ``"QuadratureAdjoint"``, ``"BacksolveAdjoint"``;
        ``pysciml julia setup --sensitivity`` installs them. Options are written as with algorithms,
        ``"InterpolatingAdjoint(checkpointing = true)"``. A continuous adjoint solves an equation of
        its own to the tolerances of the fit; its gradients differ from those of the steps by about
        as much. `ErrorEstimate` and `StiffnessEstimate` need the default; all other regularizers
        go with every adjoint (Pal et al., ICML 2023, for the local ones; Kidger, *On Neural
        Differential Equations*, 2021, chapter 5, and Ma et al., arXiv:1812.01892, on which to take).
    max_evaluations : int, optional
        Least squares. Most points to try; by default 100 for each estimate.
    tolerance : float
        Least squares. Relative change of loss and of estimates below which the search ends.
    alg, engine, rtol, atol, max_steps
        As for `solve`. Least squares wants solutions more exact than the data (1e-8, 1e-10);
        training takes 1e-6 for both (1e-2 for stochastic problems), and explicit methods (Tsit5,
        DP5, BS3; SOSRI).
    device : str, default "cpu"
        Training. ``"cuda"`` solves and differentiates on an NVIDIA GPU, which pays for many windows and
        wide networks, or many paths of a stochastic problem. With ``engine="julia"`` (``pysciml julia
        setup --cuda``) states, stages and adjoints stay there for a whole solve, and the random numbers
        of paths are those of the CPU; it is for the default adjoint, and for all regularizers but
        `JacobianNorm` and `TaylorDerivative` of order 2 or more.
    precision : {"float64", "float32"}
        Training. Of the solves and their derivatives; single precision for ``rtol`` 1e-6 or more.
        With ``engine="julia"`` it needs ``device="cuda"``.
    progress : bool
        Show a progress line on standard error.

    Returns
    -------
    FitResult or TrainingResult

    Raises
    ------
    ProblemError
        If data or options do not fit the problem; the message names the culprit.
    UnsupportedError
        For least squares of stochastic systems; for training of systems that have events or noise
        that is not diagonal, or are neither ordinary nor stochastic.
    SolverError
        If the model cannot be solved at the starting values. Elsewhere a failure turns a search
        back, and ends a training with the last good state kept.

    Warns
    -----
    FitWarning
        If the data do not determine some estimates, one is at its bound, the search did not
        converge, or the training stopped at a failure.

    Examples
    --------
    >>> result = fit(problem, data, trainable=[a, b, "x"], log=[a, b], bounds={"x": (0, None)})
    >>> result.estimates.to_dataframe()
    >>> trained = fit(hybrid, data, trainable=["nn", a], regularize=ErrorEstimate(0.1), epochs=500)
    >>> trained.problem.weights["nn"]
    """
    given = dict(locals())
    for name in ("problem", "data", "trainable"):
        del given[name]
    require_problem(problem, "fit")
    keys: list[Any] = (
        [trainable] if isinstance(trainable, str) or not isinstance(trainable, Iterable) else list(trainable)
    )
    networks = [key for key in keys if _is_network(problem, key)]
    asked = [name for name, default in _FOR_TRAINING.items() if given[name] is not default and given[name] != default]
    if isinstance(optimizer, str) and optimizer == _LEAST_SQUARES:
        if networks or asked:
            what = f"the network {getattr(networks[0], 'name', networks[0])}" if networks else f"{asked[0]}="
            raise ProblemError(
                f"optimizer='least_squares' does not go with {what}: leave the optimizer out", symbol="optimizer"
            )
    elif networks or asked or optimizer is not None:
        return _train(problem, data, keys, networks, given)
    tight = {"rtol": 1e-8, "atol": 1e-10, "max_steps": 100_000}
    shared = {name: given[name] for name in ("log", "sigma", "weights", "seed", "alg", "engine", "progress")}
    shared |= {name: default if given[name] is None else given[name] for name, default in tight.items()}
    result: FitResult = least_squares.fit(
        problem, data, trainable, **shared, **{name: given[name] for name in _FOR_LEAST_SQUARES}
    )
    return result


def _is_network(problem: Problem, key: Any) -> bool:
    try:
        return problem.system.network_block(key) is not None
    except TypeError:
        return False


def _train(
    problem: Problem, data: xr.Dataset, keys: list[Any], networks: list[Any], given: dict[str, Any]
) -> TrainingResult:
    misplaced = [name for name, default in _FOR_LEAST_SQUARES.items() if given[name] != default]
    if misplaced:
        raise ProblemError(
            f"{misplaced[0]}= is for least squares, and {'networks are' if networks else 'this fit is'} trained by "
            "gradient descent: leave it out",
            symbol=misplaced[0],
        )
    if not keys:
        raise ProblemError("trainable is empty: name networks, parameters, or states for their initial values")
    get("jax")  # says what to install, if it is missing; random numbers are its, whatever solves
    from pysciml.fitting.training import train

    options = {**given, "max_steps": 10_000 if given["max_steps"] is None else given["max_steps"]}
    return train(problem, data, keys, options)
