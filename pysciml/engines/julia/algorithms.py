"""The algorithms that are listed: those the documentation of DifferentialEquations.jl recommends.

Any other algorithm that a solver package of the environment exports can be named too; Julia checks it.
"""

from __future__ import annotations

from typing import Final

#: SciML name -> ("ode", "sde" or "jump", one line).
ALGORITHMS: Final[dict[str, tuple[str, str]]] = {
    name: (family, about)
    for family, name, about in [
        ("ode", "Tsit5", "explicit Runge-Kutta, order 5(4) (Tsitouras 2011)"),
        ("ode", "Vern6", "explicit Runge-Kutta, order 6(5), lazy interpolation (Verner 2010)"),
        ("ode", "Vern7", "explicit Runge-Kutta, order 7(6), lazy interpolation (Verner 2010)"),
        ("ode", "Vern8", "explicit Runge-Kutta, order 8(7), lazy interpolation (Verner 2010)"),
        ("ode", "Vern9", "explicit Runge-Kutta, order 9(8), lazy interpolation (Verner 2010)"),
        ("ode", "AutoTsit5", "Tsit5, and Rodas5P where the problem is stiff"),
        ("ode", "AutoVern7", "Vern7, and Rodas5P where the problem is stiff"),
        ("ode", "AutoVern9", "Vern9, and Rodas5P where the problem is stiff"),
        ("ode", "Rosenbrock23", "Rosenbrock-W, order 2(3), for stiff problems at loose tolerances (Shampine 1997)"),
        ("ode", "Rodas4", "Rosenbrock, order 4(3), for stiff problems and DAEs (Hairer & Wanner 1996)"),
        ("ode", "Rodas5P", "Rosenbrock, order 5(4), for stiff problems and DAEs (Steinebach 2023)"),
        ("ode", "FBDF", "implicit multistep, fixed leading coefficient, order 1 to 5 (Shampine 2002)"),
        ("ode", "QNDF", "implicit multistep NDF, order 1 to 5 (Shampine & Reichelt 1997)"),
        ("ode", "TRBDF2", "implicit one-step, order 2 (Bank et al. 1985)"),
        ("ode", "KenCarp4", "implicit Runge-Kutta, order 4 (Kennedy & Carpenter 2003)"),
        ("ode", "Kvaerno5", "implicit Runge-Kutta, order 5 (Kvaerno 2004)"),
        ("ode", "ImplicitEuler", "backward Euler, order 1"),
        ("ode", "Trapezoid", "implicit trapezoidal rule, order 2"),
        ("ode", "RadauIIA5", "implicit Runge-Kutta, order 5 (Hairer & Wanner 1996)"),
        ("ode", "Euler", "explicit Euler, order 1, fixed steps"),
        ("ode", "Midpoint", "explicit midpoint rule, order 2"),
        ("ode", "Heun", "Heun's method, order 2"),
        ("ode", "RK4", "the classical Runge-Kutta method, order 4"),
        ("ode", "BS3", "explicit Runge-Kutta, order 3(2) (Bogacki & Shampine 1989)"),
        ("ode", "DP5", "explicit Runge-Kutta, order 5(4) (Dormand & Prince 1980)"),
        ("ode", "DP8", "explicit Runge-Kutta, order 8(5,3) (Hairer, Norsett & Wanner 1993)"),
        ("ode", "ROCK4", "stabilized explicit, order 4, for mildly stiff problems (Abdulle 2002)"),
        ("sde", "EM", "Euler-Maruyama, strong order 1/2, any noise, fixed steps"),
        ("sde", "LambaEM", "Euler-Maruyama with adaptive steps, any noise (Lamba 2003)"),
        ("sde", "RKMil", "Milstein, strong order 1, diagonal noise"),
        ("sde", "SRIW1", "strong order 3/2, diagonal and scalar noise (Rossler 2010)"),
        ("sde", "SOSRI", "stability-optimized, strong order 3/2, diagonal and scalar noise (Rackauckas & Nie 2020)"),
        ("sde", "SOSRA", "stability-optimized, strong order 3/2, additive noise (Rackauckas & Nie 2020)"),
        ("sde", "SRA1", "strong order 3/2, additive noise (Rossler 2010)"),
        ("sde", "ImplicitEM", "drift-implicit Euler-Maruyama, for stiff problems"),
        ("sde", "SKenCarp", "drift-implicit, strong order 3/2, additive noise, for stiff problems"),
        ("jump", "Direct", "exact: the time to the next jump, then which one (Gillespie 1977)"),
        ("jump", "FRM", "exact: the first of the times to each jump (Gillespie 1976)"),
        ("jump", "SortingDirect", "exact, for many jumps, few of them frequent (McCollum et al. 2006)"),
        ("jump", "NRM", "exact, for many jumps: a queue of their times (Gibson & Bruck 2000)"),
    ]
}

#: Ways to sample jumps between which nothing changes.
AGGREGATORS: Final = frozenset(name for name, (family, _) in ALGORITHMS.items() if family == "jump")
