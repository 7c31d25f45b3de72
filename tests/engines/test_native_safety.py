"""Whatever a model says, the process survives: every emitted operation in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from pysciml.engines.native.lower import SUPPORTED
from pysciml.graph import ops

ENVIRONMENT = {**os.environ, "PYSCIML_ENGINE": "native"}


def run(code: str, timeout: float = 120) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


OPERATIONS = """
import warnings
import numpy as np
from pysciml.engines.base import SolveOptions
from pysciml.engines.native import NativeEngine
from pysciml.graph import GraphBuilder, Model, ops

engine = NativeEngine()
for code in {codes}:
    b = GraphBuilder(3, 1)
    args = [b.state(0), b.state(1), b.state(2)][: ops.OPS[code].arity]
    node = b.call(code, *args)
    graph = b.build({{"rhs": [node, b.mul(b.param(0), node), b.call(ops.COS, b.time())]}})
    model = Model(graph, "ode", "m", ("x", "y", "z"), ("p",), (), np.ones(3, dtype=bool))
    for start in ([0.5, 0.4, 0.3], [0.0, 0.0, 0.0], [-2.0, 3.0, -1.0], [1e300, -1e300, 1e-300]):
        for algorithm in ("Tsit5", "QNDF", "ESDIRK34", "TRBDF2", None):
            options = SolveOptions(1e-5, 1e-7, np.linspace(0, 1, 5), max_steps=2000)
            found = engine.solve(model, np.array(start), np.array([1.5]), (0.0, 1.0), algorithm, options)
            assert np.isfinite(found.u[:, 1:]).all()
    print(ops.OPS[code].name)
"""

CODES = sorted(code for code in SUPPORTED if ops.OPS[code].arity)


@pytest.mark.parametrize("part", range(4))
def test_every_operation_survives_every_start(part: int) -> None:
    codes = CODES[part::4]
    printed = run(OPERATIONS.format(codes=codes), timeout=300).split()
    assert printed == [ops.OPS[code].name for code in codes]


MODELS = """
import numpy as np
import sympy as sp
import pysciml as ps
D = ps.D
x, y, u0, F, M, N, dudt, stop, out = ps.variables("x y u0 F M N dudt stop out")
in_, reset, sin, exp = ps.parameters("in_ reset sin exp")
reserved = [u0, F, M, N, dudt, stop, out]
names = ps.System([ps.Eq(D(v), -reset * v + in_ * sin - exp) for v in reserved])
sol = ps.solve(ps.Problem(names, {v: 1 for v in reserved}, (0, 1), {in_: 1, reset: 2, sin: 3, exp: 4}))
assert np.allclose(sol["F"], sol["u0"])

deep = x
for _ in range(60):
    deep = sp.sin(deep) + 1
assert float(ps.solve(ps.Problem(ps.System([ps.Eq(D(x), deep)]), {x: 1}, (0, 0.1))).x[-1]) > 1

wide = sum(sp.Integer(k + 1) * x / (k + 2) for k in range(2000))
ps.solve(ps.Problem(ps.System([ps.Eq(D(x), wide * 1e-4), ps.Eq(D(y), -y)]), {x: 1, y: 1}, (0, 1)))

many = ps.variables("q:400")
chain = ps.System([ps.Eq(D(q), many[k - 1] ** 3 - q) for k, q in enumerate(many)])
ps.solve(ps.Problem(chain, {q: 0.5 for q in many}, (0, 1)), "QNDF")

for tiny in (1e-300, 1e300):
    system = ps.System([ps.Eq(D(x), tiny * x)])
    try:
        ps.solve(ps.Problem(system, {x: 1}, (0, 1)))
    except ps.SolverError as error:
        print(error.retcode)
