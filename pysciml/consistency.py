"""Initial values that fulfil the constraints, hidden ones too, of a system whose index was reduced."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pysciml.errors import ProblemError
from pysciml.graph import Model

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: How far given values may be from the constraints, relative to the states in them.
_NEAR = 1e-5
_ITERATIONS = 60


def consistent_start(model: Model, u0: Array, p: Array, t: float, given: Mask) -> Array:
    """Solve the constraints for the states that were not given.

    Newton's method from the values in ``u0``, with the least change where several would do. Given values stay, and have
    to fulfil what constraints say of them alone; what rounding leaves, an engine takes away at the start.

    Parameters
    ----------
    u0 : array, shape (n_states,)
    given : mask, shape (n_states,)
        Whose values stay. Algebraic states are left alone.

    Returns
    -------
    array, shape (n_states,)

    Raises
    ------
    ProblemError
        If there are none; it names the constraint that is violated and by how much, or the values that are missing.
    """
    if not model.constraints:
        return u0
    free = np.flatnonzero(model.differential & ~given)
    u = np.array(u0)
    for _ in range(_ITERATIONS if free.size else 0):
        residual, jacobian = _linearized(model, u, p, t)
        if not (np.isfinite(residual).all() and np.isfinite(jacobian).all()):
            break
        step = np.linalg.lstsq(jacobian[:, free], residual, rcond=1e-10)[0]
        damping, size = 1.0, float(np.linalg.norm(residual))
        while damping > 1e-4:
            trial = u.copy()
            trial[free] -= damping * step
            new = model.graph.evaluate("constraints", trial, p, t)
            if np.isfinite(new).all() and float(np.linalg.norm(new)) <= (1 - 0.1 * damping) * size:
                break
            damping /= 2
        else:
            break
        u = trial
        if np.all(np.abs(damping * step) <= 1e-15 * np.abs(u[free])):
            break
    _check(model, u, p, t, given)
    return u


def consistent_rows(model: Model, u0: Array, p: Array, t: float, given: Mask | None) -> Array:
    """`consistent_start` for every row, shapes (n, n_states) and (n, n_params)."""
    if not model.constraints:
        return u0
    mask = model.differential if given is None else given
    residual = np.broadcast_to(model.graph.evaluate("constraints", u0.T, p.T, t), (len(model.constraints), len(u0)))
    if np.all(residual == 0):
        return u0
    rows = [consistent_start(model, u, numbers, t, mask) for u, numbers in zip(u0, p, strict=True)]
    return np.array(rows)


def _linearized(model: Model, u: Array, p: Array, t: float) -> tuple[Array, Array]:
    graph, rows, cols = model.graph.jacobian("constraints")
    matrix = np.zeros((len(model.constraints), len(model.states)))
    matrix[rows, cols] = graph.evaluate("jacobian", u, p, t)
    return model.graph.evaluate("constraints", u, p, t), matrix


def _check(model: Model, u: Array, p: Array, t: float, given: Mask) -> None:
    residual, jacobian = _linearized(model, u, p, t)
    differential, names = model.differential, np.array(model.states)
    for i, phrase in enumerate(model.constraints):
        row = np.abs(jacobian[i])
        involved = row > 0
        largest = max(np.max(np.abs(u[involved]), initial=0.0), 1e-3 * np.max(np.abs(u[differential])))
        if not np.isfinite(residual[i]) or not np.isfinite(row).all():
            raise ProblemError(f"u0: {phrase}, is not finite at the initial values ({_values(model, u)})")
        if not involved.any():
            raise ProblemError(
                f"u0: {phrase}, says nothing of any state at the initial values ({_values(model, u)}): they are "
                "singular; start elsewhere"
            )
        distance = abs(residual[i]) / float(np.linalg.norm(jacobian[i]))
        if distance > _NEAR * largest + 1e-14:
            held = ", ".join(names[involved & given])
            loose = names[involved & ~given]
            advice = (
                f"leave out the value of one of {held}, which is then solved for"
                if not loose.size
                else f"no value of {', '.join(loose)} near {_values(model, u, loose.tolist())} mends it"
            )
            hidden = phrase.startswith("the ")
            raise ProblemError(
                f"u0 does not fulfil {'a hidden constraint, ' if hidden else ''}{phrase}: left minus right is "
                f"{residual[i]:.6g} at {_values(model, u, names[involved].tolist())}; {advice}",
                symbol=str(names[involved][0]),
            )
    asked = model.guessed if model.guessed is not None else ~differential
    open_ = np.flatnonzero(differential & ~given & ~asked)
    free = np.flatnonzero(differential & ~given)
    if open_.size:
        # Every direction in which the constraints leave the free states free must not move one that was to be given.
        _, sizes, directions = np.linalg.svd(jacobian[:, free])
        rank = int(np.sum(sizes > 1e-10 * np.max(sizes, initial=1e-300)))
        loose = np.abs(directions[rank:]).max(axis=0, initial=0.0) > 1e-8
        undetermined = [model.states[k] for k, moves in zip(free.tolist(), loose, strict=True) if moves and k in open_]
        if undetermined:
            raise ProblemError(
                f"u0 has no value for {', '.join(undetermined)}, and the constraints do not determine "
                f"{'it' if len(undetermined) == 1 else 'them'}: {'; '.join(model.constraints[:4])}",
                symbol=undetermined[0],
            )


def _values(model: Model, u: Array, names: list[str] | None = None) -> str:
    shown = [
        f"{name} = {value:.6g}"
        for name, value, differential in zip(model.states, u.tolist(), model.differential, strict=True)
        if (differential if names is None else name in names)
    ]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")
