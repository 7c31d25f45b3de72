"""The test problems: each written once, as a formula that NumPy, SymPy, CasADi, JAX and heyoka can all evaluate.

A right-hand side is a function ``rhs(t, y, p, m)`` of the time, a sequence of the components, a mapping of the
parameters and a module ``m`` that has ``sin cos exp sqrt``. So the peers and pysciml solve the same formula,
while a slip in pysciml's way from SymPy to machine code still shows: the references are computed from the NumPy
evaluation.

Sources:

- [HNW] E. Hairer, S. P. Nørsett, G. Wanner, *Solving Ordinary Differential Equations I*, 2nd ed., Springer 1993.
- [HW] E. Hairer, G. Wanner, *Solving Ordinary Differential Equations II*, 2nd ed., Springer 1996, section IV.10.
- [MM] F. Mazzia, C. Magherini, *Test Set for Initial Value Problem Solvers*, release 2.4, University of Bari 2008.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pysciml as ps

Formula = Callable[[Any, Sequence[Any], Mapping[str, Any], Any], Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class TestProblem:
    """An initial value problem with everything that a measurement needs.

    Attributes
    ----------
    times
        Where the solution is wanted, and where errors are measured.
    atol_factor
        Absolute tolerance over relative tolerance, fit for the size of the smallest component that matters.
    vector_rhs
        The same formula on whole arrays, where that is what a NumPy user would write.
    published
        End values from the literature: time, then values of the leading components.
    """

    __test__ = False  # not a test class, whatever its name says to pytest

    name: str
    title: str
    source: str
    rhs: Formula
    u0: tuple[float, ...]
    tspan: tuple[float, float]
    times: tuple[float, ...]
    p: Mapping[str, float] = dataclasses.field(default_factory=dict)
    stiff: bool = False
    atol_factor: float = 1.0
    vector_rhs: Formula | None = None
    published: tuple[tuple[float, tuple[float, ...]], ...] = ()

    @property
    def n(self) -> int:
        """How many equations."""
        return len(self.u0)

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states, in order."""
        return tuple(f"y{i + 1}" for i in range(self.n))

    def pysciml(self) -> ps.Problem:
        """Write the problem down through pysciml's public API."""
        import sympy as sp

        import pysciml as ps

        y = ps.variables(f"y1:{self.n + 1}")
        symbols = {name: ps.parameters(name) for name in self.p}
        right = self.rhs(ps.t, y, symbols, sp)
        system = ps.System([ps.Eq(ps.D(yi), fi) for yi, fi in zip(y, right, strict=True)], name=self.name)
        values = {symbols[name]: value for name, value in self.p.items()}
        return ps.Problem(system, u0=dict(zip(y, self.u0, strict=True)), tspan=self.tspan, p=values)

    def error(self, values: np.ndarray, reference: np.ndarray) -> float:
        """Largest ``|error| / (atol_factor + |reference|)`` over components and output times.

        Divided by the relative tolerance asked for, it is the achieved error in units of the tolerance.
        Both arrays are ``(n, n_times)``.
        """
        if values.shape != reference.shape or not np.all(np.isfinite(values)):
            return float("inf")
        return float(np.max(np.abs(values - reference) / (self.atol_factor + np.abs(reference))))


