"""Noise in partial differential equations: read from the equations, and put on the grid.

White noise over some coordinates becomes its mean over each cell: independent Wiener processes
divided by the square root of the cell's size in those coordinates (see `pysciml.brownian`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from pysciml.errors import ModelError, UnsupportedError
from pysciml.pde.grid import spread
from pysciml.symbolic.variables import BrownianMotion

if TYPE_CHECKING:
    from pysciml.pde.lowering import Lowering
    from pysciml.pde.system import PDESystem


class Parts(NamedTuple):
    """Equations with their noise taken apart.

    Attributes
    ----------
    rates : dict
        As they came, without noise.
    noise : tuple of BrownianMotion
    diffusion : dict
        (Field, noise) -> what the noise is multiplied with.
    """

    rates: dict[Any, tuple[int, sp.Expr]]
    noise: tuple[BrownianMotion, ...]
    diffusion: dict[tuple[Any, BrownianMotion], sp.Expr]


def read_noise(system: PDESystem, rates: Mapping[Any, tuple[int, sp.Expr]]) -> Parts:
    """Take the noise out of the rates.

    Raises
    ------
    ModelError
        If the noise is no factor, or over something that is no coordinate.
    """
    found: dict[BrownianMotion, None] = {}
    diffusion: dict[tuple[Any, BrownianMotion], sp.Expr] = {}
    result: dict[Any, tuple[int, sp.Expr]] = {}
    for field, (order, rate) in rates.items():
        where = f"the equation of {field.func.__name__}"
        motions = sorted(rate.atoms(BrownianMotion), key=lambda w: w.name)
        for w in motions:
            if any(expr.has(w) for expr in rate.atoms(sp.Derivative, sp.Integral)):
                raise ModelError(
                    f"{where}: {w} stands under a derivative or an integral: noise is a factor", symbol=w.name
                )
            outside = [x for x in w.over if x not in system.coordinates]
            if outside:
                raise ModelError(
                    f"{where}: {w} is noise over {outside[0]}, which is no coordinate of the fields", symbol=w.name
                )
            slope: Any = sp.diff(rate, w)
            if slope.has(BrownianMotion):
                raise ModelError(f"{where}: it is not linear in the noise {w}", symbol=w.name)
            diffusion[field, w] = slope
            found[w] = None
        rest: Any = rate.xreplace(dict.fromkeys(motions, sp.Integer(0))) if motions else rate
        result[field] = order, rest
    if found and system.steady:
        raise ModelError(f"{system.name} has noise and no time derivative", symbol=next(iter(found)).name)
    return Parts(result, tuple(found), diffusion)


class Noise:
    """The noise of a system on a grid.

    Attributes
    ----------
    nodes : list of int
        For each field and noise that drives it: what the processes are multiplied with, cell by cell.
    entries : dict
        What `pysciml.graph.Model` has of it.
    """

    def __init__(self, low: Lowering) -> None:
        b, system, shape = low.b, low.system, low.shape
        self.nodes: list[int] = []
        rows: list[Any] = []
        cols: list[Any] = []
        size = int(np.prod(shape))
        starts: dict[Any, int] = {}
        total = 0
        for w in system.noise:
            starts[w] = total
            total += int(np.prod([shape[low.number[x]] for x in w.over]))
        for (field, w), coefficient in system.diffusion.items():
            try:
                node = low(coefficient)
            except (ModelError, UnsupportedError) as error:
                raise type(error)(f"the equation of {field.func.__name__}, noise {w}: {error}") from error
            for x in w.over:
                axis = low.axes[low.number[x]]
                if axis.chebyshev:
                    raise UnsupportedError(
                        f"noise over {x} needs cells, and scheme='spectral' has points there: take scheme='central'"
                    )
                widths = np.diff(axis.edges)
                share = 1 / np.sqrt(axis.h) if axis.uniform else None
                factor = b.constant(float(share)) if share is not None else b.table(self._along(low, x, widths))
                node = b.mul(node, factor)
            self.nodes.append(b.spread(node, shape))
            state = low.state[field, system.orders[field] - 1]
            rows.append(state * size + np.arange(size))
            places = [
                np.arange(n) if low.system.coordinates[k] in w.over else np.zeros(n, int) for k, n in enumerate(shape)
            ]
            sizes = [n if low.system.coordinates[k] in w.over else 1 for k, n in enumerate(shape)]
            mesh = np.meshgrid(*places, indexing="ij")
            cols.append(starts[w] + np.ravel_multi_index(mesh, sizes).ravel())
        self.entries: dict[str, Any] = {
            "noise": tuple(w.name for w in system.noise),
            "noise_cells": total,
            "noise_type": _kind(system),
            "diffusion_rows": np.concatenate(rows).astype(np.int32),
            "diffusion_cols": np.concatenate(cols).astype(np.int32),
        }

    @staticmethod
    def _along(low: Lowering, x: Any, widths: Any) -> Any:
        return spread(1 / np.sqrt(widths), low.number[x], low.ndim)


def _kind(system: PDESystem) -> str:
    """Additive, diagonal (each state has a process of its own) or general."""
    if not any(c.atoms(AppliedUndef) for c in system.diffusion.values()):
        return "additive"
    fields = [field for field, _ in system.diffusion]
    motions = [w for _, w in system.diffusion]
    alone = len(set(fields)) == len(fields) and len(set(motions)) == len(motions)
    everywhere = all(set(w.over) == set(system.coordinates) for w in motions)
    pointwise = not any(c.has(sp.Derivative, sp.Integral) for c in system.diffusion.values())
    own = all(c.atoms(AppliedUndef) <= {f} for (f, _), c in system.diffusion.items())
    first = all(system.orders[f] == 1 for f in fields)
    return "diagonal" if alone and everywhere and pointwise and own and first else "general"
