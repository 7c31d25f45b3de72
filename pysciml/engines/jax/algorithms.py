"""The methods of the engine, by their SciML names; diffrax's own names are accepted, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class Algorithm:
    """One method.

    Attributes
    ----------
    about : str
        One line: what it is, its order, its source.
    kind : {"ode", "sde"}
    solver : str
        The class in diffrax; empty for what the engine steps itself.
    order : float
        Strong order for stochastic methods.
    family : {"explicit", "implicit", "euler", "ssp", "increment", "levy", "rossler"}
        How it is stepped.
    adaptive : bool
        Whether it has an error estimate.
    calculus : {"ito", "stratonovich", ""}
        What it converges to by itself.
    noise : {"any", "commutative", "separate", "additive"}
        What noise it is for; separate: scalar or diagonal.
    """

    about: str
    kind: Literal["ode", "sde"]
    solver: str
    order: float
    family: Literal["explicit", "implicit", "euler", "ssp", "increment", "levy", "rossler"]
    adaptive: bool = True
    calculus: Literal["ito", "stratonovich", ""] = ""
    noise: Literal["any", "commutative", "separate", "additive"] = "any"


def _explicit(solver: str, order: int, about: str) -> Algorithm:
    return Algorithm(about, "ode", solver, order, "explicit")


def _implicit(solver: str, order: int, about: str) -> Algorithm:
    return Algorithm(about, "ode", solver, order, "implicit")


_IMEX: Final = "of partial differential equations the linear part alone is implicit"

ALGORITHMS: Final[dict[str, Algorithm]] = {
    "Tsit5": _explicit("Tsit5", 5, "explicit Runge-Kutta, order 5(4) (Tsitouras 2011); the default for ODEs"),
    "DP5": _explicit("Dopri5", 5, "explicit Runge-Kutta, order 5(4) (Dormand & Prince 1980)"),
    # Not DP8, which is another method of the same order (Hairer, Nørsett & Wanner's DOP853).
    "Dopri8": _explicit("Dopri8", 8, "explicit Runge-Kutta, order 8(7) (Prince & Dormand 1981)"),
    "BS3": _explicit("Bosh3", 3, "explicit Runge-Kutta, order 3(2) (Bogacki & Shampine 1989)"),
    "Heun": _explicit("Heun", 2, "explicit Runge-Kutta, order 2(1) (Heun 1900)"),
    "Midpoint": _explicit("Midpoint", 2, "explicit Runge-Kutta, order 2(1): the midpoint rule"),
    "Ralston": _explicit("Ralston", 2, "explicit Runge-Kutta, order 2(1) (Ralston 1962)"),
    "Euler": Algorithm("explicit, order 1, fixed step dt", "ode", "", 1, "euler", adaptive=False),
    "SSPRK33": Algorithm(
        "explicit, strong stability preserving, order 3, fixed step dt (Shu & Osher 1988)",
        "ode",
        "",
        3,
        "ssp",
        adaptive=False,
    ),
    "Kvaerno3": _implicit("Kvaerno3", 3, "stiff: ESDIRK, order 3(2) (Kværnø 2004)"),
    "Kvaerno4": _implicit("Kvaerno4", 4, "stiff: ESDIRK, order 4(3) (Kværnø 2004)"),
    "Kvaerno5": _implicit("Kvaerno5", 5, "stiff: ESDIRK, order 5(4) (Kværnø 2004)"),
    "KenCarp3": _implicit("KenCarp3", 3, f"stiff: ESDIRK, order 3(2) (Kennedy & Carpenter 2003); {_IMEX}"),
    "KenCarp4": _implicit("KenCarp4", 4, f"stiff: ESDIRK, order 4(3) (Kennedy & Carpenter 2003); {_IMEX}"),
    "KenCarp5": _implicit("KenCarp5", 5, f"stiff: ESDIRK, order 5(4) (Kennedy & Carpenter 2003); {_IMEX}"),
    "EM": Algorithm(
        "Euler-Maruyama: Itô, any noise, strong order 1/2, weak order 1, fixed step dt",
        "sde",
        "",
        0.5,
        "increment",
        adaptive=False,
        calculus="ito",
    ),
    "Milstein": Algorithm(
        "Milstein: commutative noise, strong order 1, fixed step dt (Milstein 1974)",
        "sde",
        "",
        1.0,
        "increment",
        adaptive=False,
        calculus="ito",
        noise="commutative",
    ),
    "RKMil": Algorithm(
        "Milstein without derivatives: scalar or diagonal noise, strong order 1, fixed step dt (Kloeden & Platen 1992)",
        "sde",
        "",
        1.0,
        "increment",
        adaptive=False,
        calculus="ito",
        noise="separate",
    ),
    "SRIW1": Algorithm(
        "stochastic Runge-Kutta: scalar or diagonal noise, strong order 3/2, fixed step dt (Rößler 2010)",
        "sde",
        "",
        1.5,
        "rossler",
        adaptive=False,
        calculus="ito",
        noise="separate",
    ),
    "SOSRI": Algorithm(
        "stability-optimized stochastic Runge-Kutta: scalar or diagonal noise, strong order 3/2, fixed step dt "
        "(Rackauckas & Nie 2020)",
        "sde",
        "",
        1.5,
        "rossler",
        adaptive=False,
        calculus="ito",
        noise="separate",
    ),
    "SOSRA": Algorithm(
        "stability-optimized stochastic Runge-Kutta: additive scalar or diagonal noise, strong order 3/2, fixed step "
        "dt (Rackauckas & Nie 2020)",
        "sde",
        "",
        1.5,
        "rossler",
        adaptive=False,
        calculus="ito",
        noise="additive",
    ),
    "EulerHeun": Algorithm(
        "Heun's method for Stratonovich equations: any noise, strong order 1/2 (1 where it commutes), fixed step dt",
        "sde",
        "",
        0.5,
        "increment",
        adaptive=False,
        calculus="stratonovich",
    ),
    "SRA1": Algorithm(
        "stochastic Runge-Kutta: additive noise, strong order 3/2 (Rößler 2010); the default for additive noise",
        "sde",
        "SRA1",
        1.5,
        "levy",
        calculus="stratonovich",
        noise="additive",
    ),
    "ShARK": Algorithm(
        "stochastic Runge-Kutta: additive noise, strong order 3/2 (Foster, dos Reis & Strange 2023)",
        "sde",
        "ShARK",
        1.5,
        "levy",
        calculus="stratonovich",
        noise="additive",
    ),
    "SEA": Algorithm(
        "shifted Euler: additive noise, strong order 1, fixed step dt (Foster, dos Reis & Strange 2023)",
        "sde",
        "SEA",
        1.0,
        "levy",
        adaptive=False,
        calculus="stratonovich",
        noise="additive",
    ),
    "SlowRK": Algorithm(
        "stochastic Runge-Kutta: commutative noise, strong order 3/2, fixed step dt (Foster, dos Reis & Strange 2023)",
        "sde",
        "SlowRK",
        1.5,
        "levy",
        adaptive=False,
        calculus="stratonovich",
        noise="commutative",
    ),
    "GeneralShARK": Algorithm(
        "stochastic Runge-Kutta: any noise, strong order 1/2 (1 where it commutes), fixed step dt "
        "(Foster, dos Reis & Strange 2023)",
        "sde",
        "GeneralShARK",
        0.5,
        "levy",
        adaptive=False,
        calculus="stratonovich",
    ),
    "SPaRK": Algorithm(
        "stochastic Runge-Kutta: any noise, strong order 1/2 (1 where it commutes), with error estimate (Foster 2023)",
        "sde",
        "SPaRK",
        0.5,
        "levy",
        calculus="stratonovich",
    ),
}

#: diffrax's names of methods that SciML calls otherwise.
ALIASES: Final[dict[str, str]] = {
    "Dopri5": "DP5",
    "Bosh3": "BS3",
    "ItoMilstein": "Milstein",
}
