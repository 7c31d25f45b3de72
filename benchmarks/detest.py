"""The DETEST set of non-stiff problems, classes A to E.

T. E. Hull, W. H. Enright, B. M. Fellen, A. E. Sedgwick, *Comparing numerical methods for ordinary differential
equations*, SIAM J. Numer. Anal. 9 (1972) 603-637. All run over t in 0..20. The published end values are those
of W. H. Enright, J. D. Pryce, *Two FORTRAN packages for assessing initial value methods*, ACM Trans. Math.
Softw. 13 (1987) 1-27 (Algorithm 648).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.problems import Formula, TestProblem, grid

SOURCE = "Hull, Enright, Fellen & Sedgwick 1972"


def a1(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (-y[0],)


def a2(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (-(y[0] * y[0] * y[0]) / 2,)


def a3(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (y[0] * m.cos(t),)


def a4(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (y[0] / 4 * (1 - y[0] / 20),)


def a5(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return ((y[0] - t) / (y[0] + t),)


def b1(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1]))


def b2(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (-y[0] + y[1], y[0] - 2 * y[1] + y[2], y[1] - y[2])


def b3(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (-y[0], y[0] - y[1] * y[1], y[1] * y[1])


def b4(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    r = m.sqrt(y[0] * y[0] + y[1] * y[1])
    return (-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r)


def b5(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1])


def c1(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (-y[0], *[y[i - 1] - y[i] for i in range(1, 9)], y[8])


def c2(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (-y[0], *[i * y[i - 1] - (i + 1) * y[i] for i in range(1, 9)], 9 * y[8])


def c3(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    n = len(y)
    inner = [y[i - 1] - 2 * y[i] + y[i + 1] for i in range(1, n - 1)]
    return (-2 * y[0] + y[1], *inner, y[n - 2] - 2 * y[n - 1])


GRAVITY = 2.95912208286
SUN = 1.00000597682
PLANETS = (0.954786104043e-3, 0.285583733151e-3, 0.437273164546e-4, 0.517759138449e-4, 0.277777777778e-5)


def c5(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    """Five outer planets about the sun; components: positions planet by planet, then velocities."""
    position = [[y[3 * j + i] for i in range(3)] for j in range(5)]

    def cube(x: Sequence[Any]) -> Any:
        square = x[0] * x[0] + x[1] * x[1] + x[2] * x[2]
        return square * m.sqrt(square)

    r3 = [cube(x) for x in position]
    acceleration = []
    for j in range(5):
        apart = {k: cube([a - b for a, b in zip(position[k], position[j], strict=True)]) for k in range(5) if k != j}
        for i in range(3):
            pull = -(SUN + PLANETS[j]) * position[j][i] / r3[j]
            for k, d3 in apart.items():
                pull = pull + PLANETS[k] * ((position[k][i] - position[j][i]) / d3 - position[k][i] / r3[k])
            acceleration.append(GRAVITY * pull)
    return (*[y[15 + i] for i in range(15)], *acceleration)


C5_START = (
    *(3.42947415189, 3.35386959711, 1.35494901715, 6.64145542550, 5.97156957878, 2.18231499728),
    *(11.2630437207, 14.6952576794, 6.27960525067, -30.1552268759, 1.65699966404, 1.43785752721),
    *(-21.1238353380, 28.4465098142, 15.3882659679),
    *(-0.557160570446, 0.505696783289, 0.230578543901, -0.415570776342, 0.365682722812, 0.169143213293),
    *(-0.325325669158, 0.189706021964, 0.0877265322780, -0.0240476254170, -0.287659532608, -0.117219543175),
    *(-0.176860753121, -0.216393453025, -0.0148647893090),
)


def d(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    square = y[0] * y[0] + y[1] * y[1]
    r3 = square * m.sqrt(square)
    return (y[2], y[3], -y[0] / r3, -y[1] / r3)


def orbit_start(eccentricity: float) -> tuple[float, ...]:
    return (1 - eccentricity, 0.0, 0.0, math.sqrt((1 + eccentricity) / (1 - eccentricity)))


def e1(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (y[1], -(y[1] / (t + 1) + (1 - 0.25 / ((t + 1) * (t + 1))) * y[0]))


def e2(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (y[1], (1 - y[0] * y[0]) * y[1] - y[0])


def e3(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (y[1], y[0] * y[0] * y[0] / 6 - y[0] + 2 * m.sin(2.78535 * t))


def e4(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (y[1], 0.032 - 0.4 * y[1] * y[1])


def e5(t: Any, y: Sequence[Any], p: Mapping[str, Any], m: Any) -> Sequence[Any]:
    return (y[1], m.sqrt(1 + y[1] * y[1]) / (25 - t))


def one_then_zeros(n: int) -> tuple[float, ...]:
    return (1.0, *[0.0] * (n - 1))


def make(name: str, title: str, rhs: Formula, u0: tuple[float, ...], end: tuple[float, ...]) -> TestProblem:
    return TestProblem(name, title, SOURCE, rhs, u0, (0.0, 20.0), grid(0.0, 20.0, 20), published=((20.0, end),))


DETEST: tuple[TestProblem, ...] = (
    make("A1", "negative exponential", a1, (1.0,), (2.061153353012535e-9,)),
    make("A2", "a special case of the Riccati equation", a2, (1.0,), (0.2182178902359887,)),
    make("A3", "an oscillatory problem", a3, (1.0,), (2.491650271850414,)),
    make("A4", "a logistic curve", a4, (1.0,), (17.73016648131483,)),
    make("A5", "a spiral curve", a5, (4.0,), (-0.7887826688964196,)),
    make("B1", "growth of two conflicting populations", b1, (1.0, 3.0), (0.6761876008576667, 0.1860816099640036)),
    make(
        "B2",
        "a linear chemical reaction",
        b2,
        (2.0, 0.0, 1.0),
        (1.000000001030576, 1.000000000000000, 0.9999999989694235),
    ),
    make(
        "B3",
        "a nonlinear chemical reaction",
        b3,
        (1.0, 0.0, 0.0),
        (2.061153488557776e-9, 5.257228022048349e-2, 0.9474277177183630),
    ),
    make(
        "B4",
        "the integral surface of a torus",
        b4,
        (3.0, 0.0, 0.0),
        (0.9826950928005993, 2.198447081694832, 0.9129452507276399),
    ),
    make(
        "B5",
        "Euler equations of a rigid body",
        b5,
        (0.0, 1.0, 1.0),
        (-0.9396570798729192, -0.3421177754000779, 0.7414126596199957),
    ),
    make(
        "C1",
        "a radioactive decay chain",
        c1,
        one_then_zeros(10),
        (
            *(2.061153622240064e-9, 4.122307244619555e-8, 4.122307244716968e-7, 2.748204829855288e-6),
            *(1.374102414941961e-5, 5.496409659803266e-5, 1.832136553274552e-4, 5.234675866508716e-4),
            *(1.308668966628220e-3, 9.979127409508656e-1),
        ),
    ),
    make(
        "C2",
        "another radioactive decay chain",
        c2,
        one_then_zeros(10),
        (
            *(2.061153577984930e-9, 2.061153573736588e-9, 2.061153569488245e-9, 2.061153565239902e-9),
            *(2.061153560991560e-9, 2.061153556743217e-9, 2.061153552494874e-9, 2.061153548246532e-9),
            *(2.061153543998189e-9, 9.999999814496180e-1),
        ),
    ),
    make(
        "C3",
        "a parabolic partial differential equation",
        c3,
        one_then_zeros(10),
        (
            *(2.948119211022058e-3, 5.635380154844266e-3, 7.829072515926013e-3, 9.348257908594937e-3),
            *(1.007943610301970e-2, 9.982674171429909e-3, 9.088693332766085e-3, 7.489115195185912e-3),
            *(5.322964130953349e-3, 2.762434379029886e-3),
        ),
    ),
    make(
        "C4",
        "the same, with 51 equations",
        c3,
        one_then_zeros(51),
        (
            *(3.124111453721466e-3, 6.015416842150318e-3, 8.470021834842650e-3, 1.033682931733337e-2),
            *(1.153249572873923e-2, 1.204549525737964e-2, 1.192957068015293e-2, 1.128883207111195e-2),
            *(1.025804501391024e-2, 8.982017581934167e-3),
        ),
    ),
    make(
        "C5",
        "five bodies: the outer planets about the sun",
        c5,
        C5_START,
        (
            *(-4.792730224323733, -2.420550725448973, -9.212509306014886e-1, -4.217310404035213),
            *(7.356202947498970, 3.223785985421212, 4.035559443262270, 1.719865528670555e1),
            *(7.478910794233703, -2.998759326324844e1, -4.107310937550929, -9.277008321754407e-1),
            *(-2.442125302518482e1, 2.381459045746554e1, 1.492096306951359e1, 3.499208963063806e-1),
            *(-5.748487687912825e-1, -2.551694020879149e-1, -5.237040978903326e-1, -2.493000463579661e-1),
            *(-8.045341642044464e-2, -3.875289237334110e-1, 5.648603288767891e-2, 3.023606472143342e-2),
            *(4.133856546712445e-2, -2.862393029841379e-1, -1.183032405136207e-1, -1.511986457359206e-1),
            *(-2.460068894318766e-1, -3.189687411323877e-2),
        ),
    ),
    make(
        "D1",
        "an orbit of eccentricity 0.1",
        d,
        orbit_start(0.1),
        (2.198835352008397e-1, 9.427076846341813e-1, -9.787659841058176e-1, 3.287977990962036e-1),
    ),
    make(
        "D2",
        "an orbit of eccentricity 0.3",
        d,
        orbit_start(0.3),
        (-1.777027357140412e-1, 9.467784719905892e-1, -1.030294163192969, 1.211074890053952e-1),
    ),
    make(
        "D3",
        "an orbit of eccentricity 0.5",
        d,
        orbit_start(0.5),
        (-5.780432953035361e-1, 8.633840009194193e-1, -9.595083730380727e-1, -6.504915126712089e-2),
    ),
    make(
        "D4",
        "an orbit of eccentricity 0.7",
        d,
        orbit_start(0.7),
        (-9.538990293416394e-1, 6.907409024219432e-1, -8.212674270877433e-1, -1.539574259125825e-1),
    ),
    make(
        "D5",
        "an orbit of eccentricity 0.9",
        d,
        orbit_start(0.9),
        (-1.295266250987574, 4.003938963792321e-1, -6.775390924707566e-1, -1.270838154278686e-1),
    ),
    make(
        "E1",
        "Bessel's equation of order one half, its origin shifted one unit to the left",
        e1,
        (0.6713967071418030, 0.09540051444747446),
        (1.456723600728308e-1, -9.883500195574063e-2),
    ),
    make("E2", "Van der Pol's equation", e2, (2.0, 0.0), (2.008149762174948, -4.250887527320057e-2)),
    make("E3", "Duffing's equation", e3, (0.0, 0.0), (-1.004178858647128e-1, 2.411400132095954e-1)),
    make("E4", "a falling body", e4, (30.0, 0.0), (3.395091444646555e1, 2.767822659672869e-1)),
    make("E5", "a linear pursuit", e5, (0.0, 0.0), (1.411797390542629e1, 2.400000000000002)),
)
