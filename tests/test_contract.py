"""The public API's own examples, typed in order into one session, as a user would."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

MODEL = """
import sympy as sp, pysciml as ps

x, y = ps.variables("x y")
a, b, c, d = ps.parameters("a b c d")
D = ps.D

lotka = ps.System([ps.Eq(D(x), a*x - b*x*y),
                   ps.Eq(D(y), -c*y + d*x*y)], name="lotka_volterra")
"""

PROBLEM = """
problem = ps.Problem(lotka, u0={x: 1.0, y: 1.0}, tspan=(0, 10), p={a: 1.5, b: 1, c: 3, d: 1})
problem.remake(p={"a": 2.0})
"""

SOLVE = """
sol = ps.solve(problem, saveat=0.1)
sol = ps.solve(problem, "Tsit5", engine="jax", rtol=1e-8, atol=1e-8, saveat=0.1)
sol.x.plot(); sol.sel(t=5.0).y; sol.attrs["engine"]; sol.to_netcdf("lotka.nc")
"""

NOISE = """
w = ps.brownian("w")
noisy = ps.System([ps.Eq(D(x), a*x - b*x*y + x*w/10), ps.Eq(D(y), -c*y + d*x*y)], name="noisy")
sde_problem = ps.Problem(noisy, u0={x: 1.0, y: 1.0}, tspan=(0, 1), p={a: 1.5, b: 1, c: 3, d: 1})
"""

ENSEMBLES = """
import xarray as xr, numpy as np
sweep = ps.solve_ensemble(problem, over={a: xr.DataArray(np.linspace(1, 2, 50), dims="a"),
                                         b: xr.DataArray(np.linspace(.5, 1.5, 40), dims="b")}, saveat=0.1)
sweep.x.isel(t=-1).plot()
paths = ps.solve_ensemble(sde_problem, trajectories=10_000, seed=0, saveat=0.1)
"""

COMPARE = """
table = ps.compare(problem, solvers=[("native", "TRBDF2"), ("jax", "Tsit5"), ("julia", "Vern9")],
                   tolerances=[1e-4, 1e-6, 1e-8])
ps.plot.work_precision(table)
ps.testing.assert_solvers_agree(problem, rtol=1e-6)
"""

NETWORKS = """
nn = ps.MLP("nn", inputs=2, outputs=2, hidden=(32,), activation="tanh")
u, v = nn(x, y)
hybrid = ps.System([ps.Eq(D(x), a*x + u), ps.Eq(D(y), -c*y + v)])
fit = ps.fit(ps.Problem(hybrid, {x: 1, y: 1}, (0, 10), {a: 1.5, c: 3}), data=sol, trainable=["nn", "a"],
             regularize=ps.ErrorEstimate(weight=1e-2), optimizer="adam", learning_rate=1e-2, epochs=500, seed=0)
fit.problem; fit.history
"""

FIELDS = """
X, Y = ps.coordinates("X Y")
u, v = ps.fields("u v", X, Y)
A, B, alpha = ps.parameters("A B alpha")
brusselator = ps.PDESystem(
    [ps.Eq(ps.D(u), B + u**2*v - (A + 1)*u + alpha*ps.laplacian(u)),
     ps.Eq(ps.D(v), A*u - u**2*v + alpha*ps.laplacian(v))],
    domain={X: (0, 1), Y: (0, 1)}, boundary={X: ps.Periodic(), Y: ps.Periodic()},
    initial={u: 22*(Y*(1 - Y))**sp.Rational(3, 2), v: 27*(X*(1 - X))**sp.Rational(3, 2)})
sol = ps.solve(brusselator.discretize({X: 32, Y: 32}).problem((0, 11.5), {A: 1, B: 3.4, alpha: 10.0}))
sol.u.isel(t=-1).plot()
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One namespace in which the examples run one after the other."""
    return {"folder": tmp_path_factory.mktemp("session")}


def run(code: str, session: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(session["folder"])
    try:
        exec(code, session)
    finally:
        plt.close("all")


def test_models_problems_and_solutions(session: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run(MODEL + PROBLEM + SOLVE, session, monkeypatch)
    sol = session["sol"]
    assert sol.attrs["engine"] == "jax"
    assert sol.x.dims == ("t",)
    # the quantity that Lotka-Volterra keeps
    kept = sol.x - 3 * np.log(sol.x) + sol.y - 1.5 * np.log(sol.y)
    assert float(abs(kept - kept[0]).max()) < 1e-6
    assert Path(session["folder"], "lotka.nc").stat().st_size > 0


def test_ensembles(session: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run(NOISE + ENSEMBLES, session, monkeypatch)
    assert session["sweep"].x.sizes == {"a": 50, "b": 40, "t": 101}
    paths = session["paths"]
    assert paths.x.dims == ("trajectory", "t")
    assert paths.sizes["trajectory"] == 10_000
    assert float(paths.x.isel(t=-1).std()) > 0


def test_comparisons(session: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "compare leaves the julia engine empty")
        run(COMPARE, session, monkeypatch)
    table = session["table"]
    assert table.solver.values.tolist() == ["native TRBDF2", "jax Tsit5", "julia Vern9"]
    installed = table.where((table.retcode != "Unavailable").all("tolerance"), drop=True)
    assert installed.sizes["solver"] >= 2
    assert (installed.error.max("solver") < 1e-1).all()
    assert (installed.error.isel(tolerance=-1) < 1e-5).all()


def test_fields(session: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run(MODEL + FIELDS, session, monkeypatch)
    sol = session["sol"]
    assert sol.u.dims == ("t", "X", "Y")
    assert sol.u.shape[1:] == (32, 32)
    # alpha = 10 mixes everything long before the end, where the well-mixed reaction rests at u = B, v = A/B
    np.testing.assert_allclose(sol.u.isel(t=-1), 3.4, rtol=1e-2)
    np.testing.assert_allclose(sol.v.isel(t=-1), 1 / 3.4, rtol=1e-2)


def test_networks(session: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    code = NETWORKS.replace("epochs=500", "epochs=40")  # which is enough to see that it learns
    run(MODEL + PROBLEM + "sol = ps.solve(problem, saveat=0.1)\n" + code, session, monkeypatch)
    fit = session["fit"]
    assert {"loss", "regularization", "n_rhs", "seconds"} <= set(fit.history)
    assert float(fit.history.loss[-1]) < 0.8 * float(fit.history.loss[0])
    assert session["ps"].solve(fit.problem).attrs["retcode"] == "Success"
