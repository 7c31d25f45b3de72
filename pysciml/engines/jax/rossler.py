"""Stochastic Runge-Kutta methods of strong order 3/2 for scalar and diagonal noise, written out.

The schemes are those of Rößler, *Runge-Kutta methods for the strong approximation of solutions of
stochastic differential equations*, SIAM J. Numer. Anal. 48 (2010): SRI for noise that depends on
the state (eq. 6.2), SRA for noise that does not (eq. 6.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import jax.numpy as jnp
import numpy as np

from pysciml.engines.base import Array
from pysciml.engines.jax.lower import Function
from pysciml.engines.jax.steppers import Step, combine
from pysciml.engines.jax.stochastic import LevyStepper, Noise, linear
from pysciml.graph import Model

_Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Tableau:
    """The coefficients of an SRI method; of an SRA method where ``a1`` and ``b1`` are zero.

    Attributes
    ----------
    a0, a1, b0, b1 : rows below the diagonal
        Of drift and noise, in the stages of the drift (0) and of the noise (1).
    alpha, beta1, beta2, beta3, beta4 : tuple of float
        Weights of the drift, and of the noise with ``I_1``, ``I_11/sqrt(h)``, ``I_10/h`` and
        ``I_111/h``.
    c1 : tuple of float
        Times of the noise.
    """

    a0: _Rows
    a1: _Rows
    b0: _Rows
    b1: _Rows
    alpha: tuple[float, ...]
    beta1: tuple[float, ...]
    beta2: tuple[float, ...]
    beta3: tuple[float, ...]
    beta4: tuple[float, ...]
    c1: tuple[float, ...]

    @property
    def c0(self) -> tuple[float, ...]:
        """Times of the drift."""
        return (0.0, *(sum(row) for row in self.a0))


#: Rößler 2010, table 6.2.
SRIW1: Final = Tableau(
    a0=((3 / 4,), (0, 0), (0, 0, 0)),
    a1=((1 / 4,), (1, 0), (0, 0, 1 / 4)),
    b0=((3 / 2,), (0, 0), (0, 0, 0)),
    b1=((1 / 2,), (-1, 0), (-5, 3, 1 / 2)),
    alpha=(1 / 3, 2 / 3, 0, 0),
    beta1=(-1, 4 / 3, 2 / 3, 0),
    beta2=(-1, 4 / 3, -1 / 3, 0),
    beta3=(2, -4 / 3, -2 / 3, 0),
    beta4=(-2, 5 / 3, -2 / 3, 1),
    c1=(0, 1 / 4, 1, 1 / 4),
)
#: Rackauckas & Nie, *Stability-optimized high order methods and stiffness detection for pathwise stiff stochastic
#: differential equations*, IEEE HPEC (2020).
SOSRI: Final = Tableau(
    a0=(
        (-0.04199224421316468,),
        (2.842612915017106, -2.0527723684000727),
        (4.338237071435815, -2.8895936137439793, 2.3017575594644466),
    ),
    a1=(
        (0.26204282091330466,),
        (0.20903646383505375, -0.1502377115150361),
        (0.05836595312746999, 0.6149440396332373, 0.08535117634046772),
    ),
    b0=(
        (-0.21641093549612528,),
        (1.5336352863679572, 0.26066223492647056),
        (-1.0536037558179159, 1.7015284721089472, -0.20725685784180017),
    ),
    b1=(
        (-0.5119011827621657,),
        (2.67767339866713, -4.9395031322250995),
        (0.15580956238299215, 3.2361551006624674, -1.4223118283355949),
    ),
    alpha=(1.140099274172029, -0.6401334255743456, 0.4736296532772559, 0.026404498125060714),
    beta1=(-1.8453464565104432, 2.688764531100726, -0.2523866501071323, 0.40896857551684956),
    beta2=(0.4969658141589478, -0.5771202869753592, -0.12919702470322217, 0.2093514975196336),
    beta3=(2.8453464565104425, -2.688764531100725, 0.2523866501071322, -0.40896857551684945),
    beta4=(0.11522663875443433, -0.57877086147738, 0.2857851028163886, 0.17775911990655704),
    c1=(0, 0.26204282091330466, 0.05879875232001766, 0.758661169101175),
)
#: The same paper, for additive noise.
SOSRA: Final = Tableau(
    a0=((0.6923962376159507,), (-3.1609142252828395, 4.1609142252828395)),
    a1=((0,), (0, 0)),
    b0=((1.3371632704399763,), (1.442371048468624, 1.8632741501139225)),
    b1=((0,), (0, 0)),
    alpha=(0.2889874966892885, 0.6859880440839937, 0.025024459226717772),
    beta1=(-16.792534242221663, 17.514995785380226, 0.27753845684143835),
    beta2=(0, 0, 0),
    beta3=(0.4237535769069274, 0.6010381474428539, -1.0247917243497813),
    beta4=(0, 0, 0),
    c1=(0, 0.041248171110700504, 1),
)
TABLEAUS: Final = {"SRIW1": SRIW1, "SOSRI": SOSRI, "SOSRA": SOSRA}


def separate(model: Model) -> bool:
    """Whether the noise is scalar or diagonal, or falls apart into such blocks.

    Every state is driven by at most one noise, and what multiplies it depends on no state that
    another noise drives.
    """
    rows, cols = model.diffusion_rows.tolist(), model.diffusion_cols.tolist()
    driver = dict(zip(rows, cols, strict=True))
    if len(driver) != len(rows):
        return False
    entries, states = model.graph.sparsity("diffusion")
    return all(driver.get(int(s), cols[int(e)]) == cols[int(e)] for e, s in zip(entries, states, strict=True))


class RosslerStepper(LevyStepper):
    """Itô, fixed step; see `LevyStepper` for the parameters."""

    def __init__(
        self, drift: Function, noise: Noise, tableau: Tableau, key: Any, start: Any, end: Any, depth: int
    ) -> None:
        self._path = self._make_path(noise, key, start, end, depth)
        self._drift, self._noise, self._tableau = drift, noise, tableau
        self._rows, self._cols = np.asarray(noise.rows), np.asarray(noise.cols)
        self.error_order = 1.5

    def init(self, t: Any, t_next: Any, y: Any, p: Any) -> Any:
        """See `Stepper.init`."""
        return None

    def step(self, t: Any, t_next: Any, y: Any, p: Any, state: Any, jumped: Any) -> Step:
        """See `Stepper.step`."""
        h = t_next - t
        root = jnp.sqrt(h)
        area = self._path.evaluate(t, t_next, use_levy=True)
        w = self._spread(y, area.W)
        once = 0.5 * w + self._spread(y, area.H)  # I_10 / h
        tab = self._tableau
        f: list[Any] = []
        g: list[Any] = []
        for i, (c0, c1) in enumerate(zip(tab.c0, tab.c1, strict=True)):
            drift_at = noise_at = y
            if i:
                drift_at = y + h * combine(tab.a0[i - 1], f) + once * combine(tab.b0[i - 1], g)
                noise_at = y + h * combine(tab.a1[i - 1], f) + root * combine(tab.b1[i - 1], g)
            f.append(self._drift(t + c0 * h, drift_at, p))
            entries = self._noise.entries(t + c1 * h, noise_at, p)
            g.append(jnp.zeros_like(y).at[self._rows].set(entries))
        weights = zip(tab.beta1, tab.beta2, tab.beta3, tab.beta4, strict=True)
        twice, thrice = (w**2 - h) / (2 * root), (w**3 - 3 * w * h) / (6 * h)  # I_11 / sqrt(h), I_111 / h
        new = y + h * combine(tab.alpha, f)
        for slope, (b1, b2, b3, b4) in zip(g, weights, strict=True):
            new = new + slope * (b1 * w + b2 * twice + b3 * once + b4 * thrice)
        return Step(new, None, {"y0": y, "y1": new}, None)

    def _spread(self, y: Any, values: Array) -> Any:
        """For every state, the number of the noise that drives it."""
        return jnp.zeros_like(y).at[self._rows].set(values[self._cols])

    def interpolate(self, t: Any, t_next: Any, dense: dict[str, Any]) -> Any:
        """See `Stepper.interpolate`."""
        return linear(t, t_next, dense)
