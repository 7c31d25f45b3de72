"""What `fit` returns: the fitted problem, the estimates and how certain they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from pysciml.engines.base import Array
from pysciml.fitting.inputs import Free
from pysciml.problem import Problem
from pysciml.solve import solve

#: A part of an interval between the data that a curve through them is drawn with.
_CURVE_POINTS = 501
#: The same for fields, which are large.
_FIELD_POINTS = 51


class FitWarning(UserWarning):
    """A fit that ended, but whose numbers need care; the message names the parameters."""


@dataclass(frozen=True)
class FitResult:
    """A fitted problem and how certain its numbers are.

    Attributes
    ----------
    problem : Problem
        With the estimates in place.
    estimates : xarray.Dataset, over ``parameter``
        ``estimate stderr ci_low ci_high`` on the natural scale; the coordinate ``kind`` tells a
        parameter from an initial value. NaN where the data do not determine it.
    covariance : xarray.DataArray, over ``parameter`` and ``parameter_2``
    residuals : xarray.Dataset, over ``t`` (and places, as the data)
        Data minus model, unweighted, in the units of the data; NaN where data are missing.
    history : xarray.Dataset, over ``evaluation``
        Every point tried: its values (``value``), ``loss``, whether it ``failed`` to solve, and so
        far: ``n_solves``, ``n_rhs`` (-1 where the engine does not count), ``seconds``.
    data : xarray.Dataset
        As given.
    success : bool
        Whether the search converged.
    message : str
        How it ended.
    jacobian : str
        Where the derivatives came from: ``"sensitivities"`` (of the native engine), ``"sensitivities by
        JAX, forward mode"``, ``"sensitivities, solved for with the fields"``, or ``"finite differences"``.
    loss : float
        What was minimized: the weighted sum of squares, or of the robust loss.
    dof : int
        Degrees of freedom, number of data minus number of estimates.
    options : dict
        The solver options, engine and algorithm the fit used, which `solution` uses too.
    """

    problem: Problem
    estimates: xr.Dataset
    covariance: xr.DataArray
    residuals: xr.Dataset
    history: xr.Dataset
    data: xr.Dataset
    success: bool
    message: str
    jacobian: str
    loss: float
    dof: int
    options: dict[str, Any] = field(repr=False)

    @cached_property
    def solution(self) -> xr.Dataset:
        """The fitted problem solved over its whole ``tspan``: at the data and densely between them.

        Raises
        ------
        SolverError
            If it cannot be solved beyond the data.
        """
        start, end = self.problem.tspan
        points = _FIELD_POINTS if self.problem.system.model.fields else _CURVE_POINTS
        times = np.union1d(np.linspace(start, end, points), self._data_times())
        return solve(self.problem, saveat=times if end > start else times[::-1], **self.options)

    def _data_times(self) -> Array:
        low, high = sorted(self.problem.tspan)
        return np.clip(np.asarray(self.data["t"].values, dtype=np.float64), low, high)

    @property
    def correlation(self) -> xr.DataArray:
        """The covariance, scaled to ones on its diagonal."""
        spread = np.sqrt(np.diag(self.covariance.values))
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.covariance / np.outer(spread, spread)

    def _rows(self) -> list[tuple[str, ...]]:
        e = self.estimates
        rows: list[tuple[str, ...]] = []
        for name, kind, *numbers in zip(
            e["parameter"].values,
            e["kind"].values,
            *(e[column].values for column in ("estimate", "stderr", "ci_low", "ci_high")),
            strict=True,
        ):
            shown = f"{name} (initial)" if kind == "initial value" else str(name)
            rows.append((shown, *("-" if np.isnan(v) else f"{v:.5g}" for v in numbers)))
        return rows

    def _head(self) -> tuple[str, ...]:
        level = f"{100 * self.estimates.attrs['confidence']:g} %"
        return "", "estimate", "std. error", f"{level} from", "to"

    def _summary(self) -> str:
        ended = "converged" if self.success else "did not converge"
        n = int(self.history["n_solves"].values[-1])
        return (
            f"{ended}: {self.message} Loss {self.loss:.6g} with {self.dof} degrees of freedom; "
            f"{n} solves in {float(self.history['seconds'].values[-1]):.2g} s; derivatives: {self.jacobian}."
        )

    def __repr__(self) -> str:
        rows = [self._head(), *self._rows()]
        widths = [max(len(row[k]) for row in rows) for k in range(5)]
        table = [
            "  " + "  ".join((row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]))).rstrip() for row in rows
        ]
        return "\n".join((f"Fit of {self.problem.system.name}", *table, f"  {self._summary()}"))

    def _repr_html_(self) -> str:
        rows = [
            "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"
            for row, tag in zip([self._head(), *self._rows()], ["th", *["td"] * len(self._rows())], strict=True)
        ]
        name = escape(self.problem.system.name)
        return (
            f"<p><b>Fit of {name}</b></p><table><thead>{rows[0]}</thead><tbody>{''.join(rows[1:])}</tbody></table>"
            f"<p>{escape(self._summary())}</p>"
        )


@dataclass(frozen=True)
class Uncertainty:
    """Covariance on the scale that was searched.

    Attributes
    ----------
    covariance : array, shape (n_free, n_free)
        NaN in the rows of what is not determined.
    undetermined : tuple of tuple of int
        Groups of estimates that the data do not tell apart (a group of one has no influence).
    """

    covariance: Array
    undetermined: tuple[tuple[int, ...], ...]


def uncertainty(
    jacobian: Array, psi: Array, psi_slope: Array, fixed: npt.NDArray[np.bool_], precision: float, *, absolute: bool
) -> Uncertainty:
    """The covariance of a (robust) nonlinear least-squares estimate.

    For the squared loss it is ``s² (JᵀJ)⁻¹`` with ``s²`` the residual variance (or 1, where the
    standard deviations are known: ``absolute``); for a robust one the residual variance is that
    of Huber, Robust Statistics (1981), equation (7.6.1) without its small-sample factor:
    ``(sum psi² / (n - k)) / mean(psi')²``.

    Parameters
    ----------
    jacobian : array, shape (n, n_free)
        Of the weighted residuals.
    psi, psi_slope : array, shape (n,)
    fixed : bool array, shape (n_free,)
        What is held, because it is at a bound.
    precision : float
        The relative error of the Jacobian: singular values below are zero.
    """
    n, k = jacobian.shape
    moving = np.flatnonzero(~fixed)
    covariance = np.full((k, k), np.nan)
    if moving.size == 0:
        return Uncertainty(covariance, ())
    columns = jacobian[:, moving]
    size = np.linalg.norm(columns, axis=0)
    dead = size <= precision * 1e-6 * max(float(size.max()), np.finfo(float).tiny)
    groups: list[tuple[int, ...]] = [(int(moving[i]),) for i in np.flatnonzero(dead)]
    alive = np.flatnonzero(~dead)
    if alive.size:
        # Columns of unit length: what is small then is a direction, not a unit of measurement.
        _, singular, vt = np.linalg.svd(columns[:, alive] / size[alive], full_matrices=True)
        full = np.zeros(alive.size)
        full[: singular.size] = singular
        null = full <= precision * full[0]
        blurred = np.zeros(alive.size, dtype=np.bool_)
        for direction in vt[null]:
            involved = np.abs(direction) > 0.05 * np.abs(direction).max()
            blurred |= involved
            groups.append(tuple(int(moving[alive[i]]) for i in np.flatnonzero(involved)))
        dof = n - int((~null).sum())
        if dof > 0 or absolute:
            variance = 1.0 if absolute else float(np.sum(psi**2)) / dof / float(np.mean(psi_slope)) ** 2
            inverse = (vt[~null].T / full[~null] ** 2) @ vt[~null]
            block = variance * inverse / np.outer(size[alive], size[alive])
            block[blurred, :] = block[:, blurred] = np.nan
            where = moving[alive]
            covariance[np.ix_(where, where)] = block
    return Uncertainty(covariance, tuple(dict.fromkeys(groups)))


def table(
    free: Free, inner: Array, found: Uncertainty, dof: int, confidence: float, *, absolute: bool
) -> tuple[xr.Dataset, xr.DataArray]:
    """Estimates and covariance on the natural scale, labelled.

    Intervals use Student's t (the normal distribution where the standard deviations are known);
    those of logarithmic estimates are formed on the logarithm, so that they stay positive.
    """
    from scipy import stats

    values = free.outward(inner)
    slope = free.slope(values)
    spread = np.sqrt(np.diag(found.covariance))
    level = (1 + confidence) / 2
    quantile = float(stats.norm.ppf(level)) if absolute else float(stats.t.ppf(level, dof)) if dof > 0 else np.nan
    low, high = free.outward(inner - quantile * spread), free.outward(inner + quantile * spread)
    names = np.array(free.names)
    kinds = np.where(free.is_state, "initial value", "parameter")
    coords = {"parameter": names, "kind": ("parameter", kinds)}
    estimates = xr.Dataset(
        {
            "estimate": ("parameter", values),
            "stderr": ("parameter", spread * np.abs(slope)),
            "ci_low": ("parameter", low),
            "ci_high": ("parameter", high),
        },
        coords=coords,
        attrs={"confidence": confidence, "dof": dof},
    )
    covariance = xr.DataArray(
        found.covariance * np.outer(slope, slope),
        dims=("parameter", "parameter_2"),
        coords={"parameter": names, "parameter_2": names},
        name="covariance",
    )
    return estimates, covariance
