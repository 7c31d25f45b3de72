"""Marks on terms: what a model says of them besides their value."""

from __future__ import annotations

from typing import Any, Self

import sympy as sp

from pysciml.errors import ModelError
from pysciml.symbolic.variables import scalar


class implicit(sp.Function):  # noqa: N801  (named as SymPy names its functions)
    """Mark a term as one to be solved for implicitly; its value is that of the term.

    Methods that treat one part of the right-hand side implicitly and the other explicitly (IMEX: ``KenCarp4``,
    ``ARS343``, ``SBDF2``, ``CNAB2`` and others of ``engine="julia"``) take the marked terms as the implicit
    part: the stiff ones, and best those that are cheap to solve for. Exponential Runge-Kutta methods (``ETDRK4``,
    ``HochOst4``, ``LawsonEuler`` and others) take them exactly; for these they must be linear in the states, with
    coefficients that do not depend on time. Every other method, and every other engine, solves the whole right-hand
    side as if there were no marks.

    Parameters
    ----------
    expression : SymPy expression
        A term of a right-hand side, a factor of a term, or a sum of terms.

    Returns
    -------
    SymPy expression
        ``expr.replace(implicit, lambda term: term)`` takes the marks off again.

    Raises
    ------
    ModelError
        If it is no scalar expression; and by `System`, if a mark stands inside of a function, a denominator or
        another mark, where it does not split the right-hand side into a sum.

    Notes
    -----
    The fields of a `PDESystem` need no marks: there the terms that are linear in the fields, with coefficients that do
    not change in time, are the implicit part. Where values at their boundaries move, adaptive methods solve for the
    whole.

    Where a term that is not marked enters the equation of a stiff state, the order of these methods falls. The
    KenCarp methods' estimate of the error, smoothed by the implicit part as is their default, does not see it; it is
    taken as it is here, and the solution's attributes say ``KenCarp4(smooth_est=false)``. Who wants fewer steps, and
    knows the stiff states not to matter, names ``"KenCarp4(smooth_est=true)"``.

    U. M. Ascher, S. J. Ruuth & R. J. Spiteri, Appl. Numer. Math. 25 (1997) 151-167; C. A. Kennedy & M. H.
    Carpenter, Appl. Numer. Math. 44 (2003) 139-181.

    Examples
    --------
    >>> System([Eq(D(x), implicit(-k*(x - sympy.cos(t))) + y), Eq(D(y), -x*y)])
    """

    nargs = 1

    def __new__(cls, expression: Any, **options: Any) -> Self:
        """Make the mark; SymPy's own constructor would evaluate text."""
        checked = scalar(expression)
        if checked is None:
            raise ModelError(f"implicit({expression!r}): not an expression that can be marked")
        made: Any = super().__new__(cls, checked, **options)
        return made

    @classmethod
    def eval(cls, argument: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A number needs no mark, and marking twice is marking once."""
        return argument if argument.is_Number or isinstance(argument, cls) else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The derivative by the term."""
        return sp.Integer(1)

    def _eval_evalf(self, prec: int) -> Any:
        term: Any = self.args[0]
        return term._eval_evalf(prec)