for span in ((0, 1e-150), (0, 1e6), (1e9, 1e9 + 1e-6), (-3, 0), (3, 0)):
    sol = ps.solve(ps.Problem(ps.System([ps.Eq(D(x), -x)]), {x: 1}, span), saveat=[span[0], span[1]])
    assert abs(float(sol.x[-1]) - np.exp(span[0] - span[1])) < 1e-5 * (1 + np.exp(span[0] - span[1]))
for alg in ("Tsit5", "QNDF", "TRBDF2", "ESDIRK34", None):
    still = ps.solve(ps.Problem(ps.System([ps.Eq(D(x), 0 * x)]), {x: 1}, (0, 10)), alg, saveat=1.0)
    assert (still.x == 1).all()
    for rtol, atol in ((0.0, 1e-6), (1e-6, 0.0), (1e-15, 1e-20), (0.5, 10.0)):
        try:
            ps.solve(ps.Problem(ps.System([ps.Eq(D(x), -x), ps.Eq(D(y), x)]), {x: 1, y: 0}, (0, 1)), alg,
                     rtol=rtol, atol=atol, max_steps=20_000)
        except ps.SolverError as error:
            print(error.retcode)
print("survived")
"""


def test_names_shapes_and_sizes_that_could_end_the_process() -> None:
    assert run(MODELS, timeout=300).split()[-1] == "survived"


SUMS = """
import numpy as np
import pydiffsol
from pysciml.engines.native.emit import emit
from pysciml.engines.native.library import Compiled
from pysciml.engines.native.lower import lower
from pysciml.graph import GraphBuilder, ops

