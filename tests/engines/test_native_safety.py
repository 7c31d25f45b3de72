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


INTERRUPTED = """
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
    assert process.stdout.readline().strip() == "started"
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err[-2000:]
    word, retcode, size, moved = out.split()
    assert (word, retcode, moved) == ("interrupted", "Interrupted", "True")
    assert int(size) > 2
