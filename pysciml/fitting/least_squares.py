"""`fit`: nonlinear least squares for parameters and initial values."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import xarray as xr

from pysciml.engines.base import Array
from pysciml.errors import ProblemError, UnsupportedError
from pysciml.fitting.inputs import Free, _keys, read_data, read_free
from pysciml.fitting.residuals import LOSSES, Residuals, Rho
from pysciml.fitting.result import FitResult, FitWarning, Uncertainty, table, uncertainty
from pysciml.options import read_options
from pysciml.problem import Problem, number, require_problem
from pysciml.solve import choose_engine


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
    seed: int | None = None,
    max_evaluations: int | None = None,
    tolerance: float = 1e-10,
    alg: str | None = None,
    engine: str = "auto",
    rtol: float = 1e-8,
    atol: float = 1e-10,
    max_steps: int = 100_000,
    progress: bool = False,
) -> FitResult:
    """Fit parameters and initial values to data by nonlinear least squares.

    It minimizes the sum of ``((model - data) / sigma)²`` by a trust-region method (Branch, Coleman
    and Li, SIAM J. Sci. Comput. 21, 1999; ``scipy.optimize.least_squares``), starting from the
    numbers of ``problem``. Derivatives are the engine's sensitivities where it has them, else
    central differences; ``.jacobian`` of the result says which. What it returns is never worse
    than where it started.

    Parameters
    ----------
    problem : Problem
    data : xarray.Dataset, over ``t``
        Any of the states and observed quantities, by name, at times inside ``tspan``. NaN marks
        missing values. For errors proportional to the values, fit a logarithm: give the system
        ``observed={"log_x": sympy.log(x)}`` and the data ``log_x``.
    trainable : list of symbols or names
        Parameters, and states for their initial values.
    bounds : mapping, optional
        Name -> (low, high); None leaves a side open.
    log : list of symbols or names, or True for all
        Searched on a logarithmic scale: estimates and their intervals are positive.
    sigma : mapping, optional
        Variable -> standard deviation of its errors, a number or a DataArray over ``t``, in the
        units of the data. By default 1 for all.
    weights : mapping, optional
        The same as ``1 / sigma²``; give one or the other.
    absolute_sigma : bool, default False
        Whether ``sigma`` is known, or (default) only up to a common factor, which is then
        estimated from the residuals.
    loss : {"linear", "soft_l1", "huber", "cauchy", "arctan"} or callable
        A loss other than linear makes outliers count less; as in ``scipy.optimize.least_squares``.
    loss_scale : float
        The weighted residual from which one counts as an outlier.
    confidence : float, default 0.95
        Of the intervals.
    seed : int, optional
        Without effect here: nothing is random.
    max_evaluations : int, optional
        Most points to try; by default 100 for each estimate.
    tolerance : float
        Relative change of loss and of estimates below which the search ends.
    alg, engine, rtol, atol, max_steps
        As for `solve`; finite differences need solutions that are more exact than the data.
    progress : bool
        Show a progress line on standard error.

    Returns
    -------
    FitResult

    Raises
    ------
    ProblemError
        If data or options do not fit the problem; the message names the culprit.
    UnsupportedError
        For stochastic systems.
    SolverError
        If the model cannot be solved at the starting values. Elsewhere a failure only turns the
        search back.

    Warns
    -----
    FitWarning
        If the data do not determine some estimates, one is at its bound, or the search did not
        converge.

    Examples
    --------
    >>> result = fit(problem, data, trainable=[a, b, "x"], log=[a, b], bounds={"x": (0, None)})
    >>> result.estimates.to_dataframe()
    """
    require_problem(problem, "fit")
    _refuse_stochastic(problem)
    make, read = Residuals, read_data
    if problem.system.model.fields:
        from pysciml.fitting.fields import FieldResiduals, read_field_data, refuse_initial

        refuse_initial(cast("Any", problem), _keys(trainable, "trainable"))
        make, read = cast("Any", FieldResiduals), cast("Any", read_field_data)
    free = read_free(problem, trainable, bounds, log)
    observations = read(problem, data, sigma, weights)
    rho = _read_loss(loss)
    scale = _positive("loss_scale", loss_scale)
    confidence = _positive("confidence", confidence)
    tolerance = _positive("tolerance", tolerance)
    if confidence >= 1:
        raise ProblemError(f"confidence must be between 0 and 1, not {confidence!r}", symbol="confidence")
    if absolute_sigma and (loss != "linear" or (sigma is None and weights is None)):
        raise ProblemError("absolute_sigma needs sigma and the linear loss", symbol="absolute_sigma")
    if max_evaluations is not None and (
        isinstance(max_evaluations, bool) or not isinstance(max_evaluations, (int, np.integer)) or max_evaluations < 1
    ):
        raise ProblemError(
            f"max_evaluations must be a positive integer, not {max_evaluations!r}", symbol="max_evaluations"
        )
    solver = {"alg": alg, "engine": engine, "rtol": rtol, "atol": atol, "max_steps": max_steps}
    options = read_options(
        problem.tspan,
        rtol=rtol,
        atol=atol,
        saveat=observations.times,
        dt=None,
        max_steps=max_steps,
        seed=seed,
        progress=False,
    )
    chosen = choose_engine(problem.system.model, alg, engine)
    residuals = make(problem, observations, free, chosen, alg, options, rho, scale, progress)
    residuals.first()
    success, message = _search(residuals, rho, scale, max_evaluations or 100 * len(free.names), tolerance)
    solver["engine"] = chosen.name
    return _result(residuals, data, success, message, confidence, solver, absolute=absolute_sigma)


def _refuse_stochastic(problem: Problem) -> None:
    if problem.system.kind == "sde":
        raise UnsupportedError(
            f"{problem.system.name} is stochastic: its solutions are random, and least squares does not fit them; "
            'optimizer="adam" trains it on their means and variances'
        )


def _read_loss(loss: Any) -> Rho:
    if callable(loss):

        def checked(z: Array) -> Array:
            values = np.asarray(loss(z), dtype=np.float64)
            if values.shape != (3, z.size):
                raise ProblemError(
                    f"loss must return rho and its two derivatives, of shape (3, {z.size}), not {values.shape}",
                    symbol="loss",
                )
            return values

        return checked
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ProblemError(f"loss must be one of {', '.join(LOSSES)} or a function, not {loss!r}", symbol="loss")
    return LOSSES[loss]


def _positive(name: str, value: Any) -> float:
    result = number(value, name, name)
    if result <= 0:
        raise ProblemError(f"{name} must be positive, not {value!r}", symbol=name)
    return result


def _search(residuals: Residuals, rho: Rho, scale: float, most: int, tolerance: float) -> tuple[bool, str]:
    """Search from the start; what was best is in ``residuals``. Whether it converged, and how it ended."""
    from scipy import optimize

    free = residuals.free
    bounds = free.inward(free.lower), free.inward(free.upper)
    found = optimize.least_squares(
        residuals,
        free.inward(free.start),
        jac=residuals.jacobian,
        bounds=bounds,
        method="trf",
        ftol=tolerance,
        xtol=tolerance,
        gtol=tolerance,
        x_scale="jac",
        loss=cast("Any", rho),
        f_scale=scale,
        max_nfev=most,
    )
    if not found.success:
        return False, f"it stopped at the limit of {most} evaluations."
    said = {1: "the gradient vanishes.", 2: "the loss no longer falls.", 3: "the estimates no longer move."}
    return True, said.get(int(found.status), "loss and estimates no longer change.")


def _result(
    residuals: Residuals,
    data: xr.Dataset,
    success: bool,
    message: str,
    confidence: float,
    solver: dict[str, Any],
    *,
    absolute: bool,
) -> FitResult:
    free, observations = residuals.free, residuals.data
    residuals.settle()
    best = residuals.best
    predicted = residuals.predict(best)
    if predicted is None:  # it was solved before; only an engine that is not deterministic gets here
        predicted = np.full_like(observations.values, np.nan)
    weighted = residuals.weigh(predicted)
    at_bound = _at_bound(free, best)
    jacobian = residuals.jacobian(best)
    psi, slope = residuals.influence(weighted)
    found = uncertainty(jacobian, psi, slope, at_bound, residuals.precision(), absolute=absolute)
    dof = max(observations.n - int((~at_bound).sum()), 0)
    estimates, covariance = table(free, best, found, dof, confidence, absolute=absolute)
    for name, given in residuals.problem.system.attrs.items():
        if name in free.names:
            estimates.attrs |= {f"{name}_{key}": value for key, value in given.items()}
    estimates.attrs["jacobian"] = residuals.method
    if residuals.n_failed:
        message += f" {residuals.n_failed} of {len(residuals.trace.loss)} points tried could not be solved."
    _warn(residuals, found, at_bound, dof, success, message)
    return FitResult(
        problem=residuals.fitted(best),
        estimates=estimates,
        covariance=covariance,
        residuals=residuals.unweighted(predicted, data),
        history=_history(residuals),
        data=data if isinstance(data, xr.Dataset) else data.to_dataset(),
        success=success,
        message=message,
        jacobian=residuals.method,
        loss=residuals.loss(weighted),
        dof=dof,
        options=solver,
    )


def _at_bound(free: Free, inner: Array) -> Any:
    values = free.outward(inner)
    lower, upper = free.lower, free.upper
    with np.errstate(invalid="ignore"):
        # The method keeps strictly inside, so that "at" a bound is within a millionth of it.
        near = 1e-6 * np.where(
            np.isfinite(upper - lower), upper - lower, np.maximum(np.abs(values), np.abs(free.start))
        )
    low = ~free.log & (values - lower <= near) | free.log & (lower > 0) & (values <= lower * (1 + 1e-6))
    return low | (upper - values <= near)


def _warn(residuals: Residuals, found: Uncertainty, at_bound: Any, dof: int, success: bool, message: str) -> None:
    free, n = residuals.free, residuals.data.n
    said: list[str] = []
    for group in found.undetermined:
        names = [free.label(i) for i in group]
        if len(names) == 1:
            said.append(f"the data do not determine {names[0]}: it has no influence on them")
        else:
            together = f"{', '.join(names[:-1])} and {names[-1]}"
            said.append(f"the data do not determine {together} apart: changing them together changes nothing")
    if dof == 0 and not found.undetermined:
        said.append(f"{n} data for {len(free.names)} estimates leave nothing to tell their errors from")
    for i in np.flatnonzero(at_bound):
        value = free.outward(residuals.best)[i]
        said.append(f"{free.label(int(i))} is at its bound ({value:g}): it has no interval, the others hold it fixed")
    if not success:
        said.append(f"the search did not converge: {message}")
    for text in said:
        warnings.warn(text, FitWarning, stacklevel=4)


def _history(residuals: Residuals) -> xr.Dataset:
    trace = residuals.trace
    return xr.Dataset(
        {
            "loss": ("evaluation", np.array(trace.loss)),
            "value": (("evaluation", "parameter"), np.stack(trace.values)),
            "failed": ("evaluation", np.array(trace.failed)),
            "n_solves": ("evaluation", np.array(trace.n_solves)),
            "n_rhs": ("evaluation", np.array(trace.n_rhs)),
            "seconds": ("evaluation", np.array(trace.seconds), {"units": "s"}),
        },
        coords={
            "evaluation": np.arange(1, len(trace.loss) + 1),
            "parameter": np.array(residuals.free.names),
        },
    )