for source in ("parameters", "times", "states"):
    for terms in {terms}:
        b = GraphBuilder(40, 40)
        leaf = {{
            "parameters": b.param,
            "times": lambda k: b.call(ops.SIN, b.mul(b.param(k), b.time())),
            "states": b.state,
        }}[source]
        others = [b.state(39), b.param(39), b.call(ops.EXP, b.time())]
        weights = [1.0 if k == terms // 2 else 0.1 * (k + 1) for k in range(terms)]
        parts = [b.mul(b.constant(w), leaf(k * {stride})) for k, w in enumerate(weights)]
        total = b.sum([*parts, *others])
        graph = b.build({{"rhs": [total] + [b.mul(b.call(ops.COS, total), b.state(k)) for k in range(1, 40)]}})
        written = emit(lower(graph, ["rhs"]), np.ones(40, dtype=bool), vectors=True)
        ode = pydiffsol.Ode(written.text, matrix_type=pydiffsol.nalgebra_dense, linear_solver=pydiffsol.lu)
        u, p = np.cos(np.arange(40.0)), np.sin(np.arange(40.0))
        order = np.arange(40) if written.order is None else written.order
        found = np.empty(40)
        found[order] = ode.rhs(np.concatenate([p, [0.0], u[order]]), 0.3, u[order])
        np.testing.assert_allclose(found, graph.evaluate("rhs", u, p, 0.3), rtol=1e-13, atol=1e-14)
        print(source, terms)
"""


@pytest.mark.parametrize(("stride", "terms"), [(1, (2, 3, 4, 16, 17, 32)), (2, (2, 3, 16, 17))])
def test_sums_of_any_length_and_of_anything(stride: int, terms: tuple[int, ...]) -> None:
    """Sums of two elements of a vector were the death of processes: see ``vectorize._ADDENDS``."""
    assert len(run(SUMS.format(stride=stride, terms=terms), timeout=600).splitlines()) == 3 * len(terms)


IRREGULAR = """
import random
import numpy as np
from scipy.integrate import solve_ivp
from pysciml.engines.base import SolveOptions
from pysciml.engines.native import NativeEngine, emit
from pysciml.graph import GraphBuilder, Model, ops

if {vectors}:  # however small
    emit.SCALAR_OPERATIONS = emit.IRREGULAR_OPERATIONS = 0
for seed in {seeds}:
    r = random.Random(seed)
    n, m = {n}, 6
    b = GraphBuilder(n, m)
    known = [b.param(k) for k in range(m)]
    moving = [b.call(ops.SIN, b.mul(b.param(k), b.time())) for k in range(2)]
    states = [b.state(k) for k in range(n)]

    def leaf(pool):
        return r.choice(r.choice(pool)) if r.random() < 0.8 else b.constant(round(r.uniform(-2, 2), 3))

    def expression(budget, pool):
        if budget <= 0:
            return leaf(pool)
        kind, half = r.random(), r.randint(0, budget - 1)
        if kind < 0.3:
            return b.call(r.choice((ops.SIN, ops.COS, ops.TANH)), expression(budget - 1, pool))
        if kind < 0.5:
            return b.mul(expression(half, pool), b.call(ops.COS, expression(budget - 1 - half, pool)))
        if kind < 0.6:
            return b.div(expression(budget - 2, pool), b.add(b.constant(1.5), b.call(ops.EXP, leaf(pool))))
        terms = [b.mul(b.constant(round(r.uniform(-1, 1), 3)), leaf(pool)) for _ in range(r.randint(1, 6))]
        return b.sum([expression(budget - 1 - len(terms), pool), *terms])

    known += [expression(6, [known]) for _ in range(4)]
    moving += [expression(6, [known, moving]) for _ in range(4)]
    rows = [b.call(ops.SIN, expression({operations}, [known, moving, states, states])) for _ in range(n)]
    names = tuple(f"x{{k}}" for k in range(n))
    graph = b.build({{"rhs": rows}})
    model = Model(graph, "ode", "irregular", names, tuple("abcdef"), (), np.ones(n, dtype=bool))
    u0, p, times = np.linspace(-1, 1, n), np.linspace(0.5, 1.5, m), np.linspace(0, 1, 5)
    found = NativeEngine().solve(model, u0, p, (0.0, 1.0), "Tsit5", SolveOptions(1e-9, 1e-11, times))
    rhs = lambda t, u: graph.evaluate("rhs", u, p, t)
    expected = solve_ivp(rhs, (0, 1), u0, "DOP853", times, rtol=1e-11, atol=1e-12).y
    np.testing.assert_allclose(found.u, expected, rtol=1e-6, atol=1e-7)
    print("agrees", emit.count_operations(graph))
"""


def test_irregular_models_end_no_process_and_agree_with_scipy() -> None:
    code = IRREGULAR.format(vectors=True, seeds="range(12)", n=4, operations=8)
    assert run(code, timeout=600).count("agrees") == 12


def test_an_irregular_model_of_more_than_a_thousand_operations() -> None:
    word, operations = run(IRREGULAR.format(vectors=False, seeds="[1]", n=30, operations=33), timeout=600).split()
    assert word == "agrees"
    assert int(operations) > 1000


# A shell's background job ignores Ctrl-C, and so would what it starts.
INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import sympy as sp
import pysciml as ps
x, v = ps.variables("x v")
problem = ps.Problem(ps.System([ps.Eq(ps.D(x), v), ps.Eq(ps.D(v), -x)]), {{x: 1, v: 0}}, (0, 1e9))
print("started", flush=True)
try:
    ps.solve(problem, {algorithm!r}, rtol=1e-9, atol=1e-9, max_steps=10**9, saveat={saveat!r})
except KeyboardInterrupt as error:
    print("interrupted", error.retcode, error.partial.t.size, float(error.partial.t[-1]) > 0, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to the whole console")
@pytest.mark.parametrize(("algorithm", "saveat"), [("Tsit5", None), ("QNDF", 1000.0), (None, 1000.0)])
def test_ctrl_c_stops_a_long_solve_and_keeps_what_there_is(algorithm: str | None, saveat: float | None) -> None:
    code = INTERRUPTED.format(algorithm=algorithm, saveat=saveat)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == "started"
        time.sleep(4)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err[-2000:]
    word, retcode, size, moved = out.split()
    assert (word, retcode, moved) == ("interrupted", "Interrupted", "True")
    assert int(size) > 2
