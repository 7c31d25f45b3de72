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
        ("ode", "KenCarp3", "IMEX Runge-Kutta, order 3: implicit() terms implicitly (Kennedy & Carpenter 2003)"),
        ("ode", "KenCarp5", "IMEX Runge-Kutta, order 5: implicit() terms implicitly (Kennedy & Carpenter 2003)"),
        ("ode", "KenCarp47", "IMEX Runge-Kutta, order 4: implicit() terms implicitly (Kennedy & Carpenter 2019)"),
        ("ode", "KenCarp58", "IMEX Runge-Kutta, order 5: implicit() terms implicitly (Kennedy & Carpenter 2019)"),
        ("ode", "ARS343", "IMEX Runge-Kutta, order 3: implicit() terms implicitly (Ascher, Ruuth & Spiteri 1997)"),
        ("ode", "IMEXEuler", "IMEX multistep, order 1, fixed steps: needs implicit() terms"),
        ("ode", "SBDF2", "IMEX multistep, order 2, fixed steps: needs implicit() terms (Ascher, Ruuth & Wetton 1995)"),
        ("ode", "CNAB2", "Crank-Nicolson and Adams-Bashforth, order 2, fixed steps: needs implicit() terms"),
        ("ode", "CNLF2", "Crank-Nicolson and leapfrog, order 2, fixed steps: needs implicit() terms"),
        ("ode", "LawsonEuler", "exponential, order 1, fixed steps: a linear part exactly (Lawson 1967)"),
        ("ode", "NorsettEuler", "exponential, order 1, fixed steps: a linear part exactly (Norsett 1969)"),
        ("ode", "ETDRK2", "exponential, order 2, fixed steps: a linear part exactly (Cox & Matthews 2002)"),
        ("ode", "ETDRK3", "exponential, order 3, fixed steps: a linear part exactly (Cox & Matthews 2002)"),
        ("ode", "ETDRK4", "exponential, order 4, fixed steps: a linear part exactly (Cox & Matthews 2002)"),
        ("ode", "HochOst4", "exponential, order 4, also where stiff, fixed steps (Hochbruck & Ostermann 2005)"),
        ("ode", "SymplecticEuler", "symplectic, order 1, fixed steps"),
        ("ode", "VelocityVerlet", "symplectic, order 2, fixed steps, second-order equations (Verlet 1967)"),
        ("ode", "VerletLeapfrog", "symplectic, order 2, fixed steps, kick-drift-kick"),
        ("ode", "LeapfrogDriftKickDrift", "symplectic, order 2, fixed steps, drift-kick-drift"),
        ("ode", "PseudoVerletLeapfrog", "symplectic, order 2, fixed steps"),
        ("ode", "McAte2", "symplectic, order 2, fixed steps (McLachlan & Atela 1992)"),
        ("ode", "Ruth3", "symplectic, order 3, fixed steps (Ruth 1983)"),
        ("ode", "McAte3", "symplectic, order 3, fixed steps (McLachlan & Atela 1992)"),
        ("ode", "CandyRoz4", "symplectic, order 4, fixed steps (Candy & Rozmus 1991)"),
        ("ode", "McAte4", "symplectic, order 4, fixed steps, quadratic kinetic energy (McLachlan & Atela 1992)"),
        ("ode", "CalvoSanz4", "symplectic, order 4, fixed steps, quadratic kinetic energy (Calvo & Sanz-Serna 1993)"),
        ("ode", "McAte5", "symplectic, order 5, fixed steps, quadratic kinetic energy (McLachlan & Atela 1992)"),
        ("ode", "Yoshida6", "symplectic, order 6, fixed steps (Yoshida 1990)"),
        ("ode", "KahanLi6", "symplectic, order 6, fixed steps (Kahan & Li 1997)"),
        ("ode", "McAte8", "symplectic, order 8, fixed steps (McLachlan 1995)"),
        ("ode", "KahanLi8", "symplectic, order 8, fixed steps (Kahan & Li 1997)"),
        ("ode", "SofSpa10", "symplectic, order 10, fixed steps (Sofroniou & Spaletta 2005)"),
        ("ode", "Nystrom4", "Runge-Kutta-Nystrom, order 4, fixed steps, second-order equations (Hairer et al. 1993)"),
        ("ode", "FineRKN4", "Runge-Kutta-Nystrom, order 4(3), second-order equations (Fine 1987)"),
        ("ode", "FineRKN5", "Runge-Kutta-Nystrom, order 5(4), second-order equations (Fine 1987)"),
        ("ode", "Nystrom4VelocityIndependent", "Nystrom, order 4, fixed steps, acceleration by position alone"),
        ("ode", "Nystrom5VelocityIndependent", "Nystrom, order 5, fixed steps, acceleration by position alone"),
        (
            "ode",
            "IRKN3",
            "Nystrom, order 3, two steps, all of one size, acceleration by position alone (Rabiei 2012)",
        ),
        ("ode", "DPRKN4", "Nystrom, order 4(3), acceleration by position alone (Dormand & Prince 1987)"),
        ("ode", "DPRKN5", "Nystrom, order 5(4), acceleration by position alone (Bettis 1973)"),
        ("ode", "DPRKN6", "Nystrom, order 6(4), acceleration by position alone (Dormand & Prince 1987)"),
        ("ode", "DPRKN6FM", "Nystrom, order 6(4), acceleration by position alone (Dormand & Prince 1987)"),
        ("ode", "DPRKN8", "Nystrom, order 8(6), acceleration by position alone (Dormand et al. 1987)"),
        ("ode", "DPRKN12", "Nystrom, order 12(10), acceleration by position alone (Dormand et al. 1987)"),
        ("ode", "ERKN4", "Nystrom, order 4(3), exact for the harmonic oscillator (Demba et al. 2017)"),
        ("ode", "ERKN5", "Nystrom, order 5(4), exact for the harmonic oscillator (Demba et al. 2016)"),
        ("ode", "ERKN7", "Nystrom, order 7(5), exact for the harmonic oscillator (Simos & Tsitouras 2022)"),
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

#: Methods for a right-hand side in two parts that have no way with one in a single part.
SPLIT_ALONE: Final = frozenset({"IMEXEuler", "SBDF2", "CNAB2", "CNLF2"})

#: Methods for a linear part and the rest: the one by functions of its matrix, the other explicitly.
SEMILINEAR: Final = frozenset({"LawsonEuler", "NorsettEuler", "ETD1", "ETDRK2", "ETDRK3", "ETDRK4", "HochOst4"})

#: Methods that the solver packages have and that do not do what they should, with the reason.
BROKEN: Final[dict[str, str]] = {
    "McAte42": "has order 1 and not 4 in OrdinaryDiffEqSymplecticRK: McAte4 and CalvoSanz4 have order 4",
    **dict.fromkeys(
        ("SBDF3", "SBDF4"), "comes no nearer to the solution with smaller steps: SBDF2, KenCarp3 and KenCarp4 do"
    ),
    "ETD2": "is still in development in OrdinaryDiffEqExponentialRK: ETDRK2 has order 2",
    "EPIRK5s3": "has order 2 and not 5 in OrdinaryDiffEqExponentialRK: EXPRB53s3 and EPIRK5P1 have order 5",
    "IRKN4": "has order 3 and not 4 where the time is in the equations: DPRKN4 and Nystrom4 have order 4",
    "RKN4": "has order 4 for linear equations alone, and 2 for others: Nystrom4 and DPRKN4 have order 4",
}

#: Ways to sample jumps between which nothing changes.
AGGREGATORS: Final = frozenset(name for name, (family, _) in ALGORITHMS.items() if family == "jump")
