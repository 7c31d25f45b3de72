"""ETDRK4: the linear part exactly, the rest by a Runge-Kutta method of order four.

S. M. Cox & P. C. Matthews, J. Comput. Phys. 176 (2002) 430-455, with the coefficients as contour
integrals: A.-K. Kassam & L. N. Trefethen, SIAM J. Sci. Comput. 26 (2005) 1214-1233.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from pysciml.engines.base import Array, RawSolution, SolveOptions
from pysciml.engines.jax.compiling import compiled, double_precision
from pysciml.engines.jax.fields.spectral import spectral_evaluator
from pysciml.engines.steps import whole_steps
from pysciml.errors import ProblemError, UnsupportedError
from pysciml.graph import Model
from pysciml.graph import array_ops as ao
from pysciml.graph.field_jacobian import near_nodes
from pysciml.graph.field_modes import answers, separate
from pysciml.graph.fields import FieldGraph

#: Points of the contour.
_CONTOUR: Final = 32
#: Steps between two looks at the keyboard.
_SLICE: Final = 2000


def _check(model: Model, tspan: tuple[float, float], options: SolveOptions) -> FieldGraph:
    graph = model.graph
    assert isinstance(graph, FieldGraph)
    if tspan[1] < tspan[0]:
        raise ProblemError("ETDRK4 does not run backward in time", symbol="tspan")
    if len(set(graph.fields)) > 1 or ao.APPLY in graph.op[near_nodes(graph, "rhs")]:
        raise UnsupportedError("ETDRK4 needs a periodic domain in all directions", engine="jax", algorithm="ETDRK4")
    return graph


def symbols(parts: FieldGraph, p: Array) -> list[np.ndarray[Any, Any]]:
    """The linear part of each field by modes, from its answer to one cell.

    Raises
    ------
    UnsupportedError
        If it is not the same at every place: the domain is not periodic.
    """
    found = answers(parts, p)
    if found is None:
        raise UnsupportedError("ETDRK4 needs a periodic domain in all directions", engine="jax", algorithm="ETDRK4")
    return [np.fft.rfftn(image) for image in found]


def coefficients(symbol: np.ndarray[Any, Any], h: float) -> tuple[Any, ...]:
    """``exp(hL), exp(hL/2), Q, f1, f2, f3`` of every mode."""
    z = h * symbol
    real = np.abs(z.imag).max() <= 1e-13 * np.abs(z).max()  # then half of the work is spared
    circle = np.exp(2j * np.pi * (np.arange(1, _CONTOUR + 1) - 0.5) / _CONTOUR)
    q, f1, f2, f3 = (np.zeros_like(z) for _ in range(4))
    for point in circle:
        r = z + point
        e = np.exp(r)
        q += (np.exp(r / 2) - 1) / r
        f1 += (-4 - r + e * (4 - 3 * r + r**2)) / r**3
        f2 += (2 + r + e * (-2 + r)) / r**3
        f3 += (-4 - 3 * r - r**2 + e * (4 - r)) / r**3
    found: tuple[Any, ...] = (np.exp(z), np.exp(z / 2), *(h * part / _CONTOUR for part in (q, f1, f2, f3)))
    return tuple(part.real.copy() for part in found) if real else found


def real_modes(modes: Any, shape: tuple[int, ...]) -> Any:
    """The modes of a real field nearest to some modes.

    Of real transforms along several axes the planes where the last axis has its lowest and highest mode are symmetric.
    What rounding puts beside that no transform back sees, and so nothing holds it where modes grow.
    """
    if len(shape) == 1:
        return modes
    others = tuple(range(len(shape) - 1))
    for plane in (0, shape[-1] // 2) if shape[-1] % 2 == 0 else (0,):
        values = modes[..., plane]
        mirrored = jnp.roll(jnp.flip(values, others), (1,) * len(others), others)
        modes = modes.at[..., plane].set((values + jnp.conj(mirrored)) / 2)
    return modes


def solve(model: Model, u0: Array, p: Array, tspan: tuple[float, float], options: SolveOptions) -> RawSolution:
    """Solve; see `pysciml.engines.base.Engine.solve`."""
    graph = _check(model, tspan, options)
    h, times, marks = whole_steps("ETDRK4", tspan, options)
    parts = separate(graph)
    if parts is None:
        raise UnsupportedError(
            "ETDRK4 needs a linear part with constant coefficients, and the equations have none",
            engine="jax",
            algorithm="ETDRK4",
        )
    tables = tuple(coefficients(symbol, h) for symbol in symbols(parts, p))
    shape = graph.fields[0]
    rest = spectral_evaluator(parts, "rest")

    def run(modes: Any, first: Any, n: Any, t0: Any, h: Any, p: Any, tables: Any) -> Any:
        def stage(v: Any, combine: Any) -> list[Any]:
            return [combine(k, table) for k, table in zip(range(len(v)), tables, strict=True)]

        def body(k: Any, v: Any) -> Any:
            t = t0 + (first + k) * h
            nv = rest(t, v, p)
            a = stage(v, lambda i, w: w[1] * v[i] + w[2] * nv[i])
            na = rest(t + h / 2, a, p)
            b = stage(v, lambda i, w: w[1] * v[i] + w[2] * na[i])
            nb = rest(t + h / 2, b, p)
            c = stage(v, lambda i, w: w[1] * a[i] + w[2] * (2 * nb[i] - nv[i]))
            nc = rest(t + h, c, p)
            new = stage(v, lambda i, w: w[0] * v[i] + w[3] * nv[i] + 2 * w[4] * (na[i] + nb[i]) + w[5] * nc[i])
            return tuple(real_modes(m, shape) for m in new)

        return jax.lax.fori_loop(0, n, body, modes)

    modes: Any = tuple(np.fft.rfftn(part) for part in graph.split(u0))
    scalars = (np.int64(0), np.int64(1), np.float64(tspan[0]), np.float64(h), np.asarray(p, dtype=np.float64))
    kinds = tuple(table[0].dtype.kind for table in tables)
    call, compile_seconds = compiled((model.hash, "etdrk4", kinds), lambda: run, modes, *scalars, tables)
    begin = time.perf_counter()
    done, retcode, rows, kept = 0, "Success", [], []
    try:
        with double_precision():
            for time_, mark in zip(times, marks.tolist(), strict=True):
                while done < mark and retcode == "Success":
                    n = min(mark - done, _SLICE, options.max_steps - done)
                    if n <= 0:
                        retcode = "MaxIters"
                        break
                    modes = call(modes, np.int64(done), np.int64(n), *scalars[2:], tables)
                    done += n
                    if options.progress:
                        sys.stderr.write(f"\r{model.name}: {100 * done * h / (tspan[1] - tspan[0]):.1f} %")
                state = np.concatenate(
                    [np.fft.irfftn(m, s=shape, axes=range(len(shape))).ravel() for m in np.asarray(modes)]
                )
                if not np.isfinite(state).all():
                    retcode = "Unstable"
                if retcode != "Success":
                    break
                rows.append(u0 if mark == 0 else state)
                kept.append(time_)
    except KeyboardInterrupt:
        retcode = "Interrupted"
    messages = {
        "Unstable": "the solution is not finite any more: take a smaller dt",
        "MaxIters": f"max_steps={options.max_steps} steps were not enough",
        "Interrupted": "interrupted by the user",
    }
    return RawSolution(
        t=np.array(kept),
        u=np.stack(rows).T if rows else np.zeros((len(u0), 0)),
        algorithm="ETDRK4",
        retcode=retcode,
        message=messages.get(retcode, ""),
        n_steps=done,
        n_rejected=0,
        n_rhs=4 * done,
        solve_seconds=time.perf_counter() - begin,
        compile_seconds=compile_seconds,
    )