def lorenz_rhs(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (p["sigma"] * (y[1] - y[0]), y[0] * (p["rho"] - y[2]) - y[1], y[0] * y[1] - p["beta"] * y[2])


def pleiades_rhs(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    ax: list[Any] = [0] * 7
    ay: list[Any] = [0] * 7
    for i in range(7):
        for j in range(i + 1, 7):
            dx, dy = y[j] - y[i], y[7 + j] - y[7 + i]
            r2 = dx * dx + dy * dy
            r3 = r2 * m.sqrt(r2)
            fx, fy = dx / r3, dy / r3
            ax[i], ay[i] = ax[i] + (j + 1) * fx, ay[i] + (j + 1) * fy
            ax[j], ay[j] = ax[j] - (i + 1) * fx, ay[j] - (i + 1) * fy
    return (*[y[14 + i] for i in range(14)], *ax, *ay)


def pleiades_vector(t: Any, y: Any, p: Mapping[str, Any], m: Any) -> Any:
    x, z = y[:7], y[7:14]
    dx, dz = x[None, :] - x[:, None], z[None, :] - z[:, None]
    r2 = dx * dx + dz * dz + m.eye(7)
    weight = m.arange(1, 8) / (r2 * m.sqrt(r2))
    return m.concatenate([y[14:], (dx * weight).sum(axis=1), (dz * weight).sum(axis=1)])


def robertson_rhs(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    slow, back, fast = p["k1"] * y[0], p["k3"] * y[1] * y[2], p["k2"] * y[1] * y[1]
    return (back - slow, slow - back - fast, fast)


def hires_rhs(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    bound = 280.0 * y[5] * y[7] - 1.81 * y[6]
    return (
        -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
        1.71 * y[0] - 8.75 * y[1],
        -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
        8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
        -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
        -280.0 * y[5] * y[7] + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
        bound,
        -bound,
    )


def oregonator_rhs(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (
        p["s"] * (y[1] + y[0] * (1.0 - p["q"] * y[0] - y[1])),
        (y[2] - (1.0 + y[0]) * y[1]) / p["s"],
        p["w"] * (y[0] - y[2]),
    )


def van_der_pol_rhs(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (y[1], p["mu"] * ((1.0 - y[0] * y[0]) * y[1] - y[0]))


GRID = 32


def brusselator_rhs(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    size = GRID * GRID
    stiffness = p["alpha"] * GRID**2
    du, dv = [], []
    for i in range(GRID):
        for j in range(GRID):
            here = i * GRID + j
            around = (
                ((i + 1) % GRID) * GRID + j,
                ((i - 1) % GRID) * GRID + j,
                i * GRID + (j + 1) % GRID,
                i * GRID + (j - 1) % GRID,
            )
            u, v = y[here], y[size + here]
            spread_u = sum((y[k] for k in around[1:]), y[around[0]]) - 4 * u
            spread_v = sum((y[size + k] for k in around[1:]), y[size + around[0]]) - 4 * v
            reaction = u * u * v
            du.append(p["b"] + reaction - (p["a"] + 1) * u + stiffness * spread_u)
            dv.append(p["a"] * u - reaction + stiffness * spread_v)
    return (*du, *dv)


def brusselator_vector(t: Any, y: Any, p: Mapping[str, Any], m: Any) -> Any:
    w = y.reshape(2, GRID, GRID)
    spread = m.roll(w, 1, 1) + m.roll(w, -1, 1) + m.roll(w, 1, 2) + m.roll(w, -1, 2) - 4 * w
    u, v = w[0], w[1]
    reaction = u * u * v
    kinetics = m.stack([p["b"] + reaction - (p["a"] + 1) * u, p["a"] * u - reaction])
    return (kinetics + p["alpha"] * GRID**2 * spread).ravel()


def brusselator_start() -> tuple[float, ...]:
    nodes = np.arange(GRID) / GRID
    x, y = np.meshgrid(nodes, nodes, indexing="ij")
    u, v = 22 * (y * (1 - y)) ** 1.5, 27 * (x * (1 - x)) ** 1.5
    return tuple(float(w) for w in np.concatenate([u.ravel(), v.ravel()]))


def grid(start: float, stop: float, count: int) -> tuple[float, ...]:
    """Evenly spaced times after the start, rounded so that they print short."""
    return tuple(float(f"{start + (stop - start) * k / count:.12g}") for k in range(1, count + 1))


PROBLEMS: tuple[TestProblem, ...] = (
    TestProblem(
        "lorenz",
        "Lorenz",
        "E. N. Lorenz, Deterministic nonperiodic flow, J. Atmos. Sci. 20 (1963) 130-141",
        lorenz_rhs,
        (1.0, 0.0, 0.0),
        (0.0, 20.0),
        grid(0.0, 20.0, 200),
        p={"sigma": 10.0, "rho": 28.0, "beta": 8 / 3},
    ),
    TestProblem(
        "pleiades",
        "Pleiades",
        "[HNW] section II.10, problem PLEI; [MM]",
        pleiades_rhs,
        (3, 3, -1, -3, 2, -2, 2, 3, -3, 2, 0, 0, -4, 4, 0, 0, 0, 0, 0, 1.75, -1.5, 0, 0, 0, -1.25, 1, 0, 0),
        (0.0, 3.0),
        grid(0.0, 3.0, 30),
        vector_rhs=pleiades_vector,
        published=(
            (
                3.0,
                (
                    *(0.3706139143970502, 3.237284092057233, -3.222559032418324, 0.6597091455775310),
                    *(0.3425581707156584, 1.562172101400631, -0.7003092922212495, -3.943437585517392),
                    *(-3.271380973972550, 5.225081843456543, -2.590612434977470, 1.198213693392275),
                    *(-0.2429682344935824, 1.091449240428980, 3.417003806314313, 1.354584501625501),
                    *(-2.590065597810775, 2.025053734714242, -1.155815100160448, -0.8072988170223021),
                    *(0.5952396354208710, -3.741244961234010, 0.3773459685750630, 0.9386858869551073),
                    *(0.3667922227200571, -0.3474046353808490, 2.344915448180937, -1.947020434263292),
                ),
            ),
        ),
    ),
    TestProblem(
        "robertson",
        "Robertson",
        "H. H. Robertson (1966), in [HW] ROBER; [MM]",
        robertson_rhs,
        (1.0, 0.0, 0.0),
        (0.0, 1e5),
        (0.4, 4.0, 40.0, 400.0, 4e3, 4e4, 1e5),
        p={"k1": 0.04, "k2": 3e7, "k3": 1e4},
        stiff=True,
        atol_factor=1e-2,
        published=(
            (40.0, (0.7158270687193e0, 0.9185534764529e-5, 0.2841637457462e0)),
            (1e11, (0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050)),
        ),
    ),
    TestProblem(
        "hires",
        "HIRES",
        "E. Schäfer (1975), in [HW] HIRES; [MM]",
        hires_rhs,
        (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057),
        (0.0, 321.8122),
        (1.0, 3.0, 10.0, 30.0, 100.0, 200.0, 300.0, 321.8122),
        stiff=True,
        atol_factor=1e-2,
        published=(
            (
                321.8122,
                (
                    *(0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2),
                    *(0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2),
                ),
            ),
        ),
    ),
    TestProblem(
        "oregonator",
        "Oregonator",
        "R. J. Field, R. M. Noyes (1974), in [HW] OREGO; [MM]",
        oregonator_rhs,
        (1.0, 2.0, 3.0),
        (0.0, 360.0),
        grid(0.0, 360.0, 12),
        p={"s": 77.27, "q": 8.375e-6, "w": 0.161},
        stiff=True,
        published=((360.0, (0.1000814870318523e1, 0.1228178521549917e4, 0.1320554942846706e3)),),
    ),
    TestProblem(
        "van_der_pol",
        "Van der Pol, µ = 10⁶",
        "B. van der Pol (1926), in [HW] VDPOL; [MM], µ multiplies the whole right side so that t runs to 2",
        van_der_pol_rhs,
        (2.0, 0.0),
        (0.0, 2.0),
        grid(0.0, 2.0, 4),
        p={"mu": 1e6},
        stiff=True,
        published=((2.0, (0.1706167732170483e1, -0.8928097010247975e0)),),
    ),
    TestProblem(
        "brusselator",
        "Brusselator 2-D, 32×32",
        "[HW] BRUSS-2D, its equations and start without the inhomogeneity, on a periodic grid: 2,048 equations",
        brusselator_rhs,
        brusselator_start(),
        (0.0, 11.5),
        (5.75, 11.5),
        p={"a": 3.4, "b": 1.0, "alpha": 0.1},
        stiff=True,
        vector_rhs=brusselator_vector,
    ),
)


def by_name(name: str) -> TestProblem:
    """The problem of that name, from this list or the DETEST set."""
    from benchmarks.detest import DETEST

    return next(problem for problem in (*PROBLEMS, *DETEST) if problem.name == name)
