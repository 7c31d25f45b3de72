"""Reference solutions, each computed by two independent methods in extended precision, stored in
``references.json``.

`python -m benchmarks.reference [NAME ...]` recomputes them (some minutes). ``agreement`` in the file is the
largest difference of the two methods, measured as errors are measured here; it bounds the error of the
reference. Stored are the values of collocation where that is one of the two, else those of the Taylor series.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detest import DETEST
from benchmarks.problems import PROBLEMS, TestProblem

STORE = Path(__file__).with_name("references.json")
REQUIRED_AGREEMENT = 1e-12


@functools.cache
def stored() -> dict[str, Any]:
    """Everything in the store, by problem name."""
    return json.loads(STORE.read_text(encoding="utf-8"))


@functools.cache
def reference(name: str) -> np.ndarray:
    """Reference values of a problem at its output times, ``(n, n_times)``."""
    return np.array(stored()[name]["values"], dtype=float)


def compute(problem: TestProblem) -> dict[str, Any]:
    """Compute one problem's reference by two methods."""
    from benchmarks.extended import collocation, extrapolation, taylor

    times = np.array(problem.times)
    stiff_and_small = problem.stiff and problem.n < 100
    if problem.name == "robertson":
        # An explicit method would take tens of millions of steps to the end: from t = 4000 on, a second collocation
        # checks the first.
        early = taylor(problem, times[times <= 4e3])
        late = collocation(problem, times, stages=6, mesh_tol=1e-10)
        series = np.concatenate([early, late[:, times > 4e3]], axis=1)
    else:
        series = taylor(problem, times)
    other = collocation(problem, times) if stiff_and_small else extrapolation(problem, times)
    scale = problem.atol_factor + np.abs(series)
    difference = float(np.max(np.abs(other - series) / scale))
    record: dict[str, Any] = {
        "methods": [
            "taylor to t = 4000, then collocation of order 11" if problem.name == "robertson" else "taylor",
            "collocation of order 15" if stiff_and_small else "extrapolation",
        ],
        "agreement": float(f"{difference:.1e}"),
        "times": [float(t) for t in times],
        "values": [[float(v) for v in row] for row in (other if stiff_and_small else series)],
    }
    far = [t for t, _ in problem.published if t not in problem.times]
    if far:
        # Beyond the reach of an explicit method: the two are collocation methods of different order and mesh.
        values = collocation(problem, np.array(far))
        check = collocation(problem, np.array(far), stages=6, mesh_tol=1e-10)
        record["far"] = {
            "methods": ["collocation of order 15", "collocation of order 11 on a finer mesh"],
            "agreement": float(f"{float(np.max(np.abs(values - check) / np.abs(values))):.1e}"),
            "times": far,
            "values": [[float(v) for v in row] for row in values],
        }
    return record


def main(names: list[str]) -> int:
    """Recompute the named references, or all."""
    from benchmarks.extended import require_extended_precision

    require_extended_precision()
    for problem in (*DETEST, *PROBLEMS):
        if names and problem.name not in names:
            continue
        start = time.perf_counter()
        record = compute(problem)
        seconds = time.perf_counter() - start
        print(f"{problem.name:12} agree to {record['agreement']:.1e} ({seconds:.1f} s)", flush=True)
        if record["agreement"] > REQUIRED_AGREEMENT:
            print(f"{problem.name}: the methods disagree by more than {REQUIRED_AGREEMENT:g}", file=sys.stderr)
            return 1
        # Read again, since another of these may have written meanwhile.
        store = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
        store[problem.name] = record
        order = [p.name for p in (*DETEST, *PROBLEMS) if p.name in store]
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(store[name], separators=(',', ':'))}" for name in order)
        STORE.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
