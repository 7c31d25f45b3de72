"""Files of partial differential equations: the equations as data, and the grid where there is one.

The equations are kept, not what is made of them on a grid: a file is as short for a fine grid as
for a coarse one, and everything in it passes the checks that a user's own equations pass.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import sympy as sp

from pysciml.errors import ModelError, ProblemError
from pysciml.files import writing
from pysciml.pde.boundary import Boundary, End, Periodic, Robin
from pysciml.pde.discrete import DiscreteSystem
from pysciml.pde.grid import Axis
from pysciml.pde.system import PDESystem
from pysciml.symbolic.expressions import Reader, Writer
from pysciml.symbolic.files import _Checked, network_entries, read_networks

FORMAT: Final = "pysciml-pde"
_VERSION: Final = 1


def save(
    system: PDESystem, path: str | Path, grid: DiscreteSystem | None = None, weights: Mapping[Any, Any] | None = None
) -> None:
    """See `PDESystem.save` and `DiscreteSystem.save`."""
    write = Writer()
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": _VERSION,
        "name": system.name,
        "equations": [[write(side) for side in equation.args] for equation in system.equations],
        "domain": [[write(x), *system.domain[x]] for x in system.coordinates],
        "boundary": [
            [write(f), write(x), None if sides is None else [_end(end, write) for end in sides]]
            for (f, x), sides in system.boundary.items()
        ],
        "initial": [[write(f), order, write(expr)] for (f, order), expr in system.initial.items()],
        "parameters": [write(p) for p in system.parameters],
        "observed": [[write(key), write(expr)] for key, expr in system.observed.items()],
    }
    if grid is not None:
        document["grid"] = {
            "cells": [_cells(axis) for axis in grid.axes],
            "order": grid.order,
            "scheme": grid.scheme,
            "positive": [f.func.__name__ for f in grid.positive],
        }
        if system.constrained and grid.elimination is None:
            document["grid"]["eliminate"] = False
    if system.networks:
        document["networks"] = network_entries(system.networks, system._weights, {} if weights is None else weights)
    elif weights:
        raise ProblemError(f"weights has {next(iter(weights))}, and the system {system.name!r} has no networks")
    document["nodes"] = write.nodes
    document["digest"] = _digest(document)
    with writing(path) as temporary:
        temporary.write_text(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _cells(axis: Axis) -> int | list[float]:
    """The number of cells where it says all, else their edges."""
    even = axis.low + (axis.high - axis.low) * np.arange(axis.n + 1) / axis.n
    even[-1] = axis.high
    return axis.n if np.array_equal(even, axis.edges) else axis.edges.tolist()


def _digest(document: dict[str, Any]) -> str:
    """What tells a damaged or changed file; it is no signature."""
    content = {key: value for key, value in document.items() if key != "digest"}
    text = json.dumps(content, ensure_ascii=True, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read(document: dict[str, Any]) -> PDESystem | DiscreteSystem:
    """What `save` wrote, from a file that is not trusted.

    Raises
    ------
    ModelError
        Saying what is wrong with it.
    """
    checked = _Checked(document, "")
    if checked.get("version", int) != _VERSION:
        raise ModelError(f"its version is {checked.get('version', int)}; this pysciml reads version {_VERSION}")
    if checked.get("digest", str) != _digest(document):
        raise ModelError("the digest does not match the content: the file was changed or damaged")
    try:
        networks, weights = read_networks(checked)
    except ProblemError as error:
        raise ModelError(str(error)) from error
    expression = Reader(checked.get("nodes", list), {network.name: network for network in networks})
    try:
        system = _system(checked, expression)
        system._weights.update(weights)
        return _grid(system, checked.object("grid")) if checked.has("grid") else system
    except ModelError:
        raise
    except Exception as error:  # a file with a digest of its own can ask SymPy for anything
        raise ModelError(f"it describes no equations: {type(error).__name__}: {error}") from error


def _rows(document: _Checked, key: str, length: int) -> list[list[Any]]:
    rows = document.get(key, list)
    if not all(isinstance(row, list) and len(row) == length for row in rows):
        raise ModelError(f"{key} has an entry that is not a list of {length}")
    return rows


def _system(document: _Checked, expression: Reader) -> PDESystem:
    boundary: dict[Any, dict[Any, Any]] = {}
    for field, x, sides in _rows(document, "boundary", 3):
        boundary.setdefault(expression(x), {})[expression(field)] = _condition(sides, expression)
    initial: dict[Any, Any] = {}
    for field, order, value in _rows(document, "initial", 3):
        function = expression(field)
        if order not in (0, 1) or isinstance(order, bool):
            raise ModelError("initial has an order that is neither 0 nor 1")
        initial[sp.Derivative(function, function.args[0]) if order else function] = expression(value)
    domain = _rows(document, "domain", 3)
    if not all(type(end) in (int, float) for _, *ends in domain for end in ends):
        raise ModelError("domain has an end that is no number")
    return PDESystem(
        [sp.Eq(expression(left), expression(right), evaluate=False) for left, right in _rows(document, "equations", 2)],
        domain={expression(x): (low, high) for x, low, high in domain},
        boundary=boundary,
        initial=initial,
        parameters=[expression(p) for p in document.get("parameters", list)],
        observed={expression(key): expression(value) for key, value in _rows(document, "observed", 2)},
        name=document.get("name", str),
    )


def _end(conditions: End, write: Writer) -> list[Any]:
    """``[a, b, value]`` of the one condition at an end, or a list of ``[a, b, value, order]``."""
    rows = [[write(e) for e in (side.a, side.b, side.value)] for side in conditions]
    if len(rows) == 1 and conditions[0].order == 1:
        return rows[0]
    return [[*row, side.order] for row, side in zip(rows, conditions, strict=True)]


def _condition(sides: Any, expression: Reader) -> Any:
    if sides is None:
        return Periodic()
    if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(end, list) for end in sides):
        raise ModelError("boundary has an entry that is not the conditions at both ends")
    parts: list[Boundary] = []
    for name, end in zip(("lower", "upper"), sides, strict=True):
        for row in end if all(isinstance(row, list) for row in end) else [[*end, 1]]:
            if len(row) != 4:
                raise ModelError("boundary has a condition that is not [a, b, value]")
            a, b, value = (expression(n) for n in row[:3])
            parts.append(Robin(a, b, order=row[3], **{name: value}))
    return parts


def _grid(system: PDESystem, document: _Checked) -> DiscreteSystem:
    cells = document.get("cells", list)
    if len(cells) != len(system.coordinates):
        raise ModelError("grid.cells has not one entry for each coordinate")
    order, scheme = document.get("order", int), document.get("scheme", str)
    points = dict(zip(system.coordinates, cells, strict=True))
    eliminate = document.get("eliminate", bool) if document.has("eliminate") else True
    return system.discretize(points, order, scheme, positive=document.names("positive"), eliminate=eliminate)
