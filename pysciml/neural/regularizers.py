"""Regularizers: what is added to a training loss so that the learned equation is cheap to solve.

They are descriptions; `pysciml.neural.terms` evaluates them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from pysciml.errors import ProblemError
from pysciml.hints import named_fields
from pysciml.problem import number

Aggregate = Literal["sum", "mean", "max"]


@dataclass(frozen=True)
class Regularizer:
    """A term ``weight * R`` of a training loss.

    Parameters
    ----------
    weight : float
        Its coefficient; at the first epoch, where ``final`` is given.
    final : float, optional
        The coefficient at the last epoch: in between it decays exponentially, as Pal et al. (2021)
        anneal it, so that the term does not overpower the loss once the solve is cheap.

    Raises
    ------
    ProblemError
        Naming the argument that makes no sense.
    """

    weight: float = 1.0
    final: float | None = None

    #: Whether it takes no weight: it changes how is solved, not what is minimized.
    bare: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("weight", "final"):
            value = getattr(self, name)
            if value is None and name == "final":
                continue
            value = number(value, f"{type(self).__name__}: {name}", name)
            if value < 0 or (self.final is not None and value == 0):
                above = "positive, to decay exponentially" if self.final is not None else "0 or more"
                raise ProblemError(f"{type(self).__name__}: {name} must be {above}, not {value:g}", symbol=name)

    def coefficient(self, progress: Any) -> Any:
        """The coefficient at ``progress`` from 0 (first epoch) to 1 (last epoch)."""
        if self.final is None:
            return self.weight
        return self.weight * (self.final / self.weight) ** progress

    def __add__(self, other: Any) -> tuple[Regularizer, ...]:
        return read_regularizers((self, other))

    def __radd__(self, other: Any) -> tuple[Regularizer, ...]:
        return read_regularizers((other, self))


def _one_of(owner: object, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(owner, name)
    if value not in allowed:
        raise ProblemError(
            f"{type(owner).__name__}: {name} must be {' or '.join(map(repr, allowed))}, not {value!r}", symbol=name
        )


@named_fields()
@dataclass(frozen=True)
class ErrorEstimate(Regularizer):
    r"""The solver's own error estimates: :math:`\sum_j E_j |h_j|` (Pal et al. 2021, *Opening the Blackbox*).

    :math:`E_j` is the estimate of the local error of step j relative to the tolerance (root mean
    square, at most 1 for an accepted step), :math:`h_j` its size.

    Parameters
    ----------
    weight, final : float
        See `Regularizer`.
    aggregate : {"sum", "mean", "max"}
        Over the steps; the paper's experiments took the mean.
    through_steps : bool, default False
        Whether step sizes are differentiated, too. By default they are not, as in the papers: the
        controller of the solver their experiments differentiate takes the error estimate without
        its derivative, so that steps are those of a grid chosen in advance. It is what works, too:
        the exact derivative of the adaptive solve knows that a controller keeps :math:`E_j` near its
        target whatever the weights are, and so has little to say; with the steps as given,
        evaluations fall much further.

    Examples
    --------
    >>> fit(problem, data, trainable=["nn"], regularize=ErrorEstimate(weight=1.0, final=0.1))
    """

    aggregate: Aggregate = "sum"
    through_steps: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of(self, "aggregate", ("sum", "mean", "max"))


@named_fields()
@dataclass(frozen=True)
class StiffnessEstimate(Regularizer):
    r"""The solver's stiffness estimates: :math:`\sum_j S_j` (Pal et al. 2021).

    :math:`S_j = \|f(z) - f(k)\| / \|z - k\|` of the last two stages of a step, which are at the same
    time (Shampine, ACM Trans. Math. Software 3, 1977), over the size of the method's stability
    region, as SciML's solvers scale it.

    Stability limits the steps of a loosely solved or stiff equation, accuracy those of a tightly
    solved smooth one: there, expect little of this term and more of `ErrorEstimate`. So it was in
    the papers: an image classifier took 259 evaluations with this term, 177 with the other; a time
    series model 273 and 287 (Pal et al. 2023, tables 1 and 2).

    Parameters
    ----------
    weight, final, aggregate, through_steps
        See `ErrorEstimate`; the paper's experiments took the maximum, with a constant weight.
    """

    weight: float = 0.1
    aggregate: Aggregate = "sum"
    through_steps: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of(self, "aggregate", ("sum", "mean", "max"))


@named_fields()
@dataclass(frozen=True)
class LocalErrorEstimate(Regularizer):
    r"""The error estimate of one step at a random time: :math:`E |h|` (Pal et al. 2023, *Locally Regularized*).

    The state there is taken as given, as in the papers' code; only the one step is differentiated,
    which costs next to nothing and works with any way of differentiating the solve (``adjoint`` of
    `fit`).

    Parameters
    ----------
    weight, final : float
        See `Regularizer`.
    sampling : {"unbiased", "biased"}
        The time: uniform in the span, or one of those the solver stopped at (more often where it
        has difficulties). The step has the size the solver took there.
    """

    weight: float = 2.5
    sampling: Literal["unbiased", "biased"] = "unbiased"

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of(self, "sampling", ("unbiased", "biased"))


@named_fields()
@dataclass(frozen=True)
class LocalStiffnessEstimate(Regularizer):
    """The stiffness estimate of one step at a random time; see `LocalErrorEstimate`.

    Pal et al. (2023) tried it and did not report its results, as they were not positive.
    """

    weight: float = 0.1
    sampling: Literal["unbiased", "biased"] = "unbiased"

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of(self, "sampling", ("unbiased", "biased"))


@named_fields()
@dataclass(frozen=True)
class TaylorDerivative(Regularizer):
    r"""High derivatives of the solution: :math:`\int \|d^K z/dt^K\|^2 dt` (Kelly et al. 2020, TayNODE).

    The mean square over the states, by Taylor-mode differentiation, integrated along the solve.

    Parameters
    ----------
    order : int, default 2
        K: 1 penalizes speed; solvers of order p are cheap where derivatives of order p + 1 are small.
    weight, final : float
        See `Regularizer`.
    """

    order: int = 2
    weight: float = 0.01
    final: float | None = None

    def __init__(self, order: int = 2, weight: float = 0.01, final: float | None = None) -> None:
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "final", final)
        super().__post_init__()
        if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= 10:
            raise ProblemError(
                f"TaylorDerivative: order must be an integer from 1 to 10, not {order!r}", symbol="order"
            )


@named_fields()
@dataclass(frozen=True)
class KineticEnergy(Regularizer):
    r"""The mean square of the derivative: :math:`\int \|f\|^2 dt` (Finlay et al. 2020, RNODE, eq. 8)."""

    weight: float = 0.01


@named_fields()
@dataclass(frozen=True)
class JacobianNorm(Regularizer):
    r"""The size of the field's Jacobian: :math:`\int \|\nabla f \, \epsilon\|^2 dt` (Finlay et al. 2020, RNODE, eq. 9).

    An unbiased estimate of the squared Frobenius norm, with one random normal vector :math:`\epsilon` for each solve.
    It has the distribution of the paper's :math:`\|\epsilon^T \nabla f\|^2`, as a square matrix and its transpose have
    the same singular values, and needs derivatives forward alone.
    """

    weight: float = 0.01


@named_fields()
@dataclass(frozen=True)
class RandomEndTime(Regularizer):
    r"""Solving to a random time around the end: uniform in :math:`T \pm b` (Ghosh et al. 2020, STEER).

    In a fit, every observation is compared with the solution at its time plus such a shift.

    Parameters
    ----------
    b : float, default 0.5
        In the unit of time; less than the span (in a fit: than the time between observations).
    """

    b: float = 0.5
    bare: ClassVar[bool] = True

    def __init__(self, b: float = 0.5) -> None:
        object.__setattr__(self, "b", number(b, "RandomEndTime: b", "b"))
        object.__setattr__(self, "weight", 0.0)
        object.__setattr__(self, "final", None)
        if not self.b > 0:
            raise ProblemError(f"RandomEndTime: b must be positive, not {b!r}", symbol="b")


def read_regularizers(given: Any) -> tuple[Regularizer, ...]:
    """One regularizer, several, or None, as a tuple; `ProblemError` names what is none."""
    if given is None:
        return ()
    if isinstance(given, Regularizer):
        return (given,)
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        found: list[Regularizer] = []
        for item in cast("Iterable[Any]", given):
            found.extend(read_regularizers(item))
        kinds = [type(item) for item in found]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ProblemError(f"regularize has {kind.__name__} twice", symbol="regularize")
        return tuple(found)
    raise ProblemError(
        "regularize must be a regularizer such as pysciml.ErrorEstimate(weight=0.1), or several in a list, not "
        f"{given!r}",
        symbol="regularize",
    )
